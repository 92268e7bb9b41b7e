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

from meshwise import catalog
from meshwise.arrays import Array
from meshwise.clusters.load import Cluster
from meshwise.cost.collectives.collective import Priced, candidates_on, cheapest, fabric_of
from meshwise.cost.collectives.fabric import Fabric
from meshwise.cost.collectives.fits import host_doubt, lent_levels, slower_start
from meshwise.cost.collectives.network_doubt import ACROSS_NETWORK, network_kind, network_spread
from meshwise.cost.collectives.transports import THROUGH_HOST
from meshwise.cost.estimate import Estimate
from meshwise.layouts.placement import Group
from meshwise.program.layers.feed_forward import moe
from meshwise.program.operations import Kernel
from meshwise.stacks.load import load_stack
from meshwise.stacks.stack import Stack

# 1.645 standard deviations of ln(measured / predicted) where constants are inherited: a device's products
# predicted by another generation's fit are off by 6 to 32 % (median 14 %, tests/data/kernel_calls.csv,
# each of A100, H100, H200, B200 by the others), collectives of a fabric left out of the fit by up to
# 32 % (docs/explanation/validation): about 0.2.
NORMAL = 1.645  # standard deviations of the normal distribution's middle 90 %
INHERITED_HALF_WIDTH = NORMAL * 0.2


class Spread(NamedTuple):
    """The ends of ln(measured / predicted) that hold 90 % of left-out rows."""

    low: float
    high: float


@functools.cache
def published_spread(quantity: str, stack: str, stood_in: bool = False) -> Spread:
    """The spread of a quantity's published rows under a stack, or under all where it has none; both
    where the stack only stands in for software that is not known."""
    # collectives over networks have that of systems left out of the fit
    if quantity == "time_s" and stack.startswith(ACROSS_NETWORK):
        return Spread(*network_spread(stack))
    table = catalog.load("discrepancy", quantity.replace("_", "-"), "quantity")[1]
    own, every = table["stack"].get(stack, table["all"]), table["all"]
    if stood_in:
        return Spread(min(own["low"], every["low"]), max(own["high"], every["high"]))
    return Spread(own["low"], own["high"])


def prediction_interval(
    value: Array,
    quantity: str,
    stack: str,
    inherited: Array = 0.0,
    slower: Array = 0.0,
    unseen: Array = 0.0,
    stood_in: bool = False,
) -> tuple[Array, Array]:
    """(low, high) of a predicted value, in its unit: 90 % of left-out published rows lie within.

    ``inherited``: the share of it that rests on constants of other hardware (above 1 where these say less
    than another fabric's do); ``slower``: how much longer, as a logarithm, it takes if nothing holds that
    was never measured; ``unseen``: standard deviation of what the published rows have not; ``stood_in``:
    the stack is not the one that ran.
    """
    found = published_spread(quantity, stack, stood_in)
    more = (INHERITED_HALF_WIDTH * inherited) ** 2 + (NORMAL * unseen) ** 2
    low = np.minimum(found.low, 0.0) ** 2
    high = np.maximum(found.high, 0.0) ** 2
    # a spread whose ends lie on one side of 1 keeps its near end
    near_low, near_high = max(found.low, 0.0), min(found.high, 0.0)
    return (
        value * np.exp(near_low - np.sqrt(low + more)),
        value * np.exp(near_high + np.sqrt(high + more) + slower),
    )


def unseen_sd(e: Estimate) -> Array:
    """Standard deviation of ln(measured / predicted) of a pass of inference by what the published
    rows of one source, dense models inside a node, have not."""
    table = catalog.load("discrepancy", "tpot-s", "quantity")[1]["beyond"]
    variance: Array = table["source"] ** 2
    if any(block.moe is not None for block in e.model.blocks):
        variance = variance + table["moe"] ** 2
    levels = zip(e.cluster.levels, e.pricer.groups["tp"].ranks, strict=True)
    for level, ranks in levels:
        if level.kind == "network":
            variance = np.where(np.asarray(ranks) > 1, variance + table["network"] ** 2, variance)
    return np.sqrt(variance)


def tpot_interval(
    tpot_s: Array, stack: Stack, inherited: Array, even_s: Array, unseen: Array
) -> tuple[Array, Array]:
    """90 % interval (low, high) of a time per output token [s]; the ideal stack is a definition and has none.

    ``even_s``: how much longer it takes if experts are drawn evenly, where that is not known. The
    interval is then that of both ends.
    """
    if stack.ideal:
        return tpot_s, tpot_s
    return prediction_interval(
        tpot_s, "tpot_s", stack.software, inherited, np.log1p(even_s / tpot_s), unseen
    )


def even_draws_s(e: Estimate) -> Array:
    """Seconds that a pass of inference takes longer if its tokens draw experts evenly; 0 where how
    they draw was said."""
    ctx = e.program.ctx
    if ctx.training or e.stack.ideal or e.workload.expert_skew is not None:
        return 0.0
    even = ctx._replace(expert_skew=0.0)
    longer: Array = 0.0
    for block, costs, count in zip(
        ctx.model.blocks, e.layer_costs, ctx.model.kind_counts(), strict=True
    ):
        if block.moe is None:
            continue
        for op in moe(even, block.moe, block.stored):
            if op.kernel is Kernel.EXPERTS:
                longer = longer + count * op.count * e.pricer.one(op)[0]
        for cost in costs:
            if cost.op.kernel is Kernel.EXPERTS:
                longer = longer - count * cost.op.count * cost.seconds
    return np.maximum(longer, 0.0)


