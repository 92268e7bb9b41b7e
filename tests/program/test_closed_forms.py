"""Second derivation of FLOPs and bytes: closed forms of the literature, worked out by hand here.

B batch, s sequence, h hidden, a heads, L layers, V vocabulary, t tensor-parallel degree. Megatron:
arXiv 2104.04473 (section 3) and 2205.05198 (section 4, appendix A); PaLM: arXiv 2204.02311,
appendix B. Whole numbers throughout, so equality is exact.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwise import api
from meshwise.clusters.load import load_cluster
from meshwise.cost.memory.activations import layer_activation_bytes
from meshwise.cost.memory.parts import kv_cache_bytes, state_bytes, working_bytes
from meshwise.layouts.layout import Layouts
from meshwise.models.layers.attention import Attention
from meshwise.models.load import load_model
from meshwise.models.parameters import parameters
from meshwise.models.shapes import Block, Mlp, Model
from meshwise.program.layers.pairs import attended_pairs, entry_pairs
from meshwise.program.step import Program, program
from meshwise.program.weights import roles
from meshwise.stacks.load import load_stack
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Decode, Training

FAST = settings(max_examples=40, deadline=None, derandomize=True)
UNFUSED = Stack(name="unfused", attention="unfused")
FLASH = Stack(name="flash")


def gpt(h: int, a: int, layers: int, vocab: int, positions: int = 2048) -> Model:
    """A GPT-3-like model: 4h FFN, biases everywhere, dropout, tied head."""
    attention = Attention(
        heads=a, kv_heads=a, head_dim=h // a, value_head_dim=h // a,
        query_bias=True, key_bias=True, value_bias=True, output_bias=True,
    )  # fmt: skip
    mlp = Mlp(width=4 * h, gated=False, up_bias=True, down_bias=True)
    return Model(
        name="gpt", model_type="gpt2", hidden=h, vocab=vocab,
        blocks=(Block(attention=attention, mlp=mlp, norm_parameters=4 * h),),
        pattern=(0,) * layers, tied=True, positions=positions,
        final_norm_parameters=2 * h, dropout=True,
    )  # fmt: skip


def layout(**axes: Any) -> Layouts:
    return Layouts(**{k: np.asarray(v) for k, v in ({"tp": 1} | axes).items()})


def built(model: Model, batch: int, seq: int, stack: Stack = UNFUSED, **axes: Any) -> Program:
    axes.setdefault("micro_batch", batch)
    return program(model, stack, Training(batch=batch, seq=seq), layout(**axes))


def summed(ops: list[Any], phases: tuple[str, ...], field: str = "flops") -> int:
    total = sum(
        Fraction(float(op.count)) * Fraction(float(getattr(op, field)))
        for op in ops
        if op.phase in phases and op.kind in ("gemm", "attention")
    )
    assert total == int(total)
    return int(total)


# (hidden, heads, layers, vocabulary)
SIZES = {
    "gpt3-175b": (12288, 96, 96, 51200),
    "megatron-22b": (6144, 64, 48, 51200),
    "mt-nlg-530b": (20480, 128, 105, 51200),
    "megatron-1t": (25600, 160, 128, 51200),
}
CONFIGS = st.sampled_from(sorted(SIZES.values()))
SHAPES = st.tuples(CONFIGS, st.sampled_from([1, 2, 4, 8]), st.sampled_from([256, 1024, 2048]))


def test_presets_are_these_models() -> None:
    for name, (h, a, layers, vocab) in SIZES.items():
        preset = load_model(name)
        found = preset.hidden, preset.blocks[0].attention.heads, preset.layers, preset.vocab
        assert found == (h, a, layers, vocab)
        assert preset.dropout and preset.blocks == gpt(h, a, layers, vocab).blocks


@FAST
@given(SHAPES)
def test_layer_and_head(shape: Any) -> None:
    """24·B·s·h² + 4·B·s²·h forward (C21), twice that backward; the head 2·B·s·h·V, thrice in all."""
    (h, a, layers, vocab), b, s = shape
    p = built(gpt(h, a, layers, vocab), b, s)
    forward = 24 * b * s * h * h + 4 * b * s * s * h
    assert summed(p.layers[0], ("forward",)) == forward
    assert summed(p.layers[0], ("dgrad", "wgrad")) == 2 * forward
    assert summed(p.head, ("forward",)) == 2 * b * s * h * vocab
    assert summed(p.head, ("forward", "dgrad", "wgrad")) == 6 * b * s * h * vocab


def test_the_notes_layer() -> None:
    """C13: 2.44e14 FLOP forward, 97.8 ms at 312 TFLOP/s over 8 GPUs."""
    p = built(gpt(12288, 96, 96, 51200), 32, 2048)
    flops = summed(p.layers[0], ("forward",))
    assert flops == 24 * 32 * 2048 * 12288**2 + 4 * 32 * 2048**2 * 12288 == 244_091_581_366_272
    assert flops / 312e12 / 8 == pytest.approx(97.8e-3, rel=5e-4)


def iteration(p: Program, layers: int, field: str, phases: tuple[str, ...]) -> int:
    return layers * summed(p.layers[0], phases, field) + summed(p.head, phases, field)


@FAST
@given(SHAPES)
def test_model_flops_of_an_iteration(shape: Any) -> None:
    """72·B·L·s·h²·(1 + s/6h + V/12hL): arXiv 2205.05198, appendix A."""
    (h, a, layers, vocab), b, s = shape
    whole = 72 * b * layers * s * h * h
    expected = whole * (1 + Fraction(s, 6 * h) + Fraction(vocab, 12 * h * layers))
    phases = ("forward", "recompute", "dgrad", "wgrad")
    for stack in (UNFUSED, FLASH):  # a convention: it does not depend on the kernel …
        for recompute in (0, 1):  # … nor on what is recomputed
            p = built(gpt(h, a, layers, vocab), b, s, stack, recompute=recompute)
            assert iteration(p, layers, "model_flops", phases[:1] + phases[2:]) == expected


@FAST
@given(SHAPES)
def test_hardware_flops_by_recomputation(shape: Any) -> None:
    """Full: 96·B·L·s·h²·(1 + s/6h + V/16hL) (arXiv 2104.04473, section 5.1). Selective repeats the
    4·B·s²·h of every layer's core once."""
    (h, a, layers, vocab), b, s = shape
    model, phases = gpt(h, a, layers, vocab), ("forward", "recompute", "dgrad", "wgrad")
    whole = 96 * b * layers * s * h * h
    full = whole * (1 + Fraction(s, 6 * h) + Fraction(vocab, 16 * h * layers))
    assert iteration(built(model, b, s, recompute=2), layers, "flops", phases) == full
    none = iteration(built(model, b, s), layers, "flops", phases)
    selective = iteration(built(model, b, s, recompute=1), layers, "flops", phases)
    assert selective - none == layers * 4 * b * s * s * h
    fused = built(model, b, s, FLASH, recompute=1)
    assert summed(fused.layers[0], ("recompute",)) == 0  # a fused core keeps no scores


