"""The formats that a run's weights have: what its options say, else what the checkpoint says.

There is one answer for time, memory and legality: :func:`model_as_run` gives the model as it runs, with the
format of every matrix in ``Block.stored``, and they read nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from meshwise import dtypes
from meshwise.errors import InputError, quoted
from meshwise.models.shapes import (
    UNQUANTISED,
    LayerFormats,
    Model,
    MultiToken,
    Quantization,
    Stored,
)
from meshwise.workloads.workload import Training, Workload


def of_word(word: str, *, weight_only: bool = False) -> Stored:
    """A format that is stated without a checkpoint, by any of its words: groups as most software has
    them. ``weight_only``: of a word that does not say whether activations are narrowed too."""
    meant = dtypes.weight_format(word)
    only = weight_only if meant.only is None else meant.only
    usual = dtypes.SCALE_BLOCKS.get(meant.dtype) if meant.block is None else None
    return Stored(
        dtype=meant.dtype,
        group=meant.group or usual,
        block=meant.block,
        scale=meant.scale,
        weight_only=only or meant.dtype not in dtypes.NARROW,
    )


def everywhere(stored: Stored) -> LayerFormats:
    """Every linear layer in one format."""
    return LayerFormats(**dict.fromkeys(LayerFormats.__struct_fields__, stored))


def quantization_summary(
    method: str, stored: Stored, cache: str | None, **ends: Stored | None
) -> Quantization:
    """A checkpoint's method and the format of most of its weights; ``ends``: embedding and head."""
    return Quantization(
        method=method,
        weight_dtype=stored.dtype,
        group=stored.group,
        block=stored.block,
        scale=stored.scale,
        mean_bytes=stored.mean_bytes,
        weight_only=stored.weight_only,
        kv_cache_dtype=cache,
        **ends,
    )


def _as_gguf(model: Model, file: str, cache: str | None) -> Model:
    """The model as a GGUF file of this type has it: every matrix, embedding and head too."""
    from meshwise.models.quantization import gguf, modules  # who reads checkpoints imports this

    recipe = gguf.recipe(file, model, "weights")
    named, _, _ = modules.with_formats(unquantised(model), [], None, choice=recipe.of)
    main = modules.commonest_format(named) or of_word(file)
    ends = {"embedding": recipe.embedding, "head": recipe.head}
    summary = quantization_summary(file, main, cache, **ends)
    return msgspec.structs.replace(named, quantization=summary)


def with_layer_formats(mtp: MultiToken, formats: Sequence[LayerFormats]) -> MultiToken:
    """Multi-token-prediction layers with the formats of their matrices, one for each."""
    blocks = (
        block if block.stored == stored else msgspec.structs.replace(block, stored=stored)
        for block, stored in zip(mtp.blocks, formats, strict=True)
    )
    return msgspec.structs.replace(mtp, blocks=tuple(blocks))


def _alike(mtp: MultiToken | None, stored: LayerFormats) -> MultiToken | None:
    return None if mtp is None else with_layer_formats(mtp, (stored,) * len(mtp.blocks))


def quantised(model: Model, method: str, stored: Stored, cache: str | None = None) -> Model:
    """The model with all its linear layers in one format; embedding and head stay as they are."""
    return msgspec.structs.replace(
        model,
        quantization=quantization_summary(method, stored, cache),
        blocks=tuple(
            msgspec.structs.replace(block, stored=everywhere(stored)) for block in model.blocks
        ),
        mtp=_alike(model.mtp, everywhere(stored)),
    )


def unquantised(model: Model) -> Model:
    """The model with every weight in ``Model.dtype``."""
    if model.quantization is None:
        return model
    blocks = tuple(msgspec.structs.replace(b, stored=UNQUANTISED) for b in model.blocks)
    ahead = _alike(model.mtp, UNQUANTISED)
    return msgspec.structs.replace(model, quantization=None, blocks=blocks, mtp=ahead)


def _wanted(model: Model, workload: Workload) -> str | None:
    """The weights' format that the options ask for, where it is another than the checkpoint's."""
    f, q = workload.formats, model.quantization
    if f.weights is not None:
        return dtypes.canonical_weights(f.weights)
    if f.dtype is None:
        return None
    dtype = dtypes.canonical_dtype(f.dtype, "dtype", dtypes.COMPUTE)
    if dtype not in dtypes.NARROW or (
        q is not None and q.weight_only and q.weight_dtype != "unknown"
    ):
        return None  # a checkpoint's weights are what they are: only ``Formats.weights`` says another format
    return dtype


def products(model: Model, workload: Workload) -> str | None:
    """The operands that ``Formats.dtype`` states for the linear layers; None where it does not.

    As in engines: beside a checkpoint that multiplies in its own narrow format, a 16-bit dtype is that of
    the activations between the products.
    """
    f, q = workload.formats, model_as_run(model, workload).quantization
    if f.dtype is None:
        return None
    dtype = dtypes.canonical_dtype(f.dtype, "dtype", dtypes.COMPUTE)
    own = q is not None and not q.weight_only and q.weight_dtype in dtypes.NARROW
    return None if own and dtype not in dtypes.NARROW and f.weights is None else dtype


