"""A checkpoint's modules beside those that the model's ``config.json`` leads to expect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from meshwise import dtypes
from meshwise.models.checkpoint.expected import Expected
from meshwise.models.checkpoint.headers import some
from meshwise.models.checkpoint.modules import END_GROUPS, LAYER_GROUPS
from meshwise.models.checkpoint.tally import CountedModule, LayerModules, Tally, role_of
from meshwise.models.checkpoint_contents import Difference, ModuleGroup
from meshwise.models.shapes import LayerFormats, Model, Stored

_WHOLE = "(all of it)"
_ALIKE = 0.03  # of a mean's bytes per weight, by which two derivations of it may differ


class _Found(NamedTuple):
    """A difference of one layer, before those of several layers are put together."""

    kind: str
    group: str
    module: str
    derived: str
    checkpoint: str


def _sums(layer: LayerModules) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in layer.values():
        found[row.name.group] = found.get(row.name.group, 0) + row.weights + row.biases
    return found


def _shape(rows: int, columns: int, count: int = 1) -> str:
    return f"[{rows}, {columns}]" if count == 1 else f"{count} x [{rows}, {columns}]"


def _matrix_faults(group: str, rows: list[CountedModule], expected: Expected) -> Iterator[_Found]:
    """Matrices that are missing or of another shape; a recurrent mixer's have names of many kinds."""
    if group == "recurrent":
        return
    seen: dict[str, int] = {}
    for row in rows:
        slots = [slot for slot in row.name.slots if (group, slot) in expected.matrices]
        known = [expected.matrices[group, slot] for slot in slots]
        if not known:
            continue
        stacked = "*" not in row.name.label
        for slot, matrix in zip(slots, known, strict=True):
            seen[slot] = seen.get(slot, 0) + (matrix.copies if stacked else row.number)
        one = sum(m.weights for m in known)
        want = one * (known[0].copies if stacked else row.number)
        if row.weights != want:
            inputs, outputs = known[0].inputs, sum(m.outputs for m in known)
            count = known[0].copies if stacked else 1
            told = (
                str(list(row.shape))
                if row.stored is None
                else f"{row.weights // row.number:,} weights"
            )
            yield _Found("shape", group, row.name.label, _shape(outputs, inputs, count), told)
    for (own, slot), matrix in expected.matrices.items():
        if own == group and seen.get(slot, 0) < matrix.copies:
            some = f"{seen.get(slot, 0)} of {matrix.copies}" if seen.get(slot) else ""
            told = _shape(matrix.outputs, matrix.inputs, matrix.copies)
            yield _Found("missing", group, f"{group} {slot}", told, some)


def _faults(
    group: str, rows: list[CountedModule], expected: Expected, wanted: int
) -> Iterator[_Found]:
    """Why a group has another number of weights than derived."""
    matrices = list(_matrix_faults(group, rows, expected))
    yield from matrices
    known = {slot for own, slot in expected.matrices if own == group and group != "recurrent"}
    others = [r for r in rows if not known.intersection(r.name.slots)]
    plain = sum(r.weights for r in others) + sum(r.biases for r in rows)
    due = wanted - sum(
        m.weights * m.copies
        for (own, slot), m in expected.matrices.items()
        if own == group and slot in known
    )
    if plain == due or (matrices and not others and not plain):
        return
    if plain < due:
        yield _Found("missing", group, f"{group}: norms, biases", f"{due:,} weights", f"{plain:,}")
        return
    names = [r.name.label for r in others] + [f"{r.name.label}.bias" for r in rows if r.biases]
    told = f"{due:,} weights" if due else ""
    yield _Found("extra", group, some(names), told, f"{plain:,} weights")


def _layer_faults(tally: Tally, index: int) -> Iterator[_Found]:
    layer, expected = tally.layers.get(index), tally.expected(index)
    block = tally.model.blocks[tally.model.pattern[index]]
    if layer is None:
        if not block.shared:
            yield _Found("missing", "", _WHOLE, f"{sum(expected.weights.values()):,} weights", "")
        return
    own = {row.name.group for row in layer.values()}
    if block.shared and not own & {"attention", "recurrent", "feed_forward", "experts"}:
        return  # its weights are stored with another layer
    yield from _group_faults(layer, expected, LAYER_GROUPS)


