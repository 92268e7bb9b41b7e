"""The curve over TP degrees: what a doubling pays, where it stops, and why."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.axes import RECOMPUTE_CODE
from meshwise.clusters.load import Cluster
from meshwise.cost.doubt.question import Question, step_question
from meshwise.cost.estimate import Estimate, price_layouts
from meshwise.cost.kernels.fits import experts_of
from meshwise.cost.uncertainty import is_tight, step_interval
from meshwise.errors import IllegalLayout
from meshwise.layouts import tp_degrees as legality
from meshwise.layouts.check import check_switches
from meshwise.layouts.layout import Layouts
from meshwise.layouts.rules.case import case_of, needs_split
from meshwise.layouts.rules.rulebook import RULES
from meshwise.models import formats
from meshwise.models.shapes import Model
from meshwise.program.layers.layer import overlap_pieces
from meshwise.search.tp_curve.copies import copies
from meshwise.search.tp_curve.limit import column, find_limit, main_kind
from meshwise.search.tp_curve.points import Copies, Layer, Limit, Point
from meshwise.search.tp_curve.smallest_mesh import SmallestFit, smallest_fit
from meshwise.search.tp_curve.towers import tower_degree_remarks, tower_remarks
from meshwise.stacks.stack import Stack, not_made_for, not_made_on
from meshwise.stacks.versions import version_remark
from meshwise.units import format_gpus
from meshwise.workloads.workload import Decode, Training, Workload, drawn_skew, tokens_per_step


class Scaling(NamedTuple):
    """The answer of ``scale``."""

    model: Model
    cluster: Cluster
    workload: Workload
    stack: Stack
    points: tuple[Point, ...]
    refused: tuple[tuple[int, str], ...]
    limit: Limit
    limit_point: Point
    fastest: int
    question: Question  # of the limit: what decides how far its step may be off
    smallest_fit: SmallestFit | None
    copies: tuple[Copies, ...]


def default_degrees(model: Model, cluster: Cluster, stack: Stack) -> list[int]:
    """1, 2, 4, … up to the cluster and the heads (refused ones are reported as such).

    Where the powers of two end below 8 (25, 28, 36, 71 heads), the model's other legal degrees too.
    """
    top = min(cluster.devices, legality.max_heads(model))
    powers = [1 << i for i in range(top.bit_length()) if 1 << i <= top]
    usable = max(tp for tp in powers if not legality.refusals(model, tp, stack))
    if usable >= min(8, top):
        return powers
    return sorted({*powers, *(tp for tp in legality.legal_tp(model, stack) if tp <= top)})


def check_degrees(model: Model, cluster: Cluster, degrees: list[int], stack: Stack) -> None:
    """Raise for a degree that the model or the cluster does not allow."""
    for tp in degrees:
        if tp > cluster.devices:
            legal = [d for d in legality.legal_tp(model, stack) if d <= cluster.devices]
            raise IllegalLayout(
                f"tp={tp} is more than the {format_gpus(cluster.devices)} of {cluster.name}",
                field="tp",
                value=tp,
                legal=legal,
                nearest=legal[-1],
            )
        legality.require_tp(model, tp, stack)


def splits_tokens(model: Model, stack: Stack, workload: Workload, tp: Array) -> Array:
    """Whether sequence parallelism can split a step's tokens over ``tp`` ranks."""
    layout = Layouts(tp=np.asarray(tp), sequence_parallel=np.bool_(True))
    return RULES["sequence_parallel"].keeps(case_of(model, stack, workload, layout))


def layouts_for(
    workload: Workload, tp: Array, sequence_parallel: bool, factor: Array = 1
) -> Layouts:
    """TP alone: one replica, the whole batch in one microbatch unless the workload says otherwise."""
    micro: Array = np.int64(1)
    recompute = np.int64(0)
    if isinstance(workload, Training):
        micro = workload.batch * factor
        if workload.micro_batch is not None:
            micro = np.int64(workload.micro_batch)
        recompute = np.int64(RECOMPUTE_CODE[workload.recompute])
    return Layouts(
        tp=tp,
        micro_batch=micro,
        recompute=recompute,
        sequence_parallel=np.bool_(sequence_parallel),
    )


