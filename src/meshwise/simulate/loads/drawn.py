"""Lengths and times of the requests that are sent, drawn or as a trace has them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from meshwise.simulate.loads.arrivals import Arrivals
from meshwise.workloads.serving import Serving


class Drawn(NamedTuple):
    """Requests in the order in which they are sent; ``arrival`` None: a closed loop."""

    prompt: list[int]
    answer: list[int]
    cached: list[int]
    arrival: list[float] | None


def shortest(longest: int, spread: float) -> int:
    """The least of lengths that are drawn: (1 − spread) · longest, of one token at least."""
    return min(max(int(longest * (1.0 - spread)), 1), longest)


def mean_length(longest: int, spread: float) -> float:
    """Of lengths that are drawn."""
    return (shortest(longest, spread) + longest) / 2.0


def drawn_lengths(dice: np.random.Generator, n: int, longest: int, spread: float) -> Any:
    """``n`` whole numbers, each from (1 − spread) · longest to longest alike."""
    return dice.integers(shortest(longest, spread), longest + 1, n)


def drawn_times(dice: np.random.Generator, n: int, rate: float, burstiness: float) -> Any:
    """``n`` rising times [s] from 0 at a ``rate`` [1/s]: gaps by a gamma distribution of that shape."""
    gaps = dice.gamma(burstiness, 1.0 / (rate * burstiness), n)
    gaps[0] = 0.0
    return np.cumsum(gaps)


def drawn(w: Serving, n: int, arrivals: Arrivals | None, replicas: int, seed: int) -> Drawn:
    """``n`` requests of one of ``replicas``, each of which gets its share of the arrivals in turn."""
    if arrivals is not None and arrivals.trace is not None:
        trace = arrivals.trace
        prompts: Any = np.array(trace.prompt[::replicas])
        answers: Any = np.array(trace.answer[::replicas])
        times: Any = np.array(trace.arrival[::replicas])
    else:
        # what draws takes 20 ms to load: a closed loop of requests that are alike draws nothing
        prompts, answers, times = np.full(n, w.isl), np.full(n, w.osl), None
        if w.length_spread:
            lengths = np.random.default_rng([seed, 0])
            prompts = drawn_lengths(lengths, n, w.isl, w.length_spread)
            answers = drawn_lengths(lengths, n, w.osl, w.length_spread)
        if arrivals is not None:
            clock = np.random.default_rng([seed, 1])
            times = drawn_times(clock, n * replicas, arrivals.rate, arrivals.burstiness)[::replicas]
    cached = np.minimum((prompts * w.prefix_hit).astype(np.int64), prompts - 1)
    return Drawn(
        prompts.tolist(),
        answers.tolist(),
        cached.tolist(),
        None if times is None else times.tolist(),
    )
