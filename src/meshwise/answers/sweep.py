"""``scale --sweep``: the TP curve at each value of a quantity, and where doublings start to pay."""

from __future__ import annotations

from typing import TypedDict

from meshwise.answers.records.attributes import Key, Record
from meshwise.answers.records.cluster import ClusterRecord, cluster_record
from meshwise.answers.records.evidence import EvidenceRecord, evidence_record
from meshwise.answers.records.result import Placed
from meshwise.answers.scale import FastestDegree, RefusedDegree, scale_record
from meshwise.answers.text import words
from meshwise.answers.text.evidence import evidence_lines
from meshwise.answers.text.sentences import cluster_words, remark_lines, workload_words
from meshwise.answers.text.tables import Page, Table
from meshwise.search.tp_curve.points import Point
from meshwise.search.tp_curve.remarks import run_remarks
from meshwise.search.tp_curve.sweep import BreakEven, Quantity, Sweep
from meshwise.units import format_bandwidth, format_rate, format_time


class SweptQuantity(TypedDict):
    """The quantity, and its ends in its SI unit."""

    name: str
    unit: str
    low: float
    high: float


class SweepValue(TypedDict):
    """The curve at one value."""

    value: float
    points: list[dict[str, object]]
    limit: dict[str, object]
    fastest: FastestDegree
    refused: list[RefusedDegree]


class SweepRecord(TypedDict):
    """The JSON of ``scale --sweep``: seconds, bytes, shares."""

    schema: int
    model: str
    cluster: ClusterRecord
    workload: dict[str, object]
    stack: dict[str, object]
    sweep: SweptQuantity
    values: list[SweepValue]
    rows: list[dict[str, object]]
    break_evens: list[dict[str, object]]
    evidence: EvidenceRecord | None
    remarks: list[str]
    verdict: str


class SweepResult(Placed):
    """The TP curve at each value of a quantity, and the break-evens. The JSON's ``rows`` are
    :meth:`rows`: one per value and degree."""

    ROWS = "rows"
    sweep = Key[Record]("The quantity: ``name``, ``unit``, ``low``, ``high``.")
    values = Key[list[Record]]("Per value: ``points``, ``limit``, ``fastest``, ``refused``.")
    break_evens = Key[list[Record]]("Where each doubling of TP starts or ends to pay.")
    evidence = Key[Record | None]("Which published runs are near the first value's limit.")
    remarks = Key[list[str]]("What to know of the answer.")
    verdict = Key[str]("The sweep in a sentence or two.")

    def __init__(self, swept: Sweep) -> None:
        self.swept = swept

    def to_dict(self) -> SweepRecord:
        return sweep_record(self.swept)

    def page(self) -> Page:
        return sweep_page(self.swept)


def sweep_record(s: Sweep) -> SweepRecord:
    """The JSON of a sweep."""
    curves = [(value, scale_record(scaling)) for value, scaling in s.values]
    first = curves[0][1]
    return {
        "schema": first["schema"],
        "model": first["model"],
        "cluster": cluster_record(s.cluster),
        "workload": first["workload"],
        "stack": first["stack"],
        # the quantity, the curve at each of its values, and as rows
        "sweep": {
            "name": s.quantity.name,
            "unit": s.quantity.unit,
            "low": s.values[0][0],
            "high": s.values[-1][0],
        },
        "values": [
            {
                "value": value,
                "points": c["points"],
                "limit": c["limit"],
                "fastest": c["fastest"],
                "refused": c["refused"],
            }
            for value, c in curves
        ],
        "rows": [
            {"value": value, "tp": p.tp, **_figures(p)} for value, c in s.values for p in c.points
        ],
        # what follows
        "break_evens": [_break_even(b, s.quantity) for b in s.break_evens],
        "evidence": first["evidence"],
        "remarks": _remarks(s),
        "verdict": sweep_verdict(s),
    }


def _remarks(s: Sweep) -> list[str]:
    """As what it was priced, whatever the degree."""
    first = s.values[0][1]
    return run_remarks(first.model, s.cluster, first.workload, first.stack)


def _figures(point: Point) -> dict[str, object]:
    names = ("step_s", "step_low_s", "step_high_s", "comm_share", "speedup", "efficiency")
    more = ("marginal_efficiency", "memory_bytes", "fits", "tight")
    return {name: getattr(point, name) for name in (*names, *more)}