@pytest.mark.parametrize("kernel", ["unfused", "flash"])
def test_hardware_utilisation_is_a_convention_too(kernel: str) -> None:
    """Full attention in what is recomputed as well: hfu/mfu = 96·(…)/72·(…), whatever the kernel."""
    r = api.estimate(
        load_model("gpt3-175b"),
        load_cluster("dgx-a100"),
        Training(batch=8, seq=2048, recompute="full"),
        stack=api.stack("megatron-core", attention=kernel),
        tp=8,
    ).report
    h, layers, vocab, s = 12288, 96, 51200, 2048
    full = 96 * (1 + Fraction(s, 6 * h) + Fraction(vocab, 16 * h * layers))
    model = 72 * (1 + Fraction(s, 6 * h) + Fraction(vocab, 12 * h * layers))
    assert r.hfu / r.mfu == pytest.approx(float(full / model), rel=1e-12)


@FAST
@given(SHAPES)
def test_flash_attention_executes_the_causal_half(shape: Any) -> None:
    """s·(s+1)/2 pairs forward; 2.5 times that backward (arXiv 2307.08691, section 3.1.2)."""
    (h, a, layers, vocab), b, s = shape
    p = built(gpt(h, a, layers, vocab), b, s, FLASH)
    cores = [op for op in p.layers[0] if op.kind == "attention" and float(op.count)]
    pairs = s * (s + 1) // 2
    assert {op.phase: float(op.flops) for op in cores} == {
        "forward": 4 * b * pairs * h,
        "dgrad": 10 * b * pairs * h,
    }


