"""Assignments of a shell: variables, arrays, their entries, and what is declared of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from meshwise.launch.shell.builtins import too_long, unknown
from meshwise.launch.shell.expand import MAX_WORDS, Expander
from meshwise.launch.shell.syntax.statements import Assignment
from meshwise.launch.shell.syntax.words import Word
from meshwise.launch.shell.values.arithmetic import NotKnown, calculated
from meshwise.launch.shell.values.memory import (
    MAX_VALUE,
    ShellMemory,
    ShellValue,
    joined_texts,
    unfollowed,
)

_KEYED = re.compile(r"\[([^\]]*)\](\+?)=(.*)", re.DOTALL)


def assign(said: Assignment, expander: Expander) -> tuple[str, str]:
    """A variable set, or one of its entries; its name and its value as one text."""
    memory, name = expander.memory, said.name
    old = memory.get(name)
    inner = expander.given_to(name)
    if said.entries is not None:
        value = _array(said.entries, old, said.more, inner)
        memory.set(name, value)
        return name, " ".join(value.values() if isinstance(value, dict) else value)
    text: str = inner.text(said.value)
    if said.key is not None:
        return name, _entry(said, old, text, inner)
    if name in memory.integers:
        try:
            more = f"({old if isinstance(old, str) else 0})+" if said.more else ""
            text = str(calculated(f"{more}({text})", memory))
        except NotKnown:
            text = unfollowed(name, f"an assignment in line {said.line}")
    if said.more and name not in memory.integers:
        before = old[0] if isinstance(old, tuple) and old else old if isinstance(old, str) else ""
        if old is None:  # where its environment sets it, that stays before it
            before = ""
        text = joined_texts([(before, 0), (text, said.line)]) if before else text
    if len(text) > MAX_VALUE:
        raise too_long(f"{name} has more than {MAX_VALUE:,} characters")
    if isinstance(old, tuple) and old:  # a shell sets its first entry
        memory.set(name, (text, *old[1:]))
    else:
        memory.set(name, text)
    return name, text


def _array(
    entries: Sequence[Word], old: ShellValue | None, more: bool, expander: Expander
) -> tuple[str, ...] | dict[str, str]:
    keyed = [_key_of(w, expander) for w in entries]
    if any(k is not None for k in keyed) or (isinstance(old, dict) and (more or not entries)):
        table: dict[str, str] = {}
        if more and old is not None:
            table = dict(old) if isinstance(old, dict) else _table(old)
        elif isinstance(old, dict) and "" in old:
            table = {}
        for key, word in zip(keyed, entries, strict=True):
            if key is not None:
                table[key[0]] = key[1]
            else:
                for field in expander.fields(word):
                    table[str(len(table))] = field
        return _packed(table) if not isinstance(old, dict) else table
    value = tuple(f for w in entries for f in expander.fields(w))
    if more and old is not None:
        value = (*(old if isinstance(old, tuple) else (str(old),)), *value)
    if len(value) > MAX_WORDS:
        raise too_long(f"an array of more than {MAX_WORDS:,} entries")
    return value


def _key_of(word: Word, expander: Expander) -> tuple[str, str] | None:
    first = word.pieces[0]
    if first.kind != "text" or first.quote or not first.text.startswith("["):
        return None
    match = _KEYED.fullmatch(str(expander.text(word)))
    return (match[1].strip("\"'"), match[3]) if match is not None else None


def _table(old: ShellValue) -> dict[str, str]:
    if isinstance(old, dict):
        return dict(old)
    listed = old if isinstance(old, tuple) else (old,)
    return {str(i): v for i, v in enumerate(listed)}


def _packed(table: dict[str, str]) -> tuple[str, ...] | dict[str, str]:
    """An array without gaps as one."""
    if all(k.isdigit() for k in table):
        table = dict(sorted(table.items(), key=lambda kv: int(kv[0])))
        if list(table) == [str(i) for i in range(len(table))]:
            return tuple(table.values())
    return table


def _entry(said: Assignment, old: ShellValue | None, text: str, expander: Expander) -> str:
    """``A[0]=8``, ``CONFIG[tp]=8``."""
    assert said.key is not None
    memory, key = expander.memory, str(expander.text(said.key))
    associative = isinstance(old, dict) and not all(k.isdigit() for k in old)
    if not associative and said.name not in memory.tables:
        try:
            key = str(calculated(key, memory))
        except NotKnown:
            if not key.isidentifier() or old is not None:
                unknown(memory, said.name, f"an entry in line {said.line}")
                return text
    table = _table(old) if old is not None else {}
    table[key] = f"{table.get(key, '')}{text}" if said.more else text
    if len(table) > MAX_WORDS:
        raise too_long(f"an array of more than {MAX_WORDS:,} entries")
    memory.set(said.name, table if said.name in memory.tables else _packed(table))
    return text


def declare(words: list[str], names: list[str], memory: ShellMemory) -> None:
    """``declare -A``, ``-i``, ``-x`` and ``export`` before their assignments."""
    options = "".join(w[1:] for w in words[1:] if w.startswith("-"))
    for name in names:
        if "A" in options:
            memory.tables.add(name)
            if not isinstance(memory.get(name), dict):
                memory.set(name, {})
        if "i" in options:
            memory.integers.add(name)
        if words[0] == "export" or "x" in options:
            memory.exported.add(name)
