"""Training rows: step time and memory of a stated layout."""

from __future__ import annotations

import re
from pathlib import Path

from meshwise.cost.doubt.question import footprint_question, step_question
from meshwise.cost.estimate import Estimate
from meshwise.cost.memory.held import MEMORY_KINDS
from meshwise.evidence.prediction import Contender, Prediction, source_of
from meshwise.evidence.rows.job import read_training_row
from meshwise.evidence.rows.open_values import settle
from meshwise.evidence.rows.suspect import check_memory, check_step
from meshwise.evidence.tables import Assumed, Row
from meshwise.search.one_layout import Report, model_flops, report
from meshwise.stacks.stack import Stack


def training_estimate(row: Row, folder: Path) -> tuple[Estimate, tuple[Assumed, ...]]:
    """The row's step, priced; and what had to be assumed."""
    found = settle(read_training_row(row, folder), _ran(row))
    return found.estimate, found.assumed


CAUSAL = "causal"  # the word of ``flops_convention`` by which attention counts half
# Columns that rows of one job have in common, whatever their layout.
_ALIKE = ("model", "device", "devices", "global_batch", "seq", "dtype", "stack", "attention")


def contender_of(row: Row, e: Estimate) -> Contender:
    """The row's layout, and what it has in common with those that differ in layout alone."""
    alike = (source_of(row), *(row.text(column).lower() for column in _ALIKE))
    return Contender(alike, e.layout.at(0), e.cluster.node_devices)


def _ran(row: Row) -> bool:
    return row.flag("fits") or not row.text("fits")


def training_predictions(row: Row, folder: Path, named: Stack | None = None) -> list[Prediction]:
    """Step time (from whichever figure the row gives) and memory; ``named``: the stack of software that
    is not known."""
    ran = _ran(row)
    read = read_training_row(row, folder, named)
    e, assumed, step_span, memory_span = settle(read, ran)
    name, source, stood_in = row.text("id"), source_of(row), read.software.stood_in
    held = footprint_question(e, stood_in, ran)
    fits = Prediction(name, "fits", float(ran), float(e.fits), source, assumed, question=held)
    fits = fits._replace(room=float(e.memory_limit_bytes / e.memory_bytes))
    if not ran:
        return [fits]
    found = []
    # the step's time
    step = measured_step_s(row, e)
    if step is not None:
        check_step(step, e)
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
                question=step_question(e, stood_in, ran),
                contender=contender_of(row, e),
                span=step_span,
            )
        )
    # the memory
    if row.text("memory_gib"):
        memory = row.number("memory_gib") * 2.0**30
        check_memory(memory, e.cluster)
        kind = row.one_of("memory_of", MEMORY_KINDS)
        if not kind:  # as the contract has it; it may be any of them
            assumed = (*assumed, Assumed("memory_of", MEMORY_KINDS[0]))
            most = float(e.device_bytes / e.memory_bytes)
            memory_span = memory_span._replace(high=memory_span.high * most)
        said = {"": e.memory_bytes, "allocated": e.memory_bytes, "reserved": e.reserved_bytes}
        said["device"] = e.device_bytes
        found.append(
            Prediction(
                name,
                "memory_bytes",
                memory,
                float(said[kind]),
                source,
                assumed,
                question=held,
                span=memory_span,
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
    counted = re.findall(r"[a-z]+", row.text("flops_convention").lower())
    flops = (full.hfu if counted[:1] == ["hardware"] else full.mfu) * full.step_s * peak
    if CAUSAL in counted:
        flops -= (model_flops(e) - model_flops(e, causal=True)) / float(e.layout.devices)
    if row.text("tflops_per_device"):
        return flops / (row.number("tflops_per_device") * 1e12)
    if row.text("mfu"):
        return flops / (row.number("mfu") * e.pricer.compute.peak("bf16"))
    return None
