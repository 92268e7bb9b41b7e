"""Time and wire bytes of collectives over a hierarchical fabric; the cheapest legal algorithm wins.

Notation: n ranks, S payload bytes as nccl-tests counts them, r_l ranks of the group in one domain
of level l (Π r_l = n), R_l = r_0…r_{l-1} ranks of the group below level l, b_l wire bytes/second per
device and direction at level l, e the measured efficiency, a the seconds per step, c the bytes/second
of a copy in a device's own memory.

All arrays broadcast; a group of one rank costs exactly nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.clusters.load import Cluster, Level
from meshwise.cost.collectives.fits import Constants, Protocol, constants
from meshwise.cost.collectives.ring_paths import ceil_log2, ring_hops, ring_shares
from meshwise.cost.sources import Source
from meshwise.layouts.placement import Group
from meshwise.stacks.stack import Stack
from meshwise.strict_tables import one_of

OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv", "broadcast")


def operation(name: str) -> str:
    """An operation by its name in any library's spelling: all-reduce, AllReduce, alltoall."""
    spelt = {op.replace("_", ""): op for op in OPS}
    plain = re.sub(r"[^a-z]", "", name.lower()) if isinstance(name, str) else ""
    return one_of(spelt.get(plain, name), "op", OPS)


# Ring steps and bytes that a rank sends, in units of (n-1) steps and (n-1)/n · S.
RING_ROUNDS = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}


class Candidate(NamedTuple):
    """One algorithm: seconds, and bytes that one device sends per fabric level (innermost first)."""

    algorithm: str
    seconds: Array
    wire_bytes: tuple[Array, ...]


class Priced(NamedTuple):
    """The cheapest candidate of each element of the arrays."""

    seconds: Array
    wire_bytes: tuple[Array, ...]
    chosen: Array  # index into ``names``
    names: tuple[str, ...]
    sources: tuple[Source, ...]  # per fabric level
    lent: tuple[float, ...]  # per fabric level: Constants.lent


def busbw_factor(op: str, n: Array) -> Array:
    """busbw / algbw as nccl-tests defines it (its doc/PERFORMANCE.md)."""
    if op == "all_reduce":
        return 2.0 * (n - 1) / n
    if op in ("all_gather", "reduce_scatter", "all_to_all"):
        return (n - 1) / n
    return 1.0


# What a network keeps of its rate for every e-fold of domains beyond two that it joins, when each talks
# to its neighbours: one exponent for 29 logs on 2 to 256 nodes (598 rows of verbs, OFI, EFA and TCP).
NEIGHBOURS = -0.035

FULL_MESHES = ("infinity-fabric", "gaudi-mesh")  # every pair has a link of its own


def device_bandwidth(level: Level, below: int, active: Array, ranks: Array) -> Array:
    """Bytes/second per device and direction at ``level`` when ``active`` of the ``below`` devices
    under it use it at once; NICs are shared evenly, and one device drives only its own share of
    NICs (at least one). In a full mesh a group of n uses the n−1 links among its own ranks."""
    if level.nics is None:
        rate = level.bandwidth_bytes_per_s / level.oversubscription
        if level.kind in FULL_MESHES and level.ranks > 2:
            return rate * np.maximum(ranks - 1, 1) / (level.ranks - 1)
        return rate
    share = level.nics / np.maximum(active, 1)
    own = max(1.0, level.nics / below)
    return level.bandwidth_bytes_per_s * np.minimum(share, own) / level.oversubscription


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

    def copy(self, payload: Array) -> Array:
        """Seconds in which a rank copies its own 1/n of the buffer: S / (n · c)."""
        return payload / (self.size * self.per_level[0].copy_bytes_per_s)


def streamed(
    fabric: Fabric, wire: Sequence[Array], hops: Sequence[Array], protocols: Sequence[Protocol]
) -> Array:
    """launch + Σ hops · a + max over levels of bytes / (e · b): levels work at the same time.

    The launch is the kernel's, so the innermost level's; each hop takes its own level's step.
    """
    seconds: Array = protocols[0].launch_s
    slowest: Array = 0.0
    carried: Array = 0.0
    for index in reversed(range(len(wire))):
        p = protocols[index]
        seconds = seconds + hops[index] * p.step_s
        # PCIe cards reach the other socket by the same port that serves their neighbours.
        carried = wire[index] + (carried if fabric.through[index] else 0.0)
        busy = carried / (p.efficiency * fabric.bandwidth[index])
        if fabric.in_series and fabric.through[index]:
            busy = busy + wire[index + 1] / fabric.bandwidth[index + 1]
        slowest = np.maximum(slowest, busy)
    return seconds + slowest


