"""What ``export`` and ``import`` answer: JSON (schema 1) and pages."""

from __future__ import annotations

from typing import Any

from meshwise.answers import first_line, plan_records, records
from meshwise.answers import plan as plan_page
from meshwise.answers import serving_plan as serving_plan_page
from meshwise.answers.attributes import Key, Record, flat
from meshwise.answers.pages import wrap
from meshwise.answers.text import words
from meshwise.answers.text.result import Answer
from meshwise.answers.text.tables import Page, Table
from meshwise.launch.job import Job
from meshwise.launch.read import Parsed, Unpriced
from meshwise.launch.table import target
from meshwise.launch.write import Exported
from meshwise.search.compare import Compared, ComparedServing
from meshwise.units import format_memory, format_time


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

    def to_dict(self) -> dict[str, Any]:
        e = self.exported
        return {
            "schema": records.SCHEMA,
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

    def __init__(self, parsed: Parsed, compared: Compared | ComparedServing, model: str) -> None:
        self.parsed, self.compared, self._model = parsed, compared, model

    def to_dict(self) -> dict[str, Any]:
        p = self.parsed
        return {
            "schema": records.SCHEMA,
            "target": p.target,
            "version": target(p.target).version,
            "model": self._model,
            "job": p.job.to_dict(),
            "ignored": list(p.ignored),
            **said_dict(p),
            **compared_dict(self.compared),
            "verdict": verdict(self.compared),
        }

    def rows(self) -> list[dict[str, object]]:
        """The layout of the command, each single change and the best, as CSV has them."""
        d = compared_dict(self.compared)
        rows = [{"axis": "yours", **d["layout"]}, *d["changes"]]
        if d["best"] is not None:
            rows.append({"axis": "best", **d["best"]})
        return [flat(row) for row in rows]

    def page(self) -> Page:
        p, job = self.parsed, self.parsed.job
        formats = [f for f in (job.dtype, job.weight_dtype, job.kv_dtype) if f]
        said = ", ".join([words.gpus(job.gpus), job.words, *dict.fromkeys(formats)])
        heading = f"{target(p.target).title} command: {self._model}, {said}"
        # what was assumed comes before the figures that rest on it
        heading = "\n".join([heading, *said_words(p)])
        parts: list[Table | str] = []
        compared = compared_parts(self.compared)
        parts += [part for part in compared if isinstance(part, Table)]
        parts += [wrap(f"{r[0].upper()}{r[1:]}.") for r in self.compared.remarks]
        if p.ignored:
            parts.append(wrap("Not of the layout, left aside: " + ", ".join(p.ignored)))
        answer = first_line.compared(self.compared.mine, verdict(self.compared))
        return Page(heading, tuple(parts), answer)


def said_dict(p: Parsed) -> dict[str, Any]:
    """What was taken for granted of a command, is worth knowing of it, and is not priced."""
    return {
        "notes": [*p.assumed, *p.notes],
        "unpriced": [u._asdict() for u in p.unpriced],
    }


def said_words(p: Parsed) -> list[str]:
    return [*(wrap(note) for note in (*p.assumed, *p.notes)), *unpriced_words(p.unpriced)]


_CHANGES = {
    "memory": "changes memory: memory is an upper bound",
    "memory and time": "changes memory and time: memory is an upper bound",
    "more memory": "takes more memory: memory is a lower bound",
    "more memory and time": "takes more memory and time: memory is a lower bound",
    "room for requests": "changes how many requests fit",
}


def unpriced_words(unpriced: tuple[Unpriced, ...]) -> list[str]:
    """What the figures leave out: where it saves memory, the figure is an upper bound."""
    found: dict[str, list[str]] = {}
    for flag, changes in unpriced:
        found.setdefault(changes, []).append(flag)
    lines = []
    for changes, flags in found.items():
        lines.append(
            wrap(f"Not priced, {_CHANGES.get(changes, f'changes {changes}')}: {', '.join(flags)}")
        )
    return lines


def compared_dict(c: Compared | ComparedServing) -> dict[str, Any]:
    """A layout, the best, and single changes."""
    if isinstance(c, Compared):
        row = plan_records.row_dict
        named = {"decomposed": "overlap"}
        return {
            "layout": row(c.mine),
            "best": row(c.best) if c.best is not None else None,
            "changes": [{"axis": named.get(axis, axis), **row(r)} for axis, r in c.changes],
            "remarks": list(c.remarks),
        }
    serving = serving_plan_page.row_dict
    return {
        "layout": serving(c.mine),
        "best": serving(c.best) if c.best is not None else None,
        "changes": [{"axis": axis, **serving(r)} for axis, r in c.changes],
        "remarks": list(c.remarks),
    }


def compared_parts(c: Compared | ComparedServing) -> tuple[Table | str, ...]:
    """The table of a layout and its rivals, the verdict, and what was remarked."""
    return (*_compared(c), *(wrap(f"{r[0].upper()}{r[1:]}.") for r in c.remarks))


def _compared(c: Compared | ComparedServing) -> tuple[Table | str, ...]:
    if isinstance(c, Compared):
        rows = [("yours", c.mine), *((f"{_named(axis)}", r) for axis, r in c.changes)]
        if c.best is not None:
            rows.append(("best", c.best))
        body = tuple(
            (
                name,
                plan_page.mesh_words(r.found.layout),
                format_time(r.step_s),
                words.percent(r.mfu),
                words.percent(r.exposed_comm_s / r.step_s),
                format_memory(r.memory_bytes),
                "yes" if r.fits else "NO",
            )
            for name, r in rows
        )
        header = ("change", "layout", "step", "MFU", "comm", "memory", "fits")
        return Table("", header, body, frozenset({0, 1}), (*header[:3], "fits")), wrap(verdict(c))
    served = [("yours", c.mine), *c.changes]
    if c.best is not None:
        served.append(("best", c.best))
    lines = tuple(
        (
            name,
            serving_plan_page.mesh_words(r.layout),
            format_time(r.tpot_s),
            format_time(r.ttft_s),
            f"{r.tokens_per_s_per_device:,.1f}",
            format_memory(r.memory_bytes),
            "yes" if r.fits else "NO",
        )
        for name, r in served
    )
    header = ("change", "layout", "TPOT", "TTFT", "tokens/s/GPU", "memory", "fits")
    return Table("", header, lines, frozenset({0, 1}), (*header[:3], "fits")), wrap(verdict(c))


def _named(axis: str) -> str:
    return {"decomposed": "overlap", "sequence_parallel": "sequence parallelism"}.get(axis, axis)


def verdict(c: Compared | ComparedServing) -> str:
    """What to change, in a sentence or two."""
    said = [] if c.mine.fits else ["This layout does not fit in the GPUs' memory."]
    if isinstance(c, Compared):
        if c.best is None:
            return " ".join([*said, "No layout of as many GPUs fits."])
        same = c.best.found.layout == c.mine.found.layout
        loss = c.mine.step_s / c.best.step_s - 1.0
        best, tie = plan_page.mesh_words(c.best.found.layout), c.mine.tie
        first = c.changes[0] if c.changes else None
        gain = 1.0 - first[1].step_s / c.mine.step_s if first else 0.0
        unit = "step"
        change = plan_page.mesh_words(first[1].found.layout) if first else ""
    else:
        if c.best is None:
            return " ".join([*said, "No layout of as many GPUs serves this load."])
        same = c.best.layout == c.mine.layout
        loss = 1.0 - c.mine.tokens_per_s_per_device / c.best.tokens_per_s_per_device
        best, tie = serving_plan_page.mesh_words(c.best.layout), abs(loss) < 0.03
        first_s = c.changes[0] if c.changes else None
        mine = c.mine.tokens_per_s_per_device
        gain = first_s[1].tokens_per_s_per_device / mine - 1.0 if first_s else 0.0
        unit = "tokens"
        change = serving_plan_page.mesh_words(first_s[1].layout) if first_s else ""
    if same:
        said.append("It is the best layout of these GPUs.")
        return " ".join(said)
    if c.mine.fits:
        word = " (a tie)" if tie else ""
        share = words.percent(max(loss, 0.0))
        how = f"takes {share} longer than" if unit == "step" else f"serves {share} less than"
        said.append(f"It {how} the best, {best}{word}.")
    else:
        said.append(f"The best that does: {best}.")
    if change and c.changes:
        axis = _named(c.changes[0][0])
        more = "saves" if unit == "step" else "brings"
        brings = f"{more} {words.percent(gain)}" if c.mine.fits and gain > 0 else "makes it fit"
        said.append(f"Of single changes {axis} {brings}: {change}.")
    return " ".join(said)
