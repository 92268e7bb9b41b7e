"""What each command shows: results laid out as tables, a chart and sentences."""

from __future__ import annotations

import textwrap
from typing import Any

from meshwise.present import words
from meshwise.present.tables import Page, Table
from meshwise.search.report import Report
from meshwise.search.scaling import Scaling
from meshwise.spec.cluster import Cluster
from meshwise.spec.workload import Workload
from meshwise.units import (
    format_bandwidth,
    format_bytes,
    format_count,
    format_memory,
    format_rate,
    format_time,
)

WIDTH = 96


def _wrap(text: str) -> str:
    return "\n".join(textwrap.wrap(text, WIDTH))


def workload_words(w: Workload) -> str:
    if w.phase == "train":
        return f"training step, batch {w.batch}, sequence {w.seq}, recompute {w.recompute}"  # type: ignore[union-attr]
    if w.phase == "prefill":
        return f"prefill, batch {w.batch}, prompt {w.seq}"  # type: ignore[union-attr]
    return f"decode, batch {w.batch}, context {w.context}"  # type: ignore[union-attr]


def cluster_words(c: Cluster) -> str:
    parts = []
    for level in c.levels:
        rate = format_bandwidth(level.bandwidth_bytes_per_s)
        nics = f" × {level.nics} NICs" if level.nics else ""
        parts.append(f"{level.ranks} × {level.fabric} ({rate}{nics})")
    return f"{c.device.title}, " + ", ".join(parts)


def bars(points: list[tuple[str, float, float, str]], width: int = 48) -> str:
    """Horizontal bars: (label, value, ideal, remark); the dot marks the ideal value."""
    top = max((max(v, i) for _, v, i, _ in points), default=1.0)
    lines = []
    for label, value, ideal, remark in points:
        filled = round(value / top * width)
        at = min(round(ideal / top * width), width)
        bar = "█" * filled
        if at > filled:
            bar = bar.ljust(at - 1, "·") + "│"
        lines.append(f"{label:>7} {bar} {remark}")
    return "\n".join(lines)


def scaling_page(s: Scaling) -> Page:
    heading = (
        f"{s.model.name}: {workload_words(s.workload)}\n{s.cluster.name}: {cluster_words(s.cluster)}; "
        f"stack {s.stack.name}, TP overlap {s.stack.overlap}"
    )
    step = Table(
        f"Per step and GPU, strong scaling ({'TP=1 is hypothetical: it does not fit' if not s.points[0].fits else 'same work at every TP'})",
        (
            "TP",
            "step",
            "compute",
            "comm",
            "exposed",
            "comm %",
            "CCR",
            "speed-up",
            "efficiency",
            "last ×2",
            "weak",
            "memory",
            "fits",
        ),
        tuple(
            (
                str(p.tp) + (" *" if p.tp == s.limit.tp else ""),
                format_time(p.step_s),
                format_time(p.compute_s),
                format_time(p.comm_s) if p.comm_s else "-",
                format_time(p.exposed_comm_s) if p.exposed_comm_s else "-",
                words.percent(p.comm_share),
                f"{p.ccr:.1f}" if p.ccr is not None else "-",
                f"{p.speedup:.2f}",
                words.percent(p.efficiency),
                words.percent(p.marginal_efficiency) if p.marginal_efficiency is not None else "-",
                words.percent(p.weak_efficiency),
                format_memory(p.memory_bytes),
                "yes" if p.fits else "NO",
            )
            for p in s.points
        ),
    )
    training = s.workload.phase == "train"
    layer_rows = []
    for p in s.points:
        lay = p.layer
        reductions = f"{lay.all_reduces_forward}"
        if training:
            reductions += f"+{lay.all_reduces_backward}"
            if lay.all_reduces_recompute:
                reductions += f"+{lay.all_reduces_recompute}"
        if lay.all_gathers_forward:
            reductions = (
                f"{lay.all_gathers_forward + lay.all_gathers_backward} AG, "
                f"{lay.reduce_scatters_forward + lay.reduce_scatters_backward} RS"
            )
        row = [
            str(p.tp),
            format_time(lay.forward_s),
            format_time(lay.forward_comm_s) if lay.forward_comm_s else "-",
            format_bytes(lay.forward_payload_bytes) if lay.forward_payload_bytes else "-",
        ]
        if training:
            row += [
                format_time(lay.backward_s),
                format_time(lay.backward_comm_s) if lay.backward_comm_s else "-",
            ]
        row += [
            reductions,
            " + ".join(format_bytes(w) for w in p.wire_bytes) if p.payload_bytes else "-",
            p.algorithm or "-",
        ]
        layer_rows.append(tuple(row))
    header = ["TP", "forward", "its comm", "payload"]
    header += ["backward", "its comm"] if training else []
    header += ["reductions", "step's wire bytes by level", "algorithm"]
    layer = Table(
        "Per layer and microbatch",
        tuple(header),
        tuple(layer_rows),
        frozenset({0, len(header) - 1}),
    )
    chart = bars(
        [
            (
                f"TP={p.tp}",
                p.speedup,
                float(p.tp),
                f"{p.speedup:.2f}× ({words.percent(p.efficiency)})",
            )
            for p in s.points
        ]
    )
    parts: list[Table | str] = [step, layer]
    if s.copies:
        parts.append(
            Table(
                "The GPUs of one node as copies (batch per copy; and the same load shared among them)",
                (
                    "layout",
                    "batch/copy",
                    "step",
                    "tokens/s",
                    "per GPU",
                    "fits",
                    "shared batch",
                    "step",
                    "tokens/s",
                ),
                tuple(
                    (
                        f"{c.copies} × TP{c.tp}",
                        str(c.batch_per_copy),
                        format_time(c.step_s),
                        f"{c.tokens_per_s:,.0f}",
                        f"{c.tokens_per_s_per_device:,.1f}",
                        "yes" if c.fits else "NO",
                        str(c.same_load_batch_per_copy),
                        format_time(c.same_load_step_s),
                        f"{c.same_load_tokens_per_s:,.0f}",
                    )
                    for c in s.copies
                ),
            )
        )
    parts.append("Speed-up over TP=1 (│ ideal):\n" + chart)
    parts.append(
        f"Limit ({s.limit.objective}): TP={s.limit.tp} ({s.limit.detail}). Fastest: TP={s.fastest}."
    )
    parts.append(_wrap(words.verdict(s)))
    return Page(heading, tuple(parts))


