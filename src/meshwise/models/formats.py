"""The formats that a run's weights have: what its options say, else what the checkpoint says.

There is one answer for time, memory and legality: :func:`model_as_run` gives the model as it runs, with the
format of every matrix in ``Block.stored``, and they read nothing else.
"""

from __future__ import annotations

import msgspec

from meshwise import dtypes
from meshwise.errors import InputError, quoted
from meshwise.models.shapes import UNQUANTISED, LayerFormats, Model, Quantization, Stored
from meshwise.workloads.workload import Training, Workload


def of_dtype(dtype: str, *, weight_only: bool = False) -> Stored:
    """A format that is stated without a checkpoint: groups as most software has them."""
    only = weight_only or dtype not in dtypes.NARROW
    return Stored(dtype=dtype, group=dtypes.SCALE_BLOCKS.get(dtype), weight_only=only)


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


def quantised(model: Model, method: str, stored: Stored, cache: str | None = None) -> Model:
    """The model with all its linear layers in one format; embedding and head stay as they are."""
    return msgspec.structs.replace(
        model,
        quantization=quantization_summary(method, stored, cache),
        blocks=tuple(
            msgspec.structs.replace(block, stored=everywhere(stored)) for block in model.blocks
        ),
    )


def unquantised(model: Model) -> Model:
    """The model with every weight in ``Model.dtype``."""
    if model.quantization is None:
        return model
    blocks = tuple(msgspec.structs.replace(b, stored=UNQUANTISED) for b in model.blocks)
    return msgspec.structs.replace(model, quantization=None, blocks=blocks)


def _wanted(model: Model, workload: Workload) -> str | None:
    """The weights' format that the options ask for, where it is another than the checkpoint's."""
    f, q = workload.formats, model.quantization
    if f.weights is not None:
        return dtypes.canonical_dtype(f.weights, "weights", dtypes.WEIGHT)
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
            legal=dtypes.WEIGHT,
        )
    if wanted is None or (q is not None and q.weight_dtype == wanted):
        return model
    if dtypes.ELEMENT_BYTES[wanted] >= 2:
        return _copy(model, unquantised(model), wanted)
    stored = of_dtype(wanted, weight_only=workload.formats.dtype is None)
    return _copy(model, quantised(model, wanted, stored, q.kv_cache_dtype if q else None), wanted)


def _trained(model: Model) -> Model:
    """The model as training has it: with 16-bit weights, which every answer says of a narrow checkpoint."""
    q = model.quantization
    if q is None:
        return model
    said = f"training keeps 16-bit weights, not the checkpoint's ({q.weight_dtype})"
    asked = f"{model.asked}; {said}" if model.asked else said
    return msgspec.structs.replace(unquantised(model), asked=asked)


def _copy(model: Model, other: Model, dtype: str) -> Model:
    """The model in another format than its checkpoint, which every answer says of it."""
    q = model.quantization
    if q is None:
        return other
    said = f"priced as a copy with {dtype} weights, not as the checkpoint, which is in {q.weight_dtype}"
    return msgspec.structs.replace(other, asked=f"{model.asked}; {said}" if model.asked else said)


def format_remarks(
    model: Model, workload: Workload, peaks: dict[str, float], device: str
) -> list[str]:
    """As what the model is priced, where its name does not say it; and what the formats of a run cost
    on a device that has no units for them."""
    found = [model.asked] if model.asked else []
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
        return found
    runs = dtypes.peak_dtype(dtype, peaks)
    if runs == dtype or {runs, dtype} in ({"fp16", "bf16"}, {"fp8", "mxfp8"}):
        return found
    text = f"{device} has no {dtype} units: products run at its {runs} rate"
    if dtype in dtypes.NARROW and dtypes.ELEMENT_BYTES.get(runs, 0.0) >= 2:
        text += (
            f"; weights are stored in {dtype} and widened, in the product where rows are few and in a "
            "pass of their own where they are many"
        )
    return [*found, text]
