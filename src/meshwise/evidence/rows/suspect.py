"""Figures that no device or wire could give: below what the fewest operations, or bytes, take at the
datasheet's rates. A little room is left for rates that are rounded."""

from __future__ import annotations

from typing import Any

import numpy as np

from meshwise.clusters.load import Cluster
from meshwise.cost.estimate import Estimate
from meshwise.cost.pricing import OpCost
from meshwise.evidence.prediction import Suspect
from meshwise.evidence.tables import MEASURED, Row
from meshwise.layouts.placement import Group
from meshwise.units import format_memory, format_time

ROOM = 0.95  # of the bound: datasheets round, and clocks boost
VISITS_ROOM = 0.75  # of what is read where experts are visited by chance


def check_sign(kind: str, row: Row) -> None:
    """A measurement is above 0; a figure that is not one at all is malformed, not suspect."""
    for column in MEASURED[kind]:
        if not row.text(column):
            continue
        try:
            value = float(row.text(column))
        except ValueError:
            value = np.nan
        if value <= 0.0 and np.isfinite(value):
            raise Suspect(f"column {column}: {row.text(column)} is not above 0")
        row.number(column)


def check_step(seconds: float, e: Estimate) -> None:
    """No step is shorter than its products at the devices' peak, without recomputation and at the rate of
    the narrowest format."""
    peak = e.pricer.compute.peak(e.program.ctx.widths.dtype)

    def flops(cost: Any) -> Any:
        return 0.0 if cost.op.phase == "recompute" else cost.op.flops

    least = float(e.sum_over_step(flops)) / peak
    if seconds < ROOM * least:
        raise Suspect(
            f"a step of {format_time(seconds)}: its products take {format_time(least)} at the devices' "
            "peak FLOP/s"
        )


def check_decode(seconds: float, e: Estimate, requests: int) -> None:
    """No token of ``requests`` that run at once is quicker than reading the weights, of experts those that
    their tokens visit, and the keys and values that they hold, once at the datasheet's rate."""
    read = sum(float(op.hbm_bytes * op.count) for op in e.program.head if op.kind == "gemm")
    for ops, layers in zip(e.program.layers, e.program.ctx.model.kind_counts(), strict=True):
        own = [op for op in ops if op.kind in ("gemm", "attention")]
        read += layers * sum(float(np.max(op.hbm_bytes * op.count)) for op in own)
    least = read / e.pricer.compute.bandwidth
    if seconds < VISITS_ROOM * least:
        raise Suspect(
            f"{format_time(seconds)} per token: the weights, keys and values of {requests} requests at "
            f"once take {format_time(least)} at the device's memory bandwidth: fewer run"
        )


def check_phase(
    seconds: float, costs: list[OpCost], phases: tuple[str, ...], layers: int, e: Estimate
) -> None:
    """No phase of ``layers`` layers (``costs``: of one) is shorter than its products, without recomputation,
    at the device's peak."""
    own = [c.op for c in costs if c.op.phase in phases and c.op.phase != "recompute"]
    flops = layers * sum(float(op.flops) * float(op.count) for op in own)
    least = flops / e.pricer.compute.peak(e.program.ctx.widths.dtype)
    if seconds < ROOM * least:
        raise Suspect(
            f"{format_time(seconds)}: its products take {format_time(least)} at the device's peak FLOP/s"
        )


def check_memory(used: float, cluster: Cluster) -> None:
    """No run takes more memory than its device has."""
    if used > cluster.device.memory_bytes / ROOM:
        raise Suspect(
            f"{format_memory(used)} of memory: {cluster.device.title} has "
            f"{format_memory(cluster.device.memory_bytes)}"
        )


def check_collective(seconds: float, payload: float, group: Group, cluster: Cluster) -> None:
    """No collective is quicker than the bytes that a domain of its outermost level has to take in from
    the others: (n − 1)/n of the payload, over all of its links (an in-switch reduction sends no less)."""
    domains = (1, *cluster.domain_sizes()[:-1])
    inside = 1
    for level, ranks, below in zip(cluster.levels, group.ranks, domains, strict=True):
        n = int(np.max(ranks))
        if n > 1:
            links = min(inside, below) * level.per_device_bytes_per_s(below)
            least = payload * (n - 1) / n / links
            if seconds < ROOM * least:
                raise Suspect(
                    f"{format_time(seconds)}: the wire of level {level.name} takes "
                    f"{format_time(least)} for {payload:,.0f} bytes"
                )
        inside *= n
