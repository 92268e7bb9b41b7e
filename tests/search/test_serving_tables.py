"""Rows of serving tables: formats that cannot be, and formats that are assumed."""

from pathlib import Path

import pytest

from meshwise.evidence.predict_serving import serving_predictions
from meshwise.evidence.prediction import Suspect, Unsupported
from meshwise.evidence.tables import Assumed, Row

PUBLISHED = Path(__file__).parents[2] / "src/meshwise/evidence/published/serving.csv"
ROW = {
    "id": "mine/1",
    "model": "llama-3.1-8b",
    "device": "h100-80gb-sxm",
    "devices": "1",
    "engine": "vllm",
    "dtype": "bf16",
    "isl": "1024",
    "osl": "256",
    "concurrency": "8",
    "tpot_ms": "8",
}


def row(**cells):
    return Row(2, ROW | cells)


def test_a_token_cannot_be_faster_than_the_weights_are_read():
    """15.0 GB of bf16 weights without the table take 4.5 ms at 3.35 TB/s."""
    assert serving_predictions(row(tpot_ms="4.6"), PUBLISHED.parent)
    with pytest.raises(Suspect, match=r"4 ms per token is less than the 4\.48 ms.*bf16"):
        serving_predictions(row(tpot_ms="4"), PUBLISHED.parent)
    assert serving_predictions(row(tpot_ms="4", dtype="fp8"), PUBLISHED.parent)


def test_fp8_checkpoints_of_tensorrt_llm_have_an_fp8_cache():
    found = serving_predictions(row(engine="trtllm", dtype="fp8"), PUBLISHED.parent)[0]
    assert Assumed("kv_dtype", "fp8") in found.assumed
    for given in ("fp8", "bf16"):
        stated = serving_predictions(
            row(engine="trtllm", dtype="fp8", kv_dtype=given), PUBLISHED.parent
        )[0]
        assert {a.field for a in stated.assumed} == {"length_spread", "max_batched_tokens"}
        assert (stated.predicted == found.predicted) == (given == "fp8")
    assert serving_predictions(row(engine="vllm", dtype="fp8"), PUBLISHED.parent)[0].assumed == (
        Assumed("length_spread", "0.05"),
    )


def test_what_a_row_must_say():
    with pytest.raises(Unsupported, match="concurrency"):
        serving_predictions(row(concurrency=""), PUBLISHED.parent)
    with pytest.raises(Unsupported, match="does not fit"):
        serving_predictions(row(fits="false"), PUBLISHED.parent)
    assert serving_predictions(row(tpot_ms=""), PUBLISHED.parent) == []
