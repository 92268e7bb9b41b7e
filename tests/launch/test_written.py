"""Texts that run: every wrapper read back, nodes that fit together, flags in the targets' own words."""

from __future__ import annotations

import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.launch.test_launch import SERVING, TRAINING, serving_jobs, training_jobs

from meshwise.cli.plan_target import pins_of, runs
from meshwise.errors import MeshwiseError
from meshwise.launch import Job, parse, write_launch
from meshwise.launch.job import JOB_FIELDS
from meshwise.launch.spelling.source_flags import source_flags
from meshwise.launch.table import target

WRAPPED = [(t, w) for t in (*SERVING, *TRAINING) for w in target(t).wrappers if w != "torchrun"]


def wrapped_round_trip(job: Job, name: str, wrapper: str) -> None:
    try:
        written = write_launch(job, name, wrapper=wrapper)
    except MeshwiseError as refused:
        assert refused.field
        return
    back = parse(written.text, name, model=job.model, experts=job.has_experts_grid).job
    for field in JOB_FIELDS:
        mine, theirs = getattr(job, field), getattr(back, field)
        if mine is None or mine == theirs or field == "gpus_per_node":
            continue
        dense = field == "etp" and not job.has_experts_grid
        assert field in written.untranslated or dense, (field, mine, theirs)


@pytest.mark.parametrize(("name", "wrapper"), WRAPPED)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_every_wrapper_is_read_back(name: str, wrapper: str, data: st.DataObject) -> None:
    drawn = serving_jobs() if target(name).phase == "serve" else training_jobs()
    wrapped_round_trip(data.draw(drawn), name, wrapper)


@pytest.mark.matrix
@pytest.mark.parametrize(("name", "wrapper"), WRAPPED)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_every_wrapper_is_read_back_widely(name: str, wrapper: str, data: st.DataObject) -> None:
    drawn = serving_jobs() if target(name).phase == "serve" else training_jobs()
    wrapped_round_trip(data.draw(drawn), name, wrapper)


# -- nodes ---------------------------------------------------------------------------------------------


def spread(tp: int, dp: int = 1, **more: int) -> Job:
    return Job(model="m", phase="serve", tp=tp, dp=dp, ep=tp * dp, etp=1, **more)


@pytest.mark.parametrize(
    ("job", "nodes", "local"),
    [(spread(16), 2, None), (spread(1, 16), 2, 8), (spread(4, 8), 4, 2), (spread(16, 2), 4, None)],
)
def test_one_node_of_a_vllm_server_has_its_api(job: Job, nodes: int, local: int | None) -> None:
    text = write_launch(job, "vllm").text
    assert f"--nnodes {nodes} --node-rank $NODE_RANK" in text
    assert "$([ $NODE_RANK -gt 0 ] && echo --headless)" in text
    # a first rank that is said would part the replicas of each node
    assert "--data-parallel-start-rank" not in text
    said = re.search(r"--data-parallel-size-local (\d+)", text)
    assert (int(said[1]) if said else None) == local


@pytest.mark.parametrize(("name", "job"), [("vllm", spread(16)), ("sglang", spread(1, 16))])
def test_pods_of_a_set_know_their_rank(name: str, job: Job) -> None:
    spec = yaml.safe_load(write_launch(job, name, wrapper="lws").text)["spec"]
    group = spec["leaderWorkerTemplate"]
    assert (spec["replicas"], group["size"]) == (1, 2)
    for pod in (group["leaderTemplate"], group["workerTemplate"]):
        (container,) = pod["spec"]["containers"]
        assert "--node-rank $LWS_WORKER_INDEX" in container["args"][0]
        assert "NODE_RANK" not in container["args"][0].replace("$LWS_WORKER_INDEX", "")
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 8


def test_nodes_of_an_engine_have_as_many_gpus_each() -> None:
    job = Job(model="m", phase="serve", tp=12, etp=12)
    text = write_launch(job, "trtllm", wrapper="slurm").text
    for said in ("--nodes=2", "--ntasks-per-node=6", "--gres=gpu:6", "--gpus_per_node 6"):
        assert said in text
    with pytest.raises(MeshwiseError, match="do not share 2 nodes of 8 evenly") as refused:
        write_launch(Job(model="m", phase="serve", tp=9, etp=9), "vllm")
    assert 9 in refused.value.legal


