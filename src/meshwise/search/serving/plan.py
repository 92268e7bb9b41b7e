"""The best serving layout of a number of GPUs: at a concurrency, or under limits of latency."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.axes import SERVES
from meshwise.clusters.load import Cluster
from meshwise.cost.memory.server import most_sequences
from meshwise.cost.uncertainty import tpot_interval
from meshwise.layouts.layout import Layout, Layouts
from meshwise.layouts.pins import Pins
from meshwise.models.shapes import Model
from meshwise.search.serving.bisection import largest
from meshwise.search.serving.space import serving_space
from meshwise.search.serving.steady_state import Steady, steady
from meshwise.simulate.iteration import Engine
from meshwise.simulate.rules import together_at_most
from meshwise.simulate.server import Simulated
from meshwise.stacks.stack import Stack
from meshwise.workloads.serving import Serving

SERVING_OBJECTIVES = ("throughput", "latency", "cost")
SERVING_CHUNK = 4096  # layouts priced at a time
EVERY = slice(None)
_OF_A_KIND = 3  # of a kind, of those that come nearest to limits
LADDER = 12  # doublings of a replica's batch that the front is made of


class Limits(NamedTuple):
    """The longest time to first token, per output token and of a whole request, in the mean; None: no limit
    [s]."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    request_s: float | None = None


class Good(NamedTuple):
    """Shares of requests, and of their answers' tokens, that are within every limit: goodput over
    throughput."""

    requests: float = 1.0
    tokens: float = 1.0


class ServingRow(NamedTuple):
    """A layout with what it serves at its concurrency. Seconds, bytes, tokens."""

    layout: Layout
    devices: int
    concurrency: int
    tpot_s: float
    tpot_low_s: float
    tpot_high_s: float
    ttft_s: float
    request_s: float
    tokens_per_s: float
    tokens_per_s_per_device: float
    requests_per_s: float
    memory_bytes: float
    max_concurrency: int
    fits: bool
    tight: bool
    run: Simulated | None = None  # of which the times and rates are; None: of averages
    good: Good | None = None  # of a run under limits: shares within them


class ServingPlan(NamedTuple):
    """The answer of ``plan`` for serving."""

    model: Model
    cluster: Cluster
    stack: Stack
    workload: Serving
    limits: Limits
    gpus: int
    objective: str
    rows: tuple[ServingRow, ...]  # the best first
    pareto: tuple[ServingRow, ...]  # tokens/s per GPU against TPOT, over layouts and concurrencies
    rivals: tuple[tuple[str, ServingRow], ...]
    rule_of_thumb: ServingRow | None
    roomy: ServingRow | None  # the best that is not tight, where the best is
    refused: dict[str, int]
    enumerated: int
    feasible: int
    partial: bool
    reached: tuple[
        ServingRow, ...
    ]  # of limits: with one request a replica, the nearest to them first
    averaged: ServingRow | None = None  # the best, where it is simulated: the same by averages


class PricedColumns(NamedTuple):
    """Columns with their figures at a concurrency each."""

    layouts: Layouts
    concurrency: Array
    steady: Steady
    low: Array
    high: Array
    osl: int  # tokens of an answer, by which a request's time is counted


