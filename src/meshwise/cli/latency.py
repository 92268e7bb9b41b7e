"""Limits of latency as options: the longest that a mean or a percentile of requests may take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from meshwise.cli import options
from meshwise.cli.given import Given, option_of

if TYPE_CHECKING:
    from meshwise.workloads.limits import LatencyLimit

# parameter → the quantity that it limits, and what people wait for it
LIMITED = {
    "ttft": ("ttft", "500 ms or 2 s"),
    "tpot": ("tpot", "50 ms"),
    "e2e": ("request", "20 s"),
}
_OF = "of the mean, or p95=TIME, p50=TIME,p99=TIME …"
latency_options = options.stacked(
    click.option(
        "--ttft", metavar="[pN=]TIME", help=f"Serving: the longest time to first token, {_OF}"
    ),
    click.option(
        "--tpot",
        metavar="[pN=]TIME",
        help="Serving: the longest time per output token of a request, likewise.",
    ),
    click.option(
        "--e2e",
        "--request-latency",
        "e2e",
        metavar="[pN=]TIME",
        help="Serving: the longest time of a whole request, likewise.",
    ),
)


def latency_limits(o: Given) -> dict[str, tuple[LatencyLimit, ...]]:
    """Limits by parameter, those that are given."""
    from meshwise.workloads.limits import limits_in_words

    return {
        name: limits_in_words(
            o.word(name),
            quantity,
            option_of(name),
            usual=_unit(name, o.word(name)),
            example=example,
        )
        for name, (quantity, example) in LIMITED.items()
        if o.has(name)
    }


def by_statistic(o: Given) -> dict[str, dict[str, float]]:
    """The same as public functions take them: ``{"ttft_s": {"p95": 1.0}}`` [s]."""
    return {
        f"{LIMITED[name][0]}_s": {limit.statistic: limit.seconds for limit in limits}
        for name, limits in latency_limits(o).items()
    }


def _unit(name: str, text: str) -> str:
    """The unit of a latency that people wait for, where they leave it out: 500 is ms, 0.5 is s, and so
    is a first token's 2, or what a request takes."""
    digits = text.rpartition("=")[2].strip()
    short = (name == "ttft" and len(digits) == 1) or (name == "e2e" and len(digits) < 4)
    return "s" if short or digits.lstrip("0").startswith(".") else "ms"
