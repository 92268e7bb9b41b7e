"""Results as JSON: the contract of ``docs/reference/json`` (schema 1). Renaming here breaks users."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from meshwise.answers.text import words
from meshwise.clusters.load import Cluster
from meshwise.cost.collectives.fabric import Candidate
from meshwise.layouts import tp_degrees as legality
from meshwise.models.parameters import parameters
from meshwise.models.shapes import Model
from meshwise.program.context import widths
from meshwise.search.tp_curve.curve import Scaling, remarks
from meshwise.search.tp_curve.smallest_mesh import SmallestFit
from meshwise.stacks.stack import Stack, switch_values
from meshwise.workloads.workload import to_dict as workload_dict

if TYPE_CHECKING:
    from meshwise.search.one_layout import Report

SCHEMA = 1


def cluster_dict(cluster: Cluster) -> dict[str, Any]:
    return {
        "name": cluster.name,
        "device": cluster.device.name,
        "devices": cluster.devices,
        "levels": [
            {
                "name": level.name,
                "ranks": level.ranks,
                "fabric": level.fabric,
                "kind": level.kind,
                "bandwidth_bytes_per_s": level.bandwidth_bytes_per_s,
                "latency_s": level.latency_s,
                "nics": level.nics,
                "oversubscription": level.oversubscription,
            }
            for level in cluster.levels
        ],
        "assumed": [
            {"field": f"level[{i}].fabric", "value": level.fabric}
            for i, level in enumerate(cluster.levels)
            if level.assumed
        ],
    }


def stack_dict(stack: Stack) -> dict[str, Any]:
    """The stack's name and every switch, whatever group it is in."""
    first, *rest = switch_values(stack).items()
    table = {"name": stack.name, "title": stack.title, first[0]: first[1], "ideal": stack.ideal}
    found: dict[str, Any] = msgspec.to_builtins({**table, **dict(rest)})
    return found


def smallest_fit_dict(fit: SmallestFit, stack: Stack) -> dict[str, Any]:
    named = ("devices", "memory_bytes", "step_s", "within_cluster")
    return {
        **fit.layout.record(stack.overlaps.overlap),
        **{key: getattr(fit, key) for key in named},
    }


def scaling_dict(s: Scaling) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "model": s.model.name,
        "cluster": cluster_dict(s.cluster),
        "workload": workload_dict(s.workload),
        "formats": widths(s.model, s.workload, s.stack)._asdict(),
        "stack": stack_dict(s.stack),
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
        "verdict": words.verdict(s),
    }


def report_dict(r: Report) -> dict[str, Any]:
    e = r.estimate
    lay = e.layout
    return {
        "schema": SCHEMA,
        "model": e.model.name,
        "cluster": cluster_dict(e.cluster),
        "workload": workload_dict(e.workload),
        "formats": e.program.ctx.widths._asdict(),
        "stack": stack_dict(e.stack),
        "layout": lay.at(0).record(
            e.stack.overlaps.overlap, micro_batch=int(e.program.ctx.sequences)
        ),
        "devices": r.devices,
        **{
            k: getattr(r, k)
            for k in (
                "step_s",
                "step_low_s",
                "step_high_s",
                "compute_s",
                "comm_s",
                "exposed_comm_s",
                "bubble_s",
                "host_s",
                "wire_bytes",
                "payload_bytes",
                "comm_share",
                "ccr",
                "mfu",
                "hfu",
                "tokens_per_s_per_device",
                "memory_bytes",
                "fits",
                "memory",
                "loss_bytes",
            )
        },
        "straggler_s": float(e.straggler_s),
        "launch_s": float(e.launch_s),
        "memory_limit_bytes": e.memory_limit_bytes,
        "communication": [row._asdict() for row in r.communication],
        "provenance": {str(source): share for source, share in r.provenance.items()},
        "extrapolated": any(source.beyond_measurement for source in r.provenance),
        "remarks": [
            *remarks(e.model, e.cluster, e.workload, e.stack, int(lay.tp), int(lay.expert_tp())),
            *r.remarks,
        ],
    }


