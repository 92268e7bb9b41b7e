"""Continuous batching: what has to hold whatever the constants are, and the model's parts by hand."""

import dataclasses
import itertools

import numpy as np
import pytest

import meshwise as mw
from meshwise.cost.estimate import price_layouts
from meshwise.layouts.layout import Layout, Layouts, arrays
from meshwise.search.serving import steady_state as serving
from meshwise.simulate import iteration
from meshwise.simulate.iteration import Engine
from meshwise.simulate.rules import engine_rules
from meshwise.stacks.load import load_stack
from meshwise.stacks.stack import replaced

MODEL, MOE = mw.model("llama-3.1-8b"), mw.model("qwen3-30b-a3b")
CLUSTER = mw.cluster("hgx-h100", nodes=1)
STACKS = ("vllm", "sglang", "trtllm", "ideal")


def steady(stack="vllm", model=MODEL, tp=1, pp=1, dp=1, ep=1, **load):
    w = mw.Serving(**{"isl": 1024, "osl": 256, "concurrency": 32} | load)
    layouts = arrays(Layout(tp=tp, pp=pp, ep=ep, dp=dp))
    chosen = load_stack(stack) if isinstance(stack, str) else stack
    return serving.steady(model, CLUSTER, chosen, layouts, w)


def engine(stack="vllm", model=MODEL, tp=1, pp=1):
    return Engine(model, CLUSTER, load_stack(stack), arrays(Layout(tp=tp, pp=pp)))


@pytest.mark.parametrize("stack", STACKS)
def test_arrays_and_scalars_give_the_same_bits(stack):
    tps, pps, dps = (
        a.astype(np.int64) for a in np.ix_(np.array([1, 2, 4]), np.array([1, 2]), np.array([1, 2]))
    )
    w = mw.Serving(isl=1000, osl=100, concurrency=37, draft_tokens=3, acceptance=0.6)
    chosen = load_stack(stack)
    mesh = serving.steady(MODEL, CLUSTER, chosen, Layouts(tp=tps, pp=pps, dp=dps), w)
    for i, tp in enumerate(tps.ravel()):
        for j, pp in enumerate(pps.ravel()):
            for k, dp in enumerate(dps.ravel()):
                one = serving.steady(MODEL, CLUSTER, chosen, Layouts(tp=tp, pp=pp, dp=dp), w)
                for name, value in one._asdict().items():
                    if name == "lent":
                        continue  # where seconds come from is told of a mesh as a whole
                    whole = np.broadcast_to(getattr(mesh, name), (3, 2, 2))
                    assert whole[i, j, k] == value, name


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("concurrency", [1, 7, 64])
def test_a_closed_loop_keeps_its_books(stack, concurrency):
    s = steady(stack, concurrency=concurrency, tp=2, dp=2)
    request = s.ttft_s + 255 * s.tpot_s
    assert s.requests_per_s * request == pytest.approx(s.running)
    assert s.tokens_per_s == pytest.approx(256 * s.requests_per_s)
    assert s.tokens_per_s_per_device == pytest.approx(s.tokens_per_s / 4)
    assert s.running == concurrency
    assert s.fits
    assert s.queue_s == 0


@pytest.mark.parametrize("stack", STACKS)
def test_one_request_sees_no_other(stack):
    s = steady(stack, concurrency=1)
    assert s.tpot_s == pytest.approx(s.decode_s)
    assert s.ttft_s >= s.prefill_s * 0.99


@pytest.mark.parametrize("stack", STACKS)
def test_more_load_is_not_faster(stack):
    for name, values in (("concurrency", (8, 16, 32, 64, 128)), ("isl", (512, 1024, 4096, 9000))):
        found = [float(steady(stack, **{name: v}).tpot_s) for v in values]
        assert all(b >= a * 0.98 for a, b in itertools.pairwise(found)), (name, found)
    prompts = [float(steady(stack, isl=n).ttft_s) for n in (512, 1024, 4096)]
    assert prompts == sorted(prompts)


