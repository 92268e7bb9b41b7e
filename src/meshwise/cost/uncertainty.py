"""90 % intervals of steps, tokens, memory and collectives, by how far a question lies from what was
measured (:mod:`meshwise.cost.doubt`)."""

from __future__ import annotations

import math

import numpy as np

from meshwise.arrays import Array
from meshwise.clusters.load import Cluster
from meshwise.cost.collectives.collective import Priced, candidates_on, cheapest, fabric_of
from meshwise.cost.collectives.fabric import Fabric
from meshwise.cost.collectives.fits import slower_start
from meshwise.cost.collectives.transports import THROUGH_HOST, transport_of, transport_table
from meshwise.cost.doubt.question import (
    Question,
    collective_question,
    footprint_question,
    step_question,
)
from meshwise.cost.doubt.spread import (
    INHERITED_SD,
    NORMAL,
    chance_to_fit,
    prediction_interval,
    standard_deviation,
    within_memory_error,
)
from meshwise.cost.estimate import Estimate
from meshwise.layouts.placement import Group
from meshwise.program.layers.feed_forward import moe
from meshwise.program.operations import Kernel, Op
from meshwise.stacks.load import load_stack
from meshwise.stacks.stack import Stack

INHERITED_HALF_WIDTH = NORMAL * INHERITED_SD


def tpot_interval(tpot_s: Array, stack: Stack, sd: Array, even_s: Array) -> tuple[Array, Array]:
    """90 % interval (low, high) of a time per output token [s]; the ideal stack is a definition and has none.

    ``even_s``: how much longer (below 0: shorter) it takes if experts are drawn evenly, where that is not
    known. The interval is then that of both ends.
    """
    if stack.ideal:
        return tpot_s, tpot_s
    longer = even_s / np.where(
        tpot_s > 0.0, tpot_s, np.inf
    )  # answers of one token have no next one
    return prediction_interval(tpot_s, "tpot_s", sd, np.log1p(longer))


def even_draws_s(e: Estimate) -> Array:
    """Seconds that a pass of inference takes longer if its tokens draw experts evenly (below 0: shorter,
    where the fullest of ranks that share experts waits for fewer); 0 where how they draw was said."""
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
            if _as_drawn(op):
                longer = longer + count * op.count * e.pricer.one(op)[0]
        for cost in costs:
            if _as_drawn(cost.op):
                longer = longer - count * cost.op.count * cost.seconds
    return longer


def _as_drawn(op: Op) -> bool:
    """Whether it takes as long as the draws of experts make it: their products, and the exchange of
    their tokens."""
    return op.kernel is Kernel.EXPERTS or (op.kind == "all_to_all" and np.max(op.count) > 0)


def step_interval(e: Estimate, asked: Question | None = None) -> tuple[Array, Array]:
    """90 % interval of ``step_s`` [s]; the ideal stack is a definition and has none. ``asked``: the
    question of ``e``, where it is known already."""
    if e.stack.ideal:
        return e.step_s, e.step_s
    sd = step_sd(e, asked)
    if e.program.ctx.training:
        return prediction_interval(e.step_s, "step_s", sd)
    return tpot_interval(e.step_s, e.stack, sd, even_draws_s(e))


def step_sd(e: Estimate, asked: Question | None = None) -> Array:
    """Standard deviation of ln(measured / predicted) of a step, or of an iteration, per layout."""
    quantity = "step_s" if e.program.ctx.training else "tpot_s"
    return standard_deviation(quantity, asked or step_question(e))


def memory_sd(e: Estimate, asked: Question | None = None) -> Array:
    """Standard deviation of ln(measured / predicted) of the memory, per layout."""
    return standard_deviation("memory_bytes", asked or footprint_question(e))


def memory_interval(e: Estimate, asked: Question | None = None) -> tuple[Array, Array]:
    """90 % interval of ``memory_bytes`` [bytes]."""
    return prediction_interval(e.memory_bytes, "memory_bytes", memory_sd(e, asked))


def is_tight(e: Estimate, asked: Question | None = None) -> Array:
    """Whether the limit lies within the memory's error, per layout: ``fits`` may be wrong."""
    return within_memory_error(e.memory_bytes, e.memory_limit_bytes, memory_sd(e, asked))


def fitting_chance(e: Estimate, asked: Question | None = None) -> Array:
    """Probability that a layout's memory fits, per layout."""
    return chance_to_fit(e.memory_bytes, e.memory_limit_bytes, memory_sd(e, asked))


