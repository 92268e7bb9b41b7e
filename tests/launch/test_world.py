"""Nodes and GPUs that a launch states: SLURM, MPI, DeepSpeed, pods, engines over nodes; and scripts inside
its commands."""

from __future__ import annotations

import pytest

from meshwise.errors import MeshwiseError
from meshwise.launch import parse

TP4 = "pretrain_gpt.py --tensor-model-parallel-size 4"

GPUS = {
    "tasks of each node": (f"srun -N 4 --ntasks-per-node=8 python {TP4}", 32, 4),
    "tasks": (f"srun --nodes=4 -n 32 python {TP4}", 32, 4),
    "tasks alone": (f"srun -n 32 --gpus-per-task=1 python {TP4}", 32, None),
    "short options": (f"#SBATCH -N4\n#SBATCH --gpus-per-node=h100:8\nsrun python {TP4}", 32, 4),
    "GPUs of all": (f"#SBATCH --nodes=2\n#SBATCH --gpus=16\nsrun python {TP4}", 16, 2),
    "GPUs among resources": (
        f"#SBATCH --nodes=2\n#SBATCH --gres=gpu:a100:4,nvme:1\nsrun python {TP4}",
        8,
        2,
    ),
    "srun over the batch": (
        f"#SBATCH --nodes=4\n#SBATCH --gpus-per-node=8\nsrun -N 2 torchrun --nnodes 2 "
        f"--nproc-per-node 8 {TP4}",
        16,
        2,
    ),
    "another srun": (
        "#SBATCH --nodes=2\n#SBATCH --gpus-per-node=8\n#SBATCH --ntasks-per-node=8\n"
        f"srun --nodes=1 --ntasks=1 nvidia-smi\nsrun python {TP4}",
        16,
        2,
    ),
    "a shell of srun": (
        f"srun -N 2 --gpus-per-node=8 bash -c 'torchrun --nnodes $SLURM_NNODES --nproc-per-node "
        f"$SLURM_GPUS_ON_NODE {TP4}'",
        16,
        2,
    ),
    "sbatch with a text": (
        f"sbatch -N 2 --gpus-per-node 8 --wrap='srun torchrun --nnodes 2 --nproc_per_node 8 {TP4}'",
        16,
        2,
    ),
    "sbatch of a here-document": (
        "sbatch <<EOT\n#!/bin/bash\n#SBATCH --nodes=2\n#SBATCH --gpus-per-node=8\n"
        f"srun torchrun --nnodes 2 --nproc-per-node 8 {TP4}\nEOT",
        16,
        2,
    ),
    "MPI": (f"mpirun -np 16 -H a:8,b:8 python {TP4}", 16, None),
    "devices that are seen": (
        f"CUDA_VISIBLE_DEVICES=0,1,2,3 torchrun --nproc-per-node gpu {TP4}",
        4,
        1,
    ),
    "a range of one": (f"torchrun --nnodes=2:2 --nproc-per-node=8 {TP4}", 16, 2),
    "DeepSpeed's GPUs": (f"deepspeed --include localhost:0,1,2,3 {TP4}", 4, 1),
    "DeepSpeed's hosts": (
        f"cat > hosts <<EOT\na slots=8\nb slots=8\nEOT\ndeepspeed --hostfile hosts {TP4}",
        16,
        2,
    ),
}


@pytest.mark.parametrize("name", GPUS)
def test_gpus_and_nodes(name: str) -> None:
    text, gpus, nodes = GPUS[name]
    read = parse(text)
    assert (read.job.tp, read.job.gpus, read.nodes) == (4, gpus, nodes)


POD = """apiVersion: kubeflow.org/v1
kind: PyTorchJob
spec:
  pytorchReplicaSpecs:
    Master:
      replicas: 1
      template: {{spec: {{containers: [{{name: p, command: {0}, resources: {{limits: {{nvidia.com/gpu: 8}}}}}}]}}}}
    Worker:
      replicas: 3
      template: {{spec: {{containers: [{{name: p, command: {0}, resources: {{limits: {{nvidia.com/gpu: 8}}}}}}]}}}}
"""


