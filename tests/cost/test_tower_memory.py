"""Bytes of encoders of images and sounds on a device, in serving and in training."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

import meshwise as mw
from meshwise.layouts.layout import Layouts
from meshwise.models.checkpoint_contents import Apart, CheckpointContents
from meshwise.program.context import widths
from meshwise.program.stored import tower_bytes

MODEL = mw.model("qwen3-vl-8b")
WORK = mw.Decode(batch=4, context=1024)
TOTAL = 2 * sum(tower.parameters for tower in MODEL.towers)


def memory(stack: Any = "vllm", work: Any = WORK, **layout: Any) -> dict[str, float]:
    found = mw.estimate(MODEL, "hgx-h100", work, stack=stack, **layout)
    assert sum(found.memory.values()) == pytest.approx(found.memory_bytes)
    return {k: float(v) for k, v in found.memory.items()}


@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("tp", [1, 2, 8])
def test_engines_divide_layers_and_keep_the_rest(stack: str, tp: int) -> None:
    split = 2 * sum(tower.split for tower in MODEL.towers)
    assert memory(stack, tp=tp)["towers_bytes"] == TOTAL - split + split / tp


@pytest.mark.parametrize("tp", [1, 2, 8])
def test_whole_on_every_rank_where_the_stack_says_so(tp: int) -> None:
    whole = mw.stack("vllm", shards_towers=False)
    assert memory(whole, tp=tp)["towers_bytes"] == TOTAL


def test_heads_that_tp_does_not_divide_leave_the_encoder_whole_and_are_said() -> None:
    """16 heads, and a language model of 32: TP 32 divides one and not the other."""
    cluster = mw.cluster("hgx-h100", nodes=4)
    found = mw.estimate(MODEL, cluster, WORK, tp=32)
    assert float(found.memory["towers_bytes"]) == TOTAL
    said = " ".join(found.remarks)
    assert "TP 32 does not divide the 16 heads of qwen3_vl_vision" in said
    assert "mm-encoder-tp-mode data" in said


def test_every_stage_of_an_engine_has_them() -> None:
    """The last stage, which has the head and is the fullest, has them too."""
    assert memory(tp=1, pp=2)["towers_bytes"] == TOTAL


def test_training_holds_them_frozen_on_the_first_stage() -> None:
    work = mw.Training(batch=8, seq=512)
    text = mw.model("llama-3.1-8b")
    assert memory("megatron-core", work, tp=2)["towers_bytes"] == TOTAL
    found = mw.estimate(MODEL, "hgx-h100", work, stack="megatron-core", tp=2)
    assert any("frozen" in line and "not priced" in line for line in found.remarks)
    assert "towers_bytes" not in mw.estimate(text, "hgx-h100", work, tp=2).memory


def test_models_without_towers_have_no_such_part() -> None:
    assert "towers_bytes" not in mw.estimate("llama-3.1-8b", "hgx-h100", WORK).memory


def test_bytes_of_many_layouts_at_once_are_those_of_each() -> None:
    degrees = np.array([1, 2, 3, 4, 8, 16, 32])
    w = widths(MODEL, WORK)
    together = tower_bytes(MODEL, Layouts(tp=degrees), w, True)
    alone = [float(tower_bytes(MODEL, Layouts(tp=np.int64(tp)), w, True)) for tp in degrees]
    assert together.tolist() == alone
    assert alone[2] == alone[6] == TOTAL  # 16 heads by 3 and by 32


def test_towers_leave_less_room_for_requests() -> None:
    bare = msgspec.structs.replace(MODEL, towers=())
    load = mw.Serving(isl=1024, osl=128, concurrency=8)
    with_towers, without = (mw.serve(m, "hgx-h100", load, tp=1) for m in (MODEL, bare))
    assert with_towers.memory_bytes - without.memory_bytes == TOTAL
    assert with_towers.max_concurrency < without.max_concurrency
    assert with_towers.tpot_s == without.tpot_s


def test_an_encoder_that_is_not_counted_is_said() -> None:
    model = msgspec.structs.replace(MODEL, towers=(), towers_not_counted=("vision_config (vit)",))
    found = mw.estimate(model, "hgx-h100", WORK)
    assert "not counted, neither in memory nor in time: vision_config (vit)" in found.remarks


@pytest.mark.parametrize(("width", "priced"), [(1, 1), (2, 2), (4, 2)])
def test_files_say_how_large_they_are_and_nothing_is_loaded_wider(width: int, priced: int) -> None:
    weights = TOTAL // 2 - 1000
    model = msgspec.structs.replace(MODEL, checkpoint=contents(weights, width))
    found = mw.estimate(model, "hgx-h100", WORK, tp=1)
    assert float(found.memory["towers_bytes"]) == pytest.approx(weights * priced)
    assert any(f"hold {weights:,} weights of encoders" in line for line in found.remarks)


def test_files_price_an_encoder_that_is_not_counted() -> None:
    unknown = msgspec.structs.replace(
        MODEL, towers=(), towers_not_counted=("vision_config (vit)",), checkpoint=contents(5000, 2)
    )
    found = mw.estimate(unknown, "hgx-h100", WORK, tp=2)
    assert float(found.memory["towers_bytes"]) == 10_000
    assert any("in memory as the files have them" in line for line in found.remarks)


def contents(weights: int, width: int) -> CheckpointContents:
    """Files with so many weights of encoders."""
    towers = Apart(
        what="towers",
        tensors=3,
        parameters=weights,
        derived_parameters=None,
        bytes=weights * width,
    )
    return CheckpointContents(
        files=1, tensors=3, total_bytes=None, parameters=None, bytes=None, groups=(),
        differences=(), apart=(towers,),
    )  # fmt: skip
