"""One transformer layer: its operations forward and backward, with TP's collectives in place.

Megatron's conjugate pair (arXiv 1909.08053, section 3): forward reduces after each row-parallel
product, backward reduces the *input gradient of the column-parallel* products. With sequence
parallelism (arXiv 2205.05198, section 4.2.2) a reduction becomes reduce_scatter + all_gather around
the region, and backward gathers the sharded input once more for the weight gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.models.layers.attention import Attention
from meshwise.models.layers.recurrent import Recurrent
from meshwise.models.shapes import Block
from meshwise.program import sharding
from meshwise.program.context import Context
from meshwise.program.layers import attention, recurrent
from meshwise.program.layers import feed_forward as mlp
from meshwise.program.layers import recomputed as modules
from meshwise.program.layers.norms import written_out
from meshwise.program.operations import Op, collective_op, elementwise, gemm, gradients_of, parted
from meshwise.program.weights import local_block_weights


class Part(NamedTuple):
    """A tensor-parallel region between two residual additions."""

    name: str
    norm: Op
    compute: list[Op]
    inputs: list[tuple[str, int]]  # (column-parallel op, features of its input gradient)
    last: str  # the row-parallel op whose output is partial
    attention: Attention | None = None
    recurrent: Recurrent | None = None
    alone: bool = False  # routed experts and nothing else
    outside: tuple[Op, ...] = ()  # the layer's further small products, whole on every rank


# what the gradient of a collective inside a region is; an all-to-all's is one, the way back
_WAY_BACK = {"all_gather": "reduce_scatter", "reduce_scatter": "all_gather"}


def _norm(ctx: Context, block: Block, name: str) -> Op:
    """Residual addition (with dropout in training) and norm, over the tokens outside TP regions.

    Values moved per element: addition 3 (two read, one written) and norm 2 (read, written); in one
    pass 4, as the sum is not read again. A norm that is not fused is a chain of fp32 passes: widened,
    squared, averaged, scaled, narrowed, multiplied by its weight, 36 bytes per 16-bit element. A
    dropout mask is half a 16-bit value; dropout in a pass of its own reads and writes once more.
    """
    chain = written_out(ctx.stack, block, ctx.model.hidden)
    values = 4.0 if ctx.stack.kernels.fused_add_norm else 21.0 if chain else 5.0
    if ctx.model.dropout and ctx.training:
        values += 0.5 if ctx.stack.kernels.fused_elementwise else 2.5
    rows = ctx.tokens / ctx.token_split
    w = ctx.widths
    moved = values * rows * ctx.model.hidden * w.activation * ctx.model.residual_streams
    return elementwise(f"{name}.norm", w.activation_dtype, moved)


def _adapters(ctx: Context, block: Block) -> list[Op]:
    """The layer's further small products, on the tokens outside TP regions."""
    rows = ctx.tokens / ctx.token_split
    return [gemm(f"layer.{a.name}", rows, a.outputs, a.inputs, ctx.wide()) for a in block.adapters]


def layer_parts(ctx: Context, block: Block, *, mixers: bool = False) -> list[Part]:
    """The layer's regions in order; a parallel block is one region where its sums are reduced once.
    ``mixers``: of its attention and recurrence alone."""
    found: list[Part] = []
    how = block.stored
    if block.attention is not None:
        before, output, inputs = attention.projections(ctx, block.attention, how)
        chosen = attention.indexer(ctx, block.attention, how)
        core = attention.core(ctx, block.attention)
        found.append(
            Part(
                "attention",
                _norm(ctx, block, "attention"),
                [*before, *chosen, *core, *output],
                inputs,
                output[-1].name,
                block.attention,
            )
        )
    if block.recurrent is not None:
        ops, inputs = recurrent.mixer(ctx, block.recurrent, how)
        name = block.recurrent.title
        norm = _norm(ctx, block, name)
        if found:  # both mixers read what one norm has made
            norm = norm._replace(count=0)
        found.append(Part(name, norm, ops, inputs, ops[-1].name, recurrent=block.recurrent))
    if not mixers and (block.mlp is not None or block.moe is not None):
        dense = (
            mlp.dense(ctx, block.mlp, "mlp", (how.up, how.down)) if block.mlp is not None else []
        )
        routed = mlp.moe(ctx, block.moe, how) if block.moe is not None else []
        ops = dense + routed
        # one input, one gradient of it: the first product to read it stands for all
        products = [op.name for op in ops if op.kind == "gemm" and op.name != "moe.router"]
        name = "moe" if routed else "mlp"
        alone = block.moe is not None and block.moe.shared is None and not dense
        inputs = [(products[0], ctx.model.hidden)]
        found.append(Part(name, _norm(ctx, block, name), ops, inputs, products[-1], alone=alone))
    if found and block.adapters:
        found[0] = found[0]._replace(outside=tuple(_adapters(ctx, block)))
    if ctx.stack.overlaps.overlap == "split":
        cut = overlap_pieces(ctx)
        found = [
            p._replace(norm=parted(p.norm, cut), compute=[parted(op, cut) for op in p.compute])
            for p in found
        ]
    if block.parallel and len(found) == 2 and ctx.stack.communication.parallel_block_one_all_reduce:
        a, f = found
        ops = [*a.compute, *f.compute]
        return [Part("block", a.norm, ops, a.inputs[:1], f.last, block.attention)]
    return found


