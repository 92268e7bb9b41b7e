"""Products beside the collectives that feed or drain them: gathered and multiplied, multiplied and
summed or scattered. With ``overlap="decomposed"`` piece by piece, some on their way while another is
computed (Wang et al. 2023, ASPLOS); else in one piece.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from meshwise.runtime.collectives.group import Pending, Reduction, TPGroup
from meshwise.runtime.measure.ledger import CollectiveCall

AHEAD = 2  # pieces on their way while another is computed: shared memory has slots for them


class Place(NamedTuple):
    """Where a product is: its name and region as ``explain`` has them; the dimension along which hidden
    states around it are split, None where they are whole; whether its weight is (K, M), not (M, K)."""

    group: TPGroup
    name: str
    region: str
    dim: int | None
    transposed: bool

    def whole(self, x: Tensor) -> tuple[int, ...]:
        """The shape of what shards like ``x`` make."""
        shape = list(x.shape)
        if self.dim is not None:
            shape[self.dim] *= self.group.size
        return tuple(shape)


def cut(length: int, pieces: int) -> list[slice]:
    """A length in at most so many pieces, none of them empty."""
    count = min(pieces, length)
    bounds = [length * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]


def _pieces(group: TPGroup) -> int:
    return group.options.chunks if group.options.overlap == "decomposed" else 1


Started = TypeVar("Started", Pending, Reduction)


def _behind(begun: Iterable[Started]) -> Iterator[Started]:
    """Each of what is begun, when a few more have."""
    running: deque[Started] = deque()
    for one in begun:
        running.append(one)
        if len(running) > AHEAD:
            yield running.popleft()
    yield from running


def gathered_and_multiplied(
    place: Place, x: Tensor, what: str, phase: str, multiply: Callable[[Tensor, slice], None]
) -> Tensor:
    """The whole (T, K) of shards ``x`` (…, K) of hidden states along ``place.dim``. ``multiply`` is given
    its rows as they arrive, and which they are."""
    group, k = place.group, x.shape[-1]
    # shards lie inside the first dimension, or outside all
    shard = x.reshape(x.shape[0] if place.dim else 1, -1, k)
    outer, inner = shard.shape[:2]
    whole = x.new_empty((outer, group.size, inner, k))
    rows = whole.view(-1, k)
    wanted = _pieces(group)
    pieces = [(o, slice(0, inner)) for o in cut(outer, wanted)]
    if len(pieces) < wanted:
        each = cut(inner, -(-wanted // outer))
        pieces = [(slice(o, o + 1), i) for o in range(outer) for i in each]
    name = f"{place.region}.{what}"
    payload = group.size * group.sent_bytes(x.numel(), x)

    def begun() -> Iterator[Pending]:
        first: CollectiveCall | None = None
        for o, i in pieces:
            piece = group.gathering(
                shard[o, i], whole[o, :, i], name, phase, payload=payload, of=first
            )
            first = first or piece.call
            yield piece

    for (o, i), piece in zip(pieces, _behind(begun()), strict=True):
        piece.result()
        if i.stop - i.start == inner:
            found = [slice(o.start * group.size * inner, o.stop * group.size * inner)]
        else:
            starts = [(o.start * group.size + r) * inner for r in range(group.size)]
            found = [slice(start + i.start, start + i.stop) for start in starts]
        for at in found:
            multiply(rows[at], at)
    return rows


def multiplied_and_scattered(
    place: Place,
    shape: tuple[int, ...],
    like: Tensor,
    what: str,
    phase: str,
    multiply: Callable[[slice, Tensor], None],
) -> Callable[[], Tensor]:
    """Begin the sum over the ranks of hidden states of ``shape`` (…, M), whole, that ``multiply`` makes:
    it is given some columns and where to write them (T, columns). Returns what waits for this rank's
    shard along ``place.dim``."""
    group, dim = place.group, place.dim
    assert dim is not None
    cuts = cut(shape[-1], _pieces(group))
    payload = group.sent_bytes(math.prod(shape), like)
    running: list[Pending] = []
    done: list[Tensor] = []
    first: CollectiveCall | None = None
    for columns in cuts:
        own = (*shape[:-1], columns.stop - columns.start)
        room = group.room(own, like)
        partial = room if room is not None else like.new_empty(own)
        multiply(columns, partial.view(-1, own[-1]))
        parts = partial.unflatten(dim, (group.size, -1))
        piece = group.scattering(
            parts if dim else parts.unsqueeze(0),
            f"{place.region}.{what}",
            phase,
            payload=payload,
            of=first,
        )
        first = first or piece.call
        running.append(piece)
        if len(running) > AHEAD:
            done.append(running.pop(0).result())

    def finish() -> Tensor:
        shards = done + [piece.result() for piece in running]
        whole = shards[0] if len(shards) == 1 else torch.cat(shards, -1)
        return whole if dim else whole.squeeze(0)

    return finish


def multiplied_and_reduced(
    place: Place, x: Tensor, width: int, multiply: Callable[[Tensor, Tensor], None]
) -> Tensor:
    """The sum (T, M) over the ranks of what ``multiply`` makes of some rows of ``x`` (T, K): it is given
    them and where to write the result."""
    group, name = place.group, f"{place.region}.output"
    payload = group.sent_bytes(x.shape[0] * width, x)

    def begun() -> Iterator[Reduction]:
        first: CollectiveCall | None = None
        for rows in cut(x.shape[0], _pieces(group)):
            part = group.reduction(
                (rows.stop - rows.start, width), x, name, "forward", payload=payload, of=first
            )
            first = first or part.call
            multiply(x[rows], part.tensor)
            part.start()
            yield part

    parts = [part.result() for part in _behind(begun())]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
