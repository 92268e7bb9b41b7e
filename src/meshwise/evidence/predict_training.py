"""Training rows: step time and memory of a stated layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from meshwise.axes import RECOMPUTE_MODES
from meshwise.cost.doubt.question import footprint_question, step_question
from meshwise.cost.estimate import Estimate, price_layouts
from meshwise.evidence import hardware
from meshwise.evidence.prediction import (
    Contender,
    Prediction,
    model_of,
    operand_of,
    source_of,
    stack_of,
)
from meshwise.evidence.software import as_stated, usual_training_stack
from meshwise.evidence.tables import Assumed, Row
from meshwise.layouts.check import check
from meshwise.layouts.layout import Layout, arrays
from meshwise.search.one_layout import Report, model_flops, report
from meshwise.stacks.load import stack_in_table
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Formats, Training

# A row that does not state its recomputation ran with none, unless that would take this many times
# the device's memory: more than the memory model's own error.
CLEARLY = 1.2


_SHARDS = {"fsdp": "zero3", "hsdp": "zero3"}  # other words for sharding everything


def software_of(row: Row, shard: str) -> tuple[Stack, tuple[Assumed, ...]]:
    """The row's stack; the usual one of its kind, said so, where the catalog does not know its name."""
    if not row.text("stack") or stack_in_table(row.text("stack")) is not None:
        return stack_of(row, "stack"), ()
    stack = usual_training_stack(shard)
    return as_stated(stack, row), (Assumed("stack", stack.name),)


def training_estimate(row: Row, folder: Path) -> tuple[Estimate, tuple[Assumed, ...]]:
    """The row's step, priced; and what had to be assumed."""
    model = model_of(row, folder)
    devices, batch = row.count("devices"), row.count("global_batch")
    per_node = row.count("devices_per_node", 8)
    # hardware
    rate = (
        row.number("inter_node_gbytes_per_s", 0.0) if row.text("inter_node_gbytes_per_s") else 0.0
    )
    network = hardware.network_by_rate(rate, min(per_node, devices)) if rate else None
    cluster, lacking = hardware.cluster_of(row, devices, per_node, network)
    # layout and software
    degrees: dict[str, Any] = {k: row.count(k, 1) for k in ("tp", "pp", "vp", "dp", "cp", "ep")}
    product = degrees["tp"] * degrees["pp"] * degrees["dp"] * degrees["cp"]
    if product != devices:
        raise row.wrong("devices", f"tp·pp·dp·cp = {product}, not {devices}", f"{product}")
    assumed = [Assumed(column, "1") for column in ("micro_batch", "vp") if not row.text(column)]
    recompute = row.one_of("recompute", RECOMPUTE_MODES)
    shard = _SHARDS.get(row.text("shard", "none"), row.text("shard", "none"))
    stack, stood_in = software_of(row, shard)
    assumed += (*stood_in, *lacking)
    layout = Layout(
        **degrees,
        etp=row.count("etp", 1) if degrees["ep"] > 1 and row.text("etp") else None,
        micro_batch=row.count("micro_batch", 1),
        sequence_parallel=row.flag("sequence_parallel"),
        shard=shard,
    )
    # the row's recomputation, or the least that does not clearly overflow the memory
    found: Estimate | None = None
    mode = recompute
    for mode in (recompute,) if recompute else RECOMPUTE_MODES:
        workload = Training(
            batch=batch,
            seq=row.count("seq"),
            recompute=mode,
            formats=Formats(dtype=operand_of(row), gradients=row.text("grad_dtype") or None),
        )
        check(layout, model, cluster, workload, stack, ran=True)
        found = price_layouts(model, cluster, workload, stack, arrays(layout, workload))
        if recompute or found.memory_bytes <= CLEARLY * cluster.device.memory_bytes:
            break
    assert found is not None
    if not recompute:
        assumed.append(Assumed("recompute", mode))
    return found, tuple(assumed)


# Columns that rows of one job have in common, whatever their layout.
_ALIKE = ("model", "device", "devices", "global_batch", "seq", "dtype", "stack", "attention")


def contender_of(row: Row, e: Estimate) -> Contender:
    """The row's layout, and what it has in common with those that differ in layout alone."""
    alike = (source_of(row), *(row.text(column).lower() for column in _ALIKE))
    return Contender(alike, e.layout.at(0), e.cluster.node_devices)


def training_predictions(row: Row, folder: Path) -> list[Prediction]:
    """Step time (from whichever figure the row gives) and memory."""
    e, assumed = training_estimate(row, folder)
    name, source = row.text("id"), source_of(row)
    stood_in = any(a.field == "stack" for a in assumed)
    held = footprint_question(e, stood_in)
    ran = row.text("fits") != "false"
    fits = Prediction(name, "fits", float(ran), float(e.fits), source, assumed, question=held)
    fits = fits._replace(room=float(e.memory_limit_bytes / e.memory_bytes))
    if not ran:
        return [fits]
    found = []
    # the step's time
    step = measured_step_s(row, e)
    if step is not None:
        peak = e.pricer.compute.peak(e.program.ctx.widths.dtype)
        ideal = model_flops(e) / float(e.layout.devices) / peak
        found.append(
            Prediction(
                name,
                "step_s",
                step,
                float(e.step_s),
                source,
                assumed,
                ideal_s=ideal,
                question=step_question(e, stood_in),
                contender=contender_of(row, e),
            )
        )
    # the memory
    if row.text("memory_gib"):
        memory = row.number("memory_gib") * 2.0**30
        found.append(
            Prediction(
                name,
                "memory_bytes",
                memory,
                float(e.memory_bytes),
                source,
                assumed,
                question=held,
            )
        )
    # whether it would have run, of what is said to have
    return [*found, fits] if found and row.text("fits") else found


def measured_step_s(row: Row, e: Estimate) -> float | None:
    """Seconds of the measured step, from the most direct figure that the row gives."""
    devices, tokens = row.count("devices"), row.count("global_batch") * row.count("seq")
    if row.text("step_s"):
        return row.number("step_s")
    if row.text("tokens_per_s_per_device"):
        return tokens / devices / row.number("tokens_per_s_per_device")
    full: Report = report(e)
    peak = e.pricer.compute.peak(e.program.ctx.widths.dtype)
    hardware_flops = row.text("flops_convention").startswith("hardware")
    flops = (full.hfu if hardware_flops else full.mfu) * full.step_s * peak
    if row.text("tflops_per_device"):
        return flops / (row.number("tflops_per_device") * 1e12)
    if row.text("mfu"):
        return flops / (row.number("mfu") * e.pricer.compute.peak("bf16"))
    return None
