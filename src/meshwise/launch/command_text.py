"""The text of a command: a flag on each line, its files before it, torchrun in front."""

from __future__ import annotations

import shlex

from meshwise.launch.job import Job
from meshwise.launch.settings.settings import Settings
from meshwise.launch.table import Target

Written = tuple[str, dict[str, str]]  # a command, and the files that it reads


def with_written_files(command: str, files: dict[str, str]) -> str:
    """The command after here-documents that write its files."""
    parts = [f"cat > {name} <<'EOF'\n{text.rstrip()}\nEOF" for name, text in files.items()]
    return "\n".join([*parts, command])


def flag_lines(program: str, settings: Settings, chosen: Target, more: tuple[str, ...] = ()) -> str:
    """A command, a flag on each line."""
    parts = [program]
    for name, value in settings.items():
        flag = chosen.flags.get(name)
        if flag is None or value is None or value is False:
            continue
        spelling = flag.spellings[0]
        if chosen.style == "overrides":
            shown = f"[{','.join(value)}]" if isinstance(value, tuple) else value
            parts.append(shlex.quote(f"{spelling}={shown}"))
        elif isinstance(value, tuple):
            parts.append(" ".join([spelling, *map(shlex.quote, value)]))
        else:
            parts.append(
                spelling if flag.kind == "flag" else f"{spelling} {shlex.quote(str(value))}"
            )
    return " \\\n    ".join([*parts, *more])


def torchrun(job: Job, program: str) -> str:
    """torchrun on each node of the job."""
    each = min(job.gpus, job.gpus_per_node)
    if job.nodes == 1:
        return f"torchrun --standalone --nproc-per-node {each} {program}"
    return (
        f"torchrun --nnodes {job.nodes} --nproc-per-node {each} --rdzv-id job --rdzv-backend c10d "
        f"--rdzv-endpoint $MASTER_ADDR:29500 {program}"
    )