def report_page(r: Report) -> Page:
    e = r.estimate
    lay = e.layout
    axes = " ".join(f"{k}={int(getattr(lay, k))}" for k in ("tp", "pp", "vp", "dp", "cp", "ep"))
    heading = (
        f"{e.model.name}: {workload_words(e.workload)}\n{e.cluster.name}: {cluster_words(e.cluster)}; "
        f"stack {e.stack.name}\nlayout {axes}, microbatch {int(e.program.ctx.sequences)} ({r.devices} GPUs)"
    )
    times = Table(
        "Per step, slowest stage",
        ("what", "value"),
        (
            ("step", format_time(r.step_s)),
            ("  compute", format_time(r.compute_s)),
            ("  exposed communication", format_time(r.exposed_comm_s)),
            ("  pipeline bubble", format_time(r.bubble_s)),
            ("  host", format_time(r.host_s)),
            ("communication busy", format_time(r.comm_s)),
            ("comm share", words.percent(r.comm_share)),
            ("MFU / HFU", f"{words.percent(r.mfu)} / {words.percent(r.hfu)}"),
            ("tokens/s per GPU", f"{r.tokens_per_s_per_device:,.1f}"),
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
            ("total", format_memory(r.memory_bytes)),
            ("usable of the device", format_memory(e.memory_limit_bytes)),
            ("fits", "yes" if r.fits else "NO"),
        ),
    )
    source = Table(
        "Where the seconds come from",
        ("source", "share"),
        tuple((k, words.percent(v)) for k, v in r.provenance.items()),
    )
    return Page(heading, (times, comm, memory, source))


def explain_page(r: Report) -> Page:
    rows = []
    for op in r.operations:
        shape = f"{op.m:g}×{op.n:g}×{op.k:g}" if op.kind in ("gemm", "attention") else ""
        if op.batch != 1 and shape:
            shape += f" ·{op.batch:g}"
        rows.append(
            (
                op.name,
                op.kind,
                op.phase,
                f"{op.calls:g}",
                shape,
                format_count(op.flops) + "FLOP" if op.flops else "",
                format_bytes(op.hbm_bytes) if op.hbm_bytes else "",
                format_bytes(op.payload_bytes) if op.payload_bytes else "",
                " + ".join(format_bytes(w) for w in op.wire_bytes),
                f"{op.group}={op.group_size}" if op.group else "",
                op.algorithm or "",
                format_time(op.time_s),
            )
        )
    table = Table(
        "Operations of one device, in order; values per call",
        (
            "operation",
            "kind",
            "phase",
            "calls/step",
            "m×n×k",
            "FLOPs",
            "HBM",
            "payload",
            "wire by level",
            "group",
            "algorithm",
            "time",
        ),
        tuple(rows),
        frozenset({0, 1, 2, 9, 10}),
    )
    e = r.estimate
    heading = f"{e.model.name}: {workload_words(e.workload)} on {e.cluster.name}, stack {e.stack.name}; step {format_time(r.step_s)}"
    return Page(heading, (table,))


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
                        f"{d['quantization']['method']}, weights {d['quantization']['weight_dtype']}",
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
    )
    lines = [f"TP={r['tp']} refused: " + "; ".join(r["reasons"]) for r in d["refused_tp"]]
    lines += [f"TP={r['tp']}: " + "; ".join(r["remarks"]) for r in d["remarks"]]
    return Page(d["name"], (sizes, *(["\n".join(_wrap(line) for line in lines)] if lines else [])))


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
    )
    heading = (
        f"{d['op']} of {format_bytes(d['bytes'])} over {d['ranks']} ranks of {d['cluster']['name']}: "
        f"{format_time(d['time_s'])} by {d['algorithm']}, bus bandwidth {rate(d['busbw_bytes_per_s'])}"
    )
    return Page(heading, (table,))


def device_rates(peaks: dict[str, float]) -> str:
    return ", ".join(f"{k} {format_rate(v)}" for k, v in peaks.items())
