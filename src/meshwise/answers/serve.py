"""``serve``: continuous batching of one layout, simulated."""

from __future__ import annotations

from typing import NamedTuple

from meshwise.answers.records import SCHEMA
from meshwise.answers.records.attributes import Key, Record
from meshwise.answers.records.cluster import ClusterRecord, cluster_record, stack_record
from meshwise.answers.records.evidence import EvidenceRecord
from meshwise.answers.records.layout import goodput_keys, token_price
from meshwise.answers.records.served import serving_evidence
from meshwise.answers.records.workload import serving_workload
from meshwise.answers.serving.limits import limits_record, miss_record, sent_record
from meshwise.answers.serving.memory import RoomFigures, memory_tables, room_words
from meshwise.answers.serving.remarks import load_remarks
from meshwise.answers.serving.sentences import kept_rows, length_words
from meshwise.answers.simulated import (
    SimulatedAnswer,
    figures_title,
    flight_words,
    in_flight_keys,
    latency_keys,
    load_words,
    percentiles_table,
    run_record,
    run_table,
)
from meshwise.answers.text import words
from meshwise.answers.text.evidence import evidence_lines
from meshwise.answers.text.sentences import begun, cluster_words, wrap
from meshwise.answers.text.tables import Page, Table
from meshwise.axes import Value
from meshwise.clusters.load import Cluster
from meshwise.cost.memory.server import most_sequences
from meshwise.cost.uncertainty import tpot_interval
from meshwise.layouts.layout import Layout
from meshwise.models.shapes import Model
from meshwise.program.context import widths
from meshwise.search.serving.runs.binding import misses
from meshwise.search.serving.runs.room import ServerRoom
from meshwise.search.serving.runs.trial import figure_s, good_shares
from meshwise.search.serving.steady_state import Steady
from meshwise.search.tp_curve.remarks import degree_cost_remarks
from meshwise.simulate.server import Simulated
from meshwise.stacks.stack import Stack
from meshwise.units import format_gpus, format_time
from meshwise.workloads.limits import LatencyLimit
from meshwise.workloads.serving import Serving


class ServedLayout(NamedTuple):
    """A layout, what it serves, the run, and its averages: of ``steady`` what no run is needed for."""

    model: Model
    cluster: Cluster
    stack: Stack
    layout: Layout
    load: Serving
    steady: Steady
    run: Simulated
    room: ServerRoom
    limits: tuple[LatencyLimit, ...] = ()
    price_per_device_hour: float | None = None

    @property
    def etp(self) -> int:
        """Expert-tensor degree."""
        return self.layout.expert_tp


class ServeFigures(RoomFigures, total=False):
    """Of the steady state: seconds, tokens, bytes. Beside them the percentiles (``ttft_p95_s``)."""

    tpot_s: float
    tpot_low_s: float
    tpot_high_s: float
    ttft_s: float
    queue_s: float
    request_s: float
    tokens_per_s_per_device: float
    tokens_per_s: float
    requests_per_s: float
    decode_s: float
    prefill_s: float
    tokens_per_iteration: float
    running: int
    max_concurrency: int
    memory_bytes: float
    fits: bool
    tight: bool
    good_share: float
    goodput_requests_per_s: float
    goodput_tokens_per_s: float
    goodput_requests_per_s_per_device: float
    goodput_tokens_per_s_per_device: float
    dollars_per_million_tokens: float


class ServeRecord(ServeFigures):
    """The JSON of ``serve``; ``points`` has its figures once more, as a row."""

    schema: int
    model: str
    cluster: ClusterRecord
    workload: dict[str, object]
    formats: dict[str, object]
    stack: dict[str, object]
    layout: dict[str, Value]
    devices: int
    memory_limit_bytes: float
    averages: dict[str, float]
    in_flight: dict[str, dict[str, float]]
    run: dict[str, object]
    evidence: EvidenceRecord | None
    limits: dict[str, float | None]
    misses: list[dict[str, object]]
    remarks: list[str]
    points: list[dict[str, object]]


