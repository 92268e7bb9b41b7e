"""Tables and notes as neutral data; plain text, rich, CSV and HTML renderings of them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from meshwise.errors import clean


class Table(NamedTuple):
    """A table: header row, rows of text, which columns are text (left-aligned), and the names of those
    that a narrow terminal keeps beside the first one. Of the others the last go first, those named in
    ``then`` after all others."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: frozenset[int] = frozenset({0})
    keep: tuple[str, ...] = ()
    then: tuple[str, ...] = ()


class Page(NamedTuple):
    """What a command shows: heading, tables, charts as lines of text, closing sentences."""

    heading: str
    parts: tuple[Table | str, ...]


def lines(page: Page, width: int | None = None) -> Iterator[tuple[str, str]]:
    """(what it is, text) of every line: heading, title, header or nothing in particular. With a
    ``width`` no line is longer, but for words that are, and no cell is cut."""
    from meshwise.answers.text import narrow

    if page.heading:
        yield from (("heading", line) for line in narrow.prose(clean(page.heading), width))
    for part in page.parts:
        yield "", ""
        if isinstance(part, str):
            yield from (("", line) for line in narrow.prose(clean(part), width))
            continue
        if part.title:
            yield from (("title", line) for line in narrow.prose(clean(part.title), width))
        yield from narrow.table(part, width)


def plain(page: Page, width: int | None = None) -> str:
    """Aligned text without colour, for pipes and files; as it is, or within ``width`` columns."""
    return "\n".join(text for _, text in lines(page, width))


_STYLES = {"heading": "bold", "title": "bold cyan", "header": "bold"}


def rich_print(page: Page, width: int | None) -> None:
    """The same on a terminal, with rich. All of it is text: what looks like markup stays as it is."""
    import sys

    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    encoding = sys.stdout.encoding or "utf-8"
    for kind, line in lines(page, width):
        shown = line.encode(encoding, "replace").decode(encoding)
        console.print(Text(shown, style=_STYLES.get(kind, "")), soft_wrap=True)


def csv_text(records: Sequence[dict[str, object]]) -> str:
    """Records with the same keys as CSV, header first; lists as space-separated values."""
    import csv

    buffer = io.StringIO()
    names: list[str] = list(dict.fromkeys(k for r in records for k in r))
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow(
            {
                k: " ".join(map(str, v)) if isinstance(v, (list, tuple)) else "" if v is None else v
                for k, v in record.items()
            }
        )
    return buffer.getvalue().rstrip("\n")


def html(page: Page) -> str:
    """The page as an HTML fragment (notebooks); everything is escaped."""
    from html import escape

    out = [f"<div class='meshwise'><p><b>{escape(clean(page.heading))}</b></p>"]
    for part in page.parts:
        if isinstance(part, str):
            out.append(f"<pre style='line-height:1.2'>{escape(clean(part))}</pre>")
            continue
        out.append(f"<table><caption>{escape(clean(part.title))}</caption><thead><tr>")
        out += [f"<th scope='col'>{escape(clean(h))}</th>" for h in part.header]
        out.append("</tr></thead><tbody>")
        for row in part.rows:
            cells = "".join(
                f"<td style='text-align:{'left' if i in part.left else 'right'}'>{escape(clean(c))}</td>"
                for i, c in enumerate(row)
            )
            out.append(f"<tr>{cells}</tr>")
        out.append("</tbody></table>")
    out.append("</div>")
    return "".join(out)
