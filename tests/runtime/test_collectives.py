"""Collectives made of sends: exact sums, the same bits everywhere, every byte accounted for."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from tests.runtime import ranks_collectives as ranks

from meshwise.errors import InputError
from meshwise.runtime.collectives import quantised

# unit roundoff: half of the distance between 1 and the next number
ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
SHAPES = [1, 2, 3, 5, 64, 1000, 4097, (3, 5, 7)]
LARGEST_ERROR = {"int8": (0.0, 0.01), "e4m3": (0.02, 0.04), "e5m2": (0.04, 0.08)}


def numel(shape: Any) -> int:
    return torch.Size([shape] if isinstance(shape, int) else shape).numel()


def same_bits(found: list[dict[str, Any]]) -> None:
    """Within every group."""
    digests = defaultdict(set)
    for f in found:
        digests[f["ranks"]].add(f["digest"])
    assert all(len(d) == 1 for d in digests.values())


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("dtype", ROUNDOFF)
def test_ring(crew: Any, size: int, dtype: str) -> None:
    """Within the bound of any summation order, (N - 1) u Σ|x|; 2 (N - 1) · payload bytes in all, each to
    the next rank, and an equal part from each where N divides."""
    for shape in SHAPES:
        found = crew.run(ranks.reduced, "ring", size, False, shape, dtype, {})
        same_bits(found)
        payload = numel(shape) * getattr(torch, dtype).itemsize
        for f in found:
            assert f["element"] <= 1.01 * (size - 1) * ROUNDOFF[dtype], (shape, f)
            assert set(f["sent"][0]) <= {(f["rank"] + 1) % size}
            if numel(shape) % size == 0:
                assert f["sent"][0] == {(f["rank"] + 1) % size: 2 * (size - 1) * payload // size}
        for ranks_of in {f["ranks"] for f in found}:
            members = [f for f in found if f["ranks"] == ranks_of]
            assert sum(sum(f["sent"][0].values()) for f in members) == 2 * (size - 1) * payload


@pytest.mark.parametrize("dtype", ROUNDOFF)
def test_hierarchical(crew: Any, dtype: str) -> None:
    """In any number of pieces. Inside a node each of two ranks sends half of the payload twice: once to
    sum, once summed."""
    for shape in SHAPES:
        for chunks in (1, 2, 3, 7):
            found = crew.run(
                ranks.reduced, "hierarchical", 4, True, shape, dtype, {"chunks": chunks, "least": 1}
            )
            same_bits(found)
            payload = numel(shape) * getattr(torch, dtype).itemsize
            for f in found:
                assert f["element"] <= 1.01 * 3 * ROUNDOFF[dtype], (shape, chunks, f)
                assert f["sent"][0] == {}
            inside = [sum(f["sent"][1].values()) for f in found]
            assert inside[0] + inside[1] == inside[2] + inside[3] == 2 * payload


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("dtype", ROUNDOFF)
def test_reduce_scatter_and_all_gather(crew: Any, size: int, dtype: str) -> None:
    """Narrow types are summed in fp32 and rounded once. A rank sends each other one the part that is
    theirs, or its own."""
    for outer, rows in ((1, 1), (3, 2), (1, 5), (2, 341)):
        found = crew.run(ranks.sharded, "reduce_scatter", size, outer, rows, dtype, None)
        once = ROUNDOFF[dtype] + (size - 1) * ROUNDOFF["float32"]
        bound = once if ROUNDOFF[dtype] > ROUNDOFF["float32"] else (size - 1) * ROUNDOFF[dtype]
        for f in found:
            others = [r for r in range(size) if r != f["rank"]]
            assert f["element"] <= 1.01 * bound
            assert f["sent"] == dict.fromkeys(others, f["bytes"] // size)
        for f in crew.run(ranks.sharded, "all_gather", size, outer, rows, dtype, None):
            others = [r for r in range(size) if r != f["rank"]]
            assert f["norm"] == 0.0
            assert f["sent"] == dict.fromkeys(others, f["bytes"])


# -- narrow --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", quantised.LARGEST_VALUE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_quantisation(form: str, dtype: torch.dtype) -> None:
    """Relative error of Gaussian values, and never more than half a step of the format (e4m3 has 3 bits
    of mantissa, e5m2 2) for an element of normal size."""
    x = torch.randn(300, 129, generator=torch.Generator().manual_seed(0)).to(dtype)
    packed = quantised.quantise(x, form)
    assert packed.dtype == torch.uint8
    assert packed.numel() == quantised.packed_bytes(x.numel(), 128)
    got = quantised.dequantise(packed, x.numel(), form).view(x.shape)
    want = x.float()
    low, high = LARGEST_ERROR[form]
    assert low <= float((got - want).norm() / want.norm()) <= high
    blocks = torch.nn.functional.pad(want.view(-1), (0, -want.numel() % 128)).view(-1, 128)
    largest = blocks.abs().amax(1).repeat_interleave(128)[: want.numel()].view(x.shape)
    off = (got - want).abs()
    if form == "int8":
        assert bool((off <= 0.501 * largest / 127).all())
    else:
        step = {"e4m3": 2.0**-4, "e5m2": 2.0**-3}[form]
        assert bool((off <= 1.001 * step * want.abs() + largest * 2.0**-14).all())


@pytest.mark.parametrize("form", quantised.LARGEST_VALUE)
@pytest.mark.parametrize("group", [1, 3, 32, 128, 1024])
def test_groups_of_any_size(form: str, group: int) -> None:
    for n in (1, 2, 31, 128, 1000):
        x = torch.randn(n, generator=torch.Generator().manual_seed(n)) * 1e3
        got = quantised.dequantise(quantised.quantise(x, form, group), n, form, group)
        assert float((got - x).norm() / x.norm()) <= 1.2 * LARGEST_ERROR[form][1]
        if group == 1:
            assert torch.allclose(got, x, rtol=1e-6)


def test_integers_survive_int8() -> None:
    """A group with 127 in it has the scale 1."""
    x = torch.arange(-127.0, 128.0)
    x = torch.cat([x, torch.tensor([0.0])])
    x[1::128] = 127.0
    assert torch.allclose(quantised.dequantise(quantised.quantise(x, "int8"), 256, "int8"), x)


@pytest.mark.parametrize("form", quantised.LARGEST_VALUE)
def test_zeros_tiny_and_broken_values(form: str) -> None:
    def there_and_back(x: torch.Tensor) -> torch.Tensor:
        return quantised.dequantise(quantised.quantise(x, form), x.numel(), form)

    assert torch.equal(there_and_back(torch.zeros(200)), torch.zeros(200))
    for magnitude in (1e-30, 1e-37, 1e-40, 1e-44, 3e38):
        x = torch.zeros(256)
        x[3], x[5] = magnitude, -magnitude / 2
        got = there_and_back(x)
        assert bool(got.isfinite().all())
        assert float((got - x).abs().max()) <= max(0.13 * magnitude, 2.0**-126 * 57344)
    for broken in (float("nan"), float("inf"), -float("inf")):
        x = torch.ones(384)
        x[130] = broken
        got = there_and_back(x)
        assert bool(got[128:256].isnan().all())
        assert torch.allclose(got[:128], torch.ones(128))
        assert torch.allclose(got[256:], torch.ones(128))


@pytest.mark.parametrize("form", quantised.LARGEST_VALUE)
@pytest.mark.parametrize(("size", "two_nodes"), [(2, False), (4, False), (4, True)])
def test_narrow_all_reduce(crew: Any, form: str, size: int, two_nodes: bool) -> None:
    for shape, chunks in ((1, 1), (3, 4), (1000, 3), (40_000, 1), (40_000, 4)):
        found = crew.run(
            ranks.reduced, form, size, two_nodes, shape, "float32", {"chunks": chunks, "least": 1}
        )
        same_bits(found)
        for f in found:
            if numel(shape) >= 1000:
                assert f["norm"] <= LARGEST_ERROR[form][1]
            else:  # of an element: each value that is sent is off by half a step
                assert f["element"] <= 2 * {"int8": 0.5 / 127, "e4m3": 2**-4, "e5m2": 2**-3}[form]


def test_bytes_of_a_narrow_all_reduce(crew: Any) -> None:
    """Two shots: to each other rank its part, then one's own sum. Two ranks send the whole, once."""
    n = 4096
    for f in crew.run(ranks.reduced, "int8", 4, False, n, "float32", {}):
        part = quantised.packed_bytes(n // 4, 128)
        assert part == n // 4 * 33 // 32
        others = [r for r in range(4) if r != f["rank"]]
        assert f["sent"] == [dict.fromkeys(others, 2 * part)]
    for f in crew.run(ranks.reduced, "int8", 2, False, n, "float32", {}):
        assert f["sent"] == [{1 - f["rank"]: n * 33 // 32}]
    # over nodes: exact inside, half of it narrow between them
    for f in crew.run(ranks.reduced, "int8", 4, True, n, "float32", {"chunks": 4, "least": 1}):
        flat, local, across = f["sent"]
        assert flat == {}
        assert list(local.values()) == [4 * n]
        assert list(across.values()) == [n // 2 * 33 // 32]


@pytest.mark.parametrize("form", quantised.LARGEST_VALUE)
@pytest.mark.parametrize("two_nodes", [False, True])
def test_a_broken_value_stays_visible(crew: Any, form: str, two_nodes: bool) -> None:
    for value in (float("nan"), float("inf")):
        found = crew.run(ranks.poisoned, form, two_nodes, value)
        assert all(300 in f and len(f) <= 128 for f in found)
        assert len({tuple(f) for f in found}) == 1


@pytest.mark.parametrize("form", quantised.LARGEST_VALUE)
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("outer", [1, 2])
def test_narrow_shards(crew: Any, form: str, size: int, outer: int) -> None:
    rows = 341
    found = crew.run(ranks.sharded, "all_gather", size, outer, rows, "bfloat16", form)
    packed = quantised.packed_bytes(3 * outer * rows, 128)
    for f in found:
        others = [r for r in range(size) if r != f["rank"]]
        assert LARGEST_ERROR[form][0] <= f["norm"] <= LARGEST_ERROR[form][1]
        assert f["sent"] == dict.fromkeys(others, packed)
    for first in range(0, 4, size):  # neighbours are a group
        assert len({f["digest"] for f in found[first : first + size]}) == 1
    for f in crew.run(ranks.sharded, "reduce_scatter", size, outer, rows, "bfloat16", form):
        others = [r for r in range(size) if r != f["rank"]]
        assert f["norm"] <= LARGEST_ERROR[form][1]
        assert f["sent"] == dict.fromkeys(others, packed)


# -- refused -------------------------------------------------------------------------------------


def test_what_cannot_be_done_is_said_on_every_rank(crew: Any) -> None:
    for said in crew.run(ranks.refused):
        assert [s.split(" ")[0] for s in said] == [
            *("a", "a", "a"),  # collective in place takes a contiguous tensor
            "no",  # hierarchy in ranks on nodes (0, 0, 0, 0)
            *("(1,", "(1,", "(1,"),
            "comm_dtype:",
        ]


def test_unknown_format() -> None:
    with pytest.raises(InputError, match=r"e4m4.*legal: int8, e4m3, e5m2; nearest: e4m3"):
        quantised.quantise(torch.ones(4), "e4m4")
