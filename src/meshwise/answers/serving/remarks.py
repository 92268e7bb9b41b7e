"""What is to be known of a simulated load beside its figures."""

from __future__ import annotations

from meshwise.models.shapes import Model
from meshwise.program.layers.experts import fullest_rank
from meshwise.simulate.server import Simulated
from meshwise.units import format_time
from meshwise.workloads.serving import Serving
from meshwise.workloads.workload import drawn_skew


def load_remarks(model: Model, load: Serving, ep: int, run: Simulated, ideal: bool) -> list[str]:
    """What the run, a prefix cache and the experts' popularity make of the figures."""
    return [
        *unsettled_remarks(run, load.concurrency),
        *edge_remarks(run),
        *burst_remarks(run, load, ideal),
        *prefix_remarks(model, load),
        *imbalance_remarks(model, load, ep),
    ]


def unsettled_remarks(run: Simulated | None, concurrency: int) -> list[str]:
    """That a run has too few requests for a steady state, so that its figures are of all of them."""
    if run is None or run.settled:
        return []
    n = run.requests * run.replicas
    if run.arrivals is not None:
        return [
            f"no steady state is reached: the {n:,} requests are over before it, and the figures are of all "
            "of them"
        ]
    return [
        f"no steady state is reached: with {concurrency:,} in flight most of the {n:,} requests are of the "
        "first, which begin at once, or of the last, which none follow; the figures are of all of them "
        "(several times as many `requests` as are in flight have one)"
    ]


def edge_remarks(run: Simulated) -> list[str]:
    """How near arrivals are to the most that is served, where many of them wait."""
    if run.arrivals is None or run.most_per_s is None or run.arrivals.rate >= run.most_per_s:
        return []
    return [
        f"{run.arrivals.rate:g} requests/s arrive of at most {run.most_per_s:.4g} that are served: many wait for a "
        "place, and of more the queue grows without bound"
    ]


def imbalance_remarks(model: Model, load: Serving, ep: int) -> list[str]:
    """What ranks wait for that share experts, where nobody said it."""
    experts = next((block.moe for block in model.blocks if block.moe is not None), None)
    skew = drawn_skew(load.expert_skew)
    if experts is None or ep == 1 or skew == 0.0 or load.expert_imbalance is not None:
        return []
    fullest = fullest_rank(experts.experts, experts.top_k, ep, 1.0, skew).load
    return [
        f"the fullest of {ep} ranks of experts gets {fullest:.2f} times the mean of the tokens, as their "
        "popularity makes it where experts are placed at random (`expert_imbalance` says otherwise)"
    ]


def prefix_remarks(model: Model, load: Serving) -> list[str]:
    """What a prefix hit takes of layers that keep a state in place of keys."""
    states = any(block.recurrent is not None for block in model.blocks)
    if not states or load.prefix_hit == 0:
        return []
    return [
        "a prefix hit of recurrent layers needs their state as it was at the prefix' end: engines keep it "
        "at block boundaries only, where they cache prefixes of such models at all"
    ]


def burst_remarks(run: Simulated, load: Serving, ideal: bool) -> list[str]:
    """The first token of requests that all begin at once, where it comes much later than in the steady
    state; and what else of the run is to be known."""
    said = []
    whole, steady = run.all.ttft_s.mean, run.steady.ttft_s.mean
    if run.arrivals is None and not ideal and whole >= 2.0 * steady:
        said.append(
            f"TTFT is of the steady state: over {run.requests * run.replicas:,} requests, the first "
            f"{load.concurrency} of which begin at once as a benchmark's do, it is {format_time(whole)} in "
            "the mean"
        )
    if run.steady.tpot_s.p99 <= 0.0:
        said.append("answers of one token have no next one: there is no time per output token")
    if run.stopped:
        said.append(
            f"the KV cache filled: {run.stopped:,} times a request was stopped and computed again"
        )
    if run.arrivals is not None and run.arrivals.trace is not None and run.arrivals.trace.cut:
        said.append(
            f"the trace has more requests: its first {len(run.arrivals.trace.arrival):,} are simulated"
        )
    return said
