"""What ``plan`` answers, as JSON (schema 1)."""

from __future__ import annotations

from typing import Any

from meshwise.answers import records
from meshwise.axes import spoken
from meshwise.layouts.pins import pins_record
from meshwise.program.context import widths
from meshwise.search.tp_curve.curve import run_remarks
from meshwise.search.training.nearest import Change
from meshwise.search.training.plan import Binding, Plan
from meshwise.search.training.question import Planned
from meshwise.search.training.ranking import Found
from meshwise.search.training.rows import PlanRow
from meshwise.workloads.workload import to_dict as workload_dict


def found_dict(found: Found) -> dict[str, Any]:
    return found.layout.record(found.variant.stack.overlaps.overlap) | found.variant.label


def row_dict(r: PlanRow, price: float | None = None) -> dict[str, Any]:
    """One layout: its axes and its figures."""
    figures: dict[str, Any] = {
        name: getattr(r, name)
        for name in (
            "devices",
            "step_s",
            "step_low_s",
            "step_high_s",
            "compute_s",
            "comm_s",
            "exposed_comm_s",
            "bubble_s",
            "host_s",
            "mfu",
            "tokens_per_s",
            "tokens_per_s_per_device",
            "memory_bytes",
            "fits",
            "tie",
            "difference_s",
        )
    }
    figures["comm_share"] = r.exposed_comm_s / r.step_s
    figures["exposed_comm_by_axis_s"] = {k: v for k, v in r.exposed_by_axis.items() if v}
    if price is not None:
        figures["dollars_per_step"] = price * r.devices * r.step_s / 3600.0
        figures["dollars_per_billion_tokens"] = price * r.devices / 3600.0 / r.tokens_per_s * 1e9
    return found_dict(r.found) | figures


def binding_dict(b: Binding | None) -> dict[str, Any] | None:
    if b is None:
        return None
    found: dict[str, Any] = {"code": b.code, "share": b.share}
    if b.layout is not None:
        found |= {
            "step_s": b.step_s,
            "memory_bytes": b.memory_bytes,
            "layout": b.layout.record("none"),
        }
    return found


def change_dict(change: Change) -> dict[str, Any]:
    found = change.found
    best = {**found_dict(found), "step_s": found.step_s} if found else None
    return {"code": change.code, "value": change.value, "best": best}


def plan_dict(p: Planned) -> dict[str, Any]:
    answer: Plan = p.plan
    s = answer.search
    price = p.price_per_device_hour
    best = answer.best
    w = s.searched[0].variant.workload
    workload = workload_dict(w)
    for key in ("micro_batch", "recompute"):  # axes of the plan
        workload.pop(key, None)
    return {
        "schema": records.SCHEMA,
        "model": s.model.name,
        "cluster": records.cluster_dict(s.cluster),
        "workload": workload,
        "formats": widths(s.model, w, answer.stack)._asdict(),
        "stack": records.stack_dict(answer.stack),
        "gpus": s.gpus,
        "objective": p.objective,
        "pinned": pins_record(s.pins),
        "best": row_dict(best, price) if best else None,
        "layouts": [row_dict(r, price) for r in answer.rows],
        "pareto": [row_dict(r, price) for r in answer.pareto],
        "rivals": [{"axis": spoken(r.axis), **row_dict(r.row, price)} for r in answer.rivals],
        "binding": binding_dict(answer.binding),
        "rule_of_thumb": row_dict(answer.rule_of_thumb, price) if answer.rule_of_thumb else None,
        "nearest_feasible": [change_dict(c) for c in p.changes],
        "counts": {
            "enumerated": s.enumerated,
            "bounded": s.bounded,
            "feasible": s.feasible,
            "refused": {rule: n for rule, n in s.refused.items() if n},
        },
        "partial": s.partial,
        "remarks": run_remarks(s.model, s.cluster, w, answer.stack),
        "elapsed_s": p.elapsed_s,
    }