@pytest.mark.parametrize("name", ["gpt3-175b", "llama-3-70b", "mixtral-8x7b", "qwen3-235b-a22b"])
def test_six_n_d(name: str) -> None:
    """6·N·D: every weight of a product costs 6 FLOP per token of training (Kaplan et al., arXiv
    2001.08361, section 2.1), N without tables, norms and biases, of the experts those that a token
    visits; attention adds 12·L·s·(a·d) (PaLM, appendix B). Exactly."""
    model, b, s = load_model(name), 2, 2048
    p = built(model, b, s)
    a = model.blocks[0].attention
    assert a is not None and len(model.blocks) == 1
    h, width = model.hidden, a.heads * a.head_dim
    n = 2 * h * width + 2 * h * a.kv_heads * a.head_dim
    block = model.blocks[0]
    if block.mlp is not None:
        n += (3 if block.mlp.gated else 2) * h * block.mlp.width
    if block.moe is not None:
        n += block.moe.top_k * 3 * h * block.moe.expert.width + h * block.moe.experts
    products = model.layers * n + h * model.vocab
    flops = iteration(p, model.layers, "model_flops", ("forward", "dgrad", "wgrad"))
    assert flops == 6 * products * b * s + 12 * model.layers * s * width * b * s
    # … so the rule of thumb with all active parameters is right to the tables and the attention
    rule = 6 * parameters(model, active=True) * b * s
    assert flops / rule == pytest.approx(1.0, abs=0.12)


# -- activations: arXiv 2205.05198, section 4 --------------------------------------------------------

TP = st.sampled_from([1, 2, 4, 8])


def layer_bytes(model: Model, b: int, s: int, **axes: Any) -> Fraction:
    p = built(model, b, s, **axes)
    return Fraction(float(layer_activation_bytes(p.ctx, model.blocks[0])))


@FAST
@given(SHAPES, TP)
def test_activations_of_a_layer(shape: Any, t: int) -> None:
    (h, a, layers, vocab), b, s = shape
    model, sbh = gpt(h, a, layers, vocab), s * b * h
    scores = Fraction(5 * a * s, h)
    # Equation 1: no parallelism; 2: tensor parallel; 4: with sequence parallelism
    assert layer_bytes(model, b, s) == sbh * (34 + scores)
    assert layer_bytes(model, b, s, tp=t) == sbh * (10 + Fraction(24, t) + scores / t)
    sp = {"tp": t, "sequence_parallel": True}
    assert layer_bytes(model, b, s, **sp) == Fraction(sbh, t) * (34 + scores)
    # Table 2: selective recomputation without and with sequence parallelism (equation 6), full
    assert layer_bytes(model, b, s, tp=t, recompute=1) == sbh * (10 + Fraction(24, t))
    assert layer_bytes(model, b, s, **sp, recompute=1) == Fraction(34 * sbh, t)
    assert layer_bytes(model, b, s, tp=t, recompute=2) == 2 * sbh
    # A fused kernel keeps no scores: what selective recomputation leaves
    fused = built(model, b, s, FLASH, **sp)
    assert float(layer_activation_bytes(fused.ctx, model.blocks[0])) == Fraction(34 * sbh, t)


@FAST
@given(SHAPES, TP, st.sampled_from([1, 2, 4, 8]))
def test_activations_of_the_first_stage(shape: Any, t: int, pp: int) -> None:
    """Equation 5: s·b·h·L/t·(34 + 5as/h) whatever pp is (pp microbatches of L/pp layers); to that
    4·s·b·h/t·(1 + V/h) where the head is on the stage (section 4.3). The logits' 4·s·b·V/t are in
    the workspace, with 16-bit and (before core 0.8) second fp32 ones: 10 bytes; a layer's backward
    may need more."""
    (h, a, _, vocab), b, s = shape
    layers = 8 * pp
    model = gpt(h, a, layers, vocab)
    axes = {"tp": t, "sequence_parallel": True, "pp": pp, "micro_batch": b}
    p = program(model, UNFUSED, Training(batch=b * 2 * pp, seq=s), layout(**axes))
    first = roles(model, p.ctx.layout)[0]
    sbh = s * b * h
    body = Fraction(sbh * layers, t) * (34 + Fraction(5 * a * s, h))
    kept = working_bytes(p.ctx, first)
    assert Fraction(float(kept.activations_bytes)) == body + (
        Fraction(4 * sbh, t) if pp == 1 else 0
    )
    loss = Fraction(int(UNFUSED.loss_peak_bytes) * s * b * vocab, t)
    if pp == 1:
        assert Fraction(float(kept.workspace_bytes)) >= loss