# -- words of trainers ---------------------------------------------------------------------------------


def trained(**more: object) -> Job:
    sizes = {"micro_batch": 1, "global_batch": 32, "seq": 1024}
    return Job(**{"model": "m", "phase": "train", "dp": 4} | sizes | more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("more", "said", "unsaid"),
    [
        ({}, "--bf16 --accumulate-allreduce-grads-in-fp32", "CUDA_DEVICE"),
        ({"grad_dtype": "bf16"}, "--bf16 --grad-reduce-in-bf16", "fp32"),
        ({"dtype": "fp16"}, "--fp16", "fp32"),
        ({"tp": 2, "etp": 2}, "CUDA_DEVICE_MAX_CONNECTIONS=1 torchrun", "fsdp"),
        ({"cp": 2}, "CUDA_DEVICE_MAX_CONNECTIONS=1 torchrun", "fsdp"),
        ({"tp": 2, "etp": 2, "shard": "zero3"}, "--ckpt-format fsdp_dtensor", "CUDA_DEVICE"),
    ],
)
def test_megatron_is_told_what_it_asserts(more: dict[str, object], said: str, unsaid: str) -> None:
    text = write_launch(trained(**more), "megatron-lm").text
    for word in said.split() if said.startswith("--") else [said]:
        assert word in text
    assert unsaid not in text


def test_accelerates_switch_has_no_word_after_it() -> None:
    text = write_launch(trained(tp=2, etp=2, shard="zero3"), "accelerate").text
    (after,) = re.findall(r"--use_parallelism_config(\s\S+)", text)
    assert after == " \\"
    assert parse(text, gpus=8).job.tp == 2


@pytest.mark.parametrize(
    ("recompute", "kept"),
    [("none", "None"), ("selective", "SelectiveAC.Config()"), ("full", "FullAC.Config()")],
)
def test_torchtitans_configuration_is_that_of_its_release(recompute: str, kept: str) -> None:
    job = trained(
        pp=2, tp=2, etp=2, vp=2, shard="zero3", recompute=recompute, sequence_parallel=True,
        overlap="decomposed", dtype="bf16", grad_dtype="fp32",
    )  # fmt: skip
    written = write_launch(job, "torchtitan")
    (text,) = written.files.values()
    compile(text, "written", "exec")
    for said in (
        f"activation_checkpoint={kept},",
        "num_tokens_per_microbatch_per_dp_rank=1024",
        "num_tokens_per_train_step=32768",
        "max_context_length=1024",
        "num_pp_microbatches=8",
        "disable_cuda_graphs=True",
        "enable=True,\n            enable_async_tensor_parallel=True",
    ):
        assert said in text
    assert parse(written.text, model="m").job == job
    assert not written.untranslated


# -- plans for a target --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pinned"),
    [
        ("deepspeed", {"pp": (1,), "cp": (1,), "vp": (1,), "recompute": ("none",)}),
        ("torchtitan", {"vp": (1, 2), "shard": ("none", "zero2", "zero3")}),
        ("trtllm", {"dcp": (1,)}),
        ("vllm", {}),
    ],
)
def test_a_plan_for_a_target_looks_at_what_it_says(
    name: str, pinned: dict[str, tuple[object, ...]]
) -> None:
    found = pins_of(target(name), {})
    assert {axis: found[axis] for axis in pinned} == pinned
    assert "dp" not in found and "tp" not in found
    assert "pp" not in pins_of(target(name), {"pp": [2]})


def test_what_a_target_asserts_against_does_not_run() -> None:
    titan = target("torchtitan")
    assert runs(trained(ep=4, shard="zero3"), titan)
    assert not runs(trained(ep=4, shard="none"), titan)  # ep divides dp_shard · cp · tp
    assert not runs(trained(pp=2, vp=4, shard="zero3"), titan)
    assert not runs(trained(shard="zero1"), titan)
    assert runs(trained(shard="zero1"), target("megatron-lm"))


# -- flags that change a price ---------------------------------------------------------------------------

BASES = {
    "vllm": "vllm serve org/model --tensor-parallel-size 2",
    "sglang": "python -m sglang.launch_server --model-path org/model --tp-size 2",
    "megatron-lm": "torchrun --nproc-per-node 8 pretrain_gpt.py --tensor-model-parallel-size 2 --bf16",
    "accelerate": "accelerate launch --num_processes 8 --use_fsdp --fsdp_version 2 train.py",
}


