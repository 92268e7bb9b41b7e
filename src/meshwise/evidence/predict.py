"""One row of a table → the same quantity predicted, or the reason why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from meshwise.cost.collectives import collective as coll
from meshwise.cost.collectives.algorithms import OPS
from meshwise.cost.collectives.fits import lent_levels
from meshwise.cost.uncertainty import collective_kind, unmeasured_slowdown
from meshwise.evidence import hardware
from meshwise.evidence.predict_layers import layer_predictions
from meshwise.evidence.predict_serving import serving_predictions
from meshwise.evidence.predict_training import training_predictions
from meshwise.evidence.prediction import Prediction, Unsupported, source_of
from meshwise.evidence.tables import MEASURED, Row
from meshwise.layouts.placement import place
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


def collective_predictions(row: Row, folder: Path, named: Stack | None = None) -> list[Prediction]:
    """Time of one collective."""
    del folder, named
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
    network = None
    if nodes > 1:
        network = hardware.network_by_words(row)
        if network is None:
            raise Unsupported("the row does not state its network's rate")
    cluster, lacking = hardware.cluster_of(row, ranks, per_node, network)
    group = place("tp", np.int64(ranks), np.int64(1), np.int64(0), cluster)
    # its time beside the measured one
    payload, software = row.number("bytes"), load_stack(stack)
    priced = coll.cheapest(op, np.float64(payload), group, cluster, software)
    seconds = float(priced.seconds)
    return [
        Prediction(
            row.text("id"),
            "time_s",
            row.number("time_us") * 1e-6,
            seconds,
            source_of(row),
            lacking,
            stack=collective_kind(software, cluster, group),
            inherited=float(lent_levels(priced.lent, group.ranks)),
            slower=unmeasured_slowdown(op, payload, group, cluster, software, seconds),
        )
    ]


PREDICT = {
    "training": training_predictions,
    "layers": layer_predictions,
    "serving": serving_predictions,
    "collectives": collective_predictions,
}


def predict(
    kind: str, row: Row, folder: Path, named: Stack | None = None
) -> list[Prediction]:
    """All that a row measures and meshwise predicts; ``named``: the stack of software that is not known.
    Raises :class:`Unsupported` or MeshwiseError."""
    for column in MEASURED[kind]:
        if row.text(column):
            row.number(column)  # a measurement that is none is malformed, whatever else is stated
    found = PREDICT[kind](row, folder, named)
    if not found:
        raise Unsupported("the row measures nothing that is predicted")
    return found
