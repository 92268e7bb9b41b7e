"""Layouts of which a deployment of any size is made, and by averages how much one of them serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from meshwise.arrays import Array
from meshwise.clusters.load import Cluster
from meshwise.cost.memory.server import most_sequences
from meshwise.layouts.layout import Layouts
from meshwise.layouts.pins import Pins
from meshwise.models.shapes import Model
from meshwise.search.serving.plan import Limits, Server, beyond, some_columns
from meshwise.search.serving.space import serving_space
from meshwise.simulate.loads.arrivals import Arrivals
from meshwise.simulate.loads.traces import Trace
from meshwise.stacks.stack import Stack
from meshwise.workloads.serving import Serving

LOOKED_AT = ("memory", "ttft", "tpot", "request")  # codes by which what is legal is refused
_KEPT = len(LOOKED_AT)  # in place of such a code's index, of what is not refused
_BATCHES = 11  # 1, 2, 4 … 1,024 requests of a replica


class Units(NamedTuple):
    """Columns of layouts. Those of one replica (``joined`` False) serve side by side as often as there are
    GPUs; those whose experts join their replicas are a deployment of one size each."""

    layouts: Layouts
    joined: Array
    batch: Array  # requests in flight of a replica within the limits, at most; 0: none
    rate: Array  # requests/s of a replica with them
    illegal: dict[str, int]  # layouts that are not among them, by why
    # how far one request is beyond the limits, as a share; not one fits: infinite
    alone: Array = np.inf
    why: Array = _KEPT  # index of the code by which it is refused

    @property
    def size(self) -> int:
        return int(self.layouts.tp.size)

    @property
    def refused(self) -> dict[str, int]:
        """By each code."""
        counts = np.bincount(np.broadcast_to(self.why, self.size), minlength=_KEPT + 1)
        return self.illegal | dict(zip(LOOKED_AT, map(int, counts), strict=False))


def unit_sizes(cluster: Cluster, gpus: int, pins: Pins) -> list[int]:
    """GPUs of a unit: up to two nodes any number, then whole nodes; what pinned degrees multiply to besides."""
    node = cluster.node_devices
    sizes = {*range(1, min(2 * node, gpus) + 1), *range(node, gpus + 1, node)}
    tps, pps, dps = (pins.get(axis, (1,)) for axis in ("tp", "pp", "dp"))
    sizes |= {int(tp) * int(pp) * int(dp) for tp in tps for pp in pps for dp in dps}
    return sorted(n for n in sizes if n <= gpus)


def replicated(model: Model, cluster: Cluster, stack: Stack, gpus: int, pins: Pins) -> Units:
    """Units of one replica, all sizes; not looked at yet."""
    own = {axis: codes for axis, codes in pins.items() if axis != "dp"} | {"dp": (1,)}
    return _gathered(
        [serving_space(model, stack, n, own) for n in unit_sizes(cluster, gpus, pins)], False
    )


def joined(model: Model, stack: Stack, size: int, pins: Pins) -> Units:
    """Units of ``size`` GPUs whose experts join two replicas or more; not looked at yet."""
    layouts, refused = serving_space(model, stack, size, pins, joined=True)
    several = np.flatnonzero(np.broadcast_to(layouts.dp > 1, layouts.tp.shape))
    return _gathered([(some_columns(layouts, several), refused)], True)


def together(several: Sequence[Units]) -> Units:
    """All of them as one."""
    units = _gathered([(u.layouts, u.illegal) for u in several], False)
    return units._replace(joined=np.concatenate([u.joined for u in several]))


def apart(whole: Units, several: Sequence[Units]) -> list[Units]:
    """Each of ``several``, as it is among all of them."""
    found, first = [], 0
    for units in several:
        part = slice(first, first + units.size)
        first += units.size
        figures = (whole.batch, whole.rate, whole.alone, whole.why)
        batch, rate, alone, why = (np.broadcast_to(a, whole.size)[part] for a in figures)
        found.append(units._replace(batch=batch, rate=rate, alone=alone, why=why))
    return found


def _gathered(parts: list[tuple[Layouts, dict[str, int]]], together: bool) -> Units:
    refused: dict[str, int] = {}
    for _, counts in parts:
        for code, n in counts.items():
            refused[code] = refused.get(code, 0) + n
    layouts = Layouts(
        *(
            np.concatenate(values) if np.ndim(values[0]) else values[0]
            for values in zip(*(part[0] for part in parts), strict=True)
        )
    )
    size = layouts.tp.size
    none = np.zeros(size)
    return Units(layouts, np.full(size, together), none, none, refused)


def mean_lengths(w: Serving, coming: Arrivals | None = None) -> Serving:
    """The workload with prompts and answers of their mean lengths, all alike; of a trace its own."""
    if coming is not None and coming.trace is not None:
        tokens = {"isl": coming.trace.prompt, "osl": coming.trace.answer}
        means = {name: max(round(sum(n) / len(n)), 1) for name, n in tokens.items()}
        return msgspec.structs.replace(w, **means)
    mean = 1.0 - w.length_spread / 2.0
    return msgspec.structs.replace(
        w, isl=max(round(w.isl * mean), 1), osl=max(round(w.osl * mean), 1), image_tokens=0
    )


def _shortest(w: Serving, trace: Trace) -> Serving:
    """The workload with a trace's shortest lengths: no mean or percentile of it is below what one such request
    takes, while most of its requests may be far below the mean."""
    return msgspec.structs.replace(w, isl=min(trace.prompt), osl=min(trace.answer))


def looked_at(
    units: Units,
    model: Model,
    cluster: Cluster,
    stack: Stack,
    w: Serving,
    limits: Limits,
    coming: Arrivals | None = None,
) -> Units:
    """With what a replica serves within limits of the mean, by averages: between powers of two in flight.

    Refuses units that do not hold a request (``memory``) or meet no limit with one (``ttft``, ``tpot``,
    ``request``).
    """
    size, layouts = units.size, units.layouts
    if not size:
        return units
    server = Server(model, cluster, stack, mean_lengths(w, coming))
    alone = server.at(layouts, layouts.dp, False).steady
    room = np.minimum(alone.max_concurrency // layouts.dp, most_sequences(stack, cluster.device))
    if coming is not None and coming.trace is not None:
        shortest = _shortest(w, coming.trace)
        alone = Server(model, cluster, stack, shortest).at(layouts, layouts.dp, False).steady
    slow = beyond(alone, limits) > 0
    index = np.flatnonzero((room >= 1) & ~slow)
    why = np.full(size, _KEPT)
    for i, code in reversed([*enumerate(LOOKED_AT)][1:]):
        late = beyond(alone, Limits(**{f"{code}_s": getattr(limits, f"{code}_s")})) > 0
        why = np.where(slow & late, i, why)
    why = np.where(room < 1, 0, why)
    batch, served = np.zeros(size), np.zeros(size)
    if index.size:
        some = some_columns(layouts, index)
        batch[index], served[index] = _most(server, some, room[index], limits)
    over = np.where(room >= 1, beyond(alone, limits), np.inf)
    return Units(layouts, units.joined, batch, served, units.illegal, over, why)


def _most(server: Server, layouts: Layouts, room: Array, limits: Limits) -> tuple[Array, Array]:
    """(requests in flight, requests/s) of a replica where a limit or the room ends, read between powers of
    two."""
    size = layouts.tp.size
    steps = min(_BATCHES, int(np.ceil(np.log2(max(int(room.max()), 1)))) + 1)
    batches = np.minimum(1 << np.arange(steps + 1)[None, :], room[:, None])
    column = np.repeat(np.arange(size), steps + 1)
    some = some_columns(layouts, column)
    s = server.at(some, batches.ravel() * some.dp, False).steady
    over = beyond(s, limits).reshape(size, -1)
    rates = (s.requests_per_s / np.broadcast_to(some.dp, column.shape)).reshape(size, -1)
    # the last before a limit is passed, and the way to the next one
    past = over > 0
    first = np.where(past.any(axis=1), past.argmax(axis=1), steps + 1)
    last = np.maximum(first - 1, 0)
    following, row = np.minimum(last + 1, steps), np.arange(size)
    low, high = over[row, last], over[row, following]
    share = np.where(first <= steps, -low / np.where(high > low, high - low, 1.0), 0.0)

    def between(values: Array) -> Array:
        a, b = values[row, last], values[row, following]
        return a + np.clip(share, 0.0, 1.0) * (b - a)

    return between(batches.astype(np.float64)), between(rates)
