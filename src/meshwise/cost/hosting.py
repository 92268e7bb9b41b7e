"""What the host of an eager training step has to do before the device can: start its kernels."""

from __future__ import annotations

import numpy as np

from meshwise.arrays import Array
from meshwise.program import launches
from meshwise.program.step import Program


def microbatch_s(program: Program) -> Array:
    """Host seconds per microbatch to start its kernels, on the stage with the most of them.

    Kernels (:mod:`meshwise.program.launches`) times the stack's ``host_launch_s``. Eager training steps
    only: 0 in inference, under the ideal stack, where CUDA graphs start them, and where the stack states no
    launch time.
    """
    ctx = program.ctx
    each = ctx.stack.host.host_launch_s
    if not each or not ctx.training or ctx.stack.ideal or ctx.stack.host.cuda_graphs:
        return 0.0
    layers = [
        launches.kernels_per_microbatch(ops, ctx.stack, block)
        for ops, block in zip(program.layers, ctx.model.blocks, strict=True)
    ]
    ends = [
        launches.kernels_per_microbatch(ops, ctx.stack) for ops in (program.embedding, program.head)
    ]
    most: Array = 0.0
    for role in program.roles:
        found = ends[0] * role.embedding + ends[1] * role.head
        for number, count in zip(layers, role.layers, strict=True):
            found = found + number * count
        most = np.maximum(most, found * role.exists)
    return each * (most + launches.kernels_per_microbatch(program.transfer, ctx.stack))


def update_s(program: Program) -> Array:
    """Host seconds per step of the update: each parameter is copied back from its master by itself.

    One launch (``host_launch_s``) per parameter tensor of the stage that has most. 0 under the conditions
    of :func:`microbatch_s`.
    """
    ctx = program.ctx
    if not ctx.stack.host.host_launch_s or not ctx.training or ctx.stack.ideal:
        return 0.0
    most: Array = 0.0
    for role in program.roles:
        found: Array = 0.0
        for block, count in zip(ctx.model.blocks, role.layers, strict=True):
            found = found + launches.layer_tensors(ctx, block) * count
        most = np.maximum(most, found * role.exists)
    return ctx.stack.host.host_launch_s * most
