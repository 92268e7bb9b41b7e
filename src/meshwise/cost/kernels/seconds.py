"""Seconds of one kernel from its shape: products, grouped products, attention prefill and decode.

Every form is a few physical terms whose constants were fitted to measured calls, times a small
table of corrections (measured / formula) over the shape. Only elementwise operations whose scalar
and array results are the same bits; positions in a table are found by exponent and mantissa, so no
logarithm is taken. Outside the measured range a table stays at its edge and the terms, which are a
roofline there, carry on; :func:`outside_measured` says where that is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from meshwise.arrays import Array

# Tiles that a product may be cut into, and parts that its sum over k may be split into. A subset of
# what libraries choose from: more of them did not lower the held-out error (docs/validation.md).
TILES = ((16, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 128))
_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
_CANDIDATES = tuple((i, *TILES[i], s) for i in range(len(TILES)) for s in _SPLITS)
QUERY_TILE = 128  # queries that one block of an attention kernel works on
KEY_BLOCK = 128  # keys that one step of a decoding kernel reads
ROW_BLOCK = 16  # query heads of one key-value head that the tensor cores take at once


class Chip(NamedTuple):
    """What the constants are relative to: multiprocessors, dense peak [FLOP/s], memory [B/s]."""

    sms: float
    peak: float
    bandwidth: float


class CorrectionTable(NamedTuple):
    """Corrections, measured / formula - 1, over one coordinate per axis, multilinear between knots.

    ``knots`` are shape values; between powers of two a coordinate is linear in the value itself.
    """

    knots: tuple[Array, ...]
    values: Array  # one axis per coordinate


class GemmFit(NamedTuple):
    """Constants of :func:`gemm_seconds`, and per candidate (leading axis) what follows from them."""

    launch_s: float
    memory_efficiency: float
    sm_bandwidth: (
        float  # most of the device's bandwidth that one SM draws, as a multiple of its share
    )
    ceiling: float  # most of the peak that a measured call reached
    quantise_bytes: float  # device-memory bytes per activation of the pass that quantises it
    smooth: float  # share of a last wave that is paid by its fill, not as a whole
    tile_m: Array
    tile_n: Array
    split: Array
    flops_s: Array  # seconds · peak / SMs of one tile's multiplications, per element of k
    fixed_s: Array  # seconds of a tile's start
    store: Array  # bytes/bandwidth equivalents of a tile's result, per SM
    feed: (
        Array  # bytes that one tile's operands need from the cache, per element of k, over its rate
    )
    reduce_s: Array  # seconds to start the addition of parts
    reduce: Array  # bytes of the parts per result, over their rate
    tables: tuple[CorrectionTable, ...]
    grouped: bool = False  # tables over rows of one product, products, elements of one weight
    held_s: float = 0.0  # seconds per expert of the rank, whether it has rows or not


class AttentionFit(NamedTuple):
    """Constants of :func:`prefill_seconds` (first block) and :func:`decode_seconds`."""

    launch_s: float
    tables: tuple[CorrectionTable, ...]
    efficiency: tuple[float, ...] = ()  # of the peak, at head widths WIDTHS
    tail: float = 0.0  # share of the longest tile that nothing runs beside
    diagonal: float = 0.0  # keys that a tile computes beyond those seen
    tile_s: float = 0.0
    query_efficiency: float = 1.0  # of the bandwidth, for queries and output
    kv_efficiency: float = 1.0
    sm_bandwidth: float = 1.0
    split_keys: float = 1.0
    head_s: float = 0.0  # per sequence and key-value head on one SM
    sequence_s: float = 0.0


WIDTHS = (64, 128, 192, 256)


def tile_efficiencies(entry: dict[str, Any], elsewhere: bool) -> Array:
    """Share of the peak (0 to 1) that each of :data:`TILES` reaches, as fitted (``tile_efficiency``).

    Memory bound every measured call of the smallest tile, so that its share says how slow the tile
    may be there and no more. ``elsewhere``, on another chip or with weights that take fewer bytes,
    it multiplies like the next one: both issue the same instructions.
    """
    efficiency = np.array(entry["tile_efficiency"], dtype=np.float64)
    if elsewhere:
        efficiency[0] = max(efficiency[0], efficiency[1])
    return efficiency


def gemm_fit(
    entry: dict[str, Any],
    tables: tuple[CorrectionTable, ...] = (),
    *,
    elsewhere: bool = False,
    weight_bytes: float | None = None,
) -> GemmFit:
    """The constants of a catalog entry ``gemm.DTYPE``, spread over the candidates; ``elsewhere`` than
    where they were measured: :func:`tile_efficiencies`. ``weight_bytes``: of a weight that is
    narrower than the operands, and travels so as far as the multiprocessor."""
    index, tile_m, tile_n, split = (
        np.array([c[i] for c in _CANDIDATES], dtype=np.float64) for i in range(4)
    )
    efficiency = tile_efficiencies(entry, elsewhere)[index.astype(np.int64)]
    area = tile_m * tile_n
    parts = split > 1
    operand = entry["operand_bytes"]
    fed = tile_m * operand + tile_n * (operand if weight_bytes is None else weight_bytes)
    return GemmFit(
        launch_s=entry["launch_s"],
        memory_efficiency=entry["memory_efficiency"],
        sm_bandwidth=entry["sm_bandwidth"],
        ceiling=entry.get("ceiling", 1.0),
        quantise_bytes=entry.get("quantise_bytes", 0.0),
        smooth=entry["smooth"],
        tile_m=tile_m,
        tile_n=tile_n,
        split=split,
        flops_s=2.0 * area / efficiency / split,
        fixed_s=np.full_like(area, entry["tile_s"]),
        store=2.0 * area / entry["store_efficiency"],
        feed=fed / split / entry["cache_bandwidth"],
        reduce_s=np.where(parts, entry["split_s"], 0.0),
        reduce=np.where(parts, 4.0 * split / entry["split_bandwidth"], 0.0),
        tables=tables,
    )


def grouped_fit(
    dense: GemmFit, entry: dict[str, Any], tables: tuple[CorrectionTable, ...] = ()
) -> GemmFit:
    """Constants of an experts' grouped product: the dense ones' tiles, a catalog entry's own rates
    and corrections."""
    return dense._replace(
        launch_s=entry["launch_s"],
        memory_efficiency=entry["memory_efficiency"],
        quantise_bytes=entry["quantise_bytes"],
        flops_s=dense.flops_s / entry["efficiency"],
        tables=tables,
        grouped=True,
        held_s=entry.get("held_s", 0.0),
    )


def weight_only_fit(
    dense: GemmFit, entry: dict[str, Any], tables: tuple[CorrectionTable, ...] = ()
) -> GemmFit:
    """Constants of a product that expands narrow weights: the dense one's tiles, a catalog entry's own
    rates and corrections."""
    return dense._replace(
        launch_s=entry["launch_s"],
        memory_efficiency=entry["memory_efficiency"],
        quantise_bytes=0.0,
        flops_s=dense.flops_s / entry["efficiency"],
        tables=tables,
    )


def gemm_seconds(
    m: Array, n: Array, k: Array, batch: Array, moved: Array, chip: Chip, fit: GemmFit
) -> Array:
    """Seconds of ``batch`` products (m × k)·(k × n) in one call that moves ``moved`` bytes; shapes broadcast.

    launch + min over tiles and splits of (arithmetic⁴ + memory⁴ + cache⁴)^¼ + addition of parts.
    Arithmetic is waves · time of a tile; a wave is a tile on every SM. Memory is bound by the device
    or by what the busy SMs can keep in flight. m may be a fraction (rows per expert). Constants are
    fitted to measured calls (``tools/fit_kernels.py``); outside their shapes the terms carry on as a
    roofline, and nothing beats ``fit.ceiling`` of the peak.
    """
    m, n, k, batch = (np.asarray(x, dtype=np.float64) for x in (m, n, k, batch))
    moved = np.asarray(moved, dtype=np.float64)
    dims = max(m.ndim, n.ndim, k.ndim, batch.ndim, moved.ndim)
    lead = (-1,) + (1,) * dims
    tile_m, tile_n, split = (a.reshape(lead) for a in (fit.tile_m, fit.tile_n, fit.split))
    tiles = np.ceil(m / tile_m) * np.ceil(n / tile_n) * (split * batch)
    waves = tiles / chip.sms
    busy = np.minimum(waves, 1.0)
    waves = np.maximum(waves * fit.smooth + np.ceil(waves) * (1.0 - fit.smooth), 1.0)
    per_k = (fit.flops_s * (chip.sms / chip.peak)).reshape(lead)
    once = (fit.fixed_s + fit.store * (chip.sms / chip.bandwidth)).reshape(lead)
    arithmetic = waves * (per_k * k + once)
    rate = np.minimum(fit.memory_efficiency, busy * fit.sm_bandwidth) * chip.bandwidth
    memory = moved / rate
    cache = tiles * (k * (fit.feed / chip.bandwidth).reshape(lead))
    added = fit.reduce_s.reshape(lead) + (m * n * batch) * (fit.reduce / chip.bandwidth).reshape(
        lead
    )
    best = np.minimum.reduce(norm4(arithmetic, memory, cache) + added, axis=0)
    seconds = fit.launch_s + best
    if fit.quantise_bytes:
        seconds = seconds + m * k * batch * (fit.quantise_bytes / chip.bandwidth)
    # a product per head fills the device as one of all its rows would
    at = (m, batch, n * k) if fit.grouped else (m * batch, n, k)
    seconds = corrected_s(seconds, fit.tables, at)
    # on a device that inherits the constants at another ratio of arithmetic to memory
    return np.maximum(seconds, m * n * k * batch * (2.0 / (fit.ceiling * chip.peak)))


def norm4(a: Array, b: Array, c: Array = 0.0) -> Array:
    """(a⁴ + b⁴ + c⁴)^¼ by products and square roots, which round alike everywhere."""
    a, b, c = a * a, b * b, c * c
    total = a * a + b * b + c * c
    return (
        np.sqrt(np.sqrt(total, out=total), out=total) if np.ndim(total) else np.sqrt(np.sqrt(total))
    )


def prefill_seconds(
    queries: Array,
    sequences: Array,
    heads: Array,
    width: float,
    attended: Array,
    query_bytes: Array,
    kv_bytes: Array,
    group: Array,
    chip: Chip,
    fit: AttentionFit,
    work: float = 1.0,
) -> Array:
    """Seconds of a fused attention over ``queries`` per sequence, each seeing ``attended`` keys.

    launch + whole tiles' arithmetic + the longest tile's tail + traffic: a sum, since it describes
    the measurements better than the largest term. ``heads`` are the rank's, ``width`` [values] is the
    mean of the scores' and the values', ``group`` the query heads of a key-value head. ``work`` multiplies
    all but the launch (backward). Constants: as :func:`gemm_seconds`.
    """
    queries = np.asarray(queries, dtype=np.float64)
    blocks = np.ceil(queries / QUERY_TILE)
    pair_s = 4.0 * width / (_at_width(fit.efficiency, width) * chip.peak)
    tiles = blocks * (sequences * heads)
    total = tiles * (QUERY_TILE * pair_s * (attended + fit.diagonal) + fit.tile_s / chip.sms)
    longest = (fit.tail * QUERY_TILE * chip.sms * pair_s * 2.0) * attended
    traffic = query_bytes / (fit.query_efficiency * chip.bandwidth) + kv_bytes / (
        fit.kv_efficiency * chip.bandwidth
    )
    seconds = fit.launch_s + (total + longest + traffic) * work
    rows = sequences * heads
    return corrected_s(
        seconds,
        fit.tables,
        (queries, rows, group),
        (queries, sequences, heads),
        (queries, rows, width),
        (queries, width, group),
        (attended, width, attended / queries),
    )


def decode_seconds(
    keys: Array,
    sequences: Array,
    heads: Array,
    kv_heads: Array,
    width: float,
    query_bytes: Array,
    kv_bytes: Array,
    chip: Chip,
    fit: AttentionFit,
) -> Array:
    """Seconds of attention of one new token per sequence to ``keys`` cached ones.

    Reading the cache (``kv_bytes``), at the rate that the blocks in flight draw; the tensor cores' work on
    query heads padded to a block; a fixed time per head and sequence; queries and output
    (``query_bytes``). ``heads`` and ``kv_heads`` are the rank's. Constants: as :func:`gemm_seconds`.
    """
    keys = np.asarray(keys, dtype=np.float64)
    group = heads / np.asarray(kv_heads, dtype=np.float64)
    rows = sequences * np.asarray(kv_heads, dtype=np.float64)
    blocks = rows * np.ceil(keys / (KEY_BLOCK * fit.split_keys))
    rate = np.minimum(fit.kv_efficiency, blocks * (fit.sm_bandwidth / chip.sms)) * chip.bandwidth
    padded = rows * np.ceil(group / ROW_BLOCK) * ROW_BLOCK
    arithmetic = padded * keys * (4.0 * width / (fit.efficiency[0] * chip.peak))
    seconds = (
        fit.launch_s
        + (kv_bytes / rate + arithmetic)
        + rows * (fit.head_s / chip.sms)
        + sequences * fit.sequence_s
        + query_bytes / (fit.query_efficiency * chip.bandwidth)
    )
    return corrected_s(
        seconds, fit.tables, (keys, rows, group), (keys, sequences, kv_heads), (keys, rows, width)
    )


def _at_width(values: tuple[float, ...], width: float) -> float:
    """Linear between :data:`WIDTHS`, constant outside."""
    return float(np.interp(width, WIDTHS, values))


# -- tables ----------------------------------------------------------------------------------------


def position(x: Array) -> Array:
    """log₂ of ``x`` at powers of two and linear in ``x`` between them."""
    mantissa, exponent = np.frexp(x)
    return exponent + (2.0 * mantissa - 2.0)


def corrected_s(
    seconds: Array, tables: tuple[CorrectionTable, ...], *at: tuple[Array, ...]
) -> Array:
    """``seconds`` · (1 + the sum of the tables' corrections), each at its own coordinates, in the tables'
    order; as they are without tables.
    """
    if not tables:
        return seconds
    change: Array = 0.0
    for table, coordinates in zip(tables, at, strict=False):
        change = change + correction(table, coordinates)
    return seconds * (1.0 + change)


def cell(knots: Array, x: Array) -> tuple[Array, Array]:
    """(index of the knot below, share of the way to the next) of shape values ``x``."""
    at = position(np.asarray(x, dtype=np.float64))
    low = np.minimum(np.maximum(knots.searchsorted(at, side="right") - 1, 0), len(knots) - 2)
    below = knots[low]
    share = (at - below) / (knots[low + 1] - below)
    return low, np.minimum(np.maximum(share, 0.0), 1.0)  # np.clip is slow on few values


def correction(table: CorrectionTable, coordinates: tuple[Array, ...]) -> Array:
    """The correction (measured / formula − 1) of a table at shape values, one array per axis; outside the
    table it stays at the edge.
    """
    cells = [cell(k, x) for k, x in zip(table.knots, coordinates, strict=True)]
    flat, shape = table.values.ravel(), table.values.shape
    base: Array = np.int64(0)
    for (low, _), size in zip(cells, shape, strict=True):
        base = base * size + low
    corners = [base]
    stride = 1
    for size in reversed(shape):
        corners = [c + d for d in (0, stride) for c in corners]
        stride *= size
    values = [flat[c] for c in corners]
    for _, share in cells:  # the first axis varies slowest: its two halves meet first
        half = len(values) // 2
        values = [a + (b - a) * share for a, b in zip(values[:half], values[half:], strict=True)]
    return values[0]


def correction_table(entry: dict[str, Any]) -> CorrectionTable:
    """A table of the catalog: knots, and its values in per mille, row by row."""
    knots = tuple(position(np.array(k, dtype=np.float64)) for k in entry["knots"])
    values = np.array(entry["per_mille"].split(), dtype=np.float64) / 1000.0
    return CorrectionTable(knots, values.reshape([len(k) for k in knots]))


def outside_measured(ranges: tuple[tuple[float, float], ...], *shape: Array) -> Array:
    """Where one of the shape's numbers lies outside what was measured, a factor of two allowed."""
    found: Array = np.bool_(False)
    for (low, high), x in zip(ranges, shape, strict=True):
        found = found | (np.asarray(x) > 2.0 * high) | (np.asarray(x) < 0.5 * low)
    return found
