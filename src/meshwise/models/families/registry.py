"""Every family that is read, and the functions that build its layers, by name.

A module of this folder is imported when something is looked for that those before it do not have:
reading a model takes one or two of them, and so does starting up.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from meshwise.models.families.keys import Family, Reader
from meshwise.models.families.layers import ModelFields, standard

# Modules by what their tables are called (NAME_FAMILIES, NAME_BUILDERS), the most used ones first.
_MODULES = {
    "DENSE": "llama",
    "MOE": "experts",
    "IRREGULAR": "irregular",
    "SEARCHED": "searched",
    "VARIANT": "variants",
    "DELTA": "delta",
    "SPARSE": "sparse",
    "NEMOTRON": "nemotron",
    "MINIMAX": "minimax",
    "GEMMA": "gemma",
    "STATE_SPACE": "state_space",
    "ZAMBA": "zamba",
    "CONVOLUTION": "short_convolution",
    "STEP": "step",
    "HUNYUAN": "hunyuan",
    "LONGCAT": "longcat",
    "ERNIE": "ernie",
    "BAILING": "bailing",
}
T = TypeVar("T")
Builder = Callable[[Reader], ModelFields]


class Registry(Mapping[str, T]):
    """The tables of one kind of all modules, as one."""

    def __init__(self, kind: str, own: Mapping[str, T]) -> None:
        self._kind, self._own = kind, own

    def _tables(self) -> Iterator[Mapping[str, T]]:
        yield self._own
        for name, module in _MODULES.items():
            found: Any = importlib.import_module(f"meshwise.models.families.{module}")
            yield getattr(found, f"{name}_{self._kind}", {})

    def __getitem__(self, key: str) -> T:
        for table in self._tables():
            if key in table:
                return table[key]
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return (key for table in self._tables() for key in table)

    def __len__(self) -> int:
        return sum(len(table) for table in self._tables())


FAMILIES: Mapping[str, Family] = Registry("FAMILIES", {})
BUILDERS: Mapping[str, Builder] = Registry("BUILDERS", {"standard": standard})