@pytest.mark.parametrize("stack", ["vllm", "trtllm"])
@pytest.mark.parametrize("tp", [1, 4])
def test_a_mixed_iteration_shares_the_weights(stack, tp):
    """It lasts as long as its longer half at least, and less than both one after the other."""
    e = engine(stack, tp=tp)
    batch, prompts = np.int64(32), np.int64(2)
    decode = iteration.decode_s(e, batch, 1024)
    prefill = iteration.prefill(e, prompts, 1024).iteration_s
    mixed = iteration.mixed(
        e, batch=batch, context=1024, queries=1, prompts=prompts, chunk=1024
    ).iteration_s
    assert max(decode, prefill) <= mixed <= decode + prefill


def test_without_a_graph_the_host_is_the_floor():
    e = engine("trtllm", tp=8)
    floor = MODEL.layers * e.stack.prefill_layer_s
    assert iteration.prefill(e, np.int64(1), 16).iteration_s == pytest.approx(floor, rel=0.05)
    assert iteration.decode_s(e, np.int64(1), 16) < floor / 3
    free = dataclasses.replace(e, stack=replaced(e.stack, {"prefill_layer_s": 0.0}))
    assert iteration.prefill(free, np.int64(1), 16).iteration_s < floor / 3


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        ("mixtral-8x7b", 32 * 5),  # choice, two of sorting, sum, the router's product
        ("deepseek-v3", 58 * (5 + 4 + 7 + 8)),  # shared expert, MLA, eight products of FP8
        ("qwen3-next-80b-a3b", 48 * (5 + 4) + 36 * 9),  # shared expert, recurrences
    ],
)
def test_layers_of_routed_experts_take_the_host_longer(name, kernels):
    """Short prompts take as long as all layers' launches, whatever their number, and decodes do not."""
    spec = mw.model(name)
    e = dataclasses.replace(engine("sglang", tp=8), model=spec)
    floor = spec.layers * e.stack.prefill_layer_s + kernels * e.stack.prefill_kernel_s
    short, longer = (iteration.prefill(e, np.int64(1), n).iteration_s for n in (16, 64))
    assert short == pytest.approx(floor, rel=0.05)
    assert longer == pytest.approx(short, rel=0.01)
    assert iteration.decode_s(e, np.int64(1), 16) < floor / 3


def test_vllm_counts_an_a100_among_small_devices():
    load = mw.Serving(isl=1024, osl=256, concurrency=32)
    small, large = (
        engine_rules(dataclasses.replace(engine(), cluster=mw.cluster(name)), load)
        for name in ("dgx-a100", "hgx-h100")
    )
    assert (small.most_sequences, small.budget) == (256, 2048)
    assert (large.most_sequences, large.budget) == (1024, 8192)


def test_host_time_by_iteration_sequence_and_logit():
    plain = replaced(
        load_stack("vllm"), {"iteration_s": 0.0, "sequence_s": 0.0, "logit_bytes": 0.0}
    )
    e = dataclasses.replace(engine(), stack=plain)
    base = iteration.decode_s(e, np.int64(32), 1024)
    for change, more in (
        ({"iteration_s": 1e-3}, 1e-3),
        ({"sequence_s": 1e-5}, 32e-5),
        ({"logit_bytes": 10.0}, 32 * 128256 * 10 / (0.7904 * 3.35e12)),
    ):
        other = dataclasses.replace(e, stack=replaced(plain, change))
        assert iteration.decode_s(other, np.int64(32), 1024) - base == pytest.approx(more, rel=1e-3)


def test_prompts_first_come_in_waves():
    """Of n batches of prompts the j-th is told at min(j + 1, n): by hand for 32 prompts of 1024 in 4
    batches, ends at 2, 3, 4 and 4 of 4."""
    s = steady("sglang", concurrency=32, length_spread=0.0)
    e = engine("sglang")
    one = iteration.prefill(e, np.int64(8), 1024).iteration_s
    assert s.ttft_s == pytest.approx(one * (2 + 3 + 4 + 4) / 4)
    waits = one * (2 + 1 + 0 + 0) / 4
    assert s.tpot_s == pytest.approx(iteration.decode_s(e, np.int64(32), 1152) + waits / 256)


