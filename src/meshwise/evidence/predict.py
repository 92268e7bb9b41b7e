"""One row of a table → the same quantity predicted, or the reason why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from meshwise.cost.collectives import collective as coll
from meshwise.cost.collectives.algorithms import OPS
from meshwise.cost.doubt.question import collective_question
from meshwise.cost.uncertainty import unmeasured_slowdown
from meshwise.evidence import hardware
from meshwise.evidence.predict_layers import layer_predictions
from meshwise.evidence.predict_serving import serving_predictions
from meshwise.evidence.predict_training import training_predictions
from meshwise.evidence.prediction import Prediction, Span, Unsupported, source_of
from meshwise.evidence.rows.suspect import check_collective, check_sign
from meshwise.evidence.tables import Assumed, Row
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
    library = row.text("library").lower()
    known = next((s for k, s in _KERNELS.items() if library.startswith(k)), None)
    stack = known or _KERNELS["nccl"]
    assumed = () if known else (Assumed("library", "nccl"),)
    if row.one_of("launch", ("graph", "eager")) == "eager":
        raise Unsupported("launched outside a graph: host time, not the kernel's")
    # over which fabric
    node: tuple[Assumed, ...] = ()
    if nodes > 1 and not row.text("inter_node"):  # trays of one rack may be said as nodes
        per_node, node = hardware.node_devices(row, ranks)
    cluster, lacking, unsure = hardware.collective_cluster(row, ranks, per_node)
    group = place("tp", np.int64(ranks), np.int64(1), np.int64(0), cluster)
    # its time beside the measured one
    payload, software = row.number("bytes"), load_stack(stack)
    check_collective(row.number("time_us") * 1e-6, payload, group, cluster)
    priced = coll.cheapest(op, np.float64(payload), group, cluster, software)
    seconds = float(priced.seconds)
    # where the network's rate is open, the rates that such systems have
    span = Span()
    if unsure:
        others = hardware.other_networks(cluster)
        each = [coll.cheapest(op, np.float64(payload), group, c, software) for c in others]
        span = span.widened([float(p.seconds) / seconds for p in each])
    return [
        Prediction(
            row.text("id"),
            "time_s",
            row.number("time_us") * 1e-6,
            seconds,
            source_of(row),
            (*assumed, *node, *lacking),
            span=span,
            question=collective_question(op, payload, group, cluster, software, priced, unsure),
            slower=unmeasured_slowdown(op, payload, group, cluster, software, seconds),
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
