"""What is between the PCIe cards of a host, which decides how fast several of them talk.

In the words of ``nvidia-smi topo -m``: PIX and PXB are switches, PHB and NODE a socket's root ports, SYS
root ports of several sockets. Without peer access all goes through the host's memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from meshwise import catalog
from meshwise.errors import InputError
from meshwise.strict_tables import one_of
from meshwise.units import TIME, parse_quantity

if TYPE_CHECKING:
    from meshwise.clusters.cluster import Cluster, Level

PCIE_HOSTS = ("switch", "root", "host-memory")
TOPOLOGY_WORDS = {"pix": "switch", "pxb": "switch", "phb": "root", "node": "root", "sys": "root"}
_THROUGH_MEMORY = "host-memory"
_WITHOUT_PEERS = "pcie-host"  # kind of a level without peer access, and end of its fabric's name


def pcie_host_named(value: object, field: str) -> str:
    """A class of hosts by its name, or by a word of ``nvidia-smi topo -m``."""
    word = value.strip().lower() if isinstance(value, str) else value
    return one_of(
        TOPOLOGY_WORDS.get(word, word) if isinstance(word, str) else word, field, PCIE_HOSTS
    )


def pcie_host_of(level: Level) -> str | None:
    """The class of the host whose cards a level joins; None where it is not known, or is no PCIe."""
    return _THROUGH_MEMORY if level.kind == _WITHOUT_PEERS else level.pcie_host


def hosted(level: Level, host: str) -> Level:
    """A level of PCIe in a host of that class: with peer access, or without."""
    memory = host == _THROUGH_MEMORY
    kind = _WITHOUT_PEERS if memory else "pcie"
    if level.kind == kind:
        return msgspec.structs.replace(level, pcie_host=None if memory else host)
    fabric = level.fabric.removesuffix("-host") + ("-host" if memory else "")
    known = catalog.canonical("fabrics", fabric) is not None
    latency = level.latency_s
    if known and not level.own_latency:
        table = catalog.load("fabrics", fabric, "fabric")[1]
        latency = parse_quantity(table["latency"], TIME, "latency")
    return msgspec.structs.replace(
        level,
        kind=kind,
        fabric=fabric if known else level.fabric,
        latency_s=latency,
        peer_to_peer=not memory,
        pcie_host=None if memory else host,
    )


def with_pcie_host(cluster: Cluster, value: object, field: str = "pcie_host") -> Cluster:
    """The cluster with its PCIe cards in a host of that class."""
    host = pcie_host_named(value, field)
    kinds = ("pcie", _WITHOUT_PEERS)
    if not any(level.kind in kinds for level in cluster.levels):
        raise InputError(
            f"{field}={host}: no level of {cluster.name} is PCIe",
            field=field,
            value=value,
            legal="a cluster whose cards are joined by PCIe",
        )
    levels = tuple(hosted(lv, host) if lv.kind in kinds else lv for lv in cluster.levels)
    return msgspec.structs.replace(cluster, levels=levels)


def unknown_host(cluster: Cluster) -> str | None:
    """The level (``level[0]``) on which more than two cards are joined and nobody said how; else None."""
    total = 1
    for index, level in enumerate(cluster.levels):
        if level.kind == "network":
            break
        total *= level.ranks
        if level.kind == "pcie" and level.pcie_host is None and level.efficiency is None:
            below = [lv.ranks for lv in cluster.levels[index + 1 :] if lv.kind == "socket"]
            return f"level[{index}]" if total * (below[0] if below else 1) > 2 else None
    return None
