"""Every layout of a space, priced chunk by chunk through the one evaluation path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.clusters.load import Cluster
from meshwise.cost.estimate import Estimate, price_layouts
from meshwise.layouts.layout import Layouts
from meshwise.layouts.placement import Group
from meshwise.models.shapes import Model
from meshwise.search.training.space import COLUMN, Space, take_groups
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Training

INNER = ("shard", "sequence_parallel", "decomposed", "recompute", "vp")  # of a column
PIECE = 300_000  # layouts that are priced in the time that a piece takes to set up
TRAINING_CHUNK = 250_000  # layouts priced at a time: a few hundred MB whatever the space


class Slice(NamedTuple):
    """Some columns with their switches as an open mesh [shard, sequence_parallel, recompute, vp, column]."""

    first: int
    layout: Layouts
    groups: dict[str, Group]
    legal: Array  # [shard, sequence_parallel, 1, vp, column]

    @property
    def shape(self) -> tuple[int, ...]:
        return np.broadcast_shapes(*(np.shape(axis) for axis in self.layout))


def slice_of(space: Space, first: int, last: int) -> Slice:
    """Columns ``first`` to ``last`` of a space."""
    at = slice(first, last)
    columns = {name: space.columns[name][at] for name in COLUMN}
    vps = space.vps[:, at]
    vps = vps[: max(1, int(np.count_nonzero(vps, axis=0).max(initial=1)))]
    sharded, split, unsplit = space.sharded[at], space.split[at], space.unsplit[at]
    shards = np.array([0] if not sharded.any() else sorted({*space.shard, 0}), dtype=np.int64)
    # (sequence parallel, its collectives in chunks)
    ways = [(False, False)] * bool(unsplit.any())
    if split.any() or not ways:
        ways += [(True, way) for way in space.decomposed]
    parallel, chunks = (np.array(values, dtype=bool) for values in zip(*ways, strict=True))
    able = np.isin(shards, space.shard)[:, None]
    able = able & ((columns["pp"] == 1) | np.isin(shards, space.piped)[:, None])
    of_shard = np.where(sharded, able, (shards == 0)[:, None])
    of_parallel = np.where(parallel[:, None], split, unsplit)
    legal = (
        of_shard[:, None, None, None, :]
        & of_parallel[None, :, None, None, :]
        & (vps > 0)[None, None, None, :, :]
    )
    layout = Layouts(
        **columns,
        vp=np.maximum(vps, 1),
        recompute=np.array(space.recompute, dtype=np.int64)[:, None, None],
        sequence_parallel=parallel[:, None, None, None],
        decomposed=chunks[:, None, None, None],
        shard=shards[:, None, None, None, None],
    )
    return Slice(first, layout, take_groups(space.groups, at), legal)


def slices(space: Space, chunk: int | None = None) -> Iterator[Slice]:
    """The whole space in pieces of about ``chunk`` layouts, cut where columns with more virtual
    stages begin if the holes of those before would cost more than another piece."""
    chunk = chunk or TRAINING_CHUNK
    number = np.cumsum(space.number)
    depth = np.count_nonzero(space.vps, axis=0)
    deeper = [*(np.flatnonzero(np.diff(depth)) + 1).tolist(), space.size]
    width = space.number / np.maximum(depth, 1)
    first = 0
    while first < space.size:
        before = number[first - 1] if first else 0
        last = max(int(np.searchsorted(number, before + chunk, side="right")), first + 1)
        for cut in deeper:
            if first < cut < last:
                more = depth[cut] - depth[first]
                if float(np.sum(width[first:cut])) * more > PIECE:
                    last = cut
                    break
        yield slice_of(space, first, last)
        first = last


class Pricer:
    """Prices the slices of a space one after the other, and keeps of every column its best layout."""

    def __init__(
        self, model: Model, cluster: Cluster, w: Training, stack: Stack, space: Space
    ) -> None:
        self.parts = (model, cluster, w, stack)
        self.space = space
        n = space.size
        self.step_s = np.full(n, np.inf)  # least step of the layouts that fit; inf where none does
        self.best = {name: np.zeros(n, dtype=np.int64) for name in INNER}  # that layout's switches
        self.unbounded_s = np.full(n, np.inf)  # least step whatever the memory
        self.memory_bytes = np.full(n, np.inf)  # of the smallest layout
        self.fit = np.zeros(n, dtype=np.int64)  # layouts that fit
        self.floor_s = np.zeros(n)  # no step of the column is shorter, wherever its groups are
        # switch → value → (least step of the layouts that have it, their column, its switches)
        self.switch: dict[str, dict[int, tuple[float, int, dict[str, int]]]]
        self.switch = {name: {} for name in INNER}
        self.done = 0  # columns

    def evaluate(self, piece: Slice) -> Estimate:
        model, cluster, w, stack = self.parts
        return price_layouts(model, cluster, w, stack, piece.layout, placed=piece.groups)

    def add(self, piece: Slice) -> None:
        e = self.evaluate(piece)
        shape = piece.shape
        n = shape[-1]
        legal = np.broadcast_to(piece.legal, shape)
        step = np.where(legal, e.fast_step_s, np.inf)
        memory = np.broadcast_to(e.memory_bytes, shape)
        fits = memory <= e.memory_limit_bytes
        timed = np.where(fits, step, np.inf)
        flat = timed.reshape(-1, n)
        at = slice(piece.first, piece.first + n)
        best = np.argmin(flat, axis=0)
        for name, values in _switches_at(piece, np.unravel_index(best, shape[:-1])).items():
            self.best[name][at] = values
        self.step_s[at] = flat[best, np.arange(n)]
        self.unbounded_s[at] = np.min(step.reshape(-1, n), axis=0)
        least = np.min(memory, axis=(0, 1, 2, 3), where=legal, initial=np.inf)
        self.memory_bytes[at] = least
        self.fit[at] = np.count_nonzero(fits & legal, axis=(0, 1, 2, 3))
        self.floor_s[at] = e.floor_s
        self._keep_switches(piece, timed)
        self.done = piece.first + n

    def _keep_switches(self, piece: Slice, timed: Array) -> None:
        layout, n = piece.layout, timed.shape[-1]
        named = ((0, "shard"), (1, "sequence_parallel"), (1, "decomposed"), (2, "recompute"))
        for axis, name in named:
            for position, value in enumerate(np.ravel(getattr(layout, name)).tolist()):
                part = [slice(None)] * timed.ndim
                part[axis] = slice(position, position + 1)
                self._keep(name, int(value), piece, timed[tuple(part)], tuple(part))
        vps = np.broadcast_to(layout.vp, (timed.shape[3], n))
        for value in sorted(set(vps.ravel().tolist())):
            chosen = np.where(vps == value, timed, np.inf) if timed.shape[3] > 1 else timed
            self._keep("vp", int(value), piece, chosen, (slice(None),) * timed.ndim)

    def _keep(
        self, name: str, value: int, piece: Slice, timed: Array, part: tuple[slice, ...]
    ) -> None:
        at = int(np.argmin(timed))
        least = float(timed.flat[at])
        known = self.switch[name].get(value)
        if known is not None and known[0] <= least:
            return
        found = np.unravel_index(at, timed.shape)
        *inner, column = (int(i) + (p.start or 0) for i, p in zip(found, part, strict=True))
        switches = _switches_at(piece, tuple(inner), column)
        values = {switch: int(v) for switch, v in switches.items()}
        self.switch[name][value] = (least, piece.first + column, values)

    def least(self) -> Array:
        """The least step of every column, and nothing else."""
        for piece in slices(self.space):
            e = self.evaluate(piece)
            step = np.where(piece.legal & e.fits, e.fast_step_s, np.inf)
            at = slice(piece.first, piece.first + piece.shape[-1])
            self.step_s[at] = np.min(step.reshape(-1, piece.shape[-1]), axis=0)
        return self.step_s

    def run(self, progress: Callable[[int], None] | None = None) -> None:
        """Price everything."""
        for piece in slices(self.space):
            self.add(piece)
            if progress is not None:
                progress(int(np.sum(self.space.number[: self.done])))


def _switches_at(piece: Slice, inner: tuple[Any, ...], column: Any = None) -> dict[str, Array]:
    """Values of the switches at a place [shard, sequence_parallel, recompute, vp] of every column, or
    of one."""
    shard, parallel, recompute, vp = inner
    layout = piece.layout
    vps = layout.vp[vp, np.arange(layout.vp.shape[1]) if column is None else column]
    return {
        "shard": np.ravel(layout.shard)[shard],
        "sequence_parallel": np.ravel(layout.sequence_parallel)[parallel].astype(np.int64),
        "decomposed": np.ravel(layout.decomposed)[parallel].astype(np.int64),
        "recompute": np.ravel(layout.recompute)[recompute],
        "vp": vps,
    }
