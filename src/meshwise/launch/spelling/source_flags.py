"""The flags that a target's own source has (``targets/flags``, written by ``tools/target_flags.py``)."""

from __future__ import annotations

import csv
import functools
from typing import NamedTuple

from meshwise.launch.targets import TARGETS_FOLDER


class SourceFlag(NamedTuple):
    """``values``: how many words follow it: ``0``, ``1``, ``2``, …, ``?``, ``*`` or ``+`` as argparse has
    them; ``default`` as its source writes it, empty where it has none."""

    name: str
    values: str
    default: str
    choices: tuple[str, ...]


class SourceFlags(NamedTuple):
    release: str
    by_spelling: dict[str, SourceFlag]

    def get(self, name: str) -> SourceFlag | None:
        return next((self.by_spelling[s] for s in spellings(name) if s in self.by_spelling), None)


def spellings(name: str) -> tuple[str, ...]:
    """A flag as it stands, with hyphens and with underscores: files and Python write either."""
    if not name.startswith("--"):
        return (name,)
    return name, name.replace("_", "-"), "--" + name[2:].replace("-", "_")


@functools.cache
def source_flags(target_name: str) -> SourceFlags | None:
    """All flags of a target; None where no table of them was made."""
    path = TARGETS_FOLDER / "flags" / f"{target_name}.csv"
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as lines:
        release = next(lines).removeprefix("#").strip()
        found: dict[str, SourceFlag] = {}
        for row in csv.DictReader(lines):
            names = row["spellings"].split()
            choices = tuple(c for c in row["choices"].split("|") if c)
            flag = SourceFlag(names[0], row["values"], row["default"], choices)
            found.update(dict.fromkeys(names, flag))
    return SourceFlags(release, found)


def taken(flag: SourceFlag, words: list[str], i: int) -> int:
    """How many of ``words`` from ``i`` are the flag's values."""
    if flag.values == "0":
        return 0
    most = {"1": 1, "?": 1}.get(flag.values, len(words))
    most = int(flag.values) if flag.values.isdigit() else most
    many = 0
    while many < most and i + many < len(words) and not is_flag(words[i + many]):
        many += 1
    return many


def is_flag(word: str) -> bool:
    """Whether a word is a flag, not a negative number."""
    digits = word[1:].replace(".", "").replace("e-", "").replace("-", "")
    return word.startswith("-") and not (digits.isdigit() and word[1:2].isdigit())


def as_default(flag: SourceFlag, values: list[str]) -> bool:
    """Whether a flag says what holds without it."""
    return bool(flag.default) and " ".join(values).lower() == flag.default.lower()
