"""Constants of networks: one set for each kind of transport, whatever its rate and whoever made it.

A fabric of the catalog says its transport; a network that a file describes by figures alone is one of
which no more is known. What the cluster's file states of its network holds instead of a constant.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from meshwise import catalog
from meshwise.clusters.load import Cluster, Level
from meshwise.cost.collectives.fabric import Constants, Measured, NetworkForm, Protocol
from meshwise.cost.collectives.network import BULK_PROTOCOL, QUICK_PROTOCOL
from meshwise.cost.sources import Source

ALL_TRANSPORTS = "network"  # the file of what all transports have in common
UNKNOWN_TRANSPORT = "rdma"  # the transport of a network that the catalog does not have
TRANSPORTS = ("verbs", "ofi", "efa", "tcp", "tcpx", UNKNOWN_TRANSPORT, "kernel")
DATA_SHARE = 0.97  # of a network's rate at most this is data

# Levels whose traffic passes through host memory: what it reaches is the host's property.
THROUGH_HOST = ("pcie-host", "shared-memory", "socket")
# Levels on which a rank's stores reach its neighbour without a switch of the host between them.
_LINKS = ("nvswitch", "nvlink-mesh", "nvlink-bridge", "infinity-fabric", "gaudi-mesh", "ici")


@functools.cache
def transport_table(name: str) -> dict[str, Any]:
    """A transport's constants, or those that all have in common, as the catalog has them."""
    return catalog.load("collectives", name, "collectives")[1]


def transport_of(fabric: str) -> str:
    """The transport of a network's fabric."""
    return str(_fabric(fabric).get("transport", UNKNOWN_TRANSPORT))


@functools.cache
def _fabric(name: str) -> dict[str, Any]:
    known = catalog.canonical("fabrics", name)
    return {} if known is None else catalog.load("fabrics", known, "fabric")[1]


class Transports:
    """Constants of networks from ``tables``: the catalog's, or a fit's trial."""

    def __init__(self, tables: Callable[[str], dict[str, Any]] = transport_table) -> None:
        self.tables = tables
        self._known: dict[Level, Constants] = {}

    def constants(self, level: Level) -> Constants:
        """Constants of a network, by its transport; all operations have the same."""
        found = self._known.get(level)
        if found is None:
            found = self._known[level] = self._constants(level)
        return found

    def _constants(self, level: Level) -> Constants:
        transport = transport_of(level.fabric)
        own, shared = self.tables(transport), self.tables(ALL_TRANSPORTS)
        share = own["efficiency"]
        if "limit_bytes_per_s" in own:
            share = min(share, own["limit_bytes_per_s"] / level.bandwidth_bytes_per_s)
        if level.efficiency is not None:  # that of the whole collective
            share = level.efficiency
        launch, quick, bulk = shared["launch_s"], own["hop_s"], own["bulk_hop_s"]
        if level.own_latency:  # the time of one step; then there is no launch beside it
            launch, quick, bulk = 0.0, level.latency_s, level.latency_s
        stated = level.efficiency is not None or level.own_latency

        def measured(of_ring: float) -> Measured:
            most = share if level.efficiency is not None else min(share * of_ring, DATA_SHARE)
            protocols = [Protocol(BULK_PROTOCOL, launch, bulk, most)]
            if not stated:
                protocols.append(
                    Protocol(QUICK_PROTOCOL, launch, quick, most * shared["small_share"])
                )
            return Measured(tuple(protocols))

        ring = measured(1.0)
        form = NetworkForm(
            launch,
            shared["ramp"],
            shared["neighbours"],
            shared["bisection_domains"],
            shared["all_to_all"],
            shared["peer_s"] * (level.latency_s / own["hop_s"] if level.own_latency else 1.0),
        )
        doubt = float(own.get("lent", 0.0))
        return Constants(
            {
                "ring": ring,
                "chain": ring,
                "tree": measured(shared["tree_share"]),
                "direct": measured(shared["direct_share"]),
            },
            float("inf"),
            Source(f"collectives/{transport}", level.fabric if doubt else ""),
            min(doubt, 1.0) if level.efficiency is not None else doubt,
            None if level.efficiency is not None else form,
            bulk,
        )

    def hop_inside_s(self, level: Level) -> float:
        """Seconds of a hop inside a node, on the way to a network."""
        return float(
            self.tables(ALL_TRANSPORTS)["hop_s"]["links" if level.kind in _LINKS else "host"]
        )

    def staged_share(self, cluster: Cluster, level: Level) -> float:
        """Share of a network's rate that is left where its cards cannot reach the devices' memory: all
        of it with GPUDirect, and with transports that go through the host in any case."""
        if not self.tables(transport_of(level.fabric))["gpudirect"]:
            return 1.0
        if _reaches_devices(level.fabric, cluster.levels[0].kind, cluster.device.fabric or ""):
            return 1.0
        return float(self.tables(ALL_TRANSPORTS)["without_gpudirect"])


@functools.cache
def _reaches_devices(network: str, inside: str, usual: str) -> bool:
    """Whether a network's cards read the devices' memory: not where the fabric says so, nor on hosts
    or with cards whose own traffic goes through the host's memory."""
    own, device = _fabric(network), _fabric(usual)
    if inside in THROUGH_HOST or device.get("kind") in THROUGH_HOST:
        return False
    return bool(own.get("gpudirect", True) and device.get("gpudirect", True))


SHIPPED_TRANSPORTS = Transports()
