"""Loads and limits of latency in words: what is asked, what binds, what comes nearest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from meshwise.answers.simulated import cap_words
from meshwise.answers.text import words
from meshwise.answers.text.serving import serving_mesh_words
from meshwise.search.serving.plan import ServingPlan, ServingRow
from meshwise.search.serving.runs.binding import Miss, ServingBinding
from meshwise.search.serving.runs.trial import Trial, figure_s
from meshwise.simulate.loads.arrivals import Arrivals
from meshwise.simulate.outcome import Figures
from meshwise.units import format_gpus, format_time
from meshwise.workloads.limits import LatencyLimit

if TYPE_CHECKING:
    from meshwise.search.serving.question import ServingAnswer, ServingAsked


def arrivals_words(arrivals: Arrivals) -> str:
    """``40 requests/s (poisson)``."""
    if arrivals.trace is not None:
        rate = arrivals.stated_rate
        at = "all at once" if rate is None else f"{rate:.3g} requests/s"
        return f"the requests of {arrivals.trace.name} ({at})"
    return f"{arrivals.rate:g} requests/s ({arrivals.words})"


def length_words(isl: str, osl: str, arrivals: Arrivals | None) -> str:
    """``1,024 tokens in, 128 out``; of a trace its means."""
    if arrivals is None or arrivals.trace is None:
        return f"{isl} tokens in, {osl} out"
    tokens_in, tokens_out = (
        sum(lengths) / len(lengths) for lengths in (arrivals.trace.prompt, arrivals.trace.answer)
    )
    return f"{tokens_in:,.0f} tokens in and {tokens_out:,.0f} out in the mean"


def short_load_words(arrivals: Arrivals | None, concurrency: int) -> str:
    """``64 in flight``, ``40 requests/s``, ``day.csv``."""
    if arrivals is None:
        return f"{concurrency:,} in flight"
    return f"{arrivals.rate:g} requests/s" if arrivals.trace is None else arrivals.trace.name


def asked_words(asked: ServingAsked, plan: ServingPlan) -> str:
    """The load and its limits; of limits alone these."""
    load, concurrency = "", plan.workload.concurrency
    cap = next((r.run.cap for r in plan.rows[:1] if r.run is not None), None)
    if asked.fixed or not asked.limits:
        arrivals = asked.sent.arrivals
        load = (
            f"{concurrency:,} requests in flight"
            if arrivals is None
            else f"{arrivals_words(arrivals)}{cap_words(cap)}"
        )
    said = [limit.sentence for limit in asked.limits]
    limits = f"{', '.join(said[:-1])} and {said[-1]}" if len(said) > 1 else "".join(said)
    if not limits:
        return load
    return f"{load}, {limits}" if load else limits


def limited_words(row: ServingRow, limits: tuple[LatencyLimit, ...]) -> list[str]:
    """``TTFT p95 812 ms`` of each limited percentile of a simulated row."""
    if row.run is None:
        return []
    figures = row.run.steady
    return [
        f"{limit.words} {format_time(figure_s(figures, limit))}"
        for limit in limits
        if limit.percentile is not None or limit.quantity == "request"
    ]


def goodput_words(row: ServingRow) -> str:
    """Requests and tokens within the limits, per second and GPU; empty where nothing is limited."""
    if row.good is None:
        return ""
    requests = row.requests_per_s * row.good.requests / row.devices
    tokens = row.tokens_per_s * row.good.tokens / row.devices
    return f"goodput per GPU {requests:.3g} requests/s and {words.rate_words(tokens)} tokens/s"


def _beyond(m: Miss) -> str:
    """``12%``; of several times ``3.4 ×``."""
    return words.percent(m.factor - 1.0) if m.factor < 2.0 else f"{m.factor - 1.0:.1f} ×"


def _load_words(t: Trial) -> str:
    return short_load_words(t.run.arrivals, t.concurrency)


def _miss_words(m: Miss) -> str:
    return (
        f"{m.limit.words} {format_time(m.figure_s)} where {format_time(m.limit.seconds)} is allowed "
        f"({_beyond(m)} beyond)"
    )


def binding_words(b: ServingBinding | None, fixed: bool) -> str:
    """What keeps the best from more load, or from fewer GPUs."""
    if b is None:
        return ""
    if b.code == "memory":
        return "Memory binds: the weights and one request fit on no fewer GPUs."
    if b.trial is None:
        return "The KV cache binds: it holds no more requests."
    if fixed:
        where = (
            f"With {serving_mesh_words(b.trial.layout)} on {format_gpus(b.trial.layout.devices)}"
        )
    else:
        where = f"At {_load_words(b.trial)}"
    if b.miss is None:
        return (
            f"Saturation binds: {where[0].lower()}{where[1:]} more requests arrive than are served."
        )
    names = {"kv_cache": "The KV cache binds, in which requests wait for a place"}
    head = names.get(b.code, f"The limit on {b.miss.limit.words} binds")
    return (
        f"{head}: {where[0].lower()}{where[1:]} {b.miss.limit.words} is {format_time(b.miss.figure_s)}, "
        f"{_beyond(b.miss)} beyond it."
    )


def nearest_words(a: ServingAnswer) -> list[str]:
    """Where nothing meets the limits: what comes nearest, what it misses and by how much."""
    if a.nearest is None:
        return []
    row, trial = a.nearest
    mesh = f"{serving_mesh_words(row.layout)} on {format_gpus(row.devices)}"
    said = []
    if trial.most_per_s is not None:
        said.append(
            f"Arrivals exceed {trial.most_per_s:.3g} requests/s, the most that {mesh} serves; the queue "
            "grows without bound."
        )
    if a.misses:
        said.append(
            f"Nearest: {mesh}: {'; '.join(_miss_words(m) for m in a.misses)} "
            f"({_load_words(trial)}, {row.tokens_per_s_per_device:,.1f} tokens/s per GPU)."
        )
    if a.binds is not None and a.binds.code == "gpus" and a.changes:
        more = a.changes[0].row
        said.append(
            f"The cluster's size binds: {serving_mesh_words(more.layout)} on {format_gpus(more.devices)} "
            "serves it within the limits."
        )
    return said


def kept_rows(
    figures: Figures, limits: tuple[LatencyLimit, ...], d: Mapping[str, object]
) -> list[tuple[str, str]]:
    """Each limit with its figure; of a record what is within all of them, and what it costs."""
    rows = []
    for limit in limits:
        figure = figure_s(figures, limit)
        kept = "kept" if figure <= limit.seconds else "missed"
        rows.append((limit.sentence, f"{format_time(figure)}, {kept}"))
    shown = (
        ("good_share", "requests within the limits", words.percent),
        ("goodput_requests_per_s", "goodput, requests/s", "{:,.3g}".format),
        ("goodput_tokens_per_s_per_device", "goodput, output tokens/s per GPU", "{:,.1f}".format),
        ("dollars_per_million_tokens", "$ per 1M output tokens", "{:,.2f}".format),
    )
    for key, title, written in shown:
        value = d.get(key)
        if isinstance(value, float):
            rows.append((title, written(value)))
    return rows


def better_words(a: ServingPlan, other: ServingRow) -> str:
    """``other`` beside the best, like beside like: by averages where it was not simulated."""
    best, how = a.rows[0], ""
    if best.run is not None and other.run is None:
        best, how = a.averaged or best, " by averages"
    share = 1.0 - other.tokens_per_s_per_device / best.tokens_per_s_per_device
    said = f"{words.signed(-share)} tokens/s/GPU"
    if best.tpot_s > 0.0 and other.tpot_s > 0.0:
        said += f", {words.signed(other.tpot_s / best.tpot_s - 1.0)} TPOT"
    return f"{said}{how}"
