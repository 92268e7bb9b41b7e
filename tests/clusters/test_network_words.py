"""A network in a person's words: what is said, what is usual, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import meshwise
from meshwise import catalog
from meshwise.clusters.network_words import network_of_words, usual_network
from meshwise.errors import InputError

TABLE = Path(meshwise.__file__).parent / "evidence/published/collectives.csv"


@pytest.mark.parametrize(
    ("words", "fabric", "nics", "gbits", "open_"),
    [
        ("RoCE 16x100 Gb/s per node (BM.GPU4.8 or A100-v2.8)", "roce-100", 16, 100, False),
        ("EFA v4 8x400 Gb/s per node (p6-b200.48xlarge)", "efa-400", 8, 400, False),
        ("8x200 Gb/s GPUDirect-TCPXO per node (GCP a3-megagpu-8g)", "gcp-tcpxo", 8, 200, False),
        ("TCP sockets over Slingshot 11, 2x200 Gb/s per node", "ethernet-200", 2, 200, False),
        ("Slingshot 11, 2x200 Gb/s per node (Polaris)", "slingshot-11", 2, 200, False),
        ("InfiniBand 8x200 Gb/s HDR per node (Sophia, DGX A100)", "ib-hdr", 8, 200, False),
        ("RoCE 1x400 Gb/s per rank (GKE A3 Ultra)", "roce-400", 8, 400, False),
        ("RoCE 8 NICs per node (rate not stated)", "roce-200", 8, 200, True),
        ("2x ConnectX-7", "ib-ndr", 2, 400, False),
        ("InfiniBand NDR 8x400", "ib-ndr", 8, 400, False),
        ("InfiniBand NDR400 x8", "ib-ndr", 8, 400, False),
        ("8xHDR200", "ib-hdr", 8, 200, False),
        ("2 × 200 Gbps InfiniBand", "ib-hdr", 2, 200, False),
        ("InfiniBand 200Gb/s x 8", "ib-hdr", 8, 200, False),
        ("25 GB/s InfiniBand, 4 ports", "ib-hdr", 4, 200, False),
        ("HDR 200 Gb/s per port, 1600 Gb/s per node", "ib-hdr", 8, 200, False),
        ("InfiniBand 8x 4X HDR", "ib-hdr", 8, 200, False),
        ("NDR200", "ib-hdr", 8, 200, True),
        ("HDR100", "ib-edr", 8, 100, True),
        ("400 Gb/s per GPU", "ib-ndr", 8, 400, False),
        ("3.2 Tb/s EFA per node", "efa-100", 32, 100, False),
        ("10GbE", "ethernet-10", 1, 10, False),
        ("100 Gbps Ethernet", "ethernet-100", 1, 100, False),
        ("400GbE", "roce-400", 8, 400, True),
        ("ENA 100 Gbps", "ethernet-100", 1, 100, False),
        ("GPUDirect-TCPX 4x200 Gb/s", "gcp-tcpx", 4, 200, False),
        ("8x Omni-Path 100 Gb/s", "omni-path-100", 8, 100, True),
        ("10 GbE management, 8x200 Gb/s HDR", "ib-hdr", 8, 200, False),
        ("plateau fits 10 Gb/s, kind not stated", "ethernet-10", 1, 10, True),
        ("", "ib-ndr", 8, 400, True),
        ("unknown", "ib-ndr", 8, 400, True),
        ("RoCE 4x100 Gb/s, no GPUDirect", "roce-200-host", 4, 100, False),
    ],
)
def test_words(words: str, fabric: str, nics: int, gbits: float, open_: bool) -> None:
    found = network_of_words(words, "h100-80gb-sxm", 8, 16)
    assert found.level == {
        "name": "cluster",
        "fabric": fabric,
        "bandwidth": f"{gbits:g} Gb/s",
        "nics": nics,
    }
    assert found.unsure == open_
    assert found.assumed or not open_


@pytest.mark.parametrize(
    "words",
    [
        "pigeons",
        "iWARP",
        "-5 Gb/s",
        "0x400 Gb/s IB",
        "999x400 Gb/s IB",
        "10 GbE and 200 Gb/s HDR",
        "NVLink",
    ],
)
def test_what_names_no_network_is_refused(words: str) -> None:
    with pytest.raises(InputError) as caught:
        network_of_words(words, "h100-80gb-sxm", 8, 16)
    assert caught.value.field == "inter_node"
    assert caught.value.legal
    assert "\n" not in str(caught.value)


def test_a_rack_is_one_domain() -> None:
    one = network_of_words("NVLink (one NVL72 rack)", "gb200", 4, 72)
    assert (one.level, one.domain, one.inside) == (None, 72, "nvlink5-nvl72")
    twenty = network_of_words("20 NVL72 racks, InfiniBand between", "gb200", 4, 1440)
    assert twenty.domain == 72
    assert twenty.level == {
        "name": "cluster",
        "fabric": "ib-ndr",
        "bandwidth": "400 Gb/s",
        "nics": 72,
    }
    with pytest.raises(InputError, match="domains"):
        network_of_words("one NVL72 rack", "gb200", 4, 144)


def test_every_cell_of_the_shipped_table_is_read() -> None:
    with TABLE.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    cells = {
        (r["inter_node"], r["device"], int(r["devices_per_node"]), int(r["ranks"]))
        for r in rows
        if int(r["nodes"] or 1) > 1
    }
    assert len(cells) > 25
    for words, device, each, ranks in cells:
        name = catalog.load("devices", device, "device")[0]
        found = network_of_words(words, name, each, ranks)
        assert found.level is not None or found.domain == ranks


@pytest.mark.parametrize("device", catalog.names("devices"))
@pytest.mark.parametrize("devices", [1, 4, 8])
def test_every_device_has_a_usual_network(device: str, devices: int) -> None:
    usual = usual_network(device, devices)
    assert 1 <= usual.gbits <= 800
    assert 1 <= usual.nics <= 32 * devices
