"""The constants that only training runs show, fitted once, jointly, every source weighing alike.

    python tools/fit_training.py [TABLE.csv]
    python tools/fit_training.py [TABLE.csv] --switches

- ``training_clock`` of Hopper's 700 W and Blackwell's 1000 W boards, the latter apart for products of 16
  bit and of fewer (other boards follow by the cube root of their power): kernel tables are measured in
  short bursts on one device, where the power limit cannot be seen.
- ``jitter``, the standard deviation of a rank's time over its mean.
- ``host_launch_s`` of each software, pooled: its logarithm is held to Megatron-Core's known 44.6 us by
  :data:`POOLING`, as if by one more source.
- ``host_s``, ``host_layer_s`` and ``host_layer_network_share`` of software whose host is known by layer.

A row is priced three times (as shipped, and with each clock lower); what a constant changes is then a
closed form, so that a fit takes seconds and each source can be left out of it in turn
(:func:`left_out`). ``--switches`` prints every switch that one stack alone sets, and the errors of that
stack's sources with it and without: one whose sources are not better for it should go. Copy what it prints into ``devices/*.toml``, ``stacks/*.toml`` and ``Stack.jitter``.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from meshwise import catalog, dtypes
from meshwise.clusters import load as cluster
from meshwise.clusters.cluster import Device
from meshwise.cost import inference
from meshwise.cost.estimate import Estimate
from meshwise.errors import MeshwiseError
from meshwise.evidence import hardware, software
from meshwise.evidence.predict_training import measured_step_s, training_estimate
from meshwise.evidence.prediction import Unsupported, source_of
from meshwise.evidence.tables import Row, read_table
from meshwise.stacks.stack import Stack, replaced
from meshwise.stacks.switches import HOME

TABLE = Path(__file__).resolve().parents[1] / "src/meshwise/evidence/published/training.csv"
LOWER = 0.85  # of a clock, to see what of a step is arithmetic
CAP = 0.5  # |ln error| above which a row is odd, and counts no more
POOLING = 0.02  # of the objective, for a launch time e times Megatron-Core's
SWEEPS = 3
REFERENCES = {"hopper": "h100-80gb-sxm", "blackwell": "b200"}
_device = cluster.device
Vector = NDArray[np.float64]
Fit = dict[str, float]  # constant → its factor on what is shipped
Found = tuple[str, str, float, float]  # row, quantity, measured, predicted


class Features(NamedTuple):
    """A row's step in parts [s]: what the constants change of it is in :func:`steps`."""

    row: str
    source: str
    software: str
    generation: str
    measured: float
    microbatches: float
    busy: float  # of a microbatch on its device
    wide: float  # arithmetic of 16 bit and more in it
    narrow: float
    counted: float  # the host's launches by kernel
    layers: float  # and by layer, inside a node
    ranks: float  # TP ranks of a node, where a network is crossed
    share: float  # ``host_layer_network_share``
    fill: float  # microbatches' times that the pipeline waits
    spread: float  # √(2 ln N)
    jitter: float
    fixed: float  # ``host_s``
    rest: float  # the update


@contextmanager
def clocks(wide: float, narrow: float) -> Iterator[None]:
    """Every device's clocks in proportion to the shipped ones."""

    def device(name: str, field: str = "device") -> Device:
        found = _device(name, field)
        own = found.training_clock
        return msgspec.structs.replace(
            found,
            training_clock=own * wide,
            training_clock_narrow=(found.training_clock_narrow or own) * narrow,
        )

    patched: Any = device
    cluster.device = hardware.device = patched
    try:
        yield
    finally:
        cluster.device = hardware.device = _device


def _priced(row: Row, folder: Path) -> tuple[Estimate, float] | None:
    try:
        e, _ = training_estimate(row, folder)
        measured = measured_step_s(row, e)
    except (Unsupported, MeshwiseError):
        return None
    return (e, measured) if measured else None


def _busy_with(row: Row, folder: Path, wide: float, narrow: float) -> float | None:
    with clocks(wide, narrow):
        found = _priced(row, folder)
    return None if found is None else float(found[0].microbatch.busy)


def features(table: str | Path) -> list[Features]:
    """Of every row of a table that has a time and can be priced."""
    path = Path(table)
    found = (_features(row, path.parent) for row in read_table(str(path)).rows)
    return [f for f in found if f is not None]


