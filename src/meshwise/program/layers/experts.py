"""Experts that a batch visits, whose weights a grouped product reads, and the rank that has most of them."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from meshwise.arrays import Array

# Experts, in all, of the ways to place them on ranks that are averaged over (1,024 ways for 128 experts): a
# model's layers have a placement each, and a step takes the sum of its layers. Of so many the mean is within
# 1 % of all; what differs with every number of tokens takes the first ones.
PLACED, FEW_PLACED = 131_072, 16_384
_NONE = 1e-9  # share of draws that is not counted


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


class Fullest(NamedTuple):
    """What a layer waits for where its experts are spread over ranks."""

    load: Array  # rows of the rank that has most of them, over the mean
    visited: Array  # share (0 to 1) of its experts that the rank visits which visits most


def fullest_rank(experts: int, top_k: int, ranks: Array, tokens: Array, skew: float) -> Fullest:
    """The fullest of ``ranks`` that share the experts of a layer evenly, each expert on one of them,
    placed without regard to its popularity; expected over placements. ``tokens``: of all ranks together.

    Even draws (``skew`` 0) fill all ranks alike. Ranks that do not divide the experts are no layout, and
    stand for one.
    """
    ranks, tokens = np.broadcast_arrays(ranks, np.asarray(tokens, dtype=np.float64))
    load, share = np.ones(ranks.shape), np.asarray(visited(experts, top_k, tokens, skew))
    if skew != 0.0 and top_k < experts:
        share = share.copy()
        for n in np.unique(ranks):
            if n == 1 or experts % n:
                continue
            alike = ranks == n
            load[alike] = _load(experts, top_k, int(n), skew)
            share[alike] = [_visits(experts, top_k, int(n), float(t), skew) for t in tokens[alike]]
    return Fullest(load[()], share[()])


@functools.lru_cache(maxsize=16)
def _placements(experts: int) -> Array:
    """Orders of the experts, one a row, drawn from a fixed seed: a rank has the next experts / ranks."""
    return np.argsort(
        np.random.default_rng(0).random((max(PLACED // experts, 1), experts)), axis=-1
    )


def _most(chances: Array, ranks: int, placed: int) -> float:
    """The largest sum on a rank of a figure of each expert, expected over placements."""
    orders = _placements(chances.size)[: max(placed // chances.size, 1)]
    each = chances[orders].reshape(len(orders), ranks, -1)
    return float(each.sum(axis=-1).max(axis=-1).mean())


@functools.lru_cache(maxsize=1024)
def _load(experts: int, top_k: int, ranks: int, skew: float) -> float:
    return _most(popularity(experts, top_k, skew), ranks, PLACED) * ranks / top_k


@functools.lru_cache(maxsize=65536)
def _visits(experts: int, top_k: int, ranks: int, tokens: float, skew: float) -> float:
    missed = np.power(1.0 - popularity(experts, top_k, skew), tokens)
    if missed[0] < _NONE:  # of the least popular expert
        return 1.0
    return _most(1.0 - missed, ranks, FEW_PLACED) * ranks / experts
