"""What a target does where its command does not say it: precision and gradients; the model's sizes that
Megatron-LM's flags give."""

from __future__ import annotations

from typing import Any

from meshwise.launch.settings import Settings
from meshwise.launch.table import Target
from meshwise.launch.targets import stages

_SIZES = ("layers", "hidden", "heads", "kv_heads", "ffn", "experts_total")
Fields = dict[str, Any]


def formats(chosen: Target, s: Settings, fields: Fields) -> tuple[Fields, list[str]]:
    """(fields of the job that the target's defaults add, sentences about them)."""
    if chosen.name == "megatron-lm":
        return _megatron(s, fields)
    if chosen.phase != "train":
        return {}, []
    said: list[str] = []
    found: Fields = {}
    named = chosen.name == "megatron-bridge" and s.get("precision") is not None
    if named and fields.get("grad_dtype") is None and fields.get("dtype") in ("bf16", "fp8"):
        found["grad_dtype"] = "fp32"  # training/mixed_precision.py: grad_reduce_in_fp32
    if fields.get("dtype") is None:
        said.append(f"the command names no precision: {_PRECISION[chosen.name]}")
    if fields.get("micro_batch") is None:
        said.append("the command names no microbatch: 1 is priced")
    return found, said


_PRECISION = {
    "megatron-bridge": "the recipe's is taken as bf16",
    "torchtitan": "torchtitan's default of bf16 is priced",
    "accelerate": "the model's own is priced",
    "deepspeed": "the model's own is priced",
}


def _megatron(s: Settings, fields: Fields) -> tuple[Fields, list[str]]:
    """Megatron-LM computes in fp32 unless ``--bf16`` or ``--fp16``; with ``--bf16`` it keeps and reduces
    fp32 gradients unless ``--grad-reduce-in-bf16``, with ``--fp16`` fp16 ones unless
    ``--accumulate-allreduce-grads-in-fp32`` (megatron/training/arguments.py, ``validate_args``)."""
    said: list[str] = []
    found: Fields = {}
    dtype = fields.get("dtype")
    if dtype is None:
        found["dtype"] = "fp32"
        said.append(
            "fp32: neither --bf16 nor --fp16 is said, and Megatron-LM then computes in fp32; add --bf16"
        )
    if dtype == "fp8" and not s.get("bf16") and not s.get("fp16"):
        said.append("--fp8-format without --bf16: priced with 16-bit weights; add --bf16")
    narrow = s.get("grad_bf16") if dtype != "fp16" else not s.get("grad_fp32")
    found["grad_dtype"] = "bf16" if narrow and dtype is not None else "fp32"
    if fields.get("micro_batch") is None:
        said.append("--micro-batch-size is not said: 1 is priced")
    return found, said


def sizes(s: Settings) -> dict[str, int]:
    """Sizes of the model, and how its layers are split (a switch is 1)."""
    numbers = (*_SIZES, "first_layers", "last_layers")
    found = {name: s[name] for name in numbers if isinstance(s.get(name), int)}
    switches = {name: str(s.get(name)).lower() == "true" for name in stages.SPLITS[:2]}
    switches["stage_layout"] = str(s.get("stage_layout")).lower() not in ("none", "null")
    return found | {name: 1 for name, on in switches.items() if on}
