"""The largest load that a layout serves within limits, by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from meshwise.search.serving.plan import ServingRow
from meshwise.search.serving.runs.trial import Trial, Trials
from meshwise.simulate.loads.arrivals import MOST_RATE, Arrivals

_FEW_STEPS = 12  # short runs that tell where to look


class Largest(NamedTuple):
    """The largest load that meets the limits, and the next one, which does not (None: there is none)."""

    met: Trial
    beyond: Trial | None


def largest_met(at: Callable[[int, bool], Trial], start: int, most: int) -> Largest | None:
    """The largest number up to ``most`` whose trial meets the limits; None where 1 does not.

    ``at`` a number, by a short run or a whole one. Short runs tell where to look, from ``start`` on; whole
    runs decide. Steps are of 1, or of a hundredth of the number where that is more.
    """
    low, high, few = 0, most + 1, min(max(start, 1), most)
    number, below, above = few, 0.0, 0.0
    for _ in range(_FEW_STEPS):
        trial = at(number, True)
        used = trial.used if trial.met else max(trial.used, 1.01)
        if trial.met:
            low, below = number, used
        else:
            high, above = number, used
        if high - low <= _step(low):
            break
        number = _between(low, high, below, above, most)
    number, beyond, met = max(low, 1), None, None
    while True:
        trial = at(number, False)
        if trial.met:
            met = trial
            if beyond is not None or number == most:
                return Largest(met, beyond)
            number = min(number + _step(number), most)
        else:
            beyond = trial
            if met is not None:
                return Largest(met, beyond)
            if number == 1:
                return None
            further = math.floor(number / min(max(trial.used, 1.0), 2.0))
            number = max(min(number - _step(number), further), 1)


def _step(number: int) -> int:
    return max(number // 100, 1)


def _between(low: int, high: int, below: float, above: float, most: int) -> int:
    """The number to look at next: where the use of the limits is 1 on a line through both ends, or from
    the one end that is known in proportion."""
    if low == 0:
        return min(max(math.floor(high / above), high // 4, 1), high - 1)
    if high > most:
        further = math.floor(low / max(below, 0.5)) if below > 0.0 else 2 * low
        return min(max(further, low + _step(low)), most)
    at = low + (high - low) * (1.0 - below) / max(above - below, 1e-9)
    drawn = at + 0.1 * ((low + high) / 2.0 - at)
    return min(max(round(drawn), low + 1), high - 1)


def most_in_flight(trials: Trials, row: ServingRow) -> Largest | None:
    """The most requests in flight on a row's layout within the limits and its KV cache, as many on each
    replica; ``row``: where averages say that it is."""
    dp = row.layout.dp
    return largest_met(
        lambda n, few: trials.at(row.layout, concurrency=n * dp, few=few),
        row.concurrency // dp,
        max(row.max_concurrency // dp, 1),
    )


def highest_rate(trials: Trials, row: ServingRow, arrivals: Arrivals) -> Largest | None:
    """The highest rate of arrivals [requests/s], of three digits, that a row's layout serves within the
    limits."""
    unit = 10.0 ** (math.floor(math.log10(max(row.requests_per_s, 1e-4))) - 2)
    digits = max(2 - round(math.log10(unit)), 0)

    def at(number: int, few: bool) -> Trial:
        rate = round(number * unit, digits)
        return trials.at(row.layout, arrivals=arrivals._replace(rate=rate), few=few)

    start = round(row.requests_per_s / unit)
    return largest_met(at, start, math.floor(min(20.0 * row.requests_per_s, MOST_RATE) / unit))
