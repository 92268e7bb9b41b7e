"""A launch command's layout beside the best of as many GPUs: what ``import`` answers, and
``plan --compare`` with it."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

from meshwise.answers.records.layout import serving_row, training_row
from meshwise.answers.text import words
from meshwise.answers.text.evidence import fits_words
from meshwise.answers.text.sentences import sentence, wrap
from meshwise.answers.text.serving import serving_mesh_words
from meshwise.answers.text.tables import Page, Table
from meshwise.answers.text.training import training_mesh_words
from meshwise.axes import spoken
from meshwise.launch.read import Parsed, Unpriced
from meshwise.search.compare import ENGINE_OPTIONS, Compared, ComparedServing
from meshwise.search.serving.plan import ServingRow
from meshwise.search.training.rows import PlanRow
from meshwise.units import format_memory, format_time


class ReadCommand(NamedTuple):
    """A launch command as it was read, and its price beside a plan's best."""

    parsed: Parsed
    priced: Compared | ComparedServing


class UnpricedRecord(TypedDict):
    """A flag that the figures leave out, and what it changes."""

    flag: str
    changes: str


class ComparedRecord(TypedDict):
    """A layout, the best of as many GPUs, and the best with one axis changed, each: seconds, bytes."""

    layout: dict[str, object]
    best: dict[str, object] | None
    changes: list[dict[str, object]]
    remarks: list[str]


def compared_record(c: Compared | ComparedServing) -> ComparedRecord:
    """A layout, the best, and single changes."""
    if isinstance(c, Compared):
        return {
            "layout": training_row(c.mine),
            "best": training_row(c.best) if c.best is not None else None,
            "changes": [{"axis": spoken(axis), **training_row(r)} for axis, r in c.changes],
            "remarks": list(c.remarks),
        }
    return {
        "layout": serving_row(c.mine),
        "best": serving_row(c.best) if c.best is not None else None,
        "changes": [{"axis": axis, **serving_row(r)} for axis, r in c.changes],
        "remarks": list(c.remarks),
    }


def read_command_record(command: ReadCommand) -> dict[str, object]:
    """A command that a plan is held against, as the plan's JSON has it."""
    return {
        "notes": command_notes(command.parsed),
        "unpriced": unpriced_records(command.parsed),
        **compared_record(command.priced),
        "verdict": compared_verdict(command.priced),
    }


def command_notes(p: Parsed) -> list[str]:
    """What was taken for granted of a command, and is worth knowing of it."""
    return [*p.assumed, *p.notes]


def unpriced_records(p: Parsed) -> list[UnpricedRecord]:
    """Flags of a command that are not priced."""
    return [{"flag": flag, "changes": changes} for flag, changes in p.unpriced]


def with_command(page: Page, command: ReadCommand) -> Page:
    """A plan's page, with the command that it is held against."""
    told: tuple[Table | str, ...] = (
        *command_lines(command.parsed),
        comparison_table(command.priced),
        wrap(compared_verdict(command.priced)),
        *map(sentence, command.priced.remarks),
    )
    answer = f"{page.answer}; yours: {compared_verdict(command.priced)}"
    return page._replace(parts=(*page.parts, "Beside your command:", *told), answer=answer)


def command_lines(p: Parsed) -> list[str]:
    """The same in lines of a page."""
    return [*map(wrap, command_notes(p)), *_unpriced_lines(p.unpriced)]


_CHANGES = {
    "memory": "changes memory: memory is an upper bound",
    "memory and time": "changes memory and time: memory is an upper bound",
    "more memory": "takes more memory: memory is a lower bound",
    "more memory and time": "takes more memory and time: memory is a lower bound",
    "room for requests": "changes how many requests fit",
}


def _unpriced_lines(unpriced: tuple[Unpriced, ...]) -> list[str]:
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


def compared_line(c: Compared | ComparedServing) -> str:
    """The layout's time and throughput, and what to change."""
    mine = c.mine
    if isinstance(mine, PlanRow):
        time = words.time_words(mine.step_s, mine.step_low_s, mine.step_high_s, "step")
    else:
        time = words.pace_words(mine.tpot_s, mine.tpot_low_s, mine.tpot_high_s)
    said = [time, f"{words.rate_words(mine.tokens_per_s_per_device)} tokens/s per GPU"]
    return words.first_line(
        [*said, "fits" + ", tight" * mine.tight if mine.fits else "", compared_verdict(c)]
    )


def comparison_table(c: Compared | ComparedServing) -> Table:
    """A layout, what single changes make of it, and the best."""
    if isinstance(c, Compared):
        header = ("change", "layout", "step", "MFU", "comm", "memory", "fits")
        trained = [("yours", c.mine), *((_axis_words(axis), r) for axis, r in c.changes)]
        if c.best is not None:
            trained.append(("best", c.best))
        body = tuple((name, *_training_cells(r)) for name, r in trained)
        return Table("", header, body, frozenset({0, 1}), (*header[:3], "fits"))
    header = ("change", "layout", "TPOT", "TTFT", "tokens/s/GPU", "memory", "fits")
    served = [("yours", c.mine), *((_axis_words(axis), r) for axis, r in c.changes)]
    if c.best is not None:
        served.append(("best", c.best))
    body = tuple((name, *_serving_cells(r)) for name, r in served)
    return Table("", header, body, frozenset({0, 1}), (*header[:3], "fits"))


