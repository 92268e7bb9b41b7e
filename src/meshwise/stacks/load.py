"""Stacks of the catalog, versions of them, and stacks of a user's own file.

A file has ``title``, ``like`` (the stack whose switches it takes, but for those that it states), a table
for each group of switches, ``[[version]]`` and ``[[variant]]`` with the switches that a release or a
variant has otherwise, and ``[source]`` by switch. It is checked whole when it is read.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from meshwise import catalog
from meshwise.checks import flag, name_of, not_a, text, texts
from meshwise.errors import InputError, closest, quoted, shorten
from meshwise.files import read_text_file
from meshwise.stacks import versions
from meshwise.stacks.stack import DEFAULT, FIELDS, Stack, as_own, kind_of
from meshwise.stacks.switches import GROUPS, HOME, switch_named
from meshwise.stacks.versions import Release

_MAX_FILE_BYTES = 1 << 20
_EXAMPLE = "`meshwise catalog stack vllm --toml`"
_TOP = (
    *("title", "like", "ideal", "named_in_tables", *GROUPS),
    *("newest", "version", "variant", "source"),
)
_OF_VERSION = ("from", "before", "title", "note", "source")
_OF_VARIANT = ("named", "title", "note", "source")


class Described(NamedTuple):
    """What a file, or a version in it, says of a stack: its own switches and those of ``like``."""

    name: str
    title: str
    software: str
    like: str | None
    ideal: bool
    switches: dict[str, Any]
    sources: dict[str, str]
    table: dict[str, Any]  # the file's


def load_stack(name: str | os.PathLike[str] | Stack, field: str = "stack") -> Stack:
    """A stack of the catalog by name, with a version or without; a TOML file by path; a
    :class:`Stack` as it is."""
    if isinstance(name, Stack):
        return name
    name = name_of(name, field, "a stack's name, the path of a TOML file, or a Stack")
    return _stack(described(name, field)) if _is_path(name) else _of_catalog(name, field)


@functools.cache
def _of_catalog(name: str, field: str) -> Stack:
    return _stack(described(name, field))


def _stack(d: Described) -> Stack:
    made = Stack(
        name=d.name,
        title=d.title,
        ideal=d.ideal,
        sources=d.sources,
        **d.switches,
    )
    return as_own(made, d.name, d.title, d.software)


def stack_in_table(software: str) -> Stack | None:
    """The stack that a table's name for a software stands for, under its catalog's name; None for an
    unknown software."""
    release = versions.in_table(software)
    if release is None:
        return None
    plain = load_stack(release.stack)
    return as_own(_stack(_released(release)), plain.name, plain.title, plain.software)


def commanded(software: str) -> str | None:
    """The catalog's stack that a command takes a table's name for a software as; None where it takes none."""
    try:
        release = versions.named(software, "stack")
    except InputError:  # the version is malformed
        return None
    return None if release is None else release.stack


def described(name: str, field: str = "stack") -> Described:
    """What the catalog or a file says of a stack."""
    return _described(name, field, ())


def is_known(name: str) -> bool:
    """Whether the catalog has a stack, or the software of a version, of that name."""
    if _is_path(name):
        return False
    try:
        return bool(catalog.canonical("stacks", name) or versions.named(name, "stack"))
    except InputError:  # not a version
        return False


def _is_path(name: str) -> bool:
    return name.endswith(".toml") or "/" in name or os.sep in name


def _described(name: str, field: str, chain: tuple[str, ...], folder: Path = Path()) -> Described:
    if _is_path(name):
        return _of_file(folder / Path(name).expanduser() if chain else Path(name), field, chain)
    known = catalog.canonical("stacks", name)
    if known is not None:
        return _of_table(known, known, f"stacks/{known}", _table(known), chain)
    release = versions.named(name, field)
    if release is None:
        catalog.load("stacks", name, field)  # refuses it with the nearest
        raise AssertionError(name)
    return _released(release, chain)


def _table(known: str) -> dict[str, Any]:
    return catalog.load("stacks", known, "stack")[1]


def _of_file(path: Path, field: str, chain: tuple[str, ...]) -> Described:
    where = str(path)
    content = read_text_file(where, field, "a stack's TOML file", _MAX_FILE_BYTES)
    table = catalog.toml(content, where, _EXAMPLE)
    own, key = path.name.removesuffix(".toml"), str(path.resolve())
    return _of_table(own, key, shorten(where), table, chain, path.parent)


def _of_table(
    name: str,
    key: str,
    where: str,
    table: dict[str, Any],
    chain: tuple[str, ...],
    folder: Path = Path(),
) -> Described:
    """A file's table with what it takes of the stack that it is like."""
    with _named(where):
        if key in chain:
            circle = " → ".join(Path(k).name for k in (*chain[chain.index(key) :], key))
            raise InputError(
                f"like: {circle} is a circle",
                field="like",
                legal="a stack that is not like this one",
            )
        check_table(table)
        base = _described(table["like"], "like", (*chain, key), folder) if "like" in table else None
    own = {k: v for group in GROUPS for k, v in table.get(group, {}).items()}
    sources = dict(table.get("source", {}))
    if base is not None:
        taken = {k: v for k, v in base.sources.items() if k in HOME and k not in own}
        sources = {k: f"as {base.name}: {v}" for k, v in taken.items()} | sources
    in_catalog = catalog.canonical("stacks", name) == key
    return Described(
        name,
        table.get("title", ""),
        name if in_catalog or base is None else base.software,
        base and base.name,
        table.get("ideal", base is not None and base.ideal),
        (base.switches if base else {}) | own,
        sources,
        table,
    )


