"""Candidates of an algorithm, one per protocol: inside a node, and across networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from meshwise.arrays import Array
from meshwise.cost.collectives.fabric import Candidate, Fabric, streamed
from meshwise.cost.collectives.network import PROTOCOLS_ACROSS, seconds_across


def labelled(name: str, protocol: str) -> str:
    """An algorithm's name in answers."""
    return f"{name}/{protocol}" if protocol else name


def each_protocol(
    name: str,
    fabric: Fabric,
    payload: Array,
    wire: Sequence[Array],
    hops: Sequence[Array],
    copy: Array = 0.0,
    filling: Sequence[Array] | None = None,
    around: bool = False,
) -> list[Candidate]:
    """Both, of an algorithm that sends ``wire`` bytes in ``hops`` hops at each level, all levels at the
    same time, and inside a node copies for ``copy`` seconds. Across a network the pipeline of chunks is
    as long as ``filling`` says (absent: one hop at each level that has any); ``around``: it is a ring."""
    inside = inside_nodes(name, fabric, payload, wire, hops, copy)
    if not np.any(fabric.across):
        return inside
    if filling is None:
        filling = [np.minimum(h, 1) for h in hops]
    return inside + across_networks(name, fabric, wire, hops, filling, around=around)


_FLAGGED = 0.5  # of the wire: LL sends four bytes of flag with every four of data


def inside_nodes(
    name: str,
    fabric: Fabric,
    payload: Array,
    wire: Sequence[Array],
    hops: Sequence[Array],
    copy: Array = 0.0,
    peers: Sequence[Array] = (),
) -> list[Candidate]:
    """One candidate per protocol of groups that cross no network, or one that the cluster's file states
    itself; ``peers``: ranks of each level that are sent to by themselves. In a protocol ``per_peer`` every
    peer is served at the same time, and the time is that of one peer's part, or of all parts on the wire.
    """
    if np.all(fabric.across):
        return []
    found = []
    for protocol in fabric.protocols(name):
        protocols = [c.algorithms[name].protocol(protocol) for c in fabric.per_level]
        most = [
            np.maximum(np.where(w > 0, payload / fabric.size, 0.0), w * (p.efficiency / _FLAGGED))
            if p.per_peer
            else w
            for p, w in zip(protocols, wire, strict=True)
        ]
        seconds = streamed(fabric, most, hops, protocols, peers) + copy
        if np.any(fabric.across):
            seconds = np.where(fabric.across, np.inf, seconds)
        found.append(Candidate(labelled(name, protocol), seconds, tuple(wire)))
    return found


def across_networks(
    name: str,
    fabric: Fabric,
    wire: Sequence[Array],
    hops: Sequence[Array],
    filling: Sequence[Array],
    parts: Sequence[str] | None = None,
    around: bool = False,
    later_s: Array = 0.0,
    crowd: Array = 1.0,
) -> list[Candidate]:
    """One candidate per protocol of a network, by :func:`seconds_across`; ``parts``: the algorithm whose
    constants each level has (absent: ``name``)."""
    parts = parts or [name] * len(wire)
    return [
        Candidate(
            labelled(name, protocol),
            seconds_across(fabric, parts, protocol, wire, hops, filling, around, later_s, crowd),
            tuple(wire),
        )
        for protocol in PROTOCOLS_ACROSS
    ]
