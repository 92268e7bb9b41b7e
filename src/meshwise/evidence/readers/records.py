"""What a reader finds in a file: rows of measurements, lines that it refuses, and what is to be said of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from meshwise.errors import quoted, shorten

FileValue = str | int | float | bool | list[int] | list[list[str]]


class FileRow(NamedTuple):
    """A measurement or a description: the line that it stands on, and its values by name, in SI units."""

    line: int
    values: dict[str, FileValue]


class RefusedLine(NamedTuple):
    """A line (0: the whole file) that cannot be used, and what was expected in its place."""

    line: int
    reason: str


class FileFound(NamedTuple):
    """What one reader found in one file. ``needs`` is what the kind of file does not say by itself and that
    its rows need, where the file does not."""

    kind: str  # of rows: collectives, training, serving, topology, engine
    form: str  # whose output it is, as the list of kinds has it
    rows: Sequence[FileRow]
    refused: Sequence[RefusedLine] = ()
    remarks: Sequence[str] = ()


class TextReader(Protocol):
    """Reads a text line by line; memory does not grow with lines that are none of its own."""

    @property
    def marks(self) -> tuple[str, ...]:
        """Words without which a part of the text says nothing to it, as far as it has read."""

    def feed(self, number: int, line: str) -> None: ...

    def found(self) -> FileFound: ...


def positive(value: object, what: str) -> float | str:
    """A measured figure, or in words why it is none: not a number, not finite, zero, negative."""
    if isinstance(value, str):
        try:
            value = float(value.replace(",", ""))
        except ValueError:
            return f"{what}: a number above 0 expected, found {quoted(value)}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"{what}: a number above 0 expected, found {shorten(value)}"
    if not math.isfinite(value) or value <= 0:
        return f"{what}: a finite number above 0 expected, found {shorten(value)}"
    return float(value)


def count_or_none(value: object) -> int | None:
    """A whole number of at least 1, as logs and JSON write it; None where it is none."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value) if isinstance(value, (int, float, str)) else math.nan
    except ValueError:
        return None
    return int(number) if math.isfinite(number) and number >= 1 and number == int(number) else None


def without_empty(values: Mapping[str, FileValue | None]) -> dict[str, FileValue]:
    """The values that a file says."""
    return {name: value for name, value in values.items() if value is not None and value != ""}
