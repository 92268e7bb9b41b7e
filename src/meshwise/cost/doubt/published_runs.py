"""Which published runs stand near a question: the index of ``catalog/evidence``, and the tier that follows.

A cell of the index is the rows of one source with one device, one software and one regime; it is
written by ``tools/fit_discrepancy.py`` from the tables, and read when an answer asks.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from meshwise import catalog
from meshwise.cost.doubt.question import TRAITS, Question

TIERS = ("measured", "near", "far", "none")
_MOST_NAMED = 3
SIXTEEN = ("bf16", "fp16")  # products of either run at one rate
# Which is no regime to have runs of: what does not fit does not run.
_NO_REGIME = ("over_memory",)


class Cell(NamedTuple):
    """Rows of one source that ask the same."""

    source: str
    first: str  # id of the first of them
    device: str
    software: str
    release: str  # of the software; of collectives the outermost fabric
    traits: frozenset[str]
    rows: int


class Evidence(NamedTuple):
    """How near published runs are to a question."""

    tier: str
    runs: int  # that share what the nearest share
    nearest: tuple[str, ...]  # their ids, one per source
    new: tuple[str, ...]  # what none of them has: device, software, fabric, or traits
    narrow_by: tuple[str, ...]  # what would narrow the interval


@functools.cache
def cells(kind: str) -> tuple[Cell, ...]:
    """The index of a kind of table; none where it was never built."""
    if kind not in catalog.names("evidence"):
        return ()
    table = catalog.load("evidence", kind, "evidence")[1]
    listed: list[Any] = table["cells"]
    return tuple(
        Cell(source, first, device, software, release, frozenset(traits), rows)
        for source, first, device, software, release, traits, rows in listed
    )


def best_mfu(device: str, dtype: str) -> tuple[float, str] | None:
    """The best model-FLOPs utilisation of the shipped rows of a device with products that run at the
    rate of ``dtype``, and the row's id."""
    if "training" not in catalog.names("evidence"):
        return None
    table = catalog.load("evidence", "training", "evidence")[1]
    listed = table["best_mfu"].get(device, {})
    alike = SIXTEEN if dtype in SIXTEEN else (dtype,)
    found = max((listed[name] for name in alike if name in listed), default=None)
    return None if found is None else (found[0], found[1])


def regime(q: Question) -> frozenset[str]:
    """The traits of one layout that runs may have too."""
    return frozenset(name for name in q.having() if name not in _NO_REGIME)


def lacking(q: Question, cell: Cell, traits: frozenset[str]) -> tuple[str, ...]:
    """What a question has and a cell's runs have not: each is one step away from them."""
    lacks = []
    if q.kind == "collectives":
        if cell.release != q.release:
            lacks.append("fabric")
    elif cell.device != q.device:
        lacks.append("device")
    if q.assumed or cell.software != q.software:
        lacks.append("software")
    return (*lacks, *sorted(traits - cell.traits))


def steps(lacks: tuple[str, ...]) -> int:
    """How many things are new: device (or fabric), software, regime."""
    return len({"regime" if name in TRAITS else name for name in lacks})


def evidence(q: Question, without: str = "", index: tuple[Cell, ...] | None = None) -> Evidence:
    """The tier of a question about one layout, and the runs nearest to it; ``without``: a source that
    does not count, as a row is no evidence for itself."""
    traits = regime(q)
    found = []
    for cell in cells(q.kind) if index is None else index:
        if cell.source != without:
            lacks = lacking(q, cell, traits)
            rank = (steps(lacks), len(lacks), len(cell.traits - traits), cell.release != q.release)
            found.append((rank, lacks, cell))
    known = any(not {"device", "fabric"} & set(lacks) for _, lacks, _ in found)
    if not found:
        return Evidence("none", 0, (), ("device", "software"), _narrowing(q, ("device",)))
    found.sort(key=lambda f: (f[0], f[2].first))
    nearest, lacks = found[0][0], found[0][1]
    alike = [cell for rank, _, cell in found if rank[:2] == nearest[:2]]
    far = min(nearest[0], 2)
    tier = TIERS[far] if known or q.own_kernels else "none"
    named = tuple(dict.fromkeys(c.source for c in alike))[:_MOST_NAMED]
    first = {c.source: c.first for c in reversed(alike)}
    return Evidence(
        tier,
        sum(c.rows for c in alike),
        tuple(first[source] for source in named),
        lacks,
        _narrowing(q, lacks),
    )


_OWN = {
    "training": "a table of your own steps (validate says how far they lie)",
    "serving": "a table of your own runs (validate says how far they lie)",
    "collectives": "a few sizes of your own log (collective with measured)",
}


def _narrowing(q: Question, lacks: tuple[str, ...]) -> tuple[str, ...]:
    """What would make the interval smaller, the most first."""
    said = []
    if q.assumed:
        said.append("the stack that runs, in place of one that stands in for it")
    if lacks or not q.own_kernels:
        said.append(_OWN[q.kind])
    crosses = any(float(q.traits.get(t, 0.0)) for t in ("ep_network", "tp_network", "network"))
    if q.kind != "collectives" and (crosses or float(q.shares.get("network_share", 0.0)) > 0.1):
        said.append("a few sizes of a log of the network (collective with measured)")
    return tuple(said)


def novelty(
    q: Question, without: str = "", index: tuple[Cell, ...] | None = None
) -> dict[str, float]:
    """1 where no published run has the device (collectives: the fabric), the software, or its release."""
    if index is None:
        return dict(_novelty(q.kind, q.device, q.software, q.release, q.assumed, without))
    return _new(index, q.kind, q.device, q.software, q.release, q.assumed, without)


@functools.lru_cache(maxsize=4096)
def _novelty(
    kind: str, device: str, software: str, release: str, assumed: bool, without: str
) -> tuple[tuple[str, float], ...]:
    return tuple(_new(cells(kind), kind, device, software, release, assumed, without).items())


def _new(
    index: tuple[Cell, ...],
    kind: str,
    device: str,
    software: str,
    release: str,
    assumed: bool,
    without: str,
) -> dict[str, float]:
    others = [c for c in index if c.source != without]
    return {
        "device": float(all(c.device != device for c in others)),
        "software": float(assumed or all(c.software != software for c in others)),
        "release": float(all((c.software, c.release) != (software, release) for c in others))
        if kind != "collectives"
        else float(all(c.release != release for c in others)),
    }