class ServeResult(SimulatedAnswer):
    """Continuous batching of one layout: the steady state, and the run that it is of."""

    ROWS = "points"
    formats = Key[Record]("Number formats of weights, activations, cache.")
    layout = Key[Record]("The layout's axes.")
    tpot_low_s = Key[float]("Lower end of TPOT's 90 % interval [s].")
    tpot_high_s = Key[float]("Upper end of TPOT's 90 % interval [s].")
    request_s = Key[float]("From a request's arrival to its last token [s].")
    tokens_per_iteration = Key[float]("Tokens of a request per iteration (above 1 with drafts).")
    running = Key[int]("Requests in flight, of all replicas.")
    itl_s = Key[float]("Mean time between two tokens of a request [s].")
    averages = Key[Record]("The steady state by averages, which a search ranks by: no run.")
    in_flight = Key[Record]("Requests of a replica that run and that wait: mean, percentiles.")
    run = Key[Record]("All requests of the run: the mean that a benchmark's table has.")
    tight = Key[bool]("Whether the limit lies within the memory's error.")
    kv_cache_tokens = Key[int]("Tokens of a replica's KV cache, as the engine's log states them.")
    kv_cache_blocks = Key[int]("Its blocks.")
    max_model_len = Key[int]("The longest request that the engine is told of [tokens].")
    max_model_concurrency = Key[float]("Requests of that length that a replica's cache holds.")
    longest_request = Key[int]("The longest request that a replica's cache holds alone [tokens].")
    weights_bytes = Key[float]("Of a device: weights [bytes].")
    activations_bytes = Key[float]("The largest iteration's activations, or sampling's [bytes].")
    runtime_bytes = Key[float]("Libraries' and communicators' memory [bytes].")
    graphs_bytes = Key[float]("CUDA graphs, where the cache is sized after them [bytes].")
    kv_cache_bytes = Key[float]("The KV cache: what the engine has left for it [bytes].")
    reserve_bytes = Key[float]("What the engine leaves of the device [bytes].")
    evidence = Key[Record | None]("Which published runs are near: ``tier``, ``runs``, ``nearest``.")
    remarks = Key[list[str]]("What to know of the answer.")
    points = Key[list[Record]]("The layout and its figures, as one row.")

    def __init__(
        self,
        model: Model,
        cluster: Cluster,
        stack: Stack,
        layout: Layout,
        w: Serving,
        steady: Steady,
        run: Simulated,
        room: ServerRoom,
        limits: tuple[LatencyLimit, ...] = (),
        price_per_device_hour: float | None = None,
    ) -> None:
        self.served = ServedLayout(
            *(model, cluster, stack, layout, w, steady, run, room, limits, price_per_device_hour)
        )
        self.steady, self.simulated = steady, run

    @property
    def tpot_s(self) -> float:
        """Time per output token, the mean of requests [s]."""
        return self.simulated.steady.tpot_s.mean

    @property
    def ttft_s(self) -> float:
        """Time from a request's arrival to its first token, the mean [s]."""
        return self.simulated.steady.ttft_s.mean

    @property
    def queue_s(self) -> float:
        """Of that the wait for a place [s]."""
        return self.simulated.steady.queue_s.mean

    @property
    def tokens_per_s(self) -> float:
        """Output tokens per second of all GPUs."""
        return self.simulated.steady.tokens_per_s

    @property
    def tokens_per_s_per_device(self) -> float:
        """Output tokens per second of one GPU."""
        return self.tokens_per_s / self.devices

    @property
    def requests_per_s(self) -> float:
        """Requests per second."""
        return self.simulated.steady.requests_per_s

    @property
    def decode_s(self) -> float:
        """An iteration of decodes alone [s]."""
        return float(self.steady.decode_s)

    @property
    def prefill_s(self) -> float:
        """One prompt alone [s]."""
        return float(self.steady.prefill_s)

    @property
    def memory_bytes(self) -> float:
        """Of the fullest device [bytes]."""
        return float(self.steady.memory_bytes)

    @property
    def memory_limit_bytes(self) -> float:
        """What a device has for it [bytes]."""
        return float(self.steady.memory_limit_bytes)

    @property
    def max_concurrency(self) -> int:
        """Requests whose keys and values the memory holds."""
        return int(self.steady.max_concurrency)

    @property
    def fits(self) -> bool:
        """Whether the memory holds the requests in flight."""
        return bool(self.steady.fits)

    @property
    def devices(self) -> int:
        """GPUs of the layout."""
        return self.served.layout.devices

    def to_dict(self) -> ServeRecord:
        return serve_record(self.served)

    def page(self) -> Page:
        return serve_page(self.served, self.to_dict())


