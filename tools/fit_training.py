"""The two constants that only training runs show: the clock under load, and the spread of ranks.

    python tools/fit_training.py [TABLE.csv]

``training_clock`` of 700 W Hopper boards (other boards follow by the cube root of their power) and
``jitter`` (standard deviation of a rank's time over its mean). Kernel tables are measured in short
bursts on one device, so that neither can be seen there. Both are fitted once, on all published
training rows together, every source weighing alike (mean over sources of the median |ln error|), and
printed with the errors of each source under constants fitted without it. Copy what it prints into
``devices/*.toml`` and ``Stack.jitter``.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec

from meshwise.clusters import load as cluster
from meshwise.errors import MeshwiseError
from meshwise.evidence import hardware
from meshwise.evidence.predict_training import measured_step_s, training_estimate
from meshwise.evidence.prediction import Unsupported, source_of
from meshwise.evidence.tables import MeasuredTable, read_table

TABLE = Path(__file__).resolve().parents[1] / "src/meshwise/evidence/published/training.csv"
CLOCKS = (0.70, 0.72, 0.74, 0.76, 0.78, 0.80, 0.82, 0.84, 0.88, 1.0)
JITTERS = (0.0, 0.0025, 0.005, 0.0075, 0.01, 0.0125, 0.015, 0.02)
AS_GOOD = 0.001  # of the objective: a tenth of a per cent
REFERENCE = "h100-80gb-sxm"
_device = cluster.device

Steps = dict[str, list[tuple[float, float, float]]]  # source → (measured, without jitter, per unit)


def with_clock(clock: float) -> None:
    """Every Hopper device's clock, in proportion to the reference's."""
    shipped = _device(REFERENCE).training_clock

    def device(name: str, field: str = "device") -> Any:
        found = _device(name, field)
        if found.generation != "hopper":
            return found
        return msgspec.structs.replace(found, training_clock=found.training_clock / shipped * clock)

    cluster.device = device
    hardware.device = device


def steps(table: MeasuredTable, folder: Path) -> Steps:
    found: Steps = defaultdict(list)
    for row in table.rows:
        try:
            e, _ = training_estimate(row, folder)
            measured = measured_step_s(row, e)
        except (Unsupported, MeshwiseError):
            continue
        if measured:
            waits = float(e.straggler_s)
            unit = waits / e.stack.host.jitter if e.stack.host.jitter else 0.0
            found[source_of(row)].append((measured, float(e.step_s) - waits, unit))
    return found


def errors(rows: list[tuple[float, float, float]], jitter: float) -> list[float]:
    return [math.log((base + jitter * unit) / measured) for measured, base, unit in rows]


def objective(found: Steps, jitter: float, without: str = "") -> float:
    return statistics.fmean(
        statistics.median(map(abs, errors(rows, jitter)))
        for source, rows in found.items()
        if source != without
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the training clock and the jitter.")
    parser.add_argument("table", type=Path, nargs="?", default=TABLE)
    path = parser.parse_args().table
    table = read_table(str(path))
    by_clock: dict[float, Steps] = {}
    for clock in CLOCKS:
        with_clock(clock)
        by_clock[clock] = steps(table, path.parent)
    grid = [(clock, jitter) for clock in CLOCKS for jitter in JITTERS]

    def best(without: str = "") -> tuple[float, float]:
        """Clock and jitter trade off along a flat valley: of what is as good, the least jitter."""
        scores = {at: objective(by_clock[at[0]], at[1], without) for at in grid}
        as_good = [at for at in grid if scores[at] <= min(scores.values()) + AS_GOOD]
        return min(as_good, key=lambda at: (at[1], scores[at]))

    for clock in CLOCKS:
        shown = "  ".join(f"{100 * objective(by_clock[clock], j):5.2f}" for j in JITTERS)
        print(f"clock {clock:.2f}  {shown}   (% at jitter {', '.join(map(str, JITTERS))})")
    clock, jitter = best()
    print(f"training_clock {clock}  jitter {jitter}")
    every: list[float] = []
    for source in by_clock[clock]:
        out_clock, out_jitter = best(source)
        found = [math.expm1(e) for e in errors(by_clock[out_clock][source], out_jitter)]
        every += map(abs, found)
        median = statistics.median(map(abs, found))
        print(
            f"left out {source:24} {len(found):4} rows  {out_clock:.2f} {out_jitter:<7} {median:6.1%}"
        )
    ordered = sorted(every)
    print(
        f"left one source out: median {statistics.median(ordered):.1%}, "
        f"p90 {ordered[int(0.9 * len(ordered))]:.1%} of {len(ordered)} rows"
    )


if __name__ == "__main__":
    main()
