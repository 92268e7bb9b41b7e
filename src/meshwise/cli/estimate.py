"""``meshwise estimate``: one layout in full."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from meshwise.cli import needs, options, output, switches, values
from meshwise.cli.command import CliCommand
from meshwise.cli.given import Given

if TYPE_CHECKING:
    from meshwise.api import EstimateResult

layout_options = options.stacked(
    options.tp_options,
    options.axis_option("vp"),
    options.dp_option,
    options.axis_option("cp"),
    options.ep_options,
    options.axis_option("dcp"),
    click.option(
        "--shard",
        default="none",
        type=values.SHARD_TYPE,
        show_default=True,
        help="none, zero1, zero2 or zero3 (FSDP).",
    ),
    click.option(
        "--schedule",
        type=values.SCHEDULE_TYPE,
        help="Pipeline schedule: 1f1b (interleaved with --vp), gpipe, zb-1p, zb-2p.",
    ),
    click.option(
        "--placement",
        metavar="ORDER",
        help="Of the axes on the ranks, neighbours first (default tp-cp-dp-pp).",
    ),
    options.gpus_option,
)


def estimated(
    model: str, cluster: str | None, nodes: str | None, nics: str | None, o: Given
) -> EstimateResult:
    """The layout that the options describe, priced."""
    from meshwise import api
    from meshwise.strict_tables import one_of
    from meshwise.workloads.workload import WORKLOAD_PHASES

    spec = api.model(model)
    switches.check_switch_options(o, spec)
    where = options.read_cluster(cluster, nodes, nics, o.text("pcie_host"))
    # the layout
    axes: dict[str, object] = {k: o.count(k) for k in ("pp", "vp", "dp", "cp", "ep", "dcp")}
    stack = options.phase_stack(o, one_of(o["phase"], "--phase", WORKLOAD_PHASES))
    axes["tp"] = options.tp_degree(o.word("tp"), spec, where, stack)
    if o.has("etp"):
        axes["etp"] = o.count("etp")
    if o.has("placement"):
        axes["placement"] = o["placement"]
    gpus = o.number("gpus")
    if o["phase"] == "train" and o.has("micro_batch"):
        axes["micro_batch"] = o.count("micro_batch")
        o = o.but(micro_batch=None)  # the grid checks it against the replica's share
    axes |= {"sequence_parallel": o.flag("sequence_parallel") or None, "shard": o["shard"]}
    # what it is to do
    workload = options.read_workload(o)
    layout = options.layout_axes(axes)
    return api.estimate(spec, where, workload, stack=stack, gpus=gpus, **layout)


@click.command(
    "estimate",
    cls=CliCommand,
    needs=needs.STEP,
    phase=needs.phase_of,
    about={"model": needs.ABOUT_MODEL},
    examples=(
        "meshwise estimate gpt3-175b --on dgx-a100 --tp 8 --pp 8 --batch 64 --seq 2k",
        "meshwise estimate llama-3.1-70b --on hgx-h100 --tp 8 --phase decode --batch 32 --context 4k",
    ),
)
@options.target_options
@layout_options
@options.workload_options
@options.software_options
@output.output_options
def command(
    model: str, cluster: str | None, nodes: str | None, nics: str | None, **said: object
) -> None:
    """Price one layout of MODEL in full: time, memory by part, and the communication of every axis."""
    o = Given(said)
    result = estimated(model, cluster, nodes, nics, o)
    output.write_answer(o, result.to_dict, result.page, "communication")
