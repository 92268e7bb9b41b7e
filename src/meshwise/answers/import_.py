"""``import``: a launch command, read and priced beside the best layout of as many GPUs."""

from __future__ import annotations

from collections.abc import Sequence

from meshwise.answers.compared import (
    command_lines,
    command_record,
    compared_line,
    compared_record,
    comparison_table,
    source_lines,
)
from meshwise.answers.records import SCHEMA
from meshwise.answers.records.attributes import Key, Record, flat_row
from meshwise.answers.records.result import Answer
from meshwise.answers.text.sentences import sentence
from meshwise.answers.text.tables import Page, Table
from meshwise.launch.read import Parsed
from meshwise.launch.table import target
from meshwise.search.compare import Compared, ComparedServing
from meshwise.units import format_gpus


class ImportResult(Answer):
    """A launch command, read and priced beside the best layout of as many GPUs."""

    model = Key[str]("Name of the model.")
    job = Key[Record]("What the command says.")
    commands = Key[int]("Launches that the text has.")
    target = Key[str]("Whose command it is.")
    version = Key[str]("Of the target's software, whose flags were read.")
    # a keyword of Python, so that it can only be read by ``getattr``
    locals()["from"] = Key[Record]("What each value came from: source, file, line and word.")
    asked = Key[list[str]]("What the caller gave beside the text.")
    flags = Key[Record]("The words of the command by what they mean to the answer.")
    ignored = Key[list[str]]("Flags that are not of the layout.")
    notes = Key[list[str]]("What was taken for granted.")
    unpriced = Key[list[Record]]("Flags that the figures leave out, and what those change.")
    warnings = Key[list[Record]]("What the target says of the layout when it starts, or too late.")
    layout = Key[Record]("The command's layout: axes, times [s], memory [bytes].")
    yours = Key[Record]("The same.")
    load = Key[Record]("What it is priced at.")
    runs = Key[bool]("Whether the memory holds it: a step, or a request of each replica.")
    requests_at_once = Key[int | None]("Serving: requests in flight that the memory holds.")
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

    def to_dict(self) -> dict[str, object]:
        return {
            "schema": SCHEMA,
            "model": self._model,
            "job": self.parsed.job.to_dict(),
            **command_record(self.parsed, self.compared, self._asked),
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
        held = ["optimizer on the host"] * bool(job.offload_optimizer)
        held += ["activations on the host"] * bool(job.offload_layers)
        said = ", ".join([format_gpus(job.gpus), job.words, *dict.fromkeys(formats), *held])
        heading = f"{target(p.target).title} command: {self._model}, {said}"
        # what was assumed comes before the figures that rest on it
        heading = "\n".join([heading, *command_lines(p, self.compared)])
        parts: list[Table | str] = [comparison_table(self.compared)]
        parts += map(sentence, self.compared.remarks)
        parts += source_lines(p)
        return Page(heading, tuple(parts), compared_line(self.compared))
