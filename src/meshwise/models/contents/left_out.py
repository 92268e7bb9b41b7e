"""Sizes that a nested block leaves out and that are known all the same.

transformers does not write what is a nested class's default, so some published wrappers' blocks have no
``hidden_size``. A default is a fact of the model only where something else says so: the block names the
checkpoint that it is made from (``_name_or_path``), or it is that of a published file which is known to
leave just these out (``catalog/left_out_sizes.json``).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from meshwise.errors import InputError, shorten
from meshwise.models.families.keys import Family

SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size",
)  # fmt: skip
_GROWS = "vocab_size"  # a wrapper adds tokens to its language model


class LeftOut(NamedTuple):
    """Sizes that a block leaves out, and whose they are."""

    sizes: dict[str, int]
    words: str = ""


def left_out_sizes(block: Mapping[str, Any], family: Family, wrapper: str, key: str) -> LeftOut:
    """What the block ``key`` of a ``wrapper`` leaves out of its family's sizes; empty where it states
    all, or where nothing but the class's default says what they are."""
    stated = {size: _value(block, family, size) for size in SIZES}
    absent = {
        size: default
        for size in SIZES
        if stated[size] is None and type(default := family.defaults.get(size)) is int
    }
    if not absent:
        return LeftOut({})
    found = _of_its_name(block, family, stated, absent) or _of_a_published_file(
        wrapper, stated, absent
    )
    if found is None:
        return LeftOut({})
    sizes, whose = found
    names = ", ".join(sorted(sizes))
    return LeftOut(sizes, f"what {key} leaves out ({names}) is that of {whose}")


def _value(block: Mapping[str, Any], family: Family, size: str) -> Any:
    names = (size, *family.aliases.get(size, ()))
    return next((block[name] for name in names if block.get(name) is not None), None)


def _of_its_name(
    block: Mapping[str, Any], family: Family, stated: dict[str, Any], absent: dict[str, int]
) -> tuple[dict[str, int], str] | None:
    """The sizes of the preset that the block names, where they are its class's too."""
    from meshwise import catalog  # both only for a block without sizes
    from meshwise.models.names import named_model

    name = block.get("_name_or_path")
    if not isinstance(name, str) or not name:
        return None
    try:
        preset = named_model(name)
    except InputError:  # in a format that no name describes
        return None
    if preset is None:
        return None
    known = catalog.load("models", preset.preset, "model")[1]
    known = known.get("text_config", known)
    sizes = {size: known.get(size) for size in SIZES}
    if sizes["num_key_value_heads"] is None:
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    agrees = all(
        stated[size] in (None, sizes[size]) for size in SIZES if sizes[size] and size != _GROWS
    )
    filled = {size: absent[size] for size in absent if sizes[size] is not None}
    if not agrees or any(sizes[size] != value for size, value in filled.items()):
        return None
    return filled, f"preset {preset.preset}, which it names ({shorten(name)})"


@functools.cache
def published_files() -> list[dict[str, Any]]:
    """The files that leave sizes out: wrapper, what the language model's block states, and what not."""
    import json  # both only for a block without sizes

    from meshwise.catalog import ROOT

    text = (ROOT / "left_out_sizes.json").read_text(encoding="utf-8")
    files: list[dict[str, Any]] = json.loads(text)["files"]
    return files


def _of_a_published_file(
    wrapper: str, stated: dict[str, Any], absent: dict[str, int]
) -> tuple[dict[str, int], str] | None:
    """The sizes of the published file that states the same ones and leaves the same ones out."""
    for file in published_files():
        sizes: dict[str, int] = file["left_out"]
        same = all(stated[k] == v for k, v in file["states"].items())
        same = same and all(stated[k] in (None, v) for k, v in sizes.items())
        if file["wrapper"] == wrapper and same and set(absent) <= set(sizes):
            return {k: sizes[k] for k in absent}, f"{file['of']}, whose file leaves them out too"
    return None
