"""Commands and files of training as releases have written them: old flags, the model that flags write out,
DeepSpeed's keys, accelerate's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import meshwise as mw
from meshwise.commands import _model_of
from meshwise.errors import MeshwiseError
from meshwise.launch import parse
from meshwise.models.load import load_model

LAUNCH = "torchrun --nproc_per_node 8 --nnodes 2 pretrain_gpt.py "
SIZES = "--num-layers 24 --hidden-size 1024 --num-attention-heads 16 --micro-batch-size 4 --seq-length 1024 "
LLAMA = (
    "--num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 --seq-length 8192 "
    "--group-query-attention --num-query-groups 8 --swiglu --untie-embeddings-and-output-weights "
    "--normalization RMSNorm --disable-bias-linear --position-embedding-type rope --hidden-dropout 0 "
    "--micro-batch-size 1 --bf16 "
)


def model(text: str) -> object:
    return _model_of(parse(text))


# -- Megatron-LM ---------------------------------------------------------------------------------------------


def test_flags_of_old_releases() -> None:
    text = (
        "python -m torch.distributed.launch --nproc_per_node 8 pretrain_gpt2.py --model-parallel-size 2 "
        "--num-layers 24 --hidden-size 1024 --num-attention-heads 16 --batch-size 4 --seq-length 1024 "
        "--checkpoint-activations --fp16"
    )
    job = parse(text).job
    assert (job.tp, job.dp, job.micro_batch, job.global_batch) == (2, 4, 4, 16)
    assert (job.recompute, job.dtype) == ("full", "fp16")
    older = parse(
        f"{LAUNCH}{SIZES}--tensor-model-parallel-size 2 --activations-checkpoint-method uniform"
    )
    assert older.job.recompute == "full"


def test_without_a_degree_it_is_one_where_the_rest_is_said() -> None:
    read = parse(f"{LAUNCH}{SIZES}--bf16")
    assert (read.job.tp, read.job.pp, read.job.dp) == (1, 1, 16)
    assert any("defaults are TP 1" in note for note in read.notes)
    for left in (f"{LAUNCH}--bf16", f"{LAUNCH}{SIZES}--use-checkpoint-args", f"{LAUNCH}$GPT_ARGS"):
        with pytest.raises(MeshwiseError):
            parse(left)


@pytest.mark.parametrize(
    "script",
    ["tools/convert_to_hf.py", "generate_samples_gpt.py", "tasks/eval_harness/evaluate.py"],
)
def test_what_does_not_train_is_no_training(script: str) -> None:
    with pytest.raises(MeshwiseError, match="does not train"):
        parse(
            f"torchrun --nproc_per_node 8 {script} --tensor-model-parallel-size 2 --micro-batch-size 1"
        )


def test_the_model_of_the_flags() -> None:
    built = model(f"{LAUNCH}{LLAMA}--tensor-model-parallel-size 2 --vocab-size 128256")
    preset = load_model("llama-3.1-8b")
    assert (
        mw.describe(built).parameters == mw.describe(preset).parameters
    )  # 128256 is a multiple of 128 · 2


@pytest.mark.parametrize(
    ("said", "rows"),
    [
        ("--vocab-size 50257 --tensor-model-parallel-size 1", 50304),
        ("--vocab-size 50257 --tensor-model-parallel-size 8", 51200),
        (
            "--vocab-size 50257 --tensor-model-parallel-size 8 --make-vocab-size-divisible-by 1",
            50264,
        ),
        ("--pad-vocab-size-to 250880 --tensor-model-parallel-size 4", 250880),
        ("--tokenizer-type NullTokenizer --vocab-size 1023 --tensor-model-parallel-size 1", 1024),
        ("--tensor-model-parallel-size 1", 50304),  # the script's own tokenizer
    ],
)
def test_the_vocabulary_is_padded(said: str, rows: int) -> None:
    assert model(f"{LAUNCH}{SIZES}--bf16 {said}").vocab == rows  # type: ignore[attr-defined]


def test_the_feed_forward_that_is_not_said() -> None:
    text = f"{LAUNCH}{SIZES}--bf16 --vocab-size 128 --tensor-model-parallel-size 1 "
    plain, gated = model(text), model(f"{text}--swiglu")
    assert plain.blocks[0].mlp.width == 4096  # type: ignore[attr-defined]
    assert gated.blocks[0].mlp.width == 2688  # type: ignore[attr-defined]


def test_experts_of_the_flags() -> None:
    text = (
        f"{LAUNCH}{LLAMA}--vocab-size 32000 --tensor-model-parallel-size 1 --expert-model-parallel-size 8 "
        "--num-experts 8 --moe-router-topk 2 --moe-layer-freq ([0]*2+[1]*30)"
    )
    built = model(text.replace("([0]*2+[1]*30)", "'([0]*2+[1]*30)'"))
    assert built.pattern == (0,) * 2 + (1,) * 30  # type: ignore[attr-defined]
    with pytest.raises(MeshwiseError, match="--moe-layer-freq"):
        model(text.replace("([0]*2+[1]*30)", "2"))


@pytest.mark.parametrize(
    ("said", "named"),
    [
        (
            "--tokenizer-type HuggingFaceTokenizer --tokenizer-model own/words",
            "vocabulary of own/words",
        ),
        ("--vocab-size $VOCAB", r"\$VOCAB"),
        ("--vocab-size 128 --hybrid-layer-pattern M-M*", "layers of several kinds"),
    ],
)
def test_a_model_that_the_flags_do_not_give(said: str, named: str) -> None:
    with pytest.raises(MeshwiseError, match=named):
        model(f"{LAUNCH}{SIZES}--bf16 --tensor-model-parallel-size 1 {said}")
    encoder = LAUNCH.replace("gpt", "bert")
    with pytest.raises(MeshwiseError, match="no decoder alone"):
        model(f"{encoder}{SIZES}--bf16 --tensor-model-parallel-size 1 --vocab-size 128")


def test_a_yaml_of_its_settings(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(
        "language_model:\n  num_layers: 24\n  hidden_size: 1024\n  num_attention_heads: 16\n"
        "model_parallel:\n  tensor_model_parallel_size: 2\n  sequence_parallel: true\n  bf16: true\n"
        "micro_batch_size: 2\nglobal_batch_size: 32\n"
    )
    for text in (f"{LAUNCH}--yaml-cfg {file}", file.read_text()):
        job = parse(text, gpus=16).job
        assert (job.tp, job.dp, job.dtype, job.sequence_parallel) == (2, 8, "bf16", True)
    with pytest.raises(MeshwiseError, match=r"nowhere\.yaml is not here"):
        parse(f"{LAUNCH}--yaml-cfg nowhere.yaml")


def test_a_blank_behind_a_backslash_ends_the_command() -> None:
    text = (
        'ARGS="--tensor-model-parallel-size 2 --bf16 \\  \n  --micro-batch-size 1 --global-batch-size 16"\n'
        'srun bash -c "torchrun --nproc_per_node 8 pretrain_gpt.py $ARGS"\n'
    )
    with pytest.raises(MeshwiseError, match="does not end with a backslash"):
        parse(text)
    assert parse(text.replace("\\  \n", "\\\n")).job.global_batch == 16


# -- NeMo's files --------------------------------------------------------------------------------------------

NEMO = """trainer:
  devices: 8
  {nodes}precision: bf16
