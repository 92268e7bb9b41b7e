"""What the overrides of a Megatron-Bridge recipe mean: Megatron-LM's model by other names."""

from __future__ import annotations

from typing import Any

from meshwise.launch.command_text import Written, flag_lines, torchrun
from meshwise.launch.job import Job
from meshwise.launch.settings import stages, switches
from meshwise.launch.settings.settings import Read, Settings, yes
from meshwise.launch.table import Target
from meshwise.launch.targets import megatron_lm


def _settings(job: Job) -> Settings:
    """The same model as Megatron-LM's, as overrides of a recipe."""
    s = megatron_lm.degree_settings(job) | megatron_lm.recomputation_settings(job)
    s["sequence_parallel"] = str(job.sequence_parallel).lower()
    if job.shard == "zero1":
        s["distributed_optimizer"] = "true"
    elif job.shard == "none":
        s["distributed_optimizer"] = "false"
    if job.overlap == "decomposed" and job.sequence_parallel:
        s["tp_overlap"] = "true"
    if job.dtype in _MIXED:
        s["precision"] = _MIXED[job.dtype]
    if job.dtype in _MIXED or job.grad_dtype is not None:
        s["grad_fp32"] = str(job.grad_dtype in (None, "fp32")).lower()
    s |= {k: str(v).lower() if v is True else v for k, v in switches.switch_settings(job).items()}
    s = {k: v for k, v in s.items() if k not in _OF_A_RECIPE}
    return s | {k: v for k, v in megatron_lm.batch_settings(job).items() if v is not None}


# torch's own objects in a recipe: no override says them
_OF_A_RECIPE = ("precise", "moment", "second_moment")
# names of Megatron-Bridge's mixed-precision recipes (training/mixed_precision.py)
_MIXED = {
    "bf16": "bf16_mixed",
    "fp16": "fp16_mixed",
    "fp8": "bf16_with_fp8_delayed_scaling_mixed",
}


def read(s: Settings, world: int | None) -> Read:
    flags, said = switches.of_a_recipe(s)
    mixed = str(s.get("precision", "")).lower()
    if "fp8" in mixed or "mxfp8" in mixed:
        flags["fp8"] = mixed
    elif "bf16" in mixed or "fp16" in mixed:
        flags["bf16" if "bf16" in mixed else "fp16"] = True
    told = (
        "sequence_parallel",
        "distributed_optimizer",
        "tp_overlap",
        "overlap_experts",
        "precise",
        *stages.SPLITS[:2],
    )
    for name in told:
        flags[name] = yes(s.get(name, "false"))
    for name in ("vp", "etp", *stages.SPLITS[2:]):
        if str(flags.get(name)).lower() in ("none", "null"):
            flags.pop(name, None)
    found, notes = megatron_lm.read(flags, world)
    notes = [*said, *notes]
    if s.get("grad_fp32") is not None:
        found["grad_dtype"] = "fp32" if yes(s["grad_fp32"]) else "bf16"
    return found, notes


def defaults(s: Settings, fields: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Its mixed-precision recipes reduce gradients in fp32 (training/mixed_precision.py,
    ``grad_reduce_in_fp32``)."""
    named = s.get("precision") is not None
    if named and fields.get("grad_dtype") is None and fields.get("dtype") in ("bf16", "fp8"):
        return {"grad_dtype": "fp32"}, []
    return {}, []


def write(job: Job, chosen: Target) -> Written:
    return flag_lines(torchrun(job, "$RECIPE"), _settings(job), chosen), {}
