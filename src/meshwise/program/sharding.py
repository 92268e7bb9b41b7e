"""Weights divided over data-parallel ranks (ZeRO-3, FSDP), and gradients added up over microbatches."""

from __future__ import annotations

import numpy as np

from meshwise.arrays import Array
from meshwise.layouts.layout import Layouts
from meshwise.program.context import Context
from meshwise.program.operations import Op, collective_op, elementwise
from meshwise.program.weights import LocalWeights


def gathers(ctx: Context, local: LocalWeights) -> tuple[list[Op], list[Op]]:
    """(before a unit's forward, with its backward) of ZeRO-3 and FSDP, per microbatch.

    The unit (a layer, or an end of the model) gathers its weights for forward and once more for
    backward, and scatters its gradients: 3 times its size (ZeRO, arXiv 1910.02054, section 7.3.2).
    Experts over the expert-dp group, all others over dp · cp.
    """
    if not ctx.training:
        return [], []
    layout, w = ctx.layout, ctx.widths
    before: list[Op] = []
    after: list[Op] = []
    narrow = ctx.stack.communication.narrow_param_gather and w.operand < w.plain_weight
    dense = local.dense * w.plain_weight
    if narrow and not ctx.stack.ideal:
        dense = dense - local.linear * (w.plain_weight - w.operand)
    routed = any(block.moe is not None for block in ctx.model.blocks)
    for name, weights, gathered, axis, size in (
        ("dense", local.dense, dense, "dp_cp", layout.dp * layout.cp),
        (
            "experts",
            local.experts,
            local.experts * w.plain_weight,
            "expert_dp",
            layout.expert_dp(),
        ),
    ):
        if name == "experts" and not routed:
            continue
        # gathered for forward, gathered again for backward, its gradients scattered
        count = np.where((size > 1) & (layout.shard == 3), 1, 0)
        gather = collective_op(
            f"weights.{name}",
            "all_gather",
            axis,
            w.activation_dtype,
            gathered,
            count=count,
            phase="forward",
        )
        before.append(gather)
        after.append(gather._replace(phase="dgrad"))
        after.append(
            collective_op(
                f"gradients.{name}",
                "reduce_scatter",
                axis,
                w.gradient_dtype,
                weights * w.gradient,
                count=count,
                phase="grad_reduce",
            )
        )
    return before, after


def scatters_every_microbatch(layout: Layouts) -> Array:
    """Where ZeRO-2 has no whole gradients: it scatters those of every microbatch.

    A pipeline's stages add up whole gradients and scatter them once, with the last microbatch (FSDP2
    under a schedule of torch, set_requires_gradient_sync; DeepSpeed refuses ZeRO-2 with pipelines for
    that reason, deepspeedai/DeepSpeed issues 823 and 1110).
    """
    return (layout.shard == 2) & (layout.pp == 1)


def accumulation(ctx: Context, local: LocalWeights) -> list[Op]:
    """A pass that adds a microbatch's gradients to those before: ``accumulation_bytes`` of the stack per
    weight of the rank; none where the product accumulates itself.
    """
    per_weight = ctx.stack.kernels.accumulation_bytes
    if not ctx.training or not per_weight:
        return []
    return [
        elementwise(
            "gradients.accumulate",
            ctx.widths.gradient_dtype,
            local.total * per_weight,
            phase="wgrad",
        )
    ]
