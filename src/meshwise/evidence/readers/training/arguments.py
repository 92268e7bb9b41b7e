"""Arguments as training logs print them: an argument dump with dots, ``key: value`` of a configuration, or the
flags of the command that started the run."""

from __future__ import annotations

import re
from collections.abc import Mapping

_DOTS = re.compile(r"([A-Za-z_]\w*) \.{2,} ?(\S.*?)\s*$")
_PRINTED = re.compile(
    r":print\]\s+([a-z_]\w*)\s+(?:\.{2,} )?(\S.*?)\s*$"
)  # a long name leaves no dots
_PAIR = re.compile(r"(?<![\w.-])[\"']?([a-z_]\w*)[\"']?\s*[:=]\s*[\"']?([\w.+-]+)")
_FLAG = re.compile(r"(?<!\S)--([a-z][\w-]*)(?:[ =]+([\w.+/-]+))?")
_NONE = ("none", "null", "~")
_OFF = ("false", "0", *_NONE)


_DUMP = 3  # the rank of what a dump says


class Arguments:
    """Arguments of one run by name. A dump, which has every one as it was used, goes before a configuration,
    and that before flags; what one of them says twice in different words is not known."""

    def __init__(self, names: Mapping[str, str], dumped: Mapping[str, str] | None = None) -> None:
        # as they are written, with underscores → as they are asked for; some in a dump alone
        self._names, self._dumped = names, dumped or {}
        self._said: dict[str, tuple[int, str]] = {}
        self.contradicted: set[str] = set()

    def read(self, line: str) -> None:
        """What a line says of the arguments."""
        dumped = self.dumped(line)
        if dumped is not None:
            self._take(_DUMP, *dumped)
            return
        if "--" in line:
            for name, value in _FLAG.findall(line):
                self._take(
                    1, name.replace("-", "_"), "True" if value.startswith("--") else value or "True"
                )
        for name, value in _PAIR.findall(line):
            self._take(2, name, value)

    def dumped(self, line: str) -> tuple[str, str] | None:
        """(name, value) of a line of an argument dump; None of any other line."""
        found = _DOTS.search(line) or _PRINTED.search(line)
        return (found[1], found[2]) if found else None

    def _take(self, rank: int, written: str, value: str) -> None:
        name = self._names.get(written) or (self._dumped.get(written) if rank == _DUMP else None)
        if name is None:
            return
        before = self._said.get(name)
        if before is not None and before[0] == rank and before[1] != value:
            self.contradicted.add(name)
        elif before is None or before[0] < rank:
            self._said[name] = rank, value
            self.contradicted.discard(name)

    def text(self, name: str) -> str | None:
        """The word of an argument; None where none is said, or several are."""
        if name in self.contradicted or name not in self._said:
            return None
        return self._said[name][1]

    def said(self, name: str) -> bool:
        """Whether an argument is said, if only as None."""
        return self.text(name) is not None

    def count(self, name: str) -> int | None:
        """A whole number of at least 1; None where it is none, or none is said."""
        word = self.text(name) or ""
        return int(word) if word.isdigit() and int(word) > 0 else None

    def switch(self, name: str) -> bool | None:
        """Whether a switch is on; None where none is said."""
        word = self.text(name)
        return None if word is None else word.lower() not in _OFF

    def is_none(self, name: str) -> bool:
        """Whether an argument is said to have no value."""
        return (self.text(name) or "").lower() in _NONE
