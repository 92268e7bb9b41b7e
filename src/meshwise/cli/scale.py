"""``meshwise scale``: the curve over TP degrees and the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import click

from meshwise.cli import needs, options, output, ranges, switches, values
from meshwise.cli.command import CliCommand
from meshwise.cli.given import Given
from meshwise.errors import InputError, quoted

if TYPE_CHECKING:
    from meshwise.api import Cluster, Model, Stack
    from meshwise.curves import Objective
    from meshwise.workloads.workload import Workload


def _degrees(text: str, model: Model, cluster: Cluster, stack: Stack) -> list[int]:
    """The degrees of ``--tp 1,2,4`` or ``--tp 1-8``."""
    parts = ranges.opened_tp(text, model, cluster, stack)
    return [options.tp_degree(part, model, cluster, stack) for part in parts]


@click.command(
    "scale",
    cls=CliCommand,
    needs=needs.STEP,
    phase=needs.phase_of,
    about={"model": needs.ABOUT_MODEL},
    examples=(
        "meshwise scale gpt3-175b --on dgx-a100 --batch 32 --seq 2k",
        "meshwise scale llama-3.1-70b --on hgx-h100 --phase decode --batch 32 --context 4k --tp 1-8",
    ),
)
@options.target_options
@options.workload_options
@options.software_options
@click.option(
    "--tp",
    "--tensor-parallel-size",
    "tp",
    type=values.DEGREES_TYPE,
    help="TP degrees: 1,2,4, or the legal ones of a range, 1-8 (default 1, 2, 4, … up to the cluster).",
)
@click.option(
    "--limit-threshold",
    default="0.8",
    metavar="SHARE",
    show_default=True,
    help="Marginal efficiency below which a doubling does not pay.",
)
@click.option(
    "--objective",
    default="efficiency",
    metavar="WHAT",
    show_default=True,
    help="efficiency or latency.",
)
@click.option(
    "--sweep",
    multiple=True,  # a second one is refused, not taken in place of the first
    metavar="NAME=LOW:HIGH",
    help="The curve over a quantity, with its break-evens: batch, seq, inter.bandwidth=25GB/s:400GB/s, "
    "intra.latency, nics, device.flops, … (bandwidths per device or NIC and direction); or NAME=A,B,C.",
)
@click.option(
    "--gpus",
    type=values.DEGREES_TYPE,
    help="Training: the best layout (all axes) at each of these numbers of GPUs; or LOW:HIGH (LOW-HIGH), doubling.",
)
@click.option("--weak", is_flag=True, help="With --gpus: the batch grows with the GPUs.")
@output.output_options
def command(
    model: str, cluster: str | None, nodes: str | None, nics: str | None, **said: object
) -> None:
    """What tensor parallelism costs for MODEL, how far it scales on CLUSTER, and why."""
    from meshwise import api
    from meshwise.strict_tables import fraction

    o = Given(said)
    spec = api.model(model)
    switches.check_switch_options(o, spec)
    where = options.read_cluster(cluster, nodes, nics, o.text("pcie_host"))
    workload = options.read_workload(o)
    swept = _one_sweep(o["sweep"])
    if swept is not None and swept.split("=")[0].strip() in ("seq", "context"):
        _no_images(o, swept)
    # over numbers of GPUs
    if o.has("gpus") or o.flag("weak"):
        _grow(spec, where, workload, o, swept)
        return
    # over TP degrees, at one value or at several
    stack = options.phase_stack(o, workload.phase)
    tp, threshold = (
        o.text("tp"),
        fraction(o["limit_threshold"], "--limit-threshold", low=0.01, high=1.0),
    )
    degrees = _degrees(tp, spec, where, stack) if tp is not None else None
    objective = cast("Objective", o["objective"])  # which checks it
    parallel = o.flag("sequence_parallel")
    if swept is not None:
        found = api.sweep(
            *(spec, where, workload, swept),
            stack=stack,
            tp=degrees,
            sequence_parallel=parallel,
            limit_threshold=threshold,
            objective=objective,
        )
        output.write_answer(o, found.to_dict, found.page, "rows")
        return
    result = api.scale(
        *(spec, where, workload),
        stack=stack,
        tp=degrees,
        sequence_parallel=parallel,
        limit_threshold=threshold,
        objective=objective,
    )
    output.write_answer(o, result.to_dict, result.page, "points")


def _one_sweep(said: object) -> str | None:
    """The only sweep, if any."""
    sweeps = said if isinstance(said, tuple) else ()
    if len(sweeps) > 1:
        raise InputError(
            f"--sweep: {len(sweeps)} are given, one at a time is swept",
            field="--sweep",
            value=" ".join(sweeps),
            legal="one --sweep NAME=LOW:HIGH",
            nearest=sweeps[0],
        )
    return str(sweeps[0]) if sweeps else None


def _no_images(o: Given, sweep: str) -> None:
    """Refuse tokens of images beside a sweep over all tokens of a sequence."""
    if o.has("image_tokens"):
        raise InputError(
            f"--image-tokens={quoted(o['image_tokens'])}: --sweep {quoted(sweep)} is over all tokens of a "
            "sequence, images' among them",
            field="--image-tokens",
            value=o["image_tokens"],
            legal="leave --image-tokens out",
        )


def _grow(model: Model, cluster: Cluster, workload: Workload, o: Given, sweep: str | None) -> None:
    """Strong or weak scaling over numbers of GPUs."""
    from meshwise import api
    from meshwise.strict_tables import fraction

    sizes = o.text("gpus")
    # what goes with numbers of GPUs
    if sizes is None:
        raise InputError(
            "--weak has no meaning without --gpus", field="--weak", legal="--gpus 8:64"
        )
    if sweep is not None:
        raise InputError(
            "--sweep and --gpus: choose one",
            field="--sweep",
            value=sweep,
            legal="--sweep or --gpus",
        )
    if not isinstance(workload, api.Training):
        raise InputError(
            f"--gpus: {workload.phase} has no layouts to choose here",
            field="--gpus",
            value=sizes,
            legal="--phase train; for serving: meshwise plan",
        )
    if o["objective"] != "efficiency":
        raise InputError(
            f"--objective={o['objective']}: over numbers of GPUs the answer is the layout of the shortest "
            "step at each, and where a growth pays",
            field="--objective",
            value=o["objective"],
            legal="efficiency, or no --gpus",
            nearest="efficiency",
        )
    # axes that are pinned, and the software
    axes: dict[str, object] = {}
    if o.has("recompute"):
        axes["recompute"] = o["recompute"]
    if o.flag("sequence_parallel"):
        axes["sequence_parallel"] = True
    if o["overlap"] == "decomposed":
        axes["overlap"] = "decomposed"
        o = o.but(overlap=None)
    # the curve
    stack = options.phase_stack(o, "train")
    tp = o.text("tp")
    if tp is not None:
        axes["tp"] = _degrees(tp, model, cluster, stack)
    grown = api.grow(
        *(model, cluster, workload, _sizes(sizes)),
        stack=stack,
        weak=o.flag("weak"),
        limit_threshold=fraction(o["limit_threshold"], "--limit-threshold", low=0.01, high=1.0),
        **options.training_pins(axes),
    )
    output.write_answer(o, grown.to_dict, grown.page, "points")
    if not grown.feasible:
        raise click.exceptions.Exit(3)


def _sizes(text: str) -> list[int]:
    """``8,16,24``, or ``8:1024`` (``8-1024``), doubling."""
    from meshwise.strict_tables import as_digits, count

    ends = ranges.range_ends(text)
    if ends is None and ":" not in text:
        return [count(as_digits(part), "--gpus") for part in text.split(",")]
    low, *more = ends or [count(as_digits(part), "--gpus") for part in text.split(":")]
    if len(more) != 1 or low > more[0] or low < 1:
        raise InputError(
            f"--gpus: {quoted(text)} is no range",
            field="--gpus",
            value=text,
            legal="LOW:HIGH with LOW below HIGH, such as 8:1024",
        )
    sizes = [low]
    while sizes[-1] * 2 <= more[0]:
        sizes.append(sizes[-1] * 2)
    return sizes if sizes[-1] == more[0] else [*sizes, more[0]]
