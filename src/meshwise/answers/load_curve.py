"""``serve --sweep``: latency and throughput of one layout against the rate of arrivals."""

from __future__ import annotations

from typing import TypedDict

from meshwise.answers.records import SCHEMA
from meshwise.answers.records.attributes import Key, Record
from meshwise.answers.records.cluster import ClusterRecord, cluster_record, stack_record
from meshwise.answers.records.layout import goodput_keys, token_price
from meshwise.answers.records.result import Placed
from meshwise.answers.records.workload import serving_workload
from meshwise.answers.serving.limits import limits_record
from meshwise.answers.serving.remarks import imbalance_remarks, prefix_remarks, unsettled_remarks
from meshwise.answers.simulated import latency_keys
from meshwise.answers.text import words
from meshwise.answers.text.sentences import cluster_words, sentence, wrap
from meshwise.answers.text.tables import Page, Table
from meshwise.axes import Value
from meshwise.search.serving.runs.binding import misses
from meshwise.search.serving.runs.trial import figure_s, good_shares
from meshwise.search.serving.served import LoadCurve
from meshwise.search.tp_curve.remarks import degree_cost_remarks
from meshwise.units import format_gpus, format_time
from meshwise.workloads.limits import LatencyLimit


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
    limits: dict[str, float | None]
    points: list[dict[str, object]]
    remarks: list[str]


class LoadCurveResult(Placed):
    """Latency and throughput against the rate of arrivals. The JSON's ``points`` are :meth:`rows`."""

    ROWS = "points"
    layout = Key[Record]("The layout's axes.")
    devices = Key[int]("GPUs of the layout.")
    most_requests_per_s = Key[float]("What is served where there is always a request waiting.")
    remarks = Key[list[str]]("What to know of the answer.")
    points = Key[list[Record]](
        "Per rate the steady state; ``saturated`` where more come than leave."
    )

    def __init__(
        self, found: LoadCurve, limits: tuple[LatencyLimit, ...] = (), price: float | None = None
    ) -> None:
        self.found, self.limits, self.price = found, limits, price

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
            "limits": limits_record(self.limits),
            "points": _points(c, self.limits, self.price),
            "remarks": _remarks(c),
        }

    @property
    def saturated(self) -> bool:
        """Whether more come than leave at every rate."""
        return all(run is None for run in self.found.runs)

    def page(self) -> Page:
        return _page(self.found, self.limits, self.price)


def _remarks(c: LoadCurve) -> list[str]:
    lay = c.layout
    parts = c.model, c.cluster, c.load.decode(), c.stack
    unsettled = [s for run in c.runs for s in unsettled_remarks(run, c.load.concurrency)]
    return [
        *degree_cost_remarks(*parts, lay.tp, lay.expert_tp),
        *prefix_remarks(c.model, c.load),
        *imbalance_remarks(c.model, c.load, lay.ep),
        *unsettled[:1],
    ]


def _points(
    c: LoadCurve, limits: tuple[LatencyLimit, ...], price: float | None
) -> list[dict[str, object]]:
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
                **{f"{limit.name}_s": figure_s(f, limit) for limit in limits},
                **goodput_keys(
                    good_shares(f, limits) if limits else None,
                    *(f.requests_per_s, f.tokens_per_s, c.layout.devices),
                ),
                **token_price(price, c.layout.devices, f.tokens_per_s),
            }
            if limits:
                point["within_limits"] = not misses(f, limits)
        found.append(point)
    return found


def _page(c: LoadCurve, limits: tuple[LatencyLimit, ...], price: float | None) -> Page:
    """A row per rate."""
    more = len(limits[:1]) + (price is not None)
    heading = wrap(
        f"{c.model.name}: serving arrivals ({c.arrivals}), {c.load.isl} tokens in, {c.load.osl} out\n"
        f"{c.cluster.name}: {cluster_words(c.cluster)}; stack {c.stack.name}\n"
        f"layout tp={c.layout.tp} pp={c.layout.pp} dp={c.layout.dp} ({format_gpus(c.layout.devices)})"
    )
    rows = []
    for rate, run in zip(c.rates, c.runs, strict=True):
        if run is None:
            rows.append((f"{rate:.3g}", *["-"] * (6 + more)))
            continue
        f = run.steady
        rows.append(
            (
                f"{rate:.3g}",
                *(format_time(v) for v in (f.ttft_s.mean, f.ttft_s.p95)),
                *(words.pace(v) for v in (f.tpot_s.mean, f.tpot_s.p95)),
                f"{f.running.mean * run.replicas:,.0f}",
                f"{f.tokens_per_s / c.layout.devices:,.1f}",
                *([words.percent(good_shares(f, limits).requests)] if limits else []),
                *(
                    f"{v:,.2f}"
                    for v in token_price(price, c.layout.devices, f.tokens_per_s).values()
                ),
            )
        )
    header: tuple[str, ...] = (
        "requests/s",
        "TTFT",
        "p95",
        "TPOT",
        "p95 ",
        "running",
        "tokens/s/GPU",
    )
    header += ("within limits",) * bool(limits) + ("$/1M tokens",) * (price is not None)
    table = Table("Steady state by rate", header, tuple(rows))
    said = f"At {c.most_per_s:.3g} requests/s the queue begins to grow without bound."
    if all(run is None for run in c.runs):
        said += " At each of the rates more requests arrive than are served."
    served = [rate for rate, run in zip(c.rates, c.runs, strict=True) if run is not None]
    if limits:
        said += _kept(c, limits)
    kept = _most_kept(c, limits)
    line = words.first_line(
        [
            ""
            if not limits
            else f"Keeps the limits up to {kept:.3g} requests/s"
            if kept
            else "Keeps the limits at none of the rates",
            f"Serves up to {c.most_per_s:.3g} requests/s",
            f"TTFT {format_time(c.runs[0].steady.ttft_s.mean)} at {served[0]:.3g}"
            if c.runs[0] is not None
            else "",
        ]
    )
    told = map(sentence, _remarks(c))
    return Page(heading, (table, wrap(said), *told), line)


def _most_kept(c: LoadCurve, limits: tuple[LatencyLimit, ...]) -> float | None:
    """The highest of the rates at which the limits are kept."""
    kept = [
        rate
        for rate, run in zip(c.rates, c.runs, strict=True)
        if run is not None and not misses(run.steady, limits)
    ]
    return max(kept, default=None)


def _kept(c: LoadCurve, limits: tuple[LatencyLimit, ...]) -> str:
    """Up to which of the rates the limits are kept."""
    asked = ", ".join(limit.sentence for limit in limits)
    kept = _most_kept(c, limits)
    return f" {asked}: kept up to {kept:.3g} requests/s." if kept else f" {asked}: kept at none."
