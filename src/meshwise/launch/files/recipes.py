"""Recipes of Megatron-Bridge, NeMo and torchtitan by their names (``targets/recipes``, written by
``tools/recipe_layouts.py``): what they say where a command does not."""

from __future__ import annotations

import csv
import functools
import re
from typing import Any, NamedTuple

from meshwise.errors import InputError, closest, shorten
from meshwise.launch.settings.settings import Settings
from meshwise.launch.table import Target
from meshwise.launch.targets import TARGETS_FOLDER


class NamedRecipe(NamedTuple):
    """``open``: settings whose values the recipe's text does not hold."""

    name: str
    model: str
    settings: Settings
    open: tuple[str, ...]
    release: str


class _Table(NamedTuple):
    release: str
    rows: dict[str, dict[str, str]]


@functools.cache
def _table(name: str) -> _Table:
    path = TARGETS_FOLDER / "recipes" / f"{name}.csv"
    with path.open(encoding="utf-8", newline="") as lines:
        release = next(lines).removeprefix("#").strip()
        return _Table(release, {row["name"]: row for row in csv.DictReader(lines)})


# which tables a target's commands name recipes of, and of which target's settings they are
_TABLES = {"megatron-bridge": ("megatron-bridge", "nemo"), "torchtitan": ("torchtitan",)}


def find_recipe(name: str, chosen: Target) -> NamedRecipe | None:
    """A recipe of a target by the name that commands give it; None where no table has it."""
    for table_name in _TABLES[chosen.name]:
        table = _table(table_name)
        row = table.rows.get(name)
        if row is None:
            continue
        row = table.rows[row["of"]] if row["of"] else row
        pairs = [word.partition("=") for word in row["settings"].split()]
        settings = {k: _typed(k, v, chosen) for k, _, v in pairs if v != "?"}
        left = tuple(k for k, _, v in pairs if v == "?")
        return NamedRecipe(name, row["model"], settings, left, table.release)
    return None


def recipe_names(chosen: Target) -> list[str]:
    return [name for table in _TABLES[chosen.name] for name in _table(table).rows]


def _typed(setting: str, text: str, chosen: Target) -> Any:
    flag = chosen.flags.get(setting)
    if flag is None or flag.kind == "text":
        return text
    if flag.kind == "flag":
        return text == "true"
    if flag.kind == "list":
        return tuple(re.findall(r"[\w-]+", text))
    return int(text)


def with_recipe(own: Settings, name: str, chosen: Target) -> Settings:
    """A command's settings over those of the recipe that it names. Of a recipe that is in no table the
    degrees have to be in the command."""
    recipe = find_recipe(name, chosen)
    if recipe is not None:
        found = {k: v for k, v in recipe.settings.items() if k not in own}
        if recipe.model and "model" not in own:
            found["model"] = recipe.model
        left = [k for k in recipe.open if k not in own]
        note = f"recipe {name} as of {recipe.release}"
        if left:
            note += f"; what it gives {', '.join(left)} does not follow from its text"
        return own | found | {"recipe_notes": (note,)}
    missing = [n for n in _NEEDED[chosen.name] if n not in own]
    if missing:
        spelt = ", ".join(chosen.flags[n].spellings[0] for n in missing)
        alike = (n for n in closest(name, recipe_names(chosen)) if n[:5] == name[:5])
        near = next(alike, None)
        raise InputError(
            f"recipe: what {shorten(name)} sets is not known, and the command does not say {spelt}",
            field="recipe",
            value=name,
            legal=f"the command with {spelt}; or a recipe of {_table(_TABLES[chosen.name][0]).release}",
            nearest=near,
        )
    note = f"what recipe {name} sets beside the command is not known"
    return own | {"recipe_notes": (note,)}


_NEEDED = {"megatron-bridge": ("tp", "pp"), "torchtitan": ("tp", "pp")}
