"""Names of stacks with a version, and what a version or a variant of a software does otherwise.

``vllm-0.13``, ``vllm@0.13`` and ``torchtitan-2024-08`` are a name of a stack and a version; tables of
measurements have further words behind it and names of their own (``named_in_tables`` of a stack's file).
The longest known name goes first: ``megatron-2021`` is a stack, not a Megatron of version 2021.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from meshwise import catalog
from meshwise.errors import InputError, quoted

Numbers = tuple[int, ...]
_NUMBER = r"v?(\d+(?:\.\d+)*)(?:-(\d\d)(?!\d))?"  # 0.14.1, 2024-08
_WHOLE = re.compile(rf"{_NUMBER}(?:[.-]?(?:rc|post|dev|alpha|beta|a|b)\.?\d*)*")
_START = re.compile(_NUMBER)
_NEVER = (10**9,)
_YEARS, _MONTHS = range(2000, 2100), 12
_DAY = re.compile(r"2\d[01]\d[0-3]\d")  # 240405
_ENDS = "-@/+ ("  # what may follow a name
LEGAL = 'numbers with dots between them, such as "0.14", or a month, such as "2024-08"'


class Release(NamedTuple):
    """A name's stack of the catalog, its version (empty: none), and the words of the name."""

    stack: str
    version: str
    words: frozenset[str]


def _numbers(found: re.Match[str]) -> Numbers:
    digits, month = found.groups()
    if _DAY.fullmatch(digits):
        digits = f"20{digits[:2]}.{digits[2:4]}.{digits[4:]}"
    return tuple(int(n) for n in digits.split(".")) + ((int(month),) if month else ())


def numbers_of(version: object, field: str) -> Numbers:
    """A version's numbers, which order versions; :class:`InputError` where it is malformed."""
    found = _WHOLE.fullmatch(version) if isinstance(version, str) and len(version) < 60 else None
    if found is None:
        raise InputError(
            f"{field}: {quoted(version)} is not a version", field=field, value=version, legal=LEGAL
        )
    return _numbers(found)


@functools.cache
def _names(in_tables: bool) -> dict[str, str]:
    """Names that may have a version behind them → stack; in tables their own names go first."""
    tables = {
        name: stack
        for stack in catalog.names("stacks")
        # one of the keys before all tables: no need to read those of 30 files
        for name in catalog.section("stacks", stack, "", "stack").get("named_in_tables", ())
    }
    own = dict(catalog.aliases("stacks"))
    both = {**own, **tables} if in_tables else {**tables, **own}
    return both | {name: name for name in catalog.names("stacks")}


def _beginning(text: str, in_tables: bool) -> list[str]:
    """The known names that a text begins with, the longest first."""
    fitting = [
        name
        for name in _names(in_tables)
        if text.startswith(name) and text[len(name) : len(name) + 1] in ("", *_ENDS)
    ]
    return sorted(fitting, key=len, reverse=True)


def _release(begins: list[str], version: str, words: list[str], in_tables: bool) -> Release:
    """``torchtitan`` with the word ``compile`` is ``torchtitan-compile``, if that is a name too."""
    known, name = _names(in_tables), begins[0]
    stack = next((known[n] for w in words if (n := f"{name}-{w}") in known), known[name])
    return Release(stack, version, frozenset({*begins, *words}))


def in_table(software: str) -> Release | None:
    """The release that a table's name for a software stands for; None for an unknown software."""
    text = software.lower()
    begins = _beginning(text, in_tables=True)
    if not begins:
        return None
    rest = text[len(begins[0]) :]
    version = _START.match(rest[1:])
    after = rest[1:][version.end() :] if version else rest
    words = [word for word in re.split(r"[-+ ]", after.partition(" ")[0]) if word]
    return _release(
        begins, version.group().removeprefix("v") if version else "", words, in_tables=True
    )


