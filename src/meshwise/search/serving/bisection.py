"""The largest number of every column that meets a condition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from meshwise.arrays import Array

_AT_ONCE = 1024  # columns, of all numbers together, that take little longer to price than a few
_PARTS, _LEAST_PARTS = 16, 4  # that an interval is cut into where so many can be looked at together


class Ends:
    """Of each column a number that meets the condition and a larger one that does not, or is the last."""

    def __init__(self, low: Array, high: Array, over: Callable[[Array, Array], Array]) -> None:
        self.low, self.high, self.over = low.copy(), high.copy(), over
        self.below = np.full(low.shape, np.nan)  # how far beyond the condition; nan: not looked at
        self.above = np.full(low.shape, np.nan)

    def look(self, index: Array, numbers: Array) -> None:
        """Make ``numbers`` an end of their columns."""
        if not index.size:
            return
        beyond = self.over(numbers, index)
        met = index[beyond <= 0]
        self.low[met], self.below[met] = numbers[beyond <= 0], beyond[beyond <= 0]
        self.high[index] = np.where(beyond <= 0, np.maximum(self.high[index], numbers), numbers)
        self.above[index] = np.where(beyond <= 0, self.above[index], beyond)

    def look_at_several(self, index: Array, numbers: Array) -> None:
        """Make two neighbours of several ``numbers`` of each column, a row of rising ones, its ends: the last
        that meets the condition, and the one after it."""
        count, rows = numbers.shape[1], np.arange(index.size)
        beyond = self.over(numbers.ravel(), np.repeat(index, count)).reshape(numbers.shape)
        good = beyond <= 0
        first = np.where(good.any(axis=1), count - good[:, ::-1].argmax(axis=1), 0)
        met, missed = rows[first > 0], rows[first < count]
        last = first[met] - 1
        self.low[index[met]], self.below[index[met]] = numbers[met, last], beyond[met, last]
        past = first[missed]
        self.high[index[missed]] = numbers[missed, past]
        self.above[index[missed]] = beyond[missed, past]

    def powers(self, index: Array) -> Array:
        """All powers of two between the ends, a row of each column; its last one again where others have
        more."""
        first = np.floor(np.log2(np.maximum(self.low[index], 1))) + 1
        last = np.ceil(np.log2(np.maximum(self.high[index], 1))) - 1
        steps = np.arange(int((last - first).max()) + 1)
        return np.exp2(np.minimum(first[:, None] + steps, last[:, None])).astype(np.int64)

    def sections(self, index: Array, parts: int) -> Array:
        """Numbers that cut what is between the ends evenly, a row of each column."""
        low, high = self.low[index][:, None], self.high[index][:, None]
        return np.clip(low + (high - low) * np.arange(1, parts) // parts, low + 1, high - 1)

    def power(self) -> Array:
        """The middle one of the powers of two between the ends; 0 where there is none."""
        first = np.floor(np.log2(np.maximum(self.low, 1))) + 1
        last = np.ceil(np.log2(np.maximum(self.high, 1))) - 1
        found = np.exp2((first + last) // 2).astype(np.int64)
        return np.where((self.high - self.low > 1) & (first <= last), found, 0)

    def between(self, index: Array, width: Array, reach: Array) -> Array:
        """The number to look at next: where a line through both ends crosses 0, drawn towards the middle,
        and no further from it than leaves bisection's number of steps."""
        low, high, below, above = (a[index] for a in (self.low, self.high, self.below, self.above))
        middle = (low + high) / 2.0
        line = (above * low - below * high) / (above - below)
        drawn = np.minimum(0.2 * (high - low) ** 2 / width, np.abs(middle - line))
        at = line + np.sign(middle - line) * drawn
        left = np.maximum(reach - (high - low) / 2.0, 0.0)
        at = np.clip(at, middle - left, middle + left)
        return np.clip(np.floor(at).astype(np.int64), low + 1, high - 1)


def largest(
    low: Array,
    high: Array,
    over: Callable[[Array, Array], Array],
    worth: Callable[[Ends], Array] | None = None,
) -> Array:
    """Of each column the largest number up to ``high`` for which ``over(numbers, columns)``, which says
    how far each is beyond the condition, is not above 0, as that of ``low`` is. Columns that are done are
    not looked at again, nor those that are not ``worth`` it by what is known so far of all of them: their
    number is one that meets the condition, not the largest.

    First among the powers of two, the same for all columns: what prices them sees few different numbers.
    Between two of them by the ITP method (Oliveira and Takahashi, ACM TOMS 47(1), 2020), which takes a few
    steps where the condition is nearly linear in the number, and at most one more than bisection. Of few
    columns, if all of them are to be known, many numbers are looked at together.
    """
    ends = Ends(low, high, over)
    index = np.flatnonzero(high > low)
    ends.look(index, high[index])

    def left(some: Array) -> Array:
        kept = some if worth is None else some & worth(ends)
        return np.flatnonzero(kept)

    while (index := left(ends.power() > 0)).size:
        every = ends.powers(index)
        if worth is None and every.size <= _AT_ONCE:
            ends.look_at_several(index, every)
        else:
            ends.look(index, ends.power()[index])
    index = left(ends.high - ends.low > 1)
    unknown = index[np.isnan(ends.below[index])]
    ends.look(unknown, ends.low[unknown])
    width = np.maximum(ends.high - ends.low, 1).astype(np.float64)
    steps = np.ceil(np.log2(width)) + 1.0  # bisection's, and one
    taken = 0
    while (index := left(ends.high - ends.low > 1)).size:
        parts = min(_PARTS, _AT_ONCE // index.size)
        if worth is None and parts >= _LEAST_PARTS:
            ends.look_at_several(index, ends.sections(index, parts))
            continue
        ends.look(index, ends.between(index, width[index], 0.5 * np.exp2(steps[index] - taken)))
        taken += 1
    return ends.low
