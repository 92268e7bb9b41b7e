"""Switches of a training stack on the command line and in launch commands."""

from __future__ import annotations

import pytest
from running import answer, run

from meshwise import launch
from meshwise.cli import switches
from meshwise.errors import IllegalLayout, InputError
from meshwise.stacks.stack import STATED

QWEN = ["qwen3-30b-a3b", "--on", "hgx-h100", "--nodes", "2"]
LAYOUT = ["--dp", "16", "--ep", "16", "--etp", "1", "--shard", "zero1", "--micro-batch", "1"]
LOAD = ["--batch", "64", "--seq", "4096"]
ALL = ["--dispatcher", "deepep", "--overlap-experts", "--moments-dtype", "bf16"]
SAID = {"dispatcher": "deepep", "overlap_experts": True, "moments_dtype": "bf16"}


def test_the_options_are_the_stack_switches():
    assert switches.SWITCH_NAMES == STATED


def test_estimate_prices_what_the_options_say():
    plain = answer("estimate", *QWEN, *LAYOUT, *LOAD, "--stack", "nemo")
    found = answer("estimate", *QWEN, *LAYOUT, *LOAD, "--stack", "nemo", *ALL)
    assert {k: found["stack"][k] for k in SAID} == SAID
    assert found["step_s"] < plain["step_s"]
    narrow = found["memory"]["optimizer_bytes"] / plain["memory"]["optimizer_bytes"]
    assert narrow == pytest.approx(8 / 12)
    off = answer("estimate", *QWEN, *LAYOUT, *LOAD, "--no-overlap-experts", "--loss-chunks", "4")
    assert off["stack"]["overlap_experts"] is False
    assert off["stack"]["loss_chunks"] == 4


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["--dispatcher", "deep"], "--dispatcher"),
        (["--loss-chunks", "0"], "--loss-chunks"),
        (["--loss-chunks", "many"], "--loss-chunks"),
        (["--moments-dtype", "int8"], "--moments-dtype"),
        (["--phase", "decode", "--overlap-experts"], "--overlap-experts"),
        (["--phase", "prefill", "--loss-chunks", "2"], "--loss-chunks"),
        (["--phase", "prefill", "--overlap-experts"], "--overlap-experts"),
        (["--ideal", "--dispatcher", "deepep"], "--dispatcher"),
        (["--recompute-modules", "moe_act"], "--recompute-modules"),
        (["--recompute", "selective", "--recompute-modules", "act"], "--recompute-modules"),
        (["--phase", "decode", "--recompute-modules", "moe"], "--recompute-modules"),
        (
            [
                "--recompute",
                "selective",
                "--recompute-modules",
                "moe",
                "--stack",
                "torchtitan-fsdp",
            ],
            "--recompute-modules",
        ),
    ],
)
def test_what_means_nothing_is_refused(words: list[str], field: str):
    ran = run("estimate", *QWEN, "--seq", "1024", "--dp", "16", "--batch", "16", *words, "--json")
    assert ran.code == 2
    assert ran.json()["error"]["field"] == field


@pytest.mark.parametrize("words", [["--dispatcher", "deepep"], ["--overlap-experts"]])
@pytest.mark.parametrize("command", ["estimate", "scale", "plan"])
def test_experts_that_a_model_does_not_have(command: str, words: list[str]):
    load = ["--global-batch" if command == "plan" else "--batch", "8", "--seq", "1024"]
    ran = run(command, "llama-2-7b", "--on", "hgx-h100", *load, *words, "--json")
    assert ran.code == 2
    assert ran.json()["error"]["field"] == words[0]


def test_a_serving_plan_has_no_training_switches():
    load = ["--isl", "128", "--osl", "32", "--concurrency", "8", "--gpus", "8"]
    ran = run("plan", "llama-2-7b", "--on", "hgx-h100", *load, "--loss-chunks", "4", "--json")
    assert ran.code == 2
    assert ran.json()["error"]["field"] == "--loss-chunks"


def job(**more: object) -> launch.Job:
    layout = {"dp": 16, "ep": 16, "etp": 1, "shard": "zero1", "micro_batch": 1}
    fields = {"global_batch": 64, "seq": 4096, "dtype": "bf16", "grad_dtype": "fp32"} | more
    return launch.job_of("m", "train", layout, **fields)


def test_megatron_says_them_and_is_read_again():
    out = launch.write_launch(job(**SAID), "megatron-lm")
    assert out.untranslated == {}
    for flag in ("--moe-flex-dispatcher-backend deepep", "--overlap-moe-expert-parallel-comm"):
        assert flag in out.text
    assert launch.parse(out.text, model="m").job == job(**SAID)
    plain = launch.write_launch(job(), "megatron-lm")
    assert "--moe-token-dispatcher-type alltoall" in plain.text
    assert launch.parse(plain.text, model="m").job == job()


