"""Bytes by part on one device: peak allocated, that is without the allocator's cache, the CUDA
context and the collectives' buffers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.cost.memory import activations as act
from meshwise.cost.schedule import in_flight_microbatches
from meshwise.layouts.layout import Layouts
from meshwise.layouts.rules.case import hides_experts
from meshwise.models.formats import unquantised
from meshwise.models.shapes import Model
from meshwise.program.context import Context, context
from meshwise.program.layers import attention, recurrent
from meshwise.program.sharding import scatters_every_microbatch
from meshwise.program.stored import stage_bytes, tower_bytes
from meshwise.program.update import offloaded_share, optimizer_bytes, sharded_weights, stage_weights
from meshwise.program.weights import Role, end_weights, local_block_weights, roles
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Decode, Formats


class StateBytes(NamedTuple):
    """Bytes that stay from step to step: they depend on how the weights are divided."""

    weights_bytes: Array
    gradients_bytes: Array
    optimizer_bytes: Array
    towers_bytes: Array = 0.0  # weights of encoders of images and sounds

    @property
    def total(self) -> Array:
        language = self.weights_bytes + self.gradients_bytes + self.optimizer_bytes
        return language + self.towers_bytes


class WorkingBytes(NamedTuple):
    """Bytes that a step needs beside its state: they depend on how the tokens are divided."""

    activations_bytes: Array
    kv_cache_bytes: Array
    workspace_bytes: Array

    @property
    def total(self) -> Array:
        return self.activations_bytes + self.kv_cache_bytes + self.workspace_bytes


def kept_activation_bytes(ctx: Context, role: Role) -> Array:
    """Bytes that backward reads on a stage, at their peak: its layers' times the microbatches in
    flight, and the head's inputs; where a microbatch's forward runs beside another's backward, a layer
    of the one before the other's is free."""
    layout = ctx.layout
    total: Array = 0.0
    widest: Array = 0.0
    for block, count in zip(ctx.model.blocks, role.layers, strict=True):
        own = act.layer_activation_bytes(ctx, block)
        total = total + count * own
        widest = np.maximum(widest, own * np.minimum(count, 1))
    flight = in_flight_microbatches(
        ctx.stack.pipeline.schedule, layout.pp, layout.vp, role.in_flight, ctx.microbatches
    )
    beside = widest * (hides_experts(ctx.stack, layout) & (ctx.microbatches > 1))
    kept = total * flight
    if ctx.stack.state.offload_layers:
        away = offloaded_share(ctx, role)
        # a layer leaves, or comes back, while the next one is at work
        beside = beside + 2.0 * widest * np.minimum(away * flight, 1.0)
        kept = kept * (1.0 - away)
    return kept + beside + act.head_activation_bytes(ctx) * role.head


def gathered_units_bytes(ctx: Context, role: Role) -> Array:
    """16-bit copies that ZeRO-3 and FSDP make of sharded weights, and whole gradients before they are
    scattered.

    Two layers' weights (the one at work, the next prefetched) and one layer's gradients, in the
    format that they are reduced in beside the one that they come in; both ends' weights, a group
    that stays gathered (FSDP2: the root module), and the head's gradient. With a pipeline FSDP2
    keeps the stage gathered and adds up whole gradients (torchtitan: reshard_after_forward off,
    gradients synchronised with the last microbatch).
    """
    layout, w = ctx.layout, ctx.widths
    shards = layout.dp * layout.cp
    if np.ndim(layout.shard) == 0 and int(layout.shard) < 3:
        return 0.0
    largest: Array = 0
    for block, count in zip(ctx.model.blocks, role.layers, strict=True):
        local = local_block_weights(block, ctx.model.hidden, layout)
        held = local.dense + local.experts
        largest = np.maximum(largest, held * np.minimum(count, 1))
    embed, head = end_weights(ctx.model, layout, ctx.vocabulary)
    # FSDP2 gathers FP8 training's linear weights in FP8 (torchao's fp8 all-gather)
    narrow = w.operand if ctx.stack.memory.fp32_parameters else w.plain_weight
    ends = (embed * role.embedding + 2 * head * role.head) * w.plain_weight
    one = largest * (3 * narrow + w.gradient) + ends
    if ctx.stack.memory.fp32_parameters:
        whole = stage_weights(ctx, role).total
        sums = np.where(ctx.microbatches > 1, w.gradient, 0.0)
        one = np.where(layout.pp > 1, whole * (narrow + sums) + largest * w.plain_weight, one)
    return np.where((layout.shard == 3) & (shards > 1), one, 0.0)


