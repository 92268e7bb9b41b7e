"""Strict reading of hand-written tables: every key known, every value of its kind."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any

from meshwise.errors import InputError, shorten

MAX_COUNT = 10**7  # ranks, sequences, tokens: far above any cluster, far below float trouble


def check_keys(table: dict[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse a key that is not ``known``, with the closest one."""
    names = list(known)
    for key in table:
        if key not in names:
            close = difflib.get_close_matches(key, names, n=1, cutoff=0.4)
            raise InputError(
                f"{where}: unknown key {shorten(key)!r}",
                field=f"{where}.{shorten(key)}",
                value=table[key],
                legal=names,
                nearest=close[0] if close else None,
            )


def count(
    value: object, field: str, *, low: int = 1, high: int = MAX_COUNT, what: str = "a whole number"
) -> int:
    """``value`` as an int in [low, high]; strings of digits are what a command line gives."""
    legal = f"{what} from {low} to {high}"
    number: float | None = None
    if isinstance(value, bool):
        pass
    elif isinstance(value, (int, float)):
        number = value
    elif isinstance(value, str):
        try:
            number = int(value)
        except ValueError:
            try:
                number = float(value)
            except ValueError:
                number = None
    if number is None:
        raise InputError(
            f"{field}: {shorten(value)!r} is not {what}",
            field=field,
            value=value,
            legal=legal,
            nearest=low,
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
        raise InputError(
            f"{field}={shorten(value)} is not {legal}",
            field=field,
            value=value,
            legal=legal,
            nearest=nearest,
        )
    return nearest


def fraction(value: object, field: str, *, low: float, high: float) -> float:
    """``value`` as a finite float in [low, high]."""
    legal = f"a number from {low:g} to {high:g}"
    try:
        number = float(value) if not isinstance(value, bool) else math.nan  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not low <= number <= high:
        nearest = None if math.isnan(number) else min(max(number, low), high)
        raise InputError(
            f"{field}={shorten(value)} is not {legal}",
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
    close = difflib.get_close_matches(str(value).lower(), names, n=1, cutoff=0.0)
    raise InputError(
        f"{field}: {shorten(value)!r} is not known",
        field=field,
        value=value,
        legal=names,
        nearest=close[0] if close else None,
    )