@pytest.mark.parametrize("program", ["torchrun", "torchrun --nnodes 4 --nproc-per-node 8"])
def test_pods_of_a_training_job(program: str) -> None:
    words = [*program.split(), *TP4.split()]
    read = parse(POD.format(words))
    assert (read.job.tp, read.job.gpus, read.nodes) == (4, 32, 4)


def test_pods_that_contradict_the_command() -> None:
    words = ["torchrun", "--nnodes", "2", "--nproc-per-node", "8", *TP4.split()]
    with pytest.raises(MeshwiseError, match="--nnodes=2: the job has 4 nodes"):
        parse(POD.format(words))


SERVER = """apiVersion: apps/v1
kind: Deployment
spec:
  replicas: {replicas}
  template:
    spec:
      containers:
      - name: a
        image: vllm/vllm-openai:v1
        args: ["--model=org/m", "--tensor-parallel-size={tp}"]
        resources: {{limits: {{nvidia.com/gpu: "{gpus}"}}}}
"""


def test_replicas_of_a_server() -> None:
    read = parse(SERVER.format(replicas=3, tp=2, gpus=2))
    assert (read.job.tp, read.job.dp) == (2, 3)
    assert "3 servers of 2 GPUs each" in read.notes
    assert parse(SERVER.format(replicas=3, tp=2, gpus=2), gpus=6).job.dp == 3
    with pytest.raises(MeshwiseError, match="takes 8 GPUs: its pods have 4"):
        parse(SERVER.format(replicas=1, tp=8, gpus=4))


COPIES = {
    "ports": "vllm serve m -tp 2 --port 8000 &\nvllm serve m -tp 2 --port 8001 &\nwait",
    "devices": "CUDA_VISIBLE_DEVICES=0,1 vllm serve m -tp 2 &\nCUDA_VISIBLE_DEVICES=2,3 vllm serve m -tp 2",
    "a loop": "for i in 0 1; do vllm serve m -tp 2 --port $((8000 + i)) & done",
    "an array": "#SBATCH --array=0-1\nsrun vllm serve m -tp 2",
}


@pytest.mark.parametrize("name", COPIES)
def test_servers_side_by_side(name: str) -> None:
    assert (parse(COPIES[name]).job.tp, parse(COPIES[name]).job.dp) == (2, 2)


def test_one_server_on_two_nodes_is_one() -> None:
    one = "python -m sglang.launch_server --model-path m --tp 16 --nnodes 2 --node-rank"
    read = parse(f"{one} 0 --dist-init-addr a:1\n{one} 1 --dist-init-addr a:1")
    assert (read.job.tp, read.job.dp, read.nodes) == (16, 1, 2)


