"""How many experts a batch visits, and what the fullest of the ranks gets that share them."""

import itertools

import numpy as np
import pytest

from meshwise.clusters.load import load_cluster
from meshwise.layouts.layout import Layout, arrays
from meshwise.models.load import load_model
from meshwise.program.layers.experts import fullest_rank, popularity, visited
from meshwise.simulate.iteration import Engine
from meshwise.stacks.load import load_stack
from meshwise.workloads.workload import Decode

KINDS = [(8, 2), (32, 4), (128, 4), (128, 8), (256, 8), (384, 8), (160, 6), (16, 1), (8, 8)]
SKEWS = [0.0, 0.1, 0.5, 1.0, 1.5, 3.0, 10.0]


@pytest.mark.parametrize(("experts", "top_k"), KINDS)
@pytest.mark.parametrize("skew", SKEWS)
def test_chances_sum_to_the_draws_of_a_token(experts, top_k, skew):
    chances = popularity(experts, top_k, skew)
    assert chances.sum() == pytest.approx(top_k, rel=1e-12)
    assert np.all((chances >= 0) & (chances <= 1))
    assert np.all(np.diff(chances) >= -1e-12)


@pytest.mark.parametrize(("experts", "top_k"), KINDS)
def test_one_token_visits_its_experts_and_many_visit_fewer_the_more_skewed(experts, top_k):
    tokens = np.array([1.0, 2.0, 16.0, 64.0, 512.0, 2.0])
    shares = [visited(experts, top_k, tokens, skew) for skew in SKEWS]
    for share in shares:
        assert share.shape == tokens.shape
        assert share[0] == pytest.approx(top_k / experts)
        assert share[1] == share[-1]
        assert np.all(np.diff(share[:-1]) >= -1e-12)
        assert np.all(share <= 1)
    for more, fewer in itertools.pairwise(shares):
        assert np.all(fewer <= more + 1e-12)


def test_the_skew_of_served_tokens():
    # the integral over the normal density instead: p = 4 / 128 · exp(z - 1/2)
    z = np.linspace(-6, 6, 20_001)
    p = np.minimum(4 / 128 * np.exp(z - 0.5), 1.0)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    integral = np.sum((1 - (1 - p) ** 32) * density) * (z[1] - z[0])
    assert visited(128, 4, 32.0, 1.0) == pytest.approx(integral, rel=0.02)
    assert visited(128, 4, 32.0) * 128 == pytest.approx(128 * (1 - (31 / 32) ** 32))


def test_shapes_broadcast_as_the_even_draws_do():
    tokens = np.arange(1.0, 13.0).reshape(3, 1, 4)
    assert visited(64, 6, tokens, 1.0).shape == tokens.shape
    assert np.shape(visited(64, 6, 5.0, 1.0)) == np.shape(visited(64, 6, 5.0)) == ()


