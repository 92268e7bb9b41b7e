"""``meshwise plan``: every legal layout, ranked, with the reasons."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from meshwise.cli import options
from meshwise.errors import InputError, shorten

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshwise.api import Training


def _pin(name: str, long: str, words: str) -> Callable[[options.F], options.F]:
    flags = [f"--{name}"] + ([f"--{long}-parallel-size"] if long else [])
    return click.option(*flags, name.replace("-", "_"), metavar="N,…", help=words)


pins = options.stacked(
    _pin("tp", "tensor", "Only these tensor-parallel degrees."),
    _pin("pp", "pipeline", "Only these numbers of pipeline stages."),
    _pin("vp", "", "Only these numbers of virtual stages per rank."),
    _pin("dp", "data", "Only these data-parallel degrees."),
    _pin("cp", "context", "Only these context-parallel degrees."),
    _pin("ep", "expert", "Only these expert-parallel degrees."),
    _pin("etp", "", "Only these expert-tensor degrees."),
    click.option(
        "--micro-batch",
        "--micro-batch-size",
        "micro_batch",
        metavar="N,…",
        help="Training: only these microbatches.",
    ),
    click.option("--recompute", metavar="MODE,…", help="Training: none, selective, full."),
    click.option("--shard", metavar="STAGE,…", help="Training: none, zero1, zero2, zero3."),
    click.option(
        "--sequence-parallel", metavar="true|false", help="Training: only with, or without."
    ),
    click.option("--overlap", metavar="HOW", help="Of TP collectives: none, decomposed, or split."),
    click.option("--placement", metavar="ORDER,…", help="Of the axes on the ranks: tp-cp-dp-pp, …"),
)
training = options.stacked(
    click.option(
        "--global-batch",
        "--batch",
        "--global-batch-size",
        "batch",
        metavar="N",
        help="Training: sequences per step.",
    ),
    click.option("--seq", "--seq-len", "seq", metavar="N", help="Training: tokens per sequence."),
    click.option("--schedule", metavar="KIND", help="Pipeline: 1f1b, gpipe, zb-1p, zb-2p."),
    click.option("--grad-dtype", metavar="D", help="Gradients: bf16 (default) or fp32."),
    click.option(
        "--free",
        metavar="WHAT,…",
        help="Also look at options that change the numerics: dtype, comm-dtype.",
    ),
)
asked = options.stacked(
    click.option("--gpus", metavar="N", help="GPUs to use (default: the whole cluster)."),
    click.option("--top", default="10", metavar="N", show_default=True, help="Layouts to show."),
    click.option("--objective", metavar="WHAT", help="Training: step (default), mfu or cost."),
    click.option("--price", metavar="USD", help="Dollars per GPU and hour."),
)
software = options.stacked(
    click.option("--stack", metavar="STACK", help="Software; see catalog stacks."),
    click.option("--ideal", is_flag=True, help="Peak FLOP/s and wire bandwidth, nothing else."),
    click.option("--attention", metavar="KIND", help="flash or unfused, in place of the stack's."),
)


@click.command("plan")
@options.target
@asked
@training
@pins
@options.formats
@software
@options.output
def command(model: str, cluster: str | None, nodes: str | None, nics: str | None, **o: Any) -> None:
    """Every legal layout of MODEL on the GPUs of CLUSTER, ranked, and why the best one is.

    Training: --global-batch and --seq.
    """
    from meshwise import api
    from meshwise.spec.reading import count, fraction

    spec = api.model(model)
    where = options.read_cluster(cluster, nodes, nics)
    if nodes is not None and o["gpus"] is not None and count(o["gpus"], "--gpus") > where.devices:
        raise InputError(
            f"--gpus={o['gpus']} is more than the {where.devices} GPUs of --nodes {nodes}",
            field="--gpus",
            value=o["gpus"],
            legal=f"1 to {where.devices}, or no --nodes",
            nearest=where.devices,
        )
    price = fraction(o["price"], "--price", low=0.0, high=1e6) if o["price"] is not None else None
    overlap = {"overlap": None, "schedule": o["schedule"]}
    layout = {name: _list(o[name]) for name in PINS if o[name] is not None}
    if o["overlap"] == "split":  # cuts the tokens: a stack of its own
        overlap["overlap"] = layout.pop("overlap")[0]
    result = api.plan(
        spec,
        where,
        _training(o),
        stack=options.read_stack(o | overlap, "train"),
        gpus=count(o["gpus"], "--gpus") if o["gpus"] is not None else None,
        free=tuple(_list(o["free"])) if o["free"] is not None else (),
        top=o["top"],
        objective=o["objective"] or "step",
        price_per_device_hour=price,
        progress=Bar() if sys.stderr.isatty() else None,
        **layout,
    )
    options.write(o, result.to_dict, result.page, "layouts")
    if not result.feasible:
        raise click.exceptions.Exit(130 if result.partial else 3)


DEGREES = ("tp", "pp", "vp", "dp", "cp", "ep", "etp", "micro_batch")
PINS = (*DEGREES, "recompute", "shard", "sequence_parallel", "overlap", "placement")


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _training(o: dict[str, Any]) -> Training:
    from meshwise.spec.reading import count
    from meshwise.spec.workload import MAX_BATCH, MAX_SEQ, Formats, Training

    for name in ("kv_dtype", "weight_dtype"):
        if o[name] is not None:
            option = "--" + name.replace("_", "-")
            raise InputError(
                f"{option}={shorten(o[name])} has no meaning in training",
                field=option,
                value=o[name],
                legal=f"leave {option} out",
            )
    batch = count(
        options.required(o["batch"], "--global-batch", "256"), "--global-batch", high=MAX_BATCH
    )
    seq = count(options.required(o["seq"], "--seq", "4096"), "--seq", high=MAX_SEQ)
    formats = Formats(dtype=o["dtype"], comm=o["comm_dtype"], gradients=o["grad_dtype"])
    return Training(batch=batch, seq=seq, formats=formats)


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
