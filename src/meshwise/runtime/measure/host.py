"""What this machine does per second, in a second: products, a copy, the group's all-reduce.

All ranks measure at the same time, as they will compute at the same time. The prediction beside a run
takes these figures and nothing of the run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from meshwise.runtime.collectives.group import TPGroup
from meshwise.runtime.collectives.peers import Peers
from meshwise.runtime.options import Options
from meshwise.runtime.ranks import watch

PRODUCTS = ((256, 1024, 1024), (512, 1024, 1024), (1024, 1024, 1024), (512, 2048, 1024))
COPY_BYTES = 1 << 25
REDUCED_BYTES = (1 << 14, 1 << 18, 1 << 20, 1 << 22)
REPEATS = 7


def measure(
    peers: Peers, kind: torch.dtype, device: torch.device, options: Options
) -> dict[str, Any]:
    """FLOP/s of products of ``kind``, bytes/s of a copy (read and written), and seconds of an
    all-reduce by bytes, as this group's options do it; the same on every rank."""
    scale = 8 if device.type == "cuda" else 1
    rates = []
    for m, n, k in PRODUCTS:
        a = torch.randn(m * scale, k, device=device).to(kind)
        b = torch.randn(n * scale, k, device=device).to(kind)
        seconds = _median(lambda a=a, b=b: torch.mm(a, b.t()), device)  # type: ignore[misc]
        rates.append(2.0 * m * scale * n * scale * k / seconds)
    x = torch.zeros(COPY_BYTES // 4, device=device)
    y = torch.empty_like(x)
    copied = _median(lambda: y.copy_(x), device)
    reduced = []
    if peers.size > 1:
        group = TPGroup(peers, options)
        for size in REDUCED_BYTES:
            x = torch.zeros(size // 4, device=device)
            reduced.append([size, _median(lambda x=x: _reduce(group, x), device)])  # type: ignore[misc]
        group.close()
    found = [statistics.median(rates), 2.0 * COPY_BYTES / copied, *(s for _, s in reduced)]
    mean = torch.tensor(found, dtype=torch.float64, device=device)
    dist.all_reduce(mean)
    flops, copy, *times = (float(v) / dist.get_world_size() for v in mean)
    return {
        "ranks": peers.size,
        "flops_per_s": flops,
        "memory_bytes_per_s": copy,
        "all_reduce": [
            {"bytes": size, "time_s": t} for (size, _), t in zip(reduced, times, strict=True)
        ],
    }


def _reduce(group: TPGroup, x: torch.Tensor) -> None:
    pending = group.reduction(tuple(x.shape), x, "host", "forward")
    pending.tensor.copy_(x)
    pending.start()
    pending.result()


def _median(call: Callable[[], Any], device: torch.device) -> float:
    seconds = []
    for _ in range(REPEATS + 2):
        with watch.waiting("the measurement of the host"):
            dist.barrier()
        begin = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[2:])
