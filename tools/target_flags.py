"""The flags of a launch target, read out of its own source: a table for ``launch/targets/flags``.

    python tools/target_flags.py vllm FOLDER -o src/meshwise/launch/targets/flags/vllm.csv --version 0.33.0

``FOLDER`` is a checkout or an unpacked package. Its Python is parsed, never imported: calls of
``add_argument`` and ``click.option``, and the fields of dataclasses and pydantic models that the target
turns into flags or keys. Written per flag: its spellings, type, how many values follow it, default and
choices, as the source has them; ``?`` where an expression gives one.
"""

from __future__ import annotations

import argparse
import ast
import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from python_fields import Field, Index, Unknown, annotation_kind, literal


class Row(NamedTuple):
    """``values``: as argparse's ``nargs`` (``1`` where one follows, ``0`` for a switch)."""

    spellings: tuple[str, ...]
    type: str
    values: str
    default: str
    choices: tuple[str, ...]


class Source(NamedTuple):
    """Where a target keeps its flags: files with calls, and classes whose fields are keys."""

    calls: tuple[str, ...] = ()  # files, relative to the folder
    index: tuple[str, ...] = ()  # folders whose classes are looked up by name
    tree: str = ""  # the class whose fields are the sections of ``--section.field``
    flags: tuple[str, ...] = ()  # classes each of whose fields is a flag
    sections: tuple[
        tuple[str, str], ...
    ] = ()  # of a configuration file: name and the class of its keys
    constants: tuple[str, ...] = ()  # files whose constants of text are keys
    prefix: str = "--"


# variable → the class whose fields it holds and those left out, or one field
Names = dict[str, "tuple[str, set[str]] | Field"]

SOURCES = {
    "vllm": Source(
        calls=("vllm/engine/arg_utils.py", "vllm/entrypoints/common/cli_args.py"),
        index=("vllm/config", "vllm/entrypoints/common"),
        flags=("FrontendArgs",),
    ),
    "sglang": Source(calls=("sglang/srt/server_args.py",), index=("sglang/srt/server_args.py",)),
    "megatron-lm": Source(
        calls=("megatron/training/arguments.py",),
        index=("megatron/training", "megatron/core"),
    ),
    "accelerate": Source(calls=("src/accelerate/commands/launch.py",)),
    "torchtitan": Source(index=("torchtitan",), tree="Trainer.Config"),
    "deepspeed": Source(
        index=("deepspeed",),
        prefix="",
        sections=(
            ("zero_optimization", "DeepSpeedZeroConfig"),
            ("bf16", "DeepSpeedBF16Config"),
            ("fp16", "DeepSpeedFP16Config"),
            ("tensor_parallel", "TPTrainingConfig"),
            ("compile", "CompileConfig"),
            ("comms_logger", "CommsLoggerConfig"),
            ("tensorboard", "TensorBoardConfig"),
            ("wandb", "WandbConfig"),
            ("csv_monitor", "CSVConfig"),
            ("comet", "CometConfig"),
            ("hybrid_engine", "HybridEngineConfig"),
        ),
        constants=(
            "deepspeed/runtime/constants.py",
            "deepspeed/runtime/activation_checkpointing/config.py",
            "deepspeed/runtime/swap_tensor/constants.py",
            "deepspeed/runtime/data_pipeline/constants.py",
            "deepspeed/compression/constants.py",
            "deepspeed/elasticity/constants.py",
            "deepspeed/autotuning/constants.py",
            "deepspeed/profiling/constants.py",
            "deepspeed/monitor/constants.py",
            "deepspeed/nebula/constants.py",
        ),
    ),
    "trtllm": Source(calls=("tensorrt_llm/commands/serve.py",)),
}


def rows(source: Source, folder: Path) -> list[Row]:
    index = Index(folder, (*source.index, *source.calls))
    found: list[Row] = []
    for path in source.calls:
        found += calls(index.trees[path], index)
    if source.tree:
        found += tree_rows(source.tree, source.prefix, index, ())
    for section, name in source.sections:
        found.append(Row((section,), "str", "1", "", ()))
        found += tree_rows(name, f"{source.prefix}{section}.", index, ())
    for path in source.constants:
        found += keys_of_constants(folder / path)
    for name in source.flags:
        found += [of_field(field, index) for field in index.fields(name)]
    return merged(found)


def merged(found: list[Row]) -> list[Row]:
    """Each spelling once: the first place that has it."""
    seen: set[str] = set()
    kept = []
    for row in found:
        new = tuple(s for s in row.spellings if s not in seen)
        if new:
            seen.update(new)
            kept.append(row._replace(spellings=new))
    return sorted(kept)


