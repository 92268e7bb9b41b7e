"""Tables of measurements: training steps, serving runs, collectives. A row is a measurement.

Which table it is, the header tells. Unknown columns are kept; a row that cannot be read is reported
with its line, its column and what is legal, and the others still run.
"""

from __future__ import annotations

import csv
import io
import math
from typing import NamedTuple

from meshwise.errors import InputError, closest, quoted, shorten, slips
from meshwise.files import read_text_file
from meshwise.stacks.stack import STATED

MAX_TABLE_BYTES = 64 << 20

# Columns that tell a table's kind, and those that each of its rows must fill.
TABLE_KINDS: dict[str, tuple[frozenset[str], tuple[str, ...]]] = {
    "training": (
        frozenset({"model", "device", "devices", "global_batch", "seq"}),
        ("id", "model", "device", "devices", "global_batch", "seq"),
    ),
    "layers": (
        frozenset({"model", "device", "devices", "micro_batch", "seq", "forward_ms"}),
        ("id", "model", "device", "devices", "micro_batch", "seq"),
    ),
    "serving": (
        frozenset({"model", "device", "devices", "isl", "osl"}),
        ("id", "model", "device", "devices", "isl", "osl"),
    ),
    "collectives": (
        frozenset({"op", "device", "ranks", "bytes"}),
        ("id", "op", "device", "ranks", "bytes", "time_us"),
    ),
}
# What each kind measures: column → (quantity, factor to SI).
MEASURED: dict[str, dict[str, tuple[str, float]]] = {
    "training": {
        "step_s": ("step_s", 1.0),
        "tokens_per_s_per_device": ("tokens_per_s_per_device", 1.0),
        "tflops_per_device": ("flops_per_s_per_device", 1e12),
        "mfu": ("mfu", 1.0),
        "memory_gib": ("memory_bytes", 2.0**30),
    },
    "layers": {
        "forward_ms": ("forward_s", 1e-3),
        "backward_ms": ("backward_s", 1e-3),
        "backward_input_ms": ("backward_input_s", 1e-3),
        "backward_weight_ms": ("backward_weight_s", 1e-3),
        "combined_ms": ("combined_s", 1e-3),
    },
    "serving": {
        "tpot_ms": ("tpot_s", 1e-3),
        "ttft_ms": ("ttft_s", 1e-3),
        "tokens_per_s_per_device": ("tokens_per_s_per_device", 1.0),
        "total_latency_ms": ("total_latency_s", 1e-3),
    },
    "collectives": {"time_us": ("time_s", 1e-6)},
}


# What is measured under its name in JSON, in SI units, as a column of its own → (the column, its factor).
SI_COLUMNS: dict[str, tuple[str, float]] = {
    quantity: (column, factor)
    for columns in MEASURED.values()
    for column, (quantity, factor) in columns.items()
    if quantity != column
}

_DEGREES = ("tp", "pp", "vp", "dp", "cp", "ep", "etp")
_HARDWARE = ("device", "devices", "devices_per_node", "intra_node", "pcie_host")
_RUN = (
    "model",
    "micro_batch",
    "seq",
    "dtype",
    "sequence_parallel",
    "recompute",
    "attention",
    "stack",
)
_SWITCHES = ("schedule", "overlap", "grad_overlap", "offload", *STATED)
# What is read of each kind beside what it measures, and what is for people.
_READ: dict[str, tuple[str, ...]] = {
    "training": (
        *(*_DEGREES, *_HARDWARE, *_RUN, *_SWITCHES, "inter_node", "inter_node_gbytes_per_s"),
        *("nodes", "shard", "global_batch", "grad_dtype", "flops_convention", "memory_of", "fits"),
    ),
    "layers": ("tp", "cp", "ep", *_HARDWARE, *_RUN, *_SWITCHES, "layers"),
    "serving": (
        *("tp", "pp", "dp", "ep", "etp", *_HARDWARE, "nodes", "model", "engine", "engine_version"),
        *("dtype", "moe_dtype", "kv_dtype", "isl", "osl", "length_spread", "concurrency", "fits"),
    ),
    "collectives": (
        *("op", "device", "devices_per_node", "intra_node", "inter_node", "nodes", "ranks"),
        "pcie_host",
        *("bytes", "library", "launch"),
    ),
}
_FOR_PEOPLE = ("id", "source", "note", "file", "line", "steps_measured")


