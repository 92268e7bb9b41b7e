"""A step's operations priced for every layout, each list when it is asked for: memory needs none."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from meshwise.arrays import Array
from meshwise.clusters.load import Cluster
from meshwise.cost.kernels.compute import compute
from meshwise.cost.memory.footprint import Footprint
from meshwise.cost.overlap import CONTENTION
from meshwise.cost.pricing import Columns, KnownPrices, OpCost, OperationPricer
from meshwise.cost.schedule import paired_share
from meshwise.layouts.layout import Layouts
from meshwise.layouts.placement import Group, groups, kv_group
from meshwise.layouts.rules.case import hides_experts
from meshwise.models.device_formats import check_device_formats
from meshwise.models.shapes import Model
from meshwise.program.step import Program, program
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Workload

FEW = 500  # columns that are priced sooner than sorted by kind

EMPTY = 1.0  # bytes of a message of which only the start is left


class PricedStep(Footprint):
    """The operations of a step over layouts, with their costs."""

    def __init__(
        self,
        model: Model,
        cluster: Cluster,
        workload: Workload,
        stack: Stack,
        layout: Layouts,
        batch: Array | None = None,
        placed: dict[str, Group] | None = None,
        known: KnownPrices | None = None,
    ) -> None:
        self.model, self.cluster, self.workload, self.stack = model, cluster, workload, stack
        self.layout = layout
        self.program: Program = program(model, stack, workload, layout, batch)
        device = cluster.device
        check_device_formats(
            self.program.ctx.model,
            device.generation,
            device.title,
            stack.can.no_int8_products,
            stack.title or stack.name,
        )
        self._placed, self._known = placed, known or KnownPrices({}, {})

    @cached_property
    def pricer(self) -> OperationPricer:
        layout, placed = self.layout, self._placed
        return OperationPricer(
            compute(
                self.cluster.device,
                self.stack,
                training=self.program.ctx.training,
                decoding=self.program.ctx.phase == "decode",
                known=self._known.products,
            ),
            self.cluster,
            self.stack,
            (placed or groups(layout, self.cluster)) | self._kv_groups(),
            Columns(layout) if placed and np.size(layout.tp) > FEW else None,
            self._known.collectives,
        )

    @cached_property
    def layer_costs(self) -> list[list[OpCost]]:
        beside = self.exchanges_beside
        return [self.pricer.ops(ops, self.layout, exchanges=beside) for ops in self.program.layers]

    @property
    def exchanges_beside(self) -> Array | None:
        """Share of the microbatches whose exchange of tokens runs beside another one's compute."""
        if not self.stack.overlaps.overlap_experts or not self.program.ctx.training:
            return None
        able = hides_experts(self.stack, self.layout)
        return able * paired_share(self.layout.pp, self.layout.vp, self.program.ctx.microbatches)

    @cached_property
    def embedding_costs(self) -> list[OpCost]:
        return self.pricer.ops(self.program.embedding, self.layout)

    @cached_property
    def head_costs(self) -> list[OpCost]:
        return self.pricer.ops(self.program.head, self.layout)

    @cached_property
    def transfer_costs(self) -> list[OpCost]:
        costs = self.pricer.ops(self.program.transfer, self.layout)
        return [self._beside_stages(c) for c in costs]

    @cached_property
    def update_costs(self) -> list[list[OpCost]]:
        return [self.pricer.ops(ops, self.layout, apart=True) for ops in self.program.update]

    def _kv_groups(self) -> dict[str, Group]:
        """Ranks that hold the same KV head: known only with the model, whose groups these are. One
        rank each where no layer has KV heads (multi-head latent attention, no attention)."""
        return {"kv": kv_group(self.layout, self.model.least_kv_heads, self.cluster)}

    def _beside_stages(self, cost: OpCost) -> OpCost:
        """A transfer runs beside another virtual stage's work, where there is one: but for its start.
        Each chunk issues a message and waits for one, however small: what an empty one lasts."""
        if (
            not self.stack.overlaps.overlap_pipeline
            or self.stack.ideal
            or np.max(cost.op.count) == 0
        ):
            return cost
        empty, _, _ = self.pricer.one(cost.op._replace(payload_bytes=EMPTY))
        start = np.minimum(cost.op.count * empty, cost.exposed)
        slowed = start + CONTENTION * (cost.exposed - start)
        return cost._replace(exposed=np.where(self.layout.vp > 1, slowed, cost.exposed))
