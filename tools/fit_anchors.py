"""What measured sizes of one's own are worth, and the constants of `meshwise.cost.collectives.anchors`.

    python tools/fit_anchors.py [TABLE.csv]           # errors and coverage, four sizes of each log given
    python tools/fit_anchors.py [TABLE.csv] --grid    # the same by the form's spread and length, and the noise

Of every log of at least eight sizes, four are given, those nearest to 8 KiB, 1 MiB, 32 MiB, and 1 GiB or
the largest; the others are predicted. Between nodes by constants that were fitted without the log's
system (``tools/fit_networks.py``), of networks whose rate is stated; inside a node by the shipped ones.

The interval score (Gneiting and Raftery 2007) is that of ln(seconds), the mean over logs.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import fit_networks
import numpy as np

from meshwise.arrays import Array
from meshwise.cost.collectives.anchors import factors
from meshwise.cost.collectives.anchors.factors import anchored_s, anchored_sd, fit_factors, price_on
from meshwise.cost.collectives.collective import fabric_of
from meshwise.cost.collectives.fabric import Fabric
from meshwise.cost.collectives.transports import SHIPPED_TRANSPORTS, Transports
from meshwise.cost.doubt.spread import NORMAL
from meshwise.errors import MeshwiseError
from meshwise.evidence.anchors.anchoring import FOUR, system_of
from meshwise.evidence.predict import collective_asked
from meshwise.evidence.prediction import Unsupported
from meshwise.evidence.tables import Row

LEAST = 8  # sizes of a log


class Log(NamedTuple):
    """Sizes [bytes] and seconds of one operation on one system, and its fabric as the model has it."""

    op: str
    fabric: Fabric
    payload: Array
    seconds: Array


def between_nodes(table: Sequence[dict[str, str]]) -> list[Log]:
    logs = fit_networks.logs_of(table)
    found = []
    for system in dict.fromkeys(log.system for log in logs):
        own = [x for x in logs if x.system == system and x.stated and len(x.payload) >= LEAST]
        if own:
            c = fit_networks.fit([log for log in logs if log.system != system])
            transports = Transports(fit_networks.tables_of(c).__getitem__)
            for x in own:
                fabric = fabric_of(x.op, x.group, x.cluster, x.stack, transports)
                found.append(Log(x.op, fabric, x.payload, x.seconds))
    return found


def inside_nodes(table: Sequence[dict[str, str]]) -> list[Log]:
    parts = defaultdict(list)
    for line, cells in enumerate(table, start=2):
        row = Row(line, {k: (v or "").strip() for k, v in cells.items()})
        if int(row.text("nodes", "1")) == 1 and row.text("time_us"):
            try:
                parts[system_of(row)].append((row, collective_asked(row)))
            except (Unsupported, MeshwiseError):
                continue
    found = []
    for rows in parts.values():
        if len(rows) >= LEAST:
            q = rows[0][1]
            fabric = fabric_of(q.op, q.group, q.cluster, q.stack, SHIPPED_TRANSPORTS)
            payload, seconds = np.array([(a.payload, a.measured_s) for _, a in rows]).T
            found.append(Log(q.op, fabric, payload, seconds))
    return found


def given(payload: Array) -> list[int]:
    """Which four of the sizes are given."""
    left = list(range(len(payload)))
    for size in FOUR:
        at = min(size, float(payload.max()))
        left.remove(min(left, key=lambda i: abs(np.log(payload[i] / at))))
    return [i for i in range(len(payload)) if i not in left]


def report(name: str, logs: Sequence[Log], across: bool) -> None:
    """Errors of the sizes that are not given, and what their intervals hold."""
    every, scores = [], []
    for log in logs:
        known = given(log.payload)
        rest = np.setdiff1d(np.arange(len(log.payload)), known)
        price = price_on(log.op, log.payload[known], log.fabric)
        found = fit_factors(price, log.seconds[known], across)
        price = price_on(log.op, log.payload[rest], log.fabric)
        off = np.log(log.seconds[rest] / anchored_s(price, found))
        sd = anchored_sd(price, found)
        plain = price(1.0, 1.0) / log.seconds[rest] - 1.0
        outside = np.maximum(np.abs(off) - NORMAL * sd, 0.0)
        scores.append(np.mean(2.0 * NORMAL * sd + 20.0 * outside))
        every += list(zip(off, sd, plain, strict=True))
    off, sd, plain = np.array(every).T
    error = np.exp(-off) - 1.0
    print(
        f"{name}: {len(logs)} logs, {len(off)} rows; plain {np.median(np.abs(plain)):.1%} / "
        f"{np.quantile(np.abs(plain), 0.9):.1%}; anchored {np.median(np.abs(error)):.1%} / "
        f"{np.quantile(np.abs(error), 0.9):.1%}, bias {np.median(error):+.1%}, inside "
        f"{np.mean(np.abs(off) < NORMAL * sd):.1%}, width x{np.median(np.exp(2 * NORMAL * sd)):.2f}, "
        f"score {np.mean(scores):.3f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("table", type=Path, nargs="?", default=fit_networks.TABLE)
    parser.add_argument("--grid", action="store_true", help="trial constants")
    arguments = parser.parse_args()
    with arguments.table.open(newline="", encoding="utf-8") as lines:
        table = list(csv.DictReader(lines))
    sides = (
        ("between nodes", between_nodes(table), True, "FORM_SD_ACROSS", (0.25, 0.3, 0.35, 0.4)),
        ("inside a node", inside_nodes(table), False, "FORM_SD_INSIDE", (0.1, 0.15, 0.2, 0.3)),
    )
    for name, logs, across, form, spreads in sides:
        report(name, logs, across)
        if arguments.grid:
            for spread, length, noise in itertools.product(spreads, (1.5, 2.5, 4.0), (0.05, 0.1)):
                setattr(factors, form, spread)
                factors.SIZES_ALIKE, factors.NOISE_SD = length, noise
                report(f"{name}, {spread} {length} {noise}", logs, across)


if __name__ == "__main__":
    main()
