"""A shell's integers: what stands in ``$((…))``, ``((…))`` and ``let``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from meshwise.launch.shell.values.memory import ShellMemory

_TOKEN = re.compile(
    r"\s*(\d+#\w+|0[xX][0-9A-Fa-f]+|\d+|[A-Za-z_]\w*(?:\[[^\[\]]*\])?|\*\*|\+\+|--|<<=|>>=|<<|>>|"
    r"[-+*/%&|^<>=!]=|&&|\|\||[-+*/%&|^<>=!~?:,()])"
)
_BINARY: dict[str, int] = {
    "||": 2,
    "&&": 3,
    "|": 4,
    "^": 5,
    "&": 6,
    "==": 7,
    "!=": 7,
    "<": 8,
    ">": 8,
    "<=": 8,
    ">=": 8,
    "<<": 9,
    ">>": 9,
    "+": 10,
    "-": 10,
    "*": 11,
    "/": 11,
    "%": 11,
    "**": 12,
}
_ASSIGNS = ("=", "+=", "-=", "*=", "/=", "%=", "<<=", ">>=", "&=", "|=", "^=")
_MAX_LENGTH = 2_000
_MAX_DEPTH = 12  # of names that stand for expressions, and of brackets


class NotKnown(Exception):
    """A name in a calculation whose value is not known, or what is no calculation."""


def calculated(text: str, memory: ShellMemory, depth: int = 0) -> int:
    """Raises :class:`NotKnown` where the text does not say; assigns as a shell does."""
    if len(text) > _MAX_LENGTH or depth > _MAX_DEPTH or "$" in text:
        raise NotKnown(text[:40])
    tokens: list[str] = []
    at = 0
    text = text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise NotKnown(text[:40])
        tokens.append(match[1])
        at = match.end()
    if not tokens:
        return 0
    parser = _Parser(tokens, memory, depth)
    value = parser.sequence()
    if parser.at < len(tokens):
        raise NotKnown(text[:40])
    return value


def _wrapped(value: int) -> int:
    return ((value + (1 << 63)) & ((1 << 64) - 1)) - (1 << 63)


def _whole(a: int, b: int) -> int:
    if b == 0:
        raise NotKnown("division by zero")
    return abs(a) // abs(b) * (1 if (a >= 0) == (b >= 0) else -1)


def _power(a: int, b: int) -> int:
    if b < 0 or b > 64:
        raise NotKnown("power")
    return int(a**b)


_DO: dict[str, Callable[[int, int], int]] = {
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "&": lambda a, b: a & b,
    "==": lambda a, b: int(a == b),
    "!=": lambda a, b: int(a != b),
    "<": lambda a, b: int(a < b),
    ">": lambda a, b: int(a > b),
    "<=": lambda a, b: int(a <= b),
    ">=": lambda a, b: int(a >= b),
    "<<": lambda a, b: a << (b & 63),
    ">>": lambda a, b: a >> (b & 63),
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _whole,
    "%": lambda a, b: a - b * _whole(a, b),
    "**": _power,
}


class _Parser:
    """``live`` is false in the part of ``?:``, ``&&``, ``||`` that is not taken."""

    def __init__(self, tokens: list[str], memory: ShellMemory, depth: int) -> None:
        self.tokens, self.memory, self.depth = tokens, memory, depth
        self.at, self.live, self.inside = 0, True, 0

    def _next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def _take(self, token: str) -> bool:
        if self._next() != token:
            return False
        self.at += 1
        return True

    def sequence(self) -> int:
        self.inside += 1
        if self.inside > 40:
            raise NotKnown("brackets")
        value = self._assigned()
        while self._take(","):
            value = self._assigned()
        self.inside -= 1
        return value

    def _assigned(self) -> int:
        name = self._next()
        after = self.tokens[self.at + 1] if self.at + 1 < len(self.tokens) else ""
        if name.isidentifier() and after in _ASSIGNS:
            self.at += 2
            value = self._assigned()
            if after != "=":
                value = _wrapped(_DO[after[:-1]](self._named(name), value))
            return self._set(name, value)
        return self._chosen()

    def _set(self, name: str, value: int) -> int:
        if self.live:
            self.memory.set(name, str(value))
        return value

    def _chosen(self) -> int:
        condition = self._binary(2)
        if not self._take("?"):
            return condition
        live = self.live
        self.live = live and bool(condition)
        yes = self._assigned()
        if not self._take(":"):
            raise NotKnown("?")
        self.live = live and not condition
        no = self._assigned()
        self.live = live
        return yes if condition else no

    def _binary(self, least: int) -> int:
        left = self._unary()
        while _BINARY.get(self._next(), 0) >= least:
            operator = self._next()
            self.at += 1
            live = self.live
            if operator in ("&&", "||"):
                self.live = live and bool(left) == (operator == "&&")
                right = self._binary(_BINARY[operator] + 1)
                self.live = live
                left = int(bool(left and right) if operator == "&&" else bool(left or right))
                continue
            right = self._binary(_BINARY[operator] + (operator != "**"))
            if operator in ("/", "%") and right == 0 and not live:
                right = 1
            left = _wrapped(_DO[operator](left, right))
        return left

    def _unary(self) -> int:
        token = self._next()
        self.at += 1
        if token in ("++", "--") and self._next().isidentifier():
            name = self._next()
            self.at += 1
            return self._set(name, self._named(name) + (1 if token == "++" else -1))
        if token in ("-", "+", "!", "~", "++", "--"):
            self.inside += 1
            if self.inside > 40:
                raise NotKnown("brackets")
            value = self._unary()
            self.inside -= 1
            kinds = {"-": -value, "+": value, "!": int(not value), "~": ~value}
            return _wrapped(kinds.get(token, value))
        if token == "(":
            value = self.sequence()
            if not self._take(")"):
                raise NotKnown("(")
            return value
        if token[:1].isdigit():
            return _number(token)
        if not token or not (token[0].isalpha() or token[0] == "_"):
            raise NotKnown(token)
        value = self._named(token)
        if token.isidentifier() and self._next() in ("++", "--"):
            step = 1 if self._next() == "++" else -1
            self.at += 1
            self._set(token, value + step)
        return value

    def _named(self, name: str) -> int:
        if not self.live:
            return 1
        name, _, key = name.partition("[")
        value: Any = self.memory.get(name)
        if key and isinstance(value, tuple):
            at = calculated(key[:-1], self.memory, self.depth + 1)
            value = value[at] if -len(value) <= at < len(value) else None
        elif key and isinstance(value, dict):
            value = value.get(key[:-1])
        elif isinstance(value, tuple):
            value = value[0] if value else ""
        if not isinstance(value, str):
            raise NotKnown(name)
        return calculated(value, self.memory, self.depth + 1)


def _number(token: str) -> int:
    try:
        if "#" in token:
            base, _, digits = token.partition("#")
            return int(digits, int(base))
        if token[:2] in ("0x", "0X"):
            return int(token, 16)
        return int(token, 8) if token[0] == "0" else _wrapped(int(token))
    except ValueError:
        raise NotKnown(token) from None
