"""Containers of any format: compressed-tensors, ModelOpt, Quark."""

from __future__ import annotations

import msgspec

from meshwise import dtypes
from meshwise.models.quantization.modules import rules
from meshwise.models.quantization.stated import (
    MethodFormats,
    StatedMethod,
    each_module,
    kept_wide,
    without_classes,
)
from meshwise.models.quantization.values import (
    NOT_KNOWN,
    Config,
    by_bits,
    integer,
    pair,
    stored_as,
    table_in,
    word_in,
    words_in,
)
from meshwise.models.shapes import Stored


def _of_number(weights: Config, *, only: bool = False) -> Stored:
    """The format of a compressed-tensors or ModelOpt description of weights."""
    bits, group = integer(weights.get("num_bits")), integer(weights.get("group_size"))
    block = pair(weights.get("block_structure"))
    if weights.get("type") == "float":
        if bits == 4:
            return stored_as("mxfp4" if group == 32 else "nvfp4", group or 16, only=only)
        if bits == 8 and group == 32:
            return stored_as("mxfp8", 32, only=only)
        return stored_as("fp8" if bits == 8 else "unknown", group, block, only=only)
    scale = 2.0 if group else 0.0  # 16-bit scales
    if weights.get("symmetric") is False and group:
        scale += (bits or 8) / 8  # packed zeros
    dtype = by_bits(bits)
    return stored_as(dtype, group, only=only, scale=scale if dtype != "unknown" else None)


_CONTAINED = {"float-quantized": "fp8", "int-quantized": "int8", "pack-quantized": "int4",
              "nvfp4-pack-quantized": "nvfp4", "naive-quantized": "int8",
              "mxfp4-pack-quantized": "mxfp4"}  # fmt: skip


def compressed_tensors(a: StatedMethod) -> MethodFormats:
    """compressed-tensors: groups of modules by name or class (Linear), each with its weights' format."""
    sparse = word_in(table_in(a.c.get("sparsity_config")).get("format"))
    if sparse not in ("", "dense"):
        return MethodFormats(NOT_KNOWN, [])
    skipped = kept_wide(a)
    groups = table_in(a.c.get("config_groups"))
    if not groups:
        dtype = _CONTAINED.get(word_in(a.c.get("format")), "unknown")
        group = dtypes.SCALE_BLOCKS.get(dtype) if dtype != "int4" else None
        return MethodFormats(stored_as(dtype, group), skipped)
    found, default, embedding = skipped, None, False
    for name, entry in groups.items():
        weights = table_in(table_in(entry).get("weights"))
        if not weights:
            continue
        # null activations: the weights are widened for the product
        inputs = table_in(entry).get("input_activations", False)
        stored = _of_number(weights, only=inputs is None)
        targets = table_in(entry).get("targets", ["Linear"])
        for target in words_in(targets):
            if target == "Linear":
                default = default or stored
            elif target == "Embedding":
                found = found + rules(["embed_tokens"], stored, a.field)
            else:
                field = f"{a.field}.config_groups.{str(name)[:40]}.targets"
                found = found + rules([without_classes(target)], stored, field)
    # a class means the head too, unless it is left out by name
    return MethodFormats(default, found, (embedding, default is not None and not a.model.tied))


def modelopt_format(c: Config) -> Stored:
    """The format of one of ModelOpt's algorithms."""
    algorithm = word_in(c.get("quant_algo"), c.get("quant_method")).upper()
    group, only = integer(c.get("group_size")), "A16" in algorithm
    if "NVFP4" in algorithm or algorithm == "FP4":
        return stored_as("nvfp4", group or 16, only=only)
    if "MXFP4" in algorithm:
        return stored_as("mxfp4", group or 32)
    if "MXFP8" in algorithm:
        return stored_as("mxfp8", group or 32)
    if algorithm.startswith(("W4", "INT4")):
        return stored_as("int4", group or 128)
    if "FP8" in algorithm:
        block = (128, 128) if "PB" in algorithm or "BLOCK" in algorithm else None
        return stored_as("fp8", None, block, only=algorithm.endswith("WO"))
    if algorithm.startswith(("W8", "INT8")):
        return stored_as("int8", group, only=only)
    return NOT_KNOWN


def modelopt(a: StatedMethod) -> MethodFormats:
    """ModelOpt: one algorithm with modules left out, one per module, or groups as compressed-tensors has."""
    mixed = table_in(a.c.get("quantized_layers"))
    if mixed:
        return MethodFormats(
            None, kept_wide(a) + each_module(mixed, modelopt_format, f"{a.field}.quantized_layers")
        )
    if table_in(a.c.get("config_groups")):
        return compressed_tensors(a)._replace(ends=(False, False))
    stored = modelopt_format(a.c)
    if stored.dtype == "unknown" and a.c.get("format"):
        return compressed_tensors(a)._replace(ends=(False, False))
    return MethodFormats(stored, kept_wide(a))


def _of_quark(entry: Config) -> Stored | None:
    """The format of a Quark layer; of weights that are quantised twice the narrower is stored."""
    weight = entry.get("weight")
    stages = [table_in(w) for w in (weight if isinstance(weight, list) else [weight])]
    found = [_quark_number(w) for w in stages if w]
    if not found:
        return None
    only = "input_tensors" in entry and entry["input_tensors"] is None
    least = min(found, key=lambda s: 9.0 if s.dtype == "unknown" else s.element_bytes)
    return msgspec.structs.replace(least, weight_only=least.weight_only or only)


def _quark_number(weight: Config) -> Stored:
    name, group = word_in(weight.get("dtype")).lower(), integer(weight.get("group_size"))
    if name.startswith("fp8"):
        if word_in(weight.get("scale_format")) == "e8m0" and group == 32:
            return stored_as("mxfp8", 32)
        return stored_as("fp8", group if group != 32 else None)
    if name.startswith(("fp4", "mxfp4", "mx_fp4")):
        return stored_as("nvfp4" if group == 16 else "mxfp4", group or 32)
    if name.startswith(("fp6", "mxfp6", "mx6")):
        return stored_as("mxfp6", group or 32)
    if name.startswith(("int", "uint")):
        digits = name.lstrip("uint")
        bits = int(digits) if digits.isdecimal() and len(digits) < 3 else None
        scale = (2.0 + (bits or 0) / 8 * name.startswith("u")) if group else 0.0
        dtype = by_bits(bits)
        return stored_as(dtype, group, scale=None if dtype == "unknown" else scale)
    return NOT_KNOWN


def quark(a: StatedMethod) -> MethodFormats:
    """Quark: a global format, others by module or class, modules left out."""
    found = kept_wide(a)
    found += each_module(
        table_in(a.c.get("layer_quant_config")), _of_quark, f"{a.field}.layer_quant_config"
    )
    everywhere = _of_quark(table_in(a.c.get("global_quant_config")))
    classes = table_in(a.c.get("layer_type_quant_config"))
    if everywhere is None and "Linear" in classes:
        everywhere = _of_quark(table_in(classes["Linear"]))
    if everywhere is None and not found:
        everywhere = NOT_KNOWN
    return MethodFormats(everywhere, found)
