"""Tokens to their experts by a dispatcher that knows the nodes: each crosses a network once per node that
has one of its experts, and is passed on over the links inside (DeepEP, HybridEP)."""

from __future__ import annotations

import numpy as np

from meshwise.arrays import Array
from meshwise.clusters.load import Cluster, Level
from meshwise.cost.collectives.collective import Priced, fabric_of
from meshwise.cost.collectives.fabric import streamed
from meshwise.cost.sources import Source
from meshwise.layouts.placement import Group
from meshwise.program.operations import TokenCopies
from meshwise.stacks.stack import Stack

# Shares of the datasheets' rates in DeepEP's own table (github.com/deepseek-ai/DeepEP, docs/legacy.md):
# 153 and 158 GB/s over the 200 GB/s of an H800's NVLink, sending and combining; 58, 57, 51 and 50 GB/s
# over a network of 50 GB/s at 4 and 8 nodes, which count the copies that stay on the node too, 1 of 4
# and 1 of 8.
INSIDE = (153 + 158) / 2 / 200
NETWORK = ((58 + 57) / 2 * 3 / 4 + (51 + 50) / 2 * 7 / 8) / 2 / 50


def parts_visited(copies: TokenCopies, parts: Array) -> Array:
    """Of ``parts`` that share the experts evenly, how many a token visits, expected over even draws of
    different experts: parts · (1 − C(E − E/parts, k) / C(E, k))."""
    parts = np.asarray(parts, dtype=np.float64)
    elsewhere = copies.experts - copies.experts / parts
    missed: Array = 1.0
    for drawn in range(copies.top_k):
        missed = missed * np.maximum(elsewhere - drawn, 0.0) / (copies.experts - drawn)
    return parts * (1.0 - missed)


def wire_bytes(payload: Array, copies: TokenCopies, group: Group) -> tuple[Array, ...]:
    """Bytes that a rank sends at each level, of a payload with a copy of every token per expert.

    At level l a token has a copy for each domain below it that it visits, of which one in r_l stays
    where it is.
    """
    single = payload / copies.top_k
    wire: list[Array] = []
    parts: Array = group.size
    for r in group.ranks:
        wire.append(single * parts_visited(copies, parts) * (r - 1) / r)
        parts = parts / r
    return tuple(wire)


def _share(level: Level) -> float:
    if level.efficiency is not None:
        return level.efficiency
    return NETWORK if level.kind == "network" else INSIDE


def dispatch_price(
    payload: Array, copies: TokenCopies, group: Group, cluster: Cluster, stack: Stack
) -> Priced:
    """One dispatch or combination; levels work at the same time, a token after the other."""
    fabric = fabric_of("all_to_all", group, cluster, stack)
    wire = wire_bytes(payload, copies, group)
    hops = [np.where(fabric.outermost == index, 1, 0) for index in range(len(wire))]
    protocols = [
        c.algorithms["direct"].fastest._replace(efficiency=_share(level))
        for c, level in zip(fabric.per_level, cluster.levels, strict=True)
    ]
    seconds = streamed(fabric, wire, hops, protocols) + fabric.copy(payload)
    alone = fabric.size <= 1
    return Priced(
        np.where(alone, 0.0, seconds),
        tuple(np.where(alone, 0.0, w) for w in wire),
        np.int64(0),
        (stack.communication.dispatcher,),
        tuple(Source(f"dispatch/{stack.communication.dispatcher}") for _ in wire),
        tuple(c.lent for c in fabric.per_level),
    )