def _misspelt(kind: str, header: tuple[str, ...]) -> list[InputError]:
    """Columns that are a slip away from one that is read and that the header has not: as they stand
    nobody reads them, and what they say would be assumed."""
    known = {*_READ[kind], *MEASURED[kind]}
    found = []
    for column in header:
        if column in known or column in _FOR_PEOPLE:
            continue
        near = [k for k in known - set(header) if slips(column.lower(), k) <= 1.5]
        if near:
            row = Row(1, {column: column})
            error = row.wrong(column, f"is not read; nearest: {near[0]}", near[0])
            error.nearest = near[0]
            found.append(error)
    return found


def unread_columns(table: MeasuredTable) -> list[str]:
    """Columns that hold something and that no prediction reads."""
    if table.kind not in _READ:
        return []
    read = {*_READ[table.kind], *MEASURED[table.kind], *_FOR_PEOPLE}
    return [c for c in table.columns if c not in read and any(r.cells.get(c) for r in table.rows)]


def nearest_column(table: MeasuredTable, column: str) -> str | None:
    """The column that is read and that an unread one may have been meant as; None where none is near."""
    others = {*_READ[table.kind], *MEASURED[table.kind]} - set(table.columns)
    return next(iter(closest(column, sorted(others))), None)


_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class Row(NamedTuple):
    """A row as it stands: its line in the file (header = 1) and its cells, stripped."""

    line: int
    cells: dict[str, str]

    def text(self, column: str, default: str = "") -> str:
        return self.cells.get(column, "") or default

    def number(
        self,
        column: str,
        default: float | None = None,
        *,
        low: float = 0.0,
        high: float = math.inf,
    ) -> float:
        """A finite number above ``low`` and at most ``high``; ``default`` where the cell is empty (None: it
        must not be)."""
        cell = self.cells.get(column, "")
        if not cell and default is not None:
            return default
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not low < value < math.inf or value > high:
            most = "" if high == math.inf else f", at most {high:g}"
            raise self.wrong(
                column,
                f"{quoted(cell)} is not a finite number above {low:g}{most}",
                f"a number above {low:g}{most}",
            )
        return value

    def count(self, column: str, default: int | None = None) -> int:
        """A whole number of at least 1."""
        value = self.number(column, None if default is None else float(default))
        if value != int(value) or value < 1:
            raise self.wrong(
                column,
                f"{quoted(self.cells.get(column, ''))} is not a whole number",
                "a whole number from 1",
            )
        return int(value)

    def flag(self, column: str) -> bool:
        cell = self.cells.get(column, "").lower()
        if cell not in ("", *_YES, *_NO):
            raise self.wrong(column, f"{quoted(cell)} is not true or false", "true, false or empty")
        return cell in _YES

    def one_of(self, column: str, legal: tuple[str, ...]) -> str:
        """One of the ``legal`` words, in any case; empty where the row does not say."""
        cell = self.cells.get(column, "").lower()
        if cell and cell not in legal:
            raise self.wrong(column, f"{quoted(cell)} is not known", legal)
        return cell

    def wrong(self, column: str, why: str, legal: object) -> InputError:
        return InputError(
            f"line {self.line}, column {column}: {why}",
            field=f"line {self.line}: {column}",
            value=self.cells.get(column, ""),
            legal=legal,
        )


class Assumed(NamedTuple):
    """What a row does not say, and the value that was taken."""

    field: str
    value: str


class MeasuredTable(NamedTuple):
    kind: str
    name: str
    columns: tuple[str, ...]
    rows: list[Row]
    bad: list[InputError]  # rows that are no rows at all


def read_table(path: str, field: str = "table") -> MeasuredTable:
    """Read a CSV table; :class:`InputError` where the file or its header is none of ours."""
    text = read_text_file(path, field, "a CSV table", MAX_TABLE_BYTES)
    return parse_table(text, path, field)


