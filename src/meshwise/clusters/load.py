"""Where it runs: a device and the fabric levels around it, innermost first."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from meshwise import catalog, dtypes
from meshwise.checks import flag as _flag
from meshwise.checks import name_of
from meshwise.checks import not_a as _not_a
from meshwise.checks import text as _text
from meshwise.clusters import names as cluster_names
from meshwise.clusters.cluster import FABRIC_KINDS, PEAK_KEYS, WIDE, Cluster, Device, Level
from meshwise.clusters.pcie_hosts import hosted, pcie_host_named, with_pcie_host
from meshwise.errors import InputError, UnknownName, shorten
from meshwise.files import read_text_file
from meshwise.strict_tables import check_keys, count, fraction, one_of
from meshwise.units import BANDWIDTH, BYTES, RATE, TIME, parse_quantity

__all__ = [
    "FABRIC_KINDS",
    "PEAK_KEYS",
    "Cluster",
    "Device",
    "Level",
    "cluster_from_table",
    "device",
    "grown",
    "load_cluster",
]
_MAX_FILE_BYTES = 1 << 20


def device(name: str, field: str = "device") -> Device:
    """A device of the catalog."""
    try:
        key, table = catalog.load("devices", name, field)
    except UnknownName as error:  # a node or a cloud's shape is nearest to its own device
        error.nearest = cluster_names.nearest_device(name, error.nearest)
        raise
    return Device(
        name=key,
        title=table["title"],
        generation=table["generation"],
        memory_bytes=parse_quantity(table["memory"], BYTES, "memory"),
        memory_bytes_per_s=parse_quantity(table["memory_bandwidth"], BANDWIDTH, "memory_bandwidth"),
        peak_flops_per_s={
            dtypes.known(k) or k: parse_quantity(v, RATE, f"peak.{k}")
            for k, v in table["peak"].items()
        },
        fabric=table["fabric"],
        multiprocessors=table.get("multiprocessors"),
        kernels=table.get("kernels"),
        training_clock=table.get("training_clock", 1.0),
        training_clock_narrow=table.get("training_clock_narrow"),
        product_share=table.get("product_share", 1.0),
        memory_share=table.get("memory_share", 1.0),
        sources=table.get("source", {}),
    )


_DEVICE_KEYS = (
    *("title", "generation", "kernels", "memory", "memory_bandwidth", "peak", "like", "source"),
)


def _inline_device(table: dict[str, Any]) -> Device:
    """A device described in the cluster's own file, alone or as a change to a catalog device."""
    where = "device"
    check_keys(table, _DEVICE_KEYS, where)
    # what the file says, over the catalog device that it is like
    base = (
        device(_text(table["like"], f"{where}.like"), f"{where}.like") if "like" in table else None
    )
    peaks = dict(base.peak_flops_per_s) if base else {}
    given = table.get("peak", {})
    if not isinstance(given, dict):
        raise _not_a("a table", f"{where}.peak", given, '[device.peak] with bf16 = "312 TFLOP/s"')
    for key, value in given.items():
        one_of(key, f"{where}.peak", PEAK_KEYS)
        peaks[dtypes.known(key) or key] = parse_quantity(value, RATE, f"{where}.peak.{key}")
    # what a device cannot be without
    for key in ("memory", "memory_bandwidth"):
        if key not in table and base is None:
            raise _missing(f"{where}.{key}", "[device]")
    if not any(key in peaks for key in WIDE):
        raise InputError(
            f"{where}.peak: no rate for bf16, fp16 or fp32",
            field=f"{where}.peak",
            value=given or None,
            legal='[device.peak] with bf16 = "312 TFLOP/s" (or fp16, fp32)',
            nearest="bf16",
        )
    return Device(
        name=base.name if base else _text(table.get("title", "device"), f"{where}.title"),
        title=_text(table.get("title", base.title if base else "device"), f"{where}.title"),
        generation=_text(
            table.get("generation", base.generation if base else "unknown"), f"{where}.generation"
        ),
        memory_bytes=parse_quantity(table["memory"], BYTES, f"{where}.memory")
        if "memory" in table or base is None
        else base.memory_bytes,
        memory_bytes_per_s=parse_quantity(
            table["memory_bandwidth"], BANDWIDTH, f"{where}.memory_bandwidth"
        )
        if "memory_bandwidth" in table or base is None
        else base.memory_bytes_per_s,
        peak_flops_per_s=peaks,
        fabric=base.fabric if base else None,
        multiprocessors=base.multiprocessors if base else None,
        kernels=table.get("kernels", base.kernels if base else None),
        training_clock=base.training_clock if base else 1.0,
        training_clock_narrow=base.training_clock_narrow if base else None,
        product_share=base.product_share if base else 1.0,
        memory_share=base.memory_share if base else 1.0,
        sources={"all": "the cluster file"},
    )


