"""Launch commands out and in: round trips, exact flags, the GPUs that they imply, what is refused."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwise import launch
from meshwise.errors import MeshwiseError
from meshwise.launch import Job, parse, write_launch
from meshwise.launch.job import JOB_FIELDS
from meshwise.launch.table import target

SERVING = ("vllm", "sglang", "trtllm")
TRAINING = ("megatron-lm", "megatron-bridge", "torchtitan", "deepspeed", "accelerate")
DEGREE = st.sampled_from([1, 2, 4, 8])


@st.composite
def serving_jobs(draw: st.DrawFn) -> Job:
    tp, pp, dp = draw(DEGREE), draw(st.sampled_from([1, 2])), draw(DEGREE)
    grids = [(1, tp)]
    if draw(st.booleans()):
        grids = [(e, tp * dp // e) for e in (1, 2, 4, 8, 16) if tp * dp % e == 0]
        grids += [(e, tp // e) for e in (2, 4, 8) if tp % e == 0]
    ep, etp = draw(st.sampled_from(grids))
    return Job(
        model="org/model",
        phase="serve",
        tp=tp,
        pp=pp,
        dp=dp,
        ep=ep,
        etp=etp,
        dcp=draw(st.sampled_from([d for d in (1, 2) if tp % d == 0])),
        max_len=draw(st.sampled_from([None, 4096, 131072])),
        concurrency=draw(st.sampled_from([None, 16, 256])),
        kv_dtype=draw(st.sampled_from([None, "fp8"])),
        weight_dtype=draw(st.sampled_from([None, "fp8"])),
    )


@st.composite
def training_jobs(draw: st.DrawFn) -> Job:
    tp, pp, cp, dp = draw(DEGREE), draw(DEGREE), draw(st.sampled_from([1, 2])), draw(DEGREE)
    micro = draw(st.sampled_from([1, 2]))
    ep, etp = 1, tp
    if draw(st.booleans()):
        ep = draw(st.sampled_from([e for e in (1, 2, 4) if (tp * cp * dp) % e == 0]))
        etp = draw(st.sampled_from([e for e in (1, tp) if (tp * cp * dp) % (e * ep) == 0]))
    sp = tp > 1 and draw(st.booleans())
    return Job(
        model="org/model",
        phase="train",
        tp=tp,
        pp=pp,
        vp=draw(st.sampled_from([1, 2, 4])) if pp > 1 else 1,
        dp=dp,
        cp=cp,
        ep=ep,
        etp=etp,
        sequence_parallel=sp,
        overlap=draw(st.sampled_from(["none", "decomposed"])) if sp else "none",
        recompute=draw(st.sampled_from(["none", "selective", "full"])),
        shard=draw(st.sampled_from(["none", "zero1", "zero2", "zero3"])),
        placement=draw(st.sampled_from(["tp-cp-dp-pp", "tp-cp-pp-dp"])),
        micro_batch=micro,
        global_batch=micro * dp * draw(st.sampled_from([1, 4])) * pp,
        seq=2048,
        dtype=draw(st.sampled_from([None, "bf16", "fp8"])),
    )


def round_trip(job: Job, name: str) -> None:
    """The command says every field of the job, or lists it; and runs on the job's GPUs."""
    try:
        exported = write_launch(job, name)
    except MeshwiseError as refused:
        assert "cannot run" in str(refused)
        return
    back = parse(
        exported.text,
        gpus=None if job.phase == "serve" else job.gpus,
        model=job.model,
        experts=job.has_experts_grid,
    )
    assert back.target == name
    for field in JOB_FIELDS:
        mine, theirs = getattr(job, field), getattr(back.job, field)
        if mine != theirs and mine is not None and field != "gpus_per_node":
            dense = field == "etp" and not job.has_experts_grid
            assert field in exported.untranslated or dense, (field, mine, theirs)
    assert exported.gpus * exported.servers == job.gpus
    assert back.job.gpus in (exported.gpus, job.gpus)  # a server, or all that the text starts
    for field in exported.untranslated:
        assert f"NOT SAID by this command: {field}" in exported.text


@pytest.mark.parametrize("name", SERVING)
@settings(max_examples=50, deadline=None)
@given(job=serving_jobs())
def test_serving_round_trip(name: str, job: Job) -> None:
    round_trip(job, name)


