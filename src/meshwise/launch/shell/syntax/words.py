"""Words of a shell text: their quotes, and what in them is expanded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from meshwise.launch.shell.syntax.source import ScriptSource

_MAX_DEPTH = 12  # of words in words
_EXPANDED = frozenset(
    [
        "simple_expansion",
        "expansion",
        "command_substitution",
        "arithmetic_expansion",
        "process_substitution",
        "string",
        "raw_string",
        "ansi_c_string",
        "translated_string",
    ]
)
_PLAIN = ("word", "number")
_BLANK = b" \t\n\\"
_ESCAPES = {
    "a": "\a",
    "b": "\b",
    "e": "\x1b",
    "E": "\x1b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
    "'": "'",
    '"': '"',
    "?": "?",
}
_ANSI = re.compile(r"\\(x[0-9A-Fa-f]{1,2}|u[0-9A-Fa-f]{1,4}|U[0-9A-Fa-f]{1,8}|[0-7]{1,3}|[\s\S])")
_CUT = re.compile(r"(\\[\s\S]|\n)")
_EXPANDS = re.compile(r"\$[\w{(@*#?!$'\"-]|[`\"']")
_HIDDEN = re.compile(r"[$`\"'\\]")
_PARAMETER = re.compile(
    r"(!?)(#?)([A-Za-z_]\w*|\d+|[@*#?$!-])(?:\[((?:[^\[\]]|\[[^\]]*\])*)\])?"
    r"(:?[-=?+]|##?|%%?|//?|\^\^?|,,?|@|:)?(.*)",
    re.DOTALL,
)
_PATTERN = re.compile(
    r"((?:\\.|\"[^\"]*\"|'[^']*'|\$\{[^}]*\}|\$\([^)]*\)|[^/])*)(?:/(.*))?", re.DOTALL
)
_PRIVATE = 0xE000  # where characters of words in words wait that a command would be cut at
_CUTTING = re.compile(r"[\s();&|<>#{}!~]")


class Piece(NamedTuple):
    """A part of a word. ``kind``: text, name (``$X``), braced, command, arithmetic or process;
    ``quote``: ``'`` (taken as it is), ``"`` (expanded, not split) or empty."""

    kind: str
    text: str
    quote: str
    line: int
    inner: Any = None


Pieces = tuple[Piece, ...]


class Word(NamedTuple):
    pieces: Pieces
    line: int

    @property
    def bare(self) -> str:
        """The text of a word without any quotes and expansions, else nothing."""
        if len(self.pieces) == 1 and self.pieces[0].kind == "text" and not self.pieces[0].quote:
            return self.pieces[0].text
        return ""


class Parameter(NamedTuple):
    """``${…}``: ``prefix`` is ``!`` or ``#``; ``operands`` what follows the operator."""

    prefix: str
    name: str
    key: Word | None
    operator: str
    operands: tuple[Pieces, ...]


class Calculation(NamedTuple):
    """``$((…))``: its text, what is expanded in it within."""

    pieces: Pieces


