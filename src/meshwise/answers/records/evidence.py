"""How near published runs are to an answer, as JSON."""

from __future__ import annotations

from typing import TypedDict

from meshwise.cost.doubt.published_runs import best_mfu, evidence
from meshwise.cost.doubt.question import Question
from meshwise.stacks.stack import Stack


class EvidenceRecord(TypedDict):
    """The tier, the runs nearest, what none of them has, and what would narrow the interval."""

    tier: str
    runs: int
    nearest: list[str]
    new: list[str]
    narrow_by: list[str]


class PublishedMfu(TypedDict):
    """The best model-FLOPs utilisation that a published row of the device has."""

    mfu: float
    id: str


def evidence_record(q: Question, stack: Stack) -> EvidenceRecord | None:
    """That of a question about one layout; None under the ideal stack, which is a definition."""
    if stack.ideal:
        return None
    found = evidence(q)
    return {
        "tier": found.tier,
        "runs": found.runs,
        "nearest": list(found.nearest),
        "new": list(found.new),
        "narrow_by": list(found.narrow_by),
    }


def published_mfu(device: str, dtype: str) -> PublishedMfu | None:
    """The best published one of a device's products of a format; None where no row has any."""
    found = best_mfu(device, dtype)
    return None if found is None else {"mfu": found[0], "id": found[1]}
