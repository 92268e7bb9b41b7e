"""Configurations written in Python: recipes of Megatron-Bridge by their assignments, torchtitan's classes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from meshwise.errors import InputError, shorten
from meshwise.launch.flags import LAYOUT_SETTINGS
from meshwise.launch.python.built import Built, Open
from meshwise.launch.python.functions import Followed, TooLong
from meshwise.launch.python.modules import SourceModule
from meshwise.launch.python.recipe_settings import recipe_settings
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


_RECIPE = re.compile(
    r"(pretrain|finetune|sft|peft)\w*_(config|recipe)$|^(pretrain|finetune)_recipe$"
)


def called_recipe(tree: ast.Module, values: Values) -> str | None:
    """The recipe that a program starts from, as tables name it: ``…_config`` of Megatron-Bridge,
    ``llama3_8b:pretrain_recipe`` of NeMo; None where it calls none. Raises where it calls several."""
    found: list[str] = []
    own = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        parts = values.dotted(node.func).split(".")
        last = parts[-1]
        if len(parts) < 2 or last in own or not _RECIPE.search(last) or last[:1].isupper():
            continue
        found.append(f"{parts[-2]}:{last}" if last.endswith("_recipe") else last)
    names = list(dict.fromkeys(found))
    if len(names) > 1:
        raise InputError(
            f"command: the program starts from several recipes ({', '.join(map(shorten, names[:4]))})",
            field="command",
            value=names[0],
            legal="a program of one of them",
        )
    return names[0] if names else None


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


class WrittenConfig(NamedTuple):
    """A configuration that a function of the text returns, as a target's settings; ``of``: the recipe that
    it starts from, where that is elsewhere."""

    name: str
    of: str
    settings: Settings
    model: str
    open: tuple[str, ...] = ()  # settings whose values are elsewhere


_SIZES = frozenset(["micro_tokens", "local_batch", "micro_batch"])


def written_configs(tree: ast.Module, chosen: Target) -> list[WrittenConfig]:
    """The configurations that functions of a text return, by following them. Raises for a degree whose
    value is not in the text."""
    module = SourceModule(tree)
    family = _family(tree)
    found: list[WrittenConfig] = []
    for name, made in _made(module):
        settings, model = recipe_settings(made, chosen)
        if family and model and ":" not in model and "/" not in model:
            model = f"{family}:{model}"
        if (LAYOUT_SETTINGS | _SIZES) & settings.keys():
            base = made.kind if made.kind[:1].islower() else ""
            left = tuple(k for k, v in settings.items() if isinstance(v, Open))
            found.append(WrittenConfig(name, base, _valued(settings, chosen), model, left))
    return found


def _family(tree: ast.Module) -> str:
    """The family whose registry of models a text imports (torchtitan/models/…); empty where it imports
    none or several."""
    of = [
        node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        and node.module
        and not node.level
        and any(name.name == "model_registry" for name in node.names)
    ]
    return of[0].rpartition(".")[2] if len(of) == 1 else ""


def _made(module: SourceModule) -> Iterator[tuple[str, Built]]:
    """What functions without arguments return, and what names at the top of the text are."""
    for name, function in module.functions.items():
        spec = function.args
        needed = len(spec.args) - len(spec.defaults) + sum(d is None for d in spec.kw_defaults)
        if needed or name.startswith("_"):
            continue
        try:
            made = Followed().call(module, name)
        except (TooLong, RecursionError):
            continue
        if isinstance(made, Built):
            yield name, made
    for name, value in module.constants.items():
        made = Followed().value(value, {}, module)
        if isinstance(made, Built) and made.kind.endswith("Config"):
            yield name, made


def _valued(settings: dict[str, Any], chosen: Target) -> Settings:
    """Settings with the types of their flags; those that stay open left out, but a degree's."""
    found: Settings = {}
    for name, value in settings.items():
        flag = chosen.flags[name]
        if isinstance(value, Open):
            if name in LAYOUT_SETTINGS or name.endswith("batch"):
                raise InputError(
                    f"{flag.spellings[0]}: {shorten(value.text)} is not in the text",
                    field=flag.spellings[0],
                    value=value.text,
                    legal="a number in the text",
                )
            continue
        if flag.kind == "int" and not isinstance(value, int):
            raise InputError(
                f"{flag.spellings[0]}: {shorten(str(value))} is no number",
                field=flag.spellings[0],
                value=str(value),
                legal="a number in the text",
            )
        words = re.findall(r"[\w-]+", str(value))
        found[name] = tuple(words) if flag.kind == "list" else value
        if flag.kind == "flag":
            found[name] = str(value).lower() == "true"
    return found


def one_config(configs: list[WrittenConfig], name: str | None) -> WrittenConfig | None:
    """The configuration of this name, or the only one; raise where several are and none is named."""
    if name is not None:
        return next((c for c in configs if c.name == name), None)
    if len(configs) > 1:
        names = [c.name for c in configs]
        raise InputError(
            f"command: the text has {len(names)} configurations ({', '.join(map(shorten, names[:4]))}"
            f"{', …' if len(names) > 4 else ''}): which of them runs is not said",
            field="command",
            value=names[0],
            legal="the function of one of them alone, or its name in the command (--config, --recipe)",
        )
    return configs[0] if configs else None