def priced_commands(name: str) -> list[str]:
    """The target's command with each of its flags that change a price."""
    known = source_flags(name)
    found = []
    for flag in target(name).price:
        own = known.get(flag) if known is not None else None
        value = "" if own is not None and own.values == "0" else "3"
        if own is not None and own.choices and value:
            value = own.choices[-1]
        program, _, rest = BASES[name].rpartition(" --")
        found.append(f"{program} {flag} {value} --{rest}")
    return found


def kept_or_named(name: str, texts: list[str]) -> int:
    """How many flags were looked at."""
    checked = 0
    for text in texts:
        try:
            read = parse(text)
        except MeshwiseError:
            continue  # the value is not one of the flag's
        for other in (name, "sglang" if name == "vllm" else name):
            written = write_launch(read.job, other, read_from=read)
            again = {u.flag for u in parse(written.text, other, gpus=read.job.gpus).unpriced}
            for flag, _ in read.unpriced:
                assert (flag in again) if other == name else (flag in written.untranslated), text
                checked += 1
    return checked


@pytest.mark.parametrize("name", BASES)
def test_flags_that_change_a_price_are_kept_or_named(name: str) -> None:
    assert kept_or_named(name, priced_commands(name)[::6]) >= 3


@pytest.mark.matrix
@pytest.mark.parametrize("name", BASES)
def test_every_flag_that_changes_a_price_is_kept_or_named(name: str) -> None:
    assert kept_or_named(name, priced_commands(name)) >= 15


def test_a_flags_value_with_spaces_stays_one_word() -> None:
    text = f"{BASES['vllm']} --compilation-config '{{\"level\": 3}}'"
    read = parse(text)
    written = write_launch(read.job, "vllm", read_from=read)
    assert "--compilation-config '{\"level\": 3}'" in written.text
    assert not written.untranslated


@pytest.mark.parametrize("vp", [1, 2])
def test_what_megatron_reads_of_optimizers_and_recomputed_layers_it_writes(vp: int) -> None:
    job = Job(
        model="llama-3.1-8b",
        phase="train",
        tp=2,
        pp=2,
        etp=2,
        vp=vp,
        recompute="full",
        recompute_layers=2 * vp,
        optimizer="muon",
        offload_optimizer=True,
    )
    text = write_launch(job, "megatron-lm").text
    read = parse(text, gpus=job.gpus).job
    for field in ("recompute", "recompute_layers", "optimizer", "offload_optimizer"):
        assert getattr(read, field) == getattr(job, field), field


@pytest.mark.parametrize("preset", ["llama-3.1-70b", "qwen3-8b"])
def test_torchtitans_configuration_says_its_model(preset: str) -> None:
    job = Job(phase="train", model=preset, tp=8, micro_batch=1, seq=4096, dtype="bf16")
    assert parse(write_launch(job, "torchtitan").text).job.model == preset


def test_a_model_that_torchtitan_has_no_flavour_of_is_left_to_the_reader() -> None:
    job = Job(phase="train", model="gpt2", tp=4, micro_batch=1, seq=1024, dtype="bf16")
    assert "model_registry" not in write_launch(job, "torchtitan").text


def test_an_offload_of_the_optimizer_is_in_deepspeeds_file() -> None:
    job = Job(
        phase="train",
        model="llama-2-13b",
        dp=8,
        shard="zero3",
        offload_optimizer=True,
        global_batch=8,
    )
    written = write_launch(job, "deepspeed")
    assert "offload_optimizer" not in written.untranslated
    assert parse(written.text, model="llama-2-13b").job.offload_optimizer is True


@pytest.mark.parametrize("name", ["megatron-lm", "megatron-bridge"])
def test_graphs_of_a_step_are_named_where_a_target_has_options_of_parts(name: str) -> None:
    job = Job(
        phase="train", model="llama-2-13b", tp=8, cuda_graphs=True, dtype="bf16", global_batch=8
    )
    assert (
        write_launch(job, name).untranslated["cuda_graphs"]
        == f"True: {target(name).cannot['cuda_graphs']}"
    )
