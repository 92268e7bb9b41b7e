"""Which products are priced: on whose kernels experts run, and which of a search's columns differ."""

from __future__ import annotations

import numpy as np

from meshwise.arrays import Array
from meshwise.program.operations import Kernel, Op
from meshwise.stacks.engines import FewRows

_BLOCK = 128  # rows of DeepGEMM's
# bytes per value that the passes before an expert's last product move: gate and up read, their product
# written, read and narrowed (DeepGemmExperts, vllm/model_executor/layers/fused_moe/deep_gemm_moe.py)
_NARROWED = 2.0 * 2.0 + 2.0 + 2.0 + 1.0
# words of the names under which kernels of experts were measured
CUTLASS, DEEP_GEMM, MARLIN = "cutlass", "deepgemm", "marlin"


def asked_kernel(op: Op, few: FewRows, generation: str, *, expanded: bool) -> str:
    """Whose kernels an engine asks for a product of experts on a device of a generation; "" for its own.
    ``expanded``: weights are, inside the product."""
    if op.kernel is not Kernel.EXPERTS:
        return ""
    if op.dtype == "fp8_block" and generation in few.cutlass_experts:
        return CUTLASS
    return MARLIN if few.marlin_experts and expanded else ""


def in_blocks(op: Op) -> Op:
    """A product of experts whose rows lie one expert after the other in blocks of 128, as many as all experts
    of the rank could begin: the passes before the last product work on all of their rows, which takes the
    place of what a kernel takes for each expert in other layouts."""
    if op.name != "moe.experts.down":
        return op._replace(held=0)
    rows = op.held * (_BLOCK - 1)
    return op._replace(held=0, hbm_bytes=op.hbm_bytes + rows * op.k * _NARROWED)


def over_held(op: Op) -> Op:
    """The same where a block without a row is not computed, but its operands are loaded all the same (Hopper:
    deepseek-ai/DeepGEMM, ``is_computation_valid`` of its scheduler), so that what is read does not depend
    on how many experts the tokens choose."""
    held = np.maximum(op.held, 1)
    more = np.maximum(held - op.batch, 0.0) * op.n * op.k * op.weight_element
    blocks = in_blocks(op)
    rows = op.m * op.batch / held
    return blocks._replace(m=rows, batch=held, hbm_bytes=blocks.hbm_bytes + more)


_MANY = 100  # columns that are priced sooner than told apart
# projects a column's shape onto a number: any irrational ratios do, since what it finds is checked
_MIX = np.sqrt(np.array([2.0, 3.0, 5.0, 7.0, 11.0, 13.0]))


def distinct_columns(shape: list[Array]) -> tuple[list[Array], Array | None]:
    """(the shapes that differ, which of them each column has): a search's columns have few products
    that differ. None: as given."""
    size = max(np.size(x) for x in shape)
    if size < _MANY or any(np.ndim(x) > 1 for x in shape):
        return shape, None
    key = sum(x * mix for x, mix in zip(shape, _MIX, strict=True))
    _, first, kind = np.unique(key, return_index=True, return_inverse=True)
    if 4 * first.size > 3 * size:
        return shape, None
    few = [x[first] if np.ndim(x) and x.size == size else x for x in shape]
    if any(np.ndim(x) and x.size != size for x in shape):
        return shape, None
    if all(np.array_equal(f[kind], x) for f, x in zip(few, shape, strict=True) if np.ndim(x)):
        return few, kind
    return shape, None