class WordReader:
    """Pieces of a source's nodes."""

    def __init__(self, source: ScriptSource, depth: int = 0) -> None:
        self.source, self.depth = source, depth

    def words(self, nodes: Sequence[Any]) -> list[Word]:
        """Words of nodes one after the other: those with no space between them are one. The grammar
        takes an escaped space for a space."""
        found: list[Word] = []
        now: list[Piece] = []
        before: int | None = None
        data = self.source.data
        for node in nodes:
            if node.type == "comment":
                if now:
                    found.append(Word(tuple(now), now[0].line))
                now, before = [], None
                continue
            start = self._start(node)
            if before is not None and data[before:start] == b" ":
                if now:
                    found.append(Word(tuple(now), now[0].line))
                now = []
            elif before is not None and before != start:
                for part in self._gap(before, start, self.source.line(node)):
                    if part is not None:
                        now.append(part)
                    elif now:
                        found.append(Word(tuple(now), now[0].line))
                        now = []
            now += self.pieces(node)
            before = node.end_byte
        if now:
            found.append(Word(tuple(now), now[0].line))
        return [w._replace(pieces=_with_names(w.pieces)) for w in found]

    def _gap(self, start: int, end: int, line: int) -> Iterator[Piece | None]:
        """Between two nodes: None where a word ends, pieces for what is escaped."""
        text = self.source.text(start, end).replace("\\\n", "")
        for part in re.findall(r"\\[\s\S]|\s+|[^\s\\]+|\\", text):
            if part[0] == "\\" and len(part) > 1:
                yield Piece("text", part[1:], "'", line)
            elif part.isspace():
                yield None
            else:
                yield Piece("text", part, "", line)

    def pieces(self, node: Any, quote: str = "") -> list[Piece]:
        """Of one node: a word, a string, an expansion, or several without a space."""
        kind, source = node.type, self.source
        if kind in _EXPANDED:
            return self._expanded(node, quote, source.line(node))
        if kind in _PLAIN or not node.child_count:
            start = self._start(node)
            text = source.text(start, node.end_byte)
            line = source.line_at(start)
            if not _HIDDEN.search(text):
                return [Piece("text", text, quote, line)]
            if _EXPANDS.search(text) and not (
                self.depth and text == self.source.text(2, 1 << 40)[:-1]
            ):
                return self.again(text, quote, line)
        return self.between(node.children, self._start(node), node.end_byte, quote)

    def between(self, nodes: Sequence[Any], start: int, end: int, quote: str) -> list[Piece]:
        """From byte to byte: what is expanded among nodes, and the text between."""
        found: list[Piece] = []
        at = start
        for node in self._expansions(nodes):
            first = self._start(node)
            if first < at or node.end_byte > end:
                continue
            found += self.literal(at, first, quote)
            found += self._expanded(node, quote, self.source.line_at(first))
            at = node.end_byte
        return found + self.literal(at, end, quote)

    def _start(self, node: Any) -> int:
        """Where a node begins: the grammar gives some the blanks before them in a string."""
        data, at = self.source.data, int(node.start_byte)
        if data[at] not in _BLANK:
            return at
        while data[at : at + 1] in (b" ", b"\t", b"\n") or data[at : at + 2] == b"\\\n":
            at += 2 if data[at : at + 1] == b"\\" else 1
        return at

    def _expansions(self, nodes: Sequence[Any]) -> Iterator[Any]:
        for node in nodes:
            if node.type in _EXPANDED:
                yield node
            elif node.child_count:
                yield from self._expansions(node.children)

    def literal(self, start: int, end: int, quote: str) -> list[Piece]:
        """Text between expansions, with its escapes; ``quote`` h is a here-document's."""
        if start >= end:
            return []
        text = self.source.text(start, end)
        return plain(text, quote, self.source.line_at(start))

    def _expanded(self, node: Any, quote: str, line: int) -> list[Piece]:
        source, kind = self.source, node.type
        start, end = self._start(node), node.end_byte
        if kind == "string":
            inner = self.between(node.children, start + 1, end - 1, '"')
            return inner or [Piece("text", "", '"', line)]
        if kind == "translated_string":
            return [p for child in node.children for p in self.pieces(child) if child.type != "$"]
        if kind == "raw_string":
            return raw(source.text(start + 1, end - 1), line)
        if kind == "ansi_c_string":
            return raw(_ANSI.sub(_escape, source.text(start + 2, end - 1)), line)
        text = source.text(start, end)
        if kind == "simple_expansion":
            return [Piece("name", text, quote, line, text[1:])]
        if kind == "expansion":
            return [self.parameter(text, quote, line)]
        if kind == "command_substitution" and text.startswith("$((") and text.endswith("))"):
            # in a here-document the grammar takes it for brackets in a command
            inside = tuple(self.again(text[3:-2], '"', line))
            return [Piece("arithmetic", text, quote, line, Calculation(inside))]
        if kind == "command_substitution":
            return [Piece("command", text, quote, line, self._commands(node, text, line))]
        if kind == "process_substitution":
            return [Piece("process", text, quote, line, self._commands(node, text, line))]
        from_, to = (3, 2) if text.startswith("$((") else (2, 1)
        calculated = self.between(node.children, start + from_, end - to, '"')
        return [Piece("arithmetic", text, quote, line, Calculation(tuple(calculated)))]

    def _commands(self, node: Any, text: str, line: int) -> Any:
        """What a substitution runs: (source, its nodes)."""
        if text.startswith("`") and "\\" in text:
            inner = ScriptSource(re.sub(r"\\([`\\$])", r"\1", text[1:-1]), self.source.file, line)
            return inner, inner.root.children
        return self.source, node.children[1:-1]

    def parameter(self, text: str, quote: str, line: int) -> Piece:
        """``${…}`` by its text."""
        match = _PARAMETER.fullmatch(text[2:-1]) if text.startswith("${") else None
        if match is None or (text.startswith("${!") and match[3] == ""):
            return Piece("braced", text, quote, line)
        indirect, length, name, index, operator, rest = match.groups()
        if (operator is None and rest) or (indirect and length):
            return Piece("braced", text, quote, line)
        key = None if index is None else Word(tuple(self.again(index, '"', line)), line)
        operands: list[str] = [rest] if operator else []
        if operator in ("/", "//"):
            anchor = rest[:1] if operator == "/" and rest[:1] in ("#", "%") else ""
            operator += anchor
            cut = _PATTERN.fullmatch(rest[len(anchor) :])
            operands = [cut[1], cut[2] or ""] if cut is not None else [rest, ""]
        elif operator == ":":
            operands = rest.split(":")
        # of a pattern the quotes count inside quotes too
        inside = quote if operator and operator[-1] in "-=?+" else ""
        inside = '"' if operator == ":" else inside
        parts = tuple(tuple(self.again(o, inside, line)) for o in operands)
        return Piece(
            "braced",
            text,
            quote,
            line,
            Parameter(indirect or length, name, key, operator or "", parts),
        )

    def again(self, text: str, quote: str, line: int) -> list[Piece]:
        """A word in a word, by its text."""
        if not _HIDDEN.search(text):
            return [Piece("text", text, quote, line)] if text else []
        if self.depth > _MAX_DEPTH:
            return [Piece("braced", text, quote, line)]
        runs = "$(" in text or "`" in text
        if quote:
            text = text if runs else re.sub(r'(?<!\\)"', "", text)
            inner = ScriptSource(f'"{text}"', self.source.file, line)
        else:
            covered = text if runs else _CUTTING.sub(lambda m: chr(_PRIVATE + ord(m[0])), text)
            covered = re.sub(
                r"\$[\ue000-\uf8ff]", lambda m: "$" + chr(ord(m[0][1]) - _PRIVATE), covered
            )
            covered = _braces_back(covered)
            inner = ScriptSource(f": {covered}", self.source.file, line)
        reader = WordReader(inner, self.depth + 1)
        if inner.root.has_error or not inner.root.children:
            return [Piece("braced", text, quote, line)]
        node = inner.root.children[0]
        if quote:
            found = (
                reader.pieces(node) if node.type != "command" else reader.pieces(node.children[0])
            )
            return [p._replace(quote="'" if p.quote == "'" else quote) for p in found]
        found = [p for w in reader.words(node.children[1:]) for p in w.pieces]
        return [p._replace(text=_shown(p.text)) if p.kind == "text" else p for p in found]


