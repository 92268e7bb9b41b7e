"""Functions that build a configuration, followed without running them: recipes of Megatron-Bridge and NeMo,
torchtitan's configurations. What the text does not hold stays open."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from meshwise.launch.python.built import (
    BINARY,
    BUILTINS,
    COMPARED,
    MISSING,
    Built,
    Open,
    applied,
    hashed,
    is_open,
    item_of,
    loaded,
    truth,
    with_fields,
)
from meshwise.launch.python.modules import SourceModule

MOST_STEPS = 200_000  # statements and expressions of one configuration
MAX_DEPTH = 40
_MAX_LOOP = 200
_PERHAPS = "\0returned"  # what a function may return before its end
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class _Return(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


class TooLong(Exception):
    """More statements than :data:`MOST_STEPS`."""


FoundModule = Callable[[str], SourceModule | None]  # a module by its full name


class Followed:
    """Follows functions of modules; ``unread``: what was called with a configuration and is elsewhere."""

    def __init__(self, found: FoundModule = lambda _: None) -> None:
        self.found = found
        self.unread: list[str] = []
        self._steps = 0
        self._depth = 0
        self._unsure = 0

    def home(
        self, module: SourceModule, name: str, depth: int = 0
    ) -> tuple[SourceModule, str] | None:
        """The module that has a function or a constant of this name, through imports; None where it is
        elsewhere."""
        if name in module.functions or name in module.constants:
            return module, name
        if depth > 10:
            return None
        package, own = module.imported.get(name, ("", name))
        for other in [package] if package else module.stars:
            there = self.found(other)
            found = self.home(there, own, depth + 1) if there is not None else None
            if found is not None:
                return found
        return None

    def call(
        self,
        module: SourceModule,
        name: str,
        given: Sequence[Any] = (),
        named: Mapping[str, Any] = _NOTHING,
    ) -> Any:
        """What a function of the module returns."""
        function = module.functions[name]
        if self._depth >= MAX_DEPTH:
            return Open(name)
        local = self._arguments(module, function, given, named)
        self._depth += 1
        try:
            self._run(function.body, local, module)
        except _Return as returned:
            if local.get(_PERHAPS, returned.value) is not returned.value:
                return Open(name)
            if isinstance(returned.value, Built) and named:
                returned.value.given = dict(named)
            return returned.value
        finally:
            self._depth -= 1
        return Open(name) if _PERHAPS in local else None

    def _arguments(
        self,
        module: SourceModule,
        function: ast.FunctionDef,
        given: Sequence[Any],
        named: Mapping[str, Any],
    ) -> dict[str, Any]:
        spec = function.args
        names = [a.arg for a in (*spec.posonlyargs, *spec.args)]
        local: dict[str, Any] = dict(zip(names, given, strict=False))
        last = names[len(names) - len(spec.defaults) :]
        defaults = [*zip(last, spec.defaults, strict=True)]
        defaults += [
            (a.arg, d) for a, d in zip(spec.kwonlyargs, spec.kw_defaults, strict=True) if d
        ]
        for key, default in defaults:
            if key not in local:
                local[key] = self.value(default, {}, module)
        local |= {
            k: v for k, v in named.items() if k in (*names, *(a.arg for a in spec.kwonlyargs))
        }
        if spec.kwarg is not None:
            local[spec.kwarg.arg] = {k: v for k, v in named.items() if k not in local}
        return {n: local.get(n, Open(n)) for n in (*names, *local)}

    # -- statements ------------------------------------------------------------------------------------

    def _run(self, body: list[ast.stmt], local: dict[str, Any], module: SourceModule) -> None:
        for node in body:
            self._steps += 1
            if self._steps > MOST_STEPS:
                raise TooLong
            if isinstance(node, ast.Return):
                value = self.value(node.value, local, module) if node.value else None
                if self._unsure:  # may return here or go on: the last one is taken, marked
                    local[_PERHAPS] = value
                    continue
                raise _Return(value)
            if isinstance(node, ast.Assign):
                value = self.value(node.value, local, module)
                for target in node.targets:
                    self._assign(target, value, local, module)
            elif isinstance(node, ast.AnnAssign) and node.value is not None:
                self._assign(node.target, self.value(node.value, local, module), local, module)
            elif isinstance(node, ast.AugAssign):
                both = ast.BinOp(loaded(node.target), node.op, node.value)
                self._assign(node.target, self.value(both, local, module), local, module)
            elif isinstance(node, ast.Expr):
                self.value(node.value, local, module)
            elif isinstance(node, ast.If):
                self._branch(node, local, module)
            elif isinstance(node, ast.For):
                self._loop(node, local, module)
            elif isinstance(node, ast.With | ast.Try):
                self._run(node.body, local, module)
            elif isinstance(node, ast.While):
                self._perhaps(node.body, local, module)
            elif isinstance(node, ast.Raise):
                return

    def _branch(self, node: ast.If, local: dict[str, Any], module: SourceModule) -> None:
        known = truth(self.value(node.test, local, module))
        if known is None:
            self._perhaps(node.body, local, module)
            self._perhaps(node.orelse, local, module)
        else:
            self._run(node.body if known else node.orelse, local, module)

    def _perhaps(self, body: list[ast.stmt], local: dict[str, Any], module: SourceModule) -> None:
        self._unsure += 1
        try:
            self._run(body, local, module)
        finally:
            self._unsure -= 1

    def _loop(self, node: ast.For, local: dict[str, Any], module: SourceModule) -> None:
        items = self.value(node.iter, local, module)
        if not isinstance(items, list | tuple) or len(items) > _MAX_LOOP:
            self._perhaps(node.body, local, module)
            return
        for item in items:
            self._assign(node.target, item, local, module)
            self._run(node.body, local, module)

    def _assign(
        self, target: ast.expr, value: Any, local: dict[str, Any], module: SourceModule
    ) -> None:
        if isinstance(target, ast.Name):
            local[target.id] = self._sure(value, local.get(target.id, MISSING))
        elif isinstance(target, ast.Attribute):
            whose = self._place(target.value, local, module)
            if isinstance(whose, Built):
                before = whose.fields.get(target.attr, MISSING)
                whose.fields[target.attr] = self._sure(value, before)
        elif isinstance(target, ast.Subscript):
            whose = self.value(target.value, local, module)
            key = self.value(target.slice, local, module)
            if isinstance(whose, dict) and isinstance(key, str | int):
                whose[key] = self._sure(value, whose.get(key, MISSING))
        elif isinstance(target, ast.Tuple | ast.List):
            many = value if isinstance(value, list | tuple) else ()
            for i, each in enumerate(target.elts):
                one = many[i] if i < len(many) else Open(ast.unparse(each))
                if isinstance(value, Built):  # of a function that is elsewhere
                    one = Built(value.kind, [], {})
                self._assign(each, one, local, module)

    def _place(self, node: ast.expr, local: dict[str, Any], module: SourceModule) -> Any:
        """What an attribute is set of: a part of something built elsewhere is made as it is named."""
        found = self.value(node, local, module)
        if isinstance(found, Open) and isinstance(node, ast.Attribute):
            whose = self._place(node.value, local, module)
            if isinstance(whose, Built) and node.attr not in whose.fields:
                found = whose.fields[node.attr] = Built(node.attr, [], {})
        return found

    def _sure(self, value: Any, before: Any) -> Any:
        return Open("set under a condition") if self._unsure and value != before else value

    # -- expressions -----------------------------------------------------------------------------------

    def value(self, node: ast.expr, local: dict[str, Any], module: SourceModule) -> Any:
        """The value of an expression, open where the text does not hold it."""
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise TooLong
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self._name(node.id, local, module)
        if isinstance(node, ast.Attribute):
            return self._attribute(node, local, module)
        if isinstance(node, ast.List | ast.Tuple):
            return [self.value(e, local, module) for e in node.elts]
        if isinstance(node, ast.Dict):
            return {
                hashed(self.value(k, local, module)): self.value(v, local, module)
                for k, v in zip(node.keys, node.values, strict=True)
                if k is not None
            }
        if isinstance(node, ast.Call):
            return self._called(node, local, module)
        if isinstance(node, ast.IfExp):
            known = truth(self.value(node.test, local, module))
            if known is None:
                both = [self.value(n, local, module) for n in (node.body, node.orelse)]
                return both[0] if both[0] == both[1] else Open(ast.unparse(node))
            return self.value(node.body if known else node.orelse, local, module)
        if isinstance(node, ast.Subscript):
            whose, key = (
                self.value(node.value, local, module),
                self.value(node.slice, local, module),
            )
            if isinstance(whose, dict | list) and isinstance(key, str | int | list):
                return item_of(whose, key, node)
            return Open(ast.unparse(node))
        if isinstance(node, ast.JoinedStr):
            parts = [
                self.value(p.value if isinstance(p, ast.FormattedValue) else p, local, module)
                for p in node.values
            ]
            known_parts = all(isinstance(p, str | int) for p in parts)
            return "".join(map(str, parts)) if known_parts else Open(ast.unparse(node))
        return self._calculated(node, local, module)

    def _name(self, name: str, local: dict[str, Any], module: SourceModule) -> Any:
        if name in local:
            return local[name]
        there = self.home(module, name)
        if there is not None and there[1] in there[0].constants and self._depth < MAX_DEPTH:
            self._depth += 1
            try:
                return self.value(there[0].constants[there[1]], {}, there[0])
            finally:
                self._depth -= 1
        return Open(name)

    def _attribute(self, node: ast.Attribute, local: dict[str, Any], module: SourceModule) -> Any:
        whose = self.value(node.value, local, module)
        if isinstance(whose, Built):
            if node.attr not in whose.fields and isinstance(node.ctx, ast.Load):
                return Open(ast.unparse(node))
            return whose.fields[node.attr]
        if isinstance(whose, Open) and whose.text == "torch":
            return node.attr  # torch.bfloat16
        return Open(f"{whose.text if isinstance(whose, Open) else ''}.{node.attr}")

    def _calculated(self, node: ast.expr, local: dict[str, Any], module: SourceModule) -> Any:
        if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
            a, b = self.value(node.left, local, module), self.value(node.right, local, module)
            return applied(BINARY[type(node.op)], a, b, node)
        if isinstance(node, ast.UnaryOp):
            one = self.value(node.operand, local, module)
            if isinstance(node.op, ast.Not) and truth(one) is not None:
                return not truth(one)
            if isinstance(node.op, ast.USub) and isinstance(one, int | float):
                return -one
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARED:
            a = self.value(node.left, local, module)
            b = self.value(node.comparators[0], local, module)
            if is_open(a) or is_open(b):
                return Open(ast.unparse(node))
            try:
                return COMPARED[type(node.ops[0])](a, b)
            except TypeError:
                return Open(ast.unparse(node))
        if isinstance(node, ast.BoolOp):
            return self._both(node, local, module)
        return Open(ast.unparse(node))

    def _both(self, node: ast.BoolOp, local: dict[str, Any], module: SourceModule) -> Any:
        ends = isinstance(node.op, ast.Or)
        last: Any = None
        for each in node.values:
            last = self.value(each, local, module)
            known = truth(last)
            if known is None:
                return Open(ast.unparse(node))
            if known is ends:
                return last
        return last

    # -- calls -----------------------------------------------------------------------------------------

    def _called(self, node: ast.Call, local: dict[str, Any], module: SourceModule) -> Any:
        words = [self.value(a, local, module) for a in node.args if not isinstance(a, ast.Starred)]
        named: dict[str, Any] = {}
        for keyword in node.keywords:
            value = self.value(keyword.value, local, module)
            if keyword.arg:
                named[keyword.arg] = value
            elif isinstance(value, dict):
                named |= {str(k): v for k, v in value.items()}
        function = node.func
        if isinstance(function, ast.Name):
            return self._by_name(function.id, words, named, local, module)
        if not isinstance(function, ast.Attribute):
            return Open(ast.unparse(node))
        whose = self.value(function.value, local, module)
        return self._method(function, whose, words, named, module)

    def _by_name(
        self,
        name: str,
        words: list[Any],
        named: dict[str, Any],
        local: dict[str, Any],
        module: SourceModule,
    ) -> Any:
        if name in BUILTINS and not named and not any(map(is_open, words)):
            try:
                return BUILTINS[name](*words)
            except (TypeError, ValueError):
                return Open(name)
        there = self.home(module, name)
        if there is not None and there[1] in there[0].functions:
            return self.call(*there, words, named)
        own = module.imported.get(name, ("", name))[1]
        if own in ("replace", "deepcopy", "copy") and words:
            return with_fields(words[0], named)
        if own[:1].isupper():
            return Built(own, words, named)
        if any(isinstance(w, Built) for w in words):  # it may change what it is given
            self.unread.append(own)
        return Built(own, words, named)

    def _method(
        self,
        function: ast.Attribute,
        whose: Any,
        words: list[Any],
        named: dict[str, Any],
        module: SourceModule,
    ) -> Any:
        name = function.attr
        if isinstance(whose, dict) and name == "get" and words and not is_open(words[0]):
            return whose.get(hashed(words[0]), words[1] if len(words) > 1 else None)
        if isinstance(whose, dict) and name == "update":
            whose |= {**(words[0] if words and isinstance(words[0], dict) else {}), **named}
            return None
        if isinstance(whose, list) and name in ("append", "extend") and words:
            whose += (
                [words[0]] if name == "append" else words[0] if isinstance(words[0], list) else []
            )
            return None
        if isinstance(whose, str) and name in ("lower", "upper") and not words:
            return getattr(whose, name)()
        if isinstance(whose, Built):
            return whose  # a chain of calls on what was built
        dotted = f"{whose.text if isinstance(whose, Open) else ''}.{name}".lstrip(".")
        if dotted in ("os.getenv", "os.environ.get"):
            return words[1] if len(words) > 1 else None
        if name in ("replace", "deepcopy", "copy") and words:
            return with_fields(words[0], named)
        package, own = module.imported.get(dotted.partition(".")[0], ("", ""))
        other = self.found(f"{package}.{own}") if package else None
        if other is not None and name in other.functions:
            return self.call(other, name, words, named)
        return Built(dotted, words, named)
