"""``scale --sweep`` and ``scale --gpus`` on the command line."""

from __future__ import annotations

import pytest
from running import answer, refusal, run

GPT = ("scale", "gpt3-175b", "--on", "dgx-a100", "--batch", "32", "--seq", "2048")
DECODE = ("scale", "llama-3.1-8b", "--on", "hgx-h100", "--phase", "decode", "--context", "2048")


def test_contract() -> None:
    d = answer(*GPT, "--sweep", "inter.bandwidth=25GB/s:400GB/s")
    assert d["schema"] == 1
    assert d["sweep"] == {"name": "inter.bandwidth", "unit": "B/s", "low": 25e9, "high": 400e9}
    assert len(d["values"]) == 7
    for b in d["break_evens"]:
        assert b["question"] in ("marginal_efficiency", "faster")
        assert (b["value"] is not None) == b["found"]
        assert b["direction"] in (("above", "below") if b["found"] else ("always", "never"))


def test_page_and_csv() -> None:
    text = run(*GPT, "--sweep", "inter.bandwidth=1GB/s,25GB/s,100GB/s").out
    assert "Break-evens, solved for" in text
    assert "TP=8 → 16" in text
    lines = run(*DECODE, "--sweep", "batch=1,8,64", "--tp", "1,2,4", "--csv").out.splitlines()
    assert lines[0].startswith("value,tp,step_s")
    assert len(lines) == 1 + 3 * 3


def test_nearest_name() -> None:
    assert refusal(*GPT, "--sweep", "intre.bandwidth=1GB/s:2GB/s")["nearest"] == "inter.bandwidth"
    assert refusal(*DECODE, "--sweep", "contxt=1:4")["nearest"] == "context"
    assert "micro_batch" not in refusal(*DECODE, "--sweep", "micro_batch=1:4")["legal"]


def test_gpus_and_weak() -> None:
    d = answer(*GPT[:4], "--batch", "64", "--seq", "2048", "--gpus", "64:256", "--weak")
    assert [p["gpus"] for p in d["points"]] == [64, 128, 256]
    assert d["mode"] == "weak"
    assert "strong scaling" in run(*GPT, "--gpus", "64,128").out


def test_no_size_fits() -> None:
    assert run(*GPT, "--gpus", "1,2").code == 3


@pytest.mark.parametrize(
    ("argv", "field"),
    [
        (("--sweep", "inter.bandwidth"), "--sweep"),
        (("--sweep", "inter.bandwidth="), "--sweep"),
        (("--sweep", "intre.bandwidth=1GB/s:2GB/s"), "--sweep"),
        (("--sweep", "inter.bandwidth=25:400"), "--sweep inter.bandwidth"),
        (("--sweep", "inter.bandwidth=400GB/s:25GB/s"), "--sweep"),
        (("--sweep", "inter.bandwidth=0GB/s:25GB/s"), "--sweep inter.bandwidth"),
        (("--sweep", "inter.bandwidth=1GB/s:2GB/s:1"), "--sweep POINTS"),
        (("--sweep", "inter.bandwidth=1GB/s:2GB/s:3:4"), "--sweep"),
        (("--sweep", "batch=0:4"), "--sweep batch"),
        (("--sweep", "batch=a:4"), "--sweep batch"),
        (("--sweep", "context=1:4"), "--sweep"),
        (("--sweep", "batch=1:4", "--sweep", "seq=128:256"), "--sweep"),
        (("--sweep", "micro_batch=3:32"), "--sweep"),
        (("--sweep", "batch=3:8", "--micro-batch", "2"), "--sweep"),
        (("--sweep", "batch=4:4"), "--sweep"),
        (("--sweep", "rack.bandwidth=1GB/s:2GB/s"), "--sweep"),
        (("--sweep", "inter.latency=-1us:2us"), "--sweep inter.latency"),
        (("--sweep", "inter.latency=1GB/s:2GB/s"), "--sweep inter.latency"),
        (("--sweep", "batch=1:4", "--gpus", "8"), "--sweep"),
        (("--weak",), "--weak"),
        (("--gpus", "8:4"), "--gpus"),
        (("--gpus", "8,x"), "--gpus"),
        (("--gpus", ""), "--gpus"),
    ],
    ids=" ".join,
)
def test_bad_input(argv: tuple[str, ...], field: str) -> None:
    assert refusal(*GPT, *argv)["field"] == field


def test_growth_is_training() -> None:
    assert refusal(*DECODE, "--gpus", "8,16")["field"] == "--gpus"
