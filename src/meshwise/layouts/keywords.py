"""The axes of a layout as keywords of public functions, typed for a checker and an editor.

What a value may be is checked where the axes are (:class:`~meshwise.layouts.layout.Layout`, the pins of a
plan); these are the same names for :class:`typing.Unpack`.
"""

from __future__ import annotations

from typing import Literal, TypedDict

Recompute = Literal["none", "selective", "full"]
Shard = Literal["none", "zero1", "zero2", "zero3"]
Overlap = Literal["none", "decomposed"]
Degrees = int | list[int] | tuple[int, ...] | None
Switch = bool | list[bool] | tuple[bool, ...] | None


class LayoutAxes(TypedDict, total=False):
    """One layout, of :func:`meshwise.estimate`."""

    tp: int
    pp: int
    vp: int
    dp: int
    cp: int
    ep: int
    etp: int | None
    dcp: int
    micro_batch: int | None
    sequence_parallel: bool | None
    recompute: Recompute | None
    shard: Shard
    placement: str


class ServingDegrees(TypedDict, total=False):
    """One layout that serves, of :func:`meshwise.serve`."""

    tp: int
    pp: int
    dp: int
    ep: int
    etp: int | None
    dcp: int


class TrainingPins(TypedDict, total=False):
    """Axes of a training plan: a value, or several of which the plan chooses."""

    tp: Degrees
    pp: Degrees
    vp: Degrees
    dp: Degrees
    cp: Degrees
    ep: Degrees
    etp: Degrees
    micro_batch: Degrees
    sequence_parallel: Switch
    recompute: Recompute | list[Recompute] | tuple[Recompute, ...] | None
    shard: Shard | list[Shard] | tuple[Shard, ...] | None
    placement: str | list[str] | tuple[str, ...] | None
    overlap: Overlap | list[Overlap] | tuple[Overlap, ...] | None


class ServingPins(TypedDict, total=False):
    """Axes of a serving plan: a value, or several of which the plan chooses."""

    tp: Degrees
    pp: Degrees
    dp: Degrees
    ep: Degrees
    etp: Degrees
    dcp: Degrees
