"""Collectives anchored by measurements of one's own: two factors on the model's constants.

Systems of one kind differ by as much as 2.5 in the latency of small messages, and by less in bandwidth;
no form of the model repairs that, and a few measured sizes do. One factor is on all latencies (launches
and steps), one on all bandwidths, each with a log-normal prior around 1. Any form of the model is
anchored so: it is asked for seconds under trial factors, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.cost.collectives.collective import candidates_on
from meshwise.cost.collectives.fabric import Candidate, Fabric
from meshwise.cost.collectives.fits import slower_start

# Standard deviations of ln(system / model): what systems of a kind differ by, with the spread of the
# model's own error (29 logs between nodes: 0.41 and 0.21 of systems alone).
LATENCY_SD, BANDWIDTH_SD = 0.6, 0.4
# By how much a repeated measurement of one size differs, standard deviation of its logarithm.
NOISE_SD = 0.1
# What the form misses between the sizes of one log, four of them given, standard deviation of
# ln(measured / predicted): so many that 90 % of the other sizes lie within (22 logs between nodes,
# 489 rows; 36 over PCIe and NVLink, 1,239 rows).
FORM_SD_ACROSS, FORM_SD_INSIDE = 0.25, 0.14
_STEPS, _SMALL = 30, 1e-4

Price = Callable[[float, float], Array]  # (factor of latency, of bandwidth) → seconds


class Factors(NamedTuple):
    """Of a system over the model: > 1 is a longer latency, a higher bandwidth. ``covariance`` of their
    logarithms, after ``points`` measured sizes."""

    latency: float
    bandwidth: float
    covariance: Array
    points: int


def scaled(fabric: Fabric, latency: float, bandwidth: float) -> Fabric:
    """The fabric of a system whose latencies and bandwidths are so many times the model's."""
    return fabric._replace(
        bandwidth=tuple(b * bandwidth for b in fabric.bandwidth),
        per_level=tuple(
            slower_start(c._replace(copy_bytes_per_s=c.copy_bytes_per_s * bandwidth), latency)
            for c in fabric.per_level
        ),
    )


def price_on(op: str, payload: Array, fabric: Fabric) -> Price:
    """Seconds of the fastest candidate for each payload [bytes] under trial factors."""

    def price(latency: float, bandwidth: float) -> Array:
        found = candidates_on(op, payload, scaled(fabric, latency, bandwidth))
        return fastest_s(found)

    return price


def fastest_s(found: list[Candidate]) -> Array:
    """Seconds of the fastest candidate, element by element."""
    return np.min(np.broadcast_arrays(*(c.seconds for c in found)), axis=0)


def _slopes(price: Price, latency: float, bandwidth: float) -> Array:
    """d ln(seconds) / d ln(factor), a row per payload and a column per factor."""
    more = 1.0 + _SMALL
    base = np.log(price(latency, bandwidth))
    columns = [price(latency * more, bandwidth), price(latency, bandwidth * more)]
    return np.stack([(np.log(c) - base) / np.log(more) for c in columns], axis=-1)


def fit_factors(price: Price, measured_s: Array) -> Factors:
    """The factors of highest posterior density, given measured seconds [s] of the payloads of ``price``.

    Gauss-Newton on the logarithms, halved while it does not descend. A size that the form misses by far
    counts less (Huber's weights at two standard deviations): one hiccup is not the system.
    """
    target = np.log(np.asarray(measured_s, dtype=np.float64))
    prior = np.diag([LATENCY_SD**-2, BANDWIDTH_SD**-2])

    def loss(x: Array) -> float:
        off = np.abs(np.log(price(*np.exp(x))) - target) / NOISE_SD
        huber = np.where(off <= 2.0, off**2, 4.0 * off - 4.0)
        return float(np.sum(huber) + x @ prior @ x)

    def information(x: Array) -> tuple[Array, Array]:
        """Of the posterior, and its gradient's half."""
        off = np.log(price(*np.exp(x))) - target
        weight = np.minimum(1.0, 2.0 * NOISE_SD / np.maximum(np.abs(off), 1e-12)) / NOISE_SD**2
        slope = _slopes(price, *np.exp(x))
        return slope.T @ (weight[:, None] * slope) + prior, slope.T @ (weight * off) + prior @ x

    # the lower envelope of protocols has kinks: several starts
    starts = [np.log([a, b]) for a, b in ((1, 1), (3, 1), (1 / 3, 1), (1, 2), (1, 0.5))]
    best = min((_descended(loss, information, start) for start in starts), key=loss)
    covariance = np.linalg.inv(information(best)[0])
    latency, bandwidth = (float(v) for v in np.exp(best))
    return Factors(latency, bandwidth, covariance, target.size)


def _descended(
    loss: Callable[[Array], float],
    information: Callable[[Array], tuple[Array, Array]],
    x: Array,
) -> Array:
    now = loss(x)
    for _ in range(_STEPS):
        matrix, gradient = information(x)
        step = np.linalg.solve(matrix, gradient)
        while loss(x - step) > now and np.max(np.abs(step)) > _SMALL:
            step = step / 2.0
        after = loss(x - step)
        if after >= now - 1e-9:
            break
        x, now = x - step, after
    return x


def anchored_sd(price: Price, factors: Factors, across: bool) -> Array:
    """Standard deviation of ln(measured / predicted) of each payload of ``price``: what the given sizes
    leave open of both factors, and what the form misses, ``across`` nodes or inside one."""
    slope = _slopes(price, factors.latency, factors.bandwidth)
    open_ = np.einsum("...i,ij,...j->...", slope, factors.covariance, slope)
    return np.sqrt(open_ + (FORM_SD_ACROSS if across else FORM_SD_INSIDE) ** 2)