def test_prompts_of_answers_that_end_apart_do_not_wait_for_a_wave():
    """SGLang with answers of 0.8 to 1.0 of the longest: a prompt alone after half an iteration, and the
    others' prompts in every request's decodes."""
    apart, wave = (steady("sglang", concurrency=32, length_spread=s) for s in (1.0, 0.0))
    e = engine("sglang")
    one = float(iteration.prefill(e, np.int64(1), 1024).iteration_s)
    decode = float(iteration.decode_s(e, np.int64(32), 1152))
    assert float(apart.tpot_s) == pytest.approx(decode + 31 * one / 256)
    assert one + decode / 2 < float(apart.ttft_s) < 2 * one + decode
    assert float(wave.ttft_s) > 4 * float(apart.ttft_s)
    between = steady("sglang", concurrency=32, length_spread=0.02)
    assert apart.ttft_s < between.ttft_s < wave.ttft_s


def test_a_prefix_in_the_cache_is_attended_to_but_not_computed():
    whole, half, all_ = (steady(prefix_hit=h) for h in (0.0, 0.5, 1.0))
    assert whole.prefill_s > half.prefill_s > all_.prefill_s
    assert whole.tpot_s > half.tpot_s > all_.tpot_s
    assert whole.decode_s == half.decode_s == all_.decode_s
    # held once for all requests
    assert whole.max_concurrency < half.max_concurrency < all_.max_concurrency
    alone = iteration.prefill(engine(), np.int64(1), 512).iteration_s
    assert alone < half.prefill_s < alone * 1.5


def test_chunks_do_the_work_of_the_whole_prompt():
    """Σ over chunks of attention's FLOPs is the whole prompt's; products too."""
    stack, layouts = load_stack("vllm"), arrays(Layout(tp=2))

    def flops(seq, cached):
        work = mw.Prefill(batch=1, seq=seq, cached=cached)
        ops = price_layouts(MODEL, CLUSTER, work, stack, layouts).program.layers[0]
        return {
            kind: sum(float(op.flops) for op in ops if op.kind == kind)
            for kind in ("attention", "gemm")
        }

    whole = flops(4096, 0)
    parts = [flops(1024, cached) for cached in (0, 1024, 2048, 3072)]
    for kind, value in whole.items():
        assert sum(p[kind] for p in parts) == pytest.approx(value)


def test_smaller_chunks_cost_more_and_longer_prompts_are_cut():
    by_chunk = [float(steady(isl=8192, chunk=c).prefill_s) for c in (512, 2048, 8192)]
    assert by_chunk == sorted(by_chunk, reverse=True)
    assert steady(isl=8192, chunk=8192).tpot_s == steady(isl=8192, chunk=9000).tpot_s


# -- speculative decoding -------------------------------------------------------------------------


def test_tokens_per_verification():
    """Leviathan et al., equation 1: α = 0.8, γ = 5 gives 3.69 tokens."""
    for share, drafts, expected in ((0.8, 5, 3.689), (0.0, 3, 1.0), (1.0, 3, 4.0), (0.5, 1, 1.5)):
        w = mw.Serving(isl=8, osl=8, concurrency=1, draft_tokens=drafts, acceptance=share)
        assert w.tokens_per_iteration == pytest.approx(expected, abs=5e-4)
    assert mw.Serving(isl=8, osl=8, concurrency=1).tokens_per_iteration == 1.0


def test_drafts_pay_where_decoding_is_bound_by_memory():
    drafts = {"draft_tokens": 3, "acceptance": 0.8}
    one, many = ({"concurrency": c} for c in (1, 128))
    assert steady(**one).tpot_s / steady(**one, **drafts).tpot_s > 2.0
    gain = [steady(**c).tpot_s / steady(**c, **drafts).tpot_s for c in (one, many)]
    assert gain[0] > gain[1]
    useless = steady(**one, draft_tokens=3, acceptance=0.0)
    assert useless.tpot_s > steady(**one).tpot_s


def test_what_a_draft_costs():
    drafts = {"draft_tokens": 4, "acceptance": 0.7, "concurrency": 16}
    free, layer, tenth = (
        float(steady(**drafts, draft_cost=c).decode_s) for c in ("none", "layer", 0.1)
    )
    e = engine().decode(np.int64(16), 1152)
    assert tenth - free == pytest.approx(0.4 * float(e.step_s - e.host_s))  # no engine between
    # one of 32 layers and the head, four times
    assert 4 / 40 < (layer - free) / float(e.step_s - e.host_s) < 4 / 6


