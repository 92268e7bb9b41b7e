"""One way through a shell text: what it knows, wrote and started so far."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from meshwise.errors import InputError, shorten
from meshwise.launch.shell.syntax.statements import Body
from meshwise.launch.shell.values.memory import ShellMemory, ShellValue, reasons, unfollowed
from meshwise.launch.shell.values.parameters import is_followed

MAX_WAYS = 16
MAX_OF_PART = 4  # that come out of a turn of a loop, or of a function
_MAX_MERGED = 4  # after which a text has too many branches for as many ways again
_NAMES = re.compile(r"\$\{?([A-Za-z_]\w*|[0-9#@])")


class Started(NamedTuple):
    """A command with the variables that it alone gets, the lines of its words, and where in the log of
    what is known it stands."""

    words: tuple[str, ...]
    before: tuple[tuple[str, str], ...]
    lines: tuple[int, ...]
    file: str
    place: int


class Way:
    """``halt``: exit, return, break or continue, until what it ends; ``status``: whether the last
    command succeeded, None where the text does not say."""

    def __init__(self) -> None:
        self.memory = ShellMemory()
        self.files: dict[str, str] = {}
        self.commands: list[Started] = []
        self.functions: dict[str, Body] = {}
        self.sourced: list[str] = []
        self.batches: list[str] = []  # texts of inner scripts, whose #SBATCH lines count
        self.starter: tuple[str, ...] = ()  # srun with its options, around a script within
        self.conditions: tuple[str, ...] = ()
        self.halt = ""
        self.ended = ("", 0, "")  # the last word that halted it, its line, the condition of it
        self.left_out = False  # whether statements follow it
        self.status: bool | None = True
        self.given: str | None = None  # what a pipe gives to read
        self.file = ""
        self.merged = 0  # how often it was made of several
        self.locals: list[dict[str, ShellValue | None]] = []

    def copy(self) -> Way:
        new = Way()
        new.__dict__.update(self.__dict__)
        new.memory, new.files = self.memory.copy(), dict(self.files)
        new.commands, new.functions = list(self.commands), dict(self.functions)
        new.sourced, new.batches = list(self.sourced), list(self.batches)
        new.locals = [dict(each) for each in self.locals]
        return new

    def same(self, other: Way) -> bool:
        """Whether another way has come to the same."""
        mine, theirs = self.memory, other.memory
        return (
            self.halt == other.halt
            and self.status == other.status
            and len(self.commands) == len(other.commands)
            and mine.values == theirs.values
            and self.files == other.files
            and mine.exported == theirs.exported
            and all(
                a is b or (a.words == b.words and a.before == b.before)
                for a, b in zip(self.commands, other.commands, strict=True)
            )
            and self.functions == other.functions
        )


def distinct(ways: list[Way], most: int = MAX_WAYS) -> list[Way]:
    """Ways with the same outcome once; where they are too many, those that started the same are one, in
    which what they disagree on is not known.
    """
    if len(ways) < 2:
        return ways
    if max(way.merged for way in ways) >= _MAX_MERGED:
        most = min(most, 2)
    found: list[Way] = []
    for way in ways:
        if not any(way.same(other) for other in found):
            found.append(way)
    return found if len(found) <= most else _fewer(found)


def _fewer(ways: list[Way]) -> list[Way]:
    groups: dict[Any, list[Way]] = {}
    for way in ways:
        started = tuple((c.words, c.before) for c in way.commands)
        groups.setdefault((way.halt, started, tuple(way.files.items())), []).append(way)
    found = [_merged(group) for group in groups.values()]
    if len(found) <= MAX_WAYS:
        return found
    said = list(dict.fromkeys(c for way in ways for c in way.conditions if c != "else"))
    names = list(dict.fromkeys(f"${n}" for n in _NAMES.findall(" ".join(said))))
    raise InputError(
        f"command: more than {MAX_WAYS} ways through its branches ({shorten(', '.join(said), 120)})"
        + (f": {', '.join(names[:30])} are not set in the text" if names else ""),
        field="command",
        value=names[0] if names else said[-1] if said else None,
        legal="the script with the variables of its conditions set before it, or the command that runs",
    )


def _merged(ways: list[Way]) -> Way:
    first = ways[0]
    first.merged = max(way.merged for way in ways) + (len(ways) > 1)
    for name in _unlike(ways):
        values = [way.memory.get(name) for way in ways]
        if any(v != values[0] for v in values):
            only = [v for v in values if isinstance(v, str) and reasons(v)]
            said = first.conditions[-1] if first.conditions else "a branch"
            first.memory.set(name, only[0] if only else unfollowed(name, shorten(said, 60)))
    first.status = first.status if all(w.status == first.status for w in ways) else None
    first.functions = {
        k: v for k, v in first.functions.items() if all(w.functions.get(k) is v for w in ways)
    }
    return first


def _unlike(ways: list[Way]) -> list[str]:
    """Variables that ways may disagree on, in the order in which they are set: those of the ends of their logs
    that they do not share, as a script of a thousand branches is merged about as often."""
    first, *others = (way.memory for way in ways)
    unlike: set[str] = set()
    for other in others:
        at = first.parts_from(other)
        unlike.update(name for log in (first.log, other.log) for name, _ in log[at:])
    found = [name for name in first.values if name in unlike]
    if len(found) < len(unlike):
        more = (name for other in others for name in other.values if name in unlike)
        found = list(dict.fromkeys((*found, *more)))
    return found


def changed_is_unknown(way: Way, before: dict[str, ShellValue], what: str) -> None:
    """After a loop of which is not known how often it runs: what it changed is not known."""
    for name, value in list(way.memory.values.items()):
        if name in before and before[name] == value:
            continue
        if isinstance(value, str) and not is_followed(value) and reasons(value):
            continue
        way.memory.set(name, unfollowed(name, what))
