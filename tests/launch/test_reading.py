"""Launch commands as people have them: what each comes to, or why it is refused. A layout that no word
of the text states is never an answer."""

from __future__ import annotations

import pytest

from meshwise.errors import MeshwiseError
from meshwise.launch import parse

RUN = "torchrun --nnodes 2 --nproc-per-node 8 pretrain_gpt.py"
TP2PP4 = {"tp": 2, "pp": 4, "dp": 2, "micro_batch": 2}
SAID = "--tensor-model-parallel-size 2 --pipeline-model-parallel-size 4 --micro-batch-size 2"
TP4 = {"tp": 4, "dp": 4}

SCRIPTS = {
    "program in a variable": (
        f"ENTRY=pretrain_gpt.py\ntorchrun --nnodes 2 --nproc-per-node 8 $ENTRY {SAID}",
        TP2PP4,
    ),
    "launcher in a variable": (
        f'L="torchrun --nnodes 2 --nproc-per-node 8"\n$L pretrain_gpt.py {SAID}',
        TP2PP4,
    ),
    "exported": (
        f"export PP=4\nexport TP=2\n{RUN} --tensor-model-parallel-size $TP "
        "--pipeline-model-parallel-size ${PP} --micro-batch-size 2",
        TP2PP4,
    ),
    "eval": (f'RUN="{RUN} {SAID}"\neval $RUN', TP2PP4),
    "eval quoted": (f'RUN="{RUN} {SAID}"\neval "$RUN"', TP2PP4),
    "bash -c": (f'RUN="{RUN} {SAID}"\nbash -c "$RUN"', TP2PP4),
    "a string run": (f'RUN="{RUN} {SAID}"\n$RUN', TP2PP4),
    "in single quotes": (f"RUN='{RUN} {SAID}'\nsh -c \"$RUN\"", TP2PP4),
    "a function": (f"launch() {{\n  {RUN} $@\n}}\nlaunch {SAID}", TP2PP4),
    "arguments of a function": (
        f"go() {{ {RUN} --tensor-model-parallel-size $1 --micro-batch-size 1; }}\ngo 4",
        TP4,
    ),
    "an array": (f"A=(\n {SAID} # a (comment)\n)\n{RUN} ${{A[@]}}", TP2PP4),
    "an array in quotes": (f'A=({SAID})\n{RUN} "${{A[@]}}"', TP2PP4),
    "arrays in an array": (
        f'A=({SAID})\nB=("${{A[@]}}" --sequence-parallel)\n{RUN} "${{B[@]}}"',
        TP2PP4 | {"sequence_parallel": True},
    ),
    "a quoted entry": (
        f'P=("--fp8-format hybrid")\nA=({SAID} ${{P[@]}} --bf16)\n{RUN} ${{A[@]}}',
        TP2PP4 | {"dtype": "fp8"},
    ),
    "an array added to": (
        f"A=()\nA+=(--tensor-model-parallel-size 4)\nA+=(--micro-batch-size 1)\n{RUN} ${{A[*]}}",
        TP4,
    ),
    "a string added to": (
        f'A="--tensor-model-parallel-size 4"\nA+=" --micro-batch-size 1"\n{RUN} $A',
        TP4,
    ),
    "a string of itself": (
        f'A="--tensor-model-parallel-size 4"\nA="$A --micro-batch-size 1"\n{RUN} $A',
        TP4,
    ),
    "assigned later": (f"TP=4\n{RUN} --tensor-model-parallel-size $TP\nTP=8", TP4),
    "assigned twice": (f"TP=8\nTP=4\n{RUN} --tensor-model-parallel-size $TP", TP4),
    "over several lines": (
        'D="\n  --nproc_per_node 8\n  --nnodes 2\n"\ntorchrun $D pretrain_gpt.py '
        "--tensor-model-parallel-size 4",
        TP4,
    ),
    "arithmetic": (f"{RUN} --tensor-model-parallel-size $((8/2))", TP4),
    "arithmetic of names": (f"N=2\nG=8\n{RUN} --tensor-model-parallel-size $((N*G/4))", TP4),
    "a default": (f"{RUN} --tensor-model-parallel-size ${{TP:-4}}", TP4),
    "a default of a name": (f"A=4\n{RUN} --tensor-model-parallel-size ${{TP:-$A}}", TP4),
    "a default not used": (f"TP=4\n{RUN} --tensor-model-parallel-size ${{TP:-8}}", TP4),
    "a default assigned": (f': "${{TP:=4}}"\n{RUN} --tensor-model-parallel-size $TP', TP4),
    "a line that only sets": (
        f': "${{IMG:=nvcr.io/megatron:1}}"\n{RUN} --tensor-model-parallel-size 4',
        TP4,
    ),
    "echo": (f"TP=$(echo 4)\n{RUN} --tensor-model-parallel-size $TP", TP4),
    "a name that is printed": (
        f"echo 'vllm serve m --tensor-parallel-size 8'\n{RUN} --tensor-model-parallel-size 4",
        TP4,
    ),
    "a comment": (f"# torchrun old.py\n{RUN} --tensor-model-parallel-size 4 # --bf16", TP4),
    "branches alike": (
        f'if [ -n "$W" ]; then L="--log-interval 5"; else L=""; fi\n{RUN} '
        "--tensor-model-parallel-size 4 $L",
        TP4,
    ),
    "a branch that is known": (
        f'SIZE=big\nif [ "$SIZE" = "big" ]; then TP=4; else TP=8; fi\n{RUN} '
        "--tensor-model-parallel-size $TP",
        TP4,
    ),
    "a case that is known": (
        f"M=7b\ncase $M in\n 7b|8b) TP=4;;\n *) TP=8;;\nesac\n{RUN} "
        "--tensor-model-parallel-size $TP",
        TP4,
    ),
    "a usage check": (
        f"if [ $# -lt 1 ]; then\n echo usage\n exit 1\nfi\n{RUN} --tensor-model-parallel-size 4",
        TP4,
    ),
    "pipes": (f"{RUN} --tensor-model-parallel-size 4 2>&1 | tee log.txt", TP4),
    "two lines": (f"cd /code && {RUN} \\\n  --tensor-model-parallel-size 4", TP4),
    "batch": (
        "#SBATCH --nodes=2\n#SBATCH --gpus-per-node=8\nsrun python pretrain_gpt.py "
        "--tensor-model-parallel-size 4",
        TP4,
    ),
    "SLURM's own variables": (
        "#SBATCH --nodes=2\n#SBATCH --gres=gpu:8\ntorchrun --nnodes $SLURM_NNODES --nproc-per-node "
        "$SLURM_GPUS_ON_NODE pretrain_gpt.py --tensor-model-parallel-size $((SLURM_NNODES*2))",
        TP4,
    ),
    "a here-document": (
        'cat <<EOT > ds.json\n{"train_micro_batch_size_per_gpu": 2, "zero_optimization": '
        '{"stage": 1}}\nEOT\ndeepspeed --num_gpus 8 pretrain_gpt.py --tensor-model-parallel-size 2 '
        "--pipeline-model-parallel-size 2 --micro-batch-size 2 --deepspeed --deepspeed_config ds.json",
        {"tp": 2, "pp": 2, "dp": 2, "shard": "zero1", "micro_batch": 2},
    ),
    "a here-document, the other way": (
        'Z=3\ncat > ds.json <<EOT\n{"train_batch_size": 64, "zero_optimization": {"stage": $Z}}\n'
        "EOT\ndeepspeed --num_gpus 8 train.py --deepspeed_config ds.json",
        {"dp": 8, "shard": "zero3", "micro_batch": 8},
    ),
    "overrides of the bridge": (
        "python scripts/performance/setup_experiment.py --gpu h100 -m llama3 -s 8b -ng 16 -gn 8 "
        "--tensor_model_parallel_size 2 --pipeline_model_parallel_size 4 -mb 2",
        TP2PP4,
    ),
    "a recipe": (
        "from recipes import pretrain\ncfg = pretrain()\ncfg.model.tensor_model_parallel_size = 2\n"
        "cfg.model.pipeline_model_parallel_size = 4\ncfg.train.micro_batch_size = 2\n",
        TP2PP4,
    ),
    "a recipe with constants": (
        "import recipes\nTP = 2\ncfg = recipes.get()\ncfg.model.tensor_model_parallel_size = TP\n"
        "cfg.model.pipeline_model_parallel_size = 4\ncfg.train.micro_batch_size = 2\n",
        TP2PP4,
    ),
    "a recipe's own arguments": (
        "import recipes\ncfg = recipes.get(tensor_model_parallel_size=2, micro_batch_size=2)\n"
        "cfg.model.pipeline_model_parallel_size = 4\n",
        TP2PP4,
    ),
    "an old launcher": (
        "python -m torch.distributed.launch --nproc_per_node=8 --nnodes 2 pretrain.py "
        "--tensor-model-parallel-size 4",
        TP4,
    ),
    "a trainer's sizes": (
        "accelerate launch --num_processes 8 --use_fsdp train.py --per_device_train_batch_size 2 "
        "--gradient_accumulation_steps 4 --bf16 True",
        {"dp": 8, "micro_batch": 2, "global_batch": 64, "dtype": "bf16", "shard": "zero3"},
    ),
    "a flag of the present version": (
        f"{RUN} --expert-model-parallel-size 8 --overlap-moe-expert-parallel-comm",
        {"dp": 16, "ep": 8},
    ),
    "values of several words": (
        f"{RUN} --tensor-model-parallel-size 4 --recompute-modules moe_act layernorm "
        "--data-path 0.5 /a 0.5 /b --micro-batch-size 2",
        TP4 | {"micro_batch": 2},
    ),
}
COMPOSE = """services:
  llm:
    image: vllm/vllm-openai:v0.12.0
    command:
      - --model
      - org/m
      - --tensor-parallel-size
      - "2"
"""
POD = """apiVersion: apps/v1
kind: Deployment
spec:
  template:
    spec:
      containers:
      - name: a
        image: {image}
        command: {command}
        args: {args}
"""
SERVERS = {
    "compose": (COMPOSE, {"tp": 2, "model": "org/m"}),
    "compose, one string": (
        "services:\n  a:\n    image: vllm/vllm-openai:v1\n    command: >\n      --model org/m\n"
        "      --tensor-parallel-size 2\n",
        {"tp": 2, "model": "org/m"},
    ),
    "a pod's list": (
        POD.format(image="x", command='["vllm", "serve"]', args='["org/m", "-tp", "2"]'),
        {"tp": 2, "model": "org/m"},
    ),
    "a pod's shell": (
        POD.format(
            image="x", command='["sh", "-c"]', args='["vllm serve org/m\n            -tp 2"]'
        ),
        {"tp": 2, "model": "org/m"},
    ),
    "a pod's image": (
        POD.format(image="vllm/vllm-openai:v1", command="[]", args='["--model=org/m", "-tp=2"]'),
        {"tp": 2, "model": "org/m"},
    ),
    "a pod of SGLang": (
        POD.format(
            image="lmsysorg/sglang",
            command='["python3", "-m", "sglang.launch_server"]',
            args='["--model-path", "org/m", "--tp", "2"]',
        ),
        {"tp": 2, "model": "org/m"},
    ),
    "a default": ("vllm serve m --tensor-parallel-size ${TP:-2}", {"tp": 2}),
    "a switch before the model": (
        "vllm serve --trust-remote-code org/m -tp 2",
        {"tp": 2, "model": "org/m"},
    ),
    "one GPU by default": ("vllm serve org/m --port 80", {"tp": 1, "dp": 1, "model": "org/m"}),
    "an image": ("docker run --gpus all vllm/vllm-openai:v1 --model org/m -tp 2", {"tp": 2}),
    "drafts": (
        'vllm serve m -tp 2 --speculative-config \'{"method": "eagle", "num_speculative_tokens": 3}\'',
        {"tp": 2, "draft_tokens": 3, "draft_cost": "layer"},
    ),
    "n-grams": (
        'vllm serve m -tp 2 --speculative-config \'{"method": "ngram", "num_speculative_tokens": 4}\'',
        {"draft_tokens": 4, "draft_cost": "none"},
    ),
    "drafts of SGLang": (
        "python -m sglang.launch_server --model-path m --tp 8 --speculative-algorithm EAGLE "
        "--speculative-num-steps 1 --speculative-num-draft-tokens 2",
        {"tp": 8, "draft_tokens": 1, "draft_cost": "layer"},
    ),
    "flow style": (
        "cat > c.yaml <<EOF\nkv_cache_config: {dtype: fp8}\nEOF\ntrtllm-serve m --tp_size 2 "
        "--config c.yaml",
        {"tp": 2, "kv_dtype": "fp8"},
    ),
    "a file of vLLM": (
        "cat > c.yaml <<EOF\ntensor-parallel-size: 4\nkv-cache-dtype: fp8\nEOF\nvllm serve m "
        "--config c.yaml",
        {"tp": 4, "kv_dtype": "fp8"},
    ),
    "flags before the file": (
        "cat > c.yaml <<EOF\ntensor_parallel_size: 4\nEOF\nvllm serve m --config c.yaml -tp 2",
        {"tp": 2},
    ),
}


