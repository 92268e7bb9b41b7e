"""One layout under a load: simulated, with what its averages are to be taken of."""

from __future__ import annotations

import math

import msgspec

from meshwise.clusters.load import Cluster
from meshwise.layouts.layout import Layouts
from meshwise.models.shapes import Model
from meshwise.simulate.iteration import Engine
from meshwise.simulate.loads import Arrivals
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
) -> tuple[Serving, Simulated]:
    """(the load with the requests that are in flight, the run). Of arrivals they are those that run in the
    mean; a trace says its own lengths, of which the longest are the load's."""
    if arrivals is not None and arrivals.trace is not None:
        longest = {"isl": max(arrivals.trace.prompt), "osl": max(arrivals.trace.answer)}
        w = msgspec.structs.replace(w, **longest)
    engine = Engine(model, cluster, stack, layouts, w.formats, w.expert_imbalance, w.expert_skew)
    server = SimulatedServer(engine, w, open_loop=arrivals is not None)
    if arrivals is None:
        return w, server.closed(requests=requests, seed=seed)
    run = server.open(arrivals, requests=requests, seed=seed)
    flight = max(math.ceil(run.steady.running.mean * run.replicas), int(layouts.dp))
    return msgspec.structs.replace(w, concurrency=flight), run
