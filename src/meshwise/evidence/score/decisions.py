"""What following the predictions would cost: of rows that differ in layout alone, the predicted best
against the measured best, and against the rule of thumb's.

The choice is ``plan``'s ``best_expected``: the least step over the chance that its memory fits, as a run
that goes out of memory is lost. Rows that state the same layout are told apart by nothing that a planner
knows: their mean counts.
"""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple, TypedDict

import numpy as np

from meshwise.axes import PLACEMENTS, SHARD_STAGES
from meshwise.evidence.score.result import Result
from meshwise.layouts.layout import Layout
from meshwise.search.training.thumb import PLAIN_SHARDS, fewest_stages, fills_node

LEAST_ROWS = 4  # of a group
EVEN = 0.5  # a chance: what is predicted to fit has a better one


class Decision(NamedTuple):
    """A group of rows that differ in layout alone. A regret is a measured time over the best one, −1."""

    source: str
    job: tuple[str, ...]
    rows: int
    best: str  # ids: the fastest as measured, as predicted, and the rule of thumb's
    chosen: str
    thumb: str | None
    regret: float
    thumb_regret: float | None
    kendall_tau: float | None  # None where all are alike in one of the two

    def to_dict(self) -> dict[str, object]:
        """A row of the JSON."""
        return self._asdict() | {"job": [part for part in self.job[1:] if part]}


class ThumbScore(TypedDict):
    """The rule of thumb's regrets over the groups that it decides, and the prediction's over the same."""

    groups: int
    median_regret: float | None
    mean_regret: float | None
    mean_regret_predicted: float | None


class DecisionScore(TypedDict):
    """Medians and means over groups."""

    groups: int
    rows: int
    median_regret: float
    mean_regret: float
    median_kendall_tau: float | None
    mean_kendall_tau: float | None
    rule_of_thumb: ThumbScore


class DecisionsScore(DecisionScore):
    """The same of every source alone."""

    by_source: dict[str, DecisionScore]


def decided(results: list[Result]) -> list[Decision]:
    """Every group of at least four measured and predicted steps."""
    chances = {r.id: r.chance for r in results if r.chance is not None}
    groups: dict[tuple[str, ...], list[Result]] = {}
    for r in results:
        if r.quantity == "step_s" and r.status == "ok" and r.contender is not None:
            groups.setdefault(r.contender.alike, []).append(r)
    return [_decision(job, rows, chances) for job, rows in groups.items() if _several(rows)]


def _several(rows: list[Result]) -> bool:
    """Whether there is something to choose."""
    return len(rows) >= LEAST_ROWS and len({r.contender.layout for r in rows if r.contender}) > 1


def _decision(job: tuple[str, ...], rows: list[Result], chances: dict[str, float]) -> Decision:
    """``chances``: that a row fits, by its id; a row without one does."""
    measured = np.array([r.measured for r in rows], dtype=np.float64)
    predicted = np.array([r.predicted for r in rows], dtype=np.float64)
    chance = np.array([max(chances.get(r.id, 1.0), 1e-9) for r in rows])
    expected = predicted / chance
    best, chosen = int(measured.argmin()), int(expected.argmin())
    # the rule of thumb knows what fits, as plan's does
    fits = chance >= EVEN if np.any(chance >= EVEN) else chance > 0.0
    ruled = _ruled(rows, fits)
    thumb = int(np.where(ruled, predicted, np.inf).argmin()) if ruled.any() else None

    def regret(row: int) -> float:
        like = np.array([_stated(r) == _stated(rows[row]) for r in rows])
        return float(measured[like].mean() / measured[best] - 1.0)

    return Decision(
        source=rows[0].source,
        job=job,
        rows=len(rows),
        best=rows[best].id,
        chosen=rows[chosen].id,
        thumb=None if thumb is None else rows[thumb].id,
        regret=regret(chosen),
        thumb_regret=None if thumb is None else regret(thumb),
        kendall_tau=kendall_tau(measured, predicted),
    )


def _stated(row: Result) -> tuple[Layout | None, float | None]:
    """What is known of a row before it runs: its layout, and, by its time, the switches beside it."""
    return row.contender and row.contender.layout, row.predicted


def _ruled(rows: list[Result], fits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The rows that are as the rule of thumb of ``plan`` says: it takes the fastest of them, as predicted."""
    layouts = [r.contender.layout for r in rows if r.contender is not None]

    def column(name: str) -> np.ndarray[Any, Any]:
        return np.array([getattr(layout, name) for layout in layouts])

    node = rows[0].contender.node_devices if rows[0].contender is not None else 1
    outer = np.array([PLACEMENTS.index(layout.placement) for layout in layouts])
    legal = np.array([SHARD_STAGES.index(layout.shard) in PLAIN_SHARDS for layout in layouts])
    good = fills_node(column("tp"), column("cp"), column("ep"), outer, node, legal & fits)
    return np.asarray(good & fewest_stages(column("pp"), good))


def kendall_tau(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float | None:
    """Kendall's τ_b: pairs in the same order less pairs in the other, over the geometric mean of the pairs
    that are not tied in each (Kendall 1945). None where one of them has no order."""
    upper = np.triu_indices(len(one), 1)
    a = np.sign(np.subtract.outer(one, one))[upper]
    b = np.sign(np.subtract.outer(other, other))[upper]
    untied = float(np.sqrt(np.sum(a != 0) * np.sum(b != 0)))
    return float(np.sum(a * b)) / untied if untied else None


def _score(found: list[Decision]) -> DecisionScore:
    """Medians and means of groups; the rule of thumb's over those that it decides, and ours on the same."""
    regrets = [d.regret for d in found]
    taus = [d.kendall_tau for d in found if d.kendall_tau is not None]
    both = [(d.regret, d.thumb_regret) for d in found if d.thumb_regret is not None]
    return {
        "groups": len(found),
        "rows": sum(d.rows for d in found),
        "median_regret": statistics.median(regrets),
        "mean_regret": statistics.fmean(regrets),
        "median_kendall_tau": statistics.median(taus) if taus else None,
        "mean_kendall_tau": statistics.fmean(taus) if taus else None,
        "rule_of_thumb": {
            "groups": len(both),
            "median_regret": statistics.median(t for _, t in both) if both else None,
            "mean_regret": statistics.fmean(t for _, t in both) if both else None,
            "mean_regret_predicted": statistics.fmean(p for p, _ in both) if both else None,
        },
    }


def decisions(results: list[Result]) -> DecisionsScore | None:
    """What the decisions of a table come to, in all and by source; None where there is none."""
    found = decided(results)
    if not found:
        return None
    sources = dict.fromkeys(d.source for d in found)
    by = {source: _score([d for d in found if d.source == source]) for source in sources}
    return {**_score(found), "by_source": by}
