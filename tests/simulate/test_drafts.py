"""Speculative decoding and common prefixes: known answers."""

import itertools
import random

import numpy as np
import pytest
from oracle import Plain

import meshwise as mw
from meshwise.layouts.layout import Layout, arrays
from meshwise.simulate.iteration import Engine
from meshwise.simulate.loads.drafts import Drafts
from meshwise.simulate.loads.requests import Requests
from meshwise.simulate.replica import Replica
from meshwise.simulate.rules import Rules, capacity, engine_rules
from meshwise.simulate.server import SimulatedServer
from meshwise.stacks.load import load_stack

MODEL, CLUSTER = mw.model("llama-3.1-8b"), mw.cluster("hgx-h100", nodes=1)


def server(stack="vllm", **load):
    w = mw.Serving(**{"isl": 1024, "osl": 257, "concurrency": 16, "length_spread": 0.0} | load)
    e = Engine(MODEL, CLUSTER, load_stack(stack), arrays(Layout()))
    return SimulatedServer(e, w)


def one_by_one(dice, tokens, acceptance, answer):
    """Verifications of an answer, a coin for each draft."""
    made, n = 0, 0
    while made < answer:
        made, n = made + 1, n + 1
        for _ in range(tokens):
            if dice.random() >= acceptance:
                break
            made += 1
    return n


@pytest.mark.parametrize(("tokens", "acceptance"), [(1, 0.5), (3, 0.7), (3, 0.95), (7, 0.2)])
@pytest.mark.parametrize("answer", [1, 5, 300])
def test_verifications_are_those_of_a_coin_for_each_draft(tokens, acceptance, answer):
    dice = random.Random(1)
    plain = [one_by_one(dice, tokens, acceptance, answer) for _ in range(4000)]
    drawn = [Drafts(tokens, acceptance).verifications(i, answer) for i in range(4000)]
    assert np.mean(drawn) == pytest.approx(np.mean(plain), rel=0.03)
    assert np.std(drawn) == pytest.approx(np.std(plain), rel=0.08, abs=1e-9)
    assert (min(drawn), max(drawn)) >= (-(-answer // (tokens + 1)), -(-answer // (tokens + 1)))
    assert max(drawn) <= answer


@pytest.mark.parametrize(("acceptance", "each"), [(0.0, 1), (1.0, 4)])
def test_none_or_all_accepted(acceptance, each):
    for answer in (1, 3, 4, 9, 256):
        assert Drafts(3, acceptance).verifications(0, answer) == -(-answer // each)


def test_a_draw_is_the_same_each_time_and_another_seed_s_another():
    one, two = ([Drafts(3, 0.6, s).verifications(i, 200) for i in range(50)] for s in (0, 1))
    assert one == [Drafts(3, 0.6, 0).verifications(i, 200) for i in range(50)]
    assert one != two


@pytest.mark.parametrize(("acceptance", "each"), [(0.0, 1), (1.0, 4)])
@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm"])
def test_one_request_takes_the_verifications_that_its_answer_needs(stack, acceptance, each):
    """256 tokens after the first: 256 or 64 verifications of four tokens, whatever of them is accepted."""
    s = server(stack, concurrency=1, draft_tokens=3, acceptance=acceptance)
    table = s.price(1)
    expected = table.prompts_s(0, 0.0, [(1024, 0)])
    expected += sum(table.decode_s(1, 1025 + i * each) for i in range(256 // each))
    assert s.closed().steady.request_s.mean == pytest.approx(expected, rel=1e-6)


def test_the_mean_is_that_of_the_formula():
    """Time per token of verifications that take a fixed time: theirs over (1 − α^(γ+1)) / (1 − α)."""
    for tokens, acceptance in itertools.product((1, 3, 5), (0.3, 0.8)):
        n = 400
        drafts = Drafts(tokens, acceptance)
        requests = Requests([8] * n, [1001] * n, [0] * n, None, 10, drafts)
        price = Plain(base=1e-2, sequence=0.0, context=0.0, prompt=0.0, token=0.0)
        rules = Rules("mixed", 10**6, 100, 10**6, False, 1, np.inf, 1, 0.0, tokens + 1)
        Replica(price, rules, requests).run()
        tpot = np.mean(np.array(requests.end) - np.array(requests.first)) / 1000
        w = mw.Serving(isl=8, osl=1001, concurrency=10, draft_tokens=tokens, acceptance=acceptance)
        assert tpot == pytest.approx(1e-2 / w.tokens_per_iteration, rel=0.01)


def test_answers_of_one_length_end_apart():
    """What is accepted differs by request: the mean hides it."""
    mean, drawn = server(), server(draft_tokens=3, acceptance=0.7)
    spread = [s.closed().steady.tpot_s for s in (mean, drawn)]
    assert spread[1].p99 / spread[1].p50 > spread[0].p99 / spread[0].p50


# -- prefixes --------------------------------------------------------------------------------------


def test_a_prefix_is_attended_to_and_not_computed():
    s = server(concurrency=1, prefix_hit=0.75)
    table = s.price(1)
    expected = table.prompts_s(0, 0.0, [(256, 768)])
    # no iteration follows a last token: it is seen at once, and so is the first one
    assert s.closed().steady.ttft_s.mean == pytest.approx(expected, rel=1e-6)
    assert table.prompts_s(0, 0.0, [(256, 0)]) < expected < table.prompts_s(0, 0.0, [(1024, 0)])


def test_a_common_prefix_is_held_once():
    """Tokens of the cache: the prefix, and of each request what is its own."""
    plain, shared = (server(prefix_hit=hit) for hit in (0.0, 0.75))
    room = plain.rules.capacity
    assert shared.rules.capacity == pytest.approx(room - 768, rel=1e-4)
    most = [int(capacity(s.engine, s.w, np.int64(1))[0]) for s in (plain, shared)]
    assert most[0] == int(room // 1296)  # whole blocks of 16
    assert most[1] == int((room - 768) // 528)


def test_requests_of_a_common_prefix_run_together_where_the_cache_holds_what_is_theirs():
    rules = Rules("mixed", 10**6, 100, 10**6, False, 1, 1200.0, 1, 1.0)
    running = []
    for cached in (0, 80):
        requests = Requests([100] * 40, [20] * 40, [cached] * 40, None, 40)
        replica = Replica(Plain(), rules, requests)
        replica.run()
        _, _, _, decoding, _ = replica.timeline.columns()
        running.append(int(decoding.max()))
        assert replica.shared == 0
        assert replica.stopped == 0
    # each needs its 100 or 20 tokens, 20 of its answer, and one for each next token
    assert running[0] == pytest.approx(1200 / 120, abs=1)
    assert running[1] == pytest.approx(1200 / 40, abs=1)


def test_the_rules_of_a_model_with_states_share_no_state():
    e = Engine(mw.model("qwen3-next-80b-a3b"), CLUSTER, load_stack("vllm"), arrays(Layout(tp=4)))
    plain, shared = (
        engine_rules(e, mw.Serving(isl=8192, osl=128, concurrency=8, prefix_hit=hit)).capacity
        for hit in (0.0, 0.9)
    )
    assert 0.0 < shared < plain
