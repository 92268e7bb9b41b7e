"""Networks: the form against a second derivation, its limits, and systems that no constant has seen."""

from __future__ import annotations

import csv
import importlib.util
import sys
from math import ceil, log2, sqrt
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import meshwise
from meshwise import catalog
from meshwise.clusters.load import Cluster, cluster_from_table
from meshwise.cost.collectives.algorithms import OPS
from meshwise.cost.collectives.collective import candidates, cheapest
from meshwise.cost.collectives.fits import constants
from meshwise.cost.collectives.transports import TRANSPORTS, transport_of
from meshwise.cost.uncertainty import collective_interval
from meshwise.layouts.placement import Group, place
from meshwise.stacks.load import load_stack

ROOT = Path(meshwise.__file__).parents[2]
TABLE = Path(meshwise.__file__).parent / "evidence/published/collectives.csv"
NCCL, IDEAL = load_stack("megatron-core"), load_stack("ideal")
FABRICS = ("ib-ndr", "slingshot-11", "efa-100", "ethernet-100", "gcp-tcpxo", "omni-path-100")
FAST = settings(max_examples=60, deadline=None, derandomize=True)
MI = 2.0**20


def nodes(fabric: str, number: int, each: int = 8, nics: int = 8, **more: Any) -> Cluster:
    network = {"name": "cluster", "ranks": number, "fabric": fabric, "nics": nics, **more}
    node = {"name": "node", "ranks": each, "fabric": "nvlink3-nvswitch"}
    return cluster_from_table({"device": "a100-80gb-sxm", "level": [node, network]}, fabric)


def all_of(cluster: Cluster) -> Group:
    return place("tp", np.int64(cluster.devices), np.int64(1), np.int64(0), cluster)


def seconds(op: str, size: float, cluster: Cluster, stack: Any = NCCL) -> float:
    return float(cheapest(op, np.float64(size), all_of(cluster), cluster, stack).seconds)


def by_hand(op: str, size: float, fabric: str, number: int, each: int, nics: int) -> float:
    """The form in plain scalars, from the files' constants: nothing is shared with the package."""
    shared = catalog.load("collectives", "network", "x")[1]
    own = catalog.load("collectives", transport_of(fabric), "x")[1]
    ring0 = catalog.load("collectives", "nvlink3-nvswitch", "x")[1]["nccl"]
    gbits = float(catalog.load("fabrics", fabric, "x")[1]["bandwidth"].split()[0])
    rate, n = gbits / 8 * 1e9, number * each
    e = own["efficiency"]
    if "limit_bytes_per_s" in own:
        e = min(e, own["limit_bytes_per_s"] / rate)
    node_rate = rate * nics * (number / 2) ** -shared["neighbours"]
    inside = 300e9 * max(p["efficiency"] for p in ring0["ring"]["protocols"])
    direct = 300e9 * max(p["efficiency"] for p in ring0["all_to_all"]["direct"]["protocols"])
    a_in, k, a0 = shared["hop_s"]["links"], shared["ramp"], shared["launch_s"]
    bulk, found = own["bulk_hop_s"], []

    def total(latency: float, fill: float, busy: float) -> float:
        return latency + busy + 2 * k * sqrt(fill * busy)

    for a, part in ((own["hop_s"], shared["small_share"]), (bulk, 1.0)):
        fill = (each - 1) * a_in + ceil(log2(number)) * a
        hop = bulk - (bulk - a) * min(1.0, 2 / number)
        trip = (n - number) * a_in + (number - 1) * hop
        across = size * (n - 1) / n / (node_rate * e * part)
        within = size * (n - 1) / n / inside * (1 - 1 / each) * n / (n - 1)
        within = size * (n - 1) / n * (1 - 1 / each) / inside
        once = max(across, within)
        if op == "all_reduce":
            found.append(total(a0 + 2 * trip, 2 * fill, 2 * once))
            tree = min(e * shared["tree_share"], 0.97) * part
            up = 2 * (number - 1) / number * size / (node_rate * tree)
            chain = 2 * (each - 1) / each * size / inside
            found.append(total(a0 + 2 * fill, 2 * fill, max(up, chain)))
        elif op in ("all_gather", "reduce_scatter"):
            found.append(total(a0 + trip, fill, once))
        else:
            far = n - each
            crowd = max(number / shared["bisection_domains"], 1.0) ** -shared["all_to_all"]
            rate_a2a = node_rate * crowd * min(e * shared["direct_share"], 0.97) * part
            busy = max(each * size * far / n / rate_a2a, (each - 1) / n * size / direct)
            latency = a0 + a + far * shared["peer_s"] + (each - 1) * a_in
            found.append(total(latency, a, busy))
    return min(found)