def named(name: str, field: str) -> Release | None:
    """The release that a stack's name with a version stands for; None where it is no such name."""
    text = name.strip().lower().replace("_", "-").replace(" ", "-")
    begins = _beginning(text, in_tables=False)
    if not begins:
        return None
    known, rest = begins[0], text[len(begins[0]) :]
    version = re.match(rf"[-@]({_WHOLE.pattern})(?=-[a-z]|$)", rest)
    after = rest[version.end() :] if version else rest
    if version is None and re.match(r"@|-v?\d", rest):
        raise InputError(
            f"{field}: {quoted(rest[1:])} is not a version of {known}",
            field=field,
            value=name,
            legal=LEGAL,
            nearest=known,
        )
    words = after[1:].split("-") if after else []
    release = _release(
        begins, version.group(1).removeprefix("v") if version else "", words, in_tables=False
    )
    table = catalog.load("stacks", release.stack, field)[1]
    if release.version:
        _check_counting(release, table, name, field)
    variants = {word for variant in table.get("variant", ()) for word in variant["named"]}
    if all(word in variants or f"{known}-{word}" in _names(False) for word in words):
        return release
    return None


def _bounds(table: Mapping[str, Any]) -> list[str]:
    """Versions that a stack's file names: those between which its rules differ, and the newest that it
    knows."""
    found = [e[end] for e in table.get("version", ()) for end in ("from", "before") if end in e]
    return [*found, *([table["newest"]] if "newest" in table else [])]


def version_remark(name: str, title: str) -> str | None:
    """What is to be known of a stack whose name states a version: that it is later than the newest whose
    rules are known, or that none is told from another. None for other names."""
    if name in catalog.names("stacks"):
        return None  # a whole name, which states no version
    try:
        release = named(name, "stack")
    except InputError:  # a file's name that looks like one
        return None
    if release is None or not release.version:
        return None
    alike = [b for b in _bounds(_of(release)) if _is_date(b) == _is_date(release.version)]
    if not alike:
        return f"versions of {release.stack} are not told apart: any is priced as the one known"
    stated = _of(release).get(
        "newest"
    )  # of all its rules; a later version may be known to differ in one
    newest = max(alike, key=lambda bound: (bound == stated, numbers_of(bound, "newest")))
    if numbers_of(release.version, "stack") <= _filled(newest):
        return None
    return f"{title}: a later version than {newest}, the newest whose rules are known here, and priced by them"


def _filled(version: str) -> Numbers:
    """The last of the versions that begin so: 0.24.1 is one of 0.24."""
    return (*numbers_of(version, "newest"), *_NEVER)


def _of(release: Release) -> Mapping[str, Any]:
    return catalog.load("stacks", release.stack, "stack")[1]


def _is_date(version: str) -> bool:
    match = _START.match(version)
    return match is not None and _numbers(match)[0] in _YEARS


def _check_counting(release: Release, table: Mapping[str, Any], name: str, field: str) -> None:
    """:class:`InputError` for a month of a software whose known versions are numbers, or the other way
    round: neither is before or after the other."""
    bounds = _bounds(table)
    dated, date = {_is_date(bound) for bound in bounds}, _is_date(release.version)
    if not bounds or date in dated:
        return
    counted = 'numbers, such as "{}"' if date else 'months, such as "{}"'
    raise InputError(
        f"{field}: {quoted(name)}: versions of {release.stack} are {counted.format(bounds[-1])}",
        field=field,
        value=name,
        legal=f"{release.stack}@{bounds[-1]} and its like, or no version",
        nearest=release.stack,
    )


def applying(release: Release, table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tables of a stack's file that hold for a release, the wider ones first: those of the variants
    that it names; else those of its version."""
    variants = [v for v in table.get("variant", ()) if release.words & set(v["named"])]
    if variants or not release.version:
        return variants
    match = _START.match(release.version)
    assert match is not None
    numbers = _numbers(match)
    if len(numbers) == 1 and numbers[0] in _YEARS:
        numbers = (*numbers, _MONTHS)  # a year without a month is that year's last state
    holding = []
    for entry in table.get("version", ()):
        begins = numbers_of(entry["from"], "from") if "from" in entry else ()
        ends = numbers_of(entry["before"], "before") if "before" in entry else _NEVER
        if begins <= numbers < ends:
            holding.append((begins, tuple(-n for n in ends), entry))
    return [entry for *_, entry in sorted(holding, key=lambda h: h[:2])]
