"""Quantities with units, in and out: the only place that parses or formats them.

Inside meshwise everything is an SI float (bytes, seconds, FLOP, bytes/second, FLOP/second).
Decimal prefixes are powers of 1000 (GB/s, TFLOP/s), binary ones of 1024 (GiB). ``b`` is a bit
and ``B`` a byte, as network and GPU vendors write them.
"""

from __future__ import annotations

import math
import numbers
import re
from typing import NamedTuple

from meshwise.errors import InputError, quoted

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50}
_PREFIXES = _DECIMAL | _BINARY


class QuantityKind(NamedTuple):
    """A kind of quantity: its units with their SI factors, what a legal value looks like, and the
    range of it: wide of every device, narrow enough that no product of such figures overflows."""

    name: str
    units: dict[str, float]
    example: str
    low: float
    high: float


def _with_prefixes(prefixes: dict[str, float], *units: tuple[str, float]) -> dict[str, float]:
    return {p + unit: f * scale for unit, scale in units for p, f in prefixes.items()}


BYTES = QuantityKind("size", _with_prefixes(_PREFIXES, ("B", 1.0)), "1.6 GB or 80 GiB", 1.0, 1e18)
BANDWIDTH = QuantityKind(
    "bandwidth",
    _with_prefixes(_PREFIXES, ("B/s", 1.0), ("Bps", 1.0))
    | _with_prefixes(_DECIMAL, ("b/s", 0.125), ("bit/s", 0.125), ("bps", 0.125)),
    "25 GB/s or 200 Gb/s",
    1e3,
    1e18,
)
TIME = QuantityKind(
    "time",
    {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9},
    "2 us",
    1e-12,
    1e4,
)
RATE = QuantityKind(
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
    1e6,
    1e21,
)
_KINDS = (BYTES, BANDWIDTH, TIME, RATE)
_THOUSANDS = re.compile(r"^\s*\d{1,3}(?:,\d{3})+(?![\d,])")
_QUANTITY = re.compile(r"\s*([+-]?(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S*)\s*")


def parse_quantity(
    text: object, kind: QuantityKind, field: str, *, bare: bool = False, usual: str | None = None
) -> float:
    """``text`` ("300 GB/s") as an SI float of the given kind, positive and in its range.

    ``bare`` admits a number without a unit, taken as SI; ``usual`` is the unit that a number without one
    is likeliest to mean here. Raises :class:`InputError` that names
    the field, the value, the legal form and the nearest legal one.
    """
    if isinstance(text, numbers.Real) and not isinstance(text, (bool, int, float)):
        text = float(text)  # numpy's
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise _bad(field, text, kind, f"{quoted(text)} is not a {kind.name}")
    plain: str | float = text
    if isinstance(text, str):  # 1,048,576 as people write it
        plain = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    if not isinstance(plain, str) or _is_number(plain):
        unit = usual or kind.example.split()[1]
        if bare:
            return _in_range(_number(plain), field, text, kind, unit)
        sane = 1e-3 <= _number(plain) <= 1e6
        nearest = f"{str(plain).strip()} {unit}" if sane else None
        raise _bad(field, text, kind, f"{quoted(text)} has no unit", nearest)
    match = _QUANTITY.fullmatch(plain)
    if match is None:
        comma = _QUANTITY.fullmatch(plain.replace(",", ".", 1))  # "1,6 GB"
        nearest = " ".join(comma.groups()) if comma and comma[2] in kind.units else None
        raise _bad(field, text, kind, f"{quoted(text)} is not a number with a unit", nearest)
    number, unit = match.groups()
    factor = kind.units.get(unit)
    if factor is None:
        raise _wrong_unit(field, plain, number, unit, kind)
    return _in_range(float(number) * factor, field, text, kind)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(value: str | float) -> float:
    try:
        return float(value)
    except OverflowError:  # an int of more than 308 digits
        return math.inf


def _in_range(
    value: float, field: str, text: object, kind: QuantityKind, usual: str | None = None
) -> float:
    """The value, if it is one; ``usual``: the unit that a number without one may have meant."""
    if kind.low <= value <= kind.high:
        return value
    unit = kind.example.split()[1]
    if not value > 0 or value == math.inf:
        why = f"is not a positive, finite {kind.name}"
    else:
        low = value < kind.low
        bound = (kind.low if low else kind.high) / kind.units[unit]
        why = f"is {'below' if low else 'above'} {bound:g} {unit}, no {kind.name} that exists"
    meant = usual is not None and kind.low <= value * kind.units[usual] <= kind.high
    nearest = f"{str(text).strip()} {usual}" if meant else None
    raise _bad(field, text, kind, f"{quoted(text)} {why}", nearest)


def _wrong_unit(field: str, text: str, number: str, unit: str, kind: QuantityKind) -> InputError:
    import difflib

    other = next((k.name for k in _KINDS if unit in k.units), None)
    if unit == "":
        why = "has no unit"
    elif other:
        why = f"is not a {kind.name}: {quoted(unit)} is a unit of {other}"
    else:
        why = f"is not a {kind.name}: unit {quoted(unit)} is unknown"
    low = unit[:20].lower()  # "gb/s", "GB" for "GB/s", "GBs", "GB/s" for "GB"
    meant = (low, low + "/s", low.removesuffix("/s"), low.removesuffix("s") + "/s")
    close = next((u for u in kind.units if u.lower() in meant), None)
    if close is None and other is None:
        close = next(iter(difflib.get_close_matches(unit[:20], kind.units, n=1, cutoff=0.6)), None)
    sane = close is not None and 0 < float(number) < 1e15
    nearest = f"{number} {close}" if sane else None
    return _bad(field, text, kind, f"{quoted(text)} {why}", nearest)


def _bad(
    field: str, value: object, kind: QuantityKind, why: str, nearest: str | None = None
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
        if abs(value) >= factor * 0.9995:  # what rounds to 1000 of a prefix is 1 of the next
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


def format_flops(count: float) -> str:
    return _scaled(count, "FLOP", _SI, 3)


def format_count(count: float) -> str:
    """``174.6 B`` style counts of parameters: K, M, B, T."""
    for factor, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(count) >= factor:
            return f"{_significant(count / factor, 3)}{suffix}"
    return f"{count:,.0f}"
