"""Terms of a training step: each switch does what it says, and nothing beside it."""

from __future__ import annotations

from typing import Any

import pytest

import meshwise as mw
from meshwise.clusters.load import device
from meshwise.cost.kernels.compute import compute
from meshwise.cost.kernels.fits import kernels
from meshwise.program.operations import Op
from meshwise.stacks.load import load_stack

NODE = mw.cluster("hgx-h100", nodes=1)


def step(stack: mw.Stack, cluster: Any = NODE, seq: int = 8192, **layout: Any) -> Any:
    recompute, formats = layout.pop("recompute", "none"), layout.pop("formats", mw.Formats())
    model = layout.pop("model", "llama-3.1-8b")
    work = mw.Training(batch=8, seq=seq, micro_batch=1, recompute=recompute, formats=formats)
    return mw.estimate(model, cluster, work, stack=stack, **layout).report.estimate


def operations(e: Any, name: str, phase: str = "forward") -> list[Op]:
    return [op for op in e.program.layers[0] if op.name == name and op.phase == phase]


@pytest.mark.parametrize("cp", [2, 4, 8])
def test_without_balance_the_last_rank_of_a_sequence_sees_nearly_all(cp: int) -> None:
    def core(balanced: bool) -> Op:
        e = step(mw.stack("torchtitan-fsdp", cp_load_balance=balanced), cp=cp, dp=8 // cp)
        return operations(e, "attention.core")[0]

    even, last = core(True), core(False)
    assert float(last.flops / even.flops) == pytest.approx((2 * cp - 1) / cp)
    assert float(last.model_flops) == float(even.model_flops)
    assert last.core is not None and even.core is not None
    assert float(last.core.attended / even.core.attended) == pytest.approx((2 * cp - 1) / cp)


def test_torchtitan_of_2024_deals_out_one_chunk() -> None:
    assert not load_stack("torchtitan@2024-12").cp_load_balance
    assert load_stack("torchtitan@2025-06").cp_load_balance
    assert load_stack("megatron-core").cp_load_balance


def test_weights_are_gathered_in_8_bit_where_products_are() -> None:
    def gathered(dtype: str, narrow: bool) -> float:
        e = step(
            mw.stack("torchtitan-fsdp", narrow_param_gather=narrow),
            dp=8,
            shard="zero3",
            formats=mw.Formats(dtype=dtype),
        )
        return float(operations(e, "weights.dense")[0].payload_bytes)

    wide = gathered("fp8", False)
    # all of a layer but its norms
    assert gathered("fp8", True) == pytest.approx(0.5 * wide, rel=1e-3)
    assert gathered("bf16", True) == wide


def test_a_layer_norm_is_one_kernel_and_an_rms_norm_a_chain() -> None:
    def moved(model: str, fused: bool) -> float:
        e = step(mw.stack("torchtitan-fsdp", fused_norm=fused), seq=1024, dp=8, model=model)
        (op,) = operations(e, "layer.attention.norm") or operations(e, "attention.norm")
        return float(op.hbm_bytes)

    assert moved("llama-3.1-8b", False) == pytest.approx(21 / 5 * moved("llama-3.1-8b", True))
    assert moved("gpt2", False) == moved("gpt2", True)


def test_a_softmax_that_is_not_fused_is_more_passes() -> None:
    def traffic(fused: bool) -> float:
        e = step(mw.stack("megatron-2021", fused_softmax=fused), seq=2048, dp=8)
        return float(operations(e, "attention.core")[0].hbm_bytes)

    pairs = 32 * 2048.0**2
    assert traffic(False) - traffic(True) == pytest.approx(13.0 * pairs)
    flash = [
        float(step(mw.stack("megatron-core", fused_softmax=f), seq=2048, dp=8).step_s)
        for f in (False, True)
    ]
    assert flash[0] == flash[1]


def test_experts_with_biases_write_their_activation_out() -> None:
    def per_value(model: str) -> float:
        e = step(
            mw.stack("megatron-core"), seq=4096, dp=8, ep=8, shard="zero1", model=model
        )  # top_k rows per token, of the expert's width
        moe = e.program.ctx.model.blocks[0].moe
        (op,) = operations(e, "moe.activation")
        return float(op.hbm_bytes) / (4096 * moe.top_k * moe.expert.width)

    assert per_value("gpt-oss-20b") == pytest.approx(86.0)
    assert per_value("qwen3-30b-a3b") == pytest.approx(6.0)


def test_flash_attention_2_is_cudnns_on_blackwell_unless_asked_for() -> None:
    def core(stack: mw.Stack, where: str) -> float:
        e = step(stack, mw.cluster(where, nodes=1), seq=32768, dp=8)
        return float(sum(e.pricer.compute.seconds(op) for op in operations(e, "attention.core")))

    own, four = mw.stack("torchtitan-fsdp"), mw.stack("torchtitan-fsdp", flash_version=4)
    asked = mw.stack("megatron-core", flash_version=2)
    assert own.flash_version == 2
    assert core(own, "hgx-b200") == core(four, "hgx-b200")
    assert core(asked, "hgx-b200") > 1.5 * core(four, "hgx-b200")
    assert core(own, "hgx-h100") > 1.5 * core(four, "hgx-h100")


def test_clocks_of_blackwell_are_those_of_its_operands_in_training_alone() -> None:
    b200 = device("b200")
    assert b200.training_clock_narrow is not None
    training = compute(b200, load_stack("nemo"), training=True)
    served = compute(b200, load_stack("nemo"))
    for dtype, clock in (("bf16", b200.training_clock), ("fp8", b200.training_clock_narrow)):
        assert training.chip(dtype).peak == pytest.approx(clock * served.chip(dtype).peak)
    assert b200.training_clock < b200.training_clock_narrow
    hopper = compute(device("h100"), load_stack("nemo"), training=True)
    assert hopper.narrow_clock == hopper.clock == device("h100").training_clock


@pytest.mark.parametrize(
    ("name", "file", "own"),
    [
        ("h200", "h200", True),
        ("h200-nvl", "h200", False),
        ("gh200-96gb", "h100-80gb-sxm", False),
        ("rtx-pro-6000-server", "rtx-pro-6000", True),
        ("mi300x", "h100-80gb-sxm", False),
    ],
)
def test_kernels_are_own_where_they_were_measured(name: str, file: str, own: bool) -> None:
    found = kernels(device(name))
    assert (found.name, not found.inherited) == (file, own)


def test_a_reduced_tensor_rate_is_reached_more_nearly() -> None:
    card = compute(device("rtx-4090"), load_stack("llmq"))
    assert card.chip("bf16").peak == pytest.approx(1.19 * card.peak("bf16"))
    # of which the L40S's kernels reach 0.772: 152 of 165 TFLOP/s
    assert 0.9 < 1.19 * 0.7723 < 0.93


def test_weights_that_are_sharded_one_by_one_send_the_same_bytes_in_more_collectives() -> None:
    """Six parameters of each of 32 layers, the embedding, the head and the norm before it."""

    def sharded(by_tensor: bool, shard: str) -> tuple[list[Op], float]:
        stack = mw.stack("megatron-core", shards_by_tensor=by_tensor, overlap_grad_reduce=False)
        e = step(stack, mw.cluster("hgx-h100", nodes=4), dp=8, tp=4, shard=shard)
        ops = [op for op in e.program.update[0] if op.axis == "dp_cp" and op.count > 0]
        return ops, float(e.update.comm)

    whole, seconds = sharded(False, "zero1")
    apart, longer = sharded(True, "zero1")
    assert (
        [op.kind for op in apart] == [op.kind for op in whole] == ["reduce_scatter", "all_gather"]
    )
    for one, other in zip(whole, apart, strict=True):
        assert (float(one.count), float(other.count)) == (1, 6 * 32 + 3)
        assert float(other.count * other.payload_bytes) == pytest.approx(float(one.payload_bytes))
    assert longer > seconds
    assert sharded(False, "none")[1] == sharded(True, "none")[1]
