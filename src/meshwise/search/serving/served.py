"""One layout under a load: simulated, with what its averages are to be taken of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from meshwise.clusters.load import Cluster
from meshwise.errors import Overloaded
from meshwise.layouts.layout import Layout, Layouts, arrays
from meshwise.models.shapes import Model
from meshwise.search.serving.runs.lengths import with_lengths
from meshwise.simulate.iteration import Engine
from meshwise.simulate.loads.arrivals import Arrivals, arrivals_of
from meshwise.simulate.server import Simulated, SimulatedServer
from meshwise.stacks.stack import Stack
from meshwise.workloads.serving import Serving


def simulated(
    model: Model,
    cluster: Cluster,
    stack: Stack,
    layouts: Layouts,
    w: Serving,
    arrivals: Arrivals | None = None,
    requests: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Serving, Simulated]:
    """(the load with the requests that are in flight, the run). Of arrivals they are those that run in the
    mean; a trace says its own lengths, of which the longest are the load's."""
    w = with_lengths(w, arrivals)
    engine = Engine(model, cluster, stack, layouts, w.formats, w.expert_imbalance, w.expert_skew)
    server = SimulatedServer(engine, w, open_loop=arrivals is not None)
    server.progress = progress
    if arrivals is None:
        return w, server.closed(requests=requests, seed=seed)
    run = server.open(arrivals, requests=requests, seed=seed)
    return msgspec.structs.replace(w, concurrency=flight(run, int(layouts.dp))), run


def flight(run: Simulated, dp: int) -> int:
    """Requests of arrivals that run in the mean, of all replicas, one of each at least."""
    return max(math.ceil(run.steady.running.mean * run.replicas), dp)


LOADS = 12  # rates of a curve


class LoadCurve(NamedTuple):
    """A layout at rates of arrivals: runs, None where more come than leave [requests/s]."""

    model: Model
    cluster: Cluster
    stack: Stack
    layout: Layout
    load: Serving
    arrivals: str
    most_per_s: float
    rates: tuple[float, ...]
    runs: tuple[Simulated | None, ...]


def load_curve(
    model: Model,
    cluster: Cluster,
    stack: Stack,
    layout: Layout,
    w: Serving,
    ends: tuple[float, float],
    arrivals: str = "poisson",
    requests: int | None = None,
    seed: int = 0,
) -> LoadCurve:
    """Twelve rates from the one end to the other, each as far above the last one as a share, and judged as
    it is alone."""
    engine = Engine(
        *(model, cluster, stack, arrays(layout, w.decode()), w.formats),
        *(w.expert_imbalance, w.expert_skew),
    )
    server = SimulatedServer(engine, w, open_loop=True)
    most = server.most_per_s(seed=seed)
    low, high = ends
    rates = tuple(low * (high / low) ** (i / (LOADS - 1)) for i in range(LOADS))
    runs: list[Simulated | None] = []
    for rate in rates:
        try:
            runs.append(server.open(arrivals_of(arrivals, rate), requests=requests, seed=seed))
        except Overloaded:
            runs.append(None)
    return LoadCurve(model, cluster, stack, layout, w, arrivals, most, rates, tuple(runs))
