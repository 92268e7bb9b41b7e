"""Compose files: what compose itself puts in place of their variables before a container starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from meshwise.launch.shell.values.memory import joined_texts, lines_of

_NAME = re.compile(r"[A-Za-z_]\w*")


def interpolated(node: Any, given: Mapping[str, str]) -> Any:
    """A compose file with its variables' values, defaults of those that are not ``given``, and ``$$`` as
    the dollar that the container sees. A variable without either stays, to be asked for."""
    if isinstance(node, dict):
        return {key: interpolated(value, given) for key, value in node.items()}
    if isinstance(node, list):
        return [interpolated(value, given) for value in node]
    if not isinstance(node, str) or "$" not in node:
        return node
    return joined_texts((_text(part, given), line) for part, line in lines_of(node))


def _text(text: str, given: Mapping[str, str]) -> str:
    found: list[str] = []
    i = 0
    while i < len(text):
        if text[i] != "$" or i + 1 == len(text):
            found.append(text[i])
            i += 1
        elif text[i + 1] == "$":
            found.append("$")
            i += 2
        elif text[i + 1] == "{":
            end = _closing(text, i + 1)
            found.append(_braced(text[i + 2 : end], given))
            i = end + 1
        else:
            name = _NAME.match(text, i + 1)
            known = given.get(name.group()) if name is not None else None
            end = name.end() if name is not None else i + 1
            found.append(text[i:end] if known is None else known)
            i = end
    return "".join(found)


def _closing(text: str, start: int) -> int:
    """Where the brace at ``start`` is closed; the end of the text if it is not."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return i
    return len(text)


def _braced(inside: str, given: Mapping[str, str]) -> str:
    """``NAME``, ``NAME:-default``, ``NAME-default``, ``NAME:+instead``, ``NAME:?message``."""
    name = _NAME.match(inside)
    if name is None:
        return "${" + inside + "}"
    rest = inside[name.end() :]
    value = given.get(name.group())
    either = re.match(r":?([-+?])", rest)
    if either is None:
        return "${" + inside + "}" if value is None else value
    has = bool(value) if rest.startswith(":") else value is not None
    other = _text(rest[either.end() :], given)
    if either.group(1) == "-":
        return str(value) if has else other
    if either.group(1) == "+":
        return other if has else ""
    return str(value) if has else "${" + name.group() + "}"
