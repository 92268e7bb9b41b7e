"""90 % intervals: how far measured runs of a stack lay from their predictions, wider where the
seconds come from constants that were not measured on this hardware or at these shapes.

The spread of measured / predicted comes from published runs (``catalog/discrepancy``, written by
``tools/fit_discrepancy.py``): kernels' own residuals alone would cover far too little. Errors within
one source of seconds are correlated, so that shares add up before they are squared.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from meshwise.cost.estimate import Estimate
from meshwise.spec import catalog
from meshwise.spec.cluster import Cluster
from meshwise.spec.layout import Group
from meshwise.spec.stack import Stack

Array = Any

# 1.645 standard deviations of ln(measured / predicted) where constants are lent: a device's products
# predicted by another generation's fit are off by 6 to 32 % (median 14 %, tests/data/kernel_calls.csv,
# each of A100, H100, H200, B200 by the others), collectives of a fabric left out of the fit by up to
# 32 % (docs/explanation/validation): about 0.2.
LENT = 1.645 * 0.2


class Spread(NamedTuple):
    """The ends of ln(measured / predicted) that hold 90 % of left-out rows."""

    low: float
    high: float


@functools.cache
def spread(quantity: str, stack: str) -> Spread:
    """The spread of a quantity's published rows under a stack, or under all where it has none."""
    table = catalog.load("discrepancy", quantity.replace("_", "-"), "quantity")[1]
    entry = table["stack"].get(stack, table["all"])
    return Spread(entry["low"], entry["high"])


def ends(value: Array, quantity: str, stack: str, lent: Array = 0.0) -> tuple[Array, Array]:
    """(low, high) of a predicted value of which the share ``lent`` rests on lent constants."""
    found = spread(quantity, stack)
    more = (LENT * np.minimum(lent, 1.0)) ** 2
    low = np.minimum(found.low, 0.0) ** 2
    high = np.maximum(found.high, 0.0) ** 2
    # a spread whose ends lie on one side of 1 keeps its near end
    near_low, near_high = max(found.low, 0.0), min(found.high, 0.0)
    return (
        value * np.exp(near_low - np.sqrt(low + more)),
        value * np.exp(near_high + np.sqrt(high + more)),
    )


def tpot_interval(tpot_s: Array, stack: Stack, lent: Array) -> tuple[Array, Array]:
    """90 % interval of a time per output token [s]; the ideal stack is a definition and has none."""
    if stack.ideal:
        return tpot_s, tpot_s
    return ends(tpot_s, "tpot_s", stack.name, lent)


def lent_share(e: Estimate) -> Array:
    """Share of the step's compute and exposed communication that rests on lent constants."""

    def seconds(cost: Any) -> Array:
        each = cost.exposed / np.maximum(cost.op.count, 1) if cost.priced else cost.seconds
        return each * e.pricer.lent(cost)

    return e.sum_over_step(seconds) / np.maximum(e.step_s, 1e-30)


def step_interval(e: Estimate) -> tuple[Array, Array]:
    """90 % interval of ``step_s`` [s]; the ideal stack is a definition and has none."""
    if e.stack.ideal:
        return e.step_s, e.step_s
    quantity = "step_s" if e.program.ctx.training else "tpot_s"
    return ends(e.step_s, quantity, e.stack.name, lent_share(e))


def collective_kind(stack: Stack, cluster: Cluster, group: Group) -> str:
    """Whose published collectives say how far one may be off: those across a network, an engine's own
    kernels, or NCCL's over PCIe or NVLink."""
    crossed = [
        level.kind
        for level, ranks in zip(cluster.levels, group.ranks, strict=True)
        if np.max(ranks) > 1
    ]
    if "network" in crossed:
        return "network"
    if stack.custom_all_reduce:
        return stack.collectives
    inside = crossed[0] if crossed else cluster.levels[0].kind
    return "nccl-pcie" if inside.startswith("pcie") else "nccl-nvlink"


def lent_levels(sources: tuple[str, ...], group: Group) -> float:
    """1 where the constants of a level that the group crosses are another fabric's, else 0."""
    used = zip(sources, group.ranks, strict=True)
    return float(any("(inherited" in source for source, ranks in used if np.max(ranks) > 1))


def collective_interval(
    seconds: float, sources: tuple[str, ...], stack: Stack, cluster: Cluster, group: Group
) -> tuple[float, float]:
    """90 % interval of one collective's time [s]."""
    if stack.ideal or seconds <= 0.0:
        return seconds, seconds
    kind = collective_kind(stack, cluster, group)
    low, high = ends(seconds, "time_s", kind, lent_levels(sources, group))
    return float(low), float(high)
