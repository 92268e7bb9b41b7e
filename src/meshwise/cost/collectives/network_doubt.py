"""How far collectives across a network may be off: what systems were that no constant had seen.

``catalog/collectives/network.toml`` has the ends of ln(measured / predicted) of systems left out of the
fit, by size of the message (``tools/fit_networks.py``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meshwise.clusters.load import Cluster
from meshwise.cost.collectives.transports import ALL_TRANSPORTS, transport_of, transport_table
from meshwise.layouts.placement import Group

ACROSS_NETWORK = "network"  # the beginning of every kind's name
ALL_TO_ALL = "all_to_all"
# Largest message of a kind [bytes].
MESSAGE_SIZES = (
    ("small", 2.0**15),
    ("medium", 2.0**20),
    ("large", 2.0**28),
    ("largest", float("inf")),
)
# One machine with 256 nodes; every other log of all_to_all has two.
FEW_DOMAINS = 16
# Networks of a kind that no log shows: hops of the kinds that were measured span a factor of ten, four
# either way of their middle, so that small messages may take that much longer or shorter.
UNKNOWN_KIND = float(np.log(4.0))
UNKNOWN_UP_TO = ("small", "medium")
# More domains than any log has: what else falls with their number.
MOST_DOMAINS = 256
BEYOND = float(np.log(2.0))
# Standard deviation of the logarithm where the NICs' rate is assumed: those of a device's clusters in the
# catalog differ by 0.74 (one per device), of which a collective that is half latency sees about two thirds.
OPEN_NETWORK_SD = 0.5


def network_kind(op: str, payload: float | None, group: Group, cluster: Cluster) -> str:
    """Which systems left out say how far a collective across a network may be off: all, or those of an
    operation and size."""
    if not op or payload is None:
        return ACROSS_NETWORK
    domains, unknown = 1, False
    for level, ranks in zip(cluster.levels, group.ranks, strict=True):
        if level.kind == "network" and np.max(ranks) > 1:
            domains *= int(np.max(ranks))
            unknown = unknown or "lent" in transport_table(transport_of(level.fabric))
    size = next(name for name, most in MESSAGE_SIZES if payload <= most)
    kind = f"{ACROSS_NETWORK}-{ALL_TO_ALL if op == ALL_TO_ALL else size}"
    if op == ALL_TO_ALL and domains > FEW_DOMAINS:
        kind += "-many"
    elif domains > MOST_DOMAINS:
        kind += "-beyond"
    return kind + ("-unknown" if unknown and size in UNKNOWN_UP_TO else "")


def network_spread(kind: str) -> tuple[float, float]:
    """The ends of ln(measured / predicted) that hold 90 % of the rows of systems left out."""
    table: dict[str, Any] = transport_table(ALL_TRANSPORTS)["spread"]
    _, _, rest = kind.partition("-")
    name, *more = rest.split("-") if rest else ["all"]
    found = table[f"{name}_many" if "many" in more else name]
    low, high = float(found["low"]), float(found["high"])
    if "beyond" in more:
        high += BEYOND
    if "unknown" in more:
        low, high = -float(np.hypot(low, UNKNOWN_KIND)), float(np.hypot(high, UNKNOWN_KIND))
    return low, high
