"""Rows of a table of collectives that anchor the others of their system: by a file, or some of its own."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from meshwise.cost.collectives.anchors.factors import (
    Factors,
    anchored_s,
    anchored_sd,
    fit_factors,
    price_on,
)
from meshwise.cost.collectives.collective import fabric_of
from meshwise.errors import InputError, MeshwiseError
from meshwise.evidence.anchors.measured import MeasuredSize, agrees, need, read_measured
from meshwise.evidence.predict import CollectiveAsked, collective_asked
from meshwise.evidence.prediction import Prediction, Unsupported, source_of
from meshwise.evidence.tables import MeasuredTable, Row

MAX_OWN = 32
# The sizes of one's own that tell most: latency, the rise, and bandwidth [bytes].
FOUR = (8 << 10, 1 << 20, 32 << 20, 1 << 30)
_SYSTEM = (
    "op",
    "device",
    "ranks",
    "nodes",
    "devices_per_node",
    "intra_node",
    "inter_node",
    "library",
)

System = tuple[str, ...]
AskedRow = tuple[Row, CollectiveAsked]


class Anchored(NamedTuple):
    """A system and operation whose predictions rest on measured sizes of its own."""

    system: System
    op: str
    ranks: int
    factors: Factors
    where: tuple[str, ...]  # ids of the rows, or lines of the file

    @property
    def source(self) -> str:
        return self.system[0]


class Anchoring(NamedTuple):
    """What anchors a table's rows."""

    systems: dict[System, Anchored]
    lines: frozenset[int]  # of rows that anchor, and are not counted

    def of(self, row: Row) -> Anchored | None:
        return self.systems.get(system_of(row))


def system_of(row: Row) -> System:
    """What rows of one log and operation have in common."""
    return (source_of(row), *(row.text(c).lower() for c in _SYSTEM), row.text("dtype").lower())


def anchoring(table: MeasuredTable, anchor: str) -> Anchoring:
    """By the rows of a file, or by so many of each system's own."""
    if table.kind != "collectives":
        raise InputError(
            f"anchor: {table.name} is a table of {table.kind}",
            field="anchor",
            value=anchor,
            legal="a table of collectives",
        )
    systems: dict[System, list[AskedRow]] = {}
    for row in table.rows:
        try:
            asked = row, collective_asked(row)
        except (Unsupported, MeshwiseError):
            continue  # said where the rows are predicted
        systems.setdefault(system_of(row), []).append(asked)
    if anchor.strip().isdigit():
        return _by_own(systems, _number(anchor))
    return _by_file(systems, anchor)


def _number(anchor: str) -> int:
    number = int(anchor)
    if not 1 <= number <= MAX_OWN:
        raise InputError(
            f"anchor={number}: not a number of rows",
            field="anchor",
            value=anchor,
            legal=f"1 to {MAX_OWN} of each system's own rows, or a file",
            nearest=min(max(number, 1), MAX_OWN),
        )
    return number


def _by_own(systems: dict[System, list[AskedRow]], number: int) -> Anchoring:
    found: dict[System, Anchored] = {}
    lines: set[int] = set()
    for system, rows in systems.items():
        chosen = _spread(rows, number)
        if len(chosen) >= len(rows):
            continue  # nothing would be left to predict
        given = [MeasuredSize(r.text("id"), q.payload, q.measured_s, {}) for r, q in chosen]
        found[system] = _anchored(system, rows[0][1], given)
        lines |= {r.line for r, _ in chosen}
    return Anchoring(found, frozenset(lines))


def _spread(rows: list[AskedRow], number: int) -> list[AskedRow]:
    """So many rows, nearest to sizes that are spread evenly from 8 KiB to 1 GiB, or the largest."""
    largest = max(q.payload for _, q in rows)
    wanted = FOUR if number == len(FOUR) else tuple(np.geomspace(FOUR[0], FOUR[-1], number))
    left, chosen = list(rows), list[AskedRow]()
    for size in wanted:
        if not left:
            break
        at = min(size, largest)
        far = [abs(math.log(q.payload / at)) for _, q in left]
        chosen.append(left.pop(far.index(min(far))))
    return chosen


def _by_file(systems: dict[System, list[AskedRow]], path: str) -> Anchoring:
    measured = read_measured(path, "anchor")
    need(measured, ("op", "device", "ranks"), path, "anchor")
    found: dict[System, Anchored] = {}
    for system, rows in systems.items():
        given = [m for m in measured if agrees(m, rows[0][0].cells)]
        if given:
            found[system] = _anchored(system, rows[0][1], given)
    if not found:
        raise InputError(
            f"anchor: {path} measured no system of the table",
            field="anchor",
            value=path,
            legal="rows whose op, device, ranks, nodes and fabrics are those of rows of the table",
        )
    # a row of the table that the file has too is given, not predicted
    known = {(m.where, m.bytes) for m in measured}
    every = [row for rows in systems.values() for row in rows]
    same = {r.line for r, q in every if (r.text("id"), q.payload) in known}
    return Anchoring(found, frozenset(same))


def _anchored(system: System, asked: CollectiveAsked, given: list[MeasuredSize]) -> Anchored:
    payload = np.array([m.bytes for m in given])
    q = asked
    price = price_on(q.op, payload, fabric_of(q.op, q.group, q.cluster, q.stack))
    factors = fit_factors(price, np.array([m.time_s for m in given]), q.across)
    return Anchored(system, q.op, int(q.group.size), factors, tuple(m.where for m in given))


def anchored_prediction(
    plain: Prediction, asked: CollectiveAsked, anchored: Anchored
) -> Prediction:
    """The prediction of a row of that system, with its factors."""
    q, factors = asked, anchored.factors
    price = price_on(q.op, np.array([q.payload]), fabric_of(q.op, q.group, q.cluster, q.stack))
    seconds = float(anchored_s(price, factors)[0])
    spread = float(anchored_sd(price, factors)[0])
    return plain._replace(predicted=seconds, anchored_sd=spread)
