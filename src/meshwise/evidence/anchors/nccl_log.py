"""Reads logs of nccl-tests and rccl-tests, of any version, as they meet a reader: with tags of mpirun or
srun before the lines, other lines between them, or cut short.

A line of figures is told by its type word and by figures that agree: size over time is the algorithm
bandwidth. Out-of-place figures are read.
"""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

from meshwise.clusters.names import exact_device
from meshwise.cost.collectives.collective import known_operation
from meshwise.errors import InputError, shorten

_TYPES = (
    "int8|uint8|char|int32|uint32|int64|uint64|half|float|double|bfloat16|f8e4m3|f8e5m2|"
    "fp8_e4m3|fp8_e5m2|float16|float32|float64"
)
_LINE = re.compile(rf"(?<![\d.])(\d+)\s+(\d+)\s+({_TYPES})\s+(\S.*)")
_REDUCTION = re.compile(r"[a-zA-Z]\w*")
_PROGRAM = re.compile(r"\b(\w+_perf)(?:_mpi)?\b")
_RANK = re.compile(
    r"\bRank\s+(\d+)\s(?:.*?\bPid\s+(\d+))?.*?\bon\s+(\S+)\s+device\s+(\d+)\s+\[[^\]]*\]\s*(.*)"
)
# One launcher starts the ranks of a host at once, with process ids near each other. Of one host's name and
# device number with ids far apart there are two hosts, whose names somebody shortened or replaced.
_STARTED_TOGETHER = 1000
_TELLING = 1.0  # GB/s from which on two decimals tell a factor to a percent
_MAKERS = re.compile(r"^(?:nvidia|amd|instinct|geforce|tesla|quadro)\s+", re.IGNORECASE)


class LoggedRow(NamedTuple):
    """A line of figures: bytes as nccl-tests counts them, the out-of-place time [s], the operation that
    the log states above it."""

    line: int
    bytes: float
    time_s: float
    dtype: str
    op: str | None
    bus_factor: float | None  # bus over algorithm bandwidth; None where its digits do not tell


class Listed(NamedTuple):
    """Where a rank ran, as a log lists it."""

    process: int
    host: str
    device: int


class Log(NamedTuple):
    """What a log says; None and empty where it does not."""

    rows: list[LoggedRow]
    ranks: int | None
    hosts: int | None  # None where not every rank is listed
    device: str | None  # as the catalog has it


def read_log(text: str, name: str, field: str) -> Log:
    """The figures of a log; :class:`InputError` where it has none."""
    rows: list[LoggedRow] = []
    listed: dict[int, Listed] = {}
    devices: set[str] = set()
    op: str | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        rank = _RANK.search(line)
        if rank:
            listed[int(rank[1])] = Listed(int(rank[2] or 0), rank[3], int(rank[4]))
            devices.add(rank[5].strip())
            continue
        program = _PROGRAM.search(line)
        if program:
            op = known_operation(program[1]) or op
        row = _figures(line, number, op)
        if row is not None:
            rows.append(row)
    if not rows:
        raise InputError(
            f"{field}: {shorten(name)} has no line of figures of nccl-tests",
            field=field,
            value=name,
            legal="a log of nccl-tests or rccl-tests: size, count, type, time, algbw, busbw",
        )
    ranks = max(listed) + 1 if listed else None
    whole = ranks is not None and len(listed) == ranks
    alike = _by_device(list(listed.values()))
    # two ranks on one device are no system that anybody runs
    if any(_together(processes) for processes in alike.values()):
        raise InputError(
            f"{field}: {shorten(name)}: several ranks ran on one device",
            field=field,
            value=name,
            legal="a log with a device for each rank",
        )
    hosts = _hosts(alike) if whole else None
    return Log(rows, ranks, hosts, _device(devices))


def _by_device(listed: list[Listed]) -> dict[tuple[str, int], list[int]]:
    """(host's name, device's number) → the processes that ran there, in order."""
    found: dict[tuple[str, int], list[int]] = {}
    for rank in sorted(listed):
        found.setdefault((rank.host, rank.device), []).append(rank.process)
    return found


def _together(processes: list[int]) -> bool:
    return any(b - a < _STARTED_TOGETHER for a, b in itertools.pairwise(processes))


def _hosts(alike: dict[tuple[str, int], list[int]]) -> int:
    """How many hosts there are: as many of a name as its devices' numbers come back."""
    of_name: dict[str, int] = {}
    for (host, _), processes in alike.items():
        of_name[host] = max(of_name.get(host, 0), len(processes))
    return sum(of_name.values())


def _device(names: set[str]) -> str | None:
    """The device that all ranks ran on, as the catalog has it."""
    known = {_known(name) for name in names if name}
    return known.pop() if len(known) == 1 else None


def _known(name: str) -> str | None:
    while True:
        found = exact_device(name)
        bare = _MAKERS.sub("", name)
        if found is not None or bare == name:
            return found
        name = bare


def _figures(line: str, number: int, op: str | None) -> LoggedRow | None:
    found = _LINE.search(line)
    if found is None:
        return None
    size = float(found[1])
    cells = found[4].split()
    if _REDUCTION.fullmatch(cells[0]) and not cells[0].upper().startswith("N/A"):
        cells = cells[1:]
    # the root stands before the time, from some version on
    for start in (0, 1):
        figures = _consistent(size, cells[start : start + 3])
        if figures is not None:
            time_us, algbw, busbw = figures
            factor = busbw / algbw if algbw >= _TELLING else None
            return LoggedRow(number, size, time_us * 1e-6, found[3], op, factor)
    return None


def _consistent(size: float, cells: list[str]) -> tuple[float, float, float] | None:
    """The three figures, where they are a time, an algorithm and a bus bandwidth [GB/s]."""
    try:
        time, algbw, busbw = map(float, cells)
    except ValueError:
        return None
    if size <= 0.0 or time <= 0.0 or algbw < 0.0 or busbw < 0.0:
        return None
    # both are printed with a few digits
    expected = size / time * 1e-3
    fits = abs(algbw - expected) <= 0.0051 + 0.02 * expected
    return (time, algbw, busbw) if fits else None