def test_what_a_target_has_no_flag_for_is_listed():
    assert set(launch.write_launch(job(loss_chunks=8), "megatron-lm").untranslated) == {
        "loss_chunks"
    }
    bridge = launch.write_launch(job(**SAID), "megatron-bridge")
    assert set(bridge.untranslated) == {"moments_dtype"}
    fsdp = {"shard": "zero3", "etp": 1, "ep": 16}
    titan = launch.write_launch(job(**fsdp, loss_chunks=8, **SAID), "torchtitan")
    assert "ChunkedLossWrapper.Config" in titan.text
    assert set(titan.untranslated) >= {"dispatcher", "overlap_experts", "moments_dtype"}
    assert "loss_chunks" not in titan.untranslated


@pytest.mark.parametrize(
    ("flags", "fields"),
    [
        ("--moe-token-dispatcher-type flex --moe-enable-deepep", {"dispatcher": "deepep"}),
        ("--moe-token-dispatcher-type flex", {"dispatcher": "deepep"}),
        (
            "--moe-token-dispatcher-type flex --moe-flex-dispatcher-backend hybridep",
            {"dispatcher": "hybridep"},
        ),
        ("--moe-token-dispatcher-type alltoall", {"dispatcher": None}),
        (
            "--moe-token-dispatcher-type alltoall --overlap-moe-expert-parallel-comm",
            {"overlap_experts": True},
        ),
        (
            "--use-precision-aware-optimizer --exp-avg-dtype bf16 --exp-avg-sq-dtype fp32",
            {"moments_dtype": "fp32"},
        ),
    ],
)
def test_megatron_flags_are_read(flags: str, fields: dict[str, object]):
    parallel = "--expert-model-parallel-size 8 --expert-tensor-parallel-size 1 --bf16"
    command = f"torchrun --nproc-per-node 8 pretrain_gpt.py {parallel} {flags}"
    found = launch.parse(command, model="m").job
    assert {k: getattr(found, k) for k in fields} == fields


def test_modules_of_selective_recomputation_are_said_and_read():
    chosen = ("moe_act", "layernorm")
    asked = launch.job_of(
        "m",
        "train",
        {"dp": 16, "ep": 16, "etp": 1, "micro_batch": 1, "recompute": "selective"},
        global_batch=64,
        seq=4096,
        dtype="bf16",
        grad_dtype="fp32",
        recompute_modules=chosen,
    )
    for name in ("megatron-lm", "megatron-bridge"):
        out = launch.write_launch(asked, name)
        assert out.untranslated == {}
        assert "moe-grouped-gemm" in out.text or "moe_grouped_gemm=true" in out.text
        again = launch.parse(out.text, name, model="m")
        assert again.job.recompute_modules == chosen
        assert not any("grouped" in note for note in again.notes)
    spaced = "--recompute-granularity selective --recompute-modules core_attn --bf16"
    head = "torchrun --nproc-per-node 8 pretrain_gpt.py --tensor-model-parallel-size 8"
    assert launch.parse(f"{head} {spaced}", model="m").job.recompute_modules is None
    other = launch.parse(f"{head} {spaced.replace('core_attn', 'mhc moe_act')}", model="m")
    assert other.job.recompute_modules == ("moe_act",)
    assert "moe_act: Megatron-Core takes it with --moe-grouped-gemm only" in other.notes
    assert "recomputation of mhc is not priced" in other.notes


def test_an_estimate_with_modules_is_exported(tmp_path):
    record = tmp_path / "estimate.json"
    more = ["--recompute", "selective", "--recompute-modules", "moe_act,layernorm"]
    run("estimate", *QWEN, *LAYOUT, *LOAD, "--stack", "nemo", *more, "--json", "-o", str(record))
    ran = run("export", "megatron-lm", "--from", str(record))
    assert "--recompute-modules moe_act layernorm" in ran.out
    assert "NOT SAID" not in ran.out


def test_a_recipe_script_names_its_dispatcher():
    words = "--num_gpus 16 --tensor_model_parallel_size 1 --pipeline_model_parallel_size 1 "
    words += "--expert_model_parallel_size 16 --moe_flex_dispatcher_backend hybridep"
    found = launch.parse(f"python setup_experiment.py {words} --moe_a2a_overlap true", model="m")
    assert found.job.dispatcher == "hybridep"
    assert found.job.overlap_experts is True


