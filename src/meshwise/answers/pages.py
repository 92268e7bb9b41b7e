"""What each command but ``scale`` shows: results laid out as tables and sentences."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from meshwise.answers import first_line
from meshwise.answers.records import cluster_dict
from meshwise.answers.text import words
from meshwise.answers.text.tables import Page, Table
from meshwise.clusters.load import Cluster
from meshwise.search.one_layout import Report
from meshwise.search.tp_curve.curve import remarks
from meshwise.units import (
    format_bandwidth,
    format_bytes,
    format_count,
    format_flops,
    format_memory,
    format_time,
)
from meshwise.workloads.workload import Prefill, Training, Workload

WIDTH = 79  # of running text


def wrap(text: str) -> str:
    return "\n".join(line for part in text.splitlines() for line in textwrap.wrap(part, WIDTH))


def remark_lines(remarks: Sequence[str]) -> list[str]:
    """Remarks as sentences, a part of a page; none where there are none."""
    said = [wrap(f"{r[0].upper()}{r[1:]}.") for r in remarks]
    return ["\n".join(said)] if said else []


def _remarks(r: Report) -> tuple[str, ...]:
    """Of an estimate: what its figures do not say."""
    e, lay = r.estimate, r.estimate.layout
    etp = int(lay.expert_tp())
    return (*remarks(e.model, e.cluster, e.workload, e.stack, int(lay.tp), etp), *r.remarks)


def interval_row(value: float, low: float, high: float) -> list[tuple[str, str]]:
    """The ends of a value's interval as a row; none where it is a definition's."""
    if low == value == high:
        return []
    return [("  90% interval", f"{format_time(low)} – {format_time(high)}")]


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
    parts = []
    for level in c.levels:
        rate = format_bandwidth(level.bandwidth_bytes_per_s)
        nics = f" × {level.nics} NICs" if level.nics else ""
        assumed = ", assumed: the device's usual one" if level.assumed else ""
        parts.append(f"{level.ranks} × {level.fabric} ({rate}{nics}{assumed})")
    return f"{c.device.title}, " + ", ".join(parts)


def _loss_rows(r: Report) -> list[tuple[str, str]]:
    """Logits and their gradient at the loss's peak, within the workspace; and without chunks."""
    if not r.loss_bytes:
        return []
    chunks = r.estimate.stack.kernels.loss_chunks
    if chunks == 1:
        return [("  of it at the loss (logits)", format_memory(r.loss_bytes))]
    return [
        (f"  of it at the loss, {chunks} chunks", format_memory(r.loss_bytes)),
        ("  the same in one", format_memory(r.whole_loss_bytes)),
    ]


def assumed_words(c: dict[str, Any]) -> str:
    """What the file of a cluster's record leaves out, where a page does not show its levels."""
    return "".join(f"; {a['field']} assumed: {a['value']}" for a in c["assumed"])


def report_page(r: Report) -> Page:
    e = r.estimate
    lay = e.layout
    axes = " ".join(f"{k}={int(getattr(lay, k))}" for k in ("tp", "pp", "vp", "dp", "cp", "ep"))
    heading = wrap(
        f"{e.model.name}: {workload_words(e.workload, int(lay.micro_batch))}\n{e.cluster.name}: {cluster_words(e.cluster)}; "
        f"stack {e.stack.name}{words.gradients(e.model, e.workload, e.stack)}\nlayout {axes} ({words.gpus(r.devices)})"
    )
    times = Table(
        "Per step, slowest stage",
        ("what", "value"),
        (
            ("step", format_time(r.step_s)),
            *interval_row(r.step_s, r.step_low_s, r.step_high_s),
            ("  compute", format_time(r.compute_s)),
            ("  exposed communication", format_time(r.exposed_comm_s)),
            ("  pipeline bubble", format_time(r.bubble_s)),
            ("  host and stragglers", format_time(r.host_s)),
            ("communication busy", format_time(r.comm_s)),
            ("comm share", words.percent(r.comm_share)),
            ("MFU / HFU", f"{words.percent(r.mfu)} / {words.percent(r.hfu)}"),
            ("tokens/s per GPU", f"{r.tokens_per_s_per_device:,.1f}"),
            ("memory per GPU, total", format_memory(r.memory_bytes)),
            ("  usable of the device", format_memory(e.memory_limit_bytes)),
            ("  fits", "yes" if r.fits else "NO"),
        ),
    )
    comm = Table(
        "Communication by axis, per step and GPU",
        (
            "axis",
            "group",
            "ranks/level",
            "over",
            "flows/NIC",
            "collectives",
            "payload",
            "wire by level",
            "time",
            "exposed",
        ),
        tuple(
            (
                row.axis,
                str(row.group),
                "×".join(map(str, row.ranks_per_level)),
                row.outermost_level,
                f"{row.flows_per_nic:g}" if row.flows_per_nic is not None else "-",
                ", ".join(f"{n:g} {k}" for k, n in row.collectives.items()),
                format_bytes(row.payload_bytes),
                " + ".join(format_bytes(w) for w in row.wire_bytes),
                format_time(row.time_s),
                format_time(row.exposed_s),
            )
            for row in r.communication
        ),
        frozenset({0, 3, 5}),
        ("group", "time", "exposed"),
    )
    memory = Table(
        "Memory per GPU, fullest stage",
        ("part", "size"),
        (
            *(
                (k.removesuffix("_bytes").replace("_", " "), format_memory(v))
                for k, v in r.memory.items()
                if v
            ),
            *_loss_rows(r),
            ("total", format_memory(r.memory_bytes)),
            ("usable of the device", format_memory(e.memory_limit_bytes)),
            ("fits", "yes" if r.fits else "NO"),
        ),
    )
    source = Table(
        "Where the seconds come from",
        ("source", "share"),
        tuple((str(k), words.percent(v)) for k, v in r.provenance.items()),
    )
    said = tuple(remark_lines(_remarks(r)))
    # what decides: where it does not fit, and where the loss in chunks makes it fit
    held = (memory,) if not r.fits or e.stack.kernels.loss_chunks > 1 else ()
    rest = (*(() if held else (memory,)), source)
    return Page(heading, (times, comm, *held, *said), first_line.report(r), rest)


