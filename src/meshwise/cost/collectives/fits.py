"""Measured constants of collectives, from the catalog's fits; nothing is invented here.

A fabric without a fit of its own inherits the nearest one, and its source says so.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from meshwise import catalog
from meshwise.arrays import Array
from meshwise.clusters.load import Level
from meshwise.cost.collectives.algorithms import COLLECTIVE_ALGORITHMS, LIKE_OPERATION
from meshwise.cost.collectives.fabric import Constants, Measured, Protocol
from meshwise.cost.collectives.transports import (
    SHIPPED_TRANSPORTS,
    THROUGH_HOST,
    Transports,
)
from meshwise.cost.sources import Source

# Fabric kind (or the beginning of a fabric's name) → file of collective constants.
_FABRIC = (
    ("nvlink5", "nvlink5-nvswitch"),
    ("nvlink4", "nvlink4-nvswitch"),
    ("nvlink", "nvlink3-nvswitch"),
    ("pcie4", "pcie"),
    ("pcie5", "pcie"),
)
_MEASURED = ("pcie4", "pcie5")
_KIND = {
    "nvswitch": "nvlink3-nvswitch",
    "nvlink-mesh": "nvlink3-nvswitch",
    "nvlink-bridge": "nvlink3-nvswitch",
    "infinity-fabric": "nvlink3-nvswitch",
    "gaudi-mesh": "nvlink3-nvswitch",
    "ici": "nvlink3-nvswitch",
    "pcie": "pcie",
    "pcie-host": "pcie-no-p2p",
    "socket": "pcie-no-p2p",
    "shared-memory": "pcie-no-p2p",
}

_KERNELS = "nvlink4-nvswitch"  # where all three engines' kernels were measured

_IDEAL = Measured((Protocol("", 0.0, 0.0, 1.0),))


def constants_file(level: Level) -> tuple[str, bool]:
    """(constants file of a level inside a node, whether it was measured on this very fabric)."""
    known = catalog.names("collectives")
    if level.fabric in known:
        return level.fabric, True
    if level.kind in THROUGH_HOST:
        return _KIND[level.kind], False
    for beginning, name in _FABRIC:
        if (level.fabric + "-").startswith(beginning) and name in known:
            return name, beginning in _MEASURED
    name = _KIND[level.kind]
    return (name if name in known else "pcie-no-p2p"), False


@functools.cache
def _collective_table(name: str) -> dict[str, Any]:
    return catalog.load("collectives", name, "collectives")[1]


def _measured(table: dict[str, Any]) -> Measured:
    protocols = tuple(
        Protocol(
            p.get("name", ""),
            p.get("launch_s", 0.0),
            p.get("step_s", 0.0),
            p["efficiency"],
            p.get("per_peer", False),
            p.get("peer_s", 0.0),
            p.get("ramp", 0.0),
        )
        for p in table.get("protocols", [table])
    )
    return Measured(protocols, table.get("min_ranks", 2))


def algorithms_of(table: dict[str, Any], op: str, library: str) -> dict[str, Measured]:
    """What a file's table has for ``op``, each under an algorithm's name: of all operations in ``[nccl]``,
    of one in ``[nccl.OP]``, and the library's own kernels beside them."""
    libraries = dict.fromkeys(("nccl", library))
    places = [table["nccl"]]
    places += [table.get(name, {}).get(LIKE_OPERATION.get(op, op), {}) for name in libraries]
    places += [table.get(name, {}).get(op, {}) for name in libraries]
    lines = [a for a in COLLECTIVE_ALGORITHMS.values() if op in a.operations]
    found = {
        a.name: _measured(place[key])
        for place in places
        for a in lines
        for key in (a.like, a.name)
        if key in place
    }
    if "ring" not in found:
        found["ring"] = _measured(table["nccl"]["ring"])
    for a in lines:
        like = a.like
        while like is not None and like not in found:
            like = COLLECTIVE_ALGORITHMS[like].like
        if a.name not in found and like is not None:
            found[a.name] = found[like]
    return found


