"""Prefill and decode on GPUs of their own: instances of two layouts, matched in rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.axes import SERVES
from meshwise.clusters.load import Cluster
from meshwise.cost.memory.server import most_sequences
from meshwise.layouts.layout import Layout, Layouts
from meshwise.layouts.pins import Pins
from meshwise.layouts.rules.rule import divisors
from meshwise.models.shapes import Model
from meshwise.search.serving.bisection import Ends, largest
from meshwise.search.serving.plan import EVERY, SERVING_CHUNK, Limits, some_columns
from meshwise.search.serving.space import serving_space
from meshwise.simulate import iteration
from meshwise.simulate.iteration import Engine, draft_s
from meshwise.simulate.pools import kv_bytes, link_bytes_per_s
from meshwise.simulate.rules import capacity, server_memory, tokens_per_iteration
from meshwise.stacks.stack import Stack
from meshwise.workloads.serving import Serving

ROWS = 256  # prefill instances that are compared with all decode instances at a time
MATCHED = 24  # pairs that are kept, of which some are simulated
PARTNERS = 3  # decode layouts of a prefill layout among them
# Shares of what a prefill instance computes at most that it may be given: the more, the longer prompts wait.
UTILISATIONS = (0.2, 0.4, 0.6, 0.8, 0.9)


class Instance(NamedTuple):
    """A layout of one pool: its size, what it delivers and how soon."""

    layout: Layout
    devices: int
    requests_per_s: float
    latency_s: float  # prefill: to the first token; decode: per output token
    batch: int  # prompts together, or sequences in flight
    memory_bytes: float

    @property
    def replica(self) -> int:
        """Devices of one of its replicas, which hold a request."""
        return self.devices // self.layout.dp


class Disaggregated(NamedTuple):
    """``prefill_instances`` and ``decode_instances`` of two layouts on at most the GPUs asked for."""

    prefill: Instance
    decode: Instance
    prefill_instances: int
    decode_instances: int
    devices: int
    transfer_s: float  # of a prompt's keys and values, from the one to the other
    transfer_bytes: float
    ttft_s: float
    tpot_s: float
    requests_per_s: float
    tokens_per_s: float
    tokens_per_s_per_device: float  # of all the GPUs asked for
    concurrency: int  # sequences that decode at a time
    bound: str  # prefill, decode or transfer: what the rate stops at


def disaggregations(
    model: Model,
    cluster: Cluster,
    stack: Stack,
    w: Serving,
    gpus: int,
    limits: Limits,
    pins: Pins,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Disaggregated, ...]:
    """Two pools on ``gpus`` devices within the limits, by averages, those of the most tokens/s first.

    A prefill instance computes batches of prompts one after the other, as many batches at a time as it
    has pipeline stages; a request waits for those before it, for its own batch, and for the
    transfer. A decode instance holds the most sequences that the limit on the time per token and its
    KV cache allow. Of instances of one size those that another one beats in rate and latency cannot be
    part of the best, and are dropped; of what is left all pairs and all numbers of instances are
    compared. ``progress`` hears of batches of layouts done, of how many.
    """
    prefills: list[Instance] = []
    decodes: list[Instance] = []
    batches = list(_batches(model, cluster, stack, gpus, pins))
    for done, layouts in enumerate(batches):
        prefills += _prefills(model, cluster, stack, w, layouts, limits)
        decodes += _decodes(model, cluster, stack, w, layouts, limits)
        if progress is not None:
            progress(done + 1, len(batches))
    if not prefills or not decodes:
        return ()
    return _matched(prefills, decodes, cluster, w, gpus, limits, kv_bytes(model, stack, w))


def instance_sizes(cluster: Cluster, gpus: int) -> list[int]:
    """Sizes that tile nodes without straddling them: those that divide a node, and every whole number of
    nodes. At least one device is left for the other pool."""
    node = cluster.node_devices
    sizes = divisors(node) + [node * n for n in range(2, gpus // node + 1)]
    return [size for size in sizes if size < gpus]


def _batches(
    model: Model, cluster: Cluster, stack: Stack, gpus: int, pins: Pins
) -> Iterator[Layouts]:
    """The layouts of all sizes, as many sizes together as make :data:`SERVING_CHUNK` columns."""
    held: list[Layouts] = []
    sizes = instance_sizes(cluster, gpus)
    for size in sizes:
        layouts, _ = serving_space(model, stack, size, pins, joined=True)
        for first in range(0, layouts.tp.size, SERVING_CHUNK):
            held.append(some_columns(layouts, slice(first, first + SERVING_CHUNK)))
        if held and (size == sizes[-1] or sum(h.tp.size for h in held) >= SERVING_CHUNK):
            yield from _together(held)
            held = []


def _together(parts: list[Layouts]) -> Iterator[Layouts]:
    """Parts joined until they make :data:`SERVING_CHUNK` columns."""
    held: list[Layouts] = []
    for part in parts:
        held.append(part)
        if part is parts[-1] or sum(h.tp.size for h in held) >= SERVING_CHUNK:
            yield Layouts(
                *(np.concatenate(p) if np.ndim(p[0]) else p[0] for p in zip(*held, strict=True))
            )
            held = []


def _prefills(
    model: Model, cluster: Cluster, stack: Stack, w: Serving, layouts: Layouts, limits: Limits
) -> list[Instance]:
    """Every layout with batches of 1, 2, 4 … prompts, and of as many as an iteration's tokens hold,
    that meet the limit: its rate, and the time from a request's arrival to its first token, transfer
    apart. Its cache holds the batches of all its stages and one whose keys and values are under way."""
    engine = Engine(model, cluster, stack, layouts, w.formats, w.expert_imbalance, w.expert_skew)
    budget = tokens_per_iteration(engine, w)
    chunks = -(-w.computed // budget)
    chunk = -(-w.computed // chunks)
    cached = w.isl - w.computed + (chunks - 1) * chunk // 2
    server = server_memory(engine, w)
    together = max(budget // chunk, 1)
    shape = layouts.tp.shape
    found = []
    for prompts in sorted({*(1 << i for i in range(together.bit_length())), together}):
        used, limit = server.used_bytes(w.isl, prompts * (layouts.pp + 1))
        memory = np.broadcast_to(used, shape)
        pace = iteration.prefill(engine, np.int64(prompts), chunk, cached)
        seconds = np.broadcast_to(pace.series_s(chunks), shape)
        every = np.broadcast_to(chunks * pace.every_s, shape)  # between two batches
        # each replica of an instance computes its own prompts
        rate = prompts * layouts.dp / every
        good = np.broadcast_to(used <= limit, shape)
        if limits.ttft_s is None:
            found.append(_Met(good, rate, every / 2.0 + seconds, prompts * layouts.dp, memory))
            continue
        for share in UTILISATIONS:
            # who comes waits for what is in the pipeline, all its stages
            first = _waits_s(seconds, share) + seconds
            soon = good & (first <= limits.ttft_s)
            found.append(_Met(soon, share * rate, first, prompts * layouts.dp, memory))
    return _undominated(layouts, found)


def _waits_s(every: Array, share: float) -> Array:
    """Mean wait [s] at a server of constant times, one ``every`` so many seconds, that is busy for a ``share``
    of the time (Pollaczek and Khinchine): share · every / (2 (1 − share))."""
    return every * (share / (2.0 * (1.0 - share)))


def _decodes(
    model: Model, cluster: Cluster, stack: Stack, w: Serving, layouts: Layouts, limits: Limits
) -> list[Instance]:
    """Every layout with the most sequences that its cache and the limit per token allow; with fewer
    where another one of its size is known to deliver more."""
    engine = Engine(model, cluster, stack, layouts, w.formats, w.expert_imbalance, w.expert_skew)
    shape = layouts.tp.shape
    room = np.minimum(capacity(engine, w, np.int64(1)).most, most_sequences(stack, cluster.device))
    room = np.broadcast_to(room, shape)

    def tpot(batch: Array, index: Array | slice = EVERY) -> Array:
        some = replace(engine, layouts=some_columns(layouts, index))
        local = -(-batch // some.layouts.pp)
        seconds = iteration.replayed_s(some, local, w.context, w.queries, -(-batch // local))
        seconds = seconds + draft_s(some, w, local)
        return np.broadcast_to(seconds / w.tokens_per_iteration, some.layouts.tp.shape)

    limit = np.inf if limits.tpot_s is None else limits.tpot_s

    def over(batch: Array, index: Array) -> Array:
        return tpot(batch, index) / limit - 1.0

    alone = tpot(np.ones_like(room))
    first = np.where((room >= 1) & (alone <= limit), 1, 0)
    sizes, size = np.unique(layouts.tp * layouts.pp * layouts.dp, return_inverse=True)

    def worth(ends: Ends) -> Array:
        """Who may yet deliver the most of its size: more sequences never take less time per token."""
        seconds = np.where(np.isnan(ends.below), alone, limit * (ends.below + 1.0))
        best = np.zeros(sizes.size)
        np.maximum.at(best, size, ends.low * layouts.dp / seconds)
        return ends.high * layouts.dp / seconds >= best[size]

    low = largest(first, np.where(first > 0, room, 0), over, None if limit == np.inf else worth)
    seconds = tpot(np.maximum(low, 1))
    memory = np.broadcast_to(capacity(engine, w, np.maximum(low, 1)).used_bytes, shape)
    batch = np.maximum(low, 1) * layouts.dp
    rate = batch / (w.osl * seconds)
    return _undominated(layouts, [_Met(low > 0, rate, seconds, batch, memory)])


class _Met(NamedTuple):
    """What columns of layouts deliver, and which of them meet the limits."""

    good: Array
    rate: Array
    latency: Array
    batch: Array
    memory: Array


def _undominated(layouts: Layouts, found: list[_Met]) -> list[Instance]:
    """Instances of which no other of the same size has a higher rate and less latency."""
    size = layouts.tp.size
    met = _Met(
        *(
            np.concatenate([np.broadcast_to(a, (size,)) for a in p])
            for p in zip(*found, strict=True)
        )
    )
    devices = np.tile(layouts.tp * layouts.pp * layouts.dp, len(found))
    good = np.flatnonzero(met.good)
    order = good[np.lexsort((-met.rate[good], met.latency[good], devices[good]))]
    kept = []
    most, of = 0.0, 0
    for i, n, rate in zip(
        order.tolist(), devices[order].tolist(), met.rate[order].tolist(), strict=True
    ):
        if n != of or rate > most:
            kept.append(_instance(layouts, met, i))
            most, of = rate, n
    return kept


def _instance(layouts: Layouts, met: _Met, i: int) -> Instance:
    layout = layouts.at(i % layouts.tp.size, SERVES)
    return Instance(
        layout,
        devices=layout.devices,
        requests_per_s=float(met.rate[i]),
        latency_s=float(met.latency[i]),
        batch=int(met.batch[i]),
        memory_bytes=float(met.memory[i]),
    )


class _Pairs(NamedTuple):
    """Prefill instances (rows) against decode instances (columns)."""

    rate: Array  # requests/s of the best numbers of both; -1 where the pair is no answer
    devices: Array
    numbers: Array  # decode instances
    needed: Array  # prefill instances
    transfer: Array


def _pairs(
    prefills: list[Instance],
    decodes: list[Instance],
    gpus: int,
    limits: Limits,
    carried: float,
) -> _Pairs:
    """Every pair with the best numbers of its instances; ``carried`` requests/s by a device's links.

    n decode instances deliver the lesser of what they do, rising in n, and what the prefill instances on
    the other GPUs do, falling in n: best at the largest n at which prefill keeps up, or the next.
    Nothing delivers more than its instances' links carry.
    """

    def column(rows: list[Instance], name: str) -> Array:
        return np.array([getattr(row, name) for row in rows])

    p, d = column(prefills, "devices")[:, None], column(decodes, "devices")[None, :]
    prefill = np.minimum(column(prefills, "requests_per_s")[:, None], p * carried)
    decode = np.minimum(column(decodes, "requests_per_s")[None, :], d * carried)
    # a prompt is on the devices of one replica, and goes to those of another
    senders, getters = column(prefills, "replica")[:, None], column(decodes, "replica")[None, :]
    transfer = 1.0 / (np.minimum(senders, getters) * carried)
    most = (gpus - p) // d
    good = most >= 1
    if limits.ttft_s is not None:
        good &= column(prefills, "latency_s")[:, None] + transfer <= limits.ttft_s

    def delivered(n: Array) -> Array:
        return np.minimum(n * decode, (gpus - n * d) // p * prefill)

    low, high = np.zeros_like(most), np.maximum(most, 0) + 1
    while np.any(high - low > 1):
        middle = (low + high) // 2
        keeps_up = middle * decode <= (gpus - middle * d) // p * prefill
        apart = high - low > 1
        low = np.where(apart & keeps_up, middle, low)
        high = np.where(apart & ~keeps_up, middle, high)
    after = np.minimum(low + 1, np.maximum(most, 1))
    numbers = np.where((low >= 1) & (delivered(low) >= delivered(after)), low, after)
    rate = np.where(good, delivered(numbers), -1.0)
    # no more prefill instances than the rate needs
    needed = np.maximum(np.ceil(rate / prefill - 1e-9), 1).astype(np.int64)
    return _Pairs(rate, needed * p + numbers * d, numbers, needed, transfer)


def _matched(
    prefills: list[Instance],
    decodes: list[Instance],
    cluster: Cluster,
    w: Serving,
    gpus: int,
    limits: Limits,
    moved: float,
) -> tuple[Disaggregated, ...]:
    """The best pairs of layouts with their numbers, the fewest devices of equal ones, and of a pair of
    layouts the best alone; none if the limits or the GPUs leave none."""
    carried = link_bytes_per_s(cluster, 1) / moved  # requests per second and device
    found: list[Disaggregated] = []
    for start in range(0, len(prefills), ROWS):
        rows = prefills[start : start + ROWS]
        pairs = _pairs(rows, decodes, gpus, limits, carried)
        order = np.lexsort((pairs.devices.ravel(), -pairs.rate.ravel()))
        partners: dict[Layout, set[Layout]] = {}
        for at in order.tolist():
            i, j = divmod(at, len(decodes))
            known = partners.setdefault(rows[i].layout, set())
            if pairs.rate[i, j] < 0.0 or sum(map(len, partners.values())) == MATCHED:
                break
            if decodes[j].layout not in known and len(known) < PARTNERS:
                known.add(decodes[j].layout)
                found.append(_match(rows[i], decodes[j], pairs, (i, j), gpus, w, moved))
    found.sort(key=lambda d: (-d.requests_per_s, d.devices))
    kept: dict[Layout, dict[Layout, Disaggregated]] = {}
    for d in found:
        mine = kept.setdefault(d.prefill.layout, {})
        if len(mine) < PARTNERS:
            mine.setdefault(d.decode.layout, d)
    several = (d for mine in kept.values() for d in mine.values())
    return tuple(sorted(several, key=lambda d: (-d.requests_per_s, d.devices))[:MATCHED])


def _match(
    first: Instance,
    second: Instance,
    pairs: _Pairs,
    at: tuple[int, int],
    gpus: int,
    w: Serving,
    moved: float,
) -> Disaggregated:
    """A pair of instances in the best numbers of both."""
    requests, number = float(pairs.rate[at]), int(pairs.numbers[at])
    transfer = float(pairs.transfer[at])
    bounds = {
        "prefill": (gpus - number * second.devices) // first.devices * first.requests_per_s,
        "decode": number * second.requests_per_s,
    }
    bound = min(bounds, key=lambda name: bounds[name])
    return Disaggregated(
        prefill=first,
        decode=second,
        prefill_instances=int(pairs.needed[at]),
        decode_instances=number,
        devices=int(pairs.devices[at]),
        transfer_s=transfer,
        transfer_bytes=moved,
        ttft_s=first.latency_s + transfer,
        tpot_s=second.latency_s,
        requests_per_s=requests,
        tokens_per_s=requests * w.osl,
        tokens_per_s_per_device=requests * w.osl / gpus,
        concurrency=second.batch * number,
        bound=bound if requests > bounds[bound] * (1.0 - 1e-9) else "transfer",
    )