def _released(release: Release, chain: tuple[str, ...] = ()) -> Described:
    """A version or a variant of a stack of the catalog."""
    known = release.stack
    plain = _of_table(known, known, f"stacks/{known}", _table(known), chain)
    switches, sources, title = dict(plain.switches), dict(plain.sources), plain.title
    for table in versions.applying(release, plain.table):
        changed = {k: v for k, v in table.items() if k in HOME}
        switches |= changed
        said = ": ".join(table[k] for k in ("note", "source") if k in table)
        sources |= dict.fromkeys(changed, said)
    variants = sorted(
        w for v in plain.table.get("variant", ()) for w in v["named"] if w in release.words
    )
    words = [word for word in (release.version, *variants) if word]
    if words:
        title = f"{title} {' '.join(words)}"
    for table in versions.applying(release, plain.table):
        title = table.get("title", title)
    name = "-".join((known, *words))
    return plain._replace(name=name, title=title, switches=switches, sources=sources)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Refusals that say in which file."""
    try:
        yield
    except InputError as error:
        if not error.message.startswith(where):
            error.message = f"{where}: {error.message}"
            error.args = (error.message,)
        raise


def check_table(table: dict[str, Any]) -> None:
    """Refuse a stack's file for a key that is not known or a value that is not legal."""
    for key, value in table.items():
        if key in GROUPS:
            _check_switches(_a_table(value, key, f"[{key}]"), key, (), key)
        elif key == "source":
            for k in _a_table(texts(value, key), key, "[source]"):
                if k not in (*FIELDS, "note", "all", "newest"):
                    raise _unknown(k, key, FIELDS)
        elif key in ("version", "variant"):
            _check_releases(value, key)
        elif key == "named_in_tables":
            _check_names(value, key)
        elif key == "ideal":
            flag(value, key)
        elif key == "newest":
            versions.numbers_of(value, key)
        elif key in _TOP:
            text(value, key)
        else:
            raise _unknown(key, "", _TOP)


def _check_switches(table: dict[str, Any], group: str, others: tuple[str, ...], where: str) -> None:
    """Every key a switch (of the group, if one is named), every value legal."""
    for key, value in table.items():
        if key in others:
            continue
        if key not in HOME or (group and HOME[key] != group):
            legal = GROUPS[group].__struct_fields__ if group else (*others, *HOME)
            raise _unknown(key, where, legal)
        switch_named(key).rule(value, f"{where}.{key}")


def _check_releases(value: object, kind: str) -> None:
    if not isinstance(value, list):
        raise not_a("a list of tables", kind, value, f"[[{kind}]] tables")
    known = _OF_VERSION if kind == "version" else _OF_VARIANT
    for i, entry in enumerate(value):
        where = f"{kind}[{i}]"
        table = _a_table(entry, where, f"[[{kind}]]")
        for key in {"title", "note", "source"} & table.keys():
            text(table[key], f"{where}.{key}")
        for key in {"from", "before"} & table.keys() & set(known):
            versions.numbers_of(table[key], f"{where}.{key}")
        if not {"from", "before", "named"} & table.keys():
            needed = "from or before" if kind == "version" else "named"
            raise InputError(
                f"{where}: missing: {needed}", field=where, legal=f'{needed.split()[0]} = "0.14"'
            )
        if "named" in table and kind == "variant":
            _check_names(table["named"], f"{where}.named")
        _check_switches(table, "", known, where)


def _check_names(value: object, field: str) -> None:
    if not isinstance(value, list) or not value:
        raise not_a("a list of names", field, value, '["name"]')
    for name in value:
        text(name, field)


def _a_table(value: object, field: str, legal: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise not_a("a table", field, value, legal)
    return value


def _unknown(key: str, where: str, legal: tuple[str, ...]) -> InputError:
    """A key that is not known there; a switch that stands elsewhere is told where."""
    field = f"{where}.{shorten(key)}" if where else shorten(key)
    home = HOME.get(key)
    if home is not None:
        said = f"a switch of [{home}]"
        return InputError(
            f"{field}: {key} is {said}",
            field=field,
            legal=f"[{home}] {key}",
            nearest=f"[{home}] {key}",
        )
    close = next(iter(closest(key, legal)), None)
    if not where:  # a switch outside its group, misspelt
        close = next(iter(closest(key, (*legal, *HOME))), None)
        close = f"[{HOME[close]}] {close}" if close in HOME else close
    return InputError(
        f"{field}: unknown key {quoted(key)}", field=field, legal=legal, nearest=close
    )


def must_run_models(stack: Stack, phase: str) -> None:
    """Refuse a stack of collectives alone."""
    if stack.can.runs != ("collectives",):
        return
    tables = {name: load_stack(name) for name in catalog.names("stacks")}
    legal = ", ".join(name for name, s in tables.items() if kind_of(phase) in s.can.runs)
    raise InputError(
        f"stack={stack.name} runs no model: collectives alone",
        field="stack",
        value=stack.name,
        legal=f"{legal}; or `meshwise collective`",
        nearest=DEFAULT[phase],
    )