def test_a_verification_reads_weights_and_cache_once():
    stack, layouts = load_stack("vllm"), arrays(Layout())
    one, four = (
        price_layouts(MODEL, CLUSTER, mw.Decode(batch=8, context=1024, queries=q), stack, layouts)
        for q in (1, 4)
    )
    rows = [{op.name: op for op in e.program.layers[0]} for e in (one, four)]
    assert rows[1]["mlp.down"].m == 4 * rows[0]["mlp.down"].m
    assert rows[1]["mlp.down"].weight_bytes == rows[0]["mlp.down"].weight_bytes
    cores = [r["attention.decode"].core for r in rows]
    assert cores[0].kv_bytes == cores[1].kv_bytes
    assert four.program.head[-2].m == 32
    assert one.step_s < four.step_s < 1.5 * one.step_s


# -- experts --------------------------------------------------------------------------------------


def test_the_fullest_rank_of_experts_sets_the_pace():
    base = {"model": MOE, "tp": 4, "concurrency": 128}
    even = steady(**base, ep=4)
    hot = steady(**base, ep=4, expert_imbalance=2.0)
    assert hot.tpot_s > even.tpot_s
    assert steady(**base, expert_imbalance=2.0).tpot_s == steady(**base).tpot_s  # not spread
    stack = load_stack("megatron-core")
    layouts = Layouts(tp=np.int64(1), ep=np.int64(8), dp=np.int64(8))

    def rows(imbalance):
        work = mw.Training(batch=8, seq=2048, expert_imbalance=imbalance)
        ops = price_layouts(MOE, CLUSTER, work, stack, layouts).program.layers[0]
        return {op.name: float(op.flops + op.payload_bytes) for op in ops if op.phase == "forward"}

    one, two = rows(1.0), rows(2.0)
    for name in ("moe.experts.gate_up", "moe.experts.down", "moe.dispatch", "moe.combine"):
        assert two[name] == pytest.approx(2 * one[name]), name
    assert two["attention.qkv"] == one["attention.qkv"]


# -- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", ["vllm", "sglang"])
@pytest.mark.parametrize(("tp", "pp", "dp"), [(1, 1, 1), (4, 1, 2), (2, 2, 1)])
def test_the_most_requests_that_fit(stack, tp, pp, dp):
    asked = {"tp": tp, "pp": pp, "dp": dp, "isl": 4096, "osl": 512}
    most = int(steady(stack, **asked).max_concurrency)
    full, more = (steady(stack, **asked, concurrency=c) for c in (most, most + 1))
    assert full.fits
    assert full.memory_bytes <= full.memory_limit_bytes
    assert not more.fits
    assert more.running == most
    assert more.tpot_s == full.tpot_s
    each = 2 * 4608 * 32 * 8 * 128 * 2 / max(1, min(tp, 8)) / pp  # K and V of a request
    assert full.memory_limit_bytes - full.memory_bytes < 1.1 * each
    assert more.queue_s > 0


def test_weights_that_do_not_fit():
    s = steady(model=mw.model("llama-3.1-70b"))
    assert s.max_concurrency == 0
    assert not s.fits
    assert s.memory_bytes > s.memory_limit_bytes
    assert s.running == 1  # priced all the same


# -- static batches -------------------------------------------------------------------------------


def test_a_pipeline_cuts_a_static_batch():
    """getLocalBatchSize of FasterTransformer: a stage's share, then at most 1024 tokens."""
    assert serving.local_batch(64, 128, 1) == 64
    assert serving.local_batch(64, 128, 3) == 8
    assert serving.local_batch(48, 1, 3) == 16
    assert serving.local_batch(7, 400, 2) == 7

    def seconds(pp, batch):
        return serving.static_batch_s(
            MODEL,
            CLUSTER,
            load_stack("fastertransformer"),
            arrays(Layout(pp=pp)),
            isl=128,
            osl=1,
            batch=batch,
            formats=mw.Formats(),
        )

    # 8 local batches of 8 behind each other on two stages: (8 + 1) / 16 of the serial time
    assert seconds(2, 64) < 0.75 * seconds(1, 64)
    assert seconds(2, 1) > 0.9 * seconds(1, 1)
