"""Properties of the collective model, and a second derivation of its bytes by message passing.

The simulations below know nothing of the formulas: they hold real chunks of data on every rank, send
them one by one, add them up, check that every rank ends with the right values, and count the bytes
that each device sends over each fabric level.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from meshwise.clusters.load import Cluster, load_cluster
from meshwise.cost.collectives.algorithms import hierarchical_wire
from meshwise.cost.collectives.collective import busbw_factor, candidates, cheapest
from meshwise.cost.collectives.ring_paths import ceil_log2, ring_hops, ring_shares
from meshwise.cost.estimate import price_layouts
from meshwise.layouts.layout import Layouts
from meshwise.layouts.placement import Group, place
from meshwise.models.load import load_model
from meshwise.stacks.load import load_stack
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Decode, Prefill, Training

FAST = settings(max_examples=60, deadline=None, derandomize=True)
FEW = settings(max_examples=25, deadline=None, derandomize=True)
IDEAL = load_stack("ideal")
VLLM = load_stack("vllm")
MEGATRON = load_stack("megatron-core")
OPS = st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"])
RINGS = st.sampled_from(["all_reduce", "all_gather", "reduce_scatter"])
SIZE = st.integers(1, 2**34).map(float)
STACKS = st.sampled_from([IDEAL, VLLM, MEGATRON])
CLUSTERS = st.sampled_from(
    ["dgx-a100", "hgx-h100", "hgx-b200", "gb200-nvl72", "l40s-8x", "mi300x-node", "aws-p4d",
     "rtx-4090-8x", "dgx-1-v100", "a100-pcie-8x", "tpu-v5p-pod"]
)  # fmt: skip


def group_of(n: int, cluster: Cluster) -> Group:
    return place("tp", np.int64(n), np.int64(1), np.int64(0), cluster)


def group(*ranks: int) -> Group:
    """A group with ``ranks`` per level whose neighbours all use the outer levels at once."""
    inner = [int(np.prod(ranks[:i])) for i in range(len(ranks))]
    return Group("tp", tuple(np.int64(r) for r in ranks), tuple(np.int64(i) for i in inner))


def sizes(cluster: Cluster) -> list[int]:
    """Group sizes from 1 over the whole cluster that fill domains evenly."""
    node = cluster.domain_sizes()[0]
    found = [d for d in range(1, node + 1) if node % d == 0]
    total = cluster.devices
    return found + [node * k for k in (2, 4, 8) if node * k <= total and len(cluster.levels) > 1]


@st.composite
def placed(draw: Any) -> tuple[Cluster, int]:
    cluster = load_cluster(draw(CLUSTERS))
    return cluster, draw(st.sampled_from(sizes(cluster)))


# -- properties --------------------------------------------------------------------------------------


@FAST
@given(OPS, SIZE, placed(), STACKS)
def test_cost_and_wire_bytes_are_never_negative(
    op: str, payload: float, where: tuple[Cluster, int], stack: Stack
) -> None:
    cluster, n = where
    found = cheapest(op, payload, group_of(n, cluster), cluster, stack)
    assert np.isfinite(found.seconds) and found.seconds >= 0
    assert all(w >= 0 for w in found.wire_bytes)
    assert len(found.wire_bytes) == len(cluster.levels)
    if n > 1:
        assert found.seconds > 0 and sum(float(w) for w in found.wire_bytes) > 0


@FAST
@given(OPS, SIZE, CLUSTERS, STACKS)
def test_one_rank_costs_exactly_nothing(op: str, payload: float, name: str, stack: Stack) -> None:
    cluster = load_cluster(name)
    for found in candidates(op, payload, group_of(1, cluster), cluster, stack):
        assert found.seconds == 0
        assert all(w == 0 for w in found.wire_bytes)


@FAST
@given(OPS, SIZE, SIZE, placed(), STACKS)
def test_more_bytes_never_cost_less(
    op: str, a: float, b: float, where: tuple[Cluster, int], stack: Stack
) -> None:
    cluster, n = where
    small, large = sorted((a, b))
    g = group_of(n, cluster)
    assert (
        cheapest(op, small, g, cluster, stack).seconds
        <= cheapest(op, large, g, cluster, stack).seconds
    )


@FAST
@given(OPS, SIZE, placed(), STACKS, st.floats(1.0, 20.0), st.integers(0, 2))
def test_more_bandwidth_never_costs_more(
    op: str, payload: float, where: tuple[Cluster, int], stack: Stack, factor: float, index: int
) -> None:
    cluster, n = where
    index %= len(cluster.levels)
    levels = list(cluster.levels)
    faster = levels[index].bandwidth_bytes_per_s * factor
    levels[index] = msgspec.structs.replace(levels[index], bandwidth_bytes_per_s=faster)
    better = msgspec.structs.replace(cluster, levels=tuple(levels))
    g = group_of(n, cluster)
    assert (
        cheapest(op, payload, g, better, stack).seconds
        <= cheapest(op, payload, g, cluster, stack).seconds
    )


@FAST
@given(OPS, SIZE, placed(), STACKS)
def test_the_chosen_is_the_cheapest(
    op: str, payload: float, where: tuple[Cluster, int], stack: Stack
) -> None:
    cluster, n = where
    g = group_of(n, cluster)
    chosen, every = (
        cheapest(op, payload, g, cluster, stack),
        candidates(op, payload, g, cluster, stack),
    )
    assert chosen.seconds == min(float(c.seconds) for c in every)
    named = every[int(chosen.chosen)]
    assert named.algorithm == chosen.names[int(chosen.chosen)]
    assert named.seconds == chosen.seconds
    assert tuple(named.wire_bytes) == tuple(chosen.wire_bytes)


@FAST
@given(SIZE, placed())
def test_an_ideal_all_reduce_is_its_two_halves(payload: float, where: tuple[Cluster, int]) -> None:
    cluster, n = where
    g = group_of(n, cluster)
    whole, scatter, gather = (
        cheapest(op, payload, g, cluster, IDEAL)
        for op in ("all_reduce", "reduce_scatter", "all_gather")
    )
    assert float(whole.seconds) == pytest.approx(float(scatter.seconds + gather.seconds), rel=1e-12)
    for w, s, g_ in zip(whole.wire_bytes, scatter.wire_bytes, gather.wire_bytes, strict=True):
        assert float(w) == pytest.approx(float(s + g_), rel=1e-12)


@FAST
@given(RINGS | st.just("all_to_all"), SIZE, st.sampled_from([2, 4, 8]))
def test_bus_bandwidth_is_the_links_at_no_latency(op: str, payload: float, n: int) -> None:
    """nccl-tests' busbw is made so that it recovers the wire rate whatever n is."""
    cluster = load_cluster("dgx-a100")
    seconds = float(cheapest(op, payload, group_of(n, cluster), cluster, IDEAL).seconds)
    assert payload / seconds * busbw_factor(op, n) == pytest.approx(300e9, rel=1e-12)


