"""Classes, their fields and constants in Python sources that are parsed and never imported."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, NamedTuple


class Unknown(ValueError):
    """An expression whose value does not follow from the text."""


class Field(NamedTuple):
    name: str
    annotation: ast.expr
    default: ast.expr | None
    init: bool
    argparse: dict[str, ast.expr]  # of ``metadata={"argparse_meta": {…}}``
    alias: str = ""  # by which a pydantic model reads it

    @property
    def hidden(self) -> bool:
        return "Suppress" in ast.unparse(self.annotation)

    def classes(self, index: Index) -> list[str]:
        """Known classes that its annotation names."""
        found = []
        for node in ast.walk(self.annotation):
            if isinstance(node, (ast.Name, ast.Attribute)):
                name = ast.unparse(node)
                if name in index.classes:
                    found.append(name)
        return found


class Index:
    """What the files of a few folders define, by name; of two classes of one name the first."""

    def __init__(self, folder: Path, places: tuple[str, ...]) -> None:
        self.trees: dict[str, ast.Module] = {}
        self.classes: dict[str, ast.ClassDef] = {}
        self.constants: dict[str, Any] = {}
        self._aliases: dict[str, ast.expr] = {}
        self._local: dict[ast.AST, dict[str, Any]] = {}
        for place in places:
            at = folder / place
            if not at.exists():
                raise SystemExit(f"{at}: no such file or folder")
            for path in sorted(at.rglob("*.py")) if at.is_dir() else [at]:
                self._read(path.relative_to(folder).as_posix(), path)

    def _read(self, name: str, path: Path) -> None:
        if name in self.trees:
            return
        try:
            self.trees[name] = ast.parse(path.read_text(encoding="utf-8"))
        except SyntaxError:
            return
        self._classes(self.trees[name].body, "")
        for node in self.trees[name].body:
            target, value = assigned(node)
            if target is None or value is None:
                continue
            try:
                self.constants.setdefault(target, literal(value, self.constants))
            except Unknown:
                self._aliases.setdefault(target, value)

    def _classes(self, body: list[ast.stmt], outer: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                self.classes.setdefault(outer + node.name, node)
                self._classes(node.body, f"{outer}{node.name}.")

    def alias(self, name: str) -> ast.expr | None:
        return self._aliases.get(name)

    def local(self, scope: ast.AST) -> dict[str, Any]:
        """Constants, and names that a function gives a literal."""
        if scope in self._local:
            return self._local[scope]
        found = self._local[scope] = dict(self.constants)
        for node in ast.walk(scope):
            target, value = assigned(node)
            if target is not None and value is not None:
                try:
                    found[target] = literal(value, found)
                except Unknown:
                    continue
        return found

    def fields(self, name: str, above: tuple[str, ...] = ()) -> list[Field]:
        """A class' own fields and those of its bases, the last definition of each name."""
        node = self.classes.get(name)
        if node is None or name in above:
            return []
        found: dict[str, Field] = {}
        for base in reversed(node.bases):
            for field in self.fields(ast.unparse(base), (*above, name)):
                found[field.name] = field
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                if "ClassVar" in ast.unparse(statement.annotation):
                    continue
                found[statement.target.id] = field_of(statement)
        return list(found.values())


def assigned(node: ast.AST) -> tuple[str | None, ast.expr | None]:
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        return (target.id, node.value) if isinstance(target, ast.Name) else (None, None)
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id, node.value
    return None, None


def field_of(node: ast.AnnAssign) -> Field:
    assert isinstance(node.target, ast.Name)
    name, value, init = node.target.id, node.value, True
    argparse: dict[str, ast.expr] = {}
    alias = ""
    if isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1].lower() == "field":
        words = {w.arg: w.value for w in value.keywords}
        init = ast.unparse(words["init"]) != "False" if "init" in words else True
        argparse = argparse_words(words.get("metadata"))
        named = words.get("alias")
        if isinstance(named, ast.Constant) and isinstance(named.value, str):
            alias = named.value
        value = words.get("default") or (value.args[0] if value.args else None)
        if value is None and "default_factory" in words:
            made = words["default_factory"]
            value = made.body if isinstance(made, ast.Lambda) else ast.Name(id="?")
    if isinstance(value, ast.Constant) and value.value is Ellipsis:
        value = None
    annotation = node.annotation
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    return Field(name, annotation, value, init, argparse, alias)