def _training_cells(r: PlanRow) -> tuple[str, ...]:
    return (
        training_mesh_words(r.found.layout),
        format_time(r.step_s),
        words.percent(r.mfu),
        words.percent(r.exposed_comm_s / r.step_s),
        format_memory(r.memory_bytes),
        fits_words(r.fits, r.tight),
    )


def _serving_cells(r: ServingRow) -> tuple[str, ...]:
    return (
        serving_mesh_words(r.layout),
        words.pace(r.tpot_s),
        format_time(r.ttft_s),
        f"{r.tokens_per_s_per_device:,.1f}",
        format_memory(r.memory_bytes),
        fits_words(r.fits, r.tight),
    )


def _axis_words(axis: str) -> str:
    return _SPOKEN.get(axis, axis)


_SPOKEN = {
    "decomposed": "overlap",
    "sequence_parallel": "sequence parallelism",
    ENGINE_OPTIONS: "engine options",
}
_TIE = 0.03  # of the throughput


class _Change(NamedTuple):
    """What the best, and the best single change, would bring."""

    same: bool  # the layout is the best
    loss: float  # of the layout against the best, as a share
    tie: bool
    best: str
    axis: str | None = None
    gain: float = 0.0
    layout: str = ""


def compared_verdict(c: Compared | ComparedServing) -> str:
    """What to change, in a sentence or two."""
    said = [] if c.mine.fits else ["This layout does not fit in the GPUs' memory."]
    trains = isinstance(c, Compared)
    change = _training_change(c) if isinstance(c, Compared) else _serving_change(c)
    if change is None:
        runs = "fits" if trains else "serves this load"
        return " ".join([*said, f"No layout of as many GPUs {runs}.", *_without_options(c)])
    if change.same:
        options = _without_options(c)
        if c.mine.fits and options:
            return f"It is the best layout of these GPUs; {options[0][0].lower()}{options[0][1:]}"
        return " ".join([*said, "It is the best layout of these GPUs.", *options])
    if c.mine.fits:
        word = " (a tie)" if change.tie else ""
        share = words.percent(abs(change.loss))
        if change.loss < 0.0:  # averages ranked it behind
            how = f"takes {share} less time than" if trains else f"serves {share} more than"
            said.append(f"It {how} what the plan ranks first, {change.best}{word}.")
        else:
            how = f"takes {share} longer than" if trains else f"serves {share} less than"
            said.append(f"It {how} the best, {change.best}{word}.")
    else:
        said.append(f"The best that does: {change.best}.")
    if change.axis is not None:
        more = "saves" if trains else "brings"
        gains = c.mine.fits and change.gain > 0
        brings = f"{more} {words.percent(change.gain)}" if gains else "makes it fit"
        said.append(f"Of single changes {_axis_words(change.axis)} {brings}: {change.layout}.")
    return " ".join([*said, *_without_options(c)])


def _without_options(c: Compared | ComparedServing) -> list[str]:
    """What the command's own engine options cost its layout, where that is more than a tie."""
    row = None if isinstance(c, Compared) else dict(c.changes).get(ENGINE_OPTIONS)
    if isinstance(c, Compared) or row is None:
        return []
    without = f"Without the command's engine options ({', '.join(c.limits)}) it"
    if not c.mine.fits:
        return [f"{without} fits."]
    gain = row.tokens_per_s_per_device / c.mine.tokens_per_s_per_device - 1.0
    return [f"{without} serves {words.percent(gain)} more."] if gain >= _TIE else []


def _training_change(c: Compared) -> _Change | None:
    """None where nothing fits."""
    mine, best = c.mine, c.best
    if best is None:
        return None
    found = _Change(
        same=best.found.layout == mine.found.layout,
        loss=mine.step_s / best.step_s - 1.0,
        tie=mine.tie,
        best=training_mesh_words(best.found.layout),
    )
    if not c.changes:
        return found
    axis, row = c.changes[0]
    gain = 1.0 - row.step_s / mine.step_s
    return found._replace(axis=axis, gain=gain, layout=training_mesh_words(row.found.layout))


def _serving_change(c: ComparedServing) -> _Change | None:
    """None where nothing serves the load."""
    mine, best = c.mine, c.best
    if best is None:
        return None
    loss = 1.0 - mine.tokens_per_s_per_device / best.tokens_per_s_per_device
    found = _Change(
        same=best.layout == mine.layout,
        loss=loss,
        tie=abs(loss) < _TIE,
        best=serving_mesh_words(best.layout),
    )
    axes = [change for change in c.changes if change[0] != ENGINE_OPTIONS]
    if not axes:
        return found
    axis, row = axes[0]
    gain = row.tokens_per_s_per_device / mine.tokens_per_s_per_device - 1.0
    return found._replace(axis=axis, gain=gain, layout=serving_mesh_words(row.layout))
