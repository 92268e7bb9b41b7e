"""Values of a configuration that is followed without running it: constants, what constructors make, and what
stays open; operators on them."""

from __future__ import annotations

import ast
import copy
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple


class Open(NamedTuple):
    """A value that does not follow from the text."""

    text: str


class Built:
    """What a constructor makes: its name, its positional arguments, its fields; ``given`` to the function
    of the text that returned it, by name."""

    def __init__(self, kind: str, words: list[Any], fields: dict[str, Any]) -> None:
        self.kind, self.words, self.fields = kind, words, fields
        self.given: dict[str, Any] = {}


MISSING = object()


def loaded(target: ast.expr) -> ast.expr:
    found = copy.copy(target)
    if isinstance(found, ast.Name | ast.Attribute | ast.Subscript):
        found.ctx = ast.Load()
    return found


def is_open(value: Any) -> bool:
    return isinstance(value, Open | Built)


def truth(value: Any) -> bool | None:
    if isinstance(value, Open):
        return None
    if isinstance(value, Built):  # an object of a class; what a function returns is not known
        return True if any(part[:1].isupper() for part in value.kind.split(".")) else None
    return bool(value)


def hashed(value: Any) -> Any:
    return (
        tuple(value) if isinstance(value, list) else value if not is_open(value) else str(id(value))
    )


def item_of(whose: Any, key: Any, node: ast.expr) -> Any:
    try:
        return whose[hashed(key)]
    except (KeyError, IndexError, TypeError):
        return Open(ast.unparse(node))


def with_fields(value: Any, named: dict[str, Any]) -> Any:
    found = copy.deepcopy(value)
    if isinstance(found, Built):
        found.fields |= named
    return found


def applied(how: Callable[[Any, Any], Any], a: Any, b: Any, node: ast.expr) -> Any:
    numbers = all(isinstance(v, int | float) and abs(v) < 1 << 50 for v in (a, b))
    lists = isinstance(a, list) and isinstance(b, list) and how is operator.add
    repeated = isinstance(a, list) and isinstance(b, int) and 0 <= b < 1000 and how is operator.mul
    words = isinstance(a, str) and isinstance(b, str) and how is operator.add
    if not (numbers or lists or words or repeated) or (how is operator.pow and b > 40):
        return Open(ast.unparse(node))
    try:
        return how(a, b)
    except (ArithmeticError, ValueError, TypeError):
        return Open(ast.unparse(node))


BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
COMPARED: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: lambda a, b: a is b or a == b,
    ast.IsNot: lambda a, b: not (a is b or a == b),
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
BUILTINS: dict[str, Callable[..., Any]] = {
    "int": int,
    "str": str,
    "float": float,
    "bool": bool,
    "len": len,
    "min": min,
    "max": max,
    "list": list,
    "ceil": math.ceil,
}
