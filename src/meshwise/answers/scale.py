"""``scale``: the curve over TP degrees, its limit and the verdict."""

from __future__ import annotations

from typing import TypedDict

from meshwise.answers.records import SCHEMA
from meshwise.answers.records.attributes import Key, Record
from meshwise.answers.records.cluster import ClusterRecord, cluster_record, stack_record
from meshwise.answers.records.evidence import EvidenceRecord, evidence_record
from meshwise.answers.records.layout import smallest_fit_dict
from meshwise.answers.records.result import Placed
from meshwise.answers.text import curve, words
from meshwise.answers.text.evidence import evidence_lines
from meshwise.answers.text.sentences import (
    begun,
    cluster_words,
    training_words,
    workload_words,
    wrap,
)
from meshwise.answers.text.tables import Page
from meshwise.answers.text.tp import shard_words, smallest_fit_words
from meshwise.program.context import widths
from meshwise.search.tp_curve.curve import Scaling
from meshwise.search.tp_curve.points import Point
from meshwise.units import format_gpus, format_memory, format_time
from meshwise.workloads.workload import Training
from meshwise.workloads.workload import to_dict as workload_dict

NEAR = 0.03  # of the threshold: within it a degree could as well be on the other side
LIMIT_REASONS = {
    "bandwidth": "the fabric's bandwidth",
    "latency": "the collectives' latency",
    "gemm_shrinkage": "compute that no longer shrinks (products too small)",
    "host": "the host's work, which TP does not divide",
    "heads": "the attention heads",
    "kv_heads": "the KV heads",
    "output_groups": "the groups of the output projection",
    "recurrent_heads": "the heads of recurrent layers",
    "key_groups": "the heads of keys of recurrent layers",
    "key_copies": "the heads of keys of recurrent layers",
    "norm_groups": "the groups that norms of recurrent layers span",
    "quantization": "the quantisation groups",
    "cluster": "the size of the cluster",
    "asked": "the degrees that were asked for",
    "memory": "memory",
}


class RefusedDegree(TypedDict):
    """A degree that the model does not admit."""

    tp: int
    reason: str


class FastestDegree(TypedDict):
    """The degree of the least step."""

    tp: int


class ScaleRecord(TypedDict):
    """The JSON of ``scale``: seconds, bytes, shares."""

    schema: int
    model: str
    cluster: ClusterRecord
    workload: dict[str, object]
    formats: dict[str, object]
    stack: dict[str, object]
    points: list[dict[str, object]]
    refused: list[RefusedDegree]
    limit: dict[str, object]
    fastest: FastestDegree
    smallest_fit: dict[str, object] | None
    copies: list[dict[str, object]]
    evidence: EvidenceRecord | None
    verdict: str


class ScaleResult(Placed):
    """The curve over TP degrees, its limit and the verdict.

    ``points`` are :class:`~meshwise.search.tp_curve.points.Point`, one per degree; ``limit`` is the
    largest degree that still pays.
    """

    ROWS = "points"
    formats = Key[Record]("Number formats of weights, activations, gradients, cache.")
    refused = Key[list[Record]]("Degrees that the model does not admit: ``tp`` and ``reason``.")
    smallest_fit = Key[Record | None]("The mesh of the fewest GPUs that fits, where no point does.")
    copies = Key[list[Record]]("The same GPUs as several copies of a smaller degree.")
    evidence = Key[Record | None]("Which published runs are near the limit's degree.")
    verdict = Key[str]("The curve in a sentence or two.")

    def __init__(self, scaling: Scaling) -> None:
        self.scaling = scaling
        self.points = scaling.points
        self.limit = scaling.limit

    @property
    def fastest(self) -> Point | None:
        """The degree of the least step among those that fit."""
        return next((p for p in self.points if p.tp == self.scaling.fastest), None)

    def to_dict(self) -> ScaleRecord:
        return scale_record(self.scaling)

    def page(self) -> Page:
        return scale_page(self.scaling)


def scale_record(s: Scaling) -> ScaleRecord:
    """The JSON of a curve."""
    return {
        "schema": SCHEMA,
        "model": s.model.name,
        "cluster": cluster_record(s.cluster),
        "workload": workload_dict(s.workload),
        "formats": widths(s.model, s.workload, s.stack)._asdict(),
        "stack": stack_record(s.stack),
        "points": [
            {
                **{k: v for k, v in p._asdict().items() if k not in ("layer", "tokens_per_s")},
                "tokens_per_s": p.tokens_per_s,
                "layer": p.layer._asdict(),
            }
            for p in s.points
        ],
        "refused": [{"tp": tp, "reason": why} for tp, why in s.refused],
        "limit": s.limit._asdict(),
        "fastest": {"tp": s.fastest},
        "smallest_fit": smallest_fit_dict(s.smallest_fit, s.stack) if s.smallest_fit else None,
        "copies": [c._asdict() for c in s.copies],
        "evidence": evidence_record(s.question, s.stack),
        "verdict": curve_verdict(s),
    }


# -- the first line ----------------------------------------------------------------------------------


