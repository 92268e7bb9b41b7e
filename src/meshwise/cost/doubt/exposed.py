"""Exposed communication of a step by axis, and of it what crosses a network [s]."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.clusters.load import Cluster
from meshwise.cost.estimate import Estimate
from meshwise.layouts.placement import Group
from meshwise.program.operations import COLLECTIVES


class Exposed(NamedTuple):
    """Seconds of a step that it waits for communication, on its slowest stage."""

    by_axis: dict[str, Array]  # of the groups that collectives run over: tp, kv, cp, ep …
    network_s: Array  # of them, by groups that cross a network


def crosses_network(cluster: Cluster, group: Group) -> Array:
    """Whether a group has ranks on both sides of a network, per layout."""
    crossed: Array = np.bool_(False)
    for level, ranks in zip(cluster.levels, group.ranks, strict=True):
        if level.kind == "network":
            crossed = crossed | (np.asarray(ranks) > 1)
    return crossed


def exposed_comm(e: Estimate) -> Exposed:
    """Exposed seconds of a step by the axis of their group; they add up to ``exposed_comm_s``."""
    m = e.program.ctx.microbatches
    seen: dict[str, Array] = {}
    per_role: list[dict[str, Array]] = []
    # microbatches, on each role of stage
    for role in e.program.roles:
        seconds: dict[str, Array] = {}
        lists = [(costs, n * m) for costs, n in zip(e.layer_costs, role.layers, strict=True)]
        ends = [(e.embedding_costs, role.embedding * m), (e.head_costs, role.head * m)]
        for costs, times in (*lists, *ends, (e.transfer_costs, m)):
            for c in costs:
                if c.op.kind in COLLECTIVES:
                    seconds[c.op.axis] = seconds.get(c.op.axis, 0.0) + c.exposed * times
        per_role.append(seconds)
        seen |= dict.fromkeys(seconds, 0.0)
    total = {axis: e._of_slowest([s.get(axis, 0.0) for s in per_role]) for axis in seen}
    # the update, on the stage where it takes longest
    reduced, gathered = e.update_exposure
    for index, costs in enumerate(e.update_costs):
        last = e.update_role == index
        for c in costs:
            if c.op.kind in COLLECTIVES:
                share = gathered if c.op.kind == "all_gather" else reduced
                spent = np.where(last, c.op.count * c.seconds * share, 0.0)
                total[c.op.axis] = total.get(c.op.axis, 0.0) + spent
    # what is exposed because two batches' halves follow each other is tensor parallelism's
    total["tp"] = total.get("tp", 0.0) + e.split_fill * m
    across: Array = 0.0
    for axis, value in total.items():
        across = across + np.where(crosses_network(e.cluster, e.pricer.groups[axis]), value, 0.0)
    return Exposed(total, across)
