"""``meshwise serve``: what a request sees and what the GPUs deliver, in continuous batching."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from meshwise.cli import engine, needs, options, output, values
from meshwise.cli.command import CliCommand, Need
from meshwise.cli.given import Given, option_of
from meshwise.errors import InputError, shorten

if TYPE_CHECKING:
    from meshwise.stacks.stack import Stack
    from meshwise.workloads.serving import Serving

load_options = options.stacked(
    click.option(
        "--isl",
        "--input-len",
        "isl",
        type=values.NUMBER_TYPE,
        help="Tokens of a prompt.",
    ),
    options.image_option,
    click.option(
        "--osl",
        "--output-len",
        "osl",
        type=values.NUMBER_TYPE,
        help="Tokens of an answer.",
    ),
    click.option(
        "--concurrency",
        "--max-concurrency",
        "concurrency",
        type=values.NUMBER_TYPE,
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
        type=values.NUMBER_TYPE,
        help="Most tokens of an iteration; longer prompts are cut (default: the engine's).",
    ),
    click.option(
        "--draft-tokens",
        "--num-speculative-tokens",
        "draft_tokens",
        default="0",
        type=values.NUMBER_TYPE,
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
    options.skew_option,
)
_layout_options = options.stacked(
    options.tp_options,
    options.dp_option,
    options.ep_options,
    options.axis_option("dcp"),
    options.gpus_option,
)
_software_options = options.stacked(
    click.option(
        "--stack", type=values.STACK_TYPE, help="Software: vllm (default), sglang, trtllm, …"
    ),
    click.option("--ideal", is_flag=True, help="Peak FLOP/s and wire bandwidth, nothing else."),
    click.option(
        "--attention", type=values.ATTENTION_TYPE, help="flash or unfused, in place of the stack's."
    ),
    click.option(
        "--overlap", type=values.OVERLAP_TYPE, help="Of TP collectives: none, split or decomposed."
    ),
)


@click.command(
    "serve",
    cls=CliCommand,
    needs=(
        *(needs.NEEDS_MODEL, needs.NEEDS_CLUSTER),
        *(Need("isl", "1024"), Need("osl", "256"), Need("concurrency", "32")),
    ),
    phase=lambda _: "decode",
    about={"model": needs.ABOUT_MODEL},
    examples=(
        "meshwise serve llama-3.1-70b --on hgx-h100 --tp 4 --isl 2k --osl 256 --concurrency 64",
        "meshwise serve llama-3.1-8b --on hgx-h100 --isl 1k --osl 128 --concurrency 128 --stack sglang",
    ),
)
@options.target_options
@_layout_options
@load_options
@options.format_options
@engine.limit_options
@_software_options
@output.output_options
def command(
    model: str, cluster: str | None, nodes: str | None, nics: str | None, **said: object
) -> None:
    """Serve MODEL with continuous batching: TPOT, TTFT, throughput, and how many requests fit.

    A closed loop: --concurrency requests of --isl tokens in and --osl out are always in flight.
    """
    from meshwise import api

    o = Given(said)
    spec = api.model(model)
    where = options.read_cluster(cluster, nodes, nics, o.text("pcie_host"))
    axes: dict[str, object] = {k: o.count(k) for k in ("pp", "dp", "ep", "dcp")}
    stack = engine.engine_stack(o)
    axes["tp"] = options.tp_degree(o.word("tp"), spec, where, stack)
    if o.has("etp"):
        axes["etp"] = o.count("etp")
    gpus = o.number("gpus")
    load = engine.within_length(o, read_load(o))
    check_length_spread(o, stack)
    degrees = options.serving_degrees(axes)
    result = api.serve(spec, where, load, stack=stack, gpus=gpus, **degrees)
    output.write_answer(o, lambda: engine.with_limits(o, result.to_dict()), result.page, "points")


def check_length_spread(o: Given, stack: Stack) -> None:
    """Refuse a spread of lengths where nothing waits for prompts that come together."""
    if o["length_spread"] is not None and stack.scheduler.mixes_prefill:
        raise InputError(
            f"--length-spread={shorten(o['length_spread'])}: {stack.title or stack.name} computes prompts "
            "beside decodes, whichever end together",
            field="--length-spread",
            value=o["length_spread"],
            legal="leave --length-spread out, or a stack that computes prompts first (sglang)",
        )


def expert_imbalance(o: Given) -> float:
    """Tokens of the fullest rank of the expert group over their mean."""
    from meshwise.strict_tables import fraction

    return fraction(o["expert_imbalance"], "--expert-imbalance", low=1.0, high=1e4)


def read_load(o: Given) -> Serving:
    """The requests that the options describe."""
    from meshwise.strict_tables import count, fraction
    from meshwise.workloads.serving import LENGTH_SPREAD, Serving, draft_cost
    from meshwise.workloads.workload import MAX_BATCH, MAX_SEQ, Formats

    def number(name: str, example: str, high: int = MAX_SEQ) -> int:
        option = f"--{name}"
        return count(options.required(o.text(name), option, example), option, high=high)

    def share(name: str) -> float:
        return fraction(o[name], option_of(name), low=0.0, high=1.0)

    isl = number("isl", "1024")
    images = options.image_tokens(o, isl)
    return Serving(
        isl=isl + images,
        image_tokens=images,
        osl=number("osl", "256"),
        concurrency=number("concurrency", "32", MAX_BATCH),
        prefix_hit=share("prefix_hit"),
        chunk=o.number("chunk", high=MAX_SEQ),
        draft_tokens=o.count("draft_tokens", low=0),
        acceptance=share("acceptance") if o.has("acceptance") else None,
        draft_cost=draft_cost(o["draft_cost"]),
        expert_imbalance=expert_imbalance(o),
        expert_skew=options.expert_skew(o),
        length_spread=share("length_spread") if o.has("length_spread") else LENGTH_SPREAD,
        formats=Formats(
            dtype=o.text("dtype"),
            weights=o.text("weight_dtype"),
            kv_cache=o.text("kv_dtype"),
            comm=o.text("comm_dtype"),
        ),
    )
