"""Pipelines: chunks of a prompt follow each other through the stages, one sequence visits them in turn."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import meshwise as mw
from meshwise.layouts.layout import Layout, arrays
from meshwise.search.serving import steady_state as average
from meshwise.simulate.iteration import Engine
from meshwise.simulate.server import SimulatedServer
from meshwise.stacks.load import load_stack

CHUNK = 8192


def server(pp, stack="ideal", model="llama-3.1-8b", **load):
    usual = {"isl": 16 * CHUNK - 64, "osl": 16, "concurrency": 1, "chunk": CHUNK}
    w = mw.Serving(**usual | {"length_spread": 0.0} | load)
    chosen = load_stack(stack)
    where = mw.cluster("hgx-h200", nodes=1)
    return SimulatedServer(Engine(mw.model(model), where, chosen, arrays(Layout(pp=pp))), w)


def flow_shop_s(s, pp):
    """A prompt's chunks through stages of a share of the pass each: a stage takes a chunk when it and the
    stage before are done with the last."""
    done = [0.0] * pp
    left, cached = s.w.isl, 0
    while left:
        n = min(CHUNK, left)
        e = s.engine.prefill(np.int64(1), n, cached)
        for stage in range(pp):
            done[stage] = max(done[stage], done[stage - 1] if stage else 0.0) + float(e.pass_s) / pp
        left, cached = left - n, cached + n
    return done[-1]


@pytest.mark.parametrize("pp", [2, 4])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-30b-a3b"])
def test_chunks_of_a_long_prompt_overlap(pp, model):
    s = server(pp, model=model)
    assert s.closed().steady.ttft_s.mean == pytest.approx(flow_shop_s(s, pp), rel=0.04)
    one = server(1, model=model).closed().steady.ttft_s.mean
    chunks = 16
    share = s.closed().steady.ttft_s.mean / one
    assert share == pytest.approx((chunks + pp - 1) / chunks / pp, rel=0.15)


@pytest.mark.parametrize(
    ("pp", "stack"), [*itertools.product((1, 2, 4), ("vllm", "sglang", "trtllm"))]
)
def test_averages_overlap_chunks_too(pp, stack):
    s = server(pp, stack)
    e = s.engine
    found = average.steady(e.model, e.cluster, e.stack, e.layouts, s.w)
    assert float(found.ttft_s) == pytest.approx(s.closed().steady.ttft_s.mean, rel=0.12)
    assert float(found.prefill_s) == pytest.approx(s.closed().steady.ttft_s.mean, rel=0.12)


def test_one_request_decodes_no_faster_for_stages_and_as_many_as_stages_do():
    load = {"isl": 1024, "osl": 512}
    one, four = (server(pp, "vllm", **load).closed().steady for pp in (1, 4))
    assert four.tpot_s.mean == pytest.approx(one.tpot_s.mean, rel=0.03)
    several = server(4, "vllm", concurrency=4, **load).closed().steady
    assert several.tokens_per_s > 3.0 * four.tokens_per_s


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    pp=st.sampled_from([2, 4, 8]),
    stack=st.sampled_from(["vllm", "sglang", "trtllm", "ideal"]),
    isl=st.sampled_from([200, 3000, 8192, 20_000, 60_000]),
    osl=st.sampled_from([1, 2, 40]),
    concurrency=st.integers(2, 12),
    spread=st.sampled_from([0.0, 0.3]),
)
def test_no_first_token_under_load_comes_before_an_idle_server_s(
    pp, stack, isl, osl, concurrency, spread
):
    """A prompt, and the chunks of a long one, pass all stages before the first token, whoever else is in the
    pipeline. The shortest prompt of a load is (1 - spread) of the longest."""
    least = int(isl * (1.0 - spread))
    alone = server(pp, stack, isl=least, osl=osl, chunk=None).closed(requests=2)
    w = mw.Serving(isl=isl, osl=osl, concurrency=concurrency, length_spread=spread)
    busy = SimulatedServer(server(pp, stack, isl=isl, chunk=None).engine, w)
    found = busy.closed(requests=max(3 * concurrency, 12))
    # a table between its knots is off by some tenths of a per cent
    assert min(found.all.samples.ttft_s) >= 0.997 * alone.steady.ttft_s.mean
    assert min(found.all.samples.request_s - found.all.samples.ttft_s) >= 0.0


@pytest.mark.parametrize("stack", ["vllm", "sglang"])
def test_no_first_token_of_replicas_that_share_experts_comes_before_an_idle_server_s(stack):
    where, layout = mw.cluster("hgx-h200", nodes=1), arrays(Layout(tp=1, pp=2, dp=4, ep=4, etp=1))
    engine = Engine(mw.model("qwen3-30b-a3b"), where, load_stack(stack), layout)

    def least(concurrency):
        w = mw.Serving(isl=20_000, osl=20, concurrency=concurrency, length_spread=0.0)
        return min(SimulatedServer(engine, w).closed(requests=40).all.samples.ttft_s)

    assert least(16) >= least(1)


def test_an_iteration_lasts_no_less_than_its_longest_chunk_s_way_through_all_stages():
    s = server(4, "vllm", isl=4096)
    table = s.price(64)
    for chunk, beside in itertools.product((100, 1000, 4000), (0, 1, 3, 8, 60)):
        alone = table.prompts_s(0, 0.0, [(chunk, 0)])
        assert table.prompts_s(beside, 2000.0, [(chunk, 0)]) >= alone
        # the head of two rows may take a little less than that of one
        assert table.prompts_s(beside, 2000.0, [(chunk, 0), (50, 0)]) >= 0.99 * alone


def passes_in_turn_s(s, pp, *, of_each, passes=4000):
    """Seconds per token of groups that go round a pipeline in turn, none overtaking another: a group's pass
    decodes its sequences, and takes the prompts of those that are new."""
    isl, osl = s.w.isl, s.w.osl
    decode = float(s.engine.decode(np.int64(of_each), isl + osl // 2).pass_s) / pp
    prompt = float(s.engine.prefill(np.int64(1), isl, 0).pass_s) / pp
    draw = np.random.default_rng(1)
    left = draw.integers(1, osl + 1, (pp, of_each))
    stages, ready, new = np.zeros(pp), np.zeros(pp), np.zeros(pp, int)
    began = 0.0
    for turn in range(passes):
        group = turn % pp
        at = ready[group]
        for stage in range(pp):
            at = stages[stage] = max(at, stages[stage]) + decode + new[group] * prompt
        ready[group] = at
        left[group] -= 1
        new[group] = int((left[group] == 0).sum())
        left[group][left[group] == 0] = osl
        if turn == passes // 5:
            began = at
    return (ready[group] - began) / (passes - 1 - passes // 5) * pp


@pytest.mark.parametrize("pp", [2, 4])
def test_prompts_hold_up_what_follows_them_through_the_stages(pp):
    of_each = 16
    # lengths differ, so that requests do not end together
    s = server(pp, isl=2048, osl=128, concurrency=pp * of_each, chunk=4 * 2048, length_spread=0.5)
    found = s.closed(requests=600).steady.tpot_s.mean
    assert found == pytest.approx(passes_in_turn_s(s, pp, of_each=of_each), rel=0.15)
