"""Reads logs of Megatron-LM and of what trains with it (Megatron-Bridge, NeMo, Megatron-DeepSpeed, forks)."""

from __future__ import annotations

import re

from meshwise.evidence.readers.records import FileFound, FileValue, without_empty
from meshwise.evidence.readers.training.arguments import Arguments
from meshwise.evidence.readers.training.steps import StepLog, rows_of_runs

_FORM = "Megatron log"
_NUMBER = r"([-+]?[\d.]+(?:[eE][-+]?\d+)?|nan|inf)"
_ITERATION = re.compile(r"\biteration:?\s+(\d+)\s*/")
_ELAPSED = re.compile(rf"elapsed time per iteration \((ms|s)\):\s*{_NUMBER}", re.IGNORECASE)
_TIMING = re.compile(rf"train_step_timing in s[:=]\s*{_NUMBER}", re.IGNORECASE)
_TIMINGS = re.compile(r"train_step_timing in s: \[([^\]]*)\]")
_STEP = re.compile(r"global_step[:=]\s*(\d+)")
_FLOPS = re.compile(rf"(?:throughput per GPU \(TFLOP/s/GPU\)|TFLOPs|TFLOPS_per_GPU):\s*{_NUMBER}")
_BATCH = re.compile(r"global[ _]batch[ _]size:\s*(\d+)")
_MEMORY = re.compile(r"memory \(MB\) \|.*?\bmax allocated: ([\d.]+)")
_WORLD = re.compile(r"\busing world size: (\d+)")
_SIZES = re.compile(r"\b(data|context|tensor-model|pipeline-model)-parallel size:\s*(\d+)")
_SIZED = {"data": "dp", "context": "cp", "tensor-model": "tp", "pipeline-model": "pp"}
_COUNTS = {
    "tensor_model_parallel_size": "tp",
    "pipeline_model_parallel_size": "pp",
    "data_parallel_size": "dp",
    "context_parallel_size": "cp",
    "expert_model_parallel_size": "ep",
    "expert_tensor_parallel_size": "etp",
    "virtual_pipeline_model_parallel_size": "vp",
    "world_size": "devices",
    "micro_batch_size": "micro_batch",
    "global_batch_size": "global_batch",
    "seq_length": "seq",
    "encoder_seq_length": "seq",
    "num_layers": "num_layers",
    "hidden_size": "hidden_size",
}
_WORDS = (
    *("sequence_parallel", "use_distributed_optimizer", "recompute_granularity", "bf16", "fp16"),
    *("fp8", "num_experts", "num_moe_experts", "overlap_grad_reduce", "use_torch_fsdp2"),
    *("use_megatron_fsdp", "use_custom_fsdp", "data_parallel_sharding_strategy"),
    *("fp8_recipe", "fp4"),
    "checkpoint_activations",  # before 2022
)
# of releases before 2021, and of DeepSpeed's pipelines
_DUMPED = {"model_parallel_size": "tp", "pipe_parallel_size": "pp", "batch_size": "micro_batch"}
_DEEPSPEED_BATCH = re.compile(r":print\]\s+train_batch_size \.* (\d+)")
_NAMES = {**_COUNTS, **{word: word for word in _WORDS}}
_STEPS = (
    "elapsed time per iteration",
    "train_step_timing",
    "max allocated:",
    "parallel size",
    " ..",
)
# parts of lines that may say an argument; a dump's have dots
_TELLING = (
    *("parallel", "batch_size", "batch-size", "seq_length", "seq-length", "num_layers"),
    *("num-layers", "hidden_size", "hidden-size", "recompute", "bf16", "fp16", "fp8", "experts"),
    *("distributed_optimizer", "distributed-optimizer", "overlap_grad", "overlap-grad", "fsdp"),
)
_MIB = float(1 << 20)


