"""What the public types check of themselves, however they are made: from Python, from a file, by
``msgspec.structs.replace``. A type lists a rule per field; a rule returns the legal value or raises."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import msgspec

from meshwise.errors import InputError, closest, quoted
from meshwise.strict_tables import MAX_COUNT, count, fraction, one_of
from meshwise.units import QuantityKind, parse_quantity

Check = Callable[[object, str], Any]
MAX_PARAMETERS = 10**12  # parameters of a part of a model
P = ParamSpec("P")
R = TypeVar("R")


def keywords(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which refuses a keyword that it does not have as it refuses any other bad input:
    with the nearest that it has; and names every argument that is missing. Where it takes axes of a
    layout by name, these are its too."""
    code = function.__code__
    known = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    known = tuple(name for name in known if name != "cls")
    axes = bool(code.co_flags & 0x08)  # **layout
    needed = code.co_varnames[: code.co_argcount - len(function.__defaults__ or ())]
    named = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    required = [name for name in named if name not in (function.__kwdefaults__ or {})]

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        for key in kwargs if not axes else ():
            if key not in known:
                raise InputError(
                    f"{function.__name__}: no argument is called {quoted(key)}",
                    field=key,
                    value=key,
                    legal=", ".join(known),
                    nearest=next(iter(closest(key, known)), None),
                )
        lacking = [k for i, k in enumerate(needed) if i >= len(args) and k not in kwargs]
        lacking += [k for k in required if k not in kwargs]
        if lacking:
            raise InputError(
                f"{function.__name__}: missing: {', '.join(lacking)}",
                field=lacking[0],
                legal=", ".join(known),
            )
        try:
            return function(*args, **kwargs)
        except InputError as error:
            key = error.value if isinstance(error.value, str) else ""
            if axes and error.field == "layout" and key in kwargs:
                names = [*known, *(k for k in error.legal or () if k not in known)]
                error.legal, error.nearest = ", ".join(names), next(iter(closest(key, names)), None)
            raise

    return called


def _refusal(kind: type[msgspec.Struct], args: object, given: Iterable[str]) -> InputError | None:
    """What is wrong with the arguments of a type whose fields are given by name."""
    fields = msgspec.structs.fields(kind)
    known, legal = [f.name for f in fields], ", ".join(f.name for f in fields)
    if args:
        return InputError(
            f"{kind.__name__}: takes its fields by name", field=known[0], value=args, legal=legal
        )
    for key in given:
        if key not in known:
            return InputError(
                f"{kind.__name__}: no field is called {quoted(key)}",
                field=key,
                value=key,
                legal=legal,
                nearest=next(iter(closest(key, known)), None),
            )
    lacking = [f.name for f in fields if f.required and f.name not in given]
    if lacking:
        return InputError(
            f"{kind.__name__}: missing: {', '.join(lacking)}", field=lacking[0], legal=legal
        )
    return None


def _keyword_struct() -> type[msgspec.Struct]:
    class Meta(type(msgspec.Struct)):  # type: ignore[misc]
        def __call__(cls, *args: object, **given: object) -> object:
            try:
                return super().__call__(*args, **given)
            except TypeError:
                refusal = _refusal(cls, args, given)
                if refusal is None:
                    raise
                raise refusal from None

    class KeywordStruct(msgspec.Struct, metaclass=Meta):
        """A struct that refuses arguments as :func:`keywords` does for a function: a field that is
        missing, or that there is none of, in one line."""

    return KeywordStruct


if TYPE_CHECKING:
    KeywordStruct = msgspec.Struct
else:
    try:
        KeywordStruct = _keyword_struct()
    except TypeError:  # msgspec before 0.21 has no metaclass to build on: its own TypeError stays
        KeywordStruct = msgspec.Struct


def check_fields(struct: Any, rules: Mapping[str, Check], where: str) -> None:
    """Every field by its rule; a value of another type that means the same (``8.0`` for 8, numpy's
    numbers) is put in its place."""
    for name, rule in rules.items():
        value = getattr(struct, name)
        legal = rule(value, f"{where}.{name}" if where else name)
        if legal is not value:
            msgspec.structs.force_setattr(struct, name, legal)


def not_a(kind: str, field: str, value: object, legal: str) -> InputError:
    return InputError(
        f"{field}: {quoted(value)} is not {kind}", field=field, value=value, legal=legal
    )


def text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise not_a("text", field, value, '"quoted text"')
    return value


def flag(value: object, field: str) -> bool:
    if not isinstance(value, bool):
        raise not_a("true or false", field, value, "true or false")
    return value


def whole(low: int, high: int) -> Check:
    return lambda value, field: count(value, field, low=low, high=high, text=False)


def number(low: float, high: float) -> Check:
    return lambda value, field: fraction(value, field, low=low, high=high, text=False)


def quantity(kind: QuantityKind) -> Check:
    """A positive SI number in the range of its kind; text with a unit is for files."""

    def rule(value: object, field: str) -> float:
        if isinstance(value, str):
            raise not_a(
                f"a {kind.name} in SI units", field, value, f"a number, as in {kind.example}"
            )
        return parse_quantity(value, kind, field, bare=True)

    return rule


def among(*names: str) -> Check:
    return lambda value, field: one_of(value, field, names)


def counted(*, low: int = 1, high: int = MAX_COUNT) -> Check:
    """A whole number; text of digits too, as a command line gives it."""
    return lambda value, field: count(value, field, low=low, high=high)


def shared(*, low: float, high: float) -> Check:
    """A number; text too, as a command line gives it."""
    return lambda value, field: fraction(value, field, low=low, high=high)


def optional(rule: Check) -> Check:
    """None, or what ``rule`` takes."""
    return lambda value, field: None if value is None else rule(value, field)


def a(kind: type) -> Check:
    """An object of a type, which has checked itself."""

    def rule(value: object, field: str) -> Any:
        if not isinstance(value, kind):
            raise not_a(f"a {kind.__name__}", field, value, f"a {kind.__name__}")
        return value

    return rule


def tuple_of(rule: Check, legal: str, *, least: int = 1) -> Check:
    """A tuple of at least ``least`` values, each by ``rule``."""

    def each(value: object, field: str) -> Any:
        if not isinstance(value, (tuple, list)) or len(value) < least:
            raise not_a(f"a tuple of {legal}", field, value, f"one {legal} or several")
        found = tuple(rule(item, f"{field}[{i}]") for i, item in enumerate(value))
        same = isinstance(value, tuple) and all(f is v for f, v in zip(found, value, strict=True))
        return value if same else found

    return each


def texts(value: object, field: str) -> dict[str, str]:
    """A table of texts by name, as sources are."""
    if not isinstance(value, dict):
        raise not_a("a table", field, value, '{"all": "where the figures come from"}')
    for key, said in value.items():
        text(key, field)
        text(said, f"{field}.{key}")
    return value


def name_of(value: object, field: str, what: str) -> str:
    """The text of a name or path; anything else is refused with ``what`` would be right."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return value
    raise not_a("a name or a path", field, value, what)


def flags_of(struct: type[msgspec.Struct]) -> dict[str, Check]:
    """A rule for every field of a struct that is true or false."""
    return {name: flag for name, kind in struct.__annotations__.items() if kind == "bool"}
