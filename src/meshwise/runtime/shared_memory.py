"""All-reduce inside a host through memory that its processes map: the CPU twin of the custom kernels
of serving engines.

A rank writes what it adds into a slot of its own (a product may write it there directly), raises a
flag, waits for the others' flags and adds their slots. Plain loads and stores suffice on x86-64, which
keeps the order of stores (Intel SDM vol. 3A, section 8.2.2). A slot is written again only when all
ranks have read it, which is what the number of slots buys.
"""

from __future__ import annotations

import mmap
import os
import platform
import secrets
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from meshwise.runtime.peers import Peers, timeout

FOLDER = "/dev/shm"
LINE = 64  # bytes that a core takes at once: flags of two ranks never share them
SPIN_S = 2e-4  # before the processor is offered to others
TWO_SHOT_FROM = 1 << 16  # bytes from which more than two ranks add a part each
_KINDS = ("published", "summed", "done")


class SharedMemory:
    """``slots`` slots of ``slot_bytes`` for each rank of ``peers``; made by all of them together.

    Raises OSError on every rank where the memory cannot be had.
    """

    def __init__(self, peers: Peers, slot_bytes: int, slots: int = 2) -> None:
        self.peers, self.slots = peers, slots
        self.slot_bytes = -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        n = peers.size
        flags = -(-len(_KINDS) * n * LINE // mmap.PAGESIZE) * mmap.PAGESIZE
        self._flag_bytes = flags
        self._map = _mapped(peers, flags + n * slots * self.slot_bytes)
        words = np.frombuffer(self._map, dtype=np.int64, count=flags // 8)
        rows = words[: len(_KINDS) * n * LINE // 8].reshape(len(_KINDS), n, LINE // 8)
        self._published, self._summed, self._done = (rows[i, :, 0] for i in range(len(_KINDS)))
        self._pids = rows[0, :, 1]
        self._pids[peers.rank] = os.getpid()
        self._memory = torch.frombuffer(self._map, dtype=torch.uint8)
        self._others = [r for r in range(n) if r != peers.rank]
        self._begun = self._finished = 0  # all operations before these have
        self._sums = 0  # counted apart: operations end in the same order everywhere, not in turn
        self._open: dict[int, tuple[tuple[int, ...], torch.dtype]] = {}
        self._writing: tuple[tuple[int, ...], torch.dtype] | None = None
        self._patience = timeout().total_seconds() if dist.is_initialized() else 60.0
        self._crowded = n > (os.cpu_count() or 1)

    @staticmethod
    def available(peers: Peers) -> str | None:
        """Why it cannot be used here; None where it can."""
        if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
            return "needs Linux on x86-64"
        if len(set(peers.nodes)) > 1:
            return "the ranks are on several nodes"
        if not Path(FOLDER).is_dir():
            return f"there is no {FOLDER}"
        return None

    def _slot(
        self, rank: int, operation: int, shape: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        size = dtype.itemsize
        for length in shape:
            size *= length
        place = rank * self.slots + operation % self.slots
        begin = self._flag_bytes + place * self.slot_bytes
        return self._memory[begin : begin + size].view(dtype).view(shape)

    def buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
        """This rank's next slot, to be filled and published; None where it is too small."""
        size = dtype.itemsize
        for length in shape:
            size *= length
        if size > self.slot_bytes:
            return None
        self._wait(self._done, self._begun - self.slots + 1, "to read a slot")
        self._writing = (tuple(shape), dtype)
        return self._slot(self.peers.rank, self._begun, *self._writing)

    def publish(self) -> int:
        """What :meth:`buffer` gave is filled; returns the operation's number."""
        assert self._writing is not None
        self._open[self._begun] = self._writing
        self._begun += 1
        self._published[self.peers.rank] = self._begun
        return self._begun - 1

    def finish(self, operation: int, out: Tensor | None = None) -> Tensor:
        """The sum of what the ranks published for an operation, in the order of the ranks: the same bits
        on all of them."""
        shape, dtype = self._open[operation]
        self._wait(self._published, operation + 1, "to fill a slot")
        parts = [self._slot(r, operation, shape, dtype) for r in range(self.peers.size)]
        if out is None:
            out = torch.empty(shape, dtype=dtype)
        if self.peers.size > 2 and out.nbytes >= TWO_SHOT_FROM and out.is_contiguous():
            self._in_parts([p.view(-1) for p in parts], out.view(-1))
        elif self.peers.size == 1:
            out.copy_(parts[0])
        else:
            torch.add(parts[0], parts[1], out=out)
            for part in parts[2:]:
                out.add_(part)
        del self._open[operation]
        self._finished = min(self._open, default=self._begun)
        self._done[self.peers.rank] = self._finished
        return out

    def _in_parts(self, slots: list[Tensor], out: Tensor) -> None:
        """Each rank adds its part of all slots, in its own slot, and reads the others' parts."""
        n, rank = self.peers.size, self.peers.rank
        split = [s.tensor_split(n) for s in slots]
        total = out.tensor_split(n)
        torch.add(split[0][rank], split[1][rank], out=total[rank])
        for r in range(2, n):
            total[rank].add_(split[r][rank])
        split[rank][rank].copy_(total[rank])
        self._sums += 1
        self._summed[rank] = self._sums
        self._wait(self._summed, self._sums, "to add its part")
        for r in self._others:
            total[r].copy_(split[r][r])

    def all_reduce(self, x: Tensor) -> Tensor:
        """In place; raises ValueError where ``x`` is larger than a slot."""
        slot = self.buffer(tuple(x.shape), x.dtype)
        if slot is None:
            raise ValueError(f"{x.nbytes} bytes do not fit in a slot of {self.slot_bytes}")
        slot.copy_(x)
        return self.finish(self.publish(), x)

    def _wait(self, flags: Any, least: int, what: str) -> None:
        """Until all other ranks' flags are at ``least``. Raises RuntimeError with the rank that is not,
        where its process has ended or the time is up."""
        for r in self._others:
            if flags[r] >= least:
                continue
            begin = time.monotonic()
            looked = begin
            while flags[r] < least:
                now = time.monotonic()
                if self._crowded or now - begin > SPIN_S:
                    os.sched_yield()
                if now - looked > 0.1:
                    looked = now
                    self._alive(r)
                    if now - begin > self._patience:
                        raise RuntimeError(
                            f"rank {self.peers.ranks[r]} did not come {what} in "
                            f"{self._patience:.0f} s (shared memory)"
                        )

    def _alive(self, rank: int) -> None:
        pid = int(self._pids[rank])
        try:
            if pid:
                os.kill(pid, 0)
        except ProcessLookupError:
            raise RuntimeError(f"rank {self.peers.ranks[rank]} has ended (shared memory)") from None


def _mapped(peers: Peers, size: int) -> mmap.mmap:
    """Memory that all members map. Its file has no name as soon as they have: nothing is left of it
    when they end, whatever ends them."""
    said: list[Any] = [None]
    if peers.rank == 0:
        path = f"{FOLDER}/meshwise-{os.getpid()}-{secrets.token_hex(8)}"
        said = [_made(path, size)]
    dist.broadcast_object_list(said, src=peers.ranks[0], group=peers.group)
    path, error = said[0]
    if error:
        raise OSError(f"{size} bytes of shared memory: {error}")
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        found = mmap.mmap(handle, size)
        os.close(handle)
        dist.barrier(group=peers.group)
    finally:
        if peers.rank == 0:
            Path(path).unlink(missing_ok=True)
    return found


def _made(path: str, size: int) -> tuple[str, str]:
    """(path, what went wrong). The pages are taken now: a full /dev/shm says so here, not by a signal."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        return path, os.strerror(error.errno or 0)
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        Path(path).unlink(missing_ok=True)
        return path, os.strerror(error.errno or 0)
    finally:
        os.close(handle)
    return path, ""
