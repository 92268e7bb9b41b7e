"""Where the pieces of a ring go: shares of its bytes and hops, by level of the fabric."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from meshwise.arrays import Array


def ceil_log2(n: Array) -> Array:
    """⌈log2 n⌉ of positive integers, exactly (no rounding of a logarithm)."""
    return np.frexp(np.asarray(n, dtype=np.float64) - 1.0)[1]


def ring_shares(ranks: Sequence[Array]) -> list[Array]:
    """Share of a rank's ring traffic that crosses each level, when as many rings run as a domain has
    ranks, each leaving it by another one: 1/R_l − 1/R_{l+1} below the outermost crossing."""
    shares = []
    inner: Array = 1.0
    total: Array = 1.0
    for r in ranks:
        total = total * r
    for r in ranks:
        outer = inner * r
        shares.append(1.0 / inner - np.where(outer >= total, 0.0, 1.0 / outer))
        inner = outer
    # Nothing crosses a level whose domain holds one rank of the group.
    return [np.where(np.asarray(r) > 1, s, 0.0) for r, s in zip(ranks, shares, strict=True)]


def ring_hops(ranks: Sequence[Array]) -> list[Array]:
    """Hops of a piece of data once around the ring, by level: n/R_l − n/R_{l+1} domains' ends."""
    hops = []
    left: Array = 1
    for r in ranks:
        left = left * r
    for r in ranks:
        outer = left // r
        hops.append(left - outer)
        left = outer
    return hops
