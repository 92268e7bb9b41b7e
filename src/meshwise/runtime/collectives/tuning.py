"""Which of two algorithms is faster here, found out by trying both."""

from __future__ import annotations

import statistics
import time

import torch
import torch.distributed as dist

from meshwise.runtime.collectives import hierarchy
from meshwise.runtime.collectives.peers import Peers

TRIES = 3  # of each algorithm, after a first one


def faster(peers: Peers, nbytes: int, device: torch.device, chunks: int) -> str:
    """``hierarchical`` or ``backend`` for an all-reduce of a size; the same verdict on all ranks."""
    x = torch.zeros(max(nbytes // 4, 1), device=device)
    seconds: dict[str, list[float]] = {"backend": [], "hierarchical": []}
    for turn in range(TRIES + 1):
        for name, found in seconds.items():
            begin = time.perf_counter()
            if name == "backend":
                dist.all_reduce(x, group=peers.group)
            else:
                hierarchy.hierarchical_all_reduce(x, peers, chunks)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                found.append(time.perf_counter() - begin)
    medians = [statistics.median(found) for found in seconds.values()]
    both = torch.tensor(medians, dtype=torch.float64, device=device)
    dist.all_reduce(both, group=peers.group)
    return "hierarchical" if float(both[1]) < float(both[0]) else "backend"
