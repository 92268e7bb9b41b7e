"""Layouts with their figures, as rows of JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshwise.answers.simulated import latency_keys
from meshwise.search.serving.runs.trial import figure_s

if TYPE_CHECKING:
    from meshwise.search.serving.plan import Good, ServingRow
    from meshwise.search.tp_curve.smallest_mesh import SmallestFit
    from meshwise.search.training.ranking import Found
    from meshwise.search.training.rows import PlanRow
    from meshwise.stacks.stack import Stack
    from meshwise.workloads.limits import LatencyLimit


def found_dict(found: Found) -> dict[str, object]:
    """A layout of the search, with the formats that its variant frees."""
    return {**found.layout.record(found.variant.stack.overlaps.overlap), **found.variant.label}


def smallest_fit_dict(fit: SmallestFit, stack: Stack) -> dict[str, object]:
    """The mesh of the fewest devices on which one replica fits: bytes, seconds."""
    named = ("devices", "memory_bytes", "step_s", "within_cluster")
    return {
        **fit.layout.record(stack.overlaps.overlap),
        **{key: getattr(fit, key) for key in named},
    }


_FIGURES = (
    *("devices", "step_s", "step_low_s", "step_high_s", "compute_s", "comm_s", "exposed_comm_s"),
    *("bubble_s", "host_s", "mfu", "tokens_per_s", "tokens_per_s_per_device", "memory_bytes"),
    *("fits", "tight", "tie", "difference_s"),
)


def training_row(r: PlanRow, price: float | None = None) -> dict[str, object]:
    """One training layout: its axes and its figures [s, bytes]; ``price`` in dollars per device hour."""
    figures: dict[str, object] = {name: getattr(r, name) for name in _FIGURES}
    figures["comm_share"] = r.exposed_comm_s / r.step_s
    figures["exposed_comm_by_axis_s"] = {k: v for k, v in r.exposed_by_axis.items() if v}
    if price is not None:
        figures["dollars_per_step"] = price * r.devices * r.step_s / 3600.0
        figures["dollars_per_billion_tokens"] = price * r.devices / 3600.0 / r.tokens_per_s * 1e9
    return found_dict(r.found) | figures


def serving_row(
    r: ServingRow, price: float | None = None, limits: tuple[LatencyLimit, ...] = ()
) -> dict[str, object]:
    """One serving layout at its concurrency [s, bytes]; ``price`` in dollars per device hour. Of a simulated
    one the percentiles, those of ``limits`` too, and what is within these."""
    figures = {k: v for k, v in r._asdict().items() if k not in ("layout", "run", "good")}
    found: dict[str, object] = {
        **r.layout.record(),
        "step_s": r.tpot_s,
        "step_low_s": r.tpot_low_s,
        "step_high_s": r.tpot_high_s,
        "mfu": None,
        **figures,
        **token_price(price, r.devices, r.tokens_per_s),
        "simulated": r.run is not None,
        "request_rate": None,
    }
    if r.run is not None:
        found["request_rate"] = None if r.run.arrivals is None else r.run.arrivals.stated_rate
        found |= latency_keys(r.run.steady)
        found |= {f"{limit.name}_s": figure_s(r.run.steady, limit) for limit in limits}
    return found | goodput_keys(r.good, r.requests_per_s, r.tokens_per_s, r.devices)


def goodput_keys(
    good: Good | None, requests_per_s: float, tokens_per_s: float, devices: int
) -> dict[str, float]:
    """Requests and output tokens per second within the limits, of all devices and of each; nothing where
    nothing is limited."""
    if good is None:
        return {}
    requests, tokens = requests_per_s * good.requests, tokens_per_s * good.tokens
    return {
        "good_share": good.requests,
        "goodput_requests_per_s": requests,
        "goodput_tokens_per_s": tokens,
        "goodput_requests_per_s_per_device": requests / devices,
        "goodput_tokens_per_s_per_device": tokens / devices,
    }


def token_price(price: float | None, devices: int, tokens_per_s: float) -> dict[str, float]:
    """Dollars per million tokens at a price per device hour; nothing where there is none."""
    if price is None or tokens_per_s <= 0:
        return {}
    return {"dollars_per_million_tokens": price * devices / 3600.0 / tokens_per_s * 1e6}
