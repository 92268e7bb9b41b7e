"""``meshwise plan`` for serving: the contract and what bad input gets."""

from __future__ import annotations

import pytest
from running import answer, refusal, run

LLAMA = (
    "plan",
    "llama-3.1-70b",
    "--on",
    "hgx-h100",
    "--gpus",
    "16",
    "--isl",
    "2048",
    "--osl",
    "256",
)
FIXED = (*LLAMA, "--concurrency", "64")
BOUND = (*LLAMA, "--ttft", "1s", "--tpot", "40ms")


@pytest.mark.parametrize("argv", [FIXED, BOUND], ids=["concurrency", "limits"])
def test_contract(argv: tuple[str, ...]) -> None:
    d = answer(*argv, "--price", "2")
    assert d["schema"] == 1
    assert d["best"] == d["layouts"][0]
    for row in [*d["layouts"], *d["pareto"], d["rule_of_thumb"]]:
        for key in ("tp", "pp", "vp", "dp", "cp", "ep", "etp", "dcp", "placement", "shard"):
            assert key in row
        assert row["tp"] * row["pp"] * row["dp"] == 16 == row["devices"]
        assert row["tpot_low_s"] < row["tpot_s"] < row["tpot_high_s"]
        assert row["step_s"] == row["tpot_s"]
        assert row["tokens_per_s_per_device"] == pytest.approx(row["tokens_per_s"] / 16)
        cost = 2 * 16 / 3600 / row["tokens_per_s"] * 1e6
        assert row["dollars_per_million_tokens"] == pytest.approx(cost)
    counts = d["counts"]
    assert counts["enumerated"] == counts["feasible"] + sum(counts["refused"].values())
    if argv is BOUND:
        assert d["limits"] == {"ttft_s": 1.0, "tpot_s": 0.04}
        assert all(r["tpot_s"] <= 0.04 and r["ttft_s"] <= 1.0 for r in d["layouts"])


def test_serve_says_the_same_of_the_best() -> None:
    best = answer(*FIXED)["best"]
    one = answer(
        *("serve", "llama-3.1-70b", "--on", "hgx-h100", "--isl", "2048", "--osl", "256"),
        *("--concurrency", "64", "--tp", str(best["tp"]), "--pp", str(best["pp"])),
        *("--dp", str(best["dp"])),
    )
    assert best["simulated"]
    keys = (
        "tpot_s",
        "tpot_low_s",
        "tpot_high_s",
        "ttft_s",
        "request_s",
        "tokens_per_s",
        "ttft_p99_s",
    )
    for key in (*keys, "memory_bytes", "max_concurrency"):
        assert one[key] == pytest.approx(best[key], rel=1e-12)


def test_disaggregated() -> None:
    d = answer(*BOUND, "--disaggregated")["disaggregated"]
    assert d["tpot_s"] <= 0.04
    assert d["transfer_s"] > 0
    text = run(*BOUND, "--disaggregated").out
    assert "Disaggregated:" in text


def test_nothing_meets_the_limits() -> None:
    ran = run(*LLAMA, "--tpot", "1ms", "--json")
    assert ran.code == 3
    d = ran.json()
    assert d["best"] is None
    reached = {c["code"]: c for c in d["nearest_feasible"]}["limits"]
    assert reached["value"]["tpot_s"] > 0.001
    assert "No layout is feasible" in run(*LLAMA, "--tpot", "1ms").out


def test_nothing_fits() -> None:
    argv = ("plan", "llama-3.1-405b", "--on", "hgx-h100", "--gpus", "8", "--isl", "1024")
    ran = run(*argv, "--osl", "128", "--concurrency", "8", "--json")
    assert ran.code == 3
    codes = [c["code"] for c in ran.json()["nearest_feasible"]]
    assert "gpus" in codes
    assert "weights_dtype" in codes


def test_pins_and_csv() -> None:
    d = answer(*FIXED, "--tp", "4,8", "--pp", "1")
    assert {r["tp"] for r in d["layouts"]} == {4, 8}
    lines = run(*FIXED, "--csv").out.splitlines()
    assert lines[0].startswith("tp,pp,vp,dp")


@pytest.mark.parametrize(
    ("argv", "field"),
    [
        (("--seq", "2048"), "--seq"),
        (("--global-batch", "8"), "--global-batch"),
        (("--recompute", "full"), "--recompute"),
        (("--cp", "2"), "--cp"),
        (("--shard", "zero1"), "--shard"),
        (("--objective", "mfu"), "--objective"),
        (("--objective", "cost"), "--price"),
        (("--disaggregated",), "--disaggregated"),
        (("--tp", "3"), "--tp"),
        (("--dcp", "3"), "--dcp"),
        (("--ep", "4"), "--ep"),
        (("--tp", "8", "--pp", "1", "--dp", "1"), "--gpus"),
        (("--isl", "0"), "--isl"),
        (("--gpus", "0"), "--gpus"),
    ],
    ids=" ".join,
)
def test_bad_input(argv: tuple[str, ...], field: str) -> None:
    assert refusal(*FIXED, *argv)["field"] == field


@pytest.mark.parametrize(
    ("argv", "field"),
    [
        (("--tpot", "20"), "--tpot"),
        (("--tpot", "-1ms"), "--tpot"),
        (("--ttft", "fast"), "--ttft"),
    ],
    ids=" ".join,
)
def test_bad_limits(argv: tuple[str, ...], field: str) -> None:
    assert refusal(*LLAMA, *argv)["field"] == field


def test_load_is_needed() -> None:
    assert refusal(*LLAMA)["field"] == "--concurrency"
    assert refusal(*LLAMA[:6], "--tpot", "20ms", "--osl", "64")["field"] == "--isl"


def test_a_limit_of_latency_and_a_global_batch_are_refused_before_what_is_missing():
    ran = run("plan", "gpt2", "--on", "hgx-h100", "--global-batch", "64", "--tpot", "20ms")
    assert ran.code == 2
    assert "--global-batch=64 has no meaning in serving (--tpot)" in ran.err


SHORT = ("plan", "llama-3.1-8b", "--on", "hgx-h100", "--gpus", "8", "--isl", "1k")


@pytest.mark.parametrize("osl", ["1", "2"])
@pytest.mark.parametrize(
    "extra",
    [
        ("--concurrency", "4"),
        ("--request-rate", "8"),
        ("--ttft", "200ms"),
        ("--ttft", "200ms", "--disaggregated"),
    ],
    ids=" ".join,
)
def test_answers_of_a_token_or_two(osl: str, extra: tuple[str, ...]) -> None:
    found = run(*SHORT, "--osl", osl, *extra, "--requests", "60")
    assert (found.code, found.err) == (0, "")
    assert ("no TPOT" in found.out) is (osl == "1")


@pytest.mark.parametrize("more", [("--concurrency", "4"), ("--request-rate", "9"), ()])
def test_a_limit_on_the_time_per_token_of_answers_of_one_is_refused(more: tuple[str, ...]) -> None:
    asked = (*SHORT, "--osl", "1", "--tpot", "p50=1ms", *more)
    assert refusal(*asked)["field"] == "--tpot"
