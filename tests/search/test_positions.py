"""Requests longer than the positions that a model was made for: refused as engines refuse them."""

import json
from pathlib import Path

import pytest
from tests.cli.running import answer, refusal, run

import meshwise as mw
from meshwise import catalog
from meshwise.errors import InputError
from meshwise.search.serving.runs.lengths import check_positions

# each way that positions are written and kept: rotary (as it is, llama3, yarn, longrope, ten times a
# window), learned, a recurrence's none, a language model within a multimodal one
PRESETS = [
    *("llama-2-7b", "llama-3.1-8b", "gpt2", "gpt-oss-20b", "phi-4-mini", "deepseek-v3"),
    *("gpt-j-6b", "gemma-3-27b", "qwen3-vl-4b", "mixtral-8x7b", "kimi-k2.5"),
]
SMALL = ("gpt2", "--on", "hgx-h100", "--nodes", "1")


def load(isl: int, osl: int, **more: object) -> mw.Serving:
    return mw.Serving(isl=isl, osl=osl, concurrency=2, **more)


@pytest.mark.parametrize("name", PRESETS)
def test_the_longest_request_is_that_of_the_model_s_positions(name: str) -> None:
    model = mw.model(name)
    own = model.max_positions
    check_positions(model, load(own - 100, 100))
    check_positions(model, load(10, 10), own)
    with pytest.raises(InputError) as caught:
        check_positions(model, load(own - 99, 100))
    assert (caught.value.field, caught.value.nearest) == ("isl", own - 100)
    assert f"{own:,} positions" in str(caught.value)
    assert caught.value.exit_code == 2
    with pytest.raises(InputError) as caught:
        check_positions(model, load(10, 10), own + 1)
    assert (caught.value.field, caught.value.nearest) == ("max_model_len", own)
    with pytest.raises(InputError) as caught:
        check_positions(model, load(10, own))
    assert (caught.value.field, caught.value.nearest) == ("osl", own - 10)


def test_every_preset_states_its_positions_or_has_none() -> None:
    without = [name for name in catalog.names("models") if mw.model(name).max_positions is None]
    assert without == ["bloom-560m"]  # biases of distance in place of positions
    check_positions(mw.model("bloom-560m"), load(100_000, 100), 200_000)


COMMANDS = {
    "serve": ("serve", *SMALL),
    "sweep": ("serve", *SMALL, "--sweep", "request-rate=1:2"),
    "plan": ("plan", *SMALL, "--gpus", "2"),
    "plan limits": ("plan", *SMALL, "--gpus", "2", "--tpot", "50ms"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_in_one_line(command: str) -> None:
    argv = COMMANDS[command]
    flight = () if command in ("sweep", "plan limits") else ("--concurrency", "2")
    ran = run(*argv, *flight, "--isl", "1000", "--osl", "100")
    assert (ran.code, ran.out) == (2, "")
    assert len(ran.err.strip().splitlines()) == 1
    error = refusal(*argv, *flight, "--isl", "1000", "--osl", "100")
    assert (error["field"], error["value"], error["nearest"]) == ("--isl", 1000, 924)
    assert "at most 924" in error["legal"]
    if command == "serve":
        long = (*flight, "--isl", "64", "--osl", "8", "--max-model-len", "2048")
        assert refusal(*argv, *long)["field"] == "--max-model-len"
        assert answer(*argv, *flight, "--isl", "924", "--osl", "100")["max_model_len"] == 1024


@pytest.mark.parametrize("command", ["serve", "plan"])
def test_a_trace_is_told_how_many_of_its_requests_are_longer(tmp_path: Path, command: str) -> None:
    lines = ["arrival,input,output", *(f"{i * 0.1},{200 * (i + 1)},24" for i in range(8))]
    trace = tmp_path / "trace.csv"
    trace.write_text("\n".join(lines))
    error = refusal(*COMMANDS[command], "--arrivals", str(trace))
    assert error["field"] == "--arrivals"
    assert "3 of 8 requests are longer than the 1,024 positions" in error["message"]
    assert "the longest 1,624 tokens" in error["message"]


def test_an_estimate_of_longer_sequences_is_remarked() -> None:
    for phase in (
        ("--batch", "8", "--seq", "2048"),
        ("--phase", "prefill", "--batch", "1", "--seq", "8192"),
    ):
        said = answer(
            "estimate", "llama-2-7b", "--on", "hgx-h100", "--nodes", "1", "--tp", "8", *phase
        )
        beyond = [text for text in said["remarks"] if "4,096 positions" in text]
        assert len(beyond) == (phase[-1] == "8192")


SCALED = [
    ({"type": "linear", "factor": 4.0}, 16_384),
    ({"rope_type": "dynamic", "factor": 2.0}, 8192),
    ({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096}, 32_768),
    ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1024}, 4096),
    ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 1024}, 4096),
    ({"rope_type": "longrope", "original_max_position_embeddings": 1024}, 4096),
    ({"rope_type": "linear", "factor": "2"}, 4096),
    (None, 4096),
]


@pytest.mark.parametrize(("scaling", "reaches"), SCALED)
def test_scaled_positions_reach_as_far_as_the_file_says(
    tmp_path: Path, scaling: dict[str, object] | None, reaches: int
) -> None:
    _, config = catalog.load("models", "llama-2-7b", "model")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config, "rope_scaling": scaling}))
    model = mw.model(str(path))
    assert model.max_positions == reaches
    check_positions(model, load(reaches - 1, 1))
    with pytest.raises(InputError):
        check_positions(model, load(reaches, 1))
