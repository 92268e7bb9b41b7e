"""A serving plan from what a user asks: checks, the search, its answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from meshwise.axes import SERVES
from meshwise.clusters.load import Cluster
from meshwise.errors import InputError
from meshwise.layouts import tp_degrees as legality
from meshwise.layouts.pins import Pins
from meshwise.layouts.rules import key_copies
from meshwise.models.shapes import Model
from meshwise.search.serving.disaggregated import Disaggregated, disaggregate
from meshwise.search.serving.plan import (
    OBJECTIVES,
    Limits,
    ServingChange,
    ServingPlan,
    plan_serving,
    serving_changes,
)
from meshwise.search.training.question import (
    MAX_TOP,
    check_experts,
    check_gpus,
    check_objective,
    refuse,
)
from meshwise.search.training.space import divisors, least_etp
from meshwise.stacks.stack import Stack
from meshwise.strict_tables import count
from meshwise.workloads.serving import Serving


class Served(NamedTuple):
    """A serving plan, what would change it, and the disaggregated one beside it."""

    plan: ServingPlan
    changes: tuple[ServingChange, ...]
    disaggregated: Disaggregated | None
    elapsed_s: float


def plan_deployment(
    model: Model,
    cluster: Cluster,
    stack: Stack,
    w: Serving,
    *,
    gpus: int | None = None,
    pins: Pins | None = None,
    limits: Limits | None = None,
    objective: str = "throughput",
    top: int = 10,
    price_per_device_hour: float | None = None,
    disaggregated: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Served:
    """The best layouts of ``gpus`` devices (all of the cluster's by default) for serving."""
    started = time.perf_counter()
    check_objective(objective, OBJECTIVES, price_per_device_hour)
    if disaggregated and limits is None:
        raise InputError(
            "--disaggregated: the pools are matched under limits of latency",
            field="--disaggregated",
            value=True,
            legal="--tpot and --ttft, for example --ttft 1s --tpot 30ms",
        )
    top = count(top, "--top", high=MAX_TOP)
    n = cluster.devices if gpus is None else count(gpus, "--gpus")
    where = check_gpus(cluster, n)
    asked = dict(pins or {})
    check_serving_pins(model, stack, n, asked)
    answer = plan_serving(
        model, where, stack, w, n, asked, limits=limits, objective=objective, top=top
    )
    apart = None
    if disaggregated and limits is not None:
        apart = disaggregate(model, where, stack, w, n, limits, asked, progress)
    changes: list[ServingChange] = []
    if not answer.rows:
        changes = serving_changes(answer, asked, limits)
    return Served(answer, tuple(changes), apart, time.perf_counter() - started)


def check_serving_pins(model: Model, stack: Stack, gpus: int, pins: Pins) -> None:
    """Refuse pins that no deployment can have, with the nearest legal value."""
    for axis in pins:
        if axis not in SERVES:
            option = "--" + axis.replace("_", "-")
            raise InputError(
                f"{option} has no meaning in serving",
                field=option,
                value=list(pins[axis]),
                legal=f"leave {option} out",
            )
    for tp in pins.get("tp", ()):
        legality.require_tp(model, tp, stack, etp=least_etp(tp, pins))
    for axis in ("tp", "pp", "dp"):
        for value in pins.get(axis, ()):
            if gpus % value:
                refuse(axis, value, f"does not divide the {gpus} GPUs", divisors(gpus))
    if all(len(pins.get(axis, (1, 2))) == 1 for axis in ("tp", "pp", "dp")):
        product = pins["tp"][0] * pins["pp"][0] * pins["dp"][0]
        if product != gpus:
            refuse("gpus", gpus, f"the pinned degrees use {product} GPUs", [product])
    for pp in pins.get("pp", ()):
        if pp > model.layers:
            refuse("pp", pp, f"{pp} stages for {model.layers} layers", [model.layers])
    check_experts(model, pins)
    for value in pins.get("dcp", ()):
        if value > 1:
            tps = pins.get("tp") or [
                d for d in divisors(gpus) if d in legality.legal_tp(model, stack)
            ]
            copies = max(key_copies(model, tp) for tp in tps)
            if copies % value:
                why = f"at most {copies} ranks of a TP group hold the same keys and values"
                refuse("dcp", value, why, divisors(copies))
