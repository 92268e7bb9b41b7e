"""What to change of a launch command, in a sentence or two: only what is better beyond the interval of
the difference is advised."""

from __future__ import annotations

from meshwise.answers.text import words
from meshwise.answers.text.serving import serving_mesh_words
from meshwise.answers.text.training import training_mesh_words
from meshwise.search.compare import (
    ENGINE_OPTIONS,
    OPTIONS,
    Compared,
    ComparedServing,
    holds_requests,
)
from meshwise.search.gains import Gain
from meshwise.search.serving.plan import ServingRow
from meshwise.search.training.rows import PlanRow
from meshwise.units import format_memory


def axis_words(axis: str) -> str:
    return _SPOKEN.get(axis, axis)


_SPOKEN = {
    "decomposed": "overlap",
    "sequence_parallel": "sequence parallelism",
    ENGINE_OPTIONS: "engine options",
    "offload_optimizer": "optimizer on the GPUs",
    "offload_layers": "activations on the GPUs",
}


def compared_verdict(c: Compared | ComparedServing) -> str:
    """What to change, in a sentence or two."""
    return " ".join([*_of_memory(c), *_against_best(c), *_single_change(c), *_without_options(c)])


def _mesh(row: PlanRow | ServingRow) -> str:
    if isinstance(row, PlanRow):
        return training_mesh_words(row.found.layout)
    return serving_mesh_words(row.layout)


def _layout(row: PlanRow | ServingRow) -> object:
    return row.found.layout if isinstance(row, PlanRow) else row.layout


def is_best(c: Compared | ComparedServing) -> bool:
    """Whether the command's layout is the best itself."""
    return c.best is not None and _layout(c.best) == _layout(c.mine)


def _of_memory(c: Compared | ComparedServing) -> list[str]:
    """Whether it runs at all, and how many of the requests in flight do at a time."""
    if not c.runs:
        needs = f" ({format_memory(c.mine.memory_bytes)} a GPU)"
        return [f"This layout does not fit in the GPUs' memory{needs}."]
    if isinstance(c, Compared) or c.at_once >= c.mine.concurrency:
        return []
    few = f"{c.at_once:,} of the {c.mine.concurrency:,} requests in flight"
    return [f"The memory holds {few} at once: the others wait, and that is priced."]


def _against_best(c: Compared | ComparedServing) -> list[str]:
    best, trains = c.best, isinstance(c, Compared)
    if best is None:
        return [f"No layout of as many GPUs {'fits' if trains else 'serves this load'}."]
    if is_best(c):
        return ["It is the best layout of these GPUs."]
    if not c.runs:
        return [f"The best that does: {_mesh(best)}."]
    assert c.best_gain is not None
    loss, share = _loss(c.mine, best), words.percent(abs(_loss(c.mine, best)))
    word = " (a tie)" if c.best_gain.tie else ""
    if loss < 0.0:  # averages ranked it behind
        how = f"takes {share} less time than" if trains else f"serves {share} more than"
        return [f"It {how} what the plan ranks first, {_mesh(best)}{word}."]
    how = f"takes {share} longer than" if trains else f"serves {share} less than"
    return [f"It {how} the best, {_mesh(best)}{word}."]


def _loss(mine: PlanRow | ServingRow, best: PlanRow | ServingRow) -> float:
    """Of a layout against the best, as a share of what the best has."""
    if isinstance(mine, PlanRow) and isinstance(best, PlanRow):
        return mine.step_s / best.step_s - 1.0
    assert isinstance(mine, ServingRow) and isinstance(best, ServingRow)
    return 1.0 - mine.tokens_per_s_per_device / best.tokens_per_s_per_device


def _pairs(c: Compared | ComparedServing) -> list[tuple[str, PlanRow | ServingRow, Gain]]:
    """Single changes, each with what it brings."""
    found: list[tuple[str, PlanRow | ServingRow, Gain]] = []
    if isinstance(c, Compared):
        found += [(axis, r, g) for (axis, r), g in zip(c.changes, c.gains, strict=True)]
    else:
        found += [(axis, r, g) for (axis, r), g in zip(c.changes, c.gains, strict=True)]
    return found


def _single_change(c: Compared | ComparedServing) -> list[str]:
    """The single change that brings the most, if it is better than nothing beyond its own interval."""
    pairs = [p for p in _pairs(c) if p[0] not in OPTIONS]
    if not pairs or c.best is None or is_best(c):
        return []
    trains = isinstance(c, Compared)
    if not c.runs:
        axis, row, _ = pairs[0]
        return [f"Of single changes {axis_words(axis)} makes it fit: {_mesh(row)}."]
    axis, row, gain = next((p for p in pairs if p[2].advised), pairs[0])
    if not gain.advised:
        return [
            f"No single change {_of_layout(c)}is better beyond its own interval: {axis_words(axis)} "
            f"({_mesh(row)}) is a tie."
        ]
    more = "saves" if trains else "brings"
    return [f"Of single changes {axis_words(axis)} {more} {gain_words(gain)}: {_mesh(row)}."]


def _of_layout(c: Compared | ComparedServing) -> str:
    """That the layout is meant, where a change of something else is told beside it."""
    return "of the layout " if _without_options(c) else ""


def gain_words(gain: Gain) -> str:
    """``12% (5 to 19)``, or that it is a tie."""
    ends = f"({100 * gain.low:.0f} to {100 * gain.high:.0f})"
    return f"tie {ends}" if gain.tie else f"{words.percent(gain.share)} {ends}"


def _without_options(c: Compared | ComparedServing) -> list[str]:
    """What the command's own engine options cost its layout, or what it keeps on the host, where that is
    more than a tie."""
    if isinstance(c, Compared):
        return _without_offload(c)
    found = zip(c.changes, c.gains, strict=True)
    row, gain = next(((r, g) for (axis, r), g in found if axis == ENGINE_OPTIONS), (None, None))
    if row is None or gain is None:
        return []
    without = f"Without the command's engine options ({', '.join(c.limits)}) it"
    if not c.runs:
        return [f"{without} fits."] if holds_requests(row) else []
    return [f"{without} serves {words.percent(gain.share)} more."] if gain.advised else []


_HELD = {
    "offload_optimizer": "The optimizer is offloaded to the host: with it on the GPUs",
    "offload_layers": "Activations are offloaded to the host: with them on the GPUs",
}


def _without_offload(c: Compared) -> list[str]:
    """What it costs to keep on the host what the GPUs' memory holds."""
    found = []
    for (axis, row), gain in zip(c.changes, c.gains, strict=True):
        if axis not in OPTIONS or not row.fits:
            continue
        lead = _HELD[axis]
        if not c.runs:
            found.append(f"{lead} it fits.")
        elif gain.advised:
            fits = "fits, tight" if row.tight else "fits"
            found.append(f"{lead} a step takes {gain_words(gain)} less time, and {fits}.")
    return found
