"""Patterns of module names, as checkpoints write them: names, globs, and regular expressions.

They come from files. A pattern is compiled to an automaton whose states are followed side by side, so that
no file can make the reading slow (Thompson, CACM 11(6), 1968); what that cannot do is refused.
"""

from __future__ import annotations

import re
from typing import Any

from meshwise.errors import InputError, quoted

_MOST_STATES = 5_000
_MOST_REPEATS = 64
_END = "\x03"  # after the last character of a name
_CLASSES = {
    "d": "0123456789",
    "w": "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_",
}
_SPECIAL = frozenset("()[]|^$+{}\\")

Node = tuple[
    Any, ...
]  # ("set", characters, whether all others), ("cat" | "alt", nodes), ("rep", …)


class _Unread(Exception):
    """A part of a regular expression that is not read."""


class _Parser:
    """A regular expression as a tree; lookaheads only where it begins."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def _next(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""

    def _takes(self, piece: str) -> bool:
        if self.text.startswith(piece, self.at):
            self.at += len(piece)
            return True
        return False

    def whole(self) -> tuple[bool, list[tuple[bool, Node]], Node]:
        """(whether it is held to the beginning, (wanted, lookahead) …, the rest)."""
        anchored = self._takes("^")
        looks = []
        while self.text.startswith(("(?!", "(?="), self.at):
            wanted = self.text[self.at + 2] == "="
            self.at += 3
            looks.append((wanted, self._alternatives()))
            if not self._takes(")"):
                raise _Unread
        tree = self._alternatives()
        if self.at < len(self.text):
            raise _Unread
        return anchored, looks, tree

    def _alternatives(self) -> Node:
        ways = [self._sequence()]
        while self._takes("|"):
            ways.append(self._sequence())
        return ways[0] if len(ways) == 1 else ("alt", ways)

    def _sequence(self) -> Node:
        self._takes("^")  # of one alternative
        found: list[Node] = []
        while self._next() not in ("", "|", ")"):
            found.append(self._repeated(self._atom()))
        return ("cat", found)

    def _atom(self) -> Node:
        c = self._next()
        self.at += 1
        if c == "(":
            if self._next() == "?" and not self._takes("?:"):
                raise _Unread
            inside = self._alternatives()
            if not self._takes(")"):
                raise _Unread
            return inside
        if c == "[":
            return self._set()
        if c == "\\":
            return self._escaped()
        if c == "$":
            return ("set", frozenset(_END), False)
        if c in "*+?{^":
            raise _Unread
        return ("set", frozenset(_END), True) if c == "." else ("set", frozenset(c), False)

    def _escaped(self) -> Node:
        c = self._next()
        self.at += 1
        if c.lower() in _CLASSES:
            named = frozenset(_CLASSES[c.lower()])
            return ("set", named, False) if c.islower() else ("set", named | {_END}, True)
        if not c or c.isalnum():
            raise _Unread
        return ("set", frozenset(c), False)

    def _set(self) -> Node:
        others, found = self._takes("^"), set[str]()
        while not self._takes("]") or not found:
            c = self._next()
            if not c:
                raise _Unread
            self.at += 1
            if c == "\\":
                found |= self._escaped()[1]
            elif self._next() == "-" and self.text[self.at + 1 : self.at + 2] not in ("", "]"):
                last = self.text[self.at + 1]
                self.at += 2
                found |= {chr(i) for i in range(ord(c), min(ord(last), ord(c) + 200) + 1)}
            else:
                found.add(c)
        return ("set", frozenset(found | ({_END} if others else set())), others)

    def _repeated(self, atom: Node) -> Node:
        while self._next() in ("*", "+", "?", "{"):
            c = self._next()
            self.at += 1
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(c, (0, 0))
            if c == "{":
                found = re.match(r"(\d{1,3})(,(\d{0,3}))?\}", self.text[self.at :])
                if not found:
                    raise _Unread
                self.at += found.end()
                low = int(found[1])
                high = low if found[2] is None else int(found[3]) if found[3] else None
            if max(low, high or 0) > _MOST_REPEATS:
                raise _Unread
            self._takes("?")  # the shortest match is a match as well
            atom = ("rep", atom, low, high)
        return atom


class _Automaton:
    """Which names begin as a tree says; the sets of states met so far are kept."""

    def __init__(self, tree: Node) -> None:
        self._free: list[list[int]] = []  # steps that read nothing
        self._read: list[tuple[frozenset[str], bool, int] | None] = []
        start, self._last = self._build(tree)
        # sets of states that were met, each once: what is in it, and by character which one is next
        self._sets: list[frozenset[int]] = []
        self._places: dict[frozenset[int], int] = {}
        self._next: list[dict[str, int]] = []
        self._ends: list[bool] = []
        self._place(self._closed({start}))

    def _place(self, states: frozenset[int]) -> int:
        found = self._places.get(states)
        if found is None:
            found = self._places[states] = len(self._sets)
            self._sets.append(states)
            self._next.append({})
            self._ends.append(self._last in states)
        return found

    def _step(self, place: int, c: str) -> int:
        read = (self._read[s] for s in self._sets[place])
        then = {r[2] for r in read if r is not None and (c in r[0]) != r[1]}
        found = self._next[place][c] = self._place(self._closed(then))
        return found

    def _state(self) -> int:
        if len(self._free) >= _MOST_STATES:
            raise _Unread
        self._free.append([])
        self._read.append(None)
        return len(self._free) - 1

    def _build(self, node: Node) -> tuple[int, int]:
        kind = node[0]
        if kind == "set":
            start, end = self._state(), self._state()
            self._read[start] = (node[1], node[2], end)
            return start, end
        if kind == "cat":
            start = end = self._state()
            for part in node[1]:
                begun, ended = self._build(part)
                self._free[end].append(begun)
                end = ended
            return start, end
        start, end = self._state(), self._state()
        if kind == "alt":
            for part in node[1]:
                begun, ended = self._build(part)
                self._free[start].append(begun)
                self._free[ended].append(end)
            return start, end
        _, inner, low, high = node
        at = start
        for i in range(max(low, high or 0, 1)):
            begun, ended = self._build(inner)
            self._free[at].append(begun)
            if i >= low:
                self._free[at].append(end)
            at = ended
            if high is None and i + 1 >= low:
                self._free[ended].append(begun)
        self._free[at].append(end)
        return start, end

    def _closed(self, states: set[int]) -> frozenset[int]:
        todo, found = list(states), set(states)
        while todo:
            for other in self._free[todo.pop()]:
                if other not in found:
                    found.add(other)
                    todo.append(other)
        return frozenset(found)

    def begins(self, name: str) -> bool:
        """Whether the name, or a beginning of it, is as the tree says."""
        place = 0
        for c in name + _END:
            if self._ends[place]:
                return True
            then = self._next[place].get(c)
            place = self._step(place, c) if then is None else then
        return self._ends[place]


class Pattern:
    """What a name, a glob or a regular expression means; names begin with ``model.layers.`` or are an end's.

    ``layer`` is the one layer that it names, ``None`` where it says none; ``every`` whether what it says
    is the same for all layers. ``alone``: a plain name is that of one module, not of those inside it.
    """

    def __init__(self, text: str, field: str, *, alone: bool = False) -> None:
        regular = text.startswith("re:") or (text[:1] != "*" and bool(_SPECIAL & set(text)))
        regular = regular or text.startswith(".*")
        named = _from_the_root(text.removeprefix("re:"), regular)
        self.text, self.alone = text, alone
        found = re.match(r"\^?model\\?\.layers\\?\.(\d{1,5})(?![\d])", named)
        self.layer = (
            int(found[1]) if found and (not regular or _literal_after(named, found)) else None
        )
        self.literal = None if regular or "*" in named or "?" in named else _one_expert(named)
        # a name with one star behind it, as ModelOpt lists thousands of them
        plain = not regular and named.endswith("*") and not set("*?") & set(named[:-1])
        self._beginning = "." + named[:-1].removeprefix(".") if plain else None
        self._looks: list[tuple[bool, _Automaton]] = []
        if self.literal is None and not plain:
            self._compile(named, regular, text, field)
        # digits say that layers differ, but for those that a class of any digits stands for
        rest = re.sub(r"\\d|\[0-9\]|\{[\d,]*\}", "", named)
        self.every = self.layer is None and not re.search(r"(?<![A-Za-z_])\d|\[", rest)

    def _compile(self, named: str, regular: bool, text: str, field: str) -> None:
        source = named if regular else _glob(named)
        try:
            begins, looks, tree = _Parser(source).whole()
            # what may begin with anything needs no other beginning
            self._anchored = begins or source.startswith(".*")
            self._looks = [(wanted, _Automaton(tree_)) for wanted, tree_ in looks]
            self._rest = _Automaton(tree)
        except (_Unread, RecursionError):
            raise InputError(
                f"{field}: the pattern {quoted(text)} is not read",
                field=field,
                value=text,
                legal="names of modules, globs, or regular expressions without back references and "
                "with lookaheads at their beginning",
            ) from None

    def meets(self, name: str) -> bool:
        """Whether it means the module of this full name, or one around it."""
        if self.literal is not None:
            if self.alone:
                return f".{name}".endswith(f".{self.literal}")
            return f".{self.literal}." in f".{name}."
        if self._beginning is not None:
            return self._beginning in f".{name}"
        if self._anchored or self._looks:
            return self._from(name)
        at = 0
        while at >= 0:
            if self._from(name[at:]):
                return True
            at = name.find(".", at) + 1 or -1
        return False

    def _from(self, name: str) -> bool:
        if any(look.begins(name) != wanted for wanted, look in self._looks):
            return False
        return self._rest.begins(name)


def _literal_after(named: str, found: re.Match[str]) -> bool:
    """Whether a layer's number in a regular expression is followed by a dot or the end."""
    return named[found.end() : found.end() + 1] in ("", ".", "\\", "$")


