"""Products of a few rows on a software's own kernels: bound by reading, alike in every format."""

from __future__ import annotations

import numpy as np
import pytest

import meshwise as mw
from meshwise.cost.kernels.few_rows import FEW_ROWS, few_rows_s
from meshwise.stacks.engines import FewRows

OWN = FewRows(row_memory_share=0.8, row_sm_bytes_per_s=10e9, row_product_s=2e-6)


def test_without_a_share_the_measured_kernels_stand() -> None:
    seconds = np.array([1e-6, 2e-6])
    assert few_rows_s(seconds, 1, 1e9, 100, 1e12, FewRows()) is seconds


@pytest.mark.parametrize(
    ("sms", "rate"),
    [(1000, 0.8e12), (50, 0.5e12)],  # the memory's share, and what 50 multiprocessors draw
)
def test_a_few_rows_last_as_long_as_reading(sms: float, rate: float) -> None:
    found = few_rows_s(np.array([1.0]), np.array([1.0]), 1e9, sms, 1e12, OWN)
    assert found == pytest.approx([2e-6 + 1e9 / rate])


def test_many_rows_are_no_quicker_than_reading_and_no_quicker_than_arithmetic() -> None:
    rows = np.array([FEW_ROWS + 1.0, FEW_ROWS + 1.0])
    reading = 2e-6 + 1e9 / 0.8e12
    found = few_rows_s(np.array([1e-9, 1.0]), rows, 1e9, 1000, 1e12, OWN)
    assert found == pytest.approx([reading, 1.0])


HEAD, LAYERS = 128256 * 4096, 32 * (4096 * 4096 * 2 + 4096 * 1024 * 2 + 3 * 4096 * 14336)
# bytes of Llama-3-8B's layers and head: 16 bit, GGUF's mixture of 4 and 6 bits, 4 bits and a scale
READ = {None: 2.0 * (LAYERS + HEAD), "q4_k_m": 0.604 * LAYERS + 0.82 * HEAD}
READ["int4"] = (0.5 + 2.0 / 128) * LAYERS + 2.0 * HEAD


@pytest.mark.parametrize("stack", ["llama.cpp", "exllama", "mlc"])
@pytest.mark.parametrize("weights", list(READ))
def test_one_stream_takes_its_reading_and_little_more(stack: str, weights: str | None) -> None:
    work = mw.Decode(batch=1, context=128, formats=mw.Formats(weights=weights))
    step = mw.estimate("llama-3-8b", "rtx-4090-4x", work, stack=stack).to_dict()
    share = mw.stack(stack).row_memory_share
    seconds = READ[weights] / (share * mw.cluster("rtx-4090-4x").device.memory_bytes_per_s)
    assert 0.98 * seconds < step["step_s"] < 1.1 * seconds + 32 * 150e-6