def test_a_named_precision_of_a_recipe_reduces_fp32_gradients():
    head = "torchrun --nproc-per-node 8 pretrain.py model.tensor_model_parallel_size=8"
    head += " model.pipeline_model_parallel_size=1"
    read = [
        launch.parse(f"{head} {more}", "megatron-bridge", model="m").job.grad_dtype
        for more in ("mixed_precision=bf16_mixed", "", "ddp.grad_reduce_in_fp32=false")
    ]
    assert read == ["fp32", None, "bf16"]


def test_what_megatron_refuses_is_refused():
    for bad in ({"recompute": "full"}, {"ep": 1}, {"pp": 2, "dp": 8, "ep": 8}):
        layout = {"dp": 16, "ep": 16, "etp": 1, "micro_batch": 1, "recompute": "none"} | bad
        wrong = launch.job_of("m", "train", layout, overlap_experts=True, seq=64, global_batch=64)
        with pytest.raises(IllegalLayout, match="overlap_experts"):
            launch.write_launch(wrong, "megatron-lm")
    with pytest.raises(InputError, match="flex"):
        launch.parse(
            "torchrun --nproc-per-node 8 pretrain_gpt.py --expert-model-parallel-size 8 "
            "--moe-token-dispatcher-type alltoall --moe-enable-deepep",
            model="m",
        )


def test_an_estimate_is_exported_as_it_was_priced(tmp_path):
    record = tmp_path / "estimate.json"
    full = [*LAYOUT, "--recompute", "full"]
    for layout, said in ((LAYOUT, True), (full, False)):
        run("estimate", *QWEN, *layout, *LOAD, "--stack", "nemo", *ALL, "--json", "-o", str(record))
        ran = run("export", "megatron-lm", "--from", str(record))
        assert ran.code == 0
        assert ("--overlap-moe-expert-parallel-comm" in ran.out) is said
        assert "--moe-flex-dispatcher-backend deepep" in ran.out
        assert "NOT SAID" not in ran.out


def test_import_prices_the_switches_of_a_command():
    parallel = "--expert-model-parallel-size 16 --expert-tensor-parallel-size 1 --bf16"
    load = "--micro-batch-size 1 --global-batch-size 64 --seq-length 4096"
    head = "torchrun --nnodes 2 --nproc-per-node 8 pretrain_gpt.py --use-distributed-optimizer"
    steps = []
    for more in ("--moe-token-dispatcher-type alltoall", "--moe-token-dispatcher-type flex"):
        words = f"{head} {parallel} {load} {more}"
        model = ["--model", QWEN[0]]
        steps.append(answer("import", words, *QWEN[1:], *model)["layout"]["step_s"])
    assert steps[1] < 0.75 * steps[0]


def test_serving_engines_are_told_how_experts_get_their_tokens():
    load = ["--dp", "16", "--ep", "16", "--isl", "512", "--osl", "64", "--concurrency", "64"]
    own = answer("serve", *QWEN, *load)
    said = {
        name: answer("serve", *QWEN, *load, "--dispatcher", name)
        for name in ("allgather", "alltoall")
    }
    assert said["allgather"]["tpot_s"] == own["tpot_s"]
    assert said["alltoall"]["tpot_s"] != own["tpot_s"]
    assert said["alltoall"]["stack"]["dispatcher"] == "alltoall"
    dense = [
        "llama-3.1-8b",
        "--on",
        "hgx-h100",
        "--isl",
        "512",
        "--osl",
        "64",
        "--concurrency",
        "8",
    ]
    assert run("serve", *dense, "--dispatcher", "deepep", "--json").code == 2


@pytest.mark.parametrize(
    ("command", "dispatcher"),
    [
        ("vllm serve m -dp 8 -ep", None),
        ("vllm serve m -dp 8 -ep --all2all-backend allgather_reducescatter", "allgather"),
        ("vllm serve m -dp 8 -ep --all2all-backend deepep_high_throughput", "deepep"),
        ("vllm serve m -dp 8 -ep --all2all-backend deepep_low_latency", "alltoall"),
        ("sglang serve --model-path m --tp 8 --ep-size 8 --moe-a2a-backend deepep", "deepep"),
        ("sglang serve --model-path m --tp 8 --ep-size 8 --moe-a2a-backend none", "allgather"),
    ],
)
def test_engines_backends_of_the_exchange_are_read(command: str, dispatcher: str | None):
    assert launch.parse(command).job.dispatcher == dispatcher
    again = launch.write_launch(launch.parse(command).job, command.split()[0])
    assert launch.parse(again.text).job.dispatcher == dispatcher


def test_megatron_s_own_dispatcher_gathers():
    words = "torchrun --nproc-per-node 8 pretrain_gpt.py --expert-model-parallel-size 8 --micro-batch-size 1"
    found = launch.parse(words, model="qwen3-30b-a3b").job
    assert found.dispatcher == "allgather"