def _names(fabric: Fabric, algorithm: str) -> list[str]:
    """Protocols of an algorithm at any level; the whole collective runs one of them."""
    found = [c.algorithms[algorithm] for c in fabric.per_level if algorithm in c.algorithms]
    return list(dict.fromkeys(p.name for a in found for p in a.protocols))


def _label(algorithm: str, protocol: str) -> str:
    return f"{algorithm}/{protocol}" if protocol else algorithm


def ring(op: str, payload: Array, fabric: Fabric) -> list[Candidate]:
    """Multi-rail ring: (n−1)/n · S per round trip (twice for all_reduce) in as many steps
    (Patarasuk and Yuan, JPDC 69(2), 2009), and the copy of a rank's own share. One per protocol."""
    n = fabric.size
    trips = RING_ROUNDS[op]
    total = trips * (n - 1) / n * payload
    wire = tuple(total * share for share in ring_shares(fabric.ranks))
    hops = [trips * h for h in ring_hops(fabric.ranks)]
    copy = fabric.copy(payload)
    found = []
    for name in _names(fabric, "ring"):
        protocols = [c.algorithms["ring"].protocol(name) for c in fabric.per_level]
        seconds = streamed(fabric, wire, hops, protocols) + copy
        found.append(Candidate(_label("ring", name), seconds, wire))
    return found


def hierarchical_wire(op: str, payload: Array, ranks: Sequence[Array]) -> tuple[Array, ...]:
    """Bytes sent per level: reduce_scatter inside, the rest of the work on 1/R_l of the payload."""
    trips = RING_ROUNDS[op]
    wire, inner = [], 1.0
    for r in ranks:
        wire.append(trips * (r - 1) / r * payload / inner)
        inner = inner * r
    return tuple(wire)


def hierarchical(op: str, payload: Array, fabric: Fabric) -> list[Candidate]:
    """Reduce_scatter inside, the collective across on 1/r_0 of the payload, all_gather inside: one
    after the other, so the levels' times add. Only for groups that cross more than one level, and
    only in the ideal stack: NCCL has no such algorithm, and its tree is measured."""
    if "hierarchical" not in fabric.per_level[0].algorithms:
        return []
    wire = hierarchical_wire(op, payload, fabric.ranks)
    trips = RING_ROUNDS[op]
    seconds: Array = 0.0
    crossed: Array = 0
    for sent, r, b, c in zip(wire, fabric.ranks, fabric.bandwidth, fabric.per_level, strict=True):
        p = c.algorithms["ring"].fastest
        part = p.launch_s + trips * (r - 1) * p.step_s + sent / (p.efficiency * b)
        used = np.asarray(r) > 1
        seconds = seconds + np.where(used, part, 0.0)
        crossed = crossed + used
    return [Candidate("hierarchical", np.where(crossed > 1, seconds, np.inf), wire)]


def tree(op: str, payload: Array, fabric: Fabric) -> list[Candidate]:
    """A double binary tree over the network (Sanders, Speck and Träff, Parallel Computing 35(12),
    2009), chains inside the domains below it, up and down, all at the same time: 2·⌈log2 r_l⌉ hops
    there, 2·(r_l − 1) here. With adding switches inside ("nvls_tree") a rank sends them its S once.
    """
    if op != "all_reduce" or not (names := _names(fabric, "tree")):
        return []
    wire = hierarchical_wire(op, payload, fabric.ranks)
    is_tree = ["tree" in c.algorithms for c in fabric.per_level]
    across: Array = False
    hops = []
    for r, network in zip(fabric.ranks, is_tree, strict=True):
        hops.append(2 * (ceil_log2(r) if network else r - 1))
        across = across | (network & (np.asarray(r) > 1))

    def at(level: Constants, name: str) -> Protocol:
        return level.algorithms["tree" if "tree" in level.algorithms else "ring"].protocol(name)

    found = []
    copy = fabric.copy(payload)
    for name in names:
        protocols = [at(c, name) for c in fabric.per_level]
        seconds = np.where(across, streamed(fabric, wire, hops, protocols) + copy, np.inf)
        found.append(Candidate(_label("tree", name), seconds, wire))
    switch = fabric.per_level[0].algorithms.get("nvls")
    if switch is not None:
        wire = (payload * 1.0, *wire[1:])
        protocols = [switch.fastest, *(at(c, "simple") for c in fabric.per_level[1:])]
        seconds = streamed(fabric, wire, [0, *hops[1:]], protocols)
        legal = across & fabric.in_switch & (fabric.ranks[0] >= switch.min_ranks)
        found.append(Candidate("nvls_tree", np.where(legal, seconds, np.inf), wire))
    return found


