"""The best training layout of a number of GPUs: all of them priced, the ranking, and its reasons."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np

from meshwise.arrays import Array
from meshwise.clusters.load import Cluster
from meshwise.cost.collectives.hosts import share_lanes
from meshwise.layouts.layout import Layout, Layouts, of_codes
from meshwise.layouts.pins import Pins
from meshwise.models.shapes import Model
from meshwise.search.training.bounds import nearest
from meshwise.search.training.prices import Pricer
from meshwise.search.training.space import COLUMN, Space, space
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Training

OnProgress = Callable[[int, int], None]  # layouts done, of how many


class Variant(NamedTuple):
    """What is not an axis: the stack, and the workload with its number formats, of which ``label``
    names those that were chosen (dtype, comm_dtype)."""

    stack: Stack
    workload: Training
    label: dict[str, str]


class Found(NamedTuple):
    """A layout of the search, and its step as the search priced it."""

    step_s: float
    variant: Variant
    layout: Layout


class Searched(NamedTuple):
    """One variant's space after its search."""

    variant: Variant
    space: Space
    first: Pricer  # every column with its first placement
    others: Pricer | None  # the other placements of the columns that could gain by one

    @property
    def pricers(self) -> tuple[Pricer, ...]:
        return (self.first,) if self.others is None else (self.first, self.others)


class Search(NamedTuple):
    """Everything that a plan is told from."""

    model: Model
    cluster: Cluster
    gpus: int
    pins: Pins
    searched: tuple[Searched, ...]
    partial: bool
    enumerated: int  # layouts, and meshes that a rule refuses
    bounded: int  # feasible layouts of placements that a bound excludes from the best
    feasible: int
    refused: dict[str, int]


def layout_at(pricer: Pricer, column: int, switches: dict[str, int]) -> Layout:
    """A column's layout with these switches (codes)."""
    columns = pricer.space.columns
    return of_codes({name: int(columns[name][column]) for name in COLUMN} | switches)


def _gainers(s: Space, first: Pricer, cluster: Cluster, keep: int) -> Array:
    """Columns that some other placement could bring among the ``keep`` best: those whose step, with
    every group as near together as can be, is below the last of these. Where cards of one host share its
    lanes, near together is not quickest, and all are."""
    steps = first.step_s[np.isfinite(first.step_s)]
    last = np.partition(steps, keep - 1)[keep - 1] if steps.size > keep else np.inf
    several = np.flatnonzero((s.placements > 1) & (first.fit > 0) & (first.floor_s <= last))
    if not several.size or share_lanes(cluster):
        return several
    near = s.take(several)
    near = near._replace(groups=nearest(Layouts(**near.columns), cluster))
    # the same sums in another order: a rounding's room
    return several[Pricer(*first.parts, near).least() <= last * (1.0 + 1e-12)]


def variants(
    stack: Stack,
    w: Training,
    *,
    dtypes: tuple[str, ...] = (),
    comm_dtypes: tuple[str, ...] = (),
) -> tuple[Variant, ...]:
    """Every combination of number formats; the workload's own where none are given."""
    found = []
    for dtype in dtypes or (w.formats.dtype,):
        for comm in comm_dtypes or (w.formats.comm,):
            formats = msgspec.structs.replace(w.formats, dtype=dtype, comm=comm)
            label = {"dtype": dtype, "comm_dtype": comm}
            known = {k: v for k, v in label.items() if v is not None}
            found.append(Variant(stack, msgspec.structs.replace(w, formats=formats), known))
    return tuple(found)


def search(
    model: Model,
    cluster: Cluster,
    choices: tuple[Variant, ...],
    gpus: int,
    pins: Pins,
    *,
    keep: int = 50,
    progress: OnProgress | None = None,
) -> Search:
    """Price every legal layout of ``gpus`` devices. The ``keep`` best are exact over all placements:
    a column's other placements are priced unless a bound shows that none comes among them."""
    spaces: list[tuple[Variant, Space]] = []
    for v in choices:
        spaces.append((v, space(model, cluster, v.workload, v.stack, gpus, pins)))
    total = sum(s.layouts for _, s in spaces)
    searched: list[Searched] = []
    done = 0
    partial = False
    for v, s in spaces:
        first = Pricer(model, cluster, v.workload, v.stack, s)
        others = None
        try:
            share = s.layouts / max(1, int(np.sum(s.number)))
            first.run(_shown(progress, done, share, total))
            gainers = _gainers(s, first, cluster, keep)
            if gainers.size:
                more = s.placed(gainers, cluster)
                others = Pricer(model, cluster, v.workload, v.stack, more)
                others.run()
        except KeyboardInterrupt:
            partial = True
        done += s.layouts
        searched.append(Searched(v, s, first, others))
        if partial:
            break
    return _counted(model, cluster, gpus, pins, tuple(searched), partial, total)


def _shown(
    progress: OnProgress | None, done: int, share: float, total: int
) -> Callable[[int], None] | None:
    if progress is None:
        return None
    return lambda layouts: progress(done + int(layouts * share), total)


def _counted(
    model: Model,
    cluster: Cluster,
    gpus: int,
    pins: Pins,
    searched: tuple[Searched, ...],
    partial: bool,
    total: int,
) -> Search:
    """The search with its counts. What fits does not depend on the placement."""
    refused: dict[str, int] = {}
    feasible = bounded = 0
    for index, found in enumerate(searched):
        places = found.space.placements
        seen = np.arange(found.space.size) < found.first.done
        fit = int(np.sum(found.first.fit * places))
        looked = int(np.sum((found.space.number * places)[seen]))
        feasible += fit
        bounded += fit - sum(int(np.sum(p.fit)) for p in found.pricers)
        for rule, number in found.space.refused.items():
            # a mesh is refused once, whatever varies on it
            if index == 0 or rule in ("interleaving", "sequence_parallel", "unsplit_experts"):
                refused[rule] = refused.get(rule, 0) + number
        refused["memory"] += looked - fit
    return Search(
        model=model,
        cluster=cluster,
        gpus=gpus,
        pins=pins,
        searched=searched,
        partial=partial,
        enumerated=total + sum(n for rule, n in refused.items() if rule != "memory"),
        bounded=bounded,
        feasible=feasible,
        refused=refused,
    )