REFUSED = {
    "torchrun against SLURM": (
        "#SBATCH --nodes=4\n#SBATCH --gpus-per-node=8\nsrun torchrun --nnodes 2 --nproc-per-node 8 "
        + TP4,
        "--nnodes=2: the job has 4 nodes",
    ),
    "tasks on several GPUs": (
        f"srun -N 2 --ntasks-per-node=1 --gpus-per-node=8 python {TP4}",
        "--ntasks=2",
    ),
    "ranks of vLLM": ("vllm serve m -tp 8 --nnodes 3", "--nnodes=3: does not share the 8 ranks"),
    "ranks of SGLang": (
        "python -m sglang.launch_server --model-path m --tp 16 --nnodes 3",
        "--nnodes=3: does not share the 16 ranks",
    ),
    "replicas of SGLang": (
        "python -m sglang.launch_server --model-path m --tp 8 --dp 2 --nnodes 2",
        "plain replicas do not run over 2 nodes",
    ),
    "devices that are not seen": (
        "CUDA_VISIBLE_DEVICES=0,1 vllm serve m -tp 4",
        "CUDA_VISIBLE_DEVICES names 2",
    ),
    "an array in quotes": (
        f'A=(--micro-batch-size 1)\nsrun -N 2 --gpus-per-node 8 bash -c "python {TP4} ${{A[@]}}"',
        "outside the text that `-c` runs",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    text, words = REFUSED[name]
    with pytest.raises(MeshwiseError) as error:
        parse(text)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


INSIDE = {
    "an array as one word": 'srun -N 2 --gpus-per-node 8 bash -c "torchrun --nnodes 2 --nproc-per-node '
    '8 pretrain_gpt.py ${A[*]}"',
    "an array in a here-document": "bash <<EOT\ntorchrun --nnodes 2 --nproc-per-node 8 pretrain_gpt.py "
    "${A[@]}\nEOT",
    "a script that is written": "cat > run.sh <<EOT\ntorchrun --nnodes 2 --nproc-per-node 8 "
    "pretrain_gpt.py ${A[*]}\nEOT\nchmod +x run.sh\n./run.sh",
    "a script with arguments": "cat > run.sh <<'EOT'\ntorchrun --nnodes 2 --nproc-per-node 8 "
    'pretrain_gpt.py "$@"\nEOT\nsrun bash run.sh "${A[@]}"',
    "arguments of a shell": "bash -c 'torchrun --nnodes 2 --nproc-per-node 8 pretrain_gpt.py \"$@\"' _ "
    '"${A[@]}"',
    "a shell far away": 'ssh node1 "cd /x && torchrun --nnodes 2 --nproc-per-node 8 pretrain_gpt.py '
    '${A[*]}"',
}


@pytest.mark.parametrize("name", INSIDE)
def test_scripts_within(name: str) -> None:
    read = parse(f"A=(--tensor-model-parallel-size 4 --micro-batch-size 2)\n{INSIDE[name]}")
    assert (read.job.tp, read.job.micro_batch, read.job.gpus) == (4, 2, 16)


RAY = """applications:
- name: llm
  import_path: ray.serve.llm:build_openai_app
  args:
    llm_configs:
    - model_loading_config: {model_id: x, model_source: org/m}
      engine_kwargs: {tensor_parallel_size: 4, max_model_len: 8192}
      deployment_config: {num_replicas: 2}
"""


def test_ray_serve() -> None:
    read = parse(RAY)
    assert (read.target, read.job.model, read.job.tp, read.job.dp) == ("vllm", "org/m", 4, 2)
    assert read.job.max_len == 8192
    scaled = RAY.replace(
        "num_replicas: 2", "autoscaling_config: {min_replicas: 1, max_replicas: 8}"
    )
    assert "replicas follow the load" in parse(scaled).notes[0]
    with pytest.raises(MeshwiseError, match="what it starts is not in the text"):
        parse("applications:\n- {name: a, import_path: 'serve:model'}\n")


LENGTHS = [("32k", 32_000), ("32K", 32_768), ("25.6k", 25_600), ("1m", 1_000_000), ("8192", 8192)]


@pytest.mark.parametrize(("said", "tokens"), LENGTHS)
def test_lengths_as_engines_read_them(said: str, tokens: int) -> None:
    job = parse(f"vllm serve m -tp 2 --max-model-len {said} --max-num-batched-tokens {said}").job
    assert (job.max_len, job.chunk) == (tokens, tokens)
    text = f"python -m sglang.launch_server --model-path m --tp 2 --context-length {said}"
    assert parse(text).job.max_len == tokens


def test_lengths_that_engines_refuse() -> None:
    with pytest.raises(MeshwiseError, match=r"nearest: 25\.6k"):
        parse("vllm serve m -tp 2 --max-model-len 25.6K")
    with pytest.raises(MeshwiseError, match="nearest: 32768"):
        parse("trtllm-serve m --tp_size 2 --max_seq_len 32k")


def test_requests_that_the_files_words_bound() -> None:
    read = parse(
        "cat > c.yml <<EOT\nkv_cache_config: {dtype: fp8, free_gpu_memory_fraction: 0.8}\n"
        "max_batch_size: 256\nmax_num_tokens: 8192\nquant_config: {quant_algo: FP8}\n"
        "cuda_graph_config: {enable_padding: true}\nEOT\ntrtllm-serve m --tp_size 4 --config c.yml"
    )
    job = read.job
    assert (job.tp, job.concurrency, job.chunk, job.kv_dtype) == (4, 256, 8192, "fp8")
    assert job.weight_dtype == "fp8"
    assert {u.flag: u.changes for u in read.unpriced} == {
        "cuda_graph_config": "time",
    }
    with pytest.raises(MeshwiseError, match="cp_config"):
        parse("tensor_parallel_size: 4\ncp_config: {cp_type: star}\n", "trtllm")


def test_what_is_turned_off_changes_nothing() -> None:
    read = parse(
        "distributed_type: DEEPSPEED\ndeepspeed_config:\n  zero_stage: 3\n"
        "  offload_optimizer_device: none\nnum_processes: 8\n"
    )
    assert read.unpriced == ()
    assert read.job.offload_optimizer is None


FILES = {
    "torchtitan's TOML": (
        "# a file\n[parallelism]\ntensor_parallel_degree = 4\ndata_parallel_shard_degree = 2\n"
        '[model]\nconverters = ["float8"]\n',
        "torchtitan",
        {"tp": 4, "dp": 2, "dtype": "fp8"},
    ),
    "Megatron-Bridge's YAML": (
        "model:\n  tensor_model_parallel_size: 4\n  sequence_parallel: true\ntrain:\n"
        "  micro_batch_size: 2\nmixed_precision: bf16_mixed\n",
        "megatron-bridge",
        {"tp": 4, "dp": 2, "micro_batch": 2, "sequence_parallel": True, "dtype": "bf16"},
    ),
    "NeMo's YAML": (
        "trainer: {devices: 8, num_nodes: 4, precision: bf16}\nmodel:\n  micro_batch_size: 1\n"
        "  tensor_model_parallel_size: 8\n  pipeline_model_parallel_size: 2\n",
        "megatron-bridge",
        {"tp": 8, "pp": 2, "dp": 2, "micro_batch": 1, "dtype": "bf16"},
    ),
    "a chart's values": (
        "servingEngineSpec:\n  modelSpec:\n  - name: a\n    modelURL: org/m\n    replicaCount: 2\n"
        "    requestGPU: 2\n    vllmConfig: {tensorParallelSize: 2, maxModelLen: 16384,\n"
        '      extraArgs: ["--gpu-memory-utilization", "0.8"]}\n',
        "vllm",
        {"tp": 2, "dp": 2, "max_len": 16384, "memory_share": 0.8, "model": "org/m"},
    ),
    "vLLM's names in YAML": (
        "model: org/m\ntensor_parallel_size: 4\ngpu_memory_utilization: 0.9\n",
        "vllm",
        {"tp": 4, "memory_share": 0.9, "model": "org/m"},
    ),
    "SkyPilot": (
        "resources: {accelerators: 'H100:8'}\nnum_nodes: 2\nrun: |\n  vllm serve org/m "
        "--tensor-parallel-size $SKYPILOT_NUM_GPUS_PER_NODE -pp $SKYPILOT_NUM_NODES\n",
        "vllm",
        {"tp": 8, "pp": 2, "dp": 1},
    ),
    "a service of dstack": (
        "type: service\ncommands:\n- vllm serve org/m -tp $DSTACK_GPUS_PER_NODE\n"
        "resources: {gpu: 'H100:4'}\n",
        "vllm",
        {"tp": 4},
    ),
    "kubectl": (
        "kubectl apply -f - <<EOT\n" + SERVER.format(replicas=2, tp=2, gpus=2) + "EOT\n",
        "vllm",
        {"tp": 2, "dp": 2},
    ),
    "a group's own variables": (
        "kind: LeaderWorkerSet\napiVersion: leaderworkerset.x-k8s.io/v1\nspec:\n"
        "  leaderWorkerTemplate:\n    size: 2\n    leaderTemplate:\n      spec:\n        containers:\n"
        "        - name: l\n          command: [python3, -m, sglang.launch_server, --model-path, m, --tp,"
        ' "16", --nnodes, $(LWS_GROUP_SIZE), --node-rank, $(LWS_WORKER_INDEX)]\n'
        '          resources: {limits: {nvidia.com/gpu: "8"}}\n',
        "sglang",
        {"tp": 16, "dp": 1},
    ),
    "an image built again": (
        SERVER.format(replicas=1, tp=2, gpus=2).replace("vllm/vllm-openai:v1", "x.io/ml/vllm:0.9"),
        "vllm",
        {"tp": 2},
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files(name: str) -> None:
    text, target, fields = FILES[name]
    train = target in ("torchtitan", "megatron-bridge") and "devices" not in text
    read = parse(text, gpus=8 if train else None)
    assert read.target == target
    assert {k: getattr(read.job, k) for k in fields} == fields


NAMED = {
    "services:\n  a:\n    command: x\n    deploy: [1]\n    resources: [2]\n": "no launch command",
    "A=(x <<EOT)\nEOT\nvllm serve m -tp 2": "a here-document in an array",
    "vllm serve m \\ \n  --tensor-parallel-size 4": "a line begins with --tensor-parallel-size",
    "vllm serve m ^\n  --tensor-parallel-size 4": "a line begins with --tensor-parallel-size",
    "vllm serve m -tp 2\n--max-model-len 8192": "a line begins with --max-model-len",
    "text-generation-launcher --model-id m --num-shard 4": "Text Generation Inference is not read",
    "docker run --gpus all ghcr.io/huggingface/text-generation-inference:3 --num-shard 4": "Text Gen",
    "lmdeploy serve api_server m --tp 2": "LMDeploy is not read",
    "python3 -m verl.trainer.main_ppo trainer.n_gpus_per_node=8 "
    "actor_rollout_ref.rollout.tensor_model_parallel_size=2": "verl is not read",
    "llamafactory-cli train a.yaml": "LLaMA-Factory is not read",
    "stage: sft\nfinetuning_type: full\ndeepspeed: z3.json\n": "LLaMA-Factory is not read",
    "base_model: m\nmicro_batch_size: 1\ntensor_parallel_size: 2\n": "axolotl is not read",
    "srun -N 1 --ntasks-per-node=8 trtllm-llmapi-launch trtllm-serve m --tp_size 16": "MPI starts 8",
    "#SBATCH --nodes=1\n#SBATCH --gres=gpu:4\nvllm serve m -tp 8": "the batch has 1 · 4",
}


@pytest.mark.parametrize("text", NAMED)
def test_what_is_not_read_is_named(text: str) -> None:
    with pytest.raises(MeshwiseError) as error:
        parse(text)
    assert NAMED[text] in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("null", ["null", "None"])
def test_a_degree_that_is_null_is_not_said(null: str) -> None:
    text = (
        "torchrun --nproc-per-node 8 t.py model.tensor_model_parallel_size=2 "
        f"model.pipeline_model_parallel_size=1 model.virtual_pipeline_model_parallel_size={null} model.context_parallel_size={null}"
    )
    assert (parse(text).job.tp, parse(text).job.vp, parse(text).job.cp) == (2, 1, 1)
    assert parse(f"vllm serve m -tp 2 -pp {null}").job.pp == 1
