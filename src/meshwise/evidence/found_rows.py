"""Rows of measurements that ``read`` found, as tables: its JSON, one table for each kind of its rows."""

from __future__ import annotations

import json

from meshwise.errors import InputError, shorten
from meshwise.evidence.tables import (
    MAX_TABLE_BYTES,
    SI_COLUMNS,
    TABLE_KINDS,
    MeasuredTable,
    Row,
    parse_table,
)
from meshwise.files import read_text_file

_WHAT = "a CSV table, or the JSON of `meshwise read`"


def read_tables(path: str, field: str = "table") -> list[MeasuredTable]:
    """The tables of a file: one of CSV, or one for each kind of rows of the JSON that ``read`` prints.

    :raises InputError: where it is neither.
    """
    text = read_text_file(path, field, _WHAT, MAX_TABLE_BYTES)
    return parse_tables(text, path, field)


def parse_tables(text: str, name: str, field: str = "table") -> list[MeasuredTable]:
    """As :func:`read_tables`, from text."""
    if not text.lstrip().startswith("{"):
        return [parse_table(text, name, field)]
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise _no_rows(name, field, f"not whole JSON: {error}") from None
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, list) or content.get("schema") != 1:
        raise _no_rows(name, field, "schema 1 and files expected")
    rows: dict[str, list[Row]] = {}
    for file in files:
        if not isinstance(file, dict) or not isinstance(file.get("rows"), list):
            raise _no_rows(name, field, "rows of each of its files expected")
        if file.get("kind") in TABLE_KINDS:
            rows.setdefault(file["kind"], []).extend(_row(r, name, field) for r in file["rows"])
    found = [_table(kind, name, kept) for kind, kept in rows.items() if kept]
    if not found:
        raise _no_rows(name, field, f"rows of {', '.join(TABLE_KINDS)} expected")
    return found


def _row(content: object, name: str, field: str) -> Row:
    """A row with a table's columns, what it measured in their units."""
    if not isinstance(content, dict):
        raise _no_rows(name, field, "an object for each row expected")
    cells: dict[str, str] = {}
    for key, value in content.items():
        if key in SI_COLUMNS and isinstance(value, (int, float)) and not isinstance(value, bool):
            column, factor = SI_COLUMNS[key]
            cells[column] = repr(value / factor)
        else:
            cells[key] = _cell(value)
    line = content.get("line")
    return Row(line if isinstance(line, int) else 0, cells)


def _cell(value: object) -> str:
    """A value as a cell; nothing for what is no word and no number."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    return str(value).strip() if isinstance(value, (str, int)) else ""


def _table(kind: str, name: str, rows: list[Row]) -> MeasuredTable:
    columns = tuple(dict.fromkeys(c for row in rows for c in row.cells))
    return MeasuredTable(kind, name, columns, rows, [])


def _no_rows(name: str, field: str, why: str) -> InputError:
    return InputError(
        f"{field}: {shorten(name)}: {why}",
        field=field,
        value=name,
        legal=_WHAT,
    )
