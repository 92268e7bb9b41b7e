"""The layouts of a target's recipes, read out of its own source: a table for ``launch/targets/recipes``.

    python tools/recipe_layouts.py megatron-bridge FOLDER -o src/meshwise/launch/targets/recipes/megatron-bridge.csv \
        --version "067f987d (2026-08)"

``FOLDER`` is what Python's path would have (``src`` of Megatron-Bridge, the checkout of torchtitan or NeMo).
Its functions are followed, never run (:mod:`meshwise.launch.python.functions`). Written per recipe: its
name, the model that it names, and what it says of layout, batch and precision by the names of the
target's table of flags, ``?`` where the text does not give the value.
"""

from __future__ import annotations

import argparse
import ast
import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from meshwise.launch.python.built import Built, Open
from meshwise.launch.python.functions import Followed
from meshwise.launch.python.modules import SourceModule
from meshwise.launch.python.recipe_settings import recipe_settings
from meshwise.launch.table import target


class Row(NamedTuple):
    """``of``: the recipe whose other name this is, where it is one."""

    name: str
    of: str
    model: str
    settings: str


class Source:
    """The modules of a checkout by their full names."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._read: dict[str, SourceModule | None] = {}

    def module(self, name: str) -> SourceModule | None:
        if name not in self._read:
            self._read[name] = None
            path = self.root.joinpath(*name.split("."))
            for file, package in (
                (path.with_suffix(".py"), name.rpartition(".")[0]),
                (path / "__init__.py", name),
            ):
                if file.is_file():
                    self._read[name] = SourceModule(
                        ast.parse(file.read_text(encoding="utf-8")), package
                    )
                    break
        return self._read[name]

    def names(self, folder: str, pattern: str = "*.py") -> list[str]:
        files = sorted((self.root / folder).rglob(pattern))
        parts = [f.relative_to(self.root).with_suffix("").parts for f in files]
        return [".".join(p[:-1] if p[-1] == "__init__" else p) for p in parts]


def bridge(source: Source) -> Iterator[tuple[str, SourceModule, str]]:
    """Every name of a recipe that a command may give: functions, and the aliases of older releases."""
    for folder in ("megatron/bridge/recipes", "megatron/bridge/perf_recipes"):
        for name in source.names(folder):
            module = source.module(name)
            if module is None:
                continue
            for function in (*module.functions, *module.imported):
                if function.endswith("_config") and not function.startswith("_"):
                    yield function, module, function


def torchtitan(source: Source) -> Iterator[tuple[str, SourceModule, str]]:
    for name in source.names("torchtitan", "config_registry.py"):
        module = source.module(name)
        short = name.removesuffix(".config_registry")
        for folder in ("torchtitan.models.", "torchtitan.experiments."):
            short = short.removeprefix(folder)
        for function in module.functions if module is not None else ():
            if not function.startswith("_") and module is not None:
                yield f"{short}:{function}", module, function


def nemo(source: Source) -> Iterator[tuple[str, SourceModule, str]]:
    for name in source.names("nemo/collections/llm/recipes"):
        module = source.module(name)
        for function in ("pretrain_recipe", "finetune_recipe"):
            if module is not None and function in module.functions:
                yield f"{name.rpartition('.')[2]}:{function}", module, function


SOURCES = {
    "megatron-bridge": (bridge, "megatron-bridge"),
    "torchtitan": (torchtitan, "torchtitan"),
    "nemo": (nemo, "megatron-bridge"),
}


def rows(name: str, root: Path) -> list[Row]:
    source = Source(root)
    every, own = SOURCES[name]
    chosen = target(own)
    found: dict[str, Row] = {}
    for recipe, module, function in every(source):
        follow = Followed(source.module)
        home = follow.home(module, function)
        if home is None or home[1] not in home[0].functions or recipe in found:
            continue
        if recipe.endswith(home[1]):
            made: Any = follow.call(*home)
            if isinstance(made, Built):
                settings, model = recipe_settings(made, chosen)
                shown = " ".join(
                    f"{k}={'?' if isinstance(v, Open) else v}" for k, v in settings.items()
                )
                found[recipe] = Row(recipe, "", model, shown)
        else:
            found[recipe] = Row(recipe, home[1], "", "")
    return [row for _, row in sorted(found.items()) if row.settings or row.of in found]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("target", choices=SOURCES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--version", required=True)
    given = parser.parse_args()
    table = rows(given.target, given.folder)
    out = given.output.open("w", encoding="utf-8", newline="") if given.output else sys.stdout
    print(f"# {given.version}", file=out)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(table)
    print(f"{len(table)} recipes", file=sys.stderr)


if __name__ == "__main__":
    main()