def _inner_only(fabric: Fabric, seconds: Array, legal: Array) -> Array:
    return np.where((fabric.outermost == 0) & legal, seconds, np.inf)


def in_switch(op: str, payload: Array, fabric: Fabric) -> list[Candidate]:
    """The switch adds and multicasts: each rank sends its S once. NCCL's kernel is "nvls", vLLM's
    "multimem"; each has its own launch and efficiency."""
    found = []
    wire = (payload * 1.0, *(0.0 * payload for _ in fabric.ranks[1:]))
    for name in ("nvls", "multimem"):
        a = fabric.per_level[0].algorithms.get(name)
        if op == "all_reduce" and a is not None:
            p = a.protocols[0]
            seconds = p.launch_s + payload / (p.efficiency * fabric.bandwidth[0])
            legal = fabric.in_switch & (fabric.size >= a.min_ranks)
            found.append(Candidate(name, _inner_only(fabric, seconds, legal), wire))
    return found


def one_shot(op: str, payload: Array, fabric: Fabric) -> list[Candidate]:
    """Every rank reads all others' buffers and adds: (n−1) · S, one step (small messages)."""
    a = fabric.per_level[0].algorithms.get("one_shot")
    if op != "all_reduce" or a is None:
        return []
    sent = (fabric.size - 1) * payload
    p = a.protocols[0]
    seconds = p.launch_s + sent / (p.efficiency * fabric.bandwidth[0])
    wire = (sent, *(0.0 * payload for _ in fabric.ranks[1:]))
    return [Candidate("one_shot", _inner_only(fabric, seconds, fabric.peer_to_peer), wire)]


def two_shot(op: str, payload: Array, fabric: Fabric) -> list[Candidate]:
    """Every rank adds its 1/n, then reads the others' sums: 2(n−1)/n · S, two steps."""
    a = fabric.per_level[0].algorithms.get("two_shot")
    if op != "all_reduce" or a is None:
        return []
    n = fabric.size
    sent = 2.0 * (n - 1) / n * payload
    p = a.protocols[0]
    seconds = p.launch_s + 2 * p.step_s + sent / (p.efficiency * fabric.bandwidth[0])
    wire = (sent, *(0.0 * payload for _ in fabric.ranks[1:]))
    return [Candidate("two_shot", _inner_only(fabric, seconds, fabric.peer_to_peer), wire)]


def direct(op: str, payload: Array, fabric: Fabric) -> list[Candidate]:
    """all_to_all: 1/n of the buffer to every other rank, each over the level that joins the two.
    send_recv: the buffer over the outermost level of the pair. Both with one step of that level.
    broadcast: a pipelined chain through all ranks. One candidate per protocol."""
    n = fabric.size
    wire: list[Array] = []
    inner: Array = 1
    if op == "all_to_all":
        for r in fabric.ranks:
            wire.append((inner * r - inner) / n * payload)
            inner = inner * r
    elif op == "broadcast":  # as many chains as a domain has ranks, each over a NIC of its own
        wire = [payload * share for share in ring_shares(fabric.ranks)]
    else:
        for index in range(len(fabric.ranks)):
            wire.append(np.where(fabric.outermost == index, payload * 1.0, 0.0 * payload))
    hops = [np.where(fabric.outermost == index, 1, 0) for index in range(len(wire))]
    if op == "broadcast":
        hops = ring_hops(fabric.ranks)
    copy = fabric.copy(payload) if op == "all_to_all" else 0.0
    found = []
    for name in _names(fabric, "direct"):
        protocols = [c.algorithms["direct"].protocol(name) for c in fabric.per_level]
        # Every peer is served at the same time: the time is that of one peer's part.
        most = [
            np.where(w > 0, payload / n, 0.0) if p.per_peer else w
            for p, w in zip(protocols, wire, strict=True)
        ]
        seconds = streamed(fabric, most, hops, protocols) + copy
        label = _label("chain" if op == "broadcast" else "direct", name)
        found.append(Candidate(label, seconds, tuple(wire)))
    return found