class MegatronLog:
    """A log, line by line: its runs, each with the arguments printed above its steps."""

    def __init__(self) -> None:
        self._runs = [StepLog()]
        self._arguments = Arguments(_NAMES, _DUMPED)

    @property
    def marks(self) -> tuple[str, ...]:
        """Words that its lines have."""
        return _STEPS if self._runs[-1].begun else (*_STEPS, *_TELLING)

    def feed(self, number: int, line: str) -> None:
        """One line of the log."""
        if "elapsed time per iteration" in line or "train_step_timing" in line:
            self._steps(number, line)
        elif "max allocated:" in line:
            memory = _MEMORY.search(line)
            if memory and self._runs[-1].begun:
                self._runs[-1].held(float(memory[1]) * _MIB, "allocated")
        elif "parallel size" in line:
            self._world(line)
        elif " .." in line or (not self._runs[-1].begun and any(w in line for w in _TELLING)):
            self._argument(line)

    def _argument(self, line: str) -> None:
        dumped = self._arguments.dumped(line) if self._runs[-1].begun else None
        if dumped is not None and dumped[0] in _NAMES:
            self._next()  # another run's dump
        if self._runs[-1].begun:
            return
        if ":print]" in line:  # DeepSpeed's own dump, whose world is the replicas
            batch = _DEEPSPEED_BATCH.search(line)
            if batch:
                self._runs[-1].values["global_batch"] = int(batch[1])
            return
        self._arguments.read(line)

    def _next(self) -> None:
        self._close()
        self._runs.append(StepLog())
        self._arguments = Arguments(_NAMES, _DUMPED)

    def _world(self, line: str) -> None:
        world = _WORLD.search(line)
        if world is None:
            return
        if self._runs[-1].begun:
            self._next()
        values = self._runs[-1].values
        values["devices"] = int(world[1])
        for name, size in _SIZES.findall(line):
            values[_SIZED[name]] = int(size)

    def _steps(self, number: int, line: str) -> None:
        run = self._runs[-1]
        listed = _TIMINGS.search(line)
        if listed:
            run.values["stack"] = "nemo"
            for i, cell in enumerate(listed[1].split(",")):
                run.step(number, i, cell.strip())
            return
        batch = _BATCH.search(line)
        flops = _FLOPS.search(line)
        for part in line.split("\r"):  # a progress bar writes over itself
            elapsed, timing = _ELAPSED.search(part), _TIMING.search(part)
            if elapsed is None and timing is None:
                continue
            at = _ITERATION.search(part) or _STEP.search(part)
            index = int(at[1]) if at else None
            if index is not None and run.last is not None and index < run.last:
                self._next()  # started again
                run = self._runs[-1]
            run.values["stack"] = "megatron" if elapsed else "nemo"
            word = elapsed[2] if elapsed else timing[1] if timing else ""
            seconds = _scaled(word, 1e-3 if elapsed and elapsed[1].lower() == "ms" else 1.0)
            if index is not None and index == run.last:
                continue  # printed by several ranks
            run.step(
                number,
                index,
                seconds,
                int(batch[1]) if batch else None,
                flops[1] if flops else None,
            )

    def _close(self) -> None:
        """The run's own values: of its arguments, and of what it says of the world."""
        run = self._runs[-1]
        run.values = {**self._stated(), **run.values}

    def _stated(self) -> dict[str, FileValue]:
        a = self._arguments
        values: dict[str, FileValue | None] = dict.fromkeys(_COUNTS.values())
        values |= {name: a.count(name) for name in values}
        if a.is_none("vp") and a.said("tp"):
            values["vp"] = 1
        if a.is_none("num_experts") or a.is_none("num_moe_experts"):
            values["ep"] = values["etp"] = None
        recompute = (a.text("recompute_granularity") or "").lower()
        if a.is_none("recompute_granularity"):
            recompute = "none"
        elif not a.said("recompute_granularity") and a.said("checkpoint_activations"):
            recompute = "full" if a.switch("checkpoint_activations") else "none"
        values["recompute"] = recompute if recompute in ("none", "selective", "full") else None
        values["sequence_parallel"] = a.switch("sequence_parallel")
        values["shard"] = self._shard()
        values["dtype"] = self._dtype()
        values["grad_overlap"] = a.switch("overlap_grad_reduce")
        return without_empty(values)

    def _shard(self) -> str | None:
        a = self._arguments
        if a.switch("use_torch_fsdp2"):
            return "zero3"
        if a.switch("use_megatron_fsdp") or a.switch("use_custom_fsdp"):
            strategy = a.text("data_parallel_sharding_strategy") or ""
            stages = {
                "no_shard": "none",
                "optim": "zero1",
                "optim_grads": "zero2",
                "optim_grads_params": "zero3",
            }
            return stages.get(strategy)
        distributed = a.switch("use_distributed_optimizer")
        return None if distributed is None else "zero1" if distributed else "none"

    def _dtype(self) -> str | None:
        a = self._arguments
        if a.switch("fp4"):
            return "nvfp4"
        if a.switch("fp8"):
            return "mxfp8" if (a.text("fp8_recipe") or "") == "mxfp8" else "fp8"
        for name in ("bf16", "fp16"):
            if a.switch(name):
                return name
        return None

    def found(self) -> FileFound:
        """A row for each run and size of batch."""
        self._close()
        runs = [run for run in self._runs if run.begun]
        rows, refused = rows_of_runs(runs)
        return FileFound("training", _FORM, rows, refused, self._remarks())

    def _remarks(self) -> list[str]:
        names = sorted(self._arguments.contradicted)
        return [f"the log says {', '.join(names)} in several words: left out"] if names else []


def _scaled(word: str, factor: float) -> object:
    try:
        return float(word) * factor
    except ValueError:
        return word
