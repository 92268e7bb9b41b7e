"""The fewest GPUs that serve a load within limits of latency: units side by side, simulated."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from meshwise.axes import SERVES
from meshwise.layouts.layout import Layout, columns
from meshwise.layouts.pins import Pins
from meshwise.search.serving.plan import Limits
from meshwise.search.serving.runs.offered import near_limits, nearest_run
from meshwise.search.serving.runs.trial import Trial, Trials
from meshwise.search.serving.runs.units import (
    LOOKED_AT,
    Units,
    apart,
    joined,
    looked_at,
    replicated,
    together,
    unit_sizes,
)

_DOUBT = 1.3  # what averages may underestimate a layout by
_SURE = 1.25  # a short run that misses its limits by this factor needs no whole one
_LEVEL = 1.05  # the same of arrivals, for a unit that could at most come level with the best
_FAR = 1.5  # a miss by which relatives of a layout are not tried
MOST_UNITS = 12  # units of one replica that are simulated, and as many whose experts join several
_SIZES = 16  # of units whose experts join replicas, that are looked at together
MOST_NEAR = 3  # of the fewest GPUs, beside the best; and of one size whose replicas experts join


class Unit(NamedTuple):
    """A unit: its layout with one replica (joined: with its own), its GPUs, and how many of it the load
    needs by averages; more than one only where nothing joins its replicas."""

    layout: Layout
    devices: int
    need: float
    joined: bool

    @property
    def gpus(self) -> float:
        """What the load needs, if a part of a unit could be had."""
        return self.devices * self.need


class Sized(NamedTuple):
    """A unit with the fewest replicas that serve the load."""

    candidate: Unit
    met: Trial
    below: Trial | None  # with one fewer, which does not


class Fewest(NamedTuple):
    """The answer: ``found`` simulated, the fewest GPUs first; ``others`` by averages, with the GPUs that
    they need at least; where nothing is found ``nearest``, that misses by the least."""

    found: tuple[Sized, ...]
    others: tuple[Layout, ...]  # with their replicas
    nearest: Trial | None
    smaller: Trial | None  # of fewer GPUs than the best, what misses by the least
    refused: dict[str, int]
    enumerated: int
    feasible: int


def _order(one: Sized) -> tuple[float, ...]:
    """Fewest GPUs first; of as many the one with the most room under its limits."""
    return one.met.layout.devices, one.met.used, one.met.run.steady.request_s.mean


class FewestGpus:
    """The search for one load: arrivals, or requests in flight that are split over the replicas evenly."""

    def __init__(self, trials: Trials, gpus: int, pins: Pins, limits: Limits) -> None:
        self.trials, self.gpus, self.pins, self.limits = trials, gpus, pins, limits
        coming = trials.sent.arrivals
        self.rate = None if coming is None else coming.rate
        # which ends: whatever its rate, a run of it says whether it is served
        self.trace = None if coming is None else coming.trace
        self.flight = trials.w.concurrency
        self.doubt = _DOUBT
        self._known: dict[tuple[Layout, bool], Trial] = {}
        self.failed: dict[Layout, int] = {}  # unit → the most replicas that are known not to do
        self.tried = {False: 0, True: 0}  # by whether experts join their replicas
        self._far: set[tuple[int, ...]] = set()  # (tp, pp, dp of a unit) that miss by far
        self._long: dict[int, int] = {}  # tp → stages with which a token takes too long by far

    # -- units -------------------------------------------------------------------------------------

    def _looked_at(self, units: Units) -> Units:
        t = self.trials
        coming = t.sent.arrivals
        return looked_at(units, t.model, t.cluster, t.stack, t.w, self.limits, coming)

    def _candidates(self, units: Units) -> list[Unit]:
        found = []
        for i in range(units.size):
            batch, rate = float(units.batch[i]), float(units.rate[i])
            if batch <= 0.0 or rate <= 0.0:
                continue
            layout = units.layouts.at(i, SERVES)
            need = self._need(batch, rate)
            if units.joined[i]:
                need /= layout.dp
            found.append(Unit(layout, layout.devices, need, bool(units.joined[i])))
        return sorted(found, key=lambda c: (c.gpus, c.devices))

    def _need(self, batch: float, rate: float) -> float:
        """Replicas of so many requests in flight, and requests/s, that the load needs."""
        if self.trace is not None:  # what a replica does until its last request ends
            return len(self.trace.arrival) / (self.trace.arrival[-1] * rate + batch)
        return self.flight / batch if self.rate is None else self.rate / rate

    def _most(self, c: Unit, gpus: int) -> int:
        """Replicas on so many GPUs, not more than requests may be in flight at once."""
        if c.joined:
            return 1 if c.devices <= gpus and c.layout.dp <= self.flight else 0
        return min(gpus // c.devices, self.flight)

    def _allowed(self, c: Unit, most: int) -> list[int]:
        """Numbers of replicas that pins leave."""
        asked = self.pins.get("dp")
        if asked is None or c.joined:
            return list(range(1, most + 1))
        return sorted(n for n in asked if n <= most)

    # -- one unit ----------------------------------------------------------------------------------

    def _with(self, c: Unit, replicas: int) -> Layout:
        return c.layout if c.joined else msgspec.structs.replace(c.layout, dp=replicas)

    def _at(self, c: Unit, replicas: int, few: bool = False) -> Trial:
        layout = self._with(c, replicas)
        few = few and self.trace is None  # of a trace there is no short run
        key = layout, few
        if key not in self._known:
            flight = None if self.rate is not None else self.flight
            self._known[key] = self.trials.at(layout, concurrency=flight, few=few)
        return self._known[key]

    def sized(self, c: Unit, gpus: int, *, first: bool = True) -> Sized | None:
        """The fewest replicas on at most so many GPUs, by short runs and at last by whole ones; None
        where all of them do not do. Not the ``first`` unit that does: that one replica fewer does not is
        left to a short run."""
        numbers = self._allowed(c, self._most(c, gpus))
        if not numbers:
            return None
        low, high = -1, len(numbers)  # indices: does not do, does
        at = min(sum(n < c.need for n in numbers), high - 1)
        step = 1
        while high - low > 1:
            if self._at(c, numbers[at], few=True).met:
                high = at
                at = max(low + 1, at - step) if low < 0 else (low + high) // 2
            else:
                low = at
                at = min(high - 1, at + step) if high == len(numbers) else (low + high) // 2
            step *= 2
        at = min(high, len(numbers) - 1)
        below = None
        while not self._at(c, numbers[at]).met:
            below = self._at(c, numbers[at])
            at += 1
            if at == len(numbers):
                self._missed(c, numbers[-1], below)
                return None
        while below is None and at > 0:
            less = self._at(c, numbers[at - 1], few=True)
            if less.met or (first and less.used < _SURE):
                less = self._at(c, numbers[at - 1])
            if less.met:
                at -= 1
            else:
                below = less
        if at > 0:
            self.failed[c.layout] = numbers[at - 1]
        return Sized(c, self._at(c, numbers[at]), below)

    def does(self, c: Unit, gpus: int) -> bool:
        """Whether a unit may serve the load on as many GPUs as the best, by a short run. Of arrivals it begins
        with an empty server, and flatters: who misses a limit could at most come level with the best. Of a
        closed loop it begins with all requests at once."""
        numbers = self._allowed(c, self._most(c, gpus))
        if not numbers:
            return False
        trial = self._at(c, numbers[-1], few=True)
        if trial.used <= (_SURE if self.rate is None else _LEVEL):
            return True
        self._missed(c, numbers[-1], trial)
        return False

    def _missed(self, c: Unit, replicas: int, trial: Trial) -> None:
        """Keep in mind that a unit does not do on all the GPUs that it may have."""
        self.failed[c.layout] = replicas
        if trial.used > _FAR:
            one = c.layout
            self._far.add((one.tp, one.pp, one.dp))
            if trial.binding is not None and trial.binding.quantity == "tpot":
                self._long[one.tp] = min(self._long.get(one.tp, one.pp), one.pp)

    def _hopeless(self, c: Unit) -> bool:
        """Whether a relative missed by far: another grid of experts of the same degrees, or as many stages of
        the same width, where the time per token was too long."""
        one = c.layout
        longer = one.pp >= self._long.get(one.tp, one.pp + 1) and one.pp > 1
        return (one.tp, one.pp, one.dp) in self._far or longer

    def least(self, c: Unit) -> int:
        """GPUs that a unit needs at least, as far as is known."""
        some = c.joined or self.trace is not None
        replicas = 1 if some else max(math.ceil(c.need / self.doubt), 1)
        known = self.failed.get(c.layout, 0)
        return c.devices * max(replicas, known + 1)

    # -- all of them -------------------------------------------------------------------------------

    def search(self) -> Fewest:
        t = self.trials
        units = self._looked_at(replicated(t.model, t.cluster, t.stack, self.gpus, self.pins))
        candidates, every = self._candidates(units), [units]
        refused, enumerated = dict(units.refused), units.size
        found: list[Sized] = []
        self._smallest(candidates, found)
        if any(block.moe is not None for block in t.model.blocks):
            for size, more in self._joined(found):
                if found and size > found[0].met.layout.devices:
                    break
                enumerated += more.size
                every.append(more)
                for code, n in more.refused.items():
                    refused[code] = refused.get(code, 0) + n
                mine = self._candidates(more)
                candidates += mine
                enough = [c for c in mine if self.trace or c.need <= self.doubt]
                self._smallest(enough[: 2 * MOST_NEAR], found)
        candidates.sort(key=lambda c: (c.gpus, c.devices))
        if found:
            self._fewer(candidates, found)
        near = None if found else self._nearest(every, found)
        seen = {s.candidate.layout for s in found}
        others = [c for c in candidates if c.layout not in seen and not self._hopeless(c)]
        return Fewest(
            tuple(found),
            tuple(self._others(others, found[0].met.layout.devices)) if found else (),
            near,
            self._smaller(found[0].met.layout.devices) if found else None,
            refused,
            enumerated + sum(n for code, n in refused.items() if code not in LOOKED_AT),
            len(candidates),
        )

    def _joined(self, found: list[Sized]) -> Iterator[tuple[int, Units]]:
        """Units whose experts join replicas, of each number of GPUs up to those of the best. What prices them
        takes as long for several numbers as for one."""
        t = self.trials
        sizes = unit_sizes(t.cluster, self.gpus, self.pins)
        for first in range(0, len(sizes), _SIZES):
            best = found[0].met.layout.devices if found else self.gpus
            some = [size for size in sizes[first : first + _SIZES] if size <= best]
            if some:
                units = [joined(t.model, t.stack, size, self.pins) for size in some]
                yield from zip(some, apart(self._looked_at(together(units)), units), strict=True)

    def _smallest(self, candidates: list[Unit], found: list[Sized]) -> None:
        """Put into ``found`` those of the fewest GPUs, and some that come near, in their order."""
        for c in candidates:
            best = found[0].met.layout.devices if found else self.gpus
            least = self.least(c)
            if least > best or self._hopeless(c) or self.tried[c.joined] >= MOST_UNITS:
                continue
            self.tried[c.joined] += 1
            if found:
                ties = sum(s.met.layout.devices == best for s in found)
                if (least == best and ties > MOST_NEAR) or not self.does(c, best):
                    continue
            sized = self.sized(c, best, first=not found)
            if sized is not None and found and sized.met.layout.devices < best:
                sized = self.sized(c, best)  # the best so far: as sure as the first one
            if sized is None:
                continue
            if not found:  # how much more than averages say one unit does
                replicas = sized.met.layout.dp if not c.joined else 1
                self.doubt = min(max(1.1 * c.need / max(replicas - 0.5, 0.5), 1.1), _DOUBT)
            found.append(sized)
            found.sort(key=_order)

    def first(self) -> Trial | None:
        """Some layout that serves the load, of as few GPUs as the first unit that does; a short answer to how
        many it takes."""
        t = self.trials
        units = self._looked_at(replicated(t.model, t.cluster, t.stack, self.gpus, self.pins))
        for c in self._candidates(units)[:MOST_NEAR]:
            sized = self.sized(c, self.gpus)
            if sized is not None:
                return sized.met
        return None

    def _fewer(self, candidates: list[Unit], found: list[Sized]) -> None:
        """Where no run shows why fewer GPUs than the best's do not do, run what needs the fewest by averages
        on as many as may be had; what does all the same is the best then."""
        best = found[0].met.layout.devices
        if found[0].below is not None or self._smaller(best) is not None:
            return
        fitting = [c for c in candidates if self._allowed(c, self._most(c, best - 1))]
        for c in fitting[:MOST_NEAR]:
            sized = self.sized(c, found[0].met.layout.devices - 1)
            if sized is not None:
                found.insert(0, sized)

    def _smaller(self, devices: int) -> Trial | None:
        tried = [t for t in self._known.values() if not t.met and t.layout.devices < devices]
        return min(tried, key=lambda t: t.used, default=None)

    def _nearest(self, every: list[Units], found: list[Sized]) -> Trial | None:
        """Of all units, each on as many GPUs as it may have, the run that misses the limits by the least:
        averages choose some of each kind, short runs the ones to run. What serves the load after all is put
        into ``found``."""
        units: list[Unit] = []
        for some in every:
            for i in range(some.size):
                layout = some.layouts.at(i, SERVES)
                units.append(Unit(layout, layout.devices, 1.0, bool(some.joined[i])))
        fitting = [(c, n[-1]) for c in units if (n := self._allowed(c, self._most(c, self.gpus)))]
        if not fitting:
            return None
        layouts = columns([self._with(c, replicas) for c, replicas in fitting])
        tried = near_limits(
            self.trials, layouts, self.limits, lambda i, few: self._at(*fitting[i], few=few)
        )
        for i in (i for i, trial in tried.items() if trial.met):
            sized = self.sized(fitting[i][0], self.gpus)
            if sized is not None:
                found.append(sized)
                found.sort(key=_order)
        return None if found else nearest_run(self.trials, list(tried.values()))

    def _others(self, candidates: list[Unit], least: int) -> list[Layout]:
        """Layouts by averages, with the replicas that they need; not those that averages alone say to do with
        fewer GPUs than the best."""
        rows = []
        for c in candidates:
            enough = 1 if c.joined else max(math.ceil(c.need), self.failed.get(c.layout, 0) + 1)
            numbers = self._allowed(c, self._most(c, self.gpus))
            replicas = next((n for n in numbers if n >= enough), None)
            if replicas is None or c.devices * replicas < least:
                continue
            rows.append(self._with(c, replicas))
        return sorted(rows, key=lambda layout: layout.devices)
