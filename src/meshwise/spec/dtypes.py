"""Number formats: how many bytes a value takes, and at which peak a product of them runs."""

from __future__ import annotations

from meshwise.errors import InputError, closest, quoted

BYTES: dict[str, float] = {
    "fp32": 4.0,
    "tf32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    # Narrow weights carry a scale: 16 bit per group of 128 (AWQ, GPTQ), 8 bit per 32 (MXFP4,
    # OCP Microscaling v1.0), 8 bit per 16 (NVFP4).
    **{f"int{bits}": bits / 8 + 2.0 / 128 for bits in range(1, 7)},
    "mxfp4": 0.5 + 1.0 / 32,
    "nvfp4": 0.5 + 1.0 / 16,
}
ALIASES = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "half": "fp16",
    "float": "fp32",
    "fp4": "nvfp4",
    "float8_e4m3fn": "fp8",
    "fp8_e4m3": "fp8",
    "fp8_e5m2": "fp8",
}
COMPUTE = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8", "nvfp4")  # operands of a product
WEIGHT = ("fp32", "fp16", "bf16", "fp8", "int8", "int4", "mxfp4", "nvfp4")
KV_CACHE = ("fp32", "fp16", "bf16", "fp8", "int8", "int4")
COMM = ("fp32", "fp16", "bf16", "fp8", "int8")
GRADIENT = ("fp32", "fp16", "bf16")

# Four-bit and eight-bit weights under wider activations are expanded before the product, so the
# product runs at the activation's rate (weight-only quantisation).
_WIDER = {
    "nvfp4": ("fp8", "bf16", "fp16"),
    "fp8": ("bf16", "fp16"),
    "fp8_block": ("fp8", "bf16", "fp16"),
    "int8": ("bf16", "fp16"),
}


def stored_bytes(dtype: str, group: int | None) -> float:
    """Bytes per weight of a checkpoint, its scales included, for its own group size."""
    if dtype.startswith("int") and dtype != "int8" and group:
        return int(dtype[3:]) / 8 + 2.0 / group
    return BYTES[dtype]


def canonical(name: object, field: str, legal: tuple[str, ...]) -> str:
    """The canonical name of a dtype; :class:`InputError` where it is not one of ``legal``."""
    if isinstance(name, str):
        key = ALIASES.get(name.lower(), name.lower())
        if key in legal:
            return key
    near = closest(name, legal)
    raise InputError(
        f"{field}: {quoted(name)} is not a number format that makes sense here",
        field=field,
        value=name,
        legal=legal,
        nearest=near[0] if near else None,
    )


def activation_dtype(dtype: str) -> str:
    """What flows between the products: 8-bit and 4-bit products write 16-bit results."""
    if dtype in ("fp8", "int8", "nvfp4"):
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
