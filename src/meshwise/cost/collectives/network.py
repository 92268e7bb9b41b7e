"""Collectives that cross a network: latency, bytes, and the ramp of a pipeline of chunks.

Chunks that follow each other through a pipeline of several hops leave its links idle while it fills and
drains. With chunks of the best size that costs 2·√(H·X), for H the seconds of one chunk without bytes
through the pipeline and X the bytes' seconds at full rate ((√H + √X)² = H + X + 2·√(H·X), the classical
optimum; Sanders, Speck and Träff, Parallel Computing 35(12), 2009); libraries' fixed chunks reach a
share of it. Two protocols, the cheaper one counts: one with quick hops at a small share of the rate,
one for bulk.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from meshwise.arrays import Array
from meshwise.cost.collectives.fabric import Constants, Fabric, NetworkForm, Protocol, slowest
from meshwise.cost.collectives.ring_paths import ceil_log2

QUICK_PROTOCOL, BULK_PROTOCOL = "ll128", "simple"  # NCCL's names of such protocols
PROTOCOLS_ACROSS = (BULK_PROTOCOL, QUICK_PROTOCOL)


def form_of(fabric: Fabric) -> NetworkForm:
    """What the outermost network with a form of its own has in common with others."""
    return next(c.network for c in reversed(fabric.per_level) if c.network is not None)


def pipeline_hops(fabric: Fabric) -> list[Array]:
    """Hops of one chunk from one end of a collective to the other, by level: chains inside the
    domains, trees between them."""
    return [
        ceil_log2(r) if c.network is not None else r - 1
        for r, c in zip(fabric.ranks, fabric.per_level, strict=True)
    ]


def seconds_across(
    fabric: Fabric,
    parts: Sequence[str],
    protocol: str,
    wire: Sequence[Array],
    hops: Sequence[Array],
    filling: Sequence[Array],
    around: bool = False,
    later_s: Array = 0.0,
    crowd: Array = 1.0,
) -> Array:
    """Seconds of one protocol: L + X + 2 k √(H·X); infinite where the group crosses no such network.

    ``parts``: by level, the algorithm under whose constants the bytes travel; ``wire`` bytes and ``hops``
    by level give X and L, ``filling`` hops H. ``around``: in a ring a chunk waits for its neighbours'
    chunks, so that of many domains the hop is the bulk protocol's even for few bytes. ``later_s`` is
    added to L; ``crowd`` is the share that is left of a network's rate.
    """
    form = form_of(fabric)
    latency: Array = form.launch_s + later_s
    fill: Array = 0.0
    used: list[Protocol] = []
    for c, name, along, filled in zip(fabric.per_level, parts, hops, filling, strict=True):
        bulk = c.algorithms[name].fastest
        if c.network is None:
            p, hop, first = bulk, c.hop_s, c.hop_s
        else:
            p = c.algorithms[name].protocol(protocol)
            hop = first = p.step_s
            if around and p is not bulk:
                hop = bulk.step_s - (bulk.step_s - first) * np.minimum(2.0 / fabric.domains, 1.0)
        used.append(p)
        latency = latency + along * hop
        fill = fill + filled * first
    levels = zip(wire, fabric.per_level, strict=True)
    busy = slowest(fabric, [w if c.network is None else w / crowd for w, c in levels], used)
    seconds = latency + busy + 2.0 * form.ramp * np.sqrt(fill * busy)
    return np.where(fabric.across, seconds, np.inf)


def fall(domains: Array, exponent: float, whole: float = 2.0) -> Array:
    """Share of a network's rate that is left when so many domains send at once, ``whole`` or fewer
    having all of it."""
    return np.maximum(np.asarray(domains) / whole, 1.0) ** -exponent


def behind_network(fabric: Fabric) -> Array:
    """Ranks of the group that a rank reaches over a network."""
    return fabric.size - fabric.size // fabric.domains


def domains_joined(ranks: Sequence[Array], per_level: Sequence[Constants]) -> Array:
    """How many domains the networks with a form of their own join."""
    joined: Array = np.int64(1)
    for r, c in zip(ranks, per_level, strict=True):
        if c.network is not None:
            joined = joined * r
    return joined
