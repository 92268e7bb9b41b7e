"""Selective recomputation: which operations of a layer run again before its backward."""

from __future__ import annotations

from meshwise.program.operations import Kernel, Op
from meshwise.stacks.stack import Stack

# of a pass that adds the residual and norms, what the norm alone moves: 2 of 5 values, or 18 of 21
# written out (see program.layer)
_NORM, _NORM_WRITTEN_OUT = 2 / 5, 18 / 21
_BY_PRODUCTS = {"gemm": 0.5, "elementwise": 1.0, "recurrence": 1.0, "all_gather": 1.0}
_UP_PROJECTIONS = ("attention.query_up", "attention.kv_up", "attention.rotary")


def recomputed_share(op: Op, stack: Stack) -> float:
    """Share of a forward operation that selective recomputation does again.

    By operation (torchtitan): every second product, the experts' grouped ones and all passes, with
    attention, reductions and exchanges of tokens kept; or passes alone, and the gathers of their
    results (JAX). Else the modules that the stack names, as
    Megatron-Core does (transformer_config.py: recompute_modules); the attention core only where it is
    not fused already.
    """
    if stack.memory.selective_recompute == "products":
        return 1.0 if op.kernel is Kernel.EXPERTS else _BY_PRODUCTS.get(op.kind, 0.0)
    if stack.memory.selective_recompute == "passes":
        return float(op.kind in ("elementwise", "all_gather"))
    chosen = stack.memory.recompute_modules
    if op.name.endswith(".norm"):
        alone = _NORM if stack.kernels.fused_norm else _NORM_WRITTEN_OUT
        return alone if "layernorm" in chosen else 0.0
    if op.core is not None:
        unfused = stack.kernels.attention != "flash" or stack.ideal
        return float(unfused and "core_attn" in chosen)
    return float(any(_holds(module, op.name) for module in chosen))


def _holds(module: str, name: str) -> bool:
    """Whether a module has the operation of that name."""
    if module == "mla_up_proj":
        return name in _UP_PROJECTIONS
    begins = {"moe_act": "moe.activation", "shared_experts": "moe.shared."}
    begins |= {"mlp": "mlp.", "moe": "moe."}
    return name.startswith(begins.get(module, "-"))
