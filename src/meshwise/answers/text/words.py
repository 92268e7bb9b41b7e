"""Verdicts in words, with the figures that carry them. No arithmetic on costs."""

from __future__ import annotations

from meshwise.models.shapes import Model
from meshwise.program.context import widths
from meshwise.search.tp_curve.curve import Scaling
from meshwise.search.tp_curve.points import Point
from meshwise.stacks.stack import Stack
from meshwise.units import format_memory, format_time
from meshwise.workloads.workload import Workload

REASONS = {
    "bandwidth": "the fabric's bandwidth",
    "latency": "the collectives' latency",
    "gemm_shrinkage": "compute that no longer shrinks (products too small)",
    "heads": "the attention heads",
    "kv_heads": "the KV heads",
    "quantization": "the quantisation groups",
    "cluster": "the size of the cluster",
    "asked": "the degrees that were asked for",
    "memory": "memory",
}


def gradients(model: Model, workload: Workload, stack: Stack) -> str:
    """The format of a training step's gradients, and the switches that make it another program, as
    headings add them."""
    if workload.phase != "train":
        return ""
    said = [f"gradients {widths(model, workload, stack).gradient_dtype}"]
    if stack.memory.moments_dtype != "fp32":
        said.append(f"moments {stack.memory.moments_dtype}")
    if stack.kernels.loss_chunks > 1:
        said.append(f"loss in {stack.kernels.loss_chunks} chunks")
    if any(block.moe is not None for block in model.blocks):
        said += [f"dispatcher {stack.communication.dispatcher}"] * (
            stack.communication.dispatcher != "alltoall"
        )
        said += ["experts overlapped"] * stack.overlaps.overlap_experts
    return "".join(f", {words}" for words in said)


def gpus(count: int) -> str:
    return f"{count:,} GPU" + "s" * (count != 1)


def percent(share: float) -> str:
    """Two digits, and one decimal below 10 %."""
    return f"{share:.0%}" if share >= 0.0995 else f"{share:.1%}"


def beside(share: float, threshold: float) -> str:
    """A share in as many digits as it takes to stand on its side of the threshold."""
    text = percent(share)
    for digits in range(1, 12):
        if (round(float(text[:-1]), 12) >= round(100 * threshold, 12)) == (share >= threshold):
            break
        text = f"{share:.{digits}%}"
    return text


def interval(value: float, low: float, high: float) -> str:
    """The ends of a value's interval relative to it: ``-12/+18%``."""
    if value <= 0 or low == high:
        return "-"
    return f"{100 * (low / value - 1):.0f}/{100 * (high / value - 1):+.0f}%"


def point_words(p: Point) -> str:
    return f"TP={p.tp}: {percent(p.comm_share)} communication, {percent(p.efficiency)} efficiency"


def outermost(p: Point) -> int:
    """Index of the outermost level that a point's ranks span."""
    return max((i for i, r in enumerate(p.ranks_per_level) if r > 1), default=0)


def verdict(s: Scaling) -> str:
    """What the curve says, in a few sentences: the last degree inside the innermost fabric, the first
    one that leaves it, the limit and what binds beyond it, and how to go on."""
    best = s.limit_point
    after = [p for p in s.points if p.tp > best.tp]
    inside = [p for p in s.points if outermost(p) == 0]
    outside = [p for p in s.points if outermost(p) > 0]
    told = []
    if inside and (inside[-1].tp > 1 or not outside):
        told.append(inside[-1])
    said = [f"{point_words(p)}." for p in told]
    if outside:
        first = outside[0]
        leaves = (
            f" leaves {s.cluster.levels[0].fabric} for {s.cluster.levels[outermost(first)].fabric}"
        )
        said.append(f"{point_words(first).replace(':', leaves + ':', 1)}.")
        told.append(first)
    if best not in told:
        said.insert(0, f"{point_words(best)}.")
    if after:
        following = after[0]
        score = following.marginal_efficiency
        pays = (
            f", whose doubling pays {beside(score, s.limit.threshold)}" if score is not None else ""
        )
        binds = REASONS.get(s.limit.reason, s.limit.reason)
        said.append(f"Stop at {best.tp}: at TP={following.tp}{pays}, {binds} binds.")
    else:
        said.append(
            f"Every degree up to TP={best.tp} pays; the curve ends at "
            f"{REASONS.get(s.limit.reason, s.limit.reason)} ({s.limit.detail})."
        )
    said += _go_on(s, best)
    said += _fit_words(s, best)
    said += [f"{r[0].upper()}{r[1:]}." for r in best.remarks]
    if s.refused:
        said.append("Refused: " + "; ".join(why for _, why in s.refused[:2]) + ".")
    return " ".join(said)


def _go_on(s: Scaling, best: Point) -> list[str]:
    if s.workload.phase == "train":
        return ["Go on with pipeline and data parallelism."] if len(s.points) > 1 else []
    if s.limit.objective == "latency" or len(s.copies) < 2:
        return []
    lowest = min(s.copies, key=lambda c: c.step_s)
    usable = [c for c in s.copies if c.fits]
    if not usable:
        return []
    most = max(usable, key=lambda c: c.tokens_per_s)
    if most.tp == lowest.tp:
        return [f"On one node {most.copies} × TP={most.tp} wins for latency and for tokens/s."]
    return [
        f"On one node's GPUs: least latency 1 × TP={lowest.tp} ({format_time(lowest.step_s)}), most "
        f"tokens/s {most.copies} × TP={most.tp} ({most.tokens_per_s:,.0f}/s against "
        f"{lowest.tokens_per_s:,.0f}/s)."
    ]


def _fit_words(s: Scaling, best: Point) -> list[str]:
    if best.fits:
        return []
    device = s.cluster.device
    said = [
        f"TP={best.tp} alone does not fit: {format_memory(best.memory_bytes)} per GPU, "
        f"{device.title} has {format_memory(device.memory_bytes)}."
    ]
    fitting = [p for p in s.points if p.fits]
    if fitting:
        said.append(f"TP={fitting[0].tp} is the first degree that fits.")
    fit = s.smallest_fit
    if fit is None:
        said.append("No mesh of TP and PP holds it, not even one layer per stage.")
    else:
        where = "" if fit.within_cluster else f", more than the cluster's {s.cluster.devices}"
        extra = (
            f" with {fit.layout.recompute} recomputation" if fit.layout.recompute != "none" else ""
        )
        micro = f", microbatches of {fit.layout.micro_batch}" if s.workload.phase == "train" else ""
        said.append(
            f"Smallest mesh that holds it: TP={fit.layout.tp} × PP={fit.layout.pp}{micro}{extra} "
            f"({gpus(fit.devices)}{where}; {format_memory(fit.memory_bytes)} per GPU)."
        )
    return said
