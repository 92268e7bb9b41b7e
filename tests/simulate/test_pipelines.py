"""Pipelines: chunks of a prompt follow each other through the stages, one sequence visits them in turn."""

import itertools

import numpy as np
import pytest

import meshwise as mw
from meshwise.layouts.layout import Layout, arrays
from meshwise.search.serving import steady_state as average
from meshwise.simulate.iteration import Engine
from meshwise.simulate.server import SimulatedServer
from meshwise.stacks.load import load_stack

CHUNK = 8192


def server(pp, stack="ideal", model="llama-3.1-8b", **load):
    w = mw.Serving(
        **{"isl": 16 * CHUNK - 64, "osl": 16, "concurrency": 1, "chunk": CHUNK} | load,
        length_spread=0.0,
    )
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
