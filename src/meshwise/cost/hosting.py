"""What the host of an eager training step has to do before the device can: start its kernels."""

from __future__ import annotations

import numpy as np

from meshwise.arrays import Array
from meshwise.clusters.load import Cluster
from meshwise.layouts.layout import Layouts
from meshwise.layouts.placement import Group
from meshwise.program import launches
from meshwise.program.step import Program
from meshwise.stacks.stack import Stack


def paced_s(busy: Array, counted: Array, layers: Array) -> Array:
    """Seconds of work that takes a device ``busy`` and its host ``counted`` seconds to start kernel by kernel,
    or ``layers`` seconds of it layer by layer, which it is never quicker than.

    Neither hides the other whole: a device runs dry in a layer's many short kernels and its host catches
    up only in the long ones. The root of the sum of squares: of the powers 1 to 8 (8 is nearly the longer
    of the two) 2 fits published runs whose hosts are nearly as busy as their devices, and leaves the
    others as they are (``tools/fit_training.py``).
    """
    return np.maximum(np.hypot(busy, counted), layers)


def network_growth(
    stack: Stack, layout: Layouts, groups: dict[str, Group], cluster: Cluster
) -> Array:
    """Factor on the host's time per layer where the pipeline's messages, or TP's, cross a network: 1, or 1 +
    ``host_layer_network_share`` for each TP rank, of a node where only TP crosses. Without TP it does not
    grow.
    """
    share = stack.host.host_layer_network_share
    if not share:
        return 1.0
    inside: Array = 1
    crosses: dict[str, Array] = {"tp": np.bool_(False), "pp": np.bool_(False)}
    for level, tp, pp in zip(cluster.levels, groups["tp"].ranks, groups["pp"].ranks, strict=True):
        if level.kind == "network":
            crosses["tp"] = crosses["tp"] | (np.asarray(tp) > 1)
            crosses["pp"] = crosses["pp"] | (np.asarray(pp) > 1)
        else:
            inside = inside * np.asarray(tp)
    waiting = np.where(crosses["pp"], layout.tp, inside * crosses["tp"])
    return np.where(layout.tp > 1, 1.0 + share * waiting, 1.0)


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
