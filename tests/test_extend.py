"""The page on extending meshwise: each change made on a copy of the sources, as the page has it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/how-to/extend.md"
LOAD = ("--tp", "2", "--batch", "8", "--seq", "1024", "--json")


def blocks(language):
    return re.findall(
        rf"^```{re.escape(language)}\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S
    )


@pytest.fixture
def copy(tmp_path):
    """A copy of the package; ``ask`` runs a command of it."""
    shutil.copytree(
        ROOT / "src/meshwise", tmp_path / "meshwise", ignore=shutil.ignore_patterns("__pycache__")
    )

    def ask(*argv):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "meshwise", *argv], cwd=tmp_path, env=environment,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return tmp_path, ask


def test_a_device_of_a_new_generation_is_one_file(copy):
    folder, ask = copy
    device, cluster, _, _ = blocks("toml")
    (folder / "meshwise/catalog/devices/acme-x1.toml").write_text(device)
    (folder / "mine.toml").write_text(cluster)
    answer = json.loads(ask("estimate", "llama-3.1-8b", "--on", "mine.toml", *LOAD))
    assert answer["step_s"] > 0
    assert any("kernels/b200 (inherited by acme-x1)" in source for source in answer["provenance"])
    usual = json.loads(ask("estimate", "llama-3.1-8b", "--on", "hgx-b200", *LOAD))
    assert answer["compute_s"] < usual["compute_s"]  # a faster chip of the same kernels
    assert "Acme X1" in ask("catalog", "device", "acme-x1")


def test_a_model_family_is_one_entry(copy):
    folder, ask = copy
    entry, _ = blocks("{code-block} python")
    file = folder / "meshwise/models/families/llama.py"
    file.write_text(file.read_text("utf-8") + "\n\n" + entry)
    hidden, ffn, heads, kv, vocab, layers = 2048, 8192, 16, 4, 50000, 4
    config = {  # what it leaves out is the entry's: KV heads, positions
        "model_type": "acme",
        "architectures": ["AcmeForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": vocab,
    }
    (folder / "config.json").write_text(json.dumps(config))
    head = hidden // heads
    attention = 2 * hidden * hidden + 2 * hidden * kv * head + (heads + 2 * kv) * head
    whole = layers * (attention + 3 * hidden * ffn + 2 * hidden) + hidden
    answer = json.loads(ask("model", "config.json", "--json"))
    assert answer["parameters"] in (whole + vocab * hidden, whole + 2 * vocab * hidden)


def test_a_software_stack_is_one_file(copy):
    folder, ask = copy
    _, _, stack, _ = blocks("toml")
    (folder / "acme-train.toml").write_text(stack)
    (folder / "meshwise/catalog/stacks/acme.toml").write_text(stack)
    sharded = ("llama-3.1-8b", "--on", "hgx-h100", "--dp", "4", "--shard", "zero1", *LOAD)

    def answer(name):
        return json.loads(ask("estimate", *sharded, "--stack", name))

    own, shipped, usual = (answer(name) for name in ("acme-train.toml", "acme", "megatron-core"))
    assert own["stack"]["name"] == "acme-train" and shipped["stack"]["name"] == "acme"
    assert own["step_s"] == shipped["step_s"] > usual["step_s"]  # norms by passes, gathers alone
    changed = {k for k, v in own["stack"].items() if v != usual["stack"][k]}
    assert changed == {"name", "title", "fused_norm", "overlap_param_gather", "shards"}
    shown = ask("catalog", "stack", "acme")
    assert "as megatron-core: TransformerEngine" in shown and "acme/norm.py" in shown


def test_a_software_version_is_one_table(copy):
    folder, ask = copy
    *_, version = blocks("toml")
    file = folder / "meshwise/catalog/stacks/vllm.toml"
    file.write_text(file.read_text("utf-8") + "\n" + version)
    load = (
        "llama-3.1-8b",
        "--on",
        "hgx-h100",
        "--isl",
        "1k",
        "--osl",
        "128",
        "--concurrency",
        "64",
    )
    tpot = {
        name: json.loads(ask("serve", *load, "--json", "--stack", name))["tpot_s"]
        for name in ("vllm", "vllm-0.13", "vllm-0.20", "vllm-9.1")
    }
    assert tpot["vllm"] == tpot["vllm-0.13"] > tpot["vllm-0.20"]
    assert tpot["vllm-9.1"] < tpot["vllm-0.20"]  # what 0.14 brought holds too


def test_a_schedule_is_one_entry(copy):
    folder, ask = copy
    _, entry = blocks("{code-block} python")
    file = folder / "meshwise/stacks/schedules.py"
    text = file.read_text("utf-8")
    marker = "NAMES = tuple(SCHEDULES)\n"
    assert text.count(marker) == 1
    file.write_text(text.replace(marker, entry))
    pipelined = ("gpt3-13b", "--on", "dgx-a100", "--pp", "4", "--micro-batch", "1", *LOAD)
    bubbles = {
        kind: json.loads(ask("estimate", *pipelined, "--schedule", kind))["bubble_s"]
        for kind in ("1f1b", "zb-1p", "acme")
    }
    assert bubbles["acme"] == bubbles["zb-1p"] < bubbles["1f1b"]
    text = ask(
        "export", "torchtitan", "llama-2-7b", "--tp", "2", "--pp", "4", "--dp", "1",
        "--micro-batch", "1", "--global-batch", "8", "--seq", "1024", "--schedule", "acme",
    )  # fmt: skip
    assert "Acme" in text
