"""Options of a Python program: what its parser, its classes of settings and its functions give a name where
nobody says otherwise."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

_OF_TEXT = ("lower", "upper", "strip", "split", "replace")
_CLICK = ("option", "argument")


class ProgramOption(NamedTuple):
    """``spelling`` as its command line has it; ``default`` None where it has none; ``said``: values that
    the text itself gives it."""

    name: str
    spelling: str
    default: ast.expr | None
    said: tuple[ast.expr, ...] = ()


class ProgramOptions(NamedTuple):
    """By the name that a program reads them by: attributes (of parsed arguments, of settings), names of
    parameters. A name of several with other defaults has none."""

    attributes: dict[str, ProgramOption]
    parameters: dict[str, ProgramOption]


def program_options(tree: ast.Module) -> ProgramOptions:
    """The options that a program's text declares."""
    found: dict[str, list[ProgramOption]] = {}
    named: dict[str, list[ProgramOption]] = {}
    calls: dict[str, list[ast.Call]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            calls.setdefault(_last(node.func), []).append(node)
    for call in calls.get("add_argument", ()):
        option = _argument(call)
        if option is not None:
            found.setdefault(option.name, []).append(option)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for option in _fields(node, calls.get(node.name, [])):
                found.setdefault(option.name, []).append(option)
            made = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
            for option in _parameters(made[0], calls.get(node.name, [])) if made else ():
                named.setdefault(option.name, []).append(option)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name != "__init__":
            for option in _parameters(node, calls.get(node.name, [])):
                named.setdefault(option.name, []).append(option)
    return ProgramOptions(*({n: _one(o) for n, o in each.items()} for each in (found, named)))


def _one(options: list[ProgramOption]) -> ProgramOption:
    """An option that several places have: parameters without a default take that of where it is set."""
    with_default = [o for o in options if o.default is not None] or options
    shown = {ast.unparse(o.default) if o.default is not None else "" for o in with_default}
    said = tuple(e for o in options for e in o.said)
    first = with_default[0]
    default = first.default if len(shown) == 1 else None
    spelt = next((o.spelling for o in options if o.spelling.startswith("-")), first.spelling)
    return ProgramOption(first.name, spelt, default, said)


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((k.value for k in call.keywords if k.arg == name), None)


def _spellings(call: ast.Call) -> list[str]:
    return [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]


def _argument(call: ast.Call) -> ProgramOption | None:
    """``parser.add_argument("--degree", type=int, default=8)``."""
    spelt = _spellings(call)
    if not spelt:
        return None
    shown = next((s for s in spelt if s.startswith("--")), spelt[0])
    own = _keyword(call, "dest")
    name = own.value if isinstance(own, ast.Constant) else shown.lstrip("-").replace("-", "_")
    default = _keyword(call, "default")
    action = _keyword(call, "action")
    if default is None and isinstance(action, ast.Constant):
        default = {"store_true": ast.Constant(False), "store_false": ast.Constant(True)}.get(
            str(action.value)
        )
    return ProgramOption(str(name), shown, _given(default))


def _given(default: ast.expr | None) -> ast.expr | None:
    """A default that is a value: ``None`` and ``...`` say nothing."""
    none = isinstance(default, ast.Constant) and default.value in (None, ...)
    return None if none else default


def _fields(node: ast.ClassDef, made: list[ast.Call]) -> Iterator[ProgramOption]:
    """Fields of a class; ``made``: calls that make one."""
    for row in node.body:
        target = row.targets[0] if isinstance(row, ast.Assign) else getattr(row, "target", None)
        if isinstance(row, ast.Assign | ast.AnnAssign) and isinstance(target, ast.Name):
            name = target.id
            said = tuple(v for c in made if (v := _keyword(c, name)) is not None)
            default = row.value
            if isinstance(default, ast.Call) and _last(default.func).lower() == "field":
                default = _keyword(default, "default") or next(iter(default.args), None)
            yield ProgramOption(name, name, _given(default), said)


def _parameters(
    node: ast.FunctionDef | ast.AsyncFunctionDef, calls: list[ast.Call]
) -> Iterator[ProgramOption]:
    """Parameters of a function, those that click's decorators fill in as its options."""
    decorated = {
        option.name: option
        for d in node.decorator_list
        if isinstance(d, ast.Call) and _last(d.func) in _CLICK
        if (option := _argument(d)) is not None
    }
    every = [*node.args.posonlyargs, *node.args.args]
    defaults: list[ast.expr | None] = [None] * (len(every) - len(node.args.defaults))
    pairs = [*zip(every, [*defaults, *node.args.defaults], strict=True)]
    pairs += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    method = bool(every) and every[0].arg in ("self", "cls")
    for i, (argument, default) in enumerate(pairs):
        name = argument.arg
        if name in decorated:
            yield decorated[name]
            continue
        at = i - method
        said = [
            v
            for c in calls
            if (v := _keyword(c, name) or _positional(c, at)) is not None
            and not (isinstance(v, ast.Name) and v.id == name)
        ]
        spelling = name
        if isinstance(default, ast.Call) and _last(default.func) in ("Option", "Argument"):
            spelt = [s for s in _spellings(default)[:] if s.startswith("--")]
            spelling = spelt[0] if spelt else f"--{name.replace('_', '-')}"
            default = _keyword(default, "default") or next(iter(default.args), None)
        yield ProgramOption(name, spelling, _given(default), tuple(said))


def _positional(call: ast.Call, at: int) -> ast.expr | None:
    ok = 0 <= at < len(call.args) and not any(isinstance(a, ast.Starred) for a in call.args)
    return call.args[at] if ok else None


def own_name(node: ast.expr | None) -> str:
    """The name by which a value of elsewhere can be given: the last of what an expression says."""
    while node is not None:
        if isinstance(node, ast.Attribute):
            return node.attr
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Subscript):
            key = node.slice
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                return re.sub(r"\W+", "_", key.value)
            return own_name(node.value)
        if isinstance(node, ast.Call):
            first = next(iter(node.args), None)
            env = _last(node.func) in ("getenv", "get") and isinstance(first, ast.Constant)
            if env and isinstance(first, ast.Constant):
                return re.sub(r"\W+", "_", str(first.value))
            if _last(node.func) in ("int", "str", "float", "bool", "len") and first:
                node = first
                continue
            if _last(node.func) in _OF_TEXT and isinstance(node.func, ast.Attribute):
                node = node.func.value
                continue
            return _last(node.func)
        if isinstance(node, ast.Compare):
            node = node.left
            continue
        inner = [n for n in ast.walk(node) if isinstance(n, ast.Attribute | ast.Name)]
        return own_name(inner[0]) if inner else "value"
    return "value"
