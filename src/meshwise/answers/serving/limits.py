"""Limits of latency, what binds and what comes nearest, as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshwise.answers.records.layout import serving_row

if TYPE_CHECKING:
    from meshwise.search.serving.question import ServingAnswer, ServingAsked
    from meshwise.search.serving.runs.binding import Miss, ServingBinding
    from meshwise.simulate.loads.arrivals import Arrivals
    from meshwise.workloads.limits import LatencyLimit


def limits_record(limits: tuple[LatencyLimit, ...]) -> dict[str, float | None]:
    """``ttft_s``, ``tpot_s`` of means (None: no limit), and whatever else is limited: ``ttft_p95_s`` [s]."""
    found: dict[str, float | None] = {"ttft_s": None, "tpot_s": None}
    return found | {f"{limit.name}_s": limit.seconds for limit in limits}


def sent_record(arrivals: Arrivals | None, *, fixed: bool = True) -> dict[str, object]:
    """What is sent beside the requests' lengths; no rate where it is looked for."""
    if arrivals is None:
        return {"request_rate": None, "arrivals": None}
    return {"request_rate": arrivals.stated_rate if fixed else None, "arrivals": arrivals.words}


def run_settings(asked: ServingAsked) -> dict[str, object]:
    """How the simulated rows were run: requests (None: as ``serve`` has it), seed."""
    return {"requests": asked.sent.requests, "seed": asked.sent.seed}


def miss_record(m: Miss) -> dict[str, object]:
    return {
        "limit": f"{m.limit.name}_s",
        "limit_s": m.limit.seconds,
        "figure_s": m.figure_s,
        "factor": m.factor,
    }


def binding_record(b: ServingBinding | None) -> dict[str, object] | None:
    """What binds, and the run that shows it: its layout, load and the figure that is beyond the limit."""
    if b is None:
        return None
    found: dict[str, object] = {"code": b.code}
    if b.trial is not None:
        t = b.trial
        found |= {"layout": t.layout.record(), "devices": t.layout.devices}
        arrivals = t.run.arrivals
        found["concurrency"] = t.concurrency
        found["request_rate"] = None if arrivals is None else arrivals.stated_rate
    if b.miss is not None:
        found |= miss_record(b.miss)
    return found


def nearest_record(a: ServingAnswer, price: float | None) -> dict[str, object] | None:
    """Where nothing meets the limits: the layout that comes nearest, its figures, and what it misses."""
    if a.nearest is None:
        return None
    row, trial = a.nearest
    return {
        **serving_row(row, price),
        "most_requests_per_s": trial.most_per_s,
        "misses": [miss_record(m) for m in a.misses],
    }
