"""``meshwise serve``: what a request sees and what the GPUs deliver, in continuous batching."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from meshwise.cli import engine, latency, needs, options, output, pools, switches, terminal, values
from meshwise.cli.command import CliCommand, Need
from meshwise.cli.given import Given, option_of
from meshwise.errors import InputError, shorten

if TYPE_CHECKING:
    from meshwise.clusters.load import Cluster
    from meshwise.layouts.keywords import ServingDegrees
    from meshwise.models.shapes import Model
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
        metavar="X",
        help="Tokens of the fullest rank of the expert group over their mean (default: as --expert-skew "
        "makes it, for experts placed at random).",
    ),
    click.option(
        "--length-spread",
        metavar="SHARE",
        help="Prompts and answers are (1 - SHARE) to 1 times as long (default 0.2); 0: all end together.",
    ),
    options.skew_option,
)
_traffic_options = options.stacked(
    click.option(
        "--request-rate",
        metavar="R",
        help="Requests that arrive per second, in place of a fixed number in flight.",
    ),
    click.option(
        "--arrivals",
        default="poisson",
        metavar="HOW",
        show_default=True,
        help="poisson, gamma:B (burstiness B: below 1 in bursts), or a FILE of arrival,input,output.",
    ),
    click.option(
        "--requests",
        type=values.NUMBER_TYPE,
        help="Requests of the run (default: 10 per one in flight, 2,000 of arrivals).",
    ),
    click.option(
        "--sweep",
        metavar="request-rate=LOW:HIGH",
        help="Latency against load: 12 rates between the ends, in place of one.",
    ),
    click.option(
        "--seed",
        default="0",
        type=values.NUMBER_TYPE,
        show_default=True,
        help="Of lengths and arrivals: another one draws others.",
    ),
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
        Need("isl", "1024", "required without a trace", lambda o: not traced(o)),
        Need("osl", "256", "required without a trace", lambda o: not traced(o)),
        Need(
            *("concurrency", "32", "required without arrivals", lambda o: not arriving(o)),
            instead="or --request-rate 4, or --arrivals with a trace",
        ),
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
@pools.pool_options
@load_options
@_traffic_options
@latency.latency_options
@options.price_option
@options.format_options
@engine.limit_options
@switches.DISPATCHER_OPTION
@_software_options
@output.output_options
def command(
    model: str, cluster: str | None, nodes: str | None, nics: str | None, **said: object
) -> None:
    """Serve MODEL with continuous batching: TPOT, TTFT, throughput, and how many requests fit.

    A closed loop, where --concurrency requests of --isl tokens in and --osl out are always in flight; or
    arrivals at --request-rate, or of a trace. Simulated by the engine's own rules: the steady state, and the
    mean over all requests of the run.
    """
    from meshwise import api

    o = Given(said)
    spec = api.model(model)
    where = options.read_cluster(cluster, nodes, nics, o.text("pcie_host"))
    axes: dict[str, object] = {k: o.count(k) for k in ("pp", "dp", "ep", "dcp")}
    stack = engine.engine_stack(o)
    switches.check_experts(o, spec)
    axes["tp"] = options.tp_degree(o.word("tp"), spec, where, stack)
    if o.has("etp"):
        axes["etp"] = o.count("etp")
    if o.has("sweep"):
        _ends(o)
        pools.refuse_curve(o)
    pools.refuse_cap(o, arriving(o))
    apart = pools.are_apart(o)
    numbers = [o.number(f"{pool}_instances") or 1 for pool in ("prefill", "decode")]
    most = stack.scheduler.max_sequences * int(str(axes["dp"])) * numbers[1]
    load = engine.within_length(o, read_load(with_arrivals(o, most)))
    degrees, limits = options.serving_degrees(axes), latency.by_statistic(o)
    if o.has("sweep"):
        _curve(o, spec, where, load, stack, degrees)
        return
    result = api.serve(
        spec,
        where,
        load,
        stack=stack,
        gpus=o.number("gpus"),
        request_rate=rate(o),
        arrivals=o.word("arrivals"),
        requests=o.number("requests"),
        seed=o.count("seed", low=0),
        price_per_device_hour=options.price(o),
        ttft_s=limits.get("ttft_s"),
        tpot_s=limits.get("tpot_s"),
        request_s=limits.get("request_s"),
        progress=terminal.progress("requests"),
        prefill=options.serving_degrees(pools.prefill_axes(o, axes)) if apart else None,
        prefill_instances=numbers[0],
        decode_instances=numbers[1],
        max_model_len=o.number("max_model_len"),
        **degrees,
    )
    output.write_answer(o, lambda: engine.with_limits(o, result.to_dict()), result.page, "points")


def traced(o: Given) -> bool:
    """Whether a file says what arrives."""
    from meshwise.simulate.loads.arrivals import is_trace

    return o.has("arrivals") and is_trace(o.word("arrivals"))


def arriving(o: Given) -> bool:
    """Whether requests come whether others end or not."""
    return o.has("request_rate") or traced(o) or o.has("sweep")


def _curve(
    o: Given,
    model: Model,
    cluster: Cluster,
    load: Serving,
    stack: Stack,
    degrees: ServingDegrees,
) -> None:
    """Latency against load."""
    from meshwise.answers.load_curve import LoadCurveResult
    from meshwise.arguments import named_objects
    from meshwise.axes import SERVES
    from meshwise.layouts.check import check
    from meshwise.layouts.layout import asked
    from meshwise.search.serving.runs.lengths import check_chunk, check_positions
    from meshwise.search.serving.runs.room import PlacedServer, require_room
    from meshwise.search.serving.served import load_curve
    from meshwise.simulate.loads.arrivals import arrivals_of
    from meshwise.simulate.loads.traces import MOST_REQUESTS
    from meshwise.stacks.stack import check_eager
    from meshwise.workloads.limits import refuse_without_tokens

    ends, limits = _ends(o.but(concurrency=None)), latency.latency_limits(o)
    limited = tuple(limit for each in limits.values() for limit in each)
    refuse_without_tokens(limited, load.osl)
    model, cluster, stack = named_objects(model, cluster, load.decode(), stack)
    one = asked(degrees, SERVES)
    check(one, model, cluster, load.decode(), stack, o.number("gpus"), load.concurrency)
    arrivals_of(o.word("arrivals"), 1.0)
    check_eager(stack)
    check_chunk(stack, load)
    longest = o.number("max_model_len")
    check_positions(model, load, longest)
    require_room(PlacedServer(model, cluster, stack, one, load), longest)
    requests, seed = o.number("requests", high=MOST_REQUESTS), o.count("seed", low=0)
    served = (model, cluster, stack, one, load)
    found = load_curve(*served, ends, o.word("arrivals"), requests, seed)
    result = LoadCurveResult(found, limited, options.price(o))
    output.write_answer(o, lambda: engine.with_limits(o, result.to_dict()), result.page, "points")
    if result.saturated:
        raise click.exceptions.Exit(3)  # as of one such rate


def _ends(o: Given) -> tuple[float, float]:
    """The rates that a curve is between."""
    from meshwise.simulate.loads.arrivals import request_rate

    for name in ("request_rate", "concurrency"):
        if o.has(name):
            raise InputError(
                f"{option_of(name)}={shorten(o[name])}: the sweep says the rates",
                field=option_of(name),
                value=o[name],
                legal=f"leave {option_of(name)} or --sweep out",
            )
    if traced(o):
        raise InputError(
            f"--arrivals={shorten(o['arrivals'])}: a trace has one rate, its own",
            field="--arrivals",
            value=o["arrivals"],
            legal="poisson or gamma:B with --sweep, or the trace without it",
        )
    text = o.word("sweep")
    name, _, values = text.partition("=")
    low, colon, high = values.partition(":")
    if name != "request-rate" or not colon:
        raise InputError(
            f"--sweep: {shorten(text)} is not a range of rates",
            field="--sweep",
            value=text,
            legal="request-rate=LOW:HIGH, such as request-rate=1:200",
            nearest="request-rate=1:200",
        )
    ends = request_rate(low, "--sweep"), request_rate(high, "--sweep")
    if ends[0] >= ends[1]:
        raise InputError(
            f"--sweep: {shorten(values)}: the first rate is not below the last",
            field="--sweep",
            value=text,
            legal="request-rate=LOW:HIGH with LOW below HIGH",
            nearest=f"request-rate={high}:{low}" if ends[0] > ends[1] else None,
        )
    return ends


def rate(o: Given) -> float | None:
    from meshwise.simulate.loads.arrivals import request_rate

    return request_rate(o["request_rate"], "--request-rate") if o.has("request_rate") else None


def with_arrivals(o: Given, most: int) -> Given:
    """The options with what a trace says of lengths, and how many requests may run at once."""
    from meshwise.simulate.loads.traces import require_file
    from meshwise.workloads.workload import MAX_BATCH

    if not arriving(o):
        return o
    if not o.has("concurrency"):
        o = o.but(concurrency=str(min(most, MAX_BATCH)))
    if not traced(o):
        return o
    for name in ("isl", "osl", "length_spread"):
        if o.has(name):
            require_file(o.word("arrivals"), "--arrivals")
            raise InputError(
                f"{option_of(name)}={shorten(o[name])}: the trace says how long its requests are",
                field=option_of(name),
                value=o[name],
                legal=f"leave {option_of(name)} or --arrivals out",
            )
    return o.but(isl="1", osl="1")  # the longest of the trace stand in their place


def expert_imbalance(o: Given) -> float | None:
    """Tokens of the fullest rank of the expert group over their mean; None: not said."""
    from meshwise.strict_tables import fraction

    if not o.has("expert_imbalance"):
        return None
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
