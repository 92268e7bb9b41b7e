"""90 % intervals: around the value, wider the further a question lies from what was measured, and
covering publishers that had no part in the fit."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import meshwise as mw
from meshwise import catalog
from meshwise.cost.doubt.published_runs import Cell, cells, evidence, novelty
from meshwise.cost.doubt.question import TRAITS, Question, step_question
from meshwise.cost.doubt.spread import (
    NORMAL,
    chance_to_fit,
    components,
    difference_sd,
    doubt,
    prediction_interval,
    standard_deviation,
    within_memory_error,
)
from meshwise.cost.estimate import price_layouts
from meshwise.cost.uncertainty import LATE_LAUNCH_S
from meshwise.layouts.layout import Layout, arrays, columns
from meshwise.simulate.iteration import Engine
from meshwise.stacks.load import load_stack

FILES = catalog.names("discrepancy")
QUANTITIES = [name.replace("-", "_") for name in FILES]
PLAIN = Question("training", "h100-80gb-sxm", "nemo", "nemo", {}, {})


@given(st.floats(1e-6, 1e6), st.sampled_from(QUANTITIES), st.floats(0.0, 2.0), st.floats(0.0, 2.0))
def test_ends_hold_the_value_and_widen_with_doubt(
    value: float, quantity: str, sd: float, more: float
) -> None:
    low, high = prediction_interval(value, quantity, sd)
    wider = prediction_interval(value, quantity, sd + more)
    assert wider[0] <= low <= value <= high <= wider[1]
    assert prediction_interval(value, quantity, sd, more)[1] >= high


@pytest.mark.parametrize("name", FILES)
def test_left_out_publishers_are_covered(name: str) -> None:
    """What the fit recorded: of publishers left out, nine of ten rows are inside, and no end is nearer
    than a normal distribution's."""
    path = Path(catalog.ROOT) / "discrepancy" / f"{name}.toml"
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    assert table["quantity"] == name.replace("-", "_")
    assert table["rows"] > 100
    assert table["covered_left_out_rows"] >= 0.88
    assert min(table["low"], table["high"]) >= NORMAL
    assert set(table["sd"]) <= {*TRAITS, *components(PLAIN), "inherited", "open_rate"} | {
        *("network_share", "host_share", "routed_host_share", "few_routed"),
        *("working_share", "source"),
    }
    assert all(0.0 <= sd < 3.0 for sd in table["sd"].values())


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_every_part_makes_a_question_less_sure(quantity: str) -> None:
    base = float(standard_deviation(quantity, PLAIN))
    for name, sd in doubt(quantity).sd.items():
        traits = {name: 1.0} if name in TRAITS else {}
        shares = {name: 1.0} if name not in TRAITS else {}
        if name in components(PLAIN):
            continue  # of every question, or of what is new, below
        asked = PLAIN._replace(traits=traits, shares=shares)
        assert float(standard_deviation(quantity, asked)) == pytest.approx(np.hypot(base, sd))


def asked(op: str, size: str, cluster: str, ranks: int) -> tuple[float, float]:
    """How far the ends of a collective's interval lie from it, as factors."""
    found = mw.collective(op, size, cluster, ranks)
    return found.time_s / found.time_low_s, found.time_high_s / found.time_s


def test_a_collective_is_as_sure_as_its_regime() -> None:
    inside = asked("all_reduce", "256MiB", "hgx-h100", 8)
    lanes = asked("all_reduce", "256MiB", "l40s-8x", 8)
    network = asked("all_reduce", "256MiB", "hgx-h100", 16)
    assert all(1.0 < end < 1.5 for end in inside)
    assert inside[0] < network[0] and inside[1] < network[1]
    assert inside[0] < lanes[0] and inside[1] < lanes[1]
    # another fabric's constants stand in
    assert asked("all_reduce", "256MiB", "mi300x-node", 8)[0] > inside[0]
    # small messages over a network, by latencies that differ by more than rates
    assert asked("all_reduce", "8KiB", "hgx-h100", 16)[0] > network[0]