def _features(row: Row, folder: Path) -> Features | None:
    priced = _priced(row, folder)
    if priced is None:
        return None
    e, measured = priced
    ctx, host = e.program.ctx, e.stack.host
    busy = float(e.microbatch.busy)
    # arithmetic by width: what a lower clock adds, over what it would add to arithmetic alone
    more = 1 / LOWER - 1
    slow = _busy_with(row, folder, LOWER, 1.0)
    wide = 0.0 if slow is None else (slow - busy) / more
    narrow = 0.0
    if dtypes.ELEMENT_BYTES.get(ctx.widths.dtype, 2.0) < 2:
        slow = _busy_with(row, folder, 1.0, LOWER)
        narrow = 0.0 if slow is None else (slow - busy) / more
    # the host
    each = inference.layer_launch_s(e.stack, ctx)
    inside = float(e.stage_layers) * (3.0 + float(ctx.recompute == 2)) * each
    grown = float(e._layers_s) / inside if inside else 1.0
    share = host.host_layer_network_share
    update = float(e.update.compute) + float(e.update.exposed) + float(e._late_update_s)
    return Features(
        row.text("id"),
        source_of(row),
        e.stack.software,
        e.cluster.device.generation,
        measured,
        float(ctx.microbatches),
        busy,
        wide,
        narrow,
        float(e._counted_s),
        inside,
        (grown - 1.0) / share if share else 0.0,
        share,
        float(e.bubble_s) / float(e._paced),
        float(e._spread) / host.jitter if host.jitter else 0.0,
        host.jitter,
        host.host_s,
        update,
    )


class Columns:
    """The features of many rows as vectors."""

    def __init__(self, rows: list[Features]) -> None:
        self.rows = rows
        self.of = {
            name: np.array([getattr(r, name) for r in rows], dtype=np.float64)
            for name in Features._fields[4:]
        }
        sources = [r.source for r in rows]
        counts = {s: sources.count(s) for s in set(sources)}
        self.source = np.array(sources)
        self.weight = np.array([1.0 / counts[s] for s in sources])
        self.software = np.array([r.software for r in rows])
        self.generation = np.array([r.generation for r in rows])
        self.by_layer = np.array([r.layers > 0 for r in rows])

    def constants(self) -> dict[str, tuple[float, ...]]:
        """The constants that these rows show, and the factors that are tried."""
        fine = (0.9, 0.95, 0.975, 1.0, 1.025, 1.05, 1.1)
        coarse = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)
        names: dict[str, tuple[float, ...]] = {
            "clock hopper": fine,
            "clock blackwell": fine,
            "clock blackwell narrow": fine,
        }
        names["jitter"] = (0.0, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5)
        counted = self.of["counted"] > 0
        names |= {f"launch {s}": coarse for s in sorted(set(self.software[counted]))}
        for s in sorted(set(self.software[self.by_layer])):
            names |= {f"layer {s}": (0.85, 0.9, 0.95, 1.0, 1.05, 1.1)}
            names |= {f"share {s}": coarse, f"step {s}": (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)}
        return names


def steps(c: Columns, fit: Fit) -> Vector:
    """Seconds of every row's step under the factors of a fit."""
    of = c.of

    def by(kind: str, keys: NDArray[np.str_]) -> Vector:
        return np.array([fit.get(f"{kind} {key}", 1.0) for key in keys])

    clock = by("clock", c.generation)
    apart = np.array([f"{g} narrow" if g == "blackwell" else g for g in c.generation])
    busy = (
        of["busy"]
        + of["wide"] * (1.0 / clock - 1.0)
        + of["narrow"] * (1.0 / by("clock", apart) - 1.0)
    )
    grown = 1.0 + of["share"] * by("share", c.software) * of["ranks"]
    layers = of["layers"] * by("layer", c.software) * grown
    paced = np.maximum(np.hypot(busy, of["counted"] * by("launch", c.software)), layers)
    late = 1.0 + fit.get("jitter", 1.0) * of["jitter"] * of["spread"]
    fixed = of["fixed"] * by("step", c.software)
    found: Vector = (of["microbatches"] * late + of["fill"]) * paced + of["rest"] + fixed
    return found


def objective(c: Columns, fit: Fit, weight: Vector) -> float:
    """Mean over sources of the mean |ln error|, odd rows capped, with the pooling of launch times."""
    error = np.minimum(np.abs(np.log(steps(c, fit) / c.of["measured"])), CAP)
    launches = [np.log(v) for k, v in fit.items() if k.startswith("launch")]
    pooled = POOLING * float(np.sum(np.square(launches))) / max(float(weight.sum()), 1.0)
    return float((error * weight).sum() / max(float(weight.sum()), 1e-9)) + pooled


def fitted(c: Columns, without: str = "", start: Fit | None = None) -> Fit:
    """The factors that fit best, by sweeps over the constants; rows of ``without`` have no say."""
    weight = np.where(c.source == without, 0.0, c.weight)
    seen = c.constants()
    # a constant that no row shows keeps what is shipped
    fit: Fit = dict.fromkeys(seen, 1.0) | (start or {})
    for _ in range(SWEEPS):
        before = dict(fit)
        for name, factors in seen.items():
            tried = {f: objective(c, fit | {name: f}, weight) for f in factors}
            best = min(tried, key=lambda f: (round(tried[f], 5), abs(f - 1.0)))
            fit[name] = best
        if fit == before:
            break
    return fit


def left_out(table: str | Path = TABLE, cells: Mapping[str, str] | None = None) -> list[Found]:
    """Every row with a time, predicted with constants that were fitted without its source, or without its
    cell (by row): (row, quantity, measured [s], predicted [s])."""
    c = Columns(features(table))
    if cells:
        c.source = np.array([cells[r.row] for r in c.rows])
    return [found for found, _ in _left_out(c, fitted(c))]


