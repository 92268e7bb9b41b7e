"""Collectives anchored by measurements of one's own: two factors on the model's constants, and what they
leave over near the measured sizes.

Systems of one kind differ by as much as 2.5 in the latency of small messages, and by less in bandwidth;
no form of the model repairs that, and a few measured sizes do. One factor is on all latencies (launches
and steps), one on all bandwidths, each with a log-normal prior around 1. What the form misses of a
system's curve (a change of protocol elsewhere, a slow middle) is alike at sizes near each other: a
Gaussian process over ln(bytes), with a Matérn kernel of order 3/2 (Rasmussen and Williams 2006, equation
4.17), takes it from the measured sizes to their neighbours and fades beyond them; the interval is as wide
as all three leave it. Any form of the model is anchored so: it is asked for seconds under trial factors,
nothing else.
"""

from __future__ import annotations

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
NOISE_SD = 0.05
# What the form misses of a log, standard deviation of ln(measured / predicted) beside both factors, and
# over how far a size it is alike, in ln(bytes): four sizes of a log given, so that the others' intervals
# are the best (interval score), and 90 % of them inside (22 logs between nodes, each system left out of
# the networks' fit, 488 rows; 85 logs over PCIe and NVLink, 1,229 rows).
FORM_SD_ACROSS, FORM_SD_INSIDE = 0.35, 0.15
SIZES_ALIKE = 2.5
# How often a measured size is a hiccup, and by how much it is then off, in logarithms.
HICCUP, HICCUP_SD = 0.05, 1.0
_STEPS, _ROUNDS, _SMALL = 30, 4, 1e-4


class PriceOn(NamedTuple):
    """Seconds of the fastest candidate for each payload [bytes] on a fabric under trial factors."""

    op: str
    payload: Array
    fabric: Fabric

    def __call__(self, latency: float, bandwidth: float) -> Array:
        found = candidates_on(self.op, self.payload, scaled(self.fabric, latency, bandwidth))
        return np.broadcast_to(fastest_s(found), self.payload.shape)


class Factors(NamedTuple):
    """Of a system over the model: > 1 is a longer latency, a higher bandwidth. ``covariance`` of their
    logarithms, after the measured ``sizes``; there the model with both is off by ``left``, in logarithms,
    and has ``slopes`` (:func:`_slopes`). ``precision`` is the inverse covariance of what stands there
    beside the factors: of the form, of standard deviation ``form_sd``, and of noise."""

    latency: float
    bandwidth: float
    covariance: Array
    sizes: Array
    left: Array
    slopes: Array
    precision: Array
    form_sd: float

    @property
    def points(self) -> int:
        """How many sizes were measured."""
        return len(self.sizes)


def scaled(fabric: Fabric, latency: float, bandwidth: float) -> Fabric:
    """The fabric of a system whose latencies and bandwidths are so many times the model's."""
    return fabric._replace(
        bandwidth=tuple(b * bandwidth for b in fabric.bandwidth),
        per_level=tuple(
            slower_start(c._replace(copy_bytes_per_s=c.copy_bytes_per_s * bandwidth), latency)
            for c in fabric.per_level
        ),
    )


def price_on(op: str, payload: Array, fabric: Fabric) -> PriceOn:
    """Seconds of the fastest candidate for each payload [bytes] under trial factors."""
    return PriceOn(op, np.asarray(payload, dtype=np.float64), fabric)


def fastest_s(found: list[Candidate]) -> Array:
    """Seconds of the fastest candidate, element by element."""
    return np.min(np.broadcast_arrays(*(c.seconds for c in found)), axis=0)


def _slopes(price: PriceOn, latency: float, bandwidth: float) -> Array:
    """d ln(seconds) / d ln(factor), a row per payload and a column per factor."""
    more = 1.0 + _SMALL
    base = np.log(price(latency, bandwidth))
    columns = [price(latency * more, bandwidth), price(latency, bandwidth * more)]
    return np.stack([(np.log(c) - base) / np.log(more) for c in columns], axis=-1)


def _alike(payload: Array, sizes: Array, form_sd: float) -> Array:
    """Covariance of what the form misses at ``payload`` (rows) and ``sizes`` (columns), both in bytes."""
    apart = np.log(payload)[:, None] - np.log(sizes)[None, :]
    far = np.sqrt(3.0) * np.abs(apart) / SIZES_ALIKE
    return form_sd**2 * (1.0 + far) * np.exp(-far)


