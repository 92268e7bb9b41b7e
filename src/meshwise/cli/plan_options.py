"""Options of ``meshwise plan``, and the loads, limits and pins that they describe."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import click

from meshwise.axes import AXES, SERVES, TRAINS
from meshwise.cli import engine, latency, launch_text, options, serve, switches, values
from meshwise.cli.given import Given, option_of
from meshwise.errors import InputError, shorten

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.decorators import FC

    from meshwise.api import Serving, Stack, Training


class SentOptions(TypedDict):
    """What is sent to a deployment beside the requests' lengths."""

    request_rate: float | None
    arrivals: str | None
    at_concurrency: bool
    requests: int | None
    seed: int


def _pin(name: str) -> Callable[[FC], FC]:
    """Degrees or counts of an axis that a plan is held to."""
    only = "Training: only" if name not in SERVES else "Serving: only"
    words = f"{'Only' if name in TRAINS and name in SERVES else only} these {AXES[name].plural}."
    return click.option(*options.axis_flags(name), name, type=values.DEGREES_TYPE, help=words)


_PINNED = ("tp", "pp", "dp", "ep", "etp", "dcp", "cp", "vp", "micro_batch")
pin_options = options.stacked(
    *(_pin(name) for name in _PINNED),
    click.option(
        "--recompute", type=values.RECOMPUTES_TYPE, help="Training: none, selective, full."
    ),
    click.option("--shard", type=values.SHARDS_TYPE, help="Training: none, zero1, zero2, zero3."),
    click.option(
        "--sequence-parallel", metavar="true|false", help="Training: only with, or without."
    ),
    click.option(
        "--overlap", type=values.OVERLAP_TYPE, help="Of TP collectives: none, decomposed, or split."
    ),
    click.option(
        "--placement", metavar="ORDER,…", help="Training: of the axes on the ranks, tp-cp-dp-pp, …"
    ),
)
training_options = options.stacked(
    click.option(
        "--global-batch",
        "--batch",
        "--global-batch-size",
        "batch",
        type=values.NUMBER_TYPE,
        help="Training: sequences per step.",
    ),
    click.option(
        "--seq",
        "--seq-len",
        "seq",
        type=values.NUMBER_TYPE,
        help="Training: tokens per sequence.",
    ),
    click.option(
        "--schedule", type=values.SCHEDULE_TYPE, help="Training: 1f1b, gpipe, zb-1p, zb-2p."
    ),
    click.option(
        "--grad-dtype",
        type=values.GRAD_DTYPE_TYPE,
        help="Training: gradients, bf16 (default) or fp32.",
    ),
    click.option(
        "--free",
        type=values.FREE_TYPE,
        help="Training: also look at options that change the numerics: dtype, comm-dtype.",
    ),
)
serving_options = options.stacked(
    serve.load_options,
    latency.latency_options,
    click.option(
        "--request-rate",
        metavar="R",
        help="Serving: requests that arrive per second; the fewest GPUs that serve them.",
    ),
    click.option(
        "--arrivals",
        metavar="HOW",
        help="Serving: poisson (default), gamma:B, or a FILE of arrival,input,output. Under limits without a "
        "rate: the highest rate of such arrivals.",
    ),
    click.option(
        "--requests",
        type=values.NUMBER_TYPE,
        help="Serving: requests of a run (default: 10 per one in flight, 2,000 of arrivals).",
    ),
    click.option(
        "--seed",
        type=values.NUMBER_TYPE,
        help="Serving: of lengths and arrivals (default 0).",
    ),
    click.option(
        "--disaggregated",
        is_flag=True,
        help="Serving: also prefill and decode on GPUs of their own (needs --ttft or --tpot of the mean).",
    ),
)
plan_common_options = options.stacked(
    click.option(
        "--gpus", type=values.NUMBER_TYPE, help="GPUs to use (default: the whole cluster)."
    ),
    click.option(
        "--top", default="10", type=values.NUMBER_TYPE, show_default=True, help="Layouts to show."
    ),
    click.option(
        "--objective",
        metavar="WHAT",
        help="Training: step (default), mfu or cost. Serving: throughput (default), latency or cost.",
    ),
    options.price_option,
    click.option(
        "--compare",
        metavar="COMMAND",
        help="A launch command that you have, in quotes, or its file: priced beside the best, with what to "
        "change.",
    ),
    launch_text.which_option,
    launch_text.set_option,
)
plan_software_options = options.stacked(
    click.option(
        "--target",
        type=values.TARGET_TYPE,
        help="Only layouts that this launch target runs (see export), on its software.",
    ),
    click.option("--stack", type=values.STACK_TYPE, help="Software; see catalog stacks."),
    click.option("--ideal", is_flag=True, help="Peak FLOP/s and wire bandwidth, nothing else."),
    click.option(
        "--attention", type=values.ATTENTION_TYPE, help="flash or unfused, in place of the stack's."
    ),
    *switches.SWITCH_OPTIONS,
)

