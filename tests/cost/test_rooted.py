"""scatter, gather and reduce: one rank has the whole buffer, counted as nccl-tests counts it."""

from __future__ import annotations

from itertools import pairwise

import pytest

import meshwise as mw
from meshwise.cli.values import COLLECTIVE_OPS
from meshwise.cost.collectives.algorithms import OPS

ROOTED = ("scatter", "gather")
GI = 1 << 30


def test_there_is_one_list_of_operations() -> None:
    assert set(COLLECTIVE_OPS) == set(OPS)
    assert {"scatter", "gather", "reduce"} < set(OPS)


@pytest.mark.parametrize("op", ROOTED)
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_the_root_sends_all_but_its_own(op: str, ranks: int) -> None:
    found = mw.collective(op, GI, "dgx-a100", ranks, stack="ideal").to_dict()
    assert found["wire_bytes"][0] == pytest.approx((ranks - 1) / ranks * GI)
    # nccl-tests' bus bandwidth is the rate of the root's links: factor (n-1)/n
    assert found["busbw_bytes_per_s"] == pytest.approx(300e9)
    assert found["algbw_bytes_per_s"] == pytest.approx(GI / found["time_s"])


def test_reduce_and_broadcast_have_a_factor_of_one() -> None:
    for op in ("reduce", "broadcast"):
        found = mw.collective(op, GI, "dgx-a100", 8).to_dict()
        assert found["busbw_bytes_per_s"] == found["algbw_bytes_per_s"]
    assert (
        mw.collective("reduce", GI, "dgx-a100", 8).time_s
        == mw.collective("broadcast", GI, "dgx-a100", 8).time_s
    )


@pytest.mark.parametrize("op", ROOTED)
def test_the_root_has_its_own_links_alone(op: str) -> None:
    # over PCIe it sends by its own share of the NICs, whoever else is in the node
    alone = mw.collective(op, GI, "l40s-8x", 16, stack="ideal")
    assert alone.time_s == pytest.approx(GI / 2 / 25e9)  # half crosses, by one 200 Gb/s NIC
    # over NVLink by all of them, as fast as its links into the switch
    many = mw.collective(op, GI, "hgx-h100", 16, stack="ideal")
    assert many.time_s == pytest.approx(GI * 15 / 16 / 450e9)
    # which no log shows: the interval reaches to one NIC
    found = mw.collective(op, GI, "hgx-h100", 16)
    assert found.time_high_s > GI / 2 / 50e9


@pytest.mark.parametrize("op", [*ROOTED, "reduce"])
def test_more_bytes_and_more_ranks_cost_more(op: str) -> None:
    for cluster, ranks in (("hgx-h100", 8), ("hgx-h100", 16), ("l40s-8x", 8), ("rtx-4090-4x", 4)):
        times = [mw.collective(op, float(1 << k), cluster, ranks).time_s for k in range(8, 32, 3)]
        assert all(later >= earlier for earlier, later in pairwise(times))
        assert times[0] > 0
    few = [mw.collective(op, GI, "l40s-8x", n).time_s for n in (2, 4, 8)]
    assert all(later > earlier for earlier, later in pairwise(few))


def test_many_scatters_are_an_all_to_all() -> None:
    """Each rank is root once and all work at the same time: no rank sends more than one root does."""
    for ranks in (2, 4, 8):
        one = mw.collective("scatter", GI, "hgx-h100", ranks).time_s
        assert one == pytest.approx(mw.collective("all_to_all", GI, "hgx-h100", ranks).time_s)


@pytest.mark.parametrize(
    "name, op",
    [("sendrecv", "send_recv"), ("scatter_perf", "scatter"), ("gather_perf", "gather"),
     ("all_reduce_perf", "all_reduce"), ("alltoall_perf", "all_to_all"), ("reduce_perf", "reduce"),
     ("ReduceScatter", "reduce_scatter"), ("sendrecv_perf", "send_recv")],
)  # fmt: skip
def test_names_as_nccl_tests_spells_them(name: str, op: str) -> None:
    assert mw.collective(name, GI, "hgx-h100", 8).to_dict()["op"] == op