# -- calls that make flags ---------------------------------------------------------------------------------


def calls(tree: ast.AST, index: Index) -> Iterator[Row]:
    for scope in [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.Module))]:
        names: Names = {}
        for node in own_nodes(scope):
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                remember(node, names, index, scope)
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if called == "add_argument":
                yield from argument(node, names, index)
            elif called == "option":
                yield from option(node, index)
            elif called == "build_group" and isinstance(node.func, ast.Attribute):
                yield from group(node.func.value, names, index, scope)


def own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function in the order of the text, without those of functions within."""
    for child in ast.iter_child_nodes(scope):
        if isinstance(child, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            for decorator in child.decorator_list:
                yield from [decorator, *own_nodes(decorator)]
            continue
        yield child
        yield from own_nodes(child)


def remember(node: ast.Assign, names: Names, index: Index, scope: ast.AST) -> None:
    target, value = node.targets[0], node.value
    if not isinstance(target, ast.Name):
        return
    made = class_of(value, index, scope) if isinstance(value, ast.Call) else None
    held = made or spread(value, names, index)
    if held is not None:
        names[target.id] = held


def class_of(call: ast.Call, index: Index, scope: ast.AST) -> tuple[str, set[str]] | None:
    """The class whose fields ``get_kwargs(C)`` or ``…Factory(C, exclude=…)`` makes flags of."""
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    if not call.args or not (name == "get_kwargs" or name.endswith("Factory")):
        return None
    if not isinstance(call.args[0], ast.Name):
        return None
    left: set[str] = set()
    for word in call.keywords:
        if word.arg == "exclude":
            left = set(literal(word.value, index.local(scope)))
    return call.args[0].id, left


def argument(node: ast.Call, names: Names, index: Index) -> Iterator[Row]:
    spellings = tuple(
        a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)
    )
    if not spellings or not spellings[0].startswith("-"):
        return
    given: dict[str, Any] = {}
    for word in node.keywords:
        if word.arg is None:
            field = spread(word.value, names, index)
            if field is not None:
                kind, values, default, choices = field_kind(field, index)
                given |= {"kind": kind, "values": values, "default": default, "choices": choices}
            continue
        given[word.arg] = word.value
    yield from made(spellings, given, index)


def spread(value: ast.expr, names: Names, index: Index) -> Field | None:
    """The field behind ``kwargs["field"]``, or a variable that holds it."""
    if isinstance(value, ast.Name):
        held = names.get(value.id)
        return held if isinstance(held, Field) else None
    if isinstance(value, ast.Subscript) and isinstance(value.value, ast.Name):
        of_class = names.get(value.value.id)
        if of_class is not None and not isinstance(of_class, Field):
            wanted = literal(value.slice, {})
            return next((f for f in index.fields(of_class[0]) if f.name == wanted), None)
    return None


def made(spellings: tuple[str, ...], given: dict[str, Any], index: Index) -> Iterator[Row]:
    action = given.get("action")
    named = action.value if isinstance(action, ast.Constant) else source_text(action).split(".")[-1]
    kind, values = given.get("kind", "str"), given.get("values", "1")
    default = given.get("default", "")
    if isinstance(default, ast.expr):
        default = shown(default, index)
    if named in ("store_true", "store_false", "store_const", "help", "version", "count"):
        kind, values = "bool", "0"
    elif named == "BooleanOptionalAction":
        kind, values = "bool", "switch"
    if isinstance(given.get("type"), ast.expr):
        kind = source_text(given["type"]).split(".")[-1]
        kind = kind if kind.isidentifier() else "str"
    if isinstance(given.get("nargs"), ast.expr):
        values = shown(given["nargs"], index)
    choices = given.get("choices", ())
    if isinstance(choices, ast.expr):
        choices = choice_words(choices, index)
    if values == "switch":
        off = tuple("--no-" + s[2:] for s in spellings if s.startswith("--"))
        yield Row((*spellings, *off), kind, "0", default, choices)
    else:
        yield Row(spellings, kind, values, default, choices)


def of_field(field: Field, index: Index) -> Row:
    """A flag of a field's name, as ``get_kwargs`` makes it."""
    kind, values, default, choices = field_kind(field, index)
    name = field.name.replace("_", "-")
    if values == "switch":
        return Row((f"--{name}", f"--no-{name}"), kind, "0", default, choices)
    return Row((f"--{name}",), kind, values, default, choices)


def choice_words(node: ast.expr, index: Index) -> tuple[str, ...]:
    try:
        return tuple(str(c) for c in literal(node, index.constants))
    except (Unknown, TypeError):
        return ()


