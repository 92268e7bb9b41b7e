"""What a table's errors come to: by quantity and source, beside baselines."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

from meshwise.cost.doubt.published_runs import TIERS
from meshwise.evidence.score.decisions import decisions
from meshwise.evidence.score.result import Result


def quantile(values: Iterable[float], q: float) -> float:
    """Linear between the order statistics, as numpy's default."""
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def error_summary(results: list[Result]) -> dict[str, Any]:
    """Per quantity: how many, median, mean and 90th percentile of |error|, bias (median error), share of
    rows inside their interval and its width; rows that had to be assumed something are told apart.
    Beside them what runs out of memory, and what the decisions come to."""
    counted = {
        status: sum(r.status == status for r in results)
        for status in ("unsupported", "invalid", "suspect")
    }
    found: dict[str, Any] = {}
    for quantity in dict.fromkeys(r.quantity for r in results if r.status == "ok"):
        rows = [r for r in results if r.quantity == quantity and r.status == "ok"]
        if quantity == "fits":  # a question has rights and wrongs
            found["fits"] = fits_summary(rows) | counted
            continue
        # a quantity has errors; those of rows that state all of their layout by themselves too
        errors = [r.error for r in rows if r.error is not None]
        sizes = [abs(e) for e in errors]
        stated = [abs(r.error) for r in rows if r.error is not None and not r.assumed]
        widths = [r.high / r.low - 1.0 for r in rows if r.low and r.high is not None]
        sources = by_source(rows)
        found[quantity] = {
            "n": len(errors),
            **counted,
            "median_abs_error": statistics.median(sizes),
            "median_abs_error_of_sources": statistics.median(
                s["median_abs_error"] for s in sources.values()
            ),
            "mean_abs_error": statistics.fmean(sizes),
            "p90_abs_error": quantile(sizes, 0.9),
            "max_abs_error": max(sizes),
            "bias": statistics.median(errors),
            "coverage": statistics.fmean(bool(r.inside) for r in rows),
            "median_width": statistics.median(widths) if widths else None,
            "n_whole_layout": len(stated),
            "median_abs_error_whole_layout": statistics.median(stated) if stated else None,
            "by_tier": by_tier(rows),
            "baselines": baselines(rows),
            "by_source": sources,
        }
        steps = doubling_speedups(rows)
        if steps is not None:
            found[quantity]["tp_doubling"] = steps
    chosen = decisions(results)
    if chosen is not None:
        found["decisions"] = chosen
    return found


def fits_summary(rows: list[Result]) -> dict[str, Any]:
    """What ran and what ran out of memory, as predicted; and how many of the errors are called tight."""

    def count(ran: bool, called: bool) -> int:
        return sum(bool(r.measured) == ran and bool(r.predicted) == called for r in rows)

    wrong = [r for r in rows if r.predicted != r.measured]
    return {
        "n": len(rows),
        "wrong": len(wrong),
        "matrix": {
            "ran": {
                "called_fitting": count(True, True),
                "called_out_of_memory": count(True, False),
            },
            "out_of_memory": {
                "called_fitting": count(False, True),
                "called_out_of_memory": count(False, False),
            },
        },
        "tight": sum(bool(r.tight) for r in rows),
        "wrong_tight": sum(bool(r.tight) for r in wrong),
    }


def by_tier(rows: list[Result]) -> dict[str, Any]:
    """Errors, coverage and width of rows by how near other sources' runs are."""
    found: dict[str, Any] = {}
    for tier in TIERS:
        own = [r for r in rows if r.evidence is not None and r.evidence.tier == tier]
        errors = [abs(r.error) for r in own if r.error is not None]
        widths = [r.high / r.low - 1.0 for r in own if r.low and r.high is not None]
        if errors:
            found[tier] = {
                "n": len(errors),
                "median_abs_error": statistics.median(errors),
                "coverage": statistics.fmean(bool(r.inside) for r in own),
                "median_width": statistics.median(widths) if widths else None,
            }
    return found


def by_source(rows: list[Result]) -> dict[str, Any]:
    """Errors of each source alone."""
    found: dict[str, Any] = {}
    for source in dict.fromkeys(r.source for r in rows):
        errors = [r.error for r in rows if r.source == source and r.error is not None]
        found[source] = {
            "n": len(errors),
            "median_abs_error": statistics.median(map(abs, errors)),
            "bias": statistics.median(errors),
        }
    return found


def baselines(rows: list[Result]) -> dict[str, Any]:
    """What constants score on the same rows (the least that a model has to beat).

    ``constant``: the median measured value of the row's source. ``constant_mfu`` (training steps): every
    step at the table's own mean model-FLOPs utilisation.
    """
    medians = {
        source: statistics.median([r.measured for r in rows if r.source == source and r.measured])
        for source in {r.source for r in rows}
    }
    errors = [abs(medians[r.source] / r.measured - 1.0) for r in rows if r.measured]
    found = {"constant": {"median_abs_error": statistics.median(errors)}}
    steps = [(r.ideal_s, r.measured) for r in rows if r.ideal_s and r.measured]
    if steps:
        mean = statistics.fmean(ideal / measured for ideal, measured in steps)
        off = [abs(ideal / mean / measured - 1.0) for ideal, measured in steps]
        found["constant_mfu"] = {
            "median_abs_error": statistics.median(off),
            "p90_abs_error": quantile(off, 0.9),
            "mfu": mean,
        }
    return found


def doubling_speedups(rows: list[Result]) -> dict[str, Any] | None:
    """Speed-up of each doubling of TP between rows that are alike in all else: predicted beside
    measured; and what one constant factor per doubling (its own mean) scores."""
    known = {(r.pair, r.tp): r for r in rows if r.pair}
    errors: list[float] = []
    measured: dict[int, list[float]] = {}
    for (pair, tp), r in known.items():
        twice = known.get((pair, 2 * tp))
        if twice is None or not (r.measured and twice.measured and r.predicted and twice.predicted):
            continue
        real, ours = r.measured / twice.measured, r.predicted / twice.predicted
        errors.append(abs(ours / real - 1.0))
        measured.setdefault(tp, []).append(real)
    if not errors:
        return None
    constant = [
        abs(statistics.fmean(reals) / real - 1.0) for reals in measured.values() for real in reals
    ]
    return {
        "n": len(errors),
        "mean_abs_error": statistics.fmean(errors),
        "median_abs_error": statistics.median(errors),
        "baselines": {"constant_factor": {"mean_abs_error": statistics.fmean(constant)}},
    }
