"""Code in the blocks of a page of Markdown: the commands and manifests that a text shows."""

from __future__ import annotations

import json
import re

from meshwise.errors import InputError, MeshwiseError
from meshwise.launch.files import yaml_text
from meshwise.launch.find import launches
from meshwise.launch.shell.commands import Script, read_script
from meshwise.launch.table import every_target

_FENCE = re.compile(r"^([ \t]*(?:>[ \t]?)?)(`{3,}|~{3,})[ \t]*([\w+.-]*)")
_PLACE = re.compile(r"\{\{.*?\}\}")
_LEAVES = re.compile(r"(?m)^[ \t]*(?:[$#>] )?(?:exit|logout)(?: 0)?[ \t]*$")
_SHELL = ("", "bash", "sh", "shell", "zsh", "console", "shell-session", "shellsession", "text")
_YAML = ("yaml", "yml")


def is_page(text: str) -> bool:
    """Whether a text has fenced blocks, which no shell and no YAML of itself has."""
    return any(_FENCE.match(line) for line in text.splitlines())


def code(text: str) -> str | None:
    """The shell blocks of a page that start something, with its manifests that do; else its manifests.
    None where neither is."""
    blocks = _blocks(text)
    shell = [block for language, block in blocks if language in _SHELL and starts(block)]
    manifests = [block for language, block in blocks if language in (*_YAML, "")]
    found = [b for b in manifests if yaml_text.looks_like(b) and _runs(b) and _is_yaml(b)]
    if shell:  # of a shell that a reader is in, not of one text: the next block goes on after it
        own = _LEAVES.sub("", "\n".join(shell))
        return "\n".join([own, *(_applied(b) for b in found if _starts_pods(b))])
    return "\n---\n".join(found) or None


def _applied(manifest: str) -> str:
    """A manifest as a command starts it."""
    return f"kubectl apply -f - <<'END_OF_MANIFEST'\n{manifest}\nEND_OF_MANIFEST"


def _starts_pods(manifest: str) -> bool:
    from meshwise.launch.wrappers.manifests import container_commands  # it reads pages too

    try:
        text = container_commands(manifest)
    except MeshwiseError:
        return False
    return text is not None and starts(text)


def _is_yaml(text: str) -> bool:
    try:
        yaml_text.yaml_documents(
            _PLACE.sub("x", text)
        )  # of a template, a value that is not filled in
    except MeshwiseError:
        return False
    return True


def is_notebook(text: str) -> bool:
    """Whether a text is a notebook, whose cells are blocks of code."""
    return text.lstrip().startswith("{") and '"cells"' in text and '"nbformat"' in text


def of_notebook(text: str) -> str:
    """The shell commands of a notebook's cells that start something, else its program."""
    try:
        cells = json.loads(text).get("cells", [])
    except (ValueError, AttributeError, RecursionError):
        raise InputError(
            "command: a notebook that is no JSON",
            field="command",
            legal="the notebook as it is saved",
        ) from None
    shell: list[str] = []
    program: list[str] = []
    written: list[str] = []
    for cell in cells if isinstance(cells, list) else []:
        if not isinstance(cell, dict):
            continue
        source = cell.get("source", "")
        rows = ("".join(map(str, source)) if isinstance(source, list) else str(source)).splitlines()
        if cell.get("cell_type") != "code":
            written += rows
            continue
        first = next((row for row in rows if row.strip()), "")
        if re.match(r"%%(bash|sh|script\b)", first):
            shell += rows[rows.index(first) + 1 :]
            continue
        goes_on = False
        for row in rows:
            bare = row.strip()
            if goes_on or bare.startswith("!"):
                shell.append(bare.lstrip("!"))
                goes_on = bare.endswith("\\")
            elif not bare.startswith("%"):
                program.append(row)
    commands = "\n".join(shell)
    if commands and starts(commands):
        return commands
    calls = {call.rpartition(".")[2] for chosen in every_target() for call in chosen.calls}
    own = "\n".join(program)
    page = "" if any(f"{c}(" in own for c in calls) else code("\n".join(written))
    return page or own


def _blocks(text: str) -> list[tuple[str, str]]:
    """(language, text) of each block, its own indent taken off."""
    found: list[tuple[str, str]] = []
    rows: list[str] | None = None
    indent, fence, language = "", "", ""
    for line in text.splitlines():
        match = _FENCE.match(line)
        if rows is None:
            if match is not None:
                indent, fence, language = match.groups()
                rows = []
        elif match is not None and match.group(2).startswith(fence) and not match.group(3):
            found.append((language.lower(), "\n".join(rows) + "\n"))
            rows = None
        else:
            rows.append(line.removeprefix(indent))
    return found if rows is None else [*found, (language.lower(), "\n".join(rows) + "\n")]


def starts(text: str) -> bool:
    """Whether a shell text starts what is known, or begins to and cannot be followed."""
    if yaml_text.looks_like(text):
        return False
    try:
        return any(launches(script.commands, None) for script in read_script(text))
    except MeshwiseError:
        return any(launches(script.commands, None) for script in _line_by_line(text))


def _line_by_line(text: str) -> list[Script]:
    found: list[Script] = []
    for line in text.splitlines():
        try:
            found += read_script(line) if line.strip() else []
        except MeshwiseError:
            continue
    return found


def _runs(text: str) -> bool:
    return (
        re.search(
            r"(?m)^\s*(- )?(commands?|args|image|serveConfigV2|run|llm_configs|applications):", text
        )
        is not None
    )
