"""The smallest changes that would make a serving layout feasible."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from meshwise.layouts.pins import Pins
from meshwise.search.serving.plan import Limits, ServingPlan, ServingRow, plan_serving
from meshwise.workloads.serving import Serving

_LOOKED_AT = 16  # numbers of GPUs between one that does not do and one that does


class ServingChange(NamedTuple):
    """What would make a layout feasible, and the best one then."""

    code: str  # gpus, weights_dtype, kv_dtype, concurrency, limits
    value: int | str | dict[str, float]
    row: ServingRow


def _fewest(plan: ServingPlan, best: Callable[[int], ServingRow | None]) -> ServingRow | None:
    """The row of the fewest GPUs above the plan's, by ``best`` of a number of them: up to a node twice as
    many at a time, then whole nodes likewise, and from the last number that does not do each one, or so
    many at a time that there are few of them."""
    node, full = plan.cluster.node_devices, -(-plan.gpus // plan.cluster.node_devices)
    counts = [1 << i for i in range(plan.gpus.bit_length(), node.bit_length()) if 1 << i < node]
    counts += [n * node for n in (full, *(full + 1 << i for i in range(8))) if n * node > plan.gpus]
    low, row = plan.gpus, None
    for n in counts:
        row = best(n)
        if row is not None:
            break
        low = n
    while row is not None and row.devices - low > 1:
        high, step = row.devices, -(-(row.devices - low) // _LOOKED_AT)
        for n in range(low + step, high, step):
            fewer = best(n)
            if fewer is not None:
                row = fewer
                break
            low = n
        if row.devices == high:
            if step == 1:
                break
            low = max(low, high - step)
    return row


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
    found = _fewest(plan, lambda n: best(gpus=n))
    if found is not None:
        changes.append(ServingChange("gpus", found.devices, found))
    for code, names in (("weights", ("fp8", "int4")), ("kv_cache", ("fp8",))):
        for name in names:
            formats = msgspec.structs.replace(w.formats, **{code: name})
            row = best(work=msgspec.structs.replace(w, formats=formats))
            if row is not None:
                changes.append(ServingChange(f"{code}_dtype", name, row))
                break
    if limits is None:
        low, high, kept = 0, w.concurrency, None  # serves, does not
        while high - low > 1:
            middle = (low + high) // 2
            row = best(work=msgspec.structs.replace(w, concurrency=middle))
            low, high, kept = (low, middle, kept) if row is None else (middle, high, row)
        if kept is not None:
            changes.append(ServingChange("concurrency", low, kept))
    if plan.reached and not plan.feasible:
        row = plan.reached[0]
        reached = {"ttft_s": row.ttft_s, "tpot_s": row.tpot_s}
        changes.append(ServingChange("limits", reached, row))
    return changes
