"""What an iteration of inference adds to its device work: the other stages, the engine and its host.

A batch visits every stage of a pipeline once, one after the other: its time is their sum. What a
host does once per iteration (scheduling, bookkeeping, the choice of the next tokens) belongs to
every step, whoever asks for it.
"""

from __future__ import annotations

import numpy as np

from meshwise.arrays import Array
from meshwise.cost.kernels.compute import Compute
from meshwise.cost.pricing import Times
from meshwise.models.shapes import Model
from meshwise.program.context import Context
from meshwise.program.launches import served_expert_kernels
from meshwise.program.step import Program
from meshwise.stacks.stack import Stack


def pass_s(
    program: Program, layers: list[Times], embedding: Times, head: Times, transfer: Times
) -> Array:
    """Seconds of a batch from the first stage to the last, each of the pp − 1 boundaries crossed once.

    ``layers``: one layer of each kind of the model; the times are those of one forward pass.
    """
    seconds: Array = embedding.busy + head.busy
    for kind, count in zip(layers, program.ctx.model.kind_counts(), strict=True):
        seconds = seconds + kind.busy * count
    return seconds + (program.ctx.layout.pp - 1) * transfer.exposed


def layer_launch_s(stack: Stack, ctx: Context) -> float:
    """Host seconds to launch a layer's forward pass (the stack's ``host_layer_s``; for prompts, which run
    outside CUDA graphs, at least its ``prefill_layer_s``). 0 under the ideal stack.
    """
    if stack.ideal:
        return 0.0
    if ctx.phase == "prefill":
        return max(stack.host.host_layer_s, stack.host.prefill_layer_s)
    if _launched(ctx):
        return max(stack.host.host_layer_s, stack.host.eager_layer_s)
    return stack.host.host_layer_s


def _launched(ctx: Context) -> bool:
    """Whether it is an iteration of decodes whose kernels the host launches one by one."""
    return ctx.phase == "decode" and ctx.stack.scheduler.eager and not ctx.stack.ideal


def experts_launch_s(stack: Stack, model: Model) -> float:
    """Host seconds of an iteration that no graph replays to launch the experts of all layers, which nothing
    hides (the stack's ``expert_layer_s``)."""
    if stack.ideal:
        return 0.0
    counts = zip(model.blocks, model.kind_counts(), strict=True)
    return stack.host.expert_layer_s * sum(n for block, n in counts if block.moe is not None)


def launches_s(program: Program) -> tuple[Array, Array]:
    """Host seconds to launch a forward pass of all layers, and of the stage that has most to launch.

    A layer takes :func:`layer_launch_s`; one of routed experts in an iteration that no graph replays the
    stack's ``prefill_kernel_s`` (prompts) or ``eager_kernel_s`` (decodes) more for each of
    :func:`served_expert_kernels`. 0 under the ideal stack.
    """
    ctx = program.ctx
    each = layer_launch_s(ctx.stack, ctx)
    more = 0.0
    if ctx.phase == "prefill" and not ctx.stack.ideal:
        more = ctx.stack.host.prefill_kernel_s
    elif _launched(ctx):
        more = ctx.stack.host.eager_kernel_s
    kinds = [each + more * served_expert_kernels(ctx, block) for block in ctx.model.blocks]
    whole = sum(n * kind for n, kind in zip(ctx.model.kind_counts(), kinds, strict=True))
    most: Array = 0.0
    for role in program.roles:
        stage = sum(n * kind for n, kind in zip(role.layers, kinds, strict=True))
        most = np.maximum(most, stage * role.exists)
    return whole, most


def engine_s(compute: Compute, ctx: Context, sequences: Array, rows: Array) -> Array:
    """Seconds of an iteration outside the model's program: the scheduler and its bookkeeping for
    ``sequences``, and the choice of ``rows`` next tokens from their logits.

    The constants are the stack's; the choice moves ``logit_bytes`` per logit at the share of the device's
    memory bandwidth that was fitted. 0 in training and under the ideal stack.
    """
    stack = compute.stack
    if stack.ideal or ctx.training:
        return 0.0
    rate = compute.fits.memory_efficiency * compute.bandwidth
    choice = stack.kernels.logit_bytes / rate * ctx.model.vocab * rows
    return stack.host.host_s + stack.host.iteration_s + stack.host.sequence_s * sequences + choice


def own_engine_s(compute: Compute, ctx: Context) -> Array:
    """:func:`engine_s` [s] of a batch by itself: a prompt's last token is followed by one choice, a decode
    step has one for each of its queries; prompts and eager decodes launch their experts.
    """
    queries = ctx.queries if ctx.phase == "decode" else 1
    seconds = engine_s(compute, ctx, ctx.sequences, ctx.sequences * queries)
    by_graph = ctx.training or (ctx.phase == "decode" and not _launched(ctx))
    return seconds if by_graph else seconds + experts_launch_s(ctx.stack, ctx.model)


def waits_s(whole: Array, slowest: Array, pp: Array) -> Array:
    """Seconds of a batch on the stages that are not the slowest one: ``whole`` pass less the ``slowest``
    stage, never below 0; nothing without a pipeline.
    """
    return np.where(pp > 1, np.maximum(whole - slowest, 0.0), 0.0)[()]
