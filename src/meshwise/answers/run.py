"""``run``: measured steps beside their prediction, where their time went, every collective."""

from __future__ import annotations

import statistics
from typing import TypedDict

from meshwise.answers.records.attributes import Key, Record
from meshwise.answers.records.result import Answer
from meshwise.answers.text import words
from meshwise.answers.text.tables import Page, Table
from meshwise.units import format_bytes, format_memory, format_time


class RunLayout(TypedDict):
    """Degrees and ranks."""

    tp: int
    pp: int
    dp: int
    ranks: int


class RunWorkload(TypedDict):
    """What was run."""

    batch: int
    seq: int
    micro_batch: int | None
    new_tokens: int | None
    dtype: str
    shard: str
    schedule: str
    checkpoint: str | None


class RunFigures(TypedDict):
    """What is predicted too: seconds, tokens per second, a share."""

    step_s: float
    tokens_per_s: float
    comm_share: float
    ttft_s: float | None
    tpot_s: float | None


class MeasuredFigures(RunFigures):
    """What is measured beside it: seconds, bytes of each rank, the loss of each step."""

    steps_s: list[float]
    unattributed_s: float
    detailed_step_s: float
    losses: list[float | None]
    peak_memory_bytes: list[float]


class RunOperation(TypedDict):
    """An operation and pass, per step: seconds, bytes."""

    name: str
    phase: str
    kind: str
    group: str | None
    group_size: int | None
    payload_bytes: float | None
    algorithm: str | None
    calls: float
    measured_s: float | None
    predicted_s: float | None


class Link(TypedDict):
    """Sent from one rank to another per step [bytes]."""

    rank: int
    to: int
    sent_bytes: float


class Machine(TypedDict):
    """What it ran on."""

    device: str
    backend: str
    threads: int
    torch: str


class RunRecord(TypedDict):
    """The JSON of ``run``."""

    schema: int
    model: str
    remarks: list[str]
    layers: int | None
    phase: str
    layout: RunLayout
    workload: RunWorkload
    options: dict[str, object]
    measured: MeasuredFigures
    predicted: RunFigures | None
    predicted_on: str
    comm_error: dict[str, float] | None
    operations: list[RunOperation]
    links: list[Link]
    host: dict[str, object] | None
    machine: Machine


class RunResult(Answer):
    """What a run measured, and what was predicted for it."""

    ROWS = "operations"
    model = Key[str]("Name of the model.")
    remarks = Key[list[str]]("What of the model's checkpoint the run does not have.")
    layers = Key[int | None]("Layers that were run.")
    phase = Key[str]("train, prefill, decode or generate.")
    layout = Key[Record]("Degrees and ranks.")
    workload = Key[Record]("Batch, sequence, formats.")
    options = Key[Record]("Switches of the runtime.")
    measured = Key[Record]("Median step and its parts [s], tokens per second, peak memory [bytes].")
    predicted = Key[Record | None]("The same figures, predicted.")
    predicted_on = Key[str]("The hardware that they are predicted for, or why there are none.")
    comm_error = Key[Record | None]("What a narrow format of the wire changes, as shares.")
    operations = Key[list[Record]]("Per operation and pass: measured and predicted [s].")
    links = Key[list[Record]]("Sent from rank to rank [bytes].")
    host = Key[Record | None]("Micro-measurements of the host.")
    machine = Key[Record]("What it ran on.")

    def __init__(self, record: RunRecord) -> None:
        self.record = record

    def to_dict(self) -> RunRecord:
        return self.record

    def page(self) -> Page:
        return run_page(self.record)


def run_line(r: RunRecord) -> str:
    """A run's median step beside its prediction."""
    name = "step" if r["phase"] == "train" else r["phase"]
    measured = r["measured"]["step_s"]
    said = [f"{name} {format_time(measured)} measured"]
    if r["predicted"] is not None:
        told = r["predicted"]["step_s"]
        said.append(f"{format_time(told)} predicted ({100 * (told / measured - 1):+.0f}%)")
    return words.first_line(said)


# -- the page --------------------------------------------------------------------------------------


def run_page(r: RunRecord) -> Page:
    """What a step took, and as detail every operation."""
    layout, work, machine = r["layout"], r["workload"], r["machine"]
    heading = (
        f"{r['model']} ({r['layers']} layers), {r['phase']}, batch {work['batch']}, sequence "
        f"{work['seq']}, {work['dtype']}\ntp={layout['tp']} pp={layout['pp']} dp={layout['dp']}: "
        f"{layout['ranks']} ranks on {machine['device']}, {machine['backend']}, "
        f"{machine['threads']} threads each, torch {machine['torch']}"
    )
    detail: list[Table | str] = []
    compute = [o for o in r["operations"] if o["kind"] == "compute"]
    sent = [o for o in r["operations"] if o["kind"] != "compute"]
    detail.append(_compute(compute))
    if sent:
        detail.append(_collectives(sent))
    if r["links"]:
        detail.append(_links(r["links"]))
    return Page(heading, (_summary(r), *_notes(r)), run_line(r), tuple(detail))