class Server:
    """Prices columns of layouts for a workload."""

    def __init__(self, model: Model, cluster: Cluster, stack: Stack, w: Serving) -> None:
        self.model, self.cluster, self.stack, self.w = model, cluster, stack, w

    def at(self, layouts: Layouts, concurrency: Array, doubted: bool = True) -> PricedColumns:
        """Steady state of every column at its concurrency; not ``doubted``: without its interval."""
        size = layouts.tp.size
        pieces = []
        for first in range(0, max(size, 1), SERVING_CHUNK):
            part = slice(first, first + SERVING_CHUNK)
            some = some_columns(layouts, part)
            at = np.asarray(concurrency)[part]
            s = steady(self.model, self.cluster, self.stack, some, self.w, at, doubted)
            pieces.append(_flat(s, some.tp.size))
        whole = Steady._make(
            np.concatenate([p[i] for p in pieces]) if np.ndim(pieces[0][i]) else pieces[0][i]
            for i in range(len(Steady._fields))
        )
        low, high = tpot_interval(whole.tpot_s, self.stack, whole.sd, whole.even_s)
        return PricedColumns(layouts, np.asarray(concurrency), whole, low, high, self.w.osl)

    def most(self, layouts: Layouts, limits: Limits) -> tuple[Array, Array]:
        """(the largest concurrency of each column within the limits and its KV cache, 0 where there is
        none; what a single request of each replica meets).

        By a search of the requests per replica: more in flight never shortens a step. Where prompts go
        first, the time to the first token falls where they need a batch more, and rises in between: the
        limit may be met again from the next such number on, not from the one after it.
        """
        dp, pp = layouts.dp, layouts.pp

        def over(requests: Array, index: Array | slice = EVERY) -> Array:
            some = some_columns(layouts, index)
            found = self.at(some, np.maximum(requests, 1) * some.dp, False)
            return beyond(found.steady, limits)

        alone = self.at(layouts, dp, False)
        possible, room = within(alone.steady, limits), alone.steady.max_concurrency // dp
        room = np.minimum(room, most_sequences(self.stack, self.cluster.device))
        first = np.where((room >= 1) & possible, 1, 0)
        low = largest(first, np.where(first > 0, room, 0), over)
        batch = pp * together_at_most(Engine(self.model, self.cluster, self.stack, layouts), self.w)
        waits = limits.ttft_s is not None and not self.stack.scheduler.mixes_prefill
        if waits and np.any(batch > pp):
            end = -(-(low + 1) // batch) * batch
            again = (low > 0) & (end < room) & (over(end + 1) <= 0)
            last = np.minimum(end + batch, room)
            low = largest(np.where(again, end + 1, low), np.where(again, last, low), over)
        return low * dp, possible


def _flat(s: Steady, size: int) -> Steady:
    return Steady._make(
        value if name == "tokens_per_iteration" else np.broadcast_to(np.asarray(value), (size,))
        for name, value in zip(Steady._fields, s, strict=True)
    )


def some_columns(layouts: Layouts, index: Any) -> Layouts:
    """Some of the columns; what is one value for all stays."""
    return Layouts(*(a[index] if np.ndim(a) else a for a in layouts))


def beyond(s: Steady, limits: Limits) -> Array:
    """How far the worst of the times is beyond its limit, as a share of it; at most 0 within both."""
    over = np.full(np.shape(s.tpot_s), -1.0)
    if limits.ttft_s is not None:
        over = np.maximum(over, (s.ttft_s + s.queue_s - limits.ttft_s) / limits.ttft_s)
    if limits.tpot_s is not None:
        over = np.maximum(over, (s.tpot_s - limits.tpot_s) / limits.tpot_s)
    if limits.request_s is not None:
        request = s.queue_s + s.running / s.requests_per_s
        over = np.maximum(over, (request - limits.request_s) / limits.request_s)
    return over


def within(s: Steady, limits: Limits) -> Array:
    return beyond(s, limits) <= 0


def row_at(t: PricedColumns, i: int) -> ServingRow:
    s, layout = t.steady, t.layouts.at(i, SERVES)
    paced = float(t.osl > 1)  # an answer of one token has no time per token after it
    return ServingRow(
        layout=layout,
        devices=layout.devices,
        concurrency=int(t.concurrency[i]),
        tpot_s=paced * float(s.tpot_s[i]),
        tpot_low_s=paced * float(t.low[i]),
        tpot_high_s=paced * float(t.high[i]),
        ttft_s=float(s.ttft_s[i]),
        request_s=float(s.queue_s[i] + s.ttft_s[i] + (t.osl - 1) * s.tpot_s[i]),
        tokens_per_s=float(s.tokens_per_s[i]),
        tokens_per_s_per_device=float(s.tokens_per_s_per_device[i]),
        requests_per_s=float(s.requests_per_s[i]),
        memory_bytes=float(s.memory_bytes[i]),
        max_concurrency=int(s.max_concurrency[i]),
        fits=bool(s.fits[i]),
        tight=bool(s.tight[i]),
    )


def plan_serving(
    model: Model,
    cluster: Cluster,
    stack: Stack,
    w: Serving,
    gpus: int,
    pins: Pins,
    *,
    limits: Limits | None = None,
    objective: str = "throughput",
    top: int = 10,
    priced: Callable[[Layouts], PricedColumns] | None = None,
) -> ServingPlan:
    """Every legal layout of ``gpus`` devices. Without limits each serves the workload's concurrency, or
    is ``priced`` at a load of its own; with limits each the most requests in flight that meet them and that its
    caches hold."""
    asked = limits or Limits()
    bounded = limits is not None
    replicas = None if bounded else w.concurrency
    layouts, refused = serving_space(model, stack, gpus, pins, replicas=replicas)
    server = Server(model, cluster, stack, w)
    size = layouts.tp.size
    enumerated = size + sum(refused.values())
    if not size:
        return _answer(server, gpus, asked, objective, refused, enumerated, None, [], top, ())
    if bounded:
        concurrency, possible = server.most(layouts, asked)
        alone = server.at(layouts, layouts.dp)
        roomy = alone.steady.max_concurrency >= layouts.dp
        refused["memory"] += int(np.sum(~roomy))
        slow_first = np.zeros(size, dtype=bool)
        if asked.ttft_s is not None:
            slow_first = roomy & (alone.steady.ttft_s > asked.ttft_s)
        refused["ttft"] += int(np.sum(slow_first))
        slow = roomy & ~possible & ~slow_first
        slow_next = slow.copy()
        if asked.tpot_s is not None:
            slow_next &= alone.steady.tpot_s > asked.tpot_s
        elif asked.request_s is not None:
            slow_next[:] = False
        refused["tpot"] += int(np.sum(slow_next))
        refused["request"] += int(np.sum(slow & ~slow_next))
        table = server.at(layouts, np.maximum(concurrency, layouts.dp))
        good = concurrency > 0
        over = np.where(roomy, beyond(alone.steady, asked), np.inf)
        reached = tuple(row_at(alone, i) for i in least_beyond(layouts, over))
    else:
        every = np.full(size, w.concurrency)
        table = server.at(layouts, every) if priced is None else priced(layouts)
        roomy = table.steady.max_concurrency >= layouts.dp
        good = roomy & table.steady.fits
        if priced is not None and not good.any():  # averages are no runs, which decide
            good = roomy
        refused["memory"] += int(np.sum(~roomy))
        refused["capacity"] += int(np.sum(roomy & ~good))
        reached = ()
    order = best_first(table, good, objective)
    return _answer(server, gpus, asked, objective, refused, enumerated, table, order, top, reached)


def best_first(t: PricedColumns, good: Array, objective: str) -> list[int]:
    """Indices of the feasible columns, the best first."""
    s, lay = t.steady, t.layouts
    request = s.queue_s + s.ttft_s + (t.osl - 1) * s.tpot_s
    keys = (request, s.tpot_s) if objective == "latency" else (-s.tokens_per_s_per_device, s.tpot_s)
    simple = (lay.etp, lay.dcp, lay.ep, lay.pp)
    order = np.lexsort((*simple, *reversed(keys)))
    return [int(i) for i in order[good[order]]]


def least_beyond(layouts: Layouts, over: Array) -> list[int]:
    """Columns that are ``over`` by the least, the first of all first: some of each kind, as averages err by
    kind (experts that join replicas or not, a pipeline or not). Not those of which it is infinite."""
    kind = 2 * (layouts.ep * np.maximum(layouts.etp, 1) > layouts.tp) + (layouts.pp > 1)
    kinds = np.broadcast_to(kind, over.shape)
    simple = (layouts.etp, layouts.dcp, layouts.ep, layouts.pp)
    found: list[int] = []
    taken = [0] * 4
    for i in np.lexsort((*(np.broadcast_to(a, over.shape) for a in simple), over)).tolist():
        if not np.isfinite(over[i]) or min(taken) >= _OF_A_KIND:
            break
        if taken[kinds[i]] < _OF_A_KIND:
            taken[kinds[i]] += 1
            found.append(i)
    return found


def _answer(
    server: Server,
    gpus: int,
    limits: Limits,
    objective: str,
    refused: dict[str, int],
    enumerated: int,
    table: PricedColumns | None,
    order: list[int],
    top: int,
    reached: tuple[ServingRow, ...],
) -> ServingPlan:
    rows = [row_at(table, i) for i in order[:top]] if table is not None else []
    front: list[ServingRow] = []
    rivals: list[tuple[str, ServingRow]] = []
    thumb = roomy = None
    if table is not None and rows:
        front = _front(server, some_columns(table.layouts, np.array(order)))
        rivals = _rivals(table, order, rows[0])
        thumb = _thumb(table, order, server.cluster)
        other = next((i for i in order if not table.steady.tight[i]), None)
        if rows[0].tight and other is not None:
            roomy = row_at(table, other)
    return ServingPlan(
        model=server.model,
        cluster=server.cluster,
        stack=server.stack,
        workload=server.w,
        limits=limits,
        gpus=gpus,
        objective=objective,
        rows=tuple(rows),
        pareto=tuple(front),
        rivals=tuple(rivals),
        rule_of_thumb=thumb,
        roomy=roomy,
        refused=refused,
        enumerated=enumerated,
        feasible=len(order),
        partial=False,
        reached=reached,
    )


def _rivals(t: PricedColumns, order: list[int], best: ServingRow) -> list[tuple[str, ServingRow]]:
    """For each axis the best layout with another value of it."""
    found = []
    for axis in SERVES:
        values = getattr(t.layouts, axis)
        other = next((i for i in order if int(values[i]) != best.layout.code(axis)), None)
        if other is not None:
            found.append((axis, row_at(t, other)))
    return found


def _thumb(t: PricedColumns, order: list[int], cluster: Cluster) -> ServingRow | None:
    """The rule of thumb: the smallest TP degree inside a node on which it is feasible, no pipeline,
    replicas for the rest, experts within TP."""
    lay = t.layouts
    plain = [
        i
        for i in order
        if lay.pp[i] == 1
        and cluster.node_devices % int(lay.tp[i]) == 0
        and lay.dcp[i] == 1
        and lay.ep[i] == 1
        and lay.etp[i] in (0, lay.tp[i])
    ]
    return row_at(t, min(plain, key=lambda i: int(lay.tp[i]))) if plain else None


def _front(server: Server, layouts: Layouts) -> list[ServingRow]:
    """Layouts with a batch per replica of 1, 2, 4 …, of which no other has both less time per token
    and more tokens/s per GPU."""
    dp, size = layouts.dp, layouts.tp.size
    found: list[tuple[Array, Array, Array, Array]] = []  # time, rate, column, doubling
    index = np.arange(size)
    for some in (range(LADDER // 2), range(LADDER // 2, LADDER)):
        # several doublings at a time: what prices an array takes little longer for a larger one
        column, doubling = (a.ravel() for a in np.meshgrid(index, np.array(some), indexing="ij"))
        columns = some_columns(layouts, column)
        s = server.at(columns, columns.dp << doubling, False).steady
        good = np.flatnonzero(s.fits)
        if not good.size:
            break
        found.append(
            (s.tpot_s[good], s.tokens_per_s_per_device[good], column[good], doubling[good])
        )
        index = np.unique(column[good])
    if not found:
        return []
    time, rate, column, doubling = (np.concatenate(part) for part in zip(*found, strict=True))
    kept, most = [], 0.0
    for i in np.lexsort((-rate, time)).tolist():
        if rate[i] > most:
            kept.append(i)
            most = float(rate[i])
    chosen = np.array(kept)
    t = server.at(some_columns(layouts, column[chosen]), dp[column[chosen]] << doubling[chosen])
    return [row_at(t, i) for i in range(len(kept))]
