"""An option that is given is honoured, or refused in one line: none is dropped."""

from __future__ import annotations

from typing import Any

import pytest
from running import answer, refusal, run

MODEL = "deepseek-v2-lite"
HERE = ("--on", "hgx-h100")
# a stack that trains experts with sequence parallelism and without
TRAIN = ("--stack", "internevo", "--batch", "32", "--seq", "512")
PROMPT = ("--phase", "prefill", "--batch", "8", "--seq", "512")
TOKEN = ("--phase", "decode", "--batch", "8", "--context", "512")
LOAD = ("--isl", "512", "--osl", "32", "--concurrency", "8")
WIDE = ("--tp", "2", "--dp", "8")
GRID = ("--tp", "2", "--pp", "2", "--dp", "2")
# experts whole on some ranks and split over others
SGLANG = ("--stack", "sglang")
MODES = {
    "scale train": ("scale", MODEL, *HERE, *TRAIN, "--tp", "1,2"),
    "scale prefill": ("scale", MODEL, *HERE, *PROMPT, "--tp", "1,2"),
    "scale decode": ("scale", MODEL, *HERE, *TOKEN, "--tp", "1,2"),
    "scale gpus": ("scale", MODEL, *HERE, *TRAIN, "--gpus", "16"),
    "scale sweep": ("scale", MODEL, *HERE, *TRAIN, "--tp", "1,2", "--sweep", "nics=4:8"),
    "estimate train": ("estimate", MODEL, *HERE, *TRAIN, *WIDE, "--pp", "2"),
    "estimate prefill": ("estimate", MODEL, *HERE, *PROMPT, *GRID),
    "estimate decode": ("estimate", MODEL, *HERE, *TOKEN, *WIDE, "--stack", "sglang"),
    "explain decode": ("explain", MODEL, *HERE, *TOKEN, "--tp", "2", "--dp", "2"),
    "serve": ("serve", MODEL, *HERE, *LOAD, "--tp", "2", "--dp", "2", "--ep", "4"),
    "serve split": ("serve", MODEL, *HERE, *LOAD, "--tp", "2", "--dp", "2"),
    "serve experts": ("serve", MODEL, *HERE, *LOAD, "--tp", "2", "--ep", "2"),
    "plan train": ("plan", MODEL, *HERE, *TRAIN, "--gpus", "16", "--tp", "2", "--ep", "1"),
    "plan serve": ("plan", MODEL, *HERE, *LOAD, "--gpus", "4", "--ep", "2"),
}
REFUSED = {
    "scale train": "--context=9 --kv-dtype=fp8 --weight-dtype=fp8 --weak",
    "scale prefill": "--context=9 --micro-batch=2 --recompute=full --grad-dtype=fp32 --gpus=8 --weak",
    "scale decode": "--seq=9 --micro-batch=2 --recompute=full --grad-dtype=fp32 --gpus=8 "
    "--attention=unfused --attention=flash",
    "scale gpus": "--context=9 --kv-dtype=fp8 --weight-dtype=fp8 --objective=latency "
    "--sweep=batch=8:16",
    "scale sweep": "--context=9 --kv-dtype=fp8 --weight-dtype=fp8 --weak --gpus=8",
    "estimate train": "--context=9 --kv-dtype=fp8 --weight-dtype=fp8 --gpus=4",
    "estimate prefill": "--context=9 --micro-batch=2 --recompute=full --grad-dtype=fp32 "
    "--schedule=gpipe --shard=zero1 --vp=2",
    "estimate decode": "--seq=9 --micro-batch=2 --recompute=full --grad-dtype=fp32 --cp=2 "
    "--schedule=gpipe --shard=zero1 --attention=unfused",
    "explain decode": "--seq=9 --attention=unfused --schedule=1f1b --recompute=none",
    "serve": "--gpus=2 --acceptance=0.5 --draft-cost=0.1 --max-model-len=543 "
    "--gpu-memory-utilization=1.5",
    "plan train": "--kv-dtype=fp8 --weight-dtype=fp8 --dcp=2 --prefix-hit=0.5 --draft-tokens=2 "
    "--draft-cost=layer --isl=9 --disaggregated --chunk=9 --acceptance=0.5 "
    "--gpu-memory-utilization=0.8 --max-model-len=4096",
    "plan serve": "--context-length=99 --batch=8 --seq=9 --cp=2 --vp=2 --micro-batch=2 --recompute=full --shard=zero1 "
    "--sequence-parallel=true --placement=tp-cp-dp-pp --schedule=gpipe --grad-dtype=fp32 "
    "--free=dtype --disaggregated",
}
HONOURED = {
    "scale train": "--nodes=1 --nics=4 --micro-batch=2 --recompute=full --dtype=fp8 "
    "--comm-dtype=fp8 --grad-dtype=bf16 --stack=deepspeed --attention=unfused "
    "--overlap=split --sequence-parallel --limit-threshold=0.5 --objective=latency",
    "scale prefill": "--weight-dtype=fp8 --kv-dtype=fp8 --comm-dtype=fp8 --attention=unfused "
    "--overlap=split --sequence-parallel",
    "scale decode": "--weight-dtype=fp8 --kv-dtype=fp8 --comm-dtype=fp8 --overlap=split "
    "--stack=sglang --ideal --sequence-parallel",
    "scale gpus": "--micro-batch=1 --recompute=full --grad-dtype=bf16 --weak --tp=2 "
    "--limit-threshold=0.5",
    "scale sweep": "--micro-batch=2 --recompute=full --comm-dtype=fp8 --sequence-parallel",
    "estimate train": "--nics=4 --micro-batch=2 --recompute=full --dtype=fp8 --comm-dtype=fp8 "
    "--grad-dtype=bf16 --attention=unfused --overlap=decomposed --sequence-parallel --vp=2 --ep=2 "
    "--etp=1 --shard=zero1 --schedule=gpipe --schedule=zb-1p --placement=dp-tp-cp-pp",
    "estimate prefill": "--kv-dtype=fp8 --weight-dtype=fp8 --cp=2 --ep=2 --sequence-parallel",
    "estimate decode": "--kv-dtype=fp8 --weight-dtype=fp8 --ep=2 --sequence-parallel "
    "--placement=dp-tp-cp-pp",
    "explain decode": "--kv-dtype=fp8 --comm-dtype=fp8",
    "serve": "--kv-dtype=fp8 --weight-dtype=fp8 --comm-dtype=fp8 --attention=unfused "
    "--overlap=split --prefix-hit=0.5 --chunk=64 "
    "--gpu-memory-utilization=0.5",
    "serve split": "--etp=4",
    "serve experts": "--expert-imbalance=2",
    "plan train": "--nics=4 --recompute=full --grad-dtype=bf16 --micro-batch=1 --shard=zero1 "
    "--overlap=split --sequence-parallel=true --placement=tp-dp-cp-pp --pp=2 --cp=2 --top=3 "
    "--attention=unfused --price=2",
    "plan serve": "--mem-fraction-static=0.5 --kv-dtype=fp8 --prefix-hit=0.5 --chunk=64 --tp=2 --expert-imbalance=2 --top=2 "
    "--objective=latency --price=2",
}


