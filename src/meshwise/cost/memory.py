"""Bytes by part on one device.

Activations after Korthikanti et al. 2022 (arXiv 2205.05198, equations 1-6), generalised to gated
FFNs, grouped-query attention and experts by counting the tensors that backward reads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from meshwise.cost.schedule import in_flight
from meshwise.program.context import Context
from meshwise.program.update import ADAM_STATE_BYTES, per_replica, stage_weights
from meshwise.program.weights import Role
from meshwise.spec.model import Attention, Block, Mlp

Array = Any


class State(NamedTuple):
    """Bytes that stay from step to step: they depend on how the weights are divided."""

    weights_bytes: Array
    gradients_bytes: Array
    optimizer_bytes: Array

    @property
    def total(self) -> Array:
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes


class Working(NamedTuple):
    """Bytes that a step needs beside its state: they depend on how the tokens are divided."""

    activations_bytes: Array
    kv_cache_bytes: Array
    workspace_bytes: Array

    @property
    def total(self) -> Array:
        return self.activations_bytes + self.kv_cache_bytes + self.workspace_bytes


def attention_activations(ctx: Context, a: Attention) -> tuple[Array, Array]:
    """(bytes kept inside the TP region, bytes of the scores) per token row; scores are 0 if fused.

    Megatron's 11·s·b·h + 5·a·s²·b less the input and the output's mask: queries, keys, values and
    the core's output; per score softmax output, dropout mask and dropout output (2 + 1 + 2 bytes).
    """
    act, tp = ctx.widths.activation, ctx.layout.tp
    heads = -(-a.heads // tp)
    kv = heads if a.mla else -(-a.kv_heads // tp)
    kept = act * (
        heads * a.head_dim + kv * (a.head_dim + a.value_head_dim) + heads * a.value_head_dim
    )
    if a.mla:
        kept = kept + act * ((a.q_lora_rank or 0) + (a.kv_lora_rank or 0) + a.rope_head_dim)
    unfused = ctx.stack.attention != "flash"
    per_score = act + (1.0 + act if ctx.model.dropout else 0.0)
    scores = per_score * heads * ctx.keys * float(unfused)
    return kept, scores


def _mlp_activations(ctx: Context, mlp: Mlp, split: Array) -> Array:
    """Up (and gate) outputs and the down product's input, per token row."""
    return ctx.widths.activation * (3 if mlp.gated else 2) * -(-mlp.width // split)


def layer_activations(ctx: Context, block: Block) -> Array:
    """Bytes of one layer's activations for one microbatch, by recompute mode.

    none: sbh(10 + 24/t + 5as/(ht)); with sequence parallelism sbh/t(34 + 5as/h); selective: without
    the scores; full: the layer's input, 2sbh (equations 1-4 and section 5 of the paper).
    """
    act, tp, h = ctx.widths.activation, ctx.layout.tp, ctx.model.hidden
    outside = 0.0  # per token row: what sequence parallelism divides
    inside: Array = 0.0
    scores: Array = 0.0
    if block.attention is not None:
        # norm input, projection input, dropout mask after the output projection
        outside += h * (2 * act + (1.0 if ctx.model.dropout else 0.0))
        kept, scores = attention_activations(ctx, block.attention)
        inside = inside + kept
    if block.mlp is not None or block.moe is not None:
        outside += h * (2 * act + (1.0 if ctx.model.dropout else 0.0))
    if block.mlp is not None:
        inside = inside + _mlp_activations(ctx, block.mlp, tp)
    if block.moe is not None:
        moe = block.moe
        etp = ctx.layout.expert_tp()
        rows = moe.top_k * etp / tp
        inside = inside + rows * (act * h + _mlp_activations(ctx, moe.expert, etp))
        if moe.shared is not None:
            inside = inside + _mlp_activations(ctx, moe.shared, tp)
    tokens = ctx.tokens
    kept_all = tokens * (outside / ctx.token_split + inside)
    with_scores = kept_all + tokens * scores
    only_input = tokens * h * act / ctx.token_split
    return np.where(
        ctx.recompute == 2, only_input, np.where(ctx.recompute == 1, kept_all, with_scores)
    )


def activations(ctx: Context, role: Role) -> Array:
    """Peak bytes of activations on a stage: its layers times the microbatches in flight, one whole
    layer while it is recomputed, and the ends' inputs and logits."""
    layout = ctx.layout
    total: Array = 0.0
    largest: Array = 0.0
    none = ctx._replace(recompute=ctx.recompute * 0)
    for block, count in zip(ctx.model.blocks, role.layers, strict=True):
        total = total + count * layer_activations(ctx, block)
        largest = np.maximum(largest, layer_activations(none, block))
    flight = in_flight(ctx.stack.schedule, layout.pp, layout.vp, role.in_flight, ctx.microbatches)
    total = total * flight + np.where(ctx.recompute == 2, largest, 0.0)
    h, act = ctx.model.hidden, ctx.widths.activation
    ends = ctx.tokens / ctx.token_split * h * act * 2.0 * role.head
    logits = ctx.tokens * ctx.split(ctx.model.vocab) * (act + 4.0) * role.head
    return total + ends + logits


def kv_cache(ctx: Context, role: Role) -> Array:
    """Keys and values of every sequence; TP beyond the KV heads keeps copies (C38); MLA keeps one
    latent per token on every rank."""
    total: Array = 0.0
    for block, count in zip(ctx.model.blocks, role.layers, strict=True):
        a = block.attention
        if a is None:
            continue
        if a.mla:
            values: Array = (a.kv_lora_rank or 0) + a.rope_head_dim
        else:
            values = -(-a.kv_heads // ctx.layout.tp) * (a.head_dim + a.value_head_dim)
        held = float(min(ctx.keys, a.window or ctx.keys))
        total = total + count * ctx.sequences * held * values * ctx.widths.kv
    # context parallelism leaves each rank its share of the prompt
    return total / (ctx.layout.cp if ctx.phase == "prefill" else 1)


def state(ctx: Context, role: Role) -> State:
    """Weights, and in training gradients and Adam's state divided by the ZeRO stage."""
    layout, w = ctx.layout, ctx.widths
    local = stage_weights(ctx, role)
    if not ctx.training:
        q = ctx.model.quantization
        linear = w.plain_weight if q is not None and q.experts_only else w.weight
        weights = local.linear * linear + local.plain * w.plain_weight + local.experts * w.weight
        return State(weights, 0.0, 0.0)
    return State(
        per_replica(local, layout, layout.shard >= 3) * w.plain_weight,
        per_replica(local, layout, layout.shard >= 2) * w.gradient,
        per_replica(local, layout, layout.shard >= 1) * ADAM_STATE_BYTES,
    )


def working(ctx: Context, role: Role) -> Working:
    """Training: activations of the microbatches in flight. Inference: KV cache, the widest layer's
    activations, and the logits (16-bit and fp32) of the sequences' last tokens."""
    if ctx.training:
        return Working(activations(ctx, role), 0.0, 0.0)
    w, layout = ctx.widths, ctx.layout
    widest: Array = 0.0
    for block in ctx.model.blocks:
        for mlp in (block.mlp, block.moe.shared if block.moe else None):
            if mlp is not None:
                widest = np.maximum(widest, _mlp_activations(ctx, mlp, layout.tp))
        if block.moe is not None:
            expert = _mlp_activations(ctx, block.moe.expert, layout.expert_tp())
            widest = np.maximum(widest, block.moe.top_k * expert)
    rows = ctx.tokens if ctx.phase == "prefill" else ctx.sequences
    live = rows * (2 * ctx.model.hidden * w.activation + widest)
    vocab = ctx.split(ctx.model.vocab) * layout.tp  # padded
    logits = ctx.sequences * vocab * (w.activation + 4.0) * role.head
    return Working(live, kv_cache(ctx, role), logits)


def fullest_stage(ctx: Context, stages: tuple[Role, ...]) -> Array:
    """Bytes on the stage that needs most."""
    most: Array = 0.0
    for role in stages:
        most = np.maximum(most, (state(ctx, role).total + working(ctx, role).total) * role.exists)
    return most