def test_inside_a_node_a_late_launch_is_at_the_upper_end_alone() -> None:
    """Of a small message, by so many seconds as hosts are late; of a large one it is nothing."""
    small = mw.collective("all_reduce", "8KiB", "hgx-h100", 8)
    assert small.time_high_s > small.time_s + LATE_LAUNCH_S
    assert small.time_s / small.time_low_s < 1.5
    engine = mw.collective("all_reduce", "8KiB", "hgx-h100", 8, stack="vllm")
    assert engine.time_high_s < small.time_s + LATE_LAUNCH_S


@pytest.mark.parametrize("op", ["scatter", "gather", "send_recv"])
def test_operations_that_no_log_shows_say_so(op: str) -> None:
    found = mw.collective(op, "16MiB", "hgx-h100", 16).to_dict()["evidence"]
    assert found is not None
    assert found["tier"] != "measured"
    assert {"rooted", "send_recv"} & set(found["new"])
    known = mw.collective("all_to_all", "16MiB", "hgx-h100", 16).to_dict()["evidence"]
    assert known is not None
    assert known["tier"] == "measured"


def test_regimes_of_collectives_have_ends_of_their_own() -> None:
    ends = doubt("time_s").ends
    assert set(ends) == {"links", "lanes", "host", "network"}
    assert all(min(pair) >= NORMAL for pair in ends.values())


def test_new_software_is_less_sure_than_known_software() -> None:
    if "software" not in doubt("step_s").sd:
        pytest.skip("the fit keeps no part for software")
    known = standard_deviation("step_s", PLAIN)
    assert standard_deviation("step_s", PLAIN._replace(software="mine")) > known
    assert standard_deviation("step_s", PLAIN._replace(assumed=True)) > known


def test_the_ideal_stack_has_no_interval() -> None:
    ideal = mw.scale("gpt2", "dgx-a100", mw.Training(batch=8, seq=1024), stack="ideal")
    assert all(p.step_low_s == p.step_s == p.step_high_s for p in ideal.points)


def test_a_device_without_kernels_of_its_own_is_less_sure() -> None:
    work = mw.Training(batch=8, seq=1024)
    own = mw.scale("gpt2", "dgx-a100", work).points[0]
    inherited = mw.scale("gpt2", "dgx-1-v100", work).points[0]
    assert inherited.step_high_s / inherited.step_s > own.step_high_s / own.step_s
    assert inherited.step_low_s / inherited.step_s < own.step_low_s / own.step_s


def test_columns_ask_what_single_layouts_ask() -> None:
    """The question of a column of layouts is that of each of them."""
    model, cluster = mw.model("qwen3-30b-a3b"), mw.cluster("dgx-h100", nodes=4)
    work, stack = mw.Training(batch=64, seq=2048), load_stack("megatron-core")
    layouts = [
        Layout(tp=1, dp=32, ep=16, micro_batch=1, shard="zero1", recompute="none"),
        Layout(tp=16, dp=2, micro_batch=1, recompute="none", sequence_parallel=True),
        Layout(tp=2, dp=8, cp=2, micro_batch=2, recompute="full", sequence_parallel=True),
    ]
    together = step_question(price_layouts(model, cluster, work, stack, columns(layouts)))
    for index, layout in enumerate(layouts):
        e = price_layouts(model, cluster, work, stack, arrays(layout, work))
        alone, one = step_question(e).at(0), together.at(index)
        assert one.having() == alone.having()
        for name, share in alone.shares.items():
            assert one.shares[name] == pytest.approx(share, rel=1e-6, abs=1e-9)
    assert "ep_network" in together.at(0).having()
    assert "tp_network" in together.at(1).having()
    assert "context_parallel" in together.at(2).having()


# -- evidence --------------------------------------------------------------------------------------

CELLS = (
    Cell("a", "a/1", "h100-80gb-sxm", "nemo", "nemo", frozenset(), 5),
    Cell("a", "a/9", "h100-80gb-sxm", "nemo", "nemo", frozenset({"moe"}), 2),
    Cell("b", "b/1", "b200", "nemo", "nemo", frozenset({"fp8"}), 3),
    Cell("c", "c/1", "b200", "maxtext", "maxtext", frozenset(), 7),
)


