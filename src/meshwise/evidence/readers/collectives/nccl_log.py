"""Reads logs of nccl-tests and rccl-tests, of any version, as they meet a reader: with tags of mpirun or
srun before the lines, other lines between them, several runs after one another, or cut short.

A line of figures is told by its type word and by figures that agree: size over time is the algorithm
bandwidth. Out-of-place figures are read.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from meshwise.cost.collectives.collective import known_operation
from meshwise.errors import InputError, quoted, shorten
from meshwise.evidence.readers.collectives.run import (
    TELLING,
    TYPE_BYTES,
    CollectiveRun,
    Listed,
    SizeFigures,
    rows_of_run,
)
from meshwise.evidence.readers.records import FileFound, RefusedLine
from meshwise.evidence.tables import LOG_COLUMNS

_TYPES = "|".join(sorted(TYPE_BYTES, key=len, reverse=True))
_LINE = re.compile(rf"(?<![\d.])(\d+)\s+(\d+)\s+({_TYPES})\s+(\S.*)")
# a line that ends before its first figure: nothing but a tag, a size, and perhaps a count and a type
_CUT = re.compile(rf"\s*(?:\S*[>:\]]\s*)?\d+(?:\s+\d+(?:\s+(?:{_TYPES}))?)?\s*")
_REDUCTION = re.compile(r"[a-zA-Z]\w*")
_PROGRAM = re.compile(r"\b(\w+_perf)(?:_mpi)?\b")
_STARTS = re.compile(r"Collective test (starting|concluded): (\w+?)(?:_mpi)?\b")
_RANK = re.compile(
    r"\bRank\s+(\d+)\s(?:.*?\bPid\s+(\d+))?.*?\bon\s+(\S+)\s+device\s+(\d+)\s+\[[^\]]*\]\s*(.*)"
)
_RANKS = re.compile(r"\bnranks (\d+)\b")
_VERSION = re.compile(r"\b([NR])CCL version\s*:?\s*(\d+\.\d+(?:\.\d+)?)")
_HEADERS = re.compile(r"\bnccl-library=(\d+)")
_PARAMETERS = re.compile(r"\bnThread \d+ nGpus \d+ ")
_GRAPH = re.compile(r"\bgraph: ([1-9]\d*)")
_HOST_TIME = "cputime"
_HEADS = ("Rank", "_perf", "nThread", "CCL version", "nccl-", "nranks", "algbw")
_ROWS = tuple(f" {name}" for name in TYPE_BYTES)
_EXPECTED = "size, count, type, time, algbw and busbw that agree expected"


class LoggedRow(NamedTuple):
    """A line of figures: bytes as nccl-tests counts them, the out-of-place time [s], the operation that
    the log states above it."""

    line: int
    bytes: float
    time_s: float
    dtype: str
    op: str | None
    bus_factor: float | None  # bus over algorithm bandwidth; None where its digits do not tell


class Log(NamedTuple):
    """What a log says; None and empty where it does not."""

    rows: list[LoggedRow]
    ranks: int | None
    hosts: int | None  # None where not every rank is listed
    device: str | None  # as the catalog has it


class CollectiveLog:
    """A log, line by line: the runs that it holds."""

    def __init__(self) -> None:
        self.runs = [CollectiveRun()]
        self._tabled = False  # columns were headed

    @property
    def marks(self) -> tuple[str, ...]:
        """Words that its lines have."""
        return (*_HEADS, *_ROWS) if self._tabled else _HEADS

    def feed(self, number: int, line: str) -> None:
        """One line of the log."""
        if "Rank" in line and self._rank(number, line):
            return
        if any(word in line for word in _HEADS[1:-1]):
            self._head(line)
        elif "algbw" in line:
            words = set(line.split())
            if words | {"time"} >= LOG_COLUMNS and words & {"time", _HOST_TIME}:
                self._tabled = True
                self._next(same=True)
                self.runs[-1].host_time = _HOST_TIME in words
        if self._tabled:
            self._row(number, line)

    def _next(self, same: bool = False) -> None:
        """The run that a heading line is of: the next one, where this one has figures; ``same``: a table
        alone is headed again, of the same ranks and, where its columns do not contradict, operation."""
        before = self.runs[-1]
        if before.begun:
            self.runs.append(CollectiveRun(library=before.library))
        if before.begun and same:
            run = self.runs[-1]
            run.listed, run.ranks_said, run.graph = before.listed, before.ranks_said, before.graph
            run.programs = [before.stated] if before.stated else list(before.programs)

    def _rank(self, number: int, line: str) -> bool:
        rank = _RANK.search(line)
        if rank is None:
            return False
        if self.runs[-1].begun:
            self._next()
        index = int(rank[1])
        run = self.runs[-1]
        run.listed[index] = Listed(
            int(rank[2] or 0), rank[3], int(rank[4]), rank[5].strip(), number
        )
        return True

    def _head(self, line: str) -> None:
        starts = _STARTS.search(line)
        if starts and starts[1] == "concluded":
            return
        if starts or _PARAMETERS.search(line):
            self._next()
        run = self.runs[-1]
        if starts:
            run.stated = known_operation(starts[2]) or starts[2]
        elif not run.begun:
            run.programs += [p for n in _PROGRAM.findall(line) if (p := known_operation(n))]
        elif _PROGRAM.search(line):
            self._next()
            self._head(line)
            return
        run.graph = run.graph or (_PARAMETERS.search(line) and _GRAPH.search(line)) is not None
        said = _RANKS.search(line)
        if said:
            run.ranks_said = max(int(said[1]), run.ranks_said or 0)
        version, compiled = _VERSION.search(line), _HEADERS.search(line)
        if version:
            run.library = f"{version[1].lower()}ccl-{version[2]}"
        elif compiled and not run.library:
            run.library = f"nccl-{nccl_version(int(compiled[1]))}"

    def _row(self, number: int, line: str) -> None:
        found = _figures(line, number)
        run = self.runs[-1]
        if isinstance(found, SizeFigures):
            run.rows.append(found)
        elif isinstance(found, str):
            run.refused.append(RefusedLine(number, found))
        elif found == 0:
            run.empty += 1

    def found(self) -> FileFound:
        """The rows of all runs."""
        rows, refused, empty = [], [], 0
        for run in self.runs:
            if run.begun or (run.listed and self._tabled):
                good, bad = rows_of_run(run) if run.begun else ([], [])
                rows += good
                refused += bad
                empty += run.empty
        if self._tabled and not rows and not refused:
            refused = [RefusedLine(0, f"ends before its first figures: {_EXPECTED}")]
        remarks = [f"lines of size 0 are left out: {empty}"] if empty else []
        return FileFound("collectives", "nccl-tests", rows, refused, remarks)


def nccl_version(code: int) -> str:
    """2.29.2 of 22902, as NCCL_VERSION_CODE counts from 2.9 on; before, 2.8.4 is 2804."""
    major, rest = (code // 10000, code % 10000) if code >= 10000 else (code // 1000, code % 1000)
    return f"{major}.{rest // 100}.{rest % 100}"


def read_log(text: str, name: str, field: str) -> Log:
    """The figures of a log as those of one system; :class:`InputError` where it has none."""
    log, rows, op = CollectiveLog(), [], None
    for number, line in enumerate(text.splitlines(), start=1):
        log.feed(number, line)
    for run in log.runs:
        if run.shares_a_device():
            raise InputError(
                f"{field}: {shorten(name)}: several ranks ran on one device",
                field=field,
                value=name,
                legal="a log with a device for each rank",
            )
        op = run.stated or next(reversed(run.programs), None) or op
        rows += [LoggedRow(f.line, f.bytes, f.time_s, f.dtype, op, f.bus_factor) for f in run.rows]
    if not rows:
        raise InputError(
            f"{field}: {shorten(name)} has no line of figures of nccl-tests",
            field=field,
            value=name,
            legal="a log of nccl-tests or rccl-tests: size, count, type, time, algbw, busbw",
        )
    system = next(run for run in reversed(log.runs) if run.rows)
    return Log(rows, system.ranks, system.hosts(), system.device())


def _figures(line: str, number: int) -> SizeFigures | str | int | None:
    """A line of figures; in words what is wrong with it; 0 where its size is 0; None where it is none."""
    found = _LINE.search(line)
    if found is None:
        short = line.strip() and _CUT.fullmatch(line)
        return f"{_EXPECTED}, found a line cut short: {quoted(line.strip())}" if short else None
    size, elements, dtype = float(found[1]), float(found[2]), found[3]
    cells = found[4].split()
    if size == 0.0:
        return 0
    reduction = None
    if _REDUCTION.fullmatch(cells[0]) and cells[0].lower() not in ("nan", "inf"):
        reduction, cells = cells[0].lower(), cells[1:]
    # the root stands before the time, from some version on
    for start in (0, 1):
        figures = _consistent(size, cells[start : start + 3])
        if figures is not None:
            time_us, algbw, busbw = figures
            factor = busbw / algbw if algbw >= TELLING else None
            root = int(cells[0]) if start and re.fullmatch(r"-?\d+", cells[0]) else None
            return SizeFigures(
                number, size, elements, dtype, time_us * 1e-6, factor, reduction, root
            )
    return f"{_EXPECTED}, found {quoted(line.strip())}"


def _consistent(size: float, cells: list[str]) -> tuple[float, float, float] | None:
    """The three figures, where they are a time, an algorithm and a bus bandwidth [GB/s]."""
    try:
        time, algbw, busbw = map(float, cells)
    except ValueError:
        return None
    if not (math.isfinite(time) and time > 0.0 and algbw >= 0.0 and busbw >= 0.0):
        return None
    # both are printed with a few digits
    expected = size / time * 1e-3
    fits = abs(algbw - expected) <= 0.0051 + 0.02 * expected
    return (time, algbw, busbw) if fits else None
