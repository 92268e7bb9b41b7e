"""Commands that are typed into a terminal, or handed to a supervisor as one text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from meshwise.launch.shell.values.memory import joined_texts, lines_of

_KEYS = frozenset(["Enter", "C-m", "C-j", "KPEnter", "Space", "C-c", "C-l", "Escape"])
_TAKING = ("-t", "-N", "-c", "-p")
_LINE_END = re.compile(r"(?:\\n|\\r|\\015|\^M|[\r\n])+$")


def typed_text(words: Sequence[str]) -> str | None:
    """What ``tmux send-keys``, ``screen -X stuff`` and ``pm2 start`` have a shell run; None of any other."""
    program = words[0].rpartition("/")[2]
    if program == "tmux":
        at = next((i for i, w in enumerate(words) if w in ("send-keys", "send")), None)
        return None if at is None else _sent(words[at + 1 :])
    if program == "screen" and "stuff" in words[:-1]:
        return _typed(words[list(words).index("stuff") + 1])
    if program == "pm2" and words[1:2] == ["start"] and len(words) > 2 and " " in words[2]:
        return words[2]
    return None


def _typed(text: str) -> str:
    """A text without the key that ends its line."""
    end = _LINE_END.search(text)
    if end is None:
        return text
    return joined_texts((p, n) for p, n in _before(text, end.start()))


def _before(text: str, end: int) -> Iterator[tuple[str, int]]:
    at = 0
    for part, line in lines_of(text):
        yield part[: max(end - at, 0)], line
        at += len(part)


def _sent(words: Sequence[str]) -> str:
    found: list[str] = []
    skip = False
    for word in words:
        if skip or (not found and word.startswith("-")):
            skip = not skip and word in _TAKING
        elif word not in _KEYS:
            found.append(_typed(word))
        elif word == "Space":
            found.append(" ")
    return joined_texts(part for word in found for part in lines_of(word))
