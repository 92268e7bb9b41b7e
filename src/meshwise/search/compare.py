"""A layout that someone already runs, beside the best one: what each change alone would bring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from meshwise.axes import SERVES, TRAINS
from meshwise.clusters.load import Cluster
from meshwise.cost.estimate import price_layouts
from meshwise.errors import DoesNotFit, InputError, list_in_words
from meshwise.layouts.check import check
from meshwise.layouts.layout import Layout, columns
from meshwise.layouts.pins import Pins
from meshwise.models.shapes import Model
from meshwise.search.gains import Gain, ServingDoubt, serving_gain, training_gain
from meshwise.search.serving.engine_limits import FreeEngine
from meshwise.search.serving.plan import (
    Server,
    ServingPlan,
    ServingRow,
    best_first,
    row_at,
    some_columns,
)
from meshwise.search.serving.question import ServingAsked, plan_deployment
from meshwise.search.serving.runs.lengths import check_positions
from meshwise.search.serving.runs.room import PlacedServer, require_room
from meshwise.search.serving.runs.trial import SentLoad, Trials, trial_rows
from meshwise.search.serving.space import serving_space
from meshwise.search.tp_curve.remarks import degree_remarks
from meshwise.search.training.plan import ranked
from meshwise.search.training.question import Planned, check_gpus
from meshwise.search.training.ranking import Found, Variant, search, variants
from meshwise.search.training.rows import PlanRow, against, rows
from meshwise.stacks.stack import Stack, replaced
from meshwise.units import format_memory
from meshwise.workloads.serving import Serving
from meshwise.workloads.workload import Training

ENGINE_OPTIONS = "engine_options"  # the change that keeps the layout and drops these
# of training the changes that keep the layout and hold on the GPUs what is on the host: each with its
# switch there
ON_THE_GPUS: dict[str, object] = {"offload_optimizer": False, "offload_layers": 0}
OPTIONS = (ENGINE_OPTIONS, *ON_THE_GPUS)  # changes that are none of the layout
_FREE = tuple(name for name in TRAINS if name != "dp")  # dp follows from the others


class Compared(NamedTuple):
    """A training layout, the best one, and the best with one axis changed (dp follows)."""

    mine: PlanRow
    best: PlanRow | None
    changes: tuple[tuple[str, PlanRow], ...]  # the shortest step first, those that shorten it only
    remarks: tuple[str, ...] = ()  # as what it was priced, where its figures do not say it
    gains: tuple[Gain, ...] = ()  # of each change
    best_gain: Gain | None = None
    load: Training | None = None  # that it is priced at
    misfit: str = ""  # by how much its memory is too small, where it is

    @property
    def runs(self) -> bool:
        """Whether the layout runs at all: its memory holds the step."""
        return self.mine.fits


class ComparedServing(NamedTuple):
    """The same of a serving layout, at one concurrency."""

    mine: ServingRow
    best: ServingRow | None
    changes: tuple[tuple[str, ServingRow], ...]
    remarks: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()  # of the engine, which the change ``ENGINE_OPTIONS`` is without
    gains: tuple[Gain, ...] = ()  # of each change
    best_gain: Gain | None = None
    load: Serving | None = None  # that it is priced at
    misfit: str = (
        ""  # by how much its memory is too small for one request, where it is, and what fits
    )

    @property
    def runs(self) -> bool:
        """Whether the layout serves at all: each replica's memory holds a request."""
        return holds_requests(self.mine)

    @property
    def at_once(self) -> int:
        """Requests of those in flight that the caches hold: the others wait."""
        return min(self.mine.concurrency, self.mine.max_concurrency)


def holds_requests(row: ServingRow) -> bool:
    """Whether each replica's cache holds a request at least."""
    return row.max_concurrency >= row.layout.dp