def test_tiers_count_what_is_new() -> None:
    found = evidence(PLAIN, index=CELLS)
    assert (found.tier, found.runs, found.new) == ("measured", 7, ())
    assert found.nearest == ("a/1",)
    moe = evidence(PLAIN._replace(traits={"moe": 1.0}), index=CELLS)
    assert (moe.tier, moe.runs, moe.nearest) == ("measured", 2, ("a/9",))
    near = evidence(PLAIN._replace(traits={"fp8": 1.0}), index=CELLS)
    assert (near.tier, near.new) == ("near", ("fp8",))
    far = evidence(PLAIN._replace(device="a100-80gb-sxm", software="mine"), index=CELLS)
    assert far.tier == "far"
    # several traits of one regime are one thing that is new
    both = PLAIN._replace(traits={"pcie": 1.0, "context_parallel": 1.0})
    assert evidence(both, index=CELLS).tier == "near"


def test_a_datasheet_is_no_evidence() -> None:
    unknown = PLAIN._replace(device="v100-32gb-sxm", own_kernels=False)
    assert evidence(unknown, index=CELLS).tier == "none"
    assert evidence(unknown._replace(own_kernels=True), index=CELLS).tier == "near"
    assert evidence(PLAIN, index=()).tier == "none"


def test_a_source_is_no_evidence_for_itself() -> None:
    found = evidence(PLAIN, "a", index=CELLS)
    assert found.tier == "near"
    assert not any(name.startswith("a/") for name in found.nearest)
    assert novelty(PLAIN, index=CELLS)["device"] == 0.0
    assert novelty(PLAIN, "a", index=CELLS)["device"] == 1.0


def test_what_ran_on_assumed_software_says_so() -> None:
    found = evidence(PLAIN._replace(assumed=True), index=CELLS)
    assert "software" in found.new
    assert any("stack" in said for said in found.narrow_by)


@pytest.mark.parametrize("kind", ["training", "serving", "collectives"])
def test_the_index_is_of_the_catalogs_names(kind: str) -> None:
    listed = cells(kind)
    assert len(listed) > 10
    for cell in listed:
        assert cell.first.startswith(f"{cell.source}/")
        assert cell.device in catalog.names("devices")
        assert cell.traits <= set(TRAITS)
        assert cell.rows > 0


def test_every_answer_says_its_tier() -> None:
    training, serving = mw.Training(batch=16, seq=1024), mw.Serving(isl=64, osl=8, concurrency=4)
    answers = (
        mw.estimate("gpt2", "dgx-a100", training, tp=2, dp=8),
        mw.scale("gpt2", "dgx-a100", training),
        mw.plan("gpt2", "dgx-a100", training, gpus=8),
        mw.plan("gpt2", "dgx-a100", serving, gpus=2),
        mw.serve("gpt2", "dgx-a100", serving),
        mw.collective("all_reduce", "1MiB", "dgx-a100", 8),
    )
    for answer in answers:
        said = answer.to_dict()["evidence"]
        assert said["tier"] in ("measured", "near", "far", "none")
        assert isinstance(said["runs"], int)
        assert "Evidence: " in answer.detail()
    assert answers[0].explain()["evidence"] == answers[0].to_dict()["evidence"]
    ideal = mw.estimate("gpt2", "dgx-a100", training, tp=2, dp=8, stack="ideal")
    assert ideal.to_dict()["evidence"] is None


# -- ties and memory -------------------------------------------------------------------------------


def test_a_tie_is_of_what_two_layouts_do_not_share() -> None:
    """What both err by together cancels in their difference; what one has alone does not."""
    same = difference_sd("step_s", (1.0, PLAIN), (1.0, PLAIN))
    assert same == pytest.approx(doubt("step_s").layout * np.sqrt(2.0))
    networked = PLAIN._replace(shares={"network_share": 0.5})
    other = difference_sd("step_s", (1.0, PLAIN), (1.0, networked))
    assert other == pytest.approx(np.hypot(same, 0.5 * doubt("step_s").sd["network_share"]))
    # the same doubt widens the interval
    assert standard_deviation("step_s", networked) > standard_deviation("step_s", PLAIN)


