"""What an engine was given when it was priced is written into its command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import answer, refusal, run

LOAD = ("--on", "hgx-h100", "--isl", "1024", "--osl", "128", "--concurrency", "16")
LIMITS = ("--gpu-memory-utilization", "0.7", "--max-model-len", "4096")
FLAGS = {
    "vllm": ("--gpu-memory-utilization 0.7", "--max-model-len 4096"),
    "sglang": ("--mem-fraction-static 0.7", "--context-length 4096"),
}


@pytest.mark.parametrize("stack", FLAGS)
@pytest.mark.parametrize("command", [("serve", "--tp", "2"), ("plan", "--gpus", "2")])
def test_limits_survive(stack: str, command: tuple[str, ...], tmp_path: Path) -> None:
    record = answer(command[0], "llama-3.1-8b", *LOAD, *LIMITS, *command[1:], "--stack", stack)
    assert record["workload"]["gpu_memory_utilization"] == 0.7
    assert record["workload"]["max_model_len"] == 4096
    path = tmp_path / "priced.json"
    path.write_text(json.dumps(record))
    text = run("export", stack, "--from", str(path)).out
    assert all(flag in text for flag in FLAGS[stack])


def test_what_means_nothing_is_refused() -> None:
    estimate = ("estimate", "llama-3.1-8b", "--on", "hgx-h100", "--tp", "2", "--batch", "8")
    export = ("export", "megatron-lm", "llama-3.1-8b", "--tp", "2", "--batch", "8")
    for part in ("mla_up_proj", "moe_act", "shared_experts"):
        asked = ("--seq", "512", "--recompute", "selective", "--recompute-modules", part)
        assert refusal(*estimate, *asked)["field"] == "--recompute-modules"
        assert refusal(*export, *asked)["field"] == "--recompute-modules"
    experts = ("qwen3-30b-a3b", "--on", "hgx-h100", "--tp", "4", "--dp", "2", "--ep", "8")
    assert "--sequence-parallel" in run("export", "megatron-lm", *experts, "--seq", "2048").out


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("vllm", "mlx-community/Llama-3.2-3B-Instruct-4bit"),
        ("sglang", "mlx-community/Llama-3.2-3B-Instruct-4bit"),
        ("trtllm", "bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M"),
    ],
)
def test_checkpoints_that_an_engine_does_not_load(target: str, name: str) -> None:
    """No command is written for them, on a cluster or not; a price says that it is as if it did."""
    load = ("--isl", "1024", "--osl", "128", "--concurrency", "4", "--tp", "1")
    for more in ((), ("--on", "hgx-h100")):
        found = refusal("export", target, name, *load, *more)
        assert found["field"] == "MODEL" and "does not load" in found["message"]
    served = answer("serve", name, "--on", "hgx-h100", "--stack", target, *load)
    assert any("does not load" in remark for remark in served["remarks"])


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen2.5-14B-Instruct-AWQ",
        "Qwen/Qwen2.5-14B-Instruct-GPTQ-Int4",
        "nvidia/Llama-3.1-8B-Instruct-FP8",
        "nvidia/Llama-3.1-8B-Instruct-FP4",
        "llama-3.1-8b-int4-autoround",
        "llama-3.1-8b-int4",
        "llama-3.1-8b-fp8",
        "mlx-community/Llama-3.2-3B-Instruct-4bit",
    ],
)
def test_an_engine_of_gguf_files_is_said_to_load_no_other_format(name: str) -> None:
    """Whatever method stands behind the name of a format."""
    load = ("--isl", "256", "--osl", "16", "--concurrency", "1", "--requests", "4")
    argv = ("serve", name, "--on", "hgx-h100", "--nodes", "1", *load, "--stack", "llama.cpp")
    said = answer(*argv)["remarks"]
    assert sum("llama.cpp does not load" in remark for remark in said) == 1
