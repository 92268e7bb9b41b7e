"""Seconds of sparse attention: an indexer's scores, the choice of the best keys, attention to them.

An indexer (DeepSeek-V3.2, arXiv 2512.02556, section 2.1) scores every key with narrow heads in 8 bit, ``top_k``
are chosen per query, and the core gathers those. Forms as in :mod:`meshwise.cost.kernels.seconds`,
fitted to measured calls by ``tools/fit_sparse.py``: only elementwise operations, scalar and array
results the same bits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.cost.kernels.seconds import Chip, CorrectionTable, corrected_s, norm4

SCORE_ROWS = 128  # rows (queries · heads of the indexer) of one tile of scores (DeepGEMM)
SCORE_BYTES = 4.0  # of one score, summed over the heads
KEY_BYTES = (
    132.0 / 128.0
)  # of a value of an indexer's cached key: 8 bit, and a 32-bit scale per 128


class SparseFit(NamedTuple):
    """Constants of :func:`score_seconds`, :func:`choice_seconds` and :func:`gather_seconds`."""

    launch_s: float
    memory_efficiency: float  # of the bandwidth; above 1 where chosen keys are gathered from caches
    tables: tuple[CorrectionTable, ...] = ()
    efficiency: float = 1.0  # of the peak
    unit_s: float = 0.0  # of a tile's, a row's, a token's start on one multiprocessor
    sm_bandwidth: float = 1.0  # of one multiprocessor that reads a row, as a multiple of its share
    # query heads of a token that one block of the core works on, fewer padded to as many: FlashMLA's 64 on
    # Hopper, 128 on Blackwell (vLLM's flashmla_sparse.py pads to them)
    head_block: float = 64.0


def score_seconds(
    sequences: Array,
    queries: Array,
    attended: Array,
    keys: Array,
    heads: float,
    width: float,
    chip: Chip,
    fit: SparseFit,
    *,
    decode: bool,
) -> Array:
    """Seconds of an indexer's scores of ``attended`` keys (on average) for each of ``queries`` per
    sequence, of ``keys`` cached; ``heads`` of ``width`` values each, all on every rank.

    launch + (arithmetic⁴ + traffic⁴)^¼. A prompt's tile of 128 rows walks its keys on one
    multiprocessor; a decode's keys are spread over all.
    """
    sequences, queries, attended, keys = (
        np.asarray(x, dtype=np.float64) for x in (sequences, queries, attended, keys)
    )
    rows = sequences * queries
    moved = (rows * attended) * SCORE_BYTES + (sequences * keys + rows * heads) * (
        width * KEY_BYTES
    )
    memory = moved / (fit.memory_efficiency * chip.bandwidth)
    if decode:
        flops = rows * attended * (2.0 * heads * width)
        busy = norm4(flops / (fit.efficiency * chip.peak), memory)
        return corrected_s(fit.launch_s + busy, fit.tables, (rows, keys))
    tiles = sequences * np.ceil(queries * (heads / SCORE_ROWS))
    waves = np.maximum(tiles / chip.sms, 1.0)
    tile_s = attended * (2.0 * SCORE_ROWS * width * chip.sms / (fit.efficiency * chip.peak))
    busy = norm4(waves * (tile_s + fit.unit_s), memory)
    return corrected_s(fit.launch_s + busy, fit.tables, (queries, attended, sequences))


def choice_seconds(
    rows: Array, attended: Array, keys: Array, top_k: float, chip: Chip, fit: SparseFit
) -> Array:
    """Seconds to choose the ``top_k`` best of ``attended`` scores (on average) for each of ``rows``: a
    multiprocessor reads a row. 0 where no row has more ``keys`` than are chosen."""
    rows, attended, keys = (np.asarray(x, dtype=np.float64) for x in (rows, attended, keys))
    read = attended * SCORE_BYTES
    waves = np.maximum(rows / chip.sms, 1.0)
    row_s = fit.unit_s + read * (chip.sms / (fit.sm_bandwidth * chip.bandwidth))
    memory = rows * read / (fit.memory_efficiency * chip.bandwidth)
    seconds = corrected_s(fit.launch_s + norm4(waves * row_s, memory), fit.tables, (rows, attended))
    return np.where(keys > top_k, seconds, 0.0)


def gather_seconds(
    rows: Array,
    attended: Array,
    slots: Array,
    heads: Array,
    score_width: float,
    value_width: float,
    row_bytes: float,
    chip: Chip,
    fit: SparseFit,
    work: float = 1.0,
) -> Array:
    """Seconds of attention of ``rows`` tokens to ``attended`` chosen keys each (on average), whose
    latents of ``row_bytes`` all heads share.

    launch + (arithmetic⁴ + gathering⁴)^¼. A block of a token's heads walks all ``slots`` of the
    choice on one multiprocessor, empty ones too; keys that are there are gathered. ``work``
    multiplies all but the launch (backward).
    """
    rows, attended, slots, heads = (
        np.asarray(x, dtype=np.float64) for x in (rows, attended, slots, heads)
    )
    blocks = rows * np.ceil(heads / fit.head_block)
    waves = np.maximum(blocks / chip.sms, 1.0)
    pair = 2.0 * fit.head_block * (score_width + value_width)
    block_s = slots * (pair * chip.sms / (fit.efficiency * chip.peak)) + fit.unit_s
    gathered = rows * attended * (row_bytes / (fit.memory_efficiency * chip.bandwidth))
    busy = norm4(waves * block_s, gathered)
    return corrected_s(fit.launch_s + busy * work, fit.tables, (blocks, attended))
