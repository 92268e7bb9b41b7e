"""A text of Python: its functions, its constants, and what it imports from where."""

from __future__ import annotations

import ast


class SourceModule:
    """A text of Python: its functions, constants and what it imports from where (package, name)."""

    def __init__(self, tree: ast.Module, package: str = "") -> None:
        self.functions: dict[str, ast.FunctionDef] = {}
        self.constants: dict[str, ast.expr] = {}
        self.imported: dict[str, tuple[str, str]] = {}
        self.stars: list[str] = []  # packages all of whose names are imported
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                whole = _package(package, node.level, node.module or "")
                for alias in node.names:
                    if alias.name == "*":
                        self.stars.append(whole)
                    self.imported[alias.asname or alias.name] = (whole, alias.name)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                self.functions[node.name] = node
            elif isinstance(node, ast.Assign):
                self.constants |= {
                    t.id: node.value for t in node.targets if isinstance(t, ast.Name)
                }
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                self.constants |= {node.target.id: node.value} if node.value is not None else {}


def _package(package: str, level: int, module: str) -> str:
    """The full name of a relative import's module."""
    if not level:
        return module
    kept = package.split(".")[: -(level - 1) or None]
    return ".".join([*kept, module]) if module else ".".join(kept)