@FAST
@given(
    st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]),
    st.floats(1.0, 2.0**34),
    st.sampled_from(FABRICS),
    st.sampled_from([2, 3, 4, 7, 16, 256]),
    st.sampled_from([1, 2, 8]),
)
def test_the_form_by_hand(op: str, size: float, fabric: str, number: int, nics: int) -> None:
    found = seconds(op, size, nodes(fabric, number, 8, nics))
    assert found == pytest.approx(by_hand(op, size, fabric, number, 8, nics), rel=1e-9)


@FAST
@given(st.sampled_from(OPS), st.sampled_from(FABRICS), st.floats(1.0, 2.0**33), st.floats(1.0, 4.0))
def test_more_bytes_or_nodes_never_cost_less(
    op: str, fabric: str, size: float, times: float
) -> None:
    before = 0.0
    for number in (2, 3, 4, 6, 8, 16, 33, 64, 256, 1024):
        cluster = nodes(fabric, number)
        group = all_of(cluster)
        if op == "send_recv":
            group = Group("pp", (np.int64(1), np.int64(2)), (np.int64(1), np.int64(8)))
        few, many = (
            float(cheapest(op, np.float64(s), group, cluster, NCCL).seconds)
            for s in (size, size * times)
        )
        assert before * (1 - 1e-12) <= few <= many
        before = few


@FAST
@given(
    st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"]),
    st.sampled_from(FABRICS),
    st.floats(MI, 2.0**36),
    st.sampled_from([2, 4, 32]),
)
def test_no_algorithm_passes_the_wire(op: str, fabric: str, size: float, number: int) -> None:
    cluster = nodes(fabric, number)
    rate = cluster.levels[1].per_device_bytes_per_s(8)
    for c in candidates(op, np.float64(size), all_of(cluster), cluster, NCCL):
        if np.isfinite(c.seconds):
            assert float(c.wire_bytes[1]) <= 0.97 * rate * float(c.seconds)


@pytest.mark.parametrize("op", OPS)
def test_what_a_cluster_states_of_its_network_is_taken(op: str) -> None:
    """An efficiency is that of the whole collective, without ramp or fall; a latency is a hop's."""
    stated = [nodes("ib-ndr", 8, nics=2, efficiency=share) for share in (0.4, 0.8)]
    slow, fast = (seconds(op, 2.0**36, c) for c in stated)
    assert slow / fast == pytest.approx(2.0, rel=0.02)
    quick, late = (seconds(op, 8.0, nodes("ib-ndr", 8, latency=t)) for t in ("1 us", "100 us"))
    assert late > quick + 90e-6
    own = {"kind": "network", "bandwidth": "25 GB/s", "latency": "5 us", "ranks": 4, "nics": 8}
    node = {"ranks": 8, "fabric": "nvlink4-nvswitch"}
    custom = cluster_from_table({"device": "h100", "level": [node, own]}, "mine")
    level = custom.levels[1]
    assert constants(level, op, "nccl", False).source.inherited_by == "custom"
    assert seconds(op, MI, custom) > seconds(op, MI, custom, IDEAL) > 0.0


def test_a_network_through_the_host_is_slower_and_sockets_are_not() -> None:
    def large(fabric: str, inside: str) -> float:
        levels = [{"ranks": 2, "fabric": inside}, {"ranks": 2, "fabric": fabric, "nics": 1}]
        cluster = cluster_from_table({"device": "rtx-pro-6000", "level": levels}, "pair")
        group = Group("tp", (np.int64(1), np.int64(2)), (np.int64(1), np.int64(1)))
        return float(cheapest("all_reduce", np.float64(2.0**32), group, cluster, NCCL).seconds)

    share = catalog.load("collectives", "network", "x")[1]["without_gpudirect"]
    assert 0.6 < share < 0.85
    direct, staged = large("ib-edr", "pcie5"), large("ib-edr", "pcie5-host")
    assert staged / direct == pytest.approx(1 / share, rel=0.03)
    assert large("ethernet-100", "pcie5") == pytest.approx(large("ethernet-100", "pcie5-host"))


