"""``meshwise plan`` and ``serve`` under a rate of arrivals and limits of percentiles: every form of the answer,
and what bad input gets."""

from __future__ import annotations

import csv
import io
import shlex
from pathlib import Path

import pytest
from running import answer, refusal, run

PLAN = ("plan", "llama-3.1-8b", "--on", "hgx-h100", "--gpus", "16", "--isl", "1024", "--osl", "128")
RATE = ("--request-rate", "20", "--requests", "400")
LIMITS = ("--ttft", "p95=500ms", "--tpot", "p90=15ms,p50=14ms", "--e2e", "p99=4s")


def test_the_record_and_what_serve_says_of_it() -> None:
    d = answer(*PLAN, *RATE, *LIMITS, "--price", "2", "--seed", "4")
    assert d["workload"]["request_rate"] == 20.0
    assert d["workload"]["arrivals"] == "poisson"
    assert d["run"] == {"requests": 400, "seed": 4}
    assert d["limits"] == {
        "ttft_s": None,
        "tpot_s": None,
        "ttft_p95_s": 0.5,
        "tpot_p90_s": 0.015,
        "tpot_p50_s": 0.014,
        "request_p99_s": 4.0,
    }
    best = d["best"]
    assert best["devices"] == d["fewest_gpus"] <= 16
    assert all(best[key] <= limit for key, limit in d["limits"].items() if limit is not None)
    assert best["goodput_requests_per_s_per_device"] * best["devices"] == pytest.approx(
        best["good_share"] * best["requests_per_s"]
    )
    assert d["binds"]["code"] in ("ttft", "tpot", "request", "kv_cache", "saturation", "memory")
    kinds = [row["simulated"] for row in d["layouts"]]
    assert kinds == sorted(kinds, reverse=True)
    counts = d["counts"]
    assert counts["enumerated"] == counts["feasible"] + sum(counts["refused"].values())


@pytest.mark.parametrize(
    "load",
    [RATE, ("--concurrency", "64"), (), ("--arrivals", "gamma:2", "--requests", "400")],
    ids=["rate", "in flight", "most in flight", "highest rate"],
)
def test_the_next_command_gives_the_same_figures(load: tuple[str, ...]) -> None:
    asked = (*PLAN, *load, "--ttft", "p95=500ms", "--tpot", "p90=15ms")
    text = run(*asked).out
    best = answer(*asked)["best"]
    line = next(part for part in text.splitlines() if part.startswith("The best one in full"))
    command = shlex.split(line.partition("meshwise ")[2])
    one = answer(*command)
    for key in ("tpot_s", "tpot_p90_s", "ttft_p95_s", "tokens_per_s", "memory_bytes"):
        assert one[key] == pytest.approx(best[key], rel=1e-9), key
    assert one["misses"] == []


def test_text_brief_and_csv() -> None:
    asked = (*PLAN, *RATE, *LIMITS, "--price", "2")
    page = run(*asked).out
    for words in (
        "up to 16 GPUs",
        "20 requests/s (poisson)",
        "TTFT p95 at most 500 ms",
        "Goodput",
        "binds",
    ):
        assert words in page
    brief = run(*asked, "--brief").out
    assert brief.startswith("Fewest: ")
    assert "per 1M tokens" in brief
    assert len(brief.splitlines()) == 1
    rows = list(csv.DictReader(io.StringIO(run(*asked, "--csv").out)))
    assert rows[0]["simulated"] == "True"
    assert float(rows[0]["ttft_p95_s"]) <= 0.5
    assert float(rows[0]["goodput_tokens_per_s"]) > 0.0


