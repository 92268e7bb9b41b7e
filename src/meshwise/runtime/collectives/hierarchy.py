"""All-reduce over nodes: inside each node first, so that only a share crosses the network."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor

from meshwise.runtime.collectives.p2p import (
    LEAST_PIECE,
    finish,
    flat_pieces,
    gather_parts,
    scatter_sum,
)
from meshwise.runtime.collectives.peers import Peers


def worthwhile(peers: Peers) -> bool:
    """Whether the ranks lie on several nodes, equally many and more than one on each."""
    return peers.local is not None and peers.across is not None


def hierarchical_all_reduce(
    x: Tensor, peers: Peers, chunks: int = 1, least: int = LEAST_PIECE
) -> Tensor:
    """The sum over the ranks, in place: reduce-scatter inside the node, all-reduce of each share with
    its twins on the other nodes, all-gather inside (Horovod's and NCCL's hierarchical scheme; claims
    of 2 (M - 1) / M · payload / L bytes per rank over M nodes of L ranks).

    With ``chunks`` (of ``least`` bytes each, or fewer) the inside of one chunk runs while the chunk
    before crosses the network. Raises ValueError where :func:`worthwhile` is false.
    """
    local, across = peers.local, peers.across
    if local is None or across is None:
        raise ValueError(f"no hierarchy in ranks on nodes {peers.nodes}")
    crossing: list[tuple[list[Tensor], Any]] = []
    for piece in flat_pieces(x, chunks, least):
        parts = list(piece.tensor_split(local.size))
        finish(scatter_sum(parts, parts[local.rank], local))
        work = dist.all_reduce(parts[local.rank], group=across.group, async_op=True)
        crossing.append((parts, work))
        if len(crossing) > 1:
            _land(*crossing.pop(0), local)
    for parts, work in crossing:
        _land(parts, work, local)
    return x


def _land(parts: list[Tensor], work: Any, local: Peers) -> None:
    work.wait()
    finish(gather_parts(parts, local))
