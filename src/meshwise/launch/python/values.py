"""Values of a Python program that stand in its text: constants, names of constants, literals of them."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Mapping
from typing import Any

from meshwise import dtypes
from meshwise.launch.python.built import COMPARED
from meshwise.launch.python.program_options import ProgramOption, own_name, program_options

_MAX_DEPTH = 30
_ENVIRONMENT = ("os.environ.get", "os.getenv", "environ.get", "getenv")
_CASTS = ("int", "str", "float", "bool")
_LINES_OF = ("shlex.split", "shlex.join", "shlex.quote")


class Values:
    """A program's imports and its names of constants; a name that is set twice has no known value.
    ``given``: values of names that the text leaves open; ``taken``: defaults of the program's own options
    that a value was taken from."""

    def __init__(self, tree: ast.Module, given: Mapping[str, str] | None = None) -> None:
        self.given = given or {}
        self.options, self.parameters = program_options(tree)
        self.attributes: dict[str, ast.expr | None] = {}  # that methods set of their object
        self.taken: dict[str, Any] = {}
        self.inside = 0  # of conditions in conditions
        self.names: dict[str, ast.expr | None] = {}
        self.imported: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                for each in node.targets:
                    self._set(each, node.value)
            elif isinstance(node, ast.AnnAssign):
                self._set(node.target, node.value)
            elif isinstance(node, ast.AugAssign | ast.For):
                self._set(node.target, None)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    own = alias.asname or alias.name.split(".")[0]
                    self.imported[own] = alias.name if alias.asname else own
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    self.imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def _set(self, target: ast.expr, value: ast.expr | None) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = None if target.id in self.names else value
        elif isinstance(target, ast.Attribute) and self._is_self(target.value):
            self.attributes[target.attr] = None if target.attr in self.attributes else value

    def _is_self(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id in ("self", "cls")

    def dotted(self, node: ast.expr) -> str:
        """The full name of what an expression names: ``sgl.Engine`` is ``sglang.Engine``."""
        if isinstance(node, ast.Name):
            return self.imported.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            return f"{self.dotted(node.value)}.{node.attr}"
        return ""

    def of(self, node: ast.expr | None, depth: int = 0) -> Any:
        """The value; what the text does not hold is a variable (``$args_tp``)."""
        if node is None or depth > _MAX_DEPTH:
            return unset_variable(node)
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return self._named(node, depth)
        if isinstance(node, ast.List | ast.Tuple):
            return [self.of(e, depth + 1) for e in node.elts]
        if isinstance(node, ast.Dict):
            return self._dict(node, depth)
        if isinstance(node, ast.JoinedStr):
            return self._joined(node, depth)
        if isinstance(node, ast.Call):
            return self._call(node, depth)
        if isinstance(node, ast.BinOp | ast.UnaryOp):
            return self._calculated(node, depth)
        if isinstance(node, ast.Attribute):
            return node.attr if self._is_word(node) else self._attribute(node, depth)
        if isinstance(node, ast.Subscript):
            return self._item(node, depth)
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or) and len(node.values) == 2:
            return self._either(node, depth)
        if isinstance(node, ast.IfExp):
            holds = self.holds(node.test)
            return (
                self._open(node)
                if holds is None
                else self.of(node.body if holds else node.orelse, depth + 1)
            )
        return self._open(node)

    def _open(self, node: ast.expr) -> Any:
        """What the text does not hold: as it is given, else a variable."""
        name = unset_variable(node)
        said = self.given.get(name[1:])
        return name if said is None else _value_of(said)

    def _named(self, node: ast.Name, depth: int) -> Any:
        known = self.names.get(node.id)
        if known is not None:
            return self.of(known, depth + 1)
        if node.id in self.names or node.id not in self.parameters:
            return self._open(node)
        return self._option(self.parameters[node.id], node, depth)

    def _attribute(self, node: ast.Attribute, depth: int) -> Any:
        """``args.tp``: the program's own option, unless the name is one of a module."""
        whose = node.value
        if self._is_self(whose) and node.attr in self.attributes:
            known = self.attributes[node.attr]
            return self._open(node) if known is None else self.of(known, depth + 1)
        module = isinstance(whose, ast.Name) and whose.id in self.imported
        if (
            module
            or node.attr not in self.options
            or not isinstance(whose, ast.Name | ast.Attribute)
        ):
            return self._open(node)
        return self._option(self.options[node.attr], node, depth)

    def _option(self, option: ProgramOption, node: ast.expr, depth: int) -> Any:
        """What the caller or the text gives it; else its default, which is said."""
        if option.name in self.given:
            return _value_of(self.given[option.name])
        said = [self.of(e, depth + 1) for e in option.said if depth < _MAX_DEPTH]
        if said:
            alike = all(v == said[0] for v in said) and not str(said[0]).startswith("$")
            return said[0] if alike else self._open(node)
        if option.default is None:
            return self._open(node)
        value = self.of(option.default, depth + 1)
        if not (isinstance(value, str) and value.startswith("$")):
            self.taken[option.spelling] = value
        return value

    def _item(self, node: ast.Subscript, depth: int) -> Any:
        if self.dotted(node.value) in ("os.environ", "environ"):
            return self._open(node)
        whose, key = self.of(node.value, depth + 1), self.of(node.slice, depth + 1)
        if isinstance(whose, dict) and str(key) in whose:
            return whose[str(key)]
        if isinstance(whose, list) and type(key) is int and -len(whose) <= key < len(whose):
            return whose[key]
        return self._open(node)

    def _either(self, node: ast.BoolOp, depth: int) -> Any:
        """``value or default``."""
        first = self.of(node.values[0], depth + 1)
        unset = isinstance(first, str) and first.startswith("$")
        if not unset:
            return first or self.of(node.values[1], depth + 1)
        other = self.of(node.values[1], depth + 1)
        if isinstance(other, str) and other.startswith("$"):
            return first
        self.taken[first[1:]] = other
        return other

    def holds(self, test: ast.expr) -> bool | None:
        """Whether a condition holds; None where the text does not say."""
        self.inside += 1
        try:
            return self._holds(test) if self.inside < _MAX_DEPTH else None
        finally:
            self.inside -= 1

    def _holds(self, test: ast.expr) -> bool | None:
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            inner = self.holds(test.operand)
            return None if inner is None else not inner
        if isinstance(test, ast.BoolOp):
            parts = [self.holds(v) for v in test.values]
            decides = isinstance(test.op, ast.Or)
            if decides in parts:
                return decides
            return None if None in parts else not decides
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            return self._compared(test)
        option = isinstance(test, ast.Name | ast.Attribute) and self._says_nothing(test)
        value = self.of(test)
        return False if option else None if _is_unset(value) else bool(value)

    def _says_nothing(self, node: ast.expr) -> bool:
        """Whether it is an option of the program that nobody gives, and that has no default."""
        name = own_name(node)
        by_name = isinstance(node, ast.Name)
        option = (self.parameters if by_name else self.options).get(name)
        return (
            not (by_name and name in self.names)
            and option is not None
            and option.spelling.startswith("--")
            and option.default is None
            and not option.said
            and name not in self.given
        )

    def _compared(self, test: ast.Compare) -> bool | None:
        other = test.comparators[0]
        none = isinstance(other, ast.Constant) and other.value is None
        kind = test.ops[0]
        if none and isinstance(kind, ast.Is | ast.IsNot):
            value = self.of(test.left)
            if _is_unset(value) and not self._says_nothing(test.left):
                return None
            is_none = value is None or _is_unset(value)
            return is_none if isinstance(kind, ast.Is) else not is_none
        a, b = self.of(test.left), self.of(other)
        if _is_unset(a) or _is_unset(b):
            return None
        compare = COMPARED.get(type(kind))
        try:
            return None if compare is None else bool(compare(a, b))
        except TypeError:
            return None

    def _is_word(self, node: ast.Attribute) -> bool:
        """``torch.bfloat16``, ``QuantAlgo.FP8``: a name that stands for itself."""
        whose = self.dotted(node.value)
        named = isinstance(node.value, ast.Name) and node.value.id in self.imported
        enum = named and whose.rpartition(".")[2][:1].isupper() and node.attr.isupper()
        return enum or (whose == "torch" and dtypes.known(node.attr) is not None)

    def _dict(self, node: ast.Dict, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                inner = self.of(value, depth + 1)
                found |= inner if isinstance(inner, dict) else {unset_variable(value): None}
            else:
                found[str(self.of(key, depth + 1))] = self.of(value, depth + 1)
        return found

    def _joined(self, node: ast.JoinedStr, depth: int) -> str:
        parts = []
        for piece in node.values:
            inner = piece.value if isinstance(piece, ast.FormattedValue) else piece
            parts.append(str(self.of(inner, depth + 1)))
        return "".join(parts)

    def _call(self, node: ast.Call, depth: int) -> Any:
        name = self.dotted(node.func)
        if name in _ENVIRONMENT and len(node.args) == 2:  # set before it starts, or this
            called = own_name(node)
            if called in self.given:
                return _value_of(self.given[called])
            value = self.of(node.args[1], depth + 1)
            if not _is_unset(value):
                self.taken[called] = value
            return value
        if name in _CASTS and len(node.args) == 1 and not node.keywords:
            value = self.of(node.args[0], depth + 1)
            whole = name == "int" and isinstance(value, str) and value.isdigit()
            return int(value) if whole else value
        if name == "getattr" and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
            said = ast.Attribute(node.args[0], str(node.args[1].value), ast.Load())
            other = node.args[2] if len(node.args) > 2 else None
            if other is None or not self._says_nothing(said):
                return self.of(said, depth + 1)
            return self.of(other, depth + 1)
        made = self._text_call(node, name, depth)
        if made is not None:
            return made
        last = name.rpartition(".")[2]
        if (last == "dict" or last[:1].isupper()) and not node.args:
            return self.keywords(node, depth)
        return self._open(node)

    def _text_call(self, node: ast.Call, name: str, depth: int) -> Any:
        """Texts taken apart and put together: ``" ".join(words)``, ``text.split()``, ``shlex.split``."""
        if name in _LINES_OF and len(node.args) == 1:
            value = self.of(node.args[0], depth + 1)
            if name == "shlex.split" and isinstance(value, str) and not _is_unset(value):
                return _split(value)
            if name == "shlex.join" and isinstance(value, list):
                return " ".join(_quoted(v) for v in value)
            return str(value) if name == "shlex.quote" and not isinstance(value, list) else None
        if not isinstance(node.func, ast.Attribute):
            return None
        whose = node.func.value
        if node.func.attr == "join" and len(node.args) == 1:
            between, parts = self.of(whose, depth + 1), self.of(node.args[0], depth + 1)
            if isinstance(between, str) and isinstance(parts, list):
                return between.join(map(str, parts))
        if node.func.attr in ("split", "strip") and not node.args:
            value = self.of(whose, depth + 1)
            if isinstance(value, str) and not _is_unset(value):
                return value.split() if node.func.attr == "split" else value.strip()
        return None

    def keywords(self, node: ast.Call, depth: int = 0) -> dict[str, Any]:
        """Keyword arguments, those of ``**`` a literal too."""
        keys: list[ast.expr | None] = [
            ast.Constant(k.arg) if k.arg else None for k in node.keywords
        ]
        return self._dict(ast.Dict(keys, [k.value for k in node.keywords]), depth)

    def _calculated(self, node: ast.BinOp | ast.UnaryOp, depth: int) -> Any:
        if isinstance(node, ast.UnaryOp):
            value = self.of(node.operand, depth + 1)
            negative = isinstance(node.op, ast.USub) and isinstance(value, int | float)
            return -value if negative else unset_variable(node)
        a, b = self.of(node.left, depth + 1), self.of(node.right, depth + 1)
        if isinstance(node.op, ast.Add) and isinstance(a, list) and isinstance(b, list):
            return a + b
        if isinstance(node.op, ast.Add) and isinstance(a, str) and isinstance(b, str):
            return a + b
        if not all(type(v) is int and abs(v) < 1 << 40 for v in (a, b)):
            return self._open(node)
        if isinstance(node.op, ast.Mult):
            return a * b
        if isinstance(node.op, ast.FloorDiv) and b:
            return a // b
        if isinstance(node.op, ast.Sub):
            return a - b
        return a + b if isinstance(node.op, ast.Add) else self._open(node)


def _value_of(text: str) -> Any:
    """A value as it is given: a whole number, a truth, else its text."""
    if text.lstrip("-").isdigit():
        return int(text)
    return {"true": True, "false": False}.get(text.lower(), text)


def _is_unset(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("$")


def _quoted(value: Any) -> str:
    return str(value) if "$" in str(value) else shlex.quote(str(value))


def _split(text: str) -> list[str] | None:
    try:
        return shlex.split(text)
    except ValueError:
        return None


def unset_variable(node: ast.expr | None) -> str:
    """A value that the text does not hold, as an unset variable: by the name that it has there, or the
    number of an argument."""
    if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("argv"):
        at = node.slice
        if isinstance(at, ast.Constant) and isinstance(at.value, int) and at.value > 0:
            return f"${at.value}"
    return f"${own_name(node)}"
