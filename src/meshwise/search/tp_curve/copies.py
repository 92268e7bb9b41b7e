"""The GPUs of one node as one large or several small replicas."""

from __future__ import annotations

import msgspec
import numpy as np

from meshwise.clusters.load import Cluster
from meshwise.cost.estimate import price_layouts
from meshwise.cost.uncertainty import is_tight
from meshwise.layouts.layout import Layouts
from meshwise.models.shapes import Model
from meshwise.search.tp_curve.points import Copies, Point
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Workload, tokens_per_step


def copies(
    model: Model, cluster: Cluster, workload: Workload, stack: Stack, points: tuple[Point, ...]
) -> tuple[Copies, ...]:
    """The GPUs of one node as one large or several small replicas: latency against throughput.

    ``batch`` is per replica; the ``same_load`` figures share one replica's batch among the copies.
    """
    devices = cluster.node_devices
    found = []
    per = tokens_per_step(workload) // workload.batch
    for p in points:
        if p.tp > devices or devices % p.tp:
            continue
        n = devices // p.tp
        layout = Layouts(tp=np.int64(p.tp), dp=np.int64(n))
        one = price_layouts(model, cluster, workload, stack, layout)
        step = float(one.step_s)
        shared = -(-workload.batch // n)
        alike = price_layouts(
            model, cluster, msgspec.structs.replace(workload, batch=shared), stack, layout
        )
        alike_s = float(alike.step_s)
        found.append(
            Copies(
                tp=p.tp,
                copies=n,
                batch_per_copy=workload.batch,
                step_s=step,
                tokens_per_s=n * workload.batch * per / step,
                tokens_per_s_per_device=workload.batch * per / step / p.tp,
                memory_bytes=float(one.memory_bytes),
                fits=bool(one.fits),
                tight=bool(is_tight(one)),
                same_load_batch_per_copy=shared,
                same_load_step_s=alike_s,
                same_load_tokens_per_s=workload.batch * per / alike_s,
            )
        )
    return tuple(found)
