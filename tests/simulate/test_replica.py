"""The scheduler's simulation: what is known of queues, and the same engines by brute force."""

import itertools
import math
import random

import numpy as np
import pytest
from oracle import Plain, brute

from meshwise.simulate.loads.drawn import drawn_times
from meshwise.simulate.loads.requests import Requests
from meshwise.simulate.outcome import steady_state, warm_up, whole_run
from meshwise.simulate.replica import Replica
from meshwise.simulate.rules import Rules

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


def run(rules, prompt, answer, arrival=None, in_flight=0, price=None):
    requests = Requests(prompt, answer, [0] * len(prompt), arrival, in_flight)
    replica = Replica(price or Plain(), rules, requests)
    replica.run()
    return replica, requests


def lengths(seed, n=60):
    dice = random.Random(seed)
    return [dice.randint(1, 400) for _ in range(n)], [dice.randint(1, 60) for _ in range(n)]


CASES = [
    RULES._replace(policy=policy, ahead=ahead, **more)
    for policy, ahead, more in itertools.product(
        ("mixed", "first", "whole"),
        (False, True),
        (
            {},
            {"most_sequences": 3},
            {"together": 1},
            {"capacity": 900.0, "block": 17},
            {"capacity": 900.0, "reserved": 0.7},
            {"capacity": 900.0, "reserved": 1.0},
        ),
    )
]


