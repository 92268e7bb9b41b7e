"""Formats that no software runs on a device, not even by widening the weights in the product."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from meshwise.errors import InputError
from meshwise.models.shapes import Model, Stored

_EIGHT_BIT, _FOUR_BIT = ("fp8", "mxfp8"), ("nvfp4", "mxfp4", "mxfp6")
# Generation → formats of weights without a kernel there. vLLM's documentation, "Quantization",
# supported hardware (v0.14): FP8 and FP4 weights of devices without units for them go through Marlin,
# which Volta has not (FP8: Turing and later); AMD's FP8 begins with MI300.
NO_KERNELS: dict[str, tuple[str, ...]] = {
    "volta": (*_EIGHT_BIT, *_FOUR_BIT),
    "cdna2": _EIGHT_BIT,
}
# … and whose activations cannot be narrowed with them, nor the weights be widened by the same kernels
NO_PRODUCTS: dict[str, tuple[str, ...]] = {"volta": ("int8",)}
NO_METHODS: dict[str, tuple[str, ...]] = {"volta": ("awq",)}


def _formats(model: Model) -> Iterator[Stored]:
    """Every format of the model's weights, once."""
    q = model.quantization
    if q is None:
        return
    seen = [q.embedding, q.head]
    for block in model.blocks:
        seen += [getattr(block.stored, name) for name in block.stored.__struct_fields__]
    yield from {stored for stored in seen if stored is not None}


def check_device_formats(
    model: Model, generation: str, title: str, no_int8: Collection[str] = (), software: str = ""
) -> None:
    """Refuse a model, as it runs, in a format that nothing runs on devices of a generation, or that the
    ``software`` does not: it has products of 8-bit integers on all but the generations ``no_int8``.

    :raises InputError: for its weights; ``value`` is their format.
    """
    none, narrow = NO_KERNELS.get(generation, ()), NO_PRODUCTS.get(generation, ())
    for stored in _formats(model):
        if stored.dtype in none or (stored.dtype in narrow and not stored.weight_only):
            raise _refused(stored.dtype, f"no kernel for {stored.dtype} weights", title)
        if stored.dtype == "int8" and not stored.weight_only and generation in no_int8:
            raise InputError(
                f"weights=int8: {software} has no products of 8-bit weights and activations (W8A8) on "
                f"{title}",
                field="weights",
                value="int8",
                legal="int8 weights alone (int8_wo), fp8, nvfp4, or 16 bit",
                nearest="int8_wo",
            )
    q = model.quantization
    if q is not None and q.method in NO_METHODS.get(generation, ()):
        raise _refused(q.method, f"no kernel for {q.method} checkpoints", title)


def _refused(value: str, why: str, title: str) -> InputError:
    return InputError(
        f"weights={value}: {title} has {why}",
        field="weights",
        value=value,
        legal="fp16, bf16, int4 or int8 weights alone (GPTQ, bitsandbytes), or a GGUF file type",
        nearest="fp16",
    )
