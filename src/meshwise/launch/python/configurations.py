"""Configurations written in Python: recipes of Megatron-Bridge by their assignments, torchtitan's classes."""

from __future__ import annotations

import ast
import re
from typing import Any

from meshwise.errors import InputError, shorten
from meshwise.launch.python.values import Values
from meshwise.launch.settings.settings import Settings
from meshwise.launch.table import Target


def python_tree(text: str) -> ast.Module | None:
    """A text that is a Python program: it has an import, a function or an assignment to an attribute."""
    if not re.search(
        r"(?m)^\s*(from\s+[\w.]+\s+import\b|import\s+\w|def\s+\w+\(|[\w.]+\.\w+\s*=[^=])", text
    ):
        return None
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree


def recipe_words(tree: ast.Module, values: Values) -> list[str]:
    """Assignments to attributes of a recipe (``cfg.model.tensor_model_parallel_size = 4``) as the
    overrides that they are, in order; values that are no constants stay as variables."""
    found: dict[str, str] = {}
    open_ = conditional(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for each in targets:
            if not isinstance(each, ast.Attribute):
                continue
            name = _own_name(each)
            shown = str(values.of(node.value))
            if id(node) in open_ and _LAYOUT.search(name):
                raise InputError(
                    f"{shorten(name)}: set under a condition",
                    field=name,
                    value=shown,
                    legal="an assignment that always runs",
                )
            if name in found and found[name] != shown:
                raise InputError(
                    f"{shorten(name)}: set to {shorten(found[name])} and to {shorten(shown)}",
                    field=name,
                    value=shown,
                    legal="one value",
                )
            found[name] = shown
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg and _LAYOUT.search(node.arg):
            section = "train" if node.arg.endswith("batch_size") else "model"
            found.setdefault(f"{section}.{node.arg}", str(values.of(node.value)))
    return [f"{name}={value}" for name, value in found.items()]


def _own_name(node: ast.Attribute) -> str:
    """``recipe.trainer.strategy.x`` (NeMo 2) and ``cfg.model.x`` as the override ``model.x``."""
    name = ".".join(ast.unparse(node).split(".")[1:])
    name = re.sub(r"^(?:.*\.)?(model|train|ddp|comm_overlap|optimizer)\.", r"\1.", name)
    return re.sub(r"^(trainer\.strategy)\.", "model.", name)


def recipe_gpus(tree: ast.Module, values: Values) -> int | None:
    """GPUs of a recipe's trainer: its nodes times its devices, where both are in the text."""
    said: dict[str, list[Any]] = {"nodes": [], "each": []}
    for node in ast.walk(tree):
        pairs: list[tuple[str, ast.expr | None]] = []
        if isinstance(node, ast.keyword) and node.arg:
            pairs = [(node.arg, node.value)]
        elif isinstance(node, ast.Assign):
            pairs = [(t.attr, node.value) for t in node.targets if isinstance(t, ast.Attribute)]
        for name, value in pairs:
            for kind, words in (("nodes", _NODES), ("each", _DEVICES)):
                if name in words and values.of(value) not in said[kind]:
                    said[kind].append(values.of(value))
    if any(len(v) != 1 or type(v[0]) is not int for v in said.values()):
        return None
    return int(said["nodes"][0] * said["each"][0])


_NODES = ("num_nodes", "nnodes")
_DEVICES = ("devices", "num_gpus_per_node", "gpus_per_node", "ntasks_per_node")
_LAYOUT = re.compile(r"parallel_size$|sequence_parallel$|^(train\.)?(micro|global)_batch_size$")


def conditional(tree: ast.Module) -> set[int]:
    """Statements that a condition or a loop may leave out."""
    found: set[int] = set()
    for node in ast.walk(tree):
        guard = isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
        if isinstance(node, ast.If | ast.While | ast.For | ast.Try) and not guard:
            found |= {id(inner) for inner in ast.walk(node)}
    return found


def titan_config(text: str, chosen: Target) -> Settings:
    """Keyword arguments of a torchtitan configuration written in Python."""
    found: Settings = {}
    if "ParallelismConfig" not in text:
        return found
    for name, flag in chosen.flags.items():
        keys = "|".join(dict.fromkeys(s.rpartition(".")[2] for s in flag.spellings))
        match = re.search(rf"\b({keys})\s*=\s*([^\s,)]+)", text)
        if match is None or name == "config":
            continue
        key, value = match.group(1), match.group(2).strip("'\"")
        if flag.kind == "int" and not re.fullmatch(r"-?\d+", value):
            raise InputError(
                f"{key}: {shorten(value)} is no number",
                field=key,
                value=value,
                legal="a number in the text",
            )
        found[name] = int(value) if flag.kind == "int" else value
    mode = re.search(r"ActivationCheckpointConfig\([^)]*mode\s*=\s*[\"'](\w+)", text)
    kept = re.search(r"\b(Full|Selective)AC\.Config\(", text)
    if mode:
        found["checkpointing"] = mode.group(1)
    elif kept:
        found["checkpointing"] = kept.group(1).lower()
    converters = [name for word, name in _CONVERTERS.items() if re.search(rf"\b{word}\b", text)]
    if converters:
        found["converters"] = ",".join(converters)
    return found


# converters as classes, by their names on a command line
_CONVERTERS = {
    "Float8LinearConverter": "quantize.linear.float8",
    "MXFP8LinearConverter": "quantize.linear.mx",
    "MXLinearConverter": "quantize.linear.mx",
    "Float8GroupedMMConverter": "quantize.grouped_mm.float8",
    "MXFP8GroupedMMConverter": "quantize.grouped_mm.mx",
}
