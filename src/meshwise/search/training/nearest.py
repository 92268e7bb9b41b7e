"""What a plan without a feasible layout needs: the smallest change of each kind that makes one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from meshwise.clusters.load import Cluster, grown
from meshwise.layouts.pins import Pins
from meshwise.layouts.rules.rule import divisors
from meshwise.models.shapes import Model
from meshwise.search.training.plan import ranked
from meshwise.search.training.ranking import Found, Search, search, variants
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Training

# placements do not change what is legal or fits
_FIRST: Pins = {"placement": (0,)}


class Change(NamedTuple):
    """A change, by a code with its value, and the fastest layout that it admits."""

    code: str  # free_<axis>, gpus, global_batch, seq, device_memory
    value: float | None
    found: Found | None = None


def changes(
    model: Model, cluster: Cluster, w: Training, stack: Stack, gpus: int, pins: Pins, first: Search
) -> list[Change]:
    """The smallest change of each kind, those that cost least first: a pin given up, another number of
    GPUs, another batch, shorter sequences; and the memory that a device would have to have."""

    def best(
        n: int = gpus, work: Training = w, own: Pins = pins, where: Cluster = cluster
    ) -> Found | None:
        where = grown(where, n)
        if n > where.devices:
            return None
        found = search(model, where, variants(stack, work), n, own | _FIRST, keep=1)
        listed = ranked(found, 1)
        return listed[0] if listed else None

    made = [_freed(pins, best), _gpus(cluster, gpus, best), _batch(w, gpus, best), _seq(w, best)]
    kept = [change for change in made if change is not None]
    least = min(
        (float(p.memory_bytes.min()) for s in first.searched for p in s.pricers if p.space.size),
        default=float("inf"),
    )
    if least < float("inf"):
        kept.append(Change("device_memory", least / (1.0 - stack.memory.memory_reserve)))
    return kept


Best = Callable[..., Found | None]


def _freed(pins: Pins, best: Best) -> Change | None:
    """The pin whose release gives the fastest layout."""
    fastest: Change | None = None
    for axis in pins:
        found = best(own={k: v for k, v in pins.items() if k != axis})
        if found and (not fastest or not fastest.found or found.step_s < fastest.found.step_s):
            fastest = Change(f"free_{axis}", None, found)
    return fastest


def _gpus(cluster: Cluster, gpus: int, best: Best) -> Change | None:
    """The nearest number of GPUs that holds the step: whole nodes (or, inside one, powers of two)
    beside the asked one, then more and more nodes, then fewer; between the last that does not and the first that
    does, up to eight numbers of nodes are tried from below."""
    node, failed = cluster.node_devices, gpus
    for n in _counts(cluster, gpus):
        found = best(n=n)
        if found is None:
            failed = max(failed, n)
            continue
        step = node * max(1, (n - failed) // node // 8)
        for fewer in range(failed - failed % step + step, n, step) if n > gpus else ():
            less = best(n=fewer) if fewer > failed else None
            if less is not None:
                return Change("gpus", fewer, less)
        return Change("gpus", n, found)
    return None


def _counts(cluster: Cluster, gpus: int) -> Iterator[int]:
    node = cluster.node_devices
    if gpus < node:
        yield from (1 << i for i in range(gpus.bit_length(), node.bit_length()) if 1 << i < node)
    nodes = max(1, -(-gpus // node))
    if nodes * node != gpus:
        yield nodes * node
        if gpus > node:
            yield gpus // node * node
    more = nodes
    while more < 4096:
        more = 1 << more.bit_length() if more & (more - 1) else 2 * more
        yield more * node
    fewer = nodes
    while fewer > 1:
        fewer = 1 << (fewer - 1).bit_length() - 1
        yield fewer * node


def _batch(w: Training, gpus: int, best: Best) -> Change | None:
    """The nearest batch that more divide: the next multiples of the GPUs' divisors."""
    steps = [d for d in divisors(gpus) if d > 1][:12]
    near = sorted({n for d in steps for n in (-(-w.batch // d) * d, w.batch // d * d) if n > 0})
    for n in sorted(near, key=lambda n: abs(n - w.batch))[:8]:
        if n != w.batch:
            found = best(work=msgspec.structs.replace(w, batch=n, micro_batch=None))
            if found is not None:
                return Change("global_batch", n, found)
    return None


def _seq(w: Training, best: Best) -> Change | None:
    """The longest half, quarter … of the sequence that fits."""
    seq = w.seq // 2
    while seq >= 128:
        found = best(work=msgspec.structs.replace(w, seq=seq))
        if found is not None:
            return Change("seq", seq, found)
        seq //= 2
    return None
