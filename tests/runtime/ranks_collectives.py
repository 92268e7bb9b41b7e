"""What a rank does in the tests of collectives: one of them, beside the exact sum and the backend's."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.runtime import exact

from meshwise.runtime.collectives import hierarchy, p2p, quantised, shared_memory
from meshwise.runtime.collectives.peers import Peers
from meshwise.runtime.collectives.shared_memory import SharedMemory


def values(shape: Any, dtype: str, rank: int, seed: int = 0) -> torch.Tensor:
    """What a rank adds; every rank can make that of every other."""
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(getattr(torch, dtype))


def digest(x: torch.Tensor) -> str:
    return hashlib.sha256(x.contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def errors(got: torch.Tensor, given: list[torch.Tensor]) -> tuple[float, float]:
    """(relative norm of the error, largest error of an element over the sum of magnitudes there)."""
    want = torch.stack([g.double() for g in given]).sum(0)
    size = torch.stack([g.double().abs() for g in given]).sum(0)
    off = (got.double() - want).abs()
    norm = float(off.norm() / want.norm()) if want.numel() else 0.0
    return norm, float((off / size).max()) if off.numel() else 0.0


def _sent(peers: Peers) -> dict[int, int]:
    return dict(peers.sent)


def _difference(after: dict[int, int], before: dict[int, int]) -> dict[int, int]:
    return {r: after[r] - before[r] for r in after if after[r] != before[r]}


def reduced(
    how: str, size: int, two_nodes: bool, shape: Any, dtype: str, more: dict[str, Any]
) -> dict[str, Any]:
    """An all-reduce: its errors, the backend's, a digest of the result, what was sent to whom."""
    peers = exact.peers(size, two_nodes)
    given = [values(shape, dtype, r) for r in peers.ranks]
    x = given[peers.rank].clone()
    parts = [peers, *(p for p in (peers.local, peers.across) if p is not None)]
    before = [_sent(p) for p in parts]
    if how == "ring":
        p2p.ring_all_reduce(x, peers)
    elif how == "hierarchical":
        hierarchy.hierarchical_all_reduce(x, peers, **more)
    else:
        quantised.quantised_all_reduce(x, peers, how, **more)
    sent = [_difference(_sent(p), b) for p, b in zip(parts, before, strict=True)]
    theirs = given[peers.rank].clone()
    dist.all_reduce(theirs, group=peers.group)
    norm, element = errors(x, given)
    return {
        "rank": peers.rank,
        "norm": norm,
        "element": element,
        "backend": errors(theirs, given)[0],
        "digest": digest(x),
        "sent": sent,
        "ranks": peers.ranks,
    }


def sharded(
    kind: str, size: int, outer: int, rows: int, dtype: str, form: str | None
) -> dict[str, Any]:
    """A reduce-scatter or an all-gather of (outer, rows, 3) per rank."""
    peers = exact.peers(size)
    before = _sent(peers)
    if kind == "reduce_scatter":
        given = [values((outer, size, rows, 3), dtype, r) for r in peers.ranks]
        x, out = given[peers.rank], torch.empty((outer, rows, 3), dtype=given[0].dtype)
        if form is None:
            p2p.finish(p2p.direct_reduce_scatter(out, x, peers))
        else:
            p2p.finish(quantised.quantised_reduce_scatter(out, x, peers, form))
        norm, element = errors(out, [g[:, peers.rank] for g in given])
    else:
        given = [values((outer, rows, 3), dtype, r) for r in peers.ranks]
        out = torch.empty((outer, size, rows, 3), dtype=given[0].dtype)
        if form is None:
            p2p.finish(p2p.direct_all_gather(out, given[peers.rank], peers))
        else:
            p2p.finish(quantised.quantised_all_gather(out, given[peers.rank], peers, form))
        norm, element = errors(out, [torch.stack(given, 1)])
    return {
        "norm": norm,
        "element": element,
        "digest": digest(out),
        "sent": _difference(_sent(peers), before),
        "rank": peers.rank,
        "bytes": given[0].nbytes,
    }