def test_two_levels_of_network_are_one_pipeline() -> None:
    """Racks joined by a slower tier: a tree over both tiers sends a quarter of the bytes over it, and
    little less than a tree over one tier below (1.5 of 1.875)."""
    levels = [
        {"name": "node", "ranks": 8, "fabric": "nvlink4-nvswitch"},
        {"name": "rack", "ranks": 4, "fabric": "ib-ndr", "nics": 8},
        {"name": "hall", "ranks": 4, "fabric": "ib-ndr", "nics": 32, "oversubscription": 4.0},
    ]
    tiers = cluster_from_table({"device": "h100", "level": levels}, "tiers")
    flat = cluster_from_table(
        {"device": "h100", "level": [levels[0], {**levels[1], "ranks": 16}]}, "flat"
    )
    for op in OPS:
        for size in (8.0, MI, 2.0**32):
            one, two = seconds(op, size, flat), seconds(op, size, tiers)
            assert one * 0.79 <= two < 8 * one, (op, size)


def test_arrays_of_groups_on_both_sides_of_a_network() -> None:
    cluster = nodes("ib-hdr", 16)
    n = np.array([1, 2, 8, 16, 32, 128])[:, None]
    sizes = np.array([8.0, 1e5, 1e7, 1e9])[None, :]
    group = place("tp", n, np.int64(1), np.int64(0), cluster)
    for op in OPS:
        many = cheapest(op, sizes, group, cluster, NCCL).seconds
        for i, ranks in enumerate(n[:, 0]):
            for j, size in enumerate(sizes[0]):
                alone = place("tp", ranks, np.int64(1), np.int64(0), cluster)
                one = cheapest(op, np.float64(size), alone, cluster, NCCL).seconds
                assert np.broadcast_to(many, (6, 4))[i, j] == one


def test_every_network_of_the_catalog_has_a_transport() -> None:
    for name in catalog.names("fabrics"):
        table = catalog.load("fabrics", name, "x")[1]
        assert ("transport" in table) == (table["kind"] == "network"), name
        if "transport" in table:
            assert table["transport"] in TRANSPORTS
            own = catalog.load("collectives", table["transport"], "x")[1]
            assert own["hop_s"] <= own["bulk_hop_s"] and 0.5 < own["efficiency"] <= 0.97


# -- doubt ---------------------------------------------------------------------------------------------


def test_intervals_by_size_and_what_nobody_measured() -> None:
    def width(op: str, size: float, cluster: Cluster) -> float:
        group = all_of(cluster)
        best = cheapest(op, np.float64(size), group, cluster, NCCL)
        low, high = collective_interval(float(best.seconds), op, size, best, NCCL, cluster, group)
        assert low <= float(best.seconds) <= high
        return high / low

    known = nodes("ib-hdr", 4)
    assert width("all_reduce", 1e3, known) > width("all_reduce", 2.0**33, known)
    assert width("all_reduce", 1e3, nodes("omni-path-100", 4)) > 2 * width("all_reduce", 1e3, known)
    assert width("all_to_all", MI, nodes("ib-hdr", 64)) > width("all_to_all", MI, known)
    assert width("all_reduce", 2.0**30, nodes("ib-hdr", 512)) > width("all_reduce", 2.0**30, known)


@pytest.fixture(scope="module")
def fit_networks() -> ModuleType:
    path = ROOT / "tools/fit_networks.py"
    spec = importlib.util.spec_from_file_location("fit_networks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fit_networks"] = module
    spec.loader.exec_module(module)
    return module


def test_the_shipped_constants_are_what_the_fit_finds(fit_networks: ModuleType) -> None:
    with TABLE.open(newline="", encoding="utf-8") as lines:
        logs = fit_networks.logs_of(list(csv.DictReader(lines)))
    assert sum(len(log.ids) for log in logs) == 717
    assert sum(len(log.ids) for log in logs if log.stated) == 598
    found = fit_networks.tables_of(fit_networks.fit(logs))
    for name, table in found.items():
        shipped = catalog.load("collectives", name, "x")[1]
        for key, value in table.items():
            if isinstance(value, float):
                assert shipped[key] == pytest.approx(value, rel=0.01), (name, key)


# system → largest median |error| of its rows with all of its logs left out
LEFT_OUT = {"Sophia": 0.12, "RTX 2080 Ti cluster": 0.12, "OCI A100": 0.12}


def test_systems_left_out(fit_networks: ModuleType) -> None:
    """Some of them; `python tools/fit_networks.py` prints all."""
    with TABLE.open(newline="", encoding="utf-8") as lines:
        logs = fit_networks.logs_of(list(csv.DictReader(lines)))
    for system, most in LEFT_OUT.items():
        rows = fit_networks.flat(fit_networks.predictions_left_out(logs, system))
        assert set(rows.system) == {system}
        assert fit_networks.errors(rows.off)["median_error"] <= most