def _trained(layout: Layout, model: Model, stack: Stack) -> Layout:
    """The layout with all that the search says of one."""
    routed = any(block.moe is not None for block in model.blocks)
    parallel = bool(layout.sequence_parallel) and layout.tp > 1
    return Layout(
        **{name: getattr(layout, name) for name in ("tp", "pp", "vp", "dp", "cp", "ep")},
        etp=layout.expert_tp if routed else None,
        micro_batch=layout.micro_batch or 1,
        sequence_parallel=parallel,
        # a stack that overlaps by itself has one way
        decomposed=layout.decomposed and parallel and stack.overlaps.overlap == "none",
        recompute=layout.recompute or "none",
        shard=layout.shard,
        placement=layout.placement,
    )


def _pinned(layout: Layout, names: Sequence[str]) -> Pins:
    """Every axis but dp, which follows, at the layout's own value."""
    kept = (n for n in names if n != "dp" and getattr(layout, n) is not None)
    return {name: (layout.code(name),) for name in kept}


def compare_training(
    model: Model,
    cluster: Cluster,
    w: Training,
    stack: Stack,
    layout: Layout,
    planned: Planned | None = None,
) -> Compared:
    """A layout beside the best of as many GPUs, and beside the best with one of its axes free."""
    layout = _trained(layout, model, stack)
    where = check_gpus(cluster, layout.devices)
    check(layout, model, where, w, stack)
    gpus = layout.devices
    choices = variants(stack, w)
    variant: Variant = choices[0]
    (mine,) = rows([Found(0.0, variant, layout)], model, where)
    pins = _pinned(layout, TRAINS)
    found = []
    for axis in _FREE:
        # overlap and sequence parallelism go together, as do a mesh's experts and its width
        freed = {axis, *({"decomposed"} if axis == "sequence_parallel" else ())}
        own = {k: v for k, v in pins.items() if k not in freed}
        listed = ranked(search(model, where, choices, gpus, own, keep=1), 1)
        if listed and listed[0].layout != layout:
            found.append((_changed(axis, layout, listed[0].layout), listed[0]))
    found = [f for i, f in enumerate(found) if f[1].layout not in [g[1].layout for g in found[:i]]]
    found += [(name, Found(0.0, v, layout)) for name, v in _without_offload(stack, w)]
    priced = rows([f for _, f in found], model, where) if found else []
    better = [
        (axis, against(mine, r, stack.ideal))
        for (axis, _), r in zip(found, priced, strict=True)
        if r.fits and (r.step_s < mine.step_s or not mine.fits)
    ]
    best = planned.plan.best if planned is not None else None
    if best is None:
        # what the command offloads is its own choice, as the axes are: the best may be without
        every = (*choices, *_all_on_the_gpus(stack, w))
        listed = ranked(search(model, where, every, gpus, {}, keep=1), 1)
        best = rows(listed, model, where)[0] if listed else None
    if best is not None:
        mine = against(best, mine, stack.ideal)
    order = tuple(sorted(better, key=lambda c: c[1].step_s))
    return Compared(
        mine,
        best,
        order,
        (
            *_brought_back(stack, best),
            *degree_remarks(model, where, w, stack, layout.tp, layout.etp),
        ),
        tuple(training_gain(mine, row, ideal=stack.ideal) for _, row in order),
        training_gain(mine, best, ideal=stack.ideal) if best is not None else None,
        w,
        "" if mine.fits else _too_much(model, where, w, stack, mine),
    )


def _without_offload(stack: Stack, w: Training) -> list[tuple[str, Variant]]:
    """The job with what is on the host back on the GPUs, each alone. Ideal rates have no host."""
    found = []
    for name, here in ON_THE_GPUS.items():
        if not stack.ideal and getattr(stack.state, name) != here:
            found.append((name, variants(replaced(stack, {name: here}), w)[0]))
    return found


def _all_on_the_gpus(stack: Stack, w: Training) -> list[Variant]:
    """The ways of a stack with nothing on the host, where it has something there."""
    here = {n: v for n, v in ON_THE_GPUS.items() if getattr(stack.state, n) != v}
    return [] if stack.ideal or not here else list(variants(replaced(stack, here), w))


def _brought_back(stack: Stack, best: PlanRow | None) -> tuple[str, ...]:
    """That the best has on the GPUs what the command has on the host."""
    if best is None or stack.ideal:
        return ()
    state = best.found.variant.stack.state
    moved = [_HELD[n] for n in ON_THE_GPUS if getattr(state, n) != getattr(stack.state, n)]
    return (f"the best has the {list_in_words(moved)} on the GPUs",) if moved else ()


