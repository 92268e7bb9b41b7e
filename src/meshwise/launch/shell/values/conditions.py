"""Whether a condition holds: ``[ … ]``, ``[[ … ]]``, ``test``; None where the text does not say."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from meshwise.launch.shell.expand import Expander
from meshwise.launch.shell.syntax.statements import Test
from meshwise.launch.shell.syntax.words import Word
from meshwise.launch.shell.values.arithmetic import NotKnown, calculated
from meshwise.launch.shell.values.memory import file_name
from meshwise.launch.shell.values.parameters import glob_pattern, is_followed, text_pattern

_NUMBERS = ("-eq", "-ne", "-lt", "-le", "-gt", "-ge")
_TEXTS = ("=", "==", "!=", "<", ">", "=~", "-ef", "-nt", "-ot")
_UNARY = re.compile(r"-[a-hknoprstuvwxzGLNORS]")
_SURE = re.compile(r"\$\{[^{}]*\}|\$\w+|\$\([^()]*\)|\$[@*#?!$-]")


class _Part(NamedTuple):
    """A word of a condition: what it comes to, and whether it may be an operator."""

    text: str
    word: Word | None
    plain: bool


def holds(test: Test, expander: Expander) -> bool | None:
    if test.double:
        return _Double([_part(w, expander) for w in test.words], expander).whole()
    return tested([f for w in test.words for f in expander.fields(w)], expander)


def tested(words: list[str], expander: Expander) -> bool | None:
    """``test`` and ``[``, by the number of their words."""
    parts = [_Part(str(w), None, True) for w in words]
    if not parts:
        return False
    if len(parts) == 1:
        return _nonempty(parts[0].text)
    if len(parts) == 3 and parts[1].text in (*_NUMBERS, *_TEXTS):
        return _compared(parts[0], parts[1].text, parts[2], expander)
    return _Double(parts, expander, ("-a", "-o")).whole()


def _part(word: Word, expander: Expander) -> _Part:
    plain = all(p.kind == "text" and not p.quote for p in word.pieces)
    return _Part(str(expander.text(word)), word, plain)


def _nonempty(text: str) -> bool | None:
    """A text that is not known may be empty, but not one with known parts."""
    return bool(text) if is_followed(text) else _SURE.sub("", text) != "" or None


class _Double:
    """A condition with its operators, the loosest first."""

    def __init__(
        self, parts: list[_Part], expander: Expander, joins: tuple[str, str] = ("&&", "||")
    ) -> None:
        self.parts, self.expander, self.at, self.depth = parts, expander, 0, 0
        self.and_, self.or_ = joins

    def whole(self) -> bool | None:
        value = self._either()
        return value if self.at >= len(self.parts) else None

    def _is(self, *texts: str) -> bool:
        if self.at >= len(self.parts):
            return False
        part = self.parts[self.at]
        return part.plain and part.text in texts

    def _either(self) -> bool | None:
        return self._joined(self.or_, self._all, True)

    def _all(self) -> bool | None:
        return self._joined(self.and_, self._one, False)

    def _joined(self, operator: str, part: Callable[[], bool | None], decides: bool) -> bool | None:
        """Parts joined by an operator: one that ``decides`` does, whatever is not known of the others."""
        values = [part()]
        while self._is(operator):
            self.at += 1
            values.append(part())
        if decides in values:
            return decides
        return None if None in values else not decides

    def _one(self) -> bool | None:
        self.depth += 1
        if self.depth > 60 or self.at >= len(self.parts):
            self.at = len(self.parts) + 1
            return None
        parts, at = self.parts, self.at
        after = parts[at + 1].text if at + 1 < len(parts) else ""
        compares = at + 2 < len(parts) and after in (*_NUMBERS, *_TEXTS)
        if self._is("!") and not compares:
            self.at += 1
            value = self._one()
            return None if value is None else not value
        if self._is("(") and not compares:
            self.at += 1
            value = self._either()
            if not self._is(")"):
                self.at = len(parts) + 1
            self.at += 1
            return value
        if compares:
            self.at += 3
            return _compared(parts[at], after, parts[at + 2], self.expander)
        if parts[at].plain and _UNARY.fullmatch(parts[at].text) and at + 1 < len(parts):
            self.at += 2
            return _one_word(parts[at].text, after, self.expander)
        self.at += 1
        return _nonempty(parts[at].text)


def _one_word(operator: str, text: str, expander: Expander) -> bool | None:
    if operator in ("-n", "-z"):
        value = _nonempty(text)
        return None if value is None else value == (operator == "-n")
    if operator == "-v":
        return True if expander.memory.get(text) is not None else None
    if operator in ("-f", "-e", "-s", "-r"):
        return True if file_name(text) in expander.files else None
    return None


def _compared(left: _Part, operator: str, right: _Part, expander: Expander) -> bool | None:
    a, b = left.text, right.text
    if operator in _NUMBERS:
        return _numbers(a, operator, b, expander, left.word is not None)
    if not is_followed(a) or operator in ("-ef", "-nt", "-ot"):
        return None
    if operator == "=~":
        return _matched(a, right, expander)
    if right.word is not None and operator in ("=", "==", "!="):
        pattern = glob_pattern(right.word.pieces, expander)
        if pattern is None:
            return None
        return bool(re.fullmatch(pattern, a, re.DOTALL)) == (operator != "!=")
    if not is_followed(b):
        return None
    if operator in ("<", ">"):
        return a < b if operator == "<" else a > b
    return (a == b) == (operator != "!=")


def _numbers(a: str, operator: str, b: str, expander: Expander, calculates: bool) -> bool | None:
    try:
        if not calculates and not all(re.fullmatch(r"\s*[-+]?\d+\s*", t) for t in (a, b)):
            return None
        left, right = (calculated(t, expander.memory) if calculates else int(t) for t in (a, b))
    except NotKnown:
        return None
    compared = {
        "-eq": left == right,
        "-ne": left != right,
        "-gt": left > right,
        "-lt": left < right,
        "-ge": left >= right,
        "-le": left <= right,
    }
    return compared[operator]


def _matched(text: str, right: _Part, expander: Expander) -> bool | None:
    """``=~``: what is quoted in the expression stands for itself."""
    found: list[str] = []
    for piece in right.word.pieces if right.word is not None else ():
        part = str(expander.text((piece,)))
        if piece.kind != "text" and not is_followed(part):
            return None
        found.append(re.escape(part) if piece.quote else part)
    pattern = re.sub(r"\[:(\w+):\]", lambda m: text_pattern(f"[[:{m[1]}:]]")[1:-1], "".join(found))
    expander.memory.unset("BASH_REMATCH")
    try:
        match = re.search(pattern, text)
    except re.error:
        return None
    if match is not None and "|" not in pattern:
        expander.memory.set("BASH_REMATCH", (match[0], *(g or "" for g in match.groups())))
    return match is not None


def case_matches(text: str, patterns: tuple[Word, ...], expander: Expander) -> bool | None:
    """Whether one of a case's patterns fits."""
    value: bool | None = False
    for word in patterns:
        pattern = glob_pattern(word.pieces, expander)
        if pattern == ".*":
            return True
        if pattern is None or not is_followed(text):
            value = None
        elif re.fullmatch(pattern, text, re.DOTALL):
            return True if value is False else None
    return value
