"""From a row's words for its software to a stack: name and version, and what its note says."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from meshwise.spec.stack import Stack, load_stack

# Megatron-LM's own transformer of 2023 (megatron/model): SwiGLU in two operations, keys and
# values copied to every head, a second fp32 copy of the logits.
_MEGATRON_2023 = {
    "flash_version": 2,
    "fused_elementwise": False,
    "expands_kv_heads": True,
    "loss_peak_bytes": 10.0,
}

# torchtitan of 2024 compiles its layers, not the loss.
_EAGER_LOSS = {"loss_peak_bytes": 12.0, "loss_peak_bytes_tp": 16.0}

# Software names of tables → stack of the catalog, and switches that a version has otherwise; the
# first whose pattern the name begins with.
_RULES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (r"megatron(-lm)?-20(19|2[0-2])|nemo-megatron-2023", "megatron-2021", {}),
    (r"(megatron-)?deepspeed", "deepspeed", {}),
    # TransformerEngine before 1.5 has context parallelism with flash-attn only
    (r"nemo-(23|24\.0[1-3])", "nemo", {"flash_version": 2}),
    (r"nemo|megatron-bridge", "nemo", {}),
    # cross entropy in place since core 0.8
    (r"megatron-core-0\.[0-7]", "megatron-core", {"loss_peak_bytes": 10.0}),
    (r"(pai-)?megatron", "megatron-core", {}),
    (r"flagscale", "megatron-core", _MEGATRON_2023),
    # most of the playbook's runs kept gathered inputs: their memory says so
    (r"nanotron-2025", "nanotron", {"keeps_gathered_inputs": True}),
    (r"nanotron", "nanotron", {}),
    (r"intern", "internevo", {}),
    (r"paddle", "paddle", {}),
    # the loss is compiled since 2025
    (r"torchtitan-2024.*compile", "torchtitan-fsdp", _EAGER_LOSS),
    (r"torchtitan.*compile", "torchtitan-fsdp", {}),
    (r"torchtitan", "torchtitan-eager", {}),
    (r"fsdp", "torchtitan-eager", {}),
    (r"maxtext|jax", "maxtext", {}),
    (r"vllm", "vllm", {}),
    (r"sglang", "sglang", {}),
    (r"trt|tensorrt", "trtllm", {}),
    (r"fastertransformer|ft\b", "fastertransformer", {}),
)

_NOTHING_OVERLAPS = re.compile(r"no communication overlap|not overlap communication", re.IGNORECASE)
_ASYNC_TP = re.compile(r"\basync[ -]?tp\b|--tp-comm-overlap", re.IGNORECASE)
_GRADIENTS_WAIT = re.compile(r"\b(not overlapped|without overlap)", re.IGNORECASE)
_GRADIENTS_OVERLAP = re.compile(r"gradient (all-reduce|reduction) overlapped", re.IGNORECASE)


def stack_named(name: str) -> Stack | None:
    """The stack that a software's name and version stand for; None for an unknown one."""
    for pattern, stack, changes in _RULES:
        if re.match(pattern, name.lower()):
            return msgspec.structs.replace(load_stack(stack), **changes)
    return None


def as_noted(stack: Stack, note: str) -> Stack:
    """The stack with what a row's note says of its overlap."""
    changes: dict[str, Any] = {}
    if _NOTHING_OVERLAPS.search(note):
        changes = {
            "overlap": "none",
            "overlap_input_gradient": False,
            "overlap_grad_reduce": False,
            "overlap_param_gather": False,
        }
    elif _GRADIENTS_WAIT.search(note):
        changes = {"overlap_grad_reduce": False, "overlap_param_gather": False}
    elif _GRADIENTS_OVERLAP.search(note):
        changes = {"overlap_grad_reduce": True}
    if _ASYNC_TP.search(note):
        changes["overlap"] = "decomposed"
    return msgspec.structs.replace(stack, **changes)
