"""The algorithms that run a collective: a function each, with its line of the registry.

A function gets the algorithm's name, the operation, the payload S [bytes, as nccl-tests counts it] and
the :class:`~meshwise.cost.collectives.fabric.Fabric` (its module has the notation), and returns its
candidates, illegal elements at infinite seconds; one for each protocol where it has several. Its measured
constants stand under its name in ``catalog/collectives``; where no level has any, it is not asked.

What a line of the registry says is all that there is to say of an algorithm: prices, the names in answers,
which constants are read and which are inherited, the ideal stack's algorithms, the fit of an engine's
kernels (``tools/fit_collectives.py``) and the table of docs/explanation/model follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.cost.collectives.fabric import Candidate, Fabric, Protocol, streamed
from meshwise.cost.collectives.network import behind_network, fall, form_of, pipeline_hops
from meshwise.cost.collectives.protocols import (
    across_networks,
    each_protocol,
    inside_nodes,
    labelled,
)
from meshwise.cost.collectives.ring_paths import ceil_log2, ring_hops, ring_shares

Build = Callable[[str, str, Array, Fabric], list[Candidate]]

# Ring steps and bytes that a rank sends, in units of (n-1) steps and (n-1)/n · S.
RING_ROUNDS = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}
ROOTED = ("scatter", "gather")  # one rank has the whole buffer, and sends or gets a part for each
OPS = (*RING_ROUNDS, "all_to_all", "send_recv", "broadcast", "reduce", *ROOTED)
# Operation → the one whose constants hold where a fabric has none of its own.
LIKE_OPERATION = {"reduce": "broadcast", **dict.fromkeys(ROOTED, "all_to_all")}


class Algorithm(NamedTuple):
    """A line of the registry.

    ``ideal``: bandwidth-optimal, so that the ideal stack has it, at wire rate and without latency.
    ``like``: the algorithm whose constants hold where a fabric has none of this one. ``between_peers``: a
    kernel that reads its peers' memory, whose constants, measured on NVLink, hold at any fabric's own
    rate. ``kernel_of``: the library that has it as a kernel of its own in all_reduce ("nccl", "engine":
    any serving engine's), fitted from ``start``, whose keys are the constants that it has.
    ``times``: (what of, seconds), as the documentation writes them; ``legal``: where it runs, in words.
    """

    name: str
    operations: tuple[str, ...]
    candidates: Build
    times: tuple[tuple[str, str], ...]
    legal: str
    ideal: bool = False
    like: str | None = None
    between_peers: bool = False
    kernel_of: str | None = None
    start: dict[str, float] | None = None


COLLECTIVE_ALGORITHMS: dict[str, Algorithm] = {}
_OF_OPERATION: dict[str, list[Algorithm]] = {op: [] for op in OPS}


def algorithm(
    name: str, *operations: str, times: dict[str, str] | str, legal: str = "always", **more: Any
) -> Callable[[Build], Build]:
    """The line of a function in the registry; where prices are equal, the first line wins.

    ``times``: of all operations, or by what the documentation calls them.
    """

    def register(build: Build) -> Build:
        said = {f"{name} {', '.join(operations)}": times} if isinstance(times, str) else times
        line = Algorithm(name, operations, build, tuple(said.items()), legal, **more)
        assert name not in COLLECTIVE_ALGORITHMS, name
        COLLECTIVE_ALGORITHMS[name] = line
        for op in operations:
            _OF_OPERATION[op].append(line)
        return build

    return register


def candidates_of(op: str, payload: Array, fabric: Fabric) -> list[Candidate]:
    """What every algorithm of ``op`` comes to, in the registry's order, for groups of several ranks."""
    known = set().union(*(c.algorithms for c in fabric.per_level))
    found = []
    for line in _OF_OPERATION[op]:
        if line.name in known:
            found += line.candidates(line.name, op, payload, fabric)
    return found


# -- rings and trees, over all levels ------------------------------------------------------------------


@algorithm(
    "ring",
    *RING_ROUNDS,
    times={
        "ring all_reduce": r"$t_0 + 2(n-1)a + \frac{2(n-1)}{n} S / (e b) + S / (n c)$",
        "ring all_gather, reduce_scatter": r"$t_0 + (n-1)a + \frac{n-1}{n} S / (e b) + S / (n c)$",
    },
    ideal=True,
)
def ring(name: str, op: str, payload: Array, fabric: Fabric) -> list[Candidate]:
    """Multi-rail ring: (n−1)/n · S per round trip (twice for all_reduce) in as many steps
    (Patarasuk and Yuan, JPDC 69(2), 2009), and the copy of a rank's own share. One per protocol."""
    n = fabric.size
    trips = RING_ROUNDS[op]
    total = trips * (n - 1) / n * payload
    wire = tuple(total * share for share in ring_shares(fabric.ranks))
    hops = [trips * h for h in ring_hops(fabric.ranks)]
    filling = [trips * h for h in pipeline_hops(fabric)]
    return each_protocol(name, fabric, payload, wire, hops, fabric.copy(payload), filling, True)


def hierarchical_wire(op: str, payload: Array, ranks: Sequence[Array]) -> tuple[Array, ...]:
    """Bytes sent per level: reduce_scatter inside, the rest of the work on 1/R_l of the payload."""
    trips = RING_ROUNDS[op]
    wire, inner = [], 1.0
    for r in ranks:
        wire.append(trips * (r - 1) / r * payload / inner)
        inner = inner * r
    return tuple(wire)


@algorithm(
    "hierarchical",
    *RING_ROUNDS,
    times={
        "hierarchical": r"per level $l$: $\frac{2(r_l-1)}{r_l}\,\frac{S}{R_l}/b_l$, summed; "
        r"$R_l = r_0 \cdots r_{l-1}$"
    },
    legal="across domains, ideal stack",
    ideal=True,
)
def hierarchical(name: str, op: str, payload: Array, fabric: Fabric) -> list[Candidate]:
    """Reduce_scatter inside, the collective across on 1/r_0 of the payload, all_gather inside: one
    after the other, so the levels' times add. Only for groups that cross more than one level, and
    only in the ideal stack: NCCL has no such algorithm, and its tree is measured."""
    wire = hierarchical_wire(op, payload, fabric.ranks)
    trips = RING_ROUNDS[op]
    seconds: Array = 0.0
    crossed: Array = 0
    for sent, r, b, c in zip(wire, fabric.ranks, fabric.bandwidth, fabric.per_level, strict=True):
        p = c.algorithms[name].fastest
        part = p.launch_s + trips * (r - 1) * p.step_s + sent / (p.efficiency * b)
        used = np.asarray(r) > 1
        seconds = seconds + np.where(used, part, 0.0)
        crossed = crossed + used
    return [Candidate(name, np.where(crossed > 1, seconds, np.inf), wire)]


def _tree_levels(fabric: Fabric) -> tuple[str, ...]:
    """What a tree is at each level: itself, or a chain, which is a ring's."""
    return tuple("tree" if "tree" in c.algorithms else "ring" for c in fabric.per_level)


def _on_tree(fabric: Fabric, protocol: str) -> list[Protocol]:
    """A protocol of a tree, as its levels have it."""
    levels = zip(_tree_levels(fabric), fabric.per_level, strict=True)
    return [c.algorithms[part].protocol(protocol) for part, c in levels]


def _tree_hops(fabric: Fabric) -> tuple[list[Array], Array]:
    """(hops up and down by level, whether a group crosses a level that has a tree)."""
    across: Array = False
    hops = []
    for r, c in zip(fabric.ranks, fabric.per_level, strict=True):
        network = "tree" in c.algorithms
        hops.append(2 * (ceil_log2(r) if network else r - 1))
        across = across | (network & (np.asarray(r) > 1))
    return hops, across


@algorithm(
    "tree",
    "all_reduce",
    times=r"$L = t_0 + 2F$, $H = 2F$, $X$ the slowest level's $\frac{2(r_l-1)}{r_l}\,\frac{S}{R_l}/(e b_l)$ "
    "(below: across a network)",
    legal="across a network",
)
def tree(name: str, op: str, payload: Array, fabric: Fabric) -> list[Candidate]:
    """A double binary tree over the network (Sanders, Speck and Träff, Parallel Computing 35(12),
    2009), chains inside the domains below it, up and down, all at the same time: 2·⌈log2 r_l⌉ hops
    there, 2·(r_l − 1) here."""
    wire = hierarchical_wire(op, payload, fabric.ranks)
    if np.any(fabric.across):
        hops = [2 * h for h in pipeline_hops(fabric)]
        return across_networks(name, fabric, wire, hops, hops, _tree_levels(fabric))
    hops, across = _tree_hops(fabric)
    if not np.any(across):
        return []
    found = []
    copy = fabric.copy(payload)
    for protocol in fabric.protocols(name):
        protocols = _on_tree(fabric, protocol)
        seconds = np.where(across, streamed(fabric, wire, hops, protocols) + copy, np.inf)
        found.append(Candidate(labelled(name, protocol), seconds, wire))
    return found


@algorithm(
    "nvls_tree",
    "all_reduce",
    times="the same, but that inside a rank sends the switch its $S$ once",
    legal="across a network, in-switch reduction inside",
    like="nvls",
)
def nvls_tree(name: str, op: str, payload: Array, fabric: Fabric) -> list[Candidate]:
    """The tree over the network with adding switches inside: a rank sends them its S once."""
    switch = fabric.per_level[0].algorithms.get(name)
    if switch is None or not any("tree" in c.algorithms for c in fabric.per_level):
        return []
    wire = (payload * 1.0, *hierarchical_wire(op, payload, fabric.ranks)[1:])
    adds = fabric.in_switch & (fabric.ranks[0] >= switch.min_ranks)
    if np.any(fabric.across):
        if not np.any(adds & fabric.across):
            return []
        hops = [2 * h for h in pipeline_hops(fabric)]
        levels = (name, *_tree_levels(fabric)[1:])
        found = across_networks(name, fabric, wire, hops, hops, levels)
        return [c._replace(seconds=np.where(adds, c.seconds, np.inf)) for c in found]
    hops, across = _tree_hops(fabric)
    protocols = [switch.fastest, *_on_tree(fabric, "simple")[1:]]
    seconds = streamed(fabric, wire, [0, *hops[1:]], protocols)
    return [Candidate(name, np.where(across & adds, seconds, np.inf), wire)]


# -- kernels inside the innermost level ----------------------------------------------------------------


def _inside(
    name: str, fabric: Fabric, payload: Array, sent: Array, able: Array, steps: int = 0
) -> list[Candidate]:
    """A kernel by which a rank sends ``sent`` bytes, in ``steps`` steps after the launch, inside the
    innermost level, where it is ``able`` and has as many ranks as the kernel's constants ask for."""
    constants = fabric.per_level[0].algorithms.get(name)
    if constants is None:
        return []
    p = constants.protocols[0]
    seconds = p.launch_s + steps * p.step_s + sent / (p.efficiency * fabric.bandwidth[0])
    legal = (fabric.outermost == 0) & able
    if constants.min_ranks > 2:
        legal = legal & (fabric.size >= constants.min_ranks)
    wire = (sent, *(0.0 * payload for _ in fabric.ranks[1:]))
    return [Candidate(name, np.where(legal, seconds, np.inf), wire)]


_PEERS = (
    "innermost level with peer-to-peer, and a stack with custom kernels; over PCIe for few ranks"
)
_SWITCH = "innermost level with in-switch reduction"


@algorithm(
    "nvls",
    "all_reduce",
    times=r"$t_0 + S / (e b)$, NCCL's kernel",
    legal=_SWITCH,
    kernel_of="nccl",
    start={"launch_s": 5e-5, "efficiency": 0.55},
)
def nvls(name: str, op: str, payload: Array, fabric: Fabric) -> list[Candidate]:
    """The switch adds and multicasts: each rank sends its S once."""
    return _inside(name, fabric, payload, payload * 1.0, fabric.in_switch)


@algorithm(
    "multimem",
    "all_reduce",
    times=r"$t_0 + S / (e b)$, vLLM's kernel",
    legal=_SWITCH,
    kernel_of="engine",
    start={"launch_s": 9e-6, "efficiency": 0.42},
)
def multimem(name: str, op: str, payload: Array, fabric: Fabric) -> list[Candidate]:
    """As NVLS, in a kernel of the engine's with a launch and an efficiency of its own."""
    return _inside(name, fabric, payload, payload * 1.0, fabric.in_switch)


@algorithm(
    "one_shot",
    "all_reduce",
    times=r"$t_0 + (n-1) S / (e b)$",
    legal=_PEERS,
    between_peers=True,
    kernel_of="engine",
    start={"efficiency": 0.6},
)
def one_shot(name: str, op: str, payload: Array, fabric: Fabric) -> list[Candidate]:
    """Every rank reads all others' buffers and adds: (n−1) · S, one step (small messages)."""
    return _inside(name, fabric, payload, (fabric.size - 1) * payload, fabric.peer_to_peer)


@algorithm(
    "two_shot",
    "all_reduce",
    times=r"$t_0 + 2a + \frac{2(n-1)}{n} S / (e b)$",
    legal="the same",
    between_peers=True,
    kernel_of="engine",
    start={"step_s": 2e-6, "efficiency": 0.6},
)
def two_shot(name: str, op: str, payload: Array, fabric: Fabric) -> list[Candidate]:
    """Every rank adds its 1/n, then reads the others' sums: 2(n−1)/n · S, two steps."""
    n = fabric.size
    return _inside(name, fabric, payload, 2.0 * (n - 1) / n * payload, fabric.peer_to_peer, 2)


# -- every rank to its peers, without a sum ------------------------------------------------------------


@algorithm(
    "direct",
    "all_to_all",
    "send_recv",
    times={
        "all_to_all": r"$t_0 + a + \frac{1}{n}S \cdot$ (ranks that are reached over the level)$/(e b_l) + "
        r"S / (n c)$; in its `ll` protocol every peer has a channel of its own, $\frac{1}{n}S / (e b)$; "
        "over PCIe every peer takes time of its own",
        "send_recv": "$t_0 + a + S / (e b)$ over the level that joins the pair",
    },
    ideal=True,
    like="ring",
)
def direct(name: str, op: str, payload: Array, fabric: Fabric) -> list[Candidate]:
    """all_to_all: 1/n of the buffer to every other rank, each over the level that joins the two.
    send_recv: the buffer over the outermost level of the pair. Both with one step of that level."""
    hops = _outermost_hop(fabric)
    if op == "all_to_all":
        return _apart(name, payload, fabric, everyone=True)
    return each_protocol(name, fabric, payload, [hop * payload for hop in hops], hops)


def _outermost_hop(fabric: Fabric) -> list[Array]:
    return [np.where(fabric.outermost == index, 1, 0) for index in range(len(fabric.ranks))]


def _apart(name: str, payload: Array, fabric: Fabric, everyone: bool) -> list[Candidate]:
    """1/n of a buffer to every other rank, each over the level that joins the two, and the copy of
    one's own; ``everyone`` sends so, or one rank alone."""
    wire: list[Array] = []
    peers: list[Array] = []
    inner: Array = 1
    for r in fabric.ranks:
        reached = inner * r - inner
        peers.append(reached)
        wire.append(reached / fabric.size * payload)
        inner = inner * r
    hops, copy = _outermost_hop(fabric), fabric.copy(payload)
    found = inside_nodes(name, fabric, payload, wire, hops, copy, peers)
    if np.any(fabric.across):
        # a handshake with every peer behind the network, and links that every pair of domains loads
        form = form_of(fabric)
        later_s = behind_network(fabric) * form.peer_s
        crowd: Array = 1.0
        if everyone:
            crowd = fall(fabric.domains, form.all_to_all, form.bisection_domains)
        levels = zip(fabric.ranks, hops, fabric.per_level, strict=True)
        along = [r - 1 if c.network is None else h for r, h, c in levels]
        found += across_networks(name, fabric, wire, along, hops, later_s=later_s, crowd=crowd)
    return found


@algorithm(
    "rooted",
    *ROOTED,
    times={
        "scatter, gather": "that of all_to_all, where one rank alone sends; over NVLink by all NICs of its node"
    },
    ideal=True,
    like="direct",
)
def rooted(name: str, op: str, payload: Array, fabric: Fabric) -> list[Candidate]:
    """The root sends 1/n of its buffer to every other rank, or gets it from there: what its own links
    carry is the time (nccl-tests' scatter_perf and gather_perf: grouped sends, S the root's buffer)."""
    return _apart(name, payload, fabric, everyone=False)


@algorithm(
    "chain",
    "broadcast",
    "reduce",
    times={"broadcast, reduce": "$t_0 + (n-1)a + S / (e b)$, a pipelined chain"},
    ideal=True,
    like="ring",
)
def chain(name: str, op: str, payload: Array, fabric: Fabric) -> list[Candidate]:
    """A pipelined chain through all ranks, to the root or from it: as many as a domain has ranks, each
    over a NIC of its own."""
    wire = [payload * share for share in ring_shares(fabric.ranks)]
    hops, filling = ring_hops(fabric.ranks), pipeline_hops(fabric)
    return each_protocol(name, fabric, payload, wire, hops, filling=filling, around=True)
