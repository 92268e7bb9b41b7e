"""One row of a table → the same quantity predicted, or the reason why not."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from meshwise.clusters.load import Cluster, device
from meshwise.cost.collectives import collective as coll
from meshwise.cost.collectives.fits import lent_levels
from meshwise.cost.uncertainty import collective_kind, unmeasured_slowdown
from meshwise.evidence import hardware
from meshwise.evidence.predict_layers import layer_predictions
from meshwise.evidence.predict_serving import serving_predictions
from meshwise.evidence.predict_training import training_predictions
from meshwise.evidence.prediction import Prediction, Unsupported, source_of
from meshwise.evidence.tables import MEASURED, Assumed, Row
from meshwise.layouts.placement import Group, place
from meshwise.stacks.libraries import library_of
from meshwise.stacks.load import load_stack, stack_in_table
from meshwise.stacks.stack import Stack


def _library(row: Row) -> Stack:
    """The stack that prices a row's library: its own name's; where it states none, its device's."""
    name = row.text("library").lower()
    if not name:
        return load_stack(library_of(device(row.text("device"), f"line {row.line}: device")).stack)
    found = stack_in_table(name)
    if found is None:
        raise Unsupported(f"library {name!r} has no constants")
    return found


class CollectiveQuestion(NamedTuple):
    """What a row asks: an operation on bytes (as nccl-tests counts them) by a group of a cluster."""

    op: str
    payload: float
    measured_s: float
    group: Group
    cluster: Cluster
    stack: Stack
    lacking: tuple[Assumed, ...]

    @property
    def across(self) -> bool:
        """Whether the group crosses a network."""
        return collective_kind(self.stack, self.cluster, self.group) == "network"


def collective_question(row: Row) -> CollectiveQuestion:
    """What a row of collectives asks, or the reason why nothing answers it."""
    op = coll.known_operation(row.text("op"))
    if op is None:
        raise Unsupported(f"{row.text('op')} is not priced")
    # who takes part
    ranks = row.count("ranks")
    nodes = row.count("nodes", 1)
    per_node = row.count("devices_per_node", ranks)
    if per_node * nodes != ranks:
        raise row.wrong(
            "ranks",
            f"nodes · devices_per_node = {nodes * per_node}, not {ranks}",
            f"{nodes * per_node}",
        )
    # by which library, and whether it is priced
    software = _library(row)
    if row.one_of("launch", ("graph", "eager")) == "eager":
        raise Unsupported("launched outside a graph: host time, not the kernel's")
    # over which fabric
    network = None
    if nodes > 1:
        network = hardware.network_by_words(row)
        if network is None:
            raise Unsupported("the row does not state its network's rate")
    cluster, lacking = hardware.cluster_of(row, ranks, per_node, network)
    group = place("tp", np.int64(ranks), np.int64(1), np.int64(0), cluster)
    measured = row.number("time_us") * 1e-6
    return CollectiveQuestion(op, row.number("bytes"), measured, group, cluster, software, lacking)


def collective_predictions(row: Row, folder: Path) -> list[Prediction]:
    """Time of one collective."""
    del folder
    q = collective_question(row)
    priced = coll.cheapest(q.op, np.float64(q.payload), q.group, q.cluster, q.stack)
    seconds = float(priced.seconds)
    return [
        Prediction(
            row.text("id"),
            "time_s",
            q.measured_s,
            seconds,
            source_of(row),
            q.lacking,
            stack=collective_kind(q.stack, q.cluster, q.group),
            inherited=float(lent_levels(priced.lent, q.group.ranks)),
            slower=unmeasured_slowdown(q.op, q.payload, q.group, q.cluster, q.stack, seconds),
        )
    ]


PREDICT = {
    "training": training_predictions,
    "layers": layer_predictions,
    "serving": serving_predictions,
    "collectives": collective_predictions,
}


def predict(kind: str, row: Row, folder: Path) -> list[Prediction]:
    """All that a row measures and meshwise predicts. Raises :class:`Unsupported` or MeshwiseError."""
    for column in MEASURED[kind]:
        if row.text(column):
            row.number(column)  # a measurement that is none is malformed, whatever else is stated
    found = PREDICT[kind](row, folder)
    if not found:
        raise Unsupported("the row measures nothing that is predicted")
    return found
