"""Prefill and decode on GPUs of their own: instances of two layouts, matched in rate."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from meshwise.cost.memory import kv_cache
from meshwise.search import iteration
from meshwise.search.iteration import Engine, draft_s
from meshwise.search.serving import tokens_per_iteration
from meshwise.search.serving_plan import Limits, Server, columns
from meshwise.search.serving_space import AXES, serving_space
from meshwise.search.space import Pins, divisors
from meshwise.spec.cluster import Cluster
from meshwise.spec.layout import Layouts
from meshwise.spec.model import Model
from meshwise.spec.serving import Serving
from meshwise.spec.stack import Stack

Array = Any


class Instance(NamedTuple):
    """A layout of one pool: its size, what it delivers and how soon."""

    axes: dict[str, int]
    devices: int
    requests_per_s: float
    latency_s: float  # prefill: to the first token; decode: per output token
    batch: int  # prompts together, or sequences in flight
    memory_bytes: float


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


def disaggregate(
    model: Model,
    cluster: Cluster,
    stack: Stack,
    w: Serving,
    gpus: int,
    limits: Limits,
    pins: Pins,
) -> Disaggregated | None:
    """The most tokens/s of two pools on ``gpus`` devices within the limits; None if none is.

    A prefill instance computes batches of prompts one after the other, as many batches at a time as it
    has pipeline stages; a request waits for half the time between two batches, its own batch, and the
    transfer. A decode instance holds the most sequences that the limit on the time per token and its
    KV cache allow. Of instances of one size those that another one beats in rate and latency cannot be
    part of the best, and are dropped; of what is left all pairs and all numbers of instances are
    compared.
    """
    prefills: list[Instance] = []
    decodes: list[Instance] = []
    for size in instance_sizes(cluster, gpus):
        layouts, _ = serving_space(model, stack, size, pins, joined=True)
        if layouts.tp.size:
            prefills += _undominated(_prefills(model, cluster, stack, w, layouts, limits))
            decodes += _undominated(_decodes(model, cluster, stack, w, layouts, limits))
    if not prefills or not decodes:
        return None
    return _matched(prefills, decodes, cluster, w, gpus, limits, kv_bytes(model, stack, w))


def instance_sizes(cluster: Cluster, gpus: int) -> list[int]:
    """Sizes that tile nodes without straddling them: those that divide a node, and every whole number of
    nodes. At least one device is left for the other pool."""
    node = cluster.node_devices
    sizes = divisors(node) + [node * n for n in range(2, gpus // node + 1)]
    return [size for size in sizes if size < gpus]


def kv_bytes(model: Model, stack: Stack, w: Serving) -> float:
    """Bytes of a prompt's keys and values, of all layers, once."""
    from meshwise.program.context import context
    from meshwise.program.weights import roles
    from meshwise.spec.workload import Prefill

    one = Layouts(tp=np.int64(1))
    ctx = context(model, stack, Prefill(batch=1, seq=w.isl, formats=w.formats), one)
    return float(kv_cache(ctx, roles(model, one)[0]))