model:
  micro_batch_size: 1
  global_batch_size: 256
  tensor_model_parallel_size: 4
  pipeline_model_parallel_size: 2
  {more}encoder_seq_length: 4096
  optim: {{name: distributed_fused_adam, grad_sync_dtype: bf16}}
"""


def test_nodes_that_a_file_leaves_out_are_asked_for() -> None:
    with pytest.raises(MeshwiseError, match="how many GPUs"):
        parse(NEMO.format(nodes="", more=""))
    job = parse(NEMO.format(nodes="num_nodes: 4\n  ", more="fp8: true\n  ")).job
    assert (job.gpus, job.dp, job.dtype, job.grad_dtype, job.shard) == (
        32,
        4,
        "fp8",
        "bf16",
        "zero1",
    )
    named = "data: {seq_length: '${model.encoder_seq_length}'}\n  "
    assert parse(NEMO.format(nodes="num_nodes: 4\n  ", more=named)).job.seq == 4096
    with pytest.raises(MeshwiseError, match="freeze_llm"):
        parse(NEMO.format(nodes="num_nodes: 4\n  ", more="freeze_llm: true\n  "))


# -- DeepSpeed -----------------------------------------------------------------------------------------------


def zero(**more: object) -> str:
    return json.dumps(
        {"train_micro_batch_size_per_gpu": 2, "zero_optimization": {"stage": 2}, **more}
    )


def test_keys_that_deepspeed_does_not_have_are_named() -> None:
    read = parse(zero(own_key=1, zero_optimization={"stage": 2, "own": 1}), gpus=8)
    assert any("zero_optimization.own, own_key" in note for note in read.notes)
    known = {"stage": 3, "stage3_max_live_parameters": 1, "offload_param": {"device": "none"}}
    assert not any("no keys" in n for n in parse(zero(zero_optimization=known), gpus=8).notes)
    with pytest.raises(MeshwiseError, match=r"zero_optimization\.stge"):
        parse(zero(zero_optimization={"stge": 2}), gpus=8)


def test_old_words_of_deepspeed() -> None:
    assert parse(zero(zero_optimization=True), gpus=8).job.shard == "zero1"
    old = parse(zero(zero_optimization={"stage": 2, "cpu_offload": True}), gpus=8).job
    assert (old.shard, old.offload_optimizer) == ("zero2", True)
    assert parse(zero(bfloat16={"enabled": True}), gpus=8).job.dtype == "bf16"


def test_deepspeeds_optimizer() -> None:
    assert parse(zero(optimizer={"type": "Lion"}), gpus=8).job.optimizer == "lion"
    assert parse(zero(optimizer={"type": "AdamW"}), gpus=8).job.optimizer is None
    assert any(
        "Own is not priced" in n for n in parse(zero(optimizer={"type": "Own"}), gpus=8).notes
    )


@pytest.mark.parametrize("key", ["elasticity", "autotuning"])
def test_what_decides_the_sizes_is_not_followed(key: str) -> None:
    with pytest.raises(MeshwiseError, match=f"{key}: DeepSpeed's key is not followed"):
        parse(zero(**{key: {"enabled": True}}), gpus=8)
    assert parse(zero(**{key: {"enabled": False}}), gpus=8).job.dp == 8


def test_braces_that_are_no_json() -> None:
    commented = zero().replace("{", "{\n# sizes\n", 1)
    assert parse(commented, gpus=8).job.shard == "zero2"
    with pytest.raises(MeshwiseError, match="GPT-NeoX is not read"):
        parse('{\n  # layout\n  "pipe_parallel_size": 1,\n  "model_parallel_size": 2\n}')


# -- accelerate ----------------------------------------------------------------------------------------------


def test_the_file_that_accelerates_file_names(tmp_path: Path) -> None:
    file = tmp_path / "zero.json"
    file.write_text(zero(bf16={"enabled": True}))
    text = (
        "distributed_type: DEEPSPEED\nnum_processes: 8\nnum_machines: 1\n"
        f"deepspeed_config:\n  deepspeed_config_file: {file}\n"
    )
    job = parse(text).job
    assert (job.dp, job.shard, job.dtype, job.micro_batch) == (8, "zero2", "bf16", 2)
    with pytest.raises(MeshwiseError, match="is not here"):
        parse(text.replace("zero.json", "other.json"))
    single = text.replace("DEEPSPEED", "'NO'").replace("8", "1", 1)
    assert parse(single.replace("zero.json", "other.json")).job.gpus == 1


@pytest.mark.parametrize("kind", ["MULTI_GPU", "MULTI_XPU", "MULTI_HPU"])
def test_data_parallelism_on_any_device(kind: str) -> None:
    assert parse(f"distributed_type: {kind}\nnum_processes: 4\nmixed_precision: bf16\n").job.dp == 4


def test_hybrid_sharding_is_said() -> None:
    text = (
        "accelerate launch --num_processes 8 --use_fsdp --fsdp_version 2 --use_parallelism_config true "
        "--parallelism_config_dp_replicate_size 2 --parallelism_config_dp_shard_size 4 train.py"
    )
    assert any("hybrid sharding over 4 of 8" in note for note in parse(text).notes)


# -- flags of forks that change the model --------------------------------------------------------------------

TOKENS = "--vocab-size 32000 --tensor-model-parallel-size 2 --bf16 "


@pytest.mark.parametrize(
    ("said", "kv_heads"),
    [
        ("--attention-head-type multiquery", 1),
        ("--attention-head-type multihead", 16),
        ("--num-key-value-heads 4", 4),
        ("", 16),
    ],
)
def test_kv_heads_by_the_words_of_forks(said: str, kv_heads: int) -> None:
    built = _model_of(parse(f"{LAUNCH} {SIZES} {TOKENS} {said}"))
    assert {b.attention.kv_heads for b in built.blocks if b.attention is not None} == {kv_heads}


def test_a_flag_of_no_release_that_builds_other_layers_is_not_left_aside() -> None:
    read = parse(f"{LAUNCH} {SIZES} {TOKENS} --mlp-type residual --wandb-entity-name x")
    assert "--mlp-type residual" in {u.flag for u in read.unpriced}
    with pytest.raises(MeshwiseError) as caught:
        _model_of(read)
    assert caught.value.to_dict()["error"]["value"] == "--mlp-type residual"
    given = parse(f"{LAUNCH} {SIZES} {TOKENS} --mlp-type residual", model="llama-2-7b")
    assert given.job.model == "llama-2-7b"


def test_experts_of_one_rank_and_one_expert_are_none() -> None:
    dense = f"{LAUNCH} {SIZES} {TOKENS} --num-experts 1 --moe-expert-parallel-size 1"
    read = parse(dense)
    assert (read.job.ep, dict(read.sizes).get("experts_total")) == (1, None)
    with pytest.raises(MeshwiseError) as caught:
        parse(dense.removesuffix("1") + "4")
    assert caught.value.to_dict()["error"]["field"] == "--moe-expert-parallel-size"


def test_a_command_that_is_cut_short_leaves_the_others_of_its_text() -> None:
    whole = f"{LAUNCH} {SIZES} {TOKENS}"
    text = f"{whole} --global-batch-size 128\n{whole}\n  --global-batch-size 256\n"
    assert parse(text, which=1).job.global_batch == 128
    with pytest.raises(MeshwiseError) as caught:
        parse(text, which=2)
    assert (caught.value.line, caught.value.to_dict()["error"]["value"]) == (
        3,
        "--global-batch-size",
    )
    with pytest.raises(MeshwiseError) as alone:
        parse(text.split("\n", 1)[1])
    assert alone.value.line == 2


def test_a_flavour_of_a_familys_own_folder_is_of_the_commands_module() -> None:
    text = (
        "from torchtitan.config import ParallelismConfig\n"
        "from torchtitan.trainer import Trainer\n"
        "from . import model_registry\n\n\n"
        "def mine() -> Trainer.Config:\n"
        '    return Trainer.Config(model_spec=model_registry("8B"),\n'
        "        parallelism=ParallelismConfig(tensor_parallel_degree=2))\n"
    )
    run = "torchrun --nproc_per_node 8 -m torchtitan.train --module {} --config mine"
    files = {"config_registry.py": text}
    assert parse(run.format("llama3"), files=files).job.model == "llama-3.1-8b"
    assert parse(run.format("qwen3"), files=files).job.model == "qwen3-8b"


def test_a_script_that_is_put_in_a_queue_is_named() -> None:
    command = "sbatch --nodes=4 -J x jobs/train.sh"
    with pytest.raises(MeshwiseError) as caught:
        parse(f"export TP=2\n{command}\n")
    assert caught.value.to_dict()["error"]["value"] == "jobs/train.sh"
    inner = f"{LAUNCH} {SIZES} --vocab-size 32000 --bf16 --tensor-model-parallel-size $TP"
    assert parse(f"export TP=2\n{command}\n", files={"jobs/train.sh": inner}).job.tp == 2
