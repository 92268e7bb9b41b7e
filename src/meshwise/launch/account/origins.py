"""Where the values of a reading stand: file, line and word of each flag, and of what kind it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from meshwise.errors import MeshwiseError

# kinds of flags: of the layout; of time or memory, priced or not; of what is run; of neither; of no
# table of the target's release
KINDS = ("layout", "price", "unpriced", "model", "none", "unknown")


class Origin(NamedTuple):
    """A word as it stands; ``line`` 0 where that is not known, no ``file`` of the text itself."""

    word: str
    line: int = 0
    file: str = ""


class FlagWord(NamedTuple):
    """A flag with its values, and its kind; ``setting`` that it gives, none of those that give none."""

    origin: Origin
    kind: str
    setting: str = ""


class PlacedWords(NamedTuple):
    """Words of a file or a text, with the line of each."""

    file: str = ""
    lines: Sequence[int] = ()

    def line(self, i: int) -> int:
        return self.lines[i] if i < len(self.lines) else 0


def placed_error(error: MeshwiseError, line: int, file: str = "") -> MeshwiseError:
    """The error with the place of the word that it is about, unless it has one."""
    if error.line is None and line:
        error.line, error.file = line, file or error.file
    return error


def key_lines(text: str, keys: Sequence[str]) -> list[int]:
    """The line of each key of a YAML, TOML or JSON text, 0 where it stands in none: sections joined by
    dots are looked for in order, each below the one before."""
    rows = text.splitlines()
    found = []
    for key in keys:
        at, whole = 0, True
        for part in key.split("."):
            if whole and at and f'"{part}"' in rows[at - 1]:  # JSON on the line of its section
                continue
            at, whole = _below(rows, part, at, whole)
        found.append(at if whole else 0)
    return found


def _below(rows: Sequence[str], key: str, after: int, whole: bool) -> tuple[int, bool]:
    if not whole:
        return 0, False
    for i in range(after, len(rows)):
        row = rows[i].strip().lstrip("-[{, ").lstrip()
        named = row.strip("\"'").startswith(key) or row.startswith(f'"{key}"')
        rest = row.strip("\"'")[len(key) :].lstrip("\"' ")
        if named and (not rest or rest[0] in ":=].,"):
            return i + 1, True
    return 0, False
