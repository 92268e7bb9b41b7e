"""The smallest changes that would make a serving layout feasible."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from meshwise.layouts.pins import Pins
from meshwise.search.serving.plan import Limits, ServingPlan, ServingRow, plan_serving
from meshwise.workloads.serving import Serving


class ServingChange(NamedTuple):
    """What would make a layout feasible, and the best one then."""

    code: str  # gpus, weights_dtype, kv_dtype, concurrency, limits
    value: int | str | dict[str, float]
    row: ServingRow


def serving_changes(plan: ServingPlan, pins: Pins, limits: Limits | None) -> list[ServingChange]:
    """The smallest change of each kind: more GPUs, narrower weights or KV cache, fewer requests in
    flight, and the latency that the nearest layout reaches."""
    w, model = plan.workload, plan.model

    def best(
        work: Serving = w, gpus: int = plan.gpus, bounds: Limits | None = limits
    ) -> ServingRow | None:
        from meshwise.clusters.load import grown

        where = grown(plan.cluster, gpus)
        if gpus > where.devices:
            return None
        found = plan_serving(model, where, plan.stack, work, gpus, pins, limits=bounds, top=1)
        return found.rows[0] if found.rows else None

    changes = []
    node, full = plan.cluster.node_devices, -(-plan.gpus // plan.cluster.node_devices)
    counts = [1 << i for i in range(plan.gpus.bit_length(), node.bit_length()) if 1 << i < node]
    counts += [n * node for n in (full, *(full + 1 << i for i in range(8))) if n * node > plan.gpus]
    for n in counts:
        row = best(gpus=n)
        if row is not None:
            changes.append(ServingChange("gpus", n, row))
            break
    for code, names in (("weights", ("fp8", "int4")), ("kv_cache", ("fp8",))):
        for name in names:
            formats = msgspec.structs.replace(w.formats, **{code: name})
            row = best(work=msgspec.structs.replace(w, formats=formats))
            if row is not None:
                changes.append(ServingChange(f"{code}_dtype", name, row))
                break
    if limits is None:
        fewer = w.concurrency // 2
        while fewer >= 1:
            row = best(work=msgspec.structs.replace(w, concurrency=fewer))
            if row is not None:
                changes.append(ServingChange("concurrency", fewer, row))
                break
            fewer //= 2
    if plan.reached is not None:
        reached = {"ttft_s": plan.reached.ttft_s, "tpot_s": plan.reached.tpot_s}
        changes.append(ServingChange("limits", reached, plan.reached))
    return changes
