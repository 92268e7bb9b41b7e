"""Sweeps: values equal single runs, and what is solved for satisfies its equation."""

from __future__ import annotations

import itertools
import math

import msgspec
import pytest

import meshwise as mw
from meshwise.errors import InputError
from meshwise.search.tp_curve.sweep import _Solver, quantities, read_sweep
from meshwise.stacks.load import load_stack

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


@pytest.mark.parametrize("threshold", [0.93, 0.95, 0.97])
def test_ideal_doubling_inside_a_node_in_closed_form(threshold: float) -> None:
    """T(N) = C/N + W(N)/BW, so that T(4) = 2·θ·T(8) at BW = (2·θ·W(8) − W(4)) / (C/4 − 2·θ·C/8).

    C is (24·B·S·H² + 4·B·S²·H)/peak a layer, W two all-reduces a layer of 2·(N−1)/N of B·S·H·2 bytes;
    what the ends of the model add (head, embedding) is read off.
    """
    work = mw.Prefill(batch=32, seq=2048)
    swept = mw.sweep(
        *(GPT, DGX, work, "intra.bandwidth=20GB/s:3000GB/s"),
        stack="ideal",
        tp=[8],
        limit_threshold=threshold,
    ).to_dict()
    solved = next(b for b in swept["break_evens"] if b["question"] == "marginal_efficiency")
    tokens, h, layers, peak = 32 * 2048, 12288, 96, 312e12
    points = {p.tp: p for p in mw.scale(GPT, DGX, work, stack="ideal", tp=[4, 8]).points}
    by_hand = layers * (24 * tokens * h**2 + 4 * tokens * 2048 * h) / peak
    compute = {tp: points[tp].compute_s for tp in (4, 8)}
    assert all(c == pytest.approx(by_hand / tp, rel=0.01) for tp, c in compute.items())
    wire = {tp: points[tp].wire_bytes[0] for tp in (4, 8)}
    for tp, sent in wire.items():
        assert sent == pytest.approx(layers * 2 * 2 * (tp - 1) / tp * tokens * h * 2, rel=0.02)
    value = (2 * threshold * wire[8] - wire[4]) / (compute[4] - 2 * threshold * compute[8])
    assert solved["value"] == pytest.approx(value, rel=1e-3)


def test_ccr_of_a_layer_at_swept_bandwidths() -> None:
    """CCR(N) = BW·(24H + 4S) / (4·b·(N−1)·FLOPS), forward, at ideal rates: 36, 12, 5.2 at 300 GB/s."""
    work = mw.Prefill(batch=32, seq=2048)
    swept = mw.sweep(
        GPT, DGX, work, "intra.bandwidth=150GB/s,300GB/s,600GB/s", stack="ideal", tp=[2, 4, 8]
    ).to_dict()
    for entry in swept["values"]:
        for p in entry["points"]:
            ccr = entry["value"] * (24 * 12288 + 4 * 2048) / (4 * 2 * (p["tp"] - 1) * 312e12)
            assert p["layer"]["ccr"] == pytest.approx(ccr, rel=1e-6)
    at_300 = [p["layer"]["ccr"] for p in swept["values"][1]["points"]]
    assert at_300 == [pytest.approx(v, rel=0.02) for v in (36, 12, 5.2)]


def test_every_crossing_is_found_in_order() -> None:
    """sin(π·log₂ v) + 0.1 changes its sign six times between 1 and 100."""
    quantity = quantities(DGX, TRAIN)["inter.bandwidth"]
    solver = _Solver(GPT, load_stack("ideal"), quantity, [(8, 16)], False)

    def margin(v: float) -> float:
        return math.sin(math.pi * math.log2(v)) + 0.1

    grid = [100 ** (i / 32) for i in range(33)]
    found = solver._crossings(margin, grid)
    assert [direction for _, direction in found] == ["below", "above"] * 3
    values = [value for value, _ in found if value is not None]
    assert values == sorted(values)
    shift = math.asin(0.1) / math.pi
    wanted = [2 ** (k + shift if k % 2 else k - shift) for k in range(1, 7)]
    assert values == [pytest.approx(v, rel=1e-4) for v in wanted]


def test_doublings_are_from_half_of_each_degree() -> None:
    """As in the marginal efficiency of the curve, whatever degrees are shown."""
    for shown in ([16], [8, 16], [1, 16]):
        swept = mw.sweep(GPT, DGX, TRAIN, "inter.bandwidth=1GB/s:400GB/s", tp=shown).to_dict()
        mine = [b for b in swept["break_evens"] if b["tp"] == 16]
        assert [b["from_tp"] for b in mine] == [8, 8]
        assert mine[0]["found"]
        point = mw.scale(GPT, at_bandwidth(mine[0]["value"]), TRAIN, tp=[16]).points[0]
        assert point.marginal_efficiency == pytest.approx(0.8, rel=1e-3)


