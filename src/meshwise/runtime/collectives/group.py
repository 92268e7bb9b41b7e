"""The tensor-parallel group: its collectives, each counted, each by the algorithm that its size asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from meshwise.runtime.collectives import algorithms, hierarchy, p2p, tuning
from meshwise.runtime.collectives.peers import Peers
from meshwise.runtime.collectives.shared_memory import SharedMemory
from meshwise.runtime.measure.ledger import CollectiveCall, Ledger
from meshwise.runtime.options import Options
from meshwise.runtime.ranks import watch

SHARED = "shared_memory"
SLOTS = 4  # of shared memory: two halves of a split batch, each with one in flight and one written
LARGEST_SLOT = 1 << 25


class TPGroup:
    """A TP group as the layers see it. ``ledger`` has what it did; ``options`` how it does it;
    ``sequence`` whether the running forward pass splits its hidden states by sequence."""

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
            asked = partial(
                tuning.faster, self.peers, 1 << (known - 1), device, self.options.chunks
            )
            # on the host after what the helper thread was given before
            here = device.type != "cpu"
            self._faster[known] = asked() if here else self._thread.submit(asked).result()
        return self._faster[known]

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
        payload: int | None = None,
        of: CollectiveCall | None = None,
    ) -> Reduction:
        """An all-reduce whose input is still to be written: see :class:`Reduction`. The first piece of
        one counts the ``payload`` of all, the others are ``of`` it."""
        return Reduction(self, shape, like, name, phase, payload, of)

    def all_reduce(self, x: Tensor, name: str, phase: str, *, op: Any = None) -> Tensor:
        """The sum (or ``op``) of ``x`` over the ranks, in place; exact whatever ``comm_dtype``."""
        call = self._call(name, "all_reduce", x.nbytes, phase, "backend")
        return self._begin(call, algorithms.backend_all_reduce(x, self.peers, op), x).result()

    def all_gather(
        self, x: Tensor, dim: int, name: str, phase: str, *, exact: bool = False
    ) -> Tensor:
        """Shards along ``dim`` (0 or 1) put together: (…, d, …) → (…, N·d, …); ``exact`` whatever
        ``comm_dtype``."""
        return self.begin_all_gather(x, dim, name, phase, exact=exact)()

    def begin_all_gather(
        self, x: Tensor, dim: int, name: str, phase: str, *, exact: bool = False
    ) -> Callable[[], Tensor]:
        """:meth:`all_gather`, begun; returns what waits for it."""
        shard = x if dim else x.unsqueeze(0)
        out = x.new_empty((shard.shape[0], self.size, *shard.shape[1:]))
        pending = self.gathering(shard, out, name, phase, exact=exact)

        def finish() -> Tensor:
            whole = pending.result().flatten(1, 2)
            return whole if dim else whole.squeeze(0)

        return finish

    def gathering(
        self,
        x: Tensor,
        out: Tensor,
        name: str,
        phase: str,
        *,
        exact: bool = False,
        payload: int | None = None,
        of: CollectiveCall | None = None,
    ) -> Pending:
        """Every rank's ``x`` (o, d, …) into ``out`` (o, N, d, …), begun. Pieces as for
        :meth:`reduction`."""
        slot = self.room(tuple(x.shape), x)
        algorithm = SHARED if slot is not None else self._plain(x, exact)
        if payload is None:
            payload = self.size * (x.nbytes if exact else self.sent_bytes(x.numel(), x))
        call = of or self._call(name, "all_gather", payload, phase, algorithm)
        if slot is not None:
            begin = self.ledger.now()
            slot.copy_(x)

            def read(parts: list[Tensor]) -> Tensor:
                for rank, part in enumerate(parts):
                    out[:, rank].copy_(part)
                return out

            return self._through_memory(call, read, begin)
        steps = algorithms.all_gather(out, x, self.peers, algorithm, self.options)
        return self._begin(call, steps, out)

    def reduce_scatter(self, x: Tensor, dim: int, name: str, phase: str) -> Tensor:
        """The sum over ranks, this rank's shard of it along ``dim`` (0 or 1)."""
        parts = x.unflatten(dim, (self.size, -1))
        out = self.scattering(parts if dim else parts.unsqueeze(0), name, phase).result()
        return out if dim else out.squeeze(0)

    def scattering(
        self,
        x: Tensor,
        name: str,
        phase: str,
        *,
        payload: int | None = None,
        of: CollectiveCall | None = None,
    ) -> Pending:
        """The sum over ranks of ``x`` (o, N, d, …), this rank's (o, d, …), begun; ``x`` may be (a view
        of) what :meth:`room` gave. Pieces as for :meth:`reduction`."""
        begin = self.ledger.now()
        if self._room is None or self._room[1].data_ptr() != x.data_ptr():
            slot = self.room(tuple(x.shape), x)
            if slot is not None:
                slot.copy_(x)
        algorithm = SHARED if self._room is not None else self._plain(x)
        if payload is None:
            payload = self.sent_bytes(x.numel(), x)
        call = of or self._call(name, "reduce_scatter", payload, phase, algorithm)
        if self._room is not None:
            shape, own = x.shape, self.rank

            def read(parts: list[Tensor]) -> Tensor:
                return _added([p.view(shape)[:, own] for p in parts])

            return self._through_memory(call, read, begin)
        out = x.new_empty((x.shape[0], *x.shape[2:]))
        steps = algorithms.reduce_scatter(out, x, self.peers, algorithm, self.options)
        return self._begin(call, steps, out)

    def room(self, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
        """Shared memory to write the input of a collective into; None where another algorithm sends
        it. The collective must be the next one of the group."""
        self._room = None
        if self.options.comm_dtype is not None or like.device.type != "cpu" or self.size == 1:
            return None
        if self.options.algorithm not in ("auto", SHARED):
            return None
        shared = self._shared_memory(math.prod(shape) * like.element_size())
        if shared is None:
            return None
        slot = shared.buffer(shape, like.dtype)
        self._room = shared, slot
        return slot

    def _through_memory(
        self, call: CollectiveCall, read: Callable[[list[Tensor]], Tensor], begin: Any
    ) -> Pending:
        assert self._room is not None
        shared, self._room = self._room[0], None
        operation = shared.publish()

        def finish() -> Tensor:
            out = read(shared.filled(operation))
            shared.read(operation)
            return out

        self.ledger.waited(call, begin)
        return Pending(self, call, finish)

    def _begin(self, call: CollectiveCall, steps: Iterator[None], out: Tensor) -> Pending:
        """Post what ``steps`` send; they are finished when the result is asked for. In the helper thread
        once there is one, after what it was given before: all ranks then call in the same order."""
        begin = self.ledger.now()
        posted = None
        if "_thread" in self.__dict__:
            posted = self._thread.submit(next, steps, None)
        else:
            next(steps, None)

        def finish() -> Tensor:
            if posted is not None:
                posted.result()
            p2p.finish(steps)
            return out

        self.ledger.waited(call, begin)
        return Pending(self, call, finish)

    # -- how they are counted --------------------------------------------------------------------

    def _plain(self, x: Tensor, exact: bool = False) -> str:
        """What an all-gather or a reduce-scatter is done by, other than shared memory."""
        narrow = self.options.comm_dtype
        if narrow is not None and x.is_floating_point() and not exact:
            return narrow
        return algorithms.transport(self.peers)

    def sent_bytes(self, numel: int, like: Tensor) -> int:
        """Payload of values of a type, in the format that is sent; scales come on top."""
        narrow = self.options.comm_dtype
        if narrow is None or not like.is_floating_point():
            return numel * like.element_size()
        return numel * (2 if narrow == "bf16" else 1)

    def _call(
        self, name: str, kind: str, payload: int, phase: str, algorithm: str
    ) -> CollectiveCall:
        call = CollectiveCall(name, kind, self.axis, self.size, payload, phase, algorithm)
        self.ledger.count(call)
        return call


class Pending:
    """A collective that has begun. ``result()`` waits for it, on the board and in the ledger; another
    half of a split batch runs in the meantime."""

    def __init__(self, group: TPGroup, call: CollectiveCall, finish: Callable[[], Tensor]) -> None:
        self.group, self.call, self._finish = group, call, finish

    def result(self) -> Tensor:
        group, call = self.group, self.call
        if group.baton is not None:
            group.baton.pass_on()
        watch.board().enter(f"{call.kind} {call.name}, group {call.axis}")
        begin = group.ledger.now()
        out = self._finish()
        group.ledger.waited(call, begin)
        watch.board().leave()
        return out


class Reduction:
    """An all-reduce in three steps, so that a product writes where it is sent from and other work
    runs meanwhile: fill ``tensor``, ``start()``, ``result()``."""

    def __init__(
        self,
        group: TPGroup,
        shape: tuple[int, ...],
        like: Tensor,
        name: str,
        phase: str,
        payload: int | None,
        of: CollectiveCall | None,
    ) -> None:
        self.group = group
        size = math.prod(shape) * like.element_size()
        self.algorithm = group.options.comm_dtype or group.algorithm(size, like.device)
        # kept: the group may have a larger one before this reduction ends
        self._shared = group._shared_memory(size) if self.algorithm == SHARED else None
        if self._shared is not None:
            self.tensor = self._shared.buffer(shape, like.dtype)
        else:
            self.tensor = like.new_empty(shape)
        if payload is None:
            payload = group.sent_bytes(math.prod(shape), like)
        self.call = of or group._call(name, "all_reduce", payload, phase, self.algorithm)
        self._pending: Pending | None = None

    def start(self) -> None:
        group, x = self.group, self.tensor
        begin = group.ledger.now()
        begun: Any = None
        if self._shared is not None:
            operation = self._shared.publish()
        elif self.algorithm == "backend":
            begun = dist.all_reduce(x, group=group.peers.group, async_op=True)
        elif x.device.type == "cpu":
            begun = group._thread.submit(self._send)
        else:
            self._send()

        def finish() -> Tensor:
            if self._shared is not None:
                return self._shared.finish(operation)
            if isinstance(begun, Future):
                begun.result()
            elif begun is not None:
                begun.wait()
            return x

        self._pending = Pending(group, self.call, finish)
        group.ledger.waited(self.call, begin)

    def _send(self) -> None:
        group = self.group
        algorithms.all_reduce(self.tensor, group.peers, self.algorithm, group.options)

    def result(self) -> Tensor:
        """The sum; blocks until it is there."""
        assert self._pending is not None
        return self._pending.result()


def _added(parts: list[Tensor]) -> Tensor:
    """The sum, in order."""
    total = torch.add(parts[0], parts[1])
    for part in parts[2:]:
        total.add_(part)
    return total
