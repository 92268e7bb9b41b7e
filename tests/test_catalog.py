"""Every entry of the catalog loads, names its source, and works."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from tests.deep import deep

import meshwise as mw
from meshwise import catalog
from meshwise.clusters import load as cluster
from meshwise.models.load import load_model
from meshwise.models.parameters import parameters
from meshwise.stacks.load import load_stack
from meshwise.units import BANDWIDTH, TIME, parse_quantity

GB = 1e9


def entries(kind):
    return [pytest.param(name, id=name) for name in catalog.names(kind)]


@pytest.mark.parametrize("name", entries("devices"))
def test_device(name):
    device = cluster.device(name)
    table = catalog.load("devices", name, "x")[1]
    assert device.title
    assert 1e9 < device.memory_bytes < 1e12
    assert 1e9 < device.memory_bytes_per_s < 2e13
    assert any(k in device.peak_flops_per_s for k in ("bf16", "fp16", "fp32"))
    for key, rate in device.peak_flops_per_s.items():
        assert key in cluster.PEAK_KEYS
        assert 1e10 < rate < 1e17
    peaks = device.peak_flops_per_s
    for wide, narrow in (("fp32", "tf32"), ("tf32", "bf16"), ("bf16", "fp8"), ("fp8", "fp4")):
        if wide in peaks and narrow in peaks:
            assert peaks[narrow] >= peaks[wide], f"{narrow} slower than {wide}"
    assert table["source"], "no source"
    for figure in ("memory", "memory_bandwidth", "peak"):
        assert any(
            k == figure or k.startswith(figure + ".") or k in ("all", "datasheet")
            for k in table["source"]
        ), figure


@pytest.mark.parametrize("name", entries("fabrics"))
def test_fabric(name):
    table = catalog.load("fabrics", name, "x")[1]
    assert table["source"]
    assert table["kind"] in cluster.FABRIC_KINDS
    assert 1e8 <= parse_quantity(table["bandwidth"], BANDWIDTH, "bandwidth") <= 2e12
    assert 1e-8 < parse_quantity(table["latency"], TIME, "latency") < 1e-3


# Per device and per direction, from the vendors' bidirectional sums (NVLink 4: 900 GB/s both ways).
@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("nvlink2-nvswitch", 150 * GB),
        ("nvlink3-nvswitch", 300 * GB),
        ("nvlink4-nvswitch", 450 * GB),
        ("nvlink5-nvswitch", 900 * GB),
        ("nvlink5-nvl72", 900 * GB),
        ("nvlink4-h800", 200 * GB),
        ("nvlink3-a800", 200 * GB),
        ("ib-hdr", 25 * GB),
        ("ib-ndr", 50 * GB),
        ("ib-xdr", 100 * GB),
        ("ethernet-10", 1.25 * GB),
        ("ethernet-100", 12.5 * GB),
        ("roce-400", 50 * GB),
        ("efa-100", 12.5 * GB),
        ("slingshot-11", 25 * GB),
    ],
)
def test_bandwidth_is_of_one_direction(name, rate):
    assert parse_quantity(
        catalog.load("fabrics", name, "x")[1]["bandwidth"], BANDWIDTH, "x"
    ) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("pcie3", 12, 16), ("pcie4", 24, 32), ("pcie5", 50, 64), ("pcie6", 100, 128)],
)
def test_pcie_is_of_one_direction(name, low, high):
    rate = parse_quantity(catalog.load("fabrics", name, "x")[1]["bandwidth"], BANDWIDTH, "x")
    assert low * GB <= rate <= high * GB


@pytest.mark.parametrize("phases", [1, deep(3)])
@pytest.mark.parametrize("name", entries("clusters"))
def test_cluster(name, phases):
    """Each cluster prices a phase, the next one another, and in `make matrix` all of them."""
    found = mw.cluster(name)
    assert found.source, "no source"
    assert found.devices >= 1
    assert found.node_devices <= found.devices
    small = mw.model("tinyllama-1.1b")
    works = (
        mw.Training(batch=4, seq=512),
        mw.Decode(batch=4, context=512),
        mw.Prefill(batch=4, seq=512),
    )
    first = catalog.names("clusters").index(name)
    for work in [works[(first + i) % len(works)] for i in range(phases)]:
        record = mw.scale(small, found, work).to_dict()
        text = json.dumps(record, allow_nan=False)
        assert text
        assert record["points"][-1]["tp"] <= found.devices
        assert all(np.diff([sum(p["wire_bytes"]) > 0 for p in record["points"]][:2]) >= 0)


@pytest.mark.parametrize("name", entries("stacks"))
def test_stack(name):
    found = load_stack(name)
    assert found.sources, "no source"
    assert 0 <= found.memory_reserve < 0.5
    assert 0 <= found.host_s < 1
    if found.runs == ("collectives",):
        assert mw.collective("all_reduce", 1e6, "dgx-a100", stack=found).time_s > 0
        return
    for kind, work in (
        ("training", mw.Training(batch=8, seq=512)),
        ("inference", mw.Decode(batch=8, context=512)),
    ):
        if kind in found.runs:
            assert mw.scale("gpt2", "dgx-a100", work, stack=found).points


@pytest.mark.parametrize("name", entries("models"))
def test_model(name):
    model = load_model(name)
    assert model.source, "no source"
    assert 1e7 < parameters(model) < 3e12
    assert parameters(model, active=True) <= parameters(model)
    assert 1 in mw.describe(model).to_dict()["legal_tp"]


def test_there_are_enough_models():
    assert len(catalog.names("models")) >= 40


@pytest.mark.parametrize("kind", ["devices", "clusters", "models"])
def test_aliases_lead_to_entries(kind):
    names = set(catalog.names(kind))
    for alias, name in catalog.aliases(kind).items():
        assert name in names
        assert alias not in names
        assert catalog.canonical(kind, alias) == name


@pytest.mark.parametrize("name", entries("kernels"))
def test_sections_of_a_file_are_its_tables(name):
    table = catalog.load("kernels", name, "x")[1]
    tables = {key for key, line in table.items() if isinstance(line, dict) and key != "roofline"}
    for key in tables:
        assert catalog.section("kernels", name, key, "x") == table[key]
    rest = {key: value for key, value in table.items() if key not in tables}
    assert catalog.section("kernels", name, "", "x") == rest
    assert catalog.section("kernels", name, "no such", "x") == {}


@pytest.mark.parametrize(
    "name", ["", " ", "index", "../devices/a10", "a" * 5000, "a/b", "\0", "深"]
)
def test_names_that_are_none(name):
    assert catalog.canonical("devices", name) is None


def test_every_figure_has_a_source_and_names_stand_for_one_entry():
    path = Path(__file__).parents[1] / "tools" / "check_catalog_sources.py"
    spec = importlib.util.spec_from_file_location("check_catalog_sources", path)
    checker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(checker)
    assert checker.main([]) == 0


@pytest.mark.parametrize("name", entries("devices"))
def test_a_node_without_a_fabric_has_its_devices_usual_one(name):
    levels = [{"name": "node", "ranks": 2}]
    built = cluster.cluster_from_table({"device": name, "level": levels}, "mine")
    assert built.levels[0].fabric == cluster.device(name).fabric


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("a100-sxm4", "a100-80gb-sxm"),
        ("A100-SXM4-40GB", "a100-40gb-sxm"),
        ("b300-288gb-sxm", "b300"),
        ("rtx-pro-6000-server", "rtx-pro-6000-server"),
        ("a40", "a40"),
        ("NVIDIA H100 80GB HBM3", "h100-80gb-sxm"),
        ("NVIDIA A10G", "a10g"),
        ("AMD Instinct MI300X", "mi300x"),
        ("V100-SXM2-32GB", "v100-32gb-sxm"),
    ],
)
def test_devices_by_the_names_that_people_write(said, name):
    assert cluster.device(said).name == name


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("p5.48xlarge", "aws-p5"),
        ("p4d.24xlarge", "aws-p4d"),
        ("a3-megagpu-8g", "gcp-a3-mega"),
        ("ND96isr_H100_v5", "azure-nd-h100-v5"),
        ("Standard_ND96isr_H100_v5", "azure-nd-h100-v5"),
        ("g5.48xlarge", "aws-g5-48xlarge"),
    ],
)
def test_clusters_by_the_names_of_cloud_instances(said, name):
    assert mw.cluster(said).name == name


@pytest.mark.parametrize(
    ("name", "shown_mib"), [("l4", 23034), ("l40s", 46068), ("a10g", 23028), ("t4", 15360)]
)
def test_memory_of_cards_with_inline_ecc_is_what_the_driver_shows(name, shown_mib):
    assert cluster.device(name).memory_bytes == shown_mib * 2**20


def test_a_chip_has_its_own_multiprocessors():
    assert cluster.device("gb10").multiprocessors == 48
    assert cluster.device("b200").multiprocessors == 148
