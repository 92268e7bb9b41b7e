"""Experts that a batch visits: their weights are what a grouped product reads."""

from __future__ import annotations

import functools
import math

import numpy as np

from meshwise.arrays import Array


@functools.lru_cache(maxsize=256)
def popularity(experts: int, top_k: int, skew: float) -> Array:
    """Chance that a token draws each of the experts, log-normal with ``skew`` as the standard deviation
    of its logarithm, at equally likely quantiles.

    The chances sum to ``top_k`` and none is above 1: a token draws different experts, so that what a
    capped one would have had in excess goes to the others.
    """
    from statistics import NormalDist  # start-up: dense models never need it

    places = (np.arange(experts) + 0.5) / experts
    weights = np.exp([min(skew * NormalDist().inv_cdf(p), 700.0) for p in places])
    sure = 0  # the most popular experts, last, that every token draws
    while weights[-1 - sure] * (top_k - sure) > math.fsum(weights[: experts - sure]):
        sure += 1
    rest = weights[: experts - sure]
    chances = np.ones(experts)
    chances[: experts - sure] = rest * ((top_k - sure) / math.fsum(rest))
    chances.flags.writeable = False  # shared by all callers
    return chances


def visited(experts: int, top_k: int, tokens: Array, skew: float = 0.0) -> Array:
    """Share (0 to 1) of the experts that at least one of ``tokens`` draws, each token by itself.

    Even draws (``skew`` 0) visit the most: the upper bound.
    """
    if skew == 0.0 or top_k >= experts:
        return 1.0 - np.power(1.0 - top_k / experts, tokens)
    counts, where = np.unique(tokens, return_inverse=True)  # a planner's layouts share few counts
    missed = np.power(1.0 - popularity(experts, top_k, skew), counts[:, None])
    shares = 1.0 - missed.mean(axis=-1)
    return shares[where].reshape(np.shape(tokens))[()]
