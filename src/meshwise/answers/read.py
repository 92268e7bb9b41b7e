"""``read``: what stands in files of other tools, as rows of measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshwise.answers.records import SCHEMA
from meshwise.answers.records.attributes import Key, Record, flat_row
from meshwise.answers.records.result import Answer
from meshwise.answers.text.sentences import wrap
from meshwise.answers.text.tables import Page, Table
from meshwise.evidence.readers.complete import NamedFound
from meshwise.evidence.readers.records import FileRow, FileValue
from meshwise.units import format_memory, format_time

_SHOWN = 12  # rows of a file, and lines that it refuses
# what a page shows of rows, in order: what they measured, and how it is written
_MEASURED = (
    *("time_s", "step_s", "tokens_per_s_per_device", "flops_per_s_per_device", "mfu"),
    *("tpot_s", "ttft_s", "total_latency_s", "memory_bytes"),
)
_QUIET = ("id", "links", "file")


class ReadResult(Answer):
    """What was found, file by file: rows of measurements, and lines that cannot be used."""

    files = Key[list[Record]](
        "Per file and kind: ``file``, ``kind``, ``form``, ``rows``, ``refused``."
    )

    def __init__(self, found: Sequence[NamedFound]) -> None:
        self.found = list(found)
        self._names = _short_names([item.file for item in found])

    def to_dict(self) -> dict[str, object]:
        return {
            "schema": SCHEMA,
            "files": [
                {
                    "file": item.file,
                    "kind": item.found.kind,
                    "form": item.found.form,
                    "rows": self._records(item),
                    "refused": [
                        {"line": r.line, "reason": r.reason} for r in sorted(item.found.refused)
                    ],
                    "remarks": list(item.found.remarks),
                }
                for item in self.found
            ],
        }

    def _records(self, item: NamedFound) -> list[dict[str, object]]:
        """Rows as JSON has them: an id of their own, the file and the line, and what they say."""
        name, seen = self._names[item.file], dict[int, int]()
        made = list[dict[str, object]]()
        for row in item.found.rows:
            nth = seen[row.line] = seen.get(row.line, 0) + 1
            own = f"{name}/{row.line}" + (f".{nth}" if nth > 1 else "")
            made.append({"id": own, "file": item.file, "line": row.line, **row.values})
        return made

    def rows(self) -> list[dict[str, object]]:
        """Every row, flat; of one kind they are a table that ``validate`` takes."""
        return [flat_row(record) for item in self.found for record in self._records(item)]

    @property
    def kinds(self) -> list[str]:
        """The kinds of its rows."""
        return list(dict.fromkeys(item.found.kind for item in self.found if item.found.rows))

    def page(self) -> Page:
        parts: list[Table | str] = []
        for item in self.found:
            parts += _file(item)
        rows = sum(len(item.found.rows) for item in self.found)
        bad = sum(len(item.found.refused) for item in self.found)
        several = len({item.file for item in self.found})
        said = f"{rows} {'row' if rows == 1 else 'rows'} of {' and '.join(self.kinds) or 'nothing'}"
        where = f" in {several} files" if several > 1 else ""
        left = f"; {bad} {'line' if bad == 1 else 'lines'} left out" if bad else ""
        return Page(f"{said}{where}{left}", tuple(parts))


def _file(item: NamedFound) -> list[Table | str]:
    """A file's table: what all of its rows have in common is its title's."""
    found, parts = item.found, list[Table | str]()
    rows = list(found.rows)
    if len(rows) == 1:
        return [_alone(item, rows[0]), *_said_of(item)]
    common = _common(rows)
    title = f"{item.file}: {found.form}"
    if common:
        title += ", " + ", ".join(f"{k} {_cell(k, v)}" for k, v in common.items())
    if rows:
        columns = [c for c in dict.fromkeys(k for r in rows for k in r.values) if c not in common]
        columns = [c for c in columns if c not in _QUIET]
        columns.sort(key=lambda c: _MEASURED.index(c) if c in _MEASURED else -1)
        shown = tuple(
            (str(r.line), *(_cell(c, r.values.get(c)) for c in columns)) for r in rows[:_SHOWN]
        )
        keep = tuple(c for c in columns if c in _MEASURED)
        text = frozenset(
            i + 1 for i, c in enumerate(columns) if isinstance(rows[0].values.get(c), str)
        )
        parts.append(Table(title, ("line", *columns), shown, text, keep))
        if len(rows) > _SHOWN:
            parts.append(f"… and {len(rows) - _SHOWN} more rows (all in the JSON and the CSV).")
    else:
        parts.append(title)
    return [*parts, *_said_of(item)]


def _alone(item: NamedFound, row: FileRow) -> Table:
    """A file's one row, a line for each value."""
    values = [(k, _cell(k, v)) for k, v in row.values.items() if k not in ("links", "file", "id")]
    title = f"{item.file}: {item.found.form}, line {row.line}"
    return Table(title, ("value", ""), tuple(values), frozenset({0, 1}))


def _said_of(item: NamedFound) -> list[str]:
    """What is to be said of a file, and the lines that are left out."""
    parts = [wrap(remark + ".") for remark in item.found.remarks]
    bad = sorted(item.found.refused)
    if bad:
        lines = [f"line {r.line}: {r.reason}" if r.line else r.reason for r in bad[:_SHOWN]]
        more = [f"… and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else []
        parts.append("Left out:\n" + "\n".join(map(wrap, [*lines, *more])))
    return parts


def _common(rows: Sequence[FileRow]) -> Mapping[str, FileValue]:
    """What all rows say alike and did not measure."""
    first = rows[0].values if rows else {}
    return {
        k: v
        for k, v in first.items()
        if k not in (*_MEASURED, *_QUIET) and all(r.values.get(k) == v for r in rows)
    }


def _cell(name: str, value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        if name in ("memory_bytes", "kv_cache_bytes", "weights_bytes"):
            return format_memory(float(value))
        if name.endswith("_s") and not name.endswith("per_s"):
            return format_time(float(value))
        if name == "flops_per_s_per_device":
            return f"{value / 1e12:.1f} TFLOP/s"
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return str(value)


def _short_names(files: Sequence[str]) -> dict[str, str]:
    """Files by the last part of their paths; those that share it by the whole path, whose slashes would part
    an id."""
    last = {file: file.replace("\\", "/").rstrip("/").rpartition("/")[2] for file in files}
    return {
        file: name if sum(other == name for other in last.values()) == 1 else file.replace("/", ":")
        for file, name in last.items()
    }
