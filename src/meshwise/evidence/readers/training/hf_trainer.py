"""Reads what the Trainer of transformers leaves: ``trainer_state.json``, the results of a run, and its log."""

from __future__ import annotations

import re
from typing import Any

from meshwise.evidence.readers.documents import JsonObject
from meshwise.evidence.readers.records import (
    FileFound,
    FileRow,
    FileValue,
    RefusedLine,
    count_or_none,
    positive,
    without_empty,
)

_FORM = "Hugging Face Trainer"
_MEAN = (
    "step_s is the whole run's time over its steps: start-up, evaluations and checkpoints are in it"
)
_TELLING_DIGITS = 3  # of a rate: 0.012 steps per second are 4 % more or less
_SAME = 0.01  # how far apart the ranks of one run measure its time
_RUNTIME = re.compile(r"'train_runtime':\s*'?([^,'}\s]+)")
_PER_S = re.compile(r"'train_steps_per_second':\s*'?([^,'}\s]+)")
_HEAD = {
    "micro_batch": re.compile(r"Instantaneous batch size per device = ([\d,]+)"),
    "global_batch": re.compile(
        r"Total train batch size \(w\. parallel, distributed & accumulation\) = ([\d,]+)"
    ),
    "accumulation": re.compile(r"Gradient Accumulation steps = ([\d,]+)"),
    "steps_measured": re.compile(r"Total optimization steps = ([\d,]+)"),
}
_EXPECTED = "an entry of log_history with train_runtime expected: the run did not end"


def claims_trainer(content: dict[str, Any]) -> bool:
    """Whether JSON is a Trainer's state, or the results of its training."""
    state = isinstance(content.get("log_history"), list) and "global_step" in content
    return state or {"train_runtime", "train_steps_per_second"} <= content.keys()


def read_trainer(objects: list[JsonObject]) -> FileFound:
    """A row for each run that ended."""
    rows, refused = list[FileRow](), list[RefusedLine]()
    for line, content in objects:
        found = _run(line, content)
        if isinstance(found, str):
            refused.append(RefusedLine(line, found))
        else:
            rows.append(found)
    return FileFound("training", _FORM, rows, refused, [_MEAN] if rows else [])


def _run(line: int, content: dict[str, Any]) -> FileRow | str:
    if "log_history" not in content:
        return _timed(
            line, content.get("train_runtime"), None, content.get("train_steps_per_second"), {}
        )
    ended = [e for e in content["log_history"] if isinstance(e, dict) and "train_runtime" in e]
    if not ended:
        return _EXPECTED
    last = ended[-1]
    more: dict[str, FileValue | None] = {
        "micro_batch": count_or_none(content.get("train_batch_size"))
    }
    return _timed(
        line, last["train_runtime"], last.get("step"), last.get("train_steps_per_second"), more
    )


def _timed(
    line: int, runtime: object, steps: object, per_s: object, more: dict[str, FileValue | None]
) -> FileRow | str:
    """A row of a run's time and steps, or of its steps per second."""
    seconds, rate = positive(runtime, "train_runtime"), positive(per_s, "train_steps_per_second")
    if isinstance(seconds, str):
        return seconds
    number = count_or_none(steps)
    if number is None and isinstance(rate, str):
        return rate
    if number is None and _digits(per_s) < _TELLING_DIGITS:
        return f"the run's steps expected: {per_s} steps per second have too few digits"
    step = seconds / number if number is not None else 1.0 / float(rate)
    values = {**more, "stack": "hf-trainer", "step_s": step, "steps_measured": number}
    return FileRow(line, without_empty(values))


def _digits(number: object) -> int:
    """Digits of a number as it is written, without zeros before them."""
    return len(str(number).replace(".", "").lstrip("0"))


class TrainerLog:
    """What a Trainer prints: a heading with its batch, and at the end the results of the run."""

    def __init__(self) -> None:
        self._head: dict[str, FileValue | None] = {}
        self._last: float | None = None  # the latest run's time, and whether a heading follows it
        self._headed = False
        self._rows: list[FileRow] = []
        self._refused: list[RefusedLine] = []

    @property
    def marks(self) -> tuple[str, ...]:
        """Words that its lines have."""
        return ("batch size", "Gradient Accumulation", "optimization steps", "'train_runtime'")

    def feed(self, number: int, line: str) -> None:
        """One line of the log."""
        if (
            (" = " in line and "batch size" in line)
            or "Gradient Accumulation" in line
            or "optimization steps" in line
        ):
            for name, pattern in _HEAD.items():
                said = pattern.search(line)
                if said:
                    self._headed = True
                    self._head[name] = count_or_none(said[1].replace(",", ""))
        elif "'train_runtime'" in line:
            self._end(number, line)

    def _end(self, number: int, line: str) -> None:
        runtime, rate = _RUNTIME.search(line), _PER_S.search(line)
        if runtime is None:
            return
        seconds = positive(runtime[1], "train_runtime")
        if isinstance(seconds, float):
            before, self._last = self._last, seconds
            if before is not None and not self._headed and abs(seconds / before - 1.0) < _SAME:
                return  # another rank of the same run
        self._headed = False
        head, self._head = self._head, {}
        steps = head.pop("steps_measured", None)
        found = _timed(number, runtime[1], steps, rate[1] if rate else None, _replicas(head))
        if isinstance(found, str):
            self._refused.append(RefusedLine(number, found))
        else:
            self._rows.append(found)

    def found(self) -> FileFound:
        """A row for each run that ended."""
        return FileFound(
            "training", _FORM, self._rows, self._refused, [_MEAN] if self._rows else []
        )


def _replicas(head: dict[str, FileValue | None]) -> dict[str, FileValue | None]:
    """What a heading says, with the replicas that follow from its batches."""
    batch, micro, steps = (head.get(k) for k in ("global_batch", "micro_batch", "accumulation"))
    found = {k: v for k, v in head.items() if k != "accumulation"}
    if isinstance(batch, int) and isinstance(micro, int) and isinstance(steps, int):
        found["dp"] = batch // (micro * steps) if batch % (micro * steps) == 0 else None
    return found
