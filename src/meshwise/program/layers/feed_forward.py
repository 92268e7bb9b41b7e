"""Feed-forward parts of one layer: a dense MLP, and routed experts."""

from __future__ import annotations

import numpy as np

from meshwise.arrays import Array
from meshwise.models.shapes import LayerFormats, Mlp, Moe, Stored
from meshwise.program.context import Context
from meshwise.program.layers.experts import fullest_rank, visited
from meshwise.program.operations import (
    Kernel,
    Op,
    Operands,
    TokenCopies,
    collective_op,
    elementwise,
    gemm,
)

_Pair = tuple[Stored | None, Stored | None]  # how up and down are stored


def activation_traffic(ctx: Context, rows: Array, width: Array, gated: bool) -> Array:
    """Bytes that the activation function reads and writes over ``rows`` × ``width`` values, in one fused pass
    or several.
    """
    values = 3.0 if gated else 2.0
    if gated and not ctx.stack.kernels.fused_elementwise:
        values += 2.0  # the gate's product in a pass of its own; a bias is the product's epilogue
    return values * rows * width * ctx.widths.activation


# Bytes per value of a gated activation of experts with biases (gpt-oss), written out in fp32: gate and up get
# their biases (8) and are widened (12) and limited (16), the gate's sigmoid (8) times it (12), up with its
# offset (8), their product (12), narrowed (6); and the bias of what they are multiplied to (4).
_BIASED_GATE = 86.0


def _expert_activation(ctx: Context, rows: Array, width: Array, expert: Mlp) -> Array:
    """Bytes that the experts' activation moves; training's kernels fuse none with biases, which differ by
    expert. Inferred from published steps of gpt-oss, whose products alone take two thirds of them."""
    if ctx.training and expert.gated and expert.up_bias and not ctx.stack.ideal:
        return _BIASED_GATE * rows * width
    return activation_traffic(ctx, rows, width, expert.gated)


def dense(ctx: Context, mlp: Mlp, prefix: str, stored: _Pair) -> list[Op]:
    """Up (with gate), activation, down: column- then row-parallel over tp."""
    width = ctx.split(mlp.width)
    first, last = (ctx.operands(how) for how in stored)
    up = f"{prefix}.gate_up" if mlp.gated else f"{prefix}.up"
    moved = activation_traffic(ctx, ctx.tokens, width, mlp.gated)
    return [
        gemm(up, ctx.tokens, (2 if mlp.gated else 1) * width, ctx.model.hidden, first),
        elementwise(f"{prefix}.activation", ctx.widths.activation_dtype, moved),
        gemm(f"{prefix}.down", ctx.tokens, ctx.model.hidden, width, last),
    ]


def routed_tokens(ctx: Context) -> Array:
    """Tokens per microbatch of this rank that enter the router after TP's share of them: see :func:`moe`."""
    layout = ctx.layout
    return ctx.tokens * layout.expert_tp() / layout.tp


def exchanges_tokens(ctx: Context) -> Array:
    """Whether experts get their tokens from other ranks (by the stack's dispatcher).

    In training with ep > 1, and in inference where the experts' grid is larger than the TP group;
    an engine whose TP ranks all hold all tokens just computes its own experts and reduces.
    """
    layout = ctx.layout
    if ctx.training:
        return layout.ep > 1
    return (layout.ep > 1) & (layout.ep * layout.expert_tp() > layout.tp)


def gathers_replicas(ctx: Context) -> Array:
    """Whether an expert's shards span attention replicas in inference: attention data parallelism with
    etp > tp.

    The etp ranks of an expert then serve etp / tp replicas, each with tokens of its own, and a shard
    needs them all: the replicas' inputs are gathered over etp (the result: etp / tp · tokens · hidden)
    before the experts or their dispatch over ep, and the partial outputs summed and scattered after
    them. What tp's own reductions around that do is priced as for any other layer, so that for tp > 1
    a fused gather (SGLang's) sends less by one pass within tp each way.
    """
    layout = ctx.layout
    if ctx.training:
        return np.bool_(False)
    return layout.expert_tp() > layout.tp


def shares_a_product(ctx: Context, moe: Moe, stored: LayerFormats) -> Array:
    """Where the shared expert is one more of the grouped products, which every token visits: SGLang's
    engine without expert parallelism, if it is as wide as a routed one and stored alike."""
    alike = (
        ctx.stack.kernels.fuses_shared_expert
        and not ctx.training
        and moe.shared == moe.expert
        and not moe.shared_gate
        and (stored.shared_up, stored.shared_down) == (stored.expert_up, stored.expert_down)
    )
    return np.bool_(alike) & (ctx.layout.ep == 1)


def _fullest(ctx: Context, moe: Moe) -> tuple[Array, Array]:
    """(rows of the fullest rank of the experts over the mean, share of its experts that have any)."""
    tokens, ep = routed_tokens(ctx) * ctx.layout.ep, ctx.layout.ep
    if ctx.expert_imbalance is None:
        return fullest_rank(moe.experts, moe.top_k, ep, tokens, ctx.expert_skew)
    fullest = np.minimum(ctx.expert_imbalance, ep)
    return fullest, visited(moe.experts, moe.top_k, tokens * fullest, ctx.expert_skew)


def _on_deep_gemm(ctx: Context, formats: Operands) -> Array:
    """Whether the engine asks DeepGEMM for the experts' products, on devices of some generations."""
    few = ctx.stack.few_rows
    if ctx.training or not few.deep_gemm_experts or formats.dtype != "fp8_block":
        return np.bool_(False)
    return np.asarray(ctx.layout.expert_tp() < few.deep_gemm_tp)


