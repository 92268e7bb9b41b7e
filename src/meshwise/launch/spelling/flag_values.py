"""The text of a flag's value as what it means."""

from __future__ import annotations

import re
from typing import Any

from meshwise.errors import InputError, shorten
from meshwise.launch.table import Flag
from meshwise.strict_tables import count, fraction


def flag_value(flag: Flag, name: str, text: str) -> Any:
    """Raise :class:`~meshwise.errors.InputError` where it is none of the flag's kind."""
    if flag.kind == "text":
        return text
    if flag.kind == "share":
        return fraction(text.strip(), name, low=0.0, high=1.0)
    if flag.kind == "tokens":
        text = _tokens(text.strip(), name)
    if flag.kind == "list":
        return tuple(re.findall(r"[\w-]+", text))
    if text.strip().lower() in ("none", "null"):
        return None
    if text.strip() == "-1":
        return -1
    low = 0 if flag.name in ("stage", "zero_stage") else 1
    return count(text.strip(), name, low=low)


def _tokens(text: str, name: str) -> str:
    """``8k`` is 8,000 and ``8K`` 8,192, as vLLM and SGLang read them (``human_readable_int``: decimals
    with the small letter only)."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([kKmMgG])", text)
    if found is None:
        if text.lower() != "auto" and re.fullmatch(r"-?\d+", text) is None:
            raise InputError(
                f"{name}: {shorten(text)} is no length",
                field=name,
                value=text,
                legal="tokens, such as 8192, 8k (8,000) or 8K (8,192)",
            )
        return "-1" if text.lower() == "auto" else text
    digits, suffix = found.groups()
    power = "kmg".index(suffix.lower()) + 1
    if suffix.islower():
        return str(int(float(digits) * 1000**power))
    if "." in digits:
        raise InputError(
            f"{name}: {shorten(text)} has decimals before a binary suffix, which the engine refuses",
            field=name,
            value=text,
            legal=f"{digits}{suffix.lower()}, or a whole number",
            nearest=f"{digits}{suffix.lower()}",
        )
    return str(int(digits) * 1024**power)
