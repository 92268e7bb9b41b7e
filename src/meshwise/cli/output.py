"""How answers are written: as which form, where, and on how many columns."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

import click

from meshwise.cli import defaults, terminal, values
from meshwise.cli.given import Given
from meshwise.cli.options import required, stacked
from meshwise.errors import InputError, clean

if TYPE_CHECKING:
    from meshwise.answers.text.tables import Page

Made = TypeVar("Made")

output_options = stacked(
    click.option("--json", "as_json", is_flag=True, help="The documented JSON contract on stdout."),
    click.option("--csv", "as_csv", is_flag=True, help="Rows as CSV on stdout."),
    click.option(
        "--parquet",
        "as_parquet",
        is_flag=True,
        help="Rows as Parquet, into -o FILE ([parquet] extra).",
    ),
    click.option("--brief", is_flag=True, help="The answer in one line."),
    click.option("--detail", is_flag=True, help="Every table."),
    click.option("--wide", is_flag=True, help="All columns, however narrow the terminal."),
    click.option("-o", "--output", "path", type=values.FILE_TYPE, help="Into FILE; - is stdout."),
)


def write(
    o: Given, record: Callable[[], Mapping[str, object]], page: Callable[[], Page], rows: str
) -> None:
    """JSON, CSV or Parquet (of the records under ``rows``), rich on a terminal, else plain text; on
    stdout, or into the file of ``-o``."""
    record, page = _spelt(record), _spelt(page)
    # one form at a time
    asked = [name for name in ("json", "csv", "parquet") if o.flag(f"as_{name}")]
    asked += [name for name in ("brief", "detail") if o.flag(name)]
    path = o.text("path")
    if len(asked) > 1:
        listed = " and ".join(f"--{name}" for name in asked)
        raise InputError(
            f"{listed}: choose one",
            field=f"--{asked[1]}",
            legal=" or ".join(f"--{a}" for a in asked),
        )
    # rows, a record, or a page
    if asked == ["parquet"]:
        from meshwise.files import write_parquet

        write_parquet(required(path, "-o", "rows.parquet"), _flat_rows(record(), rows))
    elif asked == ["json"]:
        import json

        deliver(json.dumps(defaults.with_remarks(record()), allow_nan=False, indent=1), path)
    elif asked == ["csv"]:
        from meshwise.answers.text.tables import csv_text

        deliver(csv_text(_flat_rows(record(), rows)), path)
    else:
        from meshwise.cli import next_step

        context = click.get_current_context()
        further = "" if o.flag("brief") else next_step.after(context, record)
        shown = defaults.page_with_remarks(page())._replace(further=further)
        _show(shown, path, "".join(asked), wide=o.flag("wide"))


def _spelt(made: Callable[[], Made]) -> Callable[[], Made]:
    """What ``made`` makes, the fields that its sentences name as the command writes them."""
    from meshwise.cli import spelling

    return lambda: spelling.command_spelling().whole(made())


def _flat_rows(record: Mapping[str, object], rows: str) -> list[dict[str, object]]:
    """The rows of a record, as tables have them."""
    from meshwise.answers.records.attributes import flat_row

    found = record[rows]
    assert isinstance(found, list)
    return [flat_row(row) for row in found]


def _show(page: Page, path: str | None, much: str, *, wide: bool) -> None:
    """A page: within the terminal's columns where it goes to one, whole elsewhere; ``much`` of it."""
    from meshwise.answers.text import tables

    on_terminal = path in (None, "-") and sys.stdout.isatty()
    width = _columns() if on_terminal and not wide else None
    if path in (None, "-") and terminal.coloured(on_terminal):
        with terminal.colours():
            tables.rich_print(page, width, much)
    else:
        deliver(tables.plain_text(page, width, much), path)


def _columns() -> int:
    """Columns of the terminal: what COLUMNS says, else what it says itself, else 80."""
    said = os.environ.get("COLUMNS", "")
    try:
        own = os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        own = 0
    return (int(said) if said.isascii() and said.isdigit() and len(said) < 6 else 0) or own or 80


def deliver(text: str, path: str | None) -> None:
    """A text and a line end into the file of ``-o``, or on stdout; either way without what would steer
    a terminal. JSON has no such characters: it escapes them."""
    if path in (None, "-"):
        emit(text)
    else:
        from meshwise.files import write_text

        write_text(str(path), clean(text) + "\n")


def emit(text: str) -> None:
    """A text and a line end on stdout, with ``?`` for what its encoding (``LANG=C``) cannot say."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(clean(text).encode(encoding, "replace").decode(encoding) + "\n")
