"""Shell text taken apart: files that it writes, environment, the command of a target."""

from __future__ import annotations

import re
import shlex
from typing import Any, NamedTuple

from meshwise.errors import InputError

MAX_TEXT = 200_000  # characters of a command

_HEREDOC = re.compile(
    r"cat\s*>\s*(\S+)\s*<<\s*(['\"]?)(\w+)\2\s*\n(.*?)\n\3[ \t]*(?:\n|$)", re.DOTALL
)
_BATCH = re.compile(r"(?m)^#SBATCH\s+(\S+?)(?:=|\s+)(\S+)")
_ARRAY = re.compile(r"(?m)^[ \t]*(?:declare -a +)?([A-Za-z_]\w*)\+?=\(([^()]*)\)")
_ENDS = {";", "&&", "||", "&", "|", ";;"}


class Script(NamedTuple):
    """A text: its commands as words, files written by here-documents, variables set, SBATCH options."""

    commands: list[list[str]]
    files: dict[str, str]
    variables: dict[str, str]
    batch: dict[str, str]


def read_script(text: str) -> Script:
    """Raise :class:`InputError` for what no shell would take."""
    if not isinstance(text, str) or not text.strip():
        raise InputError("COMMAND: empty", field="COMMAND", legal="a launch command")
    if len(text) > MAX_TEXT:
        raise InputError(
            f"COMMAND: {len(text):,} characters",
            field="COMMAND",
            value=text[:40],
            legal=f"at most {MAX_TEXT:,}",
        )
    files: dict[str, str] = {}

    def keep(match: re.Match[str]) -> str:
        files[match.group(1)] = match.group(4)
        return ""

    batch = dict(_BATCH.findall(text))
    text = _HEREDOC.sub(keep, text)
    text = re.sub(r"\\\r?\n", " ", text)
    variables: dict[str, str] = {}

    def array(match: re.Match[str]) -> str:
        body = re.sub(r"(?m)(^|\s)#.*$", "", match.group(2))
        before = variables.get(match.group(1), "") if "+=" in match.group(0) else ""
        variables[match.group(1)] = f"{before} {' '.join(body.split())}".strip()
        return ""

    text = _ARRAY.sub(array, text)
    lexer = shlex.shlex(re.sub(r"\r?\n", " ;\n", text), posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError as error:
        raise InputError(
            f"COMMAND: {str(error).lower()}",
            field="COMMAND",
            value=text[:80],
            legal="a shell command with its quotes closed",
        ) from None
    commands: list[list[str]] = [[]]
    for word in words:
        if word in _ENDS:
            commands.append([])
        else:
            commands[-1].append(word)
    for command in [c for c in commands if c]:
        batch |= _srun_options(command)
        inner = _within(command)
        if inner is not None:  # what the outer command starts is what counts
            at = commands.index(command)
            commands[at : at + 1] = inner.commands
            variables |= inner.variables
            files |= inner.files
    for command in commands:
        if command[:1] == ["export"]:
            command = command[1:]
        while command and re.fullmatch(r"[A-Za-z_]\w*=.*", command[0]):
            name, _, value = command[0].partition("=")
            if "." in name:
                break
            variables[name] = value
            command = command[1:]
    return Script([c for c in commands if c], files, variables, batch)


def _within(command: list[str]) -> Script | None:
    """The script that a shell within gets: ``srun bash -c '…'``."""
    for i in range(1, len(command) - 1):
        if command[i] in ("-c", "-lc") and command[i - 1].rpartition("/")[2] in ("bash", "sh"):
            return read_script(command[i + 1])
    return None


def _srun_options(command: list[str]) -> dict[str, str]:
    if command[0].rpartition("/")[2] != "srun":
        return {}
    said = {
        name: option(command, name.lstrip("-"))
        for name in ("--nodes", "-N", "--gres", "--gpus-per-node", "--ntasks-per-node")
    }
    return {name: value for name, value in said.items() if value is not None}


def substituted(words: list[str], variables: dict[str, str]) -> list[str]:
    """``$NAME``, ``${NAME}`` and ``${NAME[@]}`` replaced where the text itself sets them; a word that is
    such a name and nothing else becomes as many words as its value has."""
    name = re.compile(r"\$(?:\{(\w+)(?:\[[@*]\])?\}|(\w+))")

    def value(match: re.Match[str]) -> str:
        return variables.get(match.group(1) or match.group(2), match.group(0))

    found = list(words)
    for _ in range(4):  # values that name others
        after: list[str] = []
        for word in found:
            new = name.sub(value, word)
            after += new.split() if new != word and name.fullmatch(word) else [new]
        if after == found:
            break
        found = after
    return found


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


def mapping(text: str) -> dict[str, Any]:
    """A small YAML mapping: ``key: value`` lines, nested by indentation."""
    root: dict[str, Any] = {}
    stack: list[tuple[int, dict[str, Any]]] = [(-1, root)]
    for line in text.splitlines():
        bare = line.split("#", 1)[0].rstrip()
        if not bare.strip() or ":" not in bare:
            continue
        indent = len(bare) - len(bare.lstrip())
        key, _, value = bare.strip().partition(":")
        while stack[-1][0] >= indent:
            stack.pop()
        value = value.strip().strip("'\"")
        if value:
            stack[-1][1][key] = _scalar(value)
        else:
            child: dict[str, Any] = {}
            stack[-1][1][key] = child
            stack.append((indent, child))
    return root


def _scalar(value: str) -> Any:
    if re.fullmatch(r"\d{1,12}", value):
        return int(value)
    return {"true": True, "false": False, "null": None}.get(value.lower(), value)
