"""Where a price comes from, as a type: nothing is decided on the text that people read."""

from __future__ import annotations

from typing import NamedTuple


class Source(NamedTuple):
    """A file of constants; ``inherited_by`` a device or fabric that has none of its own,
    ``extrapolated`` to a shape outside what was measured."""

    file: str
    inherited_by: str = ""
    extrapolated: bool = False

    @property
    def beyond_measurement(self) -> bool:
        """Whether the constants were measured on other hardware, or on other shapes."""
        return bool(self.inherited_by) or self.extrapolated

    def __str__(self) -> str:
        inherited = f" (inherited by {self.inherited_by})" if self.inherited_by else ""
        return self.file + inherited + " (extrapolated)" * self.extrapolated
