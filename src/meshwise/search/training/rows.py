"""The layouts that a plan shows, in full: seconds by part, memory, interval, ties."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np

from meshwise.arrays import Array
from meshwise.clusters.load import Cluster
from meshwise.cost.doubt.exposed import exposed_comm
from meshwise.cost.doubt.question import Question, step_question
from meshwise.cost.doubt.spread import NORMAL, difference_sd
from meshwise.cost.estimate import Estimate, price_layouts
from meshwise.cost.uncertainty import fitting_chance, is_tight, step_interval
from meshwise.layouts.layout import Layouts, columns
from meshwise.models.shapes import Model
from meshwise.search.one_layout import COMMUNICATION_GROUPS, model_flops
from meshwise.search.training.ranking import Found
from meshwise.workloads.workload import Training

_ROW = {name: row for row, names in COMMUNICATION_GROUPS.items() for name in names}


class PlanRow(NamedTuple):
    """A layout of a plan. Seconds of a step on its slowest stage, bytes of its fullest."""

    found: Found
    devices: int
    step_s: float
    step_low_s: float  # the ends of the 90 % interval
    step_high_s: float
    compute_s: float
    comm_s: float
    exposed_comm_s: float
    bubble_s: float
    host_s: float
    exposed_by_axis: dict[str, float]
    mfu: float
    tokens_per_s: float
    tokens_per_s_per_device: float
    memory_bytes: float
    fits: bool
    tight: bool  # the limit lies within the memory's error
    fitting_chance: float  # that it fits
    question: Question  # what decides how far the step may be off
    tie: bool = False  # with the best: the difference is within its own interval
    difference_s: float = 0.0  # to the best

    @property
    def parts(self) -> dict[str, float]:
        """What a step is made of: they add up to it."""
        axes = {f"{axis}_comm": s for axis, s in self.exposed_by_axis.items() if s}
        return {"compute": self.compute_s, **axes, "bubble": self.bubble_s, "host": self.host_s}


def rows(found: list[Found], model: Model, cluster: Cluster) -> list[PlanRow]:
    """Layouts in full, in the order given; those of one variant are priced together."""
    result: dict[int, PlanRow] = {}
    known = {id(f.variant): f.variant for f in found}
    for key, v in known.items():
        chosen = [i for i, f in enumerate(found) if id(f.variant) == key]
        layout = columns([found[i].layout for i in chosen])
        e = price_layouts(model, cluster, v.workload, v.stack, layout)
        made = _rows(e, [found[i] for i in chosen], v.workload)
        result |= dict(zip(chosen, made, strict=True))
    return [result[i] for i in range(len(found))]


def _rows(e: Estimate, found: list[Found], w: Training) -> list[PlanRow]:
    size = len(found)
    by_axis, asked = _exposed(e), step_question(e)
    low, high = step_interval(e, asked)

    def column(values: Array) -> list[Any]:
        listed: list[Any] = np.broadcast_to(values, (size,)).tolist()
        return listed

    numbers = {
        "devices": e.layout.devices,
        "step_s": e.step_s,
        "step_low_s": low,
        "step_high_s": high,
        "compute_s": e.compute_s,
        "comm_s": e.comm_s,
        "exposed_comm_s": e.exposed_comm_s,
        "bubble_s": e.bubble_s,
        "host_s": e.host_s,
        "mfu": _useful(e, w) / (e.layout.devices * e.step_s),
        "tokens_per_s": w.batch * w.seq / e.step_s,
        "tokens_per_s_per_device": w.batch * w.seq / e.step_s / e.layout.devices,
        "memory_bytes": e.memory_bytes,
        "fits": e.fits,
        "tight": is_tight(e, asked),
        "fitting_chance": fitting_chance(e, asked),
    }
    table = {name: column(values) for name, values in numbers.items()}
    axes = {name: column(values) for name, values in by_axis.items()}
    return [
        PlanRow(
            found=each,
            exposed_by_axis={name: max(values[i], 0.0) for name, values in axes.items()},
            question=asked.at(i),
            **{name: values[i] for name, values in table.items()},
        )
        for i, each in enumerate(found)
    ]


def _useful(e: Estimate, w: Training) -> float:
    """Seconds that one device would need at its peak for the step's model FLOPs."""
    one = Layouts(tp=np.int64(1), micro_batch=np.int64(1))
    single = price_layouts(e.model, e.cluster, msgspec.structs.replace(w, batch=1), e.stack, one)
    peak = e.pricer.compute.peak(e.program.ctx.widths.dtype)
    return model_flops(single) * w.batch / peak


def _exposed(e: Estimate) -> dict[str, Array]:
    """Exposed seconds of a step by axis."""
    by_axis: dict[str, Array] = dict.fromkeys(COMMUNICATION_GROUPS, 0.0)
    for group, value in exposed_comm(e).by_axis.items():
        by_axis[_ROW[group]] = by_axis[_ROW[group]] + value
    return by_axis


def same_program(one: PlanRow, other: PlanRow) -> bool:
    """Whether two rows are one layout of one software: their times err alike."""
    a, b = one.found, other.found
    return a.layout == b.layout and a.variant.stack == b.variant.stack


def against(best: PlanRow, other: PlanRow, ideal: bool) -> PlanRow:
    """``other`` with its difference to the best, and whether that is a tie: below 1.645 of its own
    standard deviations, by the doubt that intervals have too."""
    difference = other.step_s - best.step_s
    spread_s = 0.0
    if not ideal and not same_program(best, other):
        spread_s = difference_sd(
            "step_s", (best.step_s, best.question), (other.step_s, other.question)
        )
    return other._replace(difference_s=difference, tie=difference <= NORMAL * spread_s)
