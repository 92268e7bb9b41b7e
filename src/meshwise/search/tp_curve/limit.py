"""Where the curve stops paying, and what it runs into there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from meshwise.arrays import Array
from meshwise.cost.estimate import Estimate
from meshwise.layouts import tp_degrees as legality
from meshwise.search.tp_curve.points import Limit, Point
from meshwise.strict_tables import one_of


def column(value: Array, size: int) -> list[Any]:
    result: list[Any] = np.broadcast_to(np.asarray(value), (size,)).tolist()
    return result


def main_kind(e: Estimate) -> int:
    counts = e.model.kind_counts()
    return counts.index(max(counts))


def find_limit(
    e: Estimate,
    points: tuple[Point, ...],
    shown: tuple[Point, ...],
    threshold: float,
    objective: str,
) -> Limit:
    """The largest N whose last doubling, and every one before, still pays (``efficiency``); or
    the N with the least step time (``latency``). The reason is what the next degree runs into.

    ``points`` are all that were priced, T(1) and every T(N/2) among them, whatever was asked for: the
    limit may be a degree that is not shown.
    """
    one_of(objective, "objective", ("efficiency", "latency"))
    if objective == "latency":
        best = min(shown, key=lambda p: p.step_s)
        rest = [p for p in shown if p.tp > best.tp]
        reason, detail = _why(e, best, rest[0]) if rest else _ends(best, e)
        return Limit(best.tp, objective, threshold, reason, detail)
    kept = points[0]
    for p in points[1:]:
        if _doubling_score(kept, p) < threshold:
            return Limit(kept.tp, objective, threshold, *_why(e, kept, p))
        kept = p
    return Limit(shown[-1].tp, objective, threshold, *_ends(kept, e))


def _doubling_score(before: Point, p: Point) -> float:
    """T(N/2) / (2·T(N)); where N/2 is no degree of the model, the mean per doubling since the degree
    before it on the curve."""
    if p.marginal_efficiency is not None:
        return p.marginal_efficiency
    return float((p.efficiency / before.efficiency) ** (1.0 / math.log2(p.tp / before.tp)))


def _ends(last: Point, e: Estimate) -> tuple[str, str]:
    """The curve ends while it still pays: the cluster or the model has no larger degree."""
    following = last.tp * 2
    if following > e.cluster.devices:
        return "cluster", f"the cluster has {e.cluster.devices} devices"
    bad = legality.refusals(e.model, following, e.stack)
    if bad:
        return bad[0].code, bad[0].text
    if following > legality.max_heads(e.model):
        return "heads", f"{legality.max_heads(e.model)} attention heads"
    return "asked", "no larger degree was asked for"


def _why(e: Estimate, good: Point, bad: Point) -> tuple[str, str]:
    """What the step from ``good`` to ``bad`` loses to: the largest of what communication, compute and the
    host take beyond their share, communication told apart into latency and bandwidth."""
    ratio = good.tp / bad.tp
    comm = bad.exposed_comm_s - good.exposed_comm_s * ratio
    compute = bad.compute_s - good.compute_s * ratio
    host = bad.host_s - good.host_s * ratio
    crossing = _crossed(bad) > _crossed(good)
    level = e.cluster.levels[_crossed(bad)]
    where = (
        f"TP={bad.tp} leaves {e.cluster.levels[_crossed(good)].name} for {level.name}: "
        if crossing
        else ""
    )
    if host > max(compute, comm):
        return "host", f"{where}the host takes {bad.host_s / bad.step_s:.0%} of the step"
    if compute > comm:
        return (
            "gemm_shrinkage",
            f"{where}compute takes {compute / bad.step_s:.0%} of the step more than its share",
        )
    share = _latency_share(e, bad.tp)
    code = "latency" if share > 0.5 else "bandwidth"
    return (
        code,
        f"{where}communication takes {bad.comm_share:.0%} of the step, {share:.0%} of it latency",
    )


def _crossed(point: Point) -> int:
    """Index of the outermost fabric level that the point's TP group crosses."""
    return max((i for i, r in enumerate(point.ranks_per_level) if r > 1), default=0)


def _latency_share(e: Estimate, tp: int) -> float:
    """Share of the layer's TP communication that stays when payloads shrink to one byte."""
    tps = np.atleast_1d(np.asarray(e.layout.tp))
    index = int(np.flatnonzero(tps == tp)[0])
    empty = whole = 0.0
    for c in e.layer_costs[main_kind(e)]:
        if c.priced is None or c.op.axis != "tp":
            continue
        count = column(c.op.count, len(tps))[index]
        whole += count * column(c.seconds, len(tps))[index]
        tiny = e.pricer.one(c.op._replace(payload_bytes=1.0))[0]
        empty += count * column(tiny, len(tps))[index]
    return empty / whole if whole > 0 else 0.0
