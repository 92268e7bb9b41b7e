"""``--image-tokens``: what images add to a prompt is priced as a longer one, and said."""

import pytest
from tests.cli.running import answer, refusal, run

MODEL = ("qwen3-vl-8b", "--on", "hgx-h100", "--nodes", "1")
LOAD = ("--osl", "128", "--concurrency", "16")
# command: (its words, the option of the prompt's length)
COMMANDS = {
    "prefill": (("estimate", *MODEL, "--phase", "prefill", "--batch", "4"), "--seq"),
    "decode": (("estimate", *MODEL, "--phase", "decode", "--batch", "4"), "--context"),
    "scale": (("scale", *MODEL, "--phase", "prefill", "--batch", "4", "--tp", "1,2"), "--seq"),
    "serve": (("serve", *MODEL, *LOAD), "--isl"),
    "plan": (("plan", *MODEL, "--gpus", "2", *LOAD), "--isl"),
}


def seconds(d):
    """The first time that an answer has: of a step, of a degree's, to the first token."""
    row = (d.get("points") or d.get("layouts") or [d])[0] if "layouts" in d or "points" in d else d
    return row["step_s"] if "step_s" in row else row["ttft_s"]


@pytest.mark.parametrize("name", COMMANDS)
def test_images_are_a_longer_prompt(name):
    argv, option = COMMANDS[name]
    images = answer(*argv, option, "512", "--image-tokens", "1536")
    longer = answer(*argv, option, "2048")
    assert seconds(images) == seconds(longer)
    held = {"--context": "context", "--seq": "seq", "--isl": "isl"}[option]
    assert images["workload"][held] == longer["workload"][held] == 2048
    assert images["workload"]["image_tokens"] == 1536
    assert "image_tokens" not in longer["workload"]


@pytest.mark.parametrize("name", COMMANDS)
def test_more_of_them_take_longer(name):
    argv, option = COMMANDS[name]
    times = [seconds(answer(*argv, option, "512", "--image-tokens", n)) for n in ("0", "1k", "8k")]
    assert times[0] < times[1] < times[2]
    assert times[0] == seconds(answer(*argv, option, "512"))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_says_so_and_that_the_encoder_has_no_time(name):
    argv, option = COMMANDS[name]
    said = " ".join(run(*argv, option, "512", "--image-tokens", "1536").out.split())
    assert "1,536 of a sequence's" in said
    assert "compute is not priced" in said


def test_the_next_command_asks_for_the_same_prompt():
    argv, option = COMMANDS["scale"]
    said = " ".join(run(*argv, option, "512", "--image-tokens", "1536").out.split())
    assert "--image-tokens 1536" in said
    assert "--isl 512" in said


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("value", ["-1", "many", "1.5", "1e12"])
def test_what_is_no_number_of_tokens_is_refused(name, value):
    argv, option = COMMANDS[name]
    assert refusal(*argv, option, "512", "--image-tokens", value)["field"] == "--image-tokens"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_model_that_sees_nothing_takes_none(name):
    argv, option = COMMANDS[name]
    words = [word.replace("qwen3-vl-8b", "llama-3.1-8b") for word in argv]
    said = refusal(*words, option, "512", "--image-tokens", "576")
    assert said["field"] == "--image-tokens"
    assert "no encoder of images" in said["message"]


def test_a_sweep_over_tokens_is_over_all_of_them():
    argv, option = COMMANDS["scale"]
    said = refusal(*argv, option, "512", "--image-tokens", "576", "--sweep", "seq=128:2k")
    assert said["field"] == "--image-tokens"
    assert "all tokens of a sequence" in said["message"]
    assert answer(*argv, option, "512", "--image-tokens", "576", "--sweep", "batch=1:4")["rows"]


def test_training_has_no_prompt():
    argv = ("estimate", *MODEL, "--batch", "8", "--seq", "512", "--image-tokens", "576")
    assert refusal(*argv)["field"] == "--image-tokens"
    plan = ("plan", *MODEL, "--gpus", "2", "--global-batch", "8", "--seq", "512")
    assert "--global-batch" in refusal(*plan, "--image-tokens", "576")["message"]
