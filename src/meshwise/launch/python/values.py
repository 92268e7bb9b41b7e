"""Values of a Python program that stand in its text: constants, names of constants, literals of them."""

from __future__ import annotations

import ast
import re
from typing import Any

from meshwise import dtypes

_MAX_DEPTH = 30
_ENVIRONMENT = ("os.environ.get", "os.getenv", "environ.get", "getenv")
_CASTS = ("int", "str", "float", "bool")


class Values:
    """A program's imports and its names of constants; a name that is set twice has no known value."""

    def __init__(self, tree: ast.Module) -> None:
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
            known = self.names.get(node.id)
            return unset_variable(node) if known is None else self.of(known, depth + 1)
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
        if isinstance(node, ast.Attribute) and self._is_word(node):
            return node.attr
        return unset_variable(node)

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
            return self.of(node.args[1], depth + 1)
        if name in _CASTS and len(node.args) == 1 and not node.keywords:
            value = self.of(node.args[0], depth + 1)
            whole = name == "int" and isinstance(value, str) and value.isdigit()
            return int(value) if whole else value
        last = name.rpartition(".")[2]
        if (last == "dict" or last[:1].isupper()) and not node.args:
            return self.keywords(node, depth)
        return unset_variable(node)

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
        if not all(type(v) is int and abs(v) < 1 << 40 for v in (a, b)):
            return unset_variable(node)
        if isinstance(node.op, ast.Mult):
            return a * b
        if isinstance(node.op, ast.FloorDiv) and b:
            return a // b
        return a + b if isinstance(node.op, ast.Add) else unset_variable(node)


def unset_variable(node: ast.expr | None) -> str:
    """A value that the text does not hold, as an unset variable."""
    name = re.sub(r"\W+", "_", ast.unparse(node) if node is not None else "")[:40].strip("_")
    return f"${name if name[:1].isalpha() else 'value'}"
