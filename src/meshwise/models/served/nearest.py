"""The preset that an unknown name meant: the same model, misspelt or written in part.

Only letters are mended. A word, a number or a unit that stands in the name stands in the nearest one too:
whoever follows it gets what was asked for, never another version, size or variant.
"""

from __future__ import annotations

import functools
import re

from meshwise import catalog
from meshwise.errors import UnknownName, meant, slips, unknown_name
from meshwise.models.names import hub_ids, untrained_names
from meshwise.models.served.formats import format_entry, without_format

_TOKEN = re.compile(r"\d+(?:\.\d+)?|[a-z]+")
_BEHIND = re.compile(r"\d[a-z]+")
_LONG = 9  # letters of a word in which two slips are likely
_UNITS = ("b", "m", "t", "k", "x", "l")


@functools.cache
def _spelt() -> dict[str, str]:
    """Every name and alias → the preset."""
    return catalog.aliases("models") | {name: name for name in catalog.names("models")}


def nearest_preset(name: str) -> str | None:
    """The preset, with the format that the name states, that an unknown name is but for a slip of the
    fingers, or the beginning of; None where nobody can tell."""
    publisher, _, base = name.strip().rstrip("/").lower().rpartition("/")
    key, said = without_format(base.replace("_", "-").replace(" ", "-")[:100])
    found = _slipped(key) or _completed(key)
    if found is None or not said:
        return found
    entry = format_entry(said, found, publisher)
    return f"{found}-{entry['name']}" if entry is not None else None


def _slipped(key: str) -> str | None:
    """The preset that a name is but for a slip; None where two are as near."""
    for tried in untrained_names(key):
        alike = {k: preset for k, preset in _spelt().items() if _same_words(tried, k)}
        near = meant(tried, alike)
        if near:
            return near.pop() if len(near) == 1 else None
    return None


def _same_words(typed: str, known: str) -> bool:
    """Whether two names may be one, word by word: the letters behind digits that were typed (``7b``,
    ``4v``, ``3n``) are the other's too, and no short word stands for another (omni for mini)."""
    (behind, ours), (others_behind, others) = _parts(typed), _parts(known)
    if not behind <= others_behind:
        return False
    if len(ours) != len(others):
        return True  # joined or parted: the slips of the whole name count
    return all(a == b or _near(a, b) for a, b in zip(ours, others, strict=True))


@functools.lru_cache(1 << 12)
def _parts(name: str) -> tuple[frozenset[str], list[str]]:
    """Letters behind digits, and words."""
    return frozenset(_BEHIND.findall(name)), name.split("-")


@functools.lru_cache(1 << 14)
def _near(a: str, b: str) -> bool:
    """Whether one word may be a slip for the other; a letter too many or too few is one at least."""
    most = 2.0 if len(a) >= _LONG else 1.5
    return abs(len(a) - len(b)) <= most and slips(a, b) <= most


def _completed(key: str) -> str | None:
    """The preset whose name has all that was typed, in order. Of several a published model before one of a
    paper's table, the fewest words more; where a size was typed the version that has most sizes, then the
    latest one."""
    typed = _numbered(_untrained_words(key))
    if not typed:
        return None
    presets = catalog.names("models")
    found = [n for n in presets if _within(typed, _numbered_words(n))]
    published = set(hub_ids().values())
    versions = [_version(n) for n in published if n.startswith(typed[0][0])]
    sized = any(unit for _, unit in typed)

    def order(name: str) -> tuple[object, ...]:
        version = _version(name)
        sizes = versions.count(version) if sized else 0
        words = len(_numbered_words(name))
        return name not in published, words, -sizes, -version, len(name), name

    return min(found, key=order, default=None)


def _untrained_words(key: str) -> list[str]:
    return _TOKEN.findall(untrained_names(key)[1])


@functools.cache
def _numbered_words(preset: str) -> list[tuple[str, str]]:
    """Of a preset's name."""
    return _numbered(_TOKEN.findall(preset))


def _numbered(tokens: list[str]) -> list[tuple[str, str]]:
    """Words, and numbers with the unit behind them."""
    found: list[tuple[str, str]] = []
    for token in tokens:
        if found and found[-1][0][0].isdigit() and not found[-1][1] and token in _UNITS:
            found[-1] = (found[-1][0], token)
        else:
            found.append((token, ""))
    return found


def _within(typed: list[tuple[str, str]], known: list[tuple[str, str]]) -> bool:
    """Whether all that was typed stands in the other, in order and with the same beginning; a size may
    lack its unit behind a version (llama-3.1-8), and the last word its end."""
    if not known or not known[0][0].startswith(typed[0][0]):
        return False
    numbers = 0
    rest = iter(known)
    for at, (word, unit) in enumerate(typed):
        number = word[0].isdigit()
        last = at == len(typed) - 1
        for other, its_unit in rest:
            if number and not other[0].isdigit():
                continue
            if number:
                same = other == word and (unit == its_unit or (not unit and numbers > 0))
            else:
                same = other == word or (last and other.startswith(word))
            if same:
                break
        else:
            return False
        numbers += number
    return True


def _version(name: str) -> float:
    """The number of a name that has no unit; 0 where it has none."""
    numbers = _numbered_words(name)
    return next((float(n) for n, unit in numbers if n[0].isdigit() and not unit), 0.0)


def unknown_model(field: str, name: str) -> UnknownName:
    """The error for a name that is no known architecture."""
    error = unknown_name(field, name, catalog.names("models"), "preset, folder or config.json")
    error.nearest = nearest_preset(name)
    return error
