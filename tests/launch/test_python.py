"""Launches written in Python: engines' calls, commands given to the system, recipes. What the program's
text does not hold is refused by its name."""

from __future__ import annotations

import pytest

from meshwise.errors import MeshwiseError
from meshwise.launch import parse

READ = {
    "vLLM": (
        'from vllm import LLM\nllm = LLM(model="org/m", tensor_parallel_size=4)\n',
        "vllm",
        {"tp": 4, "model": "org/m"},
    ),
    "vLLM by its package": (
        'import vllm\nllm = vllm.LLM("org/m", tensor_parallel_size=2, pipeline_parallel_size=2)\n',
        "vllm",
        {"tp": 2, "pp": 2, "model": "org/m"},
    ),
    "vLLM's arguments": (
        "from vllm.engine.arg_utils import AsyncEngineArgs\nfrom vllm import AsyncLLMEngine\n"
        'a = AsyncEngineArgs(model="org/m", tensor_parallel_size=2, kv_cache_dtype="fp8",\n'
        "    max_model_len=8192, max_num_seqs=32)\nAsyncLLMEngine.from_engine_args(a)\n",
        "vllm",
        {"tp": 2, "kv_dtype": "fp8", "max_len": 8192, "concurrency": 32},
    ),
    "vLLM, one GPU by default": (
        'from vllm import LLM\ndef main():\n    LLM(model="org/m", seed=1)\n',
        "vllm",
        {"tp": 1, "model": "org/m"},
    ),
    "arguments in a dict": (
        'from vllm import LLM\nTP = 4\nkw = {"tensor_parallel_size": TP, "dtype": "bfloat16"}\n'
        'llm = LLM(model="org/m", **kw)\n',
        "vllm",
        {"tp": 4, "dtype": "bf16"},
    ),
    "a default of the environment": (
        'import os\nfrom vllm import LLM\nllm = LLM("m", tensor_parallel_size='
        'int(os.environ.get("TP", "8")))\n',
        "vllm",
        {"tp": 8},
    ),
    "experts": (
        'from vllm import LLM\nLLM(model="m", tensor_parallel_size=8, enable_expert_parallel=True)\n',
        "vllm",
        {"tp": 8, "ep": 8, "etp": 1},
    ),
    "drafts": (
        'from vllm import LLM\nLLM(model="m", tensor_parallel_size=2, speculative_config='
        '{"method": "eagle", "num_speculative_tokens": 3})\n',
        "vllm",
        {"tp": 2, "draft_tokens": 3},
    ),
    "SGLang": (
        'import sglang as sgl\nif __name__ == "__main__":\n'
        '    e = sgl.Engine(model_path="org/m", tp_size=8, dp_size=2, enable_dp_attention=True)\n',
        "sglang",
        {"tp": 4, "dp": 2, "model": "org/m"},
    ),
    "TensorRT-LLM": (
        "from tensorrt_llm import LLM\nfrom tensorrt_llm.llmapi import KvCacheConfig\n"
        'LLM(model="org/m", tensor_parallel_size=4, kv_cache_config=KvCacheConfig(dtype="fp8"))\n',
        "trtllm",
        {"tp": 4, "kv_dtype": "fp8", "model": "org/m"},
    ),
    "Ray": (
        "from ray.serve.llm import LLMConfig\nc = LLMConfig(model_loading_config=dict("
        'model_id="x", model_source="org/m"), engine_kwargs=dict(tensor_parallel_size=4))\n',
        "vllm",
        {"tp": 4, "model": "org/m"},
    ),
    "a command in a list": (
        "import subprocess\nsubprocess.run(['torchrun', '--nproc-per-node', '8', 'pretrain_gpt.py',"
        " '--tensor-model-parallel-size', '4'], check=True)\n",
        "megatron-lm",
        {"tp": 4, "dp": 2},
    ),
    "a command as a text": (
        'import os\ntp = 4\nos.system(f"vllm serve org/m -tp {tp}")\n',
        "vllm",
        {"tp": 4, "model": "org/m"},
    ),
    "a list put together": (
        "import subprocess\nbase = ['vllm', 'serve', 'org/m']\ncmd = base + ['-tp', str(4)]\n"
        "subprocess.Popen(cmd)\n",
        "vllm",
        {"tp": 4},
    ),
    "DeepSpeed": (
        "import deepspeed\nconfig = {'train_batch_size': 64, 'train_micro_batch_size_per_gpu': 2,\n"
        " 'gradient_accumulation_steps': 4, 'zero_optimization': {'stage': 3}, 'bf16': "
        "{'enabled': True}}\nengine, *_ = deepspeed.initialize(model=m, config=config)\n",
        "deepspeed",
        {"dp": 8, "shard": "zero3", "micro_batch": 2, "dtype": "bf16"},
    ),
    "NeMo": (
        "import nemo_run as run\nfrom nemo.collections import llm\n"
        "recipe = llm.llama3_8b.pretrain_recipe(num_nodes=2, num_gpus_per_node=8)\n"
        "recipe.trainer.strategy.tensor_model_parallel_size = 4\n"
        "recipe.trainer.strategy.pipeline_model_parallel_size = 2\n",
        "megatron-bridge",
        {"tp": 4, "pp": 2, "cp": 2, "dp": 1},  # cp is the recipe's
    ),
}


