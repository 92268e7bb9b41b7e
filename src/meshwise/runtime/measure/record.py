"""What the ranks of a run did, put together as the documented record."""

from __future__ import annotations

import math
import os
import platform
import resource
import statistics
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from meshwise.runtime.measure.ledger import CollectiveCall, Ledger
from meshwise.runtime.mesh.mesh import Mesh

_CallKey = tuple[str, str, str, str]  # of collectives: name, kind, axis, phase


def of_rank(
    ledger: Ledger, steps: int, sent: dict[int, int], device: torch.device, losses: list[float]
) -> dict[str, Any]:
    """What this rank did, per step of the ``steps`` that its ledger has; ``sent``: bytes to other ranks."""
    return {
        "rank": dist.get_rank(),
        "compute": [
            [name, phase, calls / steps, ledger.scope_s[name, phase] / steps]
            for (name, phase), calls in ledger.scopes.items()
        ],
        "collectives": [
            [
                list(call),
                calls / steps,
                ledger.call_s[call] / steps if call in ledger.call_s else None,
            ]
            for call, calls in ledger.calls.items()
        ],
        "sent_bytes": [[to, size / steps] for to, size in sorted(sent.items()) if size],
        "peak_memory_bytes": _peak(device),
        "losses": losses,
    }


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def record(
    place: Mesh,
    tokens: int,
    seconds: list[float],
    apart: list[float],
    ranks: list[dict[str, Any]],
    micro: dict[str, Any] | None,
) -> dict[str, Any]:
    """The documented record. Operations are the mean over the ranks that have them; of collectives that
    differ in payload alone, the largest is shown."""
    detailed = statistics.median(apart)
    step = statistics.median(seconds)
    # compute and collectives of every rank, by operation
    compute: dict[tuple[str, str], list[tuple[float, float]]] = {}
    calls: dict[_CallKey, list[tuple[float, float | None]]] = {}
    largest: dict[_CallKey, CollectiveCall] = {}
    shares, left = [], []
    for rank in ranks:
        tp = [s for call, _, s in rank["collectives"] if CollectiveCall(*call).axis in ("tp", "kv")]
        waited = sum(s for s in tp if s is not None)
        shares.append(waited / detailed)
        left.append(detailed - waited - sum(s for *_, s in rank["compute"]))
        for name, phase, n, s in rank["compute"]:
            compute.setdefault((name, phase), []).append((n, s))
        own: dict[_CallKey, tuple[float, float | None]] = {}
        for fields, n, s in rank["collectives"]:
            call = CollectiveCall(*fields)
            row = call.name, call.kind, call.axis, call.phase
            if row not in largest or call.payload_bytes > largest[row].payload_bytes:
                largest[row] = call
            before = own.get(row, (0.0, None))
            own[row] = before[0] + n, before[1] if s is None else (before[1] or 0.0) + s
        for row, found in own.items():
            calls.setdefault(row, []).append(found)
    # what one rank alone has
    losses: list[float] = next((r["losses"] for r in ranks if r["losses"]), [])
    ttft, tpot = ranks[0]["ttft_s"], ranks[0]["tpot_s"]
    return {
        "step_s": step,
        "steps_s": seconds,
        "tokens_per_s": tokens / step,
        "comm_share": statistics.fmean(shares),
        "unattributed_s": statistics.fmean(left),
        "detailed_step_s": detailed,
        "losses": [x if math.isfinite(x) else None for x in losses],
        "ttft_s": statistics.median(ttft) if ttft else None,
        "tpot_s": statistics.median(tpot) if tpot else None,
        "peak_memory_bytes": [r["peak_memory_bytes"] for r in ranks],
        "compute": [
            {"name": name, "phase": phase, "calls": _mean(found, 0), "time_s": _mean(found, 1)}
            for (name, phase), found in compute.items()
        ],
        "collectives": [
            {**largest[row]._asdict(), "calls": _mean(every, 0), "time_s": _mean(every, 1)}
            for row, every in calls.items()
        ],
        "links": [
            {"rank": r["rank"], "to": to, "sent_bytes": size}
            for r in ranks
            for to, size in r["sent_bytes"]
        ],
        "host": micro,
        "machine": {
            "device": _device_name(place.device),
            "backend": str(dist.get_backend()),
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "nodes": len(set(place.tp.nodes)),
        },
    }


def _mean(found: Sequence[tuple[float, float | None]], at: int) -> float | None:
    """None where nothing was measured: torch's own waits."""
    known = [value for value in (pair[at] for pair in found) if value is not None]
    return statistics.fmean(known) if known else None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
