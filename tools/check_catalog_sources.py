"""Check the catalog's devices, fabrics and clusters, and write their alias tables.

    python tools/check_catalog_sources.py           # check; exit code 1 where something is wrong
    python tools/check_catalog_sources.py --write   # and write devices/index.json, clusters/index.json

Checked: every file parses, has the keys it needs and a source for every figure; quantities carry
the units of their kind; a name or alias stands for one entry only; clusters name devices and fabrics
that exist, no level is larger than its fabric builds, and networks say how many NICs a node has.
``index.json`` maps an alias to its canonical name, which is what the catalog reads at run time.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1] / "src" / "meshwise" / "catalog"
KINDS = {
    "nvswitch", "nvlink-mesh", "nvlink-bridge", "pcie", "pcie-host", "infinity-fabric", "ici",
    "gaudi-mesh", "socket", "network", "shared-memory",
}  # fmt: skip
DEVICE_KEYS = {
    "title",
    "vendor",
    "generation",
    "memory",
    "memory_bandwidth",
    "fabric",
    "aliases",
    "peak",
    "source",
}
FABRIC_KEYS = {
    "title",
    "kind",
    "bandwidth",
    "latency",
    "peer_to_peer",
    "in_switch",
    "max_ranks",
    "source",
}
CLUSTER_KEYS = {"title", "device", "source", "aliases", "level"}
LEVEL_KEYS = {"name", "ranks", "fabric", "nics", "oversubscription", "pcie_host"}
DTYPES = {"fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp6", "fp4", "int4"}
NAME = re.compile(r"[a-z0-9][a-z0-9.\-]*")
MEMORY = re.compile(r"\d+ [GM]iB")
BANDWIDTH = re.compile(r"\d+(\.\d+)? G[Bb]/s")
RATE = re.compile(r"\d+(\.\d+)? [GT]FLOP/s")
TIME = re.compile(r"\d+(\.\d+)? us")

Table = dict[str, Any]


def read(kind: str) -> dict[str, Table]:
    """All entries of a kind by name."""
    return {
        p.stem: tomllib.loads(p.read_text("utf-8")) for p in sorted((ROOT / kind).glob("*.toml"))
    }


def alias_table(entries: dict[str, Table], wrong: list[str]) -> dict[str, str]:
    """Alias → canonical name; a spelling that stands for two entries is wrong."""
    owner = {name: name for name in entries}
    for name, entry in entries.items():
        if not NAME.fullmatch(name):
            wrong.append(f"{name}: not a catalog name")
        for alias in entry.get("aliases", []):
            if not NAME.fullmatch(alias) or alias in owner:
                wrong.append(f"{name}: alias {alias} is malformed or already {owner.get(alias)}")
            owner[alias] = name
    return {alias: name for alias, name in sorted(owner.items()) if alias != name}


def expect(wrong: list[str], where: str, value: object, pattern: re.Pattern[str]) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        wrong.append(f"{where}: {value!r} is not like {pattern.pattern}")


def check_device(name: str, entry: Table, fabrics: set[str], wrong: list[str]) -> None:
    # of what has such units, and a published count; of boards whose power limits their clock
    keys = set(entry) - {
        "multiprocessors",
        "kernels",
        "training_clock",
        "training_clock_narrow",
        "product_share",
        "memory_share",
    }
    if keys != DEVICE_KEYS:
        wrong.append(f"{name}: keys {sorted(keys ^ DEVICE_KEYS)}")
        return
    expect(wrong, f"{name}.memory", entry["memory"], MEMORY)
    expect(wrong, f"{name}.memory_bandwidth", entry["memory_bandwidth"], BANDWIDTH)
    for dtype, rate in entry["peak"].items():
        expect(wrong, f"{name}.peak.{dtype}", rate, RATE)
    if not entry["peak"] or not set(entry["peak"]) <= DTYPES:
        wrong.append(f"{name}.peak: {sorted(entry['peak'])}")
    if entry["fabric"] not in fabrics:
        wrong.append(f"{name}.fabric: {entry['fabric']} is not in the fabric catalog")
    more = tuple(
        key
        for key in (
            "multiprocessors",
            "kernels",
            "training_clock",
            "training_clock_narrow",
            "product_share",
            "memory_share",
        )
        if key in entry
    )
    check_sources(name, entry, ("memory", "memory_bandwidth", "fabric", *more, "peak"), wrong)


def check_fabric(name: str, entry: Table, wrong: list[str]) -> None:
    network = {"transport"} if entry.get("kind") == "network" else set()
    own = set(entry) - ({"gpudirect"} if network else set())
    if own | {"max_ranks"} != FABRIC_KEYS | network or entry["kind"] not in KINDS:
        wrong.append(f"{name}: keys {sorted(set(entry) ^ FABRIC_KEYS)}, kind {entry.get('kind')}")
        return
    expect(wrong, f"{name}.bandwidth", entry["bandwidth"], BANDWIDTH)
    expect(wrong, f"{name}.latency", entry["latency"], TIME)
    if ("max_ranks" in entry) == (entry["kind"] == "network"):
        wrong.append(f"{name}: max_ranks belongs to every kind but network")
    check_sources(name, entry, ("bandwidth", "latency"), wrong)


def check_sources(name: str, entry: Table, keys: tuple[str, ...], wrong: list[str]) -> None:
    source = entry["source"]
    for key in keys:
        if not isinstance(source.get(key), str) or len(source[key]) < 15:
            wrong.append(f"{name}.source.{key}: missing")
    if not set(source) <= {*keys, "note"}:
        wrong.append(f"{name}.source: keys {sorted(source)}")


def check_cluster(
    name: str, entry: Table, devices: set[str], fabrics: dict[str, Table], wrong: list[str]
) -> None:
    if not set(entry) <= CLUSTER_KEYS or not {"title", "device", "source", "level"} <= set(entry):
        wrong.append(f"{name}: keys {sorted(entry)}")
        return
    if entry["device"] not in devices:
        wrong.append(f"{name}.device: {entry['device']} is no device")
    for index, level in enumerate(entry["level"]):
        where = f"{name}.level[{index}]"
        fabric = fabrics.get(level.get("fabric"))
        if fabric is None or not set(level) <= LEVEL_KEYS or not {"name", "ranks"} <= set(level):
            wrong.append(f"{where}: {level}")
            continue
        if level["ranks"] > fabric.get("max_ranks", level["ranks"]):
            wrong.append(
                f"{where}: {level['ranks']} ranks, {level['fabric']} builds {fabric['max_ranks']}"
            )
        shared = fabric["kind"] == "socket" or (fabric["kind"] == "network" and index > 0)
        if shared != ("nics" in level):
            wrong.append(f"{where}: nics belong to networks and sockets, and only there")
    text = (ROOT / "clusters" / f"{name}.toml").read_text("utf-8")
    if sum(1 for line in text.splitlines() if line.strip() and not line.startswith("#")) > 20:
        wrong.append(f"{name}: longer than 20 lines")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="write the alias tables (index.json)")
    options = parser.parse_args(argv)
    wrong: list[str] = []
    devices, fabrics, clusters = read("devices"), read("fabrics"), read("clusters")
    for name, entry in devices.items():
        check_device(name, entry, set(fabrics), wrong)
    for name, entry in fabrics.items():
        check_fabric(name, entry, wrong)
    for name, entry in clusters.items():
        check_cluster(name, entry, set(devices), fabrics, wrong)
    for kind, entries in (("devices", devices), ("clusters", clusters)):
        text = json.dumps(alias_table(entries, wrong), indent=1) + "\n"
        path = ROOT / kind / "index.json"
        if options.write:
            path.write_text(text, "utf-8")
        elif not path.is_file() or path.read_text("utf-8") != text:
            wrong.append(f"{kind}/index.json is out of date: run with --write")
    for line in wrong:
        print(line, file=sys.stderr)
    print(
        f"{len(devices)} devices, {len(fabrics)} fabrics, {len(clusters)} clusters, {len(wrong)} wrong"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
