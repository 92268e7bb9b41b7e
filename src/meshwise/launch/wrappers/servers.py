"""Several servers alike: commands side by side, copies of a pod, jobs of an array."""

from __future__ import annotations

import re

from meshwise.errors import InputError
from meshwise.launch.find import Launch
from meshwise.launch.parsed import Parsed, with_copies
from meshwise.launch.shell.commands import Script, option, whole_number
from meshwise.launch.wrappers import manifests, slurm


def server_copies(first: Parsed, alike: list[Launch], script: Script) -> Parsed:
    """A server with its copies: those that listen on ports, or run on GPUs, of their own."""
    launch = alike[0]
    if launch.target.phase != "serve":
        return first
    pod = manifests.server_pods(launch.variables)
    spans = _spans(first, pod, script)
    if spans == 1:
        _enough(first, launch, pod, script)
    many = len({_server(x, pod) for x in alike}) * (pod.servers // spans)
    many *= slurm.command_request(launch.before).over(script.batch).array or 1
    return with_copies(first, many) if many > 1 else first


def _spans(first: Parsed, pod: manifests.ServerPods, script: Script) -> int:
    """Copies of a pod that one server takes: where a cluster of Ray's is started, all that it needs."""
    ray = any(
        [c.words[0].rpartition("/")[2], *c.words[1:2]] == ["ray", "start"] for c in script.commands
    )
    if not ray or pod.gpus is None or first.job.gpus <= pod.gpus * pod.size:
        return 1
    spans, rest = divmod(first.job.gpus, pod.gpus * pod.size)
    return spans if rest == 0 and pod.servers % spans == 0 else 1


def _server(launch: Launch, pod: manifests.ServerPods) -> tuple[str | None, ...]:
    """What tells a server from others alike: where its ranks meet, else its port and GPUs. The pods of
    a group are one server, whatever each of them says."""
    if pod.size > 1:
        return ()
    if whole_number(option(launch.after, "nnodes") or "") not in (None, 1):
        return ("", option(launch.after, "dist-init-addr", "nccl-init-addr", "master-addr"))
    if option(launch.after, "data-parallel-address", "dpa") is not None:
        return ("", option(launch.after, "data-parallel-address", "dpa"))
    return option(launch.after, "port"), launch.variables.get("CUDA_VISIBLE_DEVICES")


def _enough(first: Parsed, launch: Launch, pod: manifests.ServerPods, script: Script) -> None:
    """Raise for a server of more GPUs than its pods, or the devices that it sees, have."""
    job = first.job
    backend = option(launch.after, "distributed-executor-backend") or ""
    if pod.gpus is not None and job.gpus > pod.gpus * pod.size and backend != "ray":
        raise InputError(
            f"command: {job.words} takes {job.gpus} GPUs: its pods have {pod.gpus * pod.size}",
            field="nvidia.com/gpu",
            value=pod.gpus,
            legal=f"{-(-job.gpus // pod.size)} GPUs a pod, or a layout of {pod.gpus * pod.size}",
        )
    asked = slurm.command_request(launch.before).over(script.batch)
    nodes, each = asked.many_nodes or 1, asked.gpus_of_node
    programs = [w.rpartition("/")[2] for w in launch.before]
    tasks = asked.all_tasks if "srun" in programs else None
    if any(p in ("mpirun", "mpiexec") for p in programs):
        tasks = whole_number(option(launch.before, "n", "np") or "")
    mpi = bool(launch.target.mpi) and tasks is not None and tasks not in (1, job.gpus)
    if mpi or (each is not None and job.gpus > nodes * each and backend != "ray"):
        have = f"MPI starts {tasks} ranks" if mpi else f"the batch has {nodes} · {each}"
        raise InputError(
            f"command: {job.words} takes {job.gpus} GPUs: {have}",
            field="command",
            value=job.gpus,
            legal=f"{job.gpus} GPUs, or a layout of {tasks if mpi else nodes * (each or 1)}",
        )
    visible = launch.variables.get("CUDA_VISIBLE_DEVICES", "")
    if not re.fullmatch(r"\d+(,\d+)*", visible) or (first.nodes or 1) > 1 or backend == "ray":
        return
    seen = len(visible.split(","))
    if job.gpus > seen and option(launch.after, "data-parallel-size-local", "dpl") is None:
        raise InputError(
            f"command: {job.words} takes {job.gpus} GPUs: CUDA_VISIBLE_DEVICES names {seen}",
            field="CUDA_VISIBLE_DEVICES",
            value=visible,
            legal=f"{job.gpus} devices, or a layout of {seen}",
        )