def device_of(name: str, given: dict[str, Any]) -> Device:
    """A device from what a file's [device] says; None is what it does not say."""
    found = _inline_device({k: v for k, v in given.items() if v is not None})
    own = {"all": "figures given to Device.of"}
    return msgspec.structs.replace(found, name=name, title=name, sources=own)


_LEVEL_KEYS = (
    "name",
    "ranks",
    "fabric",
    "kind",
    "bandwidth",
    "latency",
    "nics",
    "oversubscription",
    "peer_to_peer",
    "in_switch",
    "efficiency",
    "pcie_host",
)
_CLUSTER_KEYS = ("title", "device", "level", "source", "aliases")


_OF_THE_FABRIC = ("fabric", "kind", "bandwidth", "latency")


def level_of(given: dict[str, Any]) -> Level:
    """A level from what a file's [[level]] says; None is what it does not say."""
    table = {k: v for k, v in given.items() if v is not None}
    if "fabric" not in table and "kind" not in table:
        raise _missing("level.kind", "a level without a catalog fabric")
    kind = table.get("kind")
    if kind is None:
        fabric = _text(table["fabric"], "level.fabric")
        kind = catalog.load("fabrics", fabric, "level.fabric")[1]["kind"]
    network = one_of(kind, "level.kind", FABRIC_KINDS) == "network"
    return _level(table, int(network), None, "level")


def _level(table: Any, index: int, dev: Device | None, where: str = "") -> Level:
    where = where or f"level[{index}]"
    if not isinstance(table, dict):
        raise _not_a("a table", where, table, "[[level]]")
    check_keys(table, _LEVEL_KEYS, where)
    # a first level that says nothing of its fabric has the device's own
    assumed = bool(
        index == 0 and dev and dev.fabric and not any(key in table for key in _OF_THE_FABRIC)
    )
    if assumed:
        table = table | {"fabric": dev.fabric if dev else ""}
    fabric: dict[str, Any] = {}
    name = ""
    if "fabric" in table:
        name, fabric = catalog.load(
            "fabrics", _text(table["fabric"], f"{where}.fabric"), f"{where}.fabric"
        )
    if "ranks" not in table:
        raise _missing(f"{where}.ranks", "every [[level]]")
    # the fabric's figures, but for those that the level states
    merged = {**fabric, **table}
    for key in ("bandwidth", "latency"):
        if key not in merged:
            raise _missing(f"{where}.{key}", "a [[level]] without a catalog fabric")
    default_kind = "network" if "nics" in table or index else "nvswitch"
    kind = one_of(merged.get("kind", default_kind), f"{where}.kind", FABRIC_KINDS)
    built = Level(
        name=_text(table.get("name", "node" if index == 0 else "cluster"), f"{where}.name"),
        ranks=count(table["ranks"], f"{where}.ranks", text=False),
        fabric=name or "custom",
        kind=kind,
        bandwidth_bytes_per_s=parse_quantity(merged["bandwidth"], BANDWIDTH, f"{where}.bandwidth"),
        latency_s=parse_quantity(merged["latency"], TIME, f"{where}.latency"),
        peer_to_peer=_flag(merged.get("peer_to_peer", index == 0), f"{where}.peer_to_peer"),
        in_switch=_flag(merged.get("in_switch", False), f"{where}.in_switch"),
        nics=count(table["nics"], f"{where}.nics", high=4096, text=False)
        if "nics" in table
        else None,
        oversubscription=fraction(
            table.get("oversubscription", 1.0),
            f"{where}.oversubscription",
            low=1.0,
            high=1000.0,
            text=False,
        ),
        efficiency=fraction(
            table["efficiency"], f"{where}.efficiency", low=0.01, high=1.0, text=False
        )
        if "efficiency" in table
        else None,
        own_latency="latency" in table,
        assumed=assumed,
    )
    if "pcie_host" not in table:
        return built
    host = pcie_host_named(table["pcie_host"], f"{where}.pcie_host")
    if kind not in ("pcie", "pcie-host"):
        raise InputError(
            f"{where}.pcie_host={host} has no meaning on a level of kind {kind}",
            field=f"{where}.pcie_host",
            value=host,
            legal="a level of kind pcie or pcie-host",
        )
    return hosted(built, host)


