"""What is to be known of a simulated load beside its figures."""

from __future__ import annotations

from meshwise.models.shapes import Model
from meshwise.simulate.server import Simulated
from meshwise.units import format_time
from meshwise.workloads.serving import Serving


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
