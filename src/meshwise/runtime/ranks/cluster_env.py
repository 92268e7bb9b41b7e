"""Ranks that another launcher has started: torchrun, or srun with a task per rank."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from meshwise.errors import InputError, MeshwiseError
from meshwise.runtime.ranks import rank_process as worker

PORTS = 20000, 10000  # first, and how many: the port follows from the job's number


def under_launcher(environment: Mapping[str, str] | None = None) -> bool:
    """Whether this process is a rank already."""
    env = os.environ if environment is None else environment
    if "RANK" in env and "WORLD_SIZE" in env:
        return True
    return "SLURM_PROCID" in env and int(env.get("SLURM_NTASKS", "1")) > 1


def from_slurm(env: Mapping[str, str]) -> dict[str, str]:
    """torch's variables from those of a Slurm step. Raises :class:`InputError` where one is missing."""
    try:
        nodes = env.get("SLURM_STEP_NODELIST") or env["SLURM_JOB_NODELIST"]
        per_node = env.get("SLURM_STEP_TASKS_PER_NODE") or env["SLURM_TASKS_PER_NODE"]
        found = {
            "RANK": env["SLURM_PROCID"],
            "LOCAL_RANK": env["SLURM_LOCALID"],
            "WORLD_SIZE": env["SLURM_NTASKS"],
        }
    except KeyError as error:
        raise InputError(
            f"{error.args[0]}: not set in this Slurm step", field=error.args[0], legal="run by srun"
        ) from None
    found["LOCAL_WORLD_SIZE"] = re.split(r"[(,]", per_node)[0]
    first, count = PORTS
    found["MASTER_ADDR"] = env.get("MASTER_ADDR") or first_node(nodes)
    found["MASTER_PORT"] = env.get("MASTER_PORT") or str(
        first + int(env.get("SLURM_JOB_ID", "0")) % count
    )
    return found


def first_node(nodes: str) -> str:
    """The first name of a Slurm node list: ``node[01-04,07],gpu3`` → ``node01``."""
    match = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\]([^,]*))?", nodes)
    if match is None:
        raise InputError(f"SLURM_JOB_NODELIST={nodes}: no node in it", field="SLURM_JOB_NODELIST")
    name, number, rest = match.groups()
    return name + (number or "") + (rest or "")


def join(
    call: str, arguments: Mapping[str, Any], *, backend: str, timeout_s: float, threads: int | None
) -> Any:
    """Be a rank: make the call, return what it returned (rank 0) or None.

    Errors end the process after its number and traceback are printed, so that the launcher ends the
    others; :class:`InputError` is raised.
    """
    if "RANK" not in os.environ:
        os.environ.update(from_slurm(os.environ))
    worker.die_with_parent()
    try:
        worker.start(backend, timeout_s, threads)
        value = worker.call(call, arguments)
        import torch.distributed as dist

        dist.barrier()
        dist.destroy_process_group()
    except MeshwiseError:
        raise
    except Exception as error:
        doing = worker.failure(error)["doing"]
        rank = os.environ["RANK"]
        sys.stderr.write(f"rank {rank} failed{f' in {doing}' if doing else ''}:\n")
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    return value if os.environ["RANK"] == "0" else None