def cluster_from_table(table: dict[str, Any], name: str) -> Cluster:
    """A cluster from a parsed TOML table, checked key by key."""
    check_keys(table, _CLUSTER_KEYS, "cluster")
    for alias in table.get("aliases", []) if isinstance(table.get("aliases", []), list) else [0]:
        _text(alias, "aliases")
    if "device" not in table:
        raise _missing("device", "a cluster")
    levels = table.get("level")
    if not isinstance(levels, list) or not levels:
        raise InputError(
            "level: a cluster needs at least one [[level]]",
            field="level",
            value=levels,
            legal='[[level]] tables, innermost first, such as ranks = 8, fabric = "nvlink3-nvswitch"',
        )
    given = table["device"]
    dev = _inline_device(given) if isinstance(given, dict) else device(_text(given, "device"))
    built = tuple(_level(entry, i, dev) for i, entry in enumerate(levels))
    total = 1
    for level in built:
        total *= level.ranks
        count(total, "product of all level.ranks")
    return Cluster(
        name=name,
        title=_text(table.get("title", name), "title"),
        device=dev,
        levels=built,
        source=_text(table.get("source", ""), "source"),
    )


def _joins_nodes(cluster: Cluster) -> bool:
    """Whether the outermost level counts nodes: one above others, or a network of single devices."""
    return len(cluster.levels) > 1 or cluster.levels[-1].kind == "network"