def argparse_words(metadata: ast.expr | None) -> dict[str, ast.expr]:
    for key, value in pairs(metadata):
        if key == "argparse_meta":
            return dict(pairs(value))
    return {}


def pairs(node: ast.expr | None) -> list[tuple[str, ast.expr]]:
    if not isinstance(node, ast.Dict):
        return []
    return [
        (str(k.value), v)
        for k, v in zip(node.keys, node.values, strict=True)
        if isinstance(k, ast.Constant)
    ]


def literal(node: ast.expr, names: dict[str, Any]) -> Any:
    """The value of an expression of constants and of ``names``; raises :class:`Unknown`."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        found: list[Any] = []
        for each in node.elts:
            if isinstance(each, ast.Starred):
                found += literal(each.value, names)
            else:
                found.append(literal(each, names))
        return found
    if isinstance(node, ast.Dict) and all(k is not None for k in node.keys):
        return {
            literal(k, names): literal(v, names)
            for k, v in zip(node.keys, node.values, strict=True)
            if k is not None
        }
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -literal(node.operand, names)
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mult, ast.Pow)):
        left, right = literal(node.left, names), literal(node.right, names)
        if isinstance(node.op, ast.Add):
            return left + right
        return left * right if isinstance(node.op, ast.Mult) else left**right
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("list", "tuple", "set", "sorted"):
        return list(literal(node.args[0], names)) if node.args else []
    if isinstance(node, ast.Attribute):  # a member of an enumeration, by its name
        return node.attr.lower()
    raise Unknown(ast.unparse(node))


def literal_words(node: ast.expr, index: Index) -> tuple[str, ...]:
    """The words of a part of ``Literal[…]``: its own, or those of an alias."""
    alias = index.alias(node.id) if isinstance(node, ast.Name) else None
    if alias is not None:
        return annotation_kind(alias, index, 1)[2]
    try:
        word = literal(node, index.constants)
    except Unknown:
        return ()
    return () if word is None else (str(word),)


def annotation_kind(
    node: ast.expr, index: Index, depth: int = 0
) -> tuple[str, str, tuple[str, ...]]:
    """Type, number of values (``switch`` for a bool) and choices by an annotation."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and depth < 8:
        return annotation_kind(ast.parse(node.value, mode="eval").body, index, depth + 1)
    if isinstance(node, ast.Subscript):
        outer = ast.unparse(node.value).split(".")[-1]
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if outer == "Literal":
            return "str", "1", tuple(w for each in inner for w in literal_words(each, index))
        if outer in ("Optional", "Union", "SkipValidation", "Annotated"):
            return best([annotation_kind(each, index, depth + 1) for each in inner])
        if outer.lower() in ("list", "sequence", "tuple", "set"):
            kind, _, choices = annotation_kind(inner[0], index, depth + 1)
            return kind, "+", choices
        if outer.lower() in ("dict", "mapping"):
            return "json", "1", ()
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        sides = [node.left, node.right]
        return best([annotation_kind(each, index, depth + 1) for each in sides])
    name = ast.unparse(node).split(".")[-1]
    if name == "bool":
        return "bool", "switch", ()
    if name in ("int", "float", "str"):
        return name, "1", ()
    alias = index.alias(name)
    if alias is not None and depth < 8:
        return annotation_kind(alias, index, depth + 1)
    made = index.classes.get(name)
    if made is not None and any("Enum" in ast.unparse(b) for b in made.bases):
        members = [t for t, v in map(assigned, made.body) if t is not None and v is not None]
        return "str", "1", tuple(members)
    return ("none" if name == "None" else "json" if made is not None else "str"), "1", ()


def best(kinds: list[tuple[str, str, tuple[str, ...]]]) -> tuple[str, str, tuple[str, ...]]:
    """Of the parts of a union the one that says how a flag is read: a switch, a word of a few, a list, a
    number, in this order; a switch that may also have a word after it."""
    kinds = [k for k in kinds if k[0] != "none"] or kinds
    switch = next((k for k in kinds if k[1] == "switch"), None)
    if switch is not None:
        return switch if {k[0] for k in kinds} == {"bool"} else ("str", "?", ())
    choices = tuple(dict.fromkeys(c for k in kinds for c in k[2]))
    values = "+" if any(k[1] == "+" for k in kinds) else kinds[0][1]
    order = ("float", "int", "json", "str")
    first = min(kinds, key=lambda k: order.index(k[0]) if k[0] in order else len(order))
    return first[0], values, choices
