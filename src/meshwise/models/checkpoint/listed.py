"""What an index alone says of a checkpoint: names of tensors and the bytes of all; no shapes."""

from __future__ import annotations

from collections import Counter

from meshwise.models.checkpoint.compare import all_derived_bytes
from meshwise.models.checkpoint.expected import derived_apart
from meshwise.models.checkpoint.headers import Index
from meshwise.models.checkpoint.modules import APART_GROUPS, ModuleName, ModuleNames, module_names
from meshwise.models.checkpoint.tally import Tally
from meshwise.models.checkpoint_contents import Apart, CheckpointContents, Difference
from meshwise.models.shapes import Model


def listed_contents(model: Model, index: Index) -> CheckpointContents:
    """The contents by names: modules that are missing or too many; weights and bytes by part are not
    known."""
    tensors = [tensor for listed in index.shards.values() for tensor in listed]
    names, expected = ModuleNames(), Tally(model)
    read = [expected.placed(names(path)) for path in sorted(module_names(tensors))]
    mtp = {n.layer for n in read if n.is_mtp and n.layer is not None}
    layers: dict[int, dict[tuple[str, str], int]] = {}
    labels: dict[int, dict[str, ModuleName]] = {}
    apart = dict.fromkeys(APART_GROUPS, 0)
    found: dict[tuple[str, ...], list[int]] = {}
    for name in read:
        if name.group == "head" and name.slots and model.tied:
            apart["tied_copies"] += 1
        elif name.group in APART_GROUPS:
            apart[name.group] += 1
        elif name.layer is not None and name.layer >= model.layers and name.layer in mtp:
            apart["mtp"] += 1
        elif name.layer is None and not name.group:
            found.setdefault(("extra", "", name.label, "", "there"), [])
        elif name.layer is not None:
            slots = layers.setdefault(name.layer, {})
            labels.setdefault(name.layer, {})[name.label] = name
            stacked = "*" not in name.label
            for slot in name.slots:
                key = (name.group, slot)
                matrix = None
                if name.layer < model.layers:
                    matrix = expected.expected(name.layer).matrices.get(key)
                more = matrix.copies if matrix is not None and stacked else 1
                slots[key] = slots.get(key, 0) + more
    for layer in range(model.layers):
        _missing(found, layer, expected, layers.get(layer))
        for label, name in labels.get(layer, {}).items():
            group = name.group
            if group and group not in expected.expected(layer).weights:
                found.setdefault(("extra", group, label, "", "there"), []).append(layer)
    for layer in sorted(layers):
        if layer >= model.layers:
            found.setdefault(("extra", "", "(all of it)", "", "there"), []).append(layer)
    if not found:
        found |= _of_another_size(expected, index.total_bytes, apart)
    fields = ("kind", "group", "module", "derived", "checkpoint")
    return CheckpointContents(
        files=len(index.shards),
        tensors=len(tensors),
        total_bytes=index.total_bytes,
        parameters=None,
        bytes=None,
        groups=(),
        differences=tuple(
            Difference(layers=tuple(at), **dict(zip(fields, key, strict=True)))
            for key, at in found.items()
        ),
        apart=tuple(
            Apart(
                what=what,
                tensors=number,
                derived_parameters=derived_apart(model, what),
                parameters=None,
                bytes=None,
            )
            for what, number in apart.items()
            if number
        ),
    )


def _missing(
    found: dict[tuple[str, ...], list[int]],
    layer: int,
    expected: Tally,
    slots: dict[tuple[str, str], int] | None,
) -> None:
    block = expected.model.blocks[expected.model.pattern[layer]]
    if slots is None:
        if not block.shared:
            found.setdefault(("missing", "", "(all of it)", "the whole layer", ""), []).append(
                layer
            )
        return
    matrices = expected.expected(layer).matrices
    due, there = Counter[str](), Counter[str]()
    for (group, _), matrix in matrices.items():
        due[group] += matrix.copies
    for (group, _), number in slots.items():
        there[group] += number
    for (group, slot), matrix in matrices.items():
        number = slots.get((group, slot), 0)
        if there[group] >= due[group]:
            continue  # as many as there should be, by names that two families use for two products
        if number < matrix.copies and group != "recurrent" and not block.shared:
            some = f"{number} of {matrix.copies}" if number else ""
            key = ("missing", group, f"{group} {slot}", f"{matrix.copies} modules", some)
            found.setdefault(key, []).append(layer)


def _of_another_size(
    expected: Tally, stated: int | None, apart: dict[str, int]
) -> dict[tuple[str, ...], list[int]]:
    """What an index says of the bytes of all tensors, where no such model has as many.

    The language model is as its config says; how what stands beside it is stored it does not always say:
    from four bits a weight to 32. Small tensors (scales of a whole matrix, buffers) are within 2%.
    """
    derived = all_derived_bytes(expected)
    if stated is None or derived is None:
        return {}
    beside = [
        derived_apart(expected.model, what) for what, n in apart.items() if n and what != "buffers"
    ]
    if any(weights is None for weights in beside):
        return {}
    weights = sum(n for n in beside if n is not None)
    low, high = 0.98 * (derived + 0.5 * weights), 1.02 * (derived + 4.0 * weights)
    if low <= stated <= high:
        return {}
    size = f"{round(derived):,} bytes" + (f", and {weights:,} weights beside" if weights else "")
    return {("bytes", "", "all tensors", size, f"total_size {stated:,}"): []}
