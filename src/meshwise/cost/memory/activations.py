"""What a training step keeps for backward, counted tensor by tensor, and what it needs beside.

After Korthikanti et al. 2022 (arXiv 2205.05198, equations 1-6), generalised to gated FFNs,
grouped-query attention and experts by counting the tensors that backward reads. Megatron's stacks
follow the paper; others keep more or less, by the switches of :class:`~meshwise.stacks.stack.Stack`.
"""

from __future__ import annotations

import numpy as np

from meshwise.arrays import Array
from meshwise.models.layers.attention import Attention
from meshwise.models.layers.recurrent import Recurrent
from meshwise.models.parameters import attention_matrices
from meshwise.models.shapes import Block, Mlp
from meshwise.program.context import Context
from meshwise.program.layers import recurrent
from meshwise.program.layers.feed_forward import exchanges_tokens
from meshwise.program.layers.norms import written_out
from meshwise.stacks.training_state import EVERY_LAYER

FP32_BYTES = 4.0  # bytes


def kept_input_bytes(ctx: Context) -> float:
    """Bytes per value that backward keeps of a linear layer's input: as its product reads it where the
    stack keeps that (Transformer Engine), else in the activations' 16 bits."""
    w = ctx.widths
    return min(w.operand, w.activation) if ctx.stack.memory.keeps_narrow_inputs else w.activation


