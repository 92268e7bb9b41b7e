"""``meshwise serve``: the record, the page, and what is refused."""

import csv
import io

import pytest
from running import answer, refusal, run

BASE = ("serve", "llama-3.1-8b", "--on", "hgx-h100", "--nodes", "1")
LOAD = ("--isl", "1024", "--osl", "256", "--concurrency", "32")
KEYS = {
    "schema", "model", "cluster", "workload", "formats", "stack", "layout", "devices", "tpot_s",
    "tpot_low_s", "tpot_high_s", "ttft_s", "queue_s", "request_s", "tokens_per_s_per_device",
    "tokens_per_s", "requests_per_s", "decode_s", "prefill_s", "tokens_per_iteration", "running",
    "max_concurrency", "memory_bytes", "memory_limit_bytes", "fits", "tight", "evidence", "remarks",
    "points",
}  # fmt: skip


def test_the_record():
    d = answer(*BASE, *LOAD, "--tp", "2")
    assert set(d) == KEYS
    assert d["schema"] == 1
    assert d["devices"] == 2
    degrees = {"tp": 2, "pp": 1, "dp": 1, "ep": 1, "etp": 2}
    assert {name: d["layout"][name] for name in degrees} == degrees
    assert d["layout"]["dcp"] == 1
    assert d["workload"] == {
        "phase": "serve",
        "isl": 1024,
        "osl": 256,
        "concurrency": 32,
        "prefix_hit": 0.0,
        "chunk": None,
        "draft_tokens": 0,
        "acceptance": None,
        "draft_cost": "none",
        "expert_imbalance": 1.0,
        "expert_skew": 1.0,
        "length_spread": 0.2,
        **dict.fromkeys(("dtype", "weights_dtype", "kv_cache_dtype", "comm_dtype")),
    }
    assert d["request_s"] == pytest.approx(d["ttft_s"] + 255 * d["tpot_s"])
    assert d["requests_per_s"] * d["request_s"] == pytest.approx(32)
    assert d["tpot_low_s"] < d["tpot_s"] < d["tpot_high_s"]
    assert d["decode_s"] < d["tpot_s"]
    assert d["fits"] is True
    assert d["running"] == 32 < d["max_concurrency"]
    assert d["points"][0]["tpot_s"] == d["tpot_s"]


def test_the_page():
    asked = (*BASE, *LOAD, "--draft-tokens", "3", "--acceptance", "0.7", "--prefix-hit", "0.5")
    ran = run(*asked)
    assert ran.code == 0
    assert "requests that fit" in run(*asked, "--detail").out
    assert "50% of a prompt cached, 3 drafts at 70%" in " ".join(ran.out.split())
    for words in ("TPOT", "TTFT", "tokens/s per GPU", "tokens per verif"):
        assert words in ran.out
    answer, *page, more, _, further = ran.out.splitlines()
    assert "requests" in answer and "--detail" in more and "meshwise plan" in further
    assert max(map(len, page)) <= 80


def test_a_cache_that_is_too_small_is_said():
    argv = ("--isl", "8192", "--osl", "512", "--concurrency", "256")
    d = answer(*BASE, *argv)
    assert d["fits"] is False
    assert d["running"] == d["max_concurrency"] < 256
    assert d["queue_s"] > 0
    ran = run(*BASE, *argv)
    assert ran.code == 0
    text = " ".join(ran.out.split())
    assert f"does not hold 256 requests: {d['max_concurrency']} fit" in text
    big = run("serve", "llama-3.1-405b", "--on", "hgx-h100", *LOAD)
    assert "Not one request fits" in big.out


