"""A launch command's layout beside the best of as many GPUs: what ``import`` answers, and
``plan --compare`` with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

from meshwise.answers.advice import axis_words, compared_verdict, gain_words, is_best
from meshwise.answers.records.layout import serving_row, training_row
from meshwise.answers.text import words
from meshwise.answers.text.evidence import fits_words
from meshwise.answers.text.sentences import sentence, wrap
from meshwise.answers.text.serving import serving_mesh_words
from meshwise.answers.text.tables import Page, Table
from meshwise.answers.text.training import training_mesh_words
from meshwise.axes import spoken
from meshwise.launch.account.launch_warning import LaunchWarning
from meshwise.launch.account.sources import flags_by_kind, sources, sources_line
from meshwise.launch.read import Parsed, Unpriced
from meshwise.launch.table import target
from meshwise.search.compare import Compared, ComparedServing, holds_requests
from meshwise.search.gains import Gain
from meshwise.search.serving.plan import ServingRow
from meshwise.search.training.rows import PlanRow
from meshwise.units import format_memory, format_time
from meshwise.workloads.workload import Training


class ReadCommand(NamedTuple):
    """A launch command as it was read, and its price beside a plan's best."""

    parsed: Parsed
    priced: Compared | ComparedServing


class UnpricedRecord(TypedDict):
    """A flag that the figures leave out, and what it changes."""

    flag: str
    changes: str


class ComparedRecord(TypedDict):
    """A layout, the best of as many GPUs, and the best with one axis changed, each: seconds, bytes, and
    what each brings with the interval of the difference."""

    layout: dict[str, object]
    yours: dict[str, object]
    load: dict[str, object]
    runs: bool
    requests_at_once: int | None
    best: dict[str, object] | None
    changes: list[dict[str, object]]
    remarks: list[str]


def compared_record(c: Compared | ComparedServing) -> ComparedRecord:
    """A layout, the best, and single changes."""
    if isinstance(c, Compared):
        mine = training_row(c.mine)
        best = training_row(c.best) if c.best is not None else None
        changes = [{"axis": spoken(axis), **training_row(r)} for axis, r in c.changes]
    else:
        mine = serving_row(c.mine)
        best = serving_row(c.best) if c.best is not None else None
        changes = [{"axis": axis, **serving_row(r)} for axis, r in c.changes]
    for change, gain in zip(changes, c.gains, strict=True):
        change |= _gain_keys(gain, c.runs)
    if best is not None and c.best_gain is not None:
        best |= _gain_keys(c.best_gain, c.runs)
    return {
        "layout": mine,
        "yours": mine,
        "load": _load_record(c),
        "runs": c.runs,
        "requests_at_once": None if isinstance(c, Compared) else c.at_once,
        "best": best,
        "changes": changes,
        "remarks": list(c.remarks),
    }


def _gain_keys(gain: Gain, runs: bool) -> dict[str, object]:
    """What a change brings. Where yours does not run at all, whatever runs is advised."""
    return {
        "gain": gain.share,
        "gain_low": gain.low,
        "gain_high": gain.high,
        "tie": gain.tie and runs,
        "advised": gain.advised or not runs,
    }


def _load_record(c: Compared | ComparedServing) -> dict[str, object]:
    w = c.load
    if w is None:
        return {}
    if isinstance(w, Training):
        return {"phase": "train", "global_batch": w.batch, "seq": w.seq}
    return {"phase": "serve", "isl": w.isl, "osl": w.osl, "concurrency": w.concurrency}


def command_record(
    p: Parsed, c: Compared | ComparedServing, asked: Sequence[str] = ()
) -> dict[str, object]:
    """A command as it was read, and its price: what ``import`` answers, and ``plan --compare`` with it."""
    chosen = target(p.target)
    found = compared_record(c)
    return {
        "commands": p.commands,
        "target": p.target,
        "version": chosen.version,
        "from": sources(p, asked),
        "asked": list(asked),
        "flags": flags_by_kind(p),
        "ignored": list(p.ignored),
        "notes": command_notes(p),
        "unpriced": unpriced_records(p),
        "warnings": [w.to_dict() for w in all_warnings(p, c)],
        **found,
        "verdict": compared_verdict(c),
    }


