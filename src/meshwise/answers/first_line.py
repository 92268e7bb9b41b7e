"""The first line of every answer: what a reader came for, in one sentence with its figures.

``TP 8 · 21.7 ms/token (19–25) · fits · communication 14%; TP 16 would leave nvlink4-nvswitch, take
20.1 ms and pay 22% for it``. Parts are joined by ``·``; the ends of a 90 % interval stand in brackets, in the figure's
own unit. No arithmetic on costs is here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshwise.answers.text import words
from meshwise.layouts.tp_degrees import findings
from meshwise.models.shapes import Model
from meshwise.search.one_layout import Report
from meshwise.search.serving.plan import ServingRow
from meshwise.search.tp_curve.curve import Scaling
from meshwise.search.tp_curve.points import Point
from meshwise.search.tp_curve.smallest_mesh import SmallestFit, smallest_fit
from meshwise.search.training.rows import PlanRow
from meshwise.stacks.stack import Stack
from meshwise.units import format_bandwidth, format_bytes, format_count, format_memory, format_time
from meshwise.workloads.workload import Training

NEAR = 0.03  # of the threshold: within it a degree could as well be on the other side
PER = {"train": "step", "prefill": "prompt", "decode": "token"}


def joined(parts: Iterable[str]) -> str:
    return " · ".join(part for part in parts if part)


def timed(value: float, low: float, high: float, per: str = "") -> str:
    """``21.7 ms/token (19–25)``: a time, and the ends of its interval in its unit."""
    text = format_time(value)
    said = text + (f"/{per}" if per else "")
    if value <= 0.0 or low == high:
        return said
    unit = value / float(text.split()[0].replace(",", ""))
    return f"{said} ({_digits(low / unit)}–{_digits(high / unit)})"


def _digits(value: float) -> str:
    """Two significant digits, or all before the point."""
    return f"{value:,.0f}" if value >= 9.95 else f"{value:#.2g}"


def rate(value: float) -> str:
    """Whole tokens, or as many digits as small rates need."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}"


def memory(held: float, usable: float, fits: bool) -> str:
    if fits:
        return "fits"
    return f"does NOT fit: {format_memory(held)} of {format_memory(usable)} per GPU"


def communication(share: float) -> str:
    return f"communication {words.percent(share)}" if share > 0.0 else "no communication"


def mesh(fit: SmallestFit | None, devices: int, training: bool) -> str:
    """The smallest mesh that holds a workload."""
    if fit is None:
        return "no mesh of TP and PP holds it"
    said = [f"TP {fit.layout.tp}" + (f" × PP {fit.layout.pp}" if fit.layout.pp > 1 else "")]
    if training:
        said.append(f"microbatches of {fit.layout.micro_batch}")
    if fit.layout.recompute != "none":
        said.append(f"{fit.layout.recompute} recomputation")
    beyond = "" if fit.within_cluster else f", more than the {devices} here"
    each = f"({words.gpus(fit.devices)}{beyond}, {format_memory(fit.memory_bytes)} each)"
    return f"smallest mesh {', '.join(said)} {each}"


# findings of a TP degree that a first line names; the sentence stands below
MET = {"kv_copies": "KV heads copied", "vocab_padding": "vocabulary padded"}


def shards(model: Model, stack: Stack, phase: str, tp: int) -> list[str]:
    """What a degree does to the model's shards."""
    found = {f.code for f in findings(model, tp, stack) if not f.refuses}
    if phase == "train":  # no cache that copies would fill
        found -= {"kv_copies"}
    return [words for code, words in MET.items() if code in found]


# -- scale -----------------------------------------------------------------------------------------


def scaling(s: Scaling) -> str:
    """The degree to run; the mesh that fits comes before it where no degree alone does."""
    per, fit = PER[s.workload.phase], s.smallest_fit
    asked = [p for p in s.points if p.tp >= s.limit.tp] or [s.points[-1]]
    held = next((p for p in asked if p.fits), None)
    smaller = s.workload.phase == "train" and fit is not None and held and held.tp > fit.devices
    if held is not None and not smaller:
        why = "fits"
        if held.tp > s.limit.tp:
            why += f" (doublings stop paying at TP {s.limit.tp})"
        return f"{joined([*_degree(s, held, per), why, _share(held)])}; {_beyond(s, held)}"
    said = "No TP degree alone fits"
    if held is not None:
        said = f"TP alone fits from {held.tp} on"
    elif isinstance(s.workload, Training):
        said += f" with microbatches of {s.workload.micro_batch or s.workload.batch}"
    lead = f"{said}: {mesh(fit, s.cluster.devices, s.workload.phase == 'train')}"
    best = asked[0]
    pays = f"of TP, {best.tp} pays" if best.tp > 1 else "no doubling of TP pays"
    return f"{joined([lead, pays, _share(best) if best.tp > 1 else ''])}; {_beyond(s, best)}"