def transient_bytes(ctx: Context, role: Role) -> Array:
    """Bytes beside state and kept activations at a training step's peak.

    The peak is the last stage's loss, or the backward of a layer; where autograd leaves every weight
    a 16-bit gradient of its own, it may be the end of backward, when all of these are there and the
    microbatch's activations are gone.
    """
    extra: Array = 0.0
    for block, count in zip(ctx.model.blocks, role.layers, strict=True):
        extra = np.maximum(extra, act.layer_backward_bytes(ctx, block) * np.minimum(count, 1))
    extra = np.maximum(extra, act.loss_bytes(ctx) * role.head)
    if ctx.stack.memory.autograd_gradients and ctx.widths.gradient > ctx.widths.plain_weight:
        own: Array = 0.0
        for block, count in zip(ctx.model.blocks, role.layers, strict=True):
            own = own + count * act.layer_activation_bytes(ctx, block)
        fresh = stage_weights(ctx, role).total * ctx.widths.plain_weight
        extra = np.maximum(extra, fresh - own)
    return extra + gathered_units_bytes(ctx, role)


def kv_cache_bytes(ctx: Context, role: Role) -> Array:
    """Bytes of keys and values of every sequence of a replica on one rank of a stage, and of the states of
    recurrent layers, which do not grow with the context.

    TP beyond the KV heads keeps copies; MLA keeps one latent per token on every rank; a window holds no
    more than its keys; an indexer has a cache of its own; decode context parallelism divides all of
    these along the sequence, and context parallelism a prompt's. States are whole on each of those ranks.
    """
    total: Array = 0.0
    states: Array = 0.0
    for block, count in zip(ctx.model.blocks, role.layers, strict=True):
        a, r = block.attention, block.recurrent
        if r is not None:
            states = states + count * ctx.sequences * recurrent.recurrent_state_bytes(ctx, r)
        if a is None:
            continue
        values = a.local_cached_width(ctx.layout.tp)
        total = total + count * ctx.sequences * float(a.cached(ctx.keys)) * values * ctx.widths.kv
        if a.indexer is not None and a.indexer.own:
            kept = (
                float(ctx.keys // (a.compress or 1))
                * a.indexer.head_dim
                * attention.index_key_bytes(ctx, a.indexer)
            )
            total = total + count * ctx.sequences * kept
    # context parallelism leaves each rank its share of the prompt
    return total / ctx.layout.dcp / (ctx.layout.cp if ctx.phase == "prefill" else 1) + states


_LONG = 1 << 20  # tokens: beyond every window
_STEP = 1 << 14  # tokens: whole compressed entries


def model_cache_bytes(model: Model, stack: Stack) -> tuple[float, float]:
    """(bytes that the cache grows by with a token of a long context, bytes of a sequence's recurrent states)
    of all layers, on one device, in the cache's usual format."""
    one, formats, q = Layouts(tp=np.int64(1)), Formats(), model.quantization
    if (
        q is not None and q.weight_dtype == "unknown"
    ):  # how weights are stored is nothing to a cache
        model, formats = unquantised(model), Formats(kv_cache=q.kv_cache_dtype)
    held = []
    for tokens in (_LONG, _LONG + _STEP):
        ctx = context(model, stack, Decode(batch=1, context=tokens, formats=formats), one)
        held.append(float(kv_cache_bytes(ctx, roles(ctx.model, one)[0])))
    states = sum(
        count * float(recurrent.recurrent_state_bytes(ctx, block.recurrent))
        for block, count in zip(model.blocks, model.kind_counts(), strict=True)
        if block.recurrent is not None
    )
    return (held[1] - held[0]) / _STEP, states


def state_bytes(ctx: Context, role: Role) -> StateBytes:
    """Bytes on one rank of a stage: weights, and in training gradients and Adam's state divided by the ZeRO
    stage (Rajbhandari et al. 2020, arXiv 1910.02054).

    16-bit weights with fp32 master copies, or fp32 weights that are cast for the products (FSDP2);
    DistributedDataParallel's reducer has 16-bit buckets of all gradients of its own. Encoders of images
    and sounds are on every stage of an engine, which builds them whatever its stage; in training on the
    first one, frozen: weights alone, whole on every rank.
    """
    layout, w = ctx.layout, ctx.widths
    if not ctx.training:
        towers = tower_bytes(ctx.model, layout, w, ctx.stack.memory.shards_towers)
        weights = stage_bytes(ctx.model, role, layout, w, ctx.vocabulary)
        return StateBytes(weights, 0.0, 0.0, towers)
    local = stage_weights(ctx, role)
    weight, gradient, adam = w.plain_weight, w.gradient, optimizer_bytes(ctx.stack)
    masters = ctx.stack.state.master_weights
    if masters and (ctx.stack.memory.fp32_parameters or weight >= act.FP32_BYTES):
        # they are the master weights; an fp32 weight's gradient is fp32, in whatever it is reduced
        weight, gradient, adam = act.FP32_BYTES, act.FP32_BYTES, adam - act.FP32_BYTES
    elif not masters:
        gradient = np.minimum(gradient, weight)  # torch: a gradient has its weight's format
    divided = scatters_every_microbatch(layout) | (layout.shard >= 3)
    gradients = sharded_weights(local, layout, divided) * gradient
    kept = sharded_weights(local, layout, layout.shard >= 1) * adam
    weights = sharded_weights(local, layout, layout.shard >= 3) * weight
    if ctx.stack.state.offload_optimizer:  # DeepSpeed's and FSDP's go where the optimizer is
        gradients = np.where(divided, 0.0, gradients)
        kept = 0.0 * kept
        if ctx.stack.memory.fp32_parameters:
            weights = np.where(layout.shard >= 3, 0.0, weights)
    if ctx.stack.memory.gradient_buckets:
        reduced = local.dense * (layout.dp * layout.cp > 1) + local.experts * (
            layout.expert_dp() > 1
        )
        gradients = gradients + reduced * w.plain_weight
    return StateBytes(
        weights,
        gradients,
        kept,
        tower_bytes(ctx.model, layout, w, divided=False) * role.embedding,
    )


def working_bytes(ctx: Context, role: Role) -> WorkingBytes:
    """Bytes on one rank of a stage beside its state.

    Training: activations of the microbatches in flight, and what the peak needs beside them. Inference:
    KV cache, the widest layer's activations, and the logits (16-bit and fp32) of the sequences' last
    tokens.
    """
    if ctx.training:
        return WorkingBytes(kept_activation_bytes(ctx, role), 0.0, transient_bytes(ctx, role))
    w, layout = ctx.widths, ctx.layout
    widest: Array = 0.0
    gathered: Array = 1.0  # replicas whose tokens a rank holds
    for block in ctx.model.blocks:
        for mlp in (block.mlp, block.moe.shared if block.moe else None):
            if mlp is not None:
                widest = np.maximum(widest, act.mlp_activation_bytes(ctx, mlp, layout.tp))
        if block.moe is not None:
            expert = act.mlp_activation_bytes(ctx, block.moe.expert, layout.expert_tp())
            # an expert's shards across attention replicas work on the tokens of all of them
            joined = np.maximum(layout.expert_tp() / layout.tp, 1.0)
            widest = np.maximum(widest, block.moe.top_k * expert * joined)
            gathered = np.maximum(gathered, joined)
    rows = ctx.tokens if ctx.phase == "prefill" else ctx.sequences
    live = rows * (2 * ctx.model.hidden * w.activation * gathered + widest)
    vocab = ctx.vocabulary * layout.tp  # padded
    logits = ctx.sequences * vocab * (w.activation + 4.0) * role.head
    return WorkingBytes(live, kv_cache_bytes(ctx, role), logits)


def fullest_stage_bytes(ctx: Context, stages: tuple[Role, ...]) -> Array:
    """Bytes on a rank of the stage that needs most, state and working memory together; stages that a layout
    does not have count nothing.
    """
    most: Array = 0.0
    for role in stages:
        most = np.maximum(
            most, (state_bytes(ctx, role).total + working_bytes(ctx, role).total) * role.exists
        )
    return most
