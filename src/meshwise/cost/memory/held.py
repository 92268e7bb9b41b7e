"""What a training process holds of its device beside what its tensors are allocated: what its
allocator keeps, and what the device reports (``nvidia-smi``)."""

from __future__ import annotations

import numpy as np

from meshwise.arrays import Array
from meshwise.layouts.layout import Layouts

# Peak reserved over peak allocated of PyTorch's caching allocator: median of the ten layouts of one
# source that prints both (published training rows simumax-b200: 1.03 to 1.08).
RESERVED_SHARE = 1.06
# A CUDA context with its kernels and the workspaces of cuBLAS, as nvidia-smi shows it of a process that
# has allocated nothing else: 0.4 to 0.6 GB on A100 and H100.
CONTEXT_BYTES = 0.5e9
# Of each communicator (one per axis and one of all ranks): NCCL's channels, and what the cache grows by
# beside a source that prints both. Fitted once to the rows that state what the device reports: median
# over their sources (FlagPerf's and the 2022 BLOOM benchmarks), 1.6 to 3.7 GB, pooled to the lower half.
COMMUNICATOR_BYTES = 2.0e9
MEMORY_KINDS = ("allocated", "reserved", "device")


def communicators(layout: Layouts) -> Array:
    """Groups of ranks of which each has a communicator, that of all ranks among them; 0 on one device."""
    found: Array = 0
    for degree in (layout.tp, layout.pp, layout.dp, layout.cp, layout.ep):
        found = found + np.where(degree > 1, 1, 0)
    return np.where(layout.devices > 1, found + 1, 0)


def reserved_bytes(allocated: Array) -> Array:
    """Peak that PyTorch's allocator has reserved of the device, bytes, for a peak allocated."""
    return RESERVED_SHARE * allocated


def device_bytes(allocated: Array, layout: Layouts) -> Array:
    """What the device reports as used by the process, bytes, for a peak allocated in training."""
    around = CONTEXT_BYTES + COMMUNICATOR_BYTES * communicators(layout)
    return reserved_bytes(allocated) + around