def all_warnings(p: Parsed, c: Compared | ComparedServing) -> tuple[LaunchWarning, ...]:
    """What the target says of the command, and that it runs out of memory."""
    if not c.misfit:
        return p.warnings
    return (*p.warnings, LaunchWarning("fails", "out_of_memory", c.misfit, ("memory_bytes",)))


def read_command_record(command: ReadCommand) -> dict[str, object]:
    """A command that a plan is held against, as the plan's JSON has it."""
    return command_record(command.parsed, command.priced)


def command_notes(p: Parsed) -> list[str]:
    """What was taken for granted of a command, and is worth knowing of it."""
    return [*p.assumed, *p.notes]


def unpriced_records(p: Parsed) -> list[UnpricedRecord]:
    """Flags of a command that are not priced."""
    return [{"flag": flag, "changes": changes} for flag, changes in p.unpriced]


def with_command(page: Page, command: ReadCommand) -> Page:
    """A plan's page, with the command that it is held against."""
    told: tuple[Table | str, ...] = (
        *command_lines(command.parsed, command.priced),
        comparison_table(command.priced),
        wrap(compared_verdict(command.priced)),
        *map(sentence, command.priced.remarks),
        *source_lines(command.parsed),
    )
    answer = f"{page.answer}; yours: {compared_verdict(command.priced)}"
    return page._replace(parts=(*page.parts, "Beside your command:", *told), answer=answer)


def command_lines(p: Parsed, c: Compared | ComparedServing) -> list[str]:
    """The same in lines of a page."""
    warned = [wrap(w.words) for w in all_warnings(p, c)]
    return [*warned, *map(wrap, command_notes(p)), *_unpriced_lines(p.unpriced)]


def source_lines(p: Parsed) -> list[str]:
    """What the values came from, and what is of no matter to them."""
    read = sources_line(sources(p, ()))
    lines = [wrap(f"{read[:1].upper()}{read[1:]}")] if read else []
    return lines + (
        [wrap("Not of the layout, left aside: " + ", ".join(p.ignored))] if p.ignored else []
    )


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
    """A layout, what single changes make of it, and the best; what each brings, with its interval."""
    known = [*c.gains, *([c.best_gain] if c.best_gain is not None else [])]
    gains = ["", *(gain_words(g) if c.runs else "" for g in known)]
    body: list[tuple[str, ...]] = []
    if isinstance(c, Compared):
        header = ("change", "layout", "saves", "step", "MFU", "comm", "memory", "fits")
        trained = [("yours", c.mine), *((axis_words(axis), r) for axis, r in c.changes)]
        trained += [("best", c.best)] if c.best is not None and not is_best(c) else []
        for (name, row), gain in zip(trained, gains, strict=False):
            first, *rest = _training_cells(row)
            body.append((name, first, gain, *rest))
    else:
        header = ("change", "layout", "brings", "TPOT", "TTFT", "tokens/s/GPU", "memory", "fits")
        served = [("yours", c.mine), *((axis_words(axis), r) for axis, r in c.changes)]
        served += [("best", c.best)] if c.best is not None and not is_best(c) else []
        for (name, own), gain in zip(served, gains, strict=False):
            first, *rest = _serving_cells(own)
            body.append((name, first, gain, *rest))
    return Table("", header, tuple(body), frozenset({0, 1}), (*header[:4], "fits"))


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
        _held(r),
    )


def _held(r: ServingRow) -> str:
    """Whether it fits; where it holds some of the requests in flight at a time, how many."""
    if r.fits or not holds_requests(r):
        return fits_words(r.fits, r.tight)
    return f"{r.max_concurrency:,} at once"
