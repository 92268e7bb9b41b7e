"""From a row's words for its hardware to a cluster: device, fabric inside the node, network across."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from meshwise import catalog
from meshwise.clusters import names as cluster_names
from meshwise.clusters.load import Cluster, cluster_from_table, device, load_cluster
from meshwise.clusters.network_words import network_of_words
from meshwise.clusters.pcie_hosts import (
    PCIE_HOSTS,
    TOPOLOGY_WORDS,
    pcie_host_named,
    with_pcie_host,
)
from meshwise.errors import InputError
from meshwise.evidence.tables import Assumed, Row

# Words of a fabric → catalog fabric; the first that the cell begins with. "no P2P" makes PCIe go
# through host memory.
_NO_PEER_ACCESS = ("no p2p", "p2p disabled", "p2p off", "without p2p")
_INSIDE = (
    ("nvlink2", "nvlink2-nvswitch"),
    ("nvlink3", "nvlink3-nvswitch"),
    ("nvlink4", "nvlink4-nvswitch"),
    ("nvlink5", "nvlink5-nvswitch"),
    ("infinity-fabric", "infinity-fabric-mi300x"),
    ("pcie3", "pcie3"),
    ("pcie4", "pcie4"),
    ("pcie5", "pcie5"),
)
# A device's network is no faster than ten times the fastest of the catalog.
MAX_GBYTES_PER_S = 2000.0
_DEFAULT_NETWORK = {"hopper": ("ib-ndr", 50.0), "blackwell": ("ib-ndr", 50.0)}


def node_fabric(row: Row, usual: str | None) -> tuple[str, bool]:
    """The catalog fabric of a row's ``intra_node`` cell, and whether the cell says it: else the
    device's usual one, also where its word is not known."""
    cell = row.text("intra_node").lower()
    named = catalog.canonical("fabrics", cell) if cell else None
    if named is not None:  # a card that has no peer access has none in any host
        return usual if usual == f"{named}-host" else named, True
    for words, fabric in _INSIDE:
        if cell.startswith(words):
            without = f"{fabric}-host"
            host = without == usual or any(w in cell for w in _NO_PEER_ACCESS)
            return without if host and fabric.startswith("pcie") else fabric, True
    return usual or "pcie4", False


# The most devices that one operating system has, in the systems of the catalog whose fabric joins many
# hosts (a tray of an NVL72 rack, a host of a TPU slice): a row with fewer says its hosts, not its domain.
_HOST_DEVICES = 8


def _usual_node_devices(name: str, devices: int) -> int:
    """Devices of a usual node of a device: the smallest maker's node that holds them all, else the one
    that the catalog names first."""
    nodes = cluster_names.nodes_of(name)
    own = [n for key, n in nodes if not key.startswith(cluster_names.CLOUDS)] or [
        n for _, n in nodes
    ]
    holding = [n for n in own if n >= devices]
    return min(holding) if holding else next(iter(own), _HOST_DEVICES)


def stated_node(row: Row, devices: int) -> int | None:
    """Devices per node that a row states, itself or by its number of nodes; None where it states neither.

    :raises InputError: where the two do not multiply to the devices.
    """
    nodes = row.count("nodes") if row.text("nodes") else None
    if not row.text("devices_per_node"):
        if nodes is not None and devices % nodes:
            raise row.wrong("nodes", f"does not divide {devices}", f"a divisor of {devices}")
        return None if nodes is None else devices // nodes
    each = row.count("devices_per_node")
    if nodes is not None and each * nodes != devices:
        what = "ranks" if row.text("ranks") else "devices"
        said = f"nodes · devices_per_node = {nodes * each}, not {devices}"
        raise row.wrong(what, said, f"{nodes * each}")
    return each