def _prefills(
    model: Model, cluster: Cluster, stack: Stack, w: Serving, layouts: Layouts, limits: Limits
) -> list[Instance]:
    """Every layout with batches of 1, 2, 4 … prompts, and of as many as an iteration's tokens hold,
    that meet the limit: its rate, and the time from a request's arrival to its first token, transfer
    apart. Its cache holds the batches of all its stages and one whose keys and values are under way."""
    engine = Engine(model, cluster, stack, layouts, w.formats, w.expert_imbalance)
    budget = tokens_per_iteration(engine, w)
    chunks = -(-w.computed // budget)
    chunk = -(-w.computed // chunks)
    cached = w.isl - w.computed + (chunks - 1) * chunk // 2
    limit_bytes = cluster.device.memory_bytes * (1.0 - stack.memory_reserve)
    together = max(budget // chunk, 1)
    shape = layouts.tp.shape
    found = []
    for prompts in sorted({*(1 << i for i in range(together.bit_length())), together}):
        work = engine.prefill(np.int64(prompts), chunk, cached).memory
        held = engine.prefill(prompts * (layouts.pp + 1), w.isl).memory
        memory = np.broadcast_to(
            held["weights_bytes"]
            + held["kv_cache_bytes"]
            + work["activations_bytes"]
            + work["workspace_bytes"],
            shape,
        )
        pace = iteration.prefill(engine, np.int64(prompts), chunk, cached)
        seconds = np.broadcast_to(pace.series_s(chunks), shape)
        every = np.broadcast_to(chunks * pace.every_s, shape)  # between two batches
        first = every / 2.0 + seconds
        # each replica of an instance computes its own prompts
        rate = prompts * layouts.dp / every
        good = memory <= limit_bytes
        if limits.ttft_s is not None:
            good = good & (first <= limits.ttft_s)
        for i in np.flatnonzero(good).tolist():
            batch = prompts * int(layouts.dp[i])
            found.append(
                _instance(layouts, i, float(rate[i]), float(first[i]), batch, float(memory[i]))
            )
    return found


def _decodes(
    model: Model, cluster: Cluster, stack: Stack, w: Serving, layouts: Layouts, limits: Limits
) -> list[Instance]:
    """Every layout with the most sequences that its cache and the limit per token allow."""
    server = Server(model, cluster, stack, w)
    alone = server.at(layouts, layouts.dp)
    room = np.maximum(alone.steady.max_concurrency // layouts.dp, 0)
    engine = Engine(model, cluster, stack, layouts, w.formats, w.expert_imbalance)

    def tpot(batch: Array) -> Array:
        local = -(-batch // layouts.pp)
        seconds = iteration.decode_s(engine, local, w.context, w.queries, -(-batch // local))
        seconds = seconds + draft_s(engine, w, local)
        return np.broadcast_to(seconds / w.tokens_per_iteration, room.shape)

    limit = np.inf if limits.tpot_s is None else limits.tpot_s
    low = np.where((room >= 1) & (tpot(np.ones_like(room)) <= limit), 1, 0)
    high = np.where(low > 0, room, 0)
    low = np.where((high > 0) & (tpot(np.maximum(high, 1)) <= limit), high, low)
    while np.any(high - low > 1):
        middle = (low + high) // 2
        good = tpot(np.maximum(middle, 1)) <= limit
        apart = high - low > 1
        low, high = np.where(apart & good, middle, low), np.where(apart & ~good, middle, high)
    seconds = tpot(np.maximum(low, 1))
    memory = np.broadcast_to(
        server.at(layouts, np.maximum(low, 1) * layouts.dp).steady.memory_bytes, room.shape
    )
    found = []
    for i in np.flatnonzero(low > 0).tolist():
        batch = int(low[i]) * int(layouts.dp[i])
        rate = batch / (w.osl * float(seconds[i]))
        found.append(_instance(layouts, i, rate, float(seconds[i]), batch, float(memory[i])))
    return found


def _instance(
    layouts: Layouts, i: int, rate: float, latency: float, batch: int, memory: float
) -> Instance:
    one = columns(layouts, i)
    axes = {name: int(getattr(one, name)) for name in AXES}
    devices = axes["tp"] * axes["pp"] * axes["dp"]
    return Instance(axes, devices, rate, latency, batch, memory)


def _undominated(found: list[Instance]) -> list[Instance]:
    """Instances of one size of which no other has a higher rate and less latency."""
    kept: list[Instance] = []
    for row in sorted(found, key=lambda r: (r.latency_s, -r.requests_per_s)):
        if not kept or row.requests_per_s > kept[-1].requests_per_s:
            kept.append(row)
    return kept


def link_bytes_per_s(cluster: Cluster, devices: int) -> float:
    """What ``devices`` of one instance exchange with another pool: over the network at their share of its
    NICs, or inside the one node there is over its outermost level. (Pools that share a node of several
    are priced over the network too.)"""
    index = next(
        (i for i, level in enumerate(cluster.levels) if level.kind == "network"),
        len(cluster.levels) - 1,
    )
    below = cluster.domain_sizes()[index - 1] if index else 1
    level = cluster.levels[index]
    return devices * level.per_device_bytes_per_s(max(below, 1))


def _matched(
    prefills: list[Instance],
    decodes: list[Instance],
    cluster: Cluster,
    w: Serving,
    gpus: int,
    limits: Limits,
    moved: float,
) -> Disaggregated | None:
    """The best pair of instances and their numbers; None if the limits or the GPUs leave none.

    n decode instances deliver the lesser of what they do, rising in n, and what the prefill instances on
    the other GPUs do, falling in n: best at the largest n at which prefill keeps up, or the next.
    Nothing delivers more than its instances' links carry.
    """

    def column(rows: list[Instance], name: str) -> Array:
        return np.array([getattr(row, name) for row in rows])

    one = link_bytes_per_s(cluster, 1)
    p, d = column(prefills, "devices")[:, None], column(decodes, "devices")[None, :]
    carried = one / moved  # requests per second and device
    prefill = np.minimum(column(prefills, "requests_per_s")[:, None], p * carried)
    decode = np.minimum(column(decodes, "requests_per_s")[None, :], d * carried)
    transfer = moved / (np.minimum(p, d) * one)
    ttft = column(prefills, "latency_s")[:, None] + transfer
    most = (gpus - p) // d
    good = most >= 1
    if limits.ttft_s is not None:
        good &= ttft <= limits.ttft_s
    if not good.any():
        return None

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
    devices = needed * p + numbers * d
    i, j = divmod(int(np.lexsort((devices.ravel(), -rate.ravel()))[0]), rate.shape[1])
    requests, first, second = float(rate[i, j]), prefills[i], decodes[j]
    number = int(numbers[i, j])
    bounds = {
        "prefill": (gpus - number * second.devices) // first.devices * first.requests_per_s,
        "decode": number * second.requests_per_s,
    }
    bound = min(bounds, key=lambda name: bounds[name])
    return Disaggregated(
        prefill=first,
        decode=second,
        prefill_instances=int(needed[i, j]),
        decode_instances=number,
        devices=int(devices[i, j]),
        transfer_s=float(transfer[i, j]),
        transfer_bytes=moved,
        ttft_s=float(ttft[i, j]),
        tpot_s=second.latency_s,
        requests_per_s=requests,
        tokens_per_s=requests * w.osl,
        tokens_per_s_per_device=requests * w.osl / gpus,
        concurrency=second.batch * number,
        bound=bound if requests > bounds[bound] * (1.0 - 1e-9) else "transfer",
    )
