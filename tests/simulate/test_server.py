"""A layout under a load: what all requests meet, and the steady state."""

import numpy as np
import pytest

import meshwise as mw
from meshwise.errors import Overloaded
from meshwise.layouts.layout import Layout, arrays
from meshwise.search.serving import steady_state as average
from meshwise.simulate.iteration import Engine
from meshwise.simulate.loads.arrivals import Arrivals
from meshwise.simulate.outcome import percentiles
from meshwise.simulate.server import SimulatedServer
from meshwise.stacks.load import load_stack

MODEL, CLUSTER = mw.model("llama-3.1-8b"), mw.cluster("hgx-h100", nodes=1)


def server(stack="vllm", tp=1, dp=1, pp=1, **load):
    w = mw.Serving(**{"isl": 1024, "osl": 256, "concurrency": 32} | load)
    chosen = load_stack(stack)
    return SimulatedServer(Engine(MODEL, CLUSTER, chosen, arrays(Layout(tp=tp, pp=pp, dp=dp))), w)


@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm", "ideal"])
def test_one_request_at_a_time_takes_what_its_iterations_take(stack):
    """Beside nothing: a prompt, and an iteration a token."""
    s = server(stack, concurrency=1, length_spread=0.0)
    found = s.closed().steady
    table = s.price(1)
    prompt = table.prompts_s(0, 0.0, [(1024, 0)])
    tokens = sum(table.decode_s(1, 1025 + i) for i in range(255))
    assert found.request_s.mean == pytest.approx(prompt + tokens, rel=1e-6)
    assert found.running.mean == pytest.approx(1.0)


@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("layout", [{"tp": 2}, {"dp": 2}, {"pp": 2}])
def test_the_averages_of_a_search_are_near(stack, layout):
    s = server(stack, **layout)
    found = s.closed()
    w, e = s.w, s.engine
    far = average.steady(e.model, e.cluster, e.stack, e.layouts, w)
    assert found.steady.tpot_s.mean == pytest.approx(float(far.tpot_s), rel=0.25)
    # answers are 0.9 of the longest in the mean
    assert found.steady.tokens_per_s == pytest.approx(float(far.tokens_per_s), rel=0.25)


def test_all_at_once_wait_longer_than_in_the_steady_state():
    found = server().closed()
    assert found.all.ttft_s.mean > 1.5 * found.steady.ttft_s.mean
    assert found.requests == 320
    assert 128 < found.steady.requests <= 256
    s = found.steady
    assert s.requests_per_s * s.request_s.mean == pytest.approx(32, rel=0.005)
    assert s.ttft_s.p50 <= s.ttft_s.p90 <= s.ttft_s.p95 <= s.ttft_s.p99


@pytest.mark.parametrize("spread", [0.0, 0.2])
@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm"])
def test_a_closed_loop_turns_over_by_little_s_law(stack, spread):
    """However waves of ends fall: tokens in the loop's requests over the seconds that they take."""
    s = server(stack, concurrency=8, length_spread=spread)
    found = s.closed().steady
    mine = found.samples
    tokens = 8 * mine.answer.sum() / mine.request_s.sum()
    assert found.tokens_per_s == pytest.approx(tokens, rel=1e-9)
    mean = (int(256 * (1 - spread)) + 256) / 2
    assert found.tokens_per_s == pytest.approx(found.requests_per_s * mean, rel=1e-9)
    long = s.closed(requests=800).all
    assert found.tokens_per_s == pytest.approx(long.tokens_per_s, rel=0.02)


def test_a_copy_s_few_requests_stand_for_answers_of_the_mean_length():
    found = server(dp=8, concurrency=8).closed().steady
    assert found.tokens_per_s / found.requests_per_s == pytest.approx((204 + 256) / 2)


@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("load", [{"isl": 4096, "osl": 128}, {"osl": 8}, {"concurrency": 1}])
def test_a_request_is_its_first_token_and_the_others(stack, load):
    """Whether waves of equal requests stop the server or not."""
    found = server(stack, **{"concurrency": 8, "length_spread": 0.0} | load).closed().steady
    osl = load.get("osl", 256)
    whole = found.ttft_s.mean + (osl - 1) * found.tpot_s.mean
    assert found.request_s.mean == pytest.approx(whole, rel=1e-9)
    # of equal answers the gaps between tokens are the time per token, in the mean
    assert found.itl_s.mean == pytest.approx(found.tpot_s.mean, rel=1e-9)
    assert found.itl_s.p50 <= 1.001 * found.tpot_s.p99


def test_replicas_serve_side_by_side():
    one, two = server(concurrency=16).closed(), server(dp=2, concurrency=32).closed()
    assert two.steady.tokens_per_s == pytest.approx(2 * one.steady.tokens_per_s)
    assert two.steady.ttft_s == one.steady.ttft_s
    few = server(dp=4, concurrency=2).closed()
    assert few.replicas == 2
    alone = server(concurrency=1).closed().steady.tokens_per_s
    assert few.steady.tokens_per_s == pytest.approx(2 * alone)


