"""A model with what its checkpoint's files say: their formats, their bytes, and where they differ."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from meshwise.models.checkpoint.compare import (
    commonest_dtype,
    differences,
    module_groups,
)
from meshwise.models.checkpoint.expected import derived_apart
from meshwise.models.checkpoint.files import CheckpointFiles, checkpoint_files, read_tensors
from meshwise.models.checkpoint.listed import listed_contents
from meshwise.models.checkpoint.tally import CountedModule, Tally, retold, tally
from meshwise.models.checkpoint_contents import Apart, CheckpointContents, Difference
from meshwise.models.formats import quantization_summary, unquantised
from meshwise.models.quantization.modules import commonest_format
from meshwise.models.shapes import Block, LayerFormats, Model, Stored

_FIELD = "model"


def with_checkpoint(model: Model, folder: str, names: Iterable[str], dtype_stated: bool) -> Model:
    """The model with the checkpoint among the files ``names`` of a folder, or as it is where there is none.

    Only headers and indices are read. Its weights are stored as the files have them: formats of matrices
    with the bytes per weight of all that belongs to them (scales, zeros, indices), and the number format of
    the rest. ``dtype_stated``: the config says that format itself. Raises :class:`InputError`, one line, for
    files that are not what they have to be.
    """
    files = checkpoint_files(folder, names, _FIELD)
    if files is None:
        return model
    if files.listing is not None:
        return _said(model, listed_contents(model, files.listing))
    tensors = read_tensors(folder, files.files, _FIELD)
    found = tally(model, tensors)
    commonest = commonest_dtype(found) or model.dtype
    faults = list(differences(found, model, commonest))
    if dtype_stated and commonest != model.dtype:
        both = {"derived": model.dtype, "checkpoint": commonest}
        faults.insert(0, Difference(kind="dtype", group="", module="weights", layers=(), **both))
    stored = _as_stored(msgspec.structs.replace(model, dtype=commonest), found)
    return _said(stored, _contents(found, stored, files, len(tensors), tuple(faults)))


def _said(model: Model, contents: CheckpointContents) -> Model:
    """The model with its checkpoint; what differs is said with every answer."""
    asked, faults = model.asked, contents.differences
    if faults:
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        first = f"{faults[0].kind}: {faults[0].where}"
        if faults[0].kind == "bytes":
            first += f", {faults[0].checkpoint} in place of {faults[0].derived}"
        said = (
            f"its files differ from its config.json ({first}{more}); "
            f"`meshwise model {model.source}` lists what is there"
        )
        asked = f"{asked}; {said}" if asked else said
    return msgspec.structs.replace(model, checkpoint=contents, asked=asked)


def _contents(
    found: Tally,
    stored: Model,
    files: CheckpointFiles,
    tensors: int,
    faults: tuple[Difference, ...],
) -> CheckpointContents:
    groups = module_groups(found)
    apart = tuple(
        Apart(
            what=what,
            tensors=number,
            derived_parameters=derived_apart(found.model, what),
            parameters=weights,
            bytes=size,
        )
        for what, (number, weights, size) in found.apart.items()
        if number
    )
    own = sum(g.checkpoint_bytes or 0 for g in groups)
    return CheckpointContents(
        files=len(files.files),
        tensors=tensors,
        total_bytes=own + sum(a.bytes or 0 for a in apart),
        parameters=sum(g.checkpoint_parameters or 0 for g in groups),
        bytes=own,
        groups=groups,
        differences=faults,
        apart=apart,
        extra_bytes=_extra_bytes(found, stored),
        end_extra_bytes=_surplus(found.ends.values(), found.ends_expected.weights),
    )


# -- what is there beyond the derived model --------------------------------------------------------


def _surplus(rows: Iterable[CountedModule], expected: dict[str, int]) -> float:
    """Bytes of the weights that a part has more of than derived, at its mean bytes per weight."""
    sums: dict[str, list[int]] = {}
    for row in rows:
        one = sums.setdefault(row.name.group, [0, 0])
        one[0] += row.weights + row.biases
        one[1] += row.bytes + row.bias_bytes
    more = sum(weights for weights, _ in sums.values()) - sum(expected.values())
    if more <= 0:
        return 0.0
    above = {g: s for g, s in sums.items() if s[0] > expected.get(g, 0)}
    mean = sum(size for _, size in above.values()) / sum(w for w, _ in above.values())
    return more * mean


def _extra_bytes(found: Tally, stored: Model) -> tuple[float, ...]:
    """For each kind of layer of the model as it is stored, the mean over its layers."""
    sums = [0.0] * len(stored.blocks)
    for index, kind in enumerate(stored.pattern):
        rows = found.layers.get(index, {}).values()
        sums[kind] += _surplus(rows, found.expected(index).weights)
    return tuple(s / max(n, 1) for s, n in zip(sums, stored.kind_counts(), strict=True))


# -- formats -----------------------------------------------------------------------------------------


def _role_format(
    rows: list[CountedModule], stated: Stored | None, only: bool | None
) -> tuple[Stored | None, int, int]:
    """(format, weights, bytes) of the matrices of a role in one layer: the format of most of them."""
    size: dict[Stored | None, int] = {}
    for row in rows:
        size[row.stored] = size.get(row.stored, 0) + row.weights
    main = max(size, key=lambda stored: size[stored])
    weights, held = sum(size.values()), sum(row.bytes for row in rows)
    if main is None and len(size) > 1:  # most are as they were; the others count in the mean
        main = next(stored for stored in size if stored is not None)
    if main is not None and main.dtype == "unknown":
        main = stated if stated is not None and weights else main
    elif main is not None:
        main = retold(main, stated, any(row.input_scales for row in rows), only)
    return main, weights, held


def _as_stored(model: Model, found: Tally) -> Model:
    """The model with the formats of the files in place of those that its config leads to expect."""
    q = model.quantization
    only = q.weight_only if q is not None and q.weight_dtype != "unknown" else None
    kinds: dict[Block, int] = {}
    pattern: list[int] = []
    sums: list[dict[str, list[int]]] = []
    for index, kind in enumerate(model.pattern):
        block = model.blocks[kind]
        by_role: dict[str, list[CountedModule]] = {}
        for row in found.layers.get(index, {}).values():
            if row.role:
                by_role.setdefault(row.role, []).append(row)
        formats: dict[str, Stored | None] = {}
        held: dict[str, list[int]] = {}
        for role in LayerFormats.__struct_fields__:
            stated = getattr(block.stored, role)
            formats[role] = stated  # what is not in the files is as derived
            if role in by_role:
                formats[role], *numbers = _role_format(by_role[role], stated, only)
                held[role] = numbers
        block = msgspec.structs.replace(block, stored=LayerFormats(**formats))
        place = kinds.setdefault(block, len(kinds))
        pattern.append(place)
        if place == len(sums):
            sums.append({})
        for role, (weights, size) in held.items():
            one = sums[place].setdefault(role, [0, 0])
            one[0] += weights
            one[1] += size
    blocks = tuple(_with_means(block, sums[i]) for i, block in enumerate(kinds))
    ends = {end: _end_format(found, end, only) for end in ("embedding", "head")}
    quantised = any(b.stored != LayerFormats() for b in blocks) or any(ends.values())
    if not quantised:
        return unquantised(model)
    model = msgspec.structs.replace(model, blocks=blocks, pattern=tuple(pattern))
    main = commonest_format(model) or next(s for s in ends.values() if s is not None)
    method, cache = (q.method, q.kv_cache_dtype) if q is not None else (main.dtype, None)
    known = {end: stored for end, stored in ends.items() if stored is not None}
    if q is not None and main.dtype == "unknown":
        return msgspec.structs.replace(model, quantization=q)
    summary = quantization_summary(method, main, cache, **known)
    return msgspec.structs.replace(model, quantization=summary)


def _with_means(block: Block, sums: dict[str, list[int]]) -> Block:
    """Every format with the bytes per weight that its matrices take in the files of all layers."""
    formats = {}
    for role, (weights, size) in sums.items():
        stored = getattr(block.stored, role)
        if stored is not None and stored.dtype != "unknown" and weights:
            formats[role] = msgspec.structs.replace(stored, mean_bytes=size / weights)
    return msgspec.structs.replace(block, stored=msgspec.structs.replace(block.stored, **formats))


def _end_format(found: Tally, end: str, only: bool | None) -> Stored | None:
    """The format of the table of an end, where it is quantised."""
    tables = [r for r in found.ends.values() if r.name.group == end and r.stored is not None]
    if not tables:
        return None
    q = found.model.quantization
    stated = getattr(q, end) if q is not None else None
    stored, weights, size = _role_format(tables, stated, only)
    if stored is None or stored.dtype == "unknown" or not weights:
        return stored
    return msgspec.structs.replace(stored, mean_bytes=size / weights)