@functools.cache
def constants(level: Level, op: str, library: str, ideal: bool) -> Constants:
    """Constants of collective ``op`` on ``level`` for a library, with those that it falls back to.

    Ideal: wire bandwidth, no latency, bandwidth-optimal ring algorithms only (the note's model).
    """
    if ideal:
        every = (a.name for a in COLLECTIVE_ALGORITHMS.values() if a.ideal)
        return Constants(dict.fromkeys(every, _IDEAL), float("inf"), Source("datasheet"))
    if level.kind == "network":
        return network_constants(level, op, SHIPPED_TRANSPORTS)
    name, measured = constants_file(level)
    table = _collective_table(name)
    algorithms = algorithms_of(table, op, library)
    if library not in table and library != "nccl" and level.peer_to_peer:
        # The engine's kernels, measured on NVLink, at this fabric's wire rate.
        lent = algorithms_of(_collective_table(_KERNELS), op, library)
        algorithms |= {k: v for k, v in lent.items() if COLLECTIVE_ALGORITHMS[k].between_peers}
    if level.efficiency is not None or level.own_latency:
        algorithms = {k: _stated(a, level) for k, a in algorithms.items()}
    # An efficiency that the cluster states is that of the whole collective.
    copy = table["nccl"].get("copy_bytes_per_s") if level.efficiency is None else None
    if copy and not level.peer_to_peer and not measured:
        # through host memory the copy goes at the pace of the same wire
        copy *= level.bandwidth_bytes_per_s / table["bandwidth"]
    source = Source(f"collectives/{name}", "" if measured else level.fabric)
    doubt = 0.0 if measured else float(table.get("lent", 1.0))
    if level.efficiency is not None:
        doubt = min(doubt, 1.0)
    return Constants(algorithms, copy or float("inf"), source, doubt)


def network_constants(level: Level, op: str, transports: Transports) -> Constants:
    """A network's constants for an operation, an algorithm without its own having those that it is like."""
    found = transports.constants(level)
    own = found.algorithms
    more = {
        a.name: own[a.like]
        for a in COLLECTIVE_ALGORITHMS.values()
        if op in a.operations and a.name not in own and a.like in own
    }
    return found._replace(algorithms=own | more) if more else found


def host_doubt() -> float:
    """``Constants.lent`` of what passes through a host's memory."""
    return float(_collective_table(_KIND["pcie-host"])["lent"])


def lent_levels(lent: Sequence[Array], ranks: Sequence[Any]) -> Any:
    """The largest doubt among the levels that a group crosses, as ``Constants.lent``."""
    found: Any = 0.0
    for doubt, r in zip(lent, ranks, strict=True):
        found = np.maximum(found, np.where(np.asarray(r) > 1, doubt, 0.0))
    return found


def slower_start(constants: Constants, times: float) -> Constants:
    """Constants whose launches and steps take ``times`` as long."""

    def later(a: Measured) -> Measured:
        every = (
            p._replace(
                launch_s=p.launch_s * times, step_s=p.step_s * times, peer_s=p.peer_s * times
            )
            for p in a.protocols
        )
        return a._replace(protocols=tuple(every))

    algorithms = {k: later(a) for k, a in constants.algorithms.items()}
    form = constants.network
    if form is not None:
        form = form._replace(launch_s=form.launch_s * times, peer_s=form.peer_s * times)
    return constants._replace(algorithms=algorithms, network=form, hop_s=constants.hop_s * times)


def _slowed(algorithm: Measured, share: float) -> Measured:
    """An algorithm at a share of its rate: what a host can copy limits it, not the wire."""
    every = (p._replace(efficiency=p.efficiency * share) for p in algorithm.protocols)
    return algorithm._replace(protocols=tuple(every))


def _stated(algorithm: Measured, level: Level) -> Measured:
    """An algorithm with the figures that the cluster states in place of the fit's: its efficiency,
    and its latency as the time of one step (then there is no launch beside it)."""
    best = algorithm.fastest
    if level.efficiency is not None:
        best = best._replace(efficiency=level.efficiency, ramp=0.0)
    if level.own_latency:
        best = best._replace(launch_s=0.0, step_s=level.latency_s, peer_s=0.0, ramp=0.0)
    return algorithm._replace(protocols=(best,))
