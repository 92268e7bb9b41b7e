"""A run beside its prediction: the steps, where their time went, every collective."""

from __future__ import annotations

import statistics
from typing import Any

from meshwise.answers import first_line
from meshwise.answers.attributes import Key, Record
from meshwise.answers.text.result import Answer
from meshwise.answers.text.tables import Page, Table
from meshwise.units import format_bytes, format_memory, format_time


class RunResult(Answer):
    """What a run measured, and what was predicted for it."""

    ROWS = "operations"
    model = Key[str]("Name of the model.")
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

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record

    def to_dict(self) -> dict[str, Any]:
        return self.record

    def page(self) -> Page:
        return run_page(self.record)


def run_page(r: dict[str, Any]) -> Page:
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
    return Page(heading, (_summary(r), *_notes(r)), first_line.ran(r), tuple(detail))


def _ratio(measured: float | None, predicted: float | None) -> str:
    if not measured or predicted is None:
        return ""
    return f"{predicted / measured:.2f}"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else format_time(seconds)


def _summary(r: dict[str, Any]) -> Table:
    measured, said = r["measured"], r["predicted"] or {}
    name = "step" if r["phase"] == "train" else r["phase"]
    rows = []
    for label, key in (
        (name, "step_s"),
        ("time to first token", "ttft_s"),
        ("per token", "tpot_s"),
    ):
        if measured[key] is not None:
            rows.append(
                (
                    label,
                    _time(measured[key]),
                    _time(said.get(key)),
                    _ratio(measured[key], said.get(key)),
                )
            )
    rate = said.get("tokens_per_s")
    rows.append(
        (
            "tokens/s",
            f"{measured['tokens_per_s']:,.1f}",
            "" if rate is None else f"{rate:,.1f}",
            _ratio(measured["tokens_per_s"], rate),
        )
    )
    share = said.get("comm_share")
    rows.append(
        (
            "comm share (tp, waited for)",
            f"{measured['comm_share']:.1%}",
            "" if share is None else f"{share:.1%}",
            "",
        )
    )
    peak = max(measured["peak_memory_bytes"])
    rows.append(("peak memory of a rank", format_memory(peak), "", ""))
    return Table("Per step", ("what", "measured", "predicted", "ratio"), tuple(rows))


def _compute(operations: list[dict[str, Any]]) -> Table:
    """Forward and backward of an operation in a row."""
    names: dict[str, dict[str, dict[str, Any]]] = {}
    for o in operations:
        names.setdefault(o["name"], {})[o["phase"]] = o
    rows = []
    for name, by in names.items():
        cells = [name]
        for phase in ("forward", "backward", "update"):
            o = by.get(phase, {})
            cells += [_time(o.get("measured_s")), _time(o.get("predicted_s"))]
        if all(not c for c in cells[1:]):
            continue
        rows.append(tuple(cells))
    header = ("operation", "forward", "predicted", "backward", "predicted", "update", "predicted")
    return Table("Compute per step", header, tuple(rows))


def _collectives(operations: list[dict[str, Any]]) -> Table:
    rows = tuple(
        (
            o["name"],
            o["kind"],
            o["phase"],
            f"{o['calls']:g}",
            f"{o['group']}={o['group_size']}",
            format_bytes(o["payload_bytes"]),
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


def _links(links: list[dict[str, Any]]) -> Table:
    rows = tuple((str(o["rank"]), str(o["to"]), format_bytes(o["sent_bytes"])) for o in links)
    return Table("Sent from point to point per step", ("rank", "to", "bytes"), rows)


def _notes(r: dict[str, Any]) -> list[str]:
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
    return notes
