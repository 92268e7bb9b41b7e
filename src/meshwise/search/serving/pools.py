"""Two pools of a deployment under a load: simulated, with what its averages are to be taken of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np

from meshwise.clusters.load import Cluster
from meshwise.errors import InputError
from meshwise.layouts.check import check
from meshwise.layouts.layout import Layout, arrays
from meshwise.layouts.pools import PoolLayouts
from meshwise.models.shapes import Model
from meshwise.search.serving.runs.lengths import with_lengths
from meshwise.search.serving.steady_state import Steady, steady
from meshwise.simulate import iteration
from meshwise.simulate.disaggregated import DisaggregatedServer, Transfers, prefill_load
from meshwise.simulate.iteration import Engine
from meshwise.simulate.loads.arrivals import Arrivals
from meshwise.simulate.rules import tokens_per_iteration
from meshwise.simulate.server import Simulated
from meshwise.stacks.stack import Stack
from meshwise.units import format_gpus
from meshwise.workloads.serving import Serving


class Averages(NamedTuple):
    """What the formulas of a plan say of the pools [s, tokens/s]."""

    tpot_s: float
    ttft_s: float
    tokens_per_s: float


class ServedPools(NamedTuple):
    """The pools' run, the averages of the formulas, and each pool's steady state."""

    apart: PoolLayouts
    load: Serving
    run: Simulated
    transfers: Transfers
    transfer_s: float  # of the longest prompt's keys and values, by themselves
    transfer_bytes: float
    averages: Averages
    prefill: Steady
    decode: Steady


def check_pools(
    apart: PoolLayouts, model: Model, cluster: Cluster, w: Serving, stack: Stack, gpus: int | None
) -> None:
    """Refuse layouts that are not legal, and more GPUs than there are."""
    decode, step = apart.decode, w.decode()
    if max(decode.ep, apart.prefill.ep) > 1:  # one of them has a fullest rank
        step = msgspec.structs.replace(step, expert_imbalance=None)
    at_least = max(w.concurrency // apart.decode_instances, 1)
    try:
        check(apart.prefill, model, cluster, step, stack)
    except InputError as error:
        if error.field in ("tp", "pp", "dp", "ep", "etp"):
            own = f"prefill_{error.field}"
            text = error.message
            # the field goes first in a message, which is spelled as the option is
            text = text if text.startswith(error.field) else f"{error.field}: {text}"
            error.field, error.message = own, f"prefill_{text}"
        raise
    check(decode, model, cluster, step, stack, None, max(at_least, decode.dp))
    if gpus is not None and gpus != apart.devices:
        raise InputError(
            f"gpus={gpus}: the pools have {apart.devices} GPUs",
            field="gpus",
            value=gpus,
            legal=str(apart.devices),
            nearest=apart.devices,
        )
    if apart.devices > cluster.devices:
        raise _too_many(apart, cluster.devices)


def _too_many(apart: PoolLayouts, there: int) -> InputError:
    """The pools have more GPUs than ``there`` are: by the larger pool's instances where it has several, else
    by its widest axis, which are above what is taken where nobody says them."""
    first, second = apart.prefill, apart.decode
    numbers = apart.prefill_instances, apart.decode_instances
    sizes = numbers[0] * first.devices, numbers[1] * second.devices
    larger = "prefill" if sizes[0] > sizes[1] else "decode"
    own, number = (first, numbers[0]) if larger == "prefill" else (second, numbers[1])
    nearest = None
    if number > 1:
        field, value = f"{larger}_instances", number
        nearest = (there - (sum(sizes) - max(sizes))) // own.devices
    else:
        differ = [a for a in ("tp", "pp", "dp") if getattr(first, a) != getattr(second, a)]
        axes = differ if larger == "prefill" else ["tp", "pp", "dp"]
        axis = max(axes, key=lambda a: getattr(own, a))
        field = f"prefill_{axis}" if larger == "prefill" else axis
        value = getattr(own, axis)
    pools = [
        f"{n} {name} instance{'s' * (n > 1)} of {format_gpus(layout.devices)}"
        for n, name, layout in zip(numbers, ("prefill", "decode"), (first, second), strict=True)
    ]
    return InputError(
        f"{field}={value}: {' and '.join(pools)} are {format_gpus(apart.devices)}, of which the cluster has "
        f"{there:,}",
        field=field,
        value=value,
        legal="fewer instances, smaller ones, or more `nodes`",
        nearest=nearest if nearest is not None and nearest > 0 else None,
    )


def pool_engine(model: Model, cluster: Cluster, stack: Stack, layout: Layout, w: Serving) -> Engine:
    """What an instance of a pool runs."""
    return Engine(
        *(model, cluster, stack, arrays(layout, w.decode()), w.formats),
        *(w.expert_imbalance, w.expert_skew),
    )


def pool_server(
    model: Model, cluster: Cluster, stack: Stack, apart: PoolLayouts, w: Serving
) -> DisaggregatedServer:
    """The pools, before any load."""
    first, second = (
        pool_engine(model, cluster, stack, layout, w) for layout in (apart.prefill, apart.decode)
    )
    instances = apart.prefill_instances, apart.decode_instances
    return DisaggregatedServer(second, w, first, instances)


def simulate_pools(
    model: Model,
    cluster: Cluster,
    stack: Stack,
    apart: PoolLayouts,
    w: Serving,
    arrivals: Arrivals | None = None,
    requests: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ServedPools:
    """The run of the pools under a load."""
    w = with_lengths(w, arrivals)
    first, second = (arrays(layout, w.decode()) for layout in (apart.prefill, apart.decode))
    server = pool_server(model, cluster, stack, apart, w)
    engine = server.decode.engine
    if arrivals is None:
        run, transfers = server.closed(requests=requests, seed=seed, progress=progress)
    else:
        run, transfers = server.open(arrivals, requests=requests, seed=seed, progress=progress)
    flight = max(math.ceil(run.steady.requests_per_s * run.steady.request_s.mean), 1)
    if arrivals is None:
        flight = w.concurrency
    w = msgspec.structs.replace(w, concurrency=flight)
    one = msgspec.structs.replace(w, concurrency=-(-flight // apart.decode_instances))
    ahead = prefill_load(msgspec.structs.replace(one, concurrency=apart.prefill.dp))
    pools = (
        steady(model, cluster, stack, first, ahead, doubted=False),
        steady(model, cluster, stack, second, one),
    )
    move = server.link.transfer_s(w.isl - int(w.isl * w.prefix_hit))
    return ServedPools(
        *(apart, w, run, transfers, move),
        server.token_bytes * w.isl,
        _averages(engine, server.prefill.engine, w, apart, move),
        *pools,
    )


def _averages(
    engine: Engine, first: Engine, w: Serving, apart: PoolLayouts, move_s: float
) -> Averages:
    """By the formulas of a plan: a request waits for half the time between two batches of prompts, its own,
    and the transfer; a token takes an iteration of decodes; the slower pool's rate."""
    budget = tokens_per_iteration(first, w)
    chunks = -(-w.computed // budget)
    chunk = -(-w.computed // chunks)
    cached = w.isl - w.computed + (chunks - 1) * chunk // 2
    pace = iteration.prefill(first, np.int64(1), chunk, cached)
    every = float(chunks * pace.every_s)
    many = iteration.prefill(first, np.int64(max(budget // chunk, 1)), chunk, cached)
    most = max(budget // chunk, 1) / float(chunks * many.every_s)
    most *= apart.prefill_instances * apart.prefill.dp
    local = max(-(-w.concurrency // (apart.decode_instances * apart.decode.dp)), 1)
    group = -(-local // apart.decode.pp)
    seconds = iteration.replayed_s(
        engine, np.int64(group), w.context, w.queries, np.int64(-(-local // group))
    )
    seconds = seconds + iteration.draft_s(engine, w, np.int64(group))
    tpot = float(seconds) / w.tokens_per_iteration
    rate = min(most, w.concurrency / (w.osl * tpot))
    ttft = every / 2.0 + float(pace.series_s(np.int64(chunks))) + move_s
    return Averages(tpot, ttft, rate * w.osl)