def node_devices(row: Row, devices: int) -> tuple[int, tuple[Assumed, ...]]:
    """Devices that a row's node (the domain of its fabric) has of ``devices``, and whether that had to be
    assumed: one rack of NVL72 is one domain, however many devices a tray of it has."""
    node = _node_of(row)
    dev = node.device if node else device(row.text("device"), f"line {row.line}: device")
    stated = stated_node(row, devices)
    if node is not None:
        return min(node.node_devices, devices), ()
    usual = _usual_node_devices(dev.name, devices)
    joined = usual > _HOST_DEVICES and catalog.canonical("fabrics", row.text("intra_node")) in (
        *(None, dev.fabric),
    )
    if stated is not None and not (joined and stated <= _HOST_DEVICES < devices):
        return min(stated, devices), ()
    size = min(usual, devices)
    if joined:  # the same part of each domain
        size = max(d for d in range(1, size + 1) if devices % d == 0)
    said = () if devices == 1 or stated == size else (Assumed("devices_per_node", str(size)),)
    return size, said


def usual_rate(generation: str) -> float:
    """GB/s per device and direction of the network that systems of a generation usually have."""
    return _DEFAULT_NETWORK.get(generation, ("ib-hdr", 25.0))[1]


# Networks of one generation's systems, as shares of the usual rate per device: one NIC of that rate
# for four devices, and two for each (the catalog's clusters have between 6 and 100 GB/s).
_NETWORKS = (0.25, 2.0)


def other_networks(cluster: Cluster) -> list[Cluster]:
    """The cluster with the slowest and the fastest network that systems of its generation have, where its
    own is the usual one."""
    found = []
    for share in _NETWORKS:
        levels = tuple(
            msgspec.structs.replace(lv, bandwidth_bytes_per_s=lv.bandwidth_bytes_per_s * share)
            if lv.kind == "network"
            else lv
            for lv in cluster.levels
        )
        found.append(msgspec.structs.replace(cluster, levels=levels))
    return found


def _pcie_host(row: Row) -> str | None:
    """What is between PCIe cards, by the row's own column or a word of ``nvidia-smi topo`` beside the
    fabric's: ``pcie4 (PIX)``, ``pcie4 switch``."""
    if row.text("pcie_host"):
        return pcie_host_named(row.text("pcie_host"), f"line {row.line}: pcie_host")
    words = re.findall(r"[a-z-]+", row.text("intra_node").lower())
    legal = {**TOPOLOGY_WORDS, **{host: host for host in PCIE_HOSTS}}
    return next((legal[w] for w in words if w in legal), None)


def network_by_rate(gbytes_per_s: float, devices_per_node: int) -> dict[str, Any]:
    """A network level of one NIC per device of the given rate."""
    fabric = "ib-ndr" if gbytes_per_s > 30 else "ib-hdr" if gbytes_per_s > 13 else "ib-hdr100"
    return {
        "name": "cluster",
        "fabric": fabric,
        "bandwidth": f"{gbytes_per_s} GB/s",
        "nics": devices_per_node,
    }


def collective_cluster(
    row: Row, ranks: int, per_node: int
) -> tuple[Cluster, tuple[Assumed, ...], bool]:
    """The cluster of a collective's row, what of it the row does not say, and whether the rate of its
    network is among that: its network from words such as "RoCE 16x100 Gb/s per node", and where these
    leave something open, the device's usual."""
    cell, node = row.text("inter_node"), _node_of(row)
    if ranks <= per_node or (not cell and node is not None):
        return *cluster_of(row, ranks, per_node, None), False
    dev = node.device if node else device(row.text("device"), f"line {row.line}: device")
    try:
        said = network_of_words(cell, dev.name, per_node, ranks)
    except InputError as error:
        raise row.wrong("inter_node", str(error).partition(";")[0], error.legal or "") from None
    if said.domain is not None:
        row = row._replace(cells={**row.cells, "intra_node": said.inside or ""})
    cluster, lacking = cluster_of(row, ranks, said.domain or per_node, said.level)
    if said.assumed:
        lacking = (*lacking, Assumed("inter_node", said.assumed))
    return cluster, lacking, said.unsure


