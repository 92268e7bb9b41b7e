"""How near published runs are to an answer, as JSON."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from meshwise.clusters.load import Cluster
from meshwise.cost.doubt.published_runs import best_mfu, evidence
from meshwise.cost.doubt.question import Question
from meshwise.layouts.layout import Layout, arrays
from meshwise.models.shapes import Model
from meshwise.search.serving.iteration import Engine
from meshwise.search.serving.steady_state import steady_question
from meshwise.stacks.stack import Stack
from meshwise.workloads.serving import Serving


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


def serving_evidence(
    model: Model, cluster: Cluster, stack: Stack, layout: Layout, w: Serving, running: int
) -> EvidenceRecord | None:
    """That of the tokens of an engine with ``running`` requests in flight."""
    layouts = arrays(layout, w.decode())
    engine = Engine(model, cluster, stack, layouts, w.formats, w.expert_imbalance, w.expert_skew)
    return evidence_record(steady_question(engine, w, np.int64(running)).at(0), stack)


def published_mfu(device: str, dtype: str) -> PublishedMfu | None:
    """The best published one of a device's products of a format; None where no row has any."""
    found = best_mfu(device, dtype)
    return None if found is None else {"mfu": found[0], "id": found[1]}
