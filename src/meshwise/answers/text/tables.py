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
    """What a command shows: the answer in one line, what was asked, the smallest tables that carry the
    answer with what is to be said of it, and the command that goes one step further."""

    heading: str
    parts: tuple[Table | str, ...]
    answer: str = ""
    detail: tuple[Table | str, ...] = ()  # tables and charts that ``--detail`` adds
    further: str = ""


BRIEF, DETAIL = "brief", "detail"  # how much of a page is shown; "" is what carries the answer


def page_lines(page: Page, width: int | None = None, much: str = "") -> Iterator[tuple[str, str]]:
    """(what it is, text) of every line: answer, heading, title, header or nothing in particular. With
    a ``width`` no line is longer, but for words that are, and no cell is cut."""
    from meshwise.answers.text import narrow

    if page.answer:
        yield from (("answer", line) for line in narrow.prose(clean(page.answer), width))
        if much == BRIEF:
            return
        yield "", ""
    if page.heading:
        yield from (("heading", line) for line in narrow.prose(clean(page.heading), width))
    for part in shown_parts(page, much):
        yield "", ""
        if isinstance(part, str):
            yield from (("", line) for line in narrow.prose(clean(part), width))
            continue
        if part.title:
            yield from (("title", line) for line in narrow.prose(clean(part.title), width))
        yield from narrow.table_lines(part, width)


def shown_parts(page: Page, much: str = "") -> tuple[Table | str, ...]:
    """The parts of a page, with its detail or a word on where it is."""
    closing = (page.further,) if page.further else ()
    if much == DETAIL or not page.detail:
        return (*page.parts, *page.detail, *closing)
    titles = [part.title for part in page.detail if isinstance(part, Table) and part.title]
    more = f"More with --detail: {'; '.join(_name(title) for title in titles)}." if titles else ""
    return (*page.parts, *((more,) if more else ()), *closing)


def _name(title: str) -> str:
    """A table's title as part of a sentence, without what it explains."""
    words = title.partition(" (")[0].partition(":")[0].partition(";")[0]
    return words[:1].lower() + words[1:]


def plain_text(page: Page, width: int | None = None, much: str = "") -> str:
    """Aligned text without colour, for pipes and files; as it is, or within ``width`` columns."""
    return "\n".join(text for _, text in page_lines(page, width, much))


_STYLES = {"answer": "bold green", "heading": "bold", "title": "bold cyan", "header": "bold"}


def rich_print(page: Page, width: int | None, much: str = "") -> None:
    """The same on a terminal, with rich. All of it is text: what looks like markup stays as it is."""
    import sys

    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    encoding = sys.stdout.encoding or "utf-8"
    for kind, line in page_lines(page, width, much):
        said = line.encode(encoding, "replace").decode(encoding)
        console.print(Text(said, style=_STYLES.get(kind, "")), soft_wrap=True)


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


def html_text(page: Page) -> str:
    """The page as an HTML fragment (notebooks); everything is escaped."""
    from html import escape

    out = ["<div class='meshwise'>"]
    if page.answer:
        out.append(f"<p><b>{escape(clean(page.answer))}</b></p>")
    out.append(f"<p><b>{escape(clean(page.heading))}</b></p>")
    for part in (*page.parts, *page.detail):
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