# What stands before the layers of a language model, in wrappers and by publisher; and the layers.
_ROOT = re.compile(
    r"(\^?)(?:(?:model|language_model|text_model|backbone|transformer|decoder|gpt_neox|llm|lm|thinker)\\?\.)*"
    r"(?:layers|h|blocks)(\\?\.)(?=.)"
)


def _from_the_root(text: str, regular: bool) -> str:
    """With ``model.layers.`` for whatever the layers are called, and one expert for any of them."""
    dot = "\\." if regular else "."
    named = (
        _ROOT.sub(lambda m: f"{m[1]}model{dot}layers{m[2]}", text, count=1)
        if _ROOT.match(text)
        else text
    )
    named = re.sub(r"^(\^?)(?:(?:model|language_model|text_model)\\?\.)+(?!layers)", r"\1", named)
    return re.sub(r"(experts\\?\.)\d+(?=\\?\.|$)", r"\g<1>0", named)


def _one_expert(named: str) -> str:
    return named.strip(".")


def _glob(named: str) -> str:
    """A glob as a regular expression; what it names may be a module around others."""
    pieces = {"*": ".*", "?": "."}
    ends = "" if named.endswith("*") else "(\\.|$)"
    return (
        "".join(pieces.get(c) or ("\\" + c if not c.isalnum() and c != "_" else c) for c in named)
        + ends
    )
