"""A layout that someone already runs, beside the best one: what each change alone would bring."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from meshwise.axes import ORDERS, RECOMPUTE_CODE, SHARD_CODE
from meshwise.clusters.load import Cluster
from meshwise.layouts.layout import Layouts
from meshwise.models.shapes import Model
from meshwise.search.serving.plan import Server, ServingPlan, ServingRow, plan_serving, row_at
from meshwise.search.tp_curve.curve import remarks
from meshwise.search.training.plan import ranked
from meshwise.search.training.question import Planned, check_gpus
from meshwise.search.training.ranking import Found, Variant, search, variants
from meshwise.search.training.rows import PlanRow, against, rows
from meshwise.search.training.space import Pins
from meshwise.stacks.stack import Stack
from meshwise.workloads.serving import Serving
from meshwise.workloads.workload import Training

_FREE = (
    *("tp", "pp", "vp", "cp", "ep", "etp", "micro_batch", "sequence_parallel"),
    *("decomposed", "recompute", "shard", "placement"),
)


class Compared(NamedTuple):
    """A training layout, the best one, and the best with one axis changed (dp follows)."""

    mine: PlanRow
    best: PlanRow | None
    changes: tuple[tuple[str, PlanRow], ...]  # the shortest step first, those that shorten it only
    remarks: tuple[str, ...] = ()  # as what it was priced, where its figures do not say it


class ComparedServing(NamedTuple):
    """The same of a serving layout, at one concurrency."""

    mine: ServingRow
    best: ServingRow | None
    changes: tuple[tuple[str, ServingRow], ...]
    remarks: tuple[str, ...] = ()


def training_axes(layout: dict[str, Any], model: Model) -> dict[str, int]:
    """A layout's record as the search's axes."""
    routed = any(block.moe is not None for block in model.blocks)
    sp = bool(layout.get("sequence_parallel", False)) and layout.get("tp", 1) > 1
    return {
        **{k: int(layout.get(k, 1)) for k in ("tp", "pp", "dp", "cp", "ep")},
        "etp": int(layout.get("etp", 1)) if routed else 0,
        "micro_batch": int(layout.get("micro_batch") or 1),
        "placement": ["-".join(o) for o in ORDERS].index(layout.get("placement", "tp-cp-dp-pp")),
        "shard": SHARD_CODE[layout.get("shard", "none")],
        "sequence_parallel": int(sp),
        "decomposed": int(layout.get("overlap", "none") == "decomposed" and sp),
        "recompute": RECOMPUTE_CODE[layout.get("recompute", "none")],
        "vp": int(layout.get("vp", 1)),
    }


def check_training(
    axes: dict[str, int], model: Model, cluster: Cluster, w: Training, stack: Stack
) -> None:
    """Raise for a layout that the model, the cluster or the batch does not allow."""
    names = ("tp", "pp", "vp", "dp", "cp", "ep", "micro_batch")
    degrees: dict[str, Any] = {name: axes[name] for name in names}
    asked = grid.Grid(
        **degrees,
        etp=axes["etp"] or None,
        sequence_parallel=bool(axes["sequence_parallel"]),
        shard=list(SHARD_CODE)[axes["shard"]],
    )
    grid.check(asked, model, cluster, w, stack)


def compare_training(
    model: Model,
    cluster: Cluster,
    w: Training,
    stack: Stack,
    layout: dict[str, Any],
    planned: Planned | None = None,
) -> Compared:
    """A layout beside the best of as many GPUs, and beside the best with one of its axes free."""
    axes = training_axes(layout, model)
    gpus = axes["tp"] * axes["pp"] * axes["dp"] * axes["cp"]
    where = check_gpus(cluster, gpus)
    check_training(axes, model, where, w, stack)
    if stack.overlap != "none":
        axes["decomposed"] = 0
    choices = variants(stack, w)
    variant: Variant = choices[0]
    (mine,) = rows([Found(0.0, variant, axes)], model, where)
    pins: Pins = {k: (v,) for k, v in axes.items() if k != "dp"}
    for name in ("sequence_parallel", "decomposed"):
        pins[name] = (bool(axes[name]),)
    if axes["etp"] == 0:
        pins.pop("etp")
    found = []
    for axis in _FREE:
        # overlap and sequence parallelism go together, as do a mesh's experts and its width
        freed = {axis, *({"decomposed"} if axis == "sequence_parallel" else ())}
        own = {k: v for k, v in pins.items() if k not in freed}
        listed = ranked(search(model, where, choices, gpus, own, keep=1), 1)
        if listed and listed[0].axes != axes:
            found.append((_changed(axis, axes, listed[0].axes), listed[0]))
    found = [f for i, f in enumerate(found) if f[1].axes not in [g[1].axes for g in found[:i]]]
    priced = rows([f for _, f in found], model, where) if found else []
    better = [
        (axis, against(mine, r, stack.ideal))
        for (axis, _), r in zip(found, priced, strict=True)
        if r.step_s < mine.step_s or not mine.fits
    ]
    best = planned.plan.best if planned is not None else None
    if best is None:
        listed = ranked(search(model, where, choices, gpus, {}, keep=1), 1)
        best = rows(listed, model, where)[0] if listed else None
    if best is not None:
        mine = against(best, mine, stack.ideal)
    order = tuple(sorted(better, key=lambda c: c[1].step_s))
    return Compared(
        mine, best, order, remarks(model, where, w, stack, axes["tp"], axes["etp"] or None)
    )


def _changed(freed: str, mine: dict[str, int], other: dict[str, int]) -> str:
    """The axis that a change is called by: the freed one, but where only what goes with it changed."""
    if mine[freed] != other[freed]:
        return freed
    return next((k for k in _FREE if mine[k] != other[k]), freed)


def compare_serving(
    model: Model,
    cluster: Cluster,
    w: Serving,
    stack: Stack,
    layout: dict[str, Any],
    plan: ServingPlan | None = None,
) -> ComparedServing:
    """A serving layout beside the best of as many GPUs at the same concurrency."""
    names = ("tp", "pp", "dp", "ep", "etp", "dcp")
    axes = {name: int(layout.get(name, 1)) for name in names}
    if all(block.moe is None for block in model.blocks):
        axes["etp"] = 0
    gpus = axes["tp"] * axes["pp"] * axes["dp"]
    where = check_gpus(cluster, gpus)
    degrees: dict[str, Any] = {**axes, "etp": axes["etp"] or None}
    asked = grid.Grid(**degrees)
    grid.check(asked, model, where, w.decode(), stack)
    columns = Layouts(**{name: np.array([value]) for name, value in axes.items()})
    table = Server(model, where, stack, w).at(columns, np.array([w.concurrency]))
    mine = row_at(table, 0, w)
    pins: Pins = {name: (value,) for name, value in axes.items() if name != "dp"}
    if axes["etp"] == 0:
        pins.pop("etp")
    better = []
    for axis in ("tp", "pp", "ep", "etp", "dcp"):
        own = {k: v for k, v in pins.items() if k != axis}
        if axis in ("ep", "tp"):
            own.pop("etp", None)  # what is left of the experts' grid follows
        found = plan_serving(model, where, stack, w, gpus, own, top=1)
        if found.rows and found.rows[0].axes != axes:
            row = found.rows[0]
            if row.tokens_per_s_per_device > mine.tokens_per_s_per_device or not mine.fits:
                better.append((axis, row))
    best = plan.rows[0] if plan is not None and plan.rows else None
    if best is None:
        listed = plan_serving(model, where, stack, w, gpus, {}, top=1).rows
        best = listed[0] if listed else None
    order = sorted(better, key=lambda c: -c[1].tokens_per_s_per_device)
    return ComparedServing(
        mine,
        best,
        tuple(order),
        remarks(model, where, w.decode(), stack, axes["tp"], axes["etp"] or None),
    )
