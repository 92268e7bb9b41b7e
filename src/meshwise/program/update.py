"""Once per step: gradient reduction, optimizer, parameter gathers; and pipeline transfers."""

from __future__ import annotations

import numpy as np

from meshwise import dtypes
from meshwise.arrays import Array
from meshwise.layouts.layout import Layouts
from meshwise.models.parameters import (
    adapter_weights,
    attention_matrices,
    block_weights,
    embedding_weights,
    head_weights,
    router_weights,
)
from meshwise.program import launches
from meshwise.program.context import Context
from meshwise.program.operations import Op, collective_op, elementwise
from meshwise.program.sharding import scatters_every_microbatch
from meshwise.program.weights import (
    LocalWeights,
    Role,
    end_weights,
    layers_held,
    local_block_weights,
    tied_table,
)
from meshwise.stacks.stack import Stack

_FP32_BYTES = 4.0


# Moments per weight: Adam's two; momentum alone (SGD, Lion arXiv 2302.06675, Muon); Adafactor's rows and
# columns (arXiv 1804.04235), which are next to nothing.
_MOMENTS = {"adam": 2.0, "muon": 1.0, "lion": 1.0, "sgd": 1.0, "adafactor": 0.0}


def optimizer_bytes(stack: Stack) -> float:
    """Bytes per weight of the optimizer's state: an fp32 master weight, and of Adam the first and the
    second moment (ZeRO, arXiv 1910.02054, 3.1: 12), of which narrower optimizers keep less."""
    master = _FP32_BYTES if stack.state.master_weights else 0.0
    return (
        master + _MOMENTS[stack.state.optimizer] * dtypes.ELEMENT_BYTES[stack.memory.moments_dtype]
    )


def offloaded_share(ctx: Context, role: Role) -> Array:
    """Share of a stage's layers whose kept activations are in the host's memory."""
    if not ctx.stack.state.offload_layers:
        return 0.0
    held = np.maximum(sum(role.layers), 1)
    return np.minimum(ctx.stack.state.offload_layers / held, 1.0)


def stage_weights(ctx: Context, role: Role) -> LocalWeights:
    """Numbers of weights that one rank of a stage keeps, before any are divided over replicas."""
    linear: Array = 0
    plain: Array = 0
    experts: Array = 0
    for block, count in zip(ctx.model.blocks, role.layers, strict=True):
        local = local_block_weights(block, ctx.model.hidden, ctx.layout)
        held = layers_held(block, count)
        own = adapter_weights(block)
        linear = linear + local.linear * held
        plain = plain + (local.plain - own) * held + own * count
        experts = experts + local.experts * held
    embed, head = end_weights(ctx.model, ctx.layout, ctx.vocabulary)
    return LocalWeights(linear, plain + embed * role.embedding + head * role.head, experts)


def sharded_weights(local: LocalWeights, layout: Layouts, sharded: Array) -> Array:
    """Number of weights of a rank's share where ``sharded`` (elsewhere all of them): dense ones over dp · cp,
    experts over expert-dp.
    """
    dense = local.dense / np.where(sharded, layout.dp * layout.cp, 1)
    return dense + local.experts / np.where(sharded, layout.expert_dp(), 1)


