"""Strict reading of hand-written tables: every key known, every value of its kind."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Iterable
from typing import Any

from meshwise.errors import InputError, closest, quoted, shorten

MAX_COUNT = 10**7  # ranks, sequences, tokens: far above any cluster, far below float trouble


def check_keys(table: dict[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse a key that is not ``known``, with the closest one."""
    names = list(known)
    for key in table:
        if key not in names:
            close = closest(key, names)
            raise InputError(
                f"{where}: unknown key {shorten(key)!r}",
                field=f"{where}.{shorten(key)}",
                value=table[key],
                legal=names,
                nearest=close[0] if close else None,
            )


def count(
    value: object,
    field: str,
    *,
    low: int = 1,
    high: int = MAX_COUNT,
    what: str = "a whole number",
    text: bool = True,
) -> int:
    """``value`` as an int in [low, high]; with ``text`` a string of digits too, as a command line
    gives them."""
    legal = f"{what} from {low} to {high}"
    number: float | None = None
    if isinstance(value, bool):
        pass
    elif isinstance(value, (int, float)):
        number = value
    elif isinstance(value, numbers.Real):  # numpy's too
        number = int(value) if isinstance(value, numbers.Integral) else float(value)
    elif isinstance(value, str) and text:
        try:
            number = int(value)
        except ValueError:
            try:
                number = float(value)
            except ValueError:
                number = None
    if number is None:
        raise InputError(
            f"{field}: {quoted(value)} is not {what}",
            field=field,
            value=value,
            legal=legal,
            nearest=_meant(value, low, high),
        )
    if isinstance(number, float) and not math.isfinite(number):
        raise InputError(
            f"{field}={shorten(value)} is not {what}",
            field=field,
            value=value,
            legal=legal,
            nearest=high if number > 0 else low,
        )
    nearest = min(max(low, round(number)), high)
    if number != nearest:
        why = (
            f"below {low}" if number < low else f"above {high}" if number > high else f"not {what}"
        )
        raise InputError(
            f"{field}={shorten(value)} is {why}",
            field=field,
            value=value,
            legal=legal,
            nearest=nearest,
        )
    return nearest


def _meant(value: object, low: int, high: int) -> int:
    """The number that a text which is none comes nearest to: ``4,096``, ``8k``, ``16 GPUs``."""
    found = re.match(r"\s*(\d{1,3}(?:[,' ]\d{3})+|\d{1,12}(?:\.\d+)?\s?[kKmM]?)", str(value))
    if found is None:
        return low
    digits = as_digits(re.sub(r"[,' ]", "", found.group(1)))
    return min(max(low, round(float(digits))), high) if digits[-1].isdigit() else low


_THOUSANDS = re.compile(r"\d{1,3}(,\d{3})+")


def as_digits(text: str) -> str:
    """``4k``, ``128K``, ``1M`` as digits: lengths are named by powers of 1024; ``8,192`` too.
    Any other text is left for :func:`count` to read or to refuse."""
    if _THOUSANDS.fullmatch(text.strip()):
        return text.strip().replace(",", "")
    number, power = text.strip()[:-1], {"k": 1024, "m": 1024**2}.get(text.strip()[-1:].lower())
    if power is None or not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", number):
        return text
    whole = float(number) * power
    return str(int(whole)) if whole == int(whole) else text


def fraction(value: object, field: str, *, low: float, high: float, text: bool = True) -> float:
    """``value`` as a finite float in [low, high]; with ``text`` as a command line gives it too."""
    legal = f"a number from {low:g} to {high:g}"
    number = math.nan
    if not isinstance(value, bool) and isinstance(
        value, (numbers.Real, str) if text else numbers.Real
    ):
        try:
            number = float(value)
        except ValueError:
            pass
        except OverflowError:  # an int of more than 308 digits
            number = math.inf if value > 0 else -math.inf  # type: ignore[operator]
    if not low <= number <= high:
        nearest = None if math.isnan(number) else min(max(number, low), high)
        if math.isnan(number):
            why = "not a number"
        else:
            why = f"below {low:g}" if number < low else f"above {high:g}"
        raise InputError(
            f"{field}: {quoted(value)} is {why}",
            field=field,
            value=value,
            legal=legal,
            nearest=nearest,
        )
    return number


def one_of(value: object, field: str, legal: Iterable[str]) -> str:
    """``value`` if it is one of ``legal``."""
    names = tuple(legal)
    if isinstance(value, str) and value in names:
        return value
    close = closest(value, names) if isinstance(value, str) else []
    raise InputError(
        f"{field}: {quoted(value)} is not known",
        field=field,
        value=value,
        legal=names,
        nearest=close[0] if close else None,
    )
