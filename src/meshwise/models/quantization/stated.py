"""What a method of quantisation reads and says, and the keys that several methods share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from meshwise.models.quantization.modules import Choice, ModuleFormat, Overhead, rules
from meshwise.models.quantization.values import Config, table_in, words_in
from meshwise.models.shapes import Model, Stored

_SKIP_KEYS = ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules", "exclude",
              "llm_int8_skip_modules", "modules_to_not_quantize", "skip_modules",
              "linear_weights_not_to_quantize")  # fmt: skip


class MethodFormats(NamedTuple):
    """What a method says: the format of matrices that no rule means, the rules, and whether that format
    reaches (embedding, head)."""

    default: Stored | None
    rules: list[ModuleFormat]
    ends: tuple[bool, bool] = (False, False)
    overhead: Overhead | None = None
    choice: Choice | None = None


class StatedMethod(NamedTuple):
    """What a method reads: its object, the field that this stands in, the rest of the file, the model."""

    c: Config
    field: str
    outer: Config
    model: Model


# Classes of modules by the end of their names, as patterns of the names that they have.
_CLASSES = {"Attention": "self_attn", "MLP": "mlp", "Experts": "*.experts.*", "MoE": "*.experts.*",
            "SparseMoeBlock": "*.experts.*"}  # fmt: skip


def without_classes(text: str) -> str:
    """A pattern of names for the name of a class: Llama4TextAttention; another text as it is."""
    if not text[:1].isupper() or not text.isalnum():
        return text
    return next((names for end, names in _CLASSES.items() if text.endswith(end)), text)


def kept_wide(a: StatedMethod) -> list[ModuleFormat]:
    """The modules that keep their dtype. compressed-tensors names single modules, and lists the parents of
    what it leaves out too; others mean what is inside."""
    alone = a.c.get("quant_method") == "compressed-tensors"
    found: list[ModuleFormat] = []
    for key in _SKIP_KEYS:
        for text in words_in(a.c.get(key)):
            named = without_classes(text)
            found += rules([named], None, f"{a.field}.{key}", alone=alone and named == text)
    return found


def each_module(
    entries: Config, read: Callable[[Config], Stored | None], field: str
) -> list[ModuleFormat]:
    """One rule per module; ``false``, null and GPTQModel's ``-:`` leave it out."""
    found: list[ModuleFormat] = []
    for name, entry in entries.items():
        left_out = entry is False or entry is None or name.startswith("-:")
        pattern = "re:" + name[2:] if name.startswith(("-:", "+:")) else name
        stored = None if left_out else read(table_in(entry))
        found += rules([pattern], stored, field)
    return found
