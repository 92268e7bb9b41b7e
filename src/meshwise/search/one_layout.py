"""One layout in full: the communication of every axis, memory by part, utilisation, provenance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meshwise.cost.doubt.question import Question, step_question
from meshwise.cost.estimate import Estimate
from meshwise.cost.pricing import OpCost
from meshwise.cost.sources import Source
from meshwise.cost.uncertainty import is_tight, memory_interval, step_interval
from meshwise.layouts.layout import Layouts
from meshwise.program.operations import COLLECTIVES
from meshwise.program.step import program
from meshwise.units import format_time
from meshwise.workloads.workload import tokens_per_step

# Row of the communication table → the groups whose collectives it shows.
COMMUNICATION_GROUPS = {
    "tp": ("tp", "kv"),
    "cp": ("cp",),
    "dcp": ("dcp",),
    "ep": ("ep",),
    "etp": ("etp",),
    "dp": ("dp_cp",),
    "expert_dp": ("expert_dp",),
    "pp": ("pp",),
}


class AxisRow(NamedTuple):
    """Communication of one axis per step on one device."""

    axis: str
    group: int
    ranks_per_level: tuple[int, ...]
    outermost_level: str
    flows_per_nic: float | None  # devices that share one NIC of the outermost level at a time
    collectives: dict[str, float]  # calls per step by kind
    payload_bytes: float
    wire_bytes: tuple[float, ...]
    time_s: float
    exposed_s: float


class PricedOp(NamedTuple):
    """An operation of the program as ``explain`` prints it: per call, with calls per step."""

    name: str
    kind: str
    phase: str
    calls: float  # per step; the JSON calls it count
    m: float
    n: float
    k: float
    batch: float
    dtype: str
    flops: float
    model_flops: float
    hbm_bytes: float
    payload_bytes: float
    wire_bytes: tuple[float, ...]
    algorithm: str | None
    group: str | None
    group_size: int
    time_s: float
    exposed_s: float  # per call
    source: str


def stage_costs(e: Estimate) -> list[tuple[str, OpCost, float]]:
    """(scope, priced operation, calls per step) on the slowest stage of one scalar layout."""
    index = int(e._slowest)
    role = e.program.roles[index]
    m = float(e.program.ctx.microbatches)
    rows: list[tuple[str, OpCost, float]] = []

    def add(scope: str, costs: list[OpCost], times: float, forward: bool) -> None:
        for c in costs:
            if (c.op.phase == "forward") == forward:
                rows.append((scope, c, float(c.op.count) * times))

    several = len(e.layer_costs) > 1
    layers = [
        (f"layer[{kind}]." if several else "layer.", costs, float(role.layers[kind]) * m)
        for kind, costs in enumerate(e.layer_costs)
    ]
    add("", e.embedding_costs, float(role.embedding) * m, True)
    for scope, costs, times in layers:
        add(scope, costs, times, True)
    add("", e.transfer_costs, m, True)
    for forward in (True, False):
        add("", e.head_costs, float(role.head) * m, forward)
    for scope, costs, times in reversed(layers):
        add(scope, costs, times, False)
    add("", e.transfer_costs, m, False)
    add("", e.embedding_costs, float(role.embedding) * m, False)
    reduced, gathered = (float(share) for share in e.update_exposure)
    update = [
        c._replace(
            exposed=float(c.op.count * c.seconds)
            * (gathered if c.op.kind == "all_gather" else reduced)
        )
        if c.priced
        else c
        for c in e.update_costs[int(e.update_role)]
    ]
    add("", update, 1.0, False)
    return [(scope, c, n) for scope, c, n in rows if n > 0]


def operations(e: Estimate) -> list[PricedOp]:
    """The program of one scalar layout, in the order it runs."""
    rows = []
    for scope, c, calls in stage_costs(e):
        op = c.op
        group = e.pricer.groups.get(op.axis)
        own = float(op.count)
        rows.append(
            PricedOp(
                name=scope + op.name,
                kind=op.kind,
                phase=op.phase,
                calls=calls,
                m=float(op.m),
                n=float(op.n),
                k=float(op.k),
                batch=float(op.batch),
                dtype=op.dtype,
                flops=float(op.flops),
                model_flops=float(op.model_flops),
                hbm_bytes=float(op.hbm_bytes),
                payload_bytes=float(op.payload_bytes),
                wire_bytes=tuple(float(w) for w in c.priced.wire_bytes) if c.priced else (),
                algorithm=c.priced.names[int(c.priced.chosen)] if c.priced else None,
                group=op.axis or None,
                group_size=int(group.size) if group is not None else 1,
                time_s=float(c.seconds),
                exposed_s=float(c.exposed) / own if c.priced and own else 0.0,
                source=str(c.source),
            )
        )
    return rows


def communication(e: Estimate) -> list[AxisRow]:
    """A row per axis that communicates (C34), and how many devices share a NIC meanwhile (C35)."""
    rows = []
    costs = stage_costs(e)
    for axis, names in COMMUNICATION_GROUPS.items():
        chosen = [(c, n) for _, c, n in costs if c.op.kind in COLLECTIVES and c.op.axis in names]
        if not chosen:
            continue
        group = e.pricer.groups[names[0]]
        ranks = tuple(int(r) for r in group.ranks)
        outer = max((i for i, r in enumerate(ranks) if r > 1), default=0)
        level = e.cluster.levels[outer]
        kinds: dict[str, float] = {}
        wire = [0.0] * len(e.cluster.levels)
        payload = busy = exposed = 0.0
        for c, n in chosen:
            kinds[c.op.kind] = kinds.get(c.op.kind, 0.0) + n
            payload += float(c.op.payload_bytes) * n
            busy += float(c.seconds) * n
            exposed += float(c.exposed) * n / float(c.op.count)
            assert c.priced is not None
            for i, w in enumerate(c.priced.wire_bytes):
                wire[i] += float(w) * n
        if axis == "tp":
            exposed += float(e.split_fill * e.program.ctx.microbatches)
        rows.append(
            AxisRow(
                axis=axis,
                group=int(group.size),
                ranks_per_level=ranks,
                outermost_level=level.name,
                flows_per_nic=float(group.active[outer]) / level.nics if level.nics else None,
                collectives=kinds,
                payload_bytes=payload,
                wire_bytes=tuple(wire),
                time_s=busy,
                exposed_s=exposed,
            )
        )
    return rows


def provenance(e: Estimate) -> dict[Source, float]:
    """Share of the step's seconds (exposed communication and compute) by source."""
    seconds: dict[Source, float] = {}
    for _, c, n in stage_costs(e):
        own = float(c.op.count)
        spent = float(c.exposed) / own * n if c.priced else float(c.seconds) * n
        if spent > 0:
            seconds[c.source] = seconds.get(c.source, 0.0) + spent
    if float(e.host_s) > 0:
        seconds[Source("stack")] = float(e.host_s)
    whole = sum(seconds.values()) or 1.0
    return {k: v / whole for k, v in sorted(seconds.items(), key=lambda kv: -kv[1])}


