"""The whole step of one device: layers, ends, pipeline transfers, gradient reduction, optimizer."""

from __future__ import annotations

from functools import cached_property

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


class Program:
    """Operations of a step, grouped by how often they run; a group is listed when it is asked for.

    ``layers[i]`` are those of one layer of kind i for one microbatch; ``embedding`` and ``head`` run
    once per microbatch on the stages that have them; ``transfer`` once per microbatch at a stage
    boundary; ``update[r]`` once per step on a stage of role r.
    """

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx

    @cached_property
    def roles(self) -> tuple[Role, ...]:
        ctx = self.ctx
        return roles(ctx.model, ctx.layout, ctx.stack.pipeline.stage_balance)

    @cached_property
    def layers(self) -> tuple[list[Op], ...]:
        return tuple(layer.layer(self.ctx, block) for block in self.ctx.model.blocks)

    @cached_property
    def mixers(self) -> tuple[list[Op], ...]:
        """Of each of ``layers`` what its attention and recurrence compute forward."""
        return tuple(layer.mixers(self.ctx, block) for block in self.ctx.model.blocks)

    @cached_property
    def embedding(self) -> list[Op]:
        return ends.embedding(self.ctx)

    @cached_property
    def head(self) -> list[Op]:
        return ends.head(self.ctx)

    @cached_property
    def transfer(self) -> list[Op]:
        return update.transfers(self.ctx)

    @cached_property
    def update(self) -> tuple[list[Op], ...]:
        return tuple(update.update(self.ctx, role) for role in self.roles)


def program(
    model: Model, stack: Stack, workload: Workload, layout: Layouts, batch: Array | None = None
) -> Program:
    """The operations of one step of a workload; every shape broadcasts over the layouts' axes (and ``batch``,
    sequences in place of the workload's own).
    """
    return Program(context(model, stack, workload, layout, batch))