def _degree(s: Scaling, p: Point, per: str) -> list[str]:
    met = shards(s.model, s.stack, s.workload.phase, p.tp)
    return [f"TP {p.tp}", timed(p.step_s, p.step_low_s, p.step_high_s, per), *met]


def _share(p: Point) -> str:
    return communication(p.comm_share)


def _beyond(s: Scaling, best: Point) -> str:
    """What the next degree would do, or why there is none."""
    after = [p for p in s.points if p.tp > best.tp]
    refused = next(((tp, why) for tp, why in s.refused if tp > best.tp), None)
    if not after and refused is not None:
        return f"TP {refused[0]} is not legal: {refused[1]}"
    if not after:
        ends = s.limit.detail if best.tp == s.limit.tp else "no larger degree is on the curve"
        return f"the curve ends there: {ends}"
    p = after[0]
    pays = _pays(s, p)
    leaves = ""
    if words.outermost(p) > words.outermost(best):
        leaves = f"leave {s.cluster.levels[words.outermost(best)].fabric}, "
    share = words.percent(p.comm_share)
    return f"TP {p.tp} would {leaves}take {format_time(p.step_s)} and pay {share} for it{pays}"


def _pays(s: Scaling, p: Point) -> str:
    """Near a threshold, how near."""
    score = p.marginal_efficiency
    if s.limit.objective != "efficiency" or score is None:
        return ""
    if abs(score - s.limit.threshold) > NEAR:
        return ""
    asked = words.percent(s.limit.threshold)
    return f", its doubling {words.beside(score, s.limit.threshold)} of the {asked} asked"


# -- one layout ------------------------------------------------------------------------------------


def report(r: Report) -> str:
    e = r.estimate
    per = PER[e.workload.phase]
    said = [timed(r.step_s, r.step_low_s, r.step_high_s, per)]
    said.append(memory(r.memory_bytes, e.memory_limit_bytes, r.fits))
    if not r.fits:
        parallel = bool(e.layout.sequence_parallel)
        found = smallest_fit(e.model, e.cluster, e.workload, e.stack, parallel)
        said[-1] += f"; for one replica {mesh(found, e.cluster.devices, per == 'step')}"
    said.append(communication(float(r.comm_share)))
    said += shards(e.model, e.stack, e.workload.phase, int(e.layout.tp))
    if e.workload.phase == "train":
        said.append(f"MFU {words.percent(r.mfu)}")
    return joined([*said, f"{rate(r.tokens_per_s_per_device)} tokens/s per GPU"])


def explained(r: Report) -> str:
    """The step, and the operations that take most of it."""
    total = sum(op.calls * op.time_s for op in r.operations) or 1.0
    by: dict[str, float] = {}
    for op in r.operations:
        kind = op.name.partition(".")[2] or op.name
        by[kind] = by.get(kind, 0.0) + op.calls * op.time_s / total
    most = sorted(by, key=lambda name: -by[name])[:3]
    shares = ", ".join(f"{name} {words.percent(by[name])}" for name in most)
    per = PER[r.estimate.workload.phase]
    return joined([timed(r.step_s, r.step_low_s, r.step_high_s, per), f"most of it {shares}"])


def model(d: dict[str, Any]) -> str:
    active = ""
    if d["active_parameters"] != d["parameters"]:
        active = f" ({format_count(d['active_parameters'])} active)"
    sizes: dict[str, float] = d["weight_bytes"]
    usual = next((k for k in sizes if k.endswith("checkpoint")), "bf16")
    weights = f"{format_memory(sizes[usual])} in {usual}" if usual in sizes else ""
    degrees = ", ".join(map(str, d["legal_tp"][:12])) + (", …" if len(d["legal_tp"]) > 12 else "")
    node = next((r for r in d["refused_tp"] if r["tp"] == 8), None)
    refused = f"; not 8: {node['reasons'][0]}" if node else ""
    said = [f"{format_count(d['parameters'])} parameters{active}", weights]
    return joined([*said, f"TP {degrees}{refused}"])


