"""``export``: the launch command of a layout."""

from __future__ import annotations

from typing import TypedDict

from meshwise.answers.records import SCHEMA
from meshwise.answers.records.attributes import Key, Record
from meshwise.answers.records.result import Answer
from meshwise.answers.text.tables import Page
from meshwise.launch.job import Job
from meshwise.launch.write import Exported


class UntranslatedRecord(TypedDict):
    """A field of the job that the target cannot be told."""

    field: str
    reason: str


class ExportRecord(TypedDict):
    """The JSON of ``export``."""

    schema: int
    target: str
    version: str
    wrapper: str | None
    gpus: int
    servers: int
    text: str
    files: dict[str, str]
    untranslated: list[UntranslatedRecord]
    notes: list[str]
    remarks: list[str]
    job: dict[str, object]


class ExportResult(Answer):
    """A launch command; ``str()`` of it is the text to run."""

    target = Key[str]("Whose command it is.")
    version = Key[str]("Of the target's software, that it is written for.")
    wrapper = Key[str | None]("What starts it on several nodes.")
    gpus = Key[int]("GPUs in all.")
    servers = Key[int]("Servers that are started, each on its share of the GPUs.")
    text = Key[str]("The command.")
    files = Key[Record]("Files that it reads, by name.")
    untranslated = Key[list[Record]]("What the target cannot be told: ``field`` and ``reason``.")
    notes = Key[list[str]]("What to know of the command.")

    def __init__(self, exported: Exported, job: Job) -> None:
        self.exported, self.job = exported, job
        self.remarks: list[str] = []  # as what the layout was priced, where it was

    def to_dict(self) -> ExportRecord:
        e = self.exported
        return {
            "schema": SCHEMA,
            "target": e.target,
            "version": e.version,
            "wrapper": e.wrapper,
            "gpus": e.gpus,
            "servers": e.servers,
            "text": e.text,
            "files": e.files,
            "untranslated": [{"field": k, "reason": v} for k, v in e.untranslated.items()],
            "notes": list(e.notes),
            "remarks": list(self.remarks),
            "job": self.job.to_dict(),
        }

    def page(self) -> Page:
        notes = "".join(f"\n# {note}" for note in (*self.exported.notes, *self.remarks))
        return Page(self.exported.text + notes, ())
