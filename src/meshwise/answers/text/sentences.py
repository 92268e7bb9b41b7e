"""Sentences that several pages share: what was asked, on what, and what is to be known of it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

from meshwise.answers.records.cluster import AssumedRecord
from meshwise.clusters.load import Cluster
from meshwise.clusters.pcie_hosts import unknown_host
from meshwise.models.shapes import Model
from meshwise.program.context import widths
from meshwise.stacks.stack import Stack
from meshwise.units import format_bandwidth
from meshwise.workloads.workload import Prefill, Training, Workload

WIDTH = 79  # of running text
_SPELLED = re.compile(r"[a-z]+[A-Z][A-Za-z]*")  # a name in capitals of its own


def wrap(text: str, *, ids: bool = False) -> str:
    """Running text in lines of a page; with ``ids`` in it, no line ends inside a word."""
    lines = (
        line
        for part in text.splitlines()
        for line in textwrap.wrap(part, WIDTH, break_on_hyphens=not ids)
    )
    return "\n".join(lines)


def sentence(remark: str) -> str:
    """A remark as a sentence in lines of a page."""
    return wrap(begun(remark))


def begun(remark: str) -> str:
    """A remark as a sentence; a name that it begins with (``org/model``, ``vLLM``) stays as it is."""
    first = remark.split(maxsplit=1)[0]
    named = "/" in first or _SPELLED.fullmatch(first)
    return f"{remark[0] if named else remark[0].upper()}{remark[1:]}."


def remark_lines(remarks: Iterable[str]) -> list[str]:
    """Remarks as sentences, a part of a page; none where there are none."""
    said = [sentence(remark) for remark in remarks]
    return ["\n".join(said)] if said else []


def workload_words(w: Workload, micro_batch: int) -> str:
    """What was priced; ``micro_batch`` is the one of a training step that does not state its own."""
    if isinstance(w, Training):
        micro = w.micro_batch or f"{micro_batch} (the default)"
        return (
            f"training step, batch {w.batch}, microbatch {micro}, sequence {w.seq}, "
            f"recompute {w.recompute}"
        )
    if isinstance(w, Prefill):
        return f"prefill, batch {w.batch}, prompt {w.seq}"
    return f"decode, batch {w.batch}, context {w.context}"


def cluster_words(c: Cluster) -> str:
    """The device and, level by level, its fabric."""
    parts = []
    for level in c.levels:
        rate = format_bandwidth(level.bandwidth_bytes_per_s)
        nics = f" × {level.nics} NICs" if level.nics else ""
        assumed = ", assumed: the device's usual one" if level.assumed else ""
        host = f", {level.pcie_host}" if level.pcie_host else ""
        parts.append(f"{level.ranks} × {level.fabric} ({rate}{nics}{host}{assumed})")
    unknown = ", PCIe host not known" if unknown_host(c) else ""
    return f"{c.device.title}, " + ", ".join(parts) + unknown


def assumed_words(assumed: Iterable[AssumedRecord]) -> str:
    """What the file of a cluster leaves out, where a page does not show its levels."""
    return "".join(f"; {a['field']} assumed: {a['value']}" for a in assumed)


def training_words(model: Model, workload: Workload, stack: Stack) -> str:
    """The format of a training step's gradients, and the switches that make it another program, as
    headings add them."""
    if workload.phase != "train":
        return ""
    said = [f"gradients {widths(model, workload, stack).gradient_dtype}"]
    if stack.memory.moments_dtype != "fp32":
        said.append(f"moments {stack.memory.moments_dtype}")
    if stack.kernels.loss_chunks > 1:
        said.append(f"loss in {stack.kernels.loss_chunks} chunks")
    state = stack.state
    said += [f"optimizer {state.optimizer}"] * (state.optimizer != "adam")
    said += ["no master weights"] * (not state.master_weights)
    said += ["optimizer on the host"] * state.offload_optimizer
    if state.offload_layers:
        said.append("activations on the host")
    if any(block.moe is not None for block in model.blocks):
        said += [f"dispatcher {stack.communication.dispatcher}"] * (
            stack.communication.dispatcher != "alltoall"
        )
        said += ["experts overlapped"] * stack.overlaps.overlap_experts
    return "".join(f", {words}" for words in said)
