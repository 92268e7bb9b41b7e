"""``meshwise plan``: every legal layout, ranked, with the reasons."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from meshwise.cli import engine, needs, options, ranges, serve, switches, terminal, values
from meshwise.cli.command import Command, Given, Need
from meshwise.errors import InputError, shorten

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshwise.api import Cluster, Model, Serving, Training


def _pin(name: str, long: str, words: str) -> Callable[[options.F], options.F]:
    flags = [f"--{name}"] + ([f"--{long}-parallel-size"] if long else [])
    return click.option(*flags, name.replace("-", "_"), type=values.DEGREES, help=words)


pins = options.stacked(
    _pin("tp", "tensor", "Only these tensor-parallel degrees."),
    _pin("pp", "pipeline", "Only these numbers of pipeline stages."),
    _pin("dp", "data", "Only these data-parallel degrees."),
    _pin("ep", "expert", "Only these expert-parallel degrees."),
    _pin("etp", "", "Only these expert-tensor degrees."),
    _pin("dcp", "decode-context", "Serving: only these decode-context-parallel degrees."),
    _pin("cp", "context", "Training: only these context-parallel degrees."),
    _pin("vp", "", "Training: only these numbers of virtual stages per rank."),
    click.option(
        "--micro-batch",
        "--micro-batch-size",
        "micro_batch",
        type=values.DEGREES,
        help="Training: only these microbatches.",
    ),
    click.option("--recompute", type=values.RECOMPUTES, help="Training: none, selective, full."),
    click.option("--shard", type=values.SHARDS, help="Training: none, zero1, zero2, zero3."),
    click.option(
        "--sequence-parallel", metavar="true|false", help="Training: only with, or without."
    ),
    click.option(
        "--overlap", type=values.OVERLAP, help="Of TP collectives: none, decomposed, or split."
    ),
    click.option(
        "--placement", metavar="ORDER,…", help="Training: of the axes on the ranks, tp-cp-dp-pp, …"
    ),
)
training = options.stacked(
    click.option(
        "--global-batch",
        "--batch",
        "--global-batch-size",
        "batch",
        type=values.NUMBER,
        help="Training: sequences per step.",
    ),
    click.option(
        "--seq",
        "--seq-len",
        "seq",
        type=values.NUMBER,
        help="Training: tokens per sequence.",
    ),
    click.option("--schedule", type=values.SCHEDULE, help="Training: 1f1b, gpipe, zb-1p, zb-2p."),
    click.option(
        "--grad-dtype", type=values.GRAD_DTYPE, help="Training: gradients, bf16 (default) or fp32."
    ),
    click.option(
        "--free",
        type=values.FREE,
        help="Training: also look at options that change the numerics: dtype, comm-dtype.",
    ),
)
serving = options.stacked(
    serve.load,
    click.option("--ttft", metavar="TIME", help="Serving: the longest time to first token."),
    click.option("--tpot", metavar="TIME", help="Serving: the longest time per output token."),
    click.option(
        "--disaggregated",
        is_flag=True,
        help="Serving: also prefill and decode on GPUs of their own (needs --ttft or --tpot).",
    ),
)
asked = options.stacked(
    click.option("--gpus", type=values.NUMBER, help="GPUs to use (default: the whole cluster)."),
    click.option(
        "--top", default="10", type=values.NUMBER, show_default=True, help="Layouts to show."
    ),
    click.option(
        "--objective",
        metavar="WHAT",
        help="Training: step (default), mfu or cost. Serving: throughput (default), latency or cost.",
    ),
    click.option("--price", metavar="USD", help="Dollars per GPU and hour."),
    click.option(
        "--compare",
        metavar="COMMAND",
        help="A launch command that you have, in quotes: priced beside the best, with what to change.",
    ),
)
software = options.stacked(
    click.option("--stack", type=values.STACK, help="Software; see catalog stacks."),
    click.option("--ideal", is_flag=True, help="Peak FLOP/s and wire bandwidth, nothing else."),
    click.option(
        "--attention", type=values.ATTENTION, help="flash or unfused, in place of the stack's."
    ),
    *switches.OPTIONS,
)

BOTH = ("tp", "pp", "dp", "ep", "etp")
COUNTED_PINS = ("vp", "cp", "micro_batch")
NAMED_PINS = ("recompute", "shard", "sequence_parallel", "overlap", "placement")
TRAINING_PINS = (*COUNTED_PINS, *NAMED_PINS)
TRAINING = ("batch", "seq", "schedule", "grad_dtype", "free", *switches.NAMES)
SERVING = ("isl", "osl", "concurrency", "ttft", "tpot", "chunk", "acceptance")
LATENCY = {"ttft": "500 ms or 2 s", "tpot": "50 ms"}  # of what people wait for
ENGINE = ("gpu_memory_utilization", "max_model_len")
SERVING_DEFAULTS = {"prefix_hit": "0", "draft_tokens": "0", "draft_cost": "none"}


@click.command(
    "plan",
    cls=Command,
    needs=(
        *(needs.MODEL, needs.CLUSTER),
        Need(
            *("batch", "256", "required to train", lambda o: not _asks_to_serve(o)),
            instead="or --isl 1024 --osl 256 --concurrency 32 to serve",
        ),
        Need("seq", "4096", "required to train", lambda o: not _asks_to_serve(o)),
        Need("isl", "1024", "required to serve", lambda o: _asks_to_serve(o)),
        Need("osl", "256", "required to serve", lambda o: _asks_to_serve(o)),
        Need(
            *("concurrency", "32", "required to serve, or --ttft or --tpot"),
            lambda o: _asks_to_serve(o) and o["ttft"] is None and o["tpot"] is None,
        ),
    ),
    phase=lambda o: "decode" if _asks_to_serve(o) else "train",
    about={"model": needs.ABOUT_MODEL},
    examples=(
        "meshwise plan gpt3-175b --on dgx-a100 --gpus 1024 --global-batch 1536 --seq 2k",
        "meshwise plan llama-3.1-70b --on hgx-h100 --gpus 8 --isl 2k --osl 256 --tpot 30ms --ttft 1s",
    ),
)
@options.target
@asked
@training
@serving
@pins
@options.formats
@engine.limits
@software
@options.output
def command(model: str, cluster: str | None, nodes: str | None, nics: str | None, **o: Any) -> None:
    """Every legal layout of MODEL on the GPUs of CLUSTER, ranked, and why the best one is.

    Training: --global-batch and --seq. Serving: --isl and --osl, with --concurrency or with --ttft
    and --tpot.
    """
    from meshwise import api
    from meshwise.strict_tables import count, fraction

    spec = api.model(model)
    switches.check(o, spec)
    where = options.read_cluster(cluster, nodes, nics)
    if nodes is not None and o["gpus"] is not None and count(o["gpus"], "--gpus") > where.devices:
        raise InputError(
            f"--gpus={o['gpus']} is more than the {where.devices} GPUs of --nodes {nodes}",
            field="--gpus",
            value=o["gpus"],
            legal=f"1 to {where.devices}, or no --nodes",
            nearest=where.devices,
        )
    given: dict[str, Any] = {
        "gpus": count(o["gpus"], "--gpus") if o["gpus"] is not None else None,
        "top": o["top"],
        "objective": o["objective"],
        "price_per_device_hour": None,
        "progress": Bar() if sys.stderr.isatty() and not terminal.quiet() else None,
    }
    if o["price"] is not None:
        given["price_per_device_hour"] = fraction(o["price"], "--price", low=0.0, high=1e6)
    if _serves(o):
        load: Any = _serving(o)
        asked = _deployment(o)
    else:
        load, asked = _training(o), _mesh(o)
    n, axes = given["gpus"] or where.devices, _degrees_of(o)
    asked = {**ranges.pins(axes, spec, n, load, asked["stack"]), **asked}
    result = api.plan(spec, where, load, **given, **asked)
    if o["compare"] is not None:
        result.beside = _compared(o, spec, where, result)

    def record() -> Any:
        said = result.to_dict()
        return engine.recorded(o, said) if _serves(o) else said

    options.write(o, record, result.page, "layouts")
    if result.partial:  # interrupted: what was found is printed, and is not the answer
        raise click.exceptions.Exit(130)
    if not result.feasible:
        raise click.exceptions.Exit(3)


def _compared(o: dict[str, Any], model: Model, cluster: Cluster, result: Any) -> Any:
    """The command of ``--compare`` at the plan's own load."""
    from meshwise import commands, launch
    from meshwise.answers.plan import Beside

    gpus = result.to_dict()["gpus"]
    routed = any(block.moe is not None for block in model.blocks)
    parsed = launch.parse(o["compare"], gpus=gpus, experts=routed)
    job = parsed.job
    serves = _serves(o)
    if (job.phase == "serve") != serves:
        raise InputError(
            f"--compare: the command {'serves' if job.phase == 'serve' else 'trains'}",
            field="--compare",
            value=o["compare"],
            legal=f"a command that {'serves' if serves else 'trains'}",
        )
    if gpus % job.gpus:
        raise InputError(
            f"--compare: the command uses {job.gpus} GPUs, the plan {gpus}",
            field="--compare",
            value=job.gpus,
            legal=f"--gpus {job.gpus}",
            nearest=job.gpus,
        )
    load = _serving(o) if serves else _training(o)
    stack = (_deployment(o) if serves else _mesh(o))["stack"]
    best = result.planned.plan
    plan = best if serves else result.planned
    return Beside(parsed, commands.beside(job, model, cluster, load, stack, plan))


