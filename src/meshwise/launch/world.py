"""How many GPUs a launcher starts: torchrun's nodes and processes, DeepSpeed's, SLURM's."""

from __future__ import annotations

from meshwise.errors import InputError
from meshwise.launch.find import Launch
from meshwise.launch.shell import Script, number, option


def world_of(launch: Launch, script: Script, gpus: int | None) -> int | None:
    """GPUs of the whole job; the caller's ``gpus`` where the text does not say."""
    chosen, before = launch.target, launch.before
    if chosen.phase == "serve" or chosen.name == "accelerate":
        return gpus  # its own flags say
    per = option(before, "nproc-per-node", "num_gpus")
    nodes = option(before, "nnodes", "num_nodes")
    each = number(per) if per is not None else None
    if each is None:
        each = number(script.variables.get("NGPU", "")) or _batch_gpus(script)
    line = " ".join(before)
    launched = any(w.rpartition("/")[2] in ("torchrun", "deepspeed") for w in before)
    launched = launched or "torch.distributed" in line
    many = number(nodes) if nodes is not None else 1 if launched else None
    if many is None:
        said = _batch(script)
        many = number(said) if said or nodes is not None else 1
    hosts = nodes is None and option(before, "hostfile", "include") is not None
    if each is None or many is None or hosts:
        return gpus
    world = each * many
    if gpus is not None and gpus != world:
        raise InputError(
            f"--gpus={gpus}: the command starts {many} · {each} = {world} processes",
            field="--gpus",
            value=gpus,
            legal=str(world),
            nearest=world,
        )
    return world


def _batch(script: Script) -> str:
    return script.batch.get("--nodes", script.batch.get("-N", ""))


def _batch_gpus(script: Script) -> int | None:
    for key in ("--gpus-per-node", "--gres"):
        value = script.batch.get(key, "")
        found = number(value.rpartition(":")[2])
        if found is not None:
            return found
    return None
