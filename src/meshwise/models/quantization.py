"""How a checkpoint stores its weights, from ``quantization_config`` or ``hf_quant_config.json``.

A method that is not known keeps the parameter count right and gives ``weight_dtype`` "unknown":
the caller has to ask for the bytes. Anything malformed inside is read as far as it is clear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from meshwise.dtypes import NARROW, SCALE_BLOCKS
from meshwise.errors import InputError, quoted, shorten
from meshwise.models.formats import quantization_summary
from meshwise.models.quantised_modules import (
    StoredModules,
    commonest_format,
    head_format,
    stored_modules,
    with_formats,
)
from meshwise.models.shapes import Model, Stored

_SKIP_KEYS = ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules",
              "exclude", "llm_int8_skip_modules", "modules_to_not_quantize")  # fmt: skip
_EIGHT = {"fbgemm_fp8": "fp8", "fp8": "fp8", "deepspeedfp": "fp8", "eetq": "int8",
          "bitnet": "int2", "tpu_int8": "int8", "finegrained_fp8": "fp8",
          "mxfp4": "mxfp4", "nvfp4": "nvfp4"}  # fmt: skip
_BY_BITS = ("awq", "gptq", "marlin", "auto-round", "auto_round", "intel/auto-round", "exl2",
            "exl3", "hqq", "aqlm", "gptq_marlin", "awq_marlin", "gptqmodel", "autoawq", "rtn",
            "squeezellm", "spqr", "vptq", "autoround", "higgs", "moe_wna16", "mlx")  # fmt: skip


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _integer(*values: object) -> int | None:
    for value in values:
        if type(value) is int and 0 < value <= 10**6:
            return value
    return None


def _text(*values: object) -> str:
    for value in values:
        if isinstance(value, str) and value:
            return value
    return ""


def _by_bits(bits: int | None, default: int | None = 4) -> str:
    bits = bits if bits is not None else default
    return f"int{bits}" if bits in (1, 2, 3, 4, 5, 6, 8) else "unknown"


def _pair(value: object) -> tuple[int, int] | None:
    if isinstance(value, list) and len(value) == 2:
        first, second = _integer(value[0]), _integer(value[1])
        if first and second:
            return first, second
    return None


def _skipped(config: Mapping[str, Any]) -> list[str]:
    """Names and patterns of the modules that keep their dtype."""
    found: list[str] = []
    for key in _SKIP_KEYS:
        value = config.get(key)
        if isinstance(value, list):
            found += [item for item in value if isinstance(item, str)]
    return found


def _from_number(weights: Mapping[str, Any]) -> tuple[str, int | None, tuple[int, int] | None]:
    """(dtype, group, block) of a compressed-tensors or ModelOpt description of weights."""
    bits = _integer(weights.get("num_bits"))
    group = _integer(weights.get("group_size"))
    block = _pair(weights.get("block_structure"))
    if weights.get("type") == "float":
        if bits == 4:
            return ("mxfp4" if group == 32 else "nvfp4"), group or 16, None
        return ("fp8" if bits == 8 else "unknown"), group, block
    return _by_bits(bits, None), group, block


def _stored(found: tuple[str, int | None, tuple[int, int] | None], only: bool = False) -> Stored:
    dtype, group, block = found
    return Stored(dtype=dtype, group=group, block=block, weight_only=only or dtype not in NARROW)


# Integer formats whose files hold a zero point for each scale, packed at the width of the weights
# (AutoGPTQ and GPTQModel ``qzeros``, AutoAWQ GEMM; auto-round packs as these do).
_PACKED = ("awq", "gptq", "auto-round", "auto_round", "intel/auto-round", "autoround")
_PAIRS = ("mlx", "hqq", "quanto", "torchao")  # a 16-bit scale and a 16-bit offset for each group


def _scaled(stored: Stored, method: str, c: Mapping[str, Any]) -> Stored:
    """The format with the bytes of a group's scale and zero, where they are not one 16-bit scale."""
    if not stored.dtype.startswith("int"):
        return stored
    if stored.group is None:
        whole = -1 in (c.get("group_size"), c.get("q_group_size"))
        return msgspec.structs.replace(stored, scale=0.0) if whole else stored
    scale = 2.0  # one 16-bit scale, as in compressed-tensors' symmetric groups
    if method.startswith(_PACKED):
        scale += int(stored.dtype[3:]) / 8
    elif method in _PAIRS:
        scale = 4.0
    elif method in ("bitsandbytes", "bnb"):
        # absmax in fp32; nested: in 8 bit, with an fp32 scale of its own for 256 of them
        scale = 1.0 + 4.0 / 256 if c.get("bnb_4bit_use_double_quant") is True else 4.0
    return msgspec.structs.replace(stored, scale=scale)


