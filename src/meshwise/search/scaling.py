"""The curve over TP degrees: what a doubling pays, where it stops, and why."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec
import numpy as np

from meshwise.cost.estimate import Estimate, estimate
from meshwise.errors import IllegalLayout, InputError
from meshwise.search.fit import SmallestFit, smallest_fit
from meshwise.spec import legality
from meshwise.spec.cluster import Cluster
from meshwise.spec.layout import RECOMPUTE_CODE, Layouts
from meshwise.spec.model import Model
from meshwise.spec.stack import Stack
from meshwise.spec.workload import Decode, Training, Workload

Array = Any


class Layer(NamedTuple):
    """One transformer layer (the most frequent kind), one microbatch, one device."""

    forward_s: float
    backward_s: float
    forward_comm_s: float
    backward_comm_s: float
    forward_payload_bytes: float
    backward_payload_bytes: float
    all_reduces_forward: int
    all_reduces_backward: int
    all_gathers_forward: int
    reduce_scatters_forward: int
    all_gathers_backward: int
    reduce_scatters_backward: int
    all_reduces_recompute: int
    flops_forward: float


class Point(NamedTuple):
    """One TP degree of the curve. Seconds, bytes, shares; ``None`` where it does not apply."""

    tp: int
    step_s: float
    compute_s: float
    comm_s: float
    exposed_comm_s: float
    bubble_s: float
    host_s: float
    wire_bytes: tuple[float, ...]
    payload_bytes: float
    comm_share: float
    ccr: float | None
    speedup: float
    efficiency: float
    marginal_efficiency: float | None
    weak_efficiency: float
    memory_bytes: float
    fits: bool
    ranks_per_level: tuple[int, ...]
    algorithm: str | None
    tokens_per_s: float
    remarks: tuple[str, ...]
    layer: Layer


class Limit(NamedTuple):
    """The largest degree that still pays; ``reason`` is a code, ``detail`` its figures."""

    tp: int
    objective: str
    threshold: float
    reason: str
    detail: str


class Copies(NamedTuple):
    """The same GPUs as ``copies`` replicas of TP degree ``tp`` (decode and prefill)."""

    tp: int
    copies: int
    batch_per_copy: int
    step_s: float
    tokens_per_s: float
    tokens_per_s_per_device: float
    memory_bytes: float
    fits: bool
    same_load_batch_per_copy: int
    same_load_step_s: float
    same_load_tokens_per_s: float


class Scaling(NamedTuple):
    """The answer of ``scale``."""

    model: Model
    cluster: Cluster
    workload: Workload
    stack: Stack
    points: tuple[Point, ...]
    refused: tuple[tuple[int, str], ...]
    limit: Limit
    fastest: int
    smallest_fit: SmallestFit | None
    copies: tuple[Copies, ...]


def default_degrees(model: Model, cluster: Cluster) -> list[int]:
    """1, 2, 4, … up to the cluster and the heads (refused ones are reported as such).

    Where the powers of two end below 8 (25, 28, 36, 71 heads), the model's other legal degrees too.
    """
    top = min(cluster.devices, legality.max_heads(model))
    powers = [1 << i for i in range(top.bit_length()) if 1 << i <= top]
    usable = max(tp for tp in powers if not legality.refusals(model, tp))
    if usable >= min(8, top):
        return powers
    return sorted({*powers, *(tp for tp in legality.legal_tp(model) if tp <= top)})


def check_degrees(model: Model, cluster: Cluster, degrees: list[int], field: str = "--tp") -> None:
    """Raise for a degree that the model or the cluster does not allow."""
    for tp in degrees:
        if tp > cluster.devices:
            legal = [d for d in legality.legal_tp(model) if d <= cluster.devices]
            raise IllegalLayout(
                f"{field}={tp} is more than the {cluster.devices} GPUs of {cluster.name}",
                field=field,
                value=tp,
                legal=legal,
                nearest=legal[-1],
            )
        legality.require_tp(model, tp, field)


def layouts_for(workload: Workload, tp: Array, sequence_parallel: bool, factor: Array = 1) -> Layouts:
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


def _with_batch(workload: Workload, batch: int) -> Workload:
    changes: dict[str, Any] = {"batch": batch}
    if isinstance(workload, Training):
        changes["micro_batch"] = None if workload.micro_batch is None else workload.micro_batch
    return msgspec.structs.replace(workload, **changes)


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
    """Price every degree at the same total work (strong scaling), and say where to stop."""
    wanted = degrees if degrees is not None else default_degrees(model, cluster)
    if degrees is not None:
        check_degrees(model, cluster, degrees)
    refused: list[tuple[int, str]] = []
    kept: list[int] = []
    for tp in sorted(set(wanted)):
        bad = legality.refusals(model, tp)
        if bad:
            refused.append((tp, bad[0].text))
        else:
            kept.append(tp)
    # T(1) and T(N/2) are needed even where the user asks for a few degrees only.
    known = {1, *kept, *(tp // 2 for tp in kept if tp % 2 == 0)}
    priced = [tp for tp in sorted(known) if tp in kept or not legality.refusals(model, tp)]
    # Strong and weak scaling in one call: the second half has N times the batch (fixed work per GPU).
    tps = np.array(priced + priced, dtype=np.int64)
    factor = np.array([1] * len(priced) + priced, dtype=np.int64)
    layout = layouts_for(workload, tps, sequence_parallel, factor)
    e = estimate(model, cluster, workload, stack, layout, workload.batch * factor)
    points = _points(e, priced)
    shown = tuple(p for p in points if p.tp in kept)
    fit = None
    if not all(p.fits for p in shown):
        fit = smallest_fit(model, cluster, workload, stack, sequence_parallel)
    return Scaling(
        model=model,
        cluster=cluster,
        workload=workload,
        stack=stack,
        points=shown,
        refused=tuple(refused),
        limit=find_limit(e, shown, threshold, objective, model, cluster),
        fastest=min(shown, key=lambda p: p.step_s).tp,
        smallest_fit=fit,
        copies=_copies(model, cluster, workload, stack, shown) if workload.phase != "train" else (),
    )


def _column(value: Array, size: int) -> list[Any]:
    result: list[Any] = np.broadcast_to(np.asarray(value), (size,)).tolist()
    return result


def _points(e: Estimate, tps: list[int]) -> tuple[Point, ...]:
    size = 2 * len(tps)
    step = _column(e.step_s, size)
    columns = {
        name: _column(getattr(e, name), size)
        for name in ("compute_s", "comm_s", "exposed_comm_s", "bubble_s", "host_s", "payload_bytes")
    }
    memory, fits = _column(e.memory_bytes, size), _column(e.fits, size)
    wire = [_column(w, size) for w in e.wire_bytes]
    ranks = [_column(r, size) for r in e.pricer.groups["tp"].ranks]
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
                ranks_per_level=tuple(r[i] for r in ranks),
                algorithm=names[i],
                tokens_per_s=tokens / step[i],
                remarks=tuple(f.text for f in legality.findings(e.model, tp) if not f.refuses),
                layer=layers[i],
            )
        )
    return tuple(built)


def tokens_per_step(workload: Workload) -> int:
    """Tokens that one step of a replica works on (decode: makes)."""
    return workload.batch * (1 if isinstance(workload, Decode) else workload.seq)


def _main_kind(e: Estimate) -> int:
    counts = e.model.kind_counts()
    return counts.index(max(counts))


def _layers(e: Estimate, size: int) -> list[Layer]:
    costs = e.layer_costs[_main_kind(e)]

    def seconds(*phases: str) -> list[float]:
        value: Array = 0.0
        for c in costs:
            if c.op.phase in phases:
                value = value + (c.exposed if c.priced else c.op.count * c.seconds)
        return _column(value, size)

    def comm(*phases: str) -> tuple[list[float], list[float]]:
        value: Array = 0.0
        payload: Array = 0.0
        for c in costs:
            if c.priced and c.op.phase in phases:
                value = value + c.op.count * c.seconds
                payload = payload + c.op.count * c.op.payload_bytes
        return _column(value, size), _column(payload, size)

    pieces = 2 if e.stack.overlap == "split" and not e.stack.ideal else 1

    def calls(kind: str, *phases: str) -> list[int]:
        value: Array = 0
        for c in costs:
            if c.op.kind == kind and c.op.phase in phases and c.op.axis == "tp":
                value = value + c.op.count
        return [int(v) // pieces for v in _column(value, size)]

    forward, backward = seconds("forward"), seconds("dgrad", "wgrad")
    (fc, fp), (bc, bp) = comm("forward"), comm("dgrad", "wgrad")
    flops: Array = 0.0
    for c in costs:
        if c.op.phase == "forward":
            flops = flops + c.op.flops
    flop = _column(flops, size)
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
            forward_comm_s=fc[i],
            backward_comm_s=bc[i],
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
    for c in e.layer_costs[_main_kind(e)]:
        if c.priced is None or c.op.axis != "tp" or c.op.phase != "forward":
            continue
        counts, chosen = _column(c.op.count, size), _column(c.priced.chosen, size)
        for i in range(size):
            if counts[i] > 0:
                names[i] = c.priced.names[chosen[i]]
    return names


def find_limit(
    e: Estimate, points: tuple[Point, ...], threshold: float, objective: str, model: Model, cluster: Cluster
) -> Limit:
    """The largest N whose last doubling, and every one before, still pays (``efficiency``); or the N
    with the least step time (``latency``). The reason is what the next degree runs into."""
    if objective == "latency":
        best = min(points, key=lambda p: p.step_s)
        rest = [p for p in points if p.tp > best.tp]
        reason, detail = _why(e, best, rest[0]) if rest else _ends(best, model, cluster)
        return Limit(best.tp, objective, threshold, reason, detail)
    if objective != "efficiency":
        raise InputError(
            f"--objective: {objective!r} is not known",
            field="--objective",
            value=objective,
            legal=("efficiency", "latency"),
            nearest="efficiency",
        )
    kept = points[0]
    for p in points[1:]:
        if _doubling_score(kept, p) < threshold:
            return Limit(kept.tp, objective, threshold, *_why(e, kept, p))
        kept = p
    return Limit(kept.tp, objective, threshold, *_ends(kept, model, cluster))


def _doubling_score(before: Point, p: Point) -> float:
    """T(N/2) / (2·T(N)); where N/2 is no degree of the model, the mean per doubling since the degree
    before it on the curve."""
    if p.marginal_efficiency is not None:
        return p.marginal_efficiency
    return float((p.efficiency / before.efficiency) ** (1.0 / math.log2(p.tp / before.tp)))


def _ends(last: Point, model: Model, cluster: Cluster) -> tuple[str, str]:
    """The curve ends while it still pays: the cluster or the model has no larger degree."""
    following = last.tp * 2
    if following > cluster.devices:
        return "cluster", f"the cluster has {cluster.devices} devices"
    bad = legality.refusals(model, following)
    if bad:
        return bad[0].code, bad[0].text
    if following > legality.max_heads(model):
        return "heads", f"{legality.max_heads(model)} attention heads"
    return "asked", "no larger degree was asked for"


def _why(e: Estimate, good: Point, bad: Point) -> tuple[str, str]:
    """What the step from ``good`` to ``bad`` loses to: the larger of what communication and compute
    take beyond their share, communication told apart into latency and bandwidth."""
    ratio = good.tp / bad.tp
    comm = bad.exposed_comm_s - good.exposed_comm_s * ratio
    compute = bad.compute_s - good.compute_s * ratio
    crossing = _crossed(bad) > _crossed(good)
    level = e.cluster.levels[_crossed(bad)]
    where = f"TP={bad.tp} leaves {e.cluster.levels[_crossed(good)].name} for {level.name}: " if crossing else ""
    if compute > comm:
        return (
            "gemm_shrinkage",
            f"{where}compute takes {compute / bad.step_s:.0%} of the step more than its share",
        )
    share = _latency_share(e, bad.tp)
    code = "latency" if share > 0.5 else "bandwidth"
    return code, f"{where}communication takes {bad.comm_share:.0%} of the step, {share:.0%} of it latency"


def _crossed(point: Point) -> int:
    """Index of the outermost fabric level that the point's TP group crosses."""
    return max((i for i, r in enumerate(point.ranks_per_level) if r > 1), default=0)


