"""A serving plan from what a user asks: checks, the search, its answer."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from meshwise.axes import AXES, SERVES, spoken
from meshwise.clusters.load import Cluster, grown
from meshwise.errors import InputError
from meshwise.layouts import tp_degrees as legality
from meshwise.layouts.check import check_imbalance
from meshwise.layouts.layout import Layout, columns
from meshwise.layouts.pins import Pins
from meshwise.layouts.rules.case import key_copies
from meshwise.layouts.rules.rule import degree_refusal, divisors
from meshwise.layouts.rules.rulebook import refuse_pins
from meshwise.models.shapes import Model
from meshwise.search.serving.changes import ServingChange, serving_changes
from meshwise.search.serving.disaggregated import disaggregations
from meshwise.search.serving.plan import (
    SERVING_OBJECTIVES,
    Limits,
    ServingPlan,
    ServingRow,
    plan_serving,
    row_at,
)
from meshwise.search.serving.runs.binding import Miss, ServingBinding, binding, misses
from meshwise.search.serving.runs.fewest import FewestGpus
from meshwise.search.serving.runs.finalists import MOST_RANKED, at_the_load, at_the_most, finalists
from meshwise.search.serving.runs.lengths import check_chunk, check_positions, with_lengths
from meshwise.search.serving.runs.matched_pools import MatchedPools, matched_pools
from meshwise.search.serving.runs.offered import at_the_rate, averages, near_limits, nearest_run
from meshwise.search.serving.runs.trial import SentLoad, Trial, Trials, trial_rows
from meshwise.search.serving.space import serving_space
from meshwise.search.training.question import MAX_TOP, check_gpus, check_objective, check_product
from meshwise.search.training.space import least_etp
from meshwise.stacks.stack import Stack, check_eager
from meshwise.strict_tables import count
from meshwise.workloads.limits import LatencyLimit, refuse_without_tokens
from meshwise.workloads.serving import Serving

_TIMES = 16  # as many GPUs are looked at where those that there are do not do


class ServingAsked(NamedTuple):
    """What a plan is held to beside its workload: limits of latency, and what is sent.

    ``fixed``: the load is given (arrivals at a rate, or the workload's requests in flight), and the fewest
    GPUs are looked for; else the most that the limits allow.
    """

    limits: tuple[LatencyLimit, ...] = ()
    sent: SentLoad = SentLoad()
    fixed: bool = False

    @property
    def means(self) -> Limits:
        """The limits as those of means, by which averages tell where to look."""
        least: dict[str, float] = {}
        for limit in self.limits:
            key = f"{limit.quantity}_s"
            least[key] = min(least.get(key, limit.seconds), limit.seconds)
        return Limits(**least)


class ServingAnswer(NamedTuple):
    """A serving plan, what would change it, and the disaggregated one beside it.

    ``binds``: what keeps the best from a larger load, or from fewer GPUs. Where nothing meets the limits,
    ``nearest`` is what comes nearest on all GPUs, with its run.
    """

    plan: ServingPlan
    changes: tuple[ServingChange, ...]
    disaggregated: MatchedPools | None
    elapsed_s: float
    asked: ServingAsked = ServingAsked()
    binds: ServingBinding | None = None
    nearest: tuple[ServingRow, Trial] | None = None

    @property
    def misses(self) -> tuple[Miss, ...]:
        """Limits that the nearest does not keep."""
        return () if self.nearest is None else misses(self.nearest[1].run.steady, self.asked.limits)


def plan_deployment(
    model: Model,
    cluster: Cluster,
    stack: Stack,
    w: Serving,
    *,
    gpus: int | None = None,
    pins: Pins | None = None,
    asked: ServingAsked | None = None,
    objective: str = "throughput",
    top: int = 10,
    price_per_device_hour: float | None = None,
    disaggregated: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ServingAnswer:
    """The best layouts of ``gpus`` devices (all of the cluster's by default) for serving; of a load that is
    ``asked`` for the fewest GPUs of them."""
    started = time.perf_counter()
    asked = asked or ServingAsked()
    check_objective(objective, SERVING_OBJECTIVES, price_per_device_hour)
    if disaggregated:
        check_disaggregated(asked)
    coming = asked.sent.arrivals
    refuse_without_tokens(asked.limits, with_lengths(w, coming).osl)
    top = count(top, "top", high=MAX_TOP)
    n = cluster.devices if gpus is None else count(gpus, "gpus")
    where, held = check_gpus(cluster, n), dict(pins or {})
    w = with_lengths(w, coming)
    check_eager(stack)
    if set(held.get("ep", ())) == {1}:
        check_imbalance(1, w.decode())
    check_chunk(stack, w)
    check_positions(model, w, arrivals=coming)
    largest = bool(asked.limits) and not asked.fixed
    fewest = asked.fixed and objective != "latency"
    check_serving_pins(
        *(model, stack, w, n, held), None if largest else w.concurrency, whole=not fewest
    )
    trials = Trials(model, where, stack, w, asked.sent, asked.limits)
    if fewest:
        found = _fewest(trials, n, held, asked, objective, top)
    else:
        found = _best(trials, n, held, asked, objective, top)
    apart = None
    if disaggregated:
        pairs = disaggregations(model, where, stack, w, n, asked.means, held, progress)
        apart = matched_pools(pairs, trials, n)
    if not found.plan.rows and not asked.fixed:
        changes = serving_changes(found.plan, held, asked.means if largest else None)
        found = found._replace(changes=tuple(changes))
    return found._replace(disaggregated=apart, elapsed_s=time.perf_counter() - started)


def _best(
    trials: Trials, gpus: int, pins: Pins, asked: ServingAsked, objective: str, top: int
) -> ServingAnswer:
    """The best of all the GPUs: at the load, or each at the most that the limits allow."""
    t, w, arrivals = trials, trials.w, trials.sent.arrivals
    largest = bool(asked.limits) and not asked.fixed
    priced = None
    if arrivals is not None and asked.fixed:
        priced = functools.partial(at_the_rate, trials, coming=arrivals)
    plan = plan_serving(
        *(t.model, t.cluster, t.stack, w, gpus, pins),
        limits=asked.means if largest else None,
        objective=objective,
        top=max(top, MOST_RANKED),
        priced=priced,
    )
    held = None if arrivals is not None else w.concurrency
    run = at_the_most(trials, arrivals) if largest else at_the_load(trials, held)
    found = finalists(plan.rows, trials, objective, run)
    served = any(r.run for r in found.rows)  # of a rate, rows by averages are of what serves it
    rows = tuple(r for r in found.rows if r.run or r.fits) if served else ()
    missed = None
    if not rows and largest:  # with one request of each replica
        tried = []
        for one in plan.reached:
            few = arrivals and arrivals._replace(rate=max(0.01 * one.requests_per_s, 1e-4))
            tried.append((trials.at(one.layout, concurrency=one.layout.dp, arrivals=few), one))
        tried.sort(key=lambda pair: pair[0].used)
        missed = tried[0][0] if tried else None
        plan = plan._replace(reached=tuple(one for _, one in tried))
    elif not rows and asked.fixed:
        layouts, _ = serving_space(t.model, t.stack, gpus, pins, replicas=w.concurrency)
        near = near_limits(
            *(trials, layouts, asked.means),
            lambda i, few: trials.at(layouts.at(i, SERVES), concurrency=held, few=few),
        )
        rows = tuple(trial_rows(trials, [one for one in near.values() if one.met]))
        missed = nearest_run(trials, [*found.missed, *near.values()])
    answer = _served(plan, rows, top, asked, missed, trials)
    if largest and rows:
        answer = answer._replace(binds=binding(rows[0], found.beyond, asked.limits))
    return answer


def _fewest(
    trials: Trials, gpus: int, pins: Pins, asked: ServingAsked, objective: str, top: int
) -> ServingAnswer:
    """The fewest GPUs for the load."""
    t, w = trials, trials.w
    found = FewestGpus(trials, gpus, pins, asked.means).search()
    rows = trial_rows(trials, [one.met for one in found.found])
    others = _said(rows, found.others, max(top - len(rows), 0), t.cluster)
    averaged: ServingRow | None = None
    if rows:
        listed = columns((rows[0].layout, *others))
        table, shown = averages(trials, listed, asked.means)
        averaged = row_at(table, 0)
        rows += [row_at(table, i) for i in shown if i > 0]
    plan = ServingPlan(
        model=t.model,
        cluster=t.cluster,
        stack=t.stack,
        workload=w,
        limits=asked.means,
        gpus=gpus,
        objective=objective,
        rows=() if averaged is None else (averaged,),
        pareto=(),
        rivals=(),
        rule_of_thumb=None,
        roomy=None,
        refused=found.refused,
        enumerated=found.enumerated,
        feasible=found.feasible,
        partial=False,
        reached=(),
    )
    served = _served(plan, tuple(rows), top, asked, found.nearest, trials)
    if rows:
        below, binds = found.found[0].below or found.smaller, None
        if below is not None:
            binds = binding(rows[0], below, asked.limits)
        elif found.refused.get("memory") and rows[0].devices > 1:
            binds = ServingBinding("memory")
        return served._replace(binds=binds)
    return _with_more(served, trials, pins, asked)


def _said(
    rows: Sequence[ServingRow], others: Sequence[Layout], shown: int, cluster: Cluster
) -> tuple[Layout, ...]:
    """Of ``others`` those to price: the first ones ``shown``, and what is said whatever is shown, the rule of
    thumb's and the first of another value of each axis than the best."""
    if not rows:
        return ()
    best = rows[0].layout
    plain = [one for one in others if _is_plain(one, cluster)]
    more = [min(plain, key=lambda one: one.tp)] if plain else []
    for axis in SERVES:
        more += [one for one in others if one.code(axis) != best.code(axis)][:1]
    said = set(more)
    return tuple(one for i, one in enumerate(others) if i < shown or one in said)


def _with_more(
    served: ServingAnswer, trials: Trials, pins: Pins, asked: ServingAsked
) -> ServingAnswer:
    """What a load that nothing serves would need: more GPUs than there are, where that helps."""
    t, gpus = trials, served.plan.gpus
    more = grown(t.cluster, _TIMES * gpus)
    found = None
    if more.devices >= _TIMES * gpus:
        wider = Trials(t.model, more, t.stack, t.w, t.sent, t.limits)
        found = FewestGpus(wider, _TIMES * gpus, pins, asked.means).first()
    if found is None:
        return served
    row = trial_rows(wider, [found])[0]
    change = ServingChange("gpus", row.devices, row)
    return served._replace(changes=(change,), binds=ServingBinding("gpus", found))


def _served(
    plan: ServingPlan,
    rows: tuple[ServingRow, ...],
    top: int,
    asked: ServingAsked,
    nearest: Trial | None,
    trials: Trials,
) -> ServingAnswer:
    """A plan with its rows as simulated, and what is said of them by the same figures."""
    known = {row.layout: row for row in rows}
    listed = rows[:top]

    def shown(row: ServingRow | None) -> ServingRow | None:
        row = row and known.get(row.layout, row)
        return row if row and (row.run or row.fits) else None

    thumb, roomy = None, None
    rivals: tuple[tuple[str, ServingRow], ...] = ()
    if rows:
        rivals = _rivals((*rows, *(s for _, r in plan.rivals if (s := shown(r)))))
        thumb = shown(plan.rule_of_thumb) or _thumb(rows, plan.cluster)
        if rows[0].tight:
            roomy = next((r for r in rows if not r.tight), shown(plan.roomy))
    averaged = next((r for r in plan.rows if rows and r.layout == rows[0].layout), None)
    answer = plan._replace(
        rows=listed, rivals=rivals, rule_of_thumb=thumb, roomy=roomy, averaged=averaged
    )
    near = None
    if nearest is not None and not rows:
        near = trial_rows(trials, [nearest])[0], nearest
    return ServingAnswer(answer, (), None, 0.0, asked, None, near)


def _rivals(rows: tuple[ServingRow, ...]) -> tuple[tuple[str, ServingRow], ...]:
    """For each axis the first of ``rows`` with another value of it than the best, the first of all."""
    best, *others = rows
    found = []
    for axis in SERVES:
        other = next((r for r in others if r.layout.code(axis) != best.layout.code(axis)), None)
        if other is not None:
            found.append((axis, other))
    return tuple(found)


def _thumb(rows: tuple[ServingRow, ...], cluster: Cluster) -> ServingRow | None:
    """Of ``rows`` the smallest TP degree inside a node, no pipeline, experts within TP."""
    plain = [r for r in rows if _is_plain(r.layout, cluster)]
    return min(plain, key=lambda r: r.layout.tp, default=None)


def _is_plain(one: Layout, cluster: Cluster) -> bool:
    """Whether it is one that a rule of thumb names."""
    alone = (one.pp, one.dcp, one.ep) == (1, 1, 1) and one.etp in (None, one.tp)
    return alone and cluster.node_devices % one.tp == 0


def check_disaggregated(asked: ServingAsked) -> None:
    """Refuse what pools of prefill and decode are not matched under."""
    legal = "`tpot_s` and `ttft_s` of means, for example `ttft_s=1, tpot_s=0.03`"
    if not asked.limits:
        why = "the pools are matched under limits of latency"
    elif any(limit.percentile is not None for limit in asked.limits):
        why = "the pools are matched by averages, which know no percentiles"
    elif any(limit.quantity == "request" for limit in asked.limits):
        why = "the pools are matched under limits of TTFT and TPOT, not of the whole request"
    elif asked.fixed or asked.sent.arrivals is not None:
        why = (
            "the pools are matched under limits of latency at the largest load, not at a given one"
        )
    else:
        return
    raise InputError(f"disaggregated: {why}", field="disaggregated", value=True, legal=legal)


def check_serving_pins(
    model: Model,
    stack: Stack,
    w: Serving,
    gpus: int,
    pins: Pins,
    requests: int | None = None,
    *,
    whole: bool = True,
) -> None:
    """Refuse pins that no deployment can have, with the nearest legal value. ``requests``: in flight,
    where they are not searched for; ``whole``: on all of the GPUs, not on any number of them."""
    for axis in pins:
        if axis not in SERVES:
            name = spoken(axis)
            raise InputError(
                f"{name} has no meaning in serving",
                field=name,
                value=[AXES[axis].spoken(int(code)) for code in pins[axis]],
                legal=f"leave `{name}` out",
            )
    if whole:
        check_product(gpus, pins, ("tp", "pp", "dp"))
    else:
        check_least(gpus, pins)
    for tp in pins.get("tp", ()):
        legality.require_tp(model, tp, stack, etp=least_etp(tp, pins))
    own = {axis: codes for axis, codes in pins.items() if axis != "tp"}
    refuse_pins(own, model, stack, w.decode(), requests)
    # of the TP degrees that may be, the one whose ranks share keys the most
    legal = legality.legal_tp(model, stack)
    tps = pins.get("tp") or [d for d in legal if (gpus % d == 0 if whole else d <= gpus)]
    copies = max(key_copies(model, tp) for tp in tps)
    for value in pins.get("dcp", ()):
        if value > 1 and copies % value:
            why = f"at most {copies} ranks of a TP group hold the same keys and values"
            raise degree_refusal("dcp", value, why, divisors(copies)).error()


def check_least(gpus: int, pins: Pins) -> None:
    """Refuse pinned degrees of which not one layout has so few GPUs."""
    least = math.prod(min(pins.get(axis, (1,))) for axis in ("tp", "pp", "dp"))
    if least > gpus:
        named = " · ".join(f"{a} {min(pins[a])}" for a in ("tp", "pp", "dp") if a in pins)
        raise InputError(
            f"gpus={gpus}: {named} = {least} are more",
            field="gpus",
            value=gpus,
            legal=f"at least {least}",
            nearest=least,
        )