def test_csv_has_a_row():
    rows = list(csv.DictReader(io.StringIO(run(*BASE, *LOAD, "--csv").out)))
    assert len(rows) == 1
    assert float(rows[0]["tpot_s"]) == answer(*BASE, *LOAD)["tpot_s"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("--tp", "4"), ("--tensor-parallel-size", "4")),
        (("--dp", "2"), ("--data-parallel-size", "2")),
        (("--chunk", "512"), ("--max-num-batched-tokens", "512")),
        (("--chunk", "512"), ("--chunked-prefill-size", "512")),
        (("--kv-dtype", "fp8"), ("--kv-cache-dtype", "fp8")),
        (
            ("--draft-tokens", "2", "--acceptance", ".5"),
            ("--num-speculative-tokens", "2", "--acceptance", ".5"),
        ),
    ],
)
def test_options_have_the_engines_names(ours, theirs):
    assert answer(*BASE, *LOAD, *ours) == answer(*BASE, *LOAD, *theirs)


def test_every_option_changes_the_answer():
    base = answer(*BASE, *LOAD)["tpot_s"]
    for extra in (
        ("--prefix-hit", "0.5"),
        ("--chunk", "256"),
        ("--draft-tokens", "3", "--acceptance", "0.7"),
        ("--dtype", "fp8"),
        ("--kv-dtype", "fp8"),
        ("--tp", "2"),
        ("--stack", "sglang"),
        ("--stack", "trtllm"),
        ("--ideal",),
        ("--weight-dtype", "int4"),
    ):
        assert answer(*BASE, *LOAD, *extra)["tpot_s"] != base, extra
    moe = ("serve", "qwen3-30b-a3b", "--on", "hgx-h100", *LOAD, "--tp", "4", "--ep", "4")
    hot = answer(*moe, "--expert-imbalance", "2")
    assert hot["tpot_s"] > answer(*moe)["tpot_s"]


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        (("--isl", "0"), "--isl"),
        (("--isl", "x"), "--isl"),
        (("--osl", "-3"), "--osl"),
        (("--osl", "1.5"), "--osl"),
        (("--concurrency", "0"), "--concurrency"),
        (("--concurrency", "nan"), "--concurrency"),
        (("--concurrency", "9" * 30), "--concurrency"),
        (("--prefix-hit", "1.1"), "--prefix-hit"),
        (("--prefix-hit", "half"), "--prefix-hit"),
        (("--prefix-hit", "nan"), "--prefix-hit"),
        (("--chunk", "0"), "--chunk"),
        (("--draft-tokens", "-1"), "--draft-tokens"),
        (("--draft-tokens", "64", "--acceptance", "0.5"), "--draft-tokens"),
        (("--draft-tokens", "3"), "--acceptance"),
        (("--draft-tokens", "3", "--acceptance", "1.5"), "--acceptance"),
        (("--draft-tokens", "3", "--acceptance", "70%"), "--acceptance"),
        (("--acceptance", "0.5"), "--acceptance"),
        (("--draft-cost", "layer"), "--draft-cost"),
        (("--draft-tokens", "3", "--acceptance", "1", "--draft-cost", "eagle"), "--draft-cost"),
        (("--expert-imbalance", "0.5"), "--expert-imbalance"),
        (("--expert-imbalance", "inf"), "--expert-imbalance"),
        (("--dtype", "fp7"), "--dtype"),
        (("--kv-dtype", "int2"), "--kv-dtype"),
        (("--stack", "vlm"), "--stack"),
        (("--tp", "3"), "--tp"),
        (("--dp", "1000"), "--dp"),
        (("--ep", "2"), "--ep"),
        (("--gpus", "3"), "--gpus"),
        (("--cp", "2"), "--cp"),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line(extra, field):
    given = dict(zip(LOAD[::2], LOAD[1::2], strict=True))
    for option in extra[::2]:
        given.pop(option, None)
    rest = [part for pair in given.items() for part in pair]
    assert refusal(*BASE, *rest, *extra)["field"] == field


@pytest.mark.parametrize("missing", ["--isl", "--osl", "--concurrency"])
def test_what_is_missing_is_asked_for(missing):
    at = LOAD.index(missing)
    error = refusal(*BASE, *LOAD[:at], *LOAD[at + 2 :])
    assert error["field"] == missing
    assert "for example" in error["legal"]
