"""Topologies as rows: matrices of nvidia-smi and rocm-smi, and NCCL's XML."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwise.errors import InputError
from meshwise.evidence.readers.reading import read_file
from meshwise.evidence.readers.records import FileFound

REAL = Path(__file__).parents[3] / "shared" / "data" / "logs"
NVIDIA = """\
$ nvidia-smi topo -m
        GPU0    GPU1    GPU2    GPU3    NIC0    CPU Affinity    NUMA Affinity
GPU0     X      NV4     SYS     SYS     PHB     0-31    0
GPU1    NV4      X      SYS     SYS     SYS     0-31    0
GPU2    SYS     SYS      X      NV4     SYS     32-63   1
GPU3    SYS     SYS     NV4      X      SYS     32-63   1
NIC0    PHB     SYS     SYS     SYS      X

Legend:
  X    = Self
"""
PEERS = """
$ nvidia-smi topo -p2p r
        GPU0    GPU1
 GPU0   X       NS
 GPU1   NS      X
"""
ROCM = """\
========================= ROCm System Management Interface =========================
============================= Weight between two GPUs ==============================
       GPU0         GPU1
GPU0   0            15
GPU1   15           0

============================== Hops between two GPUs ===============================
       GPU0         GPU1
GPU0   0            1
GPU1   1            0

============================ Link Type between two GPUs ============================
       GPU0         GPU1
GPU0   0            XGMI
GPU1   XGMI         0

==================================== Numa Nodes ====================================
GPU[0]          : (Topology) Numa Node: 0
GPU[1]          : (Topology) Numa Node: 1
"""
XML = """\
<system version="1">
  <cpu numaid="0" arch="x86_64" vendor="GenuineIntel">
    <pci busid="0000:17:00.0" class="0x030200" link_speed="32.0 GT/s PCIe" link_width="16">
      <gpu dev="0" sm="90" rank="0" gdr="1"><nvlink target="0000:e7:00.0" count="18" tclass="0x068000"/></gpu>
    </pci>
    <pci busid="0000:18:00.0" class="0x020700" link_speed="32.0 GT/s PCIe" link_width="16">
      <nic><net name="mlx5_0" dev="0" speed="400000" port="1" gdr="1"/></nic>
    </pci>
  </cpu>
</system>
"""


def found(tmp_path: Path, text: str) -> FileFound:
    path = tmp_path / "topology"
    path.write_text(text, encoding="utf-8")
    (only,) = read_file(str(path))
    return only


@pytest.mark.parametrize("tabs", [False, True])
def test_links_are_what_each_pair_has(tmp_path: Path, tabs: bool) -> None:
    text = (
        NVIDIA if not tabs else "\n".join("\t".join(line.split()) for line in NVIDIA.splitlines())
    )
    (row,) = found(tmp_path, text + PEERS).rows
    links = row.values.pop("links")
    assert row.line == 2
    assert links[0] == ["X", "NV4", "SYS", "SYS"]  # type: ignore[index]
    assert row.values == {
        "devices": 4,
        "link_words": "NV4 x2, SYS x4",
        "nvlinks_most": 4,
        "nics": 1,
        "nearest_nic": "PHB, SYS",
        "pcie_host": "root",
    }


@pytest.mark.parametrize(
    "old, new, line, expected",
    [
        ("GPU3    SYS     SYS     NV4      X      SYS     32-63   1\n", "", 6, "GPU3 expected"),
        ("GPU1    NV4 ", "GPU1    PIX ", 2, "same link both ways"),
        ("GPU1    NV4      X ", "GPU1    NV4      NV4 ", 2, "X of GPU1 to itself"),
        (
            "GPU2    SYS     SYS      X      NV4     SYS     32-63   1",
            "GPU2    SYS     SY",
            5,
            "found 'SY'",
        ),
    ],
)
def test_a_matrix_that_is_not_whole_is_refused(
    tmp_path: Path, old: str, new: str, line: int, expected: str
) -> None:
    assert old in NVIDIA
    (refused,) = found(tmp_path, NVIDIA.replace(old, new)).refused
    assert refused.line == line
    assert expected in refused.reason


def test_matrices_of_rocm_are_one_machine(tmp_path: Path) -> None:
    (row,) = found(tmp_path, ROCM).rows
    assert row.values == {
        "devices": 2,
        "links": [["X", "XGMI"], ["XGMI", "X"]],
        "link_words": "XGMI x1",
        "hops_most": 1,
        "numa_nodes": 2,
    }


def test_a_matrix_of_rocm_that_ends_early_is_refused(tmp_path: Path) -> None:
    read = found(tmp_path, ROCM[: ROCM.index("GPU1   XGMI")])
    assert not read.rows
    assert "cut short" in read.refused[0].reason


def test_xml_says_slots_links_and_nics(tmp_path: Path) -> None:
    (row,) = found(tmp_path, XML).rows
    assert row.values == {
        "devices": 1,
        "cpus": 1,
        "compute_capability": "90",
        "nvlinks_least": 18,
        "nvlinks_most": 18,
        "nvlink_switch": True,
        "nics": 1,
        "nic_bytes_per_s": 50e9,
        "gdr": True,
        "pcie_bytes_per_s": pytest.approx(63.0e9, rel=1e-3),  # PCIe 5.0 x16
    }


@pytest.mark.parametrize(
    "text, why",
    [
        (XML[:-30], "whole XML expected"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + XML, "without a document type"),
    ],
)
def test_xml_that_is_not_whole_or_grows_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        found(tmp_path, text)


@pytest.mark.skipif(not REAL.is_dir(), reason="topologies of others are not here")
@pytest.mark.parametrize(
    "name, devices, most",
    [("a100-8gpu-nv12", 8, 12), ("h100-8gpu", 8, 18), ("rtxa6000-3gpu", 3, 4), ("v100-4gpu", 4, 2)],
)
def test_real_matrices(name: str, devices: int, most: int) -> None:
    (path,) = REAL.glob(f"topo-{name}*.txt")
    (row,) = read_file(str(path))[0].rows
    assert (row.values["devices"], row.values["nvlinks_most"]) == (devices, most)
