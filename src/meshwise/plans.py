"""The public function :func:`plan`: every legal layout of a number of GPUs, ranked."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, Unpack, overload

from meshwise.arguments import NameOrPath, given, name_list, usd_per_device_hour
from meshwise.arguments import named_objects as _parts
from meshwise.checks import flag, keywords
from meshwise.clusters.cluster import Cluster
from meshwise.errors import InputError
from meshwise.models.shapes import Model
from meshwise.stacks.stack import Stack
from meshwise.strict_tables import count
from meshwise.workloads.limits import Latency, LatencyLimit, limits_by_quantity
from meshwise.workloads.serving import Serving
from meshwise.workloads.workload import Training

if TYPE_CHECKING:
    from meshwise.answers.plan import PlanResult
    from meshwise.answers.plan_serving import ServingPlanResult
    from meshwise.layouts.keywords import ServingPins, TrainingPins
    from meshwise.search.serving.question import ServingAsked

Progress = Callable[[int, int], None]
TrainingObjective = Literal["step", "mfu", "cost"]
ServingObjective = Literal["throughput", "latency", "cost"]


@overload
def plan(
    model: Model | NameOrPath,
    cluster: Cluster | NameOrPath,
    workload: Training,
    *,
    stack: Stack | NameOrPath | None = None,
    gpus: int | None = None,
    free: Sequence[str] = (),
    top: int = 10,
    objective: TrainingObjective | None = None,
    price_per_device_hour: float | None = None,
    progress: Progress | None = None,
    **layout: Unpack[TrainingPins],
) -> PlanResult: ...
@overload
def plan(
    model: Model | NameOrPath,
    cluster: Cluster | NameOrPath,
    workload: Serving,
    *,
    stack: Stack | NameOrPath | None = None,
    gpus: int | None = None,
    top: int = 10,
    objective: ServingObjective | None = None,
    price_per_device_hour: float | None = None,
    ttft_s: Latency | None = None,
    tpot_s: Latency | None = None,
    request_s: Latency | None = None,
    request_rate: float | None = None,
    arrivals: str | os.PathLike[str] | None = None,
    at_concurrency: bool = False,
    requests: int | None = None,
    seed: int = 0,
    disaggregated: bool = False,
    progress: Progress | None = None,
    **layout: Unpack[ServingPins],
) -> ServingPlanResult: ...
@keywords
def plan(
    model: Model | NameOrPath,
    cluster: Cluster | NameOrPath,
    workload: Training | Serving,
    *,
    stack: Stack | NameOrPath | None = None,
    gpus: int | None = None,
    free: Sequence[str] = (),
    top: int = 10,
    objective: str | None = None,
    price_per_device_hour: float | None = None,
    ttft_s: Latency | None = None,
    tpot_s: Latency | None = None,
    request_s: Latency | None = None,
    request_rate: float | None = None,
    arrivals: str | os.PathLike[str] | None = None,
    at_concurrency: bool = False,
    requests: int | None = None,
    seed: int = 0,
    disaggregated: bool = False,
    progress: Progress | None = None,
    **layout: object,
) -> PlanResult | ServingPlanResult:
    """Every legal layout of ``gpus`` devices, ranked, and why the best one is.

    Rests on the price of :func:`estimate` (training) for every layout that no rule refuses; only placements
    that a bound shows to be no better are left out. For serving every layout is priced by averages, and the
    best ones are simulated as :func:`serve` does it: those have ``simulated``, and come first.

    Serving has three questions. Without limits: the best layout of all GPUs for the workload's requests in
    flight. With limits: the most that they allow, requests in flight, or of ``arrivals`` a rate. With
    a ``request_rate``, a trace, or ``at_concurrency``: the fewest GPUs that serve this load within the limits
    (objective ``"latency"``: the least time of a request on all of them).

    :param model: a name, a path or a :class:`Model`.
    :param cluster: a name, a path or a :class:`Cluster`.
    :param workload: :class:`Training` (batch and sequence) or :class:`Serving` (prompts, answers and
        requests in flight).
    :param stack: the software; None: the phase's usual one.
    :param gpus: GPUs of every layout; None: all of the cluster.
    :param free: training: numerics to look at too, ``"dtype"``, ``"comm-dtype"``.
    :param top: layouts to list.
    :param objective: training ``"step"``, ``"mfu"``, ``"cost"``; serving ``"throughput"``,
        ``"latency"``, ``"cost"``; None: the first.
    :param price_per_device_hour: dollars per device and hour.
    :param ttft_s: serving: limit on the mean time to first token [s], or limits by statistic:
        ``{"p95": 1.0}`` (percentiles from p1 to p99.9, and ``"mean"``).
    :param tpot_s: serving: the same of the time per output token of a request [s].
    :param request_s: serving: the same of a whole request, from its arrival to its last token [s].
    :param request_rate: serving: requests that arrive per second, over all replicas; the workload's
        ``concurrency`` is then the most that run at once.
    :param arrivals: serving: ``"poisson"``, ``"gamma:B"``, or a trace, as in :func:`serve`; under limits
        without a rate the highest rate is looked for.
    :param at_concurrency: serving under limits: the workload's ``concurrency`` is the load.
    :param requests: serving: of a run, as in :func:`serve`.
    :param seed: serving: of lengths and arrivals.
    :param disaggregated: serving under limits of means: prefill and decode on GPUs of their own as well.
    :param progress: called with (layouts priced, layouts in all) while it searches.
    :param layout: axes pinned to a value or to several. Training: ``tp, pp, vp, dp, cp, ep, etp,
        micro_batch, sequence_parallel, recompute, shard, placement, overlap``; serving: ``tp, pp, dp,
        ep, etp, dcp``.
    :returns: ``best``, ``layouts``, ``pareto`` and more; ``feasible`` is false where nothing fits,
        ``nearest_feasible`` then says what would.
    :raises InputError: for what is not legal, or not of this kind of workload, with ``field``,
        ``legal`` and ``nearest``.

    >>> import meshwise as mw
    >>> training = mw.plan("gpt2", "dgx-a100", mw.Training(batch=8, seq=512), gpus=2, tp=[1, 2])
    >>> training.best.tp * training.best.dp * training.best.pp
    2
    >>> served = mw.plan(
    ...     "llama-3.1-8b", "hgx-h100", mw.Serving(isl=512, osl=64, concurrency=8), gpus=8, tp=8
    ... )
    >>> served.best.tp, served.best.fits
    (8, True)
    """
    legal = "Training(batch=, seq=) or Serving(isl=, osl=, …)"
    given(workload, (Training, Serving), "workload", legal)
    flag(disaggregated, "disaggregated")
    if objective is not None:
        given(objective, str, "objective", "an objective by name, such as cost")
    price_per_device_hour = usd_per_device_hour(price_per_device_hour)
    flag(at_concurrency, "at_concurrency")
    if isinstance(workload, Serving):
        _only("training", "free", tuple(name_list(free, "free")) or None)
        return _serving(
            *(model, cluster, workload, stack, layout),
            gpus=gpus,
            top=top,
            objective=objective or "throughput",
            price=price_per_device_hour,
            asked=_asked(
                limits_by_quantity(ttft_s, tpot_s, request_s),
                *(request_rate, arrivals, at_concurrency, requests, seed),
                workload.draft_tokens,
            ),
            disaggregated=disaggregated,
            progress=progress,
        )
    for option, value in (
        *(("ttft_s", ttft_s), ("tpot_s", tpot_s), ("request_s", request_s)),
        *(("request_rate", request_rate), ("arrivals", arrivals), ("requests", requests)),
        *(("at_concurrency", at_concurrency or None), ("disaggregated", disaggregated or None)),
        ("seed", None if isinstance(seed, int) and seed == 0 else seed),
    ):
        _only("serving", option, value)
    return _training(
        *(model, cluster, workload, stack, layout),
        gpus=gpus,
        free=name_list(free, "free"),
        top=top,
        objective=objective or "step",
        price=price_per_device_hour,
        progress=progress,
    )


def _asked(
    limits: tuple[LatencyLimit, ...],
    request_rate: float | None,
    arrivals: str | os.PathLike[str] | None,
    at_concurrency: bool,
    requests: int | None,
    seed: int,
    drafts: int,
) -> ServingAsked:
    """What a serving plan is held to, checked."""
    from meshwise.search.serving.question import ServingAsked
    from meshwise.search.serving.runs.trial import SentLoad
    from meshwise.simulate.loads.arrivals import arrivals_of, is_trace, traffic
    from meshwise.simulate.loads.traces import MOST_REQUESTS

    requests = None if requests is None else count(requests, "requests", high=MOST_REQUESTS)
    seed = count(seed, "seed", low=0)
    given = arrivals is not None and (request_rate is not None or is_trace(os.fspath(arrivals)))
    if arrivals is not None and not given and limits and not at_concurrency:
        # the highest rate of such arrivals
        return ServingAsked(limits, SentLoad(arrivals_of(os.fspath(arrivals), 1.0), requests, seed))
    words = "poisson" if arrivals is None else arrivals
    coming = traffic(request_rate, words, requests, seed=seed, drafts=drafts)
    if coming is not None and at_concurrency:
        raise InputError(
            "at_concurrency: the load is a rate of arrivals",
            field="at_concurrency",
            value=True,
            legal="leave `at_concurrency` or `request_rate` out",
        )
    return ServingAsked(
        limits, SentLoad(coming, requests, seed), coming is not None or at_concurrency
    )


def _only(phase: str, option: str, value: object) -> None:
    """Refuse what has a meaning in the other kind of plan only."""
    if value is not None:
        raise InputError(
            f"{option} has a meaning in {phase} only",
            field=option,
            value=value,
            legal=f"leave `{option}` out, or a workload of {phase}",
        )


def _training(
    model: Model | NameOrPath,
    cluster: Cluster | NameOrPath,
    workload: Training,
    stack: Stack | NameOrPath | None,
    layout: dict[str, object],
    *,
    gpus: int | None,
    free: tuple[str, ...],
    top: int,
    objective: str,
    price: float | None,
    progress: Progress | None,
) -> PlanResult:
    from meshwise.answers.plan import PlanResult
    from meshwise.layouts.pins import read_pins
    from meshwise.search.training.question import plan_training

    spec, where, software = _parts(model, cluster, workload, stack)
    return PlanResult(
        plan_training(
            spec,
            where,
            workload,
            software,
            gpus=gpus,
            pins=read_pins(layout),
            free=free,
            top=top,
            objective=objective,
            price_per_device_hour=price,
            progress=progress,
        )
    )


def _serving(
    model: Model | NameOrPath,
    cluster: Cluster | NameOrPath,
    workload: Serving,
    stack: Stack | NameOrPath | None,
    layout: dict[str, object],
    *,
    gpus: int | None,
    top: int,
    objective: str,
    price: float | None,
    asked: ServingAsked,
    disaggregated: bool,
    progress: Progress | None,
) -> ServingPlanResult:
    from meshwise.answers.plan_serving import PlannedServing, ServingPlanResult
    from meshwise.layouts.pins import read_pins
    from meshwise.search.serving.question import plan_deployment

    spec, where, software = _parts(model, cluster, workload.decode(), stack)
    pins = read_pins(layout)
    served = plan_deployment(
        spec,
        where,
        software,
        workload,
        gpus=gpus,
        pins=pins,
        asked=asked,
        objective=objective,
        top=top,
        price_per_device_hour=price,
        disaggregated=disaggregated,
        progress=progress,
    )
    return ServingPlanResult(PlannedServing(served, disaggregated, pins, price))
