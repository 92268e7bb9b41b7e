"""KubeRay's jobs: one command over the pods of a Ray cluster of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshwise.launch.wrappers.config_maps import value_at


def ray_pods(
    job: dict[str, Any], gpus: Callable[[dict[str, Any]], int | None]
) -> tuple[int | None, int] | None:
    """(GPUs of a pod, pods with GPUs) of the cluster that a RayJob's ``spec`` starts; None where it starts
    none, GPUs None where pods have unlike numbers. ``gpus``: of a container."""
    cluster = job.get("rayClusterSpec")
    if not isinstance(cluster, dict):
        return None
    workers = cluster.get("workerGroupSpecs")
    groups = [(cluster.get("headGroupSpec"), 1)]
    groups += [
        (group, int(group.get("replicas", 1) or 0))
        for group in (workers if isinstance(workers, list) else [])
        if isinstance(group, dict) and str(group.get("replicas", 1)).isdigit()
    ]
    found: list[int] = []
    for group, many in groups:
        containers = value_at(group, "template", "spec", "containers")
        own = [gpus(c) or 0 for c in (containers if isinstance(containers, list) else [])]
        found += [sum(own)] * many if sum(own) else []
    if not found:
        return None
    return (found[0] if len(set(found)) == 1 else None), len(found)
