"""Where it runs: a device and the fabric levels around it, innermost first."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import msgspec

from meshwise.errors import InputError, quoted, shorten, unknown_name
from meshwise.spec import catalog, dtypes
from meshwise.spec.reading import check_keys, count, fraction, one_of
from meshwise.units import BANDWIDTH, BYTES, RATE, TIME, parse

FABRIC_KINDS = (
    "nvswitch",
    "nvlink-mesh",
    "nvlink-bridge",
    "pcie",
    "pcie-host",
    "infinity-fabric",
    "ici",
    "gaudi-mesh",
    "socket",
    "network",
    "shared-memory",
)
_WIDE = ("bf16", "fp16", "fp32")  # one of them prices what no narrow unit can run
PEAK_KEYS = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp6", "fp4", "nvfp4", "int4")
MAX_FILE_BYTES = 1 << 20


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One accelerator. Peaks are dense matrix rates, without sparsity."""

    name: str
    title: str
    generation: str
    memory_bytes: float
    memory_bytes_per_s: float
    peak_flops_per_s: dict[str, float]
    multiprocessors: int | None = None  # what a kernel's tiles are spread over
    training_clock: float = 1.0  # under a training step's load, over that of short measurements
    sources: dict[str, str] = {}


class Level(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One level of the fabric: ``ranks`` domains of the level below, joined.

    ``bandwidth_bytes_per_s`` is per device and direction; with ``nics`` it is per NIC (port), and a
    domain of the level below shares its NICs. ``latency_s`` is one hop of a small message.
    """

    name: str
    ranks: int
    fabric: str
    kind: str
    bandwidth_bytes_per_s: float
    latency_s: float
    peer_to_peer: bool = False
    in_switch: bool = False
    nics: int | None = None
    oversubscription: float = 1.0
    efficiency: float | None = None  # share of the wire rate that collectives reach; None = fit
    own_latency: bool = False  # latency_s was stated for this level: one step takes it, no fit's

    def per_device_bytes_per_s(self, devices_below: int) -> float:
        """Wire rate per device and direction when all ``devices_below`` the level communicate."""
        rate = self.bandwidth_bytes_per_s
        if self.nics is not None:
            rate = rate * self.nics / devices_below
        return rate / self.oversubscription


class Cluster(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device and its fabric levels, innermost first."""

    name: str
    title: str
    device: Device
    levels: tuple[Level, ...]
    source: str = ""

    @property
    def devices(self) -> int:
        total = 1
        for level in self.levels:
            total *= level.ranks
        return total

    @property
    def node_devices(self) -> int:
        """Devices that a network of NICs joins: all levels below the first level with NICs."""
        total = 1
        for level in self.levels:
            if level.kind == "network":
                break
            total *= level.ranks
        return total

    def domain_sizes(self) -> tuple[int, ...]:
        """Devices in one domain of each level: cumulated ranks, innermost first."""
        sizes, total = [], 1
        for level in self.levels:
            total *= level.ranks
            sizes.append(total)
        return tuple(sizes)


def device(name: str, field: str = "device") -> Device:
    """A device of the catalog."""
    key, table = catalog.load("devices", name, field)
    return Device(
        name=key,
        title=table["title"],
        generation=table["generation"],
        memory_bytes=parse(table["memory"], BYTES, "memory"),
        memory_bytes_per_s=parse(table["memory_bandwidth"], BANDWIDTH, "memory_bandwidth"),
        peak_flops_per_s={
            dtypes.known(k) or k: parse(v, RATE, f"peak.{k}") for k, v in table["peak"].items()
        },
        multiprocessors=table.get("multiprocessors"),
        training_clock=table.get("training_clock", 1.0),
        sources=table.get("source", {}),
    )


_DEVICE_KEYS = ("title", "generation", "memory", "memory_bandwidth", "peak", "like", "source")


def _inline_device(table: dict[str, Any]) -> Device:
    """A device described in the cluster's own file, alone or as a change to a catalog device."""
    where = "device"
    check_keys(table, _DEVICE_KEYS, where)
    base = (
        device(_text(table["like"], f"{where}.like"), f"{where}.like") if "like" in table else None
    )
    peaks = dict(base.peak_flops_per_s) if base else {}
    given = table.get("peak", {})
    if not isinstance(given, dict):
        raise _not_a("a table", f"{where}.peak", given, '[device.peak] with bf16 = "312 TFLOP/s"')
    for key, value in given.items():
        one_of(key, f"{where}.peak", PEAK_KEYS)
        peaks[dtypes.known(key) or key] = parse(value, RATE, f"{where}.peak.{key}")
    for key in ("memory", "memory_bandwidth"):
        if key not in table and base is None:
            raise _missing(f"{where}.{key}", "[device]")
    if not any(key in peaks for key in _WIDE):
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
        memory_bytes=parse(table["memory"], BYTES, f"{where}.memory")
        if "memory" in table or base is None
        else base.memory_bytes,
        memory_bytes_per_s=parse(table["memory_bandwidth"], BANDWIDTH, f"{where}.memory_bandwidth")
        if "memory_bandwidth" in table or base is None
        else base.memory_bytes_per_s,
        peak_flops_per_s=peaks,
        multiprocessors=base.multiprocessors if base else None,
        training_clock=base.training_clock if base else 1.0,
        sources={"all": "the cluster file"},
    )


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
)
_CLUSTER_KEYS = ("title", "device", "level", "source", "aliases")


