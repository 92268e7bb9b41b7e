"""The fewest GPUs and the largest load within limits, by simulation: properties, and ``serve`` beside it."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from tests.deep import deep

import meshwise as mw
from meshwise.errors import Overloaded
from meshwise.layouts.layout import Layout, columns
from meshwise.search.serving.plan import Limits
from meshwise.search.serving.question import ServingAsked
from meshwise.search.serving.runs.most import largest_met
from meshwise.search.serving.runs.offered import at_the_rate
from meshwise.search.serving.runs.trial import SentLoad, Trial, Trials, figure_s, good_shares
from meshwise.search.serving.runs.units import looked_at, replicated
from meshwise.simulate.loads.arrivals import Arrivals
from meshwise.simulate.loads.traces import Trace
from meshwise.simulate.outcome import Samples
from meshwise.workloads.limits import LatencyLimit, limits_in_words, limits_of

HGX = mw.cluster("hgx-h100")
LLAMA = mw.model("llama-3.1-8b")
MOST = 10**5
SHORT = {"requests": 400}
TIGHT = {"ttft_s": {"p95": 0.5}, "tpot_s": {"p90": 0.02}}
SAME = (
    *(
        "tpot_s",
        "tpot_low_s",
        "tpot_high_s",
        "ttft_s",
        "request_s",
        "tokens_per_s",
        "requests_per_s",
    ),
    *("memory_bytes", "max_concurrency", "ttft_p95_s", "tpot_p90_s", "request_p99_s"),
)


def load(isl: int = 1024, osl: int = 128, concurrency: int = MOST, **more: float) -> mw.Serving:
    return mw.Serving(isl=isl, osl=osl, concurrency=concurrency, **more)


def degrees(row) -> dict[str, int]:
    return {name: row[name] for name in ("tp", "pp", "dp", "ep", "etp", "dcp")}


def fewest(rate: float, limits=None, gpus: int = 64, model=LLAMA, **more) -> mw.ServingPlanResult:
    asked = TIGHT if limits is None else limits
    return mw.plan(model, HGX, load(), gpus=gpus, request_rate=rate, **SHORT, **asked, **more)


# -- the fewest GPUs -------------------------------------------------------------------------------


def test_a_lower_rate_never_needs_more_gpus() -> None:
    sizes = [fewest(rate).fewest_gpus for rate in (2.0, 6.0, 12.0, 25.0, 50.0)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_tighter_limits_never_need_fewer_gpus() -> None:
    sizes = [fewest(20.0, {"tpot_s": {"p90": s}}).fewest_gpus for s in (0.05, 0.02, 0.014, 0.011)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    means = fewest(20.0, {"tpot_s": 0.014}).fewest_gpus
    assert means <= sizes[2] <= fewest(20.0, {"tpot_s": {"p99": 0.014}}).fewest_gpus


@pytest.mark.parametrize(
    ("name", "stack", "rate", "more"),
    [
        ("llama-3.1-8b", "vllm", 30.0, {}),
        ("mixtral-8x7b", "vllm", 8.0, {}),
        ("deepseek-v2-lite", "vllm", 20.0, {}),
        ("jamba-v0.1", "vllm", 4.0, {}),
        ("gpt-oss-20b", "sglang", 20.0, {}),
        ("Qwen/Qwen3-32B-FP8", "trtllm", 10.0, {}),
        ("gemma-2-9b", "sglang", 10.0, {"arrivals": "gamma:0.5", "seed": 3}),
    ],
)
def test_serve_says_the_same_and_one_replica_fewer_does_not_do(name, stack, rate, more) -> None:
    """Dense, mixtures of experts, latent attention, hybrid, quantised: one answer."""
    limits = {"ttft_s": {"p95": 1.0}, "tpot_s": {"p90": 0.03}}
    asked = {"request_rate": rate, "stack": stack, **SHORT, **limits, **more}
    plan = mw.plan(name, HGX, load(), gpus=32, **asked)
    best = plan.best
    assert best.simulated
    assert best.devices == plan.fewest_gpus
    one = mw.serve(name, HGX, load(), **asked, **degrees(best)).to_dict()
    for key in SAME:
        assert one[key] == pytest.approx(best[key], rel=1e-9), key
    assert one["misses"] == []
    assert one["goodput_tokens_per_s"] == pytest.approx(best.goodput_tokens_per_s)
    if best.dp == 1 or best.ep * best.etp > best.tp:
        return
    fewer = degrees(best) | {"dp": best.dp - 1}
    try:
        assert mw.serve(name, HGX, load(), **asked, **fewer).to_dict()["misses"]
    except mw.MeshwiseError as error:
        assert error.exit_code == 3


def test_all_that_is_simulated_is_what_serve_says() -> None:
    plan = fewest(30.0, gpus=16)
    rows = [row for row in plan.layouts if row.simulated]
    assert rows and all(row.devices >= plan.fewest_gpus for row in plan.layouts)
    for row in rows:
        one = mw.serve(LLAMA, HGX, load(), request_rate=30.0, **SHORT, **degrees(row)).to_dict()
        for key in SAME:
            assert one[key] == pytest.approx(row[key], rel=1e-9), key


def test_no_smaller_deployment_does_by_brute_force() -> None:
    """Every legal layout of fewer GPUs, simulated."""
    limits = {"ttft_s": {"p95": 0.5}, "tpot_s": {"p90": 0.016}}
    plan = fewest(12.0, limits)
    for gpus in range(1, plan.fewest_gpus):
        pinned = mw.plan(LLAMA, HGX, load(concurrency=64), gpus=gpus, top=1000)
        for row in pinned.layouts:
            try:
                one = mw.serve(
                    *(LLAMA, HGX, load()), request_rate=12.0, **SHORT, **limits, **degrees(row)
                )
            except mw.MeshwiseError:
                continue
            assert one.to_dict()["misses"], (gpus, degrees(row))


def test_requests_in_flight_in_place_of_a_rate() -> None:
    w = load(concurrency=96)
    limits = {"ttft_s": {"p95": 1.0}, "tpot_s": {"p90": 0.012}}
    plan = mw.plan(LLAMA, HGX, w, gpus=32, at_concurrency=True, **limits)
    best = plan.best
    one = mw.serve(LLAMA, HGX, w, **limits, **degrees(best)).to_dict()
    assert one["misses"] == []
    assert one["tokens_per_s"] == pytest.approx(best.tokens_per_s, rel=1e-9)
    fewer = degrees(best) | {"dp": best.dp - 1}
    assert best.dp > 1 and mw.serve(LLAMA, HGX, w, **limits, **fewer).to_dict()["misses"]
    assert plan.binds["code"] == "tpot"


def test_a_trace_is_served_by_the_fewest(tmp_path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(
        "\n".join(f"{i * 0.05},{500 + i % 7 * 100},{40 + i % 5 * 10}" for i in range(300))
    )
    limits = {"tpot_s": {"p90": 0.012}}
    plan = mw.plan(LLAMA, HGX, load(), gpus=16, arrivals=str(file), **limits)
    one = mw.serve(LLAMA, HGX, load(), arrivals=str(file), **limits, **degrees(plan.best)).to_dict()
    assert one["tpot_p90_s"] == pytest.approx(plan.best.tpot_p90_s, rel=1e-9)
    assert one["misses"] == []


def test_the_least_latency_takes_all_of_the_gpus() -> None:
    plan = fewest(10.0, gpus=8, objective="latency")
    assert plan.best.devices == 8
    assert plan.fewest_gpus is None
    shown = [row.request_s for row in plan.layouts if row.simulated]
    assert shown == sorted(shown)


def test_dollars_are_those_of_the_load() -> None:
    best = fewest(20.0, price_per_device_hour=2.0).best
    cost = 2.0 * best.devices / 3600.0 / best.tokens_per_s * 1e6
    assert best.dollars_per_million_tokens == pytest.approx(cost)
    one = mw.serve(
        *(LLAMA, HGX, load()),
        **{"request_rate": 20.0, "price_per_device_hour": 2.0, **SHORT, **degrees(best)},
    ).to_dict()
    assert one["dollars_per_million_tokens"] == pytest.approx(cost, rel=1e-9)


# -- nothing does ----------------------------------------------------------------------------------


def test_more_than_the_cluster_serves_is_said_with_what_it_would_take() -> None:
    plan = fewest(200.0, {"ttft_s": {"p95": 1.0}}, gpus=1)
    assert not plan.feasible
    assert plan.best is None
    assert 0.0 < plan.nearest["most_requests_per_s"] < 200.0
    assert plan.nearest["misses"][0]["factor"] > 1.0
    assert plan.binds["code"] == "gpus"
    assert plan.nearest_feasible[0]["value"] > 1
    assert "arrivals exceed" in plan.page().answer
    json.dumps(plan.to_dict(), allow_nan=False)


def test_limits_that_no_size_meets_have_their_nearest() -> None:
    for limits in ({"tpot_s": {"p90": 0.001}}, {"ttft_s": {"p50": 0.001}}, {"request_s": 0.01}):
        plan = fewest(5.0, limits, gpus=8)
        assert not plan.feasible
        missed = plan.nearest["misses"][0]
        assert missed["figure_s"] == pytest.approx(missed["factor"] * missed["limit_s"])
        assert missed["factor"] > 1.0
        assert plan.nearest["devices"] <= 8
        largest = mw.plan(LLAMA, HGX, load(), gpus=8, **limits)
        assert not largest.feasible
        assert largest.nearest["misses"][0]["factor"] > 1.0


# -- the largest load ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits", [{"tpot_s": 0.012}, {"ttft_s": {"p95": 0.4}, "tpot_s": {"p90": 0.012}}]
)
def test_the_most_in_flight_meets_the_limits_and_more_does_not(limits) -> None:
    plan = mw.plan(LLAMA, HGX, load(concurrency=1), gpus=2, **limits)
    best = plan.best
    one = mw.serve(LLAMA, HGX, load(concurrency=best.concurrency), **limits, **degrees(best))
    assert one.to_dict()["misses"] == []
    assert one.tpot_s == pytest.approx(best.tpot_s, rel=1e-9)
    more = best.concurrency + best.dp * max(best.concurrency // best.dp // 100, 1)
    beyond = mw.serve(LLAMA, HGX, load(concurrency=more), **limits, **degrees(best))
    assert beyond.to_dict()["misses"]
    assert plan.binds["limit_s"] in plan.limits.values()


def test_the_highest_rate_meets_the_limits() -> None:
    limits = {"ttft_s": {"p95": 0.4}, "tpot_s": {"p90": 0.012}}
    asked = {"arrivals": "gamma:0.5", **SHORT, **limits}
    plan = mw.plan(LLAMA, HGX, load(), gpus=2, **asked)
    best = plan.best
    rate = best.request_rate
    one = mw.serve(LLAMA, HGX, load(), request_rate=rate, **asked, **degrees(best)).to_dict()
    assert one["misses"] == []
    assert one["ttft_p95_s"] == pytest.approx(best.ttft_p95_s, rel=1e-9)
    more = mw.serve(LLAMA, HGX, load(), request_rate=1.1 * rate, **asked, **degrees(best)).to_dict()
    assert more["misses"]


def test_looser_limits_allow_more() -> None:
    flights = [
        mw.plan(LLAMA, HGX, load(concurrency=1), gpus=1, tpot_s={"p90": s}).best.concurrency
        for s in (0.010, 0.014, 0.02, 0.03)
    ]
    assert flights == sorted(flights)


def used_by(of):
    """Trials whose use of the limits is a function of the number."""
    return lambda number, few: Trial(None, number, None, of(number, few), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("start", "last"), [*itertools.product((1, 7, 40, 90), (1, 3, 39, 63, 99, 200))]
)
def test_the_largest_that_is_met_is_found(start, last) -> None:
    """Also where short runs say a little more, or a little less."""
    for wrong in (0.95, 1.0, 1.05):
        of = used_by(
            lambda n, few, wrong=wrong: (n / (last + 0.5)) ** 0.7 * (wrong if few else 1.0)
        )
        found = largest_met(of, start, 99)
        assert found is not None
        assert found.met.concurrency == min(last, 99)
        assert (found.beyond is None) == (last >= 99)
    assert largest_met(used_by(lambda n, few: 2.0), start, 99) is None


# -- figures ---------------------------------------------------------------------------------------


def test_percentiles_rise_and_are_those_of_the_requests() -> None:
    result = mw.serve(LLAMA, HGX, load(), request_rate=10.0, tp=1, **SHORT)
    figures = result.simulated.steady
    for quantity in ("ttft", "tpot", "request"):
        found = [
            figure_s(figures, LatencyLimit(quantity, p, 1.0)) for p in (1, 25, 50, 90, 95, 99, 99.9)
        ]
        assert found == sorted(found)
        spread = getattr(figures, f"{quantity}_s")
        assert found[2:6] == pytest.approx([spread.p50, spread.p90, spread.p95, spread.p99])


def test_goodput_counts_requests_within_every_limit() -> None:
    result = mw.serve(LLAMA, HGX, load(), request_rate=10.0, tp=1, **SHORT)
    figures = result.simulated.steady
    s = figures.samples
    limits = (
        LatencyLimit("ttft", 95.0, float(np.median(s.ttft_s))),
        LatencyLimit("tpot", 50.0, float(np.percentile(s.tpot_s, 80))),
    )
    good = (s.ttft_s <= limits[0].seconds) & (s.tpot_s <= limits[1].seconds)
    found = good_shares(figures, limits)
    assert found.requests == pytest.approx(good.mean())
    assert found.tokens == pytest.approx(s.answer[good].sum() / s.answer.sum())
    assert good_shares(figures, (LatencyLimit("ttft", None, 1e-6),)).requests == 0.0
    assert good_shares(figures, ()).requests == 1.0


def test_samples_are_equal_where_their_requests_are() -> None:
    a, b = (Samples(np.ones(3), np.ones(3), np.full(3, n), np.ones(3)) for n in (1.0, 2.0))
    assert a == a.later(0.0)
    assert a != b
    assert a.later(1.0).ttft_s.tolist() == [2.0] * 3


def test_limits_are_read_alike_from_words_and_numbers() -> None:
    words = limits_in_words("p50=300ms, p95=1s", "ttft", "ttft_s", usual="s", example="1 s")
    assert words == limits_of({"p50": 0.3, "p95": 1.0}, "ttft", "ttft_s")
    assert limits_of(0.5, "tpot", "tpot_s") == (LatencyLimit("tpot", None, 0.5),)
    assert [limit.name for limit in words] == ["ttft_p50", "ttft_p95"]
    means = ServingAsked((*words, *limits_of(0.5, "tpot", "tpot_s"))).means
    assert (means.ttft_s, means.tpot_s, means.request_s) == (0.3, 0.5, None)


@pytest.mark.parametrize("lines", [1, 50], ids=["one request", "fifty at once"])
@pytest.mark.parametrize("objective", ["throughput", "latency"])
def test_a_trace_of_one_time_is_served(tmp_path, lines, objective) -> None:
    """It has no rate, and ends: the smallest layout that keeps the limits does."""
    path = tmp_path / "trace.csv"
    path.write_text("0,500,100\n" * lines)
    sent = load(1, 1, 256)
    asked = {"arrivals": str(path), "gpus": 8, "objective": objective}
    found = mw.plan(LLAMA, HGX, sent, **asked).to_dict()
    assert found["best"]["devices"] == (8 if objective == "latency" else 1)
    assert found["workload"]["request_rate"] is None
    assert all(row["concurrency"] <= max(lines, row["dp"]) for row in found["layouts"])
    if objective == "throughput" and lines > 1:
        tight = mw.plan(LLAMA, HGX, sent, ttft_s=0.2, **asked).to_dict()
        assert 1 < tight["best"]["devices"] <= 8
        assert tight["best"]["ttft_s"] <= 0.2


def test_a_figure_of_saturation_is_of_the_layout_that_is_named() -> None:
    node = mw.cluster("hgx-h100", nodes=1)
    found = mw.plan(LLAMA, node, load(), request_rate=1000.0, ttft_s=0.5, **SHORT).to_dict()
    near = found["nearest"]
    assert found["best"] is None
    alone = {"request_rate": 1.3 * near["most_requests_per_s"], "requests": 3000}
    with pytest.raises(Overloaded) as error:
        mw.serve(LLAMA, node, load(), **alone, **degrees(near))
    assert error.value.nearest == pytest.approx(0.95 * near["most_requests_per_s"], rel=0.02)


def test_memory_binds_only_where_nothing_smaller_holds_a_request() -> None:
    model = mw.model("llama-3.1-70b")
    sent = mw.Serving(isl=2048, osl=256, concurrency=MOST)
    found = mw.plan(model, HGX, sent, gpus=64, request_rate=2.0, **SHORT).to_dict()
    assert found["best"]["devices"] == 3
    assert (found["binds"]["code"], found["binds"]["devices"]) == ("saturation", 2)


def test_what_is_said_of_other_layouts_does_not_change_with_how_many_are_shown() -> None:
    said = [fewest(150.0, top=top, gpus=16).to_dict() for top in (1, 4, 30)]
    assert [len(d["layouts"]) <= top for d, top in zip(said, (1, 4, 30), strict=True)] == [True] * 3
    for key in ("rule_of_thumb", "rivals", "best"):
        assert said[0][key] == said[1][key] == said[2][key]


# -- what comes nearest, and what is averaged ------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "cluster", "limits"),
    [
        deep("gpt-oss-120b", "hgx-b200", {"ttft_s": {"p99": 2.0}, "tpot_s": {"p99": 0.010}}),
        ("deepseek-v3", "hgx-h200", {"tpot_s": 0.040}),
    ],
)
def test_the_nearest_misses_by_no_more_than_other_layouts(model, cluster, limits) -> None:
    w = load(2048, 512, 128)
    node = mw.cluster(cluster, nodes=1)
    near = mw.plan(model, node, w, at_concurrency=True, **limits).nearest
    factor = near["misses"][0]["factor"]
    looked = 0
    # experts of their replicas and across them, replicas and none
    for one in ({"dp": 8}, {"dp": 8, "ep": 8}, {"tp": 2, "dp": 4, "ep": 8}, {"tp": 8, "ep": 8}):
        try:
            other = mw.serve(model, node, w, **limits, **one).to_dict()
        except mw.MeshwiseError:  # it does not fit
            continue
        looked += 1
        assert other["misses"][0]["factor"] >= factor * (1.0 - 1e-9), one
    assert looked >= 2


def test_the_nearest_of_the_largest_load_misses_by_the_least_of_one_request() -> None:
    node = mw.cluster("hgx-h100", nodes=1)
    near = mw.plan(LLAMA, node, load(), tpot_s={"p99": 0.002}).nearest
    for one in ({"tp": 8}, {"tp": 4, "dp": 2}, {"dp": 8}):
        w = load(concurrency=one.get("dp", 1))
        other = mw.serve(LLAMA, node, w, tpot_s={"p99": 0.002}, **one).to_dict()
        assert other["misses"][0]["factor"] >= near["misses"][0]["factor"] * (1.0 - 1e-9)


@pytest.mark.parametrize("objective", ["throughput", "latency"])
@pytest.mark.parametrize("traced", [False, True])
def test_averages_beside_runs_of_arrivals_are_at_the_rate(tmp_path, traced, objective) -> None:
    """Tokens/s those that arrive, in flight what Little's law has of them; a layout stands once."""
    tokens, asked = 20.0 * 230, {"request_rate": 20.0}
    if traced:  # answers of the longest are five times those of the mean
        path = tmp_path / "trace.csv"
        lengths = [(100, 20), (400, 60), (900, 120), (2000, 400)]
        lines = [(0.05 * i, *lengths[i % 4]) for i in range(401)]
        path.write_text("\n".join(f"{t:.3f},{a},{b}" for t, a, b in lines))
        tokens, asked = 20.0 * 149, {"arrivals": str(path)}
    limits = {"ttft_s": {"p95": 0.5}, "tpot_s": 0.03}
    found = mw.plan(
        *(LLAMA, HGX, load(1024, 256)), gpus=8, top=30, objective=objective, **asked, **limits
    ).to_dict()
    rows = found["layouts"]
    assert len({tuple(degrees(row).items()) for row in rows}) == len(rows)
    averaged = [row for row in rows if not row["simulated"]]
    assert averaged
    for row in (*averaged, *(r for r in found["rivals"] if not r["simulated"])):
        assert row["tokens_per_s"] == pytest.approx(tokens, rel=0.01)
        assert row["concurrency"] >= row["dp"]
        inside = row["requests_per_s"] * row["request_s"]
        assert inside - 1e-6 <= row["concurrency"] <= max(inside + 1.0, row["dp"])
        assert row["tpot_s"] <= 0.03