def _asks_to_serve(o: Given) -> bool:
    return any(o[name] is not None for name in SERVING) or bool(o["disaggregated"])


def _serves(o: dict[str, Any]) -> bool:
    """Whether the options describe serving; training's beside them are refused."""
    mine = [name for name in SERVING if o[name] is not None] + ["disaggregated"] * o[
        "disaggregated"
    ]
    if not mine:
        if o["dcp"] is not None:
            _misplaced("dcp", o["dcp"], "training")
        return False
    for name in (*TRAINING, *TRAINING_PINS):
        if o[name] is not None and name != "overlap":
            _misplaced(name, o[name], f"serving (--{mine[0]})")
    return True


def _misplaced(name: str, value: Any, phase: str) -> None:
    option = {"batch": "--global-batch"}.get(name, "--" + name.replace("_", "-"))
    raise InputError(
        f"{option}={shorten(value)} has no meaning in {phase}",
        field=option,
        value=value,
        legal=f"leave {option} out",
    )


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _degrees_of(o: dict[str, Any]) -> dict[str, str]:
    """The lists of whole numbers that are given."""
    return {name: o[name] for name in (*BOTH, "dcp", *COUNTED_PINS) if o[name] is not None}


def _mesh(o: dict[str, Any]) -> dict[str, Any]:
    """Stack, freed numerics and pins of a training plan."""
    layout: dict[str, Any] = {name: _list(o[name]) for name in NAMED_PINS if o[name] is not None}
    overlap = None
    if o["overlap"] == "split":  # cuts the tokens: another program
        overlap = layout.pop("overlap")[0]
    stack = options.read_stack(o | {"overlap": overlap}, "train")
    free = tuple(_list(o["free"])) if o["free"] is not None else ()
    return {"stack": stack, "free": free, **layout}


