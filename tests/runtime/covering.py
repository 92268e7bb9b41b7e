"""Few combinations of options in which every pair of values occurs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Any


def pairwise(choices: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Greedily: each next combination has the most pairs that none before had."""
    names = list(choices)
    every = [dict(zip(names, values, strict=True)) for values in product(*choices.values())]

    def pairs(one: Mapping[str, Any]) -> set[tuple[Any, ...]]:
        return {(a, one[a], b, one[b]) for a, b in combinations(names, 2)}

    left: set[tuple[Any, ...]] = set().union(*(pairs(one) for one in every))
    found = []
    while left:
        best = max(every, key=lambda one: len(pairs(one) & left))
        found.append(best)
        left -= pairs(best)
    return found
