"""Answers by attribute: every key of an answer's JSON under the same name, typed where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar, cast, overload

from meshwise.errors import closest, slips

T = TypeVar("T")
_SLIPS = 1


class _Kept(Protocol):
    @property
    def figures(self) -> Record: ...


class Record(dict[str, Any]):  # type: ignore[explicit-any]  # JSON's values
    """A part of an answer: a dictionary whose keys are attributes too (``best.tp``, ``best["tp"]``).

    A key that is no name (``"stack"`` of ``provenance`` is, ``"collectives/ib-ndr"`` is not) is read
    as of any dictionary.
    """

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            try:
                return self[name]
            except KeyError:
                raise unknown_attribute("this part of the answer", name, self) from None

    else:

        def __getattr__(self, name: str) -> Any: ...  # type: ignore[explicit-any]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(k for k in self if k.isidentifier())]


def unknown_attribute(what: str, name: str, known: Iterable[str]) -> AttributeError:
    """An :class:`AttributeError` with the nearest name that there is: by a slip of the fingers, else by
    its letters."""
    names = sorted(known)
    typed = min(names, key=lambda other: slips(name, other), default=name)
    near = [typed] if slips(name, typed) <= _SLIPS else closest(name, names)
    close = next(iter(near), None)
    nearest = f"; nearest: {close}" if close else ""
    return AttributeError(f"{what} has no {name!r}{nearest}", name=name)


def by_attribute(value: object) -> object:
    """A JSON value with a :class:`Record` for every table in it."""
    if isinstance(value, dict):
        return Record({key: by_attribute(item) for key, item in value.items()})
    if isinstance(value, list):
        return [by_attribute(item) for item in value]
    return value


class Key(Generic[T]):
    """One key of an answer's JSON as an attribute of its class."""

    def __init__(self, doc: str = "") -> None:
        self.__doc__ = doc
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, answer: None, owner: type) -> Self: ...
    @overload
    def __get__(self, answer: _Kept, owner: type) -> T: ...
    def __get__(self, answer: _Kept | None, owner: type) -> Self | T:
        if answer is None:
            return self
        if self.name not in answer.figures:
            raise unknown_attribute(f"this {owner.__name__}", self.name, answer.figures)
        return cast(T, answer.figures[self.name])


def flat_row(row: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """A row of a table: the keys of nested tables joined by ``_``."""
    found: dict[str, object] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            found |= flat_row(value, f"{prefix}{key}_")
        else:
            found[prefix + key] = value
    return found
