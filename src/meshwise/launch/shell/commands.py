"""Shell text taken apart: files that it writes, environment, the commands that it starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from meshwise.errors import InputError
from meshwise.launch.shell.expand import Variables
from meshwise.launch.shell.run import follow
from meshwise.launch.wrappers import slurm

MAX_TEXT = 200_000  # characters of a command

_UNREAD = re.compile(r"\$\{?([A-Za-z_]\w*|[0-9])")


class StartedCommand(NamedTuple):
    """A command that a text starts: its words, the variables that are set where it stands, and the line
    of each word (0: not known)."""

    words: list[str]
    variables: dict[str, str]
    lines: tuple[int, ...] = ()


class Script(NamedTuple):
    """One way through a text: its commands, files written by here-documents, variables set at its end,
    what its SBATCH lines ask for, what it sources, and the conditions of its branches."""

    commands: list[StartedCommand]
    files: dict[str, str]
    variables: dict[str, str]
    batch: slurm.ResourceRequest
    sourced: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()


def check_text(text: Any) -> str:
    """Raise :class:`InputError` for what is no text of a command."""
    if not isinstance(text, str) or not text.strip():
        raise InputError("command: empty", field="command", legal="a launch command")
    if len(text) > MAX_TEXT:
        raise InputError(
            f"command: {len(text):,} characters",
            field="command",
            value=text[:40],
            legal=f"at most {MAX_TEXT:,}",
        )
    return text


def read_script(
    text: str, *, given: Mapping[str, str] | None = None, files: Mapping[str, str] | None = None
) -> list[Script]:
    """Every way through a text; :class:`InputError` for what no shell would take. ``given``: values of
    variables that the text leaves open; ``files``: texts by the names that it calls them."""
    text = check_text(text)
    batch = slurm.script_request(text)
    found = []
    for state in follow(text, slurm.variables(batch), given or {}, files or {}):
        commands = [
            StartedCommand(list(words), _joined(known) | dict(before), lines)
            for words, before, known, lines in state.commands
        ]
        variables = _joined(state.variables)
        for command in commands:  # what a command alone gets is known to the text's readers too
            variables |= {k: v for k, v in command.variables.items() if k not in variables}
        sourced = tuple(state.sourced)
        found.append(Script(commands, state.files, variables, batch, sourced, state.conditions))
    return found


def _joined(variables: Variables) -> dict[str, str]:
    return {k: v if isinstance(v, str) else " ".join(v) for k, v in variables.items()}


def unset_names(word: str) -> list[str]:
    """Names of the variables that a word still has."""
    return _UNREAD.findall(word)


def whole_number(text: Any) -> int | None:
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