def attention_activation_bytes(ctx: Context, a: Attention) -> tuple[Array, Array]:
    """(bytes kept inside the TP region, bytes of the scores) per token row; scores are 0 if fused.

    Megatron's 11·s·b·h + 5·a·s²·b less the input and the output's mask: queries, keys, values and
    the core's output; per score softmax output, dropout mask and dropout output (2 + 1 + 2 bytes).
    Where the packed projection stays alive (its values are a view), rotated queries and keys are
    copies beside it. The core keeps its output for itself: a narrow copy for the projection is one more.
    """
    act, tp = ctx.widths.activation, ctx.layout.tp
    heads = -(-a.heads // tp)
    kv = heads if a.mla or ctx.stack.memory.expands_kv_heads else -(-a.kv_heads // tp)
    kept = act * (
        heads * a.head_dim + kv * (a.head_dim + a.value_head_dim) + heads * a.value_head_dim
    )
    if a.mla:
        kept = kept + act * ((a.q_lora_rank or 0) + (a.kv_lora_rank or 0) + a.rope_head_dim)
    elif ctx.stack.memory.packed_qkv and a.heads == a.kv_heads:
        kept = kept + act * (heads + kv) * a.head_dim
    if kept_input_bytes(ctx) < act:
        kept = kept + kept_input_bytes(ctx) * heads * a.value_head_dim
    unfused = ctx.stack.kernels.attention != "flash"
    # softmax written out widens the scores, and keeps its fp32 result beside the narrowed one
    widened = 0.0 if ctx.stack.kernels.fused_elementwise else FP32_BYTES
    per_score = act + widened + (1.0 + act if ctx.model.dropout else 0.0)
    scores = per_score * heads * ctx.keys * float(unfused)
    return kept, scores


def recurrent_activation_bytes(ctx: Context, r: Recurrent) -> Array:
    """Bytes per token row that a recurrent mixer keeps for backward on a rank: what its projections make,
    before and after the convolution, the scan's output before and after its gate; of the delta rule the
    inverse of each chunk. States are made again (flash-linear-attention, mamba_ssm)."""
    tp, act = ctx.layout.tp, ctx.widths.activation
    inner = -(-r.heads // tp) * r.value_dim
    column = [m for m in r.matrices(ctx.model.hidden) if m.how == "column"]
    made = sum(m.local_outputs(tp) for m in column)
    chunk = recurrent.SCAN_WORK[r.rule].chunk if "delta" in r.rule else 0
    kept = made + recurrent.local_channels(r, tp) + 2 * inner + -(-r.heads // tp) * chunk
    return act * kept


def mlp_activation_bytes(ctx: Context, mlp: Mlp, split: Array) -> Array:
    """Up (and gate) outputs and the down product's input: bytes per token row on a rank of ``split``; a
    gated activation in two operations keeps the activated gate too.
    """
    act = ctx.widths.activation
    tensors = (
        1 + mlp.gated + (mlp.gated and ctx.training and not ctx.stack.kernels.fused_elementwise)
    )
    down = kept_input_bytes(ctx) if ctx.training else act
    return (act * tensors + down) * -(-mlp.width // split)


def _norm_outside(ctx: Context, block: Block) -> tuple[float, float]:
    """(bytes of what a norm keeps of its input, of what the projections after it read) per row.

    A fused norm keeps its 16-bit input. An RMSNorm written out in fp32 keeps the widened input and
    the narrowed result before its weight; a LayerNorm (two vectors of parameters) is one kernel in
    every framework.
    """
    act, h = ctx.widths.activation, ctx.model.hidden
    streams = ctx.model.residual_streams
    kept = FP32_BYTES + act if written_out(ctx.stack, block, h) else act
    return streams * h * kept, h * kept_input_bytes(ctx)


def _whole_layer(ctx: Context, block: Block) -> tuple[Array, Array]:
    """(bytes, bytes of its scores) of one layer for one microbatch without recomputation."""
    tp, h = ctx.layout.tp, ctx.model.hidden
    before, projected = _norm_outside(ctx, block)
    mask = h * (1.0 if ctx.model.dropout else 0.0)
    # what sequence parallelism divides; gathered inputs that backward keeps are whole
    shared = ctx.token_split
    gathered = 1.0 if ctx.stack.memory.keeps_gathered_inputs else shared
    outside: Array = 0.0
    inside: Array = 0.0
    scores: Array = 0.0
    if block.attention is not None:
        # norm input, projection input, dropout mask after the output projection
        outside = outside + (before + mask) / shared + projected / gathered
        kept, scores = attention_activation_bytes(ctx, block.attention)
        inside = inside + kept
    if block.recurrent is not None:
        if block.attention is None:  # else both read one input
            outside = outside + (before + mask) / shared + projected / gathered
        inside = inside + recurrent_activation_bytes(ctx, block.recurrent)
    if block.mlp is not None or block.moe is not None:
        outside = outside + (before + mask) / shared + projected / gathered
    if block.mlp is not None:
        inside = inside + mlp_activation_bytes(ctx, block.mlp, tp)
    if block.moe is not None:
        moe = block.moe
        etp = ctx.layout.expert_tp()
        rows = moe.top_k * etp / tp
        inside = inside + rows * (
            kept_input_bytes(ctx) * (moe.latent or h) + mlp_activation_bytes(ctx, moe.expert, etp)
        )
        if moe.shared is not None:
            inside = inside + mlp_activation_bytes(ctx, moe.shared, tp)
    return ctx.tokens * (outside + inside), ctx.tokens * scores


def _by_products(ctx: Context, block: Block) -> Array:
    """Selective checkpointing by operation: the layer's input, every second product's output
    (counted from the first), attention's output, reductions and exchanges of tokens; nothing of the
    grouped products of experts.

    torchtitan's save list: mm but every second (grouped ones are another operation), attention,
    reduce_scatter, all_to_all (distributed/activation_checkpoint.py).
    """
    act, tp, h = ctx.widths.activation, ctx.layout.tp, ctx.model.hidden
    outs: list[Array] = []
    rows: Array = h / ctx.token_split
    if block.attention is not None:
        a = block.attention
        outs += [m.local_outputs(tp) for m in attention_matrices(a, h)]
        rows = rows + -(-a.heads // tp) * a.value_head_dim
    if block.recurrent is not None:
        outs += [m.local_outputs(tp) for m in block.recurrent.matrices(h)]
    if block.mlp is not None:
        outs += [-(-block.mlp.width // tp)] * (1 + block.mlp.gated) + [h]
    if block.moe is not None:
        moe, etp = block.moe, ctx.layout.expert_tp()
        # what the dispatch brings, and what the combination brings back
        rows = rows + np.where(exchanges_tokens(ctx), 2.0 * moe.top_k * etp / tp * h, 0.0)
        if moe.shared is not None:
            outs += [-(-moe.shared.width // tp)] * (1 + moe.shared.gated) + [h]
    for out in outs[::2]:
        rows = rows + out
    parts = _parts(block)
    reduced = np.where(ctx.layout.sequence_parallel & (tp > 1), parts * h / ctx.token_split, 0.0)
    return ctx.tokens * act * (rows + reduced)


def _but_passes(ctx: Context, block: Block) -> Array:
    """Checkpointing of passes alone: the layer's input, attention's output, and what products make, but for
    the last one's, which is only added to the next layer's input.

    jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims; custom calls, such as fused attention, keep
    what they save.
    """
    act, tp, h = ctx.widths.activation, ctx.layout.tp, ctx.model.hidden
    residual = h / ctx.token_split
    rows: Array = residual
    if block.attention is not None:
        a = block.attention
        rows = rows + -(-a.heads // tp) * a.value_head_dim
        columns = [m for m in attention_matrices(a, h) if m.how == "column"]
        rows = rows + sum(m.local_outputs(tp) for m in columns) + residual
    if block.recurrent is not None:
        rows = rows + sum(m.local_outputs(tp) for m in block.recurrent.matrices(h))
    moe = block.moe
    for mlp in (block.mlp, moe.shared if moe else None):
        if mlp is not None:
            rows = rows + (1 + mlp.gated) * -(-mlp.width // tp)
    if moe is not None:
        etp = ctx.layout.expert_tp()
        each = (1 + moe.expert.gated) * -(-moe.expert.width // etp) + (moe.latent or h)
        rows = rows + moe.top_k * etp / tp * each
    return ctx.tokens * act * rows


def _parts(block: Block) -> int:
    """Regions between residual additions."""
    mixers = block.attention is not None or block.recurrent is not None
    return mixers + (block.mlp is not None or block.moe is not None)


def _dropped(ctx: Context, block: Block) -> Array:
    """Bytes that a layer does without where the stack's modules run again: of a norm what the products
    read, of an activation what it makes, of a whole MLP or its experts all but their input, of MLA's
    up-projections queries, keys and values."""
    chosen, act, h, tp = (
        ctx.stack.memory.recompute_modules,
        ctx.widths.activation,
        ctx.model.hidden,
        ctx.layout.tp,
    )
    per_row: Array = 0.0
    read = kept_input_bytes(ctx)
    a, moe = block.attention, block.moe
    if "layernorm" in chosen:
        parts = _parts(block)
        parts = 1 if block.parallel else parts
        gathered = 1.0 if ctx.stack.memory.keeps_gathered_inputs else ctx.token_split
        per_row = per_row + parts * h * read / gathered
    if a is not None and a.mla and "mla_up_proj" in chosen:
        per_row = per_row + act * -(-a.heads // tp) * (2 * a.head_dim + a.value_head_dim)
    if block.mlp is not None and "mlp" in chosen:
        per_row = per_row + mlp_activation_bytes(ctx, block.mlp, tp)
    if moe is not None:
        etp = ctx.layout.expert_tp()
        rows = moe.top_k * etp / tp
        if "moe" in chosen:
            per_row = per_row + rows * (read * h + mlp_activation_bytes(ctx, moe.expert, etp))
        elif "moe_act" in chosen:
            per_row = per_row + rows * read * -(-moe.expert.width // etp)
        if moe.shared is not None and {"moe", "shared_experts"} & set(chosen):
            per_row = per_row + mlp_activation_bytes(ctx, moe.shared, tp)
    return ctx.tokens * per_row


def layer_activation_bytes(ctx: Context, block: Block) -> Array:
    """Bytes of one layer's activations on a rank for one microbatch, by recompute mode.

    none: sbh(10 + 24/t + 5as/(ht)); with sequence parallelism sbh/t(34 + 5as/h); selective: without
    the scores, or what operation-wise checkpointing keeps; full: the layer's input, 2sbh (Korthikanti
    et al. 2022, arXiv 2205.05198, equations 1-4 and section 5; 16-bit activations with dropout there,
    here the model's and the stack's own).
    """
    kept, scores = _whole_layer(ctx, block)
    if ctx.stack.memory.selective_recompute == "products":
        selective = _by_products(ctx, block)
    elif ctx.stack.memory.selective_recompute == "passes":
        selective = _but_passes(ctx, block)
    else:
        selective = kept - _dropped(ctx, block)
        if "core_attn" not in ctx.stack.memory.recompute_modules:
            selective = selective + scores
    width = ctx.model.hidden * ctx.model.residual_streams
    only_input = ctx.tokens * width * ctx.widths.activation / ctx.token_split
    again = ctx.recomputed_layers_share
    full = only_input
    if ctx.stack.state.recompute_layers < EVERY_LAYER:
        full = only_input * again + (kept + scores) * (1.0 - again)
    return np.where(
        ctx.recompute == 2, full, np.where(ctx.recompute == 1, selective, kept + scores)
    )


def layer_backward_bytes(ctx: Context, block: Block) -> Array:
    """Bytes beside the kept ones while one layer's backward runs: what it recomputes, and the
    gradients of its tensors.

    Of gradients: the residual's and the layer input's; of the wider half, those of its inner tensors
    (activation's input and output; queries, keys, values and core output; of unfused attention the
    scores' before and after softmax). Sequence parallelism gathers an input or gradient at a time.
    """
    act, tp, h = ctx.widths.activation, ctx.layout.tp, ctx.model.hidden
    kept, scores = _whole_layer(ctx, block)
    recomputed = kept + scores - layer_activation_bytes(ctx, block)
    widest: Array = 0.0
    if block.attention is not None:
        a = block.attention
        inner, _ = attention_activation_bytes(ctx, a)
        # gradients before and after the softmax, which is fp32 where it is written out
        width = act if ctx.stack.kernels.fused_elementwise else FP32_BYTES
        unfused = 2.0 * width * float(ctx.stack.kernels.attention != "flash")
        widest = inner + unfused * -(-a.heads // tp) * ctx.keys
    if block.recurrent is not None:
        widest = widest + recurrent_activation_bytes(ctx, block.recurrent)
    if block.mlp is not None:
        wide = act * (2 + block.mlp.gated) * -(-block.mlp.width // tp)
        widest = np.maximum(widest, wide)
    if block.moe is not None:
        moe, etp = block.moe, ctx.layout.expert_tp()
        wide = act * (2 + moe.expert.gated) * -(-moe.expert.width // etp)
        widest = np.maximum(widest, moe.top_k * etp / tp * (wide + act * h))
    residual = 2 * act * h / ctx.token_split
    gathered = np.where(ctx.layout.sequence_parallel & (tp > 1), act * h, 0.0)
    return recomputed + ctx.tokens * (widest + residual + gathered)


def head_activation_bytes(ctx: Context) -> Array:
    """Bytes per microbatch of the inputs of the final norm and of the output product, on a rank."""
    gathered = 1.0 if ctx.stack.memory.keeps_gathered_inputs else ctx.token_split
    width = ctx.model.hidden * ctx.widths.activation
    return ctx.tokens * width / ctx.token_split + ctx.tokens * width / gathered


def loss_bytes(ctx: Context) -> Array:
    """Bytes of logits, their fp32 copies, softmax and gradient at the loss's peak, on a rank.

    Of a chunk of the tokens (``loss_chunks``), ``loss_peak_bytes`` of the stack per logit; with several
    chunks beside it what they add up, the gradient of the head's weight (its sum, and the chunk's) and of
    the loss's input.
    """
    alone, split = ctx.stack.memory.loss_peak_bytes, ctx.stack.memory.loss_peak_bytes_tp
    per_logit = alone if split is None else np.where(ctx.layout.tp > 1, split, alone)
    chunks = ctx.loss_chunks
    rows = ctx.vocabulary * (ctx.layout.tp if ctx.stack.kernels.whole_logits else 1)
    logits = ctx.tokens / chunks * rows * per_logit
    return logits + np.where(chunks > 1, _summed_over_chunks(ctx), 0.0)


def _summed_over_chunks(ctx: Context) -> Array:
    width = ctx.model.embedding_dim or ctx.model.hidden
    return width * (ctx.vocabulary * ctx.widths.plain_weight + ctx.tokens * FP32_BYTES)
