"""What ``meshwise import`` and ``plan --compare`` answer of a command, and what bad input gets."""

from __future__ import annotations

import time

import pytest
from running import answer, refusal, run

ON = ("--on", "hgx-h100", "--nodes", "1")
LOAD = ("--isl", "1024", "--osl", "64", "--concurrency", "16")
VLLM = "vllm serve meta-llama/Llama-3.1-8B-Instruct \\\n  -tp 2 \\\n  --enable-lora --port 80 --max-num-seqs 64\n"


def test_each_value_has_its_source(tmp_path) -> None:
    script = tmp_path / "serve.sh"
    script.write_text(VLLM)
    d = answer("import", str(script), *ON, *LOAD)
    assert d["from"]["tp"] == {"source": "flag", "file": None, "line": 2, "word": "-tp 2"}
    assert d["from"]["pp"]["source"] == "default" and "vLLM" in d["from"]["pp"]["word"]
    assert d["from"]["isl"]["source"] == "caller"
    assert d["asked"] == ["isl", "osl", "concurrency"]
    assert d["load"] == {"phase": "serve", "isl": 1024, "osl": 64, "concurrency": 16}
    assert d["commands"] == 1 and d["yours"] == d["layout"]
    flags = d["flags"]
    assert "-tp 2" in flags["layout"] and "--port 80" in flags["none"]
    assert [u["flag"] for u in flags["unpriced"]] == ["--enable-lora"]
    assert flags["price"] == ["--max-num-seqs 64"]


def test_a_load_that_the_command_says_otherwise_is_noted() -> None:
    load = ("--global-batch", "32", "--seq", "2048")
    notes = [
        "the command says --global-batch-size 16; 32 is priced",
        "the command says --seq-length 4096; 2048 is priced",
    ]
    alone = answer("import", TRAINED, *OF, *load)
    assert alone["notes"][:2] == notes
    beside = ("plan", "llama-3.1-8b", *ON, *load)
    compared = answer(*beside, "--compare", TRAINED)["compared"]
    assert compared["notes"][:2] == notes
    for d in (alone, compared):
        assert {d["from"][name]["source"] for name in ("global_batch", "seq")} == {"caller"}
    shown = run("import", TRAINED, *OF, *load).out
    assert "size 16" not in shown.partition("Read from")[2]
    same = answer("import", TRAINED, *OF, "--global-batch", "16")
    assert not [n for n in same["notes"] if "the command says" in n]


@pytest.mark.parametrize("text", ["vllm serve $MODEL -tp 4", "trtllm-serve ${MODEL} --tp_size 4"])
def test_a_variable_for_the_model_is_asked_for_by_its_name(text) -> None:
    error = refusal("import", text, *ON)
    assert [q["name"] for q in error["asked"]] == ["$MODEL", "isl", "osl", "concurrency"]
    assert "--set MODEL=" in error["legal"]
    assert "$MODEL" in refusal("import", text, *ON, *LOAD)["message"]
    assert answer("import", text, *ON, *LOAD, "--set", f"MODEL={SERVED}")["model"] == "llama-3.1-8b"


def test_a_dense_model_has_no_word_on_experts_and_the_best_no_row_beside_itself() -> None:
    text = f"vllm serve {SERVED} -tp 1 -dp 2"
    d = answer("import", text, *ON, *LOAD)
    assert not [n for n in d["notes"] if "experts" in n]
    best = f"vllm serve {SERVED} -tp {d['best']['tp']} -pp {d['best']['pp']} -dp {d['best']['dp']}"
    shown = run("import", best, *ON, *LOAD).out
    assert "It is the best" in shown and "(0 to 0)" not in shown
    assert not [row for row in shown.splitlines() if row.startswith("best ")]


def test_a_change_is_advised_beyond_its_own_interval_only() -> None:
    text = "vllm serve meta-llama/Llama-3.1-8B-Instruct -tp 1 -pp 4"
    d = answer("import", text, *ON, *LOAD)
    rows = [*d["changes"], d["best"]]
    assert rows
    for row in rows:
        assert row["gain_low"] <= row["gain"] <= row["gain_high"]
        assert row["advised"] == (row["gain_low"] > 0)
        assert row["tie"] == (row["gain_low"] <= 0 <= row["gain_high"])


