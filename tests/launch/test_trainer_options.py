"""Training scripts that take the options of transformers' trainer, started by DeepSpeed and by accelerate."""

from __future__ import annotations

import pytest

from meshwise.errors import MeshwiseError
from meshwise.launch import parse
from meshwise.launch.account.candidates import SeveralCommands
from meshwise.launch.account.questions import Unanswered

ZERO = (
    "cat > z.json <<EOT\n"
    '{"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": "auto", '
    '"gradient_accumulation_steps": "auto", "bf16": {"enabled": "auto"}}\nEOT\n'
)
OWN = (
    "--model_name_or_path meta-llama/Llama-2-7b-hf --per_device_train_batch_size 2 "
    "--model_max_length 2048 "
)
STARTED = {
    "deepspeed": ZERO + "deepspeed --num_gpus 8 train.py --deepspeed z.json " + OWN,
    "accelerate": ZERO + "accelerate launch --num_processes 8 train.py --deepspeed z.json " + OWN,
    "torchrun": ZERO + "torchrun --nproc_per_node 8 train.py --deepspeed z.json " + OWN,
}
by_launcher = pytest.mark.parametrize("start", STARTED.values(), ids=STARTED)


@by_launcher
def test_every_launcher_reads_the_options_alike(start: str) -> None:
    said = "--gradient_accumulation_steps 4 --bf16 True --gradient_checkpointing True"
    read = parse(start + said)
    job = read.job
    assert (job.model, job.seq) == ("meta-llama/Llama-2-7b-hf", 2048)
    assert (job.micro_batch, job.global_batch, job.dp, job.shard) == (2, 64, 8, "zero3")
    assert (job.dtype, job.recompute) == ("bf16", "full")
    placed = {f.setting: f.origin.word for f in read.flags}
    assert placed["seq"] == "--model_max_length 2048"
    assert placed["accumulation"] == "--gradient_accumulation_steps 4"


@by_launcher
def test_switches_that_are_off(start: str) -> None:
    job = parse(f"{start}--gradient_checkpointing False --use_lora False --lora_r 8").job
    assert job.recompute == "none"


@by_launcher
@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("--gradient_accumulation_steps $STEPS", ["$STEPS"]),
        ("--gradient_accumulation_steps $((64/RANKS/2))", ["$RANKS"]),
        ("--gradient_accumulation_steps $STEPS --bf16 $NARROW", ["$STEPS", "$NARROW"]),
    ],
)
def test_what_is_not_set_is_asked_for(start: str, said: str, names: list[str]) -> None:
    with pytest.raises(Unanswered) as error:
        parse(start + said)
    assert [q.name for q in error.value.questions] == names


def test_all_that_is_open_is_in_one_message() -> None:
    with pytest.raises(Unanswered) as error:
        parse("deepspeed --num_gpus $MANY train.py --deepspeed $FILE --fp16 $NARROW")
    assert [q.name for q in error.value.questions] == ["$MANY", "$FILE", "$NARROW"]
    assert error.value.model == ""


@by_launcher
@pytest.mark.parametrize(
    ("said", "field"),
    [
        ("--use_peft --lora_r 16", "--use_peft"),
        ("--lora_rank=8", "--lora_rank"),
        ("--load_in_4bit", "--load_in_4bit"),
        ("--tune_mm_mlp_adapter True", "--tune_mm_mlp_adapter"),
        ("--freeze_backbone True", "--freeze_backbone"),
        ("--tune_mm_llm False", "--tune_mm_llm"),
        ("--bf16 --per_device_train_batch_size 4", "--per_device_train_batch_size"),
        ("--sequence_parallel_size 4", "--sequence_parallel_size"),
    ],
)
def test_what_is_no_training_of_all_weights_is_refused(start: str, said: str, field: str) -> None:
    with pytest.raises(MeshwiseError) as error:
        parse(f"{start}{said}")
    assert error.value.field == field


@by_launcher
def test_more_models_and_passes_are_said(start: str) -> None:
    read = parse(f"{start}--vision_tower some/tower --freeze_vision_tower True")
    assert [u.flag for u in read.unpriced] == ["--vision_tower some/tower"]
    read = parse(start.replace("train.py", "dpo_tune.py"))
    assert [u.flag for u in read.unpriced] == ["dpo_tune.py"]
    assert not parse(start).unpriced


@pytest.mark.parametrize(
    ("said", "shard"),
    [("full_shard auto_wrap", "zero3"), ("shard_grad_op", "zero2"), ("no_shard", "none")],
)
def test_the_trainers_own_sharding(said: str, shard: str) -> None:
    text = f"accelerate launch --multi_gpu --num_processes 8 train.py {OWN} --fsdp '{said}'"
    assert parse(text).job.shard == shard


def test_a_json_that_the_options_contradict() -> None:
    for start in STARTED.values():
        fixed = start.replace(
            '"train_micro_batch_size_per_gpu": "auto"', '"train_micro_batch_size_per_gpu": 8'
        )
        with pytest.raises(MeshwiseError) as error:
            parse(fixed)
        assert error.value.field == "--per_device_train_batch_size"


def test_the_scripts_own_words_are_no_launchers() -> None:
    text = f"accelerate launch --multi_gpu --num_processes 8 train.py {OWN} --batch-size 4"
    assert "--batch-size 4" in parse(text).ignored


def test_launches_that_differ_in_the_script_s_own_sizes_are_listed() -> None:
    """What the script's own options mean is not known; that they speak of a batch or a length is."""
    one = "accelerate launch --num_processes 8 --mixed_precision bf16 --use_fsdp own.py --model m --seq-len {}\n"
    given = {"gpus": 8, "model": "llama-2-7b"}
    with pytest.raises(SeveralCommands):
        parse(one.format(4096) + one.format(8192), **given)
    same = parse(one.format(4096) + one.format(4096), **given)
    assert any("--seq-len 4096" in note for note in same.notes)
