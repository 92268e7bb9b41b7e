"""Collectives between two network namespaces: their sums, and the bytes that the link really carries."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest
from tests.runtime.ranks_two_nodes import ROOT, VALUES, two_nodes

from meshwise.runtime.collectives.quantised import packed_bytes

RANKS = 4


def namespaces() -> list[str]:
    return subprocess.run(
        ["ip", "netns", "list"], capture_output=True, text=True, check=True
    ).stdout.split()


@pytest.fixture(scope="module")
def nodes() -> Any:
    reason = two_nodes.available()
    if reason:
        pytest.skip(reason)
    with two_nodes.TwoNodes("1gbit", burst="256kb") as made:
        yield made
    assert not [n for n in namespaces() if n in made.names]


@pytest.fixture(scope="module")
def found(nodes: Any, tmp_path_factory: Any) -> list[dict[str, Any]]:
    """What every rank found, ranks 0 and 1 on the first node."""
    folder = tmp_path_factory.mktemp("two_nodes")
    path, log = folder / "found.json", folder / "log"
    with log.open("wb") as file:
        try:
            command = [sys.executable, "-m", "tests.runtime.ranks_two_nodes", str(path)]
            nodes.run(command, timeout_s=120, cwd=ROOT, stdout=file, stderr=file)
        except two_nodes.Failed as error:
            pytest.fail(f"{error}:\n{log.read_text(errors='replace')[-3000:]}")
    every: list[dict[str, Any]] = json.loads(path.read_text())
    return every


def test_ranks_know_their_nodes(found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert rank["nodes"] == [0, 0, 1, 1]
        assert rank["worthwhile"]
        assert rank["memory"] == "the ranks are on several nodes"
        assert rank["memory inside"] != "the ranks are on several nodes"


@pytest.mark.parametrize(
    "how", ["ring", "hierarchical", "hierarchical, 4 chunks", "int8", "int8, 4 chunks"]
)
def test_sums(found: list[dict[str, Any]], how: str) -> None:
    """The same bits on both nodes; exact to the last places in fp32, to 1 % in int8."""
    assert len({rank[how]["digest"] for rank in found}) == 1
    for rank in found:
        if "int8" in how:
            assert rank[how]["norm"] <= 0.01
        else:
            assert rank[how]["element"] <= 1.01 * (RANKS - 1) * 2.0**-24


@pytest.mark.parametrize(
    ("how", "bytes_"),
    [
        # 2 (N - 1) / N of the payload over the one edge of the ring that leaves the node
        ("ring", 1.5 * 4 * VALUES),
        # each of two shares: 2 (M - 1) / M = 1 of it over M = 2 nodes
        ("hierarchical", 1.0 * 4 * VALUES),
        ("hierarchical, 4 chunks", 1.0 * 4 * VALUES),
        # both shares, a byte per value and the scales
        ("int8", 2 * packed_bytes(VALUES // 2, 128)),
        ("int8, 4 chunks", 8 * packed_bytes(VALUES // 8, 128)),
    ],
)
def test_the_link_carries_what_the_formula_says(
    found: list[dict[str, Any]], how: str, bytes_: float
) -> None:
    """Headers and the barrier before and after come on top."""
    for rank in (found[0], found[2]):  # one of each node
        assert bytes_ <= rank[how]["sent"] <= 1.10 * bytes_


def test_hierarchical_spares_the_link(found: list[dict[str, Any]]) -> None:
    for rank in (found[0], found[2]):
        assert rank["hierarchical"]["sent"] <= 0.75 * rank["flat"]["sent"]
        assert rank["int8"]["sent"] <= 0.30 * rank["hierarchical"]["sent"]


def test_namespaces_and_processes_go_when_a_rank_fails() -> None:
    reason = two_nodes.available()
    if reason:
        pytest.skip(reason)
    with two_nodes.TwoNodes() as made:
        assert set(made.names) <= set(namespaces())
        with pytest.raises(two_nodes.Failed, match="rank 1 ended with 3"):
            made.run(["sh", "-c", '[ "$RANK" = 1 ] && exit 3; sleep 60'])
        with pytest.raises(two_nodes.Failed, match=r"not over after 0\.3 s"):
            made.run(["sleep", "60"], timeout_s=0.3)
        last = made.start(0, ["sleep", "60"], {})
        assert last.poll() is None
    assert last.poll() is not None
    assert not set(made.names) & set(namespaces())


def test_what_tc_refuses_leaves_no_namespace() -> None:
    reason = two_nodes.available()
    if reason:
        pytest.skip(reason)
    made = two_nodes.TwoNodes(rate="fast")
    with pytest.raises(OSError, match="tc: "), made:
        pass
    assert not set(made.names) & set(namespaces())


def test_what_a_killed_run_left_is_removed() -> None:
    """The next run does it: nothing else of the first is alive."""
    reason = two_nodes.available()
    if reason:
        pytest.skip(reason)
    code = (
        "import os, signal\n"
        "from tools import two_nodes\n"
        "made = two_nodes.TwoNodes().__enter__()\n"
        "print(*made.names, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    left = set(killed.stdout.split())
    assert len(left) == 2
    assert left <= set(namespaces())
    with two_nodes.TwoNodes():
        assert not left & set(namespaces())


def test_a_link_that_goes_down_ends_like_a_hang(nodes: Any, tmp_path: Any) -> None:
    """Both ranks end by the time-out and say in which collective they waited."""
    del nodes  # skipped where there are none
    script = (
        "import sys\n"
        "from meshwise.runtime.ranks.cluster_env import join\n"
        "arguments = {'rank': 9, 'how': '', 'ready': sys.argv[1]}\n"
        "join('tests.runtime.toys:troubled', arguments, backend='gloo', timeout_s=3, threads=1)\n"
    )
    ready = tmp_path / "ready"
    logs = [tmp_path / f"log{rank}" for rank in range(2)]
    with two_nodes.TwoNodes() as own:
        ranks = []
        for rank in range(2):
            env = {
                "RANK": str(rank),
                "LOCAL_RANK": "0",
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "1",
                "MASTER_ADDR": two_nodes.ADDRESS.format(1),
                "MASTER_PORT": str(two_nodes.PORT),
                "GLOO_SOCKET_IFNAME": two_nodes.DEVICE,
            }
            with logs[rank].open("wb") as file:
                command = [sys.executable, "-c", script, str(ready)]
                ranks.append(own.start(rank, command, env, cwd=ROOT, stdout=file, stderr=file))
        deadline = time.monotonic() + 60
        while not ready.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert ready.exists(), [log.read_text()[-2000:] for log in logs]
        two_nodes.ip("-n", own.names[0], "link", "set", two_nodes.DEVICE, "down")
        assert [process.wait(20) for process in ranks] == [1, 1]
    for rank, log in enumerate(logs):
        said = log.read_text()
        assert f"rank {rank} failed in all_reduce layer.attention.output, group tp" in said