def _ratio(measured: float | None, predicted: float | None) -> str:
    if not measured or predicted is None:
        return ""
    return f"{predicted / measured:.2f}"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else format_time(seconds)


def _summary(r: RunRecord) -> Table:
    """Measured beside predicted: times, tokens, communication's share; and memory."""
    m, p = r["measured"], r["predicted"]
    name = "step" if r["phase"] == "train" else r["phase"]
    rows = []
    for label, measured, predicted in (
        (name, m["step_s"], p["step_s"] if p else None),
        ("time to first token", m["ttft_s"], p["ttft_s"] if p else None),
        ("per token", m["tpot_s"], p["tpot_s"] if p else None),
    ):
        if measured is not None:
            rows.append((label, _time(measured), _time(predicted), _ratio(measured, predicted)))
    rate = p["tokens_per_s"] if p else None
    rows.append(
        (
            "tokens/s",
            f"{m['tokens_per_s']:,.1f}",
            "" if rate is None else f"{rate:,.1f}",
            _ratio(m["tokens_per_s"], rate),
        )
    )
    share = f"{p['comm_share']:.1%}" if p else ""
    rows.append(("comm share (tp, waited for)", f"{m['comm_share']:.1%}", share, ""))
    rows.append(("peak memory of a rank", format_memory(max(m["peak_memory_bytes"])), "", ""))
    return Table("Per step", ("what", "measured", "predicted", "ratio"), tuple(rows))


def _compute(operations: list[RunOperation]) -> Table:
    """Forward and backward of an operation in a row."""
    names: dict[str, dict[str, RunOperation]] = {}
    for o in operations:
        names.setdefault(o["name"], {})[o["phase"]] = o
    rows = []
    for name, by in names.items():
        cells = [name]
        for phase in ("forward", "backward", "update"):
            found = by.get(phase)
            cells += [
                _time(found["measured_s"] if found else None),
                _time(found["predicted_s"] if found else None),
            ]
        if all(not c for c in cells[1:]):
            continue
        rows.append(tuple(cells))
    header = ("operation", "forward", "predicted", "backward", "predicted", "update", "predicted")
    return Table("Compute per step", header, tuple(rows))


def _collectives(operations: list[RunOperation]) -> Table:
    rows = tuple(
        (
            o["name"],
            o["kind"],
            o["phase"],
            f"{o['calls']:g}",
            f"{o['group']}={o['group_size']}",
            format_bytes(o["payload_bytes"] or 0.0),
            o["algorithm"] or "",
            _time(o["measured_s"]),
            _time(o["predicted_s"]),
        )
        for o in operations
    )
    header = (
        *("operation", "kind", "phase", "calls", "group", "payload", "algorithm"),
        *("waited", "predicted"),
    )
    keep = ("kind", "phase", "waited", "predicted")
    return Table("Collectives per step", header, rows, frozenset({0, 1, 2, 4, 6}), keep)


def _links(links: list[Link]) -> Table:
    rows = tuple((str(o["rank"]), str(o["to"]), format_bytes(o["sent_bytes"])) for o in links)
    return Table("Sent from point to point per step", ("rank", "to", "bytes"), rows)


def _notes(r: RunRecord) -> list[str]:
    measured = r["measured"]
    steps = measured["steps_s"]
    low, high = min(steps), max(steps)
    if len(steps) > 3:
        low, _, high = statistics.quantiles(steps, n=4)
    share = measured["unattributed_s"] / measured["detailed_step_s"]
    notes = [
        f"Steps: median of {len(steps)}, quartiles {format_time(low)} to {format_time(high)}. "
        f"Operations are of separate, timed steps ({format_time(measured['detailed_step_s'])}); "
        f"{share:.0%} of them is not attributed: rotary embedding, residuals, Python, and waiting "
        "for other axes."
    ]
    if r["predicted"]:
        notes.append(f"Predicted for: {r['predicted_on']}.")
    else:
        notes.append(f"No prediction: {r['predicted_on']}.")
    if r["comm_error"]:
        parts = " and ".join(f"{v:.2%} of the {k}" for k, v in r["comm_error"].items())
        notes.append(f"Communication in {r['options']['comm_dtype']} changes {parts} (norms).")
    if measured["losses"]:
        first, last = measured["losses"][0], measured["losses"][-1]
        if first is not None and last is not None:
            notes.append(f"Loss {first:.4f} in the first step, {last:.4f} in the last.")
    return [*notes, *(f"{remark}." for remark in r["remarks"])]
