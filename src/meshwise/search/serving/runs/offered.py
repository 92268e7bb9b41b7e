"""Layouts under the load that is sent, by averages, and which of them comes nearest to its limits, by runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from meshwise.arrays import Array
from meshwise.cost.memory.server import most_sequences
from meshwise.cost.uncertainty import tpot_interval
from meshwise.layouts.layout import Layouts
from meshwise.search.serving.bisection import largest
from meshwise.search.serving.plan import (
    EVERY,
    Limits,
    PricedColumns,
    Server,
    beyond,
    least_beyond,
    some_columns,
    within,
)
from meshwise.search.serving.runs.trial import Trial, Trials
from meshwise.search.serving.runs.units import mean_lengths
from meshwise.simulate.loads.arrivals import Arrivals
from meshwise.simulate.server import may_be_overloaded

_DOUBT = 1.3  # what averages may overestimate a layout's use of its limits by
_RUN = 3  # of those that come nearest, by whole runs
_AS_MUCH = 1e-9  # a rate that is served, but for rounding


def at_the_rate(trials: Trials, layouts: Layouts, coming: Arrivals) -> PricedColumns:
    """Layouts that serve what arrives, by their averages with requests of the mean lengths. Of a closed loop
    they say how many requests/s so many in flight have: between the two whole numbers of a replica that have
    less and more than arrive, and with Little's law what is in flight at that. Those whose caches hold too
    few for the rate serve what they can, and do not fit."""
    t, dp = trials, layouts.dp
    w = mean_lengths(t.w, coming)
    server = Server(t.model, t.cluster, t.stack, w)
    alone = server.at(layouts, dp, False).steady
    room = np.minimum(alone.max_concurrency // dp, most_sequences(t.stack, t.cluster.device))
    if coming.trace is not None:
        room = np.minimum(room, -(-len(coming.trace.arrival) // dp))
    room = np.maximum(room, 1)
    rate = coming.rate

    def over(requests: Array, index: Array | slice = EVERY) -> Array:
        some = some_columns(layouts, index)
        return server.at(some, requests * some.dp, False).steady.requests_per_s / rate - 1.0

    first = np.ones_like(room)
    low = largest(first, np.where(alone.requests_per_s <= rate, room, first), over)
    size = layouts.tp.size
    twice = np.tile(np.arange(size), 2)
    flights = np.concatenate([low, np.minimum(low + 1, room)]) * np.tile(dp, 2)
    ends = server.at(some_columns(layouts, twice), flights).steady
    less_per_s, more_per_s = ends.requests_per_s[:size], ends.requests_per_s[size:]
    gap = more_per_s - less_per_s
    part = (rate - less_per_s) / np.where(gap > 0.0, gap, 1.0)
    part = np.where(gap > 0.0, np.clip(part, 0.0, 1.0), 0.0)

    def between(name: str) -> Array:
        a, b = getattr(ends, name)[:size], getattr(ends, name)[size:]
        return a + part * (b - a)

    tpot, ttft, sd, even = map(between, ("tpot_s", "ttft_s", "sd", "even_s"))
    most = np.maximum(less_per_s, more_per_s)
    served = np.minimum(rate, most)
    running = served * (ttft + (w.osl - 1) * tpot)
    flights = np.maximum(np.ceil(running), dp).astype(np.int64)
    held = Server(t.model, t.cluster, t.stack, t.w).at(layouts, flights).steady
    steady = held._replace(
        tpot_s=tpot,
        ttft_s=ttft,
        queue_s=np.zeros_like(tpot),
        requests_per_s=served,
        tokens_per_s=served * w.osl,
        tokens_per_s_per_device=served * w.osl / layouts.devices,
        running=running,
        fits=most >= rate * (1.0 - _AS_MUCH),
        even_s=even,
        sd=sd,
    )
    bounds = tpot_interval(tpot, t.stack, sd, even)
    return PricedColumns(layouts, flights, steady, *bounds, w.osl)


def averages(trials: Trials, layouts: Layouts, limits: Limits) -> tuple[PricedColumns, list[int]]:
    """Layouts under the load that is sent, and which of them to show: of arrivals those that serve them within
    the limits."""
    t, coming = trials, trials.sent.arrivals
    if coming is None:
        flights = np.full(layouts.tp.size, t.w.concurrency)
        table = Server(t.model, t.cluster, t.stack, t.w).at(layouts, flights)
        return table, list(range(layouts.tp.size))
    table = at_the_rate(t, layouts, coming)
    return table, np.flatnonzero(table.steady.fits & within(table.steady, limits)).tolist()


def _excess(trials: Trials, layouts: Layouts, limits: Limits) -> Array:
    """How far each layout is beyond the worst of the limits under the load that is sent, as a share, or more
    requests arrive than it serves; infinite where not one request fits."""
    t, coming = trials, trials.sent.arrivals
    if coming is not None:
        s = at_the_rate(t, layouts, coming).steady
        late = np.where(s.fits, -1.0, coming.rate / s.requests_per_s - 1.0)
        over = beyond(s, limits)
        # a trace ends: it is served, whatever its rate
        over = over if coming.trace is not None else np.maximum(over, late)
    else:
        server = Server(t.model, t.cluster, t.stack, mean_lengths(t.w))
        s = server.at(layouts, np.full(layouts.tp.size, t.w.concurrency), False).steady
        over = beyond(s, limits)
        s = Server(t.model, t.cluster, t.stack, t.w).at(layouts, layouts.dp, False).steady
    return np.where(s.max_concurrency >= layouts.dp, over, np.inf)


def near_limits(
    trials: Trials, layouts: Layouts, limits: Limits, at: Callable[[int, bool], Trial]
) -> dict[int, Trial]:
    """Of columns that come nearest to their limits under the load that is sent whole runs, ``at`` a column,
    short or whole: averages choose some of each kind, short runs of them the ones to run. Where more arrives
    than is served, the latency of a run says how long it was: what is served then tells which is nearest."""
    over = _excess(trials, layouts, limits)
    coming = trials.sent.arrivals
    short: list[
        tuple[bool, float, int]
    ] = []  # whether more arrives than is served; by how much, or of limits the worst; which
    for i in least_beyond(layouts, over):
        if not short or 1.0 + over[i] <= _DOUBT * min(short)[1]:
            trial = at(i, True)
            late = 0.0
            if coming is not None and may_be_overloaded(trial.run):
                late = coming.rate / trials.most_per_s(trial.layout, few=True)
            short.append((True, late, i) if late >= 1.0 else (False, trial.used, i))
    return {i: at(i, False) for _, _, i in sorted(short)[:_RUN]}


def nearest_run(trials: Trials, tried: Sequence[Trial]) -> Trial | None:
    """Of runs under the load that is sent the one that is beyond its limits by the least; of those that serve
    what arrives, if one does."""
    near = min(tried, key=lambda t: t.used, default=None)
    coming = trials.sent.arrivals
    if near is None or coming is None or not may_be_overloaded(near.run):
        return near
    served = {t.layout: trials.most_per_s(t.layout, few=True) for t in tried}
    enough = [t for t in tried if served[t.layout] > coming.rate]
    if enough:  # limits are missed, not the rate
        return min(enough, key=lambda t: t.used)
    most = max(tried, key=lambda t: served[t.layout])
    return most._replace(most_per_s=served[most.layout])
