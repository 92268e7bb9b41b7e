"""``scale --gpus``: strong or weak scaling, the best layout at each number of GPUs."""

from __future__ import annotations

from typing import TypedDict

from meshwise.answers.plan import without_axes
from meshwise.answers.records import SCHEMA
from meshwise.answers.records.attributes import Key, Record
from meshwise.answers.records.cluster import ClusterRecord, cluster_record, stack_record
from meshwise.answers.records.evidence import EvidenceRecord, evidence_record
from meshwise.answers.records.layout import training_row
from meshwise.answers.records.result import Placed
from meshwise.answers.text import words
from meshwise.answers.text.evidence import evidence_lines
from meshwise.answers.text.sentences import cluster_words, remark_lines, training_words
from meshwise.answers.text.tables import Page, Table
from meshwise.answers.text.training import training_mesh_words
from meshwise.program.context import widths
from meshwise.search.growth import Growth, Size
from meshwise.search.tp_curve.remarks import run_remarks
from meshwise.units import format_gpus, format_memory, format_time


class GrowthLimit(TypedDict):
    """The size up to which every step pays ``threshold`` of what it adds."""

    gpus: int | None
    threshold: float


class GrowthRecord(TypedDict):
    """The JSON of ``scale --gpus``: seconds, bytes, shares."""

    schema: int
    model: str
    cluster: ClusterRecord
    workload: dict[str, object]
    formats: dict[str, object]
    stack: dict[str, object]
    mode: str
    points: list[dict[str, object]]
    limit: GrowthLimit
    evidence: EvidenceRecord | None
    remarks: list[str]
    verdict: str


class GrowthResult(Placed):
    """Strong or weak scaling, the best layout at each number of GPUs."""

    ROWS = "points"
    formats = Key[Record]("Number formats of weights, activations, gradients.")
    mode = Key[str]("``strong`` or ``weak``.")
    points = Key[list[Record]]("One per number of GPUs: layout, times [s], memory [bytes].")
    limit = Key[Record]("``gpus`` up to which every step pays its ``threshold``.")
    evidence = Key[Record | None]("Which published runs are near the largest size's layout.")
    remarks = Key[list[str]]("What to know of the answer.")
    verdict = Key[str]("The curve in a sentence or two.")

    def __init__(self, growth: Growth, threshold: float) -> None:
        self.growth, self.threshold = growth, threshold

    @property
    def feasible(self) -> bool:
        """Whether anything fits at any size."""
        return any(s.best is not None for s in self.growth.sizes)

    def to_dict(self) -> GrowthRecord:
        g = self.growth
        return {
            "schema": SCHEMA,
            "model": g.model.name,
            "cluster": cluster_record(g.cluster),
            "workload": without_axes(g.workload),
            "formats": widths(g.model, g.workload, g.stack)._asdict(),
            "stack": stack_record(g.stack),
            "mode": "weak" if g.weak else "strong",
            "points": [_point(s) for s in g.sizes],
            "limit": {"gpus": _limit(g, self.threshold), "threshold": self.threshold},
            "evidence": self._evidence(),
            "remarks": self._remarks(),
            "verdict": _verdict(g, self.threshold),
        }

    def _evidence(self) -> EvidenceRecord | None:
        """Of the best layout of the most GPUs that has one."""
        best = next((s.best for s in reversed(self.growth.sizes) if s.best is not None), None)
        return evidence_record(best.question, self.growth.stack) if best is not None else None

    def _remarks(self) -> list[str]:
        """As what it was priced, whatever the layout."""
        g = self.growth
        return run_remarks(g.model, g.cluster, g.workload, g.stack)

    def page(self) -> Page:
        g = self.growth
        kind = "weak" if g.weak else "strong"
        heading = (
            f"{g.model.name} on {cluster_words(g.cluster)}: {kind} scaling, best layout at each size, "
            f"{g.workload.seq:,} tokens per sequence, stack {g.stack.name}"
            f"{training_words(g.model, g.workload, g.stack)}"
        )
        header = ("GPUs", "batch", "layout", "step", "tokens/s", "MFU", "comm", "memory")
        body = tuple(_row(s) for s in g.sizes)
        table = Table(
            "", (*header, "speedup", "eff.", "doubling"), body, frozenset({2}), header[1:4]
        )
        said = remark_lines(self._remarks()) + evidence_lines(self._evidence())
        return Page(heading, (table, *said), _verdict(g, self.threshold))


def _point(s: Size) -> dict[str, object]:
    figures: dict[str, object] = {
        "gpus": s.gpus,
        "global_batch": s.global_batch,
        "feasible": s.best is not None,
        "speedup": s.speedup,
        "efficiency": s.efficiency,
        "marginal_efficiency": s.marginal_efficiency,
    }
    return figures | (training_row(s.best) if s.best is not None else {})


def _row(s: Size) -> tuple[str, ...]:
    if s.best is None:
        return (f"{s.gpus:,}", f"{s.global_batch:,}", "nothing fits", *["-"] * 8)
    r = s.best
    assert s.speedup is not None and s.efficiency is not None
    return (
        f"{s.gpus:,}",
        f"{s.global_batch:,}",
        training_mesh_words(r.found.layout),
        f"{format_time(r.step_s)} {words.interval(r.step_s, r.step_low_s, r.step_high_s)}",
        f"{r.tokens_per_s:,.0f}",
        words.percent(r.mfu),
        words.percent(r.exposed_comm_s / r.step_s),
        format_memory(r.memory_bytes),
        f"{s.speedup:.2f}×",
        words.percent(s.efficiency),
        words.percent(s.marginal_efficiency) if s.marginal_efficiency is not None else "-",
    )


def _limit(g: Growth, threshold: float) -> int | None:
    """The largest size whose step from the one before, and every one before it, still pays."""
    kept: int | None = None
    for s in g.sizes:
        if s.best is None:
            continue
        if s.marginal_efficiency is not None and s.marginal_efficiency < threshold:
            return kept
        kept = s.gpus
    return kept


def _verdict(g: Growth, threshold: float) -> str:
    feasible = [s for s in g.sizes if s.best is not None]
    if not feasible:
        return "Nothing fits at any of these sizes."
    limit = _limit(g, threshold)
    last = feasible[-1]
    assert last.efficiency is not None
    share = words.percent(threshold)
    if limit == last.gpus:
        said = f"Every step up to {format_gpus(limit or 0)} pays {share} or more of what it adds"
    else:
        said = f"Beyond {format_gpus(limit or 0)} a step pays less than {share} of what it adds"
    return (
        f"{said}; {format_gpus(last.gpus)} have {words.percent(last.efficiency)} of the efficiency of "
        f"{feasible[0].gpus:,}."
    )