def transfers(ctx: Context) -> list[Op]:
    """Activations to the next stage and their gradients back, per microbatch and virtual stage.

    The TP ranks of a stage hold the same values, but for sequence parallelism: with
    ``scatter_gather`` each sends its share and the receivers gather them (Narayanan et al. 2021,
    arXiv 2104.04473, section 4.1).
    """
    layout = ctx.layout
    w = ctx.widths
    whole = ctx.tokens / ctx.token_split * ctx.model.hidden * w.activation
    present = np.where(layout.pp > 1, layout.vp, 0)
    # what each TP rank sends of it
    shares: Array = np.int64(1)
    if ctx.stack.communication.scatter_gather and not ctx.stack.ideal:
        shares = np.where(layout.sequence_parallel, 1, layout.tp)
    gathered = np.where(shares > 1, present, 0)
    # activations onwards, gradients back; then gathered where they were sent in shares
    ops: list[Op] = []
    for name, phase in (("activation", "forward"), ("gradient", "dgrad")):
        if phase == "dgrad" and not ctx.training:
            continue
        send = collective_op(
            f"pipeline.{name}",
            "send_recv",
            "pp",
            w.activation_dtype,
            whole / shares,
            count=present,
            phase=phase,
        )
        ops.append(send)
        if ctx.stack.communication.scatter_gather:
            ops.append(
                collective_op(
                    f"pipeline.{name}",
                    "all_gather",
                    "tp",
                    w.activation_dtype,
                    whole,
                    count=gathered,
                    phase=phase,
                )
            )
    return ops


def update(ctx: Context, role: Role) -> list[Op]:
    """Gradient reduction by sharding stage, then Adam.

    Replicated optimizer: one all_reduce of the gradients (2Ψ on the wire). ZeRO-1: reduce_scatter
    of gradients and all_gather of weights (2Ψ), as a whole or by parameter; ZeRO-2 without a pipeline keeps no whole gradients,
    so that it scatters every microbatch's. (ZeRO, arXiv 1910.02054, section 7; ZeRO-3's are in
    :mod:`meshwise.program.sharding`.) Experts' gradients are summed over the expert-dp group, all
    others over dp · cp.
    """
    if not ctx.training:
        return []
    layout, w = ctx.layout, ctx.widths
    local = stage_weights(ctx, role)
    units = sharded_units(ctx, role)
    ops: list[Op] = []
    for name, weights, axis, size, apart in (
        ("dense", local.dense, "dp_cp", layout.dp * layout.cp, units[0]),
        ("experts", local.experts, "expert_dp", layout.expert_dp(), units[1]),
    ):
        if name == "experts" and all(b.moe is None for b in ctx.model.blocks):
            continue
        # of each sharding stage its collectives; a layout's others have count 0
        many = size > 1
        grads = weights * w.gradient
        values = weights * w.plain_weight
        plain = np.where(many & (layout.shard == 0), 1, 0)
        sharded = np.where(many & (layout.shard > 0) & (layout.shard < 3), 1, 0)
        often = np.where(scatters_every_microbatch(layout), ctx.microbatches, 1)
        ops += [
            collective_op(
                f"gradients.{name}",
                "all_reduce",
                axis,
                w.gradient_dtype,
                grads,
                count=plain,
                phase="grad_reduce",
            ),
            collective_op(
                f"gradients.{name}",
                "reduce_scatter",
                axis,
                w.gradient_dtype,
                grads / apart,
                count=sharded * often * apart,
                phase="grad_reduce",
            ),
            collective_op(
                f"weights.{name}",
                "all_gather",
                axis,
                w.activation_dtype,
                values / apart,
                count=sharded * apart,
                phase="grad_reduce",
            ),
        ]
    # gradients that are summed over other axes, then the pass of Adam
    ops += [*tensor_parallel_sums(ctx, role), *tied_sum(ctx, role)]
    # gradient, master and both moments read; master, moments and weight written
    per_weight = w.gradient + 2 * optimizer_bytes(ctx.stack) + w.plain_weight
    own = sharded_weights(local, layout, layout.shard >= 1)
    here = 0.0 if ctx.stack.state.offload_optimizer and not ctx.stack.ideal else 1.0
    ops.append(elementwise("optimizer.adam", "fp32", own * per_weight * here, phase="optimizer"))
    return ops


