"""What a checkpoint's files hold, on the page of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshwise.answers.text.tables import Table
from meshwise.units import format_count, format_memory

if TYPE_CHECKING:
    from meshwise.models.checkpoint_contents import CheckpointContents

_WORDS = {
    "feed_forward": "feed-forward",
    "shared_experts": "shared experts",
    "norms": "norms",
    "other": "not recognised",
    "mtp": "multi-token prediction",
    "tied_copies": "copy of a tied table",
}


def _word(name: str) -> str:
    return _WORDS.get(name, name.replace("_", " "))


def _memory(size: float | None) -> str:
    return "not known" if size is None else format_memory(size)


def _count(number: int | None) -> str:
    return "not known" if number is None else format_count(number)


def _files(found: CheckpointContents) -> str:
    return f"{found.files} file{'s' if found.files != 1 else ''}"


def checkpoint_words(found: CheckpointContents) -> str:
    """Whether the files are as derived, in a few words."""
    files = _files(found)
    size = f"{format_memory(found.total_bytes)} in " if found.total_bytes is not None else ""
    if not found.differences:
        return f"checkpoint: {size}{files}, as derived"
    n = len(found.differences)
    return f"checkpoint: {size}{files}, {n} difference{'s' if n != 1 else ''}"


def checkpoint_tables(found: CheckpointContents) -> tuple[Table | str, ...]:
    """Weights and bytes by part of the model, derived and in the files; what differs; what is apart."""
    parts: list[Table | str] = []
    if found.groups:
        header = ("modules", "derived", "in the files", "derived bytes", "bytes in the files")
        rows = [
            (
                _word(g.group),
                f"{g.parameters:,}",
                f"{g.checkpoint_parameters:,}",
                _memory(g.bytes),
                _memory(g.checkpoint_bytes),
            )
            for g in found.groups
        ]
        known = [g.bytes for g in found.groups if g.bytes is not None]
        size = _memory(sum(known)) if len(known) == len(found.groups) else "not known"
        wanted = sum(g.parameters for g in found.groups)
        rows.append(("all", f"{wanted:,}", f"{found.parameters:,}", size, _memory(found.bytes)))
        title = f"Checkpoint ({_files(found)}, {found.tensors:,} tensors)"
        parts.append(Table(title, header, tuple(rows), keep=header[1:3]))
    else:
        total = "" if found.total_bytes is None else f", {format_memory(found.total_bytes)} in all"
        parts.append(
            f"Checkpoint: an index alone ({found.tensors:,} tensors in {_files(found)}{total}): "
            "names are compared, shapes and bytes by part are not known."
        )
    if found.differences:
        differing = ("what", "module", "derived", "in the files")
        lines = tuple(
            (d.kind, d.where, d.derived or "-", d.checkpoint or "-") for d in found.differences
        )
        parts.append(Table("Differences", differing, lines, frozenset(range(4)), differing[1:]))
    if found.apart:
        apart = ("beside the language model", "tensors", "derived", "in the files", "bytes")
        parts.append(
            Table(
                "",
                apart,
                tuple(
                    (
                        _word(a.what),
                        f"{a.tensors:,}",
                        _count(a.derived_parameters),
                        _count(a.parameters),
                        _memory(a.bytes),
                    )
                    for a in found.apart
                ),
            )
        )
    return tuple(parts)
