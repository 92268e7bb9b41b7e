"""The price of an iteration for others' simulators: what a plain queue of theirs makes of it is ours."""

import numpy as np
import pytest

import meshwise as mw
from meshwise.errors import InputError
from meshwise.layouts.layout import Layout, arrays
from meshwise.serving import IterationCost
from meshwise.simulate.iteration import Engine, decode_s
from meshwise.simulate.server import SimulatedServer
from meshwise.stacks.load import load_stack


def test_it_is_the_price_of_the_iteration():
    seconds = IterationCost("llama-3.1-8b", "hgx-h100", tp=2)
    e = Engine(
        mw.model("llama-3.1-8b"), mw.cluster("hgx-h100"), load_stack("vllm"), arrays(Layout(tp=2))
    )
    assert seconds(64, 4096) == pytest.approx(float(decode_s(e, np.int64(64), 4096)), rel=0.01)
    assert seconds(0, 0.0, [(1000, 0)]) < seconds(0, 0.0, [(1000, 7000)])


def test_a_loop_of_one_s_own_gives_the_simulator_s_figures():
    seconds = IterationCost("llama-3.1-8b", "hgx-h100", stack="ideal", max_sequences=8)
    w = mw.Serving(isl=512, osl=64, concurrency=8, length_spread=0.0)
    e = Engine(
        mw.model("llama-3.1-8b"), mw.cluster("hgx-h100"), load_stack("ideal"), arrays(Layout())
    )
    ours = SimulatedServer(e, w).closed(requests=8).all
    now = seconds(0, 0.0, [(512, 0)] * 8)
    now += sum(seconds(8, 513 + i) for i in range(63))
    assert ours.request_s.mean == pytest.approx(now, rel=0.01)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"tp": 3}, "tp"),
        ({"max_sequences": 0}, "max_sequences"),
        ({"max_context": 1}, "max_context"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"stack": "vlm"}, "stack"),
        ({"tpp": 2}, "layout"),
    ],
)
def test_what_is_no_engine_is_refused(given, field):
    with pytest.raises(InputError) as error:
        IterationCost("llama-3.1-8b", "hgx-h100", **given)
    assert error.value.field == field


def test_an_iteration_of_nothing_is_refused():
    with pytest.raises(InputError, match="sequences"):
        IterationCost("llama-3.1-8b", "hgx-h100")(0, 10.0)


@pytest.mark.parametrize(
    ("state", "field"),
    [
        ((1, -5.0), "context"),
        ((1, float("nan")), "context"),
        ((1, float("inf")), "context"),
        ((1.5, 10.0), "sequences"),
        ((-1, 10.0, [(10, 0)]), "sequences"),
        ((1, 10.0, [(-3, 0)]), "prompts"),
        ((1, 10.0, [(3, -1)]), "prompts"),
        ((1, 10.0, [(2.5, 0)]), "prompts"),
    ],
)
def test_what_is_no_state_of_a_batch_is_refused(state, field):
    with pytest.raises(InputError) as error:
        _COST(*state)
    assert error.value.field == field


_COST = IterationCost("llama-3.1-8b", "hgx-h100", stack="ideal")


def test_numpy_s_numbers_are_taken():
    assert _COST(np.int64(3), np.float64(100.0)) == _COST(3, 100.0)
