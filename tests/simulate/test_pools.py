"""Prefill and decode on GPUs of their own: known answers of queues and links, and what a plan says."""

import json
import math

import numpy as np
import pytest
from oracle import Plain
from tests.deep import deep

import meshwise as mw
from meshwise.errors import InputError, Overloaded
from meshwise.simulate.loads.drawn import drawn_times
from meshwise.simulate.loads.requests import Requests
from meshwise.simulate.outcome import steady_state
from meshwise.simulate.pools import PoolLink, Pools, Receiver, Sender
from meshwise.simulate.rules import Rules

RULES = Rules(
    policy="first",
    budget=10**6,
    most_sequences=64,
    together=1,
    ahead=False,
    poll=1,
    capacity=math.inf,
    block=1,
    reserved=0.0,
)
# a prompt takes 0.1 s whatever its length, an iteration of decodes 10 ms
PRICE = Plain(base=1e-2, sequence=0.0, context=0.0, prompt=0.1, token=0.0)
FAST = PoolLink(1.0, 1e12, 1e12)


def run(
    prompt, answer, arrival=None, in_flight=0, numbers=(1, 1), link=FAST, holds=math.inf, **decode
):
    requests = Requests(prompt, answer, [0] * len(prompt), arrival, in_flight)
    pools = Pools(
        requests,
        (lambda s: Sender(PRICE, RULES._replace(capacity=holds), s), numbers[0]),
        (lambda s: Receiver(PRICE, RULES._replace(**decode), s), numbers[1]),
        link,
    )
    pools.run()
    return pools, requests


def test_one_request_takes_its_prompt_the_transfer_and_its_tokens():
    _, r = run([1000], [11], [0.0], link=PoolLink(2.0, 1e4, 4e4))
    assert r.start == [0.0]
    assert r.first[0] == pytest.approx(0.1 + 2000 / 1e4)
    assert r.end[0] == pytest.approx(0.3 + 10 * 1e-2)


def test_an_answer_of_one_token_does_not_move():
    pools, r = run([1000], [1], [0.0], link=PoolLink(2.0, 1e4, 1e4))
    assert r.first[0] == r.end[0] == pytest.approx(0.1)
    assert pools.moved_s == [0.0]


def test_prompts_are_computed_one_after_the_other_and_sent_so():
    """A link slower than the prompts is what binds: each waits for those before it."""
    _, r = run([1000] * 4, [2] * 4, [0.0] * 4, link=PoolLink(1.0, 5e3, 5e3))  # 0.2 s each
    np.testing.assert_allclose(r.first, [0.3, 0.5, 0.7, 0.9])
    _, quick = run([1000] * 4, [2] * 4, [0.0] * 4)
    np.testing.assert_allclose(quick.first, [0.1, 0.2, 0.3, 0.4], rtol=1e-6)


def test_a_prompt_keeps_its_room_until_its_keys_and_values_have_arrived():
    """Two of them fit beside each other; the link takes a second of each, one after the other."""
    slow = PoolLink(1.0, 100.0, 100.0)
    pools, r = run([100] * 4, [2] * 4, [0.0] * 4, link=slow, holds=250.0)
    np.testing.assert_allclose(r.start, [0.0, 0.1, 1.1, 2.1])
    np.testing.assert_allclose(r.first, [1.1, 2.1, 3.1, 4.1])
    assert pools.prefills[0].load == 0
    _, roomy = run([100] * 4, [2] * 4, [0.0] * 4, link=slow)
    np.testing.assert_allclose(roomy.start, [0.0, 0.1, 0.2, 0.3])
    # one that fits by itself alone waits for the cache to be empty; one of one token goes nowhere
    _, alone = run([100] * 3, [2, 2, 1], [0.0] * 3, link=slow, holds=150.0)
    np.testing.assert_allclose(alone.start, [0.0, 1.1, 2.2])
    _, ended = run([100] * 3, [1] * 3, [0.0] * 3, link=slow, holds=150.0)
    np.testing.assert_allclose(ended.start, [0.0, 0.1, 0.2])


@pytest.mark.parametrize("ahead", [False, True])
def test_a_cache_of_few_prompts_lets_all_of_them_through(ahead):
    dice = np.random.default_rng(3)
    prompt, answer = dice.integers(1, 200, 300).tolist(), dice.integers(1, 30, 300).tolist()
    slow = PoolLink(1.0, 900.0, 900.0)
    waits = []
    for holds in (200.0, 400.0, math.inf):
        pools, r = run(prompt, answer, None, 40, (2, 2), slow, holds, ahead=ahead)
        assert not np.isnan(r.end).any()
        assert all(server.load == 0 for server in pools.prefills)
        waits.append(np.mean(np.array(r.start) - np.array(r.arrival)))
    assert waits[2] < waits[1] < waits[0]


def test_two_prefill_servers_are_twice_as_fast_until_the_decode_server_s_link_binds():
    _, r = run([1000] * 4, [2] * 4, [0.0] * 4, numbers=(2, 1))
    np.testing.assert_allclose(r.first, [0.1, 0.1, 0.2, 0.2], rtol=1e-6)
    _, bound = run([1000] * 4, [2] * 4, [0.0] * 4, numbers=(2, 1), link=PoolLink(1.0, 5e3, 5e3))
    np.testing.assert_allclose(sorted(bound.first), [0.3, 0.5, 0.7, 0.9])


def test_prompts_do_not_hold_up_answers():
    """Gaps of the first request's tokens stay an iteration, whoever comes."""
    _, r = run([1000] * 10, [50] * 10, [0.05 * i for i in range(10)])
    for first, end in zip(r.first, r.end, strict=True):
        assert end - first == pytest.approx(49 * 1e-2, abs=1.01e-2)


