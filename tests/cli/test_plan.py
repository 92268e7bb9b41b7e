"""``meshwise plan`` for training: the contract, its identities, and what bad input gets."""

from __future__ import annotations

import math

import pytest
from running import answer, refusal, run

import meshwise as mw
from meshwise.answers.plan import REFUSED_TRAINING
from meshwise.search.training import prices as price_space
from meshwise.search.training.space import TRAINING_REFUSALS

GPT = (
    "plan",
    "gpt3-175b",
    "--on",
    "dgx-a100",
    "--gpus",
    "64",
    "--global-batch",
    "64",
    "--seq",
    "2048",
)
MIX = (
    "plan",
    "mixtral-8x7b",
    "--on",
    "hgx-h100",
    "--gpus",
    "16",
    "--global-batch",
    "32",
    "--seq",
    "4096",
)
LAYOUT = {
    "tp": int,
    "pp": int,
    "vp": int,
    "dp": int,
    "cp": int,
    "ep": int,
    "etp": int,
    "micro_batch": int,
    "sequence_parallel": bool,
    "recompute": str,
    "shard": str,
    "placement": str,
}


@pytest.fixture(scope="module", params=[GPT, MIX], ids=["dense", "experts"])
def plan(request):
    return answer(*request.param)


def test_contract(plan) -> None:
    assert plan["schema"] == 1
    assert plan["partial"] is False
    assert plan["elapsed_s"] > 0
    for row in [plan["best"], *plan["layouts"], *plan["pareto"], plan["rule_of_thumb"]]:
        for key, kind in LAYOUT.items():
            assert type(row[key]) is kind, key
        assert row["tp"] * row["pp"] * row["dp"] * row["cp"] == plan["gpus"] == row["devices"]
        assert row["step_low_s"] < row["step_s"] < row["step_high_s"]
        assert 0 < row["mfu"] < 1
        assert row["fits"] is True
        parts = row["compute_s"] + row["exposed_comm_s"] + row["bubble_s"] + row["host_s"]
        assert row["step_s"] == pytest.approx(parts, rel=1e-12)
        by_axis = sum(row["exposed_comm_by_axis_s"].values())
        assert by_axis == pytest.approx(row["exposed_comm_s"], rel=1e-9)
    assert plan["best"] == plan["layouts"][0]
    steps = [row["step_s"] for row in plan["layouts"]]
    assert steps == sorted(steps)
    counts = plan["counts"]
    assert counts["enumerated"] == counts["feasible"] + sum(counts["refused"].values())
    assert set(counts["refused"]) <= set(TRAINING_REFUSALS)


def test_every_rule_has_a_sentence() -> None:
    assert set(REFUSED_TRAINING) == set(TRAINING_REFUSALS)


def test_the_best_layout_is_what_estimate_says(plan) -> None:
    """The plan's row and one estimate of the same layout have the same figures."""
    best = plan["best"]
    batch, seq = plan["workload"]["batch"], plan["workload"]["seq"]
    workload = mw.Training(batch=batch, seq=seq, recompute=best["recompute"])
    one = mw.estimate(
        plan["model"],
        mw.cluster("dgx-a100" if "gpt3" in plan["model"] else "hgx-h100"),
        workload,
        **{k: best[k] for k in ("tp", "pp", "vp", "dp", "cp", "ep", "etp", "micro_batch")},
        sequence_parallel=best["sequence_parallel"],
        shard=best["shard"],
    ).to_dict()
    assert one["memory_bytes"] == pytest.approx(best["memory_bytes"], rel=1e-12)
    assert (
        one["bubble_s"] == pytest.approx(best["bubble_s"], rel=1e-12) or best["overlap"] != "none"
    )
    if best["overlap"] == "none":
        assert one["step_s"] == pytest.approx(best["step_s"], rel=1e-12)
        assert one["mfu"] == pytest.approx(best["mfu"], rel=1e-9)
    else:
        assert one["step_s"] >= best["step_s"]


def test_pins_are_kept() -> None:
    d = answer(*GPT, "--tp", "4,8", "--pp", "8", "--micro-batch", "1", "--recompute", "full")
    for row in d["layouts"]:
        assert row["tp"] in (4, 8)
        assert (row["pp"], row["micro_batch"], row["recompute"]) == (8, 1, "full")
    assert d["pinned"] == {"tp": [4, 8], "pp": [8], "micro_batch": [1], "recompute": ["full"]}


def test_switches_as_pins() -> None:
    d = answer(*GPT, "--sequence-parallel", "false", "--shard", "zero1", "--overlap", "none")
    assert all(not r["sequence_parallel"] and r["overlap"] == "none" for r in d["layouts"])
    d = answer(*GPT, "--placement", "tp-cp-pp-dp", "--cp", "1")
    assert {r["placement"] for r in d["layouts"]} == {"tp-cp-pp-dp"}
    d = answer(*GPT, "--overlap", "split", "--tp", "8", "--top", "3")
    assert len(d["layouts"]) == 3
    assert {r["overlap"] for r in d["layouts"]} == {"split"}


def test_free_numerics_are_looked_at_only_when_asked() -> None:
    plain = answer(*MIX, "--top", "40")
    assert all("dtype" not in row for row in plain["layouts"])
    free = answer(*MIX, "--free", "dtype,comm-dtype", "--top", "40")
    assert {row.get("dtype") for row in free["layouts"]} >= {"fp8"}
    assert free["best"]["step_s"] < plain["best"]["step_s"]