@FAST
@given(SIZE, st.sampled_from([2, 4, 8]), st.floats(0.01, 1.0), st.integers(1, 1000))
def test_stated_efficiency_and_latency_are_used(
    payload: float, n: int, efficiency: float, microseconds: int
) -> None:
    """C6, C7: 2(n−1)/n · S/(e·b) + 2(n−1) · latency, with the figures that a cluster states."""
    base = load_cluster("dgx-a100")
    latency = microseconds * 1e-6
    level = msgspec.structs.replace(
        base.levels[0], efficiency=efficiency, own_latency=True, latency_s=latency, in_switch=False
    )
    cluster = msgspec.structs.replace(base, levels=(level, base.levels[1]))
    stack = Stack(name="nccl only", in_switch=False)
    found = candidates("all_reduce", payload, group_of(n, cluster), cluster, stack)
    expected = 2 * (n - 1) / n * payload / (efficiency * 300e9) + 2 * (n - 1) * latency
    rings = [float(c.seconds) for c in found if c.algorithm.startswith("ring")]
    assert rings == [pytest.approx(expected, rel=1e-12)] * len(rings) and rings


@FAST
@given(RINGS, SIZE, st.sampled_from([2, 4, 8]), STACKS, st.sampled_from([1, 2, 4, 8]))
def test_inside_a_node_never_costs_more_than_across(
    op: str, payload: float, n: int, stack: Stack, nics: int
) -> None:
    """The same ranks, all on one node or half on each of two, where the node's fabric is faster."""
    for name in ("dgx-a100", "hgx-h100", "hgx-b200"):
        cluster = load_cluster(name, nics=nics)
        inside, across = group(n, 1), group(n // 2, 2)
        here, there = (cheapest(op, payload, g, cluster, stack).seconds for g in (inside, across))
        assert here <= there * (1 + 1e-12)


@FAST
@given(RINGS, SIZE, st.lists(st.sampled_from([1, 2, 3, 4, 8]), min_size=1, max_size=4))
def test_ring_bytes_add_up(op: str, payload: float, ranks: list[int]) -> None:
    """Over all levels a rank sends (n−1)/n · S, twice that for all_reduce, wherever the ranks sit;
    the hierarchical algorithm sends the same sum."""
    n = int(np.prod(ranks))
    trips = 2 if op == "all_reduce" else 1
    shares = [float(s) for s in ring_shares([np.int64(r) for r in ranks])]
    assert sum(shares) == pytest.approx(1.0 if n > 1 else 0.0, abs=1e-12)
    total = trips * (n - 1) / n * payload
    wire = hierarchical_wire(op, payload, [np.int64(r) for r in ranks])
    assert sum(float(w) for w in wire) == pytest.approx(total, rel=1e-12)


@FAST
@given(st.lists(st.sampled_from([1, 2, 3, 4, 8]), min_size=1, max_size=4))
def test_hops_of_a_ring_by_level(ranks: list[int]) -> None:
    """A piece of data passes n − 1 neighbours; those of a real ring, counted by the outermost level
    at which they differ, wherever the piece begins at the end of a domain."""
    hops = [int(h) for h in ring_hops([np.int64(r) for r in ranks])]
    assert sum(hops) == int(np.prod(ranks)) - 1
    order = places(tuple(ranks))
    for index, expected in enumerate(hops):
        crossed = 0
        for a, b in itertools.pairwise(order):
            crossed += max(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y) == index
        assert crossed == expected


@FAST
@given(RINGS | st.just("all_to_all"), SIZE, st.sampled_from([2, 4, 8, 16, 32]))
def test_more_nodes_never_cost_less(op: str, payload: float, nodes: int) -> None:
    """Whole nodes; all_gather of a fixed total, too: constants measured on two nodes extrapolate."""
    for name in ("oci-gpu4", "gcp-a3-mega", "aws-p5", "hgx-h100"):
        cluster = load_cluster(name, nodes=64)
        few, many = (
            cheapest(op, payload, group(8, k), cluster, MEGATRON).seconds
            for k in (nodes, 2 * nodes)
        )
        assert few <= many * (1 + 1e-12)


@given(st.integers(1, 2**40))
def test_ceil_log2(n: int) -> None:
    assert int(ceil_log2(np.int64(n))) == (n - 1).bit_length()


# -- second derivation: messages ---------------------------------------------------------------------

Place = tuple[int, ...]  # coordinates of a rank, innermost level first


class Wire:
    """Counts bytes sent by each rank over each level; a message crosses the outermost level in which
    its ends differ."""

    def __init__(self, ranks: tuple[int, ...]) -> None:
        self.ranks = ranks
        self.sent: dict[tuple[Place, int], float] = defaultdict(float)

    def send(self, a: Place, b: Place, size: float) -> None:
        level = max(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
        self.sent[a, level] += size

    def level(self, index: int) -> list[float]:
        return [self.sent[p, index] for p in places(self.ranks)]

    def mean(self, index: int) -> float:
        return float(np.mean(self.level(index)))


def places(ranks: tuple[int, ...]) -> list[Place]:
    return [tuple(reversed(p)) for p in itertools.product(*(range(r) for r in reversed(ranks)))]


def reduce_scatter_ring(order: list[Place], data: dict[Place, np.ndarray], wire: Wire) -> None:
    """Ring reduce-scatter of equal chunks: afterwards the rank at position i has the sum of chunk i."""
    n = len(order)
    chunks = {p: np.array_split(data[p], n) for p in order}
    for round_ in range(n - 1):
        moving = []
        for i, p in enumerate(order):
            c = (i - 1 - round_) % n
            wire.send(p, order[(i + 1) % n], chunks[p][c].nbytes)
            moving.append((order[(i + 1) % n], c, chunks[p][c].copy()))
        for q, c, values in moving:
            chunks[q][c] = chunks[q][c] + values
    for i, p in enumerate(order):
        data[p] = chunks[p][i]


def all_gather_ring(order: list[Place], data: dict[Place, np.ndarray], wire: Wire) -> None:
    n = len(order)
    have = {p: {i: data[p]} for i, p in enumerate(order)}
    for round_ in range(n - 1):
        moving = []
        for i, p in enumerate(order):
            c = (i - round_) % n
            wire.send(p, order[(i + 1) % n], have[p][c].nbytes)
            moving.append((order[(i + 1) % n], c, have[p][c]))
        for q, c, values in moving:
            have[q][c] = values
    for p in order:
        data[p] = np.concatenate([have[p][c] for c in range(n)])


def run_ring(op: str, order: list[Place], data: dict[Place, np.ndarray], wire: Wire) -> None:
    if op in ("all_reduce", "reduce_scatter"):
        reduce_scatter_ring(order, data, wire)
    if op in ("all_reduce", "all_gather"):
        all_gather_ring(order, data, wire)


SHAPES = st.sampled_from([(2,), (4,), (2, 2), (4, 2), (2, 3), (8, 2), (2, 2, 2), (4, 2, 2), (3, 2)])


def fresh(ranks: tuple[int, ...], op: str, size: int) -> tuple[dict[Place, np.ndarray], np.ndarray]:
    """(each rank's input, the right result before scattering)."""
    rng = np.random.default_rng(0)
    every = places(ranks)
    if op == "all_gather":
        data = {p: rng.integers(0, 99, size // len(every)).astype(np.float64) for p in every}
        return data, np.concatenate([data[p] for p in every])
    data = {p: rng.integers(0, 99, size).astype(np.float64) for p in every}
    return data, np.sum(list(data.values()), axis=0)


@FAST
@given(RINGS, SHAPES)
def test_simulated_rings_send_what_the_formula_says(op: str, ranks: tuple[int, ...]) -> None:
    """As many rings as the largest inner domain has ranks, each with its share of the buffer."""
    n = int(np.prod(ranks))
    rails = n // ranks[-1]
    values = n * 2  # per rail
    wire = Wire(ranks)
    for rail in range(rails):
        order = multi_rail(ranks, rail)
        assert sorted(order) == sorted(places(ranks))
        data, right = fresh(ranks, op, values)
        run_ring(op, order, data, wire)
        for i, p in enumerate(order):
            if op == "all_reduce":
                assert (data[p] == right).all()
            elif op == "reduce_scatter":
                assert (data[p] == np.array_split(right, n)[i]).all()
            else:
                assert sorted(data[p]) == sorted(right)
    payload = float(rails * values * 8)
    trips = 2 if op == "all_reduce" else 1
    total = trips * (n - 1) / n * payload
    shares = [float(s) for s in ring_shares([np.int64(r) for r in ranks])]
    for index, share in enumerate(shares):
        assert wire.mean(index) == pytest.approx(total * share, rel=1e-12)
        # the rails share the load evenly: no rank sends more than another
        assert max(wire.level(index)) == pytest.approx(min(wire.level(index)), rel=1e-12)


def multi_rail(ranks: tuple[int, ...], rail: int) -> list[Place]:
    """Ring ``rail``: inside every domain the ranks are visited in turn beginning with another one."""
    every = places(ranks)
    inner = int(np.prod(ranks[:-1]))
    order: list[Place] = []
    for domain in range(ranks[-1]):
        block = every[domain * inner : (domain + 1) * inner]
        order += rotate(block, ranks[:-1], rail)
    return order


def rotate(block: list[Place], ranks: tuple[int, ...], by: int) -> list[Place]:
    """The ranks of a domain, sub-domain by sub-domain, so that the last one is rank ``by`` − 1: each
    rank of the domain leaves it in exactly one rail, and likewise in every domain below."""
    if len(ranks) <= 1:
        return block[by:] + block[:by]
    size = len(block) // ranks[-1]
    subs = [block[i * size : (i + 1) * size] for i in range(ranks[-1])]
    first, inner = by % ranks[-1], by // ranks[-1]
    subs = subs[first:] + subs[:first]
    return [p for sub in subs for p in rotate(sub, ranks[:-1], inner)]


@FAST
@given(RINGS, SHAPES)
def test_simulated_hierarchy_sends_what_the_formula_says(op: str, ranks: tuple[int, ...]) -> None:
    """Reduce-scatter inside, on what is left outside, gather back: real data, counted."""
    n = int(np.prod(ranks))
    wire = Wire(ranks)
    data, right = fresh(ranks, op, n * 2)
    levels = range(len(ranks))

    def rings(level: int) -> list[list[Place]]:
        found: dict[Place, list[Place]] = defaultdict(list)
        for p in places(ranks):
            found[(*p[:level], *p[level + 1 :])].append(p)
        return list(found.values())

    if op in ("all_reduce", "reduce_scatter"):
        for level in levels:
            for order in rings(level):
                reduce_scatter_ring(order, data, wire)
    if op in ("all_reduce", "all_gather"):
        for level in reversed(levels):
            for order in rings(level):
                all_gather_ring(order, data, wire)
    if op == "reduce_scatter":
        assert sum(float(v.sum()) for v in data.values()) == float(right.sum())
    else:
        assert all(sorted(v) == sorted(right) for v in data.values())
    payload = float(right.nbytes)
    for index, expected in enumerate(hierarchical_wire(op, payload, [np.int64(r) for r in ranks])):
        for sent in wire.level(index):
            assert sent == pytest.approx(float(expected), rel=1e-12)


def test_bytes_that_leave_a_node() -> None:
    """C15: 16 ranks on 2 nodes, all_reduce of D: one flat ring takes 1.875·D out of a node, the
    hierarchical algorithm D; many rails take the flat ring's sum out over all NICs."""
    ranks, d = (8, 2), 16 * 8.0
    flat = Wire(ranks)
    data, _ = fresh(ranks, "all_reduce", 16)
    run_ring("all_reduce", places(ranks), data, flat)
    assert sum(flat.level(1)) / 2 == 1.875 * d
    share = float(ring_shares([np.int64(8), np.int64(2)])[1])
    assert 8 * share * 2 * 15 / 16 * d == 1.875 * d
    inside, across = hierarchical_wire("all_reduce", d, [np.int64(8), np.int64(2)])
    assert 8 * float(across) == d
    assert float(inside) == 1.75 * d


@FAST
@given(SHAPES)
def test_simulated_all_to_all(ranks: tuple[int, ...]) -> None:
    """A message of 1/n of the buffer to every other rank."""
    cluster = load_cluster("dgx-a100")
    assume(len(ranks) <= len(cluster.levels))
    wire, every = Wire(ranks), places(ranks)
    payload = 8.0 * len(every)
    for a, b in itertools.permutations(every, 2):
        wire.send(a, b, payload / len(every))
    padded = (*ranks, *[1] * (len(cluster.levels) - len(ranks)))
    found = cheapest("all_to_all", payload, group(*padded), cluster, IDEAL)
    for index in range(len(ranks)):
        assert wire.level(index) == [float(found.wire_bytes[index])] * len(every)


# -- arrays ------------------------------------------------------------------------------------------


@FAST
@given(OPS, st.lists(SIZE, min_size=1, max_size=6), CLUSTERS, STACKS)
def test_arrays_price_as_scalars_to_the_bit(
    op: str, payloads: list[float], name: str, stack: Stack
) -> None:
    cluster = load_cluster(name)
    degrees = sizes(cluster)
    n = np.array(degrees)[:, None]
    g = place("tp", n, np.int64(1), np.int64(0), cluster)
    s = np.array(payloads)[None, :]
    many = cheapest(op, s, g, cluster, stack)
    for i, degree in enumerate(degrees):
        for j, payload in enumerate(payloads):
            one = cheapest(op, np.float64(payload), group_of(degree, cluster), cluster, stack)
            at = lambda a, i=i, j=j: np.broadcast_to(a, (len(degrees), len(payloads)))[i, j]  # noqa: E731
            assert at(many.seconds) == one.seconds
            assert many.names[int(at(many.chosen))] == one.names[int(one.chosen)]
            for w, expected in zip(many.wire_bytes, one.wire_bytes, strict=True):
                assert at(w) == expected


AXES: dict[str, list[Any]] = {
    "tp": [1, 2, 4, 8, 16],
    "pp": [1, 2, 4],
    "dp": [1, 2, 4],
    "cp": [1, 2],
    "micro_batch": [1, 2, 4],
    "sequence_parallel": [False, True],
    "recompute": [0, 1, 2],
    "shard": [0, 1, 2, 3],
    "vp": [1, 2],
}
EXPERT_AXES: dict[str, list[Any]] = {
    "tp": [2, 4], "dp": [4, 8], "ep": [1, 2, 4, 8], "etp": [0, 1, 2], "pp": [1, 2],
    "micro_batch": [1, 2], "sequence_parallel": [False, True], "shard": [0, 1],
}  # fmt: skip


def same(
    model_name: str,
    work: Any,
    stack: Stack,
    axes: dict[str, list[Any]],
    picks: int,
    on: str = "dgx-a100",
) -> None:
    """``picks`` layouts of the mesh, each priced alone: the same numbers to the bit."""
    model, cluster = load_model(model_name), load_cluster(on)
    shape = tuple(len(v) for v in axes.values())
    mesh = {}  # np.ix_ would turn the switches into indices
    for axis, (key, values) in enumerate(axes.items()):
        mesh[key] = np.array(values).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    many = price_layouts(model, cluster, work, stack, Layouts(**mesh))
    rng = np.random.default_rng(1)
    for _ in range(picks):
        at = tuple(int(rng.integers(n)) for n in shape)
        chosen = {k: np.asarray(v[i])[()] for (k, v), i in zip(axes.items(), at, strict=True)}
        one = price_layouts(model, cluster, work, stack, Layouts(**chosen))
        for field in (
            "step_s",
            "memory_bytes",
            "compute_s",
            "exposed_comm_s",
            "comm_s",
            "bubble_s",
        ):
            value = np.broadcast_to(getattr(many, field), shape)[at]
            assert value == getattr(one, field), (field, chosen)
        assert np.broadcast_to(many.payload_bytes, shape)[at] == one.payload_bytes
        assert np.broadcast_to(many.fits, shape)[at] == one.fits
        for w, expected in zip(many.wire_bytes, one.wire_bytes, strict=True):
            assert np.broadcast_to(w, shape)[at] == expected
        fast = np.broadcast_to(many.fast_step_s, shape)[at]
        assert fast == one.fast_step_s
        assert float(fast) == pytest.approx(float(one.step_s), rel=1e-9)
        assert float(sum(one.memory.values())) == pytest.approx(float(one.memory_bytes), rel=1e-12)


@FEW
@given(
    st.sampled_from(["gpt3-175b", "llama-3-70b", "gemma-2-27b", "command-r-plus"]),
    st.sampled_from(["megatron-core", "megatron-2021", "ideal", "deepspeed"]),
    st.sampled_from(["dgx-a100", "gb200-nvl72", "aws-p4d", "frontier"]),
    st.data(),
)
def test_a_mesh_prices_as_its_layouts(model: str, stack: str, on: str, data: Any) -> None:
    axes = {
        k: data.draw(
            st.lists(st.sampled_from(v), min_size=1, max_size=len(v), unique=True), label=k
        )
        for k, v in AXES.items()
    }
    if axes["vp"] != [1] and 1 in axes["pp"]:
        axes["vp"] = [1]
    same(model, Training(batch=64, seq=2048), load_stack(stack), axes, picks=8, on=on)


@FEW
@given(
    st.sampled_from(["mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v2-lite", "deepseek-v3"]),
    st.sampled_from(["megatron-core", "ideal"]),
    st.data(),
)
def test_a_mesh_of_experts_prices_as_its_layouts(model: str, stack: str, data: Any) -> None:
    axes = {
        k: data.draw(
            st.lists(st.sampled_from(v), min_size=1, max_size=len(v), unique=True), label=k
        )
        for k, v in EXPERT_AXES.items()
    }
    same(model, Training(batch=64, seq=2048), load_stack(stack), axes, picks=8)


@FEW
@given(
    st.sampled_from(["llama-3-70b", "gemma-3-27b", "mixtral-8x7b", "deepseek-v3"]),
    st.sampled_from(["vllm", "sglang", "trtllm", "ideal"]),
    st.booleans(),
)
def test_inference_meshes_price_as_their_layouts(model: str, stack: str, decode: bool) -> None:
    work = Decode(batch=32, context=4096) if decode else Prefill(batch=8, seq=1024)
    same(model, work, load_stack(stack), {"tp": [1, 2, 4, 8, 16], "pp": [1, 2, 4]}, picks=12)


@pytest.mark.parametrize("name", ["tpu-v5e-pod", "tpu-v4-pod", "gb200-nvl72", "hgx-h100"])
@pytest.mark.parametrize("op", ["all_to_all", "scatter", "gather", "all_gather", "broadcast"])
def test_nothing_is_quicker_than_its_wire(name: str, op: str) -> None:
    """Of a large payload: (n - 1)/n of it passes the links of one device, in every algorithm."""
    cluster, payload = load_cluster(name), 2.0**33
    for n in (8, 64, 256, 2048):
        if n <= cluster.devices and n <= cluster.levels[0].ranks:
            group = group_of(n, cluster)
            each = candidates(op, np.float64(payload), group, cluster, load_stack("nccl"))
            least = (n - 1) / n * payload / cluster.levels[0].bandwidth_bytes_per_s
            assert min(float(c.seconds) for c in each) >= least, (name, op, n)
