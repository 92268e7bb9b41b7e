"""Options of SLURM: how many nodes, tasks and GPUs a batch script, ``srun`` or ``sbatch`` asks for."""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

_LINE = re.compile(r"(?m)^[ \t]*#SBATCH[ \t]+(.+)$")
STARTERS = ("srun", "sbatch", "salloc")
# what follows them is the program that is started
_PROGRAMS = ("torchrun", "python", "python3", "bash", "sh", "deepspeed", "accelerate", "env")
_NAMES = {
    "--nodes": "nodes",
    "-N": "nodes",
    "--ntasks": "tasks",
    "-n": "tasks",
    "--ntasks-per-node": "tasks_per_node",
    "--tasks-per-node": "tasks_per_node",
    "--gpus-per-node": "gpus_per_node",
    "--gres": "gpus_per_node",
    "--gpus": "gpus",
    "-G": "gpus",
    "--gpus-per-task": "gpus_per_task",
    "--array": "array",
    "-a": "array",
}


class ResourceRequest(NamedTuple):
    """What is asked for; None where nothing says it. ``array``: how many jobs of the kind."""

    nodes: int | None = None
    tasks: int | None = None
    tasks_per_node: int | None = None
    gpus_per_node: int | None = None
    gpus: int | None = None
    gpus_per_task: int | None = None
    array: int | None = None

    @property
    def many_nodes(self) -> int | None:
        """Nodes, said or by the tasks and GPUs of each."""
        if self.nodes is not None:
            return self.nodes
        for whole, each in ((self.tasks, self.tasks_per_node), (self.gpus, self.gpus_per_node)):
            if whole and each and whole % each == 0:
                return whole // each
        return None

    @property
    def gpus_of_node(self) -> int | None:
        if self.gpus_per_node is not None:
            return self.gpus_per_node
        if self.gpus_per_task and self.tasks_of_node:
            return self.gpus_per_task * self.tasks_of_node
        nodes = self.many_nodes
        return self.gpus // nodes if self.gpus and nodes and self.gpus % nodes == 0 else None

    @property
    def tasks_of_node(self) -> int | None:
        if self.tasks_per_node is not None:
            return self.tasks_per_node
        even = self.tasks and self.nodes and self.tasks % self.nodes == 0
        return self.tasks // self.nodes if even and self.tasks and self.nodes else None

    @property
    def all_tasks(self) -> int | None:
        if self.tasks is not None:
            return self.tasks
        nodes = self.many_nodes
        return nodes * self.tasks_per_node if nodes and self.tasks_per_node else None

    def over(self, other: ResourceRequest) -> ResourceRequest:
        """These, and what another asks for where these say nothing. A number of tasks of one's own
        replaces the other's, whichever way it was said."""
        mine = self._asdict()
        theirs = other._asdict()
        if self.tasks is not None or self.tasks_per_node is not None:
            theirs |= {"tasks": None, "tasks_per_node": None}
        if self.nodes is not None:
            theirs["gpus"] = None
        return ResourceRequest(**{k: v if v is not None else theirs[k] for k, v in mine.items()})


def script_request(text: str) -> ResourceRequest:
    """The ``#SBATCH`` lines of a text."""
    found = ResourceRequest()
    for line in _LINE.findall(text):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        found = _options(words).over(found)
    return found


def command_request(words: list[str]) -> ResourceRequest:
    """The options of ``srun`` or ``sbatch`` before the program that it starts."""
    found = ResourceRequest()
    for i, word in enumerate(words):
        if word.rpartition("/")[2] not in STARTERS:
            continue
        rest = words[i + 1 :]
        end = next((k for k, w in enumerate(rest) if _is_program(w)), len(rest))
        found = _options(rest[:end]).over(found)
    return found


def _is_program(word: str) -> bool:
    return word.rpartition("/")[2] in (*_PROGRAMS, *STARTERS)


def _options(words: list[str]) -> ResourceRequest:
    found: dict[str, int | None] = {}
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        short = re.fullmatch(r"(-[NnGa])(\d+)", word)
        if short is not None:
            name, value = short.groups()
        elif not equals and i + 1 < len(words):
            value = words[i + 1]
        field = _NAMES.get(name)
        if field is not None:
            found[field] = _array(value) if field == "array" else _number(value, name == "--gres")
    return ResourceRequest(**{k: v for k, v in found.items() if v is not None})


def _number(value: str, gres: bool) -> int | None:
    """``4``, ``2-2``, ``h100:8``, ``gpu:8``; of generic resources the GPUs alone."""
    parts = value.split(",")
    if gres:
        parts = [p for p in parts if p.startswith("gpu")]
    found = re.fullmatch(r"(?:[\w.-]+:)*(\d{1,7})(?:-(\d{1,7}))?", parts[0]) if parts else None
    if found is None or (found.group(2) and found.group(1) != found.group(2)):
        return 1 if gres and parts == ["gpu"] else None
    return int(found.group(1))


def _array(value: str) -> int | None:
    """``0-3``, ``1,2,5``, ``0-7%2``: how many."""
    many = 0
    for part in value.partition("%")[0].split(","):
        ends = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6})(?::(\d{1,6}))?)?", part)
        if ends is None:
            return None
        first, last, step = (int(x) if x else None for x in ends.groups())
        many += 1 if last is None else (last - (first or 0)) // (step or 1) + 1
    return many


def variables(asked: ResourceRequest) -> dict[str, str]:
    """What SLURM sets of them."""
    found = {
        **dict.fromkeys(("SLURM_NNODES", "SLURM_JOB_NUM_NODES"), asked.many_nodes),
        **dict.fromkeys(("SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE"), asked.gpus_of_node),
        **dict.fromkeys(("SLURM_NTASKS", "SLURM_NPROCS"), asked.all_tasks),
        "SLURM_NTASKS_PER_NODE": asked.tasks_of_node,
        "SLURM_GPUS": asked.gpus,
    }
    return {name: str(value) for name, value in found.items() if value is not None}