def test_decode_admits_as_many_as_it_has_room_for():
    pools, r = run([100] * 6, [40] * 6, [0.0] * 6, capacity=250.0, reserved=1.0)
    assert max(pools.waited_s) > 0.0
    assert pools.decodes[0].stopped == 0
    assert not np.isnan(r.end).any()


def test_who_is_stopped_in_the_decode_pool_is_computed_again_there():
    pools, r = run([100] * 6, [60] * 6, [0.0] * 6, capacity=330.0)
    assert pools.decodes[0].stopped > 0
    assert not np.isnan(r.end).any()
    for server in (*pools.prefills, *pools.decodes):
        assert server.load == 0
        assert server.context == pytest.approx(0.0, abs=1e-6)
        assert server.remaining == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("load", [0.3, 0.8])
def test_one_prefill_server_is_an_m_d_1_queue(load):
    """Mean wait ρ D / (2 (1 − ρ)) (Pollaczek and Khinchine, constant service)."""
    n = 20_000
    arrival = drawn_times(np.random.default_rng(1), n, load / 0.1, 1.0).tolist()
    _, r = run([8] * n, [2] * n, arrival)
    wait = np.mean(np.array(r.start) - np.array(r.arrival))
    assert wait == pytest.approx(load * 0.1 / (2 * (1 - load)), rel=0.1)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("in_flight", [1, 5, 40])
def test_a_closed_loop_keeps_as_many_in_flight(in_flight, ahead):
    pools, r = run([100] * 300, [20] * 300, None, in_flight, (2, 3), ahead=ahead)
    found = steady_state(r, pools.decodes[0].timeline, 1.0, in_flight)
    inside = found.requests_per_s * found.request_s.mean
    assert inside == pytest.approx(in_flight, rel=0.05)


# -- as a command ----------------------------------------------------------------------------------

WHERE = mw.cluster("hgx-h100", nodes=2)


@pytest.mark.parametrize(
    ("model", "stack", "isl", "osl"),
    [
        deep("llama-3.1-8b", "vllm", 4096, 512),
        deep("llama-3.1-70b", "sglang", 2048, 512),
        deep("llama-3.1-70b", "trtllm", 2048, 512),
        ("qwen3-30b-a3b", "vllm", 2048, 256),
    ],
)
def test_a_run_delivers_what_a_plan_says(model, stack, isl, osl):
    asked = mw.Serving(isl=isl, osl=osl, concurrency=1, length_spread=0.0)
    plan = mw.plan(
        *(model, WHERE, asked),
        stack=stack,
        gpus=16,
        ttft_s=1.0,
        tpot_s=0.03,
        disaggregated=True,
    ).to_dict()["disaggregated"]
    layouts = [
        {axis: plan[pool][axis] for axis in ("tp", "pp", "dp", "ep", "etp")}
        for pool in ("prefill", "decode")
    ]
    numbers = {f"{p}_instances": plan[f"{p}_instances"] for p in ("prefill", "decode")}
    w = mw.Serving(isl=isl, osl=osl, concurrency=plan["concurrency"], length_spread=0.0)
    found = mw.serve(*(model, WHERE, w), stack=stack, prefill=layouts[0], **numbers, **layouts[1])
    assert found.devices == plan["devices"]
    for key in ("requests_per_s", "tpot_s", "ttft_s", "tokens_per_s"):
        assert getattr(found, key) == pytest.approx(plan[key], rel=1e-9)
    assert plan["ttft_s"] <= 1.0
    assert plan["tpot_s"] <= 0.03
    # averages told where to look
    assert plan["averages"]["requests_per_s"] == pytest.approx(plan["requests_per_s"], rel=0.5)
    pools = found.to_dict()["disaggregated"]
    assert pools["transfer_s"] == pytest.approx(plan["transfer_s"])
    assert pools["transfer_bytes"] == pytest.approx(plan["transfer_bytes"])
    # nearly idle, a first token takes its prompt and the transfer
    rate = 0.001 * plan["requests_per_s"]
    idle = mw.serve(
        *(model, WHERE, w),
        stack=stack,
        request_rate=rate,
        requests=60,
        prefill=layouts[0],
        **numbers,
        **layouts[1],
    )
    assert idle.ttft_s == pytest.approx(idle.prefill_s + plan["transfer_s"], rel=0.1)


def test_more_than_the_pools_serve_is_said():
    w = mw.Serving(isl=4096, osl=64, concurrency=64)
    with pytest.raises(Overloaded):
        mw.serve("llama-3.1-8b", WHERE, w, request_rate=200.0, requests=800, prefill={"tp": 1})


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"prefill": {"tp": 3}}, "prefill_tp"),
        ({"prefill": {"tp": 2}, "gpus": 4}, "gpus"),
        ({"prefill": {"tp": 2}, "decode_instances": 99}, "decode_instances"),
        ({"prefill": {"tp": 2}, "prefill_instances": 0}, "prefill_instances"),
        ({"prefill": {"vp": 2}}, "layout"),
    ],
)
def test_pools_that_cannot_be_are_refused(asked, field):
    w = mw.Serving(isl=512, osl=64, concurrency=8)
    with pytest.raises(InputError) as error:
        mw.serve("llama-3.1-8b", WHERE, w, **asked)
    assert error.value.field == field
    assert json.dumps(error.value.to_dict())


@pytest.mark.parametrize("name", ["prefill_instances", "decode_instances"])
def test_instances_without_a_prefill_layout_are_refused(name):
    load = mw.Serving(isl=256, osl=32, concurrency=8)
    with pytest.raises(InputError, match="without `prefill`") as caught:
        mw.serve("llama-3.1-8b", "hgx-h100", load, **{name: 3})
    assert caught.value.field == name
    mw.serve("llama-3.1-8b", "hgx-h100", load, **{name: 1})
