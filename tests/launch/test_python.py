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
        "$1 is not set",
    ),
    "what the machine has": (
        "import torch\nfrom vllm import LLM\nLLM('m', tensor_parallel_size=torch.cuda."
        "device_count())\n",
        "$device_count is not set",
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
        "which branch runs is not known (1: line 3",
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


def test_several_engines_of_a_program_are_listed_and_one_is_chosen() -> None:
    text = "from vllm import LLM\nLLM('a', tensor_parallel_size=4)\nLLM('b')\n"
    with pytest.raises(
        MeshwiseError, match=r"2 commands \(1: line 2, vllm.LLM: a, tp=4; 2: line 3"
    ):
        parse(text)
    assert parse(text, which="b").job.tp == 1
    assert parse(text, which=1).job.tp == 4


OWN_DEFAULTS = {
    "argparse": (
        "import argparse\nfrom vllm import LLM\np = argparse.ArgumentParser()\n"
        "p.add_argument('--tp', '-t', type=int, default=4)\nargs = p.parse_args()\n"
        "LLM('m', tensor_parallel_size=args.tp)\n",
        "--tp 4",
    ),
    "click": (
        "import click\nfrom vllm import LLM\n@click.command()\n@click.option('--tp', default=4)\n"
        "def main(tp):\n    LLM('m', tensor_parallel_size=tp)\n",
        "--tp 4",
    ),
    "a dataclass": (
        "from dataclasses import dataclass\nfrom vllm import LLM\n@dataclass\nclass A:\n    tp: int = 4\n"
        "a = cli(A)\nLLM('m', tensor_parallel_size=a.tp)\n",
        "tp 4",
    ),
    "the environment": (
        "import os\nfrom vllm import LLM\nLLM('m', tensor_parallel_size=int(os.getenv('tp', '4')))\n",
        "tp 4",
    ),
}


@pytest.mark.parametrize("name", OWN_DEFAULTS)
def test_the_programs_own_default_is_taken_and_said(name: str) -> None:
    text, said = OWN_DEFAULTS[name]
    read = parse(text)
    assert read.job.tp == 4
    assert f"the program's own defaults: {said}" in read.notes
    given = parse(text, values={"tp": "8"})
    assert given.job.tp == 8 and not any("own defaults" in n for n in given.notes)


def test_an_option_without_a_default_is_asked_for_by_its_name() -> None:
    text = (
        "import argparse\nfrom vllm import LLM\np = argparse.ArgumentParser()\n"
        "p.add_argument('--tp', type=int, required=True)\nargs = p.parse_args()\n"
        "LLM('m', tensor_parallel_size=args.tp)\n"
    )
    with pytest.raises(MeshwiseError, match=r"\$tp is not set"):
        parse(text)
    assert parse(text, values={"tp": "8"}).job.tp == 8


BUILT = """import argparse, subprocess
def words(args):
    cmd = ["vllm", "serve", args.model]
    if args.length:
        cmd += ["--max-model-len", str(args.length)]
    cmd.extend(["--tensor-parallel-size", str(args.tp)])
    cmd.append("--enforce-eager" if args.eager else "--no-enforce-eager")
    return cmd
p = argparse.ArgumentParser()
p.add_argument("model")
p.add_argument("--tp", type=int, default=4)
p.add_argument("--length", type=int)
p.add_argument("--eager", action="store_true")
subprocess.run(words(p.parse_args()))
"""


def test_a_command_that_functions_and_conditions_build() -> None:
    job = parse(BUILT, values={"model": "m"}).job
    assert (job.tp, job.max_len) == (4, None) and not job.eager
    longer = BUILT.replace('"--length", type=int', '"--length", type=int, default=4096')
    assert parse(longer, values={"model": "m"}).job.max_len == 4096


def test_a_condition_that_the_text_leaves_open_gives_each_branch() -> None:
    text = (
        "import subprocess\ncmd = ['vllm', 'serve', 'm']\nif big():\n    cmd += ['-tp', '8']\n"
        "subprocess.run(cmd)\n"
    )
    with pytest.raises(MeshwiseError, match="which branch runs is not known"):
        parse(text)
    assert {parse(text, which=n).job.tp for n in (1, 2)} == {1, 8}


@pytest.mark.parametrize(
    "call",
    [
        "os.execvp('vllm', ['vllm', 'serve', 'm', '-tp', '4'])",
        "os.execlp('vllm', 'vllm', 'serve', 'm', '-tp', '4')",
        "subprocess.run(' '.join(['vllm', 'serve', 'm', '-tp', '4']), shell=True)",
        "subprocess.Popen('vllm serve m -tp 4'.split())",
        "subprocess.run(shlex.split('vllm serve m -tp 4'))",
    ],
)
def test_ways_to_give_a_command_to_the_system(call: str) -> None:
    assert parse(f"import os, shlex, subprocess\n{call}\n").job.tp == 4


def test_other_commands_of_a_program_do_not_hide_its_engine() -> None:
    text = "import subprocess\nfrom vllm import LLM\nsubprocess.run(['nvidia-smi'])\nLLM('m')\n"
    assert parse(text).job.tp == 1


def test_the_target_of_another_software_is_refused() -> None:
    with pytest.raises(MeshwiseError, match="vLLM's is not read as SGLang's"):
        parse("from vllm import LLM\nLLM('m', tensor_parallel_size=4)\n", "sglang")