def parse_table(text: str, name: str, field: str = "table") -> MeasuredTable:
    """As :func:`read_table`, from text."""
    _refuse_log(text, name, field)
    # cells of the lines that hold any
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if any(c.strip() for c in cells)]
    except csv.Error as error:
        raise InputError(
            f"{field}: {shorten(name)}, line {reader.line_num}: not CSV: {error}",
            field=field,
            value=name,
            legal="comma-separated UTF-8 with a header line",
        ) from None
    # the header says of what kind the table is
    written = tuple(c.strip() for c in lines[0][1]) if lines else ()
    header = tuple(SI_COLUMNS[c][0] if c in SI_COLUMNS else c for c in written)
    kind = _kind(header, name, field)
    # rows; those with too few or too many cells are refused by themselves
    rows, bad = [], _misspelt(kind, header)
    names: dict[str, int] = {}
    for line, cells in lines[1:]:
        stripped = (c.strip() for c in cells)
        own = (_in_units(*pair) for pair in zip(written, stripped, strict=False))
        row = Row(line, dict(zip(header, own, strict=False)))
        if len(cells) != len(header):
            bad.append(
                row.wrong(
                    "(all)", f"{len(cells)} cells for {len(header)} columns", f"{len(header)} cells"
                )
            )
        elif (first := names.setdefault(row.text("id", f"line {line}"), line)) != line:
            why = f"{quoted(row.text('id'))} is the id of line {first} too"
            bad.append(row.wrong("id", why, "an id of its own for each row"))
        else:
            rows.append(row)
    if not rows and not bad:
        raise InputError(
            f"{field}: {shorten(name)} has a header and no rows",
            field=field,
            value=name,
            legal="one measurement per line below the header",
        )
    return MeasuredTable(kind, name, header, rows, bad)


def _in_units(column: str, cell: str) -> str:
    """A cell in the unit of the table's own column; one that is no number as it stands."""
    if column not in SI_COLUMNS or not cell:
        return cell
    try:
        return repr(float(cell) / SI_COLUMNS[column][1])
    except ValueError:
        return cell


# What heads the columns of a log of nccl-tests or rccl-tests, of any version.
LOG_COLUMNS = {"size", "count", "type", "time", "algbw", "busbw"}


def is_log(text: str) -> bool:
    """Whether a text is a log of nccl-tests rather than a table, by the headings of its columns."""
    return any(set(line.split()) >= LOG_COLUMNS for line in text.splitlines())


def _refuse_log(text: str, name: str, field: str) -> None:
    """A log of nccl-tests is told from a table by its header; it says neither the device nor, in most
    versions, the operation, so its rows have to be written as those of a table."""
    if is_log(text):
        needed = ", ".join(TABLE_KINDS["collectives"][1])
        raise InputError(
            f"{field}: {shorten(name)} is a log of nccl-tests (collectives), no CSV table",
            field=field,
            value=name,
            legal=f"a CSV table with the columns {needed}: bytes is the log's size, time_us its "
            "out-of-place time; or the log itself, to anchor a table (anchor) or a collective (measured)",
        )


def _kind(header: tuple[str, ...], name: str, field: str) -> str:
    repeated = sorted({c for c in header if header.count(c) > 1})
    if repeated:
        raise InputError(
            f"{field}: {shorten(name)}: column {quoted(repeated[0])} appears twice",
            field=field,
            value=repeated[0],
            legal="each column once",
        )
    for kind, (telling, needed) in TABLE_KINDS.items():
        if telling <= set(header):
            for column in needed:
                if column not in header:
                    raise _missing(field, name, kind, column, header)
            if not any(c in header for c in MEASURED[kind]):
                raise _missing(field, name, kind, " or ".join(MEASURED[kind]), header)
            return kind
    best = max(TABLE_KINDS, key=lambda k: len(TABLE_KINDS[k][0] & set(header)))
    lacking = sorted(TABLE_KINDS[best][0] - set(header))
    raise _missing(field, name, best, lacking[0], header)


def _missing(field: str, name: str, kind: str, column: str, header: tuple[str, ...]) -> InputError:
    near = closest(column, header)
    return InputError(
        f"{field}: {shorten(name)} is no table of measurements; a {kind} table needs the column {column}",
        field=field,
        value=", ".join(header[:8]),
        legal="; ".join(f"{k}: {', '.join(TABLE_KINDS[k][1])} …" for k in TABLE_KINDS),
        nearest=f"{near[0]} → {column}" if near else None,
    )