def option(node: ast.Call, index: Index) -> Iterator[Row]:
    spellings: list[str] = []
    for a in node.args:
        if isinstance(a, ast.Constant) and isinstance(a.value, str) and a.value.startswith("-"):
            spellings += a.value.split("/")
    if not spellings:
        return
    given = {w.arg: w.value for w in node.keywords if w.arg}
    switch = "is_flag" in given or any("/" in str(getattr(a, "value", "")) for a in node.args)
    kind, choices = "str", ()
    typed = given.get("type")
    if isinstance(typed, ast.Call) and typed.args:
        choices = choice_words(typed.args[0], index)
    elif typed is not None:
        kind = source_text(typed).split(".")[-1]
    default = shown(given["default"], index) if "default" in given else ""
    values = "0" if switch else "1"
    yield Row(tuple(spellings), "bool" if switch else kind, values, default, choices)


def group(value: ast.expr, names: Names, index: Index, scope: ast.AST) -> Iterator[Row]:
    """The flags of a factory over a dataclass: a switch that is on by default has ``--no-`` and
    ``--disable-`` only."""
    held = names.get(value.id) if isinstance(value, ast.Name) else None
    if held is None and isinstance(value, ast.Call):
        held = class_of(value, index, scope)
    if held is None or isinstance(held, Field):
        return
    for field in index.fields(held[0]):
        if field.name in held[1] or not field.init:
            continue
        kind, values, default, choices = field_kind(field, index)
        name = field.name.replace("_", "-")
        spellings: tuple[str, ...] = (f"--{name}",)
        if values == "switch":
            values = "0"
            if default != "False":
                spellings = (f"--no-{name}", f"--disable-{name}")
        for key, node in field.argparse.items():
            if key == "arg_names":
                spellings = tuple(literal(node, index.constants))
            elif key == "nargs":
                values = shown(node, index)
            elif key == "choices":
                choices = choice_words(node, index)
            elif key == "action":
                kind, values = "bool", "0"
        yield Row(spellings, kind, values, default, choices)


# -- fields that are keys --------------------------------------------------------------------------------


def tree_rows(name: str, prefix: str, index: Index, above: tuple[str, ...]) -> Iterator[Row]:
    if name in above:
        return
    for field in index.fields(name):
        if field.hidden or not field.init or field.name.startswith("_"):
            continue
        held = [c for c in field.classes(index) if index.fields(c)]
        if held:
            if not prefix.startswith("-"):  # a file's section may be named as a whole
                yield Row((prefix + field.name,), "str", "1", "", ())
            for each in dict.fromkeys(held):
                yield from tree_rows(each, f"{prefix}{field.name}.", index, (*above, name))
            continue
        kind, values, default, choices = field_kind(field, index)
        spellings: tuple[str, ...] = (prefix + field.name,)
        if field.alias:
            spellings = (prefix + field.alias, *spellings)
        if values == "switch" and not prefix.startswith("-"):
            values = "1"
        if values == "switch":  # --section.field, --section.no-field, or a value after it
            values, spellings = "?", (*spellings, f"{prefix}no-{field.name}")
        yield Row(spellings, kind, values, default, choices)


def keys_of_constants(path: Path) -> Iterator[Row]:
    """Keys of a configuration file that its reader has as constants (``TRAIN_BATCH_SIZE = "…"``)."""
    if not path.is_file():
        return
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Constant):
            continue
        value = node.value.value
        if isinstance(value, str) and value.isidentifier() and value.islower():
            yield Row((value,), "str", "1", "", ())


def field_kind(field: Field, index: Index) -> tuple[str, str, str, tuple[str, ...]]:
    kind, values, choices = annotation_kind(field.annotation, index)
    return kind, values, "" if field.default is None else shown(field.default, index), choices


def shown(node: ast.expr, index: Index) -> str:
    try:
        return str(literal(node, index.constants))
    except Unknown:
        return "?"


def source_text(node: Any) -> str:
    return ast.unparse(node) if isinstance(node, ast.AST) else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=sorted(SOURCES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--version", required=True, help="release or commit that the folder holds")
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    found = rows(SOURCES[asked.target], asked.folder)
    out = asked.output.open("w", encoding="utf-8", newline="") if asked.output else sys.stdout
    with out:
        out.write(f"# {asked.version}\n")
        write = csv.writer(out, lineterminator="\n")
        write.writerow(["spellings", "type", "values", "default", "choices"])
        for row in found:
            default = row.default if len(row.default) <= 40 else "?"
            write.writerow(
                [" ".join(row.spellings), row.type, row.values, default, "|".join(row.choices)]
            )


if __name__ == "__main__":
    main()
