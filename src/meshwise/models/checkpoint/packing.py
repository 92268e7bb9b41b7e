"""How many weights a module's tensors hold, and in which format: from their types and shapes alone.

The layouts are those of the public formats: GPTQ and AWQ (``qweight``, ``qzeros``, ``scales``, ``g_idx``),
compressed-tensors (``weight_packed``, ``weight_scale``, ``weight_zero_point``), ModelOpt (``weight_scale_2``),
block scales of FP8 (``weight_scale_inv``), MXFP4 as gpt-oss has it (``_blocks``, ``_scales``), bitsandbytes
(``absmax``, ``quant_map``), MLX (``scales``, ``biases``), EXL2, EXL3, AQLM, HQQ, quanto, torchao.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from meshwise.models.checkpoint.headers import StoredEntry
from meshwise.models.checkpoint.modules import ModuleTensors
from meshwise.models.shapes import Stored

FLOATS = {"F64": "fp32", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}  # as models have them
_EIGHT = frozenset(("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"))
_WORDS = frozenset(("I32", "U32"))
_BITS = range(1, 9)
UNKNOWN = Stored(dtype="unknown", weight_only=True)


class Packed(NamedTuple):
    """The weights of a module (None: the shapes do not say how many) and their format; ``stored`` None: it
    is not quantised."""

    weights: int | None
    stored: Stored | None = None


class Hint(NamedTuple):
    """What is known of a matrix before: its inputs, its weights, and the format that is stated for it."""

    inputs: int | None = None
    weights: int | None = None
    stored: Stored | None = None


_NO_HINT = Hint()


def _format(dtype: str, group: int | None = None, block: tuple[int, int] | None = None) -> Stored:
    return Stored(dtype=dtype, group=group, block=block)


def _integers(bits: int | None, group: int | None) -> Stored:
    return _format(f"int{bits}", group) if bits in _BITS else UNKNOWN


def _whole(a: int, b: int) -> int | None:
    """a / b where it is a whole number above 0."""
    return a // b if a and b and a % b == 0 else None


def _shape(entry: StoredEntry) -> tuple[int, int, int]:
    """(stack, rows, columns)."""
    s = entry.shape
    return math.prod(s[:-2]), s[-2] if len(s) > 1 else 1, s[-1] if s else 1


# -- packed in 32-bit words --------------------------------------------------------------------------


def _gptq_or_awq(m: ModuleTensors, hint: Hint) -> Packed:
    """GPTQ packs the inputs, AWQ the outputs; scales are (groups, outputs) in both."""
    stack, rows, columns = _shape(m["qweight"])
    if "scales" not in m:
        return Packed(hint.weights, UNKNOWN)
    _, groups, outputs = _shape(m["scales"])
    if columns != outputs:  # AWQ
        bits, inputs = _whole(32 * columns, outputs), rows
    else:
        bits = None
        if "qzeros" in m:
            bits = _whole(32 * _shape(m["qzeros"])[2], outputs)
        if "g_idx" in m:
            inputs = m["g_idx"].shape[-1] if m["g_idx"].shape else 0
            bits = _whole(32 * rows, inputs) or bits
        elif bits is not None:
            inputs = _whole(32 * rows, bits) or 0
        else:
            inputs = hint.inputs or 0
            bits = _whole(32 * rows, inputs)
    group = _whole(inputs, groups) if groups > 1 else None
    return Packed(stack * inputs * outputs or None, _integers(bits, group))


def _words(m: ModuleTensors, key: str, hint: Hint, groups: int) -> tuple[int | None, int | None]:
    """(bits, inputs) of weights that fill whole words along their inputs: by the inputs that the matrix
    should have, else by the bits that are stated, else by the group."""
    columns = _shape(m[key])[2]
    if hint.inputs:
        bits = _whole(32 * columns, hint.inputs)
        if bits in _BITS:
            return bits, hint.inputs
    stated = hint.stored
    if stated is not None and stated.dtype.startswith("int"):
        bits = int(stated.dtype[3:])
        return bits, 32 * columns // bits
    if stated is not None and stated.group and groups > 1:
        inputs = groups * stated.group
        return _whole(32 * columns, inputs), inputs
    return None, None


def _compressed(m: ModuleTensors, hint: Hint) -> Packed:
    """compressed-tensors: four-bit floats in bytes, integers in words; scales are (outputs, groups)."""
    packed = m["weight_packed"]
    stack, rows, columns = _shape(packed)
    scale = m.get("weight_scale")
    groups = _shape(scale)[2] if scale is not None else 1
    if packed.dtype not in _WORDS:
        inputs = 2 * columns
        group = _whole(inputs, groups)
        exponents = scale is not None and scale.dtype in ("U8", "F8_E8M0")
        return Packed(stack * rows * inputs, _format("mxfp4" if exponents else "nvfp4", group))
    bits, found = _words(m, "weight_packed", hint, groups)
    if bits is None or found is None:
        return Packed(hint.weights, UNKNOWN)
    group = _whole(found, groups) if groups > 1 else None
    return Packed(stack * rows * found, _integers(bits, group))


def _mlx(m: ModuleTensors, hint: Hint) -> Packed:
    """MLX: words along the inputs; a scale and an offset per group, or MXFP4's exponents."""
    stack, rows, columns = _shape(m["weight"])
    groups = _shape(m["scales"])[2]
    if m["scales"].dtype == "U8":
        return Packed(stack * rows * 8 * columns, _format("mxfp4", _whole(8 * columns, groups)))
    bits, inputs = _words(m, "weight", hint, groups)
    if bits is None or inputs is None:
        return Packed(hint.weights, UNKNOWN)
    return Packed(stack * rows * inputs, _integers(bits, _whole(inputs, groups)))


