"""Files that start servers: templates, compose's variables, KServe, recipes under SLURM, pages, groups."""

from __future__ import annotations

import json

import pytest

from meshwise.errors import InputError
from meshwise.launch.read import NoLaunch, parse


def refused(text: str, **given: object) -> InputError:
    with pytest.raises(InputError) as error:
        parse(text, **given)  # type: ignore[arg-type]
    return error.value


# -- templates ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    ["{{- if .Values.server.on }}", "{% if on %}", "{{ $n := div .Values.gpus 8 }}", "{{ end }}"],
)
def test_a_template_with_parts_that_come_and_go_is_named(line: str) -> None:
    text = f"{line}\napiVersion: apps/v1\nkind: Deployment\nspec: {{}}\n"
    error = refused(text)
    assert "not filled in" in error.message and "line 1" in error.message


POD = """
apiVersion: v1
kind: Pod
spec:
  containers:
  - image: vllm/vllm-openai:v0.11.0
    args: ["--model", "m", "--tensor-parallel-size", "{tp}"]
    resources: {{limits: {{nvidia.com/gpu: 4}}}}
---
kind: Secret
stringData:
  token: {{{{TOKEN}}}}
"""


def test_a_place_of_a_template_matters_only_in_the_layout() -> None:
    assert parse(POD.format(tp=4)).job.tp == 4
    assert refused(POD.format(tp="{{ .Values.model.tp | default 2 }}")).value == "$Values_model_tp"


def test_a_blank_of_a_page_is_asked_for_where_it_is_the_layout() -> None:
    read = parse("trtllm-serve <your checkpoint> --host 0.0.0.0 --tp_size 4")
    assert read.job.tp == 4 and "$your_checkpoint is not in the text" in " ".join(read.assumed)
    assert refused("vllm serve m --tensor-parallel-size=<tp> --port <port>").value == "$tp"
    assert parse("vllm serve m -tp 2 <in >out").job.tp == 2


# -- compose --------------------------------------------------------------------------------------------

SERVICE = """
services:
  engine:
    image: vllm/vllm-openai:v0.11.0
    environment:
      - STEPS=${STEPS:-}
    entrypoint:
      - bash
      - -c
      - |
        many="$${STEPS:-2}"
        SPEC=()
        if [ "$$many" -gt 0 ]; then
          SPEC=(--speculative-config "{\\"method\\": \\"mtp\\", \\"num_speculative_tokens\\": $$many}")
        fi
        exec vllm serve "$$@" "$${SPEC[@]}"
      - --
    command:
      - m
      - --tensor-parallel-size
      - "${TP:-2}"
      - --max-model-len
      - ${LENGTH:-${OLD_LENGTH:-4096}}
"""


def test_compose_puts_its_own_variables_before_the_shell_has_its() -> None:
    job = parse(SERVICE).job
    assert (job.tp, job.max_len, job.draft_tokens) == (2, 4096, 2)


def test_variables_before_a_compose_file_are_its_own() -> None:
    job = parse("TP=4\nSTEPS=0\nOLD_LENGTH='8192'\n" + SERVICE).job
    assert (job.tp, job.max_len, job.draft_tokens) == (4, 8192, None)


def test_a_variable_of_compose_without_default_is_asked_for() -> None:
    assert refused(SERVICE.replace("${TP:-2}", "${TP}")).value == "$TP"


def test_an_image_of_another_engine_is_named() -> None:
    error = refused(
        "services:\n  x:\n    image: ghcr.io/ggml-org/llama.cpp:server-cuda\n    command: -m /m.gguf\n"
    )
    assert isinstance(error, NoLaunch) and error.value == "llama.cpp"


# -- groups of pods -------------------------------------------------------------------------------------