def _group_faults(
    layer: LayerModules, expected: Expected, groups: Iterable[str]
) -> Iterator[_Found]:
    there = _sums(layer)
    wrong = {
        g: (expected.weights.get(g, 0), there.get(g, 0))
        for g in (*groups, "")
        if expected.weights.get(g, 0) != there.get(g, 0)
    }
    if sum(want - has for want, has in wrong.values()) == 0:
        return  # its names put a module into another group than ours do; nothing is missing
    for group, (want, _) in wrong.items():
        rows = [r for r in layer.values() if r.name.group == group]
        yield from _faults(group, rows, expected, want)


# -- formats ---------------------------------------------------------------------------------------


def format_in_words(stored: Stored | None, plain: str) -> str:
    if stored is None:
        return plain
    if stored.dtype == "unknown":
        return "a format that is not known"
    unit = f", blocks of {stored.block[0]}x{stored.block[1]}" if stored.block else ""
    return stored.dtype + (unit or (f", groups of {stored.group}" if stored.group else ""))


def same_format(there: Stored | None, stated: Stored | None) -> bool:
    """Whether the files are as the config says; what one of the two leaves open is no difference."""
    if there is None or stated is None:
        return there is stated
    if "unknown" in (there.dtype, stated.dtype):
        return True
    integers = there.dtype.startswith("int") and stated.dtype.startswith("int")
    if integers and stated.mean_bytes is not None:
        return True  # a mean of several widths, as EXL2 and GGUF state it
    if there.dtype != stated.dtype:
        return False
    groups, blocks = (there.group, stated.group), (there.block, stated.block)
    return (None in groups or len(set(groups)) == 1) and (None in blocks or len(set(blocks)) == 1)


def _mixed_roles(layer: LayerModules, stated: dict[str, Stored | None]) -> set[str]:
    """Roles of several formats whose mean the config gives, and the files have: no module of them is as
    the mean says."""
    found = set()
    for role, wanted in stated.items():
        if wanted is None or wanted.mean_bytes is None or wanted.dtype == "unknown":
            continue
        rows = [row for row in layer.values() if row.role == role]
        weights = sum(row.weights for row in rows)
        if weights and abs(sum(r.bytes for r in rows) / weights / wanted.mean_bytes - 1) < _ALIKE:
            found.add(role)
    return found


def _format_faults(
    layer: LayerModules, stated: dict[str, Stored | None], plain: str
) -> Iterator[_Found]:
    """Modules in another format than ``stated`` for their role, or for the group of an end."""
    mixed = _mixed_roles(layer, stated)
    for row in layer.values():
        group, table = row.name.group, row.name.slots == ("table",)
        role = group if table else row.role
        there, wanted = row.stored, stated.get(role)
        if there is None and wanted is None:
            if row.dtype != plain:
                yield _Found("dtype", group, row.name.label, plain, row.dtype)
        elif role in mixed or (not role and there is None):
            continue
        elif not same_format(there, wanted):
            words = format_in_words(wanted, plain), format_in_words(there, row.dtype)
            yield _Found("format", group, row.name.label, *words)


def _of_layer(formats: LayerFormats) -> dict[str, Stored | None]:
    return {role: getattr(formats, role) for role in LayerFormats.__struct_fields__}


def _of_ends(model: Model) -> dict[str, Stored | None]:
    q = model.quantization
    return {end: getattr(q, end) if q is not None else None for end in END_GROUPS}


def commonest_dtype(tally: Tally) -> str | None:
    """The number format of most bytes of the weights that are not quantised."""
    found: dict[str, int] = {}
    for layer in (*tally.layers.values(), tally.ends):
        for row in layer.values():
            if row.stored is None and row.dtype in dtypes.ELEMENT_BYTES:
                found[row.dtype] = found.get(row.dtype, 0) + row.bytes
    return max(found, key=lambda dtype: found[dtype]) if found else None


# -- both ------------------------------------------------------------------------------------------


