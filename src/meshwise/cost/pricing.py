"""Seconds of lists of operations: each priced once, counts and exposure included."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from meshwise.cost.collective import Priced, price
from meshwise.cost.compute import Compute
from meshwise.cost.overlap import SHARDED, exposed_of_ops
from meshwise.program.ops import COLLECTIVES, Op
from meshwise.spec.cluster import Cluster
from meshwise.spec.layout import Group
from meshwise.spec.stack import Stack

Array = Any


class Times(NamedTuple):
    """Seconds of a list of operations, counts included."""

    compute: Array
    comm: Array
    exposed: Array

    def plus(self, other: Times, count: Array = 1) -> Times:
        return Times(
            self.compute + other.compute * count,
            self.comm + other.comm * count,
            self.exposed + other.exposed * count,
        )

    @property
    def busy(self) -> Array:
        return self.compute + self.exposed


ZERO = Times(0.0, 0.0, 0.0)


class OpCost(NamedTuple):
    """One operation, priced: seconds per call, and for collectives which algorithm won."""

    op: Op
    seconds: Array
    exposed: Array  # of all its calls in its list
    priced: Priced | None
    source: str


class Pricer:
    """Prices operations on a cluster under a stack for given groups."""

    def __init__(
        self, compute: Compute, cluster: Cluster, stack: Stack, groups: dict[str, Group]
    ) -> None:
        self.compute, self.cluster, self.stack, self.groups = compute, cluster, stack, groups
        self._known: dict[tuple[object, ...], tuple[Array, Priced, str]] = {}

    def one(self, op: Op) -> tuple[Array, Priced | None, str]:
        """(seconds per call, the algorithm if it is a collective, source)."""
        if op.kind not in COLLECTIVES:
            return self.compute.seconds(op), None, self.compute.source(op)
        # A layer's reductions are alike: each payload is priced once.
        payload = np.asarray(op.payload_bytes)
        key = (op.kind, op.axis, payload.shape, payload.tobytes())
        found = self._known.get(key)
        if found is None:
            group = self.groups[op.axis]
            if op.kind == "send_recv":
                group = _pair(group)
            priced = price(op.kind, op.payload_bytes, group, self.cluster, self.stack)
            used = [s for s, r in zip(priced.sources, group.ranks, strict=True) if np.max(r) > 1]
            wait = 0.0 if self.stack.ideal else self.stack.collective_wait_s
            found = priced.seconds + wait, priced, (used or list(priced.sources))[-1]
            self._known[key] = found
        return found

    def lent(self, cost: OpCost) -> Array:
        """Where an operation's seconds rest on constants of other hardware, or on shapes outside
        those measured (0 or 1 per layout)."""
        inherited = "(inherited" in cost.source
        if cost.priced is not None:
            return float(inherited)
        return np.maximum(float(inherited), self.compute.extrapolated(cost.op))

    def ops(self, ops: list[Op], tp: Array, *, apart: bool = False) -> list[OpCost]:
        """Every operation priced, with its exposure (all of it where they run ``apart``)."""
        # What no layout of the mesh has costs nothing, and is not worth pricing.
        absent = (0.0, None, "")
        priced = [self.one(op) if np.max(op.count) > 0 else absent for op in ops]
        seconds = [p[0] for p in priced]
        if apart:
            exposed = [op.count * s for op, s in zip(ops, seconds, strict=True)]
        else:
            exposed = exposed_of_ops(ops, seconds, self.stack, tp)
        return [
            OpCost(op, seconds, exp, how, source)
            for op, (seconds, how, source), exp in zip(ops, priced, exposed, strict=True)
        ]


def _pair(group: Group) -> Group:
    """Neighbours of a pipeline: two ranks, over the outermost level that the axis crosses."""
    crossing: list[Array] = []
    outer: Array = np.bool_(False)
    for r in reversed(group.ranks):
        here = (np.asarray(r) > 1) & ~outer
        crossing.append(np.where(here, 2, 1))
        outer = outer | (np.asarray(r) > 1)
    return group._replace(ranks=tuple(reversed(crossing)))


def total(costs: list[OpCost], phases: tuple[str, ...] | None = None) -> Times:
    """Seconds of a list of priced operations in the given phases (all by default)."""
    compute_s: Array = 0.0
    comm_s: Array = 0.0
    exposed_s: Array = 0.0
    # those that depend on every axis last: what is added before stays small
    for c in sorted(costs, key=lambda c: c.op.axis in SHARDED):
        if phases is not None and c.op.phase not in phases:
            continue
        if c.op.kind in COLLECTIVES:
            comm_s = comm_s + c.op.count * c.seconds
            exposed_s = exposed_s + c.exposed
        else:
            compute_s = compute_s + c.op.count * c.seconds
    return Times(compute_s, comm_s, exposed_s)


def values_of(costs: list[OpCost], value: Any) -> Array:
    result: Array = 0.0
    for c in costs:
        result = result + value(c) * c.op.count
    return result
