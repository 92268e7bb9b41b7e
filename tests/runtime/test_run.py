"""``meshwise run`` as a user runs it: every phase, the record's contract, what is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.deep import deep
from tests.runtime import tiny

from meshwise import runs
from meshwise.cli import main
from meshwise.clusters.load import load_cluster
from meshwise.runtime.job import Task

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "vocab_size": 256,
    "max_position_embeddings": 128,
}
FAST = ("--threads", "1", "--steps", "3", "--warmup", "1", "--batch", "4", "--seq", "16")


def keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner)


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "config.json"
    table = tiny.config("llama", **SMALL).to_dict() | {"architectures": ["LlamaForCausalLM"]}
    path.write_text(json.dumps(table))
    return str(path)


def record(capsys: Any, *arguments: str) -> dict[str, Any]:
    assert main(["run", *arguments, *FAST, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_training(config: str, capsys: Any) -> None:
    r = record(capsys, config, "--tp", "2", "--layers", "2", "--sequence-parallel")
    assert (r["schema"], r["layers"], r["phase"]) == (1, 2, "train")
    assert r["layout"] == {"tp": 2, "pp": 1, "dp": 1, "ranks": 2}
    assert len(r["measured"]["steps_s"]) == 3
    assert len(r["measured"]["losses"]) == 3
    assert len(r["measured"]["peak_memory_bytes"]) == 2
    step = r["measured"]["step_s"]
    assert r["measured"]["tokens_per_s"] == pytest.approx(4 * 16 / step)
    assert 0 <= r["measured"]["comm_share"] <= 1
    by = {(o["name"], o["kind"], o["phase"]): o for o in r["operations"]}
    gathered = by["layer.attention.input", "all_gather", "forward"]
    assert (gathered["calls"], gathered["group"], gathered["group_size"]) == (2, "tp", 2)
    assert gathered["payload_bytes"] == 4 * 16 * 64 * 4
    for o in r["operations"]:  # what ran was predicted, and the other way round
        if o["kind"] != "compute":
            assert o["measured_s"] is not None, o
            assert o["predicted_s"] is not None, o
    for name in ("layer.mlp.down", "layer.attention.core", "layer.attention.norm", "head.loss"):
        assert by[name, "compute", "forward"]["measured_s"] > 0
        assert by[name, "compute", "forward"]["predicted_s"] > 0
    assert by["layer.mlp.down", "compute", "backward"]["measured_s"] > 0
    assert by["optimizer.adam", "compute", "update"]["measured_s"] > 0
    # all of the step's time is somewhere
    total = sum(o["measured_s"] or 0 for o in r["operations"]) + r["measured"]["unattributed_s"]
    assert total == pytest.approx(r["measured"]["detailed_step_s"], rel=0.02)
    assert r["predicted"]["step_s"] > 0
    page = Path(__file__).parents[2] / "docs" / "reference" / "json.md"
    section = page.read_text(encoding="utf-8").partition("## run\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]+)`", section))))
    assert set(keys(r)) <= named, set(keys(r)) - named
    assert r["host"]["flops_per_s"] > 1e8


@pytest.mark.matrix
def test_narrow_communication_is_measured_apart(config: str, capsys: Any) -> None:
    """What compares narrow with exact communication is no part of the timed steps."""
    axes = ("--tp", "2", "--dp", "2", "--layers", "1")
    r = record(capsys, config, *axes, "--comm-dtype", "int8", "--micro-batch", "2")
    assert 0 < r["comm_error"]["logits"] < 0.05
    assert 0 < r["comm_error"]["gradients"] < 0.05
    by = {(o["name"], o["kind"]): o for o in r["operations"]}
    output = by["layer.mlp.output", "all_reduce"]
    assert (output["calls"], output["algorithm"]) == (1, "int8")
    replicas = by["gradients.dense", "all_reduce"]
    assert (replicas["calls"], replicas["group"], replicas["measured_s"]) == (1, "dp_cp", None)


@pytest.mark.matrix
def test_ring_and_its_links(config: str, capsys: Any) -> None:
    """Each rank sends 2 (N − 1) / N of every payload, all to the next (C6)."""
    r = record(capsys, config, "--tp", "2", "--layers", "1", "--algorithm", "ring")
    payload = sum(
        o["calls"] * o["payload_bytes"] for o in r["operations"] if o["algorithm"] == "ring"
    )
    assert payload > 0
    assert r["links"] == [
        {"rank": 0, "to": 1, "sent_bytes": payload},
        {"rank": 1, "to": 0, "sent_bytes": payload},
    ]


@pytest.mark.parametrize(
    ("phase", "tokens"),
    [deep("decode", 4), ("generate", 4 * 8)],  # which prefills first
)
def test_inference(config: str, capsys: Any, phase: str, tokens: int) -> None:
    r = record(capsys, config, "--tp", "2", "--phase", phase, "--new-tokens", "8")
    measured = r["measured"]
    assert measured["tokens_per_s"] == pytest.approx(tokens / measured["step_s"])
    assert r["predicted"]["tokens_per_s"] > 0
    if phase == "generate":
        assert 0 < measured["tpot_s"] < measured["ttft_s"] + measured["step_s"]
        assert r["predicted"]["tpot_s"] > 0
    kinds = {(o["kind"], o["name"]) for o in r["operations"]}
    assert ("all_gather", "head.logits") in kinds


def test_all_axes_and_the_page(config: str, capsys: Any) -> None:
    arguments = ("--pp", "2", "--micro-batch", "1", *FAST)
    assert main(["run", config, *arguments, "--detail"]) == 0
    page = capsys.readouterr().out
    for words in ("tp=1 pp=2 dp=1", "comm share", "layer.mlp.gate_up", "Predicted for", "Loss"):
        assert words in page
    assert main(["run", config, "--dp", "2", "--shard", "zero3", "--csv", *FAST]) == 0
    assert capsys.readouterr().out.startswith("name,phase,kind")


@pytest.mark.matrix
def test_another_cluster_is_predicted(config: str, capsys: Any) -> None:
    """… as it is run: with wide weights, whatever format the checkpoint's file states; which it says."""
    path = Path(config)
    wide = json.loads(path.read_text(encoding="utf-8"))
    blocks = {"quant_method": "fp8", "weight_block_size": [64, 64]}
    path.write_text(json.dumps(wide | {"quantization_config": blocks}), encoding="utf-8")
    r = record(capsys, config, "--on", "dgx-a100", "--dtype", "bf16")
    assert len(r["remarks"]) == 1 and "is stored in fp8" in r["remarks"][0]
    task = Task(model=wide, dtype="bf16", batch=4, seq=16)
    assert r["predicted"] == runs._run_figures(runs.predicted("x", task, load_cluster("dgx-a100")))
    assert main(["run", config, "--checkpoint", str(path.parent), *FAST]) == 2
    said = capsys.readouterr().err
    assert "--checkpoint: the weights" in said and "stored in fp8" in said
    assert r["host"] is None
    assert "A100" in r["predicted_on"]
    assert r["predicted"]["step_s"] < r["measured"]["step_s"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tp", "3"), ["tp=3 does not divide 8 attention heads", "nearest: 4"]),
        (("--tp", "0"), ["--tp=0"]),
        (("--pp", "4"), ["pp=4: 3 layers make 1 to 3 stages", "nearest: 3"]),
        (("--layers", "9"), ["--layers=9: the model has 3", "nearest: 3"]),
        (("--dp", "3"), ["--batch=4: is not divided by 3 replicas"]),
        (("--micro-batch", "3"), ["--micro-batch=3: does not divide the 4"]),
        (("--seq", "512"), ["--seq=512", "128 positions"]),
        (("--tp", "2", "--seq", "15", "--sequence-parallel"), ["--seq=15", "nearest: 14"]),
        (("--phase", "decode", "--pp", "2"), ["--pp=2", "training only"]),
        (("--phase", "serve"), ["--phase", "nearest: generate"]),
        (("--overlap", "spit"), ["--overlap: 'spit' is not known", "nearest: split"]),
        (("--comm-dtype", "fp8"), ["--comm-dtype: 'fp8' is not known"]),
        (("--algorithm", "rings"), ["--algorithm: 'rings' is not known", "nearest: ring"]),
        (("--dtype", "fp8"), ["--dtype: 'fp8' is not known"]),
        (("--timeout", "soon"), ["--timeout"]),
        (("--shard", "zero3", "--pp", "2"), ["--shard=zero3"]),
        (("--checkpoint", "/no/such"), ["--checkpoint=/no/such: there is no such file"]),
        (("--backend", "nccl", "--tp", "64"), ["tp=64 does not divide"]),
        (("--backend", "nccl", "--dp", "1000", "--batch", "1000"), ["--backend=nccl", "gloo"]),
        (("--backend", "mpi"), ["--backend", "gloo, nccl"]),
    ],
)
def test_what_cannot_be_run_is_one_line(
    config: str, capsys: Any, arguments: tuple[str, ...], words: list[str]
) -> None:
    flags = dict(zip(FAST[::2], FAST[1::2], strict=True))
    rest = [a for k, v in flags.items() if k not in arguments for a in (k, v)]
    assert main(["run", config, *arguments, *rest]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    for word in words:
        assert word in err


def test_a_family_that_cannot_be_split(tmp_path: Path, capsys: Any) -> None:
    assert main(["run", "deepseek-v3"]) == 2
    assert "deepseek_v3" in capsys.readouterr().err


def test_a_checkpoint_is_run(tmp_path: Path, capsys: Any) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(tiny.config("llama", **SMALL))
    model.save_pretrained(tmp_path)
    r = record(capsys, str(tmp_path), "--tp", "2", "--checkpoint", str(tmp_path))
    assert r["workload"]["checkpoint"] == str(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no")
    arguments = ("--checkpoint", str(tmp_path), *FAST)
    assert main(["run", str(tmp_path), "--tp", "2", *arguments]) == 2
    assert "truncated" in capsys.readouterr().err


@pytest.mark.matrix  # test_spawn has one too
def test_under_torchrun(config: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["-m", "meshwise", "run", config, "--tp", "2", "--json", *FAST]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ}, check=False
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["layout"]["tp"] == 2


def test_without_the_extra(config: str, capsys: Any, monkeypatch: Any) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else found(name)
    )
    assert main(["run", config]) == 2
    assert "torch not installed; legal: after `pip install" in capsys.readouterr().err
