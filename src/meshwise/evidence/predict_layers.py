"""Rows of one layer, or of one stage's layers, by phase: forward, backward, its two halves."""

from __future__ import annotations

from pathlib import Path

from meshwise.axes import RECOMPUTE_MODES
from meshwise.cost.doubt.question import step_question
from meshwise.cost.estimate import Estimate, price_layouts
from meshwise.cost.pricing import total_times
from meshwise.evidence import hardware
from meshwise.evidence.prediction import (
    Prediction,
    Unsupported,
    model_of,
    operand_of,
    source_of,
)
from meshwise.evidence.rows import words
from meshwise.evidence.rows.suspect import check_phase
from meshwise.evidence.software import RowSoftware, software_of
from meshwise.evidence.tables import MEASURED, Assumed, Row
from meshwise.layouts.check import check
from meshwise.layouts.layout import Layout, arrays
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Formats, Training

# Phases that each measured column sums; recomputation runs before the input's gradient.
_PHASES = {
    "forward_s": ("forward",),
    "backward_s": ("recompute", "dgrad", "wgrad"),
    "backward_input_s": ("recompute", "dgrad"),
    "backward_weight_s": ("wgrad",),
    "combined_s": ("forward", "recompute", "dgrad", "wgrad"),
}


def layer_estimate(
    row: Row, folder: Path, named: Stack | None = None
) -> tuple[Estimate, RowSoftware, tuple[Assumed, ...]]:
    """The row's layers in a step of one microbatch on one stage, by which software, and what had to be
    assumed."""
    model = model_of(row, folder)
    tp, cp, ep = row.count("tp", 1), row.count("cp", 1), row.count("ep", 1)
    devices = row.count("devices")
    dp = max(ep // (tp * cp), 1)
    recompute = words.recompute_of(row) or RECOMPUTE_MODES[0]
    used = tp * cp * dp
    if used > devices:
        raise row.wrong("devices", f"tp·cp·dp = {used}, more than {devices}", f"at least {used}")
    cluster, lacking = hardware.cluster_of(row, devices, min(devices, 8), None)
    software = software_of(row, row.text("stack"), "train", named)
    micro = row.count("micro_batch", 1)
    workload = Training(
        batch=micro * dp,
        seq=row.count("seq"),
        recompute=recompute,
        formats=Formats(dtype=operand_of(row)),
    )
    layout = Layout(
        tp=tp,
        cp=cp,
        dp=dp,
        ep=ep,
        micro_batch=micro,
        sequence_parallel=row.flag("sequence_parallel"),
    )
    stack = software.stack
    check(layout, model, cluster, workload, stack, ran=True)
    priced = price_layouts(model, cluster, workload, stack, arrays(layout, workload))
    return priced, software, (*software.assumed, *lacking)


def layer_predictions(row: Row, folder: Path, named: Stack | None = None) -> list[Prediction]:
    """Every phase that the row measures, of its most frequent kind of layer."""
    if row.text("model").startswith("(layer only)"):
        raise Unsupported("a layer outside a model")
    e, software, assumed = layer_estimate(row, folder, named)
    counts = e.model.kind_counts()
    costs = e.layer_costs[counts.index(max(counts))]
    found, asked = [], step_question(e, software.stood_in)
    for column, (quantity, factor) in MEASURED["layers"].items():
        if row.text(column):
            measured, layers = row.number(column) * factor, row.count("layers", 1)
            check_phase(measured, costs, _PHASES[quantity], layers, e)
            found.append(
                Prediction(
                    row.text("id"),
                    quantity,
                    measured,
                    float(total_times(costs, _PHASES[quantity]).busy) * layers,
                    source_of(row),
                    assumed,
                    question=asked,
                    judged_as="step_s",
                )
            )
    return found