def _deployment(o: dict[str, Any]) -> dict[str, Any]:
    """Stack, limits and pins of a serving plan."""
    from meshwise.units import TIME, parse_quantity

    found: dict[str, Any] = {}
    for name in ("ttft", "tpot"):
        if o[name] is not None:
            found[f"{name}_s"] = parse_quantity(
                o[name],
                TIME._replace(example=LATENCY[name]),
                f"--{name}",
                usual=_latency_unit(name, o[name]),
            )
    stack = engine.read_stack(o | {"schedule": None})
    serve.spread(o, stack)
    return {
        "stack": stack,
        "disaggregated": o["disaggregated"],
        **found,
    }


def _latency_unit(name: str, text: str) -> str:
    """The unit of a latency that people wait for, where they leave it out: 500 is ms, 0.5 is s, and so
    is a first token's 2."""
    digits = text.strip()
    short = name == "ttft" and len(digits) == 1
    return "s" if short or digits.lstrip("0").startswith(".") else "ms"


def _serving(o: dict[str, Any]) -> Serving:
    limited = o["ttft"] is not None or o["tpot"] is not None
    if limited and o["concurrency"] is not None:
        raise InputError(
            "--concurrency: with limits of latency the requests in flight are searched for",
            field="--concurrency",
            value=o["concurrency"],
            legal="--concurrency, or --ttft and --tpot",
        )
    return engine.within(o, serve.read_load(o | ({"concurrency": "1"} if limited else {})))


def _training(o: dict[str, Any]) -> Training:
    from meshwise.strict_tables import count
    from meshwise.workloads.workload import MAX_BATCH, MAX_SEQ, Formats, Training

    for name in ("kv_dtype", "weight_dtype", *ENGINE):
        if o[name] is not None:
            _misplaced(name, o[name], "training")
    for name, without in SERVING_DEFAULTS.items():
        if o[name] != without:
            _misplaced(name, o[name], "training")
    given = options.required(o["batch"], "--global-batch", "256 --seq 4096 (or --isl … to serve)")
    batch = count(given, "--global-batch", high=MAX_BATCH)
    seq = count(options.required(o["seq"], "--seq", "4096"), "--seq", high=MAX_SEQ)
    formats = Formats(dtype=o["dtype"], comm=o["comm_dtype"], gradients=o["grad_dtype"])
    imbalance = serve.imbalance(o)
    return Training(
        batch=batch, seq=seq, formats=formats, expert_imbalance=imbalance, **options.skew(o)
    )


class Bar:
    """A progress bar on a terminal's stderr, once the search takes longer than a second."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.bar: Any = None
        self.done = 0

    def __call__(self, done: int, total: int) -> None:
        if self.bar is None:
            if time.monotonic() - self.started < 1.0 or done >= total:
                return
            self.bar = click.progressbar(length=total, label="layouts", file=sys.stderr)
            self.bar.__enter__()
        self.bar.update(done - self.done)
        self.done = done
        if done >= total:
            self.bar.__exit__(None, None, None)
