"""Several PCIe cards of one host: what is between them decides, for every generation alike."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import meshwise as mw
from meshwise import catalog
from meshwise.clusters.load import Cluster, cluster_from_table
from meshwise.clusters.pcie_hosts import TOPOLOGY_WORDS, unknown_host
from meshwise.errors import InputError

OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv")
MI = 1 << 20


def cards(number: int, fabric: str = "pcie4", **more: Any) -> Cluster:
    level = {"name": "node", "ranks": number, "fabric": fabric, **more}
    return cluster_from_table({"device": "l40s", "level": [level]}, "cards")


def sockets(each: int, **more: Any) -> Cluster:
    levels = [
        {"name": "socket", "ranks": each, "fabric": "pcie4", **more},
        {"name": "node", "ranks": 2, "fabric": "socket-upi", "nics": 1},
    ]
    return cluster_from_table({"device": "l40s", "level": levels}, "sockets")


def ask(cluster: Cluster, op: str = "all_reduce", size: float = 256 * MI) -> dict[str, Any]:
    return dict(mw.collective(op, size, cluster, cluster.devices).to_dict())


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("number", [4, 8])
def test_classes_are_ordered(op: str, number: int) -> None:
    switch, unknown, root = (
        ask(cards(number, **({"pcie_host": h} if h else {})), op)["time_s"]
        for h in ("switch", None, "root")
    )
    assert switch < unknown < root


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("host", ["switch", "root"])
@pytest.mark.parametrize("number", [2, 3, 4, 6, 8, 16])
def test_a_newer_generation_is_never_slower(op: str, host: str, number: int) -> None:
    for size in (8 * 1024, MI, 256 * MI):
        times = [
            ask(cards(number, f"pcie{g}", pcie_host=host), op, size)["time_s"] for g in (3, 4, 5, 6)
        ]
        assert all(later <= earlier for earlier, later in pairwise(times))
        if size == 256 * MI:
            assert all(later < earlier for earlier, later in pairwise(times))


@pytest.mark.parametrize("host", ["switch", "root", None])
def test_more_cards_are_never_quicker(host: str | None) -> None:
    said = {"pcie_host": host} if host else {}
    times = [ask(cards(n, **said))["time_s"] for n in range(2, 13)]
    assert all(later >= earlier for earlier, later in pairwise(times))


@pytest.mark.parametrize(
    "fabric, number, host, seen",  # GB/s of bus bandwidth of all_reduce, one machine each
    [("pcie4", 4, "root", 5.2), ("pcie4", 8, "root", 1.5), ("pcie5", 4, "switch", 25.8),
     ("pcie5", 8, "switch", 23.9), ("pcie4", 4, "switch", 20.8), ("pcie4", 8, "switch", 12.5)],
)  # fmt: skip
def test_both_intervals_hold_what_was_measured(
    fabric: str, number: int, host: str, seen: float
) -> None:
    size = 1024 * MI
    moved = 2 * (number - 1) / number * size / 1e9
    known = ask(cards(number, fabric, pcie_host=host), size=size)
    unknown = ask(cards(number, fabric), size=size)
    for found in (known, unknown):
        assert moved / found["time_high_s"] < seen < moved / found["time_low_s"]
    width = [f["time_high_s"] / f["time_low_s"] for f in (known, unknown)]
    assert width[0] < width[1]


def test_the_price_is_latency_bytes_and_a_ramp() -> None:
    table = catalog.load("collectives", "pcie", "collectives")[1]
    p = table["nccl"]["ring"]["protocols"][0]
    share = dict(zip(table["hosts"]["cards"], table["hosts"]["root"], strict=True))
    for number in (2, 4, 8):
        for size in (1024.0, 1e6, 1e9):
            steps = p["launch_s"] + 2 * (number - 1) * p["step_s"]
            wire = 2 * (number - 1) / number * size / (share[number] * 31.5e9)
            expected = steps + wire + 2 * p["ramp"] * np.sqrt(steps * wire)
            found = ask(cards(number, pcie_host="root"), size=size)
            assert found["time_s"] == pytest.approx(expected)
    # two sockets are in the shares of eight cards
    assert ask(sockets(4, pcie_host="root"))["time_s"] == pytest.approx(
        ask(cards(8, pcie_host="root"))["time_s"]
    )


def test_the_ideal_stack_and_a_stated_efficiency_know_no_hosts() -> None:
    ideal = mw.collective("all_reduce", 256 * MI, cards(4, pcie_host="root"), 4, stack="ideal")
    assert ideal.busbw_bytes_per_s == pytest.approx(31.5e9)
    stated = ask(cards(4, pcie_host="root", efficiency=0.5), size=4096 * MI)
    assert stated["busbw_bytes_per_s"] == pytest.approx(15.75e9, rel=0.01)


@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("number", [2, 4, 8])
def test_engines_are_not_faster_than_the_host(stack: str, number: int) -> None:
    share = catalog.load("collectives", "pcie", "collectives")[1]["hosts"]
    most = dict(zip(share["cards"], share["root"], strict=True))[number] * 31.5e9
    found = mw.collective(
        "all_reduce", 256 * MI, cards(number, pcie_host="root"), number, stack=stack
    )
    assert found.busbw_bytes_per_s is not None
    assert found.busbw_bytes_per_s <= most
    if number > 2:  # where vLLM and SGLang turn theirs off, and TensorRT-LLM has none
        names = {c["algorithm"] for c in found.to_dict()["candidates"]}
        assert not names & {"one_shot", "two_shot"}


# -- how it is said --------------------------------------------------------------------------------


@pytest.mark.parametrize("word, host", [*TOPOLOGY_WORDS.items(), ("switch", "switch")])
def test_words_of_nvidia_smi(word: str, host: str) -> None:
    for spelt in (word, word.upper()):
        assert mw.cluster("l40s-4x", pcie_host=spelt).levels[0].pcie_host == host


def test_peer_access_comes_and_goes_with_the_host() -> None:
    memory = mw.cluster("l40s-4x", pcie_host="host-memory").levels[0]
    assert (memory.kind, memory.fabric, memory.peer_to_peer) == ("pcie-host", "pcie4-host", False)
    patched = mw.cluster("rtx-4090-4x", pcie_host="root").levels[0]
    assert (patched.kind, patched.fabric, patched.peer_to_peer) == ("pcie", "pcie4", True)
    there = mw.collective("all_reduce", MI, mw.cluster("rtx-4090-4x"), 4).to_dict()
    back = mw.collective(
        "all_reduce", MI, mw.cluster(mw.cluster("rtx-4090-4x", pcie_host="root"), pcie_host="host-memory"), 4
    ).to_dict()  # fmt: skip
    assert there == back


@pytest.mark.parametrize(
    "cluster, said",
    [("hgx-h100", "switch"), ("l40s-4x", "fast"), ("l40s-4x", "")],
)
def test_what_is_no_host_is_refused(cluster: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        mw.cluster(cluster, pcie_host=said)
    assert caught.value.field == "pcie_host"
    with pytest.raises(InputError, match="pcie_host"):
        cluster_from_table(
            {"device": "h100", "level": [{"ranks": 8, "fabric": "nvlink4-nvswitch", "pcie_host": "root"}]},
            "mine",
        )  # fmt: skip


def test_answers_say_where_the_host_is_not_known() -> None:
    for name in catalog.names("clusters"):
        cluster = mw.cluster(name)
        assumed = {a["field"] for a in mw.collective("all_reduce", MI, cluster, 1).to_dict()["cluster"]["assumed"]}  # fmt: skip
        unknown = unknown_host(cluster)
        assert (f"{unknown}.pcie_host" in assumed) == (unknown is not None), name
    assert unknown_host(mw.cluster("l40s-8x"))
    assert unknown_host(mw.cluster("l40s-8x", pcie_host="PIX")) is None
    assert unknown_host(cards(2)) is None
    assert "PCIe host not known" in str(
        mw.estimate("gpt2", "l40s-4x", mw.Decode(batch=1, context=128), tp=1).page()
    )