def explain_dict(r: Report) -> dict[str, Any]:
    head = report_dict(r)
    return {
        **{
            k: head[k]
            for k in ("schema", "model", "cluster", "workload", "stack", "layout", "step_s")
        },
        "remarks": head["remarks"],
        "operations": [
            {("count" if k == "calls" else k): v for k, v in op._asdict().items()}
            for op in r.operations
        ],
    }


def model_dict(model: Model, weight_bytes: dict[str, float]) -> dict[str, Any]:
    attentions = [b.attention for b in model.blocks if b.attention is not None]
    moes = [b.moe for b in model.blocks if b.moe is not None]
    top = legality.max_heads(model)
    legal = legality.legal_tp(model, None)
    shown = sorted(
        {tp for tp in (*legal, *_powers(top), *legality.head_divisors(model)) if tp <= top}
    )
    return {
        "schema": SCHEMA,
        "name": model.name,
        "model_type": model.model_type,
        "parameters": parameters(model),
        "active_parameters": parameters(model, active=True),
        "layers": model.layers,
        "hidden": model.hidden,
        "heads": max((a.heads for a in attentions), default=0),
        "kv_heads": max((a.kv_heads for a in attentions), default=0),
        "head_dim": max((a.head_dim for a in attentions), default=0),
        "vocab": model.vocab,
        "max_positions": model.max_positions,
        "dtype": model.dtype,
        "quantization": msgspec.to_builtins(model.quantization),
        "experts": max((m.experts for m in moes), default=0),
        "experts_per_token": max((m.top_k for m in moes), default=0),
        "weight_bytes": weight_bytes,
        "legal_tp": legal,
        "tp_dividing_heads": legality.head_divisors(model),
        "max_tp_without_kv_copies": max(
            (tp for tp in legal if all(a.mla or a.kv_heads % tp == 0 for a in attentions)),
            default=1,
        ),
        "refused_tp": [
            {"tp": tp, "reasons": [f.text for f in legality.refusals(model, tp, None)]}
            for tp in shown
            if tp not in legal
        ],
        "remarks": [
            {"tp": tp, "remarks": found}
            for tp in legal
            if (found := legality.remarks(model, tp, None))
        ],
        "kinds": [
            {"layers": n, "block": msgspec.to_builtins(b)}
            for b, n in zip(model.blocks, model.kind_counts(), strict=True)
        ],
    }


def _powers(top: int) -> list[int]:
    return [1 << i for i in range(top.bit_length())]


def collective_dict(
    op: str,
    payload: float,
    ranks: int,
    cluster: Cluster,
    candidates: list[Candidate],
    factor: float,
    interval: Callable[[float], tuple[float, float]],
) -> dict[str, Any]:
    legal = (c for c in candidates if float(c.seconds) != float("inf"))
    usable = sorted(legal, key=lambda c: float(c.seconds))
    if ranks == 1:
        usable = [usable[0]._replace(algorithm="none")]
    best = usable[0]
    seconds = float(best.seconds)
    low, high = interval(seconds)

    def rates(time_s: float) -> dict[str, float | None]:
        algbw = payload / time_s if time_s > 0 else None
        return {
            "algbw_bytes_per_s": algbw,
            "busbw_bytes_per_s": algbw * factor if algbw is not None else None,
        }

    return {
        "schema": SCHEMA,
        "op": op,
        "bytes": payload,
        "ranks": ranks,
        "cluster": cluster_dict(cluster),
        "time_s": seconds,
        "time_low_s": low,
        "time_high_s": high,
        **rates(seconds),
        "algorithm": best.algorithm,
        "wire_bytes": [float(w) for w in best.wire_bytes],
        "candidates": [
            {
                "algorithm": c.algorithm,
                "time_s": float(c.seconds),
                **rates(float(c.seconds)),
                "wire_bytes": [float(w) for w in c.wire_bytes],
            }
            for c in usable
        ],
        "remarks": [cluster.asked] if cluster.asked else [],
    }