GROUP = """
kind: {kind}
apiVersion: x/v1
spec:
  replicas: 3
  {key}:
    size: 2
    leaderTemplate: &pod
      spec:
        containers:
        - image: lmsysorg/sglang:latest
          command: [python3, -m, sglang.launch_server, --model-path, m, --tp, "2", --nnodes,
                    $({variable}), --node-rank, "0", --dist-init-addr, "$(LEADER):5000"{port}]
          resources: {{limits: {{nvidia.com/gpu: "1"}}}}
    workerTemplate:
      spec:
        containers:
        - image: lmsysorg/sglang:latest
          command: [python3, -m, sglang.launch_server, --model-path, m, --tp, "2", --nnodes,
                    $({variable}), --node-rank, "1", --dist-init-addr, "$(LEADER):5000"]
          resources: {{limits: {{nvidia.com/gpu: "1"}}}}
"""


@pytest.mark.parametrize(
    ("kind", "key", "variable"),
    [
        ("LeaderWorkerSet", "leaderWorkerTemplate", "LWS_GROUP_SIZE"),
        ("Service", "workloadTemplate", "LWS_GROUP_SIZE"),
        ("RoleBasedGroup", "leaderWorkerPattern", "RBG_LWP_GROUP_SIZE"),
    ],
)
def test_the_pods_of_a_group_are_one_server(kind: str, key: str, variable: str) -> None:
    text = GROUP.format(kind=kind, key=key, variable=variable, port=', --port, "4000"')
    if key == "leaderWorkerPattern":  # whose size alone makes it a group
        text = text.replace("leaderTemplate: &pod", "template:").split("    workerTemplate")[0]
    read = parse(text)
    assert (read.job.tp, read.job.dp, read.nodes) == (2, 3, 6)


# -- KServe ---------------------------------------------------------------------------------------------

LLM = """
apiVersion: serving.kserve.io/v1alpha1
kind: LLMInferenceService
metadata: {name: x}
spec:
  model: {uri: "hf://Qwen/Qwen3-30B-A3B", name: other}
  replicas: 2
  parallelism: {data: 8, dataLocal: 4, expert: true, tensor: 1}
  template:
    containers:
    - name: main
      env: [{name: VLLM_ADDITIONAL_ARGS, value: "--max-model-len 8192"}]
      resources: {limits: {nvidia.com/gpu: 4}}
  worker:
    containers:
    - name: main
      resources: {limits: {nvidia.com/gpu: 4}}
"""


def test_kserve_starts_vllm_with_the_degrees_of_the_service() -> None:
    read = parse(LLM)
    job = read.job
    assert (job.model, job.tp, job.dp, job.ep) == ("Qwen/Qwen3-30B-A3B", 1, 8, 8)
    assert job.max_len == 8192 and any(n.startswith("2 servers") for n in read.notes)


def test_kserve_with_prompts_apart_and_on_cpus_is_refused() -> None:
    prefill = LLM.replace("  worker:", "  prefill:")
    assert refused(prefill).field == "spec.prefill"
    cpu = LLM.replace("- name: main\n      env", "- image: vllm/vllm-openai-cpu:v1\n      env")
    assert refused(cpu).field == "image"


def test_kserves_predictor_gives_the_runtime_its_arguments() -> None:
    text = """
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
spec:
  predictor:
    minReplicas: 2
    maxReplicas: 2
    model:
      modelFormat: {name: huggingface}
      args: [--model_name=short, --model_id=Qwen/Qwen3-8B, --tensor-parallel-size=2]
      resources: {limits: {nvidia.com/gpu: 2}}
"""
    job = parse(text).job
    assert (job.model, job.tp, job.dp) == ("Qwen/Qwen3-8B", 2, 2)


# -- llm-d's chart, Ray's clusters ----------------------------------------------------------------------

CHART = """
modelArtifacts: {uri: "hf://Qwen/Qwen3-32B", name: other}
decode:
  replicas: 3
  parallelism: {tensor: 4}
  containers:
  - {name: vllm, image: x, modelCommand: vllmServe, args: [--max-model-len, "16000"]}
prefill:
  create: %s
  replicas: 2
  parallelism: {tensor: 1}
  containers: [{name: vllm, image: x, modelCommand: vllmServe}]
"""


