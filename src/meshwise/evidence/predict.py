"""One row of a table → the same quantity predicted, or the reason why not."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from meshwise.clusters.load import Cluster
from meshwise.cost.collectives import collective as coll
from meshwise.cost.collectives.algorithms import OPS
from meshwise.cost.collectives.fits import lent_levels
from meshwise.cost.collectives.network_doubt import OPEN_NETWORK_SD
from meshwise.cost.uncertainty import collective_kind, unmeasured_slowdown
from meshwise.evidence import hardware
from meshwise.evidence.predict_layers import layer_predictions
from meshwise.evidence.predict_serving import serving_predictions
from meshwise.evidence.predict_training import training_predictions
from meshwise.evidence.prediction import Prediction, Unsupported, source_of
from meshwise.evidence.tables import MEASURED, Assumed, Row
from meshwise.layouts.placement import Group, place
from meshwise.stacks.load import load_stack
from meshwise.stacks.stack import Stack

_OPS = {
    "alltoall": "all_to_all",
    "allreduce": "all_reduce",
    "allgather": "all_gather",
    "reducescatter": "reduce_scatter",
}
_KERNELS = {
    "vllm": "vllm",
    "sglang": "sglang",
    "trtllm": "trtllm",
    "nccl": "megatron-core",
    "rccl": "megatron-core",
}


class CollectiveQuestion(NamedTuple):
    """What a row of collectives asks: an operation of a group on a cluster under a stack."""

    op: str
    cluster: Cluster
    group: Group
    stack: Stack
    lacking: tuple[Assumed, ...]  # what of it the row does not say
    unsure: bool  # whether its network's rate is among that


def collective_question(row: Row) -> CollectiveQuestion:
    """What a row of collectives asks. Raises :class:`Unsupported` or MeshwiseError."""
    op = _OPS.get(row.text("op"), row.text("op"))
    if op not in OPS:
        raise Unsupported(f"{op} is not priced")
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
    library = row.text("library", "nccl").lower()
    stack = next((s for k, s in _KERNELS.items() if library.startswith(k)), None)
    if stack is None:
        raise Unsupported(f"library {library!r} has no constants")
    if row.one_of("launch", ("graph", "eager")) == "eager":
        raise Unsupported("launched outside a graph: host time, not the kernel's")
    # over which fabric
    cluster, lacking, unsure = hardware.collective_cluster(row, ranks, per_node)
    group = place("tp", np.int64(ranks), np.int64(1), np.int64(0), cluster)
    return CollectiveQuestion(op, cluster, group, load_stack(stack), lacking, unsure)


def collective_predictions(row: Row, folder: Path) -> list[Prediction]:
    """Time of one collective."""
    del folder
    asked = collective_question(row)
    op, cluster, group, software = asked.op, asked.cluster, asked.group, asked.stack
    # its time beside the measured one
    payload = row.number("bytes")
    priced = coll.cheapest(op, np.float64(payload), group, cluster, software)
    seconds = float(priced.seconds)
    return [
        Prediction(
            row.text("id"),
            "time_s",
            row.number("time_us") * 1e-6,
            seconds,
            source_of(row),
            asked.lacking,
            stack=collective_kind(software, cluster, group, op, payload),
            inherited=float(lent_levels(priced.lent, group.ranks)),
            slower=unmeasured_slowdown(op, payload, group, cluster, software, seconds),
            unseen=OPEN_NETWORK_SD if asked.unsure else 0.0,
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