def model_flops(e: Estimate, causal: bool = False) -> float:
    """Model FLOPs of the step over all devices: products and full attention of the whole model,
    forward × 3 in training, no recomputation, no padding, no copied KV heads; ``causal``: half of the
    attention's, as Megatron-LM counts since 2025."""
    m = e.layout.micro_batch
    one = Layouts(tp=np.int64(1), dp=e.layout.dp, micro_batch=m)
    whole = program(e.model, e.stack, e.workload, one)
    per_microbatch = 0.0
    core = 0.5 if causal else 1.0
    for ops, count in zip(whole.layers, e.model.kind_counts(), strict=True):
        per_microbatch += count * sum(
            float(op.count * op.model_flops) * (1.0 if op.core is None else core) for op in ops
        )
    ends = [*whole.embedding, *whole.head]
    per_microbatch += sum(float(op.count * op.model_flops) for op in ends)
    return per_microbatch * float(whole.ctx.microbatches) * float(e.layout.dp)


def recomputed_flops(e: Estimate) -> float:
    """FLOPs of the step over all devices that activation recomputation does again."""
    per_rank = 0.0
    for costs, count in zip(e.layer_costs, e.model.kind_counts(), strict=True):
        once = {(c.op.name, c.op.kind): c.op.model_flops for c in costs if c.op.phase == "forward"}
        per_rank += count * sum(
            float(c.op.count * once[c.op.name, c.op.kind])
            for c in costs
            if c.op.phase == "recompute"
        )
    ranks = float(e.layout.tp * e.layout.cp * e.layout.dp)
    return per_rank * float(e.program.ctx.microbatches) * ranks