def test_compare_has_the_same_figures() -> None:
    text = "vllm serve meta-llama/Llama-3.1-8B-Instruct -tp 4 -pp 2"
    alone = answer("import", text, *ON, *LOAD)
    beside = answer("plan", "llama-3.1-8b", *ON, "--gpus", "8", *LOAD, "--compare", text)[
        "compared"
    ]
    for key in ("layout", "best", "changes", "verdict", "flags", "warnings", "runs"):
        assert beside[key] == alone[key]


SERVED = "meta-llama/Llama-3.1-8B"
SHARE = "--kv_cache_free_gpu_memory_fraction 0.2"


def test_the_word_that_decides_is_the_source(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cfg.yaml").write_text("max-model-len: 8192\ntensor-parallel-size: 2\n")
    command = f"vllm serve {SERVED} --config cfg.yaml --tensor-parallel-size 4"
    d = answer("import", command, *ON, *LOAD)
    assert d["layout"]["tp"] == 4 and d["from"]["tp"]["word"] == "--tensor-parallel-size 4"
    assert d["from"]["max_len"]["file"] == "cfg.yaml"


def test_what_a_file_or_a_flag_says_is_not_the_targets_own(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more.yaml").write_text(
        "enable_attention_dp: true\nkv_cache_config:\n  dtype: fp8\n  free_gpu_memory_fraction: 0.5\n"
    )
    engine = f"trtllm-serve {SERVED} --tp_size 4"
    d = answer("import", f"{engine} --extra_llm_api_options more.yaml", *ON, *LOAD)
    places = {
        name: (d["from"][name]["file"], d["from"][name]["line"]) for name in ("dp", "kv_dtype")
    }
    assert places == {"dp": ("more.yaml", 1), "kv_dtype": ("more.yaml", 3)}
    assert d["from"]["memory_share"]["line"] == 4 and d["from"]["pp"]["source"] == "default"
    d = answer("import", f"{engine} {SHARE}", *ON, *LOAD)
    assert (d["from"]["memory_share"]["source"], d["from"]["memory_share"]["word"]) == (
        "flag",
        SHARE,
    )


def test_keys_of_a_deepspeed_file_are_the_source(tmp_path) -> None:
    zero = tmp_path / "zero.json"
    zero.write_text(
        '{"train_batch_size": 16,\n "train_micro_batch_size_per_gpu": 1,\n "bf16": {"enabled": true},\n'
        ' "zero_optimization": {"stage": 2}}'
    )
    d = answer("import", str(zero), *OF, "--gpus", "8", "--seq", "4096")
    read = d["from"]
    assert (read["shard"]["word"], read["shard"]["line"]) == ("zero_optimization.stage: 2", 4)
    assert read["dtype"]["source"] == read["micro_batch"]["source"] == "flag"
    assert read["tp"]["source"] == "default"


TRAINED = (
    "torchrun --nproc-per-node 8 pretrain_gpt.py --tensor-model-parallel-size 2 --num-layers 32 "
    "--hidden-size 4096 --num-attention-heads 32 --group-query-attention --num-query-groups 8 "
    "--ffn-hidden-size 14336 --seq-length 4096 --micro-batch-size 1 --global-batch-size 16 --bf16 "
    "--use-distributed-optimizer"
)
OF = ("--model", "llama-3.1-8b", *ON)


def test_an_offload_that_the_memory_does_not_need_is_advised_against() -> None:
    d = answer("import", f"{TRAINED} --optimizer-cpu-offload", *OF)
    (row,) = [r for r in d["changes"] if r["axis"] == "offload_optimizer"]
    without = answer("import", TRAINED, *OF)
    assert row["step_s"] == without["yours"]["step_s"] < d["yours"]["step_s"]
    assert row["fits"] and row["advised"] and row["gain_low"] < row["gain"] < row["gain_high"]
    assert [r["axis"] for r in without["changes"] if r["axis"] == "offload_optimizer"] == []
    shown = run("import", f"{TRAINED} --optimizer-cpu-offload", *OF).out
    assert "optimizer on the host" in shown and "with it on the GPUs a step takes" in d["verdict"]


def test_an_offload_without_which_it_does_not_fit_is_kept() -> None:
    text = TRAINED.replace("-size 2 --num", "-size 1 --num").replace(
        " --use-distributed-optimizer", ""
    )
    d = answer("import", f"{text} --optimizer-cpu-offload", *OF)
    assert d["runs"] and not [r for r in d["changes"] if r["axis"] == "offload_optimizer"]
    assert run("import", text, *OF, "--json").code == 3


def test_fewer_at_once_than_asked_is_priced_and_a_misfit_is_none() -> None:
    text = "vllm serve meta-llama/Llama-3.1-8B-Instruct -tp 1 --gpu-memory-utilization {}"
    load = ("--isl", "8192", "--osl", "64", "--concurrency", "64")
    few = answer("import", text.format(0.35), *ON, *load)
    assert few["runs"] and 1 <= few["requests_at_once"] < 64
    assert str(few["requests_at_once"]) in few["verdict"]
    ran = run("import", text.format(0.1), *ON, *load, "--json")
    assert ran.code == 3
    d = ran.json()
    assert not d["runs"]
    assert [w["rule"] for w in d["warnings"] if w["severity"] == "fails"] == ["out_of_memory"]


def test_files_beside_a_script_are_found(tmp_path) -> None:
    (tmp_path / "more.yaml").write_text("pipeline-parallel-size: 2\n")
    script = tmp_path / "serve.sh"
    script.write_text("vllm serve meta-llama/Llama-3.1-8B-Instruct -tp 2 --config more.yaml\n")
    d = answer("import", str(script), *ON, *LOAD)
    assert (d["layout"]["tp"], d["layout"]["pp"]) == (2, 2)
    assert d["from"]["pp"]["file"] == "more.yaml"


def test_which_and_set() -> None:
    text = "vllm serve meta-llama/Llama-3.1-8B -tp $TP\nvllm serve meta-llama/Llama-3.1-8B -tp 4"
    error = refusal("import", text, *ON)
    assert [c["number"] for c in error["commands"]] == [1, 2]
    assert (
        "--which" in error["legal"] and "--set TP" in error["legal"] and "--isl" in error["legal"]
    )
    d = answer("import", text, *ON, *LOAD, "--which", "1", "--set", "TP=2")
    assert d["layout"]["tp"] == 2
    assert refusal("import", text, *ON, *LOAD, "--which", "3")["field"] == "--which"
    assert refusal("import", text, *ON, *LOAD, "--set", "TP")["field"] == "--set"
    plan = ("plan", "llama-3.1-8b", *ON, "--gpus", "4", *LOAD, "--compare", text, "--which", "2")
    assert answer(*plan, "--set", "TP=2")["compared"]["layout"]["tp"] == 4


def test_a_contradiction_names_file_line_and_both(tmp_path) -> None:
    script = tmp_path / "serve.sh"
    script.write_text("vllm serve m \\\n -tp 2 \\\n --tensor-parallel-size 4\n")
    error = refusal("import", str(script), *ON)
    assert (error["line"], error["file"], error["nearest"]) == (3, str(script), 4)
    assert "-tp 2" in error["message"] and "line 2" in error["message"]


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)
BAD = {
    "nothing": b"",
    "spaces": b" \n\n",
    "binary": bytes(range(256)) * 4,
    "a NUL": b"vllm serve m -tp 2\0",
    "aliases": BOMB.encode(),
    "a tag": b"apiVersion: v1\nkind: Pod\nspec: !!python/object/apply:os.system ['true']\n",
    "many flags": b"vllm serve m " + b"--tensor-parallel-size 2 --port 1 " * 20_000,
    "more than a MiB": b"# x\n" * 300_000,
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_end_in_one_line_soon(name: str, tmp_path) -> None:
    path = tmp_path / ("launch.yaml" if name in ("aliases", "a tag") else "launch.sh")
    path.write_bytes(BAD[name])
    start = time.monotonic()
    ran = run("import", str(path), *ON, *LOAD)
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert name == "many flags" or "launch" in ran.err
    assert time.monotonic() - start < 10.0


def test_what_is_no_file(tmp_path) -> None:
    for path in (tmp_path, tmp_path / "nowhere.sh"):
        assert refusal("import", str(path), *ON)["field"] == "COMMAND"
    assert refusal("import", "vllm", "serve", "m", *ON)["field"] == "COMMAND"
