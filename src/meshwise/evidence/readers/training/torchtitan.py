"""Reads logs of torchtitan."""

from __future__ import annotations

import re

from meshwise.clusters.load import device
from meshwise.evidence.readers.collectives.run import known_device
from meshwise.evidence.readers.records import FileFound, FileValue, without_empty
from meshwise.evidence.readers.training.steps import StepLog, rows_of_runs

_FORM = "torchtitan log"
_ESCAPES = re.compile(r"\x1b?\[[0-9;]*m")  # colours, also where a page dropped the escape
_STEP = re.compile(
    r"\bstep:\s*(\d+)\s+loss:.*?memory:\s*([\d.]+)GiB.*?\b[tw]ps:\s*([-\d,.]+|nan|inf)"
    r"(?:\s+tflops:\s*([\d,.]+))?(?:\s+mfu:\s*([\d.]+)%)?"
)
_RANK = re.compile(r"\[rank(\d+)\]")
_MESH = re.compile(r"Building \d-D device mesh with \[([^\]]*)\], \[([^\]]*)\]")
_PARALLELISM = re.compile(r"Building device mesh with parallelism: (.*)")
_SIZES = {
    "micro_batch": re.compile(r"\blocal batch size (\d+)"),
    "global_batch": re.compile(r"\bglobal batch size (\d+)"),
    "seq": re.compile(r"\bsequence length (\d+)"),
}
_MODEL = re.compile(r"\bModel (\S+ \S+) size: [\d,]+ total parameters")
_CAPACITY = re.compile(r"capacity: (.+?)(?: \(\d+\))? with ([\d.]+)GiB memory")
_RECOMPUTE = re.compile(r"Applied (full|selective|memory_budget) activation checkpointing")
_COMPILED = re.compile(r"Compiling .*with torch\.compile")
_MARKS = (
    *("tps:", "wps:", "device mesh", "batch size", "activation checkpointing", "GiB memory"),
    *("total parameters", "Float8", "torch.compile"),
)
_GIB = float(1 << 30)


class TorchtitanLog:
    """A log, line by line: its runs, each with what it says of itself above its steps."""

    def __init__(self) -> None:
        self._runs = [StepLog()]
        self._rank: str | None = None  # whose lines are taken, where several ranks print

    @property
    def marks(self) -> tuple[str, ...]:
        """Words that its lines have."""
        return _MARKS

    def feed(self, number: int, line: str) -> None:
        """One line of the log."""
        if "step:" in line:
            if "ps:" in line:
                self._step(number, _ESCAPES.sub("", line))
        elif (
            "mesh" in line
            or "batch size" in line
            or "Applied" in line
            or "GiB memory" in line
            or "total parameters" in line
            or "Float8" in line
            or "torch.compile" in line
        ):
            self._facts(_ESCAPES.sub("", line))

    def _step(self, number: int, line: str) -> None:
        found = _STEP.search(line)
        if found is None:
            return
        rank = _RANK.search(line)
        if rank is not None:
            self._rank = self._rank or rank[1]
            if rank[1] != self._rank:
                return
        run, index = self._runs[-1], int(found[1])
        if run.last is not None and index < run.last:
            run = StepLog()
            run.values = dict(self._runs[-1].values)
            self._runs.append(run)
        if index == run.last:
            return
        tflops = found[4].replace(",", "") if found[4] else None
        run.step(number, index, None, tflops=tflops, rate=found[3])
        run.held(float(found[2]) * _GIB, "reserved")

    def _facts(self, line: str) -> None:
        mesh, named = _MESH.search(line), _PARALLELISM.search(line)
        if (mesh or named) and self._runs[-1].begun:
            self._runs.append(StepLog())
        run = self._runs[-1]
        if run.begun:
            return
        if mesh:
            names = re.findall(r"\w+", mesh[1])
            run.values |= _degrees(
                dict(zip(names, map(int, re.findall(r"\d+", mesh[2])), strict=False))
            )
        elif named:
            run.values |= _degrees({k: int(n) for k, n in re.findall(r"(\w+)=(\d+)", named[1])})
        if "batch size" in line and "step" in line:
            for name, pattern in _SIZES.items():
                size = pattern.search(line)
                if size:
                    run.values[name] = int(size[1])
        model, capacity, mode = _MODEL.search(line), _CAPACITY.search(line), _RECOMPUTE.search(line)
        if model:
            run.values["model"] = model[1]
        if capacity:
            run.values |= _device(capacity[1], float(capacity[2]) * _GIB)
        if mode:
            run.values["recompute"] = mode[1]
        if _COMPILED.search(line):
            run.values["stack"] = "torchtitan-compile"
        if "Float8" in line and "active" in line:
            run.values["dtype"] = "fp8"

    def found(self) -> FileFound:
        """A row for each run."""
        runs = [run for run in self._runs if run.begun]
        for run in runs:
            if "seq" in run.values:  # its head is here, where compilation would be said
                run.values.setdefault("stack", "torchtitan")
        rows, refused = rows_of_runs(runs)
        return FileFound("training", _FORM, rows, refused)


def _degrees(mesh: dict[str, int]) -> dict[str, FileValue]:
    """Degrees of a mesh. It names those above 1, so that what it does not name is 1; experts are cut on ranks
    that the mesh counts already."""
    replicas = mesh.get("dp_replicate", 1)
    sharded = mesh.get("dp_shard", mesh.get("dp", 1))
    if "dp_shard_mod_ep" in mesh or "dp_shard_in_ep" in mesh:
        sharded = mesh.get("dp_shard_mod_ep", 1) * mesh.get("dp_shard_in_ep", 1)
    cp, tp, pp = (mesh.get(name, 1) for name in ("cp", "tp", "pp"))
    shard = "hsdp" if sharded > 1 and replicas > 1 else "zero3" if sharded > 1 else "none"
    degrees: dict[str, FileValue | None] = {
        "tp": tp,
        "pp": pp,
        "cp": cp,
        "dp": replicas * sharded,
        "ep": mesh.get("ep"),
        "devices": tp * pp * cp * replicas * sharded,
        "shard": shard if replicas * sharded > 1 else None,
    }
    return without_empty(degrees)


def _device(name: str, capacity: float) -> dict[str, FileValue]:
    """The device of a driver's name, where its memory is that device's too; else the name as it stands."""
    known = known_device(name)
    if known is None or not 0.9 <= capacity / device(known).memory_bytes <= 1.02:
        return {"device_said": f"{name} with {capacity / _GIB:.4g} GiB"}
    return {"device": known}
