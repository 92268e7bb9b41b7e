"""Kernels that a host has to start: small steps of experts and small chunks are as slow as their host."""

from __future__ import annotations

import math

import pytest

import meshwise as mw
from meshwise.cost import hosting
from meshwise.program import launches

NODE = mw.cluster("hgx-h100", nodes=1)


def small_experts(**switches: object) -> mw.EstimateResult:
    return mw.estimate(
        mw.model("qwen3-30b-a3b"),
        NODE,
        mw.Training(batch=8, seq=512, micro_batch=1),
        stack=mw.stack("megatron-core", **switches),
        dp=8,
        ep=8,
        shard="zero1",
    )


def test_small_steps_of_experts_wait_for_their_host():
    eager, graphs = small_experts(), small_experts(host_launch_s=0.0)
    assert eager.to_dict()["step_s"] > 3 * graphs.to_dict()["step_s"]
    assert eager.to_dict()["host_s"] > 0.5 * eager.to_dict()["step_s"]
    assert any(r.startswith("launches bind") for r in eager.to_dict()["remarks"])
    assert not any("launches bind" in r for r in graphs.to_dict()["remarks"])


def test_a_layer_of_experts_has_a_hundred_kernels_or_nearly_each_way():
    program = small_experts().report.estimate.program
    block = program.ctx.model.blocks[0]
    forward = [op for op in program.layers[0] if op.phase == "forward"]
    back = [op for op in program.layers[0] if op.phase in ("dgrad", "wgrad")]
    found = [
        float(launches.kernels_per_microbatch(ops, program.ctx.stack, block))
        for ops in (forward, back)
    ]
    assert all(90 < n < 140 for n in found)


def test_products_of_experts_are_one_kernel_each():
    def kernels(ep: int) -> float:
        e = mw.estimate(
            mw.model("qwen3-30b-a3b"),
            NODE,
            mw.Training(batch=8, seq=512, micro_batch=1),
            stack="megatron-core",
            dp=8,
            ep=ep,
            shard="zero1",
        ).report.estimate
        ops = [op for op in e.program.layers[0] if op.name.startswith("moe.experts")]
        return float(launches.kernels_per_microbatch(ops, e.stack))

    assert kernels(4) == 2 * kernels(8) == 2 * (2 + 2 + 2) * 16


def test_a_step_of_half_a_second_for_four_sequences(tmp_path):
    """The 16B of DeepSeek-V3's form on 8 H100, TP2 and EP8, one sequence per replica: 457 ms
    (NVIDIA-NeMo/Megatron-Bridge, skills/nemo-mbridge-perf-activation-recompute), 36.6 GB with the
    recipe's BF16 gradients and moments."""
    config = tmp_path / "config.json"
    config.write_text(
        """{"model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"],
        "num_hidden_layers": 27, "hidden_size": 2048, "num_attention_heads": 16,
        "num_key_value_heads": 16, "kv_lora_rank": 512, "q_lora_rank": null,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 64,
        "num_experts_per_tok": 6, "n_shared_experts": 2, "moe_intermediate_size": 1408,
        "intermediate_size": 11264, "first_k_dense_replace": 1, "vocab_size": 163840,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "moe_layer_freq": 1}"""
    )
    formats = mw.Formats(gradients="bf16")
    d = mw.estimate(
        mw.model(str(config)),
        NODE,
        mw.Training(batch=4, seq=4096, micro_batch=1, formats=formats),
        stack=mw.stack("nemo", moments_dtype="bf16"),
        tp=2,
        dp=4,
        ep=8,
        etp=1,
        shard="zero1",
        sequence_parallel=True,
    ).to_dict()
    assert 0.3 < d["step_s"] < 0.62
    assert d["host_s"] > 0.4 * d["step_s"]
    assert 33e9 < d["memory_bytes"] < 40e9


def virtual(vp: int) -> float:
    return mw.estimate(
        mw.model("llama-2-7b"),
        NODE,
        mw.Training(batch=16, seq=2048, micro_batch=1),
        stack="megatron-core",
        tp=4,
        pp=2,
        vp=vp,
        sequence_parallel=True,
    ).step_s


def test_one_layer_per_chunk_is_dearer_than_four():
    steps = {vp: virtual(vp) for vp in (1, 4, 16)}
    assert steps[4] < steps[1]
    assert steps[16] > 1.02 * steps[4]


def test_large_layers_hide_their_launches():
    e = mw.estimate(
        mw.model("llama-3.1-70b"),
        mw.cluster("hgx-h100", nodes=4),
        mw.Training(batch=32, seq=8192, micro_batch=1),
        stack="megatron-core",
        tp=8,
        pp=4,
        sequence_parallel=True,
    ).report.estimate
    launch, busy = float(e._launch_s), float(e.microbatch.busy)
    assert launch < 0.3 * busy
    # a host that is a fifth as busy as its device costs a fiftieth: the root of the sum of squares
    late = float(e.program.ctx.microbatches) * (math.hypot(busy, launch) - busy)
    assert float(e.host_s) == pytest.approx(float(e.straggler_s) + late)
    assert late < 0.03 * float(e.step_s)