def test_the_charts_roles_are_servers_or_apart() -> None:
    job = parse(CHART % "false").job
    assert (job.model, job.tp, job.dp, job.max_len) == ("Qwen/Qwen3-32B", 4, 3, 16000)
    assert "decode: 3 with --tensor-parallel-size=4" in refused(CHART % "true").message


def test_the_engines_own_file_of_servers_apart_names_both_layouts() -> None:
    text = """
context_servers: {num_instances: 2, tensor_parallel_size: 1, urls: [a]}
generation_servers: {num_instances: 1, tensor_parallel_size: 4, urls: [b]}
"""
    message = refused(text).message
    assert "context_servers: 2 of tp=1" in message and "generation_servers: 1 of tp=4" in message


@pytest.mark.parametrize(("pods", "servers"), [(2, 1), (4, 2)])
def test_pods_of_a_cluster_of_ray_are_one_server(pods: int, servers: int) -> None:
    text = f"""
apiVersion: apps/v1
kind: StatefulSet
spec:
  replicas: {pods}
  template:
    spec:
      containers:
      - image: vllm/vllm-openai:v0.10.0
        command: [bash, -c]
        args:
        - |
          ray start --head
          vllm serve m --tensor-parallel-size 8 --pipeline-parallel-size 2
        resources: {{limits: {{nvidia.com/gpu: 8}}}}
"""
    job = parse(text).job
    assert (job.tp, job.pp, job.dp) == (8, 2, servers)
    assert refused(text.replace("          ray start --head\n", "")).field == "nvidia.com/gpu"


# -- recipes under SLURM --------------------------------------------------------------------------------

RECIPE = """
name: r
model: {{path: short, precision: fp8}}
resources: {{gpus_per_node: 4, {resources}}}
backend:
  type: sglang
  sglang_config:
"""
ROLE = """
    {role}:
      served-model-name: Qwen/Qwen3-235B-A22B
      model-path: /model/
      disaggregation-mode: {role}
      tp-size: {tp}
      dp-size: {dp}
      enable-dp-attention: true
"""


def test_a_recipe_of_one_role_is_its_servers() -> None:
    text = RECIPE.format(resources="agg_nodes: 4, agg_workers: 2") + ROLE.format(
        role="aggregated", tp=8, dp=8
    )
    read = parse(text)
    assert (read.job.model, read.job.tp, read.job.dp) == ("Qwen/Qwen3-235B-A22B", 1, 8)
    assert read.nodes == 4 and any("2 servers" in n for n in read.notes)


def test_a_recipe_with_both_roles_names_both_layouts() -> None:
    text = RECIPE.format(
        resources="prefill_nodes: 1, prefill_workers: 1, decode_nodes: 4, decode_workers: 2"
    )
    text += ROLE.format(role="prefill", tp=4, dp=4) + ROLE.format(role="decode", tp=8, dp=1)
    message = refused(text).message
    assert "prefill: 1 of dp=4" in message and "decode: 2 of tp=8" in message


def test_a_recipe_of_more_gpus_than_it_asks_for_is_refused() -> None:
    text = RECIPE.format(resources="agg_nodes: 1, agg_workers: 1")
    assert refused(text + ROLE.format(role="aggregated", tp=8, dp=1)).value == 1


# -- scripts and pages within ----------------------------------------------------------------------------


def test_a_script_in_a_value_of_a_yaml_file_is_read() -> None:
    text = "scenario:\n- decode:\n    customCommand: |\n      vllm serve m \\\n        -tp 4\n"
    assert parse(text).job.tp == 4


def test_the_code_of_a_page_is_read() -> None:
    page = (
        "# Serve\n\nInstall it, then:\n\n```bash\npip install x\nvllm serve m -tp 4\n```\n\n- or\n"
    )
    assert parse(page).job.tp == 4
    assert parse("# Pods\n\n```yaml" + POD.format(tp=4) + "```\n").job.tp == 4
    assert isinstance(refused("# Nothing\n\n```bash\nls\n```\n"), NoLaunch)