def _groups(config: Mapping[str, Any], field: str) -> tuple[list[StoredModules], Stored | None]:
    """Rules and default of compressed-tensors' groups: targets by name, or by class (Linear)."""
    found: list[StoredModules] = []
    default = None
    for entry in _object(config.get("config_groups")).values():
        group = _object(entry)
        weights = _object(group.get("weights"))
        if not weights:
            continue
        # null activations: the weights are widened for the product
        only = "input_activations" in group and group["input_activations"] is None
        stored = _scaled(_stored(_from_number(weights), only), "", weights)
        if weights.get("symmetric") is False and stored.scale is not None:  # packed zeros
            zero = int(stored.dtype[3:]) / 8
            stored = msgspec.structs.replace(stored, scale=stored.scale + zero)
        targets = group.get("targets", ["Linear"])
        for target in targets if isinstance(targets, list) else []:
            if not isinstance(target, str):
                continue
            if target == "Linear":
                default = default or stored
            elif target != "Embedding":
                found += stored_modules([target], stored, f"{field}.targets")
    return found, default


def _compressed(config: Mapping[str, Any]) -> tuple[str, int | None, tuple[int, int] | None]:
    form = _text(config.get("format"))
    named = {"float-quantized": "fp8", "int-quantized": "int8", "pack-quantized": "int4",
             "nvfp4-pack-quantized": "nvfp4", "naive-quantized": "int8",
             "mxfp4-pack-quantized": "mxfp4"}  # fmt: skip
    dtype = named.get(form, "unknown")
    return dtype, SCALE_BLOCKS.get(dtype) if dtype != "int4" else None, None


def _modelopt(config: Mapping[str, Any]) -> tuple[str, int | None, tuple[int, int] | None]:
    algorithm = _text(config.get("quant_algo"), config.get("quant_method")).upper()
    group = _integer(config.get("group_size"))
    if "NVFP4" in algorithm or algorithm == "FP4":
        return "nvfp4", group or 16, None
    if "MXFP4" in algorithm:
        return "mxfp4", group or 32, None
    if algorithm.startswith("W4"):
        return "int4", group or 128, None
    if "FP8" in algorithm:
        block = (128, 128) if "PB" in algorithm or "BLOCK" in algorithm else None
        return "fp8", None, block
    if algorithm.startswith(("W8", "INT8")):
        return "int8", group, None
    return _compressed(config)


def _quark(config: Mapping[str, Any]) -> tuple[str, int | None, tuple[int, int] | None]:
    weight = _object(config.get("global_quant_config")).get("weight")
    if isinstance(weight, list) and weight:
        weight = weight[0]
    weight = _object(weight)
    name = _text(weight.get("dtype"))
    group = _integer(weight.get("group_size"))
    if name.startswith("fp8"):
        return "fp8", group, None
    if name.startswith("fp4"):
        return "mxfp4", group or 32, None
    if name.startswith(("int", "uint")):
        digits = name.lstrip("uint")
        bits = int(digits) if digits.isdecimal() and len(digits) < 3 else None
        return _by_bits(bits, None), group, None
    return "unknown", group, None


