"""Shell text taken apart: files that it writes, environment, the commands that it starts."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from meshwise.errors import InputError
from meshwise.launch.shell_run import follow

MAX_TEXT = 200_000  # characters of a command

_BATCH = re.compile(r"(?m)^#SBATCH\s+(\S+?)(?:=|\s+)(\S+)")
_UNREAD = re.compile(r"\$\{?([A-Za-z_]\w*|[0-9])")


class Script(NamedTuple):
    """One way through a text: its commands as words, files written by here-documents, variables set,
    SBATCH and srun options, what it sources, and the conditions of its branches."""

    commands: list[list[str]]
    files: dict[str, str]
    variables: dict[str, str]
    batch: dict[str, str]
    sourced: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()


def check_text(text: Any) -> str:
    """Raise :class:`InputError` for what is no text of a command."""
    if not isinstance(text, str) or not text.strip():
        raise InputError("COMMAND: empty", field="COMMAND", legal="a launch command")
    if len(text) > MAX_TEXT:
        raise InputError(
            f"COMMAND: {len(text):,} characters",
            field="COMMAND",
            value=text[:40],
            legal=f"at most {MAX_TEXT:,}",
        )
    return text


def read_script(text: str) -> list[Script]:
    """Every way through a text; :class:`InputError` for what no shell would take."""
    text = check_text(text)
    found = []
    batch = dict(_BATCH.findall(text))
    for state in follow(text, _slurm(batch)):
        variables = {
            name: value if isinstance(value, str) else " ".join(value)
            for name, value in state.variables.items()
        }
        options = dict(batch)
        commands = []
        for words, before in state.commands:
            variables |= dict(before)
            options |= srun_options(list(words))
            commands.append(list(words))
        options |= {k: v for words in state.started for k, v in srun_options(words).items()}
        found.append(
            Script(
                commands, state.files, variables, options, tuple(state.sourced), state.conditions
            )
        )
    return found


def _slurm(batch: dict[str, str]) -> dict[str, str]:
    """What SLURM sets of a batch script's own options."""
    nodes = number(batch.get("--nodes", batch.get("-N", "")))
    gpus = (batch.get(key, "").rpartition(":")[2] for key in ("--gpus-per-node", "--gres"))
    each = next((n for n in map(number, gpus) if n is not None), None)
    tasks = number(batch.get("--ntasks-per-node", ""))
    found = {
        **dict.fromkeys(("SLURM_NNODES", "SLURM_JOB_NUM_NODES"), nodes),
        **dict.fromkeys(("SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE"), each),
        "SLURM_NTASKS_PER_NODE": tasks,
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def srun_options(command: list[str]) -> dict[str, str]:
    if not command or command[0].rpartition("/")[2] != "srun":
        return {}
    said = {
        name: option(command, name.lstrip("-"))
        for name in ("--nodes", "-N", "--gres", "--gpus-per-node", "--ntasks-per-node")
    }
    return {name: value for name, value in said.items() if value is not None}


def unread(word: str) -> list[str]:
    """Names of the variables that a word still has."""
    return _UNREAD.findall(word)


def number(text: Any) -> int | None:
    """A plain whole number, else None (a variable, ``gpu``, ``auto``)."""
    value = str(text)
    return int(value) if re.fullmatch(r"\d{1,9}", value) else None


def option(words: list[str], *names: str) -> str | None:
    """The last value of a launcher's option, in any of its spellings, ``-`` and ``_`` alike."""
    wanted = {name.replace("-", "_").strip("_") for name in names}
    found = None
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if not name.startswith("-") or name.strip("-").replace("-", "_") not in wanted:
            continue
        if equals:
            found = value
        elif i + 1 < len(words):
            found = words[i + 1]
    return found
