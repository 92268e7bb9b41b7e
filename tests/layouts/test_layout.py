"""Where groups sit on the fabric: the levels' ranks always multiply to the group's size."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from meshwise.clusters.load import cluster_from_table
from meshwise.layouts.placement import place

LEVELS = st.lists(st.integers(1, 9), min_size=1, max_size=4)


def cluster(ranks: list[int]):  # type: ignore[no-untyped-def]
    levels = [{"ranks": r, "bandwidth": "100 GB/s", "latency": "2 us"} for r in ranks]
    return cluster_from_table({"device": "a100", "level": levels}, "any")


@given(LEVELS, st.integers(1, 96), st.integers(1, 16), st.booleans())
def test_ranks_multiply_to_the_size(ranks: list[int], size: int, stride: int, inner: bool) -> None:
    total = 0 if inner else size * stride
    group = place("tp", np.int64(size), np.int64(stride), np.int64(total), cluster(ranks))
    assert int(group.size) == size
    assert all(int(r) >= 1 for r in group.ranks)


@given(LEVELS, st.integers(1, 96))
def test_no_domain_holds_more_than_it_has(ranks: list[int], size: int) -> None:
    c = cluster(ranks)
    group = place("tp", np.int64(size), np.int64(1), np.int64(0), c)
    inside = 1
    for r, domain in zip(group.ranks[:-1], c.domain_sizes(), strict=False):
        inside *= int(r)
        assert inside <= domain


def test_arrays_place_as_scalars_do() -> None:
    c = cluster([4, 2, 16])
    sizes = np.array([1, 2, 4, 7, 8, 10, 14, 20, 28, 64])
    together = place("tp", sizes, np.int64(1), np.int64(0), c)
    for i, size in enumerate(sizes):
        alone = place("tp", size, np.int64(1), np.int64(0), c)
        assert [int(np.broadcast_to(r, sizes.shape)[i]) for r in together.ranks] == [
            int(r) for r in alone.ranks
        ]
