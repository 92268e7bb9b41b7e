"""A configuration and the flags beside it: one of the two is not what runs, so neither is priced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshwise.errors import MeshwiseError
from meshwise.launch import parse

HALF = {
    "train_micro_batch_size_per_gpu": 2,
    "fp16": {"enabled": True},
    "zero_optimization": {"stage": 2},
}
OPEN = {
    "train_micro_batch_size_per_gpu": "auto", "bf16": {"enabled": "auto"},
    "fp16": {"enabled": False}, "zero_optimization": {"stage": 2},
}  # fmt: skip
FSDP = "distributed_type: FSDP\nnum_machines: 1\nnum_processes: 8\nmixed_precision: fp16\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, table in (
        ("half.json", HALF),
        ("open.json", OPEN),
        ("both.json", HALF | {"bf16": {"enabled": True}}),
    ):
        Path(name).write_text(json.dumps(table))
    Path("fsdp.yaml").write_text(FSDP)


@pytest.mark.parametrize(
    "command",
    [
        "deepspeed --num_gpus 8 train.py --bf16 --deepspeed half.json",
        "deepspeed --num_gpus 8 train.py --deepspeed both.json",
        "deepspeed --num_gpus 8 train.py --fp16 --deepspeed open.json",
        "deepspeed --num_gpus 8 train.py --deepspeed half.json --per_device_train_batch_size 4",
        "deepspeed --num_gpus 8 pretrain_gpt.py --tensor-model-parallel-size 2 --micro-batch-size 2 "
        "--bf16 --deepspeed --deepspeed_config half.json",
        "accelerate launch --config_file fsdp.yaml train.py --bf16",
        "torchrun --nproc-per-node 8 pretrain_gpt.py --bf16 --fp16 --tensor-model-parallel-size 2",
    ],
)
def test_they_disagree(command: str) -> None:
    with pytest.raises(MeshwiseError) as caught:
        parse(command, gpus=8)
    assert "16" in str(caught.value) or "batch" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("command", "dtype", "micro"),
    [
        ("deepspeed --num_gpus 8 train.py --fp16 --deepspeed half.json", "fp16", 2),
        ("deepspeed --num_gpus 8 train.py --bf16 False --deepspeed half.json", "fp16", 2),
        (
            "deepspeed --num_gpus 8 train.py --bf16 --deepspeed open.json "
            "--per_device_train_batch_size 4",
            "bf16",
            4,
        ),
        ("accelerate launch --config_file fsdp.yaml train.py --fp16", "fp16", None),
        (
            "accelerate launch --config_file fsdp.yaml --mixed_precision bf16 train.py",
            "bf16",  # the launcher's flag stands for the file's key
            None,
        ),
    ],
)
def test_they_agree(command: str, dtype: str, micro: int | None) -> None:
    job = parse(command, gpus=8).job
    assert (job.dtype, job.micro_batch) == (dtype, micro)
