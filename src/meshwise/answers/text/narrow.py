"""Tables and sentences within the columns of a terminal: no cell is cut.

Columns that a table need not keep go first, the last one first; then the texts of the kept ones are
wrapped at their spaces; and where even those are too many, a row becomes lines of names and values.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING

from meshwise.errors import clean

if TYPE_CHECKING:
    from meshwise.answers.text.tables import Table

_GAP = 2
_NARROWEST = 20  # of a column of wrapped text


def size(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_columns(c) for c in text)


def _columns(c: str) -> int:
    if unicodedata.combining(c) or c in "\u200b\u200c\u200d":
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1


def _pad(cell: str, width: int, left: bool) -> str:
    room = " " * (width - size(cell))
    return cell + room if left else room + cell


def prose(text: str, width: int | None) -> Iterator[str]:
    """The lines of a text; those that are too long go on below, as far in as they began."""
    for line in text.split("\n"):
        if width is None or size(line) <= width:
            yield line
            continue
        indent = line[: len(line) - len(line.lstrip())]
        yield from _wrapped(line.lstrip(), width - len(indent), indent)


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    found = textwrap.wrap(text, max(width, 1), break_long_words=False, break_on_hyphens=False) or [
        ""
    ]
    return [indent + line for line in found]


def table_lines(shown: Table, width: int | None) -> Iterator[tuple[str, str]]:
    """(header or nothing, line) of a table, all of it or what ``width`` has room for."""
    header = _line(shown.header)
    rows = [_line(row) for row in shown.rows]
    widths = [max(size(row[i]) for row in (header, *rows)) for i in range(len(header))]
    chosen = _fitting(widths, _spare(shown), width)
    if width is not None and _total(widths, chosen) > width:
        narrowed = _narrowed(widths, rows, chosen, shown.left, width)
        if narrowed is None:
            yield from (("", line) for row in rows for line in _record(header, row, width))
            return
        widths = narrowed
    for kind, row in (("header", header), *(("", row) for row in rows)):
        yield from ((kind, line) for line in _aligned(row, chosen, widths, shown.left))
    gone = [header[i] for i in range(len(header)) if i not in chosen]
    if gone:
        told = f"{len(gone)} more column{'s' * (len(gone) > 1)} with --wide: {', '.join(gone)}"
        yield from (("", line) for line in prose(told, width))


def _line(row: tuple[str, ...]) -> list[str]:
    """Cells without what would end the line, or reach the terminal as a command."""
    return [" ".join(clean(cell).split("\n")).replace("\t", " ") for cell in row]


def _total(widths: list[int], chosen: list[int]) -> int:
    return sum(widths[i] for i in chosen) + _GAP * (len(chosen) - 1)


def _spare(shown: Table) -> list[int]:
    """The columns that a table need not keep, the first to be shown first."""
    at = {name: i for i, name in reversed(list(enumerate(shown.header)))}
    later = [at[name] for name in shown.then if name in at and name not in shown.keep]
    kept = {0, *(i for i, name in enumerate(shown.header) if name in shown.keep)}
    return [*later, *(i for i in range(len(shown.header)) if i not in kept.union(later))]


def _fitting(widths: list[int], spare: list[int], width: int | None) -> list[int]:
    """The columns that there is room for: the last of the spare ones go until the rest fits, and what
    still finds room comes back."""
    chosen = list(range(len(widths)))
    if width is None:
        return chosen
    for i in reversed(spare):
        if _total(widths, chosen) > width:
            chosen.remove(i)
    for i in spare:
        if i not in chosen and _total(widths, [*chosen, i]) <= width:
            chosen.append(i)
    return sorted(chosen)


def _narrowed(
    widths: list[int], rows: list[list[str]], chosen: list[int], left: frozenset[int], width: int
) -> list[int] | None:
    """Widths with the columns of text wrapped, the widest first; None where that is not enough."""
    least = list(widths)
    for i in chosen:
        if i in left:
            longest = max((size(w) for row in rows for w in row[i].split(" ")), default=0)
            least[i] = min(widths[i], max(longest, _NARROWEST))
    if _total(least, chosen) > width:
        return None
    found = list(widths)
    while _total(found, chosen) > width:
        widest = max((i for i in chosen if found[i] > least[i]), key=lambda i: found[i])
        found[widest] -= 1
    return found


def _aligned(
    row: list[str], chosen: list[int], widths: list[int], left: frozenset[int]
) -> Iterator[str]:
    """A row's line, or its lines where a cell is wrapped."""
    cells = {
        i: [row[i]] if size(row[i]) <= widths[i] else _wrapped(row[i], widths[i]) for i in chosen
    }
    for n in range(max((len(c) for c in cells.values()), default=0)):
        shown = [_pad(c[n] if n < len(c) else "", widths[i], i in left) for i, c in cells.items()]
        yield (" " * _GAP).join(shown).rstrip()


def _record(header: list[str], row: list[str], width: int) -> Iterator[str]:
    """A row as names and values, as many on a line as there is room for."""
    pairs = [f"{name} {cell}".strip() for name, cell in zip(header, row, strict=True)]
    line = pairs[0]
    for pair in pairs[1:]:
        if size(line) + len(f" · {pair} ·") > width:
            yield from _hanging(line + " ·", width)
            line = "  " + pair
        else:
            line += f" · {pair}"
    yield from _hanging(line, width)


def _hanging(line: str, width: int) -> Iterator[str]:
    if size(line) <= width:
        yield line
        return
    indent = line[: len(line) - len(line.lstrip())]
    first, *rest = _wrapped(line.strip(), width - 4)
    yield indent + first
    yield from ("    " + more for more in rest)
