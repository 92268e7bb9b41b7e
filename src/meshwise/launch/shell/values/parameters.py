"""``${…}``: what its operator makes of a variable."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from meshwise.launch.shell.syntax.words import Parameter, Pieces, Word
from meshwise.launch.shell.values.arithmetic import NotKnown, calculated

if TYPE_CHECKING:
    from meshwise.launch.shell.expand import Expander

Entries = tuple[str, ...]
_MAX_TRIMMED = 20_000
_UNKNOWN = re.compile(r"\$\{[^{}]*\}|\$\w+|\$[@*#?$!-]|\$\([^()]*\)")


def is_followed(text: str) -> bool:
    return "$" not in text


def parameter(said: Parameter, expander: Expander) -> Entries | None:
    """The entries that it stands for; None where it is not known."""
    index = _index(said.key, expander)
    if index is not None and not is_followed(index):
        return None
    if said.prefix == "!":
        return _indirect(said, index, expander)
    value = _entries(said.name, index, expander)
    if said.prefix == "#":
        return _length(said.name, index, value, expander)
    operator = said.operator
    if not operator:
        return value
    if operator[-1] in "-=?+":
        return _or_else(said, value, index, expander)
    if value is None or not all(map(is_followed, value)):
        return None
    return _changed(said, value, index, expander)


def _changed(
    said: Parameter, value: Entries, index: str | None, expander: Expander
) -> Entries | None:
    operator = said.operator
    if operator == ":":
        return _part(said, value, index, expander)
    if operator[0] == "@" or any(len(v) > _MAX_TRIMMED for v in value):
        return None
    if operator[0] in "^,":
        return _cased(value, operator) if not said.operands[0] else None
    pattern = glob_pattern(said.operands[0], expander)
    if pattern is None:
        return None
    if operator[0] in "#%":
        return tuple(_trimmed(v, operator, pattern) for v in value)
    by = str(expander.text(said.operands[1]))
    if not is_followed(by) or "&" in by or not pattern:
        return None if pattern else value
    return tuple(_replaced(v, operator, pattern, by) for v in value)


def _index(word: Word | None, expander: Expander) -> str | None:
    return None if word is None else str(expander.text(word)).strip()


def _entries(name: str, index: str | None, expander: Expander) -> Entries | None:
    if index is None or name in ("@", "*"):
        return expander.value(name)
    value = expander.memory.get(name)
    if value is None or isinstance(value, str):
        plain = expander.value(name)
        return plain if index in ("@", "*", "0") or plain is None else ()
    if isinstance(value, dict):
        if index in ("@", "*"):
            return tuple(value.values()) if _ordered(name, value, expander) else None
        return (value[index],) if index in value else ()
    if index in ("@", "*"):
        return value
    try:
        at = calculated(index, expander.memory)
    except NotKnown:
        return None
    return (value[at],) if -len(value) <= at < len(value) else ()


def _ordered(name: str, value: dict[str, str], expander: Expander) -> bool:
    """Whether the order of a table's entries is known: that of numbers is, that of keys a shell's own."""
    return len(value) < 2 or name not in expander.memory.tables


def _indirect(said: Parameter, index: str | None, expander: Expander) -> Entries | None:
    if said.operator:
        return None
    if index in ("@", "*"):
        value = expander.memory.get(said.name)
        if isinstance(value, dict):
            return tuple(value) if _ordered(said.name, value, expander) else None
        return None if not isinstance(value, tuple) else tuple(map(str, range(len(value))))
    named = _entries(said.name, index, expander)
    if not named or not is_followed(named[0]):
        return None
    return expander.value(named[0]) if named[0].isidentifier() else None


def _length(
    name: str, index: str | None, value: Entries | None, expander: Expander
) -> Entries | None:
    if index in ("@", "*") or name in ("@", "*"):
        held = expander.memory.get(name)
        many = len(held) if isinstance(held, dict) else None if value is None else len(value)
        return None if many is None else (str(many),)
    if value is None or not all(map(is_followed, value)):
        return None
    return (str(len("".join(value))),)


def chosen_operand(said: Parameter, expander: Expander) -> Pieces | None:
    """The word of ``:-`` or ``:+`` where that is what it stands for, with its own quotes."""
    operator = said.operator
    if operator[-1:] not in ("-", "+") or said.prefix:
        return None
    index = _index(said.key, expander)
    if index is not None and not is_followed(index):
        return None
    empty, perhaps = _emptiness(operator, _entries(said.name, index, expander))
    if operator[-1] == "+":
        return None if empty or perhaps else said.operands[0]
    return said.operands[0] if empty else None


def _emptiness(operator: str, value: Entries | None) -> tuple[bool, bool]:
    """(whether a value counts as none, whether it may: what does not follow from the text may be
    empty)."""
    text = "" if value is None else " ".join(value)
    empty = not value if operator[0] != ":" else not text
    return empty, bool(text) and not _UNKNOWN.sub("", text).strip() and operator[0] == ":"


def _or_else(
    said: Parameter, value: Entries | None, index: str | None, expander: Expander
) -> Entries | None:
    """``:-``, ``:=``, ``:?``, ``:+`` and those without a colon."""
    operator = said.operator
    empty, perhaps = _emptiness(operator, value)
    if operator[-1] == "+":
        if perhaps:
            return None
        return () if empty else _default(said, expander)
    if not empty or operator[-1] == "?":
        return value if value != () else None
    default = _default(said, expander)
    if operator[-1] == "=" and index is None and said.name.isidentifier():
        expander.memory.set(said.name, " ".join(default))
    return default


def _default(said: Parameter, expander: Expander) -> Entries:
    return (expander.text(said.operands[0]),)


def _part(said: Parameter, value: Entries, index: str | None, expander: Expander) -> Entries | None:
    try:
        numbers = [calculated(str(expander.text(o)), expander.memory) for o in said.operands[:2]]
    except NotKnown:
        return None
    first, size = numbers[0], numbers[1] if len(numbers) > 1 else None
    if said.name in ("@", "*"):
        if first <= 0:
            return None
        value = ("", *value)
    if index in ("@", "*") or said.name in ("@", "*"):
        if first < 0:
            first += len(value)
        rest = value[first:] if first >= 0 else ()
        return rest if size is None else rest[:size] if size >= 0 else None
    text = value[0] if value else ""
    if first < 0:
        first += len(text)
        if first < 0:
            return ("",)
    if size is None:
        return (text[first:],)
    last = first + size if size >= 0 else len(text) + size
    return (text[first:last],) if last >= first else None


def _cased(value: Entries, operator: str) -> Entries:
    done = []
    for text in value:
        change = str.upper if operator[0] == "^" else str.lower
        done.append(change(text) if len(operator) == 2 else change(text[:1]) + text[1:])
    return tuple(done)


def _trimmed(text: str, operator: str, pattern: str) -> str:
    compiled = re.compile(pattern, re.DOTALL)
    longest = len(operator) == 2
    if operator[0] == "#":
        cuts = range(len(text), -1, -1) if longest else range(len(text) + 1)
        return next((text[c:] for c in cuts if compiled.fullmatch(text, 0, c)), text)
    cuts = range(len(text) + 1) if longest else range(len(text), -1, -1)
    return next((text[:c] for c in cuts if compiled.fullmatch(text, c)), text)


def _replaced(text: str, operator: str, pattern: str, by: str) -> str:
    if operator == "/#":
        match = re.compile(pattern, re.DOTALL).match(text)
        return by + text[match.end() :] if match else text
    if operator == "/%":
        found = re.compile(f"(?:{pattern})\\Z", re.DOTALL).search(text)
        return text[: found.start()] + by if found else text
    return re.sub(
        pattern, lambda m: by if m[0] else m[0], text, count=operator == "/", flags=re.DOTALL
    )


def glob_pattern(pieces: Pieces, expander: Expander) -> str | None:
    """A shell's pattern as a regular expression: what is quoted stands for itself."""
    found: list[str] = []
    for piece in pieces:
        text = str(expander.text((piece,)))
        if piece.kind != "text" and not is_followed(text):
            return None
        found.append(re.escape(text) if piece.quote else text_pattern(text))
    return "".join(found)


def text_pattern(text: str) -> str:
    found: list[str] = []
    at = 0
    while at < len(text):
        c = text[at]
        at += 1
        if c == "*":
            found.append(".*")
        elif c == "?":
            found.append(".")
        elif c == "[":
            inner = re.compile(r"\[([!^]?)(\]?(?:\[:\w+:\]|[^\]])*)\]").match(text, at - 1)
            if inner is None:
                found.append(r"\[")
                continue
            at = inner.end()
            found.append(f"[{'^' if inner[1] else ''}{_classes(inner[2])}]")
        else:
            found.append(re.escape(c))
    return "".join(found)


_CLASSES = {
    "digit": "0-9",
    "alpha": "A-Za-z",
    "alnum": "0-9A-Za-z",
    "space": r"\s",
    "blank": r" \t",
    "upper": "A-Z",
    "lower": "a-z",
    "xdigit": "0-9A-Fa-f",
    "punct": r"!-/:-@\[-`{-~",
}


def _classes(text: str) -> str:
    text = text.replace("\\", "\\\\").replace("[", r"\[").replace("]", r"\]")
    return re.sub(r"\\\[:(\w+):\\\]", lambda m: _CLASSES.get(m[1], m[0]), text)
