"""Cases that `make matrix` has beside those of `make test`, which shall stay short."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def deep(*values: Any) -> Any:
    """A case of `make matrix` alone."""
    return pytest.param(*values, marks=pytest.mark.matrix)


def deep_but(usual: Iterable[str], names: Iterable[str]) -> list[Any]:
    """All names; those that are not among the usual ones in `make matrix` alone."""
    kept = set(usual)
    return [name if name in kept else deep(name) for name in names]