def test_price() -> None:
    d = answer(*GPT, "--price", "2", "--objective", "cost")
    best = d["best"]
    assert best["dollars_per_step"] == pytest.approx(2 * 64 * best["step_s"] / 3600)
    tokens = 64 * 2048
    per_billion = best["dollars_per_step"] / tokens * 1e9
    assert best["dollars_per_billion_tokens"] == pytest.approx(per_billion)


def test_csv_has_the_layouts() -> None:
    lines = run(*GPT, "--csv", "--top", "4").out.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("tp,pp,vp,dp,cp,ep,etp,dcp,micro_batch")


def test_page_tells_the_reasons() -> None:
    text = run(*GPT, "--detail").out
    for words in ("Best", "Rule of thumb", "Nearest rivals", "layouts looked at", "do not fit"):
        assert words in text


def test_nothing_fits() -> None:
    argv = ("plan", "gpt3-175b", "--on", "dgx-a100", "--gpus", "8", "--global-batch", "64")
    ran = run(*argv, "--seq", "2048")
    assert ran.code == 3
    assert "No layout is feasible" in ran.out
    d = run(*argv, "--seq", "2048", "--json")
    assert d.code == 3
    record = d.json()
    assert record["best"] is None
    changes = {c["code"]: c for c in record["nearest_feasible"]}
    assert changes["gpus"]["value"] % 8 == 0
    assert changes["gpus"]["best"]["step_s"] > 0
    assert changes["device_memory"]["value"] > 80e9
    more = answer(*argv[:4], "--gpus", str(changes["gpus"]["value"]), *argv[6:], "--seq", "2048")
    assert more["best"] is not None


def test_a_pin_that_makes_it_impossible_is_named() -> None:
    d = run(*GPT, "--recompute", "none", "--shard", "none", "--tp", "1", "--json")
    assert d.code == 3
    codes = [c["code"] for c in d.json()["nearest_feasible"]]
    assert any(code.startswith("free_") for code in codes)


def test_a_preset_grows_to_the_gpus_asked_for() -> None:
    d = answer(
        "plan",
        "llama-2-7b",
        "--on",
        "dgx-a100",
        "--gpus",
        "512",
        "--global-batch",
        "512",
        "--seq",
        "4096",
    )
    assert d["gpus"] == 512
    assert math.prod(level["ranks"] for level in d["cluster"]["levels"]) >= 512


@pytest.mark.parametrize(
    ("argv", "field"),
    [
        (("--gpus", "0"), "--gpus"),
        (("--gpus", "-8"), "--gpus"),
        (("--gpus", "1000000000"), "--gpus"),
        (("--gpus", "eight"), "--gpus"),
        (("--gpus", "4", "--tp", "8"), "--tp"),
        (("--tp", "5"), "--tp"),
        (("--tp", "8", "--pp", "3"), "--pp"),
        (("--dp", "7"), "--dp"),
        (("--tp", "8,"), "--tp"),
        (("--tp", ""), "--tp"),
        (("--cp", "3"), "--cp"),
        (("--pp", "0"), "--pp"),
        (("--micro-batch", "5"), "--micro-batch"),
        (("--ep", "8"), "--ep"),
        (("--recompute", "some"), "--recompute"),
        (("--shard", "zero4"), "--shard"),
        (("--placement", "tp-pp"), "--placement"),
        (("--sequence-parallel", "maybe"), "--sequence-parallel"),
        (("--overlap", "all"), "--overlap"),
        (("--objective", "speed"), "--objective"),
        (("--objective", "cost"), "--price"),
        (("--price", "-1"), "--price"),
        (("--price", "many"), "--price"),
        (("--top", "0"), "--top"),
        (("--free", "everything"), "--free"),
        (("--kv-dtype", "fp8"), "--kv-dtype"),
        (("--global-batch", "0"), "--global-batch"),
        (("--nodes", "2", "--gpus", "64"), "--gpus"),
        (("--schedule", "sometimes"), "--schedule"),
    ],
    ids=" ".join,
)
def test_bad_input(argv: tuple[str, ...], field: str) -> None:
    assert refusal(*GPT, *argv)["field"] == field


@pytest.mark.parametrize("left_out", ["--global-batch", "--seq"])
def test_missing_workload(left_out: str) -> None:
    argv = list(GPT)
    at = argv.index(left_out)
    del argv[at : at + 2]
    assert refusal(*argv)["field"] == left_out


@pytest.mark.parametrize("gpus", [1, 2, 7, 17, 60, 96, 97, 1000])
def test_odd_numbers_of_gpus(gpus: int) -> None:
    """Primes and numbers that no node divides are answered, or refused with what would do."""
    argv = ("plan", "llama-2-7b", "--on", "hgx-h100", "--gpus", str(gpus), "--global-batch", "840")
    ran = run(*argv, "--seq", "2048", "--json")
    d = ran.json()
    assert ran.code in (0, 3)
    if ran.code == 3:
        assert d["nearest_feasible"]
    else:
        assert d["best"]["devices"] == gpus


def test_interrupt_keeps_what_was_found(monkeypatch) -> None:
    """Ctrl-C in the middle: the answer is marked partial and holds the layouts found so far."""
    real = price_space.Pricer.add
    calls: list[int] = []

    def add(self, piece):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(self, piece)

    monkeypatch.setattr(price_space.Pricer, "add", add)
    monkeypatch.setattr(price_space, "TRAINING_CHUNK", 1000)
    argv = ("plan", "gpt3-175b", "--on", "dgx-a100", "--gpus", "512", "--global-batch", "512")
    ran = run(*argv, "--seq", "2048", "--json")
    d = ran.json()
    assert d["partial"] is True
    assert ran.code == 130
    assert d["best"]["fits"]
    calls.clear()
    text = run(*argv, "--seq", "2048")
    assert text.code == 130
    assert "Interrupted" in text.out
