"""90 % intervals: around the value, wider on inherited constants, and covering left-out sources."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import meshwise as mw
from meshwise import catalog
from meshwise.cost.uncertainty import INHERITED_HALF_WIDTH, prediction_interval, published_spread

FILES = catalog.names("discrepancy")
QUANTITIES = [name.replace("-", "_") for name in FILES]


@given(
    st.floats(1e-6, 1e6),
    st.sampled_from(QUANTITIES),
    st.sampled_from([*catalog.names("stacks"), "someone-else"]),
    st.floats(0.0, 1.0),
)
def test_ends_hold_the_value_and_widen_with_what_is_inherited(
    value: float, quantity: str, stack: str, inherited: float
) -> None:
    low, high = prediction_interval(value, quantity, stack, inherited)
    own_low, own_high = prediction_interval(value, quantity, stack)
    found = published_spread(quantity, stack)
    assert low <= own_low <= own_high <= high
    if found.low <= 0.0 <= found.high:
        assert low <= value <= high
        assert own_low == pytest.approx(value * np.exp(found.low))
        assert own_high == pytest.approx(value * np.exp(found.high))
    # in quadrature: never more than the sum
    assert high <= own_high * np.exp(INHERITED_HALF_WIDTH * inherited) * (1 + 1e-12)


@pytest.mark.parametrize("name", FILES)
def test_left_out_sources_are_covered(name: str) -> None:
    """What the fit recorded: with its own source left out, 90 % of the rows are inside."""
    path = Path(catalog.ROOT) / "discrepancy" / f"{name}.toml"
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    assert table["quantity"] == name.replace("-", "_")
    assert table["rows"] == sum(s["rows"] for s in table["stack"].values())
    if table["sources"] > 1:
        assert table["covered_left_out_rows"] >= 0.9
        assert table["covered_left_out_sources"] >= 0.9


def test_the_ideal_stack_has_no_interval() -> None:
    ideal = mw.scale("gpt2", "dgx-a100", mw.Training(batch=8, seq=1024), stack="ideal")
    assert all(p.step_low_s == p.step_s == p.step_high_s for p in ideal.points)


def test_a_device_without_kernels_of_its_own_is_less_sure() -> None:
    work = mw.Training(batch=8, seq=1024)
    own = mw.scale("gpt2", "dgx-a100", work).points[0]
    inherited = mw.scale("gpt2", "dgx-1-v100", work).points[0]
    assert inherited.step_high_s / inherited.step_s > own.step_high_s / own.step_s
    assert inherited.step_low_s / inherited.step_s < own.step_low_s / own.step_s
