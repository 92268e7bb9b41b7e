"""The tools that leave cells out: on a few rows, with fits that stand in."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshwise.cost.doubt.question import Question
from meshwise.evidence import validate
from meshwise.evidence.tables import read_table

TOOLS = Path(__file__).parents[2] / "tools"
SOURCES = ("sc21-tab1", "sc21-tab2", "nemo-2407", "nemo-launcher", "megatron-h100")


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOOLS))
    for name in ("fit_training", "fit_networks", "fit_collectives"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    import cross_validate

    return cross_validate


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The rows of a few published sources."""
    lines = (validate.PUBLISHED_FOLDER / "training.csv").read_text(encoding="utf-8").splitlines()
    path = tmp_path / "training.csv"
    kept = [line for line in lines[1:] if line.split("/")[0] in SOURCES]
    path.write_text("\n".join([lines[0], *kept]) + "\n", encoding="utf-8")
    return path


def rows_of(tools: Any, table: Path) -> list[tuple[Any, Path]]:
    return tools.merged([(read_table(str(table)), validate.PUBLISHED_FOLDER / "training.csv")])


def test_cells_are_left_out_by_the_fit_that_there_is(
    tools: Any, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(tools, table)
    shipped = tools.by_shipped("training", rows)
    with pytest.raises(tools.MissingFit, match="fit_training"):
        tools.training_left_out([table], rows, shipped, "source")
    asked: list[dict[str, str] | None] = []

    def left_out(path: Path, cells: dict[str, str] | None = None) -> list[tuple[Any, ...]]:
        asked.append(cells)
        return [(i, q, m, 1.1 * p) for (i, q), (m, p) in shipped.items() if q == "step_s"]

    monkeypatch.setattr(sys.modules["fit_training"], "left_out", left_out, raising=False)
    by_source = tools.training_left_out([table], rows, shipped, "source")
    by_device = tools.training_left_out([table], rows, shipped, "device")
    by_software = tools.training_left_out([table], rows, shipped, "software")
    assert asked[0] is None and set(asked[1].values()) >= {"a100-80gb-sxm", "h100-80gb-sxm"}
    assert {r.cell for r in by_source} == set(SOURCES)
    assert {"nemo", "megatron-core"} <= {r.cell for r in by_software}
    assert len(by_source) == len(by_device) == len(by_software) > 20
    assert all(r.predicted == pytest.approx(1.1 * r.shipped) for r in by_device)
    # a fit that knows sources alone says so
    monkeypatch.setattr(sys.modules["fit_training"], "left_out", lambda path: [])
    with pytest.raises(tools.MissingFit, match="cells"):
        tools.training_left_out([table], rows, shipped, "device")


@pytest.mark.matrix
def test_kernels_are_left_out_with_their_device(tools: Any, table: Path) -> None:
    """A device whose own products are inherited is predicted otherwise, and afterwards as before."""
    rows = rows_of(tools, table)
    shipped = tools.by_shipped("training", rows)
    left = [
        tools.Left(name, quantity, "device", measured, predicted, predicted)
        for (name, quantity), (measured, predicted) in shipped.items()
        if quantity == "step_s"
    ]
    found = tools.kernels_left_out(rows, shipped, left)
    assert len(found) == len(left)
    change = [r.predicted / r.shipped for r in found]
    assert min(change) < 0.999 or max(change) > 1.001
    assert max(abs(np.log(change))) < np.log(2.0)
    assert tools.by_shipped("training", rows) == shipped


def test_what_is_left_out_is_told_as_rows_and_over_sources(tools: Any) -> None:
    rows = [tools.Left(f"a/{i}", "step_s", "a", 1.0, 1.1, 1.05) for i in range(8)]
    rows += [tools.Left(f"b/{i}", "step_s", "b", 1.0, 0.6, 0.7) for i in range(2)]
    found = tools.score(rows)
    assert found["left_out"]["median"] == pytest.approx(0.1)
    assert found["left_out"]["of_sources"] == pytest.approx(0.25)
    assert found["left_out"]["worst_source"] == pytest.approx(0.1)  # of eight rows or more
    assert found["shipped"]["median"] == pytest.approx(0.05)
    worth = {
        "covered_left_out_rows": 0.9,
        "median_width_measured": 0.5,
        "median_width_elsewhere": None,
    }
    summary = {"errors": {"step_s without its source": found}, "intervals": {"step_s": worth}}
    page = tools.markdown(json.loads(json.dumps(summary)))
    assert "| `step_s` | its source | 2 | 10 | 10.0 % |" in page
    assert "| `step_s` | 90 % | 50 % | - |" in page


# -- the fit of intervals ----------------------------------------------------------------------------


def drawn(fit: Any, publishers: int, each: int, sd: dict[str, float], seed: int) -> list[Any]:
    """Rows whose publishers are off together by 0.1, and by what they have."""
    random, rows = np.random.default_rng(seed), []
    for p in range(publishers):
        moe = p % 2
        spread = np.hypot(sd["source"], sd["moe"] * moe)
        value = random.normal(0.0, spread)
        for i in range(each if p else 20 * each):  # one large source
            asked = Question("training", "d", "s", "s", {"moe": float(moe)}, {})
            off = value + random.normal(0.0, 0.02)
            rows.append(
                fit.Residual(
                    f"p{p}/{i}", f"p{p}", "step_s", off, asked, (), 1.0, None, "", True, False
                )
            )
    return rows


def test_the_fit_finds_what_makes_rows_less_sure(tools: Any) -> None:
    fit = tools.fit_discrepancy
    rows = drawn(fit, 60, 4, {"source": 0.1, "moe": 0.4}, 7)
    index = fit.index_of(rows)
    found, worth = fit.fitted("step_s", rows, index)
    assert found.sd["source"] == pytest.approx(0.1, rel=0.35)
    assert found.sd["moe"] == pytest.approx(0.4, rel=0.35)
    assert "fp8" not in found.sd
    assert worth["covered_left_out_publishers"] >= 0.88
    assert found.low >= fit.NORMAL and found.high >= fit.NORMAL


def test_the_index_has_a_cell_per_combination(tools: Any) -> None:
    fit = tools.fit_discrepancy
    rows = drawn(fit, 4, 3, {"source": 0.1, "moe": 0.4}, 1)
    assumed = rows[0]._replace(id="z/1", question=rows[0].question._replace(assumed=True))
    cells = fit.index_of([*rows, assumed])
    assert {(c.source, c.rows) for c in cells} == {("p0", 60), ("p1", 3), ("p2", 3), ("p3", 3)}
    assert {c.traits for c in cells} == {frozenset(), frozenset({"moe"})}


def test_tight_is_the_share_that_holds_most_wrong_answers(tools: Any) -> None:
    fit = tools.fit_discrepancy
    asked = Question("training", "d", "s", "s", {}, {})
    known = fit.Fit({"source": 0.1}, 2.0, 2.0, {})
    wrong = [fit.Held(f"p{i}", asked, float(np.exp(0.01 * i)), False) for i in range(1, 11)]
    right = [fit.Held("q", asked, 5.0, True), fit.Held("q", asked, 0.1, False)]
    share = fit.tight_share([*wrong, *right], known)
    assert 0.08 / 0.2 <= share <= 0.1 / 0.2
    assert fit.tight_share(right, known) == 1.0


def test_the_shortest_ends_hold_as_much_as_equal_tails_and_are_nearer(tools: Any) -> None:
    """Of an exponential tail above a normal one; of a symmetric distribution both are the same."""
    fit = tools.fit_discrepancy
    z = np.sort(np.concatenate([np.linspace(-3.0, 3.0, 800), 3.0 + np.arange(200) / 20.0]))
    weight = np.ones(z.size)
    held = {}
    for shortest in (False, True):
        low, high = fit.ends(z, weight, 0.8, shortest)
        held[shortest] = low + high
        assert np.mean((-low <= z) & (z <= high)) == pytest.approx(0.8, abs=0.02)
    assert held[True] < 0.75 * held[False]
    even = np.linspace(-3.0, 3.0, 1001)
    level = (fit.ends(even, np.ones(1001), 0.8, s) for s in (False, True))
    assert sum(next(level)) == pytest.approx(sum(next(level)), rel=0.01)


def test_engines_intervals_hold_rows_of_sweeps_left_out(tools: Any) -> None:
    fit = tools.fit_discrepancy
    rows = [
        r._replace(quantity="tpot_s", question=r.question._replace(kind="serving"))
        for r in drawn(fit, 40, 4, {"source": 0.1, "moe": 0.3}, 5)
    ]
    found, worth = fit.fitted("tpot_s", rows, fit.index_of(rows))
    assert found.sd["source"] == pytest.approx(0.1, rel=0.35)
    assert worth["covered_left_out_rows"] >= fit.SERVED_INSIDE