def poisoned(how: str, two_nodes: bool, value: float) -> list[list[int]]:
    """Where the sum is no finite number, when rank 1 adds ``value`` at 300 of 1000 zeros."""
    peers = exact.peers(4, two_nodes)
    x = torch.zeros(1000)
    if peers.rank == 1:
        x[300] = value
    quantised.quantised_all_reduce(x, peers, how)
    return (~x.isfinite()).nonzero().view(-1).tolist()


def refused() -> list[str]:
    """The messages of what cannot be done; said before anything is sent."""
    peers = exact.peers(4)
    wrong = torch.randn(6, 4).t()
    calls = [
        lambda: p2p.ring_all_reduce(wrong, peers),
        lambda: hierarchy.hierarchical_all_reduce(wrong, exact.peers(4, True)),
        lambda: quantised.quantised_all_reduce(wrong, peers, "int8"),
        lambda: hierarchy.hierarchical_all_reduce(torch.ones(8), peers),
        lambda: p2p.finish(p2p.direct_reduce_scatter(torch.empty(1, 2), torch.empty(1, 9), peers)),
        lambda: p2p.finish(p2p.direct_all_gather(torch.empty(1, 9), torch.empty(1, 2), peers)),
        lambda: p2p.finish(
            quantised.quantised_all_gather(torch.empty(1, 9), torch.empty(1, 2), peers, "int8")
        ),
        lambda: quantised.quantised_all_reduce(torch.ones(8), peers, "e4m4"),
    ]
    said = []
    for call in calls:
        try:
            call()
        except ValueError as error:
            said.append(str(error))
    return said


# -- shared memory -------------------------------------------------------------------------------

_SHARED: dict[tuple[int, int, int], SharedMemory] = {}


def shared(size: int, slot_bytes: int = 1 << 22, slots: int = 2) -> SharedMemory:
    key = size, slot_bytes, slots
    if key not in _SHARED:
        _SHARED[key] = SharedMemory(exact.peers(size), slot_bytes, slots)
    return _SHARED[key]


def reduced_in_memory(size: int, shape: Any, dtype: str, direct: bool) -> dict[str, Any]:
    """``direct``: written into the slot, the sum in a new tensor; else copied there, in place."""
    memory = shared(size)
    peers = memory.peers
    given = [values(shape, dtype, r) for r in peers.ranks]
    if direct:
        slot = memory.buffer(tuple(shape), given[0].dtype)
        assert slot is not None
        slot.copy_(given[peers.rank])
        x = memory.finish(memory.publish())
    else:
        x = given[peers.rank].clone()
        memory.all_reduce(x)
    theirs = given[peers.rank].clone()
    dist.all_reduce(theirs, group=peers.group)
    norm, element = errors(x, given)
    return {
        "norm": norm,
        "element": element,
        "backend": errors(theirs, given)[0],
        "digest": digest(x),
        "ranks": peers.ranks,
        "left": left_in_dev_shm(os.getpid()),
    }


def product_into_slot(size: int) -> float:
    """A row-parallel product written where the others read it, against the whole in fp64."""
    memory = shared(size)
    peers = memory.peers
    a, b = values((24, 32 * size), "float32", 100), values((32 * size, 40), "float32", 101)
    own = slice(32 * peers.rank, 32 * (peers.rank + 1))
    slot = memory.buffer((24, 40), torch.float32)
    assert slot is not None
    torch.mm(a[:, own], b[own], out=slot)
    got = memory.finish(memory.publish())
    want = a.double() @ b.double()
    return float((got.double() - want).norm() / want.norm())


