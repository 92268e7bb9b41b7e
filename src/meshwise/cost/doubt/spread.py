"""One model of doubt: the variance of ln(measured / predicted) as a sum over what a question has.

Each component of ``catalog/discrepancy`` is a standard deviation: of another source than those that
were seen, of a new device or software, of a trait of the regime, of a share of the step that rests on
the network, and so on. Runs of layouts of one job share all but ``layout`` and what differs in them,
which is what ties are made of. The ends of an interval are the quantiles of the residuals of left-out
sources, each over its own predicted standard deviation.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from meshwise import catalog
from meshwise.arrays import Array
from meshwise.cost.doubt.published_runs import Cell, novelty
from meshwise.cost.doubt.question import Question

NORMAL = 1.645  # standard deviations of the normal distribution's middle 90 %
# A device's products predicted by another generation's fit are off by 6 to 32 % (median 14 %,
# tests/data/kernel_calls.csv, each of A100, H100, H200, B200 by the others), collectives of a fabric
# left out of the fit by up to 32 % (docs/explanation/validation): about
INHERITED_SD = 0.2
# The NICs' rates of a device's clusters in the catalog differ by 0.74, of which a collective that is half
# latency sees two thirds: of a network whose rate is not stated.
OPEN_RATE_SD = 0.5
ALWAYS = ("source",)  # what every question has: it is of another source than those that were seen
# An engine's times are made of the same iterations, and are as far off.
_AS = {"total_latency_s": "tpot_s"}


class Doubt(NamedTuple):
    """The fitted constants of a quantity."""

    sd: dict[str, float]  # by component
    low: float  # standard deviations below and above the prediction that hold 90 %
    high: float
    tight: float  # share of the interval that counts as the error of memory held against a limit
    ends: dict[str, tuple[float, float]]  # low and high by regime, where regimes have their own
    layout: float  # sd of ln(measured / predicted) between layouts of one job, beside what differs


def judged_as(quantity: str) -> str:
    """The quantity whose constants hold."""
    return _AS.get(quantity, quantity)


@functools.cache
def doubt(quantity: str) -> Doubt:
    """The constants of a quantity."""
    name = judged_as(quantity).replace("_", "-")
    table: dict[str, Any] = catalog.load("discrepancy", name, "quantity")[1]
    return Doubt(
        table["sd"],
        table["low"],
        table["high"],
        table.get("tight", 1.0),
        {name: (low, high) for name, (low, high) in table.get("ends", {}).items()},
        table.get("layout", 0.0),
    )


def components(
    q: Question, without: str = "", index: tuple[Cell, ...] | None = None
) -> dict[str, Array]:
    """How much of each component a question has, per layout."""
    return {
        **dict.fromkeys(ALWAYS, 1.0),
        **novelty(q, without, index),
        **q.traits,
        **q.shares,
    }


def standard_deviation(quantity: str, q: Question, without: str = "") -> Array:
    """Of ln(measured / predicted), per layout."""
    found = components(q, without)
    variance: Array = 0.0
    for name, sd in doubt(quantity).sd.items():
        variance = variance + (sd * found.get(name, 0.0)) ** 2
    return np.sqrt(variance)


def interval_ends(quantity: str, q: Question | None = None) -> tuple[float, float]:
    """Standard deviations below and above a prediction that hold 90 %: of the question's regime, where it
    has ends of its own."""
    d = doubt(quantity)
    if q is not None:
        for name, ends in d.ends.items():
            if np.any(q.traits.get(name, 0.0)):
                return ends
    return d.low, d.high


def prediction_interval(
    value: Array, quantity: str, sd: Array, slower: Array = 0.0, asked: Question | None = None
) -> tuple[Array, Array]:
    """(low, high) of a predicted value, in its unit: 90 % of left-out published rows lie within.

    ``sd``: :func:`standard_deviation`; ``slower``: how much longer (below 0: shorter), as a logarithm, it
    takes if nothing holds that was never measured: the interval is then that of both ends; ``asked``: the
    question, whose regime may have ends of its own.
    """
    low, high = interval_ends(quantity, asked)
    return (
        value * np.exp(-low * sd + np.minimum(slower, 0.0)),
        value * np.exp(high * sd + np.maximum(slower, 0.0)),
    )


def difference_sd(
    quantity: str, one: tuple[float, Question], other: tuple[float, Question]
) -> float:
    """Standard deviation of the difference of two layouts of one job, in the quantity's unit.

    What both have errs together: of T = p·exp(Σ x_k·u_k) of each, Δ varies by Σ (Δ(p·x_k)·σ_k)²; what
    is of a layout alone by itself.
    """
    d = doubt(quantity)
    (p, a), (r, b) = (one[0], components(one[1])), (other[0], components(other[1]))
    variance = d.layout**2 * (p**2 + r**2)
    for name, sd in d.sd.items():
        delta = p * float(a.get(name, 0.0)) - r * float(b.get(name, 0.0))
        variance += (sd * delta) ** 2
    return float(np.sqrt(variance))


def within_memory_error(held: Array, limit: float, sd: Array) -> Array:
    """Whether a limit lies within the error of bytes: the share of the interval about them that four of
    five wrong ``fits`` of left-out rows lie in."""
    low, high = prediction_interval(held, "memory_bytes", sd * doubt("memory_bytes").tight)
    return (low <= limit) & (limit < high)


_normal = np.vectorize(lambda z: 0.5 * math.erfc(-z / math.sqrt(2.0)), otypes=[np.float64])


def chance_to_fit(held: Array, limit: Array, sd: Array) -> Array:
    """Probability that a run holds no more than ``limit`` bytes, where ``held`` are predicted and ln(measured
    / predicted) is normal with ``sd`` (:func:`standard_deviation`)."""
    return _normal(np.log(limit / held) / sd)
