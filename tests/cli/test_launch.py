"""``meshwise export`` and ``meshwise import``, ``plan --compare``, and answers into files."""

from __future__ import annotations

import json

import pytest
from running import answer, refusal, run

PLAN = (
    "plan",
    "gpt3-175b",
    "--on",
    "dgx-a100",
    "--gpus",
    "64",
    "--global-batch",
    "64",
    "--seq",
    "2048",
)
SERVE = (
    "plan",
    "llama-3.1-70b",
    "--on",
    "hgx-h100",
    "--gpus",
    "8",
    "--isl",
    "2048",
    "--osl",
    "256",
)
MEGATRON = (
    "torchrun --nnodes 8 --nproc-per-node 8 pretrain_gpt.py --bf16 --tensor-model-parallel-size 8 "
    "--pipeline-model-parallel-size 8 --micro-batch-size 1 --global-batch-size 64 --seq-length 2048 "
    "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"
)
VLLM = "vllm serve meta-llama/Llama-3.1-70B-Instruct -tp 4 -dp 2 --max-num-seqs 32 --port 8000"


@pytest.fixture
def plan_file(tmp_path):
    path = tmp_path / "plan.json"
    assert run(*PLAN, "--json", "-o", str(path)).code == 0
    return path


def test_every_row_of_a_plan_goes_out_and_comes_back(plan_file) -> None:
    plan = json.loads(plan_file.read_text())
    for row in (1, 3):
        e = answer("export", "megatron-lm", "--from", str(plan_file), "--row", str(row))
        layout = plan["layouts"][row - 1]
        assert e["gpus"] == 64
        assert e["untranslated"] == []
        back = answer("import", e["text"], "--on", "dgx-a100", "--model", "gpt3-175b")
        assert back["layout"]["step_s"] == pytest.approx(layout["step_s"], rel=1e-9)
        for key in ("tp", "pp", "vp", "dp", "cp", "micro_batch", "recompute", "shard"):
            assert back["layout"][key] == layout[key]


def test_estimates_and_serving_plans_go_out(tmp_path) -> None:
    one = tmp_path / "one.json"
    argv = ("estimate", "llama-2-7b", "--on", "dgx-a100", "--tp", "2", "--dp", "4", "--batch", "8")
    assert run(*argv, "--seq", "4096", "--json", "-o", str(one)).code == 0
    e = answer("export", "torchtitan", "--from", str(one))
    assert "tensor_parallel_degree=2" in e["text"]
    assert e["gpus"] == 8
    served = tmp_path / "served.json"
    assert run(*SERVE, "--concurrency", "64", "--json", "-o", str(served)).code == 0
    e = answer("export", "vllm", "--from", str(served), "--wrapper", "slurm")
    assert "--max-model-len 2304" in e["text"]
    assert refusal("export", "megatron-lm", "--from", str(served))["field"] == "TARGET"


def test_by_options() -> None:
    argv = ("export", "sglang", "deepseek-v3", "--on", "hgx-h200", "--dp", "16", "--ep", "16")
    text = run(*argv, "--etp", "1", "--isl", "4096", "--osl", "512").out
    assert "--tp-size 16" in text
    assert "--enable-dp-attention" in text


def test_import_prices_and_says_what_to_change() -> None:
    d = answer("import", MEGATRON, "--on", "dgx-a100", "--model", "gpt3-175b")
    assert d["target"] == "megatron-lm"
    assert d["layout"]["recompute"] == "full"
    assert d["best"]["step_s"] < d["layout"]["step_s"]
    assert d["changes"][0]["step_s"] < d["layout"]["step_s"]
    assert "longer than the best" in d["verdict"]
    same = answer(
        *("estimate", "gpt3-175b", "--on", "dgx-a100", "--tp", "8", "--pp", "8", "--batch", "64"),
        *("--micro-batch", "1", "--seq", "2048", "--recompute", "full"),
        *("--dtype", "bf16", "--grad-dtype", "fp32"),  # as --bf16 has it
    )
    assert d["layout"]["step_s"] == pytest.approx(same["step_s"], rel=1e-12)


