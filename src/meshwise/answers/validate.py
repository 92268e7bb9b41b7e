"""What ``validate`` shows: a summary by quantity and source, the rows furthest off, the unreadable."""

from __future__ import annotations

from typing import Any

from meshwise.answers import first_line
from meshwise.answers.pages import wrap
from meshwise.answers.text.tables import Page, Table
from meshwise.evidence.validate import Result
from meshwise.units import format_memory, format_time

_SHOWN_REASONS = 12


def _value(quantity: str, value: float | None) -> str:
    if value is None:
        return "-"
    if quantity == "memory_bytes":
        return format_memory(value)
    return format_time(value) if quantity.endswith("_s") else f"{value:g}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def summary_tables(summary: dict[str, Any]) -> list[Table | str]:
    """One row per quantity, then one per source of each."""
    numbers = {q: s for q, s in summary.items() if "median_abs_error" in s}
    parts: list[Table | str] = []
    if numbers:
        parts.append(
            Table(
                "Errors (predicted / measured − 1)",
                (
                    "quantity",
                    "rows",
                    "median |e|",
                    "mean |e|",
                    "p90 |e|",
                    "max |e|",
                    "bias",
                    "in interval",
                    "baseline",
                ),
                tuple(
                    (
                        q,
                        str(s["n"]),
                        *(
                            _percent(s[k])
                            for k in (
                                "median_abs_error",
                                "mean_abs_error",
                                "p90_abs_error",
                                "max_abs_error",
                            )
                        ),
                        f"{100 * s['bias']:+.1f}%",
                        f"{100 * s['coverage']:.0f}%",
                        _percent(s["baselines"]["constant"]["median_abs_error"]),
                    )
                    for q, s in numbers.items()
                ),
            )
        )
    for q, s in numbers.items():
        parts.append(
            Table(
                f"{q} by source",
                ("source", "rows", "median |e|", "bias"),
                tuple(
                    (name, str(v["n"]), _percent(v["median_abs_error"]), f"{100 * v['bias']:+.1f}%")
                    for name, v in s["by_source"].items()
                ),
            )
        )
    for q, s in numbers.items():
        if "constant_mfu" in s["baselines"]:
            flat = s["baselines"]["constant_mfu"]
            parts.append(
                f"A constant MFU of {100 * flat['mfu']:.1f}% scores {_percent(flat['median_abs_error'])} "
                f"median, {_percent(flat['p90_abs_error'])} p90 on {q}."
            )
        if "tp_doubling" in s:
            steps = s["tp_doubling"]
            flat = steps["baselines"]["constant_factor"]
            parts.append(
                f"Speed-up of {steps['n']} TP doublings of {q}: mean |e| "
                f"{_percent(steps['mean_abs_error'])}, median {_percent(steps['median_abs_error'])}; "
                f"constant factors score {_percent(flat['mean_abs_error'])}."
            )
    if "fits" in summary:
        s = summary["fits"]
        parts.append(f"Out of memory: {s['n'] - s['wrong']} of {s['n']} such rows predicted so.")
    return parts


def _stood_in(results: list[Result]) -> list[Table | str]:
    """How many rows were priced as other software than they name."""
    rows = {r.line: a.value for r in results for a in r.assumed if a.field == "stack"}
    if not rows:
        return []
    names = list(rows.values())
    priced = " and ".join(f"{names.count(n)} as {n}" for n in dict.fromkeys(names))
    some = "1 row names" if len(rows) == 1 else f"{len(rows)} rows name"
    return [
        wrap(
            f"{some} software that the catalog does not know: priced {priced}, within the spread of "
            "all software too."
        )
    ]


def validate_page(
    kind: str, name: str, results: list[Result], summary: dict[str, Any], worst: int
) -> Page:
    parts = [*summary_tables(summary), *_stood_in(results)]
    scored = sorted((r for r in results if r.error is not None), key=lambda r: -abs(r.error or 0.0))
    if worst and scored:
        parts.append(
            Table(
                f"The {min(worst, len(scored))} rows furthest off",
                ("id", "quantity", "measured", "predicted", "error", "90% interval"),
                tuple(
                    (
                        r.id,
                        r.quantity,
                        _value(r.quantity, r.measured),
                        _value(r.quantity, r.predicted),
                        f"{100 * (r.error or 0.0):+.1f}%",
                        f"{_value(r.quantity, r.low)} – {_value(r.quantity, r.high)}"
                        + ("" if r.inside else " (outside)"),
                    )
                    for r in scored[:worst]
                ),
                frozenset({0, 1}),
                ("quantity", "measured", "predicted", "error"),
            )
        )
    for status in ("unsupported", "invalid"):
        reasons: dict[str, int] = {}
        for r in results:
            if r.status == status:
                reasons[r.reason] = reasons.get(r.reason, 0) + 1
        if reasons:
            lines = [
                f"{n} × {why}" if n > 1 else why
                for why, n in list(reasons.items())[:_SHOWN_REASONS]
            ]
            if len(reasons) > _SHOWN_REASONS:
                lines.append(
                    f"… and {len(reasons) - _SHOWN_REASONS} other reasons (--json has all)"
                )
            parts.append(
                f"{status.capitalize()} rows: {sum(reasons.values())}\n"
                + "\n".join(map(wrap, lines))
            )
    answer = first_line.validated(summary, len(results))
    return Page(f"{name}: {kind}, {len(results)} results", tuple(parts), answer)