def _named(config: Mapping[str, Any]) -> tuple[str, int | None, tuple[int, int] | None]:
    """quanto and torchao name the dtype of the weights in words."""
    name = _text(config.get("weights"), config.get("quant_type")).lower()
    group = _integer(config.get("group_size"))
    for sign, dtype in (("int4", "int4"), ("int8", "int8"), ("float8", "fp8"), ("fp8", "fp8"),
                        ("int2", "int2")):  # fmt: skip
        if sign in name:
            return dtype, group, None
    return "unknown", group, None


def _weights(method: str, c: Mapping[str, Any]) -> tuple[str, int | None, tuple[int, int] | None]:
    if method in _EIGHT:
        group = {"mxfp4": 32, "nvfp4": 16}.get(method)
        return _EIGHT[method], group, _pair(c.get("weight_block_size"))
    if method in ("bitsandbytes", "bnb"):
        four = c.get("load_in_4bit") is True or c.get("_load_in_4bit") is True
        return ("int4", 64, None) if four else ("int8", None, None)
    if method == "compressed-tensors":
        return _compressed(c)
    if method.startswith("modelopt") or c.get("quant_algo"):
        return _modelopt(c)
    if method == "quark":
        return _quark(c)
    if method in ("quanto", "torchao"):
        return _named(c)
    if method in _BY_BITS:
        nested = _object(_object(c.get("quant_config")).get("weight_quant_params"))
        bits = _integer(c.get("bits"), c.get("w_bit"), c.get("num_bits"), nested.get("nbits"))
        group = _integer(c.get("group_size"), c.get("q_group_size"), nested.get("group_size"))
        stated = any(k in c for k in ("group_size", "q_group_size"))
        usual = None if stated or not method.startswith(("awq", "gptq")) else 128  # their default
        default = 4 if "awq" in method or "marlin" in method else None
        return _by_bits(bits, default), group or usual, None
    return "unknown", _integer(c.get("group_size")), _pair(c.get("weight_block_size"))


def _cache(config: Mapping[str, Any]) -> str | None:
    """Dtype of the KV cache that the checkpoint was calibrated for."""
    named = _text(config.get("kv_cache_quant_algo")).lower()
    if named in ("fp8", "int8", "nvfp4"):
        return named
    scheme = _object(config.get("kv_cache_scheme"))
    if scheme:
        dtype = _from_number(scheme)[0]
        return None if dtype == "unknown" else dtype
    return None


def quantised_as(
    config: object, separate: object, model: Model, field: str = "quantization_config"
) -> Model:
    """The model as ``quantization_config`` says that it is stored, or else the separate
    ``hf_quant_config.json``."""
    if config is None and separate is not None:
        outer = _checked(separate, "hf_quant_config")
        inner = _object(outer.get("quantization")) or outer
        if not _text(inner.get("quant_algo")) and not inner.get("config_groups"):
            if not _text(inner.get("kv_cache_quant_algo")):
                return model  # ModelOpt writes nulls where nothing is quantised
            config = {"quant_method": "none", **inner}
        else:
            producer = _object(outer.get("producer"))
            config = {"quant_method": _text(producer.get("name")) or "modelopt", **inner}
    if config is None or config == {}:
        return model
    c = _checked(config, field)
    method = _text(c.get("quant_method"), c.get("quantization_method")).lower()
    if not method:
        if "load_in_4bit" in c or "load_in_8bit" in c:
            method = "bitsandbytes"
        elif type(c.get("bits")) is int:
            method = "mlx"
        else:
            method = "modelopt" if c.get("quant_algo") else "unknown"
    if method == "bitsandbytes" and not (
        c.get("load_in_4bit") or c.get("load_in_8bit") or c.get("_load_in_4bit")
        or c.get("_load_in_8bit")
    ):  # fmt: skip
        return model
    _check_numbers(method, c, field)
    found = stored_modules(_skipped(c), None, field)
    default: Stored | None = None
    if method != "none":
        default = _scaled(_stored(_weights(method, c), method in _WEIGHT_ONLY), method, c)
        more, default = _by_module(method, c, default, field)
        found += more
    if method == "mxfp4":  # transformers replaces nothing but the experts
        found, default = found + stored_modules(["*.experts.*"], default, field), None
    model = with_formats(model, found, default)
    main = (
        commonest_format(model)
        or default
        or _most(found)
        or Stored(dtype=model.dtype, weight_only=True)
    )
    ends = {"embedding": main, "head": main} if method == "mlx" else {"head": head_format(found)}
    if c.get("lm_head") is True:
        ends = {"head": main}
    return msgspec.structs.replace(
        model, quantization=quantization_summary(method, main, _cache(c), **ends)
    )


