"""The table of iterations: as the iteration itself is priced, at its knots and between them."""

import itertools
import random
import time

import numpy as np
import pytest

import meshwise as mw
from meshwise import catalog
from meshwise.errors import MeshwiseError
from meshwise.layouts.layout import Layout, arrays
from meshwise.simulate.iteration import (
    Engine,
    decode_s,
    graph_sequences,
    knots,
    mixed,
    prefill,
    replayed_s,
)
from meshwise.simulate.price_table import PriceTable
from meshwise.simulate.server import SimulatedServer
from meshwise.stacks.load import load_stack
from meshwise.stacks.stack import replaced

# dense, experts, latent attention, sliding windows, linear layers, a quantised checkpoint
MODELS = (
    *("llama-3.1-70b", "qwen3-30b-a3b", "deepseek-v3", "gemma-2-9b", "qwen3-next-80b-a3b"),
    *("gpt-oss-120b", "Qwen/Qwen2.5-14B-Instruct-AWQ"),
)
LOAD = mw.Serving(isl=1024, osl=1024, concurrency=64)


def engine(model, stack="vllm", tp=4, pp=1, **changes):
    chosen = replaced(load_stack(stack), {"graph_multiple": 1} | changes)
    return Engine(mw.model(model), mw.cluster("hgx-h200"), chosen, arrays(Layout(tp=tp, pp=pp)))


def states(seed, n=30):
    dice = random.Random(seed)
    for _ in range(n):
        yield (
            *(dice.randint(1, 64), dice.randint(520, 2048), dice.randint(1, 7)),
            *(dice.randint(16, 1100), dice.choice((0, 0, 512, 2000))),
        )


def off(found):
    """(median, 95th percentile) of |table / direct − 1|."""
    errors = [abs(a / b - 1.0) for a, b in found]
    return np.median(errors), np.quantile(errors, 0.95)


@pytest.mark.parametrize("model", MODELS)
def test_between_knots_time_is_read_within_a_few_per_cent(model):
    """Random states, most of them between knots: decodes within 3 %; prompts, whose kernels' tiles begin new
    rows between knots, 2 % in the median, 12 % in 19 of 20."""
    e = engine(model)
    table = PriceTable(e, LOAD, 64, 8192)
    alone, beside, prompts = [], [], []
    for batch, context, n, chunk, cached in states(7):
        direct = float(decode_s(e, np.int64(batch), context))
        alone.append((table.decode_s(batch, context), direct))
        chunks = [(chunk, cached)] * n
        work = {"prompts": np.int64(n), "chunk": chunk, "cached": cached}
        both = mixed(e, batch=np.int64(batch), context=context, queries=1, **work)
        beside.append((table.prompts_s(batch, context, chunks), float(both.iteration_s)))
        first = float(prefill(e, np.int64(n), chunk, cached).iteration_s)
        prompts.append((table.prompts_s(0, 0.0, chunks), first))
    for found in (alone, beside, prompts):
        median, most = off(found)
        assert median < 0.025
        assert most < 0.12
    assert off(alone)[1] < 0.03


