"""The answer stands in the first line, in one sentence; the last line is a command that runs."""

import re
import shlex

import pytest
from running import answer, forms, run
from tests.deep import deep_but

DECODE = ("--phase", "decode", "--batch", "8", "--context", "2048")
LOAD = ("--isl", "512", "--osl", "128", "--concurrency", "16")
STEP = ("--batch", "32", "--seq", "4096")
PLAN = ("--gpus", "8", "--global-batch", "32", "--seq", "4096")
HERE = ("--on", "hgx-h100", "--nodes", "1")
KINDS = (
    *("llama-3.1-8b", "gpt2", "falcon-7b", "qwen3-30b-a3b", "deepseek-v2-lite", "gemma-2-9b"),
    *("llama-3.1-70b", "gpt-oss-20b"),
)


def asked(model):
    return [
        ("scale", model, *HERE, *STEP),
        ("scale", model, *HERE, *DECODE),
        ("estimate", model, *HERE, "--tp", "1", "--dp", "8", *STEP),
        ("estimate", model, *HERE, "--tp", "1", *DECODE),
        ("explain", model, *HERE, "--tp", "1", *DECODE),
        ("serve", model, *HERE, "--tp", "1", *LOAD),
        ("plan", model, *HERE, *PLAN),
        ("plan", model, *HERE, "--gpus", "8", *LOAD),
        ("model", model),
    ]


@pytest.mark.parametrize("model", deep_but(("gpt2", "qwen3-30b-a3b", "deepseek-v2-lite"), KINDS))
def test_brief_is_the_first_line_and_the_next_command_runs(model):
    for argv in asked(model):
        ran = forms(*argv)
        if ran.json is None:  # a request that does not fit beside the weights
            assert (ran.code, argv[0]) == (3, "serve")
            continue
        (line,) = ran.brief.splitlines()
        assert ran.page.splitlines()[0] == ran.detail.splitlines()[0] == line
        assert re.search(r"\d", line) or "No layout" in line
        assert len(ran.detail) >= len(ran.page) - len("More with --detail") - 400
        said = ran.page.splitlines()[-1].partition(": meshwise ")[2]
        if said and argv[0] != "explain":
            follow = run(*shlex.split(said), "--brief")
            assert follow.code in (0, 3), (said, follow.err)


@pytest.mark.parametrize("argv", asked("gpt2"), ids=" ".join)
def test_a_form_is_the_one_that_is_asked_for(argv):
    every = forms(*argv)
    assert run(*argv, "--brief").out == every.brief
    assert run(*argv, "--detail").out == every.detail
    timed = {"elapsed_s": 0.0}  # of a search, which each run has its own of
    assert answer(*argv) | timed == every.json | timed
    assert run(*argv).out == every.page


def test_one_form_at_a_time():
    argv = ("estimate", "gpt2", *HERE, "--tp", "1", *STEP)
    ran = run(*argv, "--brief", "--detail")
    assert (ran.code, ran.out) == (2, "")
    assert "--brief and --detail: choose one" in ran.err
    assert run(*argv, "--brief", "--json").json()["error"]["field"] == "--brief"


def test_ends_of_the_interval_stand_in_the_figures_unit():
    argv = ("estimate", "llama-3.1-8b", *HERE, "--tp", "2", *DECODE)
    d = answer(*argv)
    line = run(*argv, "--brief").out
    value, low, high = re.match(r"([\d.]+) ms/token \(([\d.]+)–([\d.]+)\)", line).groups()
    for text, key in ((value, "step_s"), (low, "step_low_s"), (high, "step_high_s")):
        assert float(text) == pytest.approx(1e3 * d[key], rel=0.05)


def test_the_mesh_that_fits_comes_before_the_degree():
    line = run("scale", "gpt3-175b", "--on", "dgx-a100", "--batch", "32", "--seq", "2048").out
    line = line.splitlines()[0]
    fit = answer("scale", "gpt3-175b", "--on", "dgx-a100", "--batch", "32", "--seq", "2048")
    fit = fit["smallest_fit"]
    assert line.startswith("No TP degree alone fits with microbatches of 32: smallest mesh ")
    assert f"TP {fit['tp']} × PP {fit['pp']}, microbatches of 1, full recomputation" in line
    assert f"{fit['devices']} GPUs" in line


def test_near_the_threshold_it_says_how_near():
    argv = ("scale", "llama-3.1-70b", *HERE, *DECODE)
    points = {p["tp"]: p for p in answer(*argv)["points"]}
    score = points[8]["marginal_efficiency"]
    line = run(*argv, "--limit-threshold", f"{score + 0.01:.4f}", "--brief").out
    assert "asked" in line and f"{100 * score:.0f}"[:2] in line
    assert "asked" not in run(*argv, "--limit-threshold", f"{score + 0.1:.4f}", "--brief").out


# Questions of public threads: the obvious command, and what its first line has to say
QUESTIONS = {
    # 28 heads on 8 GPUs
    ("model", "qwen2-7b"): ["not 8", "28 mod 8 = 4"],
    # 70B in 16 bit on two cards of 48 GB
    ("estimate", "llama-3.1-70b", "--on", "l40s-8x", "--tp", "2", "--phase", "decode",
     "--context", "288"): ["does NOT fit", "TP 4", "4 GPUs"],
    # four GPUs slower than two for one user: what the next degree brings
    ("scale", "codellama-34b", "--on", "dgx-a100", "--nodes", "1", "--phase", "decode",
     "--context", "512"): ["ms/token", "fits", "would"],
    # what speed of all_reduce is normal for eight cards
    ("collective", "all_reduce", "4GiB", "--on", "rtx-5090-8x"): ["bus bandwidth", "GB/s"],
    # TP or pipeline for a 13B in a node
    ("plan", "llama-13b", "--on", "dgx-a100", "--nodes", "1", "--gpus", "4", "--isl", "512",
     "--osl", "128", "--concurrency", "16"): ["Best tp4", "TPOT", "tokens/s per GPU"],
    # two boxes on 200 GbE
    ("scale", "llama-3.1-70b", "--on", "dgx-spark-2", "--phase", "decode", "--context", "1024"): [
        "ms/token", "fits"],
}  # fmt: skip


@pytest.mark.parametrize("argv", QUESTIONS, ids=" ".join)
def test_the_first_line_answers(argv):
    line = run(*argv).out.splitlines()[0]
    for words in QUESTIONS[argv]:
        assert words in line