def test_import_of_a_server() -> None:
    d = answer("import", VLLM, "--on", "hgx-h100", "--isl", "2048", "--osl", "256")
    assert d["model"] == "llama-3.1-70b"
    assert d["layout"]["concurrency"] == 64
    assert d["ignored"] == ["--port 8000"]
    other = VLLM.replace("-tp 4 -dp 2", "-tp 2 -dp 4")
    said = run("import", other, "--on", "hgx-h100", "--isl", "2048", "--osl", "256").out
    assert "Of single changes" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--num-layers 12 --hidden-size 1024", "--num-layers 12, --hidden-size 1024"),
        ("--num-attention-heads 64", "--num-attention-heads 64"),
        ("--num-experts 8", "--num-experts 8"),
        ("--num-query-groups 8", "--num-query-groups 8"),
    ],
)
def test_a_model_that_the_flags_contradict(flags: str, said: str) -> None:
    argv = ("import", f"{MEGATRON} {flags}", "--on", "dgx-a100", "--model", "gpt3-175b")
    assert said in refusal(*argv)["message"]
    argv = (
        "import",
        VLLM,
        "--on",
        "hgx-h100",
        "--model",
        "llama-3.1-8b",
        "--isl",
        "8",
        "--osl",
        "8",
    )
    assert refusal(*argv)["nearest"] == "llama-3.1-70b"


def test_precision_of_a_command_is_priced_and_said() -> None:
    argv = ("--on", "dgx-a100", "--model", "gpt3-175b")
    narrow = answer("import", MEGATRON, *argv)
    plain = MEGATRON.replace("--bf16 ", "")
    wide = answer("import", plain, *argv)
    assert wide["job"]["dtype"] == "fp32"
    assert wide["layout"]["step_s"] > 4 * narrow["layout"]["step_s"]
    assert "--bf16" in " ".join(run("import", plain, *argv).out.splitlines()[:4])


def test_drafts_need_an_acceptance() -> None:
    text = "python -m sglang.launch_server --model-path meta-llama/Llama-3.1-8B --tp 2"
    more = (
        " --speculative-algorithm EAGLE --speculative-num-steps 1 --speculative-num-draft-tokens 2"
    )
    argv = (
        "--on",
        "hgx-h200",
        "--nodes",
        "1",
        "--isl",
        "1024",
        "--osl",
        "256",
        "--concurrency",
        "4",
    )
    assert refusal("import", text + more, *argv)["field"] == "--acceptance"
    assert refusal("import", text, *argv, "--acceptance", "0.8")["field"] == "--acceptance"
    plain = answer("import", text, *argv)["layout"]["tpot_s"]
    assert answer("import", text + more, *argv, "--acceptance", "0.8")["layout"]["tpot_s"] < plain


def test_what_is_not_priced_stands_beside_the_figures() -> None:
    text = f"{MEGATRON} --cpu-offloading"
    argv = ("import", text, "--on", "dgx-a100", "--model", "gpt3-175b")
    assert answer(*argv)["unpriced"] == [{"flag": "--cpu-offloading", "changes": "memory"}]
    assert "memory is an upper bound: --cpu-offloading" in " ".join(run(*argv).out.split())


def test_compare() -> None:
    d = answer(*PLAN, "--compare", MEGATRON)["compared"]
    assert d["best"]["step_s"] < d["layout"]["step_s"]
    assert "Beside your command" in run(*SERVE, "--tpot", "40ms", "--compare", VLLM).out


@pytest.mark.parametrize("flags", ["", " --max-num-seqs 12"])  # as the plan's own server, and not
def test_a_command_beside_a_plan_is_sent_what_the_plan_is(flags: str) -> None:
    """Yours and the best have the figures of ``serve`` with the plan's requests and seed."""
    load = ("--isl", "512", "--osl", "64", "--concurrency", "8")
    where = ("llama-3.1-8b", "--on", "hgx-h100", "--nodes", "1")
    text = f"vllm serve meta-llama/Llama-3.1-8B-Instruct -tp 2{flags}"
    own = ("--max-num-seqs", "12") if flags else ()
    found = {}
    for seed in ("3", "4"):
        sent = ("--requests", "40", "--seed", seed)
        d = answer("plan", *where, "--gpus", "2", *load, *sent, "--compare", text)["compared"]
        alone = answer("serve", *where, "--tp", "2", *own, *load, *sent)
        for key in ("ttft_s", "tpot_s", "tokens_per_s", "request_s"):
            assert d["layout"][key] == pytest.approx(alone[key], rel=1e-9)
        if d["best"]["tp"] == 2:
            assert d["best"]["ttft_s"] == pytest.approx(alone["ttft_s"], rel=1e-9)
        found[seed] = d["layout"]["ttft_s"]
    assert found["3"] != found["4"]


