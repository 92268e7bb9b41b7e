"""The loss in chunks of a microbatch's tokens: memory of one chunk, work of all of them."""

from __future__ import annotations

import numpy as np
import pytest

import meshwise as mw
from meshwise.cost.memory.activations import loss_bytes
from meshwise.layouts.layout import Layouts
from meshwise.program.step import program

MODEL = mw.model("qwen3-30b-a3b")
VOCAB, HIDDEN = 151_936, 2048
WORK = mw.Training(batch=8, seq=1024, micro_batch=8)


def built(chunks: int, tp: int = 1, **switches: object):
    stack = mw.stack("megatron-core", loss_chunks=chunks, vocab_multiple=1, **switches)
    layout = Layouts(tp=np.int64(tp), micro_batch=np.int64(8))
    return program(MODEL, stack, WORK, layout)


def head(chunks: int) -> dict[tuple[str, str], object]:
    return {(op.name, op.phase): op for op in built(chunks).head}


def test_logits_of_one_chunk_and_what_the_chunks_add_up():
    tokens = 8 * 1024
    whole = float(loss_bytes(built(1).ctx))
    assert whole == 6.0 * tokens * VOCAB
    for chunks in (2, 8, 64):
        found = float(loss_bytes(built(chunks).ctx))
        sums = HIDDEN * (2.0 * VOCAB + 4.0 * tokens)  # the head's gradient, that of its input
        assert found == pytest.approx(6.0 * tokens * VOCAB / chunks + sums)


def test_no_chunk_is_less_than_a_token():
    assert float(loss_bytes(built(1 << 20).ctx)) == float(loss_bytes(built(8 * 1024).ctx))


def test_the_work_is_the_same_but_for_weights_read_again():
    one, eight = head(1), head(8)
    assert one.keys() == eight.keys()
    for key, op in one.items():
        other = eight[key]
        assert float(other.count * other.flops) == pytest.approx(float(op.count * op.flops))
    for phase in ("forward", "dgrad", "wgrad"):
        a, b = one["head.logits", phase], eight["head.logits", phase]
        assert float(b.count * b.hbm_bytes) > float(a.count * a.hbm_bytes)
    a, b = one["head.loss", "forward"], eight["head.loss", "forward"]
    assert float(b.count * b.hbm_bytes) == pytest.approx(float(a.count * a.hbm_bytes))


def test_gathered_logits_are_whole_on_every_rank():
    shared, whole = built(1, tp=4), built(1, tp=4, whole_logits=True)
    assert float(loss_bytes(whole.ctx)) == 4 * float(loss_bytes(shared.ctx))
    kinds = {(op.name, op.kind) for op in whole.head if np.max(op.count) > 0}
    assert ("head.logits", "all_gather") in kinds
    assert ("head.loss", "all_reduce") not in kinds


def fsdp(chunks: int) -> dict[str, object]:
    return mw.estimate(
        MODEL,
        mw.cluster("hgx-b200", nodes=1),
        mw.Training(batch=64, seq=8192, micro_batch=8, recompute="selective"),
        stack=mw.stack("torchtitan-fsdp", loss_chunks=chunks),
        dp=8,
        shard="zero3",
    ).to_dict()


def test_eight_sequences_of_8192_fit_a_b200_with_the_loss_in_chunks():
    """mlc-ai/pith-train issue 79: 141.8 GiB, 19.5 thousand tokens/s/GPU."""
    gib = 2.0**30
    whole, eight = fsdp(1), fsdp(8)
    assert 110 * gib < eight["memory_bytes"] < 168 * gib
    assert eight["fits"]
    assert 15_500 < eight["tokens_per_s_per_device"] < 23_500
    # 8 · 8192 · 151,936 logits: 4 bytes each at this stack's peak
    assert whole["loss_bytes"] == pytest.approx(4.0 * 8 * 8192 * VOCAB)
    assert eight["loss_bytes"] < 0.16 * whole["loss_bytes"]
    assert whole["memory_bytes"] > eight["memory_bytes"] + 20 * gib


def test_the_page_shows_the_logits_with_and_without_chunks():
    r = mw.estimate(
        MODEL,
        mw.cluster("hgx-b200", nodes=1),
        mw.Training(batch=64, seq=8192, micro_batch=8, recompute="selective"),
        stack="torchtitan-fsdp",
        dp=8,
        shard="zero3",
    )
    text = str(r)
    assert "loss in 8 chunks" in text
    assert "of it at the loss, 8 chunks" in text
    assert "the same in one" in text


def test_grouped_products_are_no_part_of_what_checkpointing_by_operation_keeps():
    kept = fsdp(8)["memory"]["activations_bytes"] / 48 / (8 * 8192)
    # the layer's input, the first and third of the four dense products, the attention's output
    assert kept == pytest.approx(2 * (2048 + 4096 + 512 + 4096), rel=0.01)
