"""The microbatch of training: what no word of a command states is asked for, never taken for 1."""

from __future__ import annotations

import pytest

import meshwise as mw
from meshwise.comparison import open_values
from meshwise.launch import parse
from meshwise.launch.account.questions import Unanswered

COMMANDS = {
    "megatron-lm": "torchrun --nproc_per_node 8 pretrain_gpt.py --tensor-model-parallel-size 2 --bf16 "
    "--global-batch-size 32 --seq-length 1024",
    "accelerate": "accelerate launch --multi_gpu --num_processes 8 --mixed_precision bf16 train.py",
    "deepspeed": "cat > z.json <<EOT\n"
    '{"zero_optimization": {"stage": 2}, "bf16": {"enabled": true}}\nEOT\n'
    "deepspeed --num_gpus 8 train.py --deepspeed z.json",
}


@pytest.mark.parametrize("text", COMMANDS.values(), ids=COMMANDS)
def test_it_is_asked_for_with_the_rest(text: str) -> None:
    job = parse(text).job
    assert job.micro_batch is None
    asked = {q.option for q in open_values(job)}
    assert "micro_batch" in asked
    assert "micro_batch" not in {q.option for q in open_values(job, micro_batch=2)}


def test_what_the_caller_gives_is_priced() -> None:
    text = COMMANDS["megatron-lm"]
    load = {"model": "gpt2", "global_batch": 32, "seq": 1024}
    with pytest.raises(Unanswered) as error:
        mw.read_command(text, "hgx-h100", **load)
    assert [q.option for q in error.value.questions] == ["micro_batch"]
    answer = mw.read_command(text, "hgx-h100", **load, micro_batch=4)
    assert answer.layout.micro_batch == 4
