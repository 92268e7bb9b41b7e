"""Pipeline schedules: one entry each. Another one is another entry, and nothing else.

What a schedule is made of: whether it interleaves virtual stages, how many microbatches' weight
gradients it keeps for the time that a stage would wait, how many microbatches' activations a stage
holds, and its names in launch targets. Seconds follow in :mod:`meshwise.cost.schedule`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Held = Literal["stages", "every stage", "twice", "all"]


class Schedule(NamedTuple):
    """``fills``: the bubble is (p−1)(F+B−fills·W). ``holds``: microbatches in flight, of p stages:
    p on the first stage and one fewer on each next; p on each; 2p−1 on each; all of a step."""

    interleaves: bool = False
    fills: int = 0
    holds: Held = "stages"
    torchtitan: tuple[str, ...] = ()  # the first is written, each is read; interleaved: the second


SCHEDULES: dict[str, Schedule] = {
    # Narayanan et al. 2021, arXiv 2104.04473
    "1f1b": Schedule(interleaves=True, torchtitan=("1F1B", "Interleaved1F1B")),
    # Huang et al. 2019, arXiv 1811.06965
    "gpipe": Schedule(holds="all", torchtitan=("GPipe",)),
    # Qi et al. 2024, arXiv 2401.10241: with the memory of 1F1B, and with twice that
    "zb-1p": Schedule(
        fills=1, holds="every stage", torchtitan=("ZBVZeroBubble", "InterleavedZeroBubble")
    ),
    "zb-2p": Schedule(fills=2, holds="twice", torchtitan=("ZBVZeroBubble",)),
}
SCHEDULE_NAMES = tuple(SCHEDULES)
USUAL = SCHEDULE_NAMES[0]


def torchtitan_name(name: str, interleaved: bool) -> str:
    """What torchtitan calls it."""
    schedule = SCHEDULES[name]
    return schedule.torchtitan[1 if interleaved and schedule.interleaves else 0]


def from_torchtitan(word: str) -> str | None:
    """The schedule that torchtitan's word means; None if it is not known."""
    known = ((name, w) for name, s in SCHEDULES.items() for w in s.torchtitan)
    return next((name for name, w in known if w.lower() == word.lower()), None)