# Methods whose kernels widen the weights in the product, whatever the weights' width.
_WEIGHT_ONLY = frozenset(("bitsandbytes", "bnb", "eetq", "quanto", "tpu_int8", "bitnet", *_BY_BITS))


def _by_module(
    method: str, c: Mapping[str, Any], default: Stored, field: str
) -> tuple[list[StoredModules], Stored | None]:
    """Rules for modules with a format of their own, and the format of all others."""
    if method in ("compressed-tensors", "modelopt") or method.startswith("modelopt"):
        mixed = _object(c.get("quantized_layers"))
        if mixed:
            return _each(mixed, lambda entry: _stored(_modelopt(entry)), field), None
        if c.get("config_groups"):
            return _groups(c, field)
    if method == "mlx":
        named = {k: v for k, v in c.items() if "." in k and (v is False or isinstance(v, dict))}
        return _each(named, lambda entry: _of_bits(entry, default, method), field), default
    own = _object(c.get("extra_config")) or _object(c.get("dynamic"))
    return _each(own, lambda entry: _of_bits(entry, default, method), field), default


def _of_bits(entry: Mapping[str, Any], default: Stored, method: str) -> Stored | None:
    """A module's own bits and group where it states them, the checkpoint's where not."""
    bits = _integer(entry.get("bits"))
    if bits is not None and bits >= 16:
        return None
    own = msgspec.structs.replace(
        default,
        dtype=default.dtype if bits is None else _by_bits(bits, None),
        group=_integer(entry.get("group_size")) or default.group,
    )
    return _scaled(own, method, entry)


def _most(found: list[StoredModules]) -> Stored | None:
    """The format that most rules give."""
    given = [rule.stored for rule in found if rule.stored is not None]
    return max(given, key=given.count, default=None)


def _each(
    entries: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Stored | None], field: str
) -> list[StoredModules]:
    """One rule per module; ``false`` and GPTQModel's ``-:`` leave it out."""
    found: list[StoredModules] = []
    for name, entry in entries.items():
        left_out = entry is False or name.startswith("-:")
        pattern = "re:" + name[2:] if name.startswith(("-:", "+:")) else name
        found += stored_modules(
            [pattern], None if left_out else read(_object(entry)), f"{field}.{name[:40]}"
        )
    return found


_WHOLE = {
    # key: (least, most, what is legal)
    "bits": (1, 32, "a whole number of bits, such as 4"),
    "w_bit": (1, 32, "a whole number of bits, such as 4"),
    "group_size": (-1, 10**6, "a whole number, or -1 for one scale per output"),
    "q_group_size": (-1, 10**6, "a whole number, or -1 for one scale per output"),
}


def _check_numbers(method: str, c: Mapping[str, Any], field: str) -> None:
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
    block = c.get("weight_block_size")
    if block is not None and _pair(block) is None:
        raise InputError(
            f"{field}.weight_block_size: {quoted(block)} is not two whole numbers above 0",
            field=f"{field}.weight_block_size",
            value=block,
            legal="[output features, input features]",
            nearest=[128, 128],
        )


def _checked(value: object, field: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(
            f"{field}: {shorten(value)} where an object belongs",
            field=field,
            value=value,
            legal="an object, or null",
        )
    return value
