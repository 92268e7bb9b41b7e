"""Collectives that send a byte per value: int8 or fp8 with a scale per group of values.

Sums are in fp32. An all-reduce is a reduce-scatter made of sends, a sum, and an all-gather, each of
narrow values (the two-shot scheme of Flash Communication, arXiv 2412.04964); between two ranks one
exchange does. gloo has no float8, so bytes are sent.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from meshwise.runtime.collectives.p2p import (
    LEAST_PIECE,
    facing,
    finish,
    flat_pieces,
    gather_parts,
    scatter_sum,
    wait,
)
from meshwise.runtime.collectives.peers import Peers
from meshwise.strict_tables import one_of

LARGEST_VALUE = {"int8": 127.0, "e4m3": 448.0, "e5m2": 57344.0}
_STORED = {"int8": torch.int8, "e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
GROUP = 128
_SMALLEST = 2.0**-126  # normal fp32: below it a reciprocal overflows


def stored(form: str) -> torch.dtype:
    """The type of ``form``'s values. Raises :class:`InputError` for a name that is no format."""
    return _STORED[one_of(form, "comm_dtype", _STORED)]


def packed_bytes(n: int, group: int) -> int:
    """Bytes that ``n`` values take: one each, and an fp32 scale per group."""
    groups = -(-n // group)
    return groups * group + 4 * groups


def quantise(x: Tensor, form: str, group: int = GROUP) -> Tensor:
    """Values (any shape) → uint8 (:func:`packed_bytes`): the groups' scales, fp32, each its largest
    magnitude over the format's, then the narrow values. A NaN or an infinity makes its group NaN; a
    group that would need a subnormal scale becomes zeros."""
    kind = stored(form)
    values = x.reshape(-1).float()
    n = values.numel()
    groups = -(-n // group)
    if groups * group != n:
        values = torch.nn.functional.pad(values, (0, groups * group - n))
    values = values.view(groups, group)
    packed = torch.empty(packed_bytes(n, group), dtype=torch.uint8, device=x.device)
    scales = packed[: 4 * groups].view(torch.float32)
    torch.amax(values.abs(), dim=1, out=scales)
    scales.mul_(1.0 / LARGEST_VALUE[form])
    inverse = torch.where(scales < _SMALLEST, 0.0, scales.reciprocal())
    narrow = values * inverse.unsqueeze(1)
    if form == "int8":
        narrow = narrow.round_()
    packed[4 * groups :].view(kind).copy_(narrow.view(-1))
    return packed


def dequantise(packed: Tensor, n: int, form: str, group: int = GROUP) -> Tensor:
    """The first ``n`` values, fp32."""
    groups = -(-n // group)
    scales = packed[: 4 * groups].view(torch.float32)
    values = packed[4 * groups :].view(stored(form)).to(torch.float32)
    return values.view(groups, group).mul_(scales.unsqueeze(1)).view(-1)[:n]


def quantised_all_reduce(
    x: Tensor,
    peers: Peers,
    form: str,
    group: int = GROUP,
    chunks: int = 1,
    least: int = LEAST_PIECE,
) -> Tensor:
    """The sum over the ranks, in place, the same bits on all of them. Over nodes of several ranks
    exact inside a node and narrow between them; ``chunks`` pieces (of ``least`` bytes each, or
    fewer), one of them on the wire while the next is prepared."""
    if peers.size == 1:
        return x
    running: list[Iterator[None]] = []
    for piece in flat_pieces(x, chunks, least):
        steps = _reduced(piece, peers, form, group)
        next(steps, None)
        running.append(steps)
        if len(running) > 1:
            finish(running.pop(0))
    for steps in running:
        finish(steps)
    return x


def _reduced(piece: Tensor, peers: Peers, form: str, group: int) -> Iterator[None]:
    """One piece; yields while something crosses the wire."""
    local, across = peers.local, peers.across
    if local is None or across is None:
        yield from _summed(piece, peers, form, group)
        return
    parts = list(piece.tensor_split(local.size))
    own = parts[local.rank]
    finish(scatter_sum(parts, own, local))
    yield from _summed(own, across, form, group)
    finish(gather_parts(parts, local))


def _summed(x: Tensor, peers: Peers, form: str, group: int) -> Iterator[None]:
    n = peers.size
    others = [r for r in range(n) if r != peers.rank]
    # between two ranks the whole is sent once: as many bytes as two shots of halves
    parts = [x] * n if n == 2 else list(x.tensor_split(n))
    own = parts[peers.rank]
    going = {r: quantise(parts[r], form, group) for r in ([peers.rank] if n == 2 else range(n))}
    size = packed_bytes(own.numel(), group)
    landed = {r: torch.empty(size, dtype=torch.uint8, device=x.device) for r in others}
    mine = going[peers.rank]
    works = peers.exchange(
        [(landed[r], r) for r in others], [(mine if n == 2 else going[r], r) for r in others]
    )
    yield
    wait(works)
    landed[peers.rank] = mine
    total = dequantise(landed[0], own.numel(), form, group)
    for r in range(1, n):
        total.add_(dequantise(landed[r], own.numel(), form, group))
    if n == 2:
        x.copy_(total)
        return
    packed = [
        torch.empty(packed_bytes(p.numel(), group), dtype=torch.uint8, device=x.device)
        for p in parts
    ]
    packed[peers.rank] = quantise(total, form, group)
    works = peers.exchange(
        [(packed[r], r) for r in others], [(packed[peers.rank], r) for r in others]
    )
    yield
    wait(works)
    for part, bytes_ in zip(parts, packed, strict=True):
        part.copy_(dequantise(bytes_, part.numel(), form, group))


def quantised_all_gather(
    out: Tensor, x: Tensor, peers: Peers, form: str, group: int = GROUP
) -> Iterator[None]:
    """Every rank's ``x`` (o, d, …) into ``out`` (o, N, d, …), narrow on the way; the same bits on all
    ranks. Yields when all is on its way."""
    parts = facing(out, x, peers)
    size = packed_bytes(x.numel(), group)
    packed = [torch.empty(size, dtype=torch.uint8, device=x.device) for _ in parts]
    packed[peers.rank] = quantise(x, form, group)
    yield from gather_parts(packed, peers)
    for part, bytes_ in zip(parts, packed, strict=True):
        part.copy_(dequantise(bytes_, part.numel(), form, group).view(part.shape))


def quantised_reduce_scatter(
    out: Tensor, x: Tensor, peers: Peers, form: str, group: int = GROUP
) -> Iterator[None]:
    """``x`` (o, N, d, …) summed over the ranks in fp32, this rank's (o, d, …) into ``out``; what others
    send is narrow. Yields when all is on its way."""
    parts = facing(x, out, peers)
    own = parts[peers.rank]
    others = [r for r in range(peers.size) if r != peers.rank]
    going = [(quantise(parts[r], form, group), r) for r in others]
    landed = {r: torch.empty_like(packed) for packed, r in going}
    works = peers.exchange([(landed[r], r) for r in others], going)
    yield
    wait(works)
    total = own.float()
    for r in others:
        total = total.add(dequantise(landed[r], own.numel(), form, group).view(own.shape))
    out.copy_(total)