@pytest.mark.parametrize("name", TRAINING)
@settings(max_examples=50, deadline=None)
@given(job=training_jobs())
def test_training_round_trip(name: str, job: Job) -> None:
    round_trip(job, name)
    if name in ("deepspeed", "accelerate"):  # no pipelines, no experts: what they can run
        job = msgspec.structs.replace(job, pp=1, vp=1, cp=1, ep=1, etp=job.tp)
        assert write_launch(job, name).gpus == job.gpus
        round_trip(job, name)


def test_megatron_says_everything_it_can() -> None:
    job = Job(
        model="m",
        phase="train",
        tp=8,
        pp=4,
        vp=3,
        dp=8,
        cp=2,
        ep=4,
        etp=2,
        sequence_parallel=True,
        overlap="decomposed",
        recompute="full",
        shard="zero1",
        placement="tp-cp-pp-dp",
        micro_batch=2,
        global_batch=256,
        seq=4096,
        dtype="fp8",
        grad_dtype="fp32",
    )
    exported = write_launch(job, "megatron-lm")
    assert exported.untranslated == {}
    assert parse(exported.text, model="m").job == job
    for flag in (
        "--tensor-model-parallel-size 8",
        "--pipeline-model-parallel-size 4",
        "--num-virtual-stages-per-pipeline-rank 3",
        "--context-parallel-size 2",
        "--expert-model-parallel-size 4",
        "--expert-tensor-parallel-size 2",
        "--sequence-parallel",
        "--use-distributed-optimizer",
        "--tp-comm-overlap",
        "--use-tp-pp-dp-mapping",
        "--micro-batch-size 2",
        "--global-batch-size 256",
        "--seq-length 4096",
        "--recompute-granularity full",
        "--nnodes 64 --nproc-per-node 8",
    ):
        assert flag in exported.text


def test_a_layout_that_a_target_cannot_run_is_refused() -> None:
    job = Job(model="m", phase="train", tp=2, pp=4, etp=2)
    with pytest.raises(MeshwiseError, match="PipelineModule"):
        write_launch(job, "deepspeed")
    with pytest.raises(MeshwiseError, match="this layout is for training"):
        write_launch(job, "vllm")


# -- GPUs that flags imply ---------------------------------------------------------------------------

COMMANDS = [
    ("vllm serve m -tp 4 -pp 2", 8, {"tp": 4, "pp": 2, "dp": 1}),
    ("vllm serve m --tensor-parallel-size=2 --data-parallel-size=4", 8, {"tp": 2, "dp": 4}),
    ("vllm serve m -tp 8 -dcp 4", 8, {"tp": 8, "dcp": 4}),
    (
        "vllm serve deepseek-ai/DeepSeek-V3 --data-parallel-size 16 --data-parallel-size-local 8 "
        "--enable-expert-parallel --data-parallel-address 10.0.0.1 --data-parallel-rpc-port 13345",
        16,
        {"tp": 1, "dp": 16, "ep": 16, "etp": 1},
    ),
    (
        "docker run --gpus all vllm/vllm-openai:latest --model m --tensor-parallel-size 2",
        2,
        {"tp": 2, "model": "m"},
    ),
    (
        "CUDA_VISIBLE_DEVICES=0,1 python -m vllm.entrypoints.openai.api_server --model m -tp 2",
        2,
        {"tp": 2},
    ),
    (
        "python3 -m sglang.launch_server --model-path m --tp 8 --dp 8 --enable-dp-attention",
        8,
        {"tp": 1, "dp": 8},
    ),
    (
        "python -m sglang.launch_server --model-path m --tp-size 4 --dp-size 2",
        8,
        {"tp": 4, "dp": 2},
    ),
    (
        "python -m sglang.launch_server --model-path m --tp 16 --ep 16 --nnodes 2 --node-rank 0 "
        "--dist-init-addr 10.0.0.1:20000",
        16,
        {"tp": 16, "ep": 16, "etp": 1},
    ),
    ("trtllm-serve m --tp_size 8 --ep_size 8 --max_batch_size 64", 8, {"tp": 8, "ep": 8, "etp": 1}),
    (
        "torchrun --nproc_per_node=8 --nnodes=4 pretrain_gpt.py --tensor-model-parallel-size 4 "
        "--pipeline-model-parallel-size 2 --num-layers 32 --num-layers-per-virtual-pipeline-stage 4",
        32,
        {"tp": 4, "pp": 2, "dp": 4, "vp": 4},
    ),
    (
        "torchrun --nproc-per-node 8 train.py model.tensor_model_parallel_size=4 "
        "model.pipeline_model_parallel_size=1 model.context_parallel_size=2 train.micro_batch_size=1 "
        "optimizer.lr=1e-4",
        8,
        {"tp": 4, "cp": 2, "dp": 1, "micro_batch": 1},
    ),
    (
        "python setup_experiment.py -tp 8 -pp 2 -ng 64 -mb 1 -gb 128",
        64,
        {"tp": 8, "pp": 2, "dp": 4, "micro_batch": 1, "global_batch": 128},
    ),
    (
        "NGPU=8 ./run_train.sh --parallelism.tensor_parallel_degree 2",
        8,
        {"tp": 2, "dp": 4, "shard": "zero3"},
    ),
    (
        "accelerate launch --num_processes 8 --use_fsdp --fsdp_version 2 --use_parallelism_config true "
        "--parallelism_config_tp_size 2 --parallelism_config_dp_shard_size 4 train.py --lr 1e-4",
        8,
        {"tp": 2, "dp": 4, "shard": "zero3"},
    ),
    (
        "accelerate launch --num_processes=16 --use_megatron_lm --megatron_lm_tp_degree 4 "
        "--megatron_lm_pp_degree 2 train.py",
        16,
        {"tp": 4, "pp": 2, "dp": 2},
    ),
    (
        '{"train_batch_size": 64, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 4, '
        '"zero_optimization": {"stage": 3}, "tensor_parallel": {"autotp_size": 2}}',
        16,
        {"tp": 2, "dp": 8, "shard": "zero3", "global_batch": 64},
    ),
]


