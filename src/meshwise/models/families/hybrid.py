"""What models with layers of several kinds share: which layer is of which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meshwise.errors import UnsupportedModel, shorten
from meshwise.models.families import keys as fr
from meshwise.models.families.keys import Reader, not_known, wrong
from meshwise.models.families.layers import ModelFields, distinct_blocks
from meshwise.models.shapes import Block

LINEAR_KINDS = ("linear_attention", "full_attention")  # as layer_types names them


def layer_kinds(r: Reader, layers: int) -> list[str] | None:
    """The kind of each layer as ``layer_types`` lists them; None where the file has no such list."""
    found = r.sequence("layer_types", layers)
    known = r.family.layer_kinds
    for item in found or ():
        if item not in known:
            raise not_known(
                "layer_types",
                item,
                f"no layer of kind {shorten(item)!r} is known",
                ", ".join(known),
            )
    return found


def named_kinds(
    r: Reader, key: str, names: Mapping[str, str], layers: int | None = None
) -> list[str] | None:
    """What ``names`` calls each layer of a list of kinds under ``key``; None where the file has none."""
    found = r.sequence(key, layers)
    for item in found or ():
        if not isinstance(item, str) or item not in names:
            why = f"no layer of kind {shorten(item)!r} is known in a {r.model_type}"
            raise not_known(r.find(key)[0], item, why, ", ".join(names))
    return None if found is None else [names[item] for item in found]


def marked_layers(
    r: Reader, key: str, value: object, layers: int, marks: Sequence[object]
) -> list[Any]:
    """A list with one of ``marks`` per layer, under ``key`` (of an object within the file, too)."""
    if not isinstance(value, list) or len(value) != layers:
        said = f"{len(value)} entries" if isinstance(value, list) else fr.kind(value)
        raise wrong(key, value, f"{said} for {layers} layers", legal=f"a list of {layers} entries")
    for item in value:
        if not any(type(item) is type(mark) and item == mark for mark in marks):
            legal = ", ".join(shorten(m) for m in marks)
            raise wrong(key, item, f"{shorten(item)} marks no kind of layer", legal=legal)
    return value


def every(layers: int, period: int, most: str, last: str) -> list[str]:
    """``period`` - 1 layers of one kind, then one of the other."""
    return [most if (i + 1) % period else last for i in range(layers)]


def with_layers(fields: ModelFields, order: Sequence[Block]) -> ModelFields:
    """The fields with their layers."""
    fields["blocks"], fields["pattern"] = distinct_blocks(order)
    return fields


def refuse_set(r: Reader, *names: str) -> None:
    """Refuse keys of variants that were never published as this model type."""
    for name in names:
        if r.flag(name):
            raise other_variant(name, True, "false")


def other_variant(key: str, value: object, known: str) -> UnsupportedModel:
    """The refusal of a variant that no published file of this model type has."""
    said = str(value).lower() if isinstance(value, bool) else shorten(value)
    return not_known(key, value, f"{said} is a variant that is not read", known)


def query_key_normed(r: Reader) -> None:
    """Refuse layers without norms of queries and keys where transformers' class has them all the same and
    engines and the publisher's code leave them out."""
    if not r.flag("use_qk_norm"):
        why = "transformers builds these norms all the same, engines do not"
        raise not_known("use_qk_norm", False, why, "true")


def untied(r: Reader) -> None:
    """Refuse a tied head where the publisher's class ties it and transformers' has two tables all the same."""
    if r.flag("tie_word_embeddings"):
        raise not_known("tie_word_embeddings", True, "a tied head is not known", "false")
