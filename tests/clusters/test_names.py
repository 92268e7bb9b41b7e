"""Clusters as people and clouds write them."""

from __future__ import annotations

import pytest

from meshwise import Decode, catalog, scale
from meshwise.clusters.load import load_cluster
from meshwise.clusters.names import counted_devices, nearest_cluster, nodes_of
from meshwise.errors import UnknownName


@pytest.mark.parametrize(
    ("name", "device", "count", "fabric"),
    [
        ("8xH100", "h100-80gb-sxm", 8, "nvlink4-nvswitch"),
        ("h100x8", "h100-80gb-sxm", 8, "nvlink4-nvswitch"),
        ("8 x H100", "h100-80gb-sxm", 8, "nvlink4-nvswitch"),
        ("H100:8", "h100-80gb-sxm", 8, "nvlink4-nvswitch"),
        ("mi300x-8", "mi300x", 8, "infinity-fabric-mi300x"),
        ("8x-a100-40gb", "a100-40gb-sxm", 8, "nvlink3-nvswitch"),
        ("2xRTX4090", "rtx-4090", 2, "pcie4-host"),
        ("4x4090", "rtx-4090", 4, "pcie4-host"),
        ("l40s-x4", "l40s", 4, "pcie4"),
        ("4xA10G", "a10g", 4, "pcie4-host"),
        ("4xH100", "h100-80gb-sxm", 4, "nvlink4-nvswitch"),  # a part of a node with a switch
    ],
)
def test_so_many_of_a_device(name: str, device: str, count: int, fabric: str) -> None:
    found = load_cluster(name)
    assert (found.device.name, found.devices, found.levels[0].fabric) == (device, count, fabric)
    again = load_cluster(found.name)
    assert (again.devices, again.levels) == (found.devices, found.levels)


@pytest.mark.parametrize("name", ["a100-80", "16xH100", "3xmi300x", "8xfoo", "0xh100"])
def test_it_is_no_number_of_a_node(name: str) -> None:
    with pytest.raises(UnknownName):
        load_cluster(name)


@pytest.mark.parametrize(
    ("name", "cluster", "device"),
    [
        ("g2-standard-48", "gcp-g2-standard-48", "l4"),
        ("g2-standard-96", "gcp-g2-standard-96", "l4"),
        ("p5", "aws-p5", "h100-80gb-sxm"),
        ("ml.p4d.24xlarge", "aws-p4d", "a100-40gb-sxm"),
        ("p3.16xlarge", "aws-p3-16xlarge", "v100-16gb-sxm"),
        ("g4dn.12xlarge", "aws-g4dn-12xlarge", "t4"),
        ("g6e.12xlarge", "aws-g6e-12xlarge", "l40s"),
        ("a2-highgpu-8g", "gcp-a2-highgpu", "a100-40gb-sxm"),
        ("a3-highgpu-8g", "gcp-a3-high", "h100-80gb-sxm"),
        ("Standard_ND96isr_H100_v5", "azure-nd-h100-v5", "h100-80gb-sxm"),
        ("BM.GPU.B200.8", "oci-b200", "b200"),
        ("gb200-nvl72", "gb200-nvl72", "gb200"),
    ],
)
def test_shapes_of_clouds(name: str, cluster: str, device: str) -> None:
    found = load_cluster(name)
    assert (found.name, found.device.name) == (cluster, device)


@pytest.mark.parametrize(
    ("name", "cluster"),
    [
        ("a100-sxm4", "dgx-a100"),
        ("NVIDIA H100 80GB HBM3", "hgx-h100"),
        ("A100-SXM4-40GB", "dgx-a100-40gb"),  # the only one that is no cloud's
        ("h100-80gb", "hgx-h100"),  # a memory is no count
        ("h100", "hgx-h100"),
        ("t4", "t4-4x"),
        ("v100-16gb-sxm", "aws-p3-16xlarge"),
        ("mi300", "mi300x-node"),
    ],
)
def test_a_device_is_its_usual_node_and_every_answer_says_so(name: str, cluster: str) -> None:
    found = load_cluster(name)
    assert found.name == cluster
    assert found.asked == f"{name}: taken as {cluster}, a usual node of {found.device.title}"
    asked = scale("llama-3.1-8b", name, Decode(batch=1, context=64)).to_dict()
    assert all(found.asked in p["remarks"] for p in asked["points"])
    assert load_cluster(cluster).asked == ""


@pytest.mark.parametrize("name", sorted({*catalog.names("devices"), *catalog.aliases("devices")}))
def test_every_spelling_of_a_device_is_its_node_or_names_its_nodes(name: str) -> None:
    """Never a node of another device."""
    device = catalog.canonical("devices", name)
    try:
        found = load_cluster(name)
    except UnknownName as error:
        own = [cluster for cluster, _ in nodes_of(str(device))]
        assert all(cluster in error.legal for cluster in own) and f'"{device}"' in error.legal
        assert error.nearest == (own[0] if own else None)
        assert len(own) != 1
    else:
        assert found.device.name == device


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("g5.8xlarge", "g5.48xlarge"),
        ("g2-standard-24", "g2-standard-48"),
        ("p3.8xlarge", "p3.16xlarge"),
        ("16xH100", "hgx-h100"),
        ("lambda-8xh100", "hgx-h100"),
        ("h100sxm", "hgx-h100"),
        ("Standard_NC24ads_A100_v4", "dgx-a100"),
        ("BM.GPU.L40S.4", "l40s-4x"),
        ("mi300x-4", "mi300x-node"),
        ("trn1.32xlarge", None),
        ("inf2.48xlarge", None),
        ("foo", None),
    ],
)
def test_the_nearest_is_of_the_same_family(name: str, near: str | None) -> None:
    with pytest.raises(UnknownName) as caught:
        load_cluster(name)
    assert caught.value.nearest == near
    assert near is None or nearest_cluster(name) == near


def test_a_memory_is_no_count() -> None:
    assert counted_devices("a100-80") is None and counted_devices("h100-8") is not None


@pytest.mark.parametrize(
    ("name", "devices"), [("2xdgx-spark", 2), ("2xgb10", 2), ("4xrtx-5090", 4), ("4xh100", 4)]
)
def test_a_part_of_a_node_and_boxes_of_one_device(name: str, devices: int) -> None:
    assert load_cluster(name).devices == devices
