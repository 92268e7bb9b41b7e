"""What ``plan`` answers, as JSON (schema 1)."""

from __future__ import annotations

from typing import Any

from meshwise.answers import records
from meshwise.layouts.layout import ORDERS, RECOMPUTE_CODE, SHARD_CODE
from meshwise.program.context import widths
from meshwise.search.tp_curve.curve import run_remarks
from meshwise.search.training.nearest import Change
from meshwise.search.training.plan import Binding, Plan
from meshwise.search.training.question import Planned
from meshwise.search.training.ranking import Found
from meshwise.search.training.rows import PlanRow
from meshwise.search.training.space import Pins
from meshwise.workloads.workload import to_dict as workload_dict

_RECOMPUTE, _SHARD = list(RECOMPUTE_CODE), list(SHARD_CODE)


def axis_value(axis: str, value: int, stack_overlap: str = "none") -> Any:
    """An axis' value as users name it."""
    if axis == "recompute":
        return _RECOMPUTE[value]
    if axis == "shard":
        return _SHARD[value]
    if axis == "placement":
        return "-".join(ORDERS[value])
    if axis == "sequence_parallel":
        return bool(value)
    if axis == "decomposed":
        return "decomposed" if value else stack_overlap
    return int(value)


def layout_dict(axes: dict[str, int], stack_overlap: str = "none") -> dict[str, Any]:
    """The keys of a layout, in the contract's words."""
    a = axes
    names = ("sequence_parallel", "recompute", "shard", "placement")
    return {
        **{k: a[k] for k in ("tp", "pp", "vp", "dp", "cp", "ep")},
        "etp": a["etp"] or max(1, a["tp"] // a["ep"]),
        "micro_batch": a["micro_batch"],
        **{k: axis_value(k, a[k]) for k in names},
        "overlap": axis_value("decomposed", a["decomposed"], stack_overlap),
    }


def found_dict(found: Found) -> dict[str, Any]:
    return layout_dict(found.axes, found.variant.stack.overlap) | found.variant.label


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
            "layout": layout_dict(b.layout),
        }
    return found


def change_dict(change: Change) -> dict[str, Any]:
    found = change.found
    best = {**found_dict(found), "step_s": found.step_s} if found else None
    return {"code": change.code, "value": change.value, "best": best}


def pins_dict(pins: Pins) -> dict[str, list[Any]]:
    named = {"decomposed": "overlap"}
    return {named.get(k, k): [axis_value(k, v) for v in values] for k, values in pins.items()}


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
        "pinned": pins_dict(s.pins),
        "best": row_dict(best, price) if best else None,
        "layouts": [row_dict(r, price) for r in answer.rows],
        "pareto": [row_dict(r, price) for r in answer.pareto],
        "rivals": [{"axis": _named(r.axis), **row_dict(r.row, price)} for r in answer.rivals],
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


def _named(axis: str) -> str:
    return "overlap" if axis == "decomposed" else axis
