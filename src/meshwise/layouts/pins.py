"""Axes of a plan that a user holds: to one value, or to several of which the plan chooses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshwise.axes import AXES
from meshwise.errors import InputError
from meshwise.strict_tables import count, one_of

Pins = dict[str, tuple[Any, ...]]  # axis → codes of the values that it may take; others are free
NAMES = {axis.said: axis for axis in AXES.values()}


def read_pins(given: Mapping[str, object]) -> Pins:
    """Pins from values or lists of them, as users name them (``recompute="full"``)."""
    pins: dict[str, tuple[Any, ...]] = {}
    for name, value in given.items():
        one_of(name, "layout", NAMES)
        if value is None:
            continue
        values = list(value) if isinstance(value, (list, tuple, set)) else [value]
        axis = NAMES[name]
        if not values:
            raise InputError(f"{name}: no value", field=name, legal="one or several values")
        if axis.kind in ("word", "switch"):
            table = axis.words()
            names = [str(v).lower() if isinstance(v, bool) else str(v) for v in values]
            codes: list[Any] = [table[one_of(text, name, table)] for text in names]
            codes = [bool(code) for code in codes] if axis.kind == "switch" else codes
        else:
            codes = [count(v, name) for v in values]
        pins[axis.name] = tuple(dict.fromkeys(codes))
    return pins


def pins_record(pins: Pins) -> dict[str, list[Any]]:
    """Pins as users name them."""
    return {
        AXES[name].said: [AXES[name].spoken(int(code)) for code in codes]
        for name, codes in pins.items()
    }