def fit_factors(price: PriceOn, measured_s: Array, across: bool) -> Factors:
    """The factors of highest posterior density, given measured seconds [s] of the payloads of ``price``;
    ``across`` nodes or inside one.

    Gauss-Newton on the logarithms, halved while it does not descend. A size that the others speak
    against counts the less the likelier it is a hiccup (:func:`_hiccups`): one is not the system.
    """
    target = np.log(np.asarray(measured_s, dtype=np.float64))
    prior = np.diag([LATENCY_SD**-2, BANDWIDTH_SD**-2])
    form_sd = FORM_SD_ACROSS if across else FORM_SD_INSIDE
    form = _alike(price.payload, price.payload, form_sd)

    def descended(x: Array, precision: Array) -> tuple[float, Array]:
        def loss(x: Array) -> float:
            off = target - np.log(price(*np.exp(x)))
            return float(off @ precision @ off + x @ prior @ x)

        now = loss(x)
        for _ in range(_STEPS):
            slope, off = _slopes(price, *np.exp(x)), target - np.log(price(*np.exp(x)))
            matrix = slope.T @ precision @ slope + prior
            step = np.linalg.solve(matrix, slope.T @ precision @ off - prior @ x)
            while loss(x + step) > now and np.max(np.abs(step)) > _SMALL:
                step = step / 2.0
            after = loss(x + step)
            if after >= now - 1e-9:
                break
            x, now = x + step, after
        return now, x

    # the lower envelope of protocols has kinks: several starts
    starts = [np.log([a, b]) for a, b in ((1, 1), (3, 1), (1 / 3, 1), (1, 2), (1, 0.5))]
    noise = np.full(target.size, NOISE_SD**2)
    for _ in range(_ROUNDS):
        precision = np.linalg.inv(form + np.diag(noise))
        _, best = min((descended(x, precision) for x in starts), key=lambda found: found[0])
        left = target - np.log(price(*np.exp(best)))
        slope = _slopes(price, *np.exp(best))
        known = form + slope @ np.linalg.inv(prior) @ slope.T  # what a curve is expected to vary by
        hiccup = _hiccups(left + slope @ best, known)
        noise = 1.0 / ((1.0 - hiccup) / NOISE_SD**2 + hiccup / HICCUP_SD**2)
        starts = [best]
    latency, bandwidth = (float(v) for v in np.exp(best))
    slopes = _slopes(price, latency, bandwidth)
    covariance = np.linalg.inv(slopes.T @ precision @ slopes + prior)
    return Factors(latency, bandwidth, covariance, price.payload, left, slopes, precision, form_sd)


def _hiccups(off: Array, known: Array) -> Array:
    """The probability of each size that its measurement is a hiccup: that of the hypothesis that it alone
    is one, by the density of what all sizes are off by, of covariance ``known`` beside the noise."""
    n = off.size
    log_density = np.empty(n + 1)
    for index in range(n + 1):
        noise = np.full(n, NOISE_SD**2)
        if index < n:
            noise[index] = HICCUP_SD**2
        covariance = known + np.diag(noise)
        log_density[index] = -0.5 * (
            off @ np.linalg.solve(covariance, off) + np.linalg.slogdet(covariance)[1]
        )
    log_density[:n] += np.log(HICCUP / (1.0 - HICCUP))
    weight = np.exp(log_density - log_density.max())
    return weight[:n] / weight.sum()


def left_over(payload: Array, factors: Factors) -> Array:
    """Seconds of the system over the model's with both factors, for each payload [bytes]: what the
    measured sizes near it tell, 1 far from all of them."""
    near = _alike(np.asarray(payload, dtype=np.float64), factors.sizes, factors.form_sd)
    return np.exp(near @ factors.precision @ factors.left)


def anchored_s(price: PriceOn, factors: Factors) -> Array:
    """Seconds of each payload of ``price`` on the system."""
    plain = price(factors.latency, factors.bandwidth)
    return plain * left_over(price.payload, factors)


def anchored_sd(price: PriceOn, factors: Factors) -> Array:
    """Standard deviation of ln(measured / predicted) of each payload of ``price``: what the given sizes
    leave open of both factors and of what the form misses, and the noise of one measurement."""
    near = _alike(price.payload, factors.sizes, factors.form_sd) @ factors.precision
    slope = _slopes(price, factors.latency, factors.bandwidth) - near @ factors.slopes
    by_factors = np.einsum("...i,ij,...j->...", slope, factors.covariance, slope)
    told = np.einsum("ij,ij->i", near, _alike(price.payload, factors.sizes, factors.form_sd))
    return np.sqrt(by_factors + np.maximum(factors.form_sd**2 - told, 0.0) + NOISE_SD**2)
