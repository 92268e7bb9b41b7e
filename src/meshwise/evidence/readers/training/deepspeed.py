"""Reads logs of DeepSpeed: samples per second, with the batch and the world of its configuration dump."""

from __future__ import annotations

import re

from meshwise.evidence.readers.records import (
    FileFound,
    FileRow,
    FileValue,
    RefusedLine,
    positive,
    without_empty,
)
from meshwise.evidence.readers.training.arguments import Arguments
from meshwise.evidence.readers.training.steps import StepLog, rows_of_runs

_FORM = "DeepSpeed log"
_RATE = re.compile(r"RunningAvgSamplesPerSec=[^,\s]+, CurrSamplesPerSec=([^,\s]+)")
_STEP = re.compile(r"global_step=(\d+)|\b\d+/(\d+), RunningAvg")
_PEAK = re.compile(r"MaxMemAllocated=([\d.]+)GB")
_NAMES = {
    "train_batch_size": "global_batch",
    "train_micro_batch_size_per_gpu": "micro_batch",
    "world_size": "dp",
    "zero_optimization_stage": "stage",
    "bfloat16_enabled": "bf16",
    "fp16_enabled": "fp16",
    "float16_enabled": "fp16",
}


class DeepSpeedLog:
    """A log, line by line. Where Megatron's own lines say a step's time, they are read instead."""

    def __init__(self) -> None:
        self._runs: list[tuple[StepLog, Arguments]] = [(StepLog(), Arguments(_NAMES))]
        self._megatron = False

    @property
    def marks(self) -> tuple[str, ...]:
        """Words that its lines have."""
        return ("CurrSamplesPerSec=", ":print]", "elapsed time per iteration")

    def feed(self, number: int, line: str) -> None:
        """One line of the log."""
        if "CurrSamplesPerSec=" in line:
            self._step(number, line)
        elif "elapsed time per iteration" in line:
            self._megatron = True
        elif ":print]" in line:
            run, arguments = self._runs[-1]
            dumped = arguments.dumped(line)
            if run.begun and dumped is not None and dumped[0] in _NAMES:
                arguments = Arguments(_NAMES)
                self._runs.append((StepLog(), arguments))
            arguments.read(line)

    def _step(self, number: int, line: str) -> None:
        rate, at = _RATE.search(line), _STEP.search(line)
        if rate is None:
            return
        run, arguments = self._runs[-1]
        index = int(at[1] or at[2]) if at else None
        if index is not None and index == run.last:
            return  # printed by several ranks
        if index is not None and run.last is not None and index < run.last:
            run = StepLog()
            self._runs.append((run, arguments))
        samples = positive(rate[1], "samples per second")
        if isinstance(samples, str):
            run.refused.append(RefusedLine(number, samples))
        else:
            run.step(number, index, 1.0 / samples)
        peak = _PEAK.search(line)
        if peak:
            run.held(float(peak[1]) * (1 << 30), "allocated")

    def found(self) -> FileFound:
        """A row for each run."""
        if self._megatron:
            return FileFound("training", _FORM, ())
        for run, arguments in self._runs:
            run.values = _stated(arguments)
        rows, refused = rows_of_runs([run for run, _ in self._runs if run.begun])
        return FileFound("training", _FORM, [_whole_steps(row) for row in rows], refused)


def _whole_steps(row: FileRow) -> FileRow:
    """A row of seconds per sample as one of steps, where the batch is known; else of samples per second."""
    values = dict(row.values)
    each, batch = values.pop("step_s"), values.get("global_batch")
    assert isinstance(each, float)
    if isinstance(batch, int):
        return FileRow(row.line, {**values, "step_s": each * batch})
    return FileRow(row.line, {**values, "samples_per_s": 1.0 / each})


def _stated(a: Arguments) -> dict[str, FileValue]:
    """What the configuration says. Its world are the replicas: how many devices each has, it does not say."""
    stage = a.text("stage")
    return without_empty(
        {
            "global_batch": a.count("global_batch"),
            "micro_batch": a.count("micro_batch"),
            "dp": a.count("dp"),
            "shard": (f"zero{stage}" if stage in ("1", "2", "3") else "none") if stage else None,
            "dtype": "bf16" if a.switch("bf16") else "fp16" if a.switch("fp16") else None,
            "stack": "deepspeed",
        }
    )