@pytest.mark.parametrize("word", ["...", "…", "[...]"])
def test_words_left_out_are_no_layout(word: str) -> None:
    assert refused(f"vllm serve m --port 80 {word}").value == word


def test_an_image_that_is_only_pulled_starts_nothing() -> None:
    run = "docker run --gpus all vllm/vllm-openai-rocm:v0.14 --model m -tp 4\n"
    pull = "docker pull --platform linux/amd64 vllm/vllm-openai:v0.14\n"
    read = parse(pull + run)
    assert read.job.tp == 4 and not read.notes
    assert isinstance(refused(pull), NoLaunch)


def test_a_benchmark_of_an_engine_is_no_server() -> None:
    assert refused("trtllm-bench --model m throughput --tp 8").value == "trtllm-bench"


def test_a_server_on_a_part_of_a_gpu_is_refused() -> None:
    text = "servingEngineSpec:\n  modelSpec:\n  - {modelURL: m, replicaCount: 2, requestGPU: 0.5}\n"
    assert refused(text).field == "requestGPU"


# -- flags ----------------------------------------------------------------------------------------------


def test_the_beginning_of_a_flag_is_the_flag_where_its_parser_takes_it() -> None:
    assert parse("vllm serve m --max-num-seq 64 -tp 2").job.concurrency == 64
    assert parse("vllm serve m --tensor-par=4").job.tp == 4
    assert parse("trtllm-serve m --max_batch 64 --tp_size 2").job.concurrency is None


def test_a_cache_kept_elsewhere_is_no_other_layout() -> None:
    said = '{"kv_connector": "OffloadingConnector", "kv_role": "%s"}'
    read = parse(f"vllm serve m -tp 2 --kv-transfer-config '{said % 'kv_both'}'")
    assert [u.changes for u in read.unpriced] == ["room for requests"]
    assert refused(f"vllm serve m -tp 2 --kv-transfer-config '{said % 'kv_producer'}'")


def test_variables_that_change_time_are_said() -> None:
    read = parse("export VLLM_ALL2ALL_BACKEND=deepep_low_latency\nvllm serve m -tp 2")
    assert ("VLLM_ALL2ALL_BACKEND=deepep_low_latency", "time") in read.unpriced


@pytest.mark.parametrize(
    ("word", "weights"),
    [("auto_round", None), ("inc", None), ("auto_gptq", "int4"), ("w4afp8", "int4")],
)
def test_methods_of_newer_releases_are_known(word: str, weights: str | None) -> None:
    assert parse(f"vllm serve m -tp 2 --quantization {word}").job.weight_dtype == weights


# -- TensorRT-LLM's file --------------------------------------------------------------------------------

FILE = "tensor_parallel_size: 4\nkv_cache_config: {dtype: fp8, free_gpu_memory_fraction: 0.8}\n"


def test_a_section_of_a_launchers_file_is_the_engines() -> None:
    read = parse(
        "tp_size: 4\nllm_api_args:\n  kv_cache_config: {free_gpu_memory_fraction: 0.8}\n", model="m"
    )
    assert (read.target, read.job.tp, read.job.memory_share) == ("trtllm", 4, 0.8)


def test_keys_of_the_file_are_known_or_named() -> None:
    read = parse(FILE + "print_iter_log: true\nsome_new_key: 3\n")
    assert [u.flag for u in read.unpriced] == ["some_new_key"] and "print_iter_log" in read.ignored
    assert refused(FILE + "pipeline_paralel_size: 2\n").nearest == "pipeline_parallel_size"
    assert refused(FILE + "cache_transceiver_config: {backend: UCX}\n")
    assert refused(FILE + "speculative_config: {decoding_type: Eagle}\n").value == "Eagle"


