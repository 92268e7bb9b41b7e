"""One run of nccl-tests: where its ranks ran, which operation it measured, and its figures as rows."""

from __future__ import annotations

import itertools
import re
import statistics
from dataclasses import dataclass, field
from typing import NamedTuple

from meshwise.clusters.names import exact_device
from meshwise.cost.collectives.algorithms import ROOTED
from meshwise.cost.collectives.collective import busbw_factor, known_operation
from meshwise.errors import list_in_words
from meshwise.evidence.readers.records import FileRow, FileValue, RefusedLine, without_empty

# One launcher starts the ranks of a host at once, with process ids near each other. Of one host's name and
# device number with ids far apart there are two hosts, whose names somebody shortened or replaced.
_STARTED_TOGETHER = 1000
TELLING = 1.0  # GB/s from which on two decimals tell a factor to a percent
_AGREES = 0.03  # how far a bus bandwidth's factor may be from that of its operation
_MAKERS = re.compile(r"^(?:nvidia|amd|instinct|geforce|tesla|quadro)\s+", re.IGNORECASE)
TYPE_BYTES = {
    **dict.fromkeys(("int8", "uint8", "char", "f8e4m3", "f8e5m2", "fp8_e4m3", "fp8_e5m2"), 1),
    **dict.fromkeys(("half", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "uint32", "float", "float32"), 4),
    **dict.fromkeys(("int64", "uint64", "double", "float64"), 8),
}


class Listed(NamedTuple):
    """Where a rank ran, as a run lists it; ``line`` says so."""

    process: int
    host: str
    device: int
    name: str
    line: int


class SizeFigures(NamedTuple):
    """A size: bytes and elements as nccl-tests counts them, the out-of-place time [s]; ``reduction`` and
    ``root`` None where the columns are not there."""

    line: int
    bytes: float
    elements: float
    dtype: str
    time_s: float
    bus_factor: float | None  # bus over algorithm bandwidth; None where its digits do not tell
    reduction: str | None
    root: int | None

    @property
    def parts(self) -> float:
        """How many times the counted elements the buffer has: the ranks, where a rank counts its part."""
        return self.bytes / (self.elements * TYPE_BYTES[self.dtype]) if self.elements else 0.0


@dataclass
class CollectiveRun:
    """What a run says, gathered line by line."""

    rows: list[SizeFigures] = field(default_factory=list)
    refused: list[RefusedLine] = field(default_factory=list)
    listed: dict[int, Listed] = field(default_factory=dict)
    programs: list[str] = field(default_factory=list)  # programs of nccl-tests that it names
    stated: str | None = None  # the one that says that it starts
    ranks_said: int | None = None  # by the library's own lines
    library: str = ""
    graph: bool = False
    host_time: bool = False  # times of the launch, not of the collective (-C)
    empty: int = 0  # lines of size 0

    @property
    def begun(self) -> bool:
        """Whether it has figures: what heads a table then heads the next run's."""
        return bool(self.rows or self.refused or self.empty)

    @property
    def ranks(self) -> int | None:
        """How many took part, as it lists them or its library says."""
        return max(self.listed) + 1 if self.listed else self.ranks_said

    def device(self) -> str | None:
        """The device that all ranks ran on, as the catalog has it."""
        known = {known_device(rank.name) for rank in self.listed.values() if rank.name}
        return known.pop() if len(known) == 1 else None

    def hosts(self) -> int | None:
        """How many hosts there are; None where not every rank is listed."""
        if not self.listed or len(self.listed) != self.ranks:
            return None
        return _hosts(self._alike())

    def shares_a_device(self) -> bool:
        """Whether two ranks ran on one device, which is no system that anybody runs."""
        return any(_together(processes) for processes in self._alike().values())

    def _alike(self) -> dict[tuple[str, int], list[int]]:
        """(host's name, device's number) → the processes that ran there, in order."""
        found: dict[tuple[str, int], list[int]] = {}
        for rank in sorted(self.listed):
            where = self.listed[rank]
            found.setdefault((where.host, where.device), []).append(where.process)
        return found

    def operation(self) -> str | None:
        """The operation, as the run names it; where it names none or several, as its columns tell; None
        where they leave more than one."""
        if self.stated is not None:
            return self.stated
        named = list(dict.fromkeys(self.programs))
        if len(named) == 1:
            return named[0]
        left = [op for op in self._by_columns() if not named or op in named]
        return left[0] if len(left) == 1 else None

    def _by_columns(self) -> tuple[str, ...]:
        """Operations that print such columns: a reduction or none, a root or none, and a count of the whole
        buffer or of one rank's part of it."""
        if not self.rows:
            return ()
        last = self.rows[-1]
        part = last.parts > 1.5
        reduces = last.reduction not in (None, "none")
        rooted = last.root is not None and last.root >= 0
        if reduces:
            return ("reduce",) if rooted else ("reduce_scatter",) if part else ("all_reduce",)
        if rooted:
            return ROOTED if part else ("broadcast",)
        return ("all_gather", "all_to_all") if part else ("send_recv",)

    def system_refusal(self) -> RefusedLine | None:
        """Why no figure of the run is one of a system; None where they are."""
        first = next(iter(self.listed.values()), None)
        named = {rank.name: rank.line for rank in self.listed.values() if rank.name}
        if len({known_device(name) or name for name in named}) > 1:
            others = list_in_words(sorted(named))
            return RefusedLine(
                max(named.values()), f"one device for all ranks expected, found {others}"
            )
        if first is not None and self.shares_a_device():
            return RefusedLine(
                first.line, "a device for each rank expected, several ranks ran on one"
            )
        if self.ranks == 1:
            line = first.line if first else self.rows[0].line if self.rows else 0
            return RefusedLine(line, "2 or more ranks expected: one rank exchanges nothing")
        if self.host_time:
            line = self.rows[0].line if self.rows else 0
            return RefusedLine(line, "the collective's time expected, found the host's (cputime)")
        return None


