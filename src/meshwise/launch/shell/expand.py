"""Words of a shell expanded: variables, defaults, arrays, arithmetic; what is not known stays as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from meshwise.errors import InputError
from meshwise.launch.shell.syntax.words import Calculation, Parameter, Piece, Pieces, Word
from meshwise.launch.shell.values.arithmetic import NotKnown, calculated
from meshwise.launch.shell.values.memory import (
    ShellMemory,
    Text,
    joined_texts,
    line_of,
    marked,
    unfollowed,
)

MAX_WORDS = 150_000
_MAX_DEPTH = 20
_MAX_BRACES = 10_000  # words
_BLANKS = " \t\n"
_NAME = re.compile(r"[A-Za-z_]\w*|[0-9@*]")
_LETTERS = re.compile(r"(?<![\w$])(?!0[xX])([A-Za-z_]\w*)")
_WORD = re.compile(r"[^ \t\n]+")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(-?\d{1,6})\.\.(-?\d{1,6})(?:\.\.(-?\d{1,6}))?|([A-Za-z])\.\.([A-Za-z])")
_COVER = 0xF0000  # in whose plane pieces of a word stand while its braces are taken apart


class Expansion(NamedTuple):
    """What a piece stands for. ``entries``: None where it is not known; ``shown`` is what stays then.
    ``whole``: one word where it is quoted (``"${A[*]}"``)."""

    shown: str
    entries: tuple[str, ...] | None
    whole: bool = False


class Expander:
    """Expansion under what a shell knows. ``name``: the variable that the value is for."""

    def __init__(
        self, memory: ShellMemory, files: dict[str, str], depth: int = 0, name: str = ""
    ) -> None:
        self.memory, self.files, self.depth, self.name = memory, files, depth, name

    def given_to(self, name: str) -> Expander:
        return Expander(self.memory, self.files, self.depth, name)

    def fields(self, word: Word) -> list[str]:
        """The words that a word becomes: unquoted values are split, ``"${A[@]}"`` gives its entries."""
        if len(word.pieces) == 1:
            piece = word.pieces[0]
            if piece.kind == "text" and (piece.quote or "{" not in piece.text):
                return [marked(piece.text, ((0, piece.line),))]
        found: list[str] = []
        for pieces in _braces(word.pieces):
            found += self._fields(pieces)
        return found

    def _fields(self, pieces: Pieces) -> list[str]:
        done: list[str] = []
        now: list[tuple[str, int]] | None = None  # of the field that is being put together

        def end() -> None:
            nonlocal now
            if now is not None:
                done.append(joined_texts(now))
            now = None

        for piece in self._chosen(pieces):
            if piece.kind == "text":
                now = [*(now or []), (piece.text, piece.line)]
                continue
            found = self.found(piece)
            if found.entries is None:
                now = [*(now or []), (found.shown, piece.line)]
            elif piece.quote:
                entries = found.entries
                if found.whole:
                    entries = (self._separator().join(entries),)
                elif not entries and piece.kind != "text" and not _many(piece):
                    entries = ("",)
                for i, entry in enumerate(entries):
                    if i:
                        end()
                    now = [*(now or []), (entry, line_of(entry, piece.line))]
            else:
                for i, entry in enumerate(found.entries):
                    if i:
                        end()
                    before, parts, after = self._split(entry, piece.line)
                    if before:
                        end()
                    for k, part in enumerate(parts):
                        if k:
                            end()
                        now = [*(now or []), part]
                    if after:
                        end()
        end()
        return done[:MAX_WORDS]

    def _chosen(self, pieces: Pieces, depth: int = 0) -> Iterator[Piece]:
        """Pieces, with the words of ``${X:-…}`` in place of those that stand for them."""
        from meshwise.launch.shell.values.parameters import chosen_operand

        for piece in pieces:
            inner = piece.inner
            operand = None
            if isinstance(inner, Parameter) and inner.operator and depth < _MAX_DEPTH:
                operand = chosen_operand(inner, self)
            if operand is None:
                yield piece
            elif operand:
                for part in self._chosen(operand, depth + 1):
                    splits = part.kind == "text" and not part.quote and not piece.quote
                    yield part._replace(kind="split") if splits else part
            elif piece.quote:
                yield Piece("text", "", piece.quote, piece.line)

    def _separator(self) -> str:
        ifs = self.memory.get("IFS")
        return ifs[:1] if isinstance(ifs, str) and "$" not in ifs else " "

    def _split(self, text: str, line: int) -> tuple[bool, list[tuple[str, int]], bool]:
        """(whether it begins with a blank, its words, whether it ends with one)."""
        ifs = self.memory.get("IFS")
        if isinstance(ifs, str) and ifs != _BLANKS and "$" not in ifs:
            if not ifs:
                return False, [(text, line_of(text, line))] if text else [], False
            blank = "".join(c for c in ifs if c in _BLANKS)
            own = "".join(c for c in ifs if c not in _BLANKS)
            body = text.strip(blank)
            around = f"[{re.escape(blank)}]*" if blank else ""
            cut = f"{around}[{re.escape(own)}]{around}" if own else ""
            cut = "|".join(c for c in (cut, f"[{re.escape(blank)}]+" if blank else "") if c)
            words = re.split(cut, body) if body else []
            if words and not words[-1]:
                words.pop()
            ends = text[-1:] in ifs and bool(text)
            return (
                bool(blank) and text[:1] in blank and bool(text),
                [(w, line_of(text, line)) for w in words],
                ends,
            )
        if isinstance(text, Text) and len(text.marks) > 1:
            parts = [(m[0], text.line_at(m.start())) for m in _WORD.finditer(text)]
        else:
            own_line = line_of(text, line)
            parts = [(m, own_line) for m in _WORD.findall(text)]
        return text[:1] in _BLANKS and bool(text), parts, text[-1:] in _BLANKS and bool(text)

    def split_by_ifs(self, text: str) -> list[str]:
        return [str(part) for part, _ in self._split(text, 0)[1]]

    def rest_by_ifs(self, text: str, many: int) -> str:
        """What is left of a text after ``many`` words, as the last name of ``read`` gets it."""
        ifs = self.memory.get("IFS")
        ifs = ifs if isinstance(ifs, str) and "$" not in ifs else _BLANKS
        if not ifs:
            return text if not many else ""
        blanks = re.escape("".join(c for c in ifs if c in _BLANKS))
        blank = f"[{blanks}]*" if blanks else ""
        every = re.escape(ifs)
        rest = text.strip("".join(c for c in ifs if c in _BLANKS))
        for _ in range(many):
            rest = re.sub(rf"\A[^{every}]*({blank}[{every}]?{blank}|\Z)", "", rest, count=1)
        own = "".join(c for c in ifs if c not in _BLANKS)
        return (
            rest[:-1]
            if own and rest[-1:] in own and not re.search(rf"[{every}]", rest[:-1])
            else rest
        )

    def text(self, word: Word | Pieces) -> Text:
        """One text, as an assignment takes it."""
        pieces = word.pieces if isinstance(word, Word) else word
        parts: list[tuple[str, int]] = []
        for piece in pieces:
            if piece.kind == "text":
                parts.append((piece.text, piece.line))
                continue
            found = self.found(piece)
            if found.entries is None:
                parts.append((found.shown, piece.line))
            else:
                between = self._separator() if found.whole else " "
                for i, entry in enumerate(found.entries):
                    parts += [(between, piece.line)] if i else []
                    parts.append((entry, line_of(entry, piece.line)))
        return joined_texts(parts)

    def found(self, piece: Piece) -> Expansion:
        """What an expansion stands for."""
        if piece.kind == "name":
            entries = self.value(piece.inner)
            return Expansion(self._shown(piece, piece.inner), entries, piece.inner == "*")
        if piece.kind == "split":
            return Expansion(piece.text, (piece.text,))
        if self.depth > _MAX_DEPTH:
            return Expansion(piece.text, None)
        if piece.kind == "braced":
            return self._parameter(piece)
        if piece.kind == "arithmetic":
            return self._calculation(piece)
        if piece.kind == "command":
            return self._output(piece)
        return Expansion(piece.text, None)

    def _shown(self, piece: Piece, name: str) -> str:
        return unfollowed(name) if self.name and _NAME.fullmatch(name) else piece.text

    def value(self, name: str) -> tuple[str, ...] | None:
        """The entries of a variable without an index; none where it is known to be unset."""
        if name in ("@", "*", "#"):
            given = self.memory.get("@")
            if not isinstance(given, tuple):
                return None
            return (str(len(given)),) if name == "#" else given
        value = self.memory.get(name)
        if value is None:
            given = self.memory.get("@")
            if name.isdigit() and name != "0" and isinstance(given, tuple):
                at = int(name) - 1
                return (given[at],) if at < len(given) else ()
            return self.value("0") if name == "BASH_SOURCE" else None
        if isinstance(value, tuple):
            return value[:1]
        if isinstance(value, dict):
            return (value["0"],) if "0" in value else ()
        return (value,)

    def _parameter(self, piece: Piece) -> Expansion:
        from meshwise.launch.shell.values.parameters import parameter

        inner = piece.inner
        if not isinstance(inner, Parameter):
            why = re.fullmatch(r"\$\{([A-Za-z_]\w*|[0-9@*])!([^{}]*)\}", piece.text)
            return Expansion(piece.text, (piece.text,) if why else None)
        whole = (inner.key is not None and inner.key.bare == "*") or (
            inner.key is not None and [p.text for p in inner.key.pieces] == ["*"]
        )
        deeper = Expander(self.memory, self.files, self.depth + 1, self.name)
        entries = parameter(inner, deeper)
        return Expansion(self._shown(piece, inner.name), entries, whole or inner.name == "*")

    def _calculation(self, piece: Piece) -> Expansion:
        assert isinstance(piece.inner, Calculation)
        deeper = Expander(self.memory, self.files, self.depth + 1)
        text = str(deeper.text(piece.inner.pieces))
        try:
            return Expansion(piece.text, (str(calculated(text, self.memory)),))
        except NotKnown:
            names = [n for n in _LETTERS.findall(text) if self.memory.get(n) is None]
            if self.name:
                return Expansion(unfollowed(self.name, f"$(({text})) in line {piece.line}"), None)
            for name in names:
                text = re.sub(rf"(?<![\w${{]){name}\b", f"${{{name}}}", text)
            return Expansion("$((" + re.sub(r"\s+", "", text) + "))", None)

    def _output(self, piece: Piece) -> Expansion:
        from meshwise.launch.shell.syntax.statements import Body
        from meshwise.launch.shell.values.outputs import output

        source, nodes = piece.inner
        deeper = Expander(self.memory.scratch(), self.files, self.depth + 1)
        said = output(Body(source, nodes), deeper)
        if said is not None:
            return Expansion(piece.text, (marked(said.rstrip("\n"), ((0, piece.line),)),))
        text = re.sub(r"\s+", " ", piece.text)
        if self.name:
            return Expansion(unfollowed(self.name, f"{text[:60]} in line {piece.line}"), None)
        return Expansion(text, None)


def _many(piece: Piece) -> bool:
    """Whether a piece stands for entries of an array: none of them is no word."""
    if piece.kind == "name":
        return str(piece.inner) == "@"
    inner = piece.inner
    if not isinstance(inner, Parameter):
        return False
    return inner.name == "@" or (
        inner.key is not None and [p.text for p in inner.key.pieces] == ["@"]
    )


def _braces(pieces: Pieces) -> list[Pieces]:
    """``{a,b}`` and ``{1..3}`` outside quotes, each of the words that they make."""
    if not any(p.kind == "text" and not p.quote and "{" in p.text for p in pieces):
        return [pieces]
    covered = "".join(
        p.text if p.kind == "text" and not p.quote else chr(_COVER + i)
        for i, p in enumerate(pieces)
    )
    words = _spread(covered)
    if words == [covered]:
        return [pieces]
    line = pieces[0].line
    found = []
    for word in words:
        parts: list[Piece] = []
        for text in re.split(r"([\U000f0000-\U000fffff])", word):
            if text[:1] >= chr(_COVER):
                parts.append(pieces[ord(text) - _COVER])
            elif text:
                parts.append(Piece("text", text, "", line))
        found.append(tuple(parts))
    return found


def _spread(text: str) -> list[str]:
    done: list[str] = []
    left = [text]
    while left:
        now = left.pop()
        parts = _first_braces(now)
        if parts is None:
            done.append(now)
        else:
            left += reversed(parts)
        if len(done) + len(left) > _MAX_BRACES:
            raise InputError(
                f"command: braces that make more than {_MAX_BRACES:,} words",
                field="command",
                value=text[:40],
                legal="the command that runs",
            )
    return done


def _first_braces(text: str) -> list[str] | None:
    """What the first braces make of a text; None where it has none."""
    for match in _BRACES.finditer(text):
        many = match[1].split(",") if "," in match[1] else _ranged(match[1])
        if many is not None and not text[: match.start()].endswith("$"):
            return [text[: match.start()] + m + text[match.end() :] for m in many]
    return None


def _ranged(text: str) -> list[str] | None:
    match = _RANGE.fullmatch(text)
    if match is None:
        return None
    if match[4]:
        a, b = ord(match[4]), ord(match[5])
        return [chr(c) for c in range(a, b + (1 if a <= b else -1), 1 if a <= b else -1)]
    first, last = int(match[1]), int(match[2])
    step = abs(int(match[3] or 1)) or 1
    width = max(len(match[1]), len(match[2]))
    zeros = any(re.match(r"-?0\d", m) for m in (match[1], match[2]))
    numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
    return [str(n).zfill(width) if zeros else str(n) for n in numbers]
