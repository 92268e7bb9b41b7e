"""The public functions: each puts the parts together; no formula is here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from meshwise.answers import records
from meshwise.answers.answers import (
    CollectiveResult,
    EstimateResult,
    ModelResult,
    ScaleResult,
    ValidateResult,
)
from meshwise.arguments import Named, counts, given, limit_s, names, price, whole_bytes
from meshwise.arguments import degrees as read_degrees
from meshwise.arguments import parts as _parts
from meshwise.checks import flag, keywords, name_of
from meshwise.clusters.cluster import Cluster, Device, Level
from meshwise.clusters.load import load_cluster
from meshwise.cost.collectives import collective as coll
from meshwise.cost.estimate import estimate as price_layouts
from meshwise.cost.uncertainty import collective_interval
from meshwise.errors import IllegalLayout
from meshwise.layouts import grid
from meshwise.layouts.layout import place, spread, usual_ranks
from meshwise.models.load import load_model
from meshwise.models.shapes import Model
from meshwise.search.tp_curve.curve import curve, default_degrees
from meshwise.search.tp_curve.points import Point
from meshwise.stacks.stack import WORDS, Stack, load_stack, replaced
from meshwise.strict_tables import count, fraction, one_of
from meshwise.workloads.serving import Serving
from meshwise.workloads.workload import Decode, Formats, Prefill, Training, Workload

if TYPE_CHECKING:
    from meshwise.answers.growth import GrowthResult
    from meshwise.answers.plan import PlanResult
    from meshwise.answers.serve import ServeResult
    from meshwise.answers.serving_plan import ServingPlanResult
    from meshwise.answers.sweep import SweepResult

__all__ = [
    "Cluster",
    "CollectiveResult",
    "Decode",
    "Device",
    "EstimateResult",
    "Formats",
    "Level",
    "Model",
    "ModelResult",
    "Point",
    "Prefill",
    "ScaleResult",
    "Serving",
    "Stack",
    "Training",
    "ValidateResult",
    "cluster",
    "collective",
    "describe",
    "estimate",
    "grow",
    "model",
    "plan",
    "scale",
    "serve",
    "stack",
    "sweep",
    "validate",
    "validate_published",
]


@keywords
def validate(table: Named) -> ValidateResult:
    """Predict every row of a CSV table of measurements (training steps, serving runs, collectives).

    Models are presets, or files ``models/NAME.json`` beside the table.
    """
    from meshwise.evidence import validate as beside
    from meshwise.evidence.tables import read_table

    path = name_of(table, "TABLE", "the path of a CSV table")
    read = read_table(path)
    results = beside.run(read, Path(path).parent)
    return ValidateResult(read, results, beside.summary(results))


def validate_published(kind: str = "all") -> ValidateResult:
    """The shipped table of published figures of a kind (training, layers, serving, collectives, or
    all), predicted."""
    from meshwise.evidence.validate import published

    return ValidateResult(*published(kind))


@keywords
def model(name: Named | Model) -> Model:
    """A model: a preset, a path to a ``config.json`` or its folder, or a hub id (``[hub]`` extra)."""
    return load_model(name)


@keywords
def cluster(name: Named | Cluster, *, nodes: int | None = None, nics: int | None = None) -> Cluster:
    """A cluster: a preset or a TOML file; ``nodes`` and ``nics`` replace its own."""
    return load_cluster(name, nodes=nodes, nics=nics)


def stack(name: Named | Stack, **switches: Any) -> Stack:
    """A software stack of the catalog, with switches replaced.

    ``overlap="none"`` turns off the stack's own overlap of backward reductions too: nothing hides.
    """
    loaded = load_stack(name)
    for key in ("overlap", "attention", "schedule"):  # options of the command line too
        if key in switches:
            one_of(switches[key], f"--{key}", WORDS[key])
    if switches.get("overlap") == "none":
        switches.setdefault("overlap_input_gradient", False)
    return replaced(loaded, switches)


@keywords
def scale(
    model: Model | Named,
    cluster: Cluster | Named,
    workload: Workload,
    *,
    stack: Stack | Named | None = None,
    tp: int | Sequence[int] | None = None,
    sequence_parallel: bool = False,
    limit_threshold: float = 0.8,
    objective: str = "efficiency",
) -> ScaleResult:
    """What tensor parallelism costs from TP=1 to the cluster, and where it stops paying."""
    threshold = fraction(limit_threshold, "--limit-threshold", low=0.01, high=1.0)
    one_of(objective, "--objective", ("efficiency", "latency"))
    degrees = read_degrees(tp)
    flag(sequence_parallel, "--sequence-parallel")
    spec, where, software = _parts(model, cluster, workload, stack)
    return ScaleResult(
        curve(
            spec,
            where,
            workload,
            software,
            degrees=degrees,
            sequence_parallel=sequence_parallel,
            threshold=threshold,
            objective=objective,
        )
    )


@keywords
def sweep(
    model: Model | Named,
    cluster: Cluster | Named,
    workload: Workload,
    sweep: str,
    *,
    stack: Stack | Named | None = None,
    tp: int | Sequence[int] | None = None,
    sequence_parallel: bool = False,
    limit_threshold: float = 0.8,
    objective: str = "efficiency",
) -> SweepResult:
    """:func:`scale` at values of ``"inter.bandwidth=25GB/s:400GB/s"``, and where each doubling pays."""
    from meshwise.answers.sweep import SweepResult
    from meshwise.search.tp_curve import sweep as sweeping

    threshold = fraction(limit_threshold, "--limit-threshold", low=0.01, high=1.0)
    one_of(objective, "--objective", ("efficiency", "latency"))
    flag(sequence_parallel, "--sequence-parallel")
    given(sweep, str, "--sweep", "NAME=LOW:HIGH, for example inter.bandwidth=25GB/s:400GB/s")
    spec, where, software = _parts(model, cluster, workload, stack)
    degrees = read_degrees(tp)
    most = max(degrees or default_degrees(spec, where, software)) if sequence_parallel else 1
    known = sweeping.quantities(where, workload, most)
    quantity, values = sweeping.read_sweep(sweep, known)
    return SweepResult(
        sweeping.sweep(
            spec,
            where,
            software,
            quantity,
            values,
            degrees=degrees,
            sequence_parallel=sequence_parallel,
            threshold=threshold,
            objective=objective,
        )
    )


@keywords
def grow(
    model: Model | Named,
    cluster: Cluster | Named,
    workload: Training,
    gpus: Sequence[int],
    *,
    stack: Stack | Named | None = None,
    weak: bool = False,
    limit_threshold: float = 0.8,
    **layout: Any,
) -> GrowthResult:
    """Strong (one global batch) or weak scaling over numbers of GPUs, with the best layout of each;
    ``layout`` pins axes as in :func:`plan`."""
    from meshwise.answers.growth import GrowthResult
    from meshwise.search.growth import growth
    from meshwise.search.training.question import read_pins

    threshold = fraction(limit_threshold, "--limit-threshold", low=0.01, high=1.0)
    given(workload, Training, "workload", "Training(batch=, seq=)")
    flag(weak, "--weak")
    spec, where, software = _parts(model, cluster, workload, stack)
    sizes = counts(gpus, "--gpus")
    pins = read_pins(layout)
    return GrowthResult(
        growth(spec, where, workload, software, sizes, weak=weak, pins=pins), threshold
    )


@keywords
def estimate(
    model: Model | Named,
    cluster: Cluster | Named,
    workload: Workload,
    *,
    stack: Stack | Named | None = None,
    gpus: int | None = None,
    **layout: Any,
) -> EstimateResult:
    """One layout in full: ``tp, pp, vp, dp, cp, ep, etp, micro_batch, sequence_parallel, shard`` …."""
    from meshwise.search.one_layout import report

    asked = grid.asked(layout)
    gpus = None if gpus is None else count(gpus, "--gpus")
    spec, where, software = _parts(model, cluster, workload, stack)
    asked = grid.settled(asked, spec, software, workload.phase)
    grid.check(asked, spec, where, workload, software, gpus)
    layouts, workload = grid.to_layouts(asked, workload), grid.stated(asked, workload)
    return EstimateResult(report(price_layouts(spec, where, workload, software, layouts)))


@keywords
def serve(
    model: Model | Named,
    cluster: Cluster | Named,
    workload: Serving,
    *,
    stack: Stack | Named | None = None,
    gpus: int | None = None,
    **layout: Any,
) -> ServeResult:
    """Continuous batching of one layout, ``tp, pp, dp, ep, etp``, at a fixed concurrency."""
    from meshwise.answers.serve import ServeResult
    from meshwise.search.serving.steady_state import steady

    asked = grid.asked(layout, ("tp", "pp", "dp", "ep", "etp", "dcp"))
    given(workload, Serving, "workload", "Serving(isl=, osl=, concurrency=)")
    step = workload.decode()
    spec, where, software = _parts(model, cluster, step, stack)
    gpus = None if gpus is None else count(gpus, "--gpus")
    grid.check(asked, spec, where, step, software, gpus, workload.concurrency)
    found = steady(spec, where, software, grid.to_layouts(asked, step), workload)
    return ServeResult(spec, where, software, asked, workload, found)


@keywords
def describe(model: Model | Named) -> ModelResult:
    """Parameters, bytes, heads and legal TP degrees of a model."""
    return ModelResult(load_model(model))


@keywords
def plan(
    model: Model | Named,
    cluster: Cluster | Named,
    workload: Training | Serving,
    *,
    stack: Stack | Named | None = None,
    gpus: int | None = None,
    free: Sequence[str] = (),
    top: int = 10,
    objective: str | None = None,
    price_per_device_hour: float | None = None,
    ttft_s: float | None = None,
    tpot_s: float | None = None,
    disaggregated: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **layout: Any,
) -> PlanResult | ServingPlanResult:
    """Every legal layout of ``gpus`` devices, ranked. ``layout`` pins axes to a value or several: those
    of :func:`estimate`, ``recompute, overlap, placement`` (serving: ``tp, pp, dp, ep, etp, dcp``).

    Training: ``free`` numerics to look at too (``dtype``, ``comm-dtype``). Serving: at the workload's
    concurrency, or under limits ``ttft_s`` and ``tpot_s`` with as many requests as they allow;
    ``disaggregated`` adds prefill and decode on GPUs of their own.
    """
    from meshwise.answers.plan import PlanResult
    from meshwise.answers.serving_plan import PlannedServing, ServingPlanResult
    from meshwise.search.training.question import plan_training, read_pins

    legal = "Training(batch=, seq=) or Serving(isl=, osl=, …)"
    given(workload, (Training, Serving), "workload", legal)
    flag(disaggregated, "--disaggregated")
    if objective is not None:
        given(objective, str, "--objective", "an objective by name, such as cost")
    price_per_device_hour = price(price_per_device_hour)
    ttft_s, tpot_s = limit_s(ttft_s, "--ttft"), limit_s(tpot_s, "--tpot")
    if isinstance(workload, Serving):
        from meshwise.search.serving.plan import Limits
        from meshwise.search.serving.question import plan_deployment

        spec, where, software = _parts(model, cluster, workload.decode(), stack)
        pins = read_pins(layout)
        bounded = ttft_s is not None or tpot_s is not None
        served = plan_deployment(
            spec,
            where,
            software,
            workload,
            gpus=gpus,
            pins=pins,
            limits=Limits(ttft_s, tpot_s) if bounded else None,
            objective=objective or "throughput",
            top=top,
            price_per_device_hour=price_per_device_hour,
            disaggregated=disaggregated,
            progress=progress,
        )
        return ServingPlanResult(PlannedServing(served, disaggregated, pins, price_per_device_hour))
    spec, where, software = _parts(model, cluster, workload, stack)
    planned = plan_training(
        spec,
        where,
        workload,
        software,
        gpus=gpus,
        pins=read_pins(layout),
        free=names(free, "--free"),
        top=top,
        objective=objective or "step",
        price_per_device_hour=price_per_device_hour,
        progress=progress,
    )
    return PlanResult(planned)


@keywords
def collective(
    op: str,
    size: str | float,
    cluster: Cluster | Named,
    ranks: int | None = None,
    *,
    ranks_per_node: int | None = None,
    stack: Stack | Named = "vllm",
) -> CollectiveResult:
    """Time of one collective by every algorithm; ``size`` in bytes as nccl-tests counts it."""
    op = coll.operation(op)
    cluster = load_cluster(cluster, field="cluster")
    payload = whole_bytes(size, "SIZE")
    n = count(ranks, "--ranks") if ranks is not None else usual_ranks(cluster)
    if n > cluster.devices:
        raise IllegalLayout(
            f"--ranks={n} is more than the {cluster.devices} GPUs of {cluster.name}",
            field="--ranks",
            value=n,
            legal=f"1 to {cluster.devices}",
            nearest=cluster.devices,
        )
    chosen = load_stack(stack)
    group = place("tp", np.int64(n), np.int64(1), np.int64(0), cluster)
    if ranks_per_node is not None:
        group = spread(group, n, count(ranks_per_node, "--ranks-per-node"), cluster)
    found = coll.candidates(op, np.float64(payload), group, cluster, chosen)
    best = coll.price(op, np.float64(payload), group, cluster, chosen)

    def interval(seconds: float) -> tuple[float, float]:
        return collective_interval(seconds, op, payload, best, chosen, cluster, group)

    factor = float(coll.busbw_factor(op, n))
    record = records.collective_dict(op, payload, n, cluster, found, factor, interval)
    return CollectiveResult(record)
