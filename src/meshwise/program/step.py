"""The whole step of one device: layers, ends, pipeline transfers, gradient reduction, optimizer."""

from __future__ import annotations

from typing import NamedTuple

from meshwise.arrays import Array
from meshwise.layouts.layout import Layouts
from meshwise.models.shapes import Model
from meshwise.program import update
from meshwise.program.context import Context, context
from meshwise.program.layers import embedding_and_head as ends
from meshwise.program.layers import layer
from meshwise.program.operations import Op
from meshwise.program.weights import Role, roles
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Workload


class Program(NamedTuple):
    """Operations of a step, grouped by how often they run.

    ``layers[i]`` are those of one layer of kind i for one microbatch; ``embedding`` and ``head`` run
    once per microbatch on the stages that have them; ``transfer`` once per microbatch at a stage
    boundary; ``update[r]`` once per step on a stage of role r.
    """

    ctx: Context
    roles: tuple[Role, ...]
    layers: tuple[list[Op], ...]
    embedding: list[Op]
    head: list[Op]
    transfer: list[Op]
    update: tuple[list[Op], ...]


def program(
    model: Model, stack: Stack, workload: Workload, layout: Layouts, batch: Array | None = None
) -> Program:
    """The operations of one step of a workload; every shape broadcasts over the layouts' axes (and ``batch``,
    sequences in place of the workload's own).
    """
    ctx = context(model, stack, workload, layout, batch)
    stage_roles = roles(model, layout, stack.pipeline.stage_balance)
    return Program(
        ctx=ctx,
        roles=stage_roles,
        layers=tuple(layer.layer(ctx, block) for block in ctx.model.blocks),
        embedding=ends.embedding(ctx),
        head=ends.head(ctx),
        transfer=update.transfers(ctx),
        update=tuple(update.update(ctx, role) for role in stage_roles),
    )
