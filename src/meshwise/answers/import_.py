"""``import``: a launch command, read and priced beside the best layout of as many GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from meshwise.answers.compared import (
    UnpricedRecord,
    command_lines,
    command_notes,
    compared_line,
    compared_record,
    compared_verdict,
    comparison_table,
    unpriced_records,
)
from meshwise.answers.records import SCHEMA
from meshwise.answers.records.attributes import Key, Record, flat_row
from meshwise.answers.records.result import Answer
from meshwise.answers.text.sentences import sentence, wrap
from meshwise.answers.text.tables import Page, Table
from meshwise.launch.read import Parsed
from meshwise.launch.table import target
from meshwise.search.compare import Compared, ComparedServing
from meshwise.units import format_gpus


class ImportRecord(TypedDict):
    """The JSON of ``import``: seconds, bytes."""

    schema: int
    target: str
    version: str
    model: str
    job: dict[str, object]
    ignored: list[str]
    notes: list[str]
    unpriced: list[UnpricedRecord]
    layout: dict[str, object]
    best: dict[str, object] | None
    changes: list[dict[str, object]]
    remarks: list[str]
    verdict: str


class ImportResult(Answer):
    """A launch command, read and priced beside the best layout of as many GPUs."""

    target = Key[str]("Whose command it is.")
    version = Key[str]("Of the target's software, whose flags were read.")
    model = Key[str]("Name of the model.")
    job = Key[Record]("What the command says.")
    ignored = Key[list[str]]("Flags that are not of the layout.")
    notes = Key[list[str]]("What was taken for granted.")
    unpriced = Key[list[Record]]("Flags that the figures leave out, and what those change.")
    layout = Key[Record]("The command's layout: axes, times [s], memory [bytes].")
    best = Key[Record | None]("The best of as many GPUs.")
    changes = Key[list[Record]]("The best layout with one ``axis`` changed, each.")
    remarks = Key[list[str]]("What to know of the answer.")
    verdict = Key[str]("What to change, in a sentence or two.")

    def __init__(
        self,
        parsed: Parsed,
        compared: Compared | ComparedServing,
        model: str,
        asked: Sequence[str] = (),
    ) -> None:
        self.parsed, self.compared, self._model = parsed, compared, model
        self._asked = tuple(asked)

    def to_dict(self) -> ImportRecord:
        p, found = self.parsed, compared_record(self.compared)
        return {
            "schema": SCHEMA,
            "target": p.target,
            "version": target(p.target).version,
            "model": self._model,
            "job": p.job.to_dict(),
            "ignored": list(p.ignored),
            "notes": command_notes(p),
            "unpriced": unpriced_records(p),
            "layout": found["layout"],
            "best": found["best"],
            "changes": found["changes"],
            "remarks": found["remarks"],
            "verdict": compared_verdict(self.compared),
        }

    def rows(self) -> list[dict[str, object]]:
        """The layout of the command, each single change and the best, as CSV has them."""
        d = compared_record(self.compared)
        rows = [{"axis": "yours", **d["layout"]}, *d["changes"]]
        if d["best"] is not None:
            rows.append({"axis": "best", **d["best"]})
        return [flat_row(row) for row in rows]

    def page(self) -> Page:
        p, job = self.parsed, self.parsed.job
        formats = [f for f in (job.dtype, job.weight_dtype, job.kv_dtype) if f]
        said = ", ".join([format_gpus(job.gpus), job.words, *dict.fromkeys(formats)])
        heading = f"{target(p.target).title} command: {self._model}, {said}"
        # what was assumed comes before the figures that rest on it
        heading = "\n".join([heading, *command_lines(p)])
        parts: list[Table | str] = [comparison_table(self.compared)]
        parts += map(sentence, self.compared.remarks)
        if p.ignored:
            parts.append(wrap("Not of the layout, left aside: " + ", ".join(p.ignored)))
        return Page(heading, tuple(parts), compared_line(self.compared))
