"""torchao's configurations: a name, or an object of its classes, whole or by module."""

from __future__ import annotations

import re

from meshwise.models.quantization.values import (
    NOT_KNOWN,
    Config,
    by_bits,
    integer,
    stored_as,
    table_in,
    word_in,
)
from meshwise.models.shapes import Stored

_DEFAULT_GROUPS = {"int4weightonly": 128, "int8dynamicactivationint4weight": 32}


def _named(name: str, group: int | None) -> Stored:
    """The format that the name of a configuration says: int4_weight_only, Float8WeightOnlyConfig."""
    key = re.sub(r"[^a-z0-9]", "", name.lower()).removesuffix("config")
    only = "weightonly" in key or key.endswith("wo")
    if "nvfp4" in key:
        return stored_as("nvfp4", 16, only=only)
    if key.startswith("mx"):
        return stored_as("unknown")
    if "int4weight" in key or key.startswith("int4wo"):
        whole = next((g for k, g in _DEFAULT_GROUPS.items() if key.startswith(k)), None)
        size = group or whole or 128
        return stored_as("int4", size, only=True, scale=4.0)  # a 16-bit scale and zero
    if "float8weight" in key or key.startswith(("float8", "fp8")):
        return stored_as("fp8", only=only)
    if "int8weight" in key or key.startswith("int8"):
        return stored_as("int8", only=only)
    return NOT_KNOWN


def _any_bits(data: Config, group: int | None) -> Stored:
    """IntxWeightOnlyConfig and its like state the dtype, and a group by its granularity."""
    dtype = data.get("weight_dtype", data.get("dtype"))
    said = word_in(dtype, table_in(dtype).get("_data")).lower()
    bits = re.search(r"int(\d)$", said)
    granularity = table_in(data.get("granularity", data.get("weight_granularity")))
    size = integer(table_in(granularity.get("_data")).get("group_size")) or group
    found = by_bits(int(bits[1])) if bits else by_bits(integer(data.get("bit_width")))
    if found == "unknown":
        return NOT_KNOWN
    return stored_as(found, size, only=True, scale=4.0 if size else 0.0)


def _of(entry: object, group: int | None) -> Stored | None:
    if entry is None:
        return None
    if isinstance(entry, str):
        sizes = re.search(r"-(\d+)$", entry)
        return _named(entry, int(sizes[1]) if sizes else group)
    config = table_in(entry)
    data, name = table_in(config.get("_data")), word_in(config.get("_type"))
    size = integer(data.get("group_size")) or group
    if re.search(r"(?i)intx|gemlite", name):
        return _any_bits(data, size)
    if name.startswith("MX"):
        element = word_in(table_in(data.get("weight_dtype")).get("_data"), data.get("weight_dtype"))
        return stored_as("mxfp4" if "float4" in element else "mxfp8", 32)
    return _named(name, size) if name else NOT_KNOWN


def formats(c: Config) -> tuple[Stored | None, list[tuple[str, Stored | None]], tuple[bool, bool]]:
    """(the format of linear layers, those of modules by name, whether it reaches embedding and head)."""
    kwargs = table_in(c.get("quant_type_kwargs"))
    group = integer(kwargs.get("group_size"), c.get("group_size"))
    stated = c.get("quant_type")
    if isinstance(stated, dict) and "default" in stated:
        stated = stated["default"]
    ends = c.get("include_input_output_embeddings") is True
    by_name = table_in(table_in(stated).get("_data"))
    own = table_in(by_name.get("module_fqn_to_config", by_name.get("fqn_to_config")))
    if own:
        found = [(k, _of(v, group)) for k, v in own.items() if k != "_default"]
        default = _of(own["_default"], group) if "_default" in own else None
        return default, found, (ends, ends)
    return _of(stated, group) if stated is not None else NOT_KNOWN, [], (ends, ends)
