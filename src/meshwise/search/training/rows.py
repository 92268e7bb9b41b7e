"""The layouts that a plan shows, in full: seconds by part and source, memory, interval, ties."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec
import numpy as np

from meshwise.arrays import Array
from meshwise.clusters.load import Cluster
from meshwise.cost.estimate import Estimate, price_layouts
from meshwise.cost.uncertainty import collective_kind, half_width, step_interval
from meshwise.layouts.layout import Layouts, columns
from meshwise.models.shapes import Model
from meshwise.program.operations import COLLECTIVES
from meshwise.search.one_layout import COMMUNICATION_GROUPS, model_flops
from meshwise.search.training.ranking import Found
from meshwise.workloads.workload import Training

LEVEL = 1.645  # standard deviations that hold 90 % of a normal distribution
# of measured kernels that were held out of the fits: p90 of the error is 9 to 11 %
# (docs/explanation/validation), so one standard deviation is about
KERNEL_SIGMA = 0.06
HOST_SIGMA = 0.5  # of what the hosts and the slowest rank add: known to a factor at best
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
    sources: dict[str, float]  # seconds whose errors go together
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
    low, high = step_interval(e)
    by_axis, by_source = _exposed(e)

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
    }
    table = {name: column(values) for name, values in numbers.items()}
    axes = {name: column(values) for name, values in by_axis.items()}
    sources = {name: column(values) for name, values in by_source.items()}
    return [
        PlanRow(
            found=each,
            exposed_by_axis={name: max(values[i], 0.0) for name, values in axes.items()},
            sources={name: values[i] for name, values in sources.items()},
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


def _exposed(e: Estimate) -> tuple[dict[str, Array], dict[str, Array]]:
    """(exposed seconds of a step by axis, seconds by what their errors go together with).

    The bubble is idle for as long as a microbatch takes: it errs as what that is made of.
    """
    m = e.program.ctx.microbatches
    by_axis: dict[str, Array] = dict.fromkeys(COMMUNICATION_GROUPS, 0.0)
    across: Array = 0.0  # of them, over a network
    per_role: dict[str, list[Array]] = {axis: [] for axis in _ROW}
    for role in e.program.roles:
        seconds: dict[str, Array] = dict.fromkeys(_ROW, 0.0)
        lists = [(costs, n * m) for costs, n in zip(e.layer_costs, role.layers, strict=True)]
        ends = [(e.embedding_costs, role.embedding * m), (e.head_costs, role.head * m)]
        for costs, times in (*lists, *ends, (e.transfer_costs, m)):
            for c in costs:
                if c.op.kind in COLLECTIVES:
                    seconds[c.op.axis] = seconds[c.op.axis] + c.exposed * times
        for axis, value in seconds.items():
            per_role[axis].append(value)
    total = {axis: e._of_slowest(values) for axis, values in per_role.items()}
    reduced, gathered = e.update_exposure
    for index, costs in enumerate(e.update_costs):
        last = e.update_role == index
        for c in costs:
            if c.op.kind in COLLECTIVES:
                share = gathered if c.op.kind == "all_gather" else reduced
                spent = np.where(last, c.op.count * c.seconds * share, 0.0)
                total[c.op.axis] = total[c.op.axis] + spent
    # what is exposed because two batches' halves follow each other is tensor parallelism's
    total["tp"] = total["tp"] + e.split_fill * m
    for axis, value in total.items():
        by_axis[_ROW[axis]] = by_axis[_ROW[axis]] + value
        across = across + np.where(_over_network(e, axis), value, 0.0)
    busy = e.compute_s + e.exposed_comm_s
    idle = 1.0 + e.bubble_s / busy
    kinds = {collective_kind(e.stack, e.cluster, e.pricer.groups["tp"]), "network"}
    inside = next(iter(kinds - {"network"}), "nccl-nvlink")
    sources = {
        "kernels": e.compute_s * idle,
        "host": e.host_s,
        "collectives:network": across * idle,
        f"collectives:{inside}": (e.exposed_comm_s - across) * idle,
    }
    return by_axis, sources


def _over_network(e: Estimate, axis: str) -> Array:
    group = e.pricer.groups[axis]
    crossed: Array = np.bool_(False)
    for level, ranks in zip(e.cluster.levels, group.ranks, strict=True):
        if level.kind == "network":
            crossed = crossed | (ranks > 1)
    return crossed


def sigma(source: str) -> float:
    """One standard deviation of the relative error of a source's seconds."""
    if source == "kernels":
        return KERNEL_SIGMA
    if source == "host":
        return HOST_SIGMA
    return half_width(source.partition(":")[2]) / LEVEL


def against(best: PlanRow, other: PlanRow, ideal: bool) -> PlanRow:
    """``other`` with its difference to the best, and whether that is a tie.

    Errors within a source go together, so that only the difference of its seconds counts:
    Var(Δ) = Σ (Δs_k · σ_k)²; a tie is a difference below 1.645 of its own standard deviations.
    """
    names = {*best.sources, *other.sources}
    variance = 0.0
    for name in names:
        delta = other.sources.get(name, 0.0) - best.sources.get(name, 0.0)
        variance += (delta * sigma(name)) ** 2
    difference = other.step_s - best.step_s
    spread_s = 0.0 if ideal else math.sqrt(variance)
    return other._replace(
        difference_s=difference,
        tie=difference <= LEVEL * spread_s,
    )
