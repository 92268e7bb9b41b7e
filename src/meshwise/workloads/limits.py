"""Limits of latency: the longest that a mean or a percentile of requests may take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from meshwise.errors import InputError, quoted
from meshwise.strict_tables import fraction
from meshwise.units import TIME, format_time, parse_quantity

Latency = float | Mapping[str, float]  # of the mean, or by statistic: {"p95": 1.0} [s]
QUANTITIES = {"ttft": "TTFT", "tpot": "TPOT", "request": "the whole request"}
PERCENTILE_RANGE = (1.0, 99.9)
MAX_LIMIT_S = 1e6
_STATISTIC = re.compile(r"p(\d{1,3}(?:\.\d{1,3})?)")
_LEGAL = "seconds of the mean, or of percentiles from p1 to p99.9, such as"


class LatencyLimit(NamedTuple):
    """``seconds`` that the mean of a quantity (``percentile`` None), or a percentile of it over requests,
    may take at most."""

    quantity: str  # of QUANTITIES
    percentile: float | None
    seconds: float

    @property
    def statistic(self) -> str:
        """``mean``, ``p95``."""
        return "mean" if self.percentile is None else f"p{self.percentile:g}"

    @property
    def name(self) -> str:
        """``ttft``, ``ttft_p95``: the key of the figure that it bounds without its unit."""
        return self.quantity if self.percentile is None else f"{self.quantity}_{self.statistic}"

    @property
    def words(self) -> str:
        """``TTFT p95``; of the mean ``TTFT``."""
        title = QUANTITIES[self.quantity]
        return title if self.percentile is None else f"{title} {self.statistic}"

    @property
    def sentence(self) -> str:
        """``TTFT p95 at most 1.00 s``."""
        return f"{self.words} at most {format_time(self.seconds)}"


def _percentile(name: str, field: str, example: str) -> float | None:
    """Of ``p95``; None of ``mean``."""
    if name == "mean":
        return None
    found = _STATISTIC.fullmatch(name)
    low, high = PERCENTILE_RANGE
    if found is None or not low <= float(found[1]) <= high:
        nearest = None
        if found is not None:
            nearest = f"p{min(max(float(found[1]), low), high):g}"
        raise InputError(
            f"{field}: {quoted(name)} is not a percentile from p1 to p99.9"
            if name.startswith("p")
            else f"{field}: {quoted(name)} is neither mean nor a percentile",
            field=field,
            value=name,
            legal=f"{_LEGAL} {example}",
            nearest=nearest,
        )
    return float(found[1])


def limits_in_words(
    text: str, quantity: str, field: str, *, usual: str, example: str
) -> tuple[LatencyLimit, ...]:
    """Limits as an option says them: ``1s`` (of the mean), ``p95=1s``, ``p50=300ms,p95=1s``.

    :param usual: the unit that a number without one is likeliest to mean.
    :param example: of a time, for what is to be said of a wrong one.
    """
    found: dict[str, LatencyLimit] = {}
    for part in text.split(","):
        name, equals, time = part.partition("=")
        if not equals and _STATISTIC.fullmatch(part.strip()):
            raise InputError(
                f"{field}: {part.strip()} has no time",
                field=field,
                value=text,
                legal=f"{_LEGAL} {part.strip()}=1s",
            )
        if not equals:
            name, time = "mean", part
        percentile = _percentile(name.strip(), field, f"{example.split(' or ')[0]} or p95=1s")
        limit = LatencyLimit(
            quantity,
            percentile,
            parse_quantity(time.strip(), TIME._replace(example=example), field, usual=usual),
        )
        if limit.name in found:
            raise InputError(
                f"{field}: {limit.statistic} is limited twice",
                field=field,
                value=text,
                legal=f"one time for each of them, such as {field}=p50=300ms,p95=1s",
            )
        found[limit.name] = limit
    return tuple(found.values())


def limits_of(value: object, quantity: str, field: str) -> tuple[LatencyLimit, ...]:
    """Limits as a public function takes them: seconds of the mean, or seconds by statistic
    (``{"p95": 1.0}``); none of None.

    :raises InputError: for what is neither.
    """
    if value is None:
        return ()
    stated: Mapping[object, object] = value if isinstance(value, Mapping) else {"mean": value}
    found = []
    for name, seconds in stated.items():
        percentile = _percentile(str(name), field, '1.0 or {"p95": 1.0}')
        limit = fraction(seconds, field, low=0.0, high=MAX_LIMIT_S, text=False)
        if limit == 0.0:
            raise InputError(
                f"{field}: nothing is done in 0 s",
                field=field,
                value=seconds,
                legal=f"seconds above 0, at most {MAX_LIMIT_S:g}",
            )
        found.append(LatencyLimit(quantity, percentile, limit))
    return tuple(found)


def limits_by_quantity(
    ttft_s: object = None, tpot_s: object = None, request_s: object = None
) -> tuple[LatencyLimit, ...]:
    """All limits, each as :func:`limits_of` reads it."""
    asked = {"ttft": ttft_s, "tpot": tpot_s, "request": request_s}
    return tuple(
        limit for name, value in asked.items() for limit in limits_of(value, name, f"{name}_s")
    )


def refuse_without_tokens(limits: tuple[LatencyLimit, ...], osl: int) -> None:
    """Refuse a limit on the time per output token of answers that have no token after the first.

    :param osl: tokens of the longest answer.
    """
    limit = next((limit for limit in limits if limit.quantity == "tpot"), None)
    if osl > 1 or limit is None:
        return
    raise InputError(
        "tpot_s: an answer of one token has no time per output token",
        field="tpot_s",
        value=limit.seconds,
        legal="leave `tpot_s` out, or answers of 2 tokens or more",
    )