def _level(table: Any, index: int) -> Level:
    where = f"level[{index}]"
    if not isinstance(table, dict):
        raise _not_a("a table", where, table, "[[level]]")
    check_keys(table, _LEVEL_KEYS, where)
    fabric: dict[str, Any] = {}
    name = ""
    if "fabric" in table:
        name, fabric = catalog.load(
            "fabrics", _text(table["fabric"], f"{where}.fabric"), f"{where}.fabric"
        )
    if "ranks" not in table:
        raise _missing(f"{where}.ranks", "every [[level]]")
    merged = {**fabric, **table}
    for key in ("bandwidth", "latency"):
        if key not in merged:
            raise _missing(f"{where}.{key}", "a [[level]] without a catalog fabric")
    default_kind = "network" if "nics" in table or index else "nvswitch"
    kind = one_of(merged.get("kind", default_kind), f"{where}.kind", FABRIC_KINDS)
    return Level(
        name=_text(table.get("name", "node" if index == 0 else "cluster"), f"{where}.name"),
        ranks=count(table["ranks"], f"{where}.ranks", text=False),
        fabric=name or "custom",
        kind=kind,
        bandwidth_bytes_per_s=parse(merged["bandwidth"], BANDWIDTH, f"{where}.bandwidth"),
        latency_s=parse(merged["latency"], TIME, f"{where}.latency"),
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
    )


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
    built = tuple(_level(entry, i) for i, entry in enumerate(levels))
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


def grown(cluster: Cluster, devices: int) -> Cluster:
    """The cluster with as many more of its outermost domains as hold ``devices``; as it is where one
    fabric level is all it has."""
    if devices <= cluster.devices or len(cluster.levels) == 1:
        return cluster
    outer = cluster.levels[-1]
    below = cluster.devices // outer.ranks
    levels = (*cluster.levels[:-1], msgspec.structs.replace(outer, ranks=-(-devices // below)))
    return msgspec.structs.replace(cluster, levels=levels)


def load_cluster(
    name: str, *, field: str = "--on", nodes: int | None = None, nics: int | None = None
) -> Cluster:
    """A preset by name, or a TOML file by path; ``nodes`` and ``nics`` replace the file's.

    ``nodes`` sets the ranks of the outermost level, ``nics`` the NICs per node of every level that
    has any. Raises :class:`InputError` naming the key, the value and what is legal.
    """
    if catalog.canonical("clusters", name) is not None and not name.endswith(".toml"):
        key, table = catalog.load("clusters", name, field)
        cluster = cluster_from_table(table, key)
    elif name.endswith(".toml") or os.sep in name or _is_file(name):
        text = read_text_file(name, field, "a cluster's TOML file", MAX_FILE_BYTES)
        own = Path(name).name.removesuffix(".toml")
        cluster = cluster_from_table(catalog.toml(text, name), own)
    else:
        raise unknown_name(
            field,
            name,
            catalog.names("clusters"),
            "cluster (or TOML file)",
            catalog.aliases("clusters"),
        )
    if nodes is not None:
        nodes = count(nodes, "--nodes", high=100_000)
        outer = cluster.levels[-1]
        if len(cluster.levels) == 1 and nodes > 1:
            raise InputError(
                f"--nodes={nodes}: {cluster.name} has one fabric level only, nothing joins its nodes",
                field="--nodes",
                value=nodes,
                legal="1, or a cluster with a network [[level]]",
                nearest=1,
            )
        if len(cluster.levels) > 1:
            levels = (*cluster.levels[:-1], msgspec.structs.replace(outer, ranks=nodes))
            cluster = msgspec.structs.replace(cluster, levels=levels)
    if nics is not None:
        nics = count(nics, "--nics", high=4096)
        if not any(level.kind == "network" and level.nics for level in cluster.levels):
            raise InputError(
                f"--nics={nics}: {cluster.name} has no level with NICs",
                field="--nics",
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


def read_text_file(name: str, field: str, what: str, limit: int) -> str:
    """The text of an ordinary file of at most ``limit`` bytes; anything else is refused."""

    def bad(why: str) -> InputError:
        return InputError(
            f"{field}: {shorten(name)}: {why}",
            field=field,
            value=name,
            legal=f"{what}, UTF-8 text of at most {limit >> 20} MiB",
        )

    try:
        path = Path(name).expanduser()
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise bad("is a folder")
        if not stat.S_ISREG(info.st_mode):
            raise bad("is not an ordinary file")
        if info.st_size > limit:
            raise bad(f"has {info.st_size:,} bytes")
        with path.open("rb") as file:
            return file.read(limit + 1).decode("utf-8-sig")
    except OSError as error:
        raise bad(error.strerror or "cannot be read") from None
    except UnicodeDecodeError:
        raise bad("is not UTF-8 text") from None
    except (ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise bad("is not a file name") from None  # an embedded NUL, or the home of nobody


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise _not_a("text", field, value, '"quoted text"')
    return value


def _flag(value: object, field: str) -> bool:
    if not isinstance(value, bool):
        raise _not_a("true or false", field, value, "true or false")
    return value


def _not_a(kind: str, field: str, value: object, legal: str) -> InputError:
    return InputError(
        f"{field}: {quoted(value)} is not {kind}", field=field, value=value, legal=legal
    )


def _missing(field: str, owner: str) -> InputError:
    return InputError(
        f"{field}: missing; {owner} needs it", field=field, legal="see docs/reference/cluster-file"
    )