def rows_of_run(run: CollectiveRun) -> tuple[list[FileRow], list[RefusedLine]]:
    """The run's figures as rows of a table of collectives, and what of it is refused."""
    bad = run.system_refusal()
    if bad is not None:
        return [], [bad, *run.refused] if run.begun else [bad]
    op, ranks, hosts, refused = run.operation(), run.ranks, run.hosts(), list(run.refused)
    if ranks is None and any(f.parts > 1.5 for f in run.rows):  # a rank counts its own part
        ranks = round(statistics.median(f.parts for f in run.rows if f.parts > 1.5))
    each = ranks // hosts if ranks and hosts and ranks % hosts == 0 and _even(run, hosts) else None
    shared: dict[str, FileValue | None] = {
        "op": known_operation(op) or op,
        "device": run.device(),
        "ranks": ranks,
        "nodes": hosts,
        "devices_per_node": each,
        "library": run.library,
        "launch": "graph" if run.graph else None,
    }
    rows = []
    for f in run.rows:
        why = _contradiction(op, ranks, f)
        if why is not None:
            refused.append(RefusedLine(f.line, why))
            continue
        own = {**shared, "bytes": int(f.bytes), "dtype": f.dtype, "time_s": f.time_s}
        rows.append(FileRow(f.line, without_empty(own)))
    return rows, refused


def _contradiction(op: str | None, ranks: int | None, f: SizeFigures) -> str | None:
    """Why a line's two bandwidths are not those of the operation on so many ranks."""
    if f.bus_factor is None or ranks is None or op is None or known_operation(op) is None:
        return None
    expected = float(busbw_factor(op, ranks))
    if abs(f.bus_factor / expected - 1.0) <= _AGREES:
        return None
    return f"busbw / algbw = {expected:.3g} expected of {op} on {ranks} ranks, found {f.bus_factor:.3g}"


def _even(run: CollectiveRun, hosts: int) -> bool:
    """Whether every host's name has as many ranks as any other, or one name stands for all."""
    counts: dict[str, int] = {}
    for rank in run.listed.values():
        counts[rank.host] = counts.get(rank.host, 0) + 1
    return len(set(counts.values())) == 1 and (len(counts) == hosts or len(counts) == 1)


def _together(processes: list[int]) -> bool:
    return any(abs(b - a) < _STARTED_TOGETHER for a, b in itertools.pairwise(processes))


def _hosts(alike: dict[tuple[str, int], list[int]]) -> int:
    """How many hosts there are: as many of a name as its devices' numbers come back."""
    of_name: dict[str, int] = {}
    for (host, _), processes in alike.items():
        of_name[host] = max(of_name.get(host, 0), len(processes))
    return sum(of_name.values())


def known_device(name: str) -> str | None:
    """The device of the catalog that a driver's name for it is."""
    while True:
        found = exact_device(name)
        bare = _MAKERS.sub("", name)
        if found is not None or bare == name:
            return found
        name = bare