def test_a_trace_says_lengths_and_times(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("\n".join(f"{i * 0.1},{400 + i % 5 * 100},60" for i in range(200)))
    asked = (*PLAN[:6], "--arrivals", str(file), "--tpot", "p90=15ms")
    d = answer(*asked)
    assert d["workload"]["isl"] == 800
    assert d["workload"]["arrivals"] == "trace.csv"
    assert d["fewest_gpus"] >= 1
    line = next(t for t in run(*asked).out.splitlines() if t.startswith("The best one in full"))
    one = answer(*shlex.split(line.partition("meshwise ")[2]))
    assert one["tpot_p90_s"] == pytest.approx(d["best"]["tpot_p90_s"], rel=1e-9)


@pytest.mark.parametrize(
    ("argv", "field"),
    [
        *(
            (("--request-rate", value), "--request-rate")
            for value in ("0", "-3", "inf", "nan", "many")
        ),
        *(
            (("--ttft", value), "--ttft")
            for value in ("p0=1s", "p101=1s", "p100=1s", "p95=", "p95", "=1s")
        ),
        *(
            (("--ttft", value), "--ttft")
            for value in ("q95=1s", "p95=1", "p95=1s,p95=2s", "p95=-1s", "")
        ),
        (("--tpot", "p90=0s"), "--tpot"),
        (("--e2e", "p99=fast"), "--e2e"),
        ((*RATE, "--arrivals", "gamma:0"), "--arrivals"),
        ((*RATE, "--arrivals", "nowhere.csv"), "--arrivals"),
        (("--request-rate", "5", "--requests", "0"), "--requests"),
        (("--request-rate", "5", "--seed", "-1"), "--seed"),
        (("--request-rate", "5", "--disaggregated"), "--disaggregated"),
        (("--ttft", "p95=1s", "--disaggregated"), "--disaggregated"),
        (("--e2e", "20s", "--tpot", "30ms", "--disaggregated"), "--disaggregated"),
        (("--concurrency", "8", "--tpot", "30ms", "--disaggregated"), "--disaggregated"),
        ((*RATE, "--compare", "vllm serve x -tp 2"), "--compare"),
        ((*RATE, "--tp", "32"), "--gpus"),
        ((*RATE, "--seq", "2048"), "--seq"),
    ],
    ids=lambda a: " ".join(a) if isinstance(a, tuple) else a,
)
def test_bad_input(argv: tuple[str, ...], field: str) -> None:
    assert refusal(*PLAN, *argv)["field"] == field


@pytest.mark.parametrize(
    "option", ["--e2e", "--request-rate", "--arrivals", "--requests", "--seed"]
)
def test_what_only_serving_has(option: str) -> None:
    value = {"--e2e": "1s", "--arrivals": "poisson"}.get(option, "3")
    train = ("plan", "gpt2", "--on", "hgx-h100", "--global-batch", "64", "--seq", "512")
    assert refusal(*train, option, value)["field"] in ("--global-batch", option)


def test_more_than_the_gpus_serve_and_what_comes_nearest() -> None:
    argv = (*PLAN[:5], "1", *PLAN[6:], "--request-rate", "90", "--requests", "400")
    ran = run(*argv, "--ttft", "p95=500ms", "--json")
    assert ran.code == 3
    d = ran.json()
    assert d["best"] is None
    assert d["nearest"]["most_requests_per_s"] < 90
    assert d["binds"]["code"] == "gpus"
    text = run(*argv, "--ttft", "p95=500ms")
    assert text.code == 3
    assert "arrivals exceed" in text.out
    late = run(*PLAN, *RATE, "--ttft", "p95=1ms", "--json")
    assert late.code == 3
    missed = late.json()["nearest"]["misses"]
    assert missed[0]["limit"] == "ttft_p95_s"
    assert missed[0]["factor"] > 1.0


@pytest.mark.matrix  # pools are simulated
def test_a_plan_of_the_means_has_pools_as_before() -> None:
    d = answer(*PLAN, "--ttft", "1s", "--tpot", "20ms", "--disaggregated")
    assert d["disaggregated"]["tpot_s"] <= 0.02


def test_serve_says_what_is_within_the_limits() -> None:
    base = ("serve", "llama-3.1-8b", "--on", "hgx-h100", "--isl", "1024", "--osl", "128")
    asked = (*base, "--request-rate", "8", "--requests", "400", "--price", "2")
    limits = ("--ttft", "p50=90ms", "--tpot", "p90=15ms")
    d = answer(*asked, *limits)
    assert d["limits"]["ttft_p50_s"] == 0.09
    assert 0.0 < d["good_share"] < 1.0
    assert d["goodput_requests_per_s"] == pytest.approx(d["good_share"] * d["requests_per_s"])
    assert "requests within the limits" in run(*asked, *limits).out
    assert "goodput" in run(*asked, *limits, "--brief").out
    swept = (*base, "--sweep", "request-rate=1:30", "--requests", "200", "--price", "2", *limits)
    points = [p for p in answer(*swept)["points"] if not p["saturated"]]
    shares = [p["good_share"] for p in points]
    assert shares[0] > shares[-1]
    assert points[0]["dollars_per_million_tokens"] > points[-1]["dollars_per_million_tokens"]
    assert "within limits" in run(*swept).out