def overlap_pieces(ctx: Context) -> Array:
    """Parts (1 or 2) that the tokens are cut into, so that one computes while another communicates: 2 under
    ``overlap="split"``, where there are two tokens to part. One value per layout.
    """
    if ctx.stack.overlaps.overlap != "split" or ctx.stack.ideal:
        return np.int64(1)
    return np.where(ctx.sequences * ctx.queries >= 2, 2, 1)


def _shape(ctx: Context, part: Part) -> tuple[Array, Array, Array]:
    """(has the part a TP group, does it run sequence-parallel, calls that one reduction is cut into).

    Routed experts that exchange their tokens under sequence parallelism take them from the sharded
    region and give them back to it: nothing is gathered around them, but for shared experts.
    """
    tp = ctx.layout.tp > 1
    if part.alone:
        tp = tp & ~(mlp.exchanges_tokens(ctx) & ctx.layout.sequence_parallel)
    return tp, ctx.layout.sequence_parallel & tp, overlap_pieces(ctx)


def forward(ctx: Context, part: Part) -> list[Op]:
    """Norm, gather (sequence parallel), compute, reduce."""
    tp, sp, cut = _shape(ctx, part)
    w = ctx.widths
    payload = ctx.tokens * ctx.model.hidden * w.comm / cut
    first = part.inputs[0][0]
    plain, sharded = np.where(tp & ~sp, cut, 0), np.where(sp, cut, 0)
    return [
        *part.outside,
        part.norm,
        collective_op(
            f"{part.name}.input",
            "all_gather",
            "tp",
            w.comm_dtype,
            payload,
            count=sharded,
            phase="forward",
            hides_under=first,
        ),
        *part.compute,
        *_context_exchange(ctx, part, "forward"),
        collective_op(
            f"{part.name}.output",
            "all_reduce",
            "tp",
            w.comm_dtype,
            payload,
            count=plain,
            phase="forward",
            hides_under=part.last,
        ),
        collective_op(
            f"{part.name}.output",
            "reduce_scatter",
            "tp",
            w.comm_dtype,
            payload,
            count=sharded,
            phase="forward",
            hides_under=part.last,
        ),
    ]


def backward(ctx: Context, part: Part) -> list[Op]:
    """Gradients in reverse order, with the reductions of the input gradients.

    ``hides_under`` of an input gradient's reduction is the same product's weight gradient.
    """
    tp, sp, cut = _shape(ctx, part)
    w = ctx.widths
    payload = ctx.tokens * ctx.model.hidden * w.comm / cut
    plain, sharded = np.where(tp & ~sp, cut, 0), np.where(sp, cut, 0)
    fused = ctx.stack.kernels.attention == "flash" and not ctx.stack.ideal
    # the output's gradient, whole again where it is sharded
    ops = [
        collective_op(
            f"{part.name}.output_grad",
            "all_gather",
            "tp",
            w.comm_dtype,
            payload,
            count=sharded,
            phase="dgrad",
            hides_under=f"{part.last}:dgrad",
        )
    ]
    # each operation's own backward, from the last to the first
    for op in reversed(part.compute):
        if op.kind == "attention":
            ops.append(attention.core_gradient(op, fused))
        elif op.kind == "recurrence":
            ops.append(recurrent.scan_gradient(op))
        elif op.kind in ("gemm", "elementwise"):
            ops.extend(gradients_of(op, w.activation, w.gradient))
        else:
            ops.append(op._replace(phase="dgrad", kind=_WAY_BACK.get(op.kind, op.kind)))
    ops += _context_exchange(ctx, part, "dgrad")
    # the sums of input gradients that are partial on each rank
    for name, features in part.inputs:
        piece = ctx.tokens * features * w.comm / cut
        under = f"{name}:wgrad"
        if features != ctx.model.hidden:
            # MLA's latents are reduced whole, whatever happens outside the region
            latent = np.where(tp, cut, 0)
            ops.append(
                collective_op(
                    f"{name}.input_grad",
                    "all_reduce",
                    "tp",
                    w.comm_dtype,
                    piece,
                    count=latent,
                    phase="dgrad",
                    hides_under=under,
                )
            )
            continue
        ops.append(
            collective_op(
                f"{name}.input_grad",
                "all_reduce",
                "tp",
                w.comm_dtype,
                piece,
                count=plain,
                phase="dgrad",
                hides_under=under,
            )
        )
    ops.append(
        collective_op(
            f"{part.name}.input_again",
            "all_gather",
            "tp",
            w.comm_dtype,
            payload,
            count=sharded,
            phase="wgrad",
            hides_under=f"{part.inputs[0][0]}:dgrad",
        )
    )
    ops.append(
        collective_op(
            f"{part.name}.input_grad",
            "reduce_scatter",
            "tp",
            w.comm_dtype,
            payload,
            count=sharded,
            phase="dgrad",
            hides_under=f"{part.inputs[0][0]}:wgrad",
        )
    )
    # the norm before the region
    ops += gradients_of(part.norm, w.activation, w.gradient)
    for op in reversed(part.outside):
        ops += gradients_of(op, w.activation, w.gradient)
    return ops


