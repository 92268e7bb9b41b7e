"""What ``serve`` shows and its JSON (schema 1)."""

from __future__ import annotations

from typing import Any

import msgspec

from meshwise.answers import first_line, records
from meshwise.answers.attributes import Key, Record
from meshwise.answers.pages import cluster_words, interval_row, wrap
from meshwise.answers.text import words
from meshwise.answers.text.result import Placed
from meshwise.answers.text.tables import Page, Table
from meshwise.clusters.load import Cluster
from meshwise.cost.uncertainty import tpot_interval
from meshwise.layouts.layout import Layout, arrays
from meshwise.models.shapes import Model
from meshwise.program.context import widths
from meshwise.search.serving.steady_state import Steady, burst_s
from meshwise.search.tp_curve.curve import remarks
from meshwise.stacks.stack import Stack
from meshwise.units import format_memory, format_time
from meshwise.workloads.serving import Serving
from meshwise.workloads.workload import drawn_skew


def workload_dict(w: Serving) -> dict[str, Any]:
    """The workload as JSON, phase first."""
    fields = msgspec.to_builtins(w)
    formats = fields.pop("formats")
    named = {k if k == "dtype" else f"{k}_dtype": v for k, v in formats.items()}
    named.pop("gradients_dtype")
    fields["expert_skew"] = drawn_skew(w.expert_skew)
    return {"phase": w.phase, **fields, **named}


def serve_dict(
    model: Model, cluster: Cluster, stack: Stack, grid: Layout, w: Serving, s: Steady
) -> dict[str, Any]:
    """The record of one layout in steady state; ``points`` has its figures once more, as a row."""
    degrees = {
        "tp": grid.tp,
        "pp": grid.pp,
        "dp": grid.dp,
        "ep": grid.ep,
        "etp": grid.expert_tp,
    }
    low, high = tpot_interval(s.tpot_s, stack, s.lent, s.even_s, s.unseen)
    figures: dict[str, Any] = {
        "tpot_s": float(s.tpot_s),
        "tpot_low_s": float(low),
        "tpot_high_s": float(high),
        "ttft_s": float(s.ttft_s),
        "queue_s": float(s.queue_s),
        "request_s": float(s.queue_s + s.ttft_s + (w.osl - 1) * s.tpot_s),
        "tokens_per_s_per_device": float(s.tokens_per_s_per_device),
        "tokens_per_s": float(s.tokens_per_s),
        "requests_per_s": float(s.requests_per_s),
        "decode_s": float(s.decode_s),
        "prefill_s": float(s.prefill_s),
        "tokens_per_iteration": s.tokens_per_iteration,
        "running": int(s.running),
        "max_concurrency": int(s.max_concurrency),
        "memory_bytes": float(s.memory_bytes),
        "fits": bool(s.fits),
    }
    return {
        "schema": records.SCHEMA,
        "model": model.name,
        "cluster": records.cluster_dict(cluster),
        "workload": workload_dict(w),
        "formats": widths(model, w.decode())._asdict(),
        "stack": records.stack_dict(stack),
        "layout": degrees,
        "devices": grid.devices,
        **figures,
        "memory_limit_bytes": s.memory_limit_bytes,
        "remarks": [
            *remarks(model, cluster, w.decode(), stack, grid.tp, degrees["etp"]),
            *burst_remarks(model, cluster, stack, grid, w, s),
        ],
        "points": [{**degrees, "devices": grid.devices, **figures}],
    }


def burst_remarks(
    model: Model, cluster: Cluster, stack: Stack, grid: Layout, w: Serving, s: Steady
) -> list[str]:
    """The first token of requests that all begin at once, where it comes much later than in the steady
    state."""
    burst = float(burst_s(model, cluster, stack, arrays(grid), w))
    if stack.ideal or not s.fits or burst < 2.0 * float(s.ttft_s):
        return []
    return [
        f"TTFT is of the steady state: where all {w.concurrency} requests begin at once, as a benchmark's "
        f"first do, it is {format_time(burst)} in the mean"
    ]


