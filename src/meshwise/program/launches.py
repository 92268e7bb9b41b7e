"""Kernels that an eager step starts, which its host has to launch one after the other.

Of training steps counted in Megatron-Core (NVIDIA/Megatron-LM d98e8a6, megatron/core/transformer) with its usual fused
kernels, and in the same modules of PyTorch where a stack does not fuse them. Pairs are (forward,
backward).
"""

from __future__ import annotations

from meshwise.arrays import Array
from meshwise.models.shapes import Block
from meshwise.program.context import Context
from meshwise.program.operations import COLLECTIVES, Op
from meshwise.stacks.stack import Stack

_Pair = tuple[int, int]

# A residual addition and a norm; backward has the norm's weight too. Written out: widened, squared,
# averaged, offset, its root, scaled, narrowed, weighted.
_NORM: tuple[_Pair, _Pair] = ((2, 3), (9, 16))
_QK_NORM: tuple[_Pair, _Pair] = ((2, 4), (16, 30))  # of queries and of keys
# Queries and keys, one kernel each. Written out (rope_utils.py), each has cosine and sine, scaled and
# narrowed (six), halves turned and joined (two), two products, a sum and the joining with the rest; MLA's
# is (multi_latent_attention.py, unless fused, which takes YaRN), which also pairs the features before,
# and joins queries and keys and copies the values after.
_ROTARY: tuple[_Pair, _Pair] = ((2, 2), (2 * 12, 2 * 10))
_MLA_ROTARY: _Pair = (2 * 13 + 3, 2 * 13 + 3)
_ACTIVATION: tuple[_Pair, _Pair] = ((1, 1), (2, 4))
_CORE: _Pair = (1, 3)  # backward: row sums before, a conversion after
# of a recurrence in chunks: flash-linear-attention's gated delta rule has norms of queries and keys, sums
# of decays, scores, their inverse, its two products, states and output; backward makes states again.
_SCAN: _Pair = (9, 14)
# router.py beside its product: widening, the choice of k (two), their weights, two maps written from
# zeros (six); the balancing loss' scores, choice, map and count (eight), its product, sums and record.
_ROUTER: _Pair = (1 + 2 + 1 + 6 + 8 + 6, 10)
# moe_utils.py, fused: three kernels number the rows, one copies them; backward copies
_PERMUTE: _Pair = (4, 1)
_UNPERMUTE: _Pair = (1, 1)
# token_dispatcher.py, all-to-all: tokens and their weights; counts, their gathering and slices and sums
# (eight) and their copies to the host (four); rows sorted by expert. Once per node: the choice again
# (two), counts and layout (three), one kernel, the counts for the host.
_DISPATCH: dict[bool, _Pair] = {False: (2 + 8 + 4 + 3, 2 + 2), True: (2 + 3 + 1 + 1, 1 + 1)}
_COMBINE: dict[bool, _Pair] = {False: (1 + 2, 1 + 2), True: (1, 1)}
_LOSS = 12  # of the logits' loss, both ways
# An engine's layer of routed experts beside a dense one of 16 bit, as engines of 2025 fuse them. The router's
# product, the choice of k, rows sorted by expert (two), the sum over k; shared experts' two products,
# activation and addition; MLA's two more products, both latents' norms, and queries and keys put together
# (three); a recurrence's convolution, gates, norm and scan in chunks in place of rotary, attention and cache.
_SERVED_EXPERTS, _SERVED_SHARED, _SERVED_MLA, _SERVED_SCAN = 5, 4, 7, 9
_TRANSFER = 2  # what a chunk sends, and what it receives


def _pass(op: Op, stack: Stack, block: Block | None) -> _Pair:
    """(forward, backward) kernels of a pass over memory."""
    name = op.name.rpartition(".")[2]
    if name == "norm":
        return _NORM[not stack.kernels.fused_norm]
    if name == "qk_norm":
        return _QK_NORM[not stack.kernels.fused_norm]
    if name == "rotary":
        mla = block is not None and block.attention is not None and block.attention.mla
        return _MLA_ROTARY if mla else _ROTARY[not stack.kernels.fused_norm]
    if name == "activation":
        return _ACTIVATION[not stack.kernels.fused_elementwise]
    known = {"permute": _PERMUTE, "unpermute": _UNPERMUTE, "loss": (_LOSS, 0)}
    return known.get(name, (1, 1))


def _exchange(op: Op, stack: Stack) -> _Pair:
    by_node = stack.communication.dispatcher != "alltoall"
    known = {"moe.dispatch": _DISPATCH[by_node], "moe.combine": _COMBINE[by_node]}
    return known.get(op.name, (_TRANSFER, _TRANSFER) if op.kind == "send_recv" else (1, 1))


def kernels_per_call(op: Op, stack: Stack, block: Block | None = None) -> Array:
    """Kernels that one call of an operation starts; a grouped product starts one per expert. ``block``: the
    layer that the operation is of, None for the model's ends.
    """
    back = op.phase in ("dgrad", "wgrad")
    if op.kind == "gemm":
        more = _ROUTER[back] if op.name == "moe.router" and op.phase != "wgrad" else 0
        return op.batch + more  # a product per expert (GroupedLinear)
    if op.kind in COLLECTIVES:
        return _exchange(op, stack)[back]
    if op.core is not None:
        return _CORE[back]
    if op.kind == "recurrence":
        return _SCAN[back]
    return _pass(op, stack, block)[back]


def kernels_per_microbatch(ops: list[Op], stack: Stack, block: Block | None = None) -> Array:
    """Kernels of a list of operations, counts included: per microbatch where the counts are."""
    found: Array = 0.0
    for op in ops:
        found = found + op.count * kernels_per_call(op, stack, block)
    return found


def served_expert_kernels(ctx: Context, block: Block) -> int:
    """Kernels of an engine's layer of routed experts beyond those of a dense layer of 16 bit, in an iteration
    that no graph replays; 0 of other layers. Narrow operands are quantised before each product, a kernel each.
    """
    if block.moe is None:
        return 0
    found, products = _SERVED_EXPERTS, 2
    if block.moe.shared is not None:
        found, products = found + _SERVED_SHARED, products + 2
    if block.recurrent is not None:
        found, products = found + _SERVED_SCAN, products + 2
    if block.attention is not None:
        found += _SERVED_MLA * block.attention.mla
        products += 4 if block.attention.mla else 2
    return found + products * (ctx.widths.operand < 2)


def dense_tensors(ctx: Context, block: Block) -> int:
    """Number of a layer's parameters as tensors on a rank, but for those of its routed experts: matrices,
    and norms' weights.
    """
    found = 2
    a, moe = block.attention, block.moe
    if a is not None:
        found += 4 + bool(a.q_lora_rank) if a.mla else 2 + 2 * bool(a.norm_parameters)
    if block.recurrent is not None:
        hidden = ctx.model.hidden
        found += len(block.recurrent.matrices(hidden)) + len(block.recurrent.vectors(hidden))
    for mlp in (block.mlp, moe.shared if moe else None):
        found += 0 if mlp is None else 2
    return found + (moe is not None)


def expert_tensors(ctx: Context, block: Block) -> Array:
    """Number of parameters as tensors of a layer's routed experts on a rank: two of each / ep experts."""
    return 0 if block.moe is None else 2 * block.moe.experts / ctx.layout.ep


def layer_tensors(ctx: Context, block: Block) -> Array:
    """Number of a layer's parameters as tensors on a rank."""
    return dense_tensors(ctx, block) + expert_tensors(ctx, block)
