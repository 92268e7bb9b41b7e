"""Typed access to one block of a ``config.json`` that describes a tower, and the sizes that its class
fills in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshwise.errors import shorten
from meshwise.models.families.keys import MOST_WIDE, check_integer, kind, wrong


class TowerBlock:
    """One block, read with the defaults of the class that its model type names.

    Unlike the sizes of a language model, those of a tower may be its class's: what a nested block does
    not state is what transformers has left out of it, because it is the default. ``unstated`` says which.
    """

    def __init__(self, block: Mapping[str, Any], defaults: Mapping[str, Any], at: str) -> None:
        self.block = block
        self.defaults = defaults
        self.at = at  # where it stands in the file; empty: at its top
        self.unstated: list[str] = []

    def has(self, key: str) -> bool:
        return self.block.get(key) is not None

    def value(self, *keys: str) -> Any:
        """The first of the keys that the block states, else the class's default of the first."""
        for key in keys:
            if self.has(key):
                return self.block[key]
        return self.defaults.get(keys[0])

    def _name(self, *keys: str) -> str:
        return self._at(next((k for k in keys if self.has(k)), keys[0]))

    def _at(self, key: str) -> str:
        return f"{self.at}.{key}" if self.at else key

    def size(self, *keys: str, low: int = 1) -> int:
        """An integer from ``low``; a list or tuple of one repeated number counts as that number."""
        value = self.value(*keys)
        if isinstance(value, list | tuple) and value and all(v == value[0] for v in value):
            value = value[0]
        return check_integer(self._name(*keys), value, low, MOST_WIDE)

    def says_the_same(self, name: str, key: str) -> None:
        """Refuse another value under a name that the class does not read."""
        if self.has(name) and self.size(name) != self.size(key):
            raise wrong(self._at(name), self.size(name), f"is not read, and {key} is {self.size(key)}",
                        legal=f"{self.size(key)}", nearest=self.size(key))  # fmt: skip

    def main_size(self, *keys: str, low: int = 1) -> int:
        """A size that makes a model what it is: where the class fills it in, it is remembered."""
        found = self.size(*keys, low=low)
        if not any(self.has(key) for key in keys):
            self.unstated.append(keys[0])
        return found

    def sizes(self, key: str, length: int | None = None) -> list[int]:
        """A list of integers."""
        value = self.value(key)
        if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
            raise wrong(self._at(key), value, f"{kind(value)} where a list belongs",
                        legal=f"a list of {length or 'some'} integers")  # fmt: skip
        return [check_integer(self._at(key), item, 0, MOST_WIDE) for item in value]

    def ratio(self, key: str) -> float:
        """A number over 0."""
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1000:
            raise wrong(self._at(key), value, f"{shorten(value)} is no ratio",
                        legal="a number over 0, at most 1000")  # fmt: skip
        return float(value)

    def flag(self, key: bool | str) -> bool:
        """A boolean key; null and absent are the class's default, else false."""
        if isinstance(key, bool):
            return key
        value = self.value(key)
        if value in (None, True, False, 0, 1):
            return bool(value)
        raise wrong(self._at(key), value, f"{kind(value)} where true or false belongs",
                    legal="true, false")  # fmt: skip

    def grid(self, image: str = "image_size", patch: str = "patch_size") -> int:
        """Patches of an image: (image / patch) squared."""
        value = self.value(image)
        if isinstance(value, list | tuple) and len(value) == 2:
            high, wide = self.sizes(image, 2)
        else:
            high = wide = self.size(image)
        side = self.size(patch)
        return (high // side) * (wide // side)


def linear(inputs: int, outputs: int, bias: bool = True) -> int:
    """Number of weights of a linear layer."""
    return inputs * outputs + outputs * bias