def test_a_file_with_few_keys_of_an_engine_is_nobodys() -> None:
    text = "max_model_len: 4096\n" + "".join(f"reward_{i}: 1\n" for i in range(6))
    assert isinstance(refused(text), NoLaunch)


def test_pods_that_nnodes_joins_are_one_server() -> None:
    text = """apiVersion: apps/v1
kind: StatefulSet
metadata: {name: s}
spec:
  replicas: %d
  template:
    spec:
      containers:
      - name: s
        image: lmsysorg/sglang
        command: ["/bin/bash", "-c"]
        args: ["python3 -m sglang.launch_server --model-path m --tp 16 --nnodes 2 --node-rank $POD_INDEX"]
        resources: {limits: {nvidia.com/gpu: 8}}
"""
    assert (parse(text % 2).job.tp, parse(text % 2).job.dp) == (16, 1)
    assert parse(text % 4).job.dp == 2
    assert refused(text % 3).field == "--nnodes"


# -- several of a kind ----------------------------------------------------------------------------------

GROUPS = """type: service
replicas:
- count: 1
  commands:
  - vllm serve m -tp $DSTACK_GPUS_NUM
  resources: {gpu: H200:4}
- count: 2
  commands:
  - vllm serve m -tp $DSTACK_GPUS_NUM
  resources: {gpu: 80GB:2}
"""


def test_groups_of_replicas_are_listed_with_their_gpus() -> None:
    error = refused(GROUPS)
    assert "m, tp=4" in error.message and "m, tp=2" in error.message
    assert "line 5" in error.message


def test_every_manifest_of_a_page_is_listed() -> None:
    block = "```yaml\ntype: service\nenv:\n- TP={tp}\n- TOKEN\ncommands:\n- vllm serve m -tp $TP\nresources: {{gpu: 8}}\n```\n"
    page = "# Two ways\n\n" + block.format(tp=2) + "\nor\n\n" + block.format(tp=4)
    assert "2 commands" in refused(page).message
    assert parse(page, which=2).job.tp == 4


def test_the_models_of_a_chart_are_chosen_by_name() -> None:
    text = "servingEngineSpec:\n  modelSpec:\n"
    for name, tp in (("one", 2), ("two", 4)):
        text += f"  - name: {name}\n    modelURL: org/{name}\n    requestGPU: {tp}\n"
        text += (
            f"    vllmConfig: {{tensorParallelSize: {tp}}}\n    extraArgs: [--max-model-len=8192]\n"
        )
    assert "2 commands" in refused(text).message
    read = parse(text, which="two")
    assert (read.job.tp, read.job.max_len) == (4, None)
    assert any("extraArgs stands beside vllmConfig" in note for note in read.notes)


def test_ray_serves_engines_are_chosen_by_name() -> None:
    text = "applications:\n- args:\n    llm_configs:\n"
    for name, tp in (("one", 2), ("two", 4)):
        text += f"    - model_loading_config: {{model_id: {name}, model_source: org/{name}}}\n"
        text += f"      engine_kwargs: {{tensor_parallel_size: {tp}}}\n"
    assert "org/one, tp=2" in refused(text).message
    assert parse(text, which="two").job.tp == 4


def notebook(*cells: tuple[str, str]) -> str:
    made = [{"cell_type": kind, "source": text.splitlines(keepends=True)} for kind, text in cells]
    return json.dumps({"cells": made, "nbformat": 4, "metadata": {}})


def test_cells_of_a_notebook_are_read() -> None:
    assert parse(notebook(("code", "%pip install vllm\n!vllm serve m \\\n  -tp 4"))).job.tp == 4
    assert parse(notebook(("code", "%%bash\nvllm serve m -tp 4"))).job.tp == 4
    engine = ("code", "from vllm import LLM"), ("code", "LLM('m', tensor_parallel_size=4)")
    assert parse(notebook(("markdown", "```\nvllm serve m -tp 2\n```"), *engine)).job.tp == 4
    page = ("code", "print(1)"), ("markdown", "Run\n```bash\nvllm serve m -tp 4\n```\n")
    assert parse(notebook(*page)).job.tp == 4


