"""Tables and notes as neutral data; plain text, rich, CSV and HTML renderings of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """A table: header row, rows of text, and which columns are text (left-aligned)."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: frozenset[int] = frozenset({0})


class Page(NamedTuple):
    """What a command shows: heading, tables, charts as lines of text, closing sentences."""

    heading: str
    parts: tuple[Table | str, ...]


def plain(page: Page) -> str:
    """Aligned text without colour, for pipes and files."""
    out = [page.heading] if page.heading else []
    for part in page.parts:
        out.append("")
        if isinstance(part, str):
            out.append(part)
            continue
        if part.title:
            out.append(part.title)
        widths = [
            max(len(row[i]) for row in (part.header, *part.rows)) for i in range(len(part.header))
        ]
        for row in (part.header, *part.rows):
            cells = [
                cell.ljust(w) if i in part.left else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ]
            out.append("  ".join(cells).rstrip())
    return "\n".join(out)


def rich_print(page: Page) -> None:
    """The same on a terminal, with rich. Cells are never cut: a table that is wider than the terminal
    runs on, and the terminal wraps it."""
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(highlight=False)
    wide = max((len(line) for line in plain(page).splitlines()), default=0) + 2
    if page.heading:
        console.print(Text(page.heading, style="bold"))
    for part in page.parts:
        console.print()
        if isinstance(part, str):
            console.print(Text(part), soft_wrap=True)
            continue
        if part.title:
            console.print(Text(part.title, style="bold cyan"), soft_wrap=True)
        table = RichTable(box=None, header_style="bold", padding=(0, 2, 0, 0))
        for i, name in enumerate(part.header):
            table.add_column(name, justify="left" if i in part.left else "right", no_wrap=True)
        for row in part.rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table, width=max(console.width, wide), crop=False, soft_wrap=True)


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

    out = [f"<div class='meshwise'><p><b>{escape(page.heading)}</b></p>"]
    for part in page.parts:
        if isinstance(part, str):
            out.append(f"<pre style='line-height:1.2'>{escape(part)}</pre>")
            continue
        out.append(f"<table><caption>{escape(part.title)}</caption><thead><tr>")
        out += [f"<th scope='col'>{escape(h)}</th>" for h in part.header]
        out.append("</tr></thead><tbody>")
        for row in part.rows:
            cells = "".join(
                f"<td style='text-align:{'left' if i in part.left else 'right'}'>{escape(c)}</td>"
                for i, c in enumerate(row)
            )
            out.append(f"<tr>{cells}</tr>")
        out.append("</tbody></table>")
    out.append("</div>")
    return "".join(out)
