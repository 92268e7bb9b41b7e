"""One step has one price, whoever asks; a pipeline's stages are passed once; definitions are bare."""

from __future__ import annotations

import numpy as np
import pytest

import meshwise as mw
from meshwise.layouts.layout import Layout, arrays
from meshwise.simulate import iteration
from meshwise.simulate.iteration import Engine
from meshwise.stacks.load import load_stack

KINDS = ("llama-3.2-3b", "gemma-3-1b", "qwen3-30b-a3b", "deepseek-v2-lite")
HGX, CARDS = mw.cluster("hgx-h100"), mw.cluster("l4-4x")


def decode(model: str, on: mw.Cluster, stack: str = "vllm", **layout: int) -> mw.Result:
    return mw.estimate(model, on, mw.Decode(batch=8, context=1024), stack=stack, **layout)


@pytest.mark.parametrize("model", KINDS)
@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm", "ideal"])
def test_a_decode_step_has_one_price(model: str, stack: str) -> None:
    tp = 1
    step = decode(model, HGX, stack, tp=tp).to_dict()["step_s"]
    work = mw.Decode(batch=8, context=1024)
    curve = mw.scale(model, HGX, work, stack=stack, tp=[tp]).points[0].step_s
    engine = Engine(mw.model(model), HGX, load_stack(stack), arrays(Layout(tp=tp)))
    assert curve == pytest.approx(step)
    assert float(iteration.decode_s(engine, np.int64(8), 1024)) == pytest.approx(step)


@pytest.mark.parametrize("model", ["llama-3.1-8b", "gemma-3-1b", "qwen3-8b"])
def test_one_batch_passes_every_stage_once(model: str) -> None:
    one, four = (decode(model, CARDS, pp=pp).to_dict() for pp in (1, 4))
    sent = next(row["time_s"] for row in four["communication"] if row["axis"] == "pp")
    assert four["step_s"] == pytest.approx(one["step_s"] + 3 * sent, rel=1e-6)
    assert one["bubble_s"] == 0


def test_chunks_of_a_prompt_follow_each_other_through_the_stages() -> None:
    chunks, pp = 16, 4
    seconds = []
    for stages in (1, pp):
        engine = Engine(
            mw.model("llama-3.1-8b"), CARDS, load_stack("vllm"), arrays(Layout(pp=stages))
        )
        seconds.append(float(iteration.prefill(engine, np.int64(1), 2048, 15360).series_s(chunks)))
    assert seconds[1] / seconds[0] == pytest.approx((chunks + pp - 1) / chunks / pp, rel=0.1)


def test_the_ideal_of_decode_reads_its_weights() -> None:
    w = mw.Serving(isl=512, osl=128, concurrency=1)
    found = mw.serve("qwen2.5-7b", CARDS, w, stack="ideal").to_dict()
    weights = 2 * (7.615e9 - 152064 * 3584)  # the embedding is looked up, not read
    assert found["tpot_s"] == pytest.approx(weights / 300e9, rel=0.01)
    assert found["tpot_low_s"] == found["tpot_s"] == found["tpot_high_s"]


def test_zero2_under_a_pipeline_scatters_once() -> None:
    def step(pp: int, shard: str) -> float:
        work = mw.Training(batch=64, seq=2048)
        layout = {"tp": 4, "pp": pp, "dp": 16 // (4 * pp), "micro_batch": 1}
        found = mw.estimate("llama-2-7b", HGX, work, shard=shard, **layout)
        return found.to_dict()["step_s"]

    assert step(2, "zero2") == pytest.approx(step(2, "zero1"), rel=0.03)
    assert step(1, "zero2") > step(1, "zero1")


def test_gradients_are_the_stacks_unless_asked() -> None:
    def gradients(stack: str, asked: str | None) -> tuple[float, str]:
        work = mw.Training(batch=8, seq=2048, formats=mw.Formats(gradients=asked))
        found = mw.estimate("llama-3-8b", HGX, work, stack=stack, tp=8, micro_batch=1).to_dict()
        return found["memory"]["gradients_bytes"], found["formats"]["gradient_dtype"]

    wide, narrow = gradients("megatron-core", None), gradients("megatron-core", "bf16")
    assert wide[0] == 2 * narrow[0]
    assert (wide[1], narrow[1]) == ("fp32", "bf16")
    assert gradients("deepspeed", None)[1] == "bf16"


def test_a_layer_means_what_its_step_means() -> None:
    work = mw.Training(batch=8, seq=2048, recompute="full")
    point = mw.scale("gpt3-13b", mw.cluster("dgx-a100"), work, stack="ideal", tp=[8]).points[0]
    assert point.layer.recompute_s == pytest.approx(point.layer.forward_s)
    assert point.layer.ccr == pytest.approx(point.ccr, rel=0.05)


@pytest.mark.parametrize("card", ["rtx-3090-4x", "rtx-4090-4x", "l4-4x", "dgx-a100"])
def test_one_row_takes_its_weights_bytes(card: str) -> None:
    def step(weights: str) -> float:
        work = mw.Decode(batch=1, context=512, formats=mw.Formats(weights=weights))
        return mw.estimate("llama-3.1-8b", mw.cluster(card), work).to_dict()["step_s"]

    wide, eight, four = (step(w) for w in ("fp16", "int8", "int4"))
    assert 0.33 < four / wide < 0.52
    assert four < 0.8 * eight < 0.8 * 0.75 * wide


@pytest.mark.parametrize("name", ["deepseek-v3", "llama-3.1-8b"])
def test_a_prompt_alone_has_one_price_by_estimate_and_by_serve(name):
    """With what the host needs to launch the experts of all layers."""
    model, node, stack = mw.model(name), mw.cluster("hgx-h200", nodes=1), mw.stack("vllm")
    one = mw.estimate(model, node, mw.Prefill(batch=1, seq=2048), stack=stack, tp=8)
    engine = Engine(model, node, stack, arrays(Layout(tp=8)))
    served = iteration.prefill(engine, np.int64(1), 2048).series_s(1)
    assert one.to_dict()["step_s"] == pytest.approx(float(served), rel=1e-9)
    free = mw.stack("vllm", expert_layer_s=0.0)
    cheaper = mw.estimate(model, node, mw.Prefill(batch=1, seq=2048), stack=free, tp=8)
    launches = stack.expert_layer_s * sum(
        n
        for block, n in zip(model.blocks, model.kind_counts(), strict=True)
        if block.moe is not None
    )
    difference = one.to_dict()["step_s"] - cheaper.to_dict()["step_s"]
    assert difference == pytest.approx(launches, abs=1e-9)