def sharded_units(ctx: Context, role: Role) -> tuple[Array, Array]:
    """In how many collectives of one size ZeRO-1 and ZeRO-2 scatter a stage's gradients and gather its
    weights (dense, experts'): one, or one for each parameter, those of the model's ends among them."""
    if not ctx.stack.state.shards_by_tensor or ctx.stack.ideal:
        return 1, 1
    dense: Array = role.embedding + 2 * role.head
    experts: Array = 0
    for block, count in zip(ctx.model.blocks, role.layers, strict=True):
        held = layers_held(block, count)
        dense = dense + launches.dense_tensors(ctx, block) * held
        experts = experts + launches.expert_tensors(ctx, block) * held
    return np.maximum(dense, 1), np.maximum(experts, 1)


def _shares(layout: Layouts) -> Array:
    """Ranks that what ZeRO-3 has scattered is divided over when its gradients are complete."""
    return np.where(layout.shard == 3, layout.dp * layout.cp, 1)


def tied_sum(ctx: Context, role: Role) -> list[Op]:
    """The gradient of a table that is embedding and head, each on a stage of its own: summed over the
    two (Megatron-LM's embedding group); under ZeRO-3 the replica's share of it."""
    model, layout = ctx.model, ctx.layout
    if not model.tied:
        return []
    end = np.maximum(role.embedding, role.head) * np.where(layout.pp > 1, 1, 0)
    w = ctx.widths
    table = tied_table(model, ctx.vocabulary) * w.gradient / _shares(layout)
    return [
        collective_op(
            "gradients.embedding",
            "all_reduce",
            "pp",
            w.gradient_dtype,
            table,
            count=end,
            phase="grad_reduce",
        )
    ]


def tensor_parallel_sums(ctx: Context, role: Role) -> list[Op]:
    """Gradients of weights that TP ranks hold alike, where each rank has a part of the gradient.

    Sequence parallelism leaves each rank with its tokens' share of what every replicated weight gets
    (norms, row-parallel biases, routers, learned positions: Korthikanti et al. 2022, arXiv
    2205.05198, section 4.2.2). Without it that holds for query and key norms, which see the rank's
    heads, and for routers of experts that are divided by TP. KV heads that are fewer than the ranks
    are copied, and their gradients summed over the ranks that share one. Under ZeRO-3 a rank sums
    its replica's share of these gradients.
    """
    layout, model, w = ctx.layout, ctx.model, ctx.widths
    everything = embedding_weights(model).replicated * role.embedding
    everything = everything + head_weights(model).replicated * role.head
    own: Array = 0
    kv: Array = 0
    for block, count in zip(model.blocks, role.layers, strict=True):
        count = layers_held(block, count)
        everything = everything + block_weights(block, model.hidden).replicated * count
        a, moe = block.attention, block.moe
        if a is not None and not a.mla:
            own = own + a.norm_parameters * count
            both = [m for m in attention_matrices(a, model.hidden) if m.role in ("key", "value")]
            each = sum(m.weights for m in both) // a.kv_heads
            each += (a.key_bias * a.head_dim + a.value_bias * a.value_head_dim) * bool(both)
            # a rank of such a group has one KV head
            kv = kv + np.where(layout.tp >= 2 * a.kv_heads, each * count, 0)
        if block.recurrent is not None:  # norms of the rank's heads
            own = own + block.recurrent.norm_parameters * count
        if moe is not None:
            router = router_weights(moe, model.hidden)
            own = own + np.where(layout.expert_tp() > 1, router * count, 0)
    sharded = layout.sequence_parallel & (layout.tp > 1)
    partial = np.where(sharded, everything, np.where(layout.tp > 1, own, 0))
    ops = []
    for name, axis, weights in (("norms", "tp", partial), ("kv_heads", "kv", kv)):
        if np.any(weights > 0):
            op = collective_op(
                f"gradients.{name}",
                "all_reduce",
                axis,
                w.gradient_dtype,
                weights * w.gradient / _shares(layout),
                count=np.where(weights > 0, 1, 0),
                phase="grad_reduce",
            )
            ops.append(op)
    return ops
