"""What a target says of a command when it starts, or too late."""

from __future__ import annotations

import pytest

import meshwise as mw
from meshwise.launch import parse
from meshwise.launch.account.launch_warnings import launch_warnings

TRAIN = "torchrun --nnodes 4 --nproc-per-node 8 pretrain_gpt.py --bf16 --micro-batch-size 1 "
CASES = {
    "tokens below sequences": (
        "vllm serve m -tp 4 --max-num-batched-tokens 32 --max-num-seqs 64",
        "llama-3.1-8b",
        [("refused", "tokens_below_sequences")],
    ),
    "enough tokens": (
        "vllm serve m -tp 4 --max-num-batched-tokens 64 --max-num-seqs 64",
        "llama-3.1-8b",
        [],
    ),
    "whole prompts": (
        "vllm serve m -tp 4 --max-num-batched-tokens 4096 --no-enable-chunked-prefill --max-model-len 8192",
        "llama-3.1-8b",
        [("refused", "tokens_below_length")],
    ),
    "longer than the model's positions": (
        "python -m sglang.launch_server --model-path m --tp 4 --context-length 262144",
        "llama-3.1-8b",
        [("refused", "longer_than_positions")],
    ),
    "all recomputed by no method": (
        TRAIN
        + "--tensor-model-parallel-size 2 --recompute-granularity full --recompute-num-layers 1",
        "llama-3.1-8b",
        [("refused", "recompute_without_method")],
    ),
    "all recomputed in units of no size": (
        TRAIN
        + "--tensor-model-parallel-size 2 --recompute-granularity full --recompute-method block",
        "llama-3.1-8b",
        [("refused", "recompute_without_layers")],
    ),
    "all recomputed": (
        TRAIN
        + "--tensor-model-parallel-size 2 --recompute-granularity full --recompute-method uniform "
        "--recompute-num-layers 1",
        "llama-3.1-8b",
        [],
    ),
    "overlap alone": (
        TRAIN + "--tensor-model-parallel-size 2 --tp-comm-overlap",
        "llama-3.1-8b",
        [("refused", "overlap_without_sequence_parallel")],
    ),
    "overlap with sequence parallelism": (
        TRAIN + "--tensor-model-parallel-size 2 --tp-comm-overlap --sequence-parallel",
        "llama-3.1-8b",
        [],
    ),
    "sequence parallelism of one": (
        TRAIN
        + "--pipeline-model-parallel-size 2 --sequence-parallel --tp-comm-overlap --global-batch-size 256",
        "llama-3.1-8b",
        [
            ("refused", "overlap_without_sequence_parallel"),
            ("ignored", "sequence_parallel_alone"),
        ],
    ),
    "a gather without shards": (
        TRAIN + "--tensor-model-parallel-size 2 --overlap-param-gather --overlap-grad-reduce",
        "llama-3.1-8b",
        [("refused", "gather_without_sharding")],
    ),
    "a gather without the reduction": (
        TRAIN + "--tensor-model-parallel-size 2 --overlap-param-gather --use-distributed-optimizer",
        "llama-3.1-8b",
        [("refused", "gather_without_reduce")],
    ),
    "few microbatches": (
        TRAIN
        + "--tensor-model-parallel-size 4 --pipeline-model-parallel-size 4 --global-batch-size 4",
        "llama-3.1-8b",
        [("slow", "fewer_microbatches_than_stages")],
    ),
    "over nodes": (
        TRAIN + "--tensor-model-parallel-size 16",
        "llama-3.1-70b",
        [("slow", "tp_over_nodes")],
    ),
    "an exchange of heads": (
        TRAIN + "--tensor-model-parallel-size 4 --context-parallel-size 4 --cp-comm-type a2a",
        "llama-3.1-8b",
        [("fails", "heads_over_context_ranks")],
    ),
    "a padded vocabulary": (
        TRAIN + "--tensor-model-parallel-size 8 --make-vocab-size-divisible-by 1024",
        "qwen3-8b",
        [("slow", "vocabulary_padding")],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_said(name: str) -> None:
    text, model, wanted = CASES[name]
    found = launch_warnings(parse(text), mw.model(model), mw.cluster("hgx-h100", nodes=4))
    assert [(w.severity, w.rule) for w in found] == wanted
    assert all("\n" not in w.words for w in found)


ARCHITECTURES = ("llama-3.1-8b", "mixtral-8x7b", "deepseek-v3", "qwen3-next-80b-a3b", "deepseek-r1")
FOUR = "torchrun --nnodes 4 --nproc-per-node 8 "
COMMANDS = {
    "vllm": ("vllm serve m -tp 8", None),
    "sglang": ("python -m sglang.launch_server --model-path m --tp 8", None),
    "trtllm": ("trtllm-serve m --tp_size 8", None),
    "megatron-lm": (TRAIN + "--tensor-model-parallel-size 8", None),
    "megatron-bridge": (
        "python run_recipe.py model.tensor_model_parallel_size=8 "
        "model.pipeline_model_parallel_size=1",
        32,
    ),
    "torchtitan": (FOUR + "-m torchtitan.train --parallelism.tensor_parallel_degree=8", None),
    "accelerate": (
        "accelerate launch --num_processes 8 --use_fsdp --fsdp_sharding_strategy FULL_SHARD train.py",
        8,
    ),
    "deepspeed": ('{"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}', 8),
}


@pytest.mark.parametrize("model", ARCHITECTURES)
@pytest.mark.parametrize("target", COMMANDS)
def test_nothing_is_said_of_a_plain_command(model: str, target: str) -> None:
    text, gpus = COMMANDS[target]
    read = parse(text, gpus=gpus)
    assert read.target == target
    found = launch_warnings(read, mw.model(model), mw.cluster("hgx-h100", nodes=4))
    assert [w for w in found if w.severity != "slow"] == []


def test_positions_are_those_of_the_model_of_the_name() -> None:
    model, cluster = mw.model("qwen3-30b-a3b"), mw.cluster("hgx-h100")

    def said(name: str) -> list[str]:
        text = f"vllm serve Qwen/{name} -tp 4 --max-model-len 128000"
        return [w.rule for w in launch_warnings(parse(text), model, cluster)]

    assert "longer_than_positions" in said("Qwen3-30B-A3B")
    assert "longer_than_positions" in said("Qwen3-30B-A3B-FP8")
    assert "longer_than_positions" not in said("Qwen3-30B-A3B-Thinking-2507")
