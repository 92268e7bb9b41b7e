"""The public functions of launch commands: :func:`export` and :func:`read_command`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshwise.errors import InputError
from meshwise.spec.arguments import Named, given
from meshwise.spec.arguments import parts as _parts
from meshwise.spec.cluster import Cluster
from meshwise.spec.model import Model
from meshwise.spec.models import load_model
from meshwise.spec.reading import count
from meshwise.spec.serving import Serving
from meshwise.spec.stack import Stack
from meshwise.spec.workload import Training

if TYPE_CHECKING:
    from meshwise.launch.job import Job
    from meshwise.launch.parse import Parsed
    from meshwise.present.launch_page import ExportResult, ImportResult
    from meshwise.search.compare import Compared, ComparedServing


def export(
    job: Job, target: str, *, wrapper: str | None = None, version: str | None = None
) -> ExportResult:
    """The launch command of a job (:class:`meshwise.launch.Job`) for vllm, sglang, trtllm,
    megatron-lm, megatron-bridge, torchtitan, deepspeed or accelerate; ``wrapper``: torchrun, slurm,
    lws or kuberay."""
    from meshwise import launch
    from meshwise.present.launch_page import ExportResult

    given(job, launch.Job, "job", "a meshwise.launch.Job, such as meshwise.launch.job_of makes")
    for value, option in ((target, "TARGET"), (wrapper, "--wrapper"), (version, "--version")):
        if value is not None or option == "TARGET":
            given(value, str, option, "a name")
    return ExportResult(launch.export(job, target, wrapper=wrapper, version=version), job)


def known_model(name: str) -> str | None:
    """A preset for a model's name as hubs and commands write it (``meta-llama/Llama-3.1-70B-Instruct``),
    or a config file by its path; None where there is none."""
    from pathlib import Path

    from meshwise.spec import catalog

    base = name.rstrip("/").rpartition("/")[2].lower()
    endings = (
        "-instruct",
        "-hf",
        "-chat",
        "-base",
        "-fp8",
        "-it",
        "-v0.1",
        "-v0.2",
        "-v0.3",
        "-v1",
    )
    tried = [name, base]
    for _ in range(2):
        for ending in endings:
            if tried[-1].endswith(ending):
                tried.append(tried[-1].removesuffix(ending))
    tried += [t.removeprefix("meta-") for t in tried]
    for candidate in tried:
        found = catalog.canonical("models", candidate)
        if found is not None:
            return found
    return name if Path(name).exists() else None


def read_command(
    command: str,
    cluster: Cluster | Named,
    *,
    model: Model | Named | None = None,
    target: str | None = None,
    gpus: int | None = None,
    stack: Stack | Named | None = None,
    global_batch: int | None = None,
    seq: int | None = None,
    isl: int | None = None,
    osl: int | None = None,
    concurrency: int | None = None,
) -> ImportResult:
    """A launch command read into a layout, priced beside the best of as many GPUs. What the command
    does not say is given: the model, the batch and the sequence, or the prompts and answers."""
    from meshwise import launch
    from meshwise.present.launch_page import ImportResult

    given(command, str, "COMMAND", "the text of a launch command")
    gpus = None if gpus is None else count(gpus, "--gpus")
    for option, number in (
        ("--global-batch", global_batch),
        ("--seq", seq),
        ("--isl", isl),
        ("--osl", osl),
        ("--concurrency", concurrency),
    ):
        if number is not None:
            count(number, option)
    if model is not None:
        spec = load_model(model, "--model")
    else:
        spec = _model_of(launch.parse(command, target, gpus=gpus))
    routed = any(block.moe is not None for block in spec.blocks)
    parsed = launch.parse(command, target, gpus=gpus, experts=routed)
    compared = compare(
        parsed.job,
        spec,
        cluster,
        stack=_STACK.get(parsed.target) if stack is None else stack,
        global_batch=global_batch,
        seq=seq,
        isl=isl,
        osl=osl,
        concurrency=concurrency,
    )
    return ImportResult(parsed, compared, spec.name)


_STACK = {
    "vllm": "vllm",
    "sglang": "sglang",
    "trtllm": "trtllm",
    "megatron-lm": "megatron-core",
    "megatron-bridge": "nemo",
    "torchtitan": "torchtitan-fsdp",
    "deepspeed": "deepspeed",
    "accelerate": "torchtitan-eager",
}


def _model_of(parsed: Parsed) -> Model:
    name = parsed.job.model
    known = known_model(name) if name else None
    if known is None:
        said = (
            f"the command's model {name!r} is no preset" if name else "the command names no model"
        )
        raise InputError(
            f"--model: {said}",
            field="--model",
            value=name or None,
            legal="a preset, a config.json or its folder",
        )
    return load_model(known)


def compare(
    job: Job,
    model: Model,
    cluster: Cluster | Named,
    *,
    stack: Stack | Named | None = None,
    global_batch: int | None = None,
    seq: int | None = None,
    isl: int | None = None,
    osl: int | None = None,
    concurrency: int | None = None,
) -> Compared | ComparedServing:
    """A job beside the best layout of as many GPUs."""
    import msgspec

    from meshwise.search.compare import compare_serving, compare_training
    from meshwise.spec.workload import Formats

    layout = msgspec.to_builtins(job)
    if job.phase == "train":
        batch = global_batch or job.global_batch
        tokens = seq or job.seq
        _needed(batch, "--global-batch", "256")
        _needed(tokens, "--seq", "4096")
        assert batch is not None and tokens is not None
        if job.micro_batch is None:
            layout["micro_batch"] = 1
        dtype = job.dtype if job.dtype in ("fp8", "fp16") else None
        work = Training(batch=batch, seq=tokens, formats=Formats(dtype=dtype))
        spec, where, software = _parts(model, cluster, work, stack)
        if job.schedule != software.schedule and not software.ideal:
            software = msgspec.structs.replace(software, schedule=job.schedule)
        return compare_training(spec, where, work, software, layout)
    for value, option, example in ((isl, "--isl", "2048"), (osl, "--osl", "256")):
        _needed(value, option, example)
    flight = concurrency or job.concurrency
    _needed(flight, "--concurrency", "64")
    assert isl is not None and osl is not None and flight is not None
    formats = Formats(weights=job.weight_dtype, kv_cache=job.kv_dtype)
    load = Serving(isl=isl, osl=osl, concurrency=flight, formats=formats)
    spec, where, software = _parts(model, cluster, load.decode(), stack)
    return compare_serving(spec, where, load, software, layout)


def beside(
    job: Job, model: Model, cluster: Cluster, load: Training | Serving, stack: Stack, plan: Any
) -> Compared | ComparedServing:
    """A job at the load of a plan that is already made, its replicas as many as the plan's GPUs hold."""
    import msgspec

    from meshwise.search.compare import compare_serving, compare_training

    layout = msgspec.to_builtins(job)
    if isinstance(load, Training):
        layout["micro_batch"] = layout["micro_batch"] or 1
        return compare_training(model, cluster, load, stack, layout, plan)
    layout["dp"] *= max(plan.gpus // job.gpus, 1)
    if plan.limits.tpot_s is not None or plan.limits.ttft_s is not None:
        flight = plan.rows[0].concurrency if plan.rows else layout["dp"]
        load = msgspec.structs.replace(load, concurrency=flight)
    return compare_serving(model, cluster, load, stack, layout)


def _needed(value: int | None, option: str, example: str) -> None:
    if value is None:
        raise InputError(
            f"{option}: missing: the command does not say it",
            field=option,
            legal=f"for example {option} {example}",
        )


__all__ = ["compare", "export", "known_model", "read_command"]