def _left_out(c: Columns, whole: Fit) -> Iterator[tuple[Found, Fit]]:
    for source in dict.fromkeys(c.source):
        # what the source has no row for cannot change, and the whole fit is near
        fit = fitted(c, source, whole)
        predicted = steps(c, fit)
        for i in np.flatnonzero(c.source == source):
            row = c.rows[i]
            yield (row.row, "step_s", row.measured, float(predicted[i])), fit


def absolute(name: str, factor: float, c: Columns) -> str:
    """A constant as its file states it."""
    kind, _, of = name.partition(" ")
    if kind == "clock":
        device = _device(REFERENCES[of.removesuffix(" narrow")])
        narrow = device.training_clock_narrow or device.training_clock
        shipped = narrow if of.endswith("narrow") else device.training_clock
        return f"{device.name} {shipped:g} → {shipped * factor:.3g}"
    return f"× {factor:g} of what is shipped"


def switches_of_one() -> dict[str, str]:
    """Switches that one stack of the catalog alone sets otherwise than by default → that stack."""
    usual = Stack(name="usual")
    users: dict[str, set[str]] = defaultdict(set)
    for name in catalog.names("stacks"):
        table = catalog.load("stacks", name, "stack")[1]
        groups = [v for v in table.values() if isinstance(v, dict)]
        more = [entry for kind in ("version", "variant") for entry in table.get(kind, ())]
        for group in (*groups, *more):
            for switch, value in group.items():
                # [source] says why, of the same switches
                stated = switch in HOME and group is not table.get("source")
                if stated and getattr(usual, switch) != value:
                    users[switch].add(name)
    return {switch: next(iter(names)) for switch, names in users.items() if len(names) == 1}


def _step_errors(rows: list[Row], folder: Path, changes: dict[str, Any]) -> dict[str, float]:
    """|ln error| of rows whose stacks have switches changed."""
    stated = software.as_stated

    def changed(stack: Stack, row: Row) -> Stack:
        return replaced(stated(stack, row), changes)

    software.as_stated = changed
    try:
        found = {row.text("id"): _priced(row, folder) for row in rows}
    finally:
        software.as_stated = stated
    return {
        k: abs(float(np.log(float(p[0].step_s) / p[1]))) for k, p in found.items() if p is not None
    }


def print_switches(path: Path) -> None:
    """With and without every switch of one stack: mean |ln error| of that stack's sources."""
    usual, table = Stack(name="usual"), read_table(str(path))
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in table.rows:
        priced = _priced(row, path.parent)
        if priced is not None:
            rows[priced[0].stack.software].append(row)
    for switch, stack in sorted(switches_of_one().items(), key=lambda s: s[1]):
        own = rows.get(stack, [])
        as_is = _step_errors(own, path.parent, {})
        without = _step_errors(own, path.parent, {switch: getattr(usual, switch)})
        if as_is == without:
            continue  # of memory, of inference, or of layouts that no row has
        by_source: dict[str, list[str]] = defaultdict(list)
        for row_id in as_is.keys() & without.keys():
            by_source[row_id.partition("/")[0]].append(row_id)
        for source, ids in sorted(by_source.items()):
            pair = (statistics.fmean(e[i] for i in ids) for e in (as_is, without))
            print("{:26} {:22} {:20} {:6.1%} without {:6.1%}".format(switch, stack, source, *pair))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("table", type=Path, nargs="?", default=TABLE)
    parser.add_argument("--switches", action="store_true", help="switches of one stack alone")
    asked = parser.parse_args()
    if asked.switches:
        print_switches(asked.table)
        return
    c = Columns(features(asked.table))
    shipped = objective(c, {}, c.weight)
    whole = fitted(c)
    print(f"mean |ln error| over sources, capped: shipped {shipped:.2%}, ", end="")
    print(f"fitted {objective(c, whole, c.weight):.2%}")
    for name, factor in whole.items():
        print(f"{name:32} {absolute(name, factor, c)}")
    errors: dict[str, list[float]] = defaultdict(list)
    changed: dict[str, dict[str, float]] = {}
    for (row, _, measured, predicted), fit in _left_out(c, whole):
        source = row.partition("/")[0]
        errors[source].append(predicted / measured - 1)
        changed[source] = {k: v for k, v in fit.items() if v != whole[k]}
    for source, found in errors.items():
        median, bias = statistics.median(map(abs, found)), statistics.median(found)
        said = " ".join(f"{k} ×{v:g}" for k, v in changed[source].items())
        print(f"left out {source:24} {len(found):4} rows {median:6.1%} bias {bias:+6.1%}  {said}")
    every = sorted(abs(e) for found in errors.values() for e in found)
    medians = [statistics.median(map(abs, found)) for found in errors.values()]
    print(
        f"left one source out: median {statistics.median(every):.1%}, p90 "
        f"{every[int(0.9 * len(every))]:.1%} of {len(every)} rows; "
        f"median over {len(medians)} sources {statistics.median(medians):.1%}"
    )


if __name__ == "__main__":
    main()
