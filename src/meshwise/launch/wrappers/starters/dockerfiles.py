"""Dockerfiles: the container that their last image starts."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

from meshwise.launch.wrappers.manifests import container_text

_INSTRUCTION = re.compile(r"\s*([A-Za-z]+)\s+(.*)$", re.DOTALL)


def is_dockerfile(text: str) -> bool:
    """Whether a text begins as a Dockerfile does."""
    rows = [x.strip() for x in text.splitlines()]
    first = next((x for x in rows if x and not x.startswith("#")), "")
    named = re.match(r"(FROM|ARG)\s+\S", first) is not None
    return named and any(re.match(r"FROM\s+\S", x) for x in rows)


def dockerfile_text(text: str) -> str | None:
    """The shell text that a container of the image starts, on the line of its command; None where it has
    none of its own."""
    container: dict[str, Any] = {}
    arguments: dict[str, str] = {}
    environment: dict[str, str] = {}
    line = 0
    for at, word, rest in _instructions(text):
        if word == "FROM":
            named = [w for w in rest.split() if not w.startswith("--")]
            container, environment, line = (
                {"image": _with(named[0] if named else "", arguments)},
                {},
                0,
            )
        elif word == "ARG":
            name, _, value = rest.partition("=")
            arguments[name.strip()] = value.strip().strip("\"'")
        elif word == "ENV":
            environment |= _variables_of(rest)
        elif word in ("CMD", "ENTRYPOINT"):
            key = "args" if word == "CMD" else "command"
            if word == "ENTRYPOINT":
                container.pop("args", None)
            container[key] = _words_of(rest)
            line = at
    if not line:
        return None
    own = [f"{name}={shlex.quote(v)}" for name, v in arguments.items() if v and name.isidentifier()]
    container["env"] = {k: _with(v, arguments) for k, v in environment.items()}
    return "\n" * (line - 1) + "; ".join(["set -a", *own, *container_text(container)])


def _instructions(text: str) -> list[tuple[int, str, str]]:
    """(line, instruction, the rest of it) with what goes on over lines; here-documents are left out."""
    found: list[tuple[int, str, str]] = []
    rows = text.splitlines()
    at = 0
    while at < len(rows):
        first, row = at + 1, rows[at]
        at += 1
        if not row.strip() or row.lstrip().startswith("#"):
            continue
        while row.rstrip().endswith("\\") and at < len(rows):
            more = "" if rows[at].lstrip().startswith("#") else rows[at]
            row = f"{row.rstrip()[:-1]} {more}" if more else row
            at += 1
        end = re.search(r"<<-?\s*[\"']?(\w+)", row)
        if end is not None:
            while at < len(rows) and rows[at].strip() != end[1]:
                at += 1
            at += 1
        match = _INSTRUCTION.match(row)
        if match is not None:
            found.append((first, match[1].upper(), match[2].strip()))
    return found


def _variables_of(rest: str) -> dict[str, str]:
    if "=" not in rest.partition(" ")[0]:
        name, _, value = rest.partition(" ")
        return {name: value.strip()}
    try:
        words = shlex.split(rest)
    except ValueError:
        words = rest.split()
    return {n: v for n, _, v in (w.partition("=") for w in words)}


def _with(text: str, known: dict[str, str]) -> str:
    return re.sub(r"\$\{?([A-Za-z_]\w*)\}?", lambda m: known.get(m[1]) or m[0], text)


def _words_of(rest: str) -> list[str]:
    """The list of words, else a shell's text."""
    if rest.startswith("["):
        try:
            found = json.loads(rest)
        except ValueError:
            found = None
        if isinstance(found, list) and all(isinstance(w, str) for w in found):
            return found
    return ["/bin/sh", "-c", rest]