def test_by_averages_more_replicas_are_faster_at_a_rate_and_too_few_do_not_fit() -> None:
    w = load(1024, 256)
    coming = Arrivals(30.0)
    trials = Trials(LLAMA, HGX, mw.stack("vllm"), w, SentLoad(coming))
    layouts = columns([Layout(dp=dp) for dp in range(1, 17)])
    table = at_the_rate(trials, layouts, coming)
    s = table.steady
    assert s.fits[1:].all()
    assert (np.diff(s.tpot_s) <= 1e-12).all() and s.tpot_s[15] < 0.8 * s.tpot_s[1]
    assert (np.diff(s.ttft_s[1:]) <= 1e-12).all()
    assert s.requests_per_s[1:] == pytest.approx(30.0)
    flood = at_the_rate(trials, layouts, coming._replace(rate=300.0)).steady
    assert not flood.fits[0] and flood.requests_per_s[0] < 300.0


@pytest.mark.parametrize("objective", ["throughput", "latency"])
def test_a_pinned_number_of_replicas_is_that_of_every_row(objective) -> None:
    asked = {"tp": 1, "dp": 2, "gpus": 8, "top": 30}
    if objective == "latency":
        asked = {"dp": 2, "gpus": 8, "top": 30}
    found = fewest(20.0, {"tpot_s": 0.03}, objective=objective, **asked).to_dict()
    rows = [*found["layouts"], *found["rivals"], found["rule_of_thumb"] or found["best"]]
    assert {row["dp"] for row in rows} == {2}
    either = fewest(20.0, {"tpot_s": 0.03}, tp=1, dp=[2, 4], gpus=8, top=30).to_dict()
    assert {row["dp"] for row in either["layouts"]} <= {2, 4}


def test_goodput_is_said_to_be_of_a_gpu() -> None:
    plan = fewest(20.0)
    best = plan.best
    share = best.goodput_requests_per_s_per_device
    words = " ".join(str(plan.page().parts[1]).split())
    assert f"Goodput per GPU {share:.3g} requests/s and" in words


def test_a_trace_of_mostly_short_prompts_is_not_refused_by_its_longest():
    """A layout that misses a limit with the longest lengths, and even with the mean ones."""
    few = Trace("mixed", tuple(np.arange(10.0)), (100,) * 8 + (16_000,) * 2, (20,) * 10, False)
    model, node = mw.model("llama-3.1-70b"), mw.cluster("hgx-h100", nodes=1)
    stack = mw.stack("vllm")
    w = mw.Serving(isl=16_000, osl=20, concurrency=10)
    units = replicated(model, node, stack, 8, {"tp": (8,), "pp": (1,)})
    limits = Limits(ttft_s=0.2)
    by_trace = looked_at(units, model, node, stack, w, limits, Arrivals(few.rate, trace=few))
    assert (by_trace.batch >= 1).any()
    assert not (looked_at(units, model, node, stack, w, limits).batch >= 1).any()