def explain_page(r: Report) -> Page:
    """Two tables that share one numbering: products and passes, and collectives."""
    compute, comm = [], []
    for number, op in enumerate(r.operations, start=1):
        begin = (str(number), op.name, op.kind, op.phase, f"{op.calls:g}")
        if op.group is not None:
            wire = " + ".join(format_bytes(w) for w in op.wire_bytes)
            group = f"{op.group}={op.group_size}"
            comm.append(
                (
                    *begin,
                    group,
                    format_bytes(op.payload_bytes),
                    wire,
                    op.algorithm or "",
                    format_time(op.time_s),
                )
            )
            continue
        shape = f"{op.m:g}×{op.n:g}×{op.k:g}" if op.kind != "elementwise" else ""
        if op.batch != 1 and shape:
            shape = f"{op.batch:g}·{shape}"
        flops = format_flops(op.flops) if op.flops else ""
        compute.append((*begin, shape, flops, format_bytes(op.hbm_bytes), format_time(op.time_s)))
    first = ("#", "operation", "kind", "phase", "calls/step")
    e = r.estimate
    heading = wrap(
        f"{e.model.name}: {workload_words(e.workload, int(e.layout.micro_batch))} on {e.cluster.name}, "
        f"stack {e.stack.name}"
        f"{words.gradients(e.model, e.workload, e.stack)}; "
        f"step {format_time(r.step_s)}{assumed_words(cluster_dict(e.cluster))}. "
        "Values per call, on one device, numbered in order."
    )
    parts = [
        Table(
            "Products and passes over memory",
            (*first, "batch·m×n×k", "FLOPs", "HBM", "time"),
            tuple(compute),
            frozenset({1, 2, 3}),
            ("operation", "phase", "calls/step", "time"),
        ),
    ]
    if comm:
        parts.append(
            Table(
                "Collectives",
                (*first, "group", "payload", "wire by level", "algorithm", "time"),
                tuple(comm),
                frozenset({1, 2, 3, 5, 8}),
                ("operation", "phase", "calls/step", "time"),
            )
        )
    return Page(heading, (*parts, *remark_lines(_remarks(r))), first_line.explained(r))


def model_page(d: dict[str, Any]) -> Page:
    sizes = Table(
        "",
        ("what", "value"),
        (
            ("model type", d["model_type"]),
            ("parameters", f"{d['parameters']:,} ({format_count(d['parameters'])})"),
            (
                "active per token",
                f"{d['active_parameters']:,} ({format_count(d['active_parameters'])})",
            ),
            ("layers", str(d["layers"])),
            ("hidden", str(d["hidden"])),
            ("query heads / KV heads", f"{d['heads']} / {d['kv_heads']}"),
            ("vocabulary", f"{d['vocab']:,}"),
            *(
                (("experts", f"{d['experts']}, {d['experts_per_token']} per token"),)
                if d["experts"]
                else ()
            ),
            *(
                (
                    (
                        "quantisation",
                        _stored(d["quantization"]),
                    ),
                )
                if d["quantization"]
                else ()
            ),
            *((f"weights in {k}", format_memory(v)) for k, v in d["weight_bytes"].items()),
            ("legal TP degrees", " ".join(map(str, d["legal_tp"]))),
            ("most without KV copies", str(d["max_tp_without_kv_copies"])),
        ),
        frozenset({0, 1}),
        ("value",),
    )
    lines = [f"TP={r['tp']} refused: " + "; ".join(r["reasons"]) for r in d["refused_tp"]]
    lines += [f"TP={r['tp']}: " + "; ".join(r["remarks"]) for r in d["remarks"]]
    told = ("\n".join(wrap(line) for line in lines),) if lines else ()
    return Page(d["name"], (sizes, *told), first_line.model(d))


def collective_page(d: dict[str, Any]) -> Page:
    def rate(value: float | None) -> str:
        return format_bandwidth(value) if value is not None else "-"

    table = Table(
        "",
        ("algorithm", "time", "algbw", "busbw", "wire bytes by level"),
        tuple(
            (
                c["algorithm"],
                format_time(c["time_s"]),
                rate(c["algbw_bytes_per_s"]),
                rate(c["busbw_bytes_per_s"]),
                " + ".join(format_bytes(w) for w in c["wire_bytes"]),
            )
            for c in d["candidates"]
        ),
        keep=("time", "busbw"),
    )
    heading = str(d["cluster"]["name"])
    asked = heading + assumed_words(d["cluster"])
    return Page(asked, (table, *remark_lines(d["remarks"])), first_line.collective(d))


def _stored(q: dict[str, Any]) -> str:
    """How the weights are stored, in words."""
    if q["weight_dtype"] == "unknown":
        return f"{q['method']}: not known"
    unit = f", blocks of {q['block'][0]}x{q['block'][1]}" if q["block"] else ""
    unit = unit or (f", groups of {q['group']}" if q["group"] else "")
    return f"{q['method']}, weights {q['weight_dtype']}{unit}"
