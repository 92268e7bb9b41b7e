"""Cases that `make matrix` has beside those of `make test`, which shall stay short."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def deep(*values: Any) -> Any:
    """A case of `make matrix` alone."""
    return pytest.param(*values, marks=pytest.mark.matrix)


def every(number: int, *, of: int) -> list[Any]:
    """Parts of a long list of cases, for ``list[part::of]``: so many, the others in `make matrix` alone."""
    return [part if part < number else deep(part) for part in range(of)]


def deep_but(usual: Iterable[str], names: Iterable[str]) -> list[Any]:
    """All names; those that are not among the usual ones in `make matrix` alone."""
    kept = set(usual)
    return [name if name in kept else deep(name) for name in names]
