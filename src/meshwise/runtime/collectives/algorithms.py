"""The collectives that send, by the name of an algorithm. Those that are iterators yield when all is on
its way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from meshwise.errors import InputError
from meshwise.runtime.collectives import hierarchy, p2p, quantised
from meshwise.runtime.collectives.peers import Peers
from meshwise.runtime.options import Options


def all_reduce(x: Tensor, peers: Peers, algorithm: str, options: Options) -> None:
    """The sum over the ranks, in place."""
    if algorithm == "ring":
        p2p.ring_all_reduce(x, peers)
    elif algorithm == "hierarchical":
        hierarchy.hierarchical_all_reduce(x, peers, options.chunks)
    elif algorithm == "bf16":
        narrow = x.to(torch.bfloat16)
        dist.all_reduce(narrow, group=peers.group)
        x.copy_(narrow)
    elif algorithm in quantised.LARGEST_VALUE:
        chunks = options.chunks if len(set(peers.nodes)) > 1 else 1
        quantised.quantised_all_reduce(x, peers, algorithm, options.scale_group, chunks=chunks)
    else:
        raise InputError(f"algorithm={algorithm}: unknown", field="algorithm")


def backend_all_reduce(x: Tensor, peers: Peers, op: Any) -> Iterator[None]:
    """The sum (or ``op``) over the ranks, in place."""
    work = dist.all_reduce(x, op or dist.ReduceOp.SUM, group=peers.group, async_op=True)
    yield
    work.wait()


def transport(peers: Peers) -> str:
    """What an all-gather or a reduce-scatter goes by: gloo's own move more than they need."""
    return "backend" if str(dist.get_backend(peers.group)) == "nccl" else "p2p"


def all_gather(
    out: Tensor, x: Tensor, peers: Peers, algorithm: str, options: Options
) -> Iterator[None]:
    """Every rank's ``x`` (o, d, …) into ``out`` (o, N, d, …)."""
    if algorithm in quantised.LARGEST_VALUE:
        yield from quantised.quantised_all_gather(out, x, peers, algorithm, options.scale_group)
    elif algorithm == "bf16":
        yield from _in_bf16(all_gather, out, x, peers, options)
    elif algorithm == "backend":
        flat = x.new_empty((peers.size, *x.shape))  # it wants the ranks outermost
        work = dist.all_gather_into_tensor(flat, x.contiguous(), group=peers.group, async_op=True)
        yield
        work.wait()
        out.copy_(flat.transpose(0, 1))
    else:
        yield from p2p.direct_all_gather(out, x, peers)


def reduce_scatter(
    out: Tensor, x: Tensor, peers: Peers, algorithm: str, options: Options
) -> Iterator[None]:
    """``x`` (o, N, d, …) summed over the ranks, this rank's (o, d, …) into ``out``."""
    if algorithm in quantised.LARGEST_VALUE:
        yield from quantised.quantised_reduce_scatter(out, x, peers, algorithm, options.scale_group)
    elif algorithm == "bf16":
        yield from _in_bf16(reduce_scatter, out, x, peers, options)
    elif algorithm == "backend":
        parts = x.transpose(0, 1).contiguous()
        work = dist.reduce_scatter_tensor(out, parts, group=peers.group, async_op=True)
        yield
        work.wait()
    else:
        yield from p2p.direct_reduce_scatter(out, x, peers)


def _in_bf16(
    collective: Callable[..., Iterator[None]],
    out: Tensor,
    x: Tensor,
    peers: Peers,
    options: Options,
) -> Iterator[None]:
    narrow = torch.empty_like(out, dtype=torch.bfloat16)
    yield from collective(narrow, x.bfloat16(), peers, transport(peers), options)
    out.copy_(narrow)
