"""``meshwise estimate``: one layout in full."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from meshwise.cli import needs, options, switches, values
from meshwise.cli.command import Command

if TYPE_CHECKING:
    from meshwise.api import EstimateResult

layout = options.stacked(
    options.tp_degrees,
    click.option("--vp", default="1", type=values.NUMBER, help="Virtual stages per pipeline rank."),
    options.dp_degree,
    options.degree("cp", "context", "Context-parallel degree."),
    options.ep_degrees,
    click.option(
        "--shard",
        default="none",
        type=values.SHARD,
        show_default=True,
        help="none, zero1, zero2 or zero3 (FSDP).",
    ),
    click.option(
        "--schedule",
        type=values.SCHEDULE,
        help="Pipeline schedule: 1f1b (interleaved with --vp), gpipe, zb-1p, zb-2p.",
    ),
    click.option(
        "--placement",
        metavar="ORDER",
        help="Of the axes on the ranks, neighbours first (default tp-cp-dp-pp).",
    ),
    options.gpus,
)


def priced(
    model: str, cluster: str | None, nodes: str | None, nics: str | None, o: dict[str, Any]
) -> EstimateResult:
    """The layout that the options describe, priced."""
    from meshwise import api
    from meshwise.strict_tables import count, one_of
    from meshwise.workloads.workload import WORKLOAD_PHASES

    spec = api.model(model)
    switches.check(o, spec)
    where = options.read_cluster(cluster, nodes, nics)
    degrees: dict[str, Any] = {k: count(o[k], f"--{k}") for k in ("pp", "vp", "dp", "cp", "ep")}
    stack = options.read_stack(o, one_of(o["phase"], "--phase", WORKLOAD_PHASES))
    degrees["tp"] = options.tp_degree(o["tp"], spec, where, stack)
    if o["etp"] is not None:
        degrees["etp"] = count(o["etp"], "--etp")
    if o["placement"] is not None:
        degrees["placement"] = o["placement"]
    gpus = count(o["gpus"], "--gpus") if o["gpus"] is not None else None
    micro = o["micro_batch"]
    if o["phase"] == "train" and micro is not None:
        degrees["micro_batch"] = count(micro, "--micro-batch")
        o = o | {"micro_batch": None}  # the grid checks it against the replica's share
    workload = options.read_workload(o)
    return api.estimate(
        spec,
        where,
        workload,
        stack=stack,
        gpus=gpus,
        sequence_parallel=o["sequence_parallel"] or None,
        shard=o["shard"],
        **degrees,
    )


@click.command(
    "estimate",
    cls=Command,
    needs=needs.STEP,
    phase=needs.phase_of,
    about={"model": needs.ABOUT_MODEL},
    examples=(
        "meshwise estimate gpt3-175b --on dgx-a100 --tp 8 --pp 8 --batch 64 --seq 2k",
        "meshwise estimate llama-3.1-70b --on hgx-h100 --tp 8 --phase decode --batch 32 --context 4k",
    ),
)
@options.target
@layout
@options.workload
@options.software
@options.output
def command(model: str, cluster: str | None, nodes: str | None, nics: str | None, **o: Any) -> None:
    """Price one layout of MODEL in full: time, memory by part, and the communication of every axis."""
    result = priced(model, cluster, nodes, nics, o)
    options.write(o, result.to_dict, result.page, "communication")
