"""Time of GEMMs, attention and element-wise passes: roofline × measured efficiency.

Williams, Waterman and Patterson, "Roofline" (CACM 52(4), 2009): a kernel is bound by arithmetic or
by memory traffic; to that comes a launch floor. Valid for kernels that fill the device; tile and
wave quantisation are inside the fit's residual, which the catalog states beside each constant.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from meshwise.cost.kernel_fits import Kernel, Kernels, kernels
from meshwise.program.ops import Op
from meshwise.spec import dtypes
from meshwise.spec.cluster import Device
from meshwise.spec.stack import Stack

Array = Any


def roofline(flops: Array, hbm_bytes: Array, peak: float, bandwidth: float, k: Kernel) -> Array:
    """Seconds of a kernel of ``flops`` [FLOP] and ``hbm_bytes`` [B] on a device of ``peak`` [FLOP/s]
    and ``bandwidth`` [B/s]."""
    return k.launch_s + np.maximum(
        flops / (k.efficiency * peak), hbm_bytes / (k.memory_efficiency * bandwidth)
    )


class Compute(NamedTuple):
    """Prices compute operations on one device under one stack."""

    device: Device
    stack: Stack
    fits: Kernels

    def peak(self, dtype: str) -> float:
        """Dense peak at which products of ``dtype`` operands run here [FLOP/s]."""
        peaks = self.device.peak_flops_per_s
        return peaks[dtypes.peak_dtype(dtype, peaks)]

    def seconds(self, op: Op) -> Array:
        """Seconds per call of a compute operation. Ideal: products and attention at peak only."""
        if op.kind == "elementwise":
            if self.stack.ideal:
                return 0.0 * op.hbm_bytes
            base = self.fits.gemm["bf16"]
            return base.launch_s + op.hbm_bytes / (
                base.memory_efficiency * self.device.memory_bytes_per_s
            )
        peak = self.peak(op.dtype)
        if self.stack.ideal:
            return op.flops / peak
        return roofline(
            op.flops, op.hbm_bytes, peak, self.device.memory_bytes_per_s, self._kernel(op)
        )

    def _kernel(self, op: Op) -> Kernel:
        if op.kind == "attention":
            if op.name == "attention.decode":
                return self.fits.decode
            return self.fits.prefill if self.stack.attention == "flash" else self.fits.gemm["bf16"]
        return self.fits.gemm.get(op.dtype, self.fits.gemm["bf16"])

    def source(self, op: Op) -> str:
        """Where the seconds of ``op`` come from."""
        if self.stack.ideal:
            return f"datasheet/{self.device.name}"
        return (
            self._kernel(op).source if op.kind != "elementwise" else self.fits.gemm["bf16"].source
        )


def compute(device: Device, stack: Stack) -> Compute:
    return Compute(device, stack, kernels(device))