def grown(cluster: Cluster, devices: int) -> Cluster:
    """The cluster with as many more of its outermost domains as hold ``devices``; as it is where no
    network joins them."""
    if devices <= cluster.devices or not _joins_nodes(cluster):
        return cluster
    outer = cluster.levels[-1]
    below = cluster.devices // outer.ranks
    levels = (*cluster.levels[:-1], msgspec.structs.replace(outer, ranks=-(-devices // below)))
    return msgspec.structs.replace(cluster, levels=levels)


def load_cluster(
    name: str | os.PathLike[str] | Cluster,
    *,
    field: str = "cluster",
    nodes: int | None = None,
    nics: int | None = None,
    pcie_host: str | None = None,
) -> Cluster:
    """A preset by name, or a TOML file by path, or a cluster as it is; ``nodes``, ``nics`` and ``pcie_host``
    replace the file's.

    ``nodes`` sets the ranks of the outermost level, ``nics`` the NICs per node of every level that
    has any, ``pcie_host`` what is between PCIe cards. Raises :class:`InputError` naming the key, the value and what is legal.
    """
    cluster = name if isinstance(name, Cluster) else _named(name, field)
    resized = _resized(cluster, nodes, nics)
    return resized if pcie_host is None else with_pcie_host(resized, pcie_host)


def _named(given: str | os.PathLike[str], field: str) -> Cluster:
    name = name_of(given, field, "a cluster's name, the path of a TOML file, or a Cluster")
    known = cluster_names.canonical_cluster(name)
    if known is not None and not name.endswith(".toml"):
        return _usual(name, known, field)
    if name.endswith(".toml") or os.sep in name or _is_file(name):
        text = read_text_file(name, field, "a cluster's TOML file", _MAX_FILE_BYTES)
        own = Path(name).name.removesuffix(".toml")
        return cluster_from_table(catalog.toml(text, name), own)
    asked = cluster_names.exact_device(name)
    usual = cluster_names.usual_node(asked) if asked else None
    if usual is not None:
        return _usual(name, usual, field)
    node = _node_of(name, field)
    if node is None:
        raise cluster_names.unknown_cluster(field, name)
    return node


def _usual(name: str, known: str, field: str) -> Cluster:
    """A cluster of the catalog; one that a device's name stands for says so."""
    key, table = catalog.load("clusters", known, field)
    found = cluster_from_table(table, key)
    if cluster_names.exact_device(name) is None or name.strip().lower() == key:
        return found
    said = f"{shorten(name)}: taken as {key}, a usual node of {found.device.title}"
    return msgspec.structs.replace(found, asked=said)


def _node_of(name: str, field: str) -> Cluster | None:
    """One node with so many of a device, such as ``8xH100``: as the catalog has it, or a part of it."""
    asked = cluster_names.counted_devices(name)
    if asked is None:
        return None
    for key, size in cluster_names.nodes_of(asked.device):
        table = catalog.load("clusters", key, field)[1]
        first = _level(table["level"][0], 0, device(asked.device))
        whole = size == asked.number
        if not whole and not (asked.number <= first.ranks and first.kind in _ALIKE):
            continue
        found = cluster_from_table(table, key)
        # boxes of one device are joined by their network alone
        levels = [lv for lv in found.levels if lv.kind != "network"] or list(found.levels)
        if not whole:
            levels = [msgspec.structs.replace(first, ranks=asked.number)]
        return msgspec.structs.replace(
            found,
            name=f"{asked.number}x{asked.device}",
            title=f"{asked.number} x {found.device.title}, a node of {key}",
            levels=tuple(levels),
        )
    return None


_ALIKE = (
    "nvswitch",
    "pcie",
    "pcie-host",
)  # fabrics whose devices have the same rate, however many they are


def _resized(cluster: Cluster, nodes: int | None, nics: int | None) -> Cluster:
    if nodes is not None:
        nodes = count(nodes, "nodes", high=100_000)
        if _joins_nodes(cluster):
            outer = msgspec.structs.replace(cluster.levels[-1], ranks=nodes)
            cluster = msgspec.structs.replace(cluster, levels=(*cluster.levels[:-1], outer))
        elif nodes > 1:
            raise InputError(
                f"nodes={nodes}: {cluster.name} has one fabric level only, nothing joins its nodes",
                field="nodes",
                value=nodes,
                legal="1, or a cluster with a network [[level]]",
                nearest=1,
            )
    if nics is not None:
        nics = count(nics, "nics", high=4096)
        if not any(level.kind == "network" and level.nics for level in cluster.levels):
            raise InputError(
                f"nics={nics}: {cluster.name} has no level with NICs",
                field="nics",
                value=nics,
                legal="a cluster whose network [[level]] has nics",
            )
        levels = tuple(
            msgspec.structs.replace(lv, nics=nics) if lv.nics and lv.kind == "network" else lv
            for lv in cluster.levels
        )
        cluster = msgspec.structs.replace(cluster, levels=levels)
    return cluster


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # too long for a file name, a NUL byte
        return False


def _missing(field: str, owner: str) -> InputError:
    return InputError(
        f"{field}: missing; {owner} needs it", field=field, legal="see docs/reference/cluster-file"
    )
