"""What the field of a switch states of itself, by its annotation: its type, its limits and its meaning."""

from __future__ import annotations

import functools
import types
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from meshwise.checks import (
    Check,
    among,
    check_fields,
    flag,
    number,
    optional,
    text,
    tuple_of,
    whole,
)


class Range(NamedTuple):
    """Lowest and highest legal value, and the unit."""

    low: float
    high: float
    unit: str = ""


class OneOf(NamedTuple):
    """Legal words that another module lists."""

    words: tuple[str, ...]


class SwitchField(NamedTuple):
    """A switch as its field states it: ``legal`` in words, ``words`` where it takes words."""

    default: Any
    rule: Check
    legal: str
    words: tuple[str, ...]
    range: Range | None
    meaning: str


class SwitchGroup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Switches that a file states in one table; every value is checked when it is made."""

    def __post_init__(self) -> None:
        check_fields(self, field_rules(type(self)), "stack")


@functools.cache
def switches_of(struct: type[msgspec.Struct]) -> dict[str, SwitchField]:
    """The switches of a group, by name."""
    defaults = dict(zip(struct.__struct_fields__, struct.__struct_defaults__, strict=True))
    return {name: _read(struct.__annotations__[name], value) for name, value in defaults.items()}


@functools.cache
def field_rules(struct: type[msgspec.Struct]) -> dict[str, Check]:
    """The rule of each field of a group."""
    return {name: switch.rule for name, switch in switches_of(struct).items()}


def _read(hint: Any, default: Any) -> SwitchField:
    """The annotation of a field: its type, its limits and its meaning."""
    kind, *said = get_args(hint)
    range = next((a for a in said if isinstance(a, Range)), None)
    words = next((a.words for a in said if isinstance(a, OneOf)), ())
    several = get_origin(kind) is tuple
    kinds = get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    item = get_args(kind)[0] if several else kinds[0]
    if get_origin(item) is Literal:
        words = get_args(item)
    rule, legal = _rule(item, words, range)
    if several:
        # none of them where that is what a stack says by itself
        rule = tuple_of(rule, "word", least=0 if default == () else 1)
        legal = f"some of {legal}" if words else "words"
    if len(kinds) > 1:
        rule = optional(rule)
    meaning = next(a for a in said if isinstance(a, str))
    return SwitchField(default, rule, legal, words, range, meaning)


def _rule(kind: Any, words: Sequence[str], range: Range | None) -> tuple[Check, str]:
    if words:
        return among(*words), ", ".join(words)
    if range is None:
        return (flag, "true or false") if kind is bool else (text, "text")
    low, high, unit = range
    if kind is int:
        return whole(int(low), int(high)), f"{low:,} to {high:,} {unit}".rstrip()
    return number(low, high), f"{low:g} to {high:,g} {unit}".rstrip()
