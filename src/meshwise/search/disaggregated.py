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
PROMPTS = (1, 2, 4, 8, 16)  # that a prefill instance computes together


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

    A prefill instance computes batches of prompts one after the other; a request waits for half a
    batch, its own, and the transfer. A decode instance holds the most sequences that the limit on the
    time per token and its KV cache allow. Of instances of one size those that another one beats in
    rate and latency cannot be part of the best, and are dropped; all numbers of instances are tried.
    """
    prefills: list[Instance] = []
    decodes: list[Instance] = []
    for size in divisors_below(cluster, gpus):
        layouts, _ = serving_space(model, stack, size, pins, joined=True)
        if layouts.tp.size:
            prefills += _undominated(_prefills(model, cluster, stack, w, layouts, limits))
            decodes += _undominated(_decodes(model, cluster, stack, w, layouts, limits))
    moved = kv_bytes(model, stack, w)
    best: Disaggregated | None = None
    for p in prefills:
        for d in decodes:
            pair = _matched(p, d, cluster, w, gpus, limits, moved)
            if pair is not None and (
                best is None
                or (pair.tokens_per_s, -pair.devices) > (best.tokens_per_s, -best.devices)
            ):
                best = pair
    return best


def divisors_below(cluster: Cluster, gpus: int) -> list[int]:
    """Sizes of an instance: those that divide a node, and whole numbers of nodes."""
    node = cluster.node_devices
    inside = [d for d in divisors(node) if d < gpus]
    return inside + [node * n for n in divisors(max(gpus // node, 1)) if n > 1 and node * n < gpus]


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
    """Every layout with every batch of prompts that meets the limit: its rate, and the time from a
    request's arrival to its first token, transfer apart."""
    engine = Engine(model, cluster, stack, layouts, w.formats, w.expert_imbalance)
    budget = tokens_per_iteration(engine, w)
    chunks = -(-w.computed // budget)
    chunk = -(-w.computed // chunks)
    cached = w.isl - w.computed + (chunks - 1) * chunk // 2
    limit_bytes = cluster.device.memory_bytes * (1.0 - stack.memory_reserve)
    found = []
    for prompts in PROMPTS:
        e = engine.prefill(np.int64(prompts), w.isl)
        seconds = chunks * iteration.prefill_s(engine, np.int64(prompts), chunk, cached)
        size = layouts.tp.size
        seconds = np.broadcast_to(seconds, (size,))
        memory = np.broadcast_to(e.memory_bytes, (size,))
        first = 1.5 * seconds
        good = memory <= limit_bytes
        if limits.ttft_s is not None:
            good = good & (first <= limits.ttft_s)
        for i in np.flatnonzero(good).tolist():
            # each replica of an instance computes its own prompts
            rate = prompts * float(layouts.dp[i]) / float(seconds[i])
            row = _instance(layouts, i, rate, float(first[i]), prompts, float(memory[i]))
            found.append(row)
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
        seconds = iteration.decode_s(engine, local, w.context, w.queries)
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
    """What ``devices`` of one instance send to another instance: over the network at their share of its
    NICs, or inside the one node there is over its outermost level."""
    index = next(
        (i for i, level in enumerate(cluster.levels) if level.kind == "network"),
        len(cluster.levels) - 1,
    )
    below = cluster.domain_sizes()[index - 1] if index else 1
    level = cluster.levels[index]
    return devices * level.per_device_bytes_per_s(max(below, 1))


def _matched(
    p: Instance,
    d: Instance,
    cluster: Cluster,
    w: Serving,
    gpus: int,
    limits: Limits,
    moved: float,
) -> Disaggregated | None:
    """The best numbers of the two instances; None if the limits or the GPUs leave none."""
    link = link_bytes_per_s(cluster, min(p.devices, d.devices))
    transfer = moved / link
    ttft = p.latency_s + transfer
    if limits.ttft_s is not None and ttft > limits.ttft_s:
        return None
    most = (gpus - p.devices) // d.devices
    if most < 1:
        return None
    decodes = np.arange(1, most + 1)
    prefills = (gpus - decodes * d.devices) // p.devices
    prefill_rate = prefills * p.requests_per_s
    decode_rate = decodes * d.requests_per_s
    # what the senders' links carry in a second
    sent = prefills * link_bytes_per_s(cluster, p.devices) / moved
    rate = np.minimum(np.minimum(prefill_rate, decode_rate), sent)
    i = int(np.argmax(rate))
    bounds = {"prefill": prefill_rate[i], "decode": decode_rate[i], "transfer": sent[i]}
    requests = float(rate[i])
    # no more prefill instances than the rate needs
    needed = int(
        np.ceil(
            requests / min(p.requests_per_s, link_bytes_per_s(cluster, p.devices) / moved) - 1e-9
        )
    )
    number = max(1, min(int(prefills[i]), needed))
    return Disaggregated(
        prefill=p,
        decode=d,
        prefill_instances=number,
        decode_instances=int(decodes[i]),
        devices=number * p.devices + int(decodes[i]) * d.devices,
        transfer_s=transfer,
        transfer_bytes=moved,
        ttft_s=ttft,
        tpot_s=d.latency_s,
        requests_per_s=requests,
        tokens_per_s=requests * w.osl,
        tokens_per_s_per_device=requests * w.osl / gpus,
        concurrency=d.batch * int(decodes[i]),
        bound=min(bounds, key=lambda k: float(bounds[k])),
    )
