"""The steps of a training run as a log prints them: one row for each size of its batch."""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

from meshwise.evidence.readers.records import (
    FileRow,
    FileValue,
    RefusedLine,
    positive,
    without_empty,
)

_KEPT = 1 << 16  # step times of a series; beyond, every second one is dropped
_STARTS = "steps after the first expected: the first one holds start-up"


@dataclass
class Series:
    """Figures of one size of batch: every ``stride``-th is kept, so that any length of log fits."""

    line: int
    kept: array[float] = field(default_factory=lambda: array("d"))
    seen: int = 0
    stride: int = 1

    def add(self, value: float) -> None:
        """One more figure."""
        if self.seen % self.stride == 0:
            self.kept.append(value)
            if len(self.kept) > _KEPT:
                self.kept, self.stride = self.kept[::2], self.stride * 2
        self.seen += 1

    def median(self) -> float:
        """The median of those that are kept."""
        return statistics.median(self.kept)


class StepLog:
    """A run: what it says of itself, and its steps by the size of their batch."""

    def __init__(self) -> None:
        self.values: dict[str, FileValue] = {}
        self.refused: list[RefusedLine] = []
        self.memory: tuple[float, str] | None = None  # bytes, and of what
        self._times: dict[int | None, Series] = {}
        self._flops: dict[int | None, Series] = {}
        self._rates: dict[int | None, Series] = {}
        self._first: tuple[int, int | None] | None = None  # line and batch of the first step
        self.last: int | None = None  # number of the latest step

    @property
    def begun(self) -> bool:
        """Whether it has steps, or what was to be one."""
        return self._first is not None or bool(self.refused)

    def step(
        self,
        line: int,
        number: int | None,
        seconds: object,
        batch: int | None = None,
        tflops: object = None,
        rate: object = None,
    ) -> None:
        """One step: its time [s] or its tokens per second and device; the first of a run is start-up."""
        what = "step time" if rate is None else "tokens per second"
        value = positive(seconds if rate is None else rate, what)
        if isinstance(value, str):
            self.refused.append(RefusedLine(line, value))
            return
        self.last = number
        if self._first is None:
            self._first = line, batch
            return
        kept = self._times if rate is None else self._rates
        kept.setdefault(batch, Series(line)).add(value)
        flops = positive(tflops, "TFLOP/s") if tflops is not None else "none"
        if isinstance(flops, float):
            self._flops.setdefault(batch, Series(line)).add(flops * 1e12)

    def held(self, bytes_: float, of: str) -> None:
        """Memory of a device: the most of any rank and step."""
        if bytes_ > 0 and (self.memory is None or bytes_ > self.memory[0]):
            self.memory = bytes_, of

    def rows(self) -> tuple[list[FileRow], list[RefusedLine]]:
        """A row for each size of batch that the run had steps of."""
        found = []
        for batch in self._times.keys() | self._rates.keys():
            times, rates, flops = (s.get(batch) for s in (self._times, self._rates, self._flops))
            first = times or rates
            assert first is not None
            own: Mapping[str, FileValue | None] = {
                "global_batch": batch if batch is not None else self.values.get("global_batch"),
                "step_s": times.median() if times else None,
                "tokens_per_s_per_device": rates.median() if rates else None,
                "flops_per_s_per_device": flops.median() if flops else None,
                "memory_bytes": self.memory[0] if self.memory else None,
                "memory_of": self.memory[1] if self.memory and self.memory[1] else None,
                "steps_measured": first.seen,
            }
            found.append(FileRow(first.line, without_empty({**self.values, **own})))
        refused = list(self.refused)
        if self._first is not None and not found:
            refused.append(RefusedLine(self._first[0], _STARTS))
        return sorted(found, key=lambda row: row.line), refused


def rows_of_runs(runs: list[StepLog]) -> tuple[list[FileRow], list[RefusedLine]]:
    """Rows of every run that has steps."""
    rows, refused = list[FileRow](), list[RefusedLine]()
    for run in runs:
        good, bad = run.rows()
        rows += good
        refused += bad
    return rows, refused
