"""Pipeline schedules: microbatches in flight and the bubble."""

from __future__ import annotations

from typing import Any

Array = Any


def bubble_fraction(pp: Array, vp: Array, microbatches: Array) -> Array:
    """Idle time over busy time of 1F1B (vp = 1) and interleaved 1F1B: (pp−1) / (vp · m).

    Narayanan et al. 2021 (arXiv 2104.04473), section 2.2.
    """
    return (pp - 1) / (vp * microbatches)


def in_flight_layers(pp: Array, vp: Array, in_flight: Array) -> Array:
    """Microbatches' worth of a stage's activations that interleaving keeps, over plain 1F1B's.

    1 + (pp−1)/(pp·vp) for vp > 1 (Korthikanti et al. 2022, arXiv 2205.05198, section 4.2.3).
    """
    return in_flight * (1.0 + (vp > 1) * (pp - 1) / (pp * vp))
