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
    joined = _joined(first, alike, pod)
    if joined is not None:
        return with_copies(first, joined) if joined > 1 else first
    spans = _spans(first, pod, script)
    if spans == 1:
        _enough(first, launch, pod, script)
    first = _on_nodes(first, launch, script, spans * (pod.gpus or 0))
    side_by_side = len({_server(x, pod) for x in alike})
    if spans == 1:
        first = _idle(first, side_by_side, pod)
    many = side_by_side * (pod.servers // spans)
    many *= slurm.command_request(launch.before).over(script.batch).array or 1
    return with_copies(first, many) if many > 1 else first


def _joined(first: Parsed, alike: list[Launch], pod: manifests.ServerPods) -> int | None:
    """Servers of pods that `--nnodes` joins; None where it joins none. Raise where the pods are no multiple
    of it, or have fewer GPUs together than the server takes."""
    nodes = whole_number(option(alike[0].after, "nnodes") or "") or 1
    if nodes == 1 or pod.gpus is None or pod.size > 1:
        return None
    servers, rest = divmod(pod.servers * len(alike), nodes)
    if rest or first.job.gpus > nodes * pod.gpus:
        raise InputError(
            f"--nnodes={nodes}: {pod.servers * len(alike)} pods of {pod.gpus} GPUs run a server of "
            f"{first.job.gpus}",
            field="--nnodes",
            value=nodes,
            legal=f"a multiple of {nodes} pods, of {-(-first.job.gpus // nodes)} GPUs each",
        )
    return servers


def _starts_ray(script: Script) -> bool:
    names = (
        [w.rpartition("/")[2] for w in c.words[i : i + 2]]
        for c in script.commands
        for i in range(min(len(c.words) - 1, 12))
    )
    return ["ray", "start"] in names


def _spans(first: Parsed, pod: manifests.ServerPods, script: Script) -> int:
    """Copies of a pod that one server takes: where a cluster of Ray's is started, all that it needs."""
    if not _starts_ray(script) or pod.gpus is None or first.job.gpus <= pod.gpus * pod.size:
        return 1
    spans, rest = divmod(first.job.gpus, pod.gpus * pod.size)
    return spans if rest == 0 and pod.servers % spans == 0 else 1


def _idle(first: Parsed, many: int, pod: manifests.ServerPods) -> Parsed:
    """Of a pod that has more GPUs than its servers use: that they are idle, and in no figure."""
    used, have = first.job.gpus * many, (pod.gpus or 0) * pod.size
    if used >= have:
        return first
    note = f"a pod has {have} GPUs, of which {used} are used: the others are in no figure"
    return first._replace(notes=(*first.notes, note))


def _on_nodes(first: Parsed, launch: Launch, script: Script, over: int) -> Parsed:
    """A server on more GPUs than a node of its batch, or a pod of its Ray cluster, has: on as many as it
    takes of them. ``over``: GPUs of the pods that it spans."""
    if first.nodes is not None:
        return first
    asked = slurm.command_request(launch.before).over(script.batch)
    pod = manifests.server_pods(launch.variables)
    several = pod.size > 1 or over > (pod.gpus or 0)
    each = pod.gpus if pod.gpus and several else asked.gpus_of_node
    if not each or first.job.gpus <= each or first.job.gpus % each:
        return first
    return first._replace(nodes=first.job.gpus // each)


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
    # workers of a Ray cluster see the devices of where they were started
    if (first.nodes or 1) > 1 or backend == "ray" or _starts_ray(script):
        return
    if option(launch.after, "data-parallel-size-local", "dpl") is not None:
        return
    for name, said in _visible(launch).items():
        seen = len(said.split(",")) if "," in said or name != "--gpus" else int(said)
        if job.gpus <= seen:
            continue
        raise InputError(
            f"command: {job.words} takes {job.gpus} GPUs: {name} names {seen}",
            field=name,
            value=said,
            legal=f"{job.gpus} devices, or a layout of {seen}",
        )


_DEVICES = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
_CONTAINERS = ("docker", "podman", "nerdctl")


def _visible(launch: Launch) -> dict[str, str]:
    """Devices that a server sees, by what names them: indices, or of ``docker run --gpus N`` their number."""
    before = launch.before
    found = {name: launch.variables.get(name, "") for name in _DEVICES}
    if any(w.rpartition("/")[2] in _CONTAINERS for w in before):
        found |= {n: v for w in before for n, _, v in [w.partition("=")] if n in _DEVICES}
        gpus = (option(before, "gpus") or "").strip("\"'")
        named = gpus.removeprefix("device=")
        # `device=3` is one device, whatever its index
        found["--gpus"] = named if named == gpus or "," in named else "1"
    return {name: v for name, v in found.items() if re.fullmatch(r"\d+(,\d+)*", v)}
