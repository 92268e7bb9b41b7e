"""What a replica did, run of iterations by run of iterations."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


class Timeline:
    """Runs of equal iterations: how many, their seconds, sequences that decode in each, and how many of them
    began with the first."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, ...]] = []

    def add(self, iterations: int, seconds: float, decoding: int, begun: int = 0) -> None:
        self._rows.append((iterations, seconds, decoding, begun))

    def idle(self, seconds: float) -> None:
        """Nothing ran."""
        self._rows.append((0, seconds, 0, 0))

    def columns(self) -> tuple[Floats, ...]:
        """(beginning, iterations, seconds, decoding, begun), one value a run."""
        values = chain.from_iterable(self._rows)
        table: Any = np.fromiter(values, np.float64, 4 * len(self._rows)).reshape(-1, 4)
        iterations, seconds, decoding, begun = table.T
        begin = np.concatenate([[0.0], np.cumsum(seconds)[:-1]]) if seconds.size else seconds
        return begin, iterations, seconds, decoding, begun

    def gaps(self, since: float, until: float) -> tuple[Floats, Floats]:
        """(seconds between two tokens of a sequence, how many such gaps): prompts that go first hold up
        those that decode, and lengthen the gap in which they fall."""
        begin, iterations, seconds, decoding, begun = self.columns()
        busy = (decoding > 0) & (iterations > 0)
        if not busy.any():
            return np.zeros(0), np.zeros(0)
        end = begin + seconds
        index = np.flatnonzero(busy)
        each = seconds[index] / iterations[index]
        # what passed since the iteration of decodes before, where somebody decoded in both
        held = np.zeros(index.size)
        held[1:] = begin[index[1:]] - end[index[:-1]]
        inside = (begin[index] >= since) & (begin[index] < until)
        # what held up others was before those that begin with it had a token
        new = np.minimum(begun[index], decoding[index])
        values = np.concatenate([each + held, each])
        more = decoding[index] * (iterations[index] - 1)
        counts = np.concatenate([decoding[index] - new, more + new])
        inside = np.concatenate([inside, inside]) & (counts > 0)
        return values[inside], counts[inside]


class NoTimeline(Timeline):
    """Keeps nothing."""

    def add(self, iterations: int, seconds: float, decoding: int, begun: int = 0) -> None:
        pass

    def idle(self, seconds: float) -> None:
        pass


class Timelines(Timeline):
    """Of several replicas: the gaps between tokens of them all."""

    def __init__(self, several: list[Timeline]) -> None:
        super().__init__()
        self.several = several

    def gaps(self, since: float, until: float) -> tuple[Floats, Floats]:
        found = [one.gaps(since, until) for one in self.several]
        values, counts = zip(*found, strict=True)
        return np.concatenate(values), np.concatenate(counts)


def until(
    seconds: Callable[[int], float], most: int, gap: float, whole: float
) -> tuple[float, int]:
    """(seconds, iterations) of up to ``most`` iterations that begin before ``gap`` is over; ``seconds`` of
    so many, of all of them the ``whole``."""
    if whole < gap or most == 1:
        return whole, most
    low, high, reached = 1, most, whole  # the least that reaches the arrival
    share = min(gap / whole, 1.0)
    while low < high:
        middle = int(low + (high - low) * share)
        middle = middle if middle < high else high - 1
        some = seconds(middle)
        if some >= gap:
            high, reached = middle, some
        else:
            low = middle + 1
    return reached, low
