"""Statements of a shell text: commands, branches, loops, functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from meshwise.launch.shell.syntax.source import ScriptSource
from meshwise.launch.shell.syntax.words import Pieces, Word

_ENDS = (";", "\n", ";;", "&", "comment")


class Assignment(NamedTuple):
    """``NAME=value``, ``NAME[key]=value``, ``NAME=(entries)``; with ``more`` it is added to."""

    name: str
    key: Word | None
    more: bool
    value: Pieces
    entries: tuple[Word, ...] | None
    line: int


class Redirect(NamedTuple):
    """``body`` is that of a here-document or a here-string."""

    operator: str
    descriptor: str
    target: Word | None
    body: Pieces | None


class Simple(NamedTuple):
    """A command; ``declares``: export, declare, local and the like."""

    assignments: tuple[Assignment, ...]
    words: tuple[Word, ...]
    redirects: tuple[Redirect, ...]
    declares: bool
    line: int


class Test(NamedTuple):
    """``[ … ]``, or ``[[ … ]]`` (``double``)."""

    words: tuple[Word, ...]
    double: bool
    line: int


class Calculate(NamedTuple):
    pieces: Pieces
    line: int


class If(NamedTuple):
    """Of ``ways`` (condition, body) the first that holds, else ``otherwise``."""

    ways: tuple[tuple[Body, Body], ...]
    otherwise: Body | None


class CaseItem(NamedTuple):
    patterns: tuple[Word, ...]
    body: Body
    goes_on: bool  # into the next one's body: ;&


class CaseStatement(NamedTuple):
    subject: Word
    items: tuple[CaseItem, ...]
    text: str


class For(NamedTuple):
    """``for NAME in WORDS``; without words over the arguments."""

    name: str
    words: tuple[Word, ...] | None
    body: Body
    line: int


class While(NamedTuple):
    condition: Body
    until: bool
    body: Body
    line: int


class Count(NamedTuple):
    """``for ((first; condition; step))``."""

    parts: tuple[Pieces, Pieces, Pieces]
    body: Body
    line: int


class Function(NamedTuple):
    name: str
    body: Body


class GroupStatement(NamedTuple):
    """``{ …; }``, or a shell of its own (``own``): ``( … )``, what runs in the background."""

    body: Body
    own: bool
    redirects: tuple[Redirect, ...] = ()


class Pipe(NamedTuple):
    parts: tuple[Body, ...]


class Both(NamedTuple):
    """``left && right``, ``left || right``."""

    left: Body
    operator: str
    right: Body


class Not(NamedTuple):
    body: Body


class Unread(NamedTuple):
    """Lines that the grammar does not read."""

    text: str
    file: str
    line: int
    last: int


Statement = (
    Simple
    | Test
    | Calculate
    | If
    | CaseStatement
    | For
    | While
    | Count
    | Function
    | GroupStatement
    | Pipe
    | Both
    | Not
    | Unread
)


class Body:
    """Statements of nodes that follow each other."""

    def __init__(
        self, source: ScriptSource, nodes: Sequence[Any], made: tuple[Statement, ...] | None = None
    ) -> None:
        self.source, self._nodes, self._made = source, nodes, made

    def __iter__(self) -> Iterator[Statement]:
        if self._made is None:
            from meshwise.launch.shell.syntax.tree import StatementBuilder  # which makes bodies

            self._made = tuple(StatementBuilder(self.source).statements(self._nodes))
        return iter(self._made)

    @property
    def text(self) -> str:
        if not self._nodes:
            return ""
        nodes = [n for n in self._nodes if n.type not in _ENDS] or self._nodes
        return self.source.text(nodes[0].start_byte, nodes[-1].end_byte)

    @property
    def line(self) -> int:
        return self.source.line(self._nodes[0]) if self._nodes else 0
