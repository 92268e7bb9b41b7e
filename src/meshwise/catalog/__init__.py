"""Data files, one per entry, each figure with its source. This module finds and opens them."""

from __future__ import annotations

import copy
import functools
import json
import re
from pathlib import Path
from typing import Any

from meshwise.errors import InputError, shorten, unknown_name

ROOT = Path(__file__).parent
SUFFIX = {"models": ".json", "evidence": ".json"}  # everything else is TOML
_INDEX = "index.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9._+-]{0,99}")
_PREFIX = re.compile(r"^(nvidia|amd-instinct|standard)-(?=.)")
_HEADER = re.compile(r"^(?=\[)", re.MULTILINE)
_MOST_DOTS = 200  # of a line: dotted keys are read in quadratic time


@functools.cache
def names(kind: str) -> tuple[str, ...]:
    """Canonical names of all entries of a kind (models, devices, fabrics, clusters, stacks)."""
    suffix = SUFFIX.get(kind, ".toml")
    found = (p.name.removesuffix(suffix) for p in (ROOT / kind).glob("*" + suffix))
    return tuple(sorted(n for n in found if n != "index"))


@functools.cache
def aliases(kind: str) -> dict[str, str]:
    """Other spellings → canonical name, from the kind's ``index.json``."""
    try:
        table: dict[str, str] = json.loads((ROOT / kind / _INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return table


@functools.cache
def canonical(kind: str, name: str) -> str | None:
    """The canonical name that ``name`` or one of its aliases stands for; None if there is none."""
    key = name.strip().lower().replace("_", "-").replace(" ", "-")
    if kind in ("devices", "clusters"):  # as drivers and clouds print them
        key = _PREFIX.sub("", key)
    if not _NAME.fullmatch(key):
        return None
    if (ROOT / kind / (key + SUFFIX.get(kind, ".toml"))).is_file() and key != "index":
        return key
    return aliases(kind).get(key)


def load(kind: str, name: str, field: str) -> tuple[str, dict[str, Any]]:
    """An entry's canonical name and table; :class:`~meshwise.errors.UnknownName` if there is none."""
    found = _known(kind, name, field)
    return found, copy.deepcopy(_table(kind, found))


@functools.cache
def section(kind: str, name: str, key: str, field: str) -> dict[str, Any]:
    """Of an entry's TOML file the tables under one first key (empty where there are none; "": what stands
    before all tables), without the others: a file of kernels takes 25 ms to read. Not to be changed."""
    found = _known(kind, name, field)
    table = toml(_texts(kind, found).get(key, ""), found)
    part: dict[str, Any] = table.get(key, {}) if key else table
    return part


def _known(kind: str, name: str, field: str) -> str:
    found = canonical(kind, name)
    if found is None:
        raise unknown_name(field, name, names(kind), kind.removesuffix("s"), aliases(kind))
    return found


@functools.cache
def _texts(kind: str, found: str) -> dict[str, str]:
    """The text of a TOML file by the first key of its headers."""
    text = (ROOT / kind / f"{found}.toml").read_text(encoding="utf-8")
    texts: dict[str, str] = {}
    for part in _HEADER.split(text):
        header = re.match(r"\[+([\w-]+)", part)
        key = header[1] if header else ""
        texts[key] = texts.get(key, "") + part
    return texts


@functools.cache
def _table(kind: str, found: str) -> dict[str, Any]:
    path = ROOT / kind / (found + SUFFIX.get(kind, ".toml"))
    text = path.read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text) if path.suffix == ".json" else toml(text, found)
    return table


def toml(
    text: str, where: str, example: str = "`meshwise catalog cluster dgx-a100 --toml`"
) -> dict[str, Any]:
    """A TOML document as a table; :class:`InputError` with line and column if it is not one, and the
    command that prints an ``example``."""
    import tomllib  # 13 ms: only where a TOML file is read

    try:
        if any(line.count(".") > _MOST_DOTS for line in text.splitlines()):
            raise RecursionError
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: bad syntax, or a number too long
        deep = isinstance(error, RecursionError)
        why = "nested too deeply" if deep else f"not a TOML document: {shorten(str(error))}"
        raise InputError(
            f"{shorten(where)}: {why}",
            field=shorten(where),
            legal=f"TOML, such as {example} prints",
        ) from None