def _latency_share(e: Estimate, tp: int) -> float:
    """Share of the layer's TP communication that stays when payloads shrink to one byte."""
    tps = np.atleast_1d(np.asarray(e.layout.tp))
    index = int(np.flatnonzero(tps == tp)[0])
    empty = whole = 0.0
    for c in e.layer_costs[_main_kind(e)]:
        if c.priced is None or c.op.axis != "tp":
            continue
        count = _column(c.op.count, len(tps))[index]
        whole += count * _column(c.seconds, len(tps))[index]
        tiny = e.pricer.one(c.op._replace(payload_bytes=1.0))[0]
        empty += count * _column(tiny, len(tps))[index]
    return empty / whole if whole > 0 else 0.0


def _copies(
    model: Model, cluster: Cluster, workload: Workload, stack: Stack, points: tuple[Point, ...]
) -> tuple[Copies, ...]:
    """The GPUs of one node as one large or several small replicas: latency against throughput.

    ``batch`` is per replica; the ``same_load`` figures share one replica's batch among the copies.
    """
    devices = cluster.node_devices
    found = []
    per = tokens_per_step(workload) // workload.batch
    for p in points:
        if p.tp > devices or devices % p.tp:
            continue
        n = devices // p.tp
        layout = Layouts(tp=np.int64(p.tp), dp=np.int64(n))
        one = estimate(model, cluster, workload, stack, layout)
        step = float(one.step_s)
        shared = -(-workload.batch // n)
        alike = estimate(model, cluster, _with_batch(workload, shared), stack, layout)
        alike_s = float(alike.step_s)
        found.append(
            Copies(
                tp=p.tp,
                copies=n,
                batch_per_copy=workload.batch,
                step_s=step,
                tokens_per_s=n * workload.batch * per / step,
                tokens_per_s_per_device=workload.batch * per / step / p.tp,
                memory_bytes=float(one.memory_bytes),
                fits=bool(one.fits),
                same_load_batch_per_copy=shared,
                same_load_step_s=alike_s,
                same_load_tokens_per_s=workload.batch * per / alike_s,
            )
        )
    return tuple(found)
