"""Layouts as broadcastable axes, and where their groups sit on the fabric."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from meshwise.spec.cluster import Cluster

Array = Any  # a numpy array or scalar; axes of an open mesh broadcast against each other

RECOMPUTE_CODE = {"none": 0, "selective": 1, "full": 2}
SHARD_CODE = {"none": 0, "zero1": 1, "zero2": 2, "zero3": 3}
ORDER = ("tp", "cp", "dp", "pp")  # innermost (neighbouring ranks) to outermost


class Layouts(NamedTuple):
    """Degrees and switches, one array each; shapes broadcast (``np.ix_`` style).

    ``tp`` tensor, ``pp`` pipeline, ``vp`` virtual stages per rank, ``dp`` data, ``cp`` context,
    ``ep`` expert, ``etp`` expert-tensor degree; ``micro_batch`` sequences per microbatch;
    ``sequence_parallel`` bool; ``recompute`` and ``shard`` by :data:`RECOMPUTE_CODE` and
    :data:`SHARD_CODE`.
    """

    tp: Array
    pp: Array = np.int64(1)
    vp: Array = np.int64(1)
    dp: Array = np.int64(1)
    cp: Array = np.int64(1)
    ep: Array = np.int64(1)
    etp: Array = np.int64(0)  # 0: as tp, or 1 where experts are spread over ep
    micro_batch: Array = np.int64(1)
    sequence_parallel: Array = np.bool_(False)
    recompute: Array = np.int64(0)
    shard: Array = np.int64(0)

    @property
    def devices(self) -> Array:
        return self.tp * self.pp * self.dp * self.cp

    def expert_tp(self) -> Array:
        """Expert-tensor degree: as given, else the ranks of tp·cp·dp that ep leaves inside tp."""
        return np.where(self.etp > 0, self.etp, np.maximum(1, self.tp // self.ep))

    def expert_dp(self) -> Array:
        """Ranks that keep the same experts: tp · cp · dp / (etp · ep)."""
        ranks = self.tp * self.cp * self.dp
        return np.maximum(ranks // (self.expert_tp() * self.ep), 1)


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


@functools.lru_cache(maxsize=1 << 16)
def _inside(size: int, stride: int, domain: int, total: int) -> int:
    """How many ranks of a group lie in one fabric domain of ``domain`` devices.

    The group has ``size`` ranks, ``stride`` apart. ``total`` is the layout's devices, or 0 for an
    inner axis (tp, cp, ep), whose blocks are placed so that they do not straddle domains needlessly:
    a block larger than a domain is spread evenly. An outer group that straddles domains counts as
    its worst placed member sees it: the common divisor.
    """
    slots = max(1, domain // stride)
    if total == 0:
        if size <= slots:
            return size
        return _largest_divisor(size, slots) if stride == 1 else math.gcd(size, slots)
    if size <= slots and (slots % size == 0 or total <= domain):
        return size
    return math.gcd(size, slots)


_inside_array = np.frompyfunc(_inside, 4, 1)


def _multiple(found: int, inner: int, size: int) -> int:
    """How many groups of ``inner`` ranks a domain joins: the most that ``found`` slots hold and that
    divide what is left of the group, so that the levels' ranks always multiply to its size."""
    return _largest_divisor(size // inner, max(1, found // inner))


_multiple_array = np.frompyfunc(_multiple, 3, 1)


def _more(found: Array, inner: Array, size: Array) -> Array:
    return np.asarray(_multiple_array(found, inner, size), dtype=np.int64)[()]


def place(axis: str, size: Array, stride: Array, total: Array, cluster: Cluster) -> Group:
    """The :class:`Group` of an axis of ``size`` ranks, ``stride`` devices apart.

    Arrays in the shapes of the axes they depend on, never the full mesh. ``total`` 0 marks an inner
    axis (see :func:`_inside`).
    """
    ranks: list[Array] = []
    active: list[Array] = []
    inner: Array = np.int64(1)
    below = 1
    for index, domain in enumerate(cluster.domain_sizes()):
        if index == len(cluster.levels) - 1:
            inside = size // inner  # whatever is left crosses the outermost level
        else:
            inside = _more(_inside_array(size, stride, domain, total), inner, size)
        # Neighbours in the same domain run groups of the same axis at the same time.
        active.append(np.minimum(inner * stride, below))
        ranks.append(inside)
        inner = inner * inside
        below = domain
    return Group(axis, tuple(ranks), tuple(active))


def groups(layout: Layouts, cluster: Cluster) -> dict[str, Group]:
    """The groups of every axis under the placement order tp, cp, dp, pp (innermost first).

    Experts have their own grid on the same ranks: etp innermost, then ep, then expert-dp.
    """
    total = layout.devices
    one, inner_axis = np.int64(1), np.int64(0)
    etp = layout.expert_tp()
    inner = layout.tp * layout.cp
    spans = {
        "tp": (layout.tp, one),
        "cp": (layout.cp, layout.tp),
        "dp": (layout.dp, inner),
        "pp": (layout.pp, inner * layout.dp),
        "etp": (etp, one),
        "ep": (layout.ep, etp),
        "expert_dp": (layout.expert_dp(), etp * layout.ep),
        # Gradients of dense weights are summed over data and context ranks together.
        "dp_cp": (layout.dp * layout.cp, layout.tp),
    }
    outer = ("dp", "pp", "dp_cp", "expert_dp")
    return {
        name: place(name, size, stride, total if name in outer else inner_axis, cluster)
        for name, (size, stride) in spans.items()
    }