def differences(tally: Tally, model: Model, plain: str) -> tuple[Difference, ...]:
    """Every module that is not as the model leads to expect; ``plain`` is the number format of the
    weights that are not quantised."""
    found: dict[_Found, list[int]] = {}
    for index in range(model.layers):
        stated = _of_layer(model.blocks[model.pattern[index]].stored)
        for fault in (
            *_layer_faults(tally, index),
            *_format_faults(tally.layers.get(index, {}), stated, plain),
        ):
            found.setdefault(fault, []).append(index)
    for index in sorted(tally.layers):
        if index >= model.layers:
            number = sum(_sums(tally.layers[index]).values())
            fault = _Found("extra", "", _WHOLE, "", f"{number:,} weights")
            found.setdefault(fault, []).append(index)
    for fault in (
        *_group_faults(tally.ends, tally.ends_expected, END_GROUPS),
        *_format_faults(tally.ends, _of_ends(model), plain),
    ):
        found.setdefault(fault, [])
    return tuple(
        Difference(layers=tuple(layers), **fault._asdict()) for fault, layers in found.items()
    )


def _derived_bytes(tally: Tally, group: str) -> float | None:
    """Bytes of a group as the config says that they are stored; None where it does not say how."""
    model, total = tally.model, 0.0
    plain = dtypes.ELEMENT_BYTES[model.dtype]
    if group in END_GROUPS:
        q, number = model.quantization, tally.ends_expected.weights.get(group, 0)
        stored = getattr(q, group) if q is not None else None
        if stored is not None and stored.dtype == "unknown":
            return None
        table = tally.ends_expected.matrices.get((group, "table"))
        narrow = table.weights if table is not None and stored is not None else 0
        width = plain if stored is None else stored.element_bytes
        return narrow * width + (number - narrow) * plain
    for block, expected, sets in zip(model.blocks, tally.kinds, _sets(model), strict=True):
        rest = expected.weights.get(group, 0)
        for (own, slot), matrix in expected.matrices.items():
            stored = getattr(block.stored, role_of(own, slot)) if own == group else None
            if stored is None:
                continue
            if stored.dtype == "unknown":
                return None
            number = matrix.weights * matrix.copies
            rest -= number
            total += number * stored.element_bytes * sets
        total += rest * plain * sets
    return total


def all_derived_bytes(tally: Tally) -> float | None:
    """Bytes of the language model as the config says that it is stored; None where it does not say how."""
    groups = dict.fromkeys((*END_GROUPS, *(g for kind in tally.kinds for g in kind.weights)))
    found = [_derived_bytes(tally, group) for group in groups]
    known = [size for size in found if size is not None]
    return sum(known) if len(known) == len(found) else None


def _sets(model: Model) -> list[int]:
    """Sets of weights of each kind of layer: one where its layers share theirs."""
    counts = zip(model.blocks, model.kind_counts(), strict=True)
    return [min(n, 1) if block.shared else n for block, n in counts]


def module_groups(tally: Tally) -> tuple[ModuleGroup, ...]:
    """Weights and bytes by part of the model, derived and in the files."""
    there: dict[str, list[int]] = {}
    for layer in (*tally.layers.values(), tally.ends):
        for row in layer.values():
            sums = there.setdefault(row.name.group, [0, 0])
            sums[0] += row.weights + row.biases
            sums[1] += row.bytes + row.bias_bytes
    found = []
    for group in (END_GROUPS[0], *LAYER_GROUPS, END_GROUPS[1], ""):
        wanted = tally.ends_expected.weights.get(group, 0)
        wanted += sum(
            expected.weights.get(group, 0) * sets
            for expected, sets in zip(tally.kinds, _sets(tally.model), strict=True)
        )
        if not wanted and group not in there:
            continue
        weights, size = there.get(group, (0, 0))
        found.append(
            ModuleGroup(
                group=group or "other",
                parameters=wanted,
                bytes=_derived_bytes(tally, group) if wanted else 0.0,
                checkpoint_parameters=weights,
                checkpoint_bytes=size,
            )
        )
    return tuple(found)
