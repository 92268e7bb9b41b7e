"""Seconds of lists of operations: each priced once, counts and exposure included."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.clusters.load import Cluster
from meshwise.cost.collectives.collective import Priced, cheapest
from meshwise.cost.collectives.dispatch import dispatch_price
from meshwise.cost.collectives.fits import lent_levels
from meshwise.cost.kernels.compute import Compute
from meshwise.cost.overlap import SHARDED, exposed_ops_s
from meshwise.cost.sources import Source
from meshwise.layouts.layout import Layouts
from meshwise.layouts.placement import Group, alike
from meshwise.program.operations import COLLECTIVES, Kernel, Op
from meshwise.stacks.stack import Stack


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


class _Kinds(NamedTuple):
    """Columns of a last axis that are alike: the first of each kind, and the kind of every column."""

    first: Array
    kind: Array

    def few(self, value: Any) -> Any:
        """A value (arrays inside tuples too) with one column of each kind."""
        if isinstance(value, tuple):
            parts = [self.few(v) for v in value]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        if isinstance(value, np.ndarray) and value.ndim and value.shape[-1] == self.kind.size:
            return value[..., self.first]
        return value

    def spread(self, value: Array) -> Array:
        """Back to every column."""
        if np.ndim(value) and np.shape(value)[-1] == self.first.size:
            return value[..., self.kind]
        return value


class Columns:
    """Which columns of flat layouts have operations of the same shapes: products and kernels on a
    rank's tokens, products of the experts, collectives of a group."""

    def __init__(self, layout: Layouts) -> None:
        tokens = layout.micro_batch / layout.cp
        self.dense = _alike([layout.tp, layout.cp, layout.micro_batch])
        self.experts = _alike(
            [tokens * layout.expert_tp() / layout.tp, layout.ep, layout.expert_tp()]
        )
        self._tokens = [layout.tp, layout.cp, layout.ep, layout.etp, layout.micro_batch]
        self._groups: dict[str, _Kinds] = {}

    def group(self, axis: str, group: Group) -> _Kinds:
        """Columns whose group of an axis has the same ranks everywhere, and the same payloads."""
        known = self._groups.get(axis)
        if known is None:
            keys = [*self._tokens, *group.ranks, *group.active]
            known = self._groups[axis] = _alike(keys)
        return known


def _alike(keys: list[Array]) -> _Kinds:
    _, first, kind = np.unique(alike(keys), return_index=True, return_inverse=True)
    return _Kinds(first, kind)


class OpCost(NamedTuple):
    """One operation, priced: seconds per call, and for collectives which algorithm won."""

    op: Op
    seconds: Array
    exposed: Array  # of all its calls in its list
    priced: Priced | None
    source: Source


class KnownPrices(NamedTuple):
    """Seconds of operations that several steps of one model, device and stack have in common: products by
    their shapes, of any layouts; collectives by their payloads, of the same layouts."""

    products: dict[tuple[object, ...], Array]
    collectives: dict[tuple[object, ...], tuple[Array, Priced, Source]]