_HELD = {"offload_optimizer": "optimizer", "offload_layers": "activations"}


def _too_much(model: Model, cluster: Cluster, w: Training, stack: Stack, mine: PlanRow) -> str:
    """By how much a step's memory is more than a GPU has for it."""
    e = price_layouts(model, cluster, w, stack, columns([mine.found.layout]))
    limit = float(np.ravel(e.memory_limit_bytes)[0])
    return (
        f"a step needs {format_memory(mine.memory_bytes)} of a GPU that has {format_memory(limit)} for it: "
        f"{format_memory(mine.memory_bytes - limit)} too much"
    )


def _changed(freed: str, mine: Layout, other: Layout) -> str:
    """The axis that a change is called by: the freed one, but where only what goes with it changed."""
    differ = [axis for axis in _FREE if mine.code(axis) != other.code(axis)]
    return freed if freed in differ or not differ else differ[0]


def compare_serving(
    model: Model,
    cluster: Cluster,
    w: Serving,
    stack: Stack,
    layout: Layout,
    plan: ServingPlan | None = None,
    *,
    max_model_len: int | None = None,
    objective: str = "throughput",
    pins: Pins | None = None,
    sent: SentLoad | None = None,
    free: FreeEngine | None = None,
) -> ComparedServing:
    """A serving layout beside the best of as many GPUs at the same concurrency, all simulated as ``serve``
    and ``plan`` do, under what is ``sent`` of ``plan``. The best is that of ``plan``, or of one that is made
    for it, by ``objective`` and under ``pins``; ``max_model_len``: the longest request that the engine is told
    of [tokens]; ``free``: the engine without the command's own options, one of the changes."""
    sent = sent or SentLoad()
    routed = any(block.moe is not None for block in model.blocks)
    layout = Layout(
        **{name: getattr(layout, name) for name in SERVES if name != "etp"},
        etp=layout.expert_tp if routed else None,
    )
    gpus = layout.devices
    where = check_gpus(cluster, gpus)
    check(layout, model, where, w.decode(), stack)
    table = Server(model, where, stack, w).at(columns([layout]), np.array([w.concurrency]))
    mine = row_at(table, 0)
    own_axes = _pinned(layout, SERVES)
    better = []
    for axis in (name for name in SERVES if name != "dp"):
        own = {k: v for k, v in own_axes.items() if k != axis}
        if axis in ("ep", "tp"):
            own.pop("etp", None)  # what is left of the experts' grid follows
        row = _best_serving(model, where, stack, w, gpus, own)
        if row is None or row.layout == layout:
            continue
        if row.tokens_per_s_per_device > mine.tokens_per_s_per_device or not holds_requests(mine):
            better.append((axis, row))
    if plan is None or not plan.rows:
        plan = plan_deployment(
            *(model, where, stack, w),
            gpus=gpus,
            pins=pins,
            asked=ServingAsked(sent=sent),
            objective=objective,
        ).plan
    best = plan.rows[0] if plan.rows else None
    if best is None:  # none holds all in flight at once: the best of those of which some wait
        best = _best_serving(model, where, stack, w, gpus, pins or {})
    mine, best, better = _simulated_too(
        Trials(model, where, stack, w, sent), plan.rows, mine, best, better
    )
    if free is not None:
        trials = Trials(model, where, free.stack, free.load, sent)
        (row,) = trial_rows(trials, [trials.at(layout, concurrency=w.concurrency)])
        better += [(ENGINE_OPTIONS, row)] if _is_better(row, mine) else []
    order = sorted(better, key=lambda c: -c[1].tokens_per_s_per_device)
    gains, of_best = _gains(model, where, (stack, w), mine, best, order, free)
    return ComparedServing(
        mine,
        best,
        tuple(order),
        (
            *_too_long(PlacedServer(model, where, stack, layout, w), max_model_len),
            *degree_remarks(model, where, w.decode(), stack, layout.tp, layout.etp),
        ),
        () if free is None else free.limits,
        gains,
        of_best,
        w,
        "" if holds_requests(mine) else _no_room(PlacedServer(model, where, stack, layout, w)),
    )


