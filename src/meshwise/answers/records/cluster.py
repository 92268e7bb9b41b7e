"""The cluster and the software stack of an answer, as JSON (schema 1). Renaming here breaks users."""

from __future__ import annotations

from typing import TypedDict

import msgspec

from meshwise.clusters.load import Cluster
from meshwise.clusters.pcie_hosts import pcie_host_of, unknown_host
from meshwise.stacks.stack import Stack, switch_values


class LevelRecord(TypedDict):
    """A level of the fabric: bytes per second and device, seconds."""

    name: str
    ranks: int
    fabric: str
    kind: str
    bandwidth_bytes_per_s: float
    latency_s: float
    nics: int | None
    oversubscription: float
    pcie_host: str | None


class AssumedRecord(TypedDict):
    """A field that the cluster's file leaves out, and what was taken in its place."""

    field: str
    value: str


class ClusterRecord(TypedDict):
    """A cluster; ``levels`` from the device outwards."""

    name: str
    device: str
    devices: int
    levels: list[LevelRecord]
    assumed: list[AssumedRecord]


def cluster_record(cluster: Cluster) -> ClusterRecord:
    """A cluster as every answer has it."""
    return {
        "name": cluster.name,
        "device": cluster.device.name,
        "devices": cluster.devices,
        "levels": [
            {
                "name": level.name,
                "ranks": level.ranks,
                "fabric": level.fabric,
                "kind": level.kind,
                "bandwidth_bytes_per_s": level.bandwidth_bytes_per_s,
                "latency_s": level.latency_s,
                "nics": level.nics,
                "oversubscription": level.oversubscription,
                "pcie_host": pcie_host_of(level),
            }
            for level in cluster.levels
        ],
        "assumed": [*_usual_fabrics(cluster), *_unknown_host(cluster)],
    }


def _usual_fabrics(cluster: Cluster) -> list[AssumedRecord]:
    return [
        {"field": f"level[{i}].fabric", "value": level.fabric}
        for i, level in enumerate(cluster.levels)
        if level.assumed
    ]


def _unknown_host(cluster: Cluster) -> list[AssumedRecord]:
    """What is between PCIe cards decides where there are more than two."""
    level = unknown_host(cluster)
    said = "between switch and root (four and more cards depend on it)"
    return [{"field": f"{level}.pcie_host", "value": said}] if level else []


def stack_record(stack: Stack) -> dict[str, object]:
    """A stack switch by switch, without its sources."""
    first, *rest = switch_values(stack).items()
    table = {"name": stack.name, "title": stack.title, first[0]: first[1], "ideal": stack.ideal}
    found: dict[str, object] = msgspec.to_builtins({**table, **dict(rest)})
    return found