def test_interleaving_keeps_more() -> None:
    """L·(1 + (p−1)/(p·m)) layers' worth with m virtual stages (section 4.2.3)."""
    h, a, vocab = 6144, 64, 51200
    model, b, s, t, pp, vp = gpt(h, a, 48, vocab), 1, 2048, 8, 4, 3
    axes = {"tp": t, "sequence_parallel": True, "pp": pp, "vp": vp, "micro_batch": b}
    p = program(model, UNFUSED, Training(batch=16, seq=s), layout(**axes))
    body = Fraction(s * b * h * 48, t) * (34 + Fraction(5 * a * s, h))
    found = float(working_bytes(p.ctx, roles(model, p.ctx.layout)[0]).activations_bytes)
    assert found == pytest.approx(float(body * (1 + Fraction(pp - 1, pp * vp))), rel=1e-12)


# -- state and cache ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "gpt3-175b", "llama-3-8b", "mixtral-8x7b", "deepseek-v3"])
def test_sixteen_bytes_per_parameter(name: str) -> None:
    """Mixed-precision Adam: 2 + 2 + 12 bytes of every weight (ZeRO, arXiv 1910.02054, section 3.1)."""
    model = load_model(name)
    p = built(model, 1, 128)
    s = state_bytes(p.ctx, p.roles[0])
    n = parameters(model)
    assert (s.weights_bytes, s.gradients_bytes, s.optimizer_bytes) == (2 * n, 2 * n, 12 * n)


