"""Replicas that share their experts: the same by brute force, and what must hold whatever the engine."""

import itertools
import math
import random

import numpy as np
import pytest
from oracle import Plain, brute_ranks

import meshwise as mw
from meshwise.layouts.layout import Layout, arrays
from meshwise.simulate.iteration import Engine, shared_kinds_s
from meshwise.simulate.loads.arrivals import Arrivals
from meshwise.simulate.loads.drawn import drawn_times
from meshwise.simulate.loads.requests import Requests
from meshwise.simulate.lock_step import LockStep
from meshwise.simulate.price_table import PriceTable
from meshwise.simulate.replica import Replica
from meshwise.simulate.rules import Rules
from meshwise.simulate.server import SimulatedServer
from meshwise.stacks.load import load_stack

RULES = Rules(
    policy="mixed",
    budget=256,
    most_sequences=32,
    together=1000,
    ahead=False,
    poll=1,
    capacity=math.inf,
    block=1,
    reserved=0.0,
)
CASES = [
    RULES._replace(policy=policy, ahead=ahead, balance=balance, **more)
    for policy, ahead, balance, more in itertools.product(
        ("mixed", "first", "whole"),
        (False, True),
        ("round_robin", "least_requests", "least_tokens"),
        ({}, {"most_sequences": 2}, {"capacity": 700.0, "block": 17}),
    )
]


def lengths(seed, n=60):
    dice = random.Random(seed)
    return [dice.randint(1, 400) for _ in range(n)], [dice.randint(1, 60) for _ in range(n)]


def run(rules, prompt, answer, ranks, arrival=None, in_flight=0):
    requests = Requests(prompt, answer, [0] * len(prompt), arrival, in_flight)
    found = LockStep(Plain(), rules, requests, ranks)
    found.run()
    return found, requests


