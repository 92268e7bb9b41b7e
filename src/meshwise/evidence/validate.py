"""Predicted beside measured: every row, its error, and what a table's errors come to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from meshwise.cost.uncertainty import prediction_interval
from meshwise.errors import MeshwiseError
from meshwise.evidence.predict import predict
from meshwise.evidence.prediction import Prediction, Suspect, Unsupported
from meshwise.evidence.tables import TABLE_KINDS, Assumed, MeasuredTable, read_table
from meshwise.stacks.stack import Stack
from meshwise.strict_tables import one_of


class Result(NamedTuple):
    """A row's outcome for one quantity. ``error`` is predicted / measured − 1."""

    id: str
    line: int
    quantity: str
    measured: float | None
    predicted: float | None
    low: float | None  # the ends of the prediction's 90 % interval
    high: float | None
    error: float | None
    status: str  # ok | unsupported | invalid | suspect
    reason: str
    source: str
    assumed: tuple[Assumed, ...]
    ideal_s: float | None = None
    pair: tuple[str, ...] = ()
    tp: int = 1

    def to_dict(self) -> dict[str, Any]:
        """The row of the JSON contract."""
        hidden = ("ideal_s", "pair", "tp")
        found = {k: v for k, v in self._asdict().items() if k not in hidden}
        return found | {"assumed": [a._asdict() for a in self.assumed]}

    @property
    def inside(self) -> bool | None:
        """Whether the measured value lies in the interval; None where there is none."""
        if self.low is None or self.high is None or self.measured is None:
            return None
        return self.low <= self.measured <= self.high


def _without(name: str, line: int, status: str, reason: str) -> Result:
    return Result(name, line, "", None, None, None, None, None, status, reason, "", ())


def row_results(table: MeasuredTable, folder: Path, named: Stack | None = None) -> list[Result]:
    """Predict every row of a table; rows that cannot be are listed with the reason. ``named``: the stack
    of software that is not known."""
    results: list[Result] = []
    for error in table.bad:
        line = int(error.field.split(":")[0].split()[-1])
        results.append(_without("", line, "invalid", error.message))
    for row in table.rows:
        name = row.text("id", f"line {row.line}")
        try:
            found = predict(table.kind, row, folder, named)
        except Unsupported as why:
            results.append(_without(name, row.line, "unsupported", str(why)))
        except Suspect as why:
            results.append(_without(name, row.line, "suspect", str(why)))
        except MeshwiseError as error:
            where = "" if str(row.line) in error.field else f"line {row.line}: "
            results.append(_without(name, row.line, "invalid", f"{where}{error}"))
        else:
            results += [_result(row.line, p) for p in found]
    return sorted(results, key=lambda r: r.line)


PUBLISHED_FOLDER = Path(__file__).parent / "published"


def published(kind: str) -> tuple[MeasuredTable, list[Result], dict[str, Any]]:
    """A shipped table (``all``: every one), its results and what they come to."""
    one_of(kind, "kind", (*TABLE_KINDS, "all"))
    results: list[Result] = []
    found: dict[str, Any] = {}
    tables = [
        read_table(str(PUBLISHED_FOLDER / f"{k}.csv"))
        for k in (TABLE_KINDS if kind == "all" else [kind])
    ]
    for table in tables:
        own = row_results(table, PUBLISHED_FOLDER)
        results += own
        found |= error_summary(own)  # no quantity is in two kinds of table
    if len(tables) == 1:
        return tables[0], results, found
    return (
        MeasuredTable("all", "published tables", (), [r for t in tables for r in t.rows], []),
        results,
        found,
    )


def _result(line: int, p: Prediction) -> Result:
    fits = p.quantity == "fits"
    error = None if fits else p.predicted / p.measured - 1.0
    low, high = (
        (None, None)
        if fits
        else prediction_interval(
            p.predicted,
            p.judged_as or p.quantity,
            p.stack,
            p.inherited,
            p.slower,
            p.unseen,
            p.stood_in,
        )
    )
    return Result(
        p.id,
        line,
        p.quantity,
        p.measured,
        p.predicted,
        None if low is None else float(low) * p.span[0],
        None if high is None else float(high) * p.span[1],
        error,
        "ok",
        "",
        p.source,
        p.assumed,
        p.ideal_s,
        p.pair,
        p.tp,
    )


def quantile(values: Iterable[float], q: float) -> float:
    """Linear between the order statistics, as numpy's default."""
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def error_summary(results: list[Result]) -> dict[str, Any]:
    """Per quantity: how many, median, mean and 90th percentile of |error|, bias (median error); rows
    that had to be assumed something are told apart."""
    unsupported = sum(r.status == "unsupported" for r in results)
    invalid = sum(r.status == "invalid" for r in results)
    suspect = sum(r.status == "suspect" for r in results)
    found: dict[str, Any] = {}
    for quantity in dict.fromkeys(r.quantity for r in results if r.status == "ok"):
        rows = [r for r in results if r.quantity == quantity]
        # a question has rights and wrongs
        if quantity == "fits":
            wrong = sum(r.predicted != r.measured for r in rows)
            found["fits"] = {
                "n": len(rows),
                "wrong": wrong,
                "unsupported": unsupported,
                "invalid": invalid,
                "suspect": suspect,
            }
            continue
        # a quantity has errors; those of rows that state all of their layout by themselves too
        errors = [r.error for r in rows if r.error is not None]
        sizes = [abs(e) for e in errors]
        stated = [abs(r.error) for r in rows if r.error is not None and not r.assumed]
        found[quantity] = {
            "n": len(errors),
            "unsupported": unsupported,
            "invalid": invalid,
            "suspect": suspect,
            "median_abs_error": statistics.median(sizes),
            "mean_abs_error": statistics.fmean(sizes),
            "p90_abs_error": quantile(sizes, 0.9),
            "max_abs_error": max(sizes),
            "bias": statistics.median(errors),
            "coverage": statistics.fmean(bool(r.inside) for r in rows),
            "n_whole_layout": len(stated),
            "median_abs_error_whole_layout": statistics.median(stated) if stated else None,
            "baselines": baselines(rows),
            "by_source": by_source(rows),
        }
        steps = doubling_speedups(rows)
        if steps is not None:
            found[quantity]["tp_doubling"] = steps
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
