"""Strong and weak scaling over numbers of GPUs, with the best layout of each."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from meshwise.clusters.load import Cluster
from meshwise.layouts.pins import Pins
from meshwise.models.shapes import Model
from meshwise.search.training.plan import ranked
from meshwise.search.training.question import check_gpus, check_pins
from meshwise.search.training.ranking import search, variants
from meshwise.search.training.rows import PlanRow, rows
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Training


class Size(NamedTuple):
    """A number of GPUs: its batch, its best layout, and what it is worth beside the smallest."""

    gpus: int
    global_batch: int
    best: PlanRow | None  # None: nothing fits
    speedup: float | None  # in tokens/s over the smallest size that is feasible
    efficiency: float | None  # speedup over the ratio of GPUs
    marginal_efficiency: float | None  # the same from the size before


class Growth(NamedTuple):
    """The curve over numbers of GPUs."""

    model: Model
    cluster: Cluster
    workload: Training
    stack: Stack
    weak: bool
    sizes: tuple[Size, ...]


def growth(
    model: Model,
    cluster: Cluster,
    w: Training,
    stack: Stack,
    gpus: list[int],
    *,
    weak: bool = False,
    pins: Pins | None = None,
) -> Growth:
    """The best layout at each number of GPUs. Strong: one global batch for all of them. Weak: the
    workload's batch is that of the smallest, the others' grow with their GPUs."""
    counts = sorted(set(gpus))
    asked = dict(pins or {})
    if w.micro_batch is not None:
        asked.setdefault("micro_batch", (w.micro_batch,))
    where = check_gpus(cluster, counts[-1])
    check_pins(model, stack, w, counts[0], asked)
    sizes: list[Size] = []
    for n in counts:
        batch = w.batch * n // counts[0] if weak else w.batch
        work = msgspec.structs.replace(w, batch=batch, micro_batch=None)
        found = search(model, where, variants(stack, work), n, asked, keep=1)
        listed = ranked(found, 1)
        best = rows(listed, model, where)[0] if listed else None
        sizes.append(_beside(sizes, n, batch, best))
    return Growth(model, where, w, stack, weak, tuple(sizes))


def _beside(before: list[Size], n: int, batch: int, best: PlanRow | None) -> Size:
    feasible = [s for s in before if s.best is not None]
    if best is None:
        return Size(n, batch, None, None, None, None)
    if not feasible:
        return Size(n, batch, best, 1.0, 1.0, None)
    first, last = feasible[0], feasible[-1]
    assert first.best is not None and last.best is not None
    speedup = best.tokens_per_s / first.best.tokens_per_s
    marginal = best.tokens_per_s / last.best.tokens_per_s * last.gpus / n
    return Size(n, batch, best, speedup, speedup * first.gpus / n, marginal)
