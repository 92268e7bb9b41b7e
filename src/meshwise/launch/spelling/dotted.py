"""Keys of a flag's JSON by dots, as vLLM's command line takes them: ``--flag.key value``, ``--flag.list+ item``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any


def dotted_merged(
    words: Sequence[str], lines: Sequence[int], is_flag: Callable[[str], bool]
) -> tuple[list[str], list[int]]:
    """Words whose keys by dots are one JSON value of their flag, with the line of each word; the flag's own
    JSON is under them. Only flags that ``is_flag`` knows are merged."""
    places = [lines[i] if i < len(lines) else 0 for i in range(len(words))]
    tables: dict[str, dict[str, Any]] = {}
    kept: list[tuple[str, int]] = []
    i = 0
    while i < len(words):
        word, line = words[i], places[i]
        name, equals, value = word.partition("=")
        flag, dot, path = name.partition(".")
        i += 1
        if not (name.startswith("--") and dot and path) or is_flag(name) or not is_flag(flag):
            kept.append((word, line))
            continue
        if not equals:
            follows = i < len(words) and not words[i].startswith("--")
            value = words[i] if follows else "true"
            i += follows
        if flag not in tables:
            tables[flag] = {}
            kept.append((flag, line))
        _put(tables[flag], path, value)
    found: list[tuple[str, int]] = []
    own: dict[str, dict[str, Any]] = {flag: {} for flag in tables}
    skip = False
    for at, (word, line) in enumerate(kept):
        name, equals, value = word.partition("=")
        following = value if equals else next(iter(w for w, _ in kept[at + 1 : at + 2]), "")
        if skip:
            skip = False
        elif name in tables and following.startswith("{"):
            own[name] = _table(following)
            skip = not equals
        else:
            found.append((word, line))
    whole = [
        (f"{w}={json.dumps(_over(own[w], tables[w]))}" if w in tables else w, line)
        for w, line in found
    ]
    return [w for w, _ in whole], [line for _, line in whole]


def _put(table: dict[str, Any], path: str, text: str) -> None:
    *sections, last = path.split(".")
    for part in sections:
        inner = table.setdefault(part, {})
        table = inner if isinstance(inner, dict) else table.setdefault(part, {})
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if last.endswith("+"):
        before = table.setdefault(last[:-1], [])
        before.extend(value if isinstance(value, list) else [value])
    else:
        table[last] = value


def _table(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _over(under: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in above.items():
        inner = merged.get(key)
        if isinstance(inner, dict) and isinstance(value, dict):
            value = _over(inner, value)
        merged[key] = value
    return merged