def collective_kind(stack: Stack, cluster: Cluster, group: Group) -> str:
    """Whose collectives one is: across a network, an engine's own kernels, or NCCL's through the host's
    memory, over PCIe or NVLink."""
    crossed = [
        level.kind
        for level, ranks in zip(cluster.levels, group.ranks, strict=True)
        if np.max(ranks) > 1
    ]
    if "network" in crossed:
        return "network"
    if stack.communication.custom_all_reduce:
        return stack.communication.collectives
    inside = crossed[0] if crossed else cluster.levels[0].kind
    if inside in THROUGH_HOST:
        return "nccl-host"
    return "nccl-pcie" if inside.startswith("pcie") else "nccl-nvlink"


# RCCL between two nodes needs 219 to 241 us for a few KiB (2 x 8 MI300X, one log: hisohara/ai-scripts
# training/01_rccl-smoketest), where NCCL's constants, which stand in, say 36 to 45: six times.
OTHER_LIBRARY = 6.0
OTHER_MAKERS = ("cdna", "gaudi", "tpu")  # beginnings of generations that NCCL does not run on
# Hops of the kinds of network that were measured span a factor of ten, four either way of their middle:
# so much longer may those of a kind take that no log shows.
UNKNOWN_KIND = 4.0
# Domains of the largest log, and what else may fall beyond them.
MOST_DOMAINS, BEYOND = 256, 2.0
# All logs of all_to_all but one (256 domains, three times its prediction) have two domains.
ALL_TO_ALL_DOMAINS, CROWDED = 16, 3.0
# The fastest network of one domain that was measured: 3.2 Tb/s a node (AWS p5, p5en, p6-b200).
MEASURED_DOMAIN = 400e9


# The library's constants inside a node are of calls that follow each other. Where a host starts each anew,
# small ones wait for it: torch's all_reduce on 8 GPUs needs 39 (H200) to 48 us (B200) for any size up to
# 512 KiB, nccl-tests of 2021 on 8 A100 35, of which the constants say 15 to 21 (stas00/ml-engineering,
# microsoft/superbenchmark); all_to_all of 2021 60, where they say 9.
LATE_LAUNCH_S = 40e-6


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
    per_level = tuple(
        slower_start(c, UNKNOWN_KIND)
        if level.kind == "network" and "lent" in transport_table(transport_of(level.fabric))
        else c
        for level, c in zip(cluster.levels, per_level, strict=True)
    )
    if cluster.device.generation.startswith(OTHER_MAKERS):
        per_level = tuple(slower_start(c, OTHER_LIBRARY) for c in per_level)
    return fabric._replace(bandwidth=tuple(bandwidth), per_level=per_level)


def unmeasured_slowdown(
    op: str, payload: float, group: Group, cluster: Cluster, stack: Stack, seconds: float
) -> float:
    """ln of how much longer than ``seconds`` a collective of ``payload`` bytes takes if nothing unmeasured
    holds over a network, or if inside a node a host is late with its launch; 0 for an engine's own kernels
    and under the ideal stack.
    """
    if stack.ideal or seconds <= 0.0:
        return 0.0
    kind = collective_kind(stack, cluster, group)
    if kind != "network":
        return math.log1p(LATE_LAUNCH_S / seconds) if kind.startswith("nccl") else 0.0
    fabric = _unmeasured(fabric_of(op, group, cluster, stack, by_own_nic=True), cluster)
    longest = min(float(c.seconds) for c in candidates_on(op, np.float64(payload), fabric))
    longer = max(float(np.log(longest / seconds)), 0.0)
    domains = math.prod(
        int(np.max(ranks))
        for level, ranks in zip(cluster.levels, group.ranks, strict=True)
        if level.kind == "network"
    )
    if op == "all_to_all" and domains > ALL_TO_ALL_DOMAINS:
        longer += math.log(CROWDED)
    return longer + (math.log(BEYOND) if domains > MOST_DOMAINS else 0.0)


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
    asked = collective_question(op, payload, group, cluster, stack, best)
    sd = standard_deviation("time_s", asked)
    longer = unmeasured_slowdown(op, payload, group, cluster, stack, float(best.seconds))
    low, high = prediction_interval(seconds, "time_s", sd, longer, asked)
    if collective_kind(stack, cluster, group) == "nccl-host":
        # hosts differ by more than the wire allows
        low = max(
            low,
            float(cheapest(op, np.float64(payload), group, cluster, load_stack("ideal")).seconds),
        )
    return min(float(low), seconds), float(high)