def test_at_a_rate_that_is_served_no_more_come_than_leave():
    found = server().open(Arrivals(5.0), requests=800).steady
    assert found.requests_per_s == pytest.approx(5.0, rel=0.1)
    inside = found.running.mean + found.waiting.mean
    assert inside == pytest.approx(found.requests_per_s * found.request_s.mean, rel=0.1)


def test_latency_grows_with_load_and_with_bursts():
    rates = [server().open(Arrivals(r), requests=600).steady for r in (1.0, 6.0, 14.0)]
    assert [r.ttft_s.p99 for r in rates] == sorted(r.ttft_s.p99 for r in rates)
    assert [r.tpot_s.mean for r in rates] == sorted(r.tpot_s.mean for r in rates)
    even, bursts = (
        server().open(Arrivals(10.0, b), requests=600).steady.ttft_s.p99 for b in (4.0, 0.1)
    )
    assert bursts > 1.5 * even


def test_more_than_can_be_served_is_said_with_what_can():
    s = server()
    most = s.most_per_s()
    with pytest.raises(
        Overloaded, match=r"arrivals exceed .* the queue grows without bound"
    ) as error:
        s.open(Arrivals(3 * most))
    assert error.value.exit_code == 3
    assert 0.8 * most < error.value.nearest < most
    # just below it is not refused
    assert s.open(Arrivals(0.85 * most), requests=500).steady.requests_per_s > 0.7 * most


def test_more_in_flight_than_run_only_wait_longer():
    """Requests beyond what the server takes: each waits until those before it are served."""
    s = server(concurrency=5000, isl=256, osl=64)
    found = s.closed().steady
    assert found.requests_per_s * found.request_s.mean == pytest.approx(5000, rel=0.05)
    more = server(concurrency=50_000, isl=256, osl=64).closed().steady
    assert more.requests_per_s == pytest.approx(found.requests_per_s, rel=0.05)
    assert more.requests_per_s * more.request_s.mean == pytest.approx(50_000, rel=0.05)


def test_drafts_and_prefixes_shorten_requests():
    plain = server().closed().steady
    drafts = server(draft_tokens=3, acceptance=0.8).closed().steady
    cached = server(prefix_hit=0.9).closed().steady
    assert drafts.tpot_s.mean < plain.tpot_s.mean
    assert cached.ttft_s.mean < plain.ttft_s.mean
    assert drafts.tokens_per_s > plain.tokens_per_s


def test_a_cache_that_fills_stops_the_last_request_where_nothing_is_set_aside():
    tight = {"isl": 4096, "osl": 8192, "concurrency": 128, "length_spread": 0.0}
    stopped = {name: server(name, **tight).closed(requests=256) for name in ("vllm", "trtllm")}
    assert stopped["vllm"].stopped > 0
    assert stopped["trtllm"].stopped == 0
    assert stopped["vllm"].steady.running.mean > stopped["trtllm"].steady.running.mean


def test_the_same_seed_gives_the_same_figures():
    assert server().closed(seed=5) == server().closed(seed=5)
    a, b = (server().open(Arrivals(9.0), requests=400, seed=i).steady.ttft_s.mean for i in (1, 2))
    assert a != b
    assert a == pytest.approx(b, rel=0.3)
    assert np.isfinite(a)


@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("osl", [2, 3, 8])
def test_no_token_takes_less_than_an_iteration(stack, osl):
    """However short the answers are, alone and of arrivals."""
    s = server(stack, concurrency=1, osl=osl, length_spread=0.0)
    least = s.price(1).decode_s(1, 1025)
    for found in (s.closed().steady, s.open(Arrivals(4.0), requests=200).steady):
        assert found.samples.tpot_s.min() >= 0.999 * least
        assert found.tpot_s.p50 >= 0.999 * least


@pytest.mark.parametrize("arrivals", [Arrivals(0.5), Arrivals(12.0), Arrivals(4.0, 0.1)])
@pytest.mark.parametrize("dp", [1, 2])
def test_in_a_steady_state_as_many_end_as_come(arrivals, dp):
    found = server(dp=dp).open(arrivals, requests=300).steady
    assert found.requests_per_s == pytest.approx(arrivals.rate)
    assert found.tokens_per_s == pytest.approx(arrivals.rate * 0.9 * 256, rel=0.02)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 997])
def test_percentiles_are_numpys(size: int) -> None:
    values, percents = np.random.default_rng(size).random(size), [0.5, 37.3, 50, 90, 99.9, 100]
    assert percentiles(values, percents) == list(np.percentile(values, percents))
