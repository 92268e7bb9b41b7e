"""What a plan says: the ranking, rivals, the front, what binds, the rule of thumb, the nearest change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.axes import TRAINS
from meshwise.cost.estimate import Estimate
from meshwise.cost.uncertainty import fitting_chance, is_tight
from meshwise.layouts.layout import Layout
from meshwise.search.training.prices import INNER, Pricer, Slice, slice_of
from meshwise.search.training.ranking import Found, Search, Variant, layout_at
from meshwise.search.training.rows import PlanRow, against, rows
from meshwise.search.training.space import COLUMN
from meshwise.search.training.thumb import PLAIN_SHARDS, fewest_stages, fills_node
from meshwise.stacks.stack import Stack

LABELS = ("dtype", "comm_dtype")
_ORDER = (*COLUMN, *INNER)  # of layouts that take equally long
FRONT = 100  # columns with the least step, whose layouts the front of step and memory is made of


class Rival(NamedTuple):
    """The best layout that differs from the best one in an axis."""

    axis: str
    row: PlanRow


class Binding(NamedTuple):
    """What keeps the step from being shorter: a code, its share of the step, and for memory the
    layout that would be faster with the bytes that it needs."""

    code: str  # memory, compute, <axis>_comm, bubble, host
    share: float
    step_s: float | None = None
    memory_bytes: float | None = None
    layout: Layout | None = None


class Plan(NamedTuple):
    """The answer of ``plan`` for training."""

    search: Search
    stack: Stack
    rows: tuple[PlanRow, ...]  # least step first
    rivals: tuple[Rival, ...]
    pareto: tuple[PlanRow, ...]
    binding: Binding | None
    rule_of_thumb: PlanRow | None
    roomy: PlanRow | None = None  # the best that is not tight, where the best is
    surest: PlanRow | None = None  # the least step over its chance to fit, where the best is tight

    @property
    def best(self) -> PlanRow | None:
        return self.rows[0] if self.rows else None


def plan_from(found: Search, stack: Stack, top: int) -> Plan:
    """The plan of a search, with the ``top`` best layouts."""

    listed = ranked(found, top)
    if not listed:
        return Plan(found, stack, (), (), (), None, None)
    rivals, thumb, front = _rivals(found, listed[0]), _thumb(found), _front(found)
    asked = [listed, [f for _, f in rivals], [thumb] if thumb else [], front]
    made = iter(rows([f for part in asked for f in part], found.model, found.cluster))
    # the search's own sums are rounded in another order: the exact ones decide
    full = [[next(made) for _ in part] for part in asked]
    full[0].sort(key=lambda r: r.step_s)
    best = full[0][0]
    beside = [[against(best, r, stack.ideal) for r in part] for part in full]
    named = [Rival(axis, r) for (axis, _), r in zip(rivals, beside[1], strict=True)]
    return Plan(
        search=found,
        stack=stack,
        rows=(best, *beside[0][1:]),
        rivals=tuple(sorted(named, key=lambda r: r.row.step_s)),
        pareto=tuple(sorted(beside[3], key=lambda r: r.step_s)),
        binding=_binding(found, best),
        rule_of_thumb=beside[2][0] if thumb else None,
        roomy=_least(found, best, stack, _clear_s) if best.tight else None,
        surest=_least(found, best, stack, _expected_s) if best.tight else None,
    )


def _clear_s(e: Estimate, step: Array) -> Array:
    """The steps of layouts whose memory is clear of the limit."""
    return np.where(is_tight(e), np.inf, step)


def _expected_s(e: Estimate, step: Array) -> Array:
    """The steps over the chance that they fit: a run that goes out of memory is lost."""
    return step / np.maximum(fitting_chance(e), 1e-9)


def _least(
    found: Search, best: PlanRow, stack: Stack, seconds: Callable[[Estimate, Array], Array]
) -> PlanRow | None:
    """The layout that takes the fewest ``seconds``, among those of the :data:`FRONT` best columns."""
    least: tuple[float, Found] | None = None
    for s in found.searched:
        for pricer in s.pricers:
            columns, piece, step, _ = _best_columns(pricer, FRONT)
            values = seconds(pricer.evaluate(piece), step) if step.size else step
            if values.size and (least is None or values.min() < least[0]):
                at = np.unravel_index(int(np.argmin(values)), values.shape)
                other = _at(pricer, columns, piece, at, float(step[at]), s.variant)
                least = (float(values[at]), other) if np.isfinite(values[at]) else least
    if least is None:
        return None
    (row,) = rows([least[1]], found.model, found.cluster)
    return against(best, row, stack.ideal)


def ranked(found: Search, top: int) -> list[Found]:
    """The ``top`` layouts with the least step. Each is in one of the ``top`` best columns."""
    listed: list[Found] = []
    for s in found.searched:
        for pricer in s.pricers:
            columns, piece, step, _ = _best_columns(pricer, top)
            order = np.argsort(step, axis=None)[:top]
            for place in order[np.isfinite(step.ravel()[order])].tolist():
                at = np.unravel_index(place, step.shape)
                listed.append(_at(pricer, columns, piece, at, float(step[at]), s.variant))
    return sorted(listed, key=lambda f: (f.step_s, *map(f.layout.code, _ORDER)))[:top]


def _best_columns(pricer: Pricer, number: int) -> tuple[Array, Slice, Array, Array]:
    """(the columns with the least step, their layouts, their steps (inf: does not fit), bytes)."""
    good = np.flatnonzero(np.isfinite(pricer.step_s))
    good = np.sort(good[np.argsort(pricer.step_s[good], kind="stable")[:number]])
    if not good.size:
        none = np.zeros(0)
        return good, slice_of(pricer.space, 0, 0), none, none
    some = pricer.space.take(good)
    piece = slice_of(some, 0, some.size)
    e = pricer.evaluate(piece)
    step = np.where(piece.legal & e.fits, e.fast_step_s, np.inf)
    return good, piece, step, np.broadcast_to(e.memory_bytes, piece.shape)


def _at(
    pricer: Pricer, columns: Array, piece: Slice, at: tuple[Any, ...], step: float, variant: Variant
) -> Found:
    """The layout at a place of a slice of ``columns``."""
    switches = {
        name: int(np.broadcast_to(getattr(piece.layout, name), piece.shape)[at]) for name in INNER
    }
    return Found(step, variant, layout_at(pricer, int(columns[at[-1]]), switches))


def _rivals(found: Search, best: Found) -> list[tuple[str, Found]]:
    """For each axis the best layout with another value of it."""
    rivals: list[tuple[str, Found]] = []
    for axis in (*TRAINS, *LABELS):
        least: Found | None = None
        for s in found.searched:
            for pricer in s.pricers:
                other = _other(pricer, s.variant, axis, best)
                if other is not None and (least is None or other.step_s < least.step_s):
                    least = other
        if least is not None:
            rivals.append((axis, least))
    return rivals


def _other(pricer: Pricer, variant: Variant, axis: str, best: Found) -> Found | None:
    """A pricer's best layout whose ``axis`` differs from the best one's."""
    if axis in pricer.switch:
        values = [v for value, v in pricer.switch[axis].items() if value != best.layout.code(axis)]
        if not values:
            return None
        step, column, switches = min(values, key=lambda v: v[0])
    else:
        if axis in LABELS:
            other = variant.label.get(axis) != best.variant.label.get(axis)
            steps = pricer.step_s if other and pricer.step_s.size else np.full(1, np.inf)
        else:
            differs = pricer.space.columns[axis] != best.layout.code(axis)
            if not differs.any():
                return None
            steps = np.where(differs, pricer.step_s, np.inf)
        column = int(np.argmin(steps))
        step = float(steps[column])
        switches = {name: int(v[column]) for name, v in pricer.best.items()}
    if not np.isfinite(step):
        return None
    return Found(step, variant, layout_at(pricer, column, switches))


def _front(found: Search) -> list[Found]:
    """Layouts of which none other has both less step and less memory, among those of the
    :data:`FRONT` best columns."""
    points: list[tuple[float, float, Found]] = []
    for s in found.searched:
        for pricer in s.pricers:
            columns, piece, step, memory = _best_columns(pricer, FRONT)
            order = np.lexsort((memory.ravel(), step.ravel()))
            order = order[np.isfinite(step.ravel()[order])]
            least = np.minimum.accumulate(memory.ravel()[order])
            new = np.flatnonzero(np.diff(least, prepend=np.inf) < 0)
            for place in order[new].tolist():
                at = np.unravel_index(place, piece.shape)
                f = _at(pricer, columns, piece, at, float(step[at]), s.variant)
                points.append((float(step[at]), float(memory[at]), f))
    points.sort(key=lambda p: p[:2])
    front: list[Found] = []
    least_memory = np.inf
    for _, memory_bytes, f in points:
        if memory_bytes < least_memory:
            front.append(f)
            least_memory = memory_bytes
    return front


def _binding(found: Search, best: PlanRow) -> Binding:
    """Memory, where a layout that does not fit would be faster; else the largest part of the step
    beside compute, or compute itself where no other takes a tenth."""
    fastest: tuple[float, Any, int] | None = None
    for s in found.searched:
        column = int(np.argmin(s.first.unbounded_s)) if s.space.size else -1
        if column >= 0 and (fastest is None or s.first.unbounded_s[column] < fastest[0]):
            fastest = (float(s.first.unbounded_s[column]), s, column)
    if fastest is not None and fastest[0] < best.step_s * (1.0 - 1e-6):
        step, s, column = fastest
        piece = slice_of(s.space, column, column + 1)
        e = s.first.evaluate(piece)
        steps = np.where(piece.legal, e.fast_step_s, np.inf)
        at = np.unravel_index(int(np.argmin(steps)), steps.shape)
        other = _at(s.first, np.array([column]), piece, at, step, s.variant)
        memory = float(np.broadcast_to(e.memory_bytes, piece.shape)[at])
        return Binding("memory", 1.0 - step / best.step_s, step, memory, other.layout)
    parts = {k: v for k, v in best.parts.items() if k != "compute"}
    code = max(parts, key=lambda k: parts[k])
    if parts[code] < 0.1 * best.step_s:
        return Binding("compute", best.compute_s / best.step_s)
    return Binding(code, parts[code] / best.step_s)


def _thumb(found: Search) -> Found | None:
    """The layout of the rule of thumb (:mod:`meshwise.search.training.thumb`)."""
    choices: list[Found] = []
    for s in found.searched:
        c = s.space.columns
        node = found.cluster.node_devices
        inside = fills_node(c["tp"], c["cp"], c["ep"], c["placement"], node)
        if not inside.any():
            continue
        plain = tuple(v for v in s.space.shard if v in PLAIN_SHARDS)
        some = s.space.take(np.flatnonzero(inside))._replace(shard=plain)
        if not plain and bool(some.sharded.any()):
            continue
        pricer = Pricer(*s.first.parts, some)
        pricer.run()
        fits = np.isfinite(pricer.step_s)
        if fits.any():
            few = fewest_stages(some.columns["pp"], fits)
            steps = np.where(few, pricer.step_s, np.inf)
            column = int(np.argmin(steps))
            switches = {name: int(v[column]) for name, v in pricer.best.items()}
            layout = layout_at(pricer, column, switches)
            choices.append(Found(float(steps[column]), s.variant, layout))
    return min(choices, key=lambda f: (f.layout.pp, f.step_s)) if choices else None
