"""How a checkpoint stores its weights, from ``quantization_config`` or ``hf_quant_config.json``.

A method that is not known keeps the parameter count right and gives ``weight_dtype`` "unknown":
the caller has to ask for the bytes. Anything malformed inside is read as far as it is clear.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from meshwise import dtypes
from meshwise.models.formats import quantization_summary
from meshwise.models.quantization.methods import read_method
from meshwise.models.quantization.modules import ModuleFormat, commonest_format, with_formats
from meshwise.models.quantization.stated import MethodFormats, StatedMethod
from meshwise.models.quantization.towers import replaces_every_linear, tower_formats
from meshwise.models.quantization.values import (
    Config,
    check_numbers,
    integer,
    object_or_refused,
    table_in,
    word_in,
)
from meshwise.models.shapes import Model, Stored


def _cache(c: Config) -> str | None:
    """Dtype of the KV cache that the checkpoint was calibrated for."""
    named = dtypes.known(word_in(c.get("kv_cache_quant_algo")))
    if named in ("fp8", "int8", "nvfp4"):
        return named
    scheme = table_in(c.get("kv_cache_scheme"))
    if not scheme:
        return None
    bits = integer(scheme.get("num_bits"))
    if scheme.get("type") == "float":
        return {8: "fp8", 4: "nvfp4"}.get(bits or 0)
    found = f"int{bits}"
    return found if found in dtypes.KV_CACHE else None


def _of_separate(value: object) -> Config | None:
    """``hf_quant_config.json`` as a ``quantization_config``; None where it quantises nothing."""
    outer = object_or_refused(value, "hf_quant_config")
    inner = table_in(outer.get("quantization")) or outer
    if not word_in(inner.get("quant_algo")) and not inner.get("config_groups"):
        if not word_in(inner.get("kv_cache_quant_algo")):
            return None  # ModelOpt writes nulls where nothing is quantised
        return {"quant_method": "none", **inner}
    producer = table_in(outer.get("producer"))
    return {"quant_method": word_in(producer.get("name")) or "modelopt", **inner}


def _method(c: Config) -> str:
    """The method in lower case; where none is named, what only one method writes."""
    named = word_in(c.get("quant_method"), c.get("quantization_method")).lower()
    if named:
        return named
    if "load_in_4bit" in c or "load_in_8bit" in c:
        return "bitsandbytes"
    if type(c.get("bits")) is int:
        return "mlx"
    return "modelopt" if c.get("quant_algo") else "unknown"


def quantised_as(
    config: object,
    separate: object,
    model: Model,
    field: str = "quantization_config",
    outer: Mapping[str, Any] | None = None,
) -> Model:
    """The model as ``quantization_config`` says that it is stored, or else the separate
    ``hf_quant_config.json``; ``outer`` is the ``config.json`` around it."""
    if config is None and separate is not None:
        config, field = _of_separate(separate), "hf_quant_config"
    if config is None or config == {}:
        return model
    c = object_or_refused(config, field)
    method = _method(c)
    if method == "bitsandbytes" and not any(
        c.get(key) for key in ("load_in_4bit", "load_in_8bit", "_load_in_4bit", "_load_in_8bit")
    ):
        return model
    check_numbers(method, c, field)
    found = MethodFormats(None, [])
    if method != "none":
        found = read_method(method, StatedMethod(c, field, outer or {}, model))
    named, embedding, head = with_formats(
        model,
        found.rules,
        found.default,
        found.ends,
        found.overhead,
        found.choice,
        replaces_every_linear(method),
    )
    main = commonest_format(named) or found.default or _most(found.rules)
    if main is None:
        main = Stored(dtype=model.dtype, weight_only=True)
    ends = {"embedding": embedding, "head": embedding if model.tied and embedding else head}
    summary = quantization_summary(method, main, _cache(c), **ends)
    towers = tower_formats(model.towers, method, found.rules, found.default)
    return msgspec.structs.replace(named, quantization=summary, towers=towers)


def _most(found: list[ModuleFormat]) -> Stored | None:
    """The format that most rules give."""
    given = [rule.stored for rule in found if rule.stored is not None]
    return max(given, key=given.count, default=None)
