"""Number formats: how many bytes a value takes, and at which peak a product of them runs."""

from __future__ import annotations

from meshwise.errors import InputError, closest, quoted

ELEMENT_BYTES: dict[str, float] = {
    "fp32": 4.0,
    "tf32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    # Narrow weights carry a scale: 16 bit per group of 128 (AWQ, GPTQ), 8 bit per 32 (MXFP4 and
    # MXFP8, OCP Microscaling v1.0), 8 bit per 16 (NVFP4).
    **{f"int{bits}": bits / 8 + 2.0 / 128 for bits in range(1, 7)},
    "mxfp4": 0.5 + 1.0 / 32,
    "nvfp4": 0.5 + 1.0 / 16,
    "mxfp8": 1.0 + 1.0 / 32,
}
SCALE_BLOCKS = {"int4": 128, "mxfp4": 32, "nvfp4": 16, "mxfp8": 32}  # weights that share a scale

# Other words for a format, as engines, checkpoints, frameworks and tables write them.
_WORDS = {
    "fp32": "float32 float fp32_precise f32",
    "tf32": "tensorfloat32",
    "fp16": "float16 half f16",
    "bf16": "bfloat16",
    "fp8": "float8 f8 e4m3 e5m2 e4m3fn float8_e4m3 float8_e5m2 float8_e4m3fn float8_e4m3fnuz "
    "float8_e5m2fnuz fp8_e4m3 fp8_e4m3fn fp8_e5m2 fp8_inc fp8_ds_mla fp8_block fp8_current "
    "fp8_delayed",
    "int8": "i8 qint8",
    "int4": "i4 uint4",
    "mxfp4": "mx_fp4",
    "mxfp8": "mx_fp8 mxfp8_e4m3",
    "nvfp4": "fp4 float4 e2m1 fp4_e2m1 float4_e2m1fn",
}
ALIASES = {word: name for name, words in _WORDS.items() for word in words.split()}
# weights and activations as one word says both: 4-bit weights under 16-bit products, 8 bit for both
_PAIRS = {"w4a16": "int4", "w8a16": "int8", "w8a8": "int8", "w4a4": "nvfp4"}
COMPUTE = ("fp32", "tf32", "fp16", "bf16", "fp8", "mxfp8", "int8", "nvfp4")  # operands of a product
WEIGHT = ("fp32", "fp16", "bf16", "fp8", "mxfp8", "int8", "int4", "mxfp4", "nvfp4")
KV_CACHE = ("fp32", "fp16", "bf16", "fp8", "int8", "int4", "nvfp4")
COMM = ("fp32", "fp16", "bf16", "fp8", "int8")
GRADIENT = ("fp32", "fp16", "bf16")
NARROW = ("fp8", "mxfp8", "int8", "nvfp4")  # operands that 16-bit activations are narrowed to

# Four-bit and eight-bit weights under wider activations are expanded before the product, so the
# product runs at the activation's rate (weight-only quantisation).
_WIDER = {
    "nvfp4": ("fp8", "bf16", "fp16"),
    "mxfp8": ("fp8", "bf16", "fp16"),
    "fp8": ("bf16", "fp16"),
    "fp8_block": ("fp8", "bf16", "fp16"),
    "int8": ("bf16", "fp16"),
}


def stored_bytes(dtype: str, group: int | None, scale: float | None = None) -> float:
    """Bytes per weight of a checkpoint, its scales included, for its own group size; ``scale`` bytes
    per group where they are not the format's usual ones (without groups: one per output, next to
    nothing)."""
    if scale is not None and dtype.startswith("int"):
        return int(dtype[3:]) / 8 + (scale / group if group else 0.0)
    if dtype.startswith("int") and dtype != "int8" and group:
        return int(dtype[3:]) / 8 + 2.0 / group
    return ELEMENT_BYTES[dtype]


def known(name: object) -> str | None:
    """The canonical name of a format that is written in any of its words; None for another word."""
    if not isinstance(name, str):
        return None
    key = name.strip().lower().replace("-", "_").removeprefix("torch.")
    key = ALIASES.get(key, key)
    return key if key in ELEMENT_BYTES else _PAIRS.get(key)


def canonical_dtype(name: object, field: str, legal: tuple[str, ...]) -> str:
    """The canonical name of a dtype; :class:`InputError` where it is not one of ``legal``."""
    key = known(name)
    if key in legal:
        assert key is not None
        return key
    near = closest(name, legal)
    raise InputError(
        f"{field}: {quoted(name)} is not a number format that makes sense here",
        field=field,
        value=name,
        legal=legal,
        nearest=near[0] if near else None,
    )


def operands_of(name: object, field: str = "dtype") -> tuple[str | None, str | None]:
    """(operands of the products, stored weights) of a run that one word describes, as a table's column
    or a checkpoint's name does; None where it says nothing that the other does not."""
    found = canonical_dtype(name, field, (*COMPUTE, "int4", "mxfp4"))
    weight_only = found in ("int4", "mxfp4") or "a16" in str(name).lower()
    return (None, found) if weight_only else (found, None)


def activation_dtype(dtype: str) -> str:
    """What flows between the products: 8-bit and 4-bit products write 16-bit results."""
    if dtype in NARROW:
        return "bf16"
    return "fp32" if dtype == "tf32" else dtype


def peak_dtype(dtype: str, peaks: dict[str, float]) -> str:
    """The format at which a device with these ``peaks`` runs a product of ``dtype`` operands.

    A device without the narrow format's units runs it at the next wider one; fp16 and bf16 stand
    in for each other, fp32 for both (Volta has no bf16).
    """
    for candidate in (dtype, *_WIDER.get(dtype, ()), "bf16", "fp16", "fp32"):
        if candidate in peaks and (candidate != "fp32" or dtype in ("fp32", "bf16", "tf32")):
            return candidate
    return "fp32" if "fp32" in peaks else next(iter(peaks))