def fabric_of(op: str, group: Group, cluster: Cluster, stack: Stack) -> Fabric:
    """The levels as this group meets them."""
    library = stack.communication.collectives
    name = op if op in OPS else "all_reduce"
    per_level = tuple(constants(level, name, library, stack.ideal) for level in cluster.levels)
    below = (1, *cluster.domain_sizes()[:-1])
    bandwidth = tuple(
        device_bandwidth(level, b, active, ranks)
        for level, b, active, ranks in zip(
            cluster.levels, below, group.active, group.ranks, strict=True
        )
    )
    if not stack.ideal:
        bandwidth = tuple(map(_among_many, cluster.levels, bandwidth, group.ranks))
    outermost: Array = np.int64(0)
    for index, r in enumerate(group.ranks):
        outermost = np.where(np.asarray(r) > 1, index, outermost)
    inner = cluster.levels[0]
    above = [level.kind == "socket" for level in cluster.levels[1:]] + [False]
    return Fabric(
        through=tuple(above),
        ranks=group.ranks,
        bandwidth=bandwidth,
        per_level=per_level,
        outermost=outermost,
        size=group.size,
        peer_to_peer=_custom_kernels(inner, group.size, stack),
        in_switch=np.bool_(inner.in_switch and stack.communication.in_switch and not stack.ideal),
        in_series=not stack.ideal,
    )


def _among_many(level: Level, rate: Array, ranks: Array) -> Array:
    """A level's rate when ``ranks`` of its domains communicate: a network's falls with them."""
    if level.kind != "network" or level.efficiency is not None:
        return rate
    return rate * np.maximum(np.asarray(ranks) / 2.0, 1.0) ** NEIGHBOURS


def _custom_kernels(inner: Level, size: Array, stack: Stack) -> Array:
    """Where the stack's one-shot and two-shot kernels run: peer access, and over PCIe few ranks."""
    able = inner.peer_to_peer and stack.communication.custom_all_reduce and not stack.ideal
    most = stack.communication.custom_all_reduce_pcie_ranks if inner.kind == "pcie" else inner.ranks
    return np.bool_(able) & (size <= most)


def candidates(
    op: str, payload: Array, group: Group, cluster: Cluster, stack: Stack
) -> list[Candidate]:
    """Every algorithm for ``op`` on this group; an illegal one takes infinite time.

    ``payload`` in bytes as nccl-tests counts it. Seconds are 0 where the group has one rank.
    """
    return candidates_on(op, payload, fabric_of(op, group, cluster, stack))


def candidates_on(op: str, payload: Array, fabric: Fabric) -> list[Candidate]:
    alone = fabric.size <= 1
    return [
        Candidate(
            c.algorithm,
            np.where(alone, 0.0, c.seconds),
            tuple(np.where(alone, 0.0, w) for w in c.wire_bytes),
        )
        for c in _built(op, payload, fabric)
    ]


def _built(op: str, payload: Array, fabric: Fabric) -> list[Candidate]:
    """The candidates where a group has several ranks."""
    if op in RING_ROUNDS:
        every = (ring, hierarchical, tree, in_switch, one_shot, two_shot)
        return [c for build in every for c in build(op, payload, fabric)]
    return direct(op, payload, fabric)


def price(op: str, payload: Array, group: Group, cluster: Cluster, stack: Stack) -> Priced:
    """The cheapest legal algorithm for each element."""
    fabric = fabric_of(op, group, cluster, stack)
    found = _built(op, payload, fabric)
    seconds, wire = found[0].seconds, found[0].wire_bytes
    chosen: Array = np.int64(0)
    for index, c in enumerate(found[1:], start=1):
        better = c.seconds < seconds
        seconds = np.where(better, c.seconds, seconds)
        wire = tuple(
            np.where(better, new, old) for new, old in zip(c.wire_bytes, wire, strict=True)
        )
        chosen = np.where(better, index, chosen)
    if np.any(alone := fabric.size <= 1):
        seconds, chosen = np.where(alone, 0.0, seconds), np.where(alone, 0, chosen)
        wire = tuple(np.where(alone, 0.0, w) for w in wire)
    names = tuple(c.algorithm for c in found)
    used = [
        constants(lv, op, stack.communication.collectives, stack.ideal) for lv in cluster.levels
    ]
    sources, lent = tuple(c.source for c in used), tuple(c.lent for c in used)
    return Priced(seconds, wire, chosen, names, sources, lent)
