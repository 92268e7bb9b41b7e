"""Time of GEMMs, attention and element-wise passes from measured kernels.

Products and fused attention by shape: :mod:`meshwise.cost.kernels.seconds`. A pass over memory is a
launch and its bytes at the measured share of the bandwidth;
attention that is not fused is two batched products and the passes between them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meshwise import dtypes
from meshwise.arrays import Array
from meshwise.clusters.load import Device
from meshwise.cost.kernels import mixers
from meshwise.cost.kernels.asked import (
    DEEP_GEMM,
    asked_kernel,
    distinct_columns,
    in_blocks,
    over_held,
)
from meshwise.cost.kernels.few_rows import few_rows_s
from meshwise.cost.kernels.fits import STATIC_SCALES, Kernels, Ranges, kernels
from meshwise.cost.kernels.seconds import (
    QUERY_TILE,
    Chip,
    GemmFit,
    decode_seconds,
    gemm_seconds,
    norm4,
    outside_measured,
    prefill_seconds,
)
from meshwise.cost.sources import Source
from meshwise.program.operations import Core, Kernel, Op, Scan
from meshwise.stacks.stack import Stack, stated

# Backward runs its products at this share of forward's rate: 561 of 648 TFLOP/s on an H100 at heads
# of 128 and 16k tokens (FlashAttention-3, arXiv 2407.08608, figures 5 and 6).
BACKWARD_RATE = 0.87
# FlashAttention-2 reaches 35 % of an H100's 989.4 TFLOP/s over 132 multiprocessors (the same paper).
FLASH2_PER_SM = 0.35 * 989.4e12 / 132

# Instructions of the other units for one value of a narrow cache, on a device that has no conversion for
# it. Widening: FlashInfer's fast_dequant_f8f16x4 (include/flashinfer/vec_dtypes.cuh), 12 for four.
# Narrowing: the software path of CUDA's cuda_fp8.hpp (__nv_cvt_float_to_fp8), about 30.
_WIDEN, _NARROW = 3.0, 30.0

NARROWER = 0.75  # of the operands' width: weights below it are expanded inside the product


def _decode_kind(core: Core) -> str:
    """Which table has a decode's kernel: of heads, or of latents that all heads read."""
    return "mla_decode" if core.latents else "decode"


