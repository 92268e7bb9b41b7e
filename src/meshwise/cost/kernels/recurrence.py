"""Seconds of mixers that keep a state: chunked scans of a prompt, updates of a token, convolutions.

A scan cuts a prompt into chunks: products inside a chunk, and a chain from chunk to chunk through a
state of ``key_dim`` × ``value_dim`` values per value head. A fused kernel (FlashInfer's, of Hopper and
Blackwell) runs the whole chain of a head on one multiprocessor; a staged one (Triton's of
flash-linear-attention, in SGLang, TensorRT-LLM and training) runs a kernel per stage with what lies
between in memory, and only the chain itself head by head. An update reads and writes the states.

As in :mod:`meshwise.cost.kernels.seconds`: constants are fitted to measured calls
(``tools/fit_recurrence.py``), only elementwise operations, scalar and array results the same bits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.cost.kernels.seconds import Chip, CorrectionTable, corrected_s, norm4
from meshwise.program.layers.recurrent import chunked_flops

# Rules whose chunks are a chain of products, and those whose chunks wait for a decayed sum alone.
DELTA = ("gated_delta", "kimi_delta")
DECAY = ("mamba2", "lightning")
CARRIED_BYTES = 4.0  # of a value of the states that a staged scan of decays carries between chunks
VALUE_BYTES = 2.0  # of a value between kernels


class RecurrenceFit(NamedTuple):
    """Constants of :func:`scan_seconds`, :func:`update_seconds` and :func:`convolution_seconds`."""

    launch_s: float
    memory_efficiency: float  # of the bandwidth
    tables: tuple[CorrectionTable, ...] = ()
    staged: bool = False  # a kernel per stage, what lies between in memory
    fill_s: float = 0.0  # latency of a chunk's own products, of a whole one
    efficiency: float = 1.0  # of one multiprocessor's peak, along the chain
    unit_s: float = (
        0.0  # of a head's start (scan), of a channel's (convolution), on a multiprocessor
    )
    slots: float = 1.0  # heads that one multiprocessor works on at once
    smooth: float = 0.0  # share of a last wave of heads that is paid by its fill
    peak_share: float = 1.0  # of the device's peak, of products that run side by side


def scanned_bytes(
    rule: str,
    sequences: Array,
    queries: Array,
    heads: Array,
    key_heads: Array,
    key_dim: float,
    value_dim: float,
    chunk: float,
    state_bytes: Array,
    staged: bool,
) -> Array:
    """Bytes of device memory that a scan of a prompt moves.

    Fused: queries, keys, values and outputs once, states (``state_bytes``) once each way. Staged, per
    token and value head: of the delta rules 11 passes over a key's width (norms, K·Kᵀ, W and K, the
    chain, the outputs), 6 over a value's, 6 values of a chunk's square, and the chunk's state written
    and read; of decays alone three passes over a value's width, a chunk's square once, and its state,
    in 32 bit, written and read twice.
    """
    tokens = sequences * queries
    states = 2.0 * state_bytes
    if not staged:
        return tokens * VALUE_BYTES * (2.0 * key_heads * key_dim + 2.0 * heads * value_dim) + states
    if rule in DELTA:
        each = 11.0 * key_dim + 6.0 * value_dim + 6.0 * chunk + 2.0 * key_dim * value_dim / chunk
        return tokens * heads * (VALUE_BYTES * each) + states
    carried = CARRIED_BYTES * 4.0 * key_dim * value_dim / chunk
    each = VALUE_BYTES * (3.0 * value_dim + chunk) + carried
    return tokens * (heads * each + key_heads * (4.0 * VALUE_BYTES * key_dim)) + states


def scan_seconds(
    rule: str,
    sequences: Array,
    queries: Array,
    heads: Array,
    key_heads: Array,
    key_dim: float,
    value_dim: float,
    chunk: float,
    state_bytes: Array,
    chip: Chip,
    fit: RecurrenceFit,
    work: float = 1.0,
) -> Array:
    """Seconds of a chunked scan over ``queries`` tokens of each of ``sequences``; shapes broadcast.

    Fused: launch + waves of heads · (chunks · a chunk's products on one multiprocessor + a head's
    start) + traffic. Staged: launch + latency of a chunk + (chain⁴ + traffic⁴)^¼, where the rule has a
    chain of products. ``heads`` and ``key_heads`` are the rank's; ``work`` multiplies all but the
    launch (backward).
    """
    sequences, queries, heads, key_heads = (
        np.asarray(x, dtype=np.float64) for x in (sequences, queries, heads, key_heads)
    )
    rows = sequences * heads
    chunks = np.ceil(queries / chunk)
    waves = rows / (chip.sms * fit.slots)
    waves = np.maximum(waves * fit.smooth + np.ceil(waves) * (1.0 - fit.smooth), 1.0)
    flops = chunk * chunked_flops(rule, chunk, key_dim, value_dim)
    chain = waves * (chunks * (flops * chip.sms / (fit.efficiency * chip.peak)) + fit.unit_s)
    moved = scanned_bytes(
        rule,
        sequences,
        queries,
        heads,
        key_heads,
        key_dim,
        value_dim,
        chunk,
        state_bytes,
        fit.staged,
    )
    memory = moved / (fit.memory_efficiency * chip.bandwidth)
    if fit.staged:
        fill = fit.fill_s * (np.minimum(queries, chunk) / chunk)
        if rule in DECAY:  # chunks of decays wait for a sum alone: their products run side by side
            chain = rows * chunks * (flops / (fit.peak_share * chip.peak))
        busy = fill + norm4(chain, memory)
    else:
        busy = chain + memory
    return corrected_s(fit.launch_s + busy * work, fit.tables, (queries, rows))


def update_seconds(
    sequences: Array,
    queries: Array,
    heads: Array,
    state_bytes: Array,
    chip: Chip,
    fit: RecurrenceFit,
) -> Array:
    """Seconds of ``queries`` new tokens in each of ``sequences``: their states (``state_bytes`` of the
    rank, all sequences together) are read once and written after each token.

    Fitted to calls of one token; more of them (a draft that is verified) are written one by one, so
    that the state of the last one that is accepted is there: vLLM's and SGLang's calls of 2, 4 and 8
    take that long within 6 %.
    """
    sequences, queries, heads = (
        np.asarray(x, dtype=np.float64) for x in (sequences, queries, heads)
    )
    moved = (1.0 + queries) * state_bytes
    busy = moved / (fit.memory_efficiency * chip.bandwidth)
    rows = sequences * heads
    return corrected_s(
        fit.launch_s + rows * (fit.unit_s / chip.sms) + busy, fit.tables, (rows * queries,)
    )


def convolution_seconds(
    sequences: Array,
    queries: Array,
    channels: Array,
    moved: Array,
    chip: Chip,
    fit: RecurrenceFit,
    work: float = 1.0,
) -> Array:
    """Seconds of a short causal convolution over ``channels`` of the rank that moves ``moved`` bytes:
    launch + (start of each sequence's channels⁴ + traffic⁴)^¼."""
    sequences, queries, channels = (
        np.asarray(x, dtype=np.float64) for x in (sequences, queries, channels)
    )
    rows = sequences * channels
    memory = moved / (fit.memory_efficiency * chip.bandwidth)
    busy = norm4(rows * (fit.unit_s / chip.sms), memory)
    return corrected_s(fit.launch_s + busy * work, fit.tables, (queries, rows))


def convolution_bytes(
    sequences: Array, queries: Array, channels: Array, kernel: float, *, decode: bool
) -> Array:
    """Bytes that it moves: inputs and outputs, and in decode the ``kernel`` − 1 positions before, read
    and written."""
    kept = 2.0 * (kernel - 1.0) if decode else 0.0
    return VALUE_BYTES * sequences * channels * (2.0 * queries + kept)
