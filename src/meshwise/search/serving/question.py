"""A serving plan from what a user asks: checks, the search, its answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from meshwise.axes import AXES, SERVES, spoken
from meshwise.clusters.load import Cluster
from meshwise.errors import InputError
from meshwise.layouts import tp_degrees as legality
from meshwise.layouts.pins import Pins
from meshwise.layouts.rules.case import key_copies
from meshwise.layouts.rules.rule import degree_refusal, divisors
from meshwise.layouts.rules.rulebook import refuse_pins
from meshwise.models.shapes import Model
from meshwise.search.serving.changes import ServingChange, serving_changes
from meshwise.search.serving.disaggregated import Disaggregated, disaggregate
from meshwise.search.serving.plan import (
    SERVING_OBJECTIVES,
    Limits,
    ServingPlan,
    plan_serving,
)
from meshwise.search.training.question import MAX_TOP, check_gpus, check_objective, check_product
from meshwise.search.training.space import least_etp
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
    check_objective(objective, SERVING_OBJECTIVES, price_per_device_hour)
    if disaggregated and limits is None:
        raise InputError(
            "disaggregated: the pools are matched under limits of latency",
            field="disaggregated",
            value=True,
            legal="`tpot_s` and `ttft_s`, for example `ttft_s=1, tpot_s=0.03`",
        )
    top = count(top, "top", high=MAX_TOP)
    n = cluster.devices if gpus is None else count(gpus, "gpus")
    where = check_gpus(cluster, n)
    asked = dict(pins or {})
    check_serving_pins(model, stack, w, n, asked, None if limits else w.concurrency)
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


def check_serving_pins(
    model: Model, stack: Stack, w: Serving, gpus: int, pins: Pins, requests: int | None = None
) -> None:
    """Refuse pins that no deployment can have, with the nearest legal value. ``requests``: in flight,
    where they are not searched for."""
    for axis in pins:
        if axis not in SERVES:
            name = spoken(axis)
            raise InputError(
                f"{name} has no meaning in serving",
                field=name,
                value=[AXES[axis].spoken(int(code)) for code in pins[axis]],
                legal=f"leave `{name}` out",
            )
    check_product(gpus, pins, ("tp", "pp", "dp"))
    for tp in pins.get("tp", ()):
        legality.require_tp(model, tp, stack, etp=least_etp(tp, pins))
    own = {axis: codes for axis, codes in pins.items() if axis != "tp"}
    refuse_pins(own, model, stack, w.decode(), requests)
    # of the TP degrees that may be, the one whose ranks share keys the most
    tps = pins.get("tp") or [d for d in divisors(gpus) if d in legality.legal_tp(model, stack)]
    copies = max(key_copies(model, tp) for tp in tps)
    for value in pins.get("dcp", ()):
        if value > 1 and copies % value:
            why = f"at most {copies} ranks of a TP group hold the same keys and values"
            raise degree_refusal("dcp", value, why, divisors(copies)).error()