class Report(NamedTuple):
    """Everything that ``estimate`` says of one layout."""

    estimate: Estimate
    devices: int
    step_s: float
    step_low_s: float  # the ends of the 90 % interval
    step_high_s: float
    compute_s: float
    comm_s: float
    exposed_comm_s: float
    bubble_s: float
    host_s: float
    wire_bytes: tuple[float, ...]
    payload_bytes: float
    comm_share: float
    ccr: float | None
    mfu: float
    hfu: float
    tokens_per_s_per_device: float
    memory: dict[str, float]
    memory_bytes: float
    loss_bytes: float  # of the workspace, at the loss: logits, their gradient; and all in one chunk
    whole_loss_bytes: float
    memory_low_bytes: float  # the ends of its 90 % interval
    memory_high_bytes: float
    reserved_bytes: float  # training: by the framework's allocator; and what the device reports
    device_bytes: float
    fits: bool
    tight: bool  # the limit lies within the memory's error
    question: Question  # what decides how far the step may be off
    communication: list[AxisRow]
    provenance: dict[Source, float]
    operations: list[PricedOp]
    remarks: tuple[str, ...]


def layout_remarks(e: Estimate) -> tuple[str, ...]:
    """What binds a training step beside its operations, and switches that its layout leaves unused."""
    if e.workload.phase != "train":
        return ()
    said = []
    busy, host = float(e.microbatch.busy), float(e._launch_s)
    if host > busy:
        said.append(
            f"launches bind: the host takes {format_time(host)} to start a microbatch's kernels, the "
            f"device {format_time(busy)} to run them; more tokens per microbatch or CUDA graphs help"
        )
    routed = any(block.moe is not None for block in e.model.blocks)
    if routed and e.exchanges_beside is not None and not float(e.exchanges_beside):
        said.append(
            "experts are not overlapped in this layout: that takes ep > 1, several microbatches, no "
            "recomputation of layers or experts, and virtual stages beside pipelines"
        )
    return tuple(said)


def report(e: Estimate) -> Report:
    """The record of one scalar layout."""
    step, comm = float(e.step_s), float(e.comm_s)
    asked = step_question(e)
    (low, high), held = step_interval(e, asked), memory_interval(e, asked)
    peak = e.pricer.compute.peak(e.program.ctx.widths.dtype)
    devices = int(e.layout.devices)
    useful = model_flops(e)
    replicas = 1 if e.workload.phase == "train" else int(e.layout.dp)
    memory = {k: float(np.asarray(v)) for k, v in e.memory.items()}
    return Report(
        estimate=e,
        devices=devices,
        step_s=step,
        step_low_s=float(low),
        step_high_s=float(high),
        compute_s=float(e.compute_s),
        comm_s=comm,
        exposed_comm_s=float(e.exposed_comm_s),
        bubble_s=float(e.bubble_s),
        host_s=float(e.host_s),
        wire_bytes=tuple(float(w) for w in e.wire_bytes),
        payload_bytes=float(e.payload_bytes),
        comm_share=float(e.exposed_comm_s) / step,
        ccr=float(e.compute_s) / comm if comm > 0 else None,
        mfu=useful / devices / step / peak,
        hfu=(useful + recomputed_flops(e)) / devices / step / peak,
        tokens_per_s_per_device=tokens_per_step(e.workload) * replicas / step / devices,
        memory=memory,
        memory_bytes=float(e.memory_bytes),
        loss_bytes=float(e.loss_bytes),
        whole_loss_bytes=float(e.whole_loss_bytes),
        memory_low_bytes=float(held[0]),
        memory_high_bytes=float(held[1]),
        reserved_bytes=float(e.reserved_bytes),
        device_bytes=float(e.device_bytes),
        fits=bool(e.fits),
        tight=bool(is_tight(e, asked)),
        question=asked.at(0),
        communication=communication(e),
        provenance=provenance(e),
        operations=operations(e),
        remarks=layout_remarks(e),
    )
