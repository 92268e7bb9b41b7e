"""Quantities with units, in and out: the only place that parses or formats them.

Inside meshwise everything is an SI float (bytes, seconds, FLOP, bytes/second, FLOP/second).
Decimal prefixes are powers of 1000 (GB/s, TFLOP/s), binary ones of 1024 (GiB). ``b`` is a bit
and ``B`` a byte, as network and GPU vendors write them.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from meshwise.errors import InputError, shorten

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_PREFIXES = _DECIMAL | _BINARY


class Kind(NamedTuple):
    """A kind of quantity: its units with their SI factors, and what a legal value looks like."""

    name: str
    units: dict[str, float]
    example: str


def _with_prefixes(prefixes: dict[str, float], *units: tuple[str, float]) -> dict[str, float]:
    return {p + unit: f * scale for unit, scale in units for p, f in prefixes.items()}


BYTES = Kind("size", _with_prefixes(_PREFIXES, ("B", 1.0)), "80 GiB or 1.6 GB")
BANDWIDTH = Kind(
    "bandwidth",
    _with_prefixes(_PREFIXES, ("B/s", 1.0), ("Bps", 1.0))
    | _with_prefixes(_DECIMAL, ("b/s", 0.125), ("bit/s", 0.125), ("bps", 0.125)),
    "25 GB/s or 200 Gb/s",
)
TIME = Kind(
    "time",
    {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9},
    "2 us",
)
RATE = Kind(
    "compute rate",
    _with_prefixes(
        {p: _DECIMAL[p] for p in "GTPEM"},
        ("FLOP/s", 1.0),
        ("FLOPS", 1.0),
        ("FLOPs", 1.0),
        ("OP/s", 1.0),
        ("OPS", 1.0),
    ),
    "312 TFLOP/s",
)
_KINDS = (BYTES, BANDWIDTH, TIME, RATE)
_QUANTITY = re.compile(r"\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S*)\s*")


def parse(text: object, kind: Kind, field: str, *, bare: bool = False) -> float:
    """``text`` ("300 GB/s") as an SI float of the given kind, positive and finite.

    ``bare`` admits a number without a unit, taken as SI. Raises :class:`InputError` that names
    the field, the value, the legal form and the nearest legal one.
    """
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise _bad(field, text, kind, f"{shorten(text)} is not a {kind.name}")
    if not isinstance(text, str) or _is_number(text):
        if bare:
            return _positive(float(text), field, text, kind)
        nearest = f"{text} {kind.example.split()[1]}"
        raise _bad(field, text, kind, f"{shorten(str(text))} has no unit", nearest)
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise _bad(field, text, kind, f"{shorten(text)!r} is not a number with a unit")
    number, unit = match.groups()
    factor = kind.units.get(unit)
    if factor is None:
        raise _wrong_unit(field, text, number, unit, kind)
    return _positive(float(number.replace("_", "")) * factor, field, text, kind)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _positive(value: float, field: str, text: object, kind: Kind) -> float:
    if not math.isfinite(value) or value <= 0:
        raise _bad(field, text, kind, f"{shorten(str(text))} is not a positive, finite {kind.name}")
    return value


def _wrong_unit(field: str, text: str, number: str, unit: str, kind: Kind) -> InputError:
    import difflib

    other = next((k.name for k in _KINDS if unit in k.units), None)
    why = f"{shorten(unit)!r} is a unit of {other}" if other else f"unit {shorten(unit)!r} is unknown"
    close = difflib.get_close_matches(unit, kind.units, n=1, cutoff=0.5)
    nearest = f"{number} {close[0]}" if close else None
    return _bad(field, text, kind, f"{shorten(text)!r} is not a {kind.name}: {why}", nearest)


def _bad(
    field: str, value: object, kind: Kind, why: str, nearest: str | None = None
) -> InputError:
    return InputError(
        f"{field}: {why}",
        field=field,
        value=value,
        legal=f"a {kind.name} with its unit, such as {kind.example}",
        nearest=nearest or kind.example.split(" or ")[0],
    )


def _scaled(value: float, unit: str, prefixes: tuple[tuple[float, str], ...], digits: int) -> str:
    for factor, prefix in prefixes:
        if abs(value) >= factor:
            return f"{_significant(value / factor, digits)} {prefix}{unit}"
    factor, prefix = prefixes[-1]
    return f"{_significant(value / factor, digits)} {prefix}{unit}"


def _significant(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    before = math.floor(math.log10(abs(value))) + 1
    if before >= digits:
        return f"{value:,.0f}"
    return f"{value:.{min(digits - before, digits + 2)}f}"


_SI = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_IEC = ((2.0**40, "Ti"), (2.0**30, "Gi"), (2.0**20, "Mi"), (2.0**10, "Ki"), (1.0, ""))
_TIMES = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


def format_time(seconds: float) -> str:
    """3 significant digits: ``9.40 ms``."""
    return _scaled(seconds, "s", _TIMES, 3)


def format_bytes(count: float) -> str:
    """Decimal bytes, as payloads are written: ``1.61 GB``."""
    return _scaled(count, "B", _SI, 3)


def format_memory(count: float) -> str:
    """Binary bytes, as device memory is written: ``80.0 GiB``."""
    return _scaled(count, "B", _IEC, 3)


def format_bandwidth(bytes_per_s: float) -> str:
    return _scaled(bytes_per_s, "B/s", _SI, 3)


def format_rate(flop_per_s: float) -> str:
    return _scaled(flop_per_s, "FLOP/s", _SI, 3)


def format_count(count: float) -> str:
    """``174.6 B`` style counts of parameters: K, M, B, T."""
    for factor, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(count) >= factor:
            return f"{_significant(count / factor, 3)}{suffix}"
    return f"{count:,.0f}"
