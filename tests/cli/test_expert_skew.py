"""``--expert-skew``: how many experts a batch reads, and that every answer says what it assumed."""

import pytest
from tests.cli.running import answer, refusal, run

MOE = ("gpt-oss-20b", "--on", "hgx-h100", "--nodes", "1")
DECODE = ("--phase", "decode", "--batch", "16", "--context", "512")
LOAD = ("--isl", "1024", "--osl", "256", "--concurrency", "16")
COMMANDS = {
    "estimate": ("estimate", *MOE, *DECODE),
    "scale": ("scale", *MOE, *DECODE, "--tp", "1,2"),
    "serve": ("serve", *MOE, *LOAD),
    "plan": ("plan", *MOE, "--gpus", "2", *LOAD),
}


def seconds(command, d):
    """The shortest step, or time per token."""
    rows = {"plan": "layouts", "scale": "points"}.get(command)
    key = "step_s" if command in ("estimate", "scale") else "tpot_s"
    return d[key] if rows is None else min(row[key] for row in d[rows])


@pytest.mark.parametrize("command", COMMANDS)
def test_even_draws_are_the_upper_bound_in_every_command(command):
    argv = COMMANDS[command]
    usual, even, more = (
        answer(*argv, *extra) for extra in ((), ("--expert-skew", "0"), ("--expert-skew", "2"))
    )
    assert [d["workload"]["expert_skew"] for d in (usual, even, more)] == [1.0, 0.0, 2.0]
    assert seconds(command, more) < seconds(command, usual) < seconds(command, even)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_says_what_was_assumed(command):
    argv = COMMANDS[command]
    said = " ".join(run(*argv).out.split())
    assert "sigma 1" in said
    assert "upper bound" in said
    said = " ".join(run(*argv, "--expert-skew", "0").out.split())
    assert "drawn evenly: an upper bound" in said


def test_dense_models_have_no_experts_to_speak_of():
    argv = ("estimate", "llama-2-7b", "--on", "hgx-h100", "--nodes", "1", *DECODE)
    assert "popularity" not in run(*argv).out


def test_training_is_balanced_unless_it_is_said():
    argv = ("estimate", *MOE, "--batch", "1", "--seq", "64")
    even, skewed = answer(*argv), answer(*argv, "--expert-skew", "3")
    assert even["workload"]["expert_skew"] == 0.0
    assert skewed["step_s"] < even["step_s"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("value", ["-1", "nan", "11", "even"])
def test_what_is_no_skew_is_refused(command, value):
    assert refusal(*COMMANDS[command], "--expert-skew", value)["field"] == "--expert-skew"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_interval_holds_both_ends_of_what_was_assumed(command):
    """Where nobody said how experts are drawn, even draws lie inside; who says it gets the narrower
    interval of that."""
    argv = COMMANDS[command]
    rows = {"plan": "layouts", "scale": "points"}.get(command)
    unit = "step" if command in ("estimate", "scale") else "tpot"

    def figures(*extra):
        d = answer(*argv, *extra)
        best = d if rows is None else min(d[rows], key=lambda row: row[f"{unit}_s"])
        return best[f"{unit}_low_s"], best[f"{unit}_s"], best[f"{unit}_high_s"]

    low, middle, high = figures()
    even = figures("--expert-skew", "0")[1]
    stated = figures("--expert-skew", "1")
    assert low < middle < even < high
    assert stated[1] == pytest.approx(middle)
    assert stated[0] == pytest.approx(low)
    assert stated[2] < high