def serve_record(a: ServedLayout) -> ServeRecord:
    """The JSON of one layout."""
    lay, w, s = a.layout, a.load, a.steady
    degrees = {"tp": lay.tp, "pp": lay.pp, "dp": lay.dp, "ep": lay.ep, "etp": a.etp}
    figures = _figures(a)
    return {
        "schema": SCHEMA,
        "model": a.model.name,
        "cluster": cluster_record(a.cluster),
        "workload": serving_workload(w) | sent_record(a.run.arrivals),
        "formats": widths(a.model, w.decode())._asdict(),
        "stack": stack_record(a.stack),
        "layout": lay.record(a.stack.overlaps.overlap),
        "devices": lay.devices,
        **figures,
        "memory_limit_bytes": float(s.memory_limit_bytes),
        "averages": {
            "tpot_s": float(s.tpot_s),
            "ttft_s": float(s.ttft_s),
            "tokens_per_s": float(s.tokens_per_s),
        },
        "in_flight": in_flight_keys(a.run),
        "run": run_record(a.run, lay.devices),
        "evidence": serving_evidence(a.model, a.cluster, a.stack, lay, w, int(s.running)),
        "limits": limits_record(a.limits),
        "misses": [miss_record(m) for m in misses(a.run.steady, a.limits)],
        "remarks": [
            *degree_cost_remarks(a.model, a.cluster, w.decode(), a.stack, lay.tp, a.etp),
            *load_remarks(a.model, a.load, lay.ep, a.run, a.stack.ideal),
        ],
        "points": [{**degrees, "devices": lay.devices, **figures}],
    }


def _figures(a: ServedLayout) -> ServeFigures:
    s, f = a.steady, a.run.steady
    low, high = tpot_interval(f.tpot_s.mean, a.stack, s.sd, s.even_s)
    figures: ServeFigures = {
        "tpot_s": f.tpot_s.mean,
        "tpot_low_s": float(low),
        "tpot_high_s": float(high),
        "ttft_s": f.ttft_s.mean,
        "queue_s": f.queue_s.mean,
        "request_s": f.request_s.mean,
        "tokens_per_s_per_device": f.tokens_per_s / a.layout.devices,
        "tokens_per_s": f.tokens_per_s,
        "requests_per_s": f.requests_per_s,
        "decode_s": float(s.decode_s),
        "prefill_s": float(s.prefill_s),
        "tokens_per_iteration": s.tokens_per_iteration,
        "running": int(s.running),
        "max_concurrency": int(s.max_concurrency),
        "memory_bytes": float(s.memory_bytes),
        "fits": bool(s.fits),
        "tight": bool(s.tight),
    }
    good = good_shares(f, a.limits) if a.limits else None
    more: dict[str, float] = {
        **latency_keys(f),
        **{f"{limit.name}_s": figure_s(f, limit) for limit in a.limits},
        **goodput_keys(good, f.requests_per_s, f.tokens_per_s, a.layout.devices),
        **token_price(a.price_per_device_hour, a.layout.devices, f.tokens_per_s),
        **a.room._asdict(),
    }
    return {**figures, **more}  # type: ignore[typeddict-item]


