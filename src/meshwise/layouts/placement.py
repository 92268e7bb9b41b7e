"""Where a layout's groups sit on the fabric."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.axes import ORDERS
from meshwise.clusters.load import Cluster
from meshwise.errors import InputError
from meshwise.layouts.layout import Layouts

_POSITION = {axis: np.array([order.index(axis) for order in ORDERS]) for axis in ORDERS[0]}
_BEFORE = {(a, b): _POSITION[a] < _POSITION[b] for a in ORDERS[0] for b in ORDERS[0]}


class Group(NamedTuple):
    """The ranks that one collective joins, by fabric level.

    ``ranks`` innermost first, their product is the group's size; ``active`` is how many devices
    of a domain below each level use that level at the same time (they share its NICs).
    """

    axis: str
    ranks: tuple[Array, ...]
    active: tuple[Array, ...]

    @property
    def size(self) -> Array:
        total = self.ranks[0]
        for ranks in self.ranks[1:]:
            total = total * ranks
        return total


@functools.lru_cache(maxsize=1 << 16)
def _largest_divisor(number: int, bound: int) -> int:
    """The largest divisor of ``number`` that is at most ``bound``."""
    if number <= bound:
        return number
    best = 1
    for d in range(1, math.isqrt(number) + 1):
        if number % d == 0:
            for candidate in (d, number // d):
                if candidate <= bound:
                    best = max(best, candidate)
    return best


_divisor_each = np.frompyfunc(_largest_divisor, 2, 1)


def _fitting(number: Array, bound: Array) -> Array:
    """The largest divisor of each number that is at most its bound; looked for only where neither the
    number itself nor the bound is one."""
    found: Array = np.where(number <= bound, number, bound)
    rest = (number > bound) & (number % bound != 0)
    if np.any(rest):
        found = np.where(rest, _divisor_each(number, bound), found).astype(np.int64)
    return found


def _inside(size: Array, stride: Array, domain: Array, total: Array) -> Array:
    """How many ranks of a group lie in one fabric domain of ``domain`` devices.

    The group has ``size`` ranks, ``stride`` apart. ``total`` is the layout's devices, or 0 for an
    inner axis (tp, cp, ep), whose blocks are placed so that they do not straddle domains needlessly:
    a block larger than a domain is spread evenly. An outer group that straddles domains counts as
    its worst placed member sees it: the common divisor.
    """
    slots = np.maximum(1, domain // stride)
    held = size <= slots
    whole = held & ((total == 0) | (slots % size == 0) | (total <= domain))
    found: Array = np.where(whole, size, np.gcd(size, slots))
    spread = ~held & (total == 0) & (stride == 1)
    if np.any(spread):
        found = np.where(spread, _fitting(size, slots), found)
    return found


def _multiple(found: Array, inner: Array, size: Array) -> Array:
    """How many groups of ``inner`` ranks a domain joins: the most that ``found`` slots hold and that
    divide what is left of the group, so that the levels' ranks always multiply to its size."""
    return _fitting(size // inner, np.maximum(1, found // inner))


def alike(rows: list[Array]) -> Array:
    """A number for each distinct combination of values that stand at one place of the rows."""
    codes: Array = np.zeros(1, dtype=np.int64)
    many = 1  # codes are less
    for row in rows:
        code, size = _coded(np.asarray(row))
        if many * size >= 2**62:  # renumbered, so that the product cannot overflow
            codes = np.unique(codes, return_inverse=True)[1]
            many = int(codes.max(initial=0)) + 1
        codes = codes * size + code
        many *= size
    return np.unique(codes, return_inverse=True)[1]


def _coded(row: Array) -> tuple[Array, int]:
    """A number for each value of a row, and how many numbers there may be. Degrees are numbers as they
    are; sorting is for what is none."""
    flat = row.ravel()
    if flat.dtype.kind in "bui" and flat.size and flat.min() >= 0 and flat.max() < 2**20:
        return flat.astype(np.int64), int(flat.max()) + 1
    values, code = np.unique(flat, return_inverse=True)
    return code, max(values.size, 1)


def usual_ranks(cluster: Cluster) -> int:
    """The ranks that a question without them means: a node's, or all where a node has one device."""
    n = cluster.node_devices if cluster.node_devices > 1 else cluster.devices
    if n > 1:
        return n
    raise InputError(
        f"ranks: {cluster.name} has one device, which sends nothing to itself",
        field="ranks",
        value=None,
        legal="a cluster of two devices or more (`nodes=N`)",
    )


def place(
    axis: str,
    size: Array,
    stride: Array,
    total: Array,
    cluster: Cluster,
    gap: tuple[Array, Array] | None = None,
) -> Group:
    """The :class:`Group` of an axis of ``size`` ranks, ``stride`` devices apart.

    Arrays in the shapes of the axes they depend on, never the full mesh. ``total`` 0 marks an inner
    axis (see :func:`_inside`). ``gap`` (b, p): after every b ranks come p − 1 times b of other
    pipeline stages, that ``stride`` does not count.
    """
    ranks: list[Array] = []
    active: list[Array] = []
    inner: Array = np.int64(1)
    below = 1
    for index, domain in enumerate(cluster.domain_sizes()):
        if index == len(cluster.levels) - 1:
            inside = size // inner  # whatever is left crosses the outermost level
        else:
            held: Array = np.int64(domain)
            if gap is not None:
                held = np.maximum(np.minimum(domain, gap[0]), domain // gap[1])
            inside = _multiple(_inside(size, stride, held, total), inner, size)[()]
        # Neighbours in the same domain run groups of the same axis at the same time.
        users = inner * stride
        if gap is not None:
            users = np.where(users >= gap[0], users * gap[1], users)
        active.append(np.minimum(users, below))
        ranks.append(inside)
        inner = inner * inside
        below = domain
    return Group(axis, tuple(ranks), tuple(active))


def _inside_of(order: Array, axis: str, sizes: dict[str, Array]) -> Array:
    """Devices between neighbours of an axis: the product of the axes inside it."""
    stride: Array = np.int64(1)
    for other, size in sizes.items():
        before = _BEFORE[other, axis][order]
        if np.ndim(before) == 0:
            stride = stride * size if before else stride
        else:
            stride = stride * np.where(before, size, 1)
    return stride


def pipeline_stride(layout: Layouts) -> Array:
    """Devices between neighbouring stages."""
    return _inside_of(layout.placement, "pp", _sizes(layout))


def _sizes(layout: Layouts) -> dict[str, Array]:
    return {"tp": layout.tp, "cp": layout.cp, "dp": layout.dp, "pp": layout.pp}


def groups(layout: Layouts, cluster: Cluster) -> dict[str, Group]:
    """The groups of every axis under the layout's placement.

    Experts have their own grid on the ranks of tp, cp and dp, in the same order: etp innermost, then
    ep, then expert-dp.
    """
    order = layout.placement
    sizes = _sizes(layout)
    strides = {axis: _inside_of(order, axis, sizes) for axis in sizes}
    total, inner_axis = layout.devices, np.int64(0)
    etp = layout.expert_tp()
    # the two innermost axes are placed so that they straddle domains no more than they must
    outer: dict[str, Array] = {
        axis: np.where(_POSITION[axis][order] >= 2, total, 0)[()] for axis in sizes
    }
    if np.ndim(order) == 0 and order == 0:
        outer = {"tp": inner_axis, "cp": inner_axis, "dp": total, "pp": total}
        gap = None
    else:
        # pipeline stages outside all others leave no gaps
        gap = (np.where(_POSITION["pp"][order] == 3, 1 << 62, strides["pp"])[()], layout.pp)
    found = {name: place(name, sizes[name], strides[name], outer[name], cluster) for name in sizes}
    found |= {
        name: place(name, size, stride, last, cluster, gap)
        for name, size, stride, last in (
            ("etp", etp, np.int64(1), inner_axis),
            ("ep", layout.ep, etp, inner_axis),
            ("expert_dp", layout.expert_dp(), etp * layout.ep, total),
        )
    }
    found["dcp"] = place("dcp", layout.dcp, strides["tp"], inner_axis, cluster)
    found["dp_cp"] = _joint(layout, strides, total, found, cluster)
    return found


def kv_group(layout: Layouts, kv_heads: int | None, cluster: Cluster) -> Group:
    """TP ranks that hold the same KV head; one each without KV heads."""
    stride = _inside_of(layout.placement, "tp", _sizes(layout))
    copies = np.int64(1) if kv_heads is None else np.maximum(layout.tp // kv_heads, 1)
    return place("kv", copies, stride, np.int64(0), cluster)


def _joint(
    layout: Layouts,
    strides: dict[str, Array],
    total: Array,
    found: dict[str, Group],
    cluster: Cluster,
) -> Group:
    """Data and context ranks as one group: the gradients of dense weights are summed over both."""
    dp, cp = layout.dp, layout.cp
    near = np.minimum(strides["dp"], strides["cp"])
    stride = np.where(cp == 1, strides["dp"], np.where(dp == 1, strides["cp"], near))[()]
    row = place("dp_cp", dp * cp, stride, total, cluster)
    positions = [_POSITION[axis][layout.placement] for axis in ("dp", "cp")]
    apart = (np.abs(positions[0] - positions[1]) > 1) & (dp > 1) & (cp > 1)
    if not np.any(apart):
        return row
    # something lies between them: what each has inside a domain multiplies
    both = [a * b for a, b in zip(found["dp"].ranks, found["cp"].ranks, strict=True)]
    ranks = tuple(np.where(apart, b, r) for b, r in zip(both, row.ranks, strict=True))
    return row._replace(ranks=ranks)


def spread(group: Group, n: int, per_node: int, cluster: Cluster) -> Group:
    """The group with ``per_node`` ranks on each node."""
    if len(cluster.levels) != 2 or n % per_node or per_node > cluster.node_devices:
        legal = [d for d in range(1, cluster.node_devices + 1) if n % d == 0]
        raise InputError(
            f"ranks_per_node={per_node} does not spread {n} ranks over nodes of {cluster.node_devices}",
            field="ranks_per_node",
            value=per_node,
            legal=legal,
            nearest=min(legal, key=lambda d: abs(d - per_node)),
        )
    ranks = (np.int64(per_node), np.int64(n // per_node))
    return group._replace(ranks=ranks, active=(np.int64(1), np.int64(per_node)))