def inherited_share(e: Estimate) -> Array:
    """Share of the step's compute and exposed communication that rests on inherited constants: 0 to 1, more
    where what stands in says less than another fabric's constants do.
    """

    def seconds(cost: Any) -> Array:
        each = cost.exposed / np.maximum(cost.op.count, 1) if cost.priced else cost.seconds
        return each * e.pricer.inherited_share(cost)

    return e.sum_over_step(seconds) / np.maximum(e.step_s, 1e-30)


def step_interval(e: Estimate) -> tuple[Array, Array]:
    """90 % interval of ``step_s`` [s]; the ideal stack is a definition and has none."""
    if e.stack.ideal:
        return e.step_s, e.step_s
    if e.program.ctx.training:
        return prediction_interval(e.step_s, "step_s", e.stack.software, inherited_share(e))
    return tpot_interval(e.step_s, e.stack, inherited_share(e), even_draws_s(e), unseen_sd(e))


def collective_kind(
    stack: Stack, cluster: Cluster, group: Group, op: str = "", payload: float | None = None
) -> str:
    """Whose published collectives say how far one may be off: those across a network, an engine's own
    kernels, or NCCL's through the host's memory, over PCIe or NVLink; across a network also by operation
    and size, where these are told."""
    crossed = [
        level.kind
        for level, ranks in zip(cluster.levels, group.ranks, strict=True)
        if np.max(ranks) > 1
    ]
    if "network" in crossed:
        return network_kind(op, payload, group, cluster)
    if stack.communication.custom_all_reduce:
        return stack.communication.collectives
    inside = crossed[0] if crossed else cluster.levels[0].kind
    if inside in THROUGH_HOST:
        return "nccl-host"
    return "nccl-pcie" if inside.startswith("pcie") else "nccl-nvlink"


def half_width(kind: str) -> float:
    """Half the 90 % interval of ln(measured / predicted) of a :func:`collective_kind`; hosts without peer
    access bring theirs with their constants.
    """
    found = published_spread("time_s", kind)
    brought = INHERITED_HALF_WIDTH * host_doubt() if kind == "nccl-host" else 0.0
    return float(np.hypot((found.high - found.low) / 2.0, brought))


# RCCL between two nodes needs 219 to 241 us for a few KiB (2 x 8 MI300X, one log: hisohara/ai-scripts
# training/01_rccl-smoketest), where NCCL's constants, which stand in, say 36 to 45: six times.
OTHER_LIBRARY = 6.0
OTHER_MAKERS = ("cdna", "gaudi", "tpu")  # beginnings of generations that NCCL does not run on
# The fastest network of one domain that was measured: 3.2 Tb/s a node (AWS p5, p5en, p6-b200).
MEASURED_DOMAIN = 400e9


def _unmeasured(fabric: Fabric, cluster: Cluster) -> Fabric:
    """The fabric if nothing holds that no log shows: another maker's library starts as late as the
    one log of such does, and a domain's network carries no more than the fastest one measured."""
    bandwidth = list(fabric.bandwidth)
    domains = (1, *cluster.domain_sizes()[:-1])
    for index, (level, below) in enumerate(zip(cluster.levels, domains, strict=True)):
        if level.kind == "network" and level.efficiency is None:
            whole = below * level.per_device_bytes_per_s(below)
            bandwidth[index] = bandwidth[index] * min(1.0, MEASURED_DOMAIN / whole)
    per_level = fabric.per_level
    if cluster.device.generation.startswith(OTHER_MAKERS):
        per_level = tuple(slower_start(c, OTHER_LIBRARY) for c in per_level)
    return fabric._replace(bandwidth=tuple(bandwidth), per_level=per_level)


def unmeasured_slowdown(
    op: str, payload: float, group: Group, cluster: Cluster, stack: Stack, seconds: float
) -> float:
    """ln of how much longer than ``seconds`` a collective of ``payload`` bytes over a network takes if nothing
    unmeasured holds; 0 inside a node and under the ideal stack.
    """
    if stack.ideal or seconds <= 0.0:
        return 0.0
    if not collective_kind(stack, cluster, group).startswith(ACROSS_NETWORK):
        return 0.0
    fabric = _unmeasured(fabric_of(op, group, cluster, stack), cluster)
    longest = min(float(c.seconds) for c in candidates_on(op, np.float64(payload), fabric))
    return max(float(np.log(longest / seconds)), 0.0)


def collective_interval(
    seconds: float,
    op: str,
    payload: float,
    best: Priced,
    stack: Stack,
    cluster: Cluster,
    group: Group,
) -> tuple[float, float]:
    """90 % interval [s] of one algorithm's time of a collective, whose ``best`` is known."""
    if stack.ideal or seconds <= 0.0:
        return seconds, seconds
    kind = collective_kind(stack, cluster, group, op, payload)
    longer = unmeasured_slowdown(op, payload, group, cluster, stack, float(best.seconds))
    low, high = prediction_interval(
        seconds, "time_s", kind, lent_levels(best.lent, group.ranks), longer
    )
    if kind == "nccl-host":  # hosts differ by more than the wire allows
        low = max(
            low,
            float(cheapest(op, np.float64(payload), group, cluster, load_stack("ideal")).seconds),
        )
    return min(float(low), seconds), float(high)
