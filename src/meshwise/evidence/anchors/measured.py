"""A file of collectives that somebody measured on a system: a table, or a log of nccl-tests. Its rows
anchor predictions of that system."""

from __future__ import annotations

import statistics
from typing import NamedTuple

from meshwise.clusters.names import exact_device
from meshwise.cost.collectives.collective import busbw_factor, known_operation
from meshwise.errors import InputError, shorten
from meshwise.evidence.found_rows import parse_tables
from meshwise.evidence.readers.collectives.nccl_log import read_log
from meshwise.evidence.tables import MAX_TABLE_BYTES, Row, is_log
from meshwise.files import read_text_file


class MeasuredSize(NamedTuple):
    """One size: bytes as nccl-tests counts them, seconds; ``cells`` is what the file says of the system,
    by the names of a table's columns; ``where`` is the row's id, or its line."""

    where: str
    bytes: float
    time_s: float
    cells: dict[str, str]
    bus_factor: float | None = None  # of a log that does not state its operation


def read_measured(path: str, field: str) -> list[MeasuredSize]:
    """The rows of a file; :class:`InputError` where it is neither a table of collectives nor a log."""
    text = read_text_file(
        path, field, "a table of collectives or a log of nccl-tests", MAX_TABLE_BYTES
    )
    if is_log(text):
        return _of_log(text, path, field)
    tables = parse_tables(text, path, field)
    other = next((table.kind for table in tables if table.kind != "collectives"), None)
    if other is not None:
        raise InputError(
            f"{field}: {shorten(path)} is a table of {other}",
            field=field,
            value=path,
            legal="a table of collectives, or a log of nccl-tests",
        )
    return [_of_row(row) for table in tables for row in table.rows]


def _of_row(row: Row) -> MeasuredSize:
    return MeasuredSize(
        row.text("id", f"line {row.line}"),
        row.number("bytes"),
        row.number("time_us") * 1e-6,
        dict(row.cells),
    )


def _of_log(text: str, path: str, field: str) -> list[MeasuredSize]:
    log = read_log(text, path, field)
    said: dict[str, str] = {"device": log.device or ""}
    if log.ranks is not None:
        said["ranks"] = str(log.ranks)
    if log.hosts is not None:
        said["nodes"] = str(log.hosts)
    told = [r.bus_factor for r in log.rows if r.bus_factor is not None]
    factor = statistics.median(told) if told else None
    return [
        MeasuredSize(
            f"line {r.line}",
            r.bytes,
            r.time_s,
            {**said, "op": r.op or ""},
            None if r.op else factor,
        )
        for r in log.rows
    ]


_SYSTEM = (
    "op",
    "device",
    "ranks",
    "nodes",
    "devices_per_node",
    "intra_node",
    "inter_node",
    "library",
)


def agrees(measured: MeasuredSize, cells: dict[str, str]) -> bool:
    """Whether a measurement is of the system and operation that a row's cells describe, in all that both
    say."""
    for column in _SYSTEM:
        mine, other = measured.cells.get(column, ""), cells.get(column, "")
        if mine and other and _plain(column, mine) != _plain(column, other):
            return False
    # without its name, an operation is told by its bus bandwidth
    ranks = measured.cells.get("ranks") or cells.get("ranks")
    op = known_operation(cells.get("op"))
    if measured.bus_factor is None or not ranks or op is None:
        return True
    return abs(measured.bus_factor / float(busbw_factor(op, int(ranks))) - 1.0) < 0.03


def _plain(column: str, cell: str) -> str:
    """A cell as it is compared: operations and devices by what they are."""
    if column == "op":
        return known_operation(cell) or cell
    if column == "device":
        return exact_device(cell) or cell.lower()
    return cell.strip().lower()


def need(measured: list[MeasuredSize], columns: tuple[str, ...], path: str, field: str) -> None:
    """Refuse a file that does not say of which system it is."""
    for m in measured:
        for column in columns:
            if not m.cells.get(column):
                raise InputError(
                    f"{field}: {shorten(path)}, {m.where}: the file does not say {column}",
                    field=field,
                    value=path,
                    legal=f"a table of collectives with {', '.join(columns)}",
                )
