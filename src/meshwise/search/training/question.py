"""A plan from what a user asks: checks, the search, its answer."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from meshwise.axes import RANKS
from meshwise.clusters.load import Cluster, grown
from meshwise.errors import IllegalLayout, InputError, quoted
from meshwise.layouts import tp_degrees as legality
from meshwise.layouts.pins import Pins
from meshwise.layouts.rules.rule import degree_refusal, divisors
from meshwise.layouts.rules.rulebook import refuse_pins
from meshwise.models.shapes import Model
from meshwise.search.training.nearest import Change, changes
from meshwise.search.training.plan import Plan, plan_from
from meshwise.search.training.ranking import OnProgress, search, variants
from meshwise.search.training.space import least_etp
from meshwise.stacks.stack import Stack
from meshwise.strict_tables import count, one_of
from meshwise.workloads.workload import Training

TRAINING_OBJECTIVES = ("step", "mfu", "cost")
FREE = ("dtype", "comm-dtype")  # what changes the numerics is looked at only where it is freed
MAX_TOP = 1000


class Planned(NamedTuple):
    """A plan, and what was asked."""

    plan: Plan
    changes: tuple[Change, ...]  # where nothing is feasible
    elapsed_s: float
    price_per_device_hour: float | None
    objective: str


def check_gpus(cluster: Cluster, gpus: int) -> Cluster:
    """The cluster, grown to hold ``gpus``."""
    grown_to = grown(cluster, gpus)
    if gpus > grown_to.devices:
        raise IllegalLayout(
            f"gpus={gpus} is more than the {grown_to.devices} GPUs of {cluster.name}, which has no "
            "network to grow over",
            field="gpus",
            value=gpus,
            legal=f"1 to {grown_to.devices}, or a cluster with a network [[level]]",
            nearest=grown_to.devices,
        )
    return grown_to


def check_pins(model: Model, stack: Stack, w: Training, gpus: int, pins: Pins) -> None:
    """Refuse pins that no layout can have, with the nearest legal value."""
    check_product(gpus, pins, RANKS)
    for tp in pins.get("tp", ()):
        legality.require_tp(model, tp, stack, etp=least_etp(tp, pins))
    refuse_pins({axis: codes for axis, codes in pins.items() if axis != "tp"}, model, stack, w)


def check_product(gpus: int, pins: Pins, axes: Sequence[str]) -> None:
    """Refuse pinned degrees that do not multiply to the GPUs, whatever the other axes are."""
    for axis in axes:
        for value in pins.get(axis, ()):
            if gpus % value:
                raise degree_refusal(
                    axis, value, f"does not divide the {gpus} GPUs", divisors(gpus)
                ).error()
    least = math.prod(min(pins.get(axis, (1,))) for axis in axes)
    fixed = all(len(pins.get(axis, (1,))) == 1 for axis in axes)
    if fixed and gpus % least:
        named = " · ".join(f"{axis} {pins[axis][0]}" for axis in axes if axis in pins)
        raise IllegalLayout(
            f"{named} = {least} does not divide the {gpus} GPUs",
            field="gpus",
            value=gpus,
            legal=f"a multiple of {least}",
            nearest=max(1, round(gpus / least)) * least,
        )
    if all(axis in pins for axis in axes) and (least > gpus or (fixed and least != gpus)):
        why = f"the pinned degrees use {least} GPUs" + ("" if fixed else " at least")
        raise degree_refusal("gpus", gpus, why, [least]).error()


def check_objective(objective: str, legal: tuple[str, ...], price: float | None) -> None:
    one_of(objective, "objective", legal)
    if objective == "cost" and price is None:
        raise InputError(
            "price_per_device_hour: missing: the objective cost needs the price of a GPU",
            field="price_per_device_hour",
            legal="dollars per GPU and hour, for example `price_per_device_hour=2.50`",
        )


def plan_training(
    model: Model,
    cluster: Cluster,
    w: Training,
    stack: Stack,
    *,
    gpus: int | None = None,
    pins: Pins | None = None,
    free: tuple[str, ...] = (),
    top: int = 10,
    objective: str = "step",
    price_per_device_hour: float | None = None,
    progress: OnProgress | None = None,
) -> Planned:
    """The best layouts of ``gpus`` devices (all of the cluster's by default) for a training step."""
    started = time.perf_counter()
    check_objective(objective, TRAINING_OBJECTIVES, price_per_device_hour)
    for name in free:
        one_of(name, "free", FREE)
    top = count(top, "top", high=MAX_TOP)
    n = cluster.devices if gpus is None else count(gpus, "gpus")
    where = check_gpus(cluster, n)
    asked = dict(pins or {})
    if w.micro_batch is not None:
        asked.setdefault("micro_batch", (w.micro_batch,))
    check_pins(model, stack, w, n, asked)
    if "decomposed" in asked and (stack.overlaps.overlap != "none" or stack.ideal):
        how = (
            "hides nothing at ideal rates"
            if stack.ideal
            else f"overlaps by itself ({stack.overlaps.overlap})"
        )
        raise InputError(
            f"overlap: {stack.name} {how}",
            field="overlap",
            value=quoted(stack.overlaps.overlap),
            legal="leave `overlap` out, or a stack without it",
        )
    choices = variants(stack, w, dtypes=_dtypes(where, w, free), comm_dtypes=_comms(free, w))
    found = search(model, where, choices, n, asked, keep=max(50, 2 * top), progress=progress)
    answer = plan_from(found, stack, top)
    near: list[Change] = []
    if not answer.rows and not found.partial:
        near = changes(model, where, w, stack, n, asked, found)
    elapsed = time.perf_counter() - started
    return Planned(answer, tuple(near), elapsed, price_per_device_hour, objective)


def _dtypes(cluster: Cluster, w: Training, free: tuple[str, ...]) -> tuple[Any, ...]:
    if "dtype" not in free:
        return ()
    own = w.formats.dtype
    fast = "fp8" in cluster.device.peak_flops_per_s
    return tuple(dict.fromkeys((own, *(("fp8",) if fast else ()))))


def _comms(free: tuple[str, ...], w: Training) -> tuple[Any, ...]:
    return tuple(dict.fromkeys((w.formats.comm, "fp8"))) if "comm-dtype" in free else ()
