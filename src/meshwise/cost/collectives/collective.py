"""Time and wire bytes of collectives over a hierarchical fabric; the cheapest legal algorithm wins.

All arrays broadcast; a group of one rank costs exactly nothing.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.clusters.load import Cluster, Level
from meshwise.cost.collectives.algorithms import OPS, ROOTED, candidates_of
from meshwise.cost.collectives.fabric import Candidate, Constants, Fabric
from meshwise.cost.collectives.fits import constants, network_constants
from meshwise.cost.collectives.hosts import host_doubts, lane_shares, lanes_below
from meshwise.cost.collectives.network import domains_joined, fall
from meshwise.cost.collectives.transports import SHIPPED_TRANSPORTS, Transports
from meshwise.cost.sources import Source
from meshwise.layouts.placement import Group
from meshwise.stacks.stack import Stack
from meshwise.strict_tables import one_of


def operation(name: str) -> str:
    """An operation by its name in any library's spelling: all-reduce, AllReduce, alltoall, sendrecv, and
    that of the program of nccl-tests which measures it, all_reduce_perf."""
    return one_of(known_operation(name) or name, "op", OPS)


def known_operation(name: object) -> str | None:
    """As :func:`operation`; None where it is none."""
    spelt = {op.replace("_", ""): op for op in OPS}
    plain = re.sub(r"[^a-z]", "", name.lower()) if isinstance(name, str) else ""
    return spelt.get(plain.removesuffix("perf"))


class Priced(NamedTuple):
    """The cheapest candidate of each element of the arrays."""

    seconds: Array
    wire_bytes: tuple[Array, ...]
    chosen: Array  # index into ``names``
    names: tuple[str, ...]
    sources: tuple[Source, ...]  # per fabric level
    lent: tuple[Array, ...]  # per fabric level: Constants.lent, and the host's


def busbw_factor(op: str, n: Array) -> Array:
    """busbw / algbw as nccl-tests defines it (its doc/PERFORMANCE.md)."""
    if op == "all_reduce":
        return 2.0 * (n - 1) / n
    if op in ("all_gather", "reduce_scatter", "all_to_all", *ROOTED):
        return (n - 1) / n
    return 1.0


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


def fabric_of(
    op: str,
    group: Group,
    cluster: Cluster,
    stack: Stack,
    transports: Transports = SHIPPED_TRANSPORTS,
    *,
    by_own_nic: bool = False,
) -> Fabric:
    """The levels as this group meets them, with the constants that ``transports`` has of networks;
    ``by_own_nic``: the root of a scatter sends by its own alone."""
    library = stack.communication.collectives
    per_level = tuple(
        network_constants(level, op, transports)
        if level.kind == "network" and not stack.ideal
        else _constants(cluster, index, op, library, stack.ideal)
        for index, level in enumerate(cluster.levels)
    )
    below = (1, *cluster.domain_sizes()[:-1])
    above = [level.kind == "socket" for level in cluster.levels[1:]] + [False]
    if op in ROOTED:
        every = _by_every_nic(cluster) and not by_own_nic
        above[0] = above[0] or every
        nics = None if every else 1
        bandwidth = tuple(
            _root_bandwidth(level, b, ranks, nics)
            for level, b, ranks in zip(cluster.levels, below, group.ranks, strict=True)
        )
    else:
        bandwidth = tuple(
            device_bandwidth(level, b, active, ranks)
            for level, b, active, ranks in zip(
                cluster.levels, below, group.active, group.ranks, strict=True
            )
        )
    if not stack.ideal:
        shares = lane_shares(cluster, group.ranks)
        bandwidth = tuple(b * share for b, share in zip(bandwidth, shares, strict=True))
    # what crosses a network has fewer bytes a second the more domains send, and slower hops inside
    domains = domains_joined(group.ranks, per_level)
    across = np.asarray(domains) > 1
    if np.any(across):
        per_level = tuple(
            c if level.kind == "network" else c._replace(hop_s=transports.hop_inside_s(level))
            for c, level in zip(per_level, cluster.levels, strict=True)
        )
        bandwidth = tuple(
            b
            if c.network is None
            else b * (transports.staged_share(cluster, level) * fall(domains, c.network.neighbours))
            for b, c, level in zip(bandwidth, per_level, cluster.levels, strict=True)
        )
    outermost: Array = np.int64(0)
    for index, r in enumerate(group.ranks):
        outermost = np.where(np.asarray(r) > 1, index, outermost)
    inner = cluster.levels[0]
    return Fabric(
        through=tuple(above),
        ranks=group.ranks,
        bandwidth=bandwidth,
        per_level=per_level,
        outermost=outermost,
        size=group.size,
        peer_to_peer=_custom_kernels(inner, group.size, stack),
        in_switch=np.bool_(inner.in_switch and stack.communication.in_switch and not stack.ideal),
        in_series=inner.kind == "pcie-host" and not stack.ideal,
        across=across,
        domains=domains,
    )


def _by_every_nic(cluster: Cluster) -> bool:
    """Whether one device sends by the NICs of all of its node: over NVLink to the device beside the NIC,
    which sends it on (PXN, the default of NCCL's send and receive since 2.12)."""
    kinds = [level.kind for level in cluster.levels[:2]]
    return kinds in (["nvswitch", "network"], ["nvlink-mesh", "network"])


def _root_bandwidth(level: Level, below: int, ranks: Array, nics: int | None) -> Array:
    """Bytes/second of one device that alone sends over ``level``: by so many NICs (None: all of them),
    at least by its own share."""
    if level.nics is None or level.kind != "network":
        return device_bandwidth(level, below, np.int64(1), ranks)
    used = max(float(nics or level.nics), level.nics / below)
    return level.bandwidth_bytes_per_s * used / level.oversubscription


def _constants(cluster: Cluster, index: int, op: str, library: str, ideal: bool) -> Constants:
    """A level's constants; what joins two sockets has those of the cards that talk over it."""
    level = cluster.levels[index]
    lanes = lanes_below(cluster, index)
    stated = level.efficiency is not None or level.own_latency
    return constants(level if lanes is None or stated else lanes, op, library, ideal)


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
        for c in candidates_of(op, payload, fabric)
    ]


def cheapest(op: str, payload: Array, group: Group, cluster: Cluster, stack: Stack) -> Priced:
    """The cheapest legal algorithm for each element."""
    fabric = fabric_of(op, group, cluster, stack)
    found = candidates_of(op, payload, fabric)
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
    sources = tuple(c.source for c in fabric.per_level)
    doubts = host_doubts(cluster, group.ranks)
    lent = tuple(np.hypot(c.lent, doubt) for c, doubt in zip(fabric.per_level, doubts, strict=True))
    return Priced(seconds, wire, chosen, names, sources, lent)
