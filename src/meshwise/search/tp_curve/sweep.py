"""The TP curve over values of one quantity, and the values at which a doubling begins to pay."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np

from meshwise.clusters.load import Cluster
from meshwise.cost.estimate import price_layouts
from meshwise.errors import InputError, closest, quoted
from meshwise.layouts import tp_degrees as legality
from meshwise.layouts.rules.case import needs_split
from meshwise.models.shapes import Model
from meshwise.search.tp_curve.curve import Scaling, curve, layouts_for
from meshwise.stacks.stack import Stack
from meshwise.strict_tables import as_digits, count
from meshwise.units import BANDWIDTH, RATE, TIME, QuantityKind, parse_quantity
from meshwise.workloads.workload import MAX_BATCH, MAX_SEQ, Decode, Training, Workload

POINTS = 7  # values of a range, ends included
MOST_POINTS = 200
GRID = 33  # values between which crossings are looked for
CLOSE = 1e-4  # of a solved value, relative

SweptJob = tuple[Cluster, Workload]


class Quantity(NamedTuple):
    """What is swept: its name and unit, whether it counts, and a job with another value of it."""

    name: str
    unit: str  # B/s, s, FLOP/s or "" for numbers
    kind: QuantityKind | None
    apply: Callable[[float], SweptJob]
    step: int = 1  # numbers are multiples of it
    high: int = 0
    divides: int = 0  # numbers divide it; 0: they need not

    def nearest(self, value: float) -> int:
        """The legal number nearest to a value."""
        if self.divides:
            return min(_divisors(self.divides), key=lambda d: abs(d - value))
        return max(round(value / self.step), 1) * self.step

    def between(self, low: float, high: float) -> float | None:
        """A legal number about half way between two; None where there is none."""
        if self.divides:
            inside = [d for d in _divisors(self.divides) if low < d < high]
            return float(inside[len(inside) // 2]) if inside else None
        middle = (low + high) / 2 // self.step * self.step
        return middle if low < middle < high else None


def _divisors(number: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


class BreakEven(NamedTuple):
    """Where the step from ``from_tp`` to ``tp`` crosses ``threshold``.

    ``from_tp`` is half of ``tp`` where the model allows that degree, else the degree before it on the
    curve. ``question``: ``marginal_efficiency`` is T(tp/2) / (2·T(tp)), as the limit has it; ``faster``
    asks whether T(tp) < T(from). ``direction`` is the side of ``value`` on which it pays; without a crossing in the
    range ``value`` is None and the direction ``always`` or ``never``.
    """

    question: str
    from_tp: int
    tp: int
    threshold: float
    value: float | None
    direction: str


class Sweep(NamedTuple):
    """The curve at each value of a quantity of ``cluster`` (as it is without the sweep)."""

    cluster: Cluster
    quantity: Quantity
    values: tuple[tuple[float, Scaling], ...]
    break_evens: tuple[BreakEven, ...]
    threshold: float


def quantities(cluster: Cluster, workload: Workload, step: int = 1) -> dict[str, Quantity]:
    """What can be swept for a job, by name: the workload's sizes, each fabric level by its name and
    as ``intra`` (the innermost) and ``inter`` (the innermost network), NICs and the device."""
    found: dict[str, Quantity] = {}

    def size(name: str, high: int, multiple: int = 1) -> None:
        def job(value: float) -> SweptJob:
            return cluster, msgspec.structs.replace(workload, **{name: int(value)})

        found[name] = Quantity(name, "", None, job, multiple, high)

    micro = workload.micro_batch if isinstance(workload, Training) else None
    size("batch", MAX_BATCH, micro or 1)
    if isinstance(workload, Decode):
        size("context", MAX_SEQ)
    else:
        size("seq", MAX_SEQ, step)
    if isinstance(workload, Training):

        def micro_batch(value: float) -> SweptJob:
            return cluster, msgspec.structs.replace(workload, micro_batch=int(value))

        found["micro_batch"] = Quantity(
            "micro_batch", "", None, micro_batch, 1, MAX_BATCH, workload.batch
        )
    names = _level_names(cluster)
    for name, index in names.items():
        found[f"{name}.bandwidth"] = _level(
            f"{name}.bandwidth", cluster, workload, index, "bandwidth_bytes_per_s"
        )
        found[f"{name}.latency"] = _level(f"{name}.latency", cluster, workload, index, "latency_s")
    wired = [i for i, lv in enumerate(cluster.levels) if lv.kind == "network" and lv.nics]
    if wired:

        def nics(value: float) -> SweptJob:
            where = cluster
            for index in wired:  # as another number of NICs does
                where = _with_level(where, index, nics=int(value))
            return where, workload

        found["nics"] = Quantity("nics", "", None, nics, 1, 4096)

    def memory(value: float) -> SweptJob:
        device = msgspec.structs.replace(cluster.device, memory_bytes_per_s=value)
        return msgspec.structs.replace(cluster, device=device), workload

    found["device.memory_bandwidth"] = Quantity("device.memory_bandwidth", "B/s", BANDWIDTH, memory)

    def flops(value: float) -> SweptJob:
        # every format in proportion: the value is that of 16-bit products
        peaks = cluster.device.peak_flops_per_s
        ratio = value / peaks.get("bf16", peaks.get("fp16", max(peaks.values())))
        faster = {k: v * ratio for k, v in peaks.items()}
        device = msgspec.structs.replace(cluster.device, peak_flops_per_s=faster)
        return msgspec.structs.replace(cluster, device=device), workload

    found["device.flops"] = Quantity("device.flops", "FLOP/s", RATE, flops)
    return found


def _level_names(cluster: Cluster) -> dict[str, int]:
    """Levels by name; those that share one (it may be left out) as ``level[i]``, as errors call them."""
    shared = Counter(level.name for level in cluster.levels)
    names = {
        level.name if shared[level.name] == 1 else f"level[{i}]": i
        for i, level in enumerate(cluster.levels)
    }
    names.setdefault("intra", 0)
    network = next((i for i, lv in enumerate(cluster.levels) if lv.kind == "network"), None)
    if network is not None:
        names.setdefault("inter", network)
    return names


def _with_level(cluster: Cluster, index: int, **changes: Any) -> Cluster:
    levels = list(cluster.levels)
    levels[index] = msgspec.structs.replace(levels[index], **changes)
    return msgspec.structs.replace(cluster, levels=tuple(levels))


def _level(name: str, cluster: Cluster, w: Workload, index: int, field: str) -> Quantity:
    """A level's figure; a stated latency takes the fit's place."""
    timed = field == "latency_s"

    def job(value: float) -> SweptJob:
        changes: dict[str, Any] = {field: value}
        if timed:
            changes["own_latency"] = True
        return _with_level(cluster, index, **changes), w

    return Quantity(name, "s" if timed else "B/s", TIME if timed else BANDWIDTH, job)


def read_sweep(text: str, known: dict[str, Quantity]) -> tuple[Quantity, list[float]]:
    """``NAME=LOW:HIGH``, ``NAME=LOW:HIGH:POINTS`` or ``NAME=A,B,C``: the quantity and its values."""
    name, equals, rest = text.partition("=")
    name = name.strip()
    if not equals or not rest.strip():
        raise InputError(
            f"sweep: {quoted(text)} has no values",
            field="sweep",
            value=text,
            legal="NAME=LOW:HIGH or NAME=A,B,C, for example inter.bandwidth=25GB/s:400GB/s",
        )
    quantity = known.get(name)
    if quantity is None:
        near = closest(name, known)
        raise InputError(
            f"sweep: {quoted(name)} cannot be swept here",
            field="sweep",
            value=name,
            legal=sorted(known),
            nearest=near[0] if near else None,
        )
    if "," in rest or ":" not in rest:
        listed = rest.split(",")
        count(len(listed), "sweep: values", high=MOST_POINTS)
        values = [_value(part, quantity) for part in listed]
        return quantity, sorted(dict.fromkeys(values))
    parts = rest.split(":")
    if len(parts) > 3:
        raise InputError(
            f"sweep: {quoted(rest)} has more than three parts",
            field="sweep",
            value=rest,
            legal="LOW:HIGH or LOW:HIGH:POINTS",
        )
    low, high = _value(parts[0], quantity), _value(parts[1], quantity)
    if low >= high:
        raise InputError(
            f"sweep: {name} from {parts[0].strip()} to {parts[1].strip()} is no range",
            field="sweep",
            value=rest,
            legal="LOW below HIGH",
            nearest=f"{name}={parts[1].strip()}:{parts[0].strip()}" if low > high else None,
        )
    points = POINTS
    if len(parts) == 3:
        points = count(parts[2].strip(), "sweep POINTS", low=2, high=MOST_POINTS)
    return quantity, spaced(quantity, low, high, points)


def _value(text: str, quantity: Quantity) -> float:
    field = f"sweep {quantity.name}"
    if quantity.kind is not None:
        return parse_quantity(text.strip(), quantity.kind, field)
    number = count(as_digits(text), field, high=quantity.high)
    near = quantity.nearest(number)
    if near != number:
        part = f"multiple of {quantity.step}"
        if quantity.divides:
            part = f"divisor of the batch of {quantity.divides}"
        raise InputError(
            f"{field}: {number} is no {part}",
            field="sweep",
            value=number,
            legal=part.replace(" ", "s ", 1),
            nearest=near,
        )
    return float(number)


def spaced(quantity: Quantity, low: float, high: float, points: int) -> list[float]:
    """Values in equal ratios from low to high, both ends exact; numbers are rounded to legal ones."""
    ratio = math.log(high / low)
    values = [low * math.exp(ratio * i / (points - 1)) for i in range(points)]
    values[0], values[-1] = low, high
    if quantity.kind is None:
        values = [float(quantity.nearest(v)) for v in values]
    return sorted(dict.fromkeys(values))


def sweep_curves(
    model: Model,
    cluster: Cluster,
    stack: Stack,
    quantity: Quantity,
    values: list[float],
    *,
    degrees: list[int] | None = None,
    sequence_parallel: bool = False,
    threshold: float = 0.8,
    objective: str = "efficiency",
) -> Sweep:
    """The curve at each value, and every break-even between the least and the greatest."""
    curves = []
    for value in values:
        where, workload = quantity.apply(value)
        made = curve(
            model,
            where,
            workload,
            stack,
            degrees=degrees,
            sequence_parallel=sequence_parallel,
            threshold=threshold,
            objective=objective,
        )
        curves.append((value, made))
    sequence_parallel = sequence_parallel or any(
        needs_split(model, stack, s.workload.phase) for _, s in curves
    )
    shown = sorted({p.tp for _, s in curves for p in s.points})
    solver = _Solver(model, stack, quantity, _pairs(model, stack, shown), sequence_parallel)
    return Sweep(cluster, quantity, tuple(curves), tuple(solver.all(values, threshold)), threshold)


def _pairs(model: Model, stack: Stack, shown: list[int]) -> list[tuple[int, int]]:
    """(N/2, N) of every degree shown; where the model has no N/2, the degree shown before N."""
    pairs = []
    for before, tp in zip([0, *shown], shown, strict=False):
        half = tp // 2
        if tp % 2 == 0 and not legality.refusals(model, half, stack):
            pairs.append((half, tp))
        elif before:
            pairs.append((before, tp))
    return pairs


class _Solver:
    """Step times of all degrees at a value, each value priced once; and where two of them cross."""

    def __init__(
        self,
        model: Model,
        stack: Stack,
        quantity: Quantity,
        pairs: list[tuple[int, int]],
        sequence_parallel: bool,
    ) -> None:
        self.model, self.stack, self.quantity = model, stack, quantity
        self.pairs, self.sequence_parallel = pairs, sequence_parallel
        self.degrees = sorted({tp for pair in pairs for tp in pair})
        self.known: dict[float, dict[int, float]] = {}

    def steps(self, value: float) -> dict[int, float]:
        found = self.known.get(value)
        if found is None:
            cluster, workload = self.quantity.apply(value)
            tps = np.array(self.degrees, dtype=np.int64)
            layout = layouts_for(workload, tps, self.sequence_parallel)
            step = price_layouts(self.model, cluster, workload, self.stack, layout).step_s
            listed = np.broadcast_to(step, tps.shape).tolist()
            found = self.known[value] = dict(zip(self.degrees, listed, strict=True))
        return found

    def all(self, values: list[float], threshold: float) -> list[BreakEven]:
        low, high = values[0], values[-1]
        if low == high:
            return []
        grid = sorted({*spaced(self.quantity, low, high, GRID), *values})
        found: list[BreakEven] = []
        for before, tp in self.pairs:
            # where tp is no doubling, its score is the mean per doubling, as the limit's
            least = threshold ** math.log2(tp / before)
            for question, wanted in (("marginal_efficiency", least), ("faster", before / tp)):

                def margin(value: float, a: int = before, b: int = tp, t: float = wanted) -> float:
                    steps = self.steps(value)
                    return steps[a] * a / (steps[b] * b) - t

                asked = threshold if question == "marginal_efficiency" else 1.0
                for value, direction in self._crossings(margin, grid):
                    found.append(BreakEven(question, before, tp, asked, value, direction))
        return found

    def _crossings(
        self, margin: Callable[[float], float], grid: list[float]
    ) -> list[tuple[float | None, str]]:
        """(value, side on which the margin is positive) of every change of sign in the grid."""
        signs = [margin(v) >= 0 for v in grid]
        changes = [i for i in range(len(grid) - 1) if signs[i] != signs[i + 1]]
        if not changes:
            return [(None, "always" if signs[0] else "never")]
        return [
            (self._root(margin, grid[i], grid[i + 1]), "above" if signs[i + 1] else "below")
            for i in changes
        ]

    def _root(self, margin: Callable[[float], float], low: float, high: float) -> float:
        """The value between two of different sign, by bisection of their ratio; of numbers the one
        nearest to the change on which it pays."""
        pays_low = margin(low) >= 0
        while True:
            if self.quantity.kind is None:
                middle = self.quantity.between(low, high)
                if middle is None:
                    return low if pays_low else high
            else:
                if high / low - 1.0 < CLOSE:
                    return math.sqrt(low * high)
                middle = math.sqrt(low * high)
            if (margin(middle) >= 0) == pays_low:
                low = middle
            else:
                high = middle
