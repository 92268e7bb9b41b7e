"""Bytes of a model's weights, as they are stored."""

from __future__ import annotations

import numpy as np

from meshwise import dtypes
from meshwise.arrays import Array
from meshwise.layouts.layout import Layouts
from meshwise.models.parameters import (
    embedding_weights,
    has_towers,
    head_weights,
    parameters,
)
from meshwise.models.shapes import Block, Model, Tower
from meshwise.program.context import Widths, stored_width, widths
from meshwise.program.weights import Role, block_matrices, end_weights, layers_held
from meshwise.workloads.workload import Prefill


def block_bytes(model: Model, block: Block, layout: Layouts, w: Widths) -> Array:
    """Bytes of one layer's weights on one rank: every matrix in its own format, scales included."""
    return layers_bytes(model, block, np.int64(1), layout, w)


def layers_bytes(model: Model, block: Block, count: Array, layout: Layouts, w: Widths) -> Array:
    """Bytes of the weights of ``count`` layers of a kind on one rank."""
    m = block_matrices(block, model.hidden, layout)
    total: Array = (m.plain + m.expert_biases) * w.plain_weight
    for stored, number in (*m.linear, *m.experts):
        total = total + number * stored_width(model, w, stored)
    return total * layers_held(block, count) + m.adapters * w.plain_weight * count


def end_bytes(model: Model, layout: Layouts, w: Widths, rows: Array) -> tuple[Array, Array]:
    """Bytes of (embedding, head) on one rank that holds ``rows`` of the (padded) vocabulary: tables in
    their own format, norms and positions beside them wide."""
    q = model.quantization
    formats = (q.embedding, q.head) if q is not None else (None, None)
    wide = (embedding_weights(model).replicated, head_weights(model).replicated)
    ends = zip(end_weights(model, layout, rows), wide, formats, strict=True)
    embed, head = (
        rest * w.plain_weight
        + (number - rest) * (w.plain_weight if how is None else stored_width(model, w, how))
        for number, rest, how in ends
    )
    return embed, head


def stage_bytes(model: Model, role: Role, layout: Layouts, w: Widths, rows: Array) -> Array:
    """Bytes of a pipeline stage's weights on one rank that holds ``rows`` of the (padded) vocabulary, not
    divided over replicas.
    """
    embed, head = end_bytes(model, layout, w, rows)
    total: Array = embed * role.embedding + head * role.head
    for block, count in zip(model.blocks, role.layers, strict=True):
        total = total + layers_bytes(model, block, count, layout, w)
    return total + extra_bytes(model, role)


def extra_bytes(model: Model, role: Role) -> Array:
    """Bytes of a stage's weights that the checkpoint's files have and the derived model does not: whole on
    every rank, as nothing says how they are divided.
    """
    found = model.checkpoint
    if found is None or not (any(found.extra_bytes) or found.end_extra_bytes):
        return 0.0
    layers = zip(found.extra_bytes, role.layers, strict=True)
    return sum(size * count for size, count in layers) + found.end_extra_bytes * role.embedding


def tower_bytes(model: Model, layout: Layouts, w: Widths, divided: bool) -> Array:
    """Bytes of the encoders of images and sounds on one rank that has them: as the checkpoint's files or its
    configuration hold them, and 16 bit in most. ``divided``: by TP, where it divides their heads; embeddings,
    norms and biases of what is added up stay whole."""
    held = _held_tower_bytes(model, w)
    if not model.towers:
        return held or 0.0
    parts = [_tower_parts(model, tower, w) for tower in model.towers]
    scale = 1.0 if held is None else held / sum(sum(part) for part in parts)
    total: Array = 0.0
    for tower, (split, kept) in zip(model.towers, parts, strict=True):
        shares = np.where(divided & (tower.heads % layout.tp == 0), layout.tp, 1)
        total = total + (kept + split / shares) * scale
    return total


def _tower_parts(model: Model, tower: Tower, w: Widths) -> tuple[float, float]:
    """Bytes of a tower (that TP may divide, the others). A projector is linear layers alone; of an encoder
    patches, positions and norms are never quantised."""
    quantised = tower.stored is not None and model.quantization is not None
    narrow = stored_width(model, w, tower.stored) if quantised else w.plain_weight
    rest = narrow if tower.kind == "projector" else w.plain_weight
    return tower.split * narrow, (tower.parameters - tower.split) * rest


def _held_tower_bytes(model: Model, w: Widths) -> float | None:
    """Bytes of the encoders' weights in the checkpoint's files, none wider than it is loaded; None where
    nothing says it, or the model has no encoder.
    """
    if model.checkpoint is None or not has_towers(model):
        return None
    parts = (part for part in model.checkpoint.apart if part.what == "towers")
    part = next((p for p in parts if p.bytes and p.parameters), None)
    if part is None or part.bytes is None or part.parameters is None:
        return None
    return min(float(part.bytes), part.parameters * w.plain_weight)


def multi_token_bytes(model: Model) -> float | None:
    """Bytes of multi-token-prediction layers on one device: as the checkpoint's files hold them, else each
    matrix in its own format, and what joins its inputs in 16 bit; 0 where the model has none, None where a file does not say how they are stored.
    """
    if model.checkpoint is not None:
        held = (part.bytes for part in model.checkpoint.apart if part.what == "mtp")
        found = next((size for size in held if size), None)
        if found is not None:
            return float(found)
    if model.mtp is None:
        return 0.0
    if model.quantization is not None and model.quantization.weight_dtype == "unknown":
        return None
    w, one = widths(model, Prefill(batch=1, seq=1)), Layouts(tp=np.int64(1))
    layers = sum(float(block_bytes(model, block, one, w)) for block in model.mtp.blocks)
    return layers + model.mtp.joining_parameters * model.mtp.depths * w.plain_weight


def weight_bytes(model: Model) -> dict[str, float]:
    """Bytes of all weights by number format, on one device; a quantised checkpoint first, as it is stored,
    unless the file does not say how.
    """
    total = parameters(model)
    found: dict[str, float] = {}
    q = model.quantization
    if q is not None and q.weight_dtype != "unknown":
        w = widths(model, Prefill(batch=1, seq=1))
        one = Layouts(tp=np.int64(1))
        stored = float(sum(end_bytes(model, one, w, model.vocab)))
        for block, n in zip(model.blocks, model.kind_counts(), strict=True):
            stored += float(layers_bytes(model, block, np.int64(n), one, w))
        found[f"{q.method} checkpoint"] = stored
    for name in ("fp32", "bf16", "fp8", "int4"):
        found[name] = total * dtypes.ELEMENT_BYTES[name]
    return found