def scale_line(s: Scaling) -> str:
    """The degree to run; the mesh that fits comes before it where no degree alone does."""
    per, fit = words.PER[s.workload.phase], s.smallest_fit
    asked = [p for p in s.points if p.tp >= s.limit.tp] or [s.points[-1]]
    held = next((p for p in asked if p.fits), None)
    smaller = s.workload.phase == "train" and fit is not None and held and held.tp > fit.devices
    if held is not None and not smaller:
        why = "fits" + ", tight" * held.tight
        if held.tp > s.limit.tp:
            why += f" (doublings stop paying at TP {s.limit.tp})"
        return (
            f"{words.first_line([*_degree(s, held, per), why, _share(held)])}; {_beyond(s, held)}"
        )
    said = "No TP degree alone fits"
    if held is not None:
        said = f"TP alone fits from {held.tp} on"
    elif isinstance(s.workload, Training):
        said += f" with microbatches of {s.workload.micro_batch or s.workload.batch}"
    lead = f"{said}: {smallest_fit_words(fit, s.cluster.devices, s.workload.phase == 'train')}"
    best = asked[0]
    pays = f"of TP, {best.tp} pays" if best.tp > 1 else "no doubling of TP pays"
    return (
        f"{words.first_line([lead, pays, _share(best) if best.tp > 1 else ''])}; {_beyond(s, best)}"
    )


def _degree(s: Scaling, p: Point, per: str) -> list[str]:
    met = shard_words(s.model, s.stack, s.workload.phase, p.tp)
    return [f"TP {p.tp}", words.time_words(p.step_s, p.step_low_s, p.step_high_s, per), *met]


def _share(p: Point) -> str:
    return words.communication_words(p.comm_share)


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
    if _outermost(p) > _outermost(best):
        leaves = f"leave {s.cluster.levels[_outermost(best)].fabric}, "
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
    return f", its doubling {words.percent_against(score, s.limit.threshold)} of the {asked} asked"


# -- the verdict -------------------------------------------------------------------------------------


def _point_words(p: Point) -> str:
    return f"TP={p.tp}: {words.percent(p.comm_share)} communication, {words.percent(p.efficiency)} efficiency"


def _outermost(p: Point) -> int:
    """Index of the outermost level that a point's ranks span."""
    return max((i for i, r in enumerate(p.ranks_per_level) if r > 1), default=0)


def curve_verdict(s: Scaling) -> str:
    """What the curve says, in a few sentences: the last degree inside the innermost fabric, the first
    one that leaves it, the limit and what binds beyond it, and how to go on."""
    # inside the innermost fabric, and beyond it
    best = s.limit_point
    after = [p for p in s.points if p.tp > best.tp]
    inside = [p for p in s.points if _outermost(p) == 0]
    outside = [p for p in s.points if _outermost(p) > 0]
    told = []
    if inside and (inside[-1].tp > 1 or not outside):
        told.append(inside[-1])
    said = [f"{_point_words(p)}." for p in told]
    if outside:
        first = outside[0]
        leaves = (
            f" leaves {s.cluster.levels[0].fabric} for {s.cluster.levels[_outermost(first)].fabric}"
        )
        said.append(f"{_point_words(first).replace(':', leaves + ':', 1)}.")
        told.append(first)
    if best not in told:
        said.insert(0, f"{_point_words(best)}.")
    # where it stops, and why
    if after:
        following = after[0]
        score = following.marginal_efficiency
        pays = (
            f", whose doubling pays {words.percent_against(score, s.limit.threshold)}"
            if score is not None
            else ""
        )
        binds = LIMIT_REASONS.get(s.limit.reason, s.limit.reason)
        said.append(f"Stop at {best.tp}: at TP={following.tp}{pays}, {binds} binds.")
    else:
        said.append(
            f"Every degree up to TP={best.tp} pays; the curve ends at "
            f"{LIMIT_REASONS.get(s.limit.reason, s.limit.reason)} ({s.limit.detail})."
        )
    # how to go on
    said += _go_on(s, best)
    said += _fit_words(s, best)
    said += [begun(r) for r in best.remarks]
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
        mesh = fit.layout
        extra = f" with {mesh.recompute} recomputation" if mesh.recompute != "none" else ""
        micro = f", microbatches of {mesh.micro_batch}" if s.workload.phase == "train" else ""
        said.append(
            f"Smallest mesh that holds it: TP={mesh.tp} × PP={mesh.pp}{micro}{extra} "
            f"({format_gpus(fit.devices)}{where}; {format_memory(fit.memory_bytes)} per GPU)."
        )
    return said


# -- the page ----------------------------------------------------------------------------------------


def scale_page(s: Scaling) -> Page:
    # what was asked
    training = s.workload.phase == "train"
    overlap = s.stack.overlaps.overlap
    if overlap == "none" and training and s.stack.overlaps.overlap_input_gradient:
        overlap = "backward (input gradient's reduction beside the weight gradient)"
    heading = wrap(
        f"{s.model.name}: {workload_words(s.workload, s.workload.batch)}\n{s.cluster.name}: {cluster_words(s.cluster)}\n"
        f"stack {s.stack.name}"
        f"{training_words(s.model, s.workload, s.stack)}, TP overlap {overlap}"
    )
    chart = curve.bars(
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
    # the limit, and the page
    limit = (
        f"Limit ({s.limit.objective}): TP={s.limit.tp} ({s.limit.detail}). Fastest: TP={s.fastest}."
    )
    threshold = s.limit.threshold
    return Page(
        heading,
        (
            curve.curve_table(s.points, s.limit.tp, threshold),
            wrap(limit),
            wrap(curve_verdict(s)),
            *evidence_lines(evidence_record(s.question, s.stack)),
        ),
        scale_line(s),
        (
            curve.step_table(s.points, s.limit.tp),
            curve.weak_table(s.points),
            *curve.layer_tables(s.points, training),
            *(curve.copies_tables(s.copies) if s.copies else ()),
            "Speed-up over TP=1 (│ ideal):\n" + chart,
        ),
    )