def _with_names(pieces: Pieces) -> Pieces:
    """The grammar takes the dollar of ``"a"b=$X`` for a text, and the name for the next word."""
    if not any(p.text.endswith("$") and not p.quote and p.kind == "text" for p in pieces[:-1]):
        return pieces
    found: list[Piece] = []
    for piece in pieces:
        before = found[-1] if found else None
        name = re.match(r"[A-Za-z_]\w*|[0-9@*#?]", piece.text)
        plain = piece.kind == "text" and not piece.quote
        opened = before is not None and before.kind == "text" and not before.quote
        if before is not None and opened and before.text.endswith("$") and name and plain:
            found[-1] = before._replace(text=before.text[:-1])
            found.append(Piece("name", f"${name[0]}", "", piece.line, name[0]))
            piece = piece._replace(text=piece.text[name.end() :])
        found.append(piece)
    return tuple(p for p in found if p.text or p.quote)


def _braces_back(text: str) -> str:
    """The brackets of ``${…}`` where they were covered."""
    opened, closed = chr(_PRIVATE + ord("{")), chr(_PRIVATE + ord("}"))
    out: list[str] = []
    depth = 0
    for i, c in enumerate(text):
        if c in (opened, "{") and i and text[i - 1] == "$":
            depth, c = depth + 1, "{"
        elif c == closed and depth:
            depth, c = depth - 1, "}"
        out.append(c if not depth or not "\ue000" <= c <= "\ue0ff" else _shown(c))
    return "".join(out)


def _shown(text: str) -> str:
    return re.sub(r"[\ue000-\ue0ff]", lambda m: chr(ord(m[0]) - _PRIVATE), text)


def plain(text: str, quote: str, line: int) -> list[Piece]:
    """Text without expansions: escapes taken, a piece for each line of what is quoted."""
    kept = "" if quote == "" else '"'
    if "\\" not in text and "\n" not in text:
        return [Piece("text", text, kept, line)]
    found: list[Piece] = []
    for part in _CUT.split(text):
        if part == "\n":
            found.append(Piece("text", part, kept, line))
            line += 1
        elif part == "\\\n":
            line += 1
        elif part[:1] == "\\" and len(part) == 2:
            escapes = quote == "" or part[1] in ("$`\\" if quote == "h" else '$`\\"')
            found.append(Piece("text", part[1] if escapes else part, "'", line))
        elif part:
            found.append(Piece("text", part, kept, line))
    return found


def raw(text: str, line: int) -> list[Piece]:
    rows = text.split("\n")
    return [
        Piece("text", row + ("\n" if i < len(rows) - 1 else ""), "'", line + i)
        for i, row in enumerate(rows)
    ]


def _escape(match: re.Match[str]) -> str:
    said = match[1]
    if said[0] in "xuU" and len(said) > 1:
        return chr(min(int(said[1:], 16), 0x10FFFF))
    if said[0] in "01234567":
        return chr(int(said, 8) & 255)
    return _ESCAPES.get(said, match[0])
