"""A shell text parsed by the grammar of tree-sitter: the tree, what of it is not readable, and where."""

from __future__ import annotations

import bisect
import functools
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from meshwise.errors import InputError, shorten

MAX_PARSE_SECONDS = 5.0  # a text of 1 MB takes one; brackets in brackets without end take minutes
_ROUNDS = 4
# the grammar's scanner looks characters up in C's table of bytes and crashes beyond it; a shell takes them
# as parts of words, as it does this one
_ASCII = bytes(i if i < 128 else ord("_") for i in range(256))
_MAX_ERRORS = 300
# `${NAME!why}`: a value that stays unread, see expand
_UNREAD = re.compile(rb"\$\{(?:[A-Za-z_]\w*|[0-9@*])!([^{}]*)\}")
# what the grammar takes for an error and a shell, or the reader of a template, does not
_BRACED = re.compile(rb"\$\{[#!]?\w+(?:\[[^\]\n]*\])?([^\w{}\n](?:[^{}\n]|\$\{[^{}\n]*\})*)\}")
_PLACEHOLDER = re.compile(rb"(?<==)<([\w][^<>\n]*)>|(?<=[ \t])<([A-Z][A-Z_ -]*)>(?=[ \t\r\n\"'/])")
_DOLLAR = re.compile(rb"(?<![$\\])\$(?=[:,./%+=\s])")  # that expands nothing
_BOTH_WAYS = re.compile(rb"(<)>(?=[ \t]*[\"'$/\w])")
_CLOSERS = {
    ")": "no closing bracket",
    "))": "no closing bracket",
    "}": "no closing bracket",
    "]": "no closing bracket",
    "]]": "no closing bracket",
    '"': "no closing quotation",
    "`": "no closing backquote",
    "heredoc_end": "a here-document without its end",
    "fi": "an `if` without its `fi`",
    "done": "a loop without its `done`",
    "esac": "a `case` without its `esac`",
    "then": "an `if` without its `then`",
    "do": "a loop without its `do`",
}


class Region(NamedTuple):
    """A part of a text that the grammar does not read, from line to line."""

    start: int  # bytes
    end: int
    line: int


class ScriptSource:
    """A text with its tree. Texts of nodes are those of the original: what was covered before parsing
    has the same length."""

    def __init__(
        self, text: str, file: str = "", line: int = 1, lines: Callable[[int], int] | None = None
    ) -> None:
        self._lines = lines  # of an offset, where the text is put together of several
        # without a last line's end what is open is told less well
        self.data = text.encode("utf-8", "replace") + b"\n"
        self.file, self.first = file, line
        self.covered: list[tuple[int, int]] = []
        self.root = self._parsed()

    def text(self, start: int, end: int) -> str:
        return self.data[start:end].decode("utf-8", "replace")

    def line(self, node: Any) -> int:
        return self.line_at(node.start_byte)

    def line_at(self, at: int) -> int:
        """The line of a byte."""
        if self._lines is not None:
            return self._lines(at)
        return bisect.bisect_right(self._ends, at - 1) + self.first

    @functools.cached_property
    def _ends(self) -> list[int]:
        return [m.start() for m in re.finditer(rb"\n", self.data)]

    def is_covered(self, start: int, end: int) -> bool:
        return any(a < end and start < b for a, b in self.covered)

    def _parsed(self) -> Any:
        data = bytearray(self.data.translate(_ASCII))
        if data.rstrip().endswith(b"\\"):  # a line that would go on, and no line after it
            data[len(data.rstrip()) - 1] = 32
        for match in _UNREAD.finditer(data):
            self._cover(data, match.start() + 2, match.end() - 1)
        root = _tree(bytes(data), self)
        for _ in range(_ROUNDS):
            if not root.has_error:
                break
            before = bytes(data)
            for node in _errors(root):
                self._repair(data, node)
            if bytes(data) == before:
                break
            root = _tree(bytes(data), self)
        if root.has_error:
            self._refuse_open(root)
        return root

    def _cover(self, data: bytearray, start: int, end: int, by: bytes = b"_") -> None:
        self.covered.append((start, end))
        for i in range(start, end):
            data[i] = by[0]

    def _repair(self, data: bytearray, node: Any) -> None:
        """Cover what is known to be misread, in the lines of an error."""
        start = data.rfind(b"\n", 0, node.start_byte) + 1
        end = data.find(b"\n", node.end_byte)
        end = len(data) if end < 0 else end
        for match in _BRACED.finditer(data, start, end):
            self._cover(data, match.start(1), match.end(1))
        for match in _PLACEHOLDER.finditer(data, start, end):
            self._cover(data, *match.span())
        for match in _DOLLAR.finditer(data, start, end):
            self._cover(data, *match.span())
        for match in _BOTH_WAYS.finditer(data, start, end):
            self._cover(data, *match.span(1), by=b" ")

    def _refuse_open(self, root: Any) -> None:
        """Raise for what the text does not close: a shell refuses it too."""
        last = len(self.data.rstrip())
        for node in _errors(root):
            if node.is_missing and node.type in _CLOSERS:
                raise self.unreadable(_CLOSERS[node.type], node.parent or node)
            text = self.text(node.start_byte, node.end_byte).lstrip()
            if node.type == "ERROR" and node.end_byte >= last:
                opened = next((c for c in node.children if c.type in ('"', "`", "${")), None)
                if text[:1] in ("'", '"') or opened is not None:
                    what = "no closing quotation" if opened is None else _CLOSED.get(opened.type)
                    raise self.unreadable(what or "no closing quotation", opened or node)

    def unreadable(self, what: str, node: Any) -> InputError:
        return not_readable(
            what, self.file, self.line(node), self.text(node.start_byte, node.start_byte + 80)
        )


_CLOSED = {'"': "no closing quotation", "`": "no closing backquote", "${": "no closing bracket"}


def not_readable(what: str, file: str, line: int, text: str) -> InputError:
    """A part of a text that no shell, or not this grammar, reads."""
    shown = shorten(text.strip().partition("\n")[0], 60)
    where = f"{file}, line {line}" if file else f"line {line}"
    return InputError(
        f"command: {what} in {where}: {shown}",
        field="command",
        value=shown,
        legal="a shell command with its quotes closed, its brackets and here-documents too",
    )


def _errors(root: Any) -> list[Any]:
    """Nodes that the parser put in for what it could not read, in the text's order."""
    found: list[Any] = []
    left = [root]
    while left and len(found) < _MAX_ERRORS:
        node = left.pop()
        if node.is_missing or node.type == "ERROR":
            found.append(node)
        if node.has_error:
            left.extend(reversed(node.children))
    return found


@functools.cache
def _parser() -> Any:
    import tree_sitter
    import tree_sitter_bash

    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_bash.language()))


def _tree(data: bytes, source: ScriptSource) -> Any:
    end = time.monotonic() + MAX_PARSE_SECONDS

    def too_long(_at: int, _error: bool) -> bool:
        return time.monotonic() > end

    try:
        return _parser().parse(lambda at, _point: data[at:], progress_callback=too_long).root_node
    except ValueError:  # what it says of one that it was told to leave
        _parser().reset()
        text = source.text(0, 60)
        raise not_readable("too much inside each other", source.file, source.first, text) from None
