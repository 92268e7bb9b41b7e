"""``validate``: a table predicted row by row, what the errors come to, and the rows furthest off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from meshwise.answers.anchors import AnchorRecord, anchor_record, anchors_table
from meshwise.answers.records import SCHEMA
from meshwise.answers.records.attributes import Key, Record
from meshwise.answers.records.result import Answer
from meshwise.answers.text import words
from meshwise.answers.text.sentences import wrap
from meshwise.answers.text.tables import Page, Table
from meshwise.evidence import tables
from meshwise.evidence.anchors.anchoring import Anchored
from meshwise.evidence.score.decisions import DecisionScore, decided, decisions
from meshwise.evidence.score.result import Result
from meshwise.units import format_memory, format_time

_SHOWN_REASONS = 12


class Score(TypedDict, total=False):
    """What constants, or the rows of one source, score."""

    n: int
    median_abs_error: float
    mean_abs_error: float
    p90_abs_error: float
    bias: float
    mfu: float


class Baselines(TypedDict, total=False):
    """What a model has to beat, at least."""

    constant: Score
    constant_mfu: Score
    constant_factor: Score


class DoublingScore(TypedDict):
    """Speed-ups of each doubling of TP between rows that differ in nothing else."""

    n: int
    mean_abs_error: float
    median_abs_error: float
    baselines: Baselines


class TierScore(TypedDict):
    """Errors of the rows of one tier of evidence, and their intervals."""

    n: int
    median_abs_error: float
    coverage: float
    median_width: float | None


class QuantityScore(TypedDict, total=False):
    """Errors of one quantity as shares; of ``fits``, how many rows are ``wrong``, and as a matrix."""

    n: int
    wrong: int
    matrix: dict[str, dict[str, int]]
    tight: int
    wrong_tight: int
    unsupported: int
    invalid: int
    suspect: int
    median_abs_error: float
    median_abs_error_of_sources: float
    mean_abs_error: float
    p90_abs_error: float
    max_abs_error: float
    bias: float
    coverage: float
    median_width: float | None
    n_whole_layout: int
    median_abs_error_whole_layout: float | None
    baselines: Baselines
    by_source: dict[str, Score]
    by_tier: dict[str, TierScore]
    tp_doubling: DoublingScore


Summary = dict[str, QuantityScore]


class ValidateRecord(TypedDict):
    """The JSON of ``validate``."""

    schema: int
    kind: str
    unread: list[str]
    rows: list[dict[str, object]]
    summary: Summary
    decisions: list[dict[str, object]]
    anchors: list[AnchorRecord]


class ValidateResult(Answer):
    """A table's rows, predicted: ``results`` are records, ``summary`` what they come to. The JSON's
    ``rows`` are :meth:`rows`."""

    ROWS = "rows"
    kind = Key[str]("What the table measures.")
    unread = Key[list[str]]("Columns that no prediction reads.")
    decisions = Key[list[Record]]("Groups of rows that differ in layout alone, and what is chosen.")
    summary = Key[Record]("Errors of the predictions, as shares.")
    anchors = Key[list[Record]](
        "Systems that measured sizes of their own anchor, and their factors."
    )

    def __init__(
        self,
        table: tables.MeasuredTable,
        results: list[Result],
        summary: Summary,
        anchored: Sequence[Anchored] = (),
    ) -> None:
        self.table, self.results, self.totals = table, results, summary
        self.anchored = [anchor_record(a) for a in anchored]

    @property
    def invalid(self) -> int:
        """How many rows are malformed."""
        return sum(r.status == "invalid" for r in self.results)

    def to_dict(self) -> ValidateRecord:
        return {
            "schema": SCHEMA,
            "kind": self.table.kind,
            "unread": tables.unread_columns(self.table),
            "rows": [r.to_dict() for r in self.results],
            "summary": self.totals,
            "decisions": [d.to_dict() for d in decided(self.results)],
            "anchors": self.anchored,
        }

    def page(self, worst: int = 15, groups: bool = False) -> Page:
        """What the errors come to; ``groups``: with every decision."""
        found = validate_page(self.table.kind, self.table.name, self.results, self.totals, worst)
        found = found._replace(parts=(*found.parts, *_decisions(self.results, groups)))
        if self.anchored:
            found = found._replace(parts=(*found.parts, anchors_table(self.anchored)))
        columns = tables.unread_columns(self.table)
        if not columns:
            return found
        near = {c: tables.nearest_column(self.table, c) for c in columns}
        named = ", ".join(f"{c} (nearest: {n})" if (n := near[c]) else c for c in columns)
        said = wrap(f"Columns that no prediction reads: {named}.")
        return found._replace(parts=(*found.parts, said))


def validate_line(summary: Summary, rows: int) -> str:
    """The median error of each quantity, and how many rows lie in their interval."""
    said = [
        f"{quantity}: median error {100 * s['median_abs_error']:.1f}%, "
        f"{100 * s['coverage']:.0f}% of {s['n']:,} inside the 90% interval"
        for quantity, s in summary.items()
        if s.get("n") and "median_abs_error" in s
    ]
    return words.first_line(said) or f"None of {rows:,} rows can be compared"


# -- the page --------------------------------------------------------------------------------------


def validate_page(
    kind: str, name: str, results: list[Result], summary: Summary, worst: int
) -> Page:
    """Errors by quantity and source, the ``worst`` rows, and rows that are not predicted."""
    numbers = {q: s for q, s in summary.items() if "median_abs_error" in s}
    parts: list[Table | str] = [_errors(numbers)] if numbers else []
    parts += [_by_tier(q, s) for q, s in numbers.items() if s["by_tier"]]
    parts += [_by_source(q, s) for q, s in numbers.items()]
    parts += [line for q, s in numbers.items() for line in _baselines(q, s)]
    if "fits" in summary:
        parts.append(_fits(summary["fits"]))
    parts += _stood_in(results)
    scored = sorted((r for r in results if r.error is not None), key=lambda r: -abs(r.error or 0.0))
    if worst and scored:
        parts.append(_furthest_off(scored[:worst]))
    for status in ("unsupported", "invalid", "suspect"):
        parts += _reasons(results, status)
    answer = validate_line(summary, len(results))
    return Page(f"{name}: {kind}, {len(results)} results", tuple(parts), answer)


def _errors(numbers: Summary) -> Table:
    """A row per quantity."""
    return Table(
        "Errors (predicted / measured − 1)",
        (
            *("quantity", "rows", "median |e|", "of sources", "mean |e|", "p90 |e|", "max |e|"),
            *("bias", "in interval", "width", "baseline"),
        ),
        tuple(
            (
                q,
                str(s["n"]),
                _percent(s["median_abs_error"]),
                _percent(s["median_abs_error_of_sources"]),
                _percent(s["mean_abs_error"]),
                _percent(s["p90_abs_error"]),
                _percent(s["max_abs_error"]),
                f"{100 * s['bias']:+.1f}%",
                f"{100 * s['coverage']:.0f}%",
                _share(s["median_width"]),
                _percent(s["baselines"]["constant"]["median_abs_error"]),
            )
            for q, s in numbers.items()
        ),
    )


def _by_source(quantity: str, s: QuantityScore) -> Table:
    """A row per source of a quantity."""
    return Table(
        f"{quantity} by source",
        ("source", "rows", "median |e|", "bias"),
        tuple(
            (name, str(v["n"]), _percent(v["median_abs_error"]), f"{100 * v['bias']:+.1f}%")
            for name, v in s["by_source"].items()
        ),
    )


def _by_tier(quantity: str, s: QuantityScore) -> Table:
    """A row per tier of evidence."""
    return Table(
        f"{quantity} by evidence (the row's own source aside)",
        ("evidence", "rows", "median |e|", "in interval", "width"),
        tuple(
            (
                tier,
                str(v["n"]),
                _percent(v["median_abs_error"]),
                f"{100 * v['coverage']:.0f}%",
                _share(v["median_width"]),
            )
            for tier, v in s["by_tier"].items()
        ),
    )


def _fits(s: QuantityScore) -> Table:
    """What ran and what did not, as predicted."""
    said = f"{s['wrong_tight']} of the {s['wrong']} errors are called tight"
    names = {"ran": "ran", "out_of_memory": "ran out of memory"}
    return Table(
        f"Fits ({said})",
        ("measured", "called fitting", "called out of memory"),
        tuple(
            (
                names[measured],
                str(called["called_fitting"]),
                str(called["called_out_of_memory"]),
            )
            for measured, called in s["matrix"].items()
        ),
        frozenset({0}),
    )


def _decisions(results: list[Result], groups: bool) -> list[Table | str]:
    """What following the predictions would cost, by source; with ``groups`` each choice too."""
    found = decisions(results)
    if found is None:
        return []
    ours, thumb = found["median_regret"], found["rule_of_thumb"]["mean_regret"]
    title = (
        f"Decisions: {found['groups']} groups of rows that differ in layout alone; regret of the predicted "
        f"best {_percent(ours)} median, {_percent(found['mean_regret'])} mean"
    )
    if thumb is not None:
        title += f"; of the rule of thumb {_percent(thumb)} mean"

    def cells(name: str, s: DecisionScore) -> tuple[str, ...]:
        rule, tau = s["rule_of_thumb"], s["median_kendall_tau"]
        return (
            *(name, str(s["groups"]), str(s["rows"]), _percent(s["median_regret"])),
            *(_percent(s["mean_regret"]), "-" if tau is None else f"{tau:.2f}"),
            "-" if rule["mean_regret"] is None else _percent(rule["mean_regret"]),
        )

    header = ("source", "groups", "rows", "median regret", "mean", "median τ", "rule of thumb")
    table = Table(title, header, tuple(cells(n, s) for n, s in found["by_source"].items()))
    if not groups:
        return [table]
    every = tuple(
        (
            *(d.source, str(d.rows), d.chosen, d.best, _percent(d.regret)),
            "-" if d.kendall_tau is None else f"{d.kendall_tau:.2f}",
            "-" if d.thumb_regret is None else _percent(d.thumb_regret),
        )
        for d in decided(results)
    )
    header = ("source", "rows", "chosen", "fastest", "regret", "τ", "rule of thumb")
    return [table, Table("Every group", header, every, frozenset({0, 2, 3}))]


def _baselines(quantity: str, s: QuantityScore) -> list[str]:
    """What constants score on a quantity."""
    said = []
    if "constant_mfu" in s["baselines"]:
        flat = s["baselines"]["constant_mfu"]
        said.append(
            f"A constant MFU of {100 * flat['mfu']:.1f}% scores {_percent(flat['median_abs_error'])} "
            f"median, {_percent(flat['p90_abs_error'])} p90 on {quantity}."
        )
    if "tp_doubling" in s:
        steps = s["tp_doubling"]
        flat = steps["baselines"]["constant_factor"]
        said.append(
            f"Speed-up of {steps['n']} TP doublings of {quantity}: mean |e| "
            f"{_percent(steps['mean_abs_error'])}, median {_percent(steps['median_abs_error'])}; "
            f"constant factors score {_percent(flat['mean_abs_error'])}."
        )
    return said


def _furthest_off(rows: list[Result]) -> Table:
    return Table(
        f"The {len(rows)} rows furthest off",
        ("id", "quantity", "measured", "predicted", "error", "90% interval"),
        tuple(
            (
                r.id,
                r.quantity,
                _value(r.quantity, r.measured),
                _value(r.quantity, r.predicted),
                f"{100 * (r.error or 0.0):+.1f}%",
                f"{_value(r.quantity, r.low)} – {_value(r.quantity, r.high)}"
                + ("" if r.inside else " (outside)"),
            )
            for r in rows
        ),
        frozenset({0, 1}),
        ("quantity", "measured", "predicted", "error"),
    )


def _reasons(results: list[Result], status: str) -> list[str]:
    """How many rows are ``status``, and why; the name of one that is alone in it."""
    reasons: dict[str, int] = {}
    names = {r.reason: r.id for r in results if r.status == status}
    for r in results:
        if r.status == status:
            reasons[r.reason] = reasons.get(r.reason, 0) + 1
    if not reasons:
        return []
    shown = list(reasons.items())[:_SHOWN_REASONS]
    lines = [
        f"{n} × {why}" if n > 1 else f"{names[why]}: {why}" if names[why] else why
        for why, n in shown
    ]
    if len(reasons) > _SHOWN_REASONS:
        lines.append(f"… and {len(reasons) - _SHOWN_REASONS} other reasons (--json has all)")
    said = "\n".join(map(wrap, lines))
    return [f"{status.capitalize()} rows: {sum(reasons.values())}\n{said}"]


def _value(quantity: str, value: float | None) -> str:
    if value is None:
        return "-"
    if quantity == "memory_bytes":
        return format_memory(value)
    return format_time(value) if quantity.endswith("_s") else f"{value:g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _stood_in(results: list[Result]) -> list[Table | str]:
    """How many rows were priced as other software than they name."""
    rows = {r.line: a.value for r in results for a in r.assumed if a.field == "stack"}
    if not rows:
        return []
    names = list(rows.values())
    priced = " and ".join(f"{names.count(n)} as {n}" for n in dict.fromkeys(names))
    some = "1 row names" if len(rows) == 1 else f"{len(rows)} rows name"
    return [
        wrap(
            f"{some} software that the catalog does not know: priced {priced}, within the spread of "
            "all software too."
        )
    ]
