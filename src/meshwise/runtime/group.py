"""The tensor-parallel group: its collectives, each counted, each by the algorithm that its size asks for."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from meshwise.errors import InputError
from meshwise.runtime import hierarchy, p2p, quantised, watch
from meshwise.runtime.ledger import Call, Ledger
from meshwise.runtime.options import Options
from meshwise.runtime.peers import Peers
from meshwise.runtime.shared_memory import SharedMemory

SHARED = "shared_memory"
SLOTS = 4  # of shared memory: two halves of a split batch, each with one in flight and one written
LARGEST_SLOT = 1 << 25
TRIES = 3  # of each algorithm, after a first one


class Group:
    """A TP group as the layers see it. ``ledger`` has what it did; ``options`` how it does it.

    ``sequence`` and ``gathered_tokens`` are the state of the running forward pass: whether its
    hidden states are split by sequence.
    """

    def __init__(
        self, peers: Peers, options: Options, *, axis: str = "tp", ledger: Ledger | None = None
    ) -> None:
        self.peers, self.options, self.axis = peers, options, axis
        self.ledger = ledger if ledger is not None else Ledger()
        self.rank, self.size = peers.rank, peers.size
        self.sequence = False
        self.baton: Any = None  # who runs, while a batch is split in two
        self._shared: SharedMemory | None = None
        self._room: tuple[SharedMemory, Tensor] | None = None
        self._no_shared: str | None = None
        self._faster: dict[int, str] = {}

    # -- algorithms ------------------------------------------------------------------------------

    @cached_property
    def backend(self) -> str:
        return str(dist.get_backend(self.peers.group))

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="collectives")

    def algorithm(self, nbytes: int, device: torch.device) -> str:
        """What an all-reduce is done by: the option's choice, or by size and placement."""
        chosen = self.options.algorithm
        if chosen == "auto":
            if device.type == "cpu" and self._shared_memory(nbytes) is not None:
                return SHARED
            return self._tuned(nbytes, device) if hierarchy.worthwhile(self.peers) else "backend"
        if chosen == SHARED:
            usable = device.type == "cpu" and self._shared_memory(nbytes) is not None
            return chosen if usable else "backend"
        if chosen == "hierarchical" and not hierarchy.worthwhile(self.peers):
            return "backend"
        return chosen

    def _tuned(self, nbytes: int, device: torch.device) -> str:
        """The faster of the hierarchical algorithm and the backend's for a size, up to a factor of two:
        tried when first asked for, as the crossover depends on the network. All ranks ask alike."""
        known = nbytes.bit_length()
        if known not in self._faster:
            task = self._thread.submit(self._try_both, 1 << (known - 1), device)
            self._faster[known] = task.result()
        return self._faster[known]

    def _try_both(self, nbytes: int, device: torch.device) -> str:
        x = torch.zeros(max(nbytes // 4, 1), device=device)
        seconds: dict[str, list[float]] = {"backend": [], "hierarchical": []}
        for turn in range(TRIES + 1):
            for name, found in seconds.items():
                begin = time.perf_counter()
                if name == "backend":
                    dist.all_reduce(x, group=self.peers.group)
                else:
                    hierarchy.hierarchical_all_reduce(x, self.peers, self.options.chunks)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if turn:
                    found.append(time.perf_counter() - begin)
        both = torch.tensor(
            [statistics.median(found) for found in seconds.values()],
            dtype=torch.float64,
            device=device,
        )
        dist.all_reduce(both, group=self.peers.group)  # one verdict
        return "hierarchical" if float(both[1]) < float(both[0]) else "backend"

    def _shared_memory(self, nbytes: int) -> SharedMemory | None:
        """The mapped buffers, made when first asked for; None where they cannot be used."""
        if self._no_shared is not None or nbytes > LARGEST_SLOT or self.size == 1:
            return None
        if self._shared is None or nbytes > self._shared.slot_bytes:
            self._no_shared = SharedMemory.available(self.peers)
            if self._no_shared is None:
                slot = max(1 << 20, 1 << (nbytes - 1).bit_length())
                try:
                    self._shared = SharedMemory(self.peers, slot, SLOTS)
                except OSError as error:  # all ranks see it: the room is agreed on
                    self._shared, self._no_shared = None, str(error)
        return self._shared

    def close(self) -> None:
        """Let go of the shared buffers and stop the helper thread."""
        self._shared = None
        if "_thread" in self.__dict__:
            self._thread.shutdown(wait=False)

    # -- collectives -----------------------------------------------------------------------------

    def reduction(
        self,
        shape: tuple[int, ...],
        like: Tensor,
        name: str,
        phase: str,
        *,
        whole: int | None = None,
    ) -> Reduction:
        """An all-reduce whose input is still to be written: see :class:`Reduction`. ``whole`` is the
        payload to count where this is the first piece of one (0: a later piece)."""
        return Reduction(self, shape, like, name, phase, whole)

    def all_reduce(self, x: Tensor, name: str, phase: str, *, op: Any = None) -> Tensor:
        """The sum (or ``op``) of ``x`` over the ranks, in place; exact whatever ``comm_dtype``."""
        call = self._call(name, "all_reduce", x.nbytes, phase, "backend")
        with _Timed(self, call):
            self._in_turn(
                partial(dist.all_reduce, x, op or dist.ReduceOp.SUM, group=self.peers.group)
            )
        return x

    def _in_turn(self, call: Callable[[], Any]) -> None:
        """After what the helper thread was given before: all ranks then call in the same order."""
        if "_thread" in self.__dict__:
            self._thread.submit(call).result()
        else:
            call()

    def all_gather(
        self, x: Tensor, dim: int, name: str, phase: str, *, exact: bool = False
    ) -> Tensor:
        """Shards along ``dim`` (0 or 1) put together: (…, d, …) → (…, N·d, …); ``exact`` whatever
        ``comm_dtype``."""
        sent = x.nbytes * self.size if exact else self._sent(x) * self.size
        slot = self.room(tuple(x.shape), x)
        if slot is not None and self._room is not None:
            slot.copy_(x)
            return self._gathered(x, dim, self._call(name, "all_gather", sent, phase, SHARED))
        x = x.contiguous()
        out = x.new_empty((self.size * x.shape[0], *x.shape[1:]))
        call = self._call(name, "all_gather", sent, phase, self._plain(exact))
        with _Timed(self, call):
            if self._quantised(x) and not exact:
                form, group = self._format, self.options.scale_group
                do = partial(quantised.quantised_all_gather, out, x, self.peers, form, group)
            elif self.backend == "nccl":
                do = partial(dist.all_gather_into_tensor, out, x, group=self.peers.group)
            else:
                do = partial(p2p.all_gather, out, x, self.peers)
            self._in_turn(do)
        return out if dim == 0 else _ranks_inside(out, self.size)

    def reduce_scatter(self, x: Tensor, dim: int, name: str, phase: str) -> Tensor:
        """The sum over ranks, this rank's shard of it along ``dim`` (0 or 1). ``x`` may be what
        :meth:`room` gave."""
        if self._room is None or self._room[1] is not x:
            slot = self.room(tuple(x.shape), x)
            if slot is not None:
                slot.copy_(x)
        if self._room is not None:
            return self._scattered(
                x, dim, self._call(name, "reduce_scatter", self._sent(x), phase, SHARED)
            )
        x = x.contiguous() if dim == 0 else _ranks_outside(x, self.size)
        out = x.new_empty((x.shape[0] // self.size, *x.shape[1:]))
        call = self._call(name, "reduce_scatter", self._sent(x), phase, self._plain())
        with _Timed(self, call):
            if self._quantised(x):
                form, group = self._format, self.options.scale_group
                do = partial(quantised.quantised_reduce_scatter, out, x, self.peers, form, group)
            elif self.backend == "nccl":
                do = partial(dist.reduce_scatter_tensor, out, x, group=self.peers.group)
            else:
                do = partial(p2p.reduce_scatter, out, x, self.peers)
            self._in_turn(do)
        return out

    # -- through shared memory -------------------------------------------------------------------

    def room(self, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
        """Shared memory to write the input of a collective into; None where another algorithm sends
        it. The collective must be the next one of the group."""
        self._room = None
        if self.options.comm_dtype is not None or like.device.type != "cpu" or self.size == 1:
            return None
        if self.options.algorithm not in ("auto", SHARED):
            return None
        size = like.element_size()
        for n in shape:
            size *= n
        shared = self._shared_memory(size)
        slot = shared.buffer(shape, like.dtype) if shared is not None else None
        if shared is not None and slot is not None:
            self._room = shared, slot
        return slot

    def _gathered(self, x: Tensor, dim: int, call: Call) -> Tensor:
        assert self._room is not None
        shared, self._room = self._room[0], None
        operation = shared.publish()
        with _Timed(self, call):
            parts = shared.filled(operation)
            out = torch.cat(parts, dim)
            shared.read(operation)
        return out

    def _scattered(self, x: Tensor, dim: int, call: Call) -> Tensor:
        assert self._room is not None
        shared, self._room = self._room[0], None
        operation = shared.publish()
        with _Timed(self, call):
            d = x.shape[dim] // self.size
            parts = [p.narrow(dim, self.rank * d, d) for p in shared.filled(operation)]
            out = x.new_empty(parts[0].shape)
            torch.add(parts[0], parts[1], out=out)
            for part in parts[2:]:
                out.add_(part)
            shared.read(operation)
        return out

    # -- how they are counted --------------------------------------------------------------------

    def _plain(self, exact: bool = False) -> str:
        if self.options.comm_dtype not in (None, "bf16") and not exact:
            return self._format
        return "backend" if self.backend == "nccl" else "p2p"

    @property
    def _format(self) -> str:
        return str(self.options.comm_dtype)

    def _quantised(self, x: Tensor) -> bool:
        narrow = self.options.comm_dtype
        return narrow is not None and narrow != "bf16" and x.is_floating_point()

    def _sent(self, x: Tensor) -> int:
        """Payload bytes in the format that is sent; scales come on top."""
        narrow = self.options.comm_dtype
        if narrow is None or not x.is_floating_point():
            return x.nbytes
        return x.numel() * (2 if narrow == "bf16" else 1)

    def _call(self, name: str, kind: str, payload: int, phase: str, algorithm: str) -> Call:
        call = Call(name, kind, self.axis, self.size, payload, phase, algorithm)
        self.ledger.count(call)
        return call


class Reduction:
    """An all-reduce in three steps, so that a product writes where it is sent from and other work
    runs meanwhile: fill ``tensor``, ``start()``, ``result()``."""

    def __init__(
        self,
        group: Group,
        shape: tuple[int, ...],
        like: Tensor,
        name: str,
        phase: str,
        whole: int | None = None,
    ) -> None:
        self.group = group
        self._pending: Any = None
        self._shared: SharedMemory | None = None
        self._name, self._phase, self._whole = name, phase, whole
        size = like.new_empty(0).element_size()
        for n in shape:
            size *= n
        self.algorithm = group.options.comm_dtype or group.algorithm(size, like.device)
        slot = None
        if self.algorithm == SHARED:
            # kept: the group may have a larger one before this reduction ends
            self._shared = group._shared_memory(size)
            assert self._shared is not None
            slot = self._shared.buffer(shape, like.dtype)
            if slot is None:
                self.algorithm = "backend"
        self.tensor = slot if slot is not None else like.new_empty(shape)
        self._call: Call | None = None

    def start(self) -> None:
        group, x = self.group, self.tensor
        payload = group._sent(x) if self._whole is None else self._whole
        self._call = Call(
            self._name, "all_reduce", group.axis, group.size, payload, self._phase, self.algorithm
        )
        if payload:
            group.ledger.count(self._call)
        begin = group.ledger.now()
        if self.algorithm == SHARED:
            assert self._shared is not None
            self._pending = self._shared.publish()
        elif self.algorithm == "backend":
            self._pending = dist.all_reduce(x, group=group.peers.group, async_op=True)
        elif x.device.type == "cpu":
            self._pending = group._thread.submit(self._perform)
        else:
            self._perform()
        self._waited(begin)

    def result(self) -> Tensor:
        """The sum; blocks until it is there. Another half of a split batch runs in the meantime."""
        group = self.group
        if group.baton is not None:
            group.baton.pass_on()
        begin = group.ledger.now()
        watch.board().enter(f"all_reduce {self._name}, group {group.axis}")
        if self.algorithm == SHARED:
            assert self._shared is not None
            out = self._shared.finish(self._pending)
        else:
            if isinstance(self._pending, Future):
                self._pending.result()
            elif self._pending is not None:
                self._pending.wait()
            out = self.tensor
        watch.board().leave()
        self._waited(begin)
        return out

    def _waited(self, since: Any) -> None:
        if self._call is not None:
            self.group.ledger.waited(self._call, since)

    def _perform(self) -> None:
        x, group = self.tensor, self.group
        peers, options = group.peers, group.options
        if self.algorithm == "ring":
            p2p.ring_all_reduce(x, peers)
        elif self.algorithm == "hierarchical":
            hierarchy.hierarchical_all_reduce(x, peers, options.chunks)
        elif self.algorithm == "bf16":
            narrow = x.to(torch.bfloat16)
            dist.all_reduce(narrow, group=peers.group)
            x.copy_(narrow)
        elif self.algorithm in ("int8", "e4m3", "e5m2"):
            chunks = options.chunks if len(set(peers.nodes)) > 1 else 1
            quantised.quantised_all_reduce(
                x, peers, self.algorithm, options.scale_group, chunks=chunks
            )
        else:
            raise InputError(f"algorithm={self.algorithm}: unknown", field="algorithm")


class _Timed:
    """A collective on the board and in the ledger while it runs."""

    def __init__(self, group: Group, call: Call) -> None:
        self.group, self.call = group, call

    def __enter__(self) -> None:
        if self.group.baton is not None:
            self.group.baton.pass_on()
        watch.board().enter(f"{self.call.kind} {self.call.name}, group {self.call.axis}")
        self.begin = self.group.ledger.now()

    def __exit__(self, *error: object) -> None:
        self.group.ledger.waited(self.call, self.begin)
        if error[0] is None:
            watch.board().leave()


def _ranks_inside(x: Tensor, n: int) -> Tensor:
    """(N·b, s, …) in rank order → (b, N·s, …)."""
    if x.shape[0] == n:
        return x.reshape(1, n * x.shape[1], *x.shape[2:])
    parts = x.view(n, x.shape[0] // n, *x.shape[1:])
    return parts.transpose(0, 1).reshape(x.shape[0] // n, n * x.shape[1], *x.shape[2:])


def _ranks_outside(x: Tensor, n: int) -> Tensor:
    """(b, N·s, …) → (N·b, s, …), rank by rank."""
    parts = x.reshape(x.shape[0], n, x.shape[1] // n, *x.shape[2:])
    return parts.transpose(0, 1).reshape(n * x.shape[0], x.shape[1] // n, *x.shape[2:])