@pytest.mark.parametrize("skew", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_the_fullest_rank_is_the_mean_over_all_ways_to_place_the_experts(ranks, skew):
    orders = np.array(list(itertools.permutations(range(8))))
    chances = popularity(8, 2, skew)
    tokens = 3.0

    def most(figure):
        return figure[orders].reshape(len(orders), ranks, -1).sum(axis=-1).max(axis=-1).mean()

    found = fullest_rank(8, 2, ranks, tokens, skew)
    assert found.load == pytest.approx(most(chances) / (2 / ranks), rel=0.01)
    seen = most(1 - (1 - chances) ** tokens) / (8 / ranks)
    assert found.visited == pytest.approx(seen, rel=0.03)


@pytest.mark.parametrize(("experts", "top_k"), KINDS)
def test_the_more_skewed_the_fuller_the_fullest_rank(experts, top_k):
    for ranks in (n for n in (2, 4, 8, 16, 32) if experts % n == 0 and top_k < experts):
        loads = [float(fullest_rank(experts, top_k, ranks, 64.0, skew).load) for skew in SKEWS]
        assert loads[0] == 1.0
        assert np.all(np.diff(loads) >= -3e-3 * loads[-1])
        # not above what one rank can get: every token draws all experts of it that it may
        assert loads[-1] <= min(ranks, experts / top_k) + 1e-9
        assert loads[3] > 1.02


@pytest.mark.parametrize(("experts", "top_k"), KINDS)
def test_a_rank_that_visits_most_visits_no_fewer_than_the_mean(experts, top_k):
    tokens = np.array([1.0, 8.0, 64.0, 512.0, 1e6])
    for ranks in (n for n in (2, 4, 8) if experts % n == 0):
        most = fullest_rank(experts, top_k, ranks, tokens, 1.0).visited
        assert np.all(most >= visited(experts, top_k, tokens, 1.0) - 1e-9)
        assert np.all(most <= 1.0)


def test_one_rank_and_even_draws_are_balanced():
    tokens = np.array([1.0, 40.0])
    for ranks, skew in ((1, 1.0), (4, 0.0)):
        found = fullest_rank(64, 6, ranks, tokens, skew)
        assert np.all(found.load == 1.0)
        assert found.visited == pytest.approx(visited(64, 6, tokens, skew))
    # axes of layouts: ranks on one, tokens on another
    found = fullest_rank(64, 6, np.array([[1], [2], [8]]), tokens, 1.0)
    assert found.load.shape == found.visited.shape == (3, 2)
    assert found.load[2, 0] > found.load[1, 0] > found.load[0, 0] == 1.0


SPREAD = [
    ("qwen3-235b-a22b", {"tp": 8, "ep": 8}),
    ("qwen3-235b-a22b", {"tp": 1, "dp": 8, "ep": 8}),
    ("deepseek-v3", {"tp": 8, "ep": 8}),
    ("deepseek-v3", {"tp": 1, "dp": 8, "ep": 8}),
    ("gpt-oss-120b", {"tp": 2, "ep": 2}),
    ("gpt-oss-120b", {"tp": 4, "ep": 4}),
    ("mixtral-8x7b", {"tp": 2, "ep": 2}),
    ("mixtral-8x7b", {"tp": 2, "dp": 2, "ep": 4}),
]


@pytest.mark.parametrize(("name", "degrees"), SPREAD)
def test_where_ranks_share_experts_a_large_batch_is_not_faster_for_skewed_draws(name, degrees):
    """Every expert is visited, so that nothing is saved, and the fullest rank has more to do."""
    layout = arrays(Layout(**degrees), Decode(batch=1, context=1))
    model, cluster, stack = load_model(name), load_cluster("hgx-h200"), load_stack("vllm")
    steps = {"prefill": [], "decode": []}
    for skew in (0.0, 0.5, 1.0, 1.5):
        engine = Engine(model, cluster, stack, layout, expert_skew=skew)
        steps["prefill"].append(float(engine.prefill(np.int64(4), 8192).step_s))
        steps["decode"].append(float(engine.decode(np.int64(4096), 512).step_s))
    for seconds in steps.values():
        assert np.all(np.diff(seconds) >= -2e-3 * seconds[0])
        assert seconds[2] > 1.02 * seconds[0]


def test_few_sequences_read_fewer_experts_where_draws_are_skewed():
    """Decode waits for the weights of what it visits: fewer on every rank."""
    layout = arrays(Layout(tp=8, ep=8), Decode(batch=1, context=1))
    model, cluster, stack = load_model("deepseek-v3"), load_cluster("hgx-h200"), load_stack("vllm")
    even, skewed = (
        float(
            Engine(model, cluster, stack, layout, expert_skew=skew).decode(np.int64(64), 512).step_s
        )
        for skew in (0.0, 1.0)
    )
    assert skewed < even


def test_an_imbalance_that_is_said_stands_in_place_of_the_popularitys():
    layout = arrays(Layout(tp=8, ep=8), Decode(batch=1, context=1))
    model, cluster, stack = load_model("deepseek-v3"), load_cluster("hgx-h200"), load_stack("vllm")
    engines = (
        Engine(model, cluster, stack, layout, expert_imbalance=said) for said in (1.0, None, 3.0)
    )
    balanced, placed, hot = (float(e.prefill(np.int64(4), 8192).step_s) for e in engines)
    assert balanced < placed < hot
