"""``meshwise serve``: what a request sees and what the GPUs deliver, in continuous batching."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from meshwise.cli import engine, needs, options, values
from meshwise.cli.command import Command, Need
from meshwise.errors import InputError, shorten

if TYPE_CHECKING:
    from meshwise.stacks.stack import Stack
    from meshwise.workloads.serving import Serving

load = options.stacked(
    click.option(
        "--isl",
        "--input-len",
        "isl",
        type=values.NUMBER,
        help="Tokens of a prompt.",
    ),
    click.option(
        "--osl",
        "--output-len",
        "osl",
        type=values.NUMBER,
        help="Tokens of an answer.",
    ),
    click.option(
        "--concurrency",
        "--max-concurrency",
        "concurrency",
        type=values.NUMBER,
        help="Requests in flight over all replicas; one that ends is replaced at once.",
    ),
    click.option(
        "--prefix-hit",
        default="0",
        metavar="SHARE",
        show_default=True,
        help="Share of a prompt that the prefix cache holds: attended to, not computed.",
    ),
    click.option(
        "--chunk",
        "--max-num-batched-tokens",
        "--chunked-prefill-size",
        "chunk",
        type=values.NUMBER,
        help="Most tokens of an iteration; longer prompts are cut (default: the engine's).",
    ),
    click.option(
        "--draft-tokens",
        "--num-speculative-tokens",
        "draft_tokens",
        default="0",
        type=values.NUMBER,
        show_default=True,
        help="Speculative decoding: tokens drafted per verification.",
    ),
    click.option(
        "--acceptance", metavar="P", help="How often a drafted token is accepted, 0 to 1."
    ),
    click.option(
        "--draft-cost",
        default="none",
        metavar="WHAT",
        show_default=True,
        help="Of a drafted token: none (n-gram), layer (EAGLE, MTP), or a share of a decode.",
    ),
    click.option(
        "--expert-imbalance",
        default="1",
        metavar="X",
        show_default=True,
        help="Tokens of the fullest rank of the expert group over their mean.",
    ),
    click.option(
        "--length-spread",
        metavar="SHARE",
        help="Answers are from (1 - SHARE) x --osl to --osl long (default 0.2); 0: all end together.",
    ),
    options.expert_skew,
)
layout = options.stacked(options.tp_degrees, options.dp_degree, options.ep_degrees, options.gpus)
software = options.stacked(
    click.option("--stack", type=values.STACK, help="Software: vllm (default), sglang, trtllm, …"),
    click.option("--ideal", is_flag=True, help="Peak FLOP/s and wire bandwidth, nothing else."),
    click.option(
        "--attention", type=values.ATTENTION, help="flash or unfused, in place of the stack's."
    ),
    click.option(
        "--overlap", type=values.OVERLAP, help="Of TP collectives: none, split or decomposed."
    ),
)


@click.command(
    "serve",
    cls=Command,
    needs=(
        *(needs.MODEL, needs.CLUSTER),
        *(Need("isl", "1024"), Need("osl", "256"), Need("concurrency", "32")),
    ),
    phase=lambda _: "decode",
    about={"model": needs.ABOUT_MODEL},
    examples=(
        "meshwise serve llama-3.1-70b --on hgx-h100 --tp 4 --isl 2k --osl 256 --concurrency 64",
        "meshwise serve llama-3.1-8b --on hgx-h100 --isl 1k --osl 128 --concurrency 128 --stack sglang",
    ),
)
@options.target
@layout
@load
@options.formats
@engine.limits
@software
@options.output
def command(model: str, cluster: str | None, nodes: str | None, nics: str | None, **o: Any) -> None:
    """Serve MODEL with continuous batching: TPOT, TTFT, throughput, and how many requests fit.

    A closed loop: --concurrency requests of --isl tokens in and --osl out are always in flight.
    """
    from meshwise import api
    from meshwise.strict_tables import count

    spec = api.model(model)
    where = options.read_cluster(cluster, nodes, nics)
    degrees: dict[str, Any] = {k: count(o[k], f"--{k}") for k in ("pp", "dp", "ep")}
    stack = engine.read_stack(o)
    degrees["tp"] = options.tp_degree(o["tp"], spec, where, stack)
    for name in ("etp", "gpus"):
        if o[name] is not None:
            degrees[name] = count(o[name], f"--{name}")
    load = engine.within(o, read_load(o))
    spread(o, stack)
    result = api.serve(spec, where, load, stack=stack, **degrees)
    options.write(o, lambda: engine.recorded(o, result.to_dict()), result.page, "points")


def spread(o: dict[str, Any], stack: Stack) -> None:
    """Refuse a spread of lengths where nothing waits for prompts that come together."""
    if o["length_spread"] is not None and stack.scheduler.mixes_prefill:
        raise InputError(
            f"--length-spread={shorten(o['length_spread'])}: {stack.title or stack.name} computes prompts "
            "beside decodes, whichever end together",
            field="--length-spread",
            value=o["length_spread"],
            legal="leave --length-spread out, or a stack that computes prompts first (sglang)",
        )


def imbalance(o: dict[str, Any]) -> float:
    from meshwise.strict_tables import fraction

    return fraction(o["expert_imbalance"], "--expert-imbalance", low=1.0, high=1e4)


def read_load(o: dict[str, Any]) -> Serving:
    """The requests that the options describe."""
    from meshwise.strict_tables import count, fraction
    from meshwise.workloads.serving import Serving, draft_cost
    from meshwise.workloads.workload import MAX_BATCH, MAX_SEQ, Formats

    def number(name: str, example: str, high: int = MAX_SEQ) -> int:
        option = f"--{name}"
        return count(options.required(o[name], option, example), option, high=high)

    def share(name: str, low: float = 0.0, high: float = 1.0) -> float:
        return fraction(o[name], "--" + name.replace("_", "-"), low=low, high=high)

    return Serving(
        isl=number("isl", "1024"),
        osl=number("osl", "256"),
        concurrency=number("concurrency", "32", MAX_BATCH),
        prefix_hit=share("prefix_hit"),
        chunk=number("chunk", "") if o["chunk"] is not None else None,
        draft_tokens=count(o["draft_tokens"], "--draft-tokens", low=0),
        acceptance=share("acceptance") if o["acceptance"] is not None else None,
        draft_cost=draft_cost(o["draft_cost"]),
        expert_imbalance=imbalance(o),
        **options.skew(o),
        **({} if o["length_spread"] is None else {"length_spread": share("length_spread")}),
        formats=Formats(
            dtype=o["dtype"],
            weights=o["weight_dtype"],
            kv_cache=o["kv_dtype"],
            comm=o["comm_dtype"],
        ),
    )
