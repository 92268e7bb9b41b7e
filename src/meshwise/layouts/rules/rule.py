"""A rule of legality, and the sentence that refuses what breaks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.errors import IllegalLayout
from meshwise.layouts.layout import Layout
from meshwise.layouts.rules.case import Case

TRAINS = ("train",)
SERVES = ("prefill", "decode")
PHASES = (*TRAINS, *SERVES)
By = Literal["model", "stack", "workload", "cluster"]
_LISTED = 24  # legal values that a refusal names, of more the first ones and the last


class Refusal(NamedTuple):
    """Why a layout is not legal: the field, its value, what is wrong; what is legal, and nearest."""

    field: str
    value: object
    why: str
    legal: object = None
    nearest: object = None
    valued: bool = True  # whether the value leads the sentence, which may have it itself

    def error(self) -> IllegalLayout:
        lead = f"{self.field}={self.value}" if self.valued else self.field
        return IllegalLayout(
            f"{lead}: {self.why}",
            field=self.field,
            value=self.value,
            legal=self.legal,
            nearest=self.nearest,
        )


class Rule(NamedTuple):
    """A rule once: for one layout that somebody wrote down, and for the millions of a search.

    ``mask``: which layouts keep it (0-d arrays, or columns that broadcast). ``sentence``: of one that
    does not. ``by``: who imposes it. ``pins``: axes that break it whatever the others are, so that a plan
    refuses their values at once; ``pinned`` is what it then demands, where less than ``mask``.
    ``holds_for_runs`` false: a run that somebody measured shows that it can be otherwise.
    """

    by: By
    mask: Callable[[Case], Array]
    sentence: Callable[[Layout, Case], Refusal]
    phases: tuple[str, ...] = PHASES
    pins: tuple[str, ...] = ()
    pinned: Callable[[Case], Array] | None = None
    holds_for_runs: bool = True

    def keeps(self, case: Case) -> Array:
        """Which layouts keep the rule; all, where it has no meaning in their phase."""
        return self.mask(case) if case.phase in self.phases else np.bool_(True)

    def keeps_pinned(self, case: Case) -> bool:
        """Whether a layout may, with the axes of ``pins`` as they are and the others as they must be."""
        demanded = self.pinned or self.mask
        return case.phase not in self.phases or bool(demanded(case))


def divisors(n: int) -> list[int]:
    """Every divisor of n, ascending."""
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return small + [n // d for d in reversed(small) if d * d != n]


def among(field: str, value: int, why: str, legal: list[int]) -> Refusal:
    """A degree, with those that are legal and the nearest of them."""
    listed: list[Any] = legal if len(legal) <= _LISTED else [*legal[:20], "…", legal[-1]]
    return Refusal(field, value, why, listed, min(legal, key=lambda d: (abs(d - value), d)))