@pytest.mark.parametrize(("text", "gpus", "fields"), COMMANDS, ids=lambda v: str(v)[:40])
def test_commands_as_users_write_them(text: str, gpus: int, fields: dict[str, object]) -> None:
    job = parse(text).job
    assert job.gpus == gpus
    assert {k: getattr(job, k) for k in fields} == fields


def test_a_script_of_several_lines() -> None:
    text = """#!/bin/bash
#SBATCH --nodes=2
#SBATCH --gres=gpu:8
export TP=8
# the launch
srun torchrun --nnodes $SLURM_NNODES --nproc-per-node 8 \\
    pretrain_gpt.py \\
    --tensor-model-parallel-size $TP \\
    --bf16 --sequence-parallel ; echo done
"""
    job = parse(text).job
    assert (job.tp, job.dp, job.gpus, job.sequence_parallel) == (8, 2, 16, True)


SCRIPTS = {
    "arrays": """
GPUS_PER_NODE=8
NUM_NODES=4
DISTRIBUTED_ARGS=(
    --nproc_per_node $GPUS_PER_NODE   # of each
    --nnodes $NUM_NODES
)
MODEL_PARALLEL_ARGS=(--tensor-model-parallel-size 8)
MODEL_PARALLEL_ARGS+=(--pipeline-model-parallel-size 2 --sequence-parallel)
torchrun ${DISTRIBUTED_ARGS[@]} pretrain_gpt.py "${MODEL_PARALLEL_ARGS[@]}"
""",
    "words in a variable": """
DISTRIBUTED_ARGS="--nproc_per_node 8 --nnodes 4"
GPT_ARGS="--tensor-model-parallel-size 8 \\
    --pipeline-model-parallel-size 2 --sequence-parallel"
torchrun $DISTRIBUTED_ARGS pretrain_gpt.py $GPT_ARGS --bf16
""",
    "a shell within": """#SBATCH --nodes=4
#SBATCH --gres=gpu:8
srun bash -c 'cd /code; python pretrain_gpt.py --tensor-model-parallel-size 8 \\
    --pipeline-model-parallel-size 2 --sequence-parallel'
""",
    "srun's own numbers": "srun -N 4 --gpus-per-node=8 python pretrain_gpt.py --sequence-parallel "
    "--tensor-model-parallel-size 8 --pipeline-model-parallel-size 2",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_as_users_write_them(name: str) -> None:
    job = parse(SCRIPTS[name]).job
    assert (job.tp, job.pp, job.dp, job.gpus, job.sequence_parallel) == (8, 2, 2, 32, True)


@pytest.mark.parametrize("name", [*SERVING, *TRAINING])
@pytest.mark.parametrize("nodes", [1, 2])
def test_slurm_scripts_are_read_back(name: str, nodes: int) -> None:
    """The script starts the job that the bare command does, on as many GPUs."""
    phase = target(name).phase
    split = {"dp": 8 * nodes} if name == "deepspeed" else {"tp": 8, "dp": nodes}
    if phase == "serve":
        split = {"tp": 8, "pp": nodes}
    batch = {"micro_batch": 1, "global_batch": 32, "seq": 128} if phase == "train" else {}
    job = Job(model="m", phase=phase, etp=split.get("tp", 1), **split, **batch)
    bare, script = write_launch(job, name), write_launch(job, name, wrapper="slurm")
    read = parse(script.text, experts=False).job
    assert read == parse(bare.text, experts=False).job
    assert read.gpus == 8 * nodes


def test_pods_are_read_back() -> None:
    job = Job(model="org/m", phase="serve", tp=8, pp=2, etp=8)
    for name in ("vllm", "sglang"):
        read = parse(write_launch(job, name, wrapper="lws").text, experts=False).job
        assert (read.tp, read.pp, read.model) == (8, 2, "org/m")
    read = parse(write_launch(job, "vllm", wrapper="kuberay").text, experts=False).job
    assert (read.tp, read.pp, read.model) == (8, 2, "org/m")


def test_engines_over_nodes_are_servers_apart() -> None:
    """vLLM's replicas in one server have whole engines on a node; SGLang's plain replicas one node."""
    wide = Job(model="m", phase="serve", tp=16, dp=2, etp=16)
    found = write_launch(wide, "vllm", wrapper="lws")
    assert (found.servers, found.gpus) == (2, 16)
    assert "replicas: 2" in found.text
    assert parse(found.text).job.dp == 2
    assert "dp" in write_launch(wide, "vllm").untranslated
    plain = Job(model="m", phase="serve", tp=8, dp=2, etp=8)
    found = write_launch(plain, "sglang")
    assert (found.servers, found.gpus) == (2, 8)
    assert "--nnodes" not in found.text


def test_gpus_that_are_no_whole_nodes() -> None:
    job = Job(model="m", phase="train", tp=4, dp=3, etp=4, micro_batch=1, global_batch=6, seq=128)
    for name in ("megatron-lm", "torchtitan", "megatron-bridge", "accelerate"):
        with pytest.raises(MeshwiseError, match="no whole number of nodes of 8"):
            write_launch(job, name)
    uneven = Job(model="m", phase="serve", tp=4, dp=3, etp=4)
    with pytest.raises(MeshwiseError, match="do not fill nodes of 8"):
        write_launch(uneven, "vllm")


def test_what_does_not_matter_is_listed() -> None:
    read = parse("vllm serve m -tp 2 --port 8000 --trust-remote-code --max-num-seqs 64")
    assert any("--port" in flag for flag in read.ignored)
    assert read.job.concurrency == 64


def test_experts_of_a_dense_and_a_sparse_model() -> None:
    text = "vllm serve m -tp 2 -dp 4"
    assert parse(text, experts=False).job.etp == 2
    assert parse(text, experts=True).job.etp == 8


# -- bad input ---------------------------------------------------------------------------------------

BAD = [
    ("", "empty"),
    ("   \n", "empty"),
    ("echo hello", "no launch command"),
    ("vllm serve 'm", "quotes closed"),
    ("vllm serve m --tensor-parallel-size", "missing its value"),
    ("vllm serve m --tensor-parallel-size eight", "whole number"),
    ("vllm serve m --tensor-parallel-size 0", "below 1"),
    ("vllm serve m --tensor-parallel-size -4", "below 1"),
    ("vllm serve m --tensor-paralel-size 4", "no such flag"),
    ("vllm serve m --enable-expert-paralel", "no such flag"),
    ("vllm serve m --tp-size 4", "nearest: --tensor-parallel-size"),
    ("vllm serve m --tensor-paralel-size 4", "nearest: --tensor-parallel-size"),
    ("python -m sglang.launch_server --model m --moe-data-parallel-size 4", "not followed"),
    (
        "torchrun --nproc-per-node 8 pretrain_gpt.py --tensor-parallel-size 8",
        "nearest: --tensor-model-parallel-size",
    ),
    ("vllm serve m -tp 4 --tensor-parallel-size 8", "also says"),
    ("vllm serve m -tp 4 -dcp 3", "does not divide"),
    ("vllm serve m --max-model-len long", "no length"),
    ("python -m sglang.launch_server --model m --tp 8 --dp 3 --enable-dp-attention", "splits"),
    ("python -m sglang.launch_server --model m --tp 8 --ep 3", "does not divide"),
    ("torchrun --nproc-per-node 8 pretrain_gpt.py --tensor-model-parallel-size 16", "no multiple"),
    ("pretrain_gpt.py --tensor-model-parallel-size 8", "how many GPUs"),
    (
        "torchrun --nproc-per-node 8 pretrain_gpt.py --num-layers-per-virtual-pipeline-stage 5 "
        "--num-layers 32 --pipeline-model-parallel-size 2",
        "does not cut",
    ),
    (
        "accelerate launch --num_processes 8 --use_fsdp --parallelism_config_dp_replicate_size 8 "
        "--parallelism_config_dp_shard_size 1 t.py",
        "refuses it",
    ),
    (
        "accelerate launch --num_processes 8 --use_fsdp --parallelism_config_tp_size 4 "
        "--parallelism_config_dp_shard_size 4 t.py",
        "16",
    ),
    ('{"zero_optimization": {"stage": 5}, "train_batch_size": 8}', "no stage"),
    ('{"train_batch_size": ', "no JSON"),
    ("[1, 2]", "no launch command"),
    (
        '{"train_batch_size": 60, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 7}',
        "how many GPUs",
    ),
    ("vllm serve m --enable-ep", "no such flag"),
    ('{"a":' * 20_000 + "1" + "}" * 20_000, "no JSON"),
    ("srun bash -c 'vllm serve m --tensor-paralel-size 4'", "no such flag"),
    ("vllm serve " + "x" * 1_100_000, "characters"),
]


@pytest.mark.parametrize(("text", "words"), BAD, ids=lambda v: str(v)[:40])
def test_bad_commands(text: str, words: str) -> None:
    with pytest.raises(MeshwiseError) as error:
        parse(text)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@settings(max_examples=120, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    for command in (
        text,
        f"vllm serve m {text}",
        f"torchrun --nproc-per-node 8 pretrain_gpt.py {text}",
    ):
        try:
            parse(command)
        except MeshwiseError:
            continue


def test_unknown_targets_and_wrappers() -> None:
    job = Job(model="m", phase="serve", tp=2, etp=2)
    with pytest.raises(MeshwiseError, match="vllm"):
        write_launch(job, "vlm")
    with pytest.raises(MeshwiseError, match="wrapper"):
        write_launch(job, "trtllm", wrapper="kuberay")
    with pytest.raises(MeshwiseError, match="checked at"):
        write_launch(job, "vllm", version="0.1")


# -- wrappers ----------------------------------------------------------------------------------------


def test_wrappers_are_yaml_with_the_right_sizes() -> None:
    yaml = pytest.importorskip("yaml")
    job = Job(model="org/m", phase="serve", tp=8, pp=2, etp=8, dp=3)
    apart = msgspec.structs.replace(job, dp=1)
    group = yaml.safe_load(write_launch(apart, "vllm", wrapper="lws").files["lws.yaml"])
    spec = group["spec"]["leaderWorkerTemplate"]
    assert group["spec"]["replicas"] == 1
    assert spec["size"] == 2
    container = spec["workerTemplate"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 8
    assert "--tensor-parallel-size 8" in container["args"][0]
    service = yaml.safe_load(
        write_launch(apart, "vllm", wrapper="kuberay").files["rayservice.yaml"]
    )
    application = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]
    kwargs = application["args"]["llm_configs"][0]["engine_kwargs"]
    assert kwargs["tensor_parallel_size"] == 8
    assert kwargs["pipeline_parallel_size"] == 2
    assert service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["numOfHosts"] == 2


def test_slurm_script() -> None:
    job = Job(model="m", phase="train", tp=8, dp=4, etp=8, micro_batch=1, global_batch=4, seq=128)
    text = write_launch(job, "megatron-lm", wrapper="slurm").text
    assert text.startswith("#!/bin/bash\n")
    for line in ("#SBATCH --nodes=4", "#SBATCH --gres=gpu:8", "#SBATCH --ntasks-per-node=1"):
        assert line in text
    assert "srun --wait=60 --kill-on-bad-exit=1" in text


def test_every_target_has_a_version_and_reads_its_own_words() -> None:
    for name in launch.target_names():
        found = target(name)
        assert found.version
        assert found.flags
        assert set(found.cannot) <= set(JOB_FIELDS)
        spellings = [s for flag in found.flags.values() for s in flag.spellings]
        assert len(spellings) == len(set(spellings))
