"""How near published runs are to a serving layout, as JSON."""

from __future__ import annotations

import numpy as np

from meshwise.answers.records.evidence import EvidenceRecord, evidence_record
from meshwise.clusters.load import Cluster
from meshwise.layouts.layout import Layout, arrays
from meshwise.models.shapes import Model
from meshwise.search.serving.steady_state import steady_question
from meshwise.simulate.iteration import Engine
from meshwise.stacks.stack import Stack
from meshwise.workloads.serving import Serving


def serving_evidence(
    model: Model, cluster: Cluster, stack: Stack, layout: Layout, w: Serving, running: int
) -> EvidenceRecord | None:
    """That of the tokens of an engine with ``running`` requests in flight."""
    layouts = arrays(layout, w.decode())
    engine = Engine(model, cluster, stack, layouts, w.formats, w.expert_imbalance, w.expert_skew)
    return evidence_record(steady_question(engine, w, np.int64(running)).at(0), stack)