def _break_even(b: BreakEven, quantity: Quantity) -> dict[str, object]:
    return {**b._asdict(), "unit": quantity.unit, "found": b.value is not None}


def _in_unit(value: float, quantity: Quantity) -> str:
    if quantity.unit == "B/s":
        return format_bandwidth(value)
    if quantity.unit == "s":
        return format_time(value)
    if quantity.unit == "FLOP/s":
        return format_rate(value)
    return f"{value:,.0f}"


def sweep_verdict(s: Sweep) -> str:
    """A sentence for each doubling: from which value on it pays."""
    said = []
    name = s.quantity.name
    low, high = (_in_unit(v, s.quantity) for v in (s.values[0][0], s.values[-1][0]))
    pairs = dict.fromkeys((b.from_tp, b.tp) for b in s.break_evens)
    share = words.percent(s.threshold)
    for before, tp in pairs:
        mine = [b for b in s.break_evens if (b.from_tp, b.tp) == (before, tp)]
        asked = [b for b in mine if b.question == "marginal_efficiency"]
        said.append(f"TP={before} → {tp} pays {share} of what it adds {_where(asked, s, name)}.")
    if said:
        return " ".join(said)
    if low != high:
        return "No break-even: one degree alone is no doubling."
    return f"One value of {name}, {low}: no break-even."


def _where(found: list[BreakEven], s: Sweep, name: str) -> str:
    first = found[0]
    if first.value is None:
        ends = [_in_unit(v, s.quantity) for v in (s.values[0][0], s.values[-1][0])]
        if first.direction == "always":
            return f"everywhere between {ends[0]} and {ends[1]}"
        return f"nowhere between {ends[0]} and {ends[1]}"
    parts = []
    for b in found:
        assert b.value is not None
        side = "from {} on" if b.direction == "above" else "up to {}"
        parts.append(side.format(_in_unit(b.value, s.quantity)))
    return f"with {name} " + ", ".join(parts)


def sweep_page(s: Sweep) -> Page:
    _, first = s.values[0]
    heading = (
        f"{first.model.name}: {workload_words(first.workload, first.workload.batch)}\n{cluster_words(s.cluster)}\n"
        f"sweep of {s.quantity.name}, stack {first.stack.name}"
    )
    # a row per value: steps, and shares
    degrees = sorted({p.tp for _, c in s.values for p in c.points})
    names = (s.quantity.name, *(f"TP={tp}" for tp in degrees))
    body, shares = [], []
    for value, c in s.values:
        at = {p.tp: p for p in c.points}
        steps, share = [], []
        for tp in degrees:
            p = at.get(tp)
            if p is None:
                steps.append("-")
                share.append("-")
                continue
            steps.append(f"{format_time(p.step_s)} {words.percent(p.efficiency)}")
            share.append(f"{p.speedup:.2f}× {words.percent(p.comm_share)}")
        said = _in_unit(value, s.quantity)
        body.append((said, *steps, f"TP={c.limit.tp}", f"TP={c.fastest}"))
        shares.append((said, *share))
    # tables: of break-evens first, where there are any
    title = "Step and efficiency at each degree"
    table = Table(
        title, (*names, "limit", "fastest"), tuple(body), frozenset(), ("limit", "fastest")
    )
    title = "Speed-up, and communication's share of the step"
    more = Table(title, names, tuple(shares), frozenset())
    rows = tuple(_row(b, s.quantity) for b in s.break_evens)
    solved = Table(
        "Break-evens, solved for", ("doubling", "question", "where"), rows, frozenset({0, 1, 2})
    )
    parts: list[Table | str] = [
        solved if rows else table,
        *remark_lines(_remarks(s)),
        *_evidence(s),
    ]
    return Page(heading, tuple(parts), sweep_verdict(s), (*((table,) if rows else ()), more))


def _evidence(s: Sweep) -> list[str]:
    first = s.values[0][1]
    return evidence_lines(evidence_record(first.question, first.stack))


def _row(b: BreakEven, quantity: Quantity) -> tuple[str, str, str]:
    question = "is faster at all"
    if b.question == "marginal_efficiency":
        question = f"pays {words.percent(b.threshold)} of what it adds"
    where = b.direction
    if b.value is not None:
        where = f"{'from' if b.direction == 'above' else 'up to'} {_in_unit(b.value, quantity)}"
    return f"TP={b.from_tp} → {b.tp}", question, where
