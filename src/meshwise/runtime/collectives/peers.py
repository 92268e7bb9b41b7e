"""A group of ranks as the collectives see it: who is where, and what was sent to whom."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Peers:
    """``group``: its process group (None: all ranks, or no process group at all); ``rank`` and ``size``
    within it; ``ranks``: global ones; ``nodes``: the node of each member; ``sent``: bytes that this
    rank sent to each member (by its rank within the group) from point to point.

    Where the members are on several nodes, equally many on each and more than one, ``local`` has those
    of this rank's node and ``across`` those with its place in the other nodes; else both are None.
    """

    def __init__(self, group: Any, ranks: Sequence[int], nodes: Sequence[int], me: int) -> None:
        self.group = group
        self.ranks, self.nodes = tuple(ranks), tuple(nodes)
        self.size, self.rank = len(self.ranks), self.ranks.index(me)
        self.sent: dict[int, int] = dict.fromkeys(range(self.size), 0)
        self.local: Peers | None = None
        self.across: Peers | None = None

    @classmethod
    def of(cls, group: Any = None) -> Peers:
        """The members of a process group (None: all ranks); called by all of them together."""
        if not dist.is_initialized():
            return cls(None, [0], [0], 0)
        ranks = dist.get_process_group_ranks(group if group is not None else dist.group.WORLD)
        return cls._with_nodes(group, ranks, node_of_rank())

    @classmethod
    def build(cls, groups: Iterable[Sequence[int]], nodes: Sequence[int] | None = None) -> Peers:
        """This rank's group of ``groups``, which every rank of the run passes alike and which have each
        rank once. ``nodes``: the node of every rank of the run."""
        me, world = dist.get_rank(), dist.get_world_size()
        every = list(nodes) if nodes is not None else node_of_rank()
        found: tuple[Any, Sequence[int]] | None = None
        for ranks in groups:
            # all ranks call this in the same order, as torch asks
            group = None if len(ranks) == world else new_group(ranks)
            if me in ranks:
                found = group, ranks
        if found is None:
            raise ValueError(f"rank {me} is in none of the groups")
        return cls._with_nodes(*found, every)

    @classmethod
    def _with_nodes(cls, group: Any, ranks: Sequence[int], every: Sequence[int]) -> Peers:
        me = dist.get_rank()
        nodes = [every[r] for r in ranks]
        peers = cls(group, ranks, nodes, me)
        members = {
            n: [r for r, at in zip(ranks, nodes, strict=True) if at == n] for n in set(nodes)
        }
        per_node = {len(m) for m in members.values()}
        if len(members) > 1 and per_node != {1} and len(per_node) == 1:
            own = members[every[me]]
            place = own.index(me)
            beside = [members[n][place] for n in sorted(members)]
            for name, those in (("local", own), ("across", beside)):
                part = cls(new_group(those, alone=True), those, [every[r] for r in those], me)
                setattr(peers, name, part)
        return peers

    def subgroup(self, sharing: int) -> Peers:
        """This rank's run of ``sharing`` neighbours within the group; called by all members together."""
        first = self.rank // sharing * sharing
        ranks = self.ranks[first : first + sharing]
        nodes = self.nodes[first : first + sharing]
        return Peers(new_group(ranks, alone=True), ranks, nodes, dist.get_rank())

    def exchange(
        self,
        receives: Sequence[tuple[Tensor, int]],
        sends: Sequence[tuple[Tensor, int]],
        tag: int = 0,
    ) -> list[Any]:
        """Post every receive, then every send, of (contiguous tensor, rank within the group), and return
        the works to wait for. gloo halves a link on which a send is posted before the receive."""
        for tensor, peer in sends:
            self.sent[peer] += tensor.nbytes
        if str(dist.get_backend(self.group)) == "nccl":
            ops = [dist.P2POp(dist.irecv, t, self.ranks[p], self.group) for t, p in receives]
            ops += [dist.P2POp(dist.isend, t, self.ranks[p], self.group) for t, p in sends]
            return list(dist.batch_isend_irecv(ops)) if ops else []
        works = [dist.irecv(t, self.ranks[p], self.group, tag) for t, p in receives]
        works += [dist.isend(t, self.ranks[p], self.group, tag) for t, p in sends]
        return works


def sent_to(peers: Peers) -> dict[int, int]:
    """Bytes that this rank has sent from point to point, by global rank: in its group, its node and
    across nodes."""
    found: dict[int, int] = {}
    parts = (part for part in (peers, peers.local, peers.across) if part is not None)
    for part in parts:
        for to, size in part.sent.items():
            found[part.ranks[to]] = found.get(part.ranks[to], 0) + size
    return {to: size for to, size in found.items() if size}


def node_of_rank() -> list[int]:
    """The node of every rank of the run: ranks lie node by node, ``LOCAL_WORLD_SIZE`` on each."""
    world = dist.get_world_size()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    return [rank // local for rank in range(world)]


def timeout() -> timedelta:
    """Of the default process group: torch gives groups made later its own half an hour otherwise."""
    world = dist.distributed_c10d._get_default_group()
    device = torch.device("cuda" if str(dist.get_backend()) == "nccl" else "cpu")
    found: timedelta = world._get_backend(device).options._timeout
    return found


def new_group(ranks: Sequence[int], *, alone: bool = False) -> Any:
    """A process group with the run's time-out; ``alone``: only its members call this."""
    return dist.new_group(list(ranks), timeout=timeout(), use_local_synchronization=alone)
