"""Predicted beside measured: every row, its error, and what a table's errors come to."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from meshwise.cost.doubt.published_runs import Evidence, evidence
from meshwise.cost.doubt.spread import (
    NORMAL,
    chance_to_fit,
    prediction_interval,
    standard_deviation,
    within_memory_error,
)
from meshwise.errors import MeshwiseError
from meshwise.evidence.anchors.anchoring import Anchoring, anchored_prediction
from meshwise.evidence.predict import collective_asked, predict
from meshwise.evidence.prediction import Prediction, Suspect, Unsupported
from meshwise.evidence.score.result import Result
from meshwise.evidence.score.summary import error_summary
from meshwise.evidence.tables import TABLE_KINDS, MeasuredTable, read_table
from meshwise.stacks.stack import Stack
from meshwise.strict_tables import one_of

# assumptions that a row's own columns cannot take away: what stands in, and what ran against a rule
_NOT_STATED = ("stack", "software", "layout")


def _without(name: str, line: int, status: str, reason: str) -> Result:
    return Result(name, line, "", None, None, None, None, None, status, reason, "", ())


def row_results(
    table: MeasuredTable,
    folder: Path,
    named: Stack | None = None,
    anchors: Anchoring | None = None,
) -> list[Result]:
    """Predict every row of a table; rows that cannot be are listed with the reason, and those that anchor
    others, without a prediction. ``named``: the stack of software that is not known."""
    results: list[Result] = []
    for error in table.bad:
        line = int(error.field.split(":")[0].split()[-1])
        results.append(_without("", line, "invalid", error.message))
    for row in table.rows:
        name = row.text("id", f"line {row.line}")
        if anchors is not None and row.line in anchors.lines:
            results.append(_without(name, row.line, "anchor", "given, to anchor its system"))
            continue
        try:
            found = predict(table.kind, row, folder, named)
            anchored = None if anchors is None else anchors.of(row)
            if anchored is not None:
                asked = collective_asked(row)
                found = [anchored_prediction(p, asked, anchored) for p in found]
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
    return as_one_table(tables, "published tables"), results, found


def as_one_table(tables: list[MeasuredTable], name: str) -> MeasuredTable:
    """Several tables as one of every kind; one as it is."""
    if len(tables) == 1:
        return tables[0]
    return MeasuredTable("all", name, (), [row for table in tables for row in table.rows], [])


def _result(line: int, p: Prediction) -> Result:
    low, high = _interval(p)
    tight, chance = _doubted_fit(p)
    return Result(
        p.id,
        line,
        p.quantity,
        p.measured,
        p.predicted,
        low,
        high,
        None if p.quantity == "fits" else p.predicted / p.measured - 1.0,
        "ok",
        "",
        p.source,
        p.assumed,
        _near(p),
        tight,
        chance,
        p.contender,
        p.ideal_s,
        p.pair,
        p.tp,
    )


def _interval(p: Prediction) -> tuple[float | None, float | None]:
    """The ends of a prediction's interval; the row's own source is no evidence for it."""
    if p.anchored_sd is not None:
        wide = math.exp(NORMAL * p.anchored_sd)
        return p.predicted / wide, p.predicted * wide
    if p.question is None or p.quantity == "fits":
        return None, None
    quantity = p.judged_as or p.quantity
    sd = standard_deviation(quantity, p.question, p.source)
    low, high = prediction_interval(p.predicted, quantity, sd, p.slower, p.question)
    return float(low) * p.span.low, float(high) * p.span.high


def _doubted_fit(p: Prediction) -> tuple[bool | None, float | None]:
    """Whether a ``fits`` is tight, and the chance that it fits; the row's own source is no evidence for it."""
    if p.quantity != "fits" or p.question is None or p.room is None:
        return None, None
    sd = standard_deviation("memory_bytes", p.question, p.source)
    return bool(within_memory_error(1.0, p.room, sd)), float(chance_to_fit(1.0, p.room, sd))


def _near(p: Prediction) -> Evidence | None:
    """The published runs near a row, its own source's aside; and what of the row would narrow it."""
    if p.question is None:
        return None
    found = evidence(p.question.at(0), p.source)
    stated = tuple(
        f"state {a.field} (taken: {a.value})" for a in p.assumed if a.field not in _NOT_STATED
    )
    return found._replace(narrow_by=(*found.narrow_by, *stated))