def model_as_run(model: Model, workload: Workload) -> Model:
    """The model as the workload runs it.

    Training works on unquantised weights. A checkpoint keeps its weights but where ``Formats.weights``
    says another format, or ``Formats.dtype`` other narrow operands than it multiplies in.
    """
    if isinstance(workload, Training):
        return _trained(model)
    wanted, q = _wanted(model, workload), model.quantization
    if q is not None and q.weight_dtype == "unknown" and wanted is None:
        raise InputError(
            f"quantization_config: method {quoted(q.method)} is not known, nor how many bytes its weights "
            "take; `weights` states their format",
            field="quantization_config",
            value=q.method,
            legal=dtypes.COMMON_WEIGHT,
        )
    if wanted is None or (q is not None and _is_in(q, wanted)):
        return model
    if dtypes.weight_format(wanted).dtype in ("fp32", "fp16", "bf16"):
        return _copy(model, unquantised(model), wanted)
    cache = q.kv_cache_dtype if q else None
    if dtypes.gguf_file(wanted) is not None:
        return _copy(model, _as_gguf(model, wanted, cache), wanted)
    stored = of_word(wanted, weight_only=workload.formats.dtype is None)
    return _copy(model, quantised(model, wanted, stored, cache), wanted)


def _is_in(q: Quantization, wanted: str) -> bool:
    """Whether a checkpoint's weights are in the format already, whatever its groups are."""
    if dtypes.gguf_file(wanted) is not None:
        return q.method == wanted
    return q.weight_dtype == dtypes.weight_format(wanted).dtype


def _trained(model: Model) -> Model:
    """The model as training has it: with 16-bit weights, which every answer says of a narrow checkpoint."""
    q = model.quantization
    if q is None:
        return model
    said = f"training keeps 16-bit weights, not the checkpoint's ({q.weight_dtype})"
    asked = f"{model.asked}; {said}" if model.asked else said
    return msgspec.structs.replace(unquantised(model), asked=asked)


def _copy(model: Model, other: Model, dtype: str) -> Model:
    """The model in another format than its checkpoint's, or than 16 bit, which every answer says of it."""
    q = model.quantization
    narrow = other.quantization is not None
    if q is None and not narrow:
        return other
    said = (
        []
        if q is None
        else [
            f"priced as a copy with {dtype} weights, not as the checkpoint, which is in {q.weight_dtype}"
        ]
    )
    said += [_left_wide(model, dtype)] if narrow else []
    return msgspec.structs.replace(other, asked="; ".join(filter(None, (model.asked, *said))))


def _left_wide(model: Model, wanted: str) -> str:
    """What an option's format of weights means, and which of them it leaves as they are."""
    routed = any(b.moe for b in model.blocks)
    others = "norms, biases and routers" if routed else "norms and biases"
    if dtypes.gguf_file(wanted) is not None:
        return (
            f"weights as a GGUF file of type {wanted.upper()} has them, embedding and output head "
            f"too; {others} stay in {model.dtype}"
        )
    return (
        f"weights in {wanted}: those of the linear layers; embedding, output head, {others} stay in "
        f"{model.dtype}"
    )


def format_remarks(
    model: Model, workload: Workload, peaks: dict[str, float], device: str
) -> list[str]:
    """As what the model is priced, where its name does not say it; and what the formats of a run cost
    on a device that has no units for them."""
    said = model_as_run(model, workload).asked
    found = [said] if said else []
    q, f = model_as_run(model, workload).quantization, workload.formats
    stated = products(model, workload)
    if stated is None and f.dtype is not None and q is not None:
        found.append(
            f"dtype {f.dtype} is that of the activations: weights and products stay in {q.weight_dtype}, as "
            f"the checkpoint says (a weight dtype of {f.dtype} prices a copy of it)"
        )
    asked = stated or (q.weight_dtype if q and not q.weight_only else None)
    dtype = dtypes.known(asked)
    if dtype is None:
        if q is not None and q.weight_only and (f.weights is not None or _has_units(q, peaks)):
            found.append(
                f"products of these weights are in {model.dtype}, widened from {q.weight_dtype}: `dtype` "
                "says in which format else"
            )
        elif q is not None and q.weight_dtype in dtypes.FLOAT_WEIGHTS:
            found.append(
                f"{device} has no {q.weight_dtype} units: its products are in {model.dtype}, and widen the "
                f"weights ({_kernels(q.weight_dtype)})"
            )
        return found
    runs = dtypes.peak_dtype(dtype, peaks)
    if runs == dtype or {runs, dtype} in ({"fp16", "bf16"}, {"fp8", "mxfp8"}):
        return found
    text = f"{device} has no {dtype} units: products run at its {runs} rate"
    if dtype in dtypes.NARROW and dtypes.ELEMENT_BYTES.get(runs, 0.0) >= 2:
        text += f", and widen the weights, which are stored in {dtype} ({_kernels(dtype)})"
    return [*found, text]


def _kernels(dtype: str) -> str:
    """What kernels of weights that are widened in the product are called."""
    return f"W{round(8 * dtypes.ELEMENT_BYTES[dtype])}A16, weight-only kernels"


def _has_units(q: Quantization, peaks: dict[str, float]) -> bool:
    """Whether a device multiplies in the format of a checkpoint's weights."""
    return q.weight_dtype in dtypes.FLOAT_WEIGHTS and dtypes.FLOAT_WEIGHTS[q.weight_dtype] in peaks
