"""Sweeps: values equal single runs, and what is solved for satisfies its equation."""

from __future__ import annotations

import msgspec
import pytest

import meshwise as mw
from meshwise.search.sweep import quantities, read_sweep

GPT = mw.model("gpt3-175b")
DGX = mw.cluster("dgx-a100")
TRAIN = mw.Training(batch=32, seq=2048)


def at_bandwidth(value: float) -> mw.Cluster:
    outer = msgspec.structs.replace(DGX.levels[-1], bandwidth_bytes_per_s=value)
    return msgspec.structs.replace(DGX, levels=(*DGX.levels[:-1], outer))


def test_values_equal_single_runs() -> None:
    swept = mw.sweep(GPT, DGX, TRAIN, "inter.bandwidth=10GB/s:200GB/s:4").to_dict()
    assert [v["value"] for v in swept["values"]][0::3] == [10e9, 200e9]
    for entry in swept["values"]:
        alone = mw.scale(GPT, at_bandwidth(entry["value"]), TRAIN).to_dict()
        assert entry["points"] == alone["points"]
        assert entry["limit"] == alone["limit"]


@pytest.mark.parametrize("stack", [None, "ideal"])
def test_solved_bandwidths_satisfy_their_equation(stack: str | None) -> None:
    """At a break-even the doubling's marginal efficiency is the threshold, on either side of it not."""
    swept = mw.sweep(GPT, DGX, TRAIN, "inter.bandwidth=1GB/s:400GB/s", stack=stack).to_dict()
    solved = [b for b in swept["break_evens"] if b["found"]]
    assert {b["question"] for b in solved} == {"marginal_efficiency", "faster"}
    for b in solved:

        def score(value: float, b: dict[str, object] = b) -> float:
            points = mw.scale(GPT, at_bandwidth(value), TRAIN, stack=stack).points
            at = {p.tp: p.step_s for p in points}
            if b["question"] == "faster":
                return at[b["from_tp"]] / at[b["tp"]]
            return at[b["from_tp"]] * b["from_tp"] / (at[b["tp"]] * b["tp"])

        wanted = b["threshold"]
        assert score(b["value"]) == pytest.approx(wanted, rel=1e-3)
        above, below = score(b["value"] * 1.01), score(b["value"] * 0.99)
        assert above >= below
        assert b["direction"] == "above"


def test_ideal_break_even_in_closed_form() -> None:
    """Ideal rates, TP=8 → 16 over the NICs: what 16 ranks send beside compute C/16, solved by hand."""
    swept = mw.sweep(GPT, DGX, TRAIN, "inter.bandwidth=1GB/s:400GB/s", stack="ideal", tp=[8, 16])
    found = {(b["question"], b["tp"]): b for b in swept.to_dict()["break_evens"] if b["found"]}
    value = found["faster", 16]["value"]
    points = {p.tp: p for p in mw.scale(GPT, at_bandwidth(value), TRAIN, stack="ideal").points}
    # hierarchical: a rank's bytes inside at NVLink's rate, then across at its own of eight NICs
    inside, across = points[16].wire_bytes
    comm = inside / 300e9 + across / value
    assert points[16].exposed_comm_s == pytest.approx(comm, rel=1e-6)
    assert points[16].step_s == pytest.approx(points[8].step_s, rel=2e-4)


def test_numbers_are_solved_to_the_smallest_that_pays() -> None:
    llama, hgx = mw.model("llama-3.1-70b"), mw.cluster("hgx-h100")
    work = mw.Decode(batch=1, context=4096)
    swept = mw.sweep(llama, hgx, work, "batch=1:512").to_dict()
    solved = [b for b in swept["break_evens"] if b["found"]]
    assert solved
    for b in solved:
        assert b["value"] == int(b["value"])
        scores = []
        for batch in (int(b["value"]) - 1, int(b["value"]), int(b["value"]) + 1):
            points = mw.scale(llama, hgx, mw.Decode(batch=batch, context=4096)).points
            at = {p.tp: p.step_s for p in points}
            score = at[b["from_tp"]] / at[b["tp"]]
            if b["question"] == "marginal_efficiency":
                score *= b["from_tp"] / b["tp"]
            scores.append(score >= b["threshold"])
        assert scores[1] is True
        assert scores[0] is not scores[1] or scores[2] is not scores[1]


def test_a_faster_link_never_lowers_the_limit() -> None:
    swept = mw.sweep(GPT, DGX, TRAIN, "inter.bandwidth=1GB/s:400GB/s:9").to_dict()
    limits = [v["limit"]["tp"] for v in swept["values"]]
    assert limits == sorted(limits)
    assert limits[0] < limits[-1]


def test_every_quantity_changes_the_answer() -> None:
    values = {"B/s": ("1GB/s", "900GB/s"), "s": ("1us", "90us"), "FLOP/s": ("1TFLOP/s", "9PFLOP/s")}
    for name, quantity in quantities(DGX, TRAIN).items():
        low, high = values.get(quantity.unit, ("2", "64"))
        _, (first, *_, last) = read_sweep(f"{name}={low}:{high}", {name: quantity})
        steps = []
        for value in (first, last):
            cluster, work = quantity.apply(value)
            steps.append([p.step_s for p in mw.scale(GPT, cluster, work).points])
        assert steps[0] != steps[1], name


def test_growth_strong_and_weak() -> None:
    work = mw.Training(batch=128, seq=2048)
    strong = mw.grow(GPT, DGX, work, [64, 128, 256]).to_dict()
    assert strong["mode"] == "strong"
    points = strong["points"]
    assert [p["global_batch"] for p in points] == [128] * 3
    steps = [p["step_s"] for p in points]
    assert steps == sorted(steps, reverse=True)
    assert points[0]["efficiency"] == 1.0
    for p in points:
        assert p["efficiency"] == pytest.approx(p["speedup"] * 64 / p["gpus"])
        best = mw.plan(GPT, DGX, work, gpus=p["gpus"]).best
        assert best is not None
        assert p["step_s"] == pytest.approx(best["step_s"], rel=1e-12)
    weak = mw.grow(GPT, DGX, work, [64, 128, 256], weak=True).to_dict()
    assert [p["global_batch"] for p in weak["points"]] == [128, 256, 512]
    assert weak["points"][-1]["efficiency"] > points[-1]["efficiency"]
