"""The largest number of every column that meets a condition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any


def largest(low: Array, high: Array, good: Callable[[Array, Array], Array]) -> Array:
    """Of each column the largest number up to ``high`` that is ``good(numbers, columns)``, as ``low``
    is, by bisection; columns that are done are not looked at again."""
    low, high = low.copy(), high.copy()
    open_ = np.flatnonzero(high > low)
    if open_.size:
        met = open_[good(high[open_], open_)]
        low[met] = high[met]
    while (open_ := open_[high[open_] - low[open_] > 1]).size:
        middle = (low[open_] + high[open_]) // 2
        met = good(middle, open_)
        low[open_[met]] = middle[met]
        high[open_[~met]] = middle[~met]
    return low