@pytest.mark.parametrize("pp", [1, 2])
def test_at_a_knot_time_is_the_iteration_s_own(pp):
    e = engine("llama-3.1-8b", pp=pp, tp=1)
    table = PriceTable(e, LOAD, 64, 8192)
    for batch, context in itertools.product((1, 2, 6, 48), (512, 2048)):
        group = -(-batch // pp)
        direct = decode_s(e, np.int64(group), context, 1, np.int64(-(-batch // group)))
        assert table.decode_s(batch, context) == pytest.approx(float(direct))


def test_a_graph_of_more_sequences_is_replayed():
    padded = PriceTable(engine("llama-3.1-8b", graph_multiple=8), LOAD, 64, 8192)
    plain = PriceTable(engine("llama-3.1-8b"), LOAD, 64, 8192)
    assert padded.decode_s(9, 1000) == pytest.approx(plain.decode_s(16, 1000 * 9 / 16))
    assert padded.decode_s(3, 1000) == pytest.approx(plain.decode_s(4, 750))
    assert padded.decode_s(16, 1000) == plain.decode_s(16, 1000)


def test_sizes_of_graphs_are_powers_of_two_and_then_multiples():
    made = graph_sequences(load_stack("vllm"), np.array([1, 2, 3, 4, 5, 8, 9, 16, 17, 250]))
    assert made.tolist() == [1, 2, 4, 4, 8, 8, 16, 16, 24, 256]
    eager = replaced(load_stack("vllm"), {"eager": True})
    assert graph_sequences(eager, np.array([3, 9])).tolist() == [3, 9]


@pytest.mark.parametrize("padding", ["routed", "skipped"])
@pytest.mark.parametrize("most", [5, 9])
def test_the_table_of_a_few_holds_the_graph_of_more(most, padding):
    """A graph of more sequences than ever run is priced as it is, not drawn on from smaller ones; averages and
    the table agree."""
    e = engine("mixtral-8x7b", graph_multiple=8, padding_experts=padding)
    few, many = (PriceTable(e, LOAD, n, 8192) for n in (most, 64))
    assert few.decode_s(most, 1000) == pytest.approx(many.decode_s(most, 1000))
    made = 8 if most == 5 else 16
    assert few.decode_s(most, 1000) < few.decode_s(made, 1000)
    direct = float(replayed_s(e, np.int64(most), 1000))
    assert few.decode_s(most, 1000) == pytest.approx(direct, rel=0.005)


def test_padding_that_is_left_out_of_experts_costs_none_of_them():
    """Of 8 experts, 5 tokens choose fewer than 8 tokens do; a dense model's padding costs the same either way."""
    times = {}
    for model in ("mixtral-8x7b", "llama-3.1-8b"):
        for padding in ("routed", "skipped", "routed_without_ep"):
            e = engine(model, graph_multiple=8, padding_experts=padding)
            times[model, padding] = float(replayed_s(e, np.int64(5), 1000))
    assert times["mixtral-8x7b", "skipped"] < 0.95 * times["mixtral-8x7b", "routed"]
    assert times["mixtral-8x7b", "routed_without_ep"] == times["mixtral-8x7b", "routed"]
    assert len({times["llama-3.1-8b", p] for p in ("routed", "skipped")}) == 1
    plain = float(decode_s(engine("mixtral-8x7b"), np.int64(5), 1000))
    assert times["mixtral-8x7b", "skipped"] == pytest.approx(plain, rel=0.02)


@pytest.mark.parametrize(("model", "cluster"), [("mixtral-8x7b", "dgx-a100")])
def test_more_in_flight_never_makes_a_token_faster_and_all_figures_are_of_one_graph(model, cluster):
    spec, where = mw.model(model), mw.cluster(cluster)
    paces = []
    for n in (5, 6, 7, 8):
        load = mw.Serving(isl=1024, osl=256, concurrency=n)
        answer = mw.serve(spec, where, load, tp=4, requests=100)
        paces.append(answer.simulated.steady.itl_s.p50)
        assert answer.decode_s == pytest.approx(paces[-1], rel=0.01)
    assert paces == pytest.approx(sorted(paces), rel=1e-3)


def test_a_pipeline_s_groups_are_padded_each_by_itself():
    """18 sequences of two stages: two groups of 9, each in a graph of 16."""
    e = engine("llama-3.1-8b", tp=1, pp=2, graph_multiple=8)
    table = PriceTable(e, LOAD, 64, 8192)
    assert table.decode_s(18, 1000) == pytest.approx(table.decode_s(32, 1000 * 18 / 32))


def test_a_pipeline_s_groups_share_a_round():
    """Twice the stages, a half of the layers each: twice the sequences in about the time of one pass."""
    one = PriceTable(engine("llama-3.1-70b", pp=1), LOAD, 64, 8192)
    two = PriceTable(engine("llama-3.1-70b", pp=2), LOAD, 64, 16384)
    chunk = [(2048, 0)]
    assert two.prompts_s(0, 0.0, chunk) == pytest.approx(one.prompts_s(0, 0.0, chunk), rel=0.05)
    both = two.prompts_s(0, 0.0, chunk * 2)
    assert both < 1.2 * two.prompts_s(0, 0.0, chunk)


def test_a_prompt_s_attention_grows_with_what_stands_before_it():
    table = PriceTable(engine("llama-3.1-70b"), LOAD, 64, 8192)
    found = [table.prompts_s(0, 0.0, [(1000, before)]) for before in (0, 3000, 30_000)]
    assert found == sorted(found)
    assert found[2] > 1.05 * found[0]


def test_knots_hold_what_they_are_asked_for():
    assert knots(1, 40) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40]
    assert knots(50, 100, 1) == [32, 64, 128]
    assert knots(90, 100, 8) == [88, 96, 104]
    for low, high in ((1, 2), (5, 5), (1000, 1001), (3, 100_000)):
        found = knots(low, high)
        assert found[0] <= low
        assert found[-1] >= high
        assert found == sorted(set(found))


def test_a_state_takes_some_microseconds():
    """The best of several runs, as cores are shared."""
    table = PriceTable(engine("llama-3.1-70b"), LOAD, 64, 8192)
    times = {"decode": [], "prompt": []}
    for _ in range(12):
        begun = time.process_time()
        for i in range(200):
            table.decode_s(1 + i % 64, 1024 + i)
        times["decode"].append((time.process_time() - begun) / 200)
        begun = time.process_time()
        for i in range(200):
            table.prompts_s(1 + i % 64, 1024 + i, [(1000 + i % 5, 0)])
        times["prompt"].append((time.process_time() - begun) / 200)
    assert min(times["decode"]) < 20e-6
    assert min(times["prompt"]) < 40e-6  # 13 alone


def runs(model, stack, **load):
    w = mw.Serving(isl=300, osl=40, concurrency=5, **load)
    e = Engine(mw.model(model), mw.cluster("hgx-h200"), load_stack(stack), arrays(Layout(tp=1)))
    found = SimulatedServer(e, w).closed(requests=15)
    assert found.all.requests == 15
    for figures in (found.all, found.steady):
        assert 0.0 < figures.tpot_s.mean < figures.request_s.mean < np.inf
        assert 0.0 < figures.ttft_s.mean < np.inf
        assert 0.0 < figures.tokens_per_s < np.inf


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm", "ideal", "generic-engine"])
def test_every_kind_of_model_runs_on_every_engine(model, stack):
    try:
        runs(model, stack)
    except MeshwiseError as error:  # a format that the software does not read
        assert error.field in ("stack", "model", "dtype")


@pytest.mark.matrix
@pytest.mark.parametrize("model", catalog.names("models"))
def test_every_preset_runs(model):
    runs(model, "vllm")
    runs(model, "sglang", draft_tokens=2, acceptance=0.6, prefix_hit=0.3)


HYBRIDS = sorted(
    name
    for name in catalog.names("models")
    if any(block.recurrent is not None for block in mw.model(name).blocks)
)


@pytest.mark.parametrize(
    "where", ["hgx-a100", "rtx-3090-4x", "a10-8x", "l4-4x", "hgx-h100", "hgx-b200"]
)
def test_a_prompt_of_a_hybrid_takes_what_one_prompt_alone_does(where):
    """A state is kept of a sequence, not of each of a prompt's tokens: it matters most where the states of as
    many sequences as there are tokens lie beyond the device's cache."""
    cluster, load = mw.cluster(where), mw.Serving(isl=1024, osl=256, concurrency=1)
    assert HYBRIDS
    for name in HYBRIDS:
        one = Engine(mw.model(name), cluster, load_stack("vllm"), arrays(Layout()))
        alone = float(prefill(one, np.int64(1), 1024).iteration_s)
        table = PriceTable(one, load, 1, 2048)
        assert table.prompts_s(0, 0.0, [(1024, 0)]) == pytest.approx(alone, rel=0.05), name


def test_the_first_token_of_a_hybrid_alone_waits_for_its_prompt():
    load = mw.Serving(isl=1024, osl=256, concurrency=1, length_spread=0.0)
    for model, where, tp in (
        *(("nemotron-h-8b", "hgx-a100", 1), ("qwen3-next-80b-a3b", "hgx-a100", 4)),
        *(("bamba-9b", "rtx-3090-4x", 2), ("falcon-h1-7b", "hgx-a100", 1)),
    ):
        d = mw.serve(model, where, load, tp=tp)
        assert 0.95 * d.prefill_s < d.ttft_s < d.prefill_s + 2 * d.decode_s, model
