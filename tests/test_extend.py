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
    shutil.copytree(ROOT / "src/meshwise", tmp_path / "meshwise")  # with what is compiled of it

    def ask(*argv):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        done = subprocess.run(
            [sys.executable, "-m", "meshwise", *argv], cwd=tmp_path, env=environment,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return tmp_path, ask


def test_a_device_of_a_new_generation_is_one_file(copy):
    folder, ask = copy
    device, cluster = blocks("toml")[:2]
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
    entry = blocks("{code-block} python")[0]
    file = folder / "meshwise/models/families/llama.py"
    file.write_text(file.read_text("utf-8") + "\n\n" + entry)
    hidden, ffn, heads, kv, vocab, layers = 2048, 8192, 16, 4, 50000, 4
    config = {  # what it leaves out is the entry's: positions, a head's width
        "model_type": "acme",
        "architectures": ["AcmeForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
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
    stack = blocks("toml")[2]
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
    version = blocks("toml")[3]
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
    entry = blocks("{code-block} python")[1]
    file = folder / "meshwise/stacks/schedules.py"
    text = file.read_text("utf-8")
    marker = "SCHEDULE_NAMES = tuple(SCHEDULES)\n"
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


def test_a_collective_algorithm_is_one_function(copy):
    folder, ask = copy
    entry = blocks("{code-block} python")[2]
    file = folder / "meshwise/cost/collectives/algorithms.py"
    question = ("collective", "all_reduce", "64KiB", "--on", "dgx-a100", "--ranks", "8")
    question = (*question, "--stack", "megatron-core", "--json")
    before = json.loads(ask(*question))
    file.write_text(file.read_text("utf-8") + "\n\n" + entry)
    after = json.loads(ask(*question))
    names = {c["algorithm"] for c in after["candidates"]} - {
        c["algorithm"] for c in before["candidates"]
    }
    assert names and all(name.startswith("halving") for name in names)
    assert after["algorithm"].startswith("halving")  # few hops win small messages
    assert after["time_s"] < before["time_s"]


def test_a_launch_target_is_a_table_and_a_module(copy):
    folder, ask = copy
    targets = folder / "meshwise/launch/targets"
    load = ("--isl", "1024", "--osl", "128", "--concurrency", "64")

    def there_and_back(*layout):
        written = json.loads(
            ask("export", "acme-serve", "meta-llama/Llama-3.1-8B", *layout, *load, "--json")
        )
        assert written["target"] == "acme" and written["untranslated"] == []
        again = ask("import", written["text"], "--on", "hgx-h100", *load, "--json")
        read = json.loads(again)
        assert read["target"] == "acme" and read["job"] == written["job"]
        return written["text"], read

    (targets / "acme.toml").write_text(blocks("toml")[4])
    text, read = there_and_back("--tp", "2", "--pp", "2", "--dp", "2")
    assert "--shards 2" in text and "--stages 2" in text and "--replicas 2" in text
    assert read["layout"]["tp"] == 2 and read["best"] is not None
    command = "acme serve llama-3.1-8b -s 4 --eager --port 80"
    read = json.loads(ask("import", command, "--on", "hgx-h100", *load, "--json"))
    assert (read["job"]["tp"], read["job"]["pp"]) == (4, 1)
    assert [u["flag"] for u in read["unpriced"]] == ["--eager"]
    assert "acme" in ask("export", "--help")

    (targets / "acme.py").write_text(blocks("{code-block} python")[3])
    text, _ = there_and_back("--tp", "2", "--pp", "2")
    assert "--shards 4" in text