def _context_exchange(ctx: Context, part: Part, phase: str) -> list[Op]:
    """Context parallelism gathers keys and values of the whole sequence (and reduces their gradients);
    in decode the queries travel instead. A recurrence gets whole sequences of some heads."""
    if part.recurrent is not None:
        return recurrent.head_exchange(ctx, part.recurrent, phase)
    if part.attention is None or part.attention.shared_kv:
        return []
    if ctx.phase == "decode":
        return attention.decode_exchange(ctx, part.attention)
    w = ctx.widths
    kv_bytes = (
        ctx.sequences * ctx.keys * part.attention.local_cached_width(ctx.layout.tp) * w.activation
    )
    count = np.where(ctx.layout.cp > 1, 1, 0)
    name = "attention.kv"
    under = "attention.core" + (":dgrad" if phase == "dgrad" else "")
    gather = collective_op(
        name,
        "all_gather",
        "cp",
        w.activation_dtype,
        kv_bytes,
        count=count,
        phase=phase,
        hides_under=under,
    )
    if phase == "forward":
        return [gather]
    return [gather, gather._replace(name="attention.kv_grad", kind="reduce_scatter")]


def _unneeded(part: Part) -> str:
    """The product whose result no gradient needs: the last of a dense MLP. That of experts is weighted by the
    router, whose gradient needs it."""
    return part.last if part.name == "mlp" else ""


def recomputed(ctx: Context, part: Part, is_last: bool) -> list[Op]:
    """What activation recomputation does again before the part's backward.

    Full: the whole forward, collectives included; a checkpoint that stops early leaves out the
    layer's last reduction, and the product before it. Selective: see :mod:`meshwise.program.layers.recomputed`.
    """
    full = np.where(ctx.recompute == 2, ctx.recomputed_layers_share, 0)
    selective = np.where(ctx.recompute == 1, 1, 0)
    ops = []
    for op in forward(ctx, part):
        count = op.count * full
        stops = is_last and ctx.stack.memory.recompute_early_stop
        if stops and op.name in (f"{part.name}.output", _unneeded(part)):
            count = op.count * 0
        share = modules.recomputed_share(op, ctx.stack)
        if share:
            count = count + op.count * (selective * share)
        ops.append(op._replace(phase="recompute", count=count, model_flops=0.0))
    return ops


def mixers(ctx: Context, block: Block) -> list[Op]:
    """What a layer's attention and recurrence compute forward, for one microbatch."""
    return [op for part in layer_parts(ctx, block, mixers=True) for op in part.compute]


def layer(ctx: Context, block: Block) -> list[Op]:
    """All operations of one layer for one microbatch, in the order they run."""
    regions = layer_parts(ctx, block)
    ops = [op for part in regions for op in forward(ctx, part)]
    if not ctx.training:
        return ops
    for i, part in enumerate(regions):
        ops += recomputed(ctx, part, is_last=i == len(regions) - 1)
    for part in reversed(regions):
        ops += backward(ctx, part)
    local = local_block_weights(block, ctx.model.hidden, ctx.layout)
    gather, back = sharding.gathers(ctx, local)
    return [*gather, *ops, *back, *sharding.accumulation(ctx, local)]
