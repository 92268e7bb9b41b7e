"""The smallest mesh that holds a workload."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meshwise.axes import RECOMPUTE_CODE
from meshwise.clusters.load import Cluster, grown
from meshwise.cost.estimate import price_layouts
from meshwise.cost.memory.footprint import usable_bytes
from meshwise.cost.memory.parts import fullest_stage_bytes
from meshwise.layouts import tp_degrees as legality
from meshwise.layouts.layout import Layout, Layouts
from meshwise.layouts.rules.case import case_of
from meshwise.layouts.rules.rulebook import RULES
from meshwise.models.shapes import Model
from meshwise.program.context import context
from meshwise.program.weights import roles
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Training, Workload


class SmallestFit(NamedTuple):
    """The fewest devices on which one replica fits, and the fastest such layout."""

    layout: Layout
    devices: int
    memory_bytes: float
    step_s: float
    within_cluster: bool


def smallest_fit(
    model: Model, cluster: Cluster, workload: Workload, stack: Stack, sequence_parallel: bool
) -> SmallestFit | None:
    """Search TP (inside one node) × PP for the fewest devices; training goes on in microbatches of
    one sequence. The workload's own recomputation first, then the stronger kinds. None if nothing
    fits at one layer per stage."""

    def splits(tp: int) -> bool:
        layout = Layouts(tp=np.int64(tp), sequence_parallel=np.bool_(True))
        case = case_of(model, stack, workload, layout)
        return bool(RULES["sequence_parallel"].keeps(case))

    node = cluster.node_devices
    # a degree that divides the node: no GPU of it stays idle, no group straddles two
    tps = [tp for tp in legality.legal_tp(model, stack) if node % tp == 0] or [1]
    if sequence_parallel:
        tps = [tp for tp in tps if splits(tp)]
    pps = list(range(1, min(model.layers, 1024) + 1))
    modes = ["none"]
    if isinstance(workload, Training):
        modes = [
            m for m, code in RECOMPUTE_CODE.items() if code >= RECOMPUTE_CODE[workload.recompute]
        ]
    codes = np.array([RECOMPUTE_CODE[m] for m in modes], dtype=np.int64)
    axes = np.ix_(codes, np.array(tps, dtype=np.int64), np.array(pps, dtype=np.int64))
    layout = Layouts(
        tp=axes[1],
        pp=axes[2],
        micro_batch=np.int64(1),
        recompute=axes[0],
        sequence_parallel=np.bool_(sequence_parallel),
    )
    shape = (len(modes), len(tps), len(pps))
    ctx = context(model, stack, workload, layout)
    memory = np.broadcast_to(
        fullest_stage_bytes(ctx, roles(model, layout, stack.pipeline.stage_balance)), shape
    )
    fits = np.broadcast_to(memory <= usable_bytes(ctx, cluster, memory), shape)
    if not fits.any():
        return None
    devices = np.broadcast_to(layout.tp * layout.pp, shape)
    fewest = int(devices[fits].min())
    mode, i, j = np.nonzero(fits & (devices == fewest))
    # Ask with as many nodes as the mesh may need: the question is how many GPUs it takes.
    roomy = grown(cluster, fewest * node)
    few = layout._replace(tp=np.array(tps)[i], pp=np.array(pps)[j], recompute=codes[mode])
    step = np.broadcast_to(price_layouts(model, roomy, workload, stack, few).step_s, i.shape)
    best = int(np.argmin(step))
    return SmallestFit(
        layout=Layout(
            tp=tps[i[best]],
            pp=pps[j[best]],
            micro_batch=1 if isinstance(workload, Training) else workload.batch,
            recompute=modes[mode[best]],
            sequence_parallel=sequence_parallel,
        ),
        devices=fewest,
        memory_bytes=float(memory[mode[best], i[best], j[best]]),
        step_s=float(step[best]),
        within_cluster=fewest <= cluster.devices,
    )
