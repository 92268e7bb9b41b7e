"""Collectives made of sends and receives, every byte counted in ``peers.sent``.

gloo's own reduce_scatter moves what an all_reduce moves and its all_gather half as much again as the
wire asks for; these move what is needed, with every receive posted before a send.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from meshwise.runtime.collectives.peers import Peers

LEAST_PIECE = 1 << 20  # bytes below which a phase more costs what the overlap of phases gains


def wait(works: list[Any]) -> None:
    for work in works:
        work.wait()


def flat_view(x: Tensor) -> Tensor:
    """One dimension of the same memory. Raises ValueError for a tensor that is not contiguous."""
    if not x.is_contiguous():
        raise ValueError("a collective in place takes a contiguous tensor")
    return x.view(-1)


def flat_pieces(x: Tensor, chunks: int, least: int) -> tuple[Tensor, ...]:
    """``x``, flat, in at most ``chunks`` pieces of at least ``least`` bytes (or one)."""
    return flat_view(x).tensor_split(max(1, min(chunks, x.numel(), x.nbytes // max(least, 1))))


def facing(whole: Tensor, part: Tensor, peers: Peers) -> list[Tensor]:
    """``whole`` (o, N, d, …) as one piece (o, d, …) per rank. Raises ValueError where ``part`` is not
    such a piece: ranks would wait for bytes that nobody sends."""
    if whole.shape != (part.shape[0], peers.size, *part.shape[1:]):
        raise ValueError(
            f"{tuple(whole.shape)} is not {peers.size} ranks' shards of {tuple(part.shape)}"
        )
    return list(whole.unbind(1))


def finish(steps: Iterator[None]) -> None:
    """Run a collective to its end."""
    for _ in steps:
        pass


def ring_all_reduce(x: Tensor, peers: Peers) -> Tensor:
    """The sum over the ranks, in place, around a ring: N - 1 steps that sum a chunk and N - 1 that pass
    it on (Patarasuk and Yuan 2009, J. Parallel Distrib. Comput. 69). All ranks together send
    2 (N - 1) · payload bytes, each rank 2 (N - 1) / N of the payload where N divides it; all to the
    next rank."""
    n, rank = peers.size, peers.rank
    if n == 1:
        return x
    chunks = flat_view(x).tensor_split(n)
    after, before = (rank + 1) % n, (rank - 1) % n
    landed = torch.empty_like(chunks[0])  # the longest is first
    for step in range(n - 1):
        going, coming = chunks[(rank - step) % n], chunks[(rank - step - 1) % n]
        room = landed[: coming.numel()]
        _pass_on(peers, going, after, room, before)
        coming.add_(room)
    for step in range(n - 1):
        going, coming = chunks[(rank + 1 - step) % n], chunks[(rank - step) % n]
        _pass_on(peers, going, after, coming, before)
    return x


def _pass_on(peers: Peers, going: Tensor, after: int, coming: Tensor, before: int) -> None:
    receives = [(coming, before)] if coming.numel() else []
    sends = [(going, after)] if going.numel() else []
    wait(peers.exchange(receives, sends))


def scatter_sum(parts: list[Tensor], out: Tensor, peers: Peers) -> Iterator[None]:
    """Of one part (any sizes) per rank: the sum over the ranks of this rank's part into ``out`` (which
    may be that part), added in the order of the ranks, in fp32 where the parts are narrower. Yields
    when all is on its way."""
    own = parts[peers.rank]
    others = [r for r in range(peers.size) if r != peers.rank]
    landed = {r: torch.empty_like(out) for r in others} if out.numel() else {}
    sends = [(parts[r].contiguous(), r) for r in others if parts[r].numel()]
    works = peers.exchange([(landed[r], r) for r in landed], sends)
    yield
    wait(works)
    if not landed:
        out.copy_(own)
        return
    landed[peers.rank] = own
    if peers.size == 2:
        torch.add(landed[0], landed[1], out=out)
        return
    wide = torch.float32 if out.element_size() < 4 and out.is_floating_point() else out.dtype
    total = landed[0].to(wide, copy=True)
    for r in range(1, peers.size):
        total.add_(landed[r])
    out.copy_(total)


def gather_parts(parts: list[Tensor], peers: Peers) -> Iterator[None]:
    """Fill every rank's part (any sizes) from the rank that has it. Yields when all is on its way."""
    own = parts[peers.rank]
    others = [r for r in range(peers.size) if r != peers.rank]
    landing = {r: parts[r] for r in others}
    for r, part in landing.items():
        if not part.is_contiguous():
            landing[r] = torch.empty_like(part, memory_format=torch.contiguous_format)
    receives = [(landing[r], r) for r in others if parts[r].numel()]
    sends = [(own.contiguous(), r) for r in others] if own.numel() else []
    works = peers.exchange(receives, sends)
    yield
    wait(works)
    for r, part in landing.items():
        if part is not parts[r]:
            parts[r].copy_(part)


def direct_reduce_scatter(out: Tensor, x: Tensor, peers: Peers) -> Iterator[None]:
    """``x`` (o, N, d, …) summed over the ranks, this rank's (o, d, …) into ``out``; a rank sends
    (N - 1) / N of the payload. Yields when all is on its way."""
    yield from scatter_sum(facing(x, out, peers), out, peers)


def direct_all_gather(out: Tensor, x: Tensor, peers: Peers) -> Iterator[None]:
    """Every rank's ``x`` (o, d, …) into ``out`` (o, N, d, …), in the order of the ranks; a rank sends its
    own N - 1 times. Yields when all is on its way."""
    parts = facing(out, x, peers)
    parts[peers.rank].copy_(x)
    yield from gather_parts(parts, peers)