def curve(
    model: Model,
    cluster: Cluster,
    workload: Workload,
    stack: Stack,
    *,
    degrees: list[int] | None = None,
    sequence_parallel: bool = False,
    threshold: float = 0.8,
    objective: str = "efficiency",
) -> Scaling:
    """Price every degree at the same total work (strong scaling), and say where to stop. Sequence
    parallelism is on where the software trains the model's experts with it only."""
    sequence_parallel = sequence_parallel or needs_split(model, stack, workload.phase)
    wanted = degrees if degrees is not None else default_degrees(model, cluster, stack)
    if degrees is not None:
        check_degrees(model, cluster, degrees, stack)
    refused: list[tuple[int, str]] = []
    kept: list[int] = []
    for tp in sorted(set(wanted)):
        found = legality.refusals(model, tp, stack)
        bad = [f.text for f in found]
        if sequence_parallel and not splits_tokens(model, stack, workload, tp):
            text = f"tp={tp} does not divide the tokens that sequence parallelism splits"
            if degrees is not None:
                legal = [
                    d
                    for d in legality.legal_tp(model, stack)
                    if splits_tokens(model, stack, workload, d)
                ]
                raise IllegalLayout(f"tp: {text}", field="tp", value=tp, legal=legal, nearest=1)
            bad.append(text)
        if bad:
            refused.append((tp, bad[0]))
        else:
            kept.append(tp)
    one = layouts_for(workload, np.int64(1), False)
    check_switches(model, workload, stack, one, ("loss_chunks", "exchange"))
    # T(1) and T(N/2) are needed even where the user asks for a few degrees only.
    known = {1, *kept, *(tp // 2 for tp in kept if tp % 2 == 0)}
    priced = [tp for tp in sorted(known) if tp in kept or not legality.refusals(model, tp, stack)]
    # Strong and weak scaling in one call: the second half has N times the batch (fixed work per GPU).
    tps = np.array(priced + priced, dtype=np.int64)
    factor = np.array([1] * len(priced) + priced, dtype=np.int64)
    layout = layouts_for(workload, tps, sequence_parallel, factor)
    e = price_layouts(model, cluster, workload, stack, layout, workload.batch * factor)
    asked = step_question(e)
    points = _points(e, priced, asked)
    shown = tuple(p for p in points if p.tp in kept)
    fit = None
    if not all(p.fits for p in shown):
        fit = smallest_fit(model, cluster, workload, stack, sequence_parallel)
    limit = find_limit(e, points, shown, threshold, objective)
    return Scaling(
        limit_point=next(p for p in points if p.tp == limit.tp),
        question=asked.at(priced.index(limit.tp)),
        model=model,
        cluster=cluster,
        workload=workload,
        stack=stack,
        points=shown,
        refused=tuple(refused),
        limit=limit,
        fastest=min(shown, key=lambda p: p.step_s).tp,
        smallest_fit=fit,
        copies=copies(model, cluster, workload, stack, shown) if workload.phase != "train" else (),
    )


def expert_remarks(model: Model, workload: Workload) -> list[str]:
    """What was assumed of the experts that a decode's batch reads."""
    if not isinstance(workload, Decode) or not any(b.moe for b in model.blocks):
        return []
    skew = drawn_skew(workload.expert_skew)
    if skew == 0.0:
        return [
            "experts are drawn evenly: an upper bound of those that a batch reads (`expert_skew` 0)"
        ]
    how = ", assumed: the interval reaches to even draws" if workload.expert_skew is None else ""
    return [
        f"experts are drawn with log-normal popularity, sigma {skew:g}{how}: fewer are read than by even "
        "draws, which are the upper bound (`expert_skew` 0); ranks that share them get unlike numbers of tokens"
    ]


def run_remarks(model: Model, cluster: Cluster, workload: Workload, stack: Stack) -> list[str]:
    """As what a run is priced, whatever its layout: formats, and how experts are drawn."""
    device = cluster.device
    found = formats.format_remarks(model, workload, device.peak_flops_per_s, device.title)
    found += [cluster.asked] if cluster.asked else []
    found += not_made_for(stack, workload.phase)
    later = None if stack.ideal else version_remark(stack.name, stack.title)
    found += [later] if later else []
    found += not_made_on(stack, device.generation, device.title)
    unread = legality.unread_method(formats.model_as_run(model, workload), stack)
    found += [f"{unread}: priced as if it did"] if unread else []
    found += tower_remarks(model, workload, stack)
    found += expert_remarks(model, workload)
    return found + version_remarks(model, cluster, workload, stack)


def version_remarks(model: Model, cluster: Cluster, workload: Workload, stack: Stack) -> list[str]:
    """As of which version an engine's experts were measured: DeepSeek-R1 made 44 tokens/s of one stream
    on 8 x H200 in early 2025 (sgl-project/sglang pull request 3582), and twice as many a year later."""
    if not isinstance(workload, Decode) or stack.ideal or not any(b.moe for b in model.blocks):
        return []
    version = experts_of(cluster.device, stack.software)
    if version is None:
        return []
    return [
        f"experts' kernels are those of {version} (2026): engines of a year before took up to twice as "
        "long per token"
    ]


def degree_remarks(
    model: Model,
    cluster: Cluster,
    workload: Workload,
    stack: Stack,
    tp: int,
    etp: int | None = None,
) -> tuple[str, ...]:
    """What a degree costs or needs that its figures do not say, and a length that the model was not made
    for."""
    found = degree_cost_remarks(model, cluster, workload, stack, tp, etp)
    length = workload.context if isinstance(workload, Decode) else workload.seq
    if model.max_positions is None or length <= model.max_positions:
        return found
    beyond = f"{length:,} tokens are more than the {model.max_positions:,} positions the model was made for"
    return (*found, beyond)


def degree_cost_remarks(
    model: Model,
    cluster: Cluster,
    workload: Workload,
    stack: Stack,
    tp: int,
    etp: int | None = None,
) -> tuple[str, ...]:
    """What a degree costs or needs that its figures do not say."""
    found = run_remarks(model, cluster, workload, stack)
    if tp > 1 and needs_split(model, stack, workload.phase):
        name = stack.title or stack.name
        found.append(f"sequence parallelism is on: {name} trains experts beside TP with it only")
    found += legality.tp_remarks(model, tp, stack, etp)
    if workload.phase != "train":
        found += tower_degree_remarks(model, stack, tp)
    return tuple(dict.fromkeys(found))


def _points(e: Estimate, tps: list[int], asked: Question) -> tuple[Point, ...]:
    size = 2 * len(tps)
    step = column(e.step_s, size)
    lows, highs = (column(end, size) for end in step_interval(e, asked))
    columns = {
        name: column(getattr(e, name), size)
        for name in ("compute_s", "comm_s", "exposed_comm_s", "bubble_s", "host_s", "payload_bytes")
    }
    memory, fits = column(e.memory_bytes, size), column(e.fits, size)
    tight = column(is_tight(e, asked), size)
    wire = [column(w, size) for w in e.wire_bytes]
    ranks = [column(r, size) for r in e.pricer.groups["tp"].ranks]
    layers = _layers(e, size)
    names = _algorithms(e, size)
    tokens = tokens_per_step(e.workload)
    built = []
    for i, tp in enumerate(tps):
        comm = columns["comm_s"][i]
        half = tps.index(tp // 2) if tp % 2 == 0 and tp // 2 in tps else None
        built.append(
            Point(
                tp=tp,
                step_s=step[i],
                step_low_s=lows[i],
                step_high_s=highs[i],
                **{k: v[i] for k, v in columns.items() if k != "payload_bytes"},
                wire_bytes=tuple(w[i] for w in wire),
                payload_bytes=columns["payload_bytes"][i],
                comm_share=columns["exposed_comm_s"][i] / step[i],
                ccr=columns["compute_s"][i] / comm if comm > 0 else None,
                speedup=step[0] / step[i],
                efficiency=step[0] / step[i] / tp,
                marginal_efficiency=step[half] / (2 * step[i]) if half is not None else None,
                weak_efficiency=step[0] / step[len(tps) + i],
                memory_bytes=memory[i],
                fits=bool(fits[i]),
                tight=bool(tight[i]),
                ranks_per_level=tuple(r[i] for r in ranks),
                algorithm=names[i],
                tokens_per_s=tokens / step[i],
                remarks=(*degree_remarks(e.model, e.cluster, e.workload, e.stack, tp),),
                layer=layers[i],
            )
        )
    return tuple(built)


def _layers(e: Estimate, size: int) -> list[Layer]:
    costs = e.layer_costs[main_kind(e)]

    def seconds(*phases: str) -> list[float]:
        value: Array = 0.0
        for c in costs:
            if c.op.phase in phases:
                value = value + (c.exposed if c.priced else c.op.count * c.seconds)
        return column(value, size)

    def comm(*phases: str) -> tuple[list[float], list[float]]:
        value: Array = 0.0
        payload: Array = 0.0
        for c in costs:
            if c.priced and c.op.phase in phases:
                value = value + c.op.count * c.seconds
                payload = payload + c.op.count * c.op.payload_bytes
        return column(value, size), column(payload, size)

    cut = column(overlap_pieces(e.program.ctx), size)

    def calls(kind: str, *phases: str) -> list[int]:
        value: Array = 0
        for c in costs:
            if c.op.kind == kind and c.op.phase in phases and c.op.axis == "tp":
                value = value + c.op.count
        return [int(v) // parts for v, parts in zip(column(value, size), cut, strict=True)]

    work = ("forward", "recompute", "dgrad", "wgrad")
    forward, backward = seconds("forward"), seconds("dgrad", "wgrad")
    again, whole, busy = seconds("recompute"), seconds(*work), comm(*work)[0]
    rc, rp = comm("recompute")
    (fc, fp), (bc, bp) = comm("forward"), comm("dgrad", "wgrad")
    flops: Array = 0.0
    exposed: Array = 0.0
    wire: list[Array] = [0.0 for _ in e.cluster.levels]
    for c in costs:
        if c.op.phase == "forward":
            flops = flops + c.op.flops
        if c.priced and c.op.phase in work:
            exposed = exposed + c.exposed
            wire = [w + c.op.count * x for w, x in zip(wire, c.priced.wire_bytes, strict=True)]
    flop, bare = column(flops, size), column(exposed, size)
    sent = [column(w, size) for w in wire]
    table = {
        "all_reduces_forward": calls("all_reduce", "forward"),
        "all_reduces_backward": calls("all_reduce", "dgrad", "wgrad"),
        "all_gathers_forward": calls("all_gather", "forward"),
        "reduce_scatters_forward": calls("reduce_scatter", "forward"),
        "all_gathers_backward": calls("all_gather", "dgrad", "wgrad"),
        "reduce_scatters_backward": calls("reduce_scatter", "dgrad", "wgrad"),
        "all_reduces_recompute": calls("all_reduce", "recompute"),
    }
    return [
        Layer(
            forward_s=forward[i],
            backward_s=backward[i],
            recompute_s=again[i],
            compute_s=whole[i] - bare[i],
            comm_s=busy[i],
            exposed_comm_s=bare[i],
            comm_share=bare[i] / whole[i],
            ccr=(whole[i] - bare[i]) / busy[i] if busy[i] else None,
            wire_bytes=tuple(w[i] for w in sent),
            forward_comm_s=fc[i],
            backward_comm_s=bc[i],
            recompute_comm_s=rc[i],
            recompute_payload_bytes=rp[i],
            forward_payload_bytes=fp[i],
            backward_payload_bytes=bp[i],
            flops_forward=flop[i],
            **{k: v[i] for k, v in table.items()},
        )
        for i in range(size)
    ]


def _algorithms(e: Estimate, size: int) -> list[str | None]:
    """The algorithm of the layer's last forward reduction at each degree."""
    names: list[str | None] = [None] * size
    for c in e.layer_costs[main_kind(e)]:
        if c.priced is None or c.op.axis != "tp" or c.op.phase != "forward":
            continue
        counts, chosen = column(c.op.count, size), column(c.priced.chosen, size)
        for i in range(size):
            if counts[i] > 0:
                names[i] = c.priced.names[chosen[i]]
    return names
