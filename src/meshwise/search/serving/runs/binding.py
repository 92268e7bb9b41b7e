"""What keeps a deployment from serving more, or from being smaller."""

from __future__ import annotations

from typing import NamedTuple

from meshwise.search.serving.plan import ServingRow
from meshwise.search.serving.runs.trial import Trial, figure_s
from meshwise.simulate.outcome import Figures
from meshwise.workloads.limits import LatencyLimit

_FULL = 0.9  # of the requests that the KV cache holds, where it is what keeps others waiting


class Miss(NamedTuple):
    """A limit that a run does not keep: what it bounds, beyond it [s]."""

    limit: LatencyLimit
    figure_s: float

    @property
    def factor(self) -> float:
        return self.figure_s / self.limit.seconds


class ServingBinding(NamedTuple):
    """``code``: ``ttft``, ``tpot`` or ``request`` (a limit of latency), ``kv_cache`` (its memory),
    ``saturation`` (more arrive than are served), ``memory`` (the weights fit on no fewer GPUs), ``gpus`` (the
    cluster's size). ``trial``: the run that shows it."""

    code: str
    trial: Trial | None = None
    miss: Miss | None = None


def misses(figures: Figures, limits: tuple[LatencyLimit, ...]) -> tuple[Miss, ...]:
    """The limits that a run does not keep, the furthest first."""
    found = [Miss(limit, figure_s(figures, limit)) for limit in limits]
    return tuple(sorted((m for m in found if m.factor > 1.0), key=lambda m: -m.factor))


def binding(
    best: ServingRow, beyond: Trial | None, limits: tuple[LatencyLimit, ...]
) -> ServingBinding | None:
    """Of the best: by its run ``beyond``, with a larger load or fewer GPUs; None where nothing was run."""
    if beyond is None:
        return ServingBinding("kv_cache") if best.concurrency >= best.max_concurrency else None
    missed = misses(beyond.run.steady, limits)
    held = best.max_concurrency * beyond.layout.devices / best.devices
    running = beyond.run.steady.running.p95 * beyond.run.replicas
    miss = missed[0] if missed else None
    if beyond.run.stopped or (beyond.run.steady.waiting.mean > 1.0 and running >= _FULL * held):
        return ServingBinding("kv_cache", beyond, miss)
    if miss is None:
        return ServingBinding("saturation", beyond)
    return ServingBinding(miss.limit.quantity, beyond, miss)
