"""The smallest mesh that holds a workload."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from meshwise.cost.estimate import Estimate, estimate
from meshwise.spec import legality
from meshwise.spec.cluster import Cluster
from meshwise.spec.layout import RECOMPUTE_CODE, Layouts
from meshwise.spec.model import Model
from meshwise.spec.stack import Stack
from meshwise.spec.workload import Training, Workload

Array = Any


class SmallestFit(NamedTuple):
    """The fewest devices on which one replica fits, and the fastest such layout."""

    tp: int
    pp: int
    micro_batch: int
    recompute: str
    sequence_parallel: bool
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
    node = cluster.node_devices
    tps = [tp for tp in legality.legal_tp(model) if tp <= node] or [1]
    pps = list(range(1, min(model.layers, 1024) + 1))
    modes = ["none"]
    if isinstance(workload, Training):
        first = RECOMPUTE_CODE[workload.recompute]
        modes = [m for m, code in RECOMPUTE_CODE.items() if code >= first]
    # Ask with as many nodes as the mesh may need: the question is how many GPUs it takes.
    import msgspec

    outer = cluster.levels[-1]
    wide = max(outer.ranks, max(tps) * max(pps))
    levels = (*cluster.levels[:-1], msgspec.structs.replace(outer, ranks=wide))
    roomy = msgspec.structs.replace(cluster, levels=levels if len(levels) > 1 else cluster.levels)
    tp_axis, pp_axis = np.ix_(np.array(tps, dtype=np.int64), np.array(pps, dtype=np.int64))
    devices = tp_axis * pp_axis
    best: SmallestFit | None = None
    for mode in modes:
        layout = Layouts(
            tp=tp_axis,
            pp=pp_axis,
            micro_batch=np.int64(1),
            recompute=np.int64(RECOMPUTE_CODE[mode]),
            sequence_parallel=np.bool_(sequence_parallel),
        )
        e = estimate(model, roomy, workload, stack, layout)
        fits = np.broadcast_to(e.fits, devices.shape)
        if not fits.any():
            continue
        fewest = int(devices[fits].min())
        if best is not None and fewest >= best.devices:
            continue
        best = _pick(e, fits & (devices == fewest), mode, sequence_parallel, cluster)
    return best


def _pick(
    e: Estimate, among: Array, mode: str, sequence_parallel: bool, cluster: Cluster
) -> SmallestFit:
    """The fastest of the layouts ``among``."""
    step = np.where(among, np.broadcast_to(e.step_s, among.shape), np.inf)
    i, j = np.unravel_index(int(np.argmin(step)), step.shape)
    tp, pp = int(e.layout.tp[i, 0]), int(e.layout.pp[0, j])
    return SmallestFit(
        tp=tp,
        pp=pp,
        micro_batch=1 if e.workload.phase == "train" else e.workload.batch,
        recompute=mode,
        sequence_parallel=sequence_parallel,
        devices=tp * pp,
        memory_bytes=float(np.broadcast_to(e.memory_bytes, among.shape)[i, j]),
        step_s=float(step[i, j]),
        within_cluster=tp * pp <= cluster.devices,
    )
