"""``nodes`` counts what the outermost level joins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

import meshwise as mw
from meshwise import catalog
from meshwise.clusters.load import grown
from meshwise.errors import InputError


def of_one_level(network: bool) -> list[mw.Cluster]:
    found = [mw.cluster(name) for name in catalog.names("clusters")]
    alone = [c for c in found if len(c.levels) == 1]
    return [c for c in alone if (c.levels[0].kind == "network") == network]


@pytest.mark.parametrize("nodes", [1, 2, 4, 31])
def test_nodes_of_single_devices_are_the_ranks_of_their_network(nodes: int) -> None:
    networks = of_one_level(network=True)
    assert "dgx-spark-2" in [c.name for c in networks]
    for cluster in networks:
        assert mw.cluster(cluster, nodes=nodes).devices == nodes
        assert grown(cluster, nodes).devices == max(nodes, cluster.devices)


def test_nothing_joins_the_nodes_of_a_cluster_without_a_network() -> None:
    boxes = of_one_level(network=False)
    assert boxes
    for cluster in boxes:
        assert mw.cluster(cluster, nodes=1) == cluster
        with pytest.raises(InputError, match="nothing joins its nodes"):
            mw.cluster(cluster, nodes=2)


def test_nodes_of_the_others_are_domains_of_the_outermost_level() -> None:
    assert mw.cluster("hgx-h100", nodes=3).devices == 24


@pytest.mark.parametrize("device", ["h100-80gb-sxm", "rtx-5090", "mi300x"])
def test_a_fabric_that_the_file_leaves_out_is_marked(device: str, tmp_path: Path) -> None:
    """On every page that prices the cluster, and in every record of it."""
    path = tmp_path / "mine.toml"
    path.write_text(f'device = "{device}"\n[[level]]\nranks = 4\n')
    found = mw.cluster(path)
    usual = found.device.fabric
    assert usual is not None and found.levels[0].assumed
    answers = (
        mw.scale("gpt2", found, mw.Training(batch=4, seq=128)),
        mw.estimate("gpt2", found, mw.Decode(batch=4, context=128), tp=2),
        mw.serve("gpt2", found, mw.Serving(isl=64, osl=8, concurrency=2), tp=2),
        mw.plan("gpt2", found, mw.Training(batch=4, seq=128)),
        mw.collective("all_reduce", 1 << 20, found, 4),
    )
    for answer in answers:
        record = answer.to_dict()["cluster"]
        assert record["assumed"] == [{"field": "level[0].fabric", "value": usual}]
        assert "assumed" in str(answer.page().heading)
    path.write_text(f'device = "{device}"\n[[level]]\nranks = 4\nfabric = "{usual}"\n')
    stated = mw.cluster(path)
    assert not stated.levels[0].assumed
    same = mw.estimate("gpt2", stated, mw.Decode(batch=4, context=128), tp=2).to_dict()
    assert same["step_s"] == answers[1].to_dict()["step_s"]


def test_devices_and_levels_from_figures_with_units_are_those_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        """
[device]
memory = "80 GB"
memory_bandwidth = "3.35 TB/s"
peak.bf16 = "989 TFLOP/s"
generation = "hopper"
[[level]]
ranks = 8
kind = "nvswitch"
bandwidth = "450 GB/s"
latency = "1 us"
[[level]]
ranks = 4
fabric = "ib-ndr"
nics = 8
"""
    )
    device = mw.Device.of(
        "device",
        memory="80 GB",
        memory_bandwidth="3.35 TB/s",
        peak={"bf16": "989 TFLOP/s"},
        generation="hopper",
    )
    levels = (
        mw.Level.of(8, kind="nvswitch", bandwidth="450 GB/s", latency="1 us"),
        mw.Level.of(4, fabric="ib-ndr", nics=8),
    )
    made, want = (
        mw.Cluster(name="mine", title="mine", device=device, levels=levels),
        mw.cluster(file),
    )
    assert made.levels == want.levels
    assert msgspec.structs.replace(device, sources={}) == msgspec.structs.replace(
        want.device, sources={}
    )
    work = mw.Training(batch=32, seq=4096)
    step = [mw.estimate("llama-3.1-8b", c, work, tp=8, dp=4).step_s for c in (made, want)]
    assert step[0] == step[1]


@pytest.mark.parametrize(
    "make, field",
    [
        (lambda: mw.Device.of("x", memory=80, like="h100-80gb-sxm"), "device.memory"),
        (lambda: mw.Device.of("x", memory="80 GB/s", like="h100-80gb-sxm"), "device.memory"),
        (lambda: mw.Device.of("x", memory="80 GB"), "device.memory_bandwidth"),
        (lambda: mw.Device.of("x", like="h101"), "device.like"),
        (lambda: mw.Level.of(8), "level.kind"),
        (lambda: mw.Level.of(8, kind="nvswitch", latency="1 us"), "level.bandwidth"),
        (lambda: mw.Level.of(8, fabric="nvlink4-nvswitch", bandwidth="450 GB"), "level.bandwidth"),
        (lambda: mw.Level.of(8, fabric="nvlink-9"), "level.fabric"),
    ],
)
def test_a_figure_that_is_missing_or_of_another_kind_is_refused(make: Any, field: str) -> None:
    with pytest.raises(mw.MeshwiseError) as caught:
        make()
    assert caught.value.field == field and caught.value.legal
