"""All-reduce inside a host through memory that its processes map: the CPU twin of the custom kernels
of serving engines.

A rank writes what it adds into a slot of its own (a product may write it there directly), raises a
flag, waits for the others' flags and adds their slots. Plain loads and stores suffice on x86-64, which
keeps the order of stores (Intel SDM vol. 3A, section 8.2.2); streaming stores, which do not keep it,
are drained by the locked instructions of torch's reference counts before a flag goes up. A slot is
written again only when all ranks have read it, which is what the number of slots buys.
"""

from __future__ import annotations

import math
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

from meshwise.runtime.collectives.peers import Peers, timeout
from meshwise.runtime.ranks.watch import PeerLost

FOLDER = "/dev/shm"
LINE = 64  # bytes that a core takes at once: flags of two ranks never share them
LOOK_S = 0.1  # between looks at whether a late rank still lives
TWO_SHOT_FROM = 1 << 16  # bytes from which more than two ranks add a part each
_PIECE_BYTES = 1 << 20  # bytes of a slot that stay in a cache between the writer and its reader
_KINDS = ("published", "summed", "done")


class SharedMemory:
    """``slots`` slots of ``slot_bytes`` for each rank of ``peers``; made by all of them together.

    A rank that does not come within ``timeout_s`` (None: the process group's) or that has ended is a
    PeerLost on those that wait for it. Raises OSError on every rank where one cannot have the
    memory.
    """

    def __init__(
        self, peers: Peers, slot_bytes: int, slots: int = 2, timeout_s: float | None = None
    ) -> None:
        self.peers, self.slots = peers, slots
        self.slot_bytes = -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        n = peers.size
        flags = -(-len(_KINDS) * n * LINE // mmap.PAGESIZE) * mmap.PAGESIZE
        self._flag_bytes = flags
        self._map = _mapped(peers, flags + n * slots * self.slot_bytes)
        words = np.frombuffer(self._map, dtype=np.int64, count=flags // 8)
        rows = words[: len(_KINDS) * n * LINE // 8].reshape(len(_KINDS), n, LINE // 8)
        self._published, self._summed, self._done = (rows[i, :, 0] for i in range(len(_KINDS)))
        self._pids, self._spaces = rows[0, :, 1], rows[0, :, 2]
        self._spaces[peers.rank] = _pid_namespace()
        self._pids[peers.rank] = os.getpid()
        self._memory = torch.frombuffer(self._map, dtype=torch.uint8)
        self._others = [r for r in range(n) if r != peers.rank]
        self._begun = self._finished = 0  # all operations before these have
        self._sums = 0  # counted apart: operations end in the same order everywhere, not in turn
        self._open: dict[int, tuple[tuple[int, ...], torch.dtype]] = {}
        self._writing: tuple[tuple[int, ...], torch.dtype] | None = None
        if timeout_s is None and n > 1:
            timeout_s = timeout().total_seconds()
        self._patience = timeout_s or 0.0  # alone, nobody is waited for

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
        size = math.prod(shape) * dtype.itemsize
        place = rank * self.slots + operation % self.slots
        begin = self._flag_bytes + place * self.slot_bytes
        return self._memory[begin : begin + size].view(dtype).view(shape)

    def buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """This rank's next slot, to be filled and published. Raises ValueError where it is too small."""
        self._fits(math.prod(shape) * dtype.itemsize)
        self._wait(self._done, self._begun - self.slots + 1, "to read a slot")
        self._writing = (tuple(shape), dtype)
        return self._slot(self.peers.rank, self._begun, *self._writing)

    def _fits(self, size: int) -> None:
        if size > self.slot_bytes:
            raise ValueError(f"{size} bytes do not fit in a slot of {self.slot_bytes}")

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
        parts = self.filled(operation)
        if out is None:
            out = torch.empty_like(parts[0])
        if self.peers.size > 2 and out.nbytes >= TWO_SHOT_FROM and out.is_contiguous():
            self._in_parts([p.view(-1) for p in parts], out.view(-1))
        elif self.peers.size == 1:
            out.copy_(parts[0])
        else:
            torch.add(parts[0], parts[1], out=out)
            for part in parts[2:]:
                out.add_(part)
        self.read(operation)
        return out

    def filled(self, operation: int) -> list[Tensor]:
        """Every rank's slot of an operation, when all have filled it; then :meth:`read`."""
        self._wait(self._published, operation + 1, "to fill a slot")
        shape, dtype = self._open[operation]
        return [self._slot(r, operation, shape, dtype) for r in range(self.peers.size)]

    def read(self, operation: int) -> None:
        """This rank needs the slots of an operation no more."""
        del self._open[operation]
        self._finished = min(self._open, default=self._begun)
        self._done[self.peers.rank] = self._finished

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
        """In place; raises ValueError where ``x`` is larger than a slot. A large one goes in pieces, one
        of them added while the next is written."""
        self._fits(x.nbytes)
        pieces: tuple[Tensor, ...] = (x,)
        # operations in flight may hold all slots but one
        if x.nbytes > _PIECE_BYTES and x.is_contiguous() and self.slots > 1 and not self._open:
            pieces = x.view(-1).split(_PIECE_BYTES // x.element_size())
        sent: list[tuple[int, Tensor]] = []
        for piece in pieces:
            slot = self.buffer(tuple(piece.shape), x.dtype)
            slot.copy_(piece)
            sent.append((self.publish(), piece))
            if len(sent) > 1:
                self.finish(*sent.pop(0))
        self.finish(*sent.pop())
        return x

    def _wait(self, flags: Any, least: int, what: str) -> None:
        """Until all other ranks' flags are at ``least``. Raises PeerLost with the rank that is not,
        where its process has ended or the time is up."""
        for r in self._others:
            if flags[r] >= least:
                continue
            begin = time.monotonic()
            looked = begin
            while flags[r] < least:
                os.sched_yield()  # at once: whoever is waited for may have no other processor
                now = time.monotonic()
                if now - looked > min(LOOK_S, self._patience):
                    looked = now
                    self._alive(r)
                    if now - begin > self._patience:
                        raise PeerLost(
                            f"rank {self.peers.ranks[r]} did not come {what} in "
                            f"{self._patience:g} s (shared memory)"
                        )

    def _alive(self, rank: int) -> None:
        pid = int(self._pids[rank])
        if pid and int(self._spaces[rank]) == _pid_namespace() and _ended(pid):
            raise PeerLost(f"rank {self.peers.ranks[rank]} has ended (shared memory)")


def _pid_namespace() -> int:
    """Where process ids mean the same: ranks in containers may share memory and not these."""
    return Path("/proc/self/ns/pid").stat().st_ino


def _ended(pid: int) -> bool:
    """Gone, or a zombie that its parent has not asked about yet (proc(5))."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def _mapped(peers: Peers, size: int) -> mmap.mmap:
    """Memory that all members map. Its file has no name as soon as they have: nothing is left of it
    when they end, whatever ends them."""
    said: list[Any] = [None]
    if peers.rank == 0:
        path = f"{FOLDER}/meshwise-{os.getpid()}-{secrets.token_hex(8)}"
        said = [(path, _made(path, size))]
    found: mmap.mmap | None = None
    try:
        if peers.size > 1:
            dist.broadcast_object_list(said, src=peers.ranks[0], group=peers.group)
        path, error = said[0]
        if not error:
            found, error = _opened(path, size)
        errors = [error]
        if peers.size > 1:
            errors = [""] * peers.size
            dist.all_gather_object(errors, error, group=peers.group)
    finally:
        if peers.rank == 0:
            Path(said[0][0]).unlink(missing_ok=True)
    for rank, error in zip(peers.ranks, errors, strict=True):
        if error:
            raise OSError(f"{size} bytes of shared memory on rank {rank}: {error}")
    assert found is not None
    return found


def _opened(path: str, size: int) -> tuple[mmap.mmap | None, str]:
    """(the mapping, what went wrong): a rank in another container may not see the file."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return mmap.mmap(handle, size), ""
        finally:
            os.close(handle)
    except OSError as error:
        return None, os.strerror(error.errno or 0)


def _made(path: str, size: int) -> str:
    """What went wrong. The pages are taken now: a full /dev/shm says so here, not by a signal."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        return os.strerror(error.errno or 0)
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        return os.strerror(error.errno or 0)
    finally:
        os.close(handle)
    return ""