@pytest.mark.parametrize("flags", ["--offload-activations", "--bf16 --cpu-offloading"])
def test_compare_says_what_import_says_of_a_command(flags: str) -> None:
    text = f"torchrun --nproc-per-node 8 pretrain_gpt.py --tensor-model-parallel-size 2 --micro-batch-size 1 {flags}"
    batch = ("--global-batch", "64", "--seq", "2048")
    alone = ("import", text, "--on", "hgx-h100", "--model", "llama-3.1-8b", *batch)
    beside = ("plan", "llama-3.1-8b", "--on", "hgx-h100", "--gpus", "8", *batch, "--compare", text)
    said, compared = answer(*alone), answer(*beside)["compared"]
    assert said["unpriced"]
    assert said["notes"] == compared["notes"]
    assert said["unpriced"] == compared["unpriced"]
    pages = ["".join(run(*argv).out.split()) for argv in (alone, beside)]
    for line in (*said["notes"], *(u["flag"] for u in said["unpriced"])):
        assert all("".join(line.split()) in page for page in pages)


@pytest.mark.parametrize(
    ("argv", "field"),
    [
        (("export", "vlm", "gpt2"), "TARGET"),
        (("export", "vllm"), "MODEL"),
        (("export", "vllm", "gpt2", "--tp", "0"), "--tp"),
        (("export", "vllm", "gpt2", "--on", "dgx-a100", "--tp", "5"), "--tp"),
        (("export", "vllm", "gpt2", "--wrapper", "nomad"), "--wrapper"),
        (("export", "trtllm", "gpt2", "--wrapper", "lws"), "--wrapper"),
        (("export", "vllm", "gpt2", "--target-version", "0.1"), "--target-version"),
        (("export", "vllm", "--from", "/nowhere.json"), "--from"),
        (("export", "megatron-lm", "gpt2", "--isl", "4"), "--isl"),
        (("export", "deepspeed", "gpt2", "--pp", "2"), "--pp"),
        (("import", "echo hello", "--on", "dgx-a100"), "COMMAND"),
        (("import", "", "--on", "dgx-a100"), "COMMAND"),
        (("import", VLLM, "--on", "hgx-h100"), "--isl"),
        (
            ("import", "vllm serve my/own -tp 2", "--on", "hgx-h100", "--isl", "8", "--osl", "8"),
            "--model",
        ),
        (
            ("import", "vllm serve x --tensor-paralel-size 2", "--on", "hgx-h100"),
            "--tensor-paralel-size",
        ),
        (
            ("import", MEGATRON, "--on", "dgx-a100", "--model", "gpt3-175b", "--gpus", "63"),
            "--gpus",
        ),
        (
            (
                "import",
                MEGATRON.replace("size 8 --micro", "size 7 --micro"),
                "--on",
                "dgx-a100",
                "--model",
                "gpt2",
            ),
            "--tensor-model-parallel-size",
        ),
        ((*PLAN, "--compare", VLLM), "--compare"),
        ((*SERVE, "--concurrency", "8", "--compare", "vllm serve m -tp 16"), "--gpus"),
    ],
    ids=lambda v: " ".join(v)[:60] if isinstance(v, tuple) else v,
)
def test_bad_input(argv: tuple[str, ...], field: str) -> None:
    assert refusal(*argv)["field"] == field


def test_a_file_that_is_no_plan(tmp_path) -> None:
    for text in ("", "{", "[]", "{}", '{"layouts": []}', '{"layouts": [3]}'):
        path = tmp_path / "plan.json"
        path.write_text(text)
        assert refusal("export", "vllm", "--from", str(path))["field"] == "--from"
    path.write_text('{"layouts": [{"tp": "many"}], "workload": {"phase": "serve"}}')
    assert refusal("export", "vllm", "--from", str(path))["field"]


