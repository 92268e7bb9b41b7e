"""Products of a few rows on kernels that nobody measured call by call: how fast they read."""

from __future__ import annotations

import numpy as np

from meshwise.arrays import Array
from meshwise.stacks.engines import FewRows

# Rows up to which software of single streams multiplies vectors, not matrices: llama.cpp's kernels for
# quantised weights (MMVQ_MAX_BATCH_SIZE of ggml-cuda/mmvq.cuh).
FEW_ROWS = 8


def few_rows_s(
    seconds: Array, rows: Array, moved: Array, sms: float, bandwidth: float, own: FewRows
) -> Array:
    """Seconds of products that take ``seconds`` on the device's measured kernels and move ``moved`` bytes.

    Up to :data:`FEW_ROWS` rows they last as long as reading at the software's rate: its share of the memory's
    ``bandwidth`` [B/s], or what ``sms`` multiprocessors draw. Beyond that they are no quicker than it.
    """
    if own.row_memory_share is None:
        return seconds
    rate = own.row_memory_share * bandwidth
    if own.row_sm_bytes_per_s is not None:
        rate = min(rate, own.row_sm_bytes_per_s * sms)
    reading = own.row_product_s + moved / rate
    return np.where(rows <= FEW_ROWS, reading, np.maximum(seconds, reading))[()]