def test_break_even_agrees_with_the_limit_where_degrees_are_no_doublings() -> None:
    """25 heads: 1, 5, 25. The limit is what the scores of the solved values say it is."""
    gpt2 = mw.model("gpt2-xl")
    work = mw.Training(batch=8, seq=1024)
    swept = mw.sweep(gpt2, DGX, work, "device.flops=10TFLOP/s:312TFLOP/s").to_dict()
    solved = [b for b in swept["break_evens"] if b["question"] == "marginal_efficiency"]
    assert [(b["from_tp"], b["tp"]) for b in solved] == [(1, 5), (5, 25)]
    first = solved[0]
    assert first["found"] and first["direction"] == "below"
    for entry in swept["values"]:
        assert (entry["limit"]["tp"] > 1) == (entry["value"] < first["value"])


def test_micro_batches_are_divisors_of_the_batch() -> None:
    work = mw.Training(batch=24, seq=2048)
    swept = mw.sweep(GPT, DGX, work, "micro_batch=1:24:20", tp=[1, 8]).to_dict()
    assert [v["value"] for v in swept["values"]] == [1, 2, 3, 4, 6, 8, 12, 24]
    for entry in swept["values"]:
        alone = msgspec.structs.replace(work, micro_batch=int(entry["value"]))
        assert entry["points"] == mw.scale(GPT, DGX, alone, tp=[1, 8]).to_dict()["points"]


def test_micro_batch_is_solved_among_the_divisors() -> None:
    """TP=4 → 8 begins to pay at a divisor whose neighbour below does not."""
    work = mw.Training(batch=24, seq=256)
    points = {}
    for micro in (1, 2, 3, 4, 6, 8, 12, 24):
        job = msgspec.structs.replace(work, micro_batch=micro)
        (p,) = mw.scale(GPT, DGX, job, tp=[8]).points
        points[micro] = p.marginal_efficiency or 0.0
    asked = (points[3] + points[4]) / 2
    swept = mw.sweep(GPT, DGX, work, "micro_batch=1:24", tp=[8], limit_threshold=asked).to_dict()
    crossings = [b for b in swept["break_evens"] if b["question"] == "marginal_efficiency"]
    pays = {m: score >= asked for m, score in points.items()}
    order = list(points)
    changes = [
        (b if pays[b] else a, "above" if pays[b] else "below")
        for a, b in itertools.pairwise(order)
        if pays[a] != pays[b]
    ]
    assert changes
    assert [(b["value"], b["direction"]) for b in crossings] == changes


def test_levels_that_share_a_name_and_several_networks() -> None:
    """Unnamed levels are all called cluster: they are addressed by their place; NICs are set in all."""
    network = msgspec.structs.replace(DGX.levels[-1], ranks=4)
    two = msgspec.structs.replace(DGX, levels=(*DGX.levels[:-1], network, network))
    known = quantities(two, TRAIN)
    assert "cluster.bandwidth" not in known
    for name, index in (("level[1]", 1), ("level[2]", 2), ("inter", 1), ("intra", 0)):
        where, _ = known[f"{name}.bandwidth"].apply(7e9)
        changed = [lv.bandwidth_bytes_per_s == 7e9 for lv in where.levels]
        assert changed == [i == index for i in range(3)]
    where, _ = known["nics"].apply(2)
    assert [lv.nics for lv in where.levels] == [None, 2, 2]


def test_a_list_has_an_end() -> None:
    with pytest.raises(InputError, match="above 200"):
        mw.sweep(GPT, DGX, TRAIN, "batch=" + ",".join(str(n) for n in range(1, 202)))


def test_one_degree_or_one_value_is_said() -> None:
    one = mw.sweep(GPT, DGX, TRAIN, "batch=1:8", tp=[1])
    assert one.to_dict()["break_evens"] == []
    assert "one degree alone" in str(one)
    assert "One value of batch" in str(mw.sweep(GPT, DGX, TRAIN, "batch=8"))


def test_numbers_are_solved_to_the_smallest_that_pays() -> None:
    qwen, hgx = mw.model("qwen2.5-32b"), mw.cluster("hgx-h100")
    work = mw.Decode(batch=1, context=4096)
    swept = mw.sweep(qwen, hgx, work, "batch=1:512").to_dict()
    solved = [b for b in swept["break_evens"] if b["found"]]
    assert solved
    for b in solved:
        assert b["value"] == int(b["value"])
        scores = []
        for batch in (int(b["value"]) - 1, int(b["value"]), int(b["value"]) + 1):
            points = mw.scale(qwen, hgx, mw.Decode(batch=batch, context=4096)).points
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
        low, high = values.get(quantity.unit, ("2", "32"))
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
