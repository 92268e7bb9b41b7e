"""Layouts as JSON: the keys of a layout in the contract's words, of training and of serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from meshwise.layouts.layout import ORDERS, RECOMPUTE_CODE, SHARD_CODE

if TYPE_CHECKING:
    from meshwise.search.serving.plan import ServingRow
    from meshwise.search.tp_curve.smallest_mesh import SmallestFit
    from meshwise.search.training.ranking import Found
    from meshwise.search.training.rows import PlanRow

_RECOMPUTE, _SHARD = list(RECOMPUTE_CODE), list(SHARD_CODE)
AxisValue = str | bool | int  # as users name an axis' value


def axis_value(axis: str, value: int, stack_overlap: str = "none") -> AxisValue:
    """An axis' value as users name it."""
    if axis == "recompute":
        return _RECOMPUTE[value]
    if axis == "shard":
        return _SHARD[value]
    if axis == "placement":
        return "-".join(ORDERS[value])
    if axis == "sequence_parallel":
        return bool(value)
    if axis == "decomposed":
        return "decomposed" if value else stack_overlap
    return int(value)


def layout_dict(axes: dict[str, int], stack_overlap: str = "none") -> dict[str, AxisValue]:
    """The keys of a training layout, in the contract's words."""
    a = axes
    names = ("sequence_parallel", "recompute", "shard", "placement")
    return {
        **{k: a[k] for k in ("tp", "pp", "vp", "dp", "cp", "ep")},
        "etp": a["etp"] or max(1, a["tp"] // a["ep"]),
        "micro_batch": a["micro_batch"],
        **{k: axis_value(k, a[k]) for k in names},
        "overlap": axis_value("decomposed", a["decomposed"], stack_overlap),
    }


def found_dict(found: Found) -> dict[str, object]:
    """A layout of the search, with the formats that its variant frees."""
    return {**layout_dict(found.axes, found.variant.stack.overlap), **found.variant.label}


def smallest_fit_dict(fit: SmallestFit) -> dict[str, object]:
    """The mesh of the fewest devices on which one replica fits: bytes, seconds."""
    return {
        "tp": fit.tp,
        "pp": fit.pp,
        "vp": 1,
        "dp": 1,
        "cp": 1,
        "ep": 1,
        "etp": fit.tp,
        "micro_batch": fit.micro_batch,
        "sequence_parallel": fit.sequence_parallel,
        "recompute": fit.recompute,
        "shard": "none",
        "placement": "-".join(ORDERS[0]),
        "devices": fit.devices,
        "memory_bytes": fit.memory_bytes,
        "step_s": fit.step_s,
        "within_cluster": fit.within_cluster,
    }


def pins_dict(pins: Mapping[str, Sequence[int]]) -> dict[str, list[AxisValue]]:
    """Axes that were given, each with its values."""
    return {axis_key(k): [axis_value(k, v) for v in values] for k, values in pins.items()}


def axis_key(axis: str) -> str:
    """An axis of the search as JSON calls it."""
    return "overlap" if axis == "decomposed" else axis


def serving_layout_dict(axes: dict[str, int]) -> dict[str, object]:
    """The keys of a serving layout, those of training at their simplest."""
    return {
        "tp": axes["tp"],
        "pp": axes["pp"],
        "vp": 1,
        "dp": axes["dp"],
        "cp": 1,
        "ep": axes["ep"],
        "etp": axes["etp"] or max(1, axes["tp"] // axes["ep"]),
        "dcp": axes["dcp"],
        "micro_batch": None,
        "sequence_parallel": False,
        "recompute": "none",
        "shard": "none",
        "placement": "-".join(ORDERS[0]),
    }


# -- layouts with their figures --------------------------------------------------------------------

_FIGURES = (
    *("devices", "step_s", "step_low_s", "step_high_s", "compute_s", "comm_s", "exposed_comm_s"),
    *("bubble_s", "host_s", "mfu", "tokens_per_s", "tokens_per_s_per_device", "memory_bytes"),
    *("fits", "tie", "difference_s"),
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


def serving_row(r: ServingRow, price: float | None = None) -> dict[str, object]:
    """One serving layout at its concurrency [s, bytes]; ``price`` in dollars per device hour."""
    return {
        **serving_layout_dict(r.axes),
        "step_s": r.tpot_s,
        "step_low_s": r.tpot_low_s,
        "step_high_s": r.tpot_high_s,
        "mfu": None,
        **{k: v for k, v in r._asdict().items() if k != "axes"},
        **token_price(price, r.devices, r.tokens_per_s),
    }


def token_price(price: float | None, devices: int, tokens_per_s: float) -> dict[str, float]:
    """Dollars per million tokens at a price per device hour; nothing where there is none."""
    if price is None or tokens_per_s <= 0:
        return {}
    return {"dollars_per_million_tokens": price * devices / 3600.0 / tokens_per_s * 1e6}
