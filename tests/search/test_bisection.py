"""The search for the largest number against looking at every number."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwise.search.serving.bisection import largest

CURVES = st.tuples(
    st.floats(0.01, 100.0), st.floats(0.0, 10.0), st.floats(0.1, 2.0), st.integers(1, 64)
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(CURVES, st.integers(0, 1), st.integers(0, 4000)), min_size=1, max_size=6),
    st.floats(0.1, 1e5),
)
def test_finds_the_last_number(columns: list[tuple[tuple, int, int]], limit: float) -> None:
    """Of rising times, smooth or in steps, the last number within the limit, in no more looks than
    bisection takes among the powers of two and between two of them."""

    def time(curve: tuple[float, float, float, int], number: np.ndarray) -> np.ndarray:
        fixed, each, power, step = curve
        return fixed + each * (np.ceil(number / step) * step) ** power

    curves = [c for c, _, _ in columns]
    low = np.array([first for _, first, _ in columns])
    high = np.maximum(low, [last for _, _, last in columns])
    # whoever may hold one at all meets the limit with it
    held = np.array([time(c, np.float64(1)) <= limit for c in curves])
    low, high = low * held, high * held * low
    high = np.maximum(low, high)
    looks = 0

    def over(numbers: np.ndarray, index: np.ndarray) -> np.ndarray:
        nonlocal looks
        looks += 1
        assert np.all(high[index] > low[index])
        return np.array([time(curves[i], n) for i, n in zip(index, numbers, strict=True)]) - limit

    found = largest(low, high, over)
    for i, curve in enumerate(curves):
        numbers = np.arange(low[i], high[i] + 1)
        good = numbers[(time(curve, numbers) <= limit) | (numbers == low[i])]
        assert found[i] == good[-1], (curve, low[i], high[i])
    most = int(high.max())
    assert looks <= 2 * np.log2(max(most, 1)) + 6