def test_a_host_as_busy_as_its_device_costs_two_fifths_and_a_slower_one_is_not_beaten():
    assert hosting.paced_s(1.0, 1.0, 0.0) == pytest.approx(math.sqrt(2))
    assert hosting.paced_s(1.0, 0.1, 0.0) == pytest.approx(1.005, abs=1e-4)
    assert hosting.paced_s(0.1, 1.0, 0.0) >= 1.0
    # launches known by layer are a floor, and no more
    assert hosting.paced_s(1.0, 0.0, 0.9) == 1.0
    assert hosting.paced_s(1.0, 0.0, 1.2) == 1.2


def nanotron(nodes: int, **layout: int) -> float:
    e = mw.estimate(
        mw.model("llama-3.2-1b"),
        mw.cluster("hgx-h100", nodes=nodes),
        mw.Training(batch=64, seq=2048, micro_batch=1),
        stack="nanotron",
        shard="zero1" if layout["dp"] > 1 else "none",
        sequence_parallel=True,
        **layout,
    ).report.estimate
    return float(e._layers_s)


def test_a_host_waits_for_the_network_where_tp_is_beside_stages_that_cross_it():
    """Published steps of nanotron: 2.5 to 6 times the launches of one node, by the degree of TP."""
    inside = nanotron(1, tp=4, pp=2, dp=1)
    assert nanotron(2, tp=4, pp=2, dp=2) == pytest.approx(2.8 * inside)
    assert nanotron(2, tp=8, pp=2, dp=1) == pytest.approx(4.6 * inside)
    # replicas, which meet once a step, do not slow it
    assert nanotron(2, tp=4, pp=1, dp=4) == pytest.approx(nanotron(1, tp=4, pp=1, dp=2))


def test_recomputation_starts_forward_again_and_graphs_start_nothing():
    def seconds(recompute: str, **switches: object) -> float:
        e = mw.estimate(
            mw.model("llama-2-7b"),
            NODE,
            mw.Training(batch=8, seq=512, micro_batch=1, recompute=recompute),
            stack=mw.stack("megatron-core", **switches),
            tp=8,
        ).report.estimate
        return float(hosting.microbatch_s(e.program))

    assert 1.25 * seconds("none") < seconds("full") < 1.6 * seconds("none")
    assert seconds("full", host_launch_s=0.0) == 0.0
    assert (
        float(
            mw.estimate(
                mw.model("llama-2-7b"), NODE, mw.Decode(batch=1, context=512), stack="megatron-core"
            ).report.estimate.launch_s
        )
        == 0.0
    )


def eager_decode(model: str, stack: str, **switches: object) -> tuple[dict, dict]:
    """One stream from CUDA graphs, and launched kernel by kernel."""
    asked = mw.model(model), mw.cluster("hgx-h200"), mw.Decode(batch=1, context=1024)
    return tuple(
        mw.estimate(*asked, stack=mw.stack(stack, eager=eager, **switches), tp=8).to_dict()
        for eager in (False, True)
    )


def test_an_eager_decode_of_experts_takes_as_long_as_a_published_one():
    """sgl-project/sglang pull request 12160: DeepSeek-V3 without graphs, 1.35 ms a layer."""
    _, eager = eager_decode("deepseek-v3", "sglang")
    assert eager["step_s"] == pytest.approx(61 * 1.35e-3, rel=0.05)


@pytest.mark.parametrize("stack", ["sglang", "trtllm"])
@pytest.mark.parametrize("model", ["deepseek-v3", "qwen3-235b-a22b", "llama-3.1-70b"])
def test_eager_decodes_launch_the_kernels_of_routed_experts_too(stack: str, model: str):
    _, eager = eager_decode(model, stack)
    _, none = eager_decode(model, stack, eager_kernel_s=0.0)
    blocks = mw.model(model).blocks
    if all(block.moe is None for block in blocks):
        assert eager["step_s"] == none["step_s"]
        return
    host = mw.stack(stack).host
    # five kernels at the least of each layer of experts: see program.launches
    layers = sum(
        n for b, n in zip(blocks, mw.model(model).kind_counts(), strict=True) if b.moe is not None
    )
    most = mw.model(model).layers * host.eager_layer_s + 5 * layers * host.eager_kernel_s
    assert eager["step_s"] >= most
    assert eager["step_s"] > none["step_s"]


def test_eager_decodes_of_vllm_launch_their_experts_as_its_prompts_do():
    for model, layers in (("qwen3-235b-a22b", 94), ("llama-3.1-70b", 0)):
        _, eager = eager_decode(model, "vllm")
        graphs, none = eager_decode(model, "vllm", expert_layer_s=0.0)
        assert eager["step_s"] - none["step_s"] == pytest.approx(layers * 0.5e-3, abs=1e-9)
        assert eager_decode(model, "vllm")[0]["step_s"] == graphs["step_s"]  # a graph has them


@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm"])
def test_a_server_s_eager_decodes_are_those_of_an_estimate(stack: str):
    eager = mw.stack(stack, eager=True)
    load = mw.Serving(isl=1024, osl=2, concurrency=1, length_spread=0.0)
    served = mw.serve("qwen3-235b-a22b", "hgx-h200", load, stack=eager, tp=8)
    step = mw.estimate(
        *("qwen3-235b-a22b", "hgx-h200", mw.Decode(batch=1, context=load.context)),
        stack=eager,
        tp=8,
    )
    assert served.decode_s == pytest.approx(step.step_s, rel=1e-6)