def serve_line(d: ServeRecord, asked: int, most: int, run: Simulated) -> str:
    """TPOT, TTFT, what all GPUs deliver, and whether it fits; ``asked``: requests in flight; ``most``: that
    the engine runs at once."""
    room = words.memory_words(d["memory_bytes"], d["memory_limit_bytes"], d["fits"], d["tight"])
    if d["fits"]:
        n = min(d["max_concurrency"], most)
        room = f"fits{', tight' * d['tight']}, up to {n:,} request{'s' * (n != 1)}"
    elif run.arrivals is not None:
        room = f"KV cache full: {flight_words(run)}"
    elif d["max_concurrency"]:
        room = f"holds {d['max_concurrency']:,} of {asked:,} requests"
    return words.first_line(
        [
            words.pace_words(d["tpot_s"], d["tpot_low_s"], d["tpot_high_s"]),
            f"TTFT {format_time(d['ttft_s'])}",
            f"{words.rate_words(d['tokens_per_s'])} tokens/s ({words.rate_words(d['tokens_per_s_per_device'])} per GPU)",
            *(f"goodput {words.percent(d[k])} of the requests" for k in ("good_share",) if k in d),
            *(f"${d[k]:,.2f} per 1M tokens" for k in ("dollars_per_million_tokens",) if k in d),
            room,
            "no steady state" * (not run.settled),
        ]
    )


# -- the page --------------------------------------------------------------------------------------


def serve_page(a: ServedLayout, d: ServeRecord) -> Page:
    """The steady state, all requests of the run, and as detail percentiles and the memory."""
    w, lay = a.load, a.layout
    shown = ("tp", "pp", "dp", *(("ep",) if lay.ep > 1 else ()))
    axes = " ".join(f"{name}={getattr(lay, name)}" for name in shown)
    axes += f" etp={a.etp}" if lay.ep > 1 else ""
    axes += f" dcp={lay.dcp}" if lay.dcp > 1 else ""
    heading = wrap(
        f"{d['model']}: serving {load_words(a.run, w.concurrency)}, "
        f"{length_words(str(w.isl), str(w.osl), a.run.arrivals)}\n{d['cluster']['name']}: {cluster_words(a.cluster)}; stack "
        f"{a.stack.name}\nlayout {axes} ({format_gpus(d['devices'])}){_options(w)}"
    )
    # tables
    drafts = (
        (("tokens per verification", f"{d['tokens_per_iteration']:.2f}"),) if w.draft_tokens else ()
    )
    steady = Table(
        figures_title(a.run),
        ("what", "value"),
        (
            ("time per output token (TPOT)", words.pace(d["tpot_s"])),
            *words.interval_row(d["tpot_s"], d["tpot_low_s"], d["tpot_high_s"]),
            ("time to first token (TTFT)", format_time(d["ttft_s"])),
            ("whole request", format_time(d["request_s"])),
            ("output tokens/s per GPU", f"{d['tokens_per_s_per_device']:,.1f}"),
            ("output tokens/s", f"{d['tokens_per_s']:,.1f}"),
            ("requests/s", f"{d['requests_per_s']:,.3g}"),
            ("an iteration of decodes alone", format_time(d["decode_s"])),
            ("one prompt alone", format_time(d["prefill_s"])),
            *drafts,
            *kept_rows(a.run.steady, a.limits, d),
        ),
    )
    servers = lay.dp * max(d["max_concurrency"] // max(int(a.steady.max_concurrency), 1), 1)
    most = servers * most_sequences(a.stack, a.cluster.device)
    # what is to be said
    said = room_words(d, w.concurrency, a.run) + [begun(r) for r in d["remarks"]]
    told = (*((wrap(" ".join(said)),) if said else ()), *evidence_lines(d["evidence"]))
    run = run_table(a.run)
    latencies = percentiles_table(a.run)
    detail = (latencies, *memory_tables(d))
    line = serve_line(d, w.concurrency, most, a.run)
    return Page(heading, (steady, run, *told), line, detail)


def _options(w: Serving) -> str:
    said = []
    if w.prefix_hit:
        said.append(f"{w.prefix_hit:.0%} of a prompt cached")
    if w.chunk:
        said.append(f"at most {w.chunk} tokens an iteration")
    if w.draft_tokens:
        said.append(f"{w.draft_tokens} drafts at {w.acceptance:.0%} acceptance")
    if (w.expert_imbalance or 1.0) > 1:
        said.append(f"fullest expert rank {w.expert_imbalance:g} × the mean")
    return "".join(f", {part}" for part in said)
