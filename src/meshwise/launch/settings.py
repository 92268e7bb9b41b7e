"""Settings by their names in a target's table, and how flags that contradict each other are refused."""

from __future__ import annotations

from typing import Any

from meshwise.errors import IllegalLayout, shorten

Settings = dict[str, Any]
Read = tuple[dict[str, Any], list[str]]  # fields of a job, notes


def contradiction(field: str, value: Any, why: str, legal: Any) -> IllegalLayout:
    shown = shorten(value) if isinstance(value, str) else value
    return IllegalLayout(f"{field}={shown}: {why}", field=field, value=value, legal=legal)
