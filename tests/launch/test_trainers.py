"""Settings of torchtitan and accelerate by release: formats, microbatches, names that have changed."""

from __future__ import annotations

import pytest

from meshwise.errors import MeshwiseError
from meshwise.launch import parse

RUN = "torchrun --nproc_per_node 8 -m torchtitan.train --parallelism.tensor_parallel_degree 2"
TOML = "cat > c.toml <<EOT\n{}\nEOT\nCONFIG_FILE=c.toml NGPU=8 ./run_train.sh"
OLD = """[training]
batch_size = 4
seq_len = 8192
tensor_parallel_degree = 2
data_parallel_degree = -1
[experimental]
pipeline_parallel_degree = 2
pipeline_parallel_microbatches = 4
enable_async_tensor_parallel = true
[float8]
enable_float8_linear = true"""
NEW = """[model]
converters = ["quantize.linear.float8"]
[parallelism]
tensor_parallel_degree = 2
[training]
local_batch_size = 2
seq_len = 8192"""
PYTHON = """from torchtitan.config import ParallelismConfig
from torchtitan.components.quantization.float8 import Float8LinearConverter
c = Trainer.Config(parallelism=ParallelismConfig(tensor_parallel_degree=2),
    model_converters=[Float8LinearConverter.Config()])
"""
TITAN = {
    "a converter": (f"{RUN} --model.converters float8", {"dtype": "fp8"}),
    "a converter's longer name": (
        f"{RUN} --model.converters=quantize.linear.float8",
        {"dtype": "fp8"},
    ),
    "MX": (f"{RUN} --model.converters quantize.linear.mx", {"dtype": "mxfp8"}),
    "none": (RUN, {"dtype": None}),
    "experts alone": (f"{RUN} --model.converters quantize.grouped_mm.float8", {"dtype": None}),
    "a file": (TOML.format(NEW), {"dtype": "fp8", "tp": 2, "micro_batch": 2, "global_batch": 8}),
    "a file of an old release": (
        TOML.format(OLD),
        {"dtype": "fp8", "tp": 2, "pp": 2, "dp": 2, "micro_batch": 1, "overlap": "decomposed"},
    ),
    "classes": (PYTHON, {"dtype": "fp8", "tp": 2}),
    "tokens": (
        f"{RUN} --training.num_tokens_per_microbatch_per_dp_rank 8192 "
        "--training.max_context_length 4096 --training.num_tokens_per_train_step 65536",
        {"micro_batch": 2, "seq": 4096, "global_batch": 16},
    ),
    "microbatches of one": (
        f"{RUN} --parallelism.pipeline_parallel_degree 2 --training.local_batch_size 8",
        {"micro_batch": 1, "global_batch": 16},
    ),
    "a size of microbatches": (
        f"{RUN} --parallelism.pipeline_parallel_degree 2 --training.local_batch_size 8 "
        "--parallelism.pipeline_parallel_microbatch_size 2",
        {"micro_batch": 2},
    ),
}


@pytest.mark.parametrize("name", TITAN)
def test_torchtitan(name: str) -> None:
    text, fields = TITAN[name]
    job = parse(text, gpus=8).job
    assert {k: getattr(job, k) for k in fields} == fields


def test_converters_that_are_not_priced_are_named() -> None:
    notes = parse(f"{RUN} --model.converters float8,qat").notes
    assert any("the converter qat is not priced" in note for note in notes)
    notes = parse(f"{RUN} --model.converters float8", experts=True).notes
    assert any("experts are not converted" in note for note in notes)
    with pytest.raises(MeshwiseError, match="names two formats"):
        parse(f"{RUN} --model.converters float8,mx")


MEGATRON = (
    "accelerate launch --num_processes=16 --use_megatron_lm --megatron_lm_tp_degree 2 "
    "--megatron_lm_pp_degree 2 --megatron_lm_num_micro_batches 4 "
    "--megatron_lm_recompute_activations true --megatron_lm_use_distributed_optimizer true "
    "train.py --per_device_train_batch_size 2"
)
YAML = """distributed_type: MEGATRON_LM
num_processes: 16
megatron_lm_config:
  megatron_lm_num_micro_batches: 4
  megatron_lm_pp_degree: 2
  megatron_lm_recompute_activations: true
  megatron_lm_tp_degree: 2
  megatron_lm_use_distributed_optimizer: true
"""


@pytest.mark.parametrize("text", [MEGATRON, YAML])
def test_accelerates_megatron_plugin(text: str) -> None:
    job = parse(text).job
    assert (job.tp, job.pp, job.dp) == (2, 2, 4)
    assert (job.recompute, job.shard) == ("selective", "zero1")
    if "per_device" in text:
        assert (job.micro_batch, job.global_batch) == (2, 32)
