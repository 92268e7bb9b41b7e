"""Figures in words, for first lines and pages. No arithmetic on costs is here."""

from __future__ import annotations

from collections.abc import Iterable

from meshwise.units import format_memory, format_time

PER = {"train": "step", "prefill": "prompt", "decode": "token"}


def first_line(parts: Iterable[str]) -> str:
    """The parts of a first line: ``TP 8 · 21.7 ms/token (19–25) · fits``."""
    return " · ".join(part for part in parts if part)


def percent(share: float) -> str:
    """Two digits, and one decimal below 10 %."""
    return f"{share:.0%}" if share >= 0.0995 else f"{share:.1%}"


def percent_against(share: float, threshold: float) -> str:
    """A share in as many digits as it takes to stand on its side of the threshold."""
    text = percent(share)
    for digits in range(1, 12):
        if (round(float(text[:-1]), 12) >= round(100 * threshold, 12)) == (share >= threshold):
            break
        text = f"{share:.{digits}%}"
    return text


def interval(value: float, low: float, high: float) -> str:
    """The ends of a value's interval relative to it: ``-12/+18%``."""
    if value <= 0 or low == high:
        return "-"
    return f"{100 * (low / value - 1):.0f}/{100 * (high / value - 1):+.0f}%"


def interval_row(value: float, low: float, high: float) -> list[tuple[str, str]]:
    """The ends of a value's interval as a row; none where it is a definition's."""
    if low == value == high or value <= 0.0:
        return []
    return [("  90% interval", f"{format_time(low)} – {format_time(high)}")]


def time_words(value: float, low: float, high: float, per: str = "") -> str:
    """``21.7 ms/token (19–25)``: a time, and the ends of its 90 % interval in its unit."""
    text = format_time(value)
    said = text + (f"/{per}" if per else "")
    if value <= 0.0 or low == high:
        return said
    unit = value / float(text.split()[0].replace(",", ""))
    return f"{said} ({_digits(low / unit)}–{_digits(high / unit)})"


def pace(value: float) -> str:
    """A time per output token; of answers of one token there is none."""
    return format_time(value) if value > 0.0 else "none"


def pace_words(value: float, low: float, high: float) -> str:
    """``TPOT 21.7 ms (19–25)``."""
    return f"TPOT {time_words(value, low, high)}" if value > 0.0 else "no TPOT"


def _digits(value: float) -> str:
    """Two significant digits, or all before the point."""
    return f"{value:,.0f}" if value >= 9.95 else f"{value:#.2g}"


def rate_words(value: float) -> str:
    """Whole tokens, or as many digits as small rates need."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}"


def memory_words(held: float, usable: float, fits: bool, tight: bool) -> str:
    """Whether it fits, and by how much it does not; ``tight``: within the memory's error of the limit."""
    if fits:
        return "fits" + ", tight" * tight
    said = f"does NOT fit: {format_memory(held)} of {format_memory(usable)} per GPU"
    return said + ", which is tight" * tight


def communication_words(share: float) -> str:
    """Exposed communication's share of a step."""
    return f"communication {percent(share)}" if share > 0.0 else "no communication"


def signed(share: float) -> str:
    """``+12%``, ``−3.0%``."""
    return f"{'+' if share >= 0 else '−'}{percent(abs(share))}"