_SHARED_PINS = ("tp", "pp", "dp", "ep", "etp")
_COUNTED_PINS = ("vp", "cp", "micro_batch")
_NAMED_PINS = ("recompute", "shard", "sequence_parallel", "overlap", "placement")
_TRAINING_PINS = (*_COUNTED_PINS, *_NAMED_PINS)
_TRAINING = ("batch", "seq", "schedule", "grad_dtype", "free", *switches.TRAINING_SWITCHES)
_SERVING = (
    *(
        "isl",
        "osl",
        "concurrency",
        *latency.LIMITED,
        "request_rate",
        "arrivals",
        "requests",
        "seed",
    ),
    *("chunk", "acceptance", "image_tokens"),
)
_ENGINE = ("gpu_memory_utilization", "max_model_len", "max_num_seqs")
_ENGINE_FLAGS = ("enforce_eager", "no_enable_chunked_prefill", "enable_mixed_chunk")
_SERVING_DEFAULTS = {"prefix_hit": "0", "draft_tokens": "0", "draft_cost": "none"}


def asks_to_serve(o: Given) -> bool:
    return any(o.has(name) for name in _SERVING) or o.flag("disaggregated")


def serves(o: Given) -> bool:
    """Whether the options describe serving; training's beside them are refused."""
    mine = [name for name in _SERVING if o.has(name)]
    mine += ["disaggregated"] * o.flag("disaggregated")
    if not mine:
        if o.has("dcp"):
            _misplaced("dcp", o["dcp"], "training")
        return False
    for name in (*_TRAINING, *_TRAINING_PINS):
        if o.has(name) and name != "overlap":
            _misplaced(name, o[name], f"serving (--{mine[0]})")
    return True


def _misplaced(name: str, value: object, phase: str) -> None:
    option = {"batch": "--global-batch"}.get(name, option_of(name))
    raise InputError(
        f"{option}={shorten(value)} has no meaning in {phase}",
        field=option,
        value=value,
        legal=f"leave {option} out",
    )


def comma_list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def counted_pins(o: Given) -> dict[str, str]:
    """The lists of whole numbers that are given."""
    return {name: o.word(name) for name in (*_SHARED_PINS, "dcp", *_COUNTED_PINS) if o.has(name)}


# -- training --------------------------------------------------------------------------------------


def training_stack(o: Given) -> Stack:
    """The software; ``--overlap split`` cuts the tokens and is another program, not an axis."""
    return options.phase_stack(o.but(overlap="split" if o["overlap"] == "split" else None), "train")


def named_pins(o: Given) -> dict[str, tuple[str, ...]]:
    """The lists of names that are given."""
    named = [name for name in _NAMED_PINS if o.has(name)]
    return {name: comma_list(o.word(name)) for name in named if o[name] != "split"}


def training_step(o: Given) -> Training:
    from meshwise.strict_tables import count
    from meshwise.workloads.workload import MAX_BATCH, MAX_SEQ, Formats, Training

    # what only serving has
    for name in ("kv_dtype", "weight_dtype", *_ENGINE):
        if o.has(name):
            _misplaced(name, o[name], "training")
    for name in _ENGINE_FLAGS:
        if o.flag(name):
            _misplaced(name, True, "training")
    for name, without in _SERVING_DEFAULTS.items():
        if o[name] != without:
            _misplaced(name, o[name], "training")
    # the step
    example = "256 --seq 4096 (or --isl … to serve)"
    batch = options.required(o.text("batch"), "--global-batch", example)
    seq = options.required(o.text("seq"), "--seq", "4096")
    return Training(
        batch=count(batch, "--global-batch", high=MAX_BATCH),
        seq=count(seq, "--seq", high=MAX_SEQ),
        formats=Formats(
            dtype=o.text("dtype"), comm=o.text("comm_dtype"), gradients=o.text("grad_dtype")
        ),
        expert_imbalance=serve.expert_imbalance(o),
        expert_skew=options.expert_skew(o) or 0.0,
    )


# -- serving ---------------------------------------------------------------------------------------


def serving_stack(o: Given) -> Stack:
    return engine.engine_stack(o.but(schedule=None))


def searches_load(o: Given) -> bool:
    """Whether the load is looked for: limits alone, or with arrivals of no rate."""
    limited = any(o.has(name) for name in latency.LIMITED)
    return limited and not (o.has("concurrency") or o.has("request_rate") or serve.traced(o))


def serving_load(o: Given, stack: Stack, gpus: int) -> Serving:
    """The requests; of arrivals with the most that run at once on so many GPUs."""
    if searches_load(o) and not o.has("arrivals"):
        return engine.within_length(o, serve.read_load(o.but(concurrency="1")))
    most = stack.scheduler.max_sequences * gpus
    if searches_load(o):
        o = o.but(request_rate="1")
    return engine.within_length(o, serve.read_load(serve.with_arrivals(o, most)))


def sent(o: Given) -> SentOptions:
    """What is sent beside the requests' lengths."""
    from meshwise.simulate.loads.traces import MOST_REQUESTS

    limited = any(o.has(name) for name in latency.LIMITED)
    arriving = o.has("request_rate") or serve.traced(o)
    return {
        "request_rate": serve.rate(o),
        "arrivals": o.text("arrivals"),
        "at_concurrency": limited and o.has("concurrency") and not arriving,
        "requests": o.number("requests", high=MOST_REQUESTS),
        "seed": o.count("seed", low=0) if o.has("seed") else 0,
    }
