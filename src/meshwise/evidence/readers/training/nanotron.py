"""Reads logs of nanotron."""

from __future__ import annotations

import re

from meshwise.evidence.readers.records import FileFound, FileValue, without_empty
from meshwise.evidence.readers.training.steps import StepLog, rows_of_runs

_FORM = "nanotron log"
_STEP = re.compile(r"\biteration: (\d+) / \d+ \|.*?elapsed_time_per_iteration_ms: (\S+)")
_FLOPS = re.compile(r"model_tflops_per_gpu: (\S+)")
_PEAK = re.compile(r"Peak allocated ([\d.]+)MiB")
_SETTING = re.compile(r"(?<![\w.])([a-z_]+)=(\w+)[,)]")
_COUNTS = {
    "dp": "dp",
    "pp": "pp",
    "tp": "tp",
    "expert_parallel_size": "ep",
    "context_parallel_size": "cp",
    "sequence_length": "seq",
    "micro_batch_size": "micro_batch",
    "batch_accumulation_per_replica": "accumulation",
    "num_hidden_layers": "num_layers",
    "hidden_size": "hidden_size",
}
_CONFIGURED = "ParallelismArgs("  # of the first part of the configuration that is read
_POWERS = {"K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
_MODES = {"REDUCE_SCATTER": True, "ALL_REDUCE": False}


class NanotronLog:
    """A log, line by line: its runs, each with the configuration printed above its steps."""

    def __init__(self) -> None:
        self._runs = [StepLog()]
        self._configured = False

    @property
    def marks(self) -> tuple[str, ...]:
        """Words that its lines have."""
        steps = ("elapsed_time_per_iteration_ms:", "Peak allocated", _CONFIGURED)
        return (*steps, "=") if self._configured and not self._runs[-1].begun else steps

    def feed(self, number: int, line: str) -> None:
        """One line of the log."""
        if "elapsed_time_per_iteration_ms:" in line:
            self._step(number, line)
        elif "Peak allocated" in line:
            peak = _PEAK.search(line)
            if peak and self._runs[-1].begun:
                self._runs[-1].held(float(peak[1]) * (1 << 20), "allocated")
        elif _CONFIGURED in line or (self._configured and "=" in line):
            self._configured = True
            self._settings(line)

    def _step(self, number: int, line: str) -> None:
        found = _STEP.search(line)
        if found is None:
            return
        run, index = self._runs[-1], int(found[1])
        if run.last is not None and index < run.last:
            run = StepLog()
            self._runs.append(run)
        if index == run.last:
            return
        flops = _FLOPS.search(line)
        seconds = _human(found[2])
        seconds = seconds * 1e-3 if isinstance(seconds, float) else seconds
        run.step(number, index, seconds, tflops=_human(flops[1]) if flops else None)

    def _settings(self, line: str) -> None:
        pairs = _SETTING.findall(line)
        if _CONFIGURED in line and self._runs[-1].begun:
            self._runs.append(StepLog())
        run = self._runs[-1]
        if run.begun:
            return
        for name, value in pairs:
            if name in _COUNTS and value.isdigit() and int(value) > 0:
                run.values.setdefault(_COUNTS[name], int(value))
            elif name == "zero_stage" and value.isdigit():
                run.values["shard"] = f"zero{value}" if value != "0" else "none"
            elif name == "recompute_layer":
                run.values["recompute"] = "full" if value == "True" else "none"
        mode = re.search(r"TensorParallelLinearMode\.(\w+)", line)
        if mode and mode[1] in _MODES:
            run.values["sequence_parallel"] = _MODES[mode[1]]
        if "dtype=torch.bfloat16" in line:
            run.values["dtype"] = "bf16"

    def found(self) -> FileFound:
        """A row for each run."""
        runs = [run for run in self._runs if run.begun]
        for run in runs:
            run.values = _whole(run.values)
        rows, refused = rows_of_runs(runs)
        return FileFound("training", _FORM, rows, refused)


def _whole(values: dict[str, FileValue]) -> dict[str, FileValue]:
    """A run's values with what follows from its configuration: the devices, and the batch."""
    found: dict[str, FileValue | None] = {k: v for k, v in values.items() if k != "accumulation"}
    degrees = [values.get(name) for name in ("dp", "tp", "pp")]
    dp, micro, accumulated = values.get("dp"), values.get("micro_batch"), values.get("accumulation")
    experts = values.get("ep", 1)
    if all(isinstance(d, int) for d in degrees):
        product = 1
        for d in (*degrees, values.get("cp", 1), experts):
            product *= d if isinstance(d, int) else 1
        found["devices"] = product
    if isinstance(dp, int) and isinstance(experts, int):  # whose ranks are replicas of the rest
        found["dp"] = dp * experts
    if isinstance(dp, int) and isinstance(micro, int) and isinstance(accumulated, int):
        found["global_batch"] = dp * micro * accumulated
    found["stack"] = "nanotron"
    return without_empty(found)


def _human(word: str) -> float | str:
    """A number with a power behind it: 4.71K."""
    factor = _POWERS.get(word[-1:], 1.0)
    try:
        return float(word.rstrip("KMBGT")) * factor
    except ValueError:
        return word
