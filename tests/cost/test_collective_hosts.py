"""What differs between machines of one kind: hosts without peer access, sockets, other libraries."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import meshwise as mw
from meshwise import catalog
from meshwise.api import collective
from meshwise.clusters.load import Cluster, cluster_from_table, load_cluster
from meshwise.cost.collectives.fits import constants
from meshwise.errors import InputError

MI = 1 << 20
OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv")
HOSTS = ("pcie3-host", "pcie4-host", "pcie5-host", "pcie6-host")


def one_level(fabric: str, ranks: int, device: str = "rtx-a6000", **more: Any) -> Cluster:
    level = {"name": "board", "ranks": ranks, "fabric": fabric, **more}
    return cluster_from_table({"device": device, "level": [level]}, fabric)


def answer(op: str, size: float, cluster: Cluster, ranks: int | None = None) -> dict[str, Any]:
    return collective(op, size, cluster, ranks, stack="megatron-core").to_dict()


def time_of(op: str, size: float, cluster: Cluster, ranks: int | None = None) -> float:
    return float(answer(op, size, cluster, ranks)["time_s"])


def busbw(cluster: Cluster, ranks: int, size: float = 1024 * MI) -> float:
    """GB/s of all_reduce."""
    return 2 * (ranks - 1) / ranks * size / time_of("all_reduce", size, cluster, ranks) / 1e9


def ends_of_busbw(cluster: Cluster, ranks: int, size: float = 1024 * MI) -> tuple[float, float]:
    found = answer("all_reduce", size, cluster, ranks)
    moved = 2 * (ranks - 1) / ranks * size / 1e9
    return moved / found["time_high_s"], moved / found["time_low_s"]


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("size", [64 * 1024, 16 * MI, 1024 * MI])
def test_a_faster_slot_is_never_slower(op: str, ranks: int, size: int) -> None:
    times = [time_of(op, size, one_level(f, ranks), ranks) for f in HOSTS]
    assert all(later <= earlier for earlier, later in pairwise(times))
    if size == 1024 * MI:
        assert all(later < earlier for earlier, later in pairwise(times))
    half = time_of(op, size, one_level("pcie4-x8-host", ranks), ranks)
    assert half == pytest.approx(time_of(op, size, one_level("pcie3-host", ranks), ranks))


@pytest.mark.parametrize(
    "fabric, ranks, seen",  # GB/s of bus bandwidth, one machine each
    [
        ("pcie3-host", 2, 4.0),
        ("pcie4-host", 2, 2.24),
        ("pcie4-host", 2, 3.85),
        ("pcie5-host", 4, 24.3),
    ],
)
def test_the_interval_of_a_host_is_as_wide_as_hosts_differ(
    fabric: str, ranks: int, seen: float
) -> None:
    cluster = one_level(fabric, ranks)
    low, high = ends_of_busbw(cluster, ranks)
    assert low < seen < high
    assert high <= 1.001 * cluster.levels[0].bandwidth_bytes_per_s / 1e9


def test_a_step_over_such_a_host_is_less_sure_than_over_nvlink() -> None:
    work = mw.Decode(batch=8, context=1024)
    ratios = []
    for cluster in ("rtx-4090-4x", "hgx-h100"):
        points = mw.scale("llama-3.1-8b", cluster, work).points
        widest = next(p for p in points if p.tp == 4)
        ratios.append(widest.step_high_s / widest.step_s)
    assert ratios[0] > ratios[1]


def test_the_ring_over_two_sockets_is_slower() -> None:
    for name in ("rtx-5090-8x", "rtx-4090-8x", "l40s-8x"):
        cluster = load_cluster(name)
        assert busbw(cluster, 8) < 0.97 * busbw(cluster, 4)
        assert busbw(cluster, 8) < cluster.levels[0].bandwidth_bytes_per_s / 1e9
    ideal = collective("all_reduce", 1024 * MI, load_cluster("rtx-5090-8x"), 8, stack="ideal")
    moved = 2 * 7 / 8 * 1024 * MI
    assert ideal.to_dict()["time_s"] == pytest.approx(moved / 63e9)


def test_sockets_fill_slow_wires_and_are_limited_on_fast_ones() -> None:
    rates = {
        gbits: busbw(one_level(f"ethernet-{gbits}", 2, "t4", nics=1), 2, 4096 * MI)
        for gbits in (1, 10, 25, 40, 50, 100, 200, 400)
    }
    share = {gbits: rate / (gbits / 8) for gbits, rate in rates.items()}
    assert share[1] > 0.9
    assert rates[10] == pytest.approx(1.19, rel=0.05)
    assert share[25] > 0.75
    assert rates[50] == pytest.approx(2.03, rel=0.3)
    assert rates[400] == pytest.approx(rates[100], rel=0.01)
    assert all(later >= 0.999 * earlier for earlier, later in pairwise(rates.values()))
    two = busbw(one_level("ethernet-100", 2, "t4", nics=2), 2, 4096 * MI)
    assert two == pytest.approx(2 * rates[100], rel=0.05)


def test_a_stated_efficiency_of_sockets_is_taken() -> None:
    stated = one_level("ethernet-100", 2, "t4", nics=1, efficiency=0.5)
    assert busbw(stated, 2, 4096 * MI) == pytest.approx(6.25, rel=0.02)


@pytest.mark.parametrize("size, seen", [("64KiB", 241e-6), ("1MiB", 415e-6), ("16MiB", 497e-6)])
def test_another_library_may_start_later(size: str, seen: float) -> None:
    amd = collective("all_reduce", size, load_cluster("oci-mi300x"), 16, stack="megatron-core")
    found = amd.to_dict()
    assert found["time_low_s"] < seen < found["time_high_s"]
    nvidia = collective("all_reduce", size, load_cluster("oci-h100"), 16, stack="megatron-core")
    own = nvidia.to_dict()
    assert own["time_high_s"] / own["time_s"] < found["time_high_s"] / found["time_s"]
    # the rate of large messages was measured there too: no more doubt than of any log left out
    large = answer("all_reduce", 16 << 30, load_cluster("oci-mi300x"), 16)
    assert large["time_high_s"] / large["time_s"] < 3.0


def test_racks_whose_network_nobody_measured() -> None:
    cluster = load_cluster("gb200-nvl72", nodes=20)
    low, high = ends_of_busbw(cluster, 1440, 16 << 30)
    assert low < 406 < high
    inside, _ = ends_of_busbw(cluster, 72, 16 << 30)
    assert inside > low


@pytest.mark.parametrize("op", OPS)
def test_without_ranks_single_devices_mean_all_of_them(op: str) -> None:
    pair = load_cluster("dgx-spark-2")
    found = answer(op, 64 * 1024, pair)
    assert found["ranks"] == 2
    assert found["time_s"] > 0.0
    assert found == answer(op, 64 * 1024, pair, 2)


def test_without_ranks_a_node_is_meant() -> None:
    assert answer("all_reduce", MI, load_cluster("hgx-h100"))["ranks"] == 8
    boxes = cluster_from_table(
        {
            "device": "t4",
            "level": [
                {"name": "node", "ranks": 1, "fabric": "pcie3"},
                {"name": "net", "ranks": 4, "fabric": "ethernet-10", "nics": 1},
            ],
        },
        "boxes",
    )
    assert answer("all_reduce", MI, boxes)["ranks"] == 4


def test_one_device_alone_is_refused_unless_it_was_asked_for() -> None:
    alone = one_level("pcie4", 1)
    with pytest.raises(InputError, match="ranks"):
        answer("all_reduce", MI, alone)
    assert answer("all_reduce", MI, alone, 1)["time_s"] == 0.0


def test_doubt_is_a_number_of_the_constants_not_of_their_text() -> None:
    for name in catalog.names("fabrics"):
        level = one_level(name, 2, "h100").levels[0]
        found = constants(level, "all_reduce", "nccl", False)
        assert (found.lent > 0.0) == bool(found.source.inherited_by)
        assert np.isfinite(found.lent)


def test_hosts_differ_by_more_than_links_do() -> None:
    """Machines whose cards have no peer access differ by 3.5 either way: no link does."""

    def width(fabric: str) -> float:
        found = collective("all_reduce", 64 * MI, one_level(fabric, 2), 2, stack="megatron-core")
        return found.time_high_s / found.time_low_s

    assert width("pcie4-host") > max(width("nvlink4-nvswitch"), 3.5)


def test_sockets_are_of_the_generation_of_the_lanes() -> None:
    """PCIe 5 came with the sockets' next link; the ring over it falls, and stays in reach of the wire."""
    clusters = [mw.cluster(name) for name in catalog.names("clusters")]
    joined = [c for c in clusters if any(level.kind == "socket" for level in c.levels)]
    for c in joined:
        link = next(level.fabric for level in c.levels if level.kind == "socket")
        new = c.levels[0].fabric.startswith("pcie5") or c.device.name.startswith(("h100", "h200"))
        assert link.endswith(("upi2", "xgmi3")) == new, c.name

    def busbw(ranks: int) -> float:
        found = mw.collective("all_reduce", 1 << 30, "rtx-5090-8x", ranks).to_dict()
        return float(found["busbw_bytes_per_s"])

    assert 20e9 < busbw(8) < busbw(4) < 33e9


@pytest.mark.parametrize("name", ["allreduce", "all-reduce", "AllReduce", "ALL_REDUCE"])
def test_an_operation_in_any_librarys_spelling(name: str) -> None:
    found = mw.collective(name, 1 << 20, "hgx-h100", 8).to_dict()
    assert found["op"] == "all_reduce"
