"""All-reduce in memory that processes share: sums, slots, and ranks that do not come."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from tests.runtime import ranks_collectives as ranks
from tests.runtime.test_collectives import ROUNDOFF, same_bits

from meshwise.runtime.collectives import shared_memory
from meshwise.runtime.collectives.peers import Peers

pytestmark = pytest.mark.skipif(
    not os.path.isdir(shared_memory.FOLDER) or os.uname().machine != "x86_64",
    reason="needs /dev/shm and x86-64",
)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("dtype", ROUNDOFF)
def test_sums(crew: Any, size: int, dtype: str) -> None:
    """Above 64 KiB four ranks add a part each; above 1 MiB it goes in pieces. As good as the backend's,
    within the bound of any order."""
    for shape in ((1,), (7,), (3, 5, 11), (64, 256), (333, 391), (711, 701)):
        for direct in (False, True):
            found = crew.run(ranks.reduced_in_memory, size, shape, dtype, direct)
            same_bits(found)
            for f in found:
                assert f["element"] <= 1.01 * (size - 1) * ROUNDOFF[dtype], (shape, f)
                assert f["norm"] <= 1.2 * f["backend"] or f["norm"] <= ROUNDOFF[dtype]
                assert f["left"] == []  # the file has no name any more


@pytest.mark.parametrize("size", [2, 4])
def test_a_product_goes_straight_into_the_slot(crew: Any, size: int) -> None:
    assert max(crew.run(ranks.product_into_slot, size)) <= 1e-6


@pytest.mark.parametrize(("slots", "ahead"), [(1, 1), (2, 1), (2, 2), (4, 3)])
def test_no_slot_is_overwritten_before_all_have_read_it(crew: Any, slots: int, ahead: int) -> None:
    for size in (2, 4):
        assert crew.run(ranks.many_in_flight, size, slots, ahead, 150) == [[]] * 4


@pytest.mark.parametrize("size", [2, 4])
def test_operations_may_end_in_another_order(crew: Any, size: int) -> None:
    assert crew.run(ranks.in_reverse, size, 30) == [[]] * 4


def test_alone() -> None:
    """Without a process group."""
    memory = shared_memory.SharedMemory(Peers(None, [0], [0], 0), 1 << 21)
    x = torch.arange(400_000.0)
    assert torch.equal(memory.all_reduce(x.clone()), x)


def test_larger_than_a_slot(crew: Any) -> None:
    for said in crew.run(ranks.too_large):
        assert said == [f"{size} bytes do not fit in a slot of 4096" for size in (4100, 4112, 4100)]


def test_memory_that_cannot_be_had_is_an_error_on_every_rank(crew: Any) -> None:
    """A full /dev/shm must not become a SIGBUS later; a rank that cannot open it must not leave the
    others waiting."""
    room = os.statvfs(shared_memory.FOLDER)
    if not room.f_blocks:
        pytest.skip("this /dev/shm has no limit")
    asked = [(room.f_blocks * room.f_frsize, None, "No space left on device")]
    asked.append((4096, 2, "on rank 2: no such file here"))
    for slot_bytes, rank, words in asked:
        for said, left in crew.run(ranks.memory_refused, slot_bytes, rank):
            assert words in said
            assert left == []


def test_where_it_cannot_be_used(crew: Any) -> None:
    for found in crew.run(ranks.why_not):
        assert found == [None, "the ranks are on several nodes", "needs Linux on x86-64"]


def test_a_rank_that_does_not_come_is_named(crew: Any) -> None:
    begin = time.monotonic()
    said = crew.run(ranks.late, 0.5)
    assert said[0] == "rank 1 did not come to fill a slot in 0.5 s (shared memory)"
    assert said[2] == "rank 3 did not come to fill a slot in 0.5 s (shared memory)"
    assert 0.5 <= time.monotonic() - begin < 5.0


def test_a_dead_rank_is_named() -> None:
    """At once, although it is a zombie until its parent asks, and long before the time-out."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    processes = [
        context.Process(target=ranks.wait_for_the_dead, args=(r, port, theirs), daemon=True)
        for r in range(2)
    ]
    for process in processes:
        process.start()
    try:
        assert ours.poll(60)
        value, said, seconds = ours.recv()
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert value == 2.0
    assert said == "rank 1 has ended (shared memory)"
    assert seconds < 3.0
    assert [ranks.left_in_dev_shm(p.pid or 0) for p in processes] == [[], []]
