"""The tables of a TP curve, and its bars."""

from __future__ import annotations

from meshwise.answers.text import words
from meshwise.answers.text.evidence import fits_words
from meshwise.answers.text.tables import Table
from meshwise.search.tp_curve.points import Copies, Layer, Point
from meshwise.units import format_bytes, format_memory, format_time

BAR_WIDTH = 44


def bars(points: list[tuple[str, float, float, str]], width: int = BAR_WIDTH) -> str:
    """Horizontal bars: (label, value, ideal, remark); the stroke marks the ideal value."""
    top = max((max(v, i) for _, v, i, _ in points), default=1.0)
    lines = []
    for label, value, ideal, remark in points:
        filled = max(1, round(value / top * width))
        at = min(round(ideal / top * width), width)
        bar = "█" * filled
        if at > filled:
            bar = bar.ljust(at - 1, "·") + "│"
        lines.append(f"{label:>7} {bar} {remark}")
    return "\n".join(lines)


def _time(seconds: float) -> str:
    return format_time(seconds) if seconds else "-"


def curve_table(points: tuple[Point, ...], limit: int, threshold: float) -> Table:
    """What carries the answer: time, communication, what a doubling pays, and memory of each degree."""
    rows = tuple(
        (
            str(p.tp) + (" *" if p.tp == limit else ""),
            format_time(p.step_s),
            words.interval(p.step_s, p.step_low_s, p.step_high_s),
            words.percent(p.comm_share),
            f"{p.speedup:.2f}",
            words.percent(p.efficiency),
            words.percent_against(p.marginal_efficiency, threshold)
            if p.marginal_efficiency is not None
            else "-",
            format_memory(p.memory_bytes),
            fits_words(p.fits, p.tight),
        )
        for p in points
    )
    header = ("TP", "step", "90%", "comm %", "speed-up", "efficiency", "last ×2 pays")
    title = "Per step and GPU (* the limit)"
    if not points[0].fits:
        title += f"; TP={points[0].tp} does not fit: hypothetical"
    keep = ("step", "comm %", "efficiency", "fits")
    return Table(title, (*header, "memory/GPU", "fits"), rows, keep=keep)


def step_table(points: tuple[Point, ...], limit: int) -> Table:
    rows = tuple(
        (
            str(p.tp) + (" *" if p.tp == limit else ""),
            format_time(p.step_s),
            format_time(p.compute_s),
            _time(p.comm_s),
            _time(p.exposed_comm_s),
            words.percent(p.comm_share),
            f"{p.ccr:.1f}" if p.ccr is not None else "-",
            " + ".join(format_bytes(w) for w in p.wire_bytes) if p.payload_bytes else "-",
        )
        for p in points
    )
    header = (
        *("TP", "step", "compute", "comm", "exposed", "comm %", "CCR"),
        "wire bytes by level",
    )
    return Table("Where the step's time goes", header, rows, keep=("step",))


def weak_table(points: tuple[Point, ...]) -> Table:
    rows = tuple((str(p.tp), words.percent(p.weak_efficiency)) for p in points)
    return Table("Weak scaling: at fixed work per GPU", ("TP", "efficiency"), rows)


def _reductions(layer: Layer, training: bool) -> str:
    """Collectives of a layer: forward+backward(+recompute) all-reduces, or gathers and scatters."""
    if layer.all_gathers_forward:
        gathers = layer.all_gathers_forward + layer.all_gathers_backward
        scatters = layer.reduce_scatters_forward + layer.reduce_scatters_backward
        return f"{gathers} AG, {scatters} RS"
    text = str(layer.all_reduces_forward)
    if training:
        text += f"+{layer.all_reduces_backward}"
        if layer.all_reduces_recompute:
            text += f"+{layer.all_reduces_recompute}"
    return text


def layer_tables(points: tuple[Point, ...], training: bool) -> list[Table]:
    """One layer and microbatch: its times, and what it communicates."""
    # a row per degree: times, and what moves
    times, moves = [], []
    again = any(p.layer.recompute_s > 0 for p in points)
    back = (("recompute",) if again else ()) + (("backward",) if training else ())
    for p in points:
        lay = p.layer
        passes = (lay.recompute_s,) * again + (lay.backward_s,) * training
        sent_s = (lay.recompute_comm_s,) * again + (lay.backward_comm_s,) * training
        times.append(
            (
                str(p.tp),
                format_time(lay.forward_s),
                *(format_time(s) for s in passes),
                format_time(lay.compute_s),
                _time(lay.comm_s),
                _time(lay.exposed_comm_s),
                words.percent(lay.comm_share),
                f"{lay.ccr:.1f}" if lay.ccr is not None else "-",
            )
        )
        payload = lay.forward_payload_bytes + lay.backward_payload_bytes
        payload += lay.recompute_payload_bytes
        moves.append(
            (
                str(p.tp),
                _time(lay.forward_comm_s),
                *(_time(s) for s in sent_s),
                format_bytes(payload) if payload else "-",
                " + ".join(format_bytes(w) for w in lay.wire_bytes) if payload else "-",
                _reductions(lay, training),
                p.algorithm or "-",
            )
        )
    # columns of passes that there are
    head = ("TP", "forward", *back, "compute", "comm", "exposed", "comm %", "CCR")
    sent = ("TP", "forward", *back, "payload", "wire bytes by level", "reductions", "algorithm")
    return [
        Table("Per layer and microbatch" + ", recomputation included" * again, head, tuple(times)),
        Table("Its communication", sent, tuple(moves), frozenset({0, len(sent) - 1})),
    ]


def copies_tables(copies: tuple[Copies, ...]) -> list[Table]:
    """The same GPUs as copies: each with the whole batch, and sharing one batch."""
    own = tuple(
        (
            f"{c.copies} × TP{c.tp}",
            str(c.batch_per_copy),
            format_time(c.step_s),
            f"{c.tokens_per_s:,.0f}",
            f"{c.tokens_per_s_per_device:,.1f}",
            fits_words(c.fits, c.tight),
        )
        for c in copies
    )
    shared = tuple(
        (
            f"{c.copies} × TP{c.tp}",
            str(c.same_load_batch_per_copy),
            format_time(c.same_load_step_s),
            f"{c.same_load_tokens_per_s:,.0f}",
        )
        for c in copies
    )
    head = ("layout", "batch/copy", "step", "tokens/s")
    return [
        Table(
            "One node's GPUs as copies, each with the whole batch", (*head, "per GPU", "fits"), own
        ),
        Table("The same copies sharing one batch", head, shared),
    ]
