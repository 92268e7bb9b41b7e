"""A target whose flags are a field of a job each: read and written by its table alone."""

from __future__ import annotations

import shlex
from typing import Any

from meshwise.launch.command_text import Written, flag_lines, torchrun
from meshwise.launch.job import DEGREES, JOB_FIELDS, Job
from meshwise.launch.settings.settings import Read, Settings, replicas_left
from meshwise.launch.table import Target


def fields_each(chosen: Target, s: Settings, world: int | None) -> Read:
    """Fields of a job by the settings of their names; DP of training is what the others leave of the
    world, and experts take the rest of TP that their own degree leaves."""
    found: dict[str, Any] = {k: v for k, v in s.items() if k in chosen.flags and k in _FIELDS}
    tp, ep = found.get("tp", 1), found.get("ep", 1)
    if chosen.phase == "train" and "dp" not in found:
        rest = tp * found.get("pp", 1) * found.get("cp", 1)
        found["dp"] = replicas_left(world, rest, chosen.flags["tp"].spellings[0])
    found.setdefault("etp", max(1, tp // ep))
    return found, []


def command_each(job: Job, chosen: Target, **instead: Any) -> Written:
    """The program that the table names, with a flag for each field that is not as where it is not said;
    ``instead``: settings that are not a field."""
    plain = Job(model=job.model, phase=job.phase, tp=job.tp, etp=job.tp)
    said = {k: getattr(job, k) for k in chosen.flags if k in _FIELDS}
    kept = {k: v for k, v in said.items() if k == DEGREES[0] or v != getattr(plain, k)}
    program = chosen.run.format(model=shlex.quote(job.model))
    start = torchrun(job, program) if chosen.phase == "train" else program
    if "model" in chosen.flags:
        kept = {"model": job.model, **kept}
    return flag_lines(start, kept | instead, chosen), {}


_FIELDS = frozenset(JOB_FIELDS) - {"phase", "model"}
