"""One row of a table → the same quantity predicted, or the reason why not."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from meshwise.clusters.load import Cluster, Device
from meshwise.cost.collectives import collective as coll
from meshwise.cost.doubt.question import collective_question
from meshwise.cost.uncertainty import collective_kind, unmeasured_slowdown
from meshwise.evidence import hardware
from meshwise.evidence.predict_layers import layer_predictions
from meshwise.evidence.predict_serving import serving_predictions
from meshwise.evidence.predict_training import training_predictions
from meshwise.evidence.prediction import Prediction, Span, Unsupported, source_of
from meshwise.evidence.rows.suspect import check_collective, check_sign
from meshwise.evidence.tables import Assumed, Row
from meshwise.layouts.placement import Group, place
from meshwise.stacks.libraries import library_of
from meshwise.stacks.load import load_stack, stack_in_table
from meshwise.stacks.stack import Stack

_STANDS_IN = "nccl"  # of a library that is not known


def _library(row: Row, device: Device) -> tuple[Stack, tuple[Assumed, ...]]:
    """The stack that prices a row's library, and whether it is assumed: its own name's; where it states
    none, its device's; where it is not known, NCCL."""
    name = row.text("library").lower()
    found = stack_in_table(name) if name else None
    if found is not None:
        return found, ()
    usual = _STANDS_IN if name else library_of(device).stack
    return load_stack(usual), (Assumed("library", usual),)


class CollectiveAsked(NamedTuple):
    """What a row asks: an operation on bytes (as nccl-tests counts them) by a group of a cluster."""

    op: str
    payload: float
    measured_s: float
    group: Group
    cluster: Cluster
    stack: Stack
    lacking: tuple[Assumed, ...]  # what of it the row does not say
    unsure: bool  # whether its network's rate is among that

    @property
    def across(self) -> bool:
        """Whether the group crosses a network."""
        return collective_kind(self.stack, self.cluster, self.group) == "network"


def collective_asked(row: Row) -> CollectiveAsked:
    """What a row of collectives asks. Raises :class:`Unsupported` or MeshwiseError."""
    op = coll.known_operation(row.text("op"))
    if op is None:
        raise Unsupported(f"{row.text('op')} is not priced")
    # who takes part
    ranks = row.count("ranks")
    if ranks == 1:
        raise row.wrong("ranks", "one rank exchanges nothing", "2 or more")
    stated = hardware.stated_node(row, ranks)
    per_node = ranks if stated is None else min(stated, ranks)
    if row.one_of("launch", ("graph", "eager")) == "eager":
        raise Unsupported("launched outside a graph: host time, not the kernel's")
    # over which fabric
    node: tuple[Assumed, ...] = ()
    if per_node < ranks and not row.text("inter_node"):  # trays of one rack may be said as nodes
        per_node, node = hardware.node_devices(row, ranks)
    cluster, lacking, unsure = hardware.collective_cluster(row, ranks, per_node)
    group = place("tp", np.int64(ranks), np.int64(1), np.int64(0), cluster)
    # by which library
    software, assumed = _library(row, cluster.device)
    said = (*assumed, *node, *lacking)
    measured = row.number("time_us") * 1e-6
    return CollectiveAsked(
        op, row.number("bytes"), measured, group, cluster, software, said, unsure
    )


def collective_predictions(row: Row, folder: Path, named: Stack | None = None) -> list[Prediction]:
    """Time of one collective."""
    del folder, named
    q = collective_asked(row)
    job = (q.op, q.payload, q.group, q.cluster, q.stack)
    check_collective(q.measured_s, q.payload, q.group, q.cluster)
    priced = coll.cheapest(q.op, np.float64(q.payload), q.group, q.cluster, q.stack)
    seconds = float(priced.seconds)
    # where the network's rate is open, the rates that such systems have
    span = Span()
    if q.unsure:
        others = hardware.other_networks(q.cluster)
        each = [coll.cheapest(q.op, np.float64(q.payload), q.group, c, q.stack) for c in others]
        span = span.widened([float(p.seconds) / seconds for p in each])
    return [
        Prediction(
            row.text("id"),
            "time_s",
            q.measured_s,
            seconds,
            source_of(row),
            q.lacking,
            span=span,
            question=collective_question(*job, priced, q.unsure),
            slower=unmeasured_slowdown(*job, seconds),
        )
    ]


PREDICT = {
    "training": training_predictions,
    "layers": layer_predictions,
    "serving": serving_predictions,
    "collectives": collective_predictions,
}


def predict(kind: str, row: Row, folder: Path, named: Stack | None = None) -> list[Prediction]:
    """All that a row measures and meshwise predicts; ``named``: the stack of software that is not known.
    Raises :class:`Unsupported` or MeshwiseError."""
    check_sign(kind, row)  # a measurement that is none, whatever else is stated
    found = PREDICT[kind](row, folder, named)
    if not found:
        raise Unsupported("the row measures nothing that is predicted")
    return found
