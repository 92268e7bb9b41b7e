"""Measured constants of collectives, from the catalog's fits; nothing is invented here.

A fabric without a fit of its own inherits the nearest one, and its source says so.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from meshwise.spec import catalog
from meshwise.spec.cluster import Level

# Fabric kind (or the beginning of a fabric's name) → file of collective constants.
_FABRIC = (
    ("nvlink5", "nvlink5-nvswitch"),
    ("nvlink4", "nvlink4-nvswitch"),
    ("nvlink", "nvlink3-nvswitch"),
    ("pcie3-host-", "pcie3-no-p2p"),
    # The PCIe 4 rows come from two rented machines 1.7 × apart; newer hosts inherit the PCIe 3 fit.
    ("pcie5-host-", "pcie3-no-p2p"),
    ("pcie6-host-", "pcie3-no-p2p"),
    ("efa-25-", "efa-host"),
    ("efa-40-", "efa-host"),
    ("efa-50-", "efa-host"),
    ("efa", "efa"),
    ("gcp-tcpx", "tcpxo"),
    ("gcp-gvnic", "tcp"),
    ("tpu-dcn", "tcp"),
    ("ethernet", "tcp"),
    ("ib-", "roce"),
    ("roce", "roce"),
    ("slingshot", "roce"),
)
_KIND = {
    "nvswitch": "nvlink3-nvswitch",
    "nvlink-mesh": "nvlink3-nvswitch",
    "nvlink-bridge": "nvlink3-nvswitch",
    "infinity-fabric": "nvlink3-nvswitch",
    "gaudi-mesh": "nvlink3-nvswitch",
    "ici": "nvlink3-nvswitch",
    "pcie": "pcie4-p2p",
    "pcie-host": "pcie4-no-p2p",
    "socket": "pcie3-no-p2p",
    "shared-memory": "pcie4-no-p2p",
    "network": "roce",
}


class Protocol(NamedTuple):
    """One way to run an algorithm: ``step_s`` per hop, ``efficiency`` of the wire rate."""

    name: str
    step_s: float
    efficiency: float


class Algorithm(NamedTuple):
    launch_s: float
    protocols: tuple[Protocol, ...]
    min_ranks: int = 2


class Constants(NamedTuple):
    """Constants of one collective on one fabric level, by algorithm; and where they come from."""

    algorithms: dict[str, Algorithm]
    source: str


_KERNELS = "nvlink4-nvswitch"  # where all three engines' kernels were measured

_IDEAL = Algorithm(0.0, (Protocol("", 0.0, 1.0),))


def constants_file(level: Level) -> tuple[str, bool]:
    """(constants file, whether it was measured on this very fabric)."""
    known = catalog.names("collectives")
    if level.fabric in known:
        return level.fabric, True
    for beginning, name in _FABRIC:
        if (level.fabric + "-").startswith(beginning) and name in known:
            return name, beginning.split("-")[0] in ("efa", "gcp", "roce", "pcie3")
    name = _KIND[level.kind]
    return (name if name in known else "pcie4-no-p2p"), False


@functools.cache
def _collective_table(name: str) -> dict[str, Any]:
    return catalog.load("collectives", name, "collectives")[1]


def _algorithms(entry: dict[str, Any]) -> dict[str, Algorithm]:
    launch = entry.get("launch_s", 0.0)
    found: dict[str, Algorithm] = {}
    if "efficiency" in entry:
        found["direct"] = Algorithm(launch, (Protocol("", 0.0, entry["efficiency"]),))
    for name, table in entry.items():
        if not isinstance(table, dict) or name == "fit":
            continue
        protocols = tuple(
            Protocol(p.get("name", ""), p.get("step_s", 0.0), p["efficiency"])
            for p in table.get("protocols", [table])
        )
        found[name] = Algorithm(table.get("launch_s", launch), protocols, table.get("min_ranks", 2))
    return found


@functools.cache
def constants(level: Level, op: str, library: str, ideal: bool) -> Constants:
    """Constants of collective ``op`` on ``level`` for a library, with those that it falls back to.

    Ideal: wire bandwidth, no latency, bandwidth-optimal ring algorithms only (the note's model).
    """
    if ideal:
        return Constants({"ring": _IDEAL, "direct": _IDEAL}, "datasheet")
    name, measured = constants_file(level)
    table = _collective_table(name)
    nccl = table["nccl"]
    algorithms = _algorithms(nccl.get(op, {}))
    if op in ("all_gather", "reduce_scatter") and "ring" not in algorithms:
        algorithms |= {
            k: v for k, v in _algorithms(nccl["all_reduce"]).items() if k in ("ring", "tree")
        }
    if "direct" not in algorithms:
        ring = algorithms.get("ring") or _algorithms(nccl["all_reduce"])["ring"]
        best = max(ring.protocols, key=lambda p: p.efficiency)
        algorithms["direct"] = Algorithm(ring.launch_s, (best._replace(step_s=0.0),))
    if library != "nccl":
        own = _algorithms(table.get(library, {}).get(op, {}))
        if not own and level.peer_to_peer:
            # The engine's kernels, measured on NVLink, at this fabric's wire rate.
            lent = _algorithms(_collective_table(_KERNELS).get(library, {}).get(op, {}))
            own = {k: v for k, v in lent.items() if k in ("one_shot", "two_shot")}
        algorithms |= own
    if level.efficiency is not None or level.own_latency:
        algorithms = {k: _stated(a, level) for k, a in algorithms.items()}
    source = f"collectives/{name}" + ("" if measured else f" (inherited by {level.fabric})")
    return Constants(algorithms, source)


def _stated(algorithm: Algorithm, level: Level) -> Algorithm:
    """An algorithm with the figures that the cluster states in place of the fit's: its efficiency,
    and its latency as the time of one step (then there is no launch beside it)."""
    best = max(algorithm.protocols, key=lambda p: p.efficiency)
    if level.efficiency is not None:
        best = best._replace(efficiency=level.efficiency)
    if not level.own_latency:
        return algorithm._replace(protocols=(best,))
    return algorithm._replace(launch_s=0.0, protocols=(best._replace(step_s=level.latency_s),))
