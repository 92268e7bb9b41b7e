"""From a row's columns for its software to a stack: its name and version, and the switches it states."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from meshwise.evidence.tables import Row
from meshwise.stacks.schedules import SCHEDULE_NAMES as SCHEDULES
from meshwise.stacks.stack import MODULES, WORDS, Stack, load_stack
from meshwise.workloads.workload import OVERLAP_MODES

ATTENTION_KERNELS = ("flash", "flash1", "flash2", "flash3", "unfused")

# Megatron-LM's own transformer of 2023 (megatron/model): SwiGLU in two operations, keys and
# values copied to every head, a second fp32 copy of the logits.
_MEGATRON_2023 = {
    "flash_version": 2,
    "fused_elementwise": False,
    "expands_kv_heads": True,
    "loss_peak_bytes": 10.0,
    "loss_bytes": 52.0,
}
# Megatron-Core before its recipes fused the loss' passes
_LOSS_BY_PASSES = {"loss_bytes": 52.0}

# torchtitan of 2024 compiles its layers, not the loss.
_EAGER_LOSS = {"loss_peak_bytes": 12.0, "loss_peak_bytes_tp": 16.0, "loss_chunks": 1}
_WHOLE_LOSS = {"loss_chunks": 1}  # in chunks since 2026

# Software names of tables → stack of the catalog, and switches that a version has otherwise; the
# first whose pattern the name begins with.
_RULES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (r"megatron(-lm)?-20(19|2[0-2])|nemo-megatron-2023", "megatron-2021", {}),
    (r"deepspeed-2021", "deepspeed-2021", {}),
    (r"(megatron-)?deepspeed", "deepspeed", {}),
    # TransformerEngine before 1.5 has context parallelism with flash-attn only
    (r"nemo-(23|24\.0[1-3])", "nemo", {"flash_version": 2}),
    (r"nemo|megatron-bridge", "nemo", {}),
    # cross entropy in place since core 0.8
    (r"megatron-core-0\.[0-7]", "megatron-core", {"loss_peak_bytes": 10.0} | _LOSS_BY_PASSES),
    (r"megatron-core-0\.[89]|(pai-)?megatron-(202[34]|patch-24)", "megatron-core", _LOSS_BY_PASSES),
    (r"(pai-)?megatron", "megatron-core", {}),
    (r"flagscale", "megatron-core", _MEGATRON_2023),
    # most of the playbook's runs kept gathered inputs: their memory says so
    (r"nanotron-2025", "nanotron", {"keeps_gathered_inputs": True}),
    (r"nanotron", "nanotron", {}),
    (r"intern", "internevo", {}),
    (r"aleph-alpha-scaling.*\+rms", "aleph-alpha-scaling", {"fused_norm": True}),
    (r"aleph-alpha-scaling.*flash1", "aleph-alpha-scaling", {"flash_version": 1}),
    (r"aleph-alpha-scaling", "aleph-alpha-scaling", {}),
    (r"paddle", "paddle", {}),
    # the loss is compiled since 2025
    (r"torchtitan-2024.*compile", "torchtitan-fsdp", _EAGER_LOSS),
    (r"torchtitan-202[45].*compile", "torchtitan-fsdp", _WHOLE_LOSS),
    (r"torchtitan.*compile", "torchtitan-fsdp", {}),
    (r"torchtitan-202[45]", "torchtitan-eager", _WHOLE_LOSS),
    (r"torchtitan", "torchtitan-eager", {}),
    # the others that shard by PyTorch's FSDP
    (r"(fsdp|llm-foundry|torchtune).*compile", "torchtitan-fsdp", _WHOLE_LOSS),
    (r"fsdp|llm-foundry|torchtune", "torchtitan-eager", _WHOLE_LOSS),
    (r"maxtext|jax", "maxtext", {}),
    # asynchronous scheduling by default: the host prepares the next iteration beside the device
    # (vllm-project/vllm pull request 27614, in 0.14.0 of January 2026)
    (r"vllm-(0\.(1[4-9]|[2-9]\d)|[1-9])", "vllm", {"iteration_s": 0.0}),
    (r"vllm", "vllm", {}),
    (r"sglang", "sglang", {}),
    (r"trt|tensorrt", "trtllm", {}),
    (r"fastertransformer|ft\b", "fastertransformer", {}),
)


def stack_named(name: str) -> Stack | None:
    """The stack that a software's name and version stand for; None for an unknown one."""
    for pattern, stack, changes in _RULES:
        if re.match(pattern, name.lower()):
            return msgspec.structs.replace(load_stack(stack), **changes)
    return None


# What a training run without a known name is priced as, by the way that it shards: these have the
# most published runs of their kind.
_USUAL = {"zero3": "torchtitan-eager"}
_USUAL_ELSE = "megatron-core"


def usual_training_stack(shard: str) -> Stack:
    """The stack that stands in for software that the catalog does not know."""
    return msgspec.structs.replace(load_stack(_USUAL.get(shard, _USUAL_ELSE)), **_WHOLE_LOSS)


def as_stated(stack: Stack, row: Row) -> Stack:
    """The stack with the switches that the row's columns state (``attention``, ``schedule``,
    ``overlap``, ``grad_overlap``, and those of :data:`~meshwise.stacks.stack.STATED`)."""
    changes: dict[str, Any] = {}
    attention = row.one_of("attention", ATTENTION_KERNELS)
    if attention:
        changes["attention"] = "unfused" if attention == "unfused" else "flash"
        if attention[-1].isdigit():
            changes["flash_version"] = int(attention[-1])
    # a variant of the software may be a schedule: megatron-2024-zb-2p
    variant = next((k for k in SCHEDULES if row.text("stack").lower().endswith(f"-{k}")), "")
    schedule = row.one_of("schedule", SCHEDULES) or variant
    if schedule:
        changes["schedule"] = schedule
    overlap = row.one_of("overlap", OVERLAP_MODES)
    if overlap:
        changes["overlap"] = overlap
    if overlap == "none":
        changes["overlap_input_gradient"] = False
    if row.text("grad_overlap"):
        # overlapped reductions and ZeRO's gathers come together; alone the first is the usual one
        changes["overlap_grad_reduce"] = row.flag("grad_overlap")
        if not row.flag("grad_overlap"):
            changes["overlap_param_gather"] = False
    for name in ("dispatcher", "moments_dtype"):
        if row.text(name):
            changes[name] = row.one_of(name, WORDS[name])
    if row.text("loss_chunks"):
        changes["loss_chunks"] = row.count("loss_chunks")
    if row.text("recompute_modules"):
        changes["recompute_modules"] = _modules(row)
    if row.text("overlap_experts"):
        changes["overlap_experts"] = row.flag("overlap_experts")
    return msgspec.structs.replace(stack, **changes)


def _modules(row: Row) -> tuple[str, ...]:
    """Parts of a layer with commas or spaces between them."""
    names = row.text("recompute_modules").lower().replace(",", " ").split()
    for name in names:
        if name not in MODULES:
            raise row.wrong("recompute_modules", f"{name} is not known", MODULES)
    return tuple(dict.fromkeys(names))