def each(table: dict[str, str]) -> list[tuple[str, str]]:
    return [(mode, option) for mode, options in table.items() for option in options.split()]


def said(record: dict[str, Any]) -> dict[str, Any]:
    """An answer without what it only repeats of the question."""
    echo = ("elapsed_s", "workload", "formats", "stack", "verdict", "layout")
    return {key: value for key, value in record.items() if key not in echo}


@pytest.fixture(scope="module")
def without() -> dict[str, Any]:
    return {mode: said(answer(*argv)) for mode, argv in MODES.items()}


@pytest.mark.parametrize(("mode", "option"), each(REFUSED))
def test_an_option_without_meaning_is_refused(mode: str, option: str) -> None:
    refusal(*MODES[mode], option)


@pytest.mark.parametrize(("mode", "option"), each(HONOURED))
def test_an_option_with_meaning_changes_the_answer(
    mode: str, option: str, without: dict[str, Any]
) -> None:
    assert said(answer(*MODES[mode], option)) != without[mode]


@pytest.mark.parametrize(
    "argv",
    [
        ("serve", "llama-3.1-8b", *HERE, *LOAD),
        ("plan", "llama-3.1-8b", *HERE, *LOAD, "--gpus", "2"),
        ("plan", "llama-3.1-8b", *HERE, *TRAIN, "--gpus", "8"),
    ],
)
def test_experts_that_a_model_does_not_have_are_in_no_imbalance(argv: tuple[str, ...]) -> None:
    assert refusal(*argv, "--expert-imbalance", "2")["field"] == "--expert-imbalance"


@pytest.mark.parametrize(("command", "default"), [("scale", 8), ("estimate", 1), ("explain", 1)])
def test_pages_say_which_microbatch_is_priced(command: str, default: int) -> None:
    asked = (command, "llama-3.1-8b", *HERE, "--batch", "8", "--seq", "512")
    assert f"batch 8, microbatch {default} (the default), sequence 512" in run(*asked).out
    assert "batch 8, microbatch 2, sequence 512" in run(*asked, "--micro-batch", "2").out
    given = answer(*asked, "--micro-batch", "2", "--recompute", "full")["workload"]
    assert (given["micro_batch"], given["recompute"]) == (2, "full")
    assert answer(*asked)["workload"]["micro_batch"] is None


@pytest.mark.parametrize("command", ["scale", "estimate", "explain", "plan"])
def test_two_spellings_of_an_option_agree(command: str) -> None:
    base = f"{command} gpt2 --on dgx-a100 --seq 512 --batch 8"
    if command == "plan":
        base += " --gpus 8"
    assert run(*base.split(), "--global-batch=8").code == 0
    error = refusal(*base.split(), "--global-batch", "16")
    assert (error["field"], error["nearest"]) == ("--global-batch", "--batch 8")


@pytest.mark.parametrize(
    ("kind", "name", "entry"),
    [
        ("model", "meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("cluster", "ml.p5.48xlarge", "aws-p5"),
        ("device", "H100-SXM5", "h100-80gb-sxm"),
    ],
)
def test_the_catalog_reads_names_as_the_commands_do(kind: str, name: str, entry: str) -> None:
    assert entry in run("catalog", kind, name).out.splitlines()[0]


@pytest.mark.parametrize(
    ("kind", "name", "near"),
    [("model", "Qwen/Qwen3-32B-FP8", "qwen3-32b"), ("cluster", "16xh100", "hgx-h100")],
)
def test_an_entry_that_the_catalog_has_not(kind: str, name: str, near: str) -> None:
    assert refusal("catalog", kind, name)["nearest"] == near
