"""``serve --sweep``: latency and throughput of one layout against the rate of arrivals."""

from __future__ import annotations

from typing import TypedDict

from meshwise.answers.records import SCHEMA
from meshwise.answers.records.attributes import Key, Record
from meshwise.answers.records.cluster import ClusterRecord, cluster_record, stack_record
from meshwise.answers.records.result import Placed
from meshwise.answers.records.workload import serving_workload
from meshwise.answers.simulated import latency_keys
from meshwise.answers.text import words
from meshwise.answers.text.sentences import cluster_words, wrap
from meshwise.answers.text.tables import Page, Table
from meshwise.axes import Value
from meshwise.search.serving.served import LoadCurve
from meshwise.units import format_gpus, format_time


class LoadCurveRecord(TypedDict):
    """The JSON of ``serve --sweep``: a point per rate; seconds, requests per second."""

    schema: int
    model: str
    cluster: ClusterRecord
    workload: dict[str, object]
    stack: dict[str, object]
    layout: dict[str, Value]
    devices: int
    most_requests_per_s: float
    points: list[dict[str, object]]


class LoadCurveResult(Placed):
    """Latency and throughput against the rate of arrivals. The JSON's ``points`` are :meth:`rows`."""

    ROWS = "points"
    layout = Key[Record]("The layout's axes.")
    devices = Key[int]("GPUs of the layout.")
    most_requests_per_s = Key[float]("What is served where there is always a request waiting.")
    points = Key[list[Record]](
        "Per rate the steady state; ``saturated`` where more come than leave."
    )

    def __init__(self, found: LoadCurve) -> None:
        self.found = found

    def to_dict(self) -> LoadCurveRecord:
        c = self.found
        return {
            "schema": SCHEMA,
            "model": c.model.name,
            "cluster": cluster_record(c.cluster),
            "workload": serving_workload(c.load) | {"arrivals": c.arrivals},
            "stack": stack_record(c.stack),
            "layout": c.layout.record(c.stack.overlaps.overlap),
            "devices": c.layout.devices,
            "most_requests_per_s": c.most_per_s,
            "points": _points(c),
        }

    def page(self) -> Page:
        return _page(self.found)


def _points(c: LoadCurve) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for rate, run in zip(c.rates, c.runs, strict=True):
        point: dict[str, object] = {"request_rate": rate, "saturated": run is None}
        if run is not None:
            f = run.steady
            point |= {
                "tpot_s": f.tpot_s.mean,
                "ttft_s": f.ttft_s.mean,
                "request_s": f.request_s.mean,
                "queue_s": f.queue_s.mean,
                **latency_keys(f),
                "tokens_per_s": f.tokens_per_s,
                "tokens_per_s_per_device": f.tokens_per_s / c.layout.devices,
                "running": f.running.mean * run.replicas,
                "waiting": f.waiting.mean * run.replicas,
            }
        found.append(point)
    return found


def _page(c: LoadCurve) -> Page:
    """A row per rate."""
    heading = wrap(
        f"{c.model.name}: serving arrivals ({c.arrivals}), {c.load.isl} tokens in, {c.load.osl} out\n"
        f"{c.cluster.name}: {cluster_words(c.cluster)}; stack {c.stack.name}\n"
        f"layout tp={c.layout.tp} pp={c.layout.pp} dp={c.layout.dp} ({format_gpus(c.layout.devices)})"
    )
    rows = []
    for rate, run in zip(c.rates, c.runs, strict=True):
        if run is None:
            rows.append((f"{rate:.3g}", *["-"] * 6))
            continue
        f = run.steady
        rows.append(
            (
                f"{rate:.3g}",
                *(format_time(v) for v in (f.ttft_s.mean, f.ttft_s.p95, f.tpot_s.mean)),
                *(format_time(f.tpot_s.p95), f"{f.running.mean * run.replicas:,.0f}"),
                f"{f.tokens_per_s / c.layout.devices:,.1f}",
            )
        )
    header = ("requests/s", "TTFT", "p95", "TPOT", "p95 ", "running", "tokens/s/GPU")
    table = Table("Steady state by rate", header, tuple(rows))
    said = f"At {c.most_per_s:.3g} requests/s the queue begins to grow without bound."
    served = [rate for rate, run in zip(c.rates, c.runs, strict=True) if run is not None]
    line = words.first_line(
        [
            f"Serves up to {c.most_per_s:.3g} requests/s",
            f"TTFT {format_time(c.runs[0].steady.ttft_s.mean)} at {served[0]:.3g}"
            if c.runs[0] is not None
            else "",
        ]
    )
    return Page(heading, (table, said), line)
