"""A simulated load as JSON, in words and in tables: of the steady state, and of all requests."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from meshwise.answers.records.attributes import Key, Record
from meshwise.answers.records.result import Placed
from meshwise.answers.text import words
from meshwise.answers.text.tables import Table
from meshwise.simulate.outcome import PERCENTILES, Figures, Spread
from meshwise.simulate.server import Simulated
from meshwise.units import format_time

LATENCIES = ("tpot", "itl", "ttft", "request", "queue")


def percentile_keys(name: str, spread: Spread) -> dict[str, float]:
    """``ttft_p50_s`` and the others [s]."""
    return {f"{name}_p{p}_s": getattr(spread, f"p{p}") for p in PERCENTILES}


def latency_keys(f: Figures) -> dict[str, float]:
    """Percentiles of every latency, and the mean of what has no key of its own [s]."""
    found = {"itl_s": f.itl_s.mean}
    for name in LATENCIES:
        found |= percentile_keys(name, getattr(f, f"{name}_s"))
    return found


def in_flight_keys(s: Simulated) -> dict[str, dict[str, float]]:
    """Requests of a replica that run and that wait, over time, in the steady state."""
    spreads = (("running", s.steady.running), ("waiting", s.steady.waiting))
    return {
        name: {key: value / s.ranks for key, value in spread._asdict().items()}
        for name, spread in spreads
    }


def run_record(s: Simulated, devices: int) -> dict[str, object]:
    """All requests of the run, those that met an empty server among them."""
    f = s.all
    return {
        "requests": s.requests * s.replicas,
        "seed": s.seed,
        "lock_step": s.ranks if s.ranks > 1 else None,
        "tpot_s": f.tpot_s.mean,
        "ttft_s": f.ttft_s.mean,
        "request_s": f.request_s.mean,
        "queue_s": f.queue_s.mean,
        **latency_keys(f),
        "tokens_per_s": f.tokens_per_s,
        "tokens_per_s_per_device": f.tokens_per_s / devices,
        "requests_per_s": f.requests_per_s,
    }


class SimulatedAnswer(Placed):
    """The percentiles of the latencies, in the steady state; and, where limits or a price are said, what is
    within them and what it costs."""

    limits = Key[Record]("Limits of latency by the key that each bounds, ``ttft_p95_s`` [s].")
    misses = Key[list[Record]]("Limits that are not kept: ``limit``, ``figure_s``, ``factor``.")
    good_share = Key[float]("Under limits: share of the requests that are within all of them.")
    goodput_requests_per_s = Key[float]("Requests within the limits per second.")
    goodput_tokens_per_s = Key[float]("Output tokens of theirs per second.")
    goodput_requests_per_s_per_device = Key[float]("The same of one GPU: requests.")
    goodput_tokens_per_s_per_device = Key[float]("The same of one GPU: output tokens.")
    dollars_per_million_tokens = Key[float]("At a price: dollars per million output tokens.")

    ttft_p50_s = Key[float]("Time to first token: a half of them take no longer [s].")
    ttft_p90_s = Key[float]("The same: 90 % of them take no longer [s].")
    ttft_p95_s = Key[float]("The same: 95 % of them take no longer [s].")
    ttft_p99_s = Key[float]("The same: 99 % of them take no longer [s].")
    tpot_p50_s = Key[float](
        "Time per output token of a request: a half of them take no longer [s]."
    )
    tpot_p90_s = Key[float]("The same: 90 % of them take no longer [s].")
    tpot_p95_s = Key[float]("The same: 95 % of them take no longer [s].")
    tpot_p99_s = Key[float]("The same: 99 % of them take no longer [s].")
    itl_p50_s = Key[float]("Time between two tokens: a half of them take no longer [s].")
    itl_p90_s = Key[float]("The same: 90 % of them take no longer [s].")
    itl_p95_s = Key[float]("The same: 95 % of them take no longer [s].")
    itl_p99_s = Key[float]("The same: 99 % of them take no longer [s].")
    request_p50_s = Key[float]("Whole requests: a half of them take no longer [s].")
    request_p90_s = Key[float]("The same: 90 % of them take no longer [s].")
    request_p95_s = Key[float]("The same: 95 % of them take no longer [s].")
    request_p99_s = Key[float]("The same: 99 % of them take no longer [s].")
    queue_p50_s = Key[float]("Wait for a place: a half of them take no longer [s].")
    queue_p90_s = Key[float]("The same: 90 % of them take no longer [s].")
    queue_p95_s = Key[float]("The same: 95 % of them take no longer [s].")
    queue_p99_s = Key[float]("The same: 99 % of them take no longer [s].")

    if not TYPE_CHECKING:  # of other percentiles, where a limit names them

        def __getattr__(self, name: str) -> object:
            if re.fullmatch(r"(ttft|tpot|request)_p\d+_s", name) and name in self.figures:
                return self.figures[name]
            return super().__getattr__(name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.figures})


# -- words and tables ------------------------------------------------------------------------------

_NAMES = (
    ("ttft_s", "first token (TTFT)"),
    ("tpot_s", "per token of a request (TPOT)"),
    ("itl_s", "between two tokens (ITL)"),
    ("request_s", "whole request"),
    ("queue_s", "wait for a place"),
)


def load_words(s: Simulated, concurrency: int) -> str:
    """What is sent: ``64 requests in flight``, ``40 requests/s (poisson)``."""
    if s.arrivals is None:
        return f"{concurrency} requests in flight"
    held = cap_words(s.cap)
    if s.arrivals.trace is not None:
        return f"the {s.requests * s.replicas:,} requests of {s.arrivals.trace.name}{held}"
    return f"{s.arrivals.rate:g} requests/s ({s.arrivals.words}){held}"


def flight_words(s: Simulated) -> str:
    """Of arrivals: ``836 requests run, 299 wait``, of all replicas in the mean of the steady state."""
    running, waiting = (
        math.ceil(spread.mean * s.replicas) for spread in (s.steady.running, s.steady.waiting)
    )
    return f"{running:,} request{'s run' if running != 1 else ' runs'}, {waiting:,} wait{'s' * (waiting == 1)}"


def cap_words(cap: int | None) -> str:
    """That a client holds requests back, whose TTFT counts their wait there."""
    return "" if cap is None else f", at most {cap:,} in flight (others wait at the client)"


def run_words(s: Simulated) -> str:
    """What the mean over all requests is of."""
    n = s.requests * s.replicas
    if s.arrivals is None:
        return f"Mean over {n:,} requests, all started at once"
    return f"Mean over {n:,} requests, the first of which met an empty server"


def figures_title(s: Simulated) -> str:
    """Which of the requests the figures are of."""
    return "Steady state" if s.settled else "All requests: no steady state"


def percentiles_table(s: Simulated) -> Table:
    """A row per latency: its mean and percentiles."""
    f, rows = s.steady, []
    title = "Latencies in the steady state" if s.settled else "Latencies of all requests"
    for key, name in _NAMES:
        spread = getattr(f, key)
        if spread.p99 > 0.0:
            rows.append((name, *(format_time(v) if v > 0.0 else "0" for v in spread)))
    header = ("latency", "mean", "p50", "p90", "p95", "p99")
    return Table(title, header, tuple(rows), frozenset({0}))


def run_table(s: Simulated) -> Table:
    """What a benchmark's table has, whose requests all begin at once."""
    f = s.all
    return Table(
        run_words(s),
        ("what", "value"),
        (
            ("time per output token (TPOT)", words.pace(f.tpot_s.mean)),
            ("time to first token (TTFT)", format_time(f.ttft_s.mean)),
            ("whole request", format_time(f.request_s.mean)),
            ("output tokens/s", f"{f.tokens_per_s:,.1f}"),
        ),
    )
