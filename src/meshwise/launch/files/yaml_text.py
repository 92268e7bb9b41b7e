"""YAML with its scalars as text: YAML 1.1 would turn ``no``, ``08`` and ``1:30`` into other things."""

from __future__ import annotations

import functools
import re
from typing import Any

from meshwise.errors import InputError, shorten
from meshwise.launch.shell.values.memory import marked

MAX_NODES = 50_000  # aliases counted each time that they are used


def yaml_documents(text: str, where: str = "command") -> list[Any]:
    """The documents of a YAML text: dicts, lists and strings with the lines that they stand in, shared by
    all who read the same text. Tags construct nothing."""
    import yaml

    try:
        return list(_loaded(str(text)))  # libyaml takes no kind of str
    except (yaml.YAMLError, RecursionError, _TooMany, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark is not None else ""
        why = getattr(error, "problem", None) or str(error) or type(error).__name__
        raise InputError(
            f"{where}: no YAML: {shorten(why)}{line}",
            field=where,
            value=shorten(text.strip()[:60]),
            legal="a YAML file",
        ) from None


@functools.lru_cache(maxsize=8)
def _loaded(text: str) -> tuple[Any, ...]:
    import yaml

    found = tuple(yaml.load_all(text, Loader=_loader()))
    count = [0]
    for document in found:
        _counted(document, count, 0)
    return found


@functools.cache
def _loader() -> Any:
    """A loader whose scalars know their lines."""
    import yaml

    plain: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # libyaml's, where it was built

    class Marked(plain):  # type: ignore[misc]
        def __init__(self, stream: str) -> None:
            self.rows = stream.split("\n")
            super().__init__(stream)

        def construct_scalar(self, node: Any) -> str:
            value = str(super().construct_scalar(node))
            first, last = node.start_mark.line, node.end_mark.line
            if first == last:
                return marked(value, ((0, first + 1),))
            return marked(value, _marks(value, self.rows, first, last))

    return Marked


def _marks(value: str, rows: list[str], first: int, last: int) -> tuple[tuple[int, int], ...]:
    """(offset, line) of the parts of a scalar over several lines: of each, where its text stands."""
    found: list[tuple[int, int]] = []
    at = 0
    for number in range(first, min(last + 1, len(rows))):
        part = rows[number].strip()
        if number == first and part.rstrip("-+0123456789 ").endswith(("|", ">")):
            continue
        place = value.find(part, at) if part else -1
        if place >= 0:
            found.append((place if found else 0, number + 1))
            at = place + len(part)
    return tuple(found) or ((0, first + 1),)


class _TooMany(Exception):
    def __str__(self) -> str:
        return f"more than {MAX_NODES:,} values, aliases counted, or too deep"


def _counted(node: Any, count: list[int], depth: int) -> None:
    count[0] += 1
    if count[0] > MAX_NODES or depth > 60:
        raise _TooMany
    if isinstance(node, dict):
        for value in node.values():
            _counted(value, count, depth + 1)
    elif isinstance(node, list):
        for value in node:
            _counted(value, count, depth + 1)


def mapping(text: str, where: str) -> dict[str, Any]:
    """A YAML file that is one mapping, whole numbers and booleans as such."""
    documents = [d for d in yaml_documents(text, where) if d not in (None, "")]
    if not documents:
        return {}
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise InputError(f"{where}: no YAML mapping", field=where, legal="key: value lines")
    found: dict[str, Any] = typed(documents[0])
    return found


def typed(node: Any) -> Any:
    if isinstance(node, dict):
        return {str(key): typed(value) for key, value in node.items()}
    if isinstance(node, list):
        return [typed(value) for value in node]
    if re.fullmatch(r"-?\d{1,12}", node):
        return int(node)
    known = {"true": True, "false": False, "null": None, "~": None, "": None}
    return known.get(node.lower(), str(node))


_SET = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)=(?:\"([^\"]*)\"|'([^']*)'|([^\s\"']*))")


def variables_before(text: str) -> tuple[dict[str, str], str]:
    """(variables that are set before a YAML text, the YAML): those of the shell that starts it."""
    lines = text.splitlines(keepends=True)
    found: dict[str, str] = {}
    for many, line in enumerate(lines):
        match = _SET.fullmatch(line.strip())
        if match is None and line.strip():
            return found, "\n" * many + "".join(lines[many:]) if found else text
        if match is not None:
            found[match.group(1)] = next((v for v in match.groups()[1:] if v is not None), "")
    return {}, text


def looks_like(text: str) -> bool:
    """Whether a text begins as a YAML mapping does, not as a shell command."""
    for line in text.splitlines():
        bare = line.split(" #", 1)[0].strip()
        if not bare or bare.startswith("#") or bare == "---" or _SET.fullmatch(bare):
            continue
        return re.match(r"(-\s+)?[\"']?[A-Za-z_][\w.-]*[\"']?:(\s|$)", bare) is not None
    return False
