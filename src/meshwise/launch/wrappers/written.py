"""What launch commands run in: SLURM, LeaderWorkerSet, KubeRay."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from meshwise.launch.command_text import Written
from meshwise.launch.job import Job
from meshwise.launch.table import Target

_PLACED = (
    *("nnodes", "node-rank", "master-addr", "headless", "data-parallel-size-local"),
    *("data-parallel-start-rank", "data-parallel-address", "data-parallel-rpc-port"),
)


def engine_gpus(job: Job, servers: int) -> int:
    return job.gpus // servers


def _nodes(gpus: int, job: Job) -> tuple[int, int]:
    """Nodes of a command of so many GPUs, and GPUs of each."""
    nodes = -(-gpus // job.gpus_per_node)
    return nodes, gpus // nodes


def slurm(job: Job, chosen: Target, command: str, files: dict[str, str], servers: int) -> Written:
    """A batch script: one task per node, the launcher inside it; TensorRT-LLM over nodes is one MPI
    task per GPU."""
    gpus = engine_gpus(job, servers)
    nodes, each = _nodes(gpus, job)
    mpi = bool(chosen.mpi) and nodes > 1
    written = [f"cat > {name} <<'EOF'\n{text.rstrip()}\nEOF" for name, text in files.items()]
    body = [
        "#!/bin/bash",
        f"#SBATCH --job-name=meshwise-{chosen.name}",
        f"#SBATCH --nodes={nodes}",
        f"#SBATCH --ntasks-per-node={each if mpi else 1}",
        f"#SBATCH --gres=gpu:{each}",
        "#SBATCH --exclusive",
        "#SBATCH --output=%x-%j.out",
        *([f"#SBATCH --array=0-{servers - 1}"] if servers > 1 else []),
        "export MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)",
        *written,
    ]
    inner = command.replace("'", "'\\''")
    start = f"{chosen.mpi} " if mpi else "export NODE_RANK=$SLURM_NODEID; "
    options = "--mpi=pmix" if mpi else "--wait=60 --kill-on-bad-exit=1"
    run = f"srun {options} bash -c '{start}{inner}'"
    return "\n".join([*body, run]), files


def lws(job: Job, chosen: Target, command: str, files: dict[str, str], servers: int) -> Written:
    """A LeaderWorkerSet: a group of pods per server, one per node."""
    gpus = engine_gpus(job, servers)
    nodes, each = _nodes(gpus, job)
    # the controller's variables in place of the launcher's
    inner = command.replace("$MASTER_ADDR", "$LWS_LEADER_ADDRESS")
    inner = inner.replace("$NODE_RANK", "$LWS_WORKER_INDEX")
    inner = inner.replace("$((NODE_RANK", "$((LWS_WORKER_INDEX")

    def pod(indent: int) -> str:
        rows = [
            "spec:",
            "  containers:",
            f"    - name: {chosen.name}",
            f"      image: {chosen.image}",
            '      command: ["bash", "-c"]',
            "      args:",
            "        - |",
        ]
        pad = " " * indent
        top = "\n".join(pad + row for row in rows)
        body = "\n".join(pad + "          " + line.strip() for line in inner.splitlines())
        rest = [
            "      resources:",
            "        limits:",
            f"          nvidia.com/gpu: {each}",
            "      volumeMounts:",
            "        - {name: shm, mountPath: /dev/shm}",
            "  volumes:",
            "    - name: shm",
            "      emptyDir: {medium: Memory}",
        ]
        return "\n".join([top, body, *(pad + row for row in rest)])

    # the set: as many groups as servers, their pods alike
    text = "\n".join(
        [
            "apiVersion: leaderworkerset.x-k8s.io/v1",
            "kind: LeaderWorkerSet",
            "metadata:",
            f"  name: meshwise-{chosen.name}",
            "spec:",
            f"  replicas: {servers}",
            "  leaderWorkerTemplate:",
            f"    size: {nodes}",
            "    restartPolicy: RecreateGroupOnPodRestart",
            "    leaderTemplate:",
            pod(6),
            "    workerTemplate:",
            pod(6),
        ]
    )
    return text, {"lws.yaml": text}


def kuberay(job: Job, chosen: Target, command: str, files: dict[str, str], servers: int) -> Written:
    """A RayService whose engine_kwargs are vLLM's flags as field names."""
    gpus = engine_gpus(job, servers)
    nodes, each = _nodes(gpus, job)
    kwargs: dict[str, Any] = {}
    for match in re.finditer(r"--([a-z][a-z-]+)(?:\s+(?!--)(\S+))?", command.replace("\\\n", " ")):
        name, value = match.group(1), match.group(2)
        if name in _PLACED or "$" in (value or ""):
            continue  # Ray places the ranks
        if value is None:
            kwargs[name.replace("-", "_")] = True
        else:
            kwargs[name.replace("-", "_")] = int(value) if value.isdigit() else value
    rows = [f"{' ' * 14}{key}: {json.dumps(value)}" for key, value in kwargs.items()]
    text = "\n".join(
        [
            "apiVersion: ray.io/v1",
            "kind: RayService",
            "metadata:",
            f"  name: meshwise-{chosen.name}",
            "spec:",
            "  serveConfigV2: |",
            "    applications:",
            "      - name: llm",
            "        import_path: ray.serve.llm:build_openai_app",
            "        args:",
            "          llm_configs:",
            "            - model_loading_config:",
            f"                model_id: {json.dumps(job.model)}",
            "              engine_kwargs:",
            *("  " + row for row in rows),
            "              deployment_config:",
            f"                num_replicas: {servers}",
            "  rayClusterConfig:",
            "    headGroupSpec:",
            "      rayStartParams: {}",
            "      template:",
            "        spec:",
            "          containers:",
            "            - {name: ray-head, image: 'rayproject/ray-llm:latest'}",
            "    workerGroupSpecs:",
            "      - groupName: gpu",
            f"        replicas: {servers}",
            f"        numOfHosts: {nodes}",
            f"        rayStartParams: {{num-gpus: '{each}'}}",
            "        template:",
            "          spec:",
            "            containers:",
            "              - name: ray-worker",
            "                image: rayproject/ray-llm:latest",
            "                resources:",
            "                  limits:",
            f"                    nvidia.com/gpu: {each}",
        ]
    )
    return text, {"rayservice.yaml": text}


WRAPPER_WRITERS: dict[str, Callable[[Job, Target, str, dict[str, str], int], Written]] = {
    "slurm": slurm,
    "lws": lws,
    "kuberay": kuberay,
}