# -- where a server runs --------------------------------------------------------------------------------


def test_a_server_over_the_nodes_of_its_batch_says_how_many() -> None:
    text = "#!/bin/bash\n#SBATCH --nodes=4\n#SBATCH --gpus-per-node=4\nsrun ray start --head &\n"
    assert parse(f"{text}vllm serve m -tp 16\n").nodes == 4
    assert parse(f"{text}vllm serve m -tp 4\n").nodes is None
    ray = "vllm serve m -tp 8 --distributed-executor-backend ray\n"
    assert parse("#!/bin/bash\n#SBATCH --nodes=2\n#SBATCH --gres=gpu:4\n" + ray).nodes == 2


def test_devices_of_where_ray_is_started_are_not_the_servers() -> None:
    text = "export CUDA_VISIBLE_DEVICES=0\n{}vllm serve m -pp 4\n"
    assert "names 1" in refused(text.format("")).message
    assert parse(text.format("ray start --address=a\n")).job.pp == 4


def test_idle_gpus_of_a_pod_are_said() -> None:
    text = POD.format(tp=2).replace("gpu: 4", "gpu: 8")
    assert any("8 GPUs, of which 2 are used" in note for note in parse(text).notes)
    assert not any("are used" in note for note in parse(POD.format(tp=4)).notes)


# -- what is asked --------------------------------------------------------------------------------------


def test_what_decides_a_value_is_asked_for_in_its_place() -> None:
    text = "many=$1\ntp=$((8*$many))\nvllm serve m -tp $tp --max-num-seqs $((CONC * 2))\n"
    error = refused(text)
    assert [q.name for q in error.questions] == ["$1", "$CONC"]  # type: ignore[attr-defined]
    assert parse(text, values={"1": "1", "CONC": "8"}).job.tp == 8
    branch = "A=(-tp 2)\nif [ $BIG = yes ]; then A=(-tp 4); fi\n" * 1 + 'vllm serve m "${A[@]}"\n'
    assert parse(branch, values={"BIG": "yes"}).job.tp == 4


def test_a_folder_of_the_shell_is_no_question() -> None:
    assert parse('MODEL="$PWD/m"\nvllm serve $MODEL -tp 2\n').job.model == "./m"


CLIENTS = ["vllm bench serve --model m", "vllm chat", "python -m sglang.bench_serving --port 1"]


@pytest.mark.parametrize("command", CLIENTS)
def test_a_client_is_told_from_a_server(command: str) -> None:
    assert "asks servers that run already" in refused(command).message
    assert parse(f"vllm serve m -tp 2 &\n{command}\n").job.tp == 2


@pytest.mark.parametrize("command", ["run-batch -i a -o b", "bench throughput", "bench latency"])
def test_commands_that_start_an_engine_of_their_own(command: str) -> None:
    assert parse(f"vllm {command} --model m -tp 4").job.tp == 4


@pytest.mark.parametrize("many", [1, 40, 4000])
def test_brackets_that_nothing_closes_are_refused(many: int) -> None:
    assert "not readable in line 2" in refused(f"A=1\nvllm serve m -tp 2{'(' * many}\n").message


def test_a_dollar_that_expands_nothing() -> None:
    assert parse("vllm serve m -tp 2 --host $HOST$:80").job.tp == 2


def test_commands_and_manifests_of_a_page_are_listed_together() -> None:
    shell = "# Serve\n\n```bash\nvllm serve m -tp 8\n```\n\nor\n\n"
    page = f"{shell}```yaml{POD.format(tp=4)}```\n".replace("token: {{TOKEN}}", "token: a")
    message = refused(page).message
    assert "m, tp=8" in message and "m, tp=4" in message
    assert parse(shell + "```yaml\nkind: Service\nimage: a\n```\n").job.tp == 8
