"""The sum: seconds, bytes and memory of a step for every layout of an open mesh at once.

Sums run in a fixed order over small arrays; the full mesh appears in a handful of final additions.
One layout is the same code with 0-d arrays, so both give the same bits.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np

from meshwise.arrays import Array
from meshwise.clusters.load import Cluster
from meshwise.cost import hosting, inference, offload
from meshwise.cost.kernels.seconds import position
from meshwise.cost.overlap import TINY, exposed_concurrent_s
from meshwise.cost.priced_step import PricedStep
from meshwise.cost.pricing import ZERO, KnownPrices, Times, sum_over_calls, total_times
from meshwise.cost.schedule import bubble_s
from meshwise.layouts.layout import Layouts
from meshwise.layouts.placement import Group
from meshwise.models.shapes import Model
from meshwise.program.sharding import scatters_every_microbatch
from meshwise.stacks.schedules import SCHEDULES
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Workload


class Estimate(PricedStep):
    """The cost of a step over layouts. Attributes are arrays over the layouts' axes, built when asked.

    Times are of the slowest pipeline stage (contracts: ``step_s = compute_s + exposed_comm_s +
    bubble_s + host_s``, exactly).
    """

    # -- one microbatch ------------------------------------------------------------------------

    @cached_property
    def _layers(self) -> list[Times]:
        return [total_times(costs) for costs in self.layer_costs]

    @cached_property
    def _exposed_layers(self) -> list[Times]:
        """The layers without what is hidden of their communication."""
        return [total_times(costs, hidden=False) for costs in self.layer_costs]

    @cached_property
    def _stages(self) -> list[Times]:
        """Seconds of one microbatch on each role of stage; 0 where the role does not exist."""
        layers = self._layers
        embedding, head = total_times(self.embedding_costs), total_times(self.head_costs)
        fill = self.split_fill
        stages = []
        for role in self.program.roles:
            times = ZERO
            for kind, count in zip(layers, role.layers, strict=True):
                times = times.plus(kind, count)
            times = times.plus(embedding, role.embedding).plus(head, role.head)
            times = times._replace(exposed=times.exposed + fill)
            stages.append(Times(*(part * role.exists for part in times)))
        return stages

    @property
    def split_fill(self) -> Array:
        """With the batch split in two, the last half's reduction of a pass has nothing beside it:
        exposed seconds of a microbatch."""
        if self.stack.overlaps.overlap != "split" or self.stack.ideal:
            return 0.0
        fill: Array = 0.0
        for phase in ("forward", "dgrad"):
            last = [c for c in self.layer_costs[-1] if c.op.axis == "tp" and c.op.phase == phase]
            hidden: Array = 0.0
            for c in last[-2:]:
                hidden = np.maximum(hidden, c.op.count * c.seconds - c.exposed)
            fill = fill + 0.5 * hidden
        return fill

    @cached_property
    def _slowest(self) -> Array:
        """Index of the role with the longest microbatch."""
        best: Array = self._stages[0].busy
        index: Array = np.int64(0)
        for i, stage in enumerate(self._stages[1:], start=1):
            better = stage.busy > best
            best = np.where(better, stage.busy, best)
            index = np.where(better, i, index)
        return index

    def _of_slowest(self, values: list[Array]) -> Array:
        result = values[0]
        for i, value in enumerate(values[1:], start=1):
            result = np.where(self._slowest == i, value, result)
        return result

    @cached_property
    def microbatch(self) -> Times:
        """Seconds of one microbatch on the slowest stage, its transfers included."""
        slowest = Times(*(self._of_slowest([s[i] for s in self._stages]) for i in range(3)))
        return slowest.plus(total_times(self.transfer_costs))

    @cached_property
    def _microbatch_busy(self) -> Array:
        """As ``microbatch.busy`` with what the host adds, without telling compute from
        communication: for searches, in few passes over the full mesh."""
        layers = [layer.busy for layer in self._exposed_layers]
        embedding, head = total_times(self.embedding_costs).busy, total_times(self.head_costs).busy
        longest: Array = 0.0
        for role in self.program.roles:
            busy: Array = self.split_fill * role.exists
            for kind, count in zip(layers, role.layers, strict=True):
                busy = busy + kind * (count * role.exists)
            for end, has in ((embedding, role.embedding), (head, role.head)):
                if np.any(has):
                    busy = busy + end * (has * role.exists)
            longest = np.maximum(longest, busy)
        busy = longest + total_times(self.transfer_costs).exposed
        return hosting.paced_s(busy, self._counted_s, self._layers_s)

    @property
    def launch_s(self) -> Array:
        """Host seconds of a step's launches, whether the device hides them or not."""
        return self.program.ctx.microbatches * self._launch_s

    @property
    def _launch_s(self) -> Array:
        """Host seconds to launch a microbatch's work on the stage with the most layers."""
        return self._counted_s + self._layers_s

    @cached_property
    def _counted_s(self) -> Array:
        """As counted by kernel."""
        return hosting.microbatch_s(self.program)

    @cached_property
    def _layers_s(self) -> Array:
        """As known by layer: backward launches about twice forward's kernels, recomputation forward's
        again."""
        ctx = self.program.ctx
        if not ctx.training:
            return inference.launches_s(self.program)[1]
        each = inference.layer_launch_s(self.stack, ctx)
        if not each:
            return 0.0
        grown = hosting.network_growth(self.stack, self.layout, self.pricer.groups, self.cluster)
        return self.stage_layers * (3.0 + (ctx.recompute == 2)) * each * grown

    @property
    def stage_layers(self) -> Array:
        """Layers of the stage that has most."""
        most: Array = 0
        for role in self.program.roles:
            most = np.maximum(most, sum(role.layers) * role.exists)
        return most

    @cached_property
    def pass_s(self) -> Array:
        """Seconds of one batch through all stages, one after the other: what inference waits for."""
        ends = total_times(self.embedding_costs), total_times(self.head_costs)
        busy = inference.pass_s(self.program, self._layers, *ends, total_times(self.transfer_costs))
        return busy + self.split_fill * self.layout.pp

    # -- the step --------------------------------------------------------------------------------

    @cached_property
    def update_role(self) -> Array:
        """Index of the stage whose update takes longest: a step ends when its last rank is ready."""
        times = [total_times(costs) for costs in self.update_costs]
        best: Array = times[0].compute + times[0].comm
        index: Array = np.int64(0)
        for i, t in enumerate(times[1:], start=1):
            better = t.compute + t.comm > best
            best = np.where(better, t.compute + t.comm, best)
            index = np.where(better, i, index)
        return index

    @cached_property
    def update(self) -> Times:
        """Gradient reduction and optimizer, once per step, on the stage where they take longest."""
        compute_s, reduce, gather = self._update_parts
        exposed = reduce * self.update_exposure[0] + gather * self.update_exposure[1]
        return Times(compute_s, reduce + gather, exposed)

    @cached_property
    def _update_parts(self) -> tuple[Array, Array, Array]:
        """Seconds of the optimizer, the gradients' reduction and the weights' gathers."""
        times = [total_times(costs) for costs in self.update_costs]
        gathers = [
            total_times([c for c in costs if c.op.kind == "all_gather"]).comm
            for costs in self.update_costs
        ]
        compute_s, comm, gather = times[0].compute, times[0].comm, gathers[0]
        for i, t in enumerate(times[1:], start=1):
            compute_s = np.where(self.update_role == i, t.compute, compute_s)
            comm = np.where(self.update_role == i, t.comm, comm)
            gather = np.where(self.update_role == i, gathers[i], gather)
        return compute_s, comm - gather, gather

    @cached_property
    def update_exposure(self) -> tuple[Array, Array]:
        """Share of the gradients' reduction, and of the weights' gathers, that the step waits for."""
        stack, layout = self.stack, self.layout
        _, reduce, gather = self._update_parts
        # Interleaved stages finish (and start) one after the other: the first has the passes of pp
        # microbatches through all others to send its gradients beside.
        passes = np.where(layout.vp > 1, layout.pp * (layout.vp - 1) / layout.vp, 1.0)
        shares: list[Array] = [1.0, 1.0]
        if stack.overlaps.overlap_grad_reduce and not stack.ideal:
            # in every microbatch's backward, or in the last one's
            every = scatters_every_microbatch(layout)
            often = np.where(every, self.program.ctx.microbatches, passes)
            beside = self._one_pass("recompute", "dgrad", "wgrad") * often
            shares[0] = exposed_concurrent_s(reduce, beside) / np.maximum(reduce, TINY)
        if stack.overlaps.overlap_param_gather and not stack.ideal:
            beside = self._one_pass("forward") * passes
            shares[1] = exposed_concurrent_s(gather, beside) / np.maximum(gather, TINY)
        return shares[0], shares[1]

    def _one_pass(self, *phases: str) -> Array:
        """Seconds of one microbatch's pass on a stage: what gradients and weights travel beside."""
        busy: Array = 0.0
        role = self.program.roles[0]
        for costs, count in zip(self.layer_costs, role.layers, strict=True):
            busy = busy + total_times(costs, phases).busy * count
        return busy

    @cached_property
    def step_s(self) -> Array:
        return self.compute_s + self.exposed_comm_s + self.bubble_s + self.host_s

    @cached_property
    def compute_s(self) -> Array:
        return self.program.ctx.microbatches * self.microbatch.compute + self.update.compute

    @cached_property
    def comm_s(self) -> Array:
        return self.program.ctx.microbatches * self.microbatch.comm + self.update.comm

    @cached_property
    def exposed_comm_s(self) -> Array:
        return self.program.ctx.microbatches * self.microbatch.exposed + self.update.exposed

    @cached_property
    def straggler_s(self) -> Array:
        """What the ranks wait for the slowest of them, whose host or clock is late (in host_s)."""
        return self._spread * (self.program.ctx.microbatches * self._paced)

    @cached_property
    def _spread(self) -> Array:
        """By how much the slowest of N ranks exceeds the mean: σ·√(2 ln N), the expected largest of
        N normal deviations."""
        if not self.program.ctx.training or self.stack.ideal or not self.stack.host.jitter:
            return 0.0
        doublings = position(np.asarray(self.layout.devices, dtype=np.float64))
        return self.stack.host.jitter * np.sqrt(2.0 * math.log(2.0) * doublings)

    @cached_property
    def bubble_s(self) -> Array:
        """Idle time of the slowest stage: a schedule's bubble, or a single batch on the others."""
        if not self.program.ctx.training:
            return inference.waits_s(self.pass_s, self.microbatch.busy, self.layout.pp)
        return self._bubble(self._paced)

    @cached_property
    def _paced(self) -> Array:
        """Seconds of one microbatch on the slowest stage with its host's launches."""
        return hosting.paced_s(self.microbatch.busy, self._counted_s, self._layers_s)

    def _bubble(self, busy: Array) -> Array:
        """Idle time of the pipeline; ``busy`` are the slowest stage's seconds of one microbatch."""
        layout, kind, m = self.layout, self.stack.pipeline.schedule, self.program.ctx.microbatches
        if not SCHEDULES[kind].fills:
            return bubble_s(kind, layout.pp, layout.vp, m, busy, 0.0, 0.0)
        wgrad = self._of_slowest(self._stage_wgrad)
        return bubble_s(kind, layout.pp, layout.vp, m, 0.0, busy - wgrad, wgrad)

    @cached_property
    def _stage_wgrad(self) -> list[Array]:
        """Seconds of weight gradients of one microbatch on each role of stage."""
        layers = [total_times(costs, ("wgrad",)).busy for costs in self.layer_costs]
        head = total_times(self.head_costs, ("wgrad",)).busy
        stages = []
        for role in self.program.roles:
            seconds: Array = head * role.head
            for kind, count in zip(layers, role.layers, strict=True):
                seconds = seconds + kind * count
            stages.append(seconds)
        return stages

    @cached_property
    def host_s(self) -> Array:
        """What the step waits for its hosts: a fixed part, launches that exceed the device's work, and
        the slowest rank; in inference the engine's iteration."""
        if self.stack.ideal:
            return 0.0
        ctx = self.program.ctx
        if not ctx.training:
            launches, _ = inference.launches_s(self.program)
            device = self.compute_s + self.exposed_comm_s + self.bubble_s
            late = np.maximum(launches - device, 0.0)
            return late + inference.own_engine_s(self.pricer.compute, ctx)
        late = self._paced - self.microbatch.busy
        late = self.program.ctx.microbatches * late + self._late_update_s
        return self.stack.host.host_s + late + self.straggler_s

    @cached_property
    def _late_update_s(self) -> Array:
        """What the update waits for its host, which copies every parameter by itself, and what a step
        waits for what is kept in the host's memory."""
        late = np.maximum(hosting.update_s(self.program) - self.update.compute, 0.0)
        away = offload.offloaded_update_s(self.program, self.cluster)
        if self.stack.state.offload_layers:
            passes = self._one_pass("forward"), self._one_pass("recompute", "dgrad", "wgrad")
            wait = offload.microbatch_wait_s(self.program, self.cluster, *passes)
            away = away + self.program.ctx.microbatches * wait
        return late + away

    @cached_property
    def fast_step_s(self) -> Array:
        """``step_s`` in as few passes over the full mesh as it takes, for searches (same up to
        rounding)."""
        if not self.program.ctx.training:
            return self.step_s
        busy, m = self._microbatch_busy, self.program.ctx.microbatches
        waits = m * self._spread
        if not SCHEDULES[self.stack.pipeline.schedule].fills:
            steady = (m + waits + (self.layout.pp - 1) / self.layout.vp) * busy
        else:
            steady = (m + waits) * busy + self._bubble(busy)
        host = 0.0 if self.stack.ideal else self.stack.host.host_s + self._late_update_s
        return steady + (self.update.compute + host) + self.update.exposed

    @property
    def floor_s(self) -> Array:
        """What no step of a column (the last axis) is shorter than: its compute, whatever it sends."""
        longest: Array = 0.0
        for role in self.program.roles:
            busy: Array = 0.0
            for layer, count in zip(self._exposed_layers, role.layers, strict=True):
                busy = busy + layer.compute * (count * role.exists)
            longest = np.maximum(longest, busy)
        longest = longest.min(axis=tuple(range(longest.ndim - 1)))
        stages = (self.layout.pp - 1) / np.max(self.layout.vp, axis=0)
        if SCHEDULES[self.stack.pipeline.schedule].fills:
            stages = 0.0  # weight gradients fill the bubble
        return (self.program.ctx.microbatches + stages) * longest

    def sum_over_step(self, value: Any) -> Array:
        """Σ over all operations of a step on the slowest stage of value(cost) · calls."""
        m = self.program.ctx.microbatches
        per_role = []
        for role in self.program.roles:
            micro: Array = 0.0
            for costs, count in zip(self.layer_costs, role.layers, strict=True):
                micro = micro + sum_over_calls(costs, value) * count
            micro = micro + sum_over_calls(self.embedding_costs, value) * role.embedding
            micro = micro + sum_over_calls(self.head_costs, value) * role.head
            micro = micro + sum_over_calls(self.transfer_costs, value)
            per_role.append(micro * m)
        update = sum_over_calls(self.update_costs[0], value)
        for i, costs in enumerate(self.update_costs[1:], start=1):
            update = np.where(self.update_role == i, sum_over_calls(costs, value), update)
        return self._of_slowest(per_role) + update

    @cached_property
    def payload_bytes(self) -> Array:
        return self.sum_over_step(lambda c: c.op.payload_bytes)

    @cached_property
    def wire_bytes(self) -> tuple[Array, ...]:
        return tuple(
            self.sum_over_step(lambda c, i=i: c.priced.wire_bytes[i] if c.priced else 0.0)
            for i in range(len(self.cluster.levels))
        )


def price_layouts(
    model: Model,
    cluster: Cluster,
    workload: Workload,
    stack: Stack,
    layout: Layouts,
    batch: Array | None = None,
    placed: dict[str, Group] | None = None,
    known: KnownPrices | None = None,
) -> Estimate:
    """Price a step of ``workload`` for every layout (arrays broadcast); ``batch`` in place of the
    workload's own. ``placed``: the groups of columns (all degrees, and nothing else, along one last
    axis), which are then priced once per kind of column. ``known``: prices that other steps of inference, of
    the same model, cluster, stack and layouts, have found."""
    return Estimate(model, cluster, workload, stack, layout, batch, placed, known)
