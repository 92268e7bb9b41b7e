"""One exception family for what a user got wrong: what it is, where, and what would be right.

A bug is never one of these: an ``assert`` or an ordinary exception is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_SHOWN = 80  # characters of a bad value that a one-line message repeats


def shorten(value: object, limit: int = _SHOWN) -> str:
    """``value`` as one printable line of at most ``limit`` characters."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


class MeshwiseError(ValueError):
    """Base of everything that meshwise refuses.

    ``field`` names the option, key or file; ``value`` is what was given; ``legal`` says what is
    accepted; ``nearest`` is the legal value next to the one given (None where there is none).
    """

    exit_code = 2

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        value: Any = None,
        legal: Any = None,
        nearest: Any = None,
    ) -> None:
        self.field = field
        self.value = value
        self.message = message
        self.legal = legal
        self.nearest = nearest
        super().__init__(message)

    def __str__(self) -> str:
        parts = [self.message]
        if self.legal is not None:
            legal = self.legal
            if isinstance(legal, (list, tuple)):
                legal = ", ".join(str(item) for item in legal)
            parts.append(f"legal: {legal}")
        if self.nearest is not None:
            parts.append(f"nearest: {self.nearest}")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract of an error."""
        value = self.value
        if isinstance(value, str) or not isinstance(value, (int, float, bool, type(None))):
            value = shorten(value)
        elif isinstance(value, float) and (value != value or value in (float("inf"), -float("inf"))):
            value = repr(value)  # JSON has no nan or inf
        return {
            "error": {
                "field": self.field,
                "value": value,
                "message": self.message,
                "legal": list(self.legal) if isinstance(self.legal, tuple) else self.legal,
                "nearest": self.nearest,
            }
        }


class InputError(MeshwiseError):
    """An option, a quantity or a file is not what it has to be."""


class UnknownName(InputError):
    """A name that no catalog has; ``nearest`` is the closest one."""


class UnsupportedModel(InputError):
    """A model whose architecture meshwise does not know; never a guess."""


class IllegalLayout(InputError):
    """A layout that the model or the cluster does not allow."""


class NoFeasibleLayout(MeshwiseError):
    """Every layout was refused or does not fit."""

    exit_code = 3


def unknown_name(field: str, value: str, names: Iterable[str], what: str) -> UnknownName:
    """An :class:`UnknownName` with the closest of ``names`` as the nearest alternative."""
    import difflib

    known = sorted(names)
    close = difflib.get_close_matches(value.lower(), known, n=1, cutoff=0.0)
    shown = known if len(known) <= 12 else [*difflib.get_close_matches(value.lower(), known, n=6, cutoff=0.0)]
    suffix = "" if len(known) <= 12 else f" (of {len(known)}: `meshwise catalog`)"
    return UnknownName(
        f"{field}: no {what} is called {shorten(value)!r}",
        field=field,
        value=value,
        legal=", ".join(shown) + suffix,
        nearest=close[0] if close else None,
    )