@pytest.mark.parametrize("name", READ)
def test_programs(name: str) -> None:
    text, target, fields = READ[name]
    read = parse(text)
    assert read.target == target
    assert {k: getattr(read.job, k) for k in fields} == fields


REFUSED = {
    "an argument": (
        "import sys\nfrom vllm import LLM\nLLM('m', tensor_parallel_size=int(sys.argv[1]))\n",
        "$sys_argv_1 is not set",
    ),
    "what the machine has": (
        "import torch\nfrom vllm import LLM\nLLM('m', tensor_parallel_size=torch.cuda."
        "device_count())\n",
        "$torch_cuda_device_count is not set",
    ),
    "arguments of elsewhere": (
        "from vllm import LLM\ndef make(**kw):\n    return LLM('m', **kw)\n",
        "$kw is not in the text",
    ),
    "a name set twice": (
        "from vllm import LLM\nTP = 2\nTP = 4\nLLM('m', tensor_parallel_size=TP)\n",
        "$TP is not set",
    ),
    "a loop": (
        "from vllm import LLM\nfor tp in (2, 4):\n    LLM('m', tensor_parallel_size=tp)\n",
        "$tp is not set",
    ),
    "branches": (
        "from vllm import LLM\nif big:\n    LLM('m', tensor_parallel_size=8)\nelse:\n"
        "    LLM('m', tensor_parallel_size=2)\n",
        "which branch runs is not known (tp=8; tp=2)",
    ),
    "a misspelt argument": (
        "from vllm import LLM\nLLM('m', tensor_paralel_size=8)\n",
        "nearest: --tensor-parallel-size",
    ),
    "transformers": (
        "from transformers import AutoModelForCausalLM\n"
        "m = AutoModelForCausalLM.from_pretrained('m', tp_plan='auto')\n",
        "no word of a layout was read: what starts this program of transformers is not in the text",
    ),
    "accelerate": (
        "from accelerate import Accelerator\na = Accelerator(mixed_precision='bf16')\n",
        "accelerate launch",
    ),
    "PyTorch": (
        "import torch.distributed as dist\ndist.init_process_group('nccl')\n",
        "torchrun",
    ),
    "another engine": ("from lmdeploy import pipeline\np = pipeline('m')\n", "lmdeploy"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    text, words = REFUSED[name]
    with pytest.raises(MeshwiseError) as error:
        parse(text, gpus=8)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert "Megatron-Bridge" not in str(error.value)


def test_another_engine_of_the_same_program_is_named() -> None:
    read = parse("from vllm import LLM\nLLM('a', tensor_parallel_size=4)\nLLM('b')\n")
    assert read.job.tp == 4
    assert "another engine with another layout (tp=1)" in read.notes[0]


def test_the_target_of_another_software_is_refused() -> None:
    with pytest.raises(MeshwiseError, match="vLLM's is not read as SGLang's"):
        parse("from vllm import LLM\nLLM('m', tensor_parallel_size=4)\n", "sglang")