def moe(ctx: Context, moe: Moe, stored: LayerFormats) -> list[Op]:
    """Router, dispatch, grouped products of the experts, combine; shared experts beside them.

    Expert grid etp · ep · expert-dp on the ranks of tp · cp · dp: a rank computes
    tokens · top_k · etp / tp rows with width / etp over its experts / ep experts, times the imbalance
    of the fullest rank: the workload's, or what its experts' popularity makes of it.
    """
    w, layout = ctx.widths, ctx.layout
    h = moe.latent or ctx.model.hidden  # the width in which experts get their tokens
    etp = layout.expert_tp()
    local = moe.experts / layout.ep
    exchange = exchanges_tokens(ctx)
    fused = shares_a_product(ctx, moe, stored)
    # of a token's choices those that have weights
    chosen = moe.top_k * moe.experts / (moe.experts + moe.zero_experts)
    # a layer ends with its fullest rank: its rows, where experts are spread over ranks
    fullest, share = _fullest(ctx, moe)
    rows = routed_tokens(ctx) * (chosen + fused) * fullest
    width = -(-moe.expert.width // etp)
    gated = moe.expert.gated
    router = gemm(
        "moe.router",
        ctx.tokens / ctx.token_split,
        # the shared expert's gate is one more column
        moe.experts + moe.zero_experts + moe.shared_gate,
        ctx.model.hidden,
        ctx.wide(),
    )
    # a grouped product is of the visited experts, and reads their weights alone
    experts = local * share + fused
    name = "moe.experts.gate_up" if gated else "moe.experts.up"
    up_width = (2 if gated else 1) * width
    first, last = ctx.operands(stored.expert_up), ctx.operands(stored.expert_down)
    asked = _on_deep_gemm(ctx, first)
    up = gemm(name, rows / experts, up_width, h, first, batch=experts)
    down = gemm("moe.experts.down", rows / experts, h, width, last, batch=experts)
    up, down = (
        op._replace(
            flops=whole, model_flops=whole, kernel=Kernel.EXPERTS, held=local, deep_gemm=asked
        )  # without the division's rounding
        for op, whole in ((up, 2.0 * rows * up_width * h), (down, 2.0 * rows * h * width))
    )
    payload = rows * h * w.activation
    gathers = ctx.stack.communication.dispatcher == "allgather" and not ctx.stack.ideal
    there, back_again = ("all_gather", "reduce_scatter") if gathers else ("all_to_all",) * 2
    if gathers:  # every rank's tokens on all of them, once
        payload = routed_tokens(ctx) * layout.ep * h * w.activation
    # Where experts are split, each of their ranks exchanges its share of the rows, and the rows are
    # gathered and summed among them (Megatron-Core's all-to-all dispatcher).
    shares = etp if ctx.training else np.int64(1)
    swap = {
        "dtype": w.activation_dtype,
        "payload_bytes": payload / shares,
        "count": np.where(exchange, 1, 0),
        "phase": "forward",
    }
    among = {
        "dtype": w.activation_dtype,
        "payload_bytes": payload,
        "count": np.where(exchange & (shares > 1), 1, 0),
        "phase": "forward",
    }
    replicas = {
        "dtype": w.activation_dtype,
        "payload_bytes": ctx.tokens * etp / layout.tp * ctx.model.hidden * w.activation,
        "count": np.where(gathers_replicas(ctx), 1, 0),
        "phase": "forward",
    }
    moved = _expert_activation(ctx, rows, width, moe.expert)
    # decode's kernels send each copy by itself, for the latency
    by_node = (
        ctx.stack.communication.dispatcher not in ("alltoall", "allgather")
        and ctx.phase != "decode"
        and not ctx.stack.ideal
    )
    copies = TokenCopies(moe.experts, moe.top_k) if by_node else None
    # a copy per expert, and the copies' sum: each is the other's gradient
    spread, summed = 2.0 * rows * h * w.activation, (rows + ctx.tokens) * h * w.activation
    permute = elementwise("moe.permute", w.activation_dtype, spread)
    unpermute = elementwise("moe.unpermute", w.activation_dtype, summed)
    into, back = _latent(ctx, moe)
    ops = [
        collective_op("moe.replicas_in", "all_gather", "etp", **replicas),
        router,
        *into,
        permute._replace(gradient_bytes=summed),
        collective_op("moe.dispatch", there, "ep", **swap)._replace(copies=copies),
        collective_op("moe.gather", "all_gather", "etp", **among),
        up,
        elementwise("moe.activation", w.activation_dtype, moved),
        down,
        collective_op("moe.scatter", "reduce_scatter", "etp", **among),
        collective_op("moe.combine", back_again, "ep", **swap)._replace(copies=copies),
        collective_op("moe.replicas_out", "reduce_scatter", "etp", **replicas),
        unpermute._replace(gradient_bytes=spread),
        *back,
    ]
    if moe.shared is not None:
        pair = (stored.shared_up, stored.shared_down)
        alone = np.where(fused, 0, 1)
        beside = dense(ctx, moe.shared, "moe.shared", pair)
        ops.extend(op._replace(count=op.count * alone) for op in beside)
    return ops


def _latent(ctx: Context, moe: Moe) -> tuple[list[Op], list[Op]]:
    """Projections of a token's hidden state to the experts' width and back, whole on every rank."""
    if moe.latent is None:
        return [], []
    rows, h = ctx.tokens / ctx.token_split, ctx.model.hidden
    return (
        [gemm("moe.latent_down", rows, moe.latent, h, ctx.wide())],
        [gemm("moe.latent_up", rows, h, moe.latent, ctx.wide())],
    )