def _no_room(server: PlacedServer) -> str:
    """What keeps a server from holding one request, and the most that it would hold."""
    try:
        require_room(server)
    except DoesNotFit as error:
        return error.marked()
    return ""


def _gains(
    model: Model,
    cluster: Cluster,
    engine: tuple[Stack, Serving],
    mine: ServingRow,
    best: ServingRow | None,
    changes: Sequence[tuple[str, ServingRow]],
    free: FreeEngine | None,
) -> tuple[tuple[Gain, ...], Gain | None]:
    """What each change brings, and the best."""
    doubt, ideal = ServingDoubt(model, cluster), engine[0].ideal

    def gain(row: ServingRow, own: tuple[Stack, Serving]) -> Gain:
        pair = (mine, doubt.question(mine, *engine)), (row, doubt.question(row, *own))
        return serving_gain(*pair, ideal=ideal)

    freed = engine if free is None else (free.stack, free.load)
    found = tuple(gain(row, freed if axis == ENGINE_OPTIONS else engine) for axis, row in changes)
    return found, None if best is None else gain(best, engine)


def _is_better(row: ServingRow, mine: ServingRow) -> bool:
    """Whether a change brings something: more tokens, or that the load fits."""
    if not holds_requests(mine):
        return holds_requests(row)
    return row.tokens_per_s_per_device > mine.tokens_per_s_per_device


def _too_long(server: PlacedServer, max_model_len: int | None) -> tuple[str, ...]:
    """That an engine told of requests of such a length does not start, though it holds the load's."""
    try:
        check_positions(server.model, server.load, max_model_len)
    except InputError as error:
        return (error.sentence,)
    try:
        require_room(server)
    except DoesNotFit:  # the row says so
        return ()
    try:
        require_room(server, max_model_len)
    except DoesNotFit as error:
        return (error.sentence,)
    return ()


def _simulated_too(
    trials: Trials,
    known: Sequence[ServingRow],
    mine: ServingRow,
    best: ServingRow | None,
    better: list[tuple[str, ServingRow]],
) -> tuple[ServingRow, ServingRow | None, list[tuple[str, ServingRow]]]:
    """All of them at the load as ``serve`` simulates it, as the plan's best is; of the changes those that
    are better by that too. ``known``: rows of the plan, which simulated some of them at this load."""
    flight = trials.w.concurrency
    run = {r.layout: r for r in known if r.run is not None and r.concurrency == flight}
    first = mine if best is None else best
    layouts = [mine.layout, first.layout, *(row.layout for _, row in better)]
    new = [one for one in dict.fromkeys(layouts) if one not in run]
    found = trial_rows(trials, [trials.at(layout, concurrency=flight) for layout in new])
    run |= dict(zip(new, found, strict=True))
    own, first, *others = (run[layout] for layout in layouts)
    kept = [
        (axis, row)
        for (axis, _), row in zip(better, others, strict=True)
        if row.tokens_per_s_per_device > own.tokens_per_s_per_device or not holds_requests(own)
    ]
    return own, first if best is not None else None, kept


def _best_serving(
    model: Model, cluster: Cluster, stack: Stack, w: Serving, gpus: int, pins: Pins
) -> ServingRow | None:
    """The first row of a plan for the load, without what else a plan says; where no layout holds all that
    are in flight, of those that hold some."""
    layouts, _ = serving_space(model, stack, gpus, pins, replicas=w.concurrency)
    server, size = Server(model, cluster, stack, w), layouts.tp.size
    if not size:
        return None
    table = server.at(layouts, np.full(size, w.concurrency), doubted=False)
    fits = table.steady.fits
    some = table.steady.max_concurrency >= np.broadcast_to(layouts.dp, (size,))
    order = best_first(table, fits if np.any(fits) else some, "throughput")
    if not order:
        return None
    best = server.at(some_columns(layouts, np.array(order[:1])), np.array([w.concurrency]))
    return row_at(best, 0)