# -- files -------------------------------------------------------------------------------------------


def test_output_files(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    ran = run(*PLAN, "--csv", "-o", str(path))
    assert (ran.code, ran.out) == (0, "")
    assert path.read_text().startswith("tp,pp,")
    assert [p.name for p in tmp_path.iterdir()] == ["rows.csv"]
    assert refusal(*PLAN, "-o", str(tmp_path / "no" / "rows.txt"))["field"] == "-o"
    assert refusal(*PLAN, "-o", str(tmp_path))["field"] == "-o"
    ran = run(*PLAN, "--csv", "--parquet")
    assert (ran.code, ran.out) == (2, "")
    assert "--csv and --parquet: choose one" in ran.err


def test_parquet(tmp_path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    ran = run(*PLAN, "--parquet")
    assert (ran.code, ran.out) == (2, "")
    assert "-o: missing" in ran.err
    assert run(*PLAN, "--parquet", "-o", str(path)).code == 0
    table = parquet.read_table(path).to_pylist()
    rows = answer(*PLAN)["layouts"]
    assert [r["step_s"] for r in table] == [r["step_s"] for r in rows]
    assert [r["tp"] for r in table] == [r["tp"] for r in rows]


def test_the_share_of_memory_that_an_engine_may_take() -> None:
    argv = (
        "--on",
        "hgx-h100",
        "--nodes",
        "1",
        "--isl",
        "4096",
        "--osl",
        "256",
        "--concurrency",
        "64",
    )
    text = "vllm serve meta-llama/Llama-3.1-70B -tp 4 --gpu-memory-utilization {}"
    ran = run("import", text.format("0.4"), *argv, "--json")
    assert ran.code == 3  # weights alone are more
    half, most = ran.json(), answer("import", text.format("0.95"), *argv)
    assert (half["layout"]["fits"], most["layout"]["fits"]) == (False, True)
    assert most["job"]["memory_share"] == 0.95
    assert most["unpriced"] == []
    static = "python -m sglang.launch_server --model-path Qwen/Qwen3-8B --tp 1 --mem-fraction-static 0.15"
    assert not run("import", static, *argv, "--json").json()["layout"]["fits"]


def test_a_request_longer_than_the_engine_takes() -> None:
    text = "vllm serve meta-llama/Llama-3.1-8B -tp 2 --max-model-len 4k"
    error = refusal(
        "import", text, "--on", "hgx-h100", "--isl", "4096", "--osl", "64", "--concurrency", "4"
    )
    assert (error["field"], error["nearest"]) == ("--isl", 3936)


def test_what_is_given_is_no_upper_bound() -> None:
    text = "vllm serve meta-llama/Llama-3.1-8B -tp 2 --gpu-memory-utilization 0.8 --enable-lora"
    ran = run(
        "import", text, "--on", "hgx-h100", "--isl", "1024", "--osl", "64", "--concurrency", "4"
    )
    assert "upper bound" not in ran.out
    assert "takes more memory: memory is a lower bound: --enable-lora" in " ".join(ran.out.split())


def test_nodes_of_the_command_and_of_the_cluster() -> None:
    load = ("--isl", "1024", "--osl", "64", "--concurrency", "4")
    wide = "vllm serve meta-llama/Llama-3.1-70B -tp 16 --nnodes 2 --node-rank 0"
    assert answer("import", wide, "--on", "hgx-h100", *load)["job"]["tp"] == 16
    thin = wide.replace("16", "8")
    error = refusal("import", thin, "--on", "hgx-h100", *load)
    assert "8 GPUs on 2 nodes of 4" in error["message"]
    four = "torchrun --nnodes 4 --nproc-per-node 4 pretrain_gpt.py --bf16 --tensor-model-parallel-size 4"
    four += " --micro-batch-size 1"
    batch = ("--model", "llama-3.1-8b", "--global-batch", "64", "--seq", "4096")
    assert refusal("import", four, "--on", "hgx-h100", *batch)["field"] == "--on"
    assert answer("import", four, "--on", "gb200-nvl72", *batch)["job"]["dp"] == 4


def test_engines_are_given_the_hubs_name() -> None:
    for target in ("vllm", "sglang", "trtllm"):
        text = run("export", target, "llama-3.1-70b", "--tp", "8").out
        assert "meta-llama/Llama-3.1-70B" in text
        read = answer(
            "import", text, "--on", "hgx-h100", "--isl", "1024", "--osl", "64", "--concurrency", "8"
        )
        assert (read["model"], read["job"]["tp"]) == ("llama-3.1-70b", 8)
    assert " org/mine " in run("export", "vllm", "org/mine", "--tp", "8").out


def test_replicas_of_an_engine_are_written_and_read() -> None:
    for wrapper in ((), ("--wrapper", "slurm")):
        text = run("export", "trtllm", "llama-3-8b", "--tp", "4", "--dp", "2", *wrapper).out
        assert "NOT SAID" not in text
        read = answer(
            "import", text, "--on", "hgx-h100", "--isl", "1024", "--osl", "64", "--concurrency", "8"
        )
        assert (read["job"]["tp"], read["job"]["dp"]) == (4, 2)


MOE = ("mixtral-8x7b", "--tp", "8", "--global-batch", "8", "--micro-batch", "1", "--seq", "4096")


@pytest.mark.parametrize("target", ["megatron-lm", "megatron-bridge"])
def test_experts_beside_tp_need_sequence_parallelism(target: str) -> None:
    """Nobody says that it is off: it is on, and written."""
    text = run("export", target, *MOE).out
    assert text == run("export", target, *MOE, "--sequence-parallel").out
    assert "sequence" in text
    assert run("export", "torchtitan", *MOE).code == 0


def test_experts_beside_tp_in_every_command() -> None:
    """Megatron-Core refuses the step without: so do plan and import; estimate and scale, to which nobody
    says that it is off, turn it on and say so."""
    on = ("--on", "hgx-h100", "--nodes", "1")
    one = ("estimate", "mixtral-8x7b", *on, "--tp", "8", "--batch", "8", "--seq", "4096")
    assert any("sequence parallelism is on" in said for said in answer(*one)["remarks"])
    assert answer(*one)["step_s"] == answer(*one, "--sequence-parallel")["step_s"]
    assert answer(*one, "--stack", "torchtitan-fsdp")["step_s"] > 0
    batch = ("--global-batch", "16", "--seq", "4096")
    plan = answer("plan", "olmoe-1b-7b", *on, *batch, "--tp", "2")
    assert plan["layouts"]
    assert all(row["sequence_parallel"] for row in plan["layouts"])
    assert plan["counts"]["refused"]["unsplit_experts"] > 0
    text = "torchrun --nproc-per-node 8 pretrain_gpt.py --bf16 --tensor-model-parallel-size 8"
    load = ("--model", "mixtral-8x7b", "--global-batch", "8", "--seq", "4096", "--micro-batch", "1")
    assert refusal("import", text, *on, *load)["field"] == "--sequence-parallel"
    curve = ("scale", "mixtral-8x7b", *on, "--batch", "8", "--seq", "4096")
    said, bare = run(*curve, "--sequence-parallel"), run(*curve)
    assert bare.out == said.out
    assert "trains experts beside TP with it only" in " ".join(bare.out.split())


@pytest.mark.parametrize("target", ["megatron-lm", "megatron-bridge"])
@pytest.mark.parametrize(
    ("model", "pp"), [("llama-3.1-8b", 3), ("llama-3.1-8b", 5), ("gpt3-13b", 6)]
)
def test_uneven_stages_are_written_and_read(target: str, model: str, pp: int) -> None:
    batch = ("--global-batch", "16", "--micro-batch", "1", "--seq", "2048")
    text = run("export", target, model, "--pp", str(pp), *batch).out
    read = answer("import", text, "--model", model, "--gpus", str(pp), "--on", "hgx-h100")
    assert read["job"]["pp"] == pp
    assert not any("stages" in note for note in read["notes"])
    bare = "\n".join(
        line for line in text.splitlines() if "split" not in line and "layout" not in line
    )
    error = refusal("import", bare, "--model", model, "--gpus", str(pp), "--on", "hgx-h100")
    assert "does not share" in error["message"]
