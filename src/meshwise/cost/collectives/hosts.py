"""What PCIe cards of one host get of their lanes when several of them talk: a property of the host.

With peer access: measured shares of one card's lane rate (``[hosts]`` of ``pcie`` in
``catalog/collectives``, written by ``tools/fit_hosts.py``), by what is between the cards and by how many of
them take part. They hold for all generations of PCIe, so that faster lanes are faster; between the measured
numbers of cards they follow a power of that number, beyond them they stay. Through a host's memory: rates
that hosts reach, whatever the number of cards (``[hosts]`` of ``pcie-no-p2p``).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from meshwise import catalog
from meshwise.arrays import Array
from meshwise.clusters.cluster import Cluster, Level

CARDS = ("pcie", "pcie-host")  # kinds of levels whose links are the cards' own lanes
_MEMORY = ("pcie-host", "shared-memory", "socket")  # through a host's memory, whatever the number
_UNKNOWN = "unknown"


@functools.cache
def _shares() -> dict[str, Any]:
    """``[hosts]`` of cards with peer access, and of those without."""
    peers, memory = (
        catalog.load("collectives", name, "collectives")[1]["hosts"]
        for name in ("pcie", "pcie-no-p2p")
    )
    return {**peers, **memory}


def _by_cards(name: str, cards: Array) -> Array:
    table = _shares()
    at = np.log(np.asarray(cards, dtype=np.float64))
    return np.interp(at, np.log(table["cards"]), table[name])


@functools.cache
def _memory_bytes_per_s(lanes: float) -> float:
    """Bytes/s that hosts reach through their memory at a lane rate [bytes/s]: a power of it between the
    measured ones, a share of it beyond them."""
    known, reached = np.log(np.array(_shares()["memory_rates"])).T
    inside = np.interp(np.log(lanes), known, reached)
    beyond = np.log(lanes) - np.clip(np.log(lanes), known[0], known[-1])
    return float(np.exp(inside + beyond))


def lane_share(level: Level, cards: Array) -> Array:
    """Share of its lane rate that each of ``cards`` gets."""
    if level.kind in _MEMORY:
        lanes = level.bandwidth_bytes_per_s
        return np.float64(_memory_bytes_per_s(lanes) / lanes)
    table = _shares()
    at = np.log(np.asarray(cards, dtype=np.float64))
    known = np.log(table[level.pcie_host or _UNKNOWN])
    return np.exp(np.interp(at, np.log(table["cards"]), known))


def _cards(cluster: Cluster, ranks: Sequence[Array]) -> Array:
    """How many cards of a host a group has."""
    cards: Array = 1
    for level, r in zip(cluster.levels, ranks, strict=True):
        if level.kind == "network":
            break
        cards = cards * r
    return cards


def lane_shares(cluster: Cluster, ranks: Sequence[Array]) -> list[Array]:
    """By level, what a group gets of the lane rate; 1 where the level is not of lanes, or the cluster
    states what is reached."""
    shared = [
        level.kind in ("pcie", *_MEMORY)
        and level.efficiency is None
        and lanes_below(cluster, index) is None  # the way over sockets is in the cards' share
        for index, level in enumerate(cluster.levels)
    ]
    if not any(shared):
        return [1.0 for _ in ranks]
    cards = _cards(cluster, ranks)
    return [
        lane_share(level, cards) if own else 1.0
        for level, own in zip(cluster.levels, shared, strict=True)
    ]


def share_lanes(cluster: Cluster) -> bool:
    """Whether the more cards of a host take part, the less each of them gets."""
    return any(level.kind == "pcie" and level.efficiency is None for level in cluster.levels)


def host_doubts(cluster: Cluster, ranks: Sequence[Array]) -> list[Array]:
    """By level, the doubt about those shares, as ``Constants.lent``: most where nobody said what is
    between the cards. Without peer access it comes with the constants."""
    if not any(level.kind == "pcie" for level in cluster.levels):
        return [0.0 for _ in ranks]
    cards = _cards(cluster, ranks)
    return [
        _by_cards("lent_known" if level.pcie_host else "lent_unknown", cards)
        if level.kind == "pcie" and level.efficiency is None
        else 0.0
        for level in cluster.levels
    ]


def lanes_below(cluster: Cluster, index: int) -> Level | None:
    """The level of lanes by whose cards the sockets of a level are joined; None where there is none."""
    if cluster.levels[index].kind != "socket":
        return None
    below = [level for level in cluster.levels[:index] if level.kind in CARDS]
    return below[-1] if below else None