def _node_of(row: Row) -> Cluster | None:
    """The node that a row's device cell names (``p5.48xlarge``, ``dgx-h100``), as :func:`load_cluster` reads it;
    None where the cell names a device, or nothing that is known."""
    cell, field = row.text("device"), f"line {row.line}: device"
    if cluster_names.exact_device(cell) is not None:
        return None
    if (
        cluster_names.canonical_cluster(cell) is None
        and cluster_names.counted_devices(cell) is None
    ):
        return None
    node = load_cluster(cell, field=field)
    if row.text("devices_per_node") and row.count("devices_per_node") != node.node_devices:
        raise row.wrong(
            "devices_per_node",
            f"{cell} has {node.node_devices}",
            f"{node.node_devices}, or a device's name in column device",
        )
    return node


def _whole_nodes(node: Cluster, row: Row, devices: int) -> Cluster | None:
    """As many of the named nodes as hold the devices, where the row says no other fabric and the node
    has a network to others."""
    nodes = -(-devices // node.node_devices)
    if row.text("intra_node") or (nodes > 1 and node.levels[-1].kind != "network"):
        return None
    return load_cluster(node, nodes=nodes if node.levels[-1].kind == "network" else None)


def cluster_of(
    row: Row, devices: int, per_node: int, network: dict[str, Any] | None
) -> tuple[Cluster, tuple[Assumed, ...]]:
    """The cluster of a row, and what of it the row does not say. ``network`` None: the named node's own,
    or the generation's usual one, if a network is needed."""
    node = _node_of(row)
    if node is not None and network is None:
        whole = _whole_nodes(node, row, devices)
        if whole is not None:
            return _in_its_host(row, whole), ()
    dev = node.device if node else device(row.text("device"), f"line {row.line}: device")
    per_node = min(node.node_devices if node else per_node, devices)
    fabric, known = node_fabric(row, node.levels[0].fabric if node else dev.fabric)
    said = node is not None or known
    assumed = [Assumed("intra_node", fabric)] if per_node > 1 and not said else []
    levels: list[dict[str, Any]] = [{"name": "node", "ranks": per_node, "fabric": fabric}]
    host = _pcie_host(row)
    if host is not None and not row.text("pcie_host") and not fabric.endswith("-host"):
        levels[0]["pcie_host"] = host
    elif (
        not row.text("pcie_host")
        and fabric.startswith("pcie")
        and not fabric.endswith("-host")
        and per_node > 2
    ):
        assumed.append(Assumed("pcie_host", "between switch and root"))
    if fabric.startswith("pcie") and per_node > 4 and per_node % 2 == 0:
        # hosts of more than four PCIe cards have two sockets, of the generation of their lanes
        link = "socket-upi2" if fabric.startswith(("pcie5", "pcie6")) else "socket-upi"
        levels = [
            {**levels[0], "name": "socket", "ranks": per_node // 2},
            {"name": "node", "ranks": 2, "fabric": link, "nics": 1},
        ]
    nodes = -(-devices // per_node)
    if nodes > 1:
        if network is None:
            rate = usual_rate(dev.generation)
            network = network_by_rate(rate, per_node)
            assumed.append(Assumed("inter_node_gbytes_per_s", f"{rate:g}"))
        levels.append({**network, "ranks": nodes})
    table = {"device": dev.name, "level": levels}
    return _in_its_host(row, cluster_from_table(table, f"line-{row.line}")), tuple(assumed)


def _in_its_host(row: Row, cluster: Cluster) -> Cluster:
    """The cluster in the host that the row's own column states; refused where nothing of it is PCIe."""
    if not row.text("pcie_host") or cluster.node_devices == 1:
        return cluster
    return with_pcie_host(cluster, row.text("pcie_host"), f"line {row.line}: pcie_host")