def test_gpt3_at_tp8_needs_350_gb() -> None:
    """C36: weights, gradients and optimizer of GPT-3 175B at TP=8 alone."""
    model = load_model("gpt3-175b")
    p = built(model, 1, 2048, tp=8)
    h, layers = 12288, 96
    copied = layers * (4 * h + 2 * h) + 2 * h + 2048 * h  # norms, row biases; last norm, positions
    split = parameters(model) - copied
    assert float(state_bytes(p.ctx, p.roles[0]).total) == 16 * (split // 8 + copied)
    assert float(state_bytes(p.ctx, p.roles[0]).total) == pytest.approx(350e9, rel=4e-3)


# preset → (layers, values per token and layer at tp=1, KV heads (0: one latent on every rank))
CACHES = {
    "gpt3-175b": (96, 2 * 96 * 128, 96),  # multi-head
    "llama-3-70b": (80, 2 * 8 * 128, 8),  # grouped-query
    "falcon-7b": (32, 2 * 1 * 64, 1),  # multi-query
    "deepseek-v3": (61, 512 + 64, 0),  # multi-head latent
}


@FAST
@given(
    st.sampled_from(sorted(CACHES)),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.integers(1, 300),
    st.integers(1, 40_000),
)
def test_cache_bytes(name: str, tp: int, batch: int, context: int) -> None:
    """Layers · batch · context · 2 · kv_heads/tp · head_dim · 2 bytes, at least one head (C38)."""
    model = msgspec.structs.replace(load_model(name), quantization=None)
    layers, values, kv = CACHES[name]
    p = program(model, FLASH, Decode(batch=batch, context=context), layout(tp=tp))
    per_rank = values if kv == 0 else values // kv * -(-kv // tp)
    assert float(kv_cache_bytes(p.ctx, p.roles[0])) == layers * batch * context * per_rank * 2


@FAST
@given(st.integers(1, 8), st.integers(1, 20_000))
def test_cache_of_a_sliding_window(batch: int, context: int) -> None:
    """Gemma 3 12B: five layers of six see 1,024 tokens; 48 layers, 8 KV heads of 256."""
    p = program(
        load_model("gemma-3-12b"), FLASH, Decode(batch=batch, context=context), layout(tp=1)
    )
    tokens = 40 * min(context, 1024) + 8 * context
    assert float(kv_cache_bytes(p.ctx, p.roles[0])) == batch * tokens * 2 * 8 * 256 * 2


@FAST
@given(st.integers(1, 60), st.integers(0, 60), st.none() | st.integers(1, 80), st.booleans())
def test_pairs_by_counting_them(
    queries: int, before: int, window: int | None, causal: bool
) -> None:
    """Query by query: the keys that it sees, itself and what is before it, at most a window."""
    keys = before + queries
    seen = [
        min(position + 1 if causal else keys, window or keys) for position in range(before, keys)
    ]
    assert attended_pairs(queries, keys, window, causal) == sum(seen)


@FAST
@given(
    st.integers(1, 60),
    st.integers(0, 60),
    st.integers(1, 9),
    st.none() | st.integers(1, 20),
    st.booleans(),
)
def test_entries_by_counting_them(
    queries: int, before: int, compress: int, chosen: int | None, causal: bool
) -> None:
    """Query by query: the whole steps of positions up to its own, of them at most those chosen."""
    keys = before + queries
    seen = []
    for position in range(before, keys):
        entries = (position + 1 if causal else keys) // compress
        seen.append(entries if chosen is None else min(entries, chosen))
    assert entry_pairs(queries, keys, compress, chosen, causal) == sum(seen)


@FAST
@given(SHAPES, TP)
def test_bytes_of_the_products(shape: Any, t: int) -> None:
    """Each operand and result once, 2 bytes a value: forward T·(in + out) + in·out; the weight
    gradient is read and written where it accumulates."""
    (h, a, layers, vocab), b, s = shape
    p = built(gpt(h, a, layers, vocab), b, s, tp=t)
    tokens = b * s
    linears = {
        "attention.qkv": (h, 3 * h // t),
        "attention.output": (h // t, h),
        "mlp.up": (h, 4 * h // t),
        "mlp.down": (4 * h // t, h),
    }
    found = {(op.name, op.phase): op for op in p.layers[0] if op.kind == "gemm" and float(op.count)}
    assert len(found) == 12
    for name, (inputs, outputs) in linears.items():
        moved = tokens * (inputs + outputs)
        for phase, weights in (("forward", 1), ("dgrad", 1), ("wgrad", 2)):
            op = found[name, phase]
            assert float(op.hbm_bytes) == 2 * (moved + weights * inputs * outputs)
            assert float(op.flops) == 2 * tokens * inputs * outputs


def test_norms_over_all_heads_reduce_their_sums_over_tp():
    """MiniMax and OLMo 2 take one variance over all heads: two fp32 sums per token and layer."""
    for name, spans in (("minimax-m2", True), ("olmo-2-7b", True), ("qwen3-8b", False)):
        ops = [o for layer in decode_program(name, tp=4).layers for o in layer]
        found = [o for o in ops if o.name == "attention.norm_sums"]
        assert bool(found) is spans, name
        for op in found:
            assert (op.kind, op.axis, float(op.payload_bytes), int(op.count)) == (
                "all_reduce", "tp", 8 * 2 * 4.0, 1,
            )  # fmt: skip
    alone = [o for layer in decode_program("minimax-m2", tp=1).layers for o in layer]
    assert all(int(o.count) == 0 for o in alone if o.name == "attention.norm_sums")


def test_sglang_computes_the_shared_expert_with_the_routed_ones():
    """DeepSeek-V3 without expert parallelism: nine experts a token, no product of its own."""

    def experts(ep: int, stack: str) -> tuple[float, float]:
        ops = decode_program("deepseek-v3", tp=8, ep=ep, stack=stack).layers[-1]
        flops = {o.name: float(o.count * o.flops) for o in ops if o.kind == "gemm"}
        return flops["moe.experts.down"], flops["moe.shared.down"]

    routed, shared = experts(1, "vllm")
    assert shared == pytest.approx(routed / 8)
    assert experts(1, "sglang") == pytest.approx((routed * 9 / 8, 0.0))
    assert experts(8, "sglang")[1] == pytest.approx(shared)


def decode_program(name: str, tp: int, ep: int = 1, stack: str = "vllm") -> Program:
    layouts = Layouts(tp=np.int64(tp), ep=np.int64(ep))
    work = Decode(batch=8, context=1024)
    return program(load_model(name), load_stack(stack), work, layouts)