class OperationPricer:
    """Prices operations on a cluster under a stack for given groups.

    ``columns``: where the layouts' last axis is long, which of its columns are alike. ``collectives``: those
    whose price is known.
    """

    def __init__(
        self,
        compute: Compute,
        cluster: Cluster,
        stack: Stack,
        groups: dict[str, Group],
        columns: Columns | None = None,
        collectives: dict[tuple[object, ...], tuple[Array, Priced, Source]] | None = None,
    ) -> None:
        self.compute, self.cluster, self.stack, self.groups = compute, cluster, stack, groups
        self.columns = columns
        self._known = {} if collectives is None else collectives

    def _seconds(self, op: Op, apart: bool) -> Array:
        """Seconds of an operation that computes; a product's or kernel's of columns that have the
        same, once (a pass over memory is priced sooner than looked up)."""
        if self.columns is None or apart or op.kind == "elementwise":
            return self.compute.seconds(op)
        alike = self.columns.experts if op.kernel is Kernel.EXPERTS else self.columns.dense
        return alike.spread(self.compute.seconds(alike.few(op)))

    def _price(self, op: Op, apart: bool) -> Priced:
        group = self.groups[op.axis]
        if op.axis == "pp":  # stages exchange in pairs
            group = _pair(group)
        if self.columns is None or apart:
            return self._priced(op, op.payload_bytes, group)
        alike = self.columns.group(op.axis, group)
        payload, group = alike.few(op.payload_bytes), alike.few(group)
        found = self._priced(op, payload, group)
        return found._replace(
            seconds=alike.spread(found.seconds),
            wire_bytes=tuple(alike.spread(w) for w in found.wire_bytes),
            chosen=alike.spread(found.chosen),
        )

    def _priced(self, op: Op, payload: Array, group: Group) -> Priced:
        if op.copies is not None:
            return dispatch_price(payload, op.copies, group, self.cluster, self.stack)
        return cheapest(op.kind, payload, group, self.cluster, self.stack)

    def one(self, op: Op, *, apart: bool = False) -> tuple[Array, Priced | None, Source]:
        """(seconds per call, the algorithm if it is a collective, source); operations of the update
        (``apart``) depend on all of a column."""
        if op.kind not in COLLECTIVES:
            return self._seconds(op, apart), None, self.compute.source(op)
        # A layer's reductions are alike: each payload is priced once.
        payload = np.asarray(op.payload_bytes)
        key = (op.kind, op.axis, op.copies, payload.shape, payload.tobytes())
        found = self._known.get(key)
        if found is None:
            group = self.groups[op.axis]
            priced = self._price(op, apart)
            used = [s for s, r in zip(priced.sources, group.ranks, strict=True) if np.max(r) > 1]
            wait = 0.0 if self.stack.ideal else self.stack.host.collective_wait_s
            found = priced.seconds + wait, priced, (used or list(priced.sources))[-1]
            self._known[key] = found
        return found

    def inherited_share(self, cost: OpCost) -> Array:
        """Where an operation's seconds rest on constants of other hardware, or on shapes outside
        those measured, per layout: 0, 1, or more where these say less."""
        if cost.priced is not None:
            return lent_levels(cost.priced.lent, self.groups[cost.op.axis].ranks)
        inherited = bool(cost.source.inherited_by)
        return np.maximum(float(inherited), self.compute.extrapolated(cost.op))

    def ops(
        self,
        ops: list[Op],
        layout: Layouts,
        *,
        apart: bool = False,
        exchanges: Array | None = None,
    ) -> list[OpCost]:
        """Every operation priced, with its exposure (all of it where they run ``apart``);
        ``exchanges``: the share of microbatches whose exchange of tokens runs beside another's compute."""
        # What no layout of the mesh has costs nothing, and is not worth pricing.
        absent = (0.0, None, Source(""))
        priced = [self.one(op, apart=apart) if np.max(op.count) > 0 else absent for op in ops]
        seconds = [p[0] for p in priced]
        if apart:
            exposed = [op.count * s for op, s in zip(ops, seconds, strict=True)]
        else:
            exposed = exposed_ops_s(
                ops, seconds, self.stack, layout.tp, layout.decomposed, exchanges
            )
        return [
            OpCost(op, seconds, exp, how, source)
            for op, (seconds, how, source), exp in zip(ops, priced, exposed, strict=True)
        ]


def _pair(group: Group) -> Group:
    """Two stages of a pipeline: two ranks, over the outermost level that the axis crosses."""
    crossing: list[Array] = []
    outer: Array = np.bool_(False)
    for r in reversed(group.ranks):
        here = (np.asarray(r) > 1) & ~outer
        crossing.append(np.where(here, 2, 1))
        outer = outer | (np.asarray(r) > 1)
    return group._replace(ranks=tuple(reversed(crossing)))


def total_times(
    costs: list[OpCost], phases: tuple[str, ...] | None = None, *, hidden: bool = True
) -> Times:
    """Seconds of a list of priced operations, counts included, in the given phases (all by default).

    Without ``hidden``, which a search does not ask for, only the exposed part of communication is summed
    (``comm`` is 0).
    """
    compute_s: Array = 0.0
    comm_s: Array = 0.0
    exposed_s: Array = 0.0
    # those that depend on every axis last: what is added before stays small
    for c in sorted(costs, key=lambda c: c.op.axis in SHARDED):
        if phases is not None and c.op.phase not in phases:
            continue
        if c.op.kind in COLLECTIVES:
            if hidden:
                comm_s = comm_s + c.op.count * c.seconds
            exposed_s = exposed_s + c.exposed
        else:
            compute_s = compute_s + c.op.count * c.seconds
    return Times(compute_s, comm_s, exposed_s)


def sum_over_calls(costs: list[OpCost], value: Any) -> Array:
    """A ``value`` of each operation (per call, in its own unit) summed over all calls of a list."""
    result: Array = 0.0
    for c in costs:
        result = result + value(c) * c.op.count
    return result
