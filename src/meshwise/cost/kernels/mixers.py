"""Seconds of the operations of recurrent mixers and of sparse attention, by what was measured of them.

Each function gives None where a device's file has no such kernels: the operation is priced like others
of its kind then.
"""

from __future__ import annotations

import numpy as np

from meshwise.arrays import Array
from meshwise.cost.kernels.fits import Kernels, Ranges
from meshwise.cost.kernels.recurrence import (
    DECAY,
    DELTA,
    convolution_seconds,
    scan_seconds,
    update_seconds,
)
from meshwise.cost.kernels.seconds import Chip
from meshwise.cost.kernels.sparse import choice_seconds, gather_seconds, score_seconds
from meshwise.program.operations import Kernel, Op, Scan

# Bytes of a gathered key per value of its scores' width: widened to 16 bit before a prompt's kernel; of
# DeepSeek-V4's cache 584 for 512 values (8 bit, the rotary part in 16, scales).
_ROW_BYTES = {False: 2.0, True: 584.0 / 512.0}
_WIDE = 2.0  # bytes of an indexer's key, from which its scores are products like others (training)
# In place of that many FLOPs a multiprocessor computes one exponential: 16 a clock beside 128
# multiply-adds (CUDA C++ Programming Guide, throughput of native arithmetic instructions).
EXPONENTIAL_FLOPS = 16.0

_Measured = tuple[Ranges, tuple[Array, ...]]  # (ranges of a table, an operation's place in them)


def recurrence_seconds(op: Op, scan: Scan, fits: Kernels, engine: str, chip: Chip) -> Array | None:
    """Seconds of a scan, an update or a short convolution; None also of a scan without products."""
    decode = op.kernel is Kernel.DECODE
    found = fits.recurrence(scan.rule, engine, decode=decode)
    if found is None:
        return None
    fit, _ = found
    if scan.rule == "convolution":
        # a pass's gradient says itself what it moves
        return convolution_seconds(
            scan.sequences, scan.queries, scan.heads, op.hbm_bytes, chip, fit
        )
    if decode:
        return update_seconds(scan.sequences, scan.queries, scan.heads, scan.state_bytes, chip, fit)
    if scan.rule not in (*DELTA, *DECAY):
        return None
    return scan_seconds(
        scan.rule,
        *(scan.sequences, scan.queries, scan.heads, scan.key_heads),
        *(float(scan.key_dim), float(scan.value_dim), float(scan.chunk)),
        scan.state_bytes,
        chip,
        fit,
        scan.work,
    )


def selective_scan_seconds(op: Op, scan: Scan, vector_peak: float, rate: float) -> Array:
    """Seconds of a scan without products (Mamba 1), at the datasheet's rates of multiply-adds and
    exponentials [FLOP/s] or of the memory [B/s]; the launch apart. Not measured."""
    states = scan.sequences * scan.queries * scan.heads * float(scan.key_dim * scan.value_dim)
    arithmetic = (op.flops + states * (EXPONENTIAL_FLOPS * scan.work)) / vector_peak
    return np.maximum(arithmetic, op.hbm_bytes / rate)


def measured_recurrence(op: Op, scan: Scan, fits: Kernels, engine: str) -> _Measured:
    """What was measured of it."""
    found = fits.recurrence(scan.rule, engine, decode=op.kernel is Kernel.DECODE)
    if found is None:
        return (), ()
    ranges = found[1]
    return ranges, (scan.queries, scan.sequences, scan.heads)[: len(ranges)]


def _sparse_kind(op: Op) -> str | None:
    """Which section of a file's sparse attention has an operation's constants."""
    if op.kernel is Kernel.CHOICE:
        return "choice.any"
    core, decode = op.core, op.kernel is Kernel.DECODE
    if core is None:
        return None
    if core.scores:
        return (
            ("scores.decode" if decode else "scores.prefill") if core.kv_element < _WIDE else None
        )
    if core.gathered is None:
        return None
    if core.gathered.compressed:
        return "gather.compressed_decode" if decode else "gather.compressed"
    return None if decode else "gather.prefill"  # read like a context of as many keys


def sparse_seconds(op: Op, fits: Kernels, chip: Chip, narrow: Chip) -> Array | None:
    """Seconds of an indexer's scores (on the 8-bit peak of ``narrow``), of a choice, of attention to chosen
    keys."""
    kind = _sparse_kind(op)
    found = None if kind is None else fits.sparse(kind)
    if found is None:
        return None
    fit, core = found[0], op.core
    if core is None:
        rows = np.asarray(op.m, dtype=np.float64)
        attended = op.hbm_bytes / (8.0 * rows)  # of 4 bytes, written and read
        return choice_seconds(rows, attended, op.n, float(op.k), chip, fit)
    if core.scores:
        # drafts under verification stand as further heads
        queries = core.queries * core.heads / op.batch
        return score_seconds(
            core.sequences,
            queries,
            core.attended,
            op.n,
            *(float(op.batch), float(op.k)),
            narrow,
            fit,
            decode=op.kernel is Kernel.DECODE,
        )
    assert core.gathered is not None
    return gather_seconds(
        core.sequences * core.queries,
        core.attended,
        core.gathered.slots,
        core.heads,
        float(op.k),
        2.0 * core.width - op.k,
        op.k * _ROW_BYTES[core.gathered.compressed],
        chip,
        fit,
        core.work,
    )


def measured_sparse(op: Op, fits: Kernels) -> _Measured | None:
    """What was measured of it; None where it is priced like other attention."""
    kind = _sparse_kind(op)
    found = None if kind is None else fits.sparse(kind)
    if found is None:
        return None
    if op.core is None:
        return found[1][1:2], (op.n,)
    return found[1], (op.core.queries, op.n, op.core.sequences)