class Compute(NamedTuple):
    """Prices compute operations on one device under one stack."""

    device: Device
    stack: Stack
    fits: Kernels
    clock: float  # share of the measurements' clock that the device keeps up under the load
    narrow_clock: float  # the same in products of 8 bits and fewer
    known: dict[tuple[object, ...], Array]  # a layer's products repeat: each is priced once
    decoding: bool = False  # one token per sequence: the ideal reads weights and cache from memory

    def peak(self, dtype: str) -> float:
        """Dense peak at which products of ``dtype`` operands run here [FLOP/s]."""
        peaks = self.device.peak_flops_per_s
        return peaks[dtypes.peak_dtype(dtype, peaks)]

    @property
    def bandwidth(self) -> float:
        """What the kernels' shares of the memory's rate are of [B/s]."""
        return self.device.memory_bytes_per_s * self.device.memory_share

    @property
    def _quantiser(self) -> str:
        """Whose pass narrows the activations of a product."""
        return STATIC_SCALES if self.stack.kernels.static_scales else self.stack.software

    def chip(self, dtype: str) -> Chip:
        clock = self.narrow_clock if self._is_narrow(dtype) else self.clock
        peak = self.peak(dtype) * self.device.product_share
        return Chip(self.fits.sms, peak * clock, self.bandwidth)

    def _is_narrow(self, dtype: str) -> bool:
        run = dtypes.peak_dtype(dtype, self.device.peak_flops_per_s)
        return dtypes.ELEMENT_BYTES[run] < 2

    def seconds(self, op: Op) -> Array:
        """Seconds per call of a compute operation."""
        if self.stack.ideal:
            return self._ideal(op)
        if op.kind == "gemm":
            return self._gemm(op)
        if op.kind == "attention" or op.kernel is Kernel.CHOICE:
            sparse = mixers.sparse_seconds(op, self.fits, self.chip(op.dtype), self.chip("fp8"))
            if sparse is not None:
                return sparse
        if op.core is not None:
            return self._attention(op, op.core) if self._fused(op) else self._unfused(op, op.core)
        if op.scan is not None:
            return self._recurrence(op, op.scan)
        return self._pass(op.hbm_bytes) + self._narrowing(op)

    def _ideal(self, op: Op) -> Array:
        """Products and attention at peak, and in decode no sooner than the memory's datasheet rate
        gives their weights, or keys and values."""
        if op.kind == "elementwise":
            return 0.0 * op.hbm_bytes
        arithmetic = op.flops / self.peak(op.dtype)
        if not self.decoding:
            return arithmetic
        read = op.core.kv_bytes if op.core is not None else op.weight_bytes
        if op.scan is not None:
            read = op.hbm_bytes
        return np.maximum(arithmetic, read / self.device.memory_bytes_per_s)

    def _pass(self, moved: Array) -> Array:
        """Seconds of a pass over memory."""
        fits = self.fits
        return fits.launch_s + moved / (fits.memory_efficiency * self.bandwidth)

    def _recurrence(self, op: Op, scan: Scan) -> Array:
        """Seconds of a recurrence or a short convolution; where nothing was measured its arithmetic or its
        traffic, whichever takes longer."""
        fits = self.fits
        found = mixers.recurrence_seconds(op, scan, fits, self.stack.software, self.chip(op.dtype))
        if found is not None:
            return found
        if op.kind == "elementwise":
            return self._pass(op.hbm_bytes)
        vector = self.device.peak_flops_per_s.get("fp32")
        if scan.rule == "mamba" and vector is not None:
            rate = fits.memory_efficiency * self.bandwidth
            seconds = mixers.selective_scan_seconds(op, scan, vector * self.clock, rate)
            return fits.launch_s + seconds
        arithmetic = op.flops / (fits.efficiency * self.peak(op.dtype) * self.clock)
        memory = op.hbm_bytes / (fits.memory_efficiency * self.bandwidth)
        return fits.launch_s + np.maximum(arithmetic, memory)

    def _unfused(self, op: Op, core: Core) -> Array:
        """Two batched products with the scores in memory between them, and the passes over them."""
        element = dtypes.ELEMENT_BYTES[op.dtype]
        batch = core.sequences * core.heads
        scores = element * core.queries * op.n * batch
        query_bytes = 2.0 * element * core.queries * core.width * batch
        passes = op.hbm_bytes / (1.0 if core.work == 1.0 else 2.0) - query_bytes - core.kv_bytes
        moved = (query_bytes + core.kv_bytes) / 2.0 + scores
        fit, _ = self.fits.gemm(self._runs_as(op.dtype), self._quantiser)
        chip = self.chip(op.dtype)
        seconds = (
            gemm_seconds(core.queries, op.n, core.width, batch, moved, chip, fit)
            + gemm_seconds(core.queries, core.width, op.n, batch, moved, chip, fit)
            + self._pass(passes - 2.0 * scores)
        )
        return seconds * core.work

    def _fused(self, op: Op) -> bool:
        return op.kernel is Kernel.DECODE or self.stack.kernels.attention == "flash"

    def _runs_as(self, dtype: str) -> str:
        """The format of the table that prices products of ``dtype``."""
        run = dtypes.peak_dtype(dtype, self.device.peak_flops_per_s)
        if run == "fp8":
            return dtype if dtype == "fp8_block" else run
        return "bf16" if run in ("fp16", "tf32", "fp32") else run

    def _as_it_runs(self, op: Op) -> Op:
        """A product with the operands that it has here: where the device has no arithmetic of a narrow
        format, activations stay wide and weights are expanded in the product, whatever the format's own
        kernels do elsewhere."""
        run = dtypes.peak_dtype(op.dtype, self.device.peak_flops_per_s)
        narrow = dtypes.ELEMENT_BYTES.get(op.dtype.removesuffix("_block"), 4.0)
        if narrow >= 2 or dtypes.ELEMENT_BYTES[run] < 2:
            return op
        more = (2.0 - narrow) * op.m * op.k * op.batch
        return op._replace(dtype=run, hbm_bytes=op.hbm_bytes + more)

    def _weight_only(self, op: Op) -> float | None:
        """Bytes of a weight that the product expands on its way; None where operands are alike."""
        narrow = op.weight_element < NARROWER * dtypes.ELEMENT_BYTES.get(op.dtype, 1.0)
        return op.weight_element if op.weight_element and narrow else None

    def _gemm(self, op: Op) -> Array:
        op = self._as_it_runs(op)
        few, generation = self.stack.few_rows, self.device.generation
        narrow = self._weight_only(op) is not None
        own = self._product(op, asked_kernel(op, few, generation, expanded=narrow))
        if not np.any(op.deep_gemm) or generation not in few.deep_gemm_experts:
            return own
        if self.fits.measures(self._runs_as(op.dtype), DEEP_GEMM):
            deep = self._product(in_blocks(op), DEEP_GEMM)
        else:
            deep = self._product(over_held(op), "")
        return np.where(op.deep_gemm, deep, own)

    def _product(self, op: Op, kernel: str) -> Array:
        shape = [
            np.asarray(x, dtype=np.float64)
            for x in (op.m, op.n, op.k, op.batch, op.hbm_bytes, op.held)
        ]
        grouped = op.kernel is Kernel.EXPERTS
        narrow = self._weight_only(op)
        key = (op.dtype, grouped, narrow, kernel, *((x.shape, x.tobytes()) for x in shape))
        found = self.known.get(key)
        if found is None:
            few, kind = distinct_columns(shape)
            found = few_rows_s(
                self._product_seconds(few, op.dtype, narrow, grouped, kernel),
                few[0] * (1.0 if grouped else few[3]),
                few[4],
                self.fits.sms,
                self.device.memory_bytes_per_s,
                self.stack.few_rows,
            )
            if kind is not None and np.ndim(found):
                found = found[kind]
            self.known[key] = found
        return found

    def _product_seconds(
        self, shape: list[Array], dtype: str, narrow: float | None, grouped: bool, kernel: str
    ) -> Array:
        """Seconds of products of (rows, columns, inner size, number, bytes moved, experts of the rank);
        ``narrow`` [bytes]: of a weight that is expanded on its way.

        Weights that are expanded save their traffic and no arithmetic: but for the experts' products that
        were measured themselves, such a product is no faster than that of wide operands by more than the
        traffic's share in a roofline of the measured rates. TensorRT-LLM's plugin on an A100 takes 1.00 to
        1.12 (int8) and 1.04 to 1.16 (int4) of the bf16 product's time from 256 rows on.
        """
        run, chip = self._runs_as(dtype), self.chip(dtype)
        fit, measured = self._product_fit(run, narrow, grouped, kernel)
        m, n, k, batch, moved, held = shape
        seconds = gemm_seconds(m, n, k, batch, moved, chip, fit) + held * fit.held_s
        if narrow is None or measured:
            return seconds
        plain = self._product_fit(run, None, grouped, "")[0]
        more = (dtypes.ELEMENT_BYTES[dtype.removesuffix("_block")] - narrow) * n * k * batch
        alike = gemm_seconds(m, n, k, batch, moved + more, chip, plain)
        arithmetic = 2.0 * m * n * k * batch / (plain.ceiling * chip.peak)
        rate = plain.memory_efficiency * chip.bandwidth
        saved = norm4(arithmetic, moved / rate) / norm4(arithmetic, (moved + more) / rate)
        return np.maximum(seconds, alike * saved)

    def _product_fit(
        self, dtype: str, narrow: float | None, grouped: bool, kernel: str
    ) -> tuple[GemmFit, bool]:
        """(constants of a product, of the experts' where they were measured; whether these are the engine's
        own with weights that are expanded)."""
        software = self.stack.software
        experts = self.fits.experts(dtype, software, narrow, kernel=kernel) if grouped else None
        if experts is None:
            own = None
            if narrow is not None and not grouped:
                own = self.fits.weight_only(dtype, self.stack.software, narrow)
            if own is not None:
                return own, False
            return self.fits.gemm(dtype, self._quantiser, narrow)[0], False
        # one scale per tensor is fixed beforehand; those per block are found in each pass, and where the
        # experts' weights are expanded the constant is of their kernel's own passes
        static = self.stack.kernels.static_scales and dtype == "fp8" and narrow is None
        expanded = narrow is not None and self.fits.expands(dtype, self.stack.software, narrow)
        return (experts._replace(quantise_bytes=0.0) if static else experts), expanded

    def _converts(self, values: Array, instructions: float) -> Array:
        """Seconds to convert a narrow cache's values by instructions; 0 where the device has units for
        8-bit floats, whose kernels were measured with such a cache."""
        peaks = self.device.peak_flops_per_s
        if "fp8" in peaks or "fp32" not in peaks:
            return 0.0
        return values * (instructions / (peaks["fp32"] / 2.0))  # a fused multiply-add counts as two

    def _narrowing(self, op: Op) -> Array:
        """Of new keys and values, as they are written."""
        element = dtypes.ELEMENT_BYTES.get(op.dtype, 2.0)
        if op.kernel is not Kernel.CACHE_WRITE or element >= 2:
            return 0.0
        return self._converts(op.hbm_bytes / (2.0 + element), _NARROW)

    def _widening_keys(self, core: Core) -> Array:
        """Of cached keys and values, by each tile of queries that sees them."""
        if core.kv_element >= 2:
            return 0.0
        tiles = np.ceil(core.queries / QUERY_TILE) * core.sequences
        return self._converts(tiles * core.heads * core.attended * 2.0 * core.width, _WIDEN)

    def _attention(self, op: Op, core: Core) -> Array:
        chip = self.chip(op.dtype)
        query_bytes = op.hbm_bytes / (1.0 if core.work == 1.0 else 2.0) - core.kv_bytes
        if op.kernel is Kernel.DECODE:
            fit, _ = self.fits.attention(_decode_kind(core), core.kv_element)
            seconds = decode_seconds(
                core.attended,
                core.sequences,
                core.heads,
                core.kv_heads,
                core.width,
                query_bytes,
                core.kv_bytes,
                chip,
                fit,
            )
            # a decode waits for its cache, and converts meanwhile; heads of a group share what is read
            group = core.heads / core.kv_heads
            return np.maximum(seconds, fit.launch_s + self._widening_keys(core) / group)
        fit, _ = self.fits.attention("prefill", core.kv_element)
        work = core.work if core.work == 1.0 else core.work / BACKWARD_RATE
        seconds = prefill_seconds(
            core.queries,
            core.sequences,
            core.heads,
            core.width,
            core.attended,
            query_bytes,
            core.kv_bytes,
            core.heads / core.kv_heads,
            chip,
            fit,
            work,
        )
        return self._by_version(seconds, op, work / core.work) + self._widening_keys(core)

    def _by_version(self, seconds: Array, op: Op, slower: float) -> Array:
        """Older fused kernels than the measured ones: FlashAttention-2 has no instructions of
        Hopper's, -1 takes twice its time. On Blackwell PyTorch and TransformerEngine call cuDNN's,
        so that version 2 holds there only where someone asks for it."""
        version = self.stack.kernels.flash_version
        usual = self.device.generation == "blackwell" and not stated(self.stack, "flash_version")
        if version >= 3 or (version == 2 and usual):
            return seconds
        older = 2.0 if version == 1 else 1.0
        if self.device.generation not in ("hopper", "blackwell"):
            return seconds * older
        rate = FLASH2_PER_SM * self.fits.sms / older
        return np.maximum(seconds, op.flops * slower / rate)

    def _measured(self, op: Op) -> tuple[Ranges, tuple[Array, ...]]:
        """(ranges of the table, the operation's place in them); empty where it has none."""
        if op.kind == "gemm":
            ranges = self.fits.gemm(self._runs_as(op.dtype), self._quantiser)[1]
            return ranges, (op.m, op.n, op.k)
        if op.scan is not None:
            return mixers.measured_recurrence(op, op.scan, self.fits, self.stack.software)
        sparse = mixers.measured_sparse(op, self.fits)
        if sparse is not None:
            return sparse
        if op.core is not None and self._fused(op):
            core, decode = op.core, op.kernel is Kernel.DECODE
            kind = _decode_kind(core) if decode else "prefill"
            ranges = self.fits.attention(kind, core.kv_element)[1]
            long = core.attended if decode else core.queries
            return ranges, (long, core.sequences, core.heads)
        return (), ()

    def source(self, op: Op) -> Source:
        """Where the seconds of ``op`` come from."""
        if self.stack.ideal:
            return Source(f"datasheet/{self.device.name}")
        if np.ndim(op.hbm_bytes) == 0 and float(self.extrapolated(op)):
            return self.fits.source._replace(extrapolated=True)
        return self.fits.source

    def extrapolated(self, op: Op) -> Array:
        """1 per layout where the shape lies outside what was measured."""
        ranges, place = self._measured(op)
        return outside_measured(ranges, *place) * 1.0 if ranges else 0.0


def compute(
    device: Device,
    stack: Stack,
    *,
    training: bool = False,
    decoding: bool = False,
    known: dict[tuple[object, ...], Array] | None = None,
) -> Compute:
    """``training`` keeps products running back to back, at the clock that the power limit allows. ``known``:
    seconds of products, of the same device and stack at the same clock."""
    clock = device.training_clock if training else 1.0
    narrow = device.training_clock_narrow if training else None
    return Compute(
        device,
        stack,
        kernels(device),
        clock,
        narrow or clock,
        {} if known is None else known,
        decoding,
    )
