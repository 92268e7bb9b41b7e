"""A stack that is asked for what it is not made for: every command says so; one of collectives alone
runs no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from running import answer, refusal, run

from meshwise import catalog
from meshwise.evidence.prediction import Unsupported
from meshwise.evidence.software import software_of
from meshwise.evidence.tables import Row
from meshwise.stacks.load import described, load_stack
from meshwise.stacks.stack import DEFAULT, kind_of

ON = ("llama-3.1-8b", "--on", "dgx-h100")
TRAIN = ("--batch", "8", "--seq", "512")
DECODE = ("--phase", "decode", "--batch", "8", "--context", "512")
LOAD = ("--isl", "512", "--osl", "64", "--concurrency", "8")
TRAINED = [
    ("estimate", *ON, *TRAIN, "--tp", "8"),
    ("explain", *ON, *TRAIN, "--tp", "8"),
    ("scale", *ON, *TRAIN),
    ("scale", *ON, *TRAIN, "--gpus", "8,16"),
    ("scale", *ON, *TRAIN, "--sweep", "inter.bandwidth=100GB/s:200GB/s"),
    ("plan", *ON, *TRAIN, "--gpus", "8"),
    (
        *("import", "torchrun --nproc-per-node 8 pretrain_gpt.py --tensor-model-parallel-size 8"),
        *("--target", "megatron-lm", "--model", ON[0], *ON[1:]),
        *("--global-batch", "8", "--micro-batch", "1", "--seq", "512", "--gpus", "8"),
    ),
]
SERVED = [
    ("estimate", *ON, *DECODE, "--tp", "8"),
    ("explain", *ON, *DECODE, "--tp", "8"),
    ("scale", *ON, *DECODE),
    ("scale", *ON, "--phase", "prefill", *TRAIN),
    ("serve", *ON, *LOAD, "--tp", "8"),
    ("serve", *ON, *LOAD, "--tp", "4", "--prefill-instances", "1"),
    ("serve", *ON, *LOAD[:4], "--tp", "8", "--sweep", "request-rate=1:4", "--requests", "40"),
    ("plan", *ON, *LOAD, "--gpus", "8"),
    ("import", f"vllm serve {ON[0]} -tp 8", *ON[1:], *LOAD),
]
CASES = [(c, "vllm", "megatron-core") for c in TRAINED] + [(c, "nemo", "sglang") for c in SERVED]


def _remarks(record: Any) -> list[str]:
    if "remarks" in record:
        return [str(r) for r in record["remarks"]]
    return [str(r) for point in record["points"] for r in point["remarks"]]


def _said(text: str) -> bool:
    return "riced as if " in text and " made for " in " ".join(text.split())


@pytest.mark.parametrize(("argv", "foreign", "own"), CASES)
def test_every_command_says_what_a_stack_is_not_made_for(
    argv: tuple[str, ...], foreign: str, own: str
) -> None:
    for stack, wanted in ((foreign, True), (own, False), ("ideal", False)):
        said = [r for r in _remarks(answer(*argv, "--stack", stack)) if _said(r)]
        assert bool(said) is wanted, (argv, stack)
        assert _said(run(*argv, "--stack", stack).out) is wanted


@pytest.mark.parametrize("argv", [*TRAINED, *SERVED])
def test_a_library_of_collectives_runs_no_model(argv: tuple[str, ...]) -> None:
    error = refusal(*argv, "--stack", "nccl")
    assert (error["field"], error["value"]) == ("--stack", "nccl")
    assert error["nearest"] in DEFAULT.values() and error["nearest"] in error["legal"]
    assert answer("collective", "all_reduce", "1MiB", *ON[1:], "--stack", "nccl")["time_s"] > 0


def test_an_exported_plan_keeps_the_remark(tmp_path: Path) -> None:
    for stack, wanted in (("vllm", True), ("megatron-core", False)):
        record = answer(*TRAINED[0], "--stack", stack)
        path = tmp_path / "e.json"
        path.write_text(json.dumps(record), encoding="utf-8")
        found = answer("export", "megatron-lm", "--from", str(path))
        assert any(map(_said, found["remarks"])) is wanted
        assert _said(run("export", "megatron-lm", "--from", str(path)).out) is wanted


def test_every_stack_of_the_catalog_states_what_it_is_made_for() -> None:
    for name in catalog.names("stacks"):
        assert "runs" in described(name).switches, name
    assert all(kind_of(p) in load_stack(name).runs for p, name in DEFAULT.items())


def test_a_row_measured_on_software_that_does_not_run_it_is_none() -> None:
    with pytest.raises(Unsupported, match="made for training alone"):
        software_of(Row(2, {}), "deepspeed-2024", "decode")
    with pytest.raises(Unsupported, match="made for inference alone"):
        software_of(Row(2, {}), "vllm-0.9", "train")
    assert software_of(Row(2, {}), "vllm-0.9", "decode").stack.name == "vllm"
