"""Decisions: regret, Kendall's τ against scipy's, and the rule of thumb's choice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from meshwise.evidence.prediction import Contender
from meshwise.evidence.score.decisions import decided, decisions, kendall_tau
from meshwise.evidence.score.result import Result
from meshwise.evidence.score.summary import error_summary, fits_summary
from meshwise.layouts.layout import Layout

SOME = st.lists(st.integers(0, 6), min_size=2, max_size=12)


def row(
    name: str,
    measured: float,
    predicted: float,
    layout: Layout,
    job: tuple[str, ...] = ("s", "gpt2"),
) -> Result:
    return Result(
        name,
        1,
        "step_s",
        measured,
        predicted,
        0.5 * predicted,
        2.0 * predicted,
        predicted / measured - 1.0,
        "ok",
        "",
        job[0],
        (),
        contender=Contender(job, layout, 8),
    )


TP, DP = Layout(tp=8, micro_batch=1), Layout(dp=8, micro_batch=1)
BOTH, PP = Layout(tp=2, dp=4, micro_batch=1), Layout(tp=2, pp=4, micro_batch=1)
GROUP = [row("a", 2.0, 1.9, TP), row("b", 1.0, 1.3, DP), row("c", 1.2, 1.2, BOTH)]
GROUP.append(row("d", 3.0, 3.5, PP))


@given(st.data())
def test_kendalls_tau_is_scipys(data: st.DataObject) -> None:
    one = data.draw(SOME)
    other = data.draw(st.lists(st.integers(0, 6), min_size=len(one), max_size=len(one)))
    ours = kendall_tau(np.array(one, dtype=float), np.array(other, dtype=float))
    theirs = stats.kendalltau(one, other).statistic
    if ours is None:
        assert np.isnan(theirs)
    else:
        assert ours == pytest.approx(theirs)


def test_regret_of_the_predicted_best_and_of_the_rule_of_thumb() -> None:
    (found,) = decided(GROUP)
    assert (found.best, found.chosen, found.thumb) == ("b", "c", "a")
    assert found.regret == pytest.approx(0.2)
    assert found.thumb_regret == pytest.approx(1.0)  # TP fills the node
    assert found.kendall_tau == pytest.approx(
        stats.kendalltau([2.0, 1.0, 1.2, 3.0], [1.9, 1.3, 1.2, 3.5]).statistic
    )


def fitting(name: str, chance: float) -> Result:
    none = (None, None, None)
    called = float(chance >= 0.5)
    return Result(name, 1, "fits", 1.0, called, *none, "ok", "", "s", (), chance=chance)


def test_what_may_run_out_of_memory_costs_the_time_of_the_runs_that_are_lost() -> None:
    for chance, chosen in ((0.95, "c"), (0.9, "b"), (0.1, "b")):  # of c: 1.2 s, b: 1.3 s
        (found,) = decided([*GROUP, fitting("c", chance)])
        assert found.chosen == chosen
    (found,) = decided([*GROUP, fitting("a", 0.3)])
    assert found.thumb == "c"  # the largest TP degree of those that fit
    alike = [fitting(r.id, 0.3) for r in GROUP]
    assert decided([*GROUP, *alike]) == decided(GROUP)


def test_rows_of_one_layout_count_as_their_mean() -> None:
    again = row("again", 1.6, 1.2, BOTH)
    for rows in ([*GROUP, again], [again, *GROUP]):  # in whatever order the table has them
        (found,) = decided(rows)
        assert found.regret == pytest.approx(0.4)


def test_groups_have_four_rows_that_differ_in_layout() -> None:
    assert decided(GROUP[:3]) == []
    same = [row(str(i), 1.0 + i, 1.0 + i, TP) for i in range(5)]
    assert decided(same) == []
    other = [
        r._replace(contender=Contender(("s", "other"), r.contender.layout, 8))
        for r in GROUP[:2]
        if r.contender
    ]
    assert decided([*GROUP[2:], *other]) == []


def test_the_rule_of_thumb_takes_the_fewest_stages_and_no_context_parallelism() -> None:
    rows = [
        row("cp", 1.0, 1.0, Layout(tp=8, cp=2, micro_batch=1)),
        row("pp4", 1.1, 1.1, Layout(tp=8, pp=4, micro_batch=1)),
        row("pp2", 1.3, 1.3, Layout(tp=8, pp=2, micro_batch=1)),
        row("mb2", 1.4, 1.2, Layout(tp=8, pp=2, micro_batch=2)),
        row("fsdp", 0.9, 0.9, Layout(tp=8, pp=1, shard="zero3", micro_batch=1)),
    ]
    (found,) = decided(rows)
    assert found.thumb == "mb2"  # of both the one that is predicted to be faster


def test_decisions_are_summed_up_by_source() -> None:
    again = [
        r._replace(source="t", contender=Contender(("t", "x"), r.contender.layout, 8))
        for r in GROUP
        if r.contender
    ]
    right = [r._replace(predicted=r.measured) for r in again]
    found = decisions([*GROUP, *right])
    assert found is not None
    assert found["groups"] == 2 and found["rows"] == 8
    assert found["mean_regret"] == pytest.approx(0.1)
    assert found["by_source"]["t"]["median_regret"] == 0.0
    assert found["by_source"]["t"]["mean_kendall_tau"] == pytest.approx(1.0)
    assert found["rule_of_thumb"]["mean_regret"] == pytest.approx(1.0)
    assert decisions(GROUP[:2]) is None
    assert error_summary(GROUP)["decisions"]["groups"] == 1
    assert "decisions" not in error_summary(GROUP[:2])


def test_fits_is_a_matrix_and_tight_counts_as_its_fits() -> None:
    def fits(ran: bool, called: bool, tight: bool) -> Result:
        none = (None, None, None)
        return Result(
            "x", 1, "fits", float(ran), float(called), *none, "ok", "", "s", (), tight=tight
        )

    rows = [fits(True, True, False), fits(True, False, True), fits(False, True, True)]
    found = fits_summary([*rows, fits(False, False, False), fits(False, True, False)])
    assert found["matrix"]["ran"] == {"called_fitting": 1, "called_out_of_memory": 1}
    assert found["matrix"]["out_of_memory"] == {"called_fitting": 2, "called_out_of_memory": 1}
    assert (found["n"], found["wrong"], found["tight"], found["wrong_tight"]) == (5, 3, 2, 2)


def test_a_summary_has_sources_widths_tiers_and_suspects() -> None:
    suspect = GROUP[0]._replace(status="suspect", error=None)
    found = error_summary([*GROUP, suspect])["step_s"]
    assert found["n"] == 4 and found["suspect"] == 1
    assert found["median_width"] == pytest.approx(3.0)
    assert found["median_abs_error_of_sources"] == found["by_source"]["s"]["median_abs_error"]
    assert found["coverage"] == 1.0