@pytest.mark.parametrize("rules", CASES, ids=str)
@pytest.mark.parametrize("in_flight", [1, 4, 17, 60])
def test_a_closed_loop_is_the_one_that_takes_a_token_a_step(rules, in_flight):
    prompt, answer = lengths(in_flight)
    replica, requests = run(rules, prompt, answer, None, in_flight)
    expected = brute(Plain(), rules, prompt, answer, None, in_flight)
    for ours, theirs in zip((requests.start, requests.first, requests.end), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    if rules.capacity < 1000 and rules.reserved == 0.0 and in_flight > 10:
        assert replica.stopped > 0  # the case is one where the cache fills
    if rules.reserved == 1.0:
        assert replica.stopped == 0


@pytest.mark.parametrize("rules", CASES, ids=str)
@pytest.mark.parametrize("rate", [0.5, 4.0, 30.0])
def test_arrivals_are_those_of_one_token_a_step(rules, rate):
    prompt, answer = lengths(int(rate))
    arrival = drawn_times(np.random.default_rng(3), len(prompt), rate, 1.0).tolist()
    _, requests = run(rules, prompt, answer, arrival)
    expected = brute(Plain(), rules, prompt, answer, arrival)
    for ours, theirs in zip((requests.start, requests.first, requests.end), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


@pytest.mark.parametrize("poll", [1, 7, 30])
def test_an_engine_that_looks_seldom_takes_requests_up_late(poll):
    prompt, answer = lengths(5)
    arrival = drawn_times(np.random.default_rng(4), len(prompt), 3.0, 1.0).tolist()
    rules = RULES._replace(poll=poll)
    _, requests = run(rules, prompt, answer, arrival)
    expected = brute(Plain(), rules, prompt, answer, arrival)
    np.testing.assert_allclose(requests.end, expected[2], rtol=1e-9)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("more", [{}, {"enough": 300.0}, {"capacity": 900.0, "reserved": 0.7}])
def test_prompts_let_iterations_pass_until_they_are_enough(more, ahead):
    """As one token a step has it; and first tokens come later than without."""
    prompt, answer = lengths(6)
    rules = RULES._replace(policy="whole", budget=1024, ahead=ahead, wait=9, **more)
    _, requests = run(rules, prompt, answer, None, 12)
    expected = brute(Plain(), rules, prompt, answer, None, 12)
    for ours, theirs in zip((requests.start, requests.first, requests.end), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    arrival = drawn_times(np.random.default_rng(7), len(prompt), 20.0, 1.0).tolist()
    _, arriving = run(rules, prompt, answer, arrival)
    expected = brute(Plain(), rules, prompt, answer, arrival)
    np.testing.assert_allclose(arriving.end, expected[2], rtol=1e-9)
    _, those = run(rules._replace(wait=0), prompt, answer, None, 12)
    waits = np.subtract(requests.first, requests.arrival).mean()
    assert waits > np.subtract(those.first, those.arrival).mean()


def test_requests_and_tokens_are_conserved():
    for rules in CASES:
        prompt, answer = lengths(9)
        replica, requests = run(rules, prompt, answer, None, 13)
        assert not np.isnan([requests.arrival, requests.start, requests.first, requests.end]).any()
        assert all(
            a <= s <= f <= e
            for a, s, f, e in zip(
                requests.arrival, requests.start, requests.first, requests.end, strict=True
            )
        )
        _, iterations, _, decoding, _ = replica.timeline.columns()
        # every token after a prompt's is one of a decode; prompts computed again yield one more each
        made = float((iterations * decoding).sum())
        assert sum(answer) - len(answer) - replica.stopped <= made <= sum(answer) - len(answer)
        assert decoding.max() <= min(rules.most_sequences, 13)
        assert replica.decoding == 0
        assert not replica.waiting and not replica.partial
        assert replica.context == pytest.approx(0.0, abs=1e-6)
        assert replica.remaining == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.9])
def test_one_place_and_prompts_alone_are_an_m_d_1_queue(load):
    """Mean wait ρ D / (2 (1 − ρ)) (Pollaczek and Khinchine, constant service)."""
    service = 0.01
    n = 60_000
    arrival = drawn_times(np.random.default_rng(1), n, load / service, 1.0).tolist()
    rules = RULES._replace(most_sequences=1, together=1)
    price = Plain(base=0.0, sequence=0.0, context=0.0, prompt=service, token=0.0)
    _, requests = run(rules, [8] * n, [1] * n, arrival, price=price)
    wait = np.mean(np.array(requests.start) - np.array(requests.arrival))
    assert wait == pytest.approx(load * service / (2 * (1 - load)), rel=0.08)


@pytest.mark.parametrize("in_flight", [1, 2, 9])
def test_a_closed_loop_with_one_place_turns_over_once_a_service(in_flight):
    rules = RULES._replace(most_sequences=1, together=1)
    prompt, answer = [100] * 90, [11] * 90
    replica, requests = run(rules, prompt, answer, None, in_flight)
    alone, _ = run(rules, prompt[:1], answer[:1], None, 1)
    found = steady_state(requests, replica.timeline, 1.0, in_flight)
    assert found.requests_per_s == pytest.approx(1.0 / alone.now)
    assert found.request_s.mean == pytest.approx(in_flight * alone.now)
    assert found.queue_s.mean == pytest.approx((in_flight - 1) * alone.now)
    assert found.running.mean == pytest.approx(1.0)
    assert found.waiting.mean == pytest.approx(in_flight - 1)


@pytest.mark.parametrize("rules", CASES[:12], ids=str)
def test_little_s_law(rules):
    """Requests in the system = arrivals per second · time in it, of a whole run exactly."""
    prompt, answer = lengths(2, 300)
    for arrival, in_flight in ((None, 7), ((np.arange(300) * 0.1).tolist(), 0)):
        replica, requests = run(rules, prompt, answer, arrival, in_flight)
        found = whole_run(requests, replica.timeline, 1.0)
        inside = found.running.mean + found.waiting.mean
        assert found.requests_per_s * found.request_s.mean == pytest.approx(inside)


def test_more_at_a_time_is_neither_more_nor_less_work():
    """A machine that takes a fixed time a token serves the same tokens in the same time, whatever waits."""
    price = Plain(base=0.0, sequence=1e-3, context=0.0, prompt=0.0, token=1e-3)
    prompt, answer = lengths(11)
    total = (sum(prompt) + sum(answer) - len(answer)) * 1e-3
    for in_flight, policy in itertools.product((1, 8, 60), ("mixed", "first", "whole")):
        rules = RULES._replace(policy=policy, budget=100_000)
        replica, _ = run(rules, prompt, answer, None, in_flight, price)
        assert replica.now == pytest.approx(total)


def test_prompts_that_go_first_hold_up_who_decodes():
    prompt, answer = [64] * 40, [40] * 40
    arrival = (np.arange(40) * 0.05).tolist()
    gaps = {}
    for policy in ("mixed", "first"):
        replica, requests = run(RULES._replace(policy=policy), prompt, answer, arrival)
        gaps[policy] = whole_run(requests, replica.timeline, 1.0).itl_s
    assert gaps["first"].p99 > gaps["first"].p50 * 1.2
    assert gaps["mixed"].p50 <= gaps["mixed"].p99


def test_gaps_between_tokens_add_up_to_the_time_of_answers():
    prompt, answer = lengths(21)
    answer = [n + 1 for n in answer]
    replica, requests = run(RULES, prompt, answer, None, 6)
    found = whole_run(requests, replica.timeline, 1.0)
    spent = sum(e - f for e, f in zip(requests.end, requests.first, strict=True))
    assert found.itl_s.mean * (sum(answer) - len(answer)) == pytest.approx(spent, rel=1e-6)


def test_warm_up_is_found_and_a_steady_series_has_none():
    dice = np.random.default_rng(0)
    steady = 1.0 + 0.05 * dice.standard_normal(400)
    begun = steady.copy()
    begun[:60] += np.linspace(5.0, 0.5, 60)
    assert 45 <= warm_up(begun) <= 80
    assert warm_up(steady) <= 200
    assert warm_up(steady[:12]) == 0


def test_a_run_is_the_same_each_time():
    assert run(RULES, *lengths(1), None, 9)[1].end == run(RULES, *lengths(1), None, 9)[1].end
