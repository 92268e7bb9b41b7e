"""How many GPUs a launcher starts, on how many nodes: torchrun's, DeepSpeed's, MPI's, SLURM's numbers."""

from __future__ import annotations

import re
from typing import NamedTuple

from meshwise.errors import InputError
from meshwise.launch.find import Launch
from meshwise.launch.shell.commands import Script, option, whole_number
from meshwise.launch.wrappers import manifests, slurm

_MPI = ("mpirun", "mpiexec", "orterun")


class World(NamedTuple):
    """GPUs of the whole job and the nodes that they are on; None where the text does not say."""

    gpus: int | None
    nodes: int | None = None


def world_of(launch: Launch, script: Script, gpus: int | None) -> World:
    """GPUs of the whole job; the caller's ``gpus`` where the text does not say."""
    if launch.target.phase == "serve" or launch.target.world == "flags":
        return World(gpus)  # its own flags say
    found = _processes(launch, script)
    if found.gpus is None:
        return World(gpus)
    if gpus is not None and gpus != found.gpus:
        shown = f"{found.nodes} · {found.gpus // found.nodes} = " if found.nodes else ""
        raise InputError(
            f"gpus={gpus}: the command starts {shown}{found.gpus} processes",
            field="gpus",
            value=gpus,
            legal=str(found.gpus),
            nearest=found.gpus,
        )
    return found


def _processes(launch: Launch, script: Script) -> World:
    before = launch.before
    own = slurm.command_request(before)
    pods = manifests.pod_request(launch.variables)
    asked = own.over(script.batch if pods is None else pods)
    programs = [w.rpartition("/")[2] for w in before]
    if any(p in ("torchrun", "deepspeed") for p in programs) or "torch.distributed" in " ".join(
        before
    ):
        return _by_launcher(launch, script, asked, "srun" in programs or pods is not None)
    at = next((i for i, p in enumerate(programs) if p in _MPI), None)
    if at is not None:
        return World(whole_number(option(before[at:], "n", "np") or ""))
    if "srun" in programs:
        return _by_tasks(asked)
    said = whole_number(launch.variables.get("WORLD_SIZE", "")) if pods is not None else None
    if said is not None:
        return World(said, asked.nodes)
    each = whole_number(launch.variables.get("NGPU", "")) or asked.gpus_of_node
    nodes = asked.many_nodes or (1 if asked.nodes is None else None)
    return _times(nodes, each)


def _times(nodes: int | None, each: int | None) -> World:
    return World(nodes * each, nodes) if nodes and each else World(None)


def _by_launcher(
    launch: Launch, script: Script, asked: slurm.ResourceRequest, by_srun: bool
) -> World:
    """torchrun starts as many processes on every node; DeepSpeed's launcher those of its hosts."""
    before, variables = launch.before, launch.variables
    included = option(before, "include", "i")
    if included is not None:
        return _included(included)
    hosts = option(before, "hostfile", "H")
    if hosts is not None and option(before, "num_nodes", "nnodes") is None:
        return _hosts(script.files.get(hosts, ""))
    each = _each(option(before, "nproc-per-node", "num_gpus", "num_accelerators"), launch, asked)
    said = option(before, "nnodes", "num_nodes") or variables.get("PET_NNODES")
    nodes = (
        whole_number(said.partition(":")[0] if _fixed(said) else said) if said is not None else 1
    )
    if nodes is None:
        nodes = asked.many_nodes
    elif by_srun and asked.many_nodes not in (None, nodes):
        raise InputError(
            f"--nnodes={nodes}: the job has {asked.many_nodes} nodes",
            field="--nnodes",
            value=nodes,
            legal=str(asked.many_nodes),
            nearest=asked.many_nodes,
        )
    return _times(nodes, each)


def _fixed(said: str) -> bool:
    """``4:4``, torchrun's range of one number."""
    low, colon, high = said.partition(":")
    return bool(colon) and low == high


def _each(said: str | None, launch: Launch, asked: slurm.ResourceRequest) -> int | None:
    """Processes of a node; ``gpu`` and ``auto`` are as many as it has GPUs."""
    variables = launch.variables
    said = said or variables.get("PET_NPROC_PER_NODE")
    found = whole_number(said) if said is not None else None
    if found is not None:
        return found
    visible = variables.get("CUDA_VISIBLE_DEVICES", "")
    if re.fullmatch(r"\d+(,\d+)*", visible):
        return len(visible.split(","))
    if said is None and not launch.target.whole_nodes:
        return whole_number(variables.get("NGPU", "")) or asked.gpus_of_node
    return asked.gpus_of_node


def _by_tasks(asked: slurm.ResourceRequest) -> World:
    """A process per task, each with a GPU of its own; where no tasks are asked for, one per GPU."""
    nodes, each, tasks = asked.many_nodes, asked.gpus_of_node, asked.all_tasks
    if tasks is None:
        return _times(nodes or (1 if asked.nodes is None else None), each)
    if each is not None and nodes is not None and tasks < nodes * each:
        raise InputError(
            f"--ntasks={tasks}: SLURM gives {nodes} · {each} GPUs: of a process on several GPUs the "
            "layout is not known",
            field="--ntasks",
            value=tasks,
            legal=f"{nodes * each} tasks, or a launcher such as torchrun",
            nearest=nodes * each,
        )
    return World(tasks, nodes)


def _included(text: str) -> World:
    """DeepSpeed's ``host:0,1@host2:0,1``; a host without GPUs has all of its own."""
    many = 0
    hosts = [h for h in text.split("@") if h]
    for host in hosts:
        name, colon, devices = host.partition(":")
        if not name or not colon or not re.fullmatch(r"\d+(,\d+)*", devices):
            return World(None)
        many += len(devices.split(","))
    return World(many or None, len(hosts) or None)


def _hosts(text: str) -> World:
    """A hostfile that the text wrote: ``worker-0 slots=8``."""
    slots = [int(n) for n in re.findall(r"(?m)^\s*[^#\s]\S*\s+slots\s*=\s*(\d{1,5})", text)]
    return World(sum(slots), len(slots)) if slots else World(None)
