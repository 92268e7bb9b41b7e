"""How many experts a batch visits."""

import itertools

import numpy as np
import pytest

from meshwise.program.layers.experts import popularity, visited

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