@pytest.mark.parametrize("rules", CASES, ids=str)
@pytest.mark.parametrize(("ranks", "in_flight"), [(2, 3), (4, 17), (3, 60), (4, 2)])
def test_a_closed_loop_is_the_one_that_takes_a_token_a_step(rules, ranks, in_flight):
    prompt, answer = lengths(in_flight)
    _, requests = run(rules, prompt, answer, ranks, None, in_flight)
    expected = brute_ranks(Plain(), rules, prompt, answer, ranks, None, in_flight)
    for ours, theirs in zip((requests.start, requests.first, requests.end), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


@pytest.mark.parametrize("rules", CASES, ids=str)
@pytest.mark.parametrize("rate", [2.0, 30.0])
def test_arrivals_are_those_of_one_token_a_step(rules, rate):
    prompt, answer = lengths(int(rate))
    arrival = drawn_times(np.random.default_rng(3), len(prompt), rate, 1.0).tolist()
    _, requests = run(rules, prompt, answer, 4, arrival)
    expected = brute_ranks(Plain(), rules, prompt, answer, 4, arrival)
    for ours, theirs in zip((requests.start, requests.first, requests.end), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_one_rank_is_a_replica():
    prompt, answer = lengths(1)
    price = Plain()
    price.token = 0.0  # what experts take is of its own tokens
    one = Requests(prompt, answer, [0] * 60, None, 9)
    Replica(price, RULES, one).run()
    two = Requests(prompt, answer, [0] * 60, None, 9)
    LockStep(price, RULES, two, 1).run()
    np.testing.assert_allclose(one.end, two.end, rtol=1e-9)


def test_equal_work_on_all_ranks_takes_what_it_takes_on_one():
    """Ranks that get the same requests at the same time are each a replica by itself."""
    prompt, answer = [100] * 30, [20] * 30
    four, requests = run(
        RULES, np.repeat(prompt, 4).tolist(), np.repeat(answer, 4).tolist(), 4, None, 20
    )
    one = Requests(prompt, answer, [0] * 30, None, 5)
    replica = Replica(Plain(), RULES, one)
    replica.run()
    assert four.now == pytest.approx(replica.now)
    np.testing.assert_allclose(requests.end[::4], one.end)


def test_a_prompt_on_one_rank_holds_up_all():
    """Who decodes on another rank waits for the slowest: its tokens come no sooner than the prompt ends."""
    prompt, answer = [10, 10, 250], [40, 40, 2]
    _, alone = run(RULES, prompt[:2], answer[:2], 2, [0.0, 0.0])
    _, beside = run(RULES, prompt, answer, 2, [0.0, 0.0, 0.1])
    longer = beside.end[1] - alone.end[1]
    assert longer > 250 * Plain().token / 2


# -- of the priced engines -------------------------------------------------------------------------

MODELS = ("deepseek-v3", "qwen3-30b-a3b", "gpt-oss-120b")
EXPERTS = {"deepseek-v3": 8, "qwen3-30b-a3b": 8, "gpt-oss-120b": 8}


def server(model, stack, dp=8, **load):
    w = mw.Serving(**{"isl": 1024, "osl": 128, "concurrency": 128} | load)
    e = Engine(
        mw.model(model), mw.cluster("hgx-h200"), load_stack(stack), arrays(Layout(dp=dp, ep=dp))
    )
    return SimulatedServer(e, w)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm", "ideal"])
def test_ranks_pass_through_their_experts_together(model, stack):
    found = server(model, stack).closed()
    assert (found.replicas, found.ranks) == (1, 8)
    s = found.steady
    assert s.requests_per_s * s.request_s.mean == pytest.approx(128, rel=0.05)
    # hardly sooner than where every rank had a server of its own that has the others' mean load, whose
    # prompts are gathered as if each of the others had one too
    apart = server(model, stack)
    apart.ranks, apart.servers = 1, 8
    assert s.tpot_s.mean > 0.93 * apart.closed().steady.tpot_s.mean


def test_replicas_of_a_dense_model_are_apart():
    e = Engine(
        mw.model("llama-3.1-8b"), mw.cluster("hgx-h200"), load_stack("vllm"), arrays(Layout(dp=8))
    )
    w = mw.Serving(isl=512, osl=64, concurrency=64)
    assert SimulatedServer(e, w).ranks == 1


def test_experts_compute_the_tokens_of_all_ranks():
    """One prompt among eight ranks is an eighth of their experts' rows; eight prompts are as a replica's."""
    one = server("qwen3-30b-a3b", "vllm")
    table = PriceTable(one.engine, one.w, 64, 8192)
    chunk = [(4096, 0)]
    alone, all_of_them, plain = (
        table.prompts_s(0, 0.0, chunk, n) for n in (4096 / 8, 4096.0, None)
    )
    assert all_of_them == pytest.approx(plain)
    assert alone < all_of_them


@pytest.mark.parametrize("dispatcher", ["allgather", "alltoall"])
def test_a_gather_is_of_all_ranks_tokens_and_an_exchange_of_ones_own(dispatcher):
    """Every rank of eight receives each token once, or sends its own to each of its eight experts."""
    e = Engine(
        mw.model("qwen3-30b-a3b"),
        mw.cluster("hgx-h200"),
        mw.stack("vllm", dispatcher=dispatcher),
        arrays(Layout(dp=8, ep=8)),
        expert_imbalance=1.0,
    )
    priced = e.prefill(np.int64(4096), 1)
    sent = [c for c in priced.layer_costs[0] if c.op.name in ("moe.dispatch", "moe.combine")]
    assert [float(c.op.payload_bytes) for c in sent] == [8 * 4096 * 2048 * 2.0] * 2
    exchanged = sum(float(c.seconds) for c in sent)
    products = sum(float(c.seconds) for c in priced.layer_costs[0] if ".experts." in c.op.name)
    shared = products + exchanged * (dispatcher == "allgather")
    assert float(shared_kinds_s(priced)[0]) == pytest.approx(shared)


def test_arrivals_at_a_rate_are_served():
    found = server("qwen3-30b-a3b", "sglang").open(Arrivals(4.0), requests=800).steady
    assert found.requests_per_s == pytest.approx(4.0, rel=0.15)


@pytest.mark.parametrize("policy", ["mixed", "first", "whole"])
def test_prompts_that_wait_for_each_other_stop_decodes_less_often(policy):
    """Later first tokens, quicker ones after; and whoever waits is served, however few the others are."""
    prompt, answer = lengths(3, 400)
    rules = RULES._replace(policy=policy, budget=1024)
    found = {}
    for gather in (0, 40):
        _, requests = run(rules._replace(gather=gather), prompt, answer, 4, in_flight=32)
        end, first, arrival = (
            np.array(v) for v in (requests.end, requests.first, requests.arrival)
        )
        assert np.all(np.isfinite(end))
        found[gather] = np.mean(first - arrival), np.mean(end - first)
    assert found[40][0] > found[0][0]
    assert found[40][1] < found[0][1]
    _, alone = run(rules._replace(gather=40), [100, 100], [10, 10], 4, in_flight=1)
    assert np.all(np.isfinite(alone.end))