# -- serving ---------------------------------------------------------------------------------------


def served(d: dict[str, Any]) -> str:
    room = memory(d["memory_bytes"], d["memory_limit_bytes"], d["fits"])
    if d["fits"]:
        room = f"fits, up to {d['max_concurrency']:,} requests"
    elif d["max_concurrency"]:
        room = f"holds {d['max_concurrency']:,} of {d['workload']['concurrency']:,} requests"
    return joined(
        [
            f"TPOT {timed(d['tpot_s'], d['tpot_low_s'], d['tpot_high_s'])}",
            f"TTFT {format_time(d['ttft_s'])}",
            f"{rate(d['tokens_per_s'])} tokens/s ({rate(d['tokens_per_s_per_device'])} per GPU)",
            room,
        ]
    )


# -- plans -----------------------------------------------------------------------------------------


def planned(best: PlanRow | None, layout: str, ties: int, partial: bool) -> str:
    """A plan's best row, ``layout`` in words."""
    if best is None:
        return "No layout is feasible" + (" of those looked at" * partial)
    said = [
        f"Best {layout}" if not partial else f"Best so far {layout}",
        timed(best.step_s, best.step_low_s, best.step_high_s, "step"),
        f"MFU {words.percent(best.mfu)}",
        communication(best.exposed_comm_s / best.step_s),
        f"{format_memory(best.memory_bytes)} per GPU",
    ]
    return joined([*said, f"{ties} tie{'s' * (ties == 1)} with it" if ties else ""])


def planned_serving(best: ServingRow | None, layout: str, partial: bool) -> str:
    if best is None:
        return "No layout is feasible" + (" of those looked at" * partial)
    return joined(
        [
            f"Best {layout}" if not partial else f"Best so far {layout}",
            f"{rate(best.tokens_per_s_per_device)} tokens/s per GPU",
            f"TPOT {timed(best.tpot_s, best.tpot_low_s, best.tpot_high_s)}",
            f"TTFT {format_time(best.ttft_s)}",
            f"{best.concurrency:,} in flight",
        ]
    )


def compared(mine: PlanRow | ServingRow, verdict: str) -> str:
    """A launch command's layout, training's or serving's, and what to change."""
    if isinstance(mine, PlanRow):
        time = timed(mine.step_s, mine.step_low_s, mine.step_high_s, "step")
    else:
        time = f"TPOT {timed(mine.tpot_s, mine.tpot_low_s, mine.tpot_high_s)}"
    said = [time, f"{rate(mine.tokens_per_s_per_device)} tokens/s per GPU"]
    return joined([*said, "fits" if mine.fits else "", verdict])


def collective(d: dict[str, Any]) -> str:
    bus = d["busbw_bytes_per_s"]
    asked = f"{d['op']} of {format_bytes(d['bytes'])} over {d['ranks']} ranks"
    return joined(
        [
            f"{asked}: {timed(d['time_s'], d['time_low_s'], d['time_high_s'])}",
            f"bus bandwidth {format_bandwidth(bus)}" if bus is not None else "",
            f"by {d['algorithm']}",
        ]
    )


# -- measurements ----------------------------------------------------------------------------------


def validated(summary: dict[str, Any], rows: int) -> str:
    said = [
        f"{quantity}: median error {100 * s['median_abs_error']:.1f}%, "
        f"{100 * s['coverage']:.0f}% of {s['n']:,} inside the 90% interval"
        for quantity, s in summary.items()
        if s.get("n") and "median_abs_error" in s
    ]
    return joined(said) or f"None of {rows:,} rows can be compared"


def ran(r: dict[str, Any]) -> str:
    """A run's median step beside its prediction."""
    name = "step" if r["phase"] == "train" else r["phase"]
    measured, told = r["measured"]["step_s"], (r["predicted"] or {}).get("step_s")
    said = [f"{name} {format_time(measured)} measured"]
    if told is not None:
        said.append(f"{format_time(told)} predicted ({100 * (told / measured - 1):+.0f}%)")
    return joined(said)
