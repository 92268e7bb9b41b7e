"""What a collective's algorithm reads: the fabric's levels as a group meets them, with the measured
constants of each; and how bytes and hops on them become seconds.

Notation: n ranks, S payload bytes as nccl-tests counts them, r_l ranks of the group in one domain
of level l (Π r_l = n), R_l = r_0…r_{l-1} ranks of the group below level l, b_l wire bytes/second per
device and direction at level l, e the measured efficiency, a the seconds per step, c the bytes/second
of a copy in a device's own memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.cost.sources import Source

PROTOCOLS = ("simple", "narrow", "ll128", "ll")  # from the one for the largest messages on


class Protocol(NamedTuple):
    """One way to run an algorithm: ``launch_s`` once, ``step_s`` per hop, ``efficiency`` of the wire
    rate; ``per_peer``: that share serves each peer at the same time, not all of them in turn;
    ``peer_s`` per peer that is sent to by itself; ``ramp``: k of the 2k·√(L·X) in which pieces fill a
    pipeline of latency L with bytes of X seconds."""

    name: str
    launch_s: float
    step_s: float
    efficiency: float
    per_peer: bool = False
    peer_s: float = 0.0
    ramp: float = 0.0


class Measured(NamedTuple):
    """Constants of one algorithm on one level."""

    protocols: tuple[Protocol, ...]
    min_ranks: int = 2

    @property
    def fastest(self) -> Protocol:
        """The protocol for the largest messages."""
        return max(self.protocols, key=lambda p: p.efficiency)

    def protocol(self, name: str) -> Protocol:
        """The protocol of that name, else the next one for larger messages."""
        own = {p.name: p for p in self.protocols}
        order = PROTOCOLS[: PROTOCOLS.index(name) + 1] if name in PROTOCOLS else ()
        return next((own[p] for p in reversed(order) if p in own), self.fastest)


class NetworkForm(NamedTuple):
    """What networks have in common, of whatever transport (``catalog/collectives/network.toml``)."""

    launch_s: float  # of a collective that crosses one
    ramp: float  # share of the time in which the pipeline of chunks fills and drains
    neighbours: float  # exponent of a rate's fall with the domains that send to their neighbours
    bisection_domains: float  # so many domains send to each other at full rate
    all_to_all: float  # exponent of the fall beyond, where every domain sends to every other
    peer_s: float  # of an all_to_all, for every rank behind the network


class Constants(NamedTuple):
    """Constants of one collective on one fabric level, by algorithm; and where they come from."""

    algorithms: dict[str, Measured]
    copy_bytes_per_s: float  # of a rank's own share, from the input to the output buffer
    source: Source
    lent: float = 0.0  # doubt that they hold here, in units of what another fabric's have
    network: NetworkForm | None = None  # None: inside a node, or as the cluster's file states it
    hop_s: float = 0.0  # of a hop inside a node, on the way to a network


class Fabric(NamedTuple):
    """What the algorithms read: bandwidth per level for this group, and the constants."""

    ranks: tuple[Array, ...]
    bandwidth: tuple[Array, ...]
    per_level: tuple[Constants, ...]
    outermost: Array  # index of the outermost level that the group crosses
    size: Array
    peer_to_peer: Array
    in_switch: Array
    through: tuple[bool, ...]  # does the traffic of the level above leave by this level's own links
    in_series: bool = (
        False  # PCIe keeps few requests in flight: the other socket's way adds its time
    )
    across: Array = False  # does the group cross a network that has a form of its own
    domains: Array = 1  # how many domains these networks join

    def copy(self, payload: Array) -> Array:
        """Seconds in which a rank copies its own 1/n of the buffer: S / (n · c)."""
        return payload / (self.size * self.per_level[0].copy_bytes_per_s)

    def protocols(self, algorithm: str) -> list[str]:
        """Protocols of an algorithm at any level; the whole collective runs one of them. Networks with
        a form of their own have theirs."""
        levels = [c for c in self.per_level if c.network is None] or self.per_level
        found = [c.algorithms[algorithm] for c in levels if algorithm in c.algorithms]
        return list(dict.fromkeys(p.name for a in found for p in a.protocols))


class Candidate(NamedTuple):
    """One algorithm: seconds, and bytes that one device sends per fabric level (innermost first)."""

    algorithm: str
    seconds: Array
    wire_bytes: tuple[Array, ...]


def streamed(
    fabric: Fabric,
    wire: Sequence[Array],
    hops: Sequence[Array],
    protocols: Sequence[Protocol],
    peers: Sequence[Array] = (),
) -> Array:
    """launch + Σ hops · a + max over levels of bytes / (e · b): levels work at the same time.

    The launch is the kernel's, so the innermost level's; each hop takes its own level's step, and each
    of the ``peers`` that a rank sends to by themselves, by level, that level's ``peer_s``. Pieces fill
    the pipeline of all steps.
    """
    steps: Array = protocols[0].launch_s
    for index in reversed(range(len(wire))):
        steps = steps + hops[index] * protocols[index].step_s
    for p, reached in zip(protocols, peers, strict=False):
        steps = steps + reached * p.peer_s
    return steps + slowest(fabric, wire, protocols, steps)


def slowest(
    fabric: Fabric, wire: Sequence[Array], protocols: Sequence[Protocol], steps: Array = 0.0
) -> Array:
    """Seconds of the level that needs most for its bytes, pieces of them filling a pipeline of ``steps``
    seconds where its protocol has a ramp."""
    longest: Array = 0.0
    carried: Array = 0.0
    for index in reversed(range(len(wire))):
        p = protocols[index]
        # PCIe cards reach the other socket by the same port that serves their neighbours.
        carried = wire[index] + (carried if fabric.through[index] else 0.0)
        busy = carried / (p.efficiency * fabric.bandwidth[index])
        if fabric.in_series and fabric.through[index]:
            busy = busy + wire[index + 1] / fabric.bandwidth[index + 1]
        if p.ramp > 0.0:
            busy = busy + 2.0 * p.ramp * np.sqrt(steps * busy)
        longest = np.maximum(longest, busy)
    return longest