def _says_gpus(text: str) -> bool:
    return any(word in text for word in ("torchrun", "num_gpus", "nproc", "num_processes"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_training_scripts(name: str) -> None:
    text, fields = SCRIPTS[name]
    job = parse(text, gpus=None if _says_gpus(text) else 16).job
    assert {k: getattr(job, k) for k in fields} == fields


@pytest.mark.parametrize("name", SERVERS)
def test_servers(name: str) -> None:
    text, fields = SERVERS[name]
    job = parse(text).job
    assert {k: getattr(job, k) for k in fields} == fields


REFUSED = {
    "branches": (
        f'if [ -n "$B" ]; then TP=8; else TP=2; fi\n{RUN} --tensor-model-parallel-size $TP',
        "which branch runs is not known",
    ),
    "a test": (f"TP=2\n[ -z $B ] || TP=8\n{RUN} --tensor-model-parallel-size $TP", "which branch"),
    "a case": (
        f"case $M in\n 7b) TP=2;;\n 70b) TP=8;;\nesac\n{RUN} --tensor-model-parallel-size $TP",
        "not set",
    ),
    "another script": ("TP=4 PP=2 bash train.sh --micro-batch-size 1", "train.sh"),
    "another script with degrees": (
        "bash train.sh --tensor-model-parallel-size 4",
        "train.sh",
    ),
    "only a micro batch": (f"{RUN} --bf16 --micro-batch-size 1", "no word of a layout"),
    "nothing": (RUN, "no word of a layout"),
    "a recipe without degrees": (
        "python setup_experiment.py --gpu h100 -m llama3 -s 8b -ng 16 -gn 8",
        "what setup_experiment.py sets is not known",
    ),
    "Python without degrees": ("import torch\nx = torch.ones(2)\n", "no word of a layout"),
    "a value that is not there": (
        f"{RUN} --tensor-model-parallel-size $TP --pipeline-model-parallel-size $PP",
        "2 values are not set in the text: $TP",
    ),
    "a value of a program": (
        f"TP=$(nvidia-smi -L | wc -l)\n{RUN} --tensor-model-parallel-size $TP",
        "$TP is not set",
    ),
    "a value of itself": ("X=$X; vllm serve m -tp ${X}", "$X is not set"),
    "words of a file": (f"{RUN} --tensor-model-parallel-size 2 $(cat update.txt)", "may hold"),
    "a hostfile": (
        "deepspeed --hostfile hosts pretrain_gpt.py --tensor-model-parallel-size 2",
        "how many GPUs",
    ),
    "a trainer's own sharding": (
        "accelerate launch --multi_gpu --num_processes 8 train.py --fsdp half_shard",
        "none of the trainer's strategies",
    ),
    "a recipe under a condition": (
        "import recipes\ncfg = recipes.get()\nif cfg.big:\n"
        "    cfg.model.tensor_model_parallel_size = 8\n",
        "under a condition",
    ),
    "a recipe's arguments": (
        "import sys, recipes\ncfg = recipes.get()\n"
        "cfg.model.tensor_model_parallel_size = sys.argv[1]\n",
        "not set in the text",
    ),
    "an argument": (f"{RUN} --tensor-model-parallel-size $1", "$1 is not set"),
    "words that are not there": (f"{RUN} --tensor-model-parallel-size 2 $EXTRA", "$EXTRA"),
    "parallel words that are not there": (f"{RUN} --bf16 $MODEL_PARALLEL_ARGS", "$MODEL_PARALLEL"),
    "a file that is not there": ("vllm serve m --config nowhere.yaml", "nowhere.yaml"),
    "an accelerate file that is not there": (
        "accelerate launch --config_file nowhere.yaml train.py",
        "nowhere.yaml",
    ),
    "no accelerate file at all": (
        "accelerate launch --num_processes 8 train.py",
        "`accelerate config`",
    ),
    "a titan file that is not there": (
        "torchrun --nproc_per_node 8 -m torchtitan.train --job.config_file nowhere.toml",
        "nowhere.toml",
    ),
    "a titan function": (
        "torchrun --nproc_per_node 8 -m torchtitan.train --module m --config f",
        "what m:f sets is not known",
    ),
    "a file of no known target": ("tensor_parallel_size: 4\n", "of which target"),
    "assignments": ("TP=8\nexport PP=4\n", "no launch command"),
    "a printed command": ("echo vllm serve m -tp 8", "no launch command"),
    "an assignment with its name": ('CMD="vllm serve m -tp 8"', "no launch command"),
    "one word": (
        f'A=("--fp8-format hybrid" --tensor-model-parallel-size 2)\n{RUN} "${{A[@]}}"',
        "one word",
    ),
    "an unknown degree": (f"{RUN} --foo-tensor-parallel-size 4", "no such flag"),
    "the layout of an encoder": (
        f"{RUN} --tensor-model-parallel-size 4 --encoder-tensor-model-parallel-size 2",
        "not followed",
    ),
    "two precisions": (f"{RUN} --bf16 --fp16 --tensor-model-parallel-size 2", "contradicts"),
    "an open quote": ("vllm serve 'm -tp 2", "no closing quotation"),
    "an open here-document": ("cat > f <<EOF\na\nvllm serve m -tp 2", "here-document"),
    "an open bracket": (f"A=(--bf16\n{RUN}", "bracket"),
    "a YAML bomb": (
        "services:\n  a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"  {chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n"
            for i in range(8)
        ),
        "aliases",
    ),
    "a value that doubles": (
        "A=aaaaaaaa\n" + "A=$A$A\n" * 40 + "vllm serve $A -tp 2",
        "characters",
    ),
    "loops in loops": (
        "for a in {0}; do for b in {0}; do for c in {0}; do X=$a; done; done; done\n".format(
            " ".join(map(str, range(60)))
        )
        + RUN,
        "statements",
    ),
    "a tag": ("services: !!python/object/apply:os.system [ls]\n", "no container"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    text, words = REFUSED[name]
    with pytest.raises(MeshwiseError) as error:
        parse(text)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("target", ["vllm", "trtllm", "sglang", "megatron-lm", "torchtitan"])
@pytest.mark.parametrize(
    "text", ["max_batch_size: 64\n", "TP=8\n", "x = 1\ny.z = 2\n", "foo --bar 3"]
)
def test_a_target_by_name_switches_nothing_off(target: str, text: str) -> None:
    with pytest.raises(MeshwiseError):
        parse(text, target, gpus=8)


def test_a_target_by_name_reads_its_file() -> None:
    job = parse("tensor_parallel_size: 4\nmax_batch_size: 64\n", "trtllm").job
    assert (job.tp, job.concurrency) == (4, 64)


def test_files_beside(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(
        "distributed_type: FSDP\nfsdp_config:\n  fsdp_sharding_strategy: FULL_SHARD\n"
        "num_machines: 2\nnum_processes: 16\nmixed_precision: bf16\n"
    )
    job = parse("accelerate launch --config_file a.yaml train.py").job
    assert (job.dp, job.shard, job.dtype) == (16, "zero3", "bf16")
    (tmp_path / "t.toml").write_text(
        "[parallelism]\ntensor_parallel_degree = 4\ndata_parallel_shard_degree = 2\n"
        "[training]\nlocal_batch_size = 4\nseq_len = 8192\n"
    )
    job = parse("torchrun --nproc_per_node 8 -m torchtitan.train --job.config_file t.toml").job
    assert (job.tp, job.dp, job.shard, job.micro_batch, job.seq) == (4, 2, "zero3", 4, 8192)
    (tmp_path / "d.json").write_text(
        '{"train_batch_size": 128, "gradient_accumulation_steps": 2, "zero_optimization": {"stage": 3}}'
    )
    job = parse("deepspeed --num_gpus 8 train.py --deepspeed_config d.json").job
    assert (job.dp, job.shard, job.micro_batch, job.global_batch) == (8, "zero3", 8, 128)


def test_every_file_kind_of_accelerate() -> None:
    text = "distributed_type: {}\nnum_processes: 8\n"
    assert parse(text.format("MULTI_GPU")).job.shard == "none"
    more = "megatron_lm_config:\n  megatron_lm_tp_degree: 2\n  megatron_lm_pp_degree: 2\n"
    job = parse(text.format("MEGATRON_LM") + more).job
    assert (job.tp, job.pp, job.dp) == (2, 2, 2)
    more = "deepspeed_config:\n  zero_stage: 3\n"
    assert parse(text.format("DEEPSPEED") + more).job.shard == "zero3"
    with pytest.raises(MeshwiseError, match="TPU"):
        parse(text.format("TPU"))


def test_precision_of_megatron() -> None:
    base = f"{RUN} --tensor-model-parallel-size 2 --micro-batch-size 1"
    formats = {
        "": ("fp32", "fp32"),
        "--bf16": ("bf16", "fp32"),
        "--bf16 --grad-reduce-in-bf16": ("bf16", "bf16"),
        "--fp16": ("fp16", "bf16"),
        "--fp16 --accumulate-allreduce-grads-in-fp32": ("fp16", "fp32"),
        "--bf16 --fp8-format hybrid": ("fp8", "fp32"),
    }
    for flags, (dtype, gradients) in formats.items():
        read = parse(f"{base} {flags}")
        assert (read.job.dtype, read.job.grad_dtype) == (dtype, gradients)
        assert any("--bf16" in a for a in read.assumed) == (flags == "")


def test_what_changes_memory_is_said() -> None:
    read = parse(
        f"{RUN} --tensor-model-parallel-size 2 --optimizer-cpu-offload --recompute-granularity "
        "selective --recompute-modules moe_act layernorm --swiglu --some-future-flag 3 "
        "--mtp-num-layers 1"
    )
    assert read.job.offload_optimizer
    assert ("--mtp-num-layers 1", "more memory and time") in read.unpriced
    assert read.job.recompute_modules == ("moe_act", "layernorm")
    assert read.ignored == ("--some-future-flag 3",)


def test_unknown_flags_of_parallelism_are_not_followed_and_said() -> None:
    read = parse(f"{RUN} --tensor-model-parallel-size 2 --fancy-expert-parallel-comm")
    assert [u.flag for u in read.unpriced] == ["--fancy-expert-parallel-comm"]


def test_a_long_script_is_read_in_time() -> None:
    rows = "".join(f"export V{i}={i}\n" for i in range(8_000))
    assert parse(f"{rows}{RUN} --tensor-model-parallel-size 4").job.tp == 4


@pytest.mark.parametrize(
    "text", ["a {\U000def9f5", "echo \u2705 ${X} \U0003b558 {a}", "\u00e9() { :; }"]
)
def test_characters_beyond_ascii_are_parts_of_words(text: str) -> None:
    """The grammar's scanner crashes the process on some of them."""
    assert parse(f"{text}\nvllm serve org/m\u00e9 -tp 2").job.model == "org/m\u00e9"


@pytest.mark.parametrize("text", [")||", "}|", ";;&&", "((||"])
def test_what_no_grammar_has_ends_in_one_line(text: str) -> None:
    with pytest.raises(MeshwiseError):
        parse(text)