def serve_page(cluster: Cluster, d: dict[str, Any]) -> Page:
    w, lay = d["workload"], d["layout"]
    axes = " ".join(f"{k}={v}" for k, v in lay.items() if k not in ("ep", "etp") or lay["ep"] > 1)
    heading = wrap(
        f"{d['model']}: serving {w['concurrency']} requests in flight, {w['isl']} tokens in, "
        f"{w['osl']} out\n{d['cluster']['name']}: {cluster_words(cluster)}; stack "
        f"{d['stack']['name']}\nlayout {axes} ({words.gpus(d['devices'])}){_options(w)}"
    )
    queue = (("wait for room in the KV cache", format_time(d["queue_s"])),) if d["queue_s"] else ()
    drafts = (
        (("tokens per verification", f"{d['tokens_per_iteration']:.2f}"),)
        if w["draft_tokens"]
        else ()
    )
    steady = Table(
        "Steady state",
        ("what", "value"),
        (
            ("time per output token (TPOT)", format_time(d["tpot_s"])),
            *interval_row(d["tpot_s"], d["tpot_low_s"], d["tpot_high_s"]),
            ("time to first token (TTFT)", format_time(d["ttft_s"])),
            *queue,
            ("whole request", format_time(d["request_s"])),
            ("output tokens/s per GPU", f"{d['tokens_per_s_per_device']:,.1f}"),
            ("output tokens/s", f"{d['tokens_per_s']:,.1f}"),
            ("requests/s", f"{d['requests_per_s']:,.3g}"),
            ("an iteration of decodes alone", format_time(d["decode_s"])),
            ("one prompt alone", format_time(d["prefill_s"])),
            *drafts,
        ),
    )
    memory = Table(
        "Memory per GPU, fullest stage",
        ("what", "value"),
        (
            (f"{d['running']} requests", format_memory(d["memory_bytes"])),
            ("usable of the device", format_memory(d["memory_limit_bytes"])),
            ("requests that fit", f"{d['max_concurrency']:,}"),
            ("fits", "yes" if d["fits"] else "NO"),
        ),
    )
    said = _room(d) + [f"{r[0].upper()}{r[1:]}." for r in d["remarks"]]
    told = (wrap(" ".join(said)),) if said else ()
    return Page(heading, (steady, *told), first_line.served(d), (memory,))


def _options(w: dict[str, Any]) -> str:
    said = []
    if w["prefix_hit"]:
        said.append(f"{w['prefix_hit']:.0%} of a prompt cached")
    if w["chunk"]:
        said.append(f"at most {w['chunk']} tokens an iteration")
    if w["draft_tokens"]:
        said.append(f"{w['draft_tokens']} drafts at {w['acceptance']:.0%} acceptance")
    if w["expert_imbalance"] > 1:
        said.append(f"fullest expert rank {w['expert_imbalance']:g} × the mean")
    return "".join(f", {part}" for part in said)


def _room(d: dict[str, Any]) -> list[str]:
    """What the KV cache holds, where that is less than what is asked for."""
    if d["fits"]:
        return []
    asked, most = d["workload"]["concurrency"], d["max_concurrency"]
    if most == 0:
        return [
            "Not one request fits beside the weights: the figures are those of one request per "
            "replica on a device that had the room."
        ]
    return [
        f"The KV cache does not hold {asked} requests: {most} fit, the others queue. The figures are "
        f"those of {d['running']} in flight."
    ]


class ServeResult(Placed):
    """Continuous batching of one layout in steady state."""

    ROWS = "points"
    formats = Key[Record]("Number formats of weights, activations, cache.")
    layout = Key[Record]("The layout's degrees.")
    tpot_low_s = Key[float]("Lower end of TPOT's 90 % interval [s].")
    tpot_high_s = Key[float]("Upper end of TPOT's 90 % interval [s].")
    request_s = Key[float]("From a request's arrival to its last token [s].")
    tokens_per_iteration = Key[float]("Tokens of a request per iteration (above 1 with drafts).")
    running = Key[int]("Requests in flight, of all replicas.")
    remarks = Key[list[str]]("What to know of the answer.")
    points = Key[list[Record]]("The layout and its figures, as one row.")

    def __init__(
        self, model: Model, cluster: Cluster, stack: Stack, grid: Layout, w: Serving, steady: Steady
    ) -> None:
        self._asked = (model, cluster, stack, grid, w)
        self.grid, self.steady = grid, steady

    @property
    def tpot_s(self) -> float:
        """Time per output token [s]."""
        return float(self.steady.tpot_s)

    @property
    def ttft_s(self) -> float:
        """Time to the first token, without the wait for a place [s]."""
        return float(self.steady.ttft_s)

    @property
    def queue_s(self) -> float:
        """Wait for a place [s]."""
        return float(self.steady.queue_s)

    @property
    def tokens_per_s(self) -> float:
        """Output tokens per second of all GPUs."""
        return float(self.steady.tokens_per_s)

    @property
    def tokens_per_s_per_device(self) -> float:
        """Output tokens per second of one GPU."""
        return float(self.steady.tokens_per_s_per_device)

    @property
    def requests_per_s(self) -> float:
        """Requests per second."""
        return float(self.steady.requests_per_s)

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
        return self.grid.devices

    def to_dict(self) -> dict[str, Any]:
        return serve_dict(*self._asked, self.steady)

    def page(self) -> Page:
        return serve_page(self._asked[1], self.to_dict())
