"""Values of a ``quantization_config``, read as far as they are clear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshwise import dtypes
from meshwise.errors import InputError, quoted, shorten
from meshwise.models.shapes import Stored

Config = Mapping[str, Any]


def table_in(value: object) -> Config:
    return value if isinstance(value, dict) else {}


def integer(*values: object) -> int | None:
    for value in values:
        if type(value) is int and 0 < value <= 10**6:
            return value
    return None


def real(*values: object) -> float | None:
    for value in values:
        if type(value) in (int, float) and 0 < value <= 64:  # type: ignore[operator]
            return float(value)  # type: ignore[arg-type]
    return None


def word_in(*values: object) -> str:
    for value in values:
        if isinstance(value, str) and value:
            return value
    return ""


def words_in(*values: object) -> list[str]:
    """Every text of lists of words_in."""
    return [t for value in values if isinstance(value, list) for t in value if isinstance(t, str)]


def pair(value: object) -> tuple[int, int] | None:
    if isinstance(value, list) and len(value) == 2:
        first, second = integer(value[0]), integer(value[1])
        if first and second:
            return first, second
    return None


def by_bits(bits: int | None) -> str:
    return f"int{bits}" if bits in (1, 2, 3, 4, 5, 6, 7, 8) else "unknown"


def stored_as(
    dtype: str,
    group: int | None = None,
    block: tuple[int, int] | None = None,
    *,
    only: bool = False,
    scale: float | None = None,
) -> Stored:
    """A format; weights that no product takes as they are stay alone narrow."""
    only = only or dtype not in dtypes.NARROW
    return Stored(dtype=dtype, group=group, block=block, weight_only=only, scale=scale)


NOT_KNOWN = stored_as("unknown")


def object_or_refused(value: object, field: str) -> Config:
    if not isinstance(value, dict):
        raise InputError(
            f"{field}: {shorten(value)} where an object belongs",
            field=field,
            value=value,
            legal="an object, or null",
        )
    return value


_WHOLE = {
    # key: (least, most, what is legal)
    "bits": (1, 32, "a whole number of bits, such as 4"),
    "w_bit": (1, 32, "a whole number of bits, such as 4"),
    "group_size": (-1, 10**6, "a whole number, or -1 for one scale per output"),
    "q_group_size": (-1, 10**6, "a whole number, or -1 for one scale per output"),
}


# what a method's files pack: GPTQModel; AWQ in 4 bits (AutoAWQ), 3 (llm-awq) and 8 (vLLM's awq_marlin)
PACKED_BITS = {"gptq": (2, 3, 4, 8), "awq": (3, 4, 8)}


def check_numbers(method: str, c: Config, field: str) -> None:
    """Refuse bits, groups and blocks that are no numbers; EXL2 and its like state fractional bits."""
    for key, (least, most, legal) in _WHOLE.items():
        value = c.get(key)
        if value is None or method.startswith(("exl", "higgs")):
            continue
        if type(value) is not int or not least <= value <= most:
            raise InputError(
                f"{field}.{key}: {quoted(value)} is not {legal}",
                field=f"{field}.{key}",
                value=value,
                legal=legal,
                nearest=128 if "group" in key else 4,
            )
    key = "bits" if c.get("bits") is not None else "w_bit"
    name = next((name for name in PACKED_BITS if method.startswith(name)), "")
    bits, packed = c.get(key), PACKED_BITS.get(name, ())
    if packed and bits is not None and bits not in packed:
        raise InputError(
            f"{field}.{key}: {name.upper()} has no {bits} bits",
            field=f"{field}.{key}",
            value=bits,
            legal=", ".join(map(str, packed)),
            nearest=min(packed, key=lambda b: abs(b - bits)),
        )
    block = c.get("weight_block_size")
    if block is not None and pair(block) is None:
        raise InputError(
            f"{field}.weight_block_size: {quoted(block)} is not two whole numbers above 0",
            field=f"{field}.weight_block_size",
            value=block,
            legal="[output features, input features]",
            nearest=[128, 128],
        )