@given(st.floats(0.3, 3.0))
def test_tight_is_within_the_memorys_error(room: float) -> None:
    sd = standard_deviation("memory_bytes", PLAIN)
    low, high = prediction_interval(1.0, "memory_bytes", sd * doubt("memory_bytes").tight)
    tight = bool(within_memory_error(1.0, room, sd))
    assert not tight or low <= room <= high
    if abs(room - 1.0) < 1e-3:
        assert tight


def test_fits_and_tight_stand_side_by_side() -> None:
    work = mw.Training(batch=64, seq=4096)
    answer = mw.estimate("llama-3-8b", "hgx-h100", work, tp=2, dp=4, stack="megatron-core")
    assert answer.to_dict()["tight"] == answer.tight
    assert answer.memory_low_bytes < answer.memory_bytes < answer.memory_high_bytes
    small = mw.estimate("gpt2", "hgx-h100", mw.Training(batch=8, seq=512), dp=8)
    assert small.fits and not small.tight


def test_a_plan_whose_best_is_tight_names_one_that_is_not() -> None:
    plan = mw.plan("llama-3.1-8b", "hgx-h100", mw.Training(batch=64, seq=4096), gpus=16)
    record = plan.to_dict()
    best, other = record["best"], record["best_not_tight"]
    if not best["tight"]:
        assert other is None
        return
    assert other is not None and other["fits"] and not other["tight"]
    assert other["step_s"] >= best["step_s"]
    assert "tight" in str(plan)
    # what to try first is neither slower than what is clear of the limit nor likelier to fail than the best
    first = record["best_expected"]
    assert first is not None and first["fits"]
    assert best["step_s"] <= first["step_s"] <= other["step_s"] * 1.01
    assert first["memory_bytes"] <= best["memory_bytes"]


def test_the_chance_to_fit_is_even_at_the_limit_and_grows_with_room() -> None:
    assert float(chance_to_fit(1.0, 1.0, 0.1)) == pytest.approx(0.5)
    # a standard deviation of the logarithm on either side: the normal distribution's 84 and 16 %
    assert float(chance_to_fit(1.0, math.exp(0.1), 0.1)) == pytest.approx(0.8413, abs=1e-4)
    assert float(chance_to_fit(math.exp(0.1), 1.0, 0.1)) == pytest.approx(0.1587, abs=1e-4)
    chances = chance_to_fit(np.linspace(0.5, 2.0, 50), 1.0, 0.07)
    assert np.all(np.diff(chances) <= 0.0) and np.all((chances >= 0.0) & (chances <= 1.0))


def test_a_promise_stands_beside_the_best_published() -> None:
    work = mw.Training(batch=16, seq=1024)
    found = mw.estimate("gpt2", "dgx-a100", work, tp=2, dp=8).to_dict()["best_published_mfu"]
    assert 0.3 < found["mfu"] < 0.8
    assert "/" in found["id"]
    said = mw.plan("gpt2", "dgx-a100", work, gpus=8)
    assert said.to_dict()["best_published_mfu"] == found
    assert found["id"] in str(said)
    from meshwise.evidence.validate import published

    assert found["id"] in {r.id for r in published("training")[1]}


def test_a_routed_model_s_host_and_its_few_tokens_are_parts_of_their_own() -> None:
    """A decode of a routed model has its host's share apart, and less chance in its draws the more tokens."""

    def shares(model: str, batch: int) -> dict[str, float]:
        engine = Engine(mw.model(model), mw.cluster("hgx-h100"), mw.stack("vllm"), arrays(Layout()))
        return dict(step_question(engine.decode(np.int64(batch), 1024)).shares)

    dense, few, many = (
        shares("llama-3.1-8b", 4),
        shares("qwen3-30b-a3b", 4),
        shares("qwen3-30b-a3b", 64),
    )
    assert 0.0 < float(dense["host_share"]) < 1.0
    assert "routed_host_share" not in dense
    assert "host_share" not in few
    assert float(few["few_routed"]) == 0.5
    assert float(many["few_routed"]) == 0.125
    assert 0.0 < float(few["routed_host_share"]) < 1.0