# -- a narrow type per element, or two elements in a byte ------------------------------------------------


def _scale_of(m: ModuleTensors) -> StoredEntry | None:
    return next(
        (m[k] for k in ("weight_scale", "weight_scale_inv", "scale", "scales") if k in m), None
    )


def _scaled(
    rows: int, columns: int, scale: StoredEntry | None
) -> tuple[int | None, tuple[int, int] | None]:
    """(group, block) of the scales of a matrix: one per group of inputs, per block, or neither."""
    if scale is None or len(scale.shape) < 2:
        return None, None
    _, down, across = _shape(scale)
    if (across <= 1 and down in (1, rows)) or not rows * columns * down * across:
        return None, None
    if down == rows:
        return _whole(columns, across), None
    if down == 1 and across == columns:  # an output each, of a matrix that is stored by its inputs
        return None, None
    return None, (_side(rows, down), _side(columns, across))


def _side(size: int, blocks: int) -> int:
    """The side of a block, the last of which may be shorter: the smallest power of two that gives as
    many blocks, else the even share."""
    side = 1 << max(-(-size // blocks) - 1, 0).bit_length()
    return side if -(-size // side) == blocks else -(-size // blocks)


def _eight_bit_float(m: ModuleTensors, hint: Hint) -> Packed:
    weight, scale = m["weight"], _scale_of(m)
    stack, rows, columns = _shape(weight)
    group, block = _scaled(rows, columns, scale)
    if group is not None and scale is not None and scale.dtype in ("U8", "F8_E8M0"):
        return Packed(weight.elements, _format("mxfp8", group))
    # a matrix that is no larger than a block does not say how large that would be
    for usual in (hint.stored.block if hint.stored is not None else None, (128, 128)):
        if block is not None and usual is not None and scale is not None:
            down, across = _shape(scale)[1:]
            if (-(-rows // usual[0]), -(-columns // usual[1])) == (down, across):
                block = usual
                break
    return Packed(stack * rows * columns, _format("fp8", group, block))


def _bytes(m: ModuleTensors, hint: Hint) -> Packed:
    """Weights in bytes: integers of eight bits, or two or four narrower ones in each."""
    weight, scale = m["weight"], _scale_of(m)
    _, rows, columns = _shape(weight)
    if any(k.startswith("weight.") for k in m):
        return _bitsandbytes(m, hint)
    exponents = scale is not None and scale.dtype in ("U8", "F8_E8M0")
    if scale is not None and (
        exponents or scale.dtype == "F8_E4M3"
    ):  # four-bit floats, two in a byte
        group = _whole(2 * columns, _shape(scale)[2])
        return Packed(2 * weight.elements, _format("mxfp4" if exponents else "nvfp4", group))
    if weight.dtype == "I8" and (scale is not None or "SCB" in m):
        group, block = _scaled(rows, columns, scale)
        return Packed(weight.elements, _format("int8", group, block))
    if weight.dtype == "U8" and scale is not None and hint.weights == 4 * weight.elements:
        return Packed(4 * weight.elements, _format("int2"))  # BitNet's ternary weights
    return Packed(hint.weights, UNKNOWN)


def _bitsandbytes(m: ModuleTensors, hint: Hint) -> Packed:
    """Four bits, two in a byte, in one column; a scale per block, itself in eight bits where nested."""
    weight, absmax = m["weight"], m.get("weight.absmax")
    if absmax is None:
        return _torch(m, hint)
    number = 2 * weight.elements
    if (
        hint.weights is not None and 0 <= number - hint.weights < 2
    ):  # the last byte may be half full
        number = hint.weights
    return Packed(number, _format("int4", _whole(2 * weight.elements, absmax.elements)))


def _torch(m: ModuleTensors, hint: Hint) -> Packed:
    """torchao and quanto store a tensor subclass part by part."""
    data = next((m[k] for k in m if k.endswith(("data", "qdata"))), None)
    if data is None:
        return Packed(hint.weights, UNKNOWN)
    if data.dtype in _EIGHT:
        return Packed(data.elements, _format("fp8"))
    bits = _whole(8 * data.bytes, hint.weights) if hint.weights else None
    if data.dtype == "I8" and bits in (None, 8):
        return Packed(data.elements, _format("int8"))
    return Packed(hint.weights, _integers(bits, None))


# -- formats of their own ----------------------------------------------------------------------------


def _gpt_oss(m: ModuleTensors, hint: Hint) -> Packed:
    blocks = m["blocks"]
    return Packed(
        2 * blocks.elements, _format("mxfp4", 2 * blocks.shape[-1] if blocks.shape else None)
    )


def _of_mean(weights: int | None, bits: float) -> Packed:
    """Mixed or fractional bits: named by the whole ones in them."""
    return Packed(weights, _integers(max(1, min(8, int(bits))), None))


def _exl2(m: ModuleTensors, hint: Hint) -> Packed:
    order = m.get("q_invperm", m.get("q_perm"))
    outputs = m["q_weight"].shape[-1] if m["q_weight"].shape else 0
    weights = order.elements * outputs if order is not None else hint.weights
    return (
        _of_mean(weights, 8 * m["q_weight"].bytes / weights) if weights else Packed(None, UNKNOWN)
    )


def _exl3(m: ModuleTensors, hint: Hint) -> Packed:
    """Tiles of 16 by 16 weights, K bits each, in 16-bit words."""
    shape = m["trellis"].shape
    if len(shape) != 3:
        return Packed(hint.weights, UNKNOWN)
    return Packed(256 * shape[0] * shape[1], _integers(_whole(shape[2], 16), None))


def _aqlm(m: ModuleTensors, hint: Hint) -> Packed:
    codes, books = m["codes"].shape, m.get("codebooks")
    if books is None or len(codes) != 3 or len(books.shape) != 4 or not books.elements:
        return Packed(hint.weights, UNKNOWN)
    _, entries, outputs, inputs = books.shape
    bits = math.log2(entries) * codes[2] / (outputs * inputs)
    return _of_mean(codes[0] * codes[1] * outputs * inputs, bits)


def _hqq(m: ModuleTensors, hint: Hint) -> Packed:
    weights = hint.weights
    return _of_mean(weights, 8 * m["W_q"].bytes / weights) if weights else Packed(None, UNKNOWN)


def _weight(m: ModuleTensors, hint: Hint) -> Packed:
    """A tensor by its own type."""
    weight = m["weight"]
    if weight.dtype in _EIGHT:
        return _eight_bit_float(m, hint)
    if weight.dtype in _WORDS and "scales" in m:
        return _mlx(m, hint)
    if weight.dtype in ("U8", "I8"):
        return _bytes(m, hint)
    if weight.dtype == "F4":
        group = _scaled(*_shape(weight)[1:], _scale_of(m))[0]
        return Packed(weight.elements, _format("mxfp4" if group == 32 else "nvfp4", group))
    if weight.dtype in FLOATS:  # a learned scale beside it is a weight as well
        return Packed(weight.elements + (m["scale"].elements if "scale" in m else 0))
    if weight.dtype in ("I64", "BOOL"):  # indices and masks
        return Packed(weight.elements)
    return Packed(hint.weights, UNKNOWN)


# The first kind that a module has says how it is packed.
_LAYOUTS: tuple[tuple[str, Callable[[ModuleTensors, Hint], Packed]], ...] = (
    ("blocks", _gpt_oss),
    ("qweight", _gptq_or_awq),
    ("weight_packed", _compressed),
    ("q_weight", _exl2),
    ("trellis", _exl3),
    ("codes", _aqlm),
    ("W_q", _hqq),
    ("weight", _weight),
)


def unpacked(module: ModuleTensors, hint: Hint = _NO_HINT) -> Packed:
    """The weights of a module, its bias left out, and their format."""
    for kind, read in _LAYOUTS:
        if kind in module:
            return read(module, hint)
    if any(kind.startswith("weight.") for kind in module):
        return _torch(module, hint)
    # no weight: a gain or an offset by itself
    return Packed(sum(entry.elements for kind, entry in module.items() if kind != "bias"))
