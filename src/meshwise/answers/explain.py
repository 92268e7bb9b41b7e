"""``explain``: the program of operations of one device, priced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from meshwise.answers.estimate import estimate_remarks
from meshwise.answers.records.cluster import ClusterRecord, cluster_record
from meshwise.answers.records.evidence import EvidenceRecord, evidence_record
from meshwise.answers.records.step import EstimateRecord
from meshwise.answers.text import words
from meshwise.answers.text.evidence import evidence_lines
from meshwise.answers.text.sentences import (
    assumed_words,
    remark_lines,
    training_words,
    workload_words,
    wrap,
)
from meshwise.answers.text.tables import Page, Table
from meshwise.search.one_layout import Report
from meshwise.units import format_bytes, format_flops, format_time


class ExplainRecord(TypedDict):
    """The JSON of ``explain``; ``operations`` per call: seconds, FLOPs, bytes."""

    schema: int
    model: str
    cluster: ClusterRecord
    workload: dict[str, object]
    stack: dict[str, object]
    layout: Mapping[str, object]
    step_s: float
    evidence: EvidenceRecord | None
    remarks: list[str]
    operations: list[dict[str, object]]


def explain_record(r: Report, estimate: EstimateRecord) -> ExplainRecord:
    """The JSON of the program; ``estimate`` is the same layout's."""
    return {
        "schema": estimate["schema"],
        "model": estimate["model"],
        "cluster": estimate["cluster"],
        "workload": estimate["workload"],
        "stack": estimate["stack"],
        "layout": estimate["layout"],
        "step_s": estimate["step_s"],
        "evidence": estimate["evidence"],
        "remarks": estimate["remarks"],
        "operations": [
            {("count" if k == "calls" else k): v for k, v in op._asdict().items()}
            for op in r.operations
        ],
    }


def explain_line(r: Report) -> str:
    """The step, and the operations that take most of it."""
    total = sum(op.calls * op.time_s for op in r.operations) or 1.0
    by: dict[str, float] = {}
    for op in r.operations:
        kind = op.name.partition(".")[2] or op.name
        by[kind] = by.get(kind, 0.0) + op.calls * op.time_s / total
    most = sorted(by, key=lambda name: -by[name])[:3]
    shares = ", ".join(f"{name} {words.percent(by[name])}" for name in most)
    per = words.PER[r.estimate.workload.phase]
    return words.first_line(
        [words.time_words(r.step_s, r.step_low_s, r.step_high_s, per), f"most of it {shares}"]
    )


def explain_page(r: Report) -> Page:
    """Two tables that share one numbering: products and passes, and collectives."""
    # a row per operation: collectives in a table of their own
    compute, comm = [], []
    for number, op in enumerate(r.operations, start=1):
        begin = (str(number), op.name, op.kind, op.phase, f"{op.calls:g}")
        if op.group is not None:
            wire = " + ".join(format_bytes(w) for w in op.wire_bytes)
            group = f"{op.group}={op.group_size}"
            comm.append(
                (
                    *begin,
                    group,
                    format_bytes(op.payload_bytes),
                    wire,
                    op.algorithm or "",
                    format_time(op.time_s),
                )
            )
            continue
        shape = f"{op.m:g}×{op.n:g}×{op.k:g}" if op.kind != "elementwise" else ""
        if op.batch != 1 and shape:
            shape = f"{op.batch:g}·{shape}"
        flops = format_flops(op.flops) if op.flops else ""
        compute.append((*begin, shape, flops, format_bytes(op.hbm_bytes), format_time(op.time_s)))
    # the page
    first = ("#", "operation", "kind", "phase", "calls/step")
    e = r.estimate
    heading = wrap(
        f"{e.model.name}: {workload_words(e.workload, int(e.layout.micro_batch))} on {e.cluster.name}, "
        f"stack {e.stack.name}"
        f"{training_words(e.model, e.workload, e.stack)}; "
        f"step {format_time(r.step_s)}{assumed_words(cluster_record(e.cluster)['assumed'])}. "
        "Values per call, on one device, numbered in order."
    )
    parts = [
        Table(
            "Products and passes over memory",
            (*first, "batch·m×n×k", "FLOPs", "HBM", "time"),
            tuple(compute),
            frozenset({1, 2, 3}),
            ("operation", "phase", "calls/step", "time"),
        ),
    ]
    if comm:
        parts.append(
            Table(
                "Collectives",
                (*first, "group", "payload", "wire by level", "algorithm", "time"),
                tuple(comm),
                frozenset({1, 2, 3, 5, 8}),
                ("operation", "phase", "calls/step", "time"),
            )
        )
    said = remark_lines(estimate_remarks(r)) + evidence_lines(evidence_record(r.question, e.stack))
    return Page(heading, (*parts, *said), explain_line(r))
