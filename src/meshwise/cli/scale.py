"""``meshwise scale``: the curve over TP degrees and the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from meshwise.cli import options
from meshwise.errors import InputError, quoted

if TYPE_CHECKING:
    from meshwise.api import Cluster, Model


def _degrees(text: str, model: Model, cluster: Cluster) -> list[int]:
    """The degrees of ``--tp 1,2,4``."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        kept = ",".join(part for part in parts if part)
        raise InputError(
            f"--tp: {quoted(text)} has an empty place",
            field="--tp",
            value=text,
            legal="whole numbers with commas between them, such as 1,2,4",
            nearest=kept[:80] or "1,2,4",
        )
    return [options.tp_degree(part, model, cluster) for part in parts]


@click.command("scale")
@options.target
@options.workload
@options.software
@click.option(
    "--tp",
    "--tensor-parallel-size",
    "tp",
    metavar="N,N,…",
    help="TP degrees (default 1, 2, 4, … up to the cluster).",
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
@options.output
def command(model: str, cluster: str | None, nodes: str | None, nics: str | None, **o: Any) -> None:
    """What tensor parallelism costs for MODEL, how far it scales on CLUSTER, and why.

    MODEL is a preset, a config.json (or its folder), or a hub id with the [hub] extra.
    """
    from meshwise import api

    spec = api.model(model)
    where = options.read_cluster(cluster, nodes, nics)
    workload = options.read_workload(o)
    degrees = _degrees(o["tp"], spec, where) if o["tp"] is not None else None
    result = api.scale(
        spec,
        where,
        workload,
        stack=options.read_stack(o, workload.phase),
        tp=degrees,
        sequence_parallel=o["sequence_parallel"],
        limit_threshold=o["limit_threshold"],
        objective=o["objective"],
    )
    options.write(o, result.to_dict, result.page, "points")
