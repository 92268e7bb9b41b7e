"""The collective model against measured tables: what the shipped constants reach, row by row.

The rows are those of the package's ``evidence/published/collectives.csv`` (sources per row there);
half of them was fitted (tools/fit_collectives.py), and the fit's own files state the other half's
errors. Here all rows are priced, on catalog clusters, through the public call.
"""

from __future__ import annotations

import csv
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import meshwise
from meshwise import catalog
from meshwise.api import collective
from meshwise.clusters.load import Cluster, cluster_from_table, load_cluster

TABLE = Path(meshwise.__file__).parent / "evidence/published/collectives.csv"
T4 = {"device": "t4", "level": [{"ranks": 4, "fabric": "pcie3"}]}


def t4_pair(fabric: str) -> Cluster:
    network = {"name": "cluster", "ranks": 2, "fabric": fabric, "nics": 1}
    return cluster_from_table({**T4, "level": [*T4["level"], network]}, "t4 pair")


# Log → the machines that it ran on. One row each is left of two of them (H200, p5).
MULTI_NODE: dict[str, Any] = {
    "allreduce-a100-2x8-oci-roce-2023": "oci-gpu4",
    "allreduce-a100-2x8-oci-roce-2026": "oci-gpu4",
    "allreduce-a100-2x8-oci-roce-full": "oci-gpu4",
    "allreduce-mi300x-2x8-oci-rccl": "oci-mi300x",
    "allreduce-h100-2x8-gcp-a3mega": "gcp-a3-mega",
    "stas-b200-4n": "aws-p6-b200",
    "stas-h200-4n": "aws-p5en",
    "allreduce-h100-2x8-p5-truncated": "aws-p5",
    "allreduce-t4-2x1-efa-info": "efa-50",
    "allreduce-t4-2x1-efa-mpitag": "efa-50",
    "allreduce-t4-2x1-tcp-mpitag": "ethernet-50",
}
STACKS = {"nccl": "megatron-core", "vllm": "vllm", "sglang": "sglang", "trtllm": "trtllm"}


@functools.cache
def rows() -> list[dict[str, str]]:
    with TABLE.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def of(log: str) -> list[dict[str, str]]:
    """A log's rows; not those launched outside a CUDA graph, which time the host."""
    found = [r for r in rows() if r["id"].rpartition("/")[0] == log and "eager" not in r["note"]]
    assert found, log
    return found


def errors(log: str, op: str, cluster: Cluster, stack: str, ranks: int = 0) -> np.ndarray:
    found = []
    for row in of(log):
        if row["op"] != op or (ranks and int(row["ranks"]) != ranks):
            continue
        result = collective(
            op.replace("alltoall", "all_to_all"),
            float(row["bytes"]),
            cluster,
            int(row["ranks"]),
            ranks_per_node=int(row["devices_per_node"]) if len(cluster.levels) == 2 else None,
            stack=stack,
        )
        found.append(abs(result.to_dict()["time_s"] / (float(row["time_us"]) * 1e-6) - 1))
    return np.array(found)


@pytest.mark.parametrize(
    "library, op, points, most",
    [
        ("nccl", "all_reduce", 126, 0.06),
        ("vllm", "all_reduce", 69, 0.08),
        ("trtllm", "all_reduce", 69, 0.08),
        ("sglang", "all_reduce", 69, 0.085),  # one of its rows is a hiccup of 38 µs beside 3.3 µs
        ("nccl", "all_gather", 126, 0.05),
        ("nccl", "reduce_scatter", 126, 0.055),
        ("nccl", "alltoall", 126, 0.10),
    ],
)
def test_inside_an_h100_node(library: str, op: str, points: int, most: float) -> None:
    """Mean |error| over 2, 4 and 8 GPUs and 256 B to 1 GiB."""
    found = errors(f"aic-{library}-h100", op, load_cluster("hgx-h100"), STACKS[library])
    assert len(found) == points
    assert found.mean() <= most


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_no_group_size_is_worse_than_the_goal(ranks: int) -> None:
    for library, most in (("nccl", 0.06), ("vllm", 0.08), ("trtllm", 0.08)):
        found = errors(
            f"aic-{library}-h100", "all_reduce", load_cluster("hgx-h100"), STACKS[library], ranks
        )
        assert found.mean() <= most, (library, ranks)


@functools.cache
def across(log: str) -> np.ndarray:
    name = MULTI_NODE[log]
    known = catalog.canonical("clusters", name) is not None
    cluster = load_cluster(name) if known else t4_pair(name)
    return errors(log, "all_reduce", cluster, "megatron-core")


# One set of constants for each kind of transport: machines of a kind lie apart, so that no log is met
# as closely as by constants of its own (tests/cost/test_collective_networks.py has systems left out).
MEDIAN = {
    "allreduce-a100-2x8-oci-roce-2023": 0.28,
    "allreduce-a100-2x8-oci-roce-2026": 0.23,
    "allreduce-a100-2x8-oci-roce-full": 0.10,
    "allreduce-mi300x-2x8-oci-rccl": 0.04,
    "allreduce-h100-2x8-gcp-a3mega": 0.15,
    "stas-b200-4n": 0.28,
    "stas-h200-4n": 0.22,
    "allreduce-h100-2x8-p5-truncated": 0.12,
    "allreduce-t4-2x1-efa-info": 0.65,
    "allreduce-t4-2x1-efa-mpitag": 0.50,
    "allreduce-t4-2x1-tcp-mpitag": 0.19,
}


@pytest.mark.parametrize("log", list(MULTI_NODE))
def test_across_nodes_each_log(log: str) -> None:
    assert np.median(across(log)) <= MEDIAN[log]


def test_across_nodes_all_logs() -> None:
    """Median |error| over all rows of the development logs, and over the logs' medians."""
    every = [across(log) for log in MULTI_NODE]
    assert np.median(np.concatenate(every)) <= 0.20
    assert np.median([np.median(e) for e in every]) <= 0.20
    assert sum(map(len, every)) == 31 + 4 + 2 + 5 + 31 + 18 + 1 + 1 + 29 * 3


def test_machines_that_were_not_fitted() -> None:
    """Single nodes of other owners with the NCCL of 2025: H200, A100 and B200, 32 KiB to 16 GiB."""
    for log, cluster, most in (
        ("stas-h200-1n", "hgx-h200", 0.10),
        ("stas-a100-1n", "dgx-a100", 0.10),
        ("stas-b200-1n", "hgx-b200", 0.18),
    ):
        assert np.median(errors(log, "all_reduce", load_cluster(cluster), "megatron-core")) <= most


def test_the_files_state_their_held_out_errors() -> None:
    """The half that was not fitted meets the goals, too."""
    table = catalog.load("collectives", "nvlink4-nvswitch", "collectives")[1]
    for library, most in (("nccl", 0.06), ("vllm", 0.08), ("trtllm", 0.08)):
        assert table[library]["all_reduce"]["fit"]["mean_error"] <= most
    for name, op, most in (  # each system left out of the fit with all of its logs
        ("verbs", "all_reduce", 0.15),
        ("verbs", "all_to_all", 0.16),
        ("ofi", "all_reduce", 0.24),
        ("ofi", "all_gather", 0.22),
        ("ofi", "all_to_all", 0.50),  # one machine: without it nothing is known of 256 nodes
        ("efa", "all_reduce", 0.42),
        ("tcp", "all_reduce", 0.30),
        ("tcpx", "all_reduce", 0.27),
    ):
        table = catalog.load("collectives", name, "collectives")[1]
        assert table["nccl"][op]["fit"]["median_error"] <= most, name