def many_in_flight(size: int, slots: int, ahead: int, times: int) -> list[int]:
    """The operations that came out wrong, of ``times`` with up to ``ahead`` unfinished ones, while ranks
    dawdle at different places."""
    memory = shared(size, 1 << 16, slots)
    rank, n = memory.peers.rank, memory.peers.size
    wrong, running = [], []

    def finish() -> None:
        i, operation = running.pop(0)
        out = memory.finish(operation)
        if not torch.equal(out, torch.full((1 + i % 7, 33), float(n * i + n * (n - 1) // 2))):
            wrong.append(i)

    for i in range(times):
        slot = memory.buffer((1 + i % 7, 33), torch.float32)
        assert slot is not None
        slot.fill_(i + rank)
        if (i + 5 * rank) % 11 == 0:
            time.sleep(0.002)
        running.append((i, memory.publish()))
        if len(running) == ahead:
            finish()
        if (i + 3 * rank) % 13 == 0:
            time.sleep(0.002)
    while running:
        finish()
    return wrong


def in_reverse(size: int, times: int) -> list[int]:
    """The pairs of operations that came out wrong when the later one is finished first, and a rank takes
    its time before the other."""
    memory = shared(size, 1 << 16, 2)
    rank, n = memory.peers.rank, memory.peers.size
    wrong = []
    for i in range(times):
        running = []
        for j in (2 * i, 2 * i + 1):
            slot = memory.buffer((40,), torch.float32)
            assert slot is not None
            slot.fill_(j + rank)
            running.append((j, memory.publish()))
        for j, operation in reversed(running):
            if j == 2 * i and i % n == rank:
                time.sleep(0.003)
            want = torch.full((40,), float(n * j + n * (n - 1) // 2))
            if not torch.equal(memory.finish(operation), want):
                wrong.append(j)
    return wrong


def too_large() -> list[str]:
    memory = shared(2, 1 << 12)
    said = []
    for call in (
        lambda: memory.buffer((1025,), torch.float32),
        lambda: memory.buffer((4, 257), torch.float32),
        lambda: memory.all_reduce(torch.ones(1025)),
    ):
        try:
            call()
        except ValueError as error:
            said.append(str(error))
    return said


def memory_refused(slot_bytes: int, on_rank: int | None) -> tuple[str, list[str]]:
    """The error where the memory cannot be had: there is not so much, or ``on_rank`` cannot open it."""
    before = shared_memory._opened
    if dist.get_rank() == on_rank:
        shared_memory._opened = lambda path, size: (None, "no such file here")
    said = ""
    try:
        SharedMemory(exact.peers(4), slot_bytes)
    except OSError as error:
        said = str(error)
    finally:
        shared_memory._opened = before
    return said, left_in_dev_shm(os.getpid())


def left_in_dev_shm(pid: int) -> list[str]:
    """Files that a process made."""
    return [p.name for p in Path(shared_memory.FOLDER).glob(f"meshwise-{pid}-*")]


def why_not() -> list[Any]:
    """Whether it can be used: as the ranks are, over two nodes, on another processor."""
    found = [SharedMemory.available(exact.peers(4)), SharedMemory.available(exact.peers(4, True))]
    before = shared_memory.platform.machine
    shared_memory.platform.machine = lambda: "aarch64"
    try:
        return [*found, SharedMemory.available(exact.peers(4))]
    finally:
        shared_memory.platform.machine = before


def late(timeout_s: float) -> str:
    """What rank 0 says of rank 1, which stays away."""
    peers = exact.peers(2)
    memory = SharedMemory(peers, 1 << 12, timeout_s=timeout_s)
    said = ""
    if peers.rank == 0:
        try:
            memory.all_reduce(torch.ones(8))
        except RuntimeError as error:
            said = str(error)
    dist.barrier()
    return said


def wait_for_the_dead(rank: int, port: int, pipe: Any) -> None:
    """Two ranks of their own; rank 1 is killed between two all-reduces."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    memory = SharedMemory(Peers.of(), 1 << 16)
    x = torch.ones(100)
    memory.all_reduce(x)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    begin = time.monotonic()
    try:
        memory.all_reduce(x)
    except RuntimeError as error:
        pipe.send((float(x[0]), str(error), time.monotonic() - begin))
    os._exit(0)
