"""Ranks are started, and whatever ends one of them ends the run: at once, by name, without a trace."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from tests.deep import deep

from meshwise.errors import InputError
from meshwise.runtime.ranks import cluster_env, watch
from meshwise.runtime.ranks.processes import RunFailed, launch

TOYS = "tests.runtime.toys"
WITHIN_S = 10.0
PATH = os.pathsep.join((".", os.environ.get("PYTHONPATH", "")))


def left_behind(marker: str) -> list[int]:
    """Processes with ``marker`` in their command line or environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) == os.getpid():
            continue
        try:
            text = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if marker.encode() in text and text:
            found.append(int(folder.name))
    return found


def test_the_value_of_rank_0() -> None:
    assert launch(f"{TOYS}:total", {"value": 3}, ranks=3, threads=1) == {
        "total": 12.0,
        "threads": 1,
    }


@pytest.mark.parametrize(
    ("how", "words", "algorithm"),
    [
        ("raise", ["rank 1 failed", "ValueError: the toy broke"], "backend"),
        ("kill", ["rank 1 was killed by signal 9 (SIGKILL)", "memory"], "backend"),
        deep("kill", ["rank 1 was killed by signal 9 (SIGKILL)", "memory"], "shared_memory"),
        deep("kill", ["rank 1 was killed by signal 9 (SIGKILL)", "memory"], "ring"),
        ("exit", ["rank 1 ended with exit code 3"], "ring"),
        deep("exit", ["rank 1 ended with exit code 3"], "shared_memory"),
    ],
)
def test_the_first_rank_to_fail_is_named(
    how: str, words: list[str], algorithm: str, capfd: Any, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    with pytest.raises(RunFailed) as caught:
        launch(
            f"{TOYS}:troubled",
            {"rank": 1, "how": how, "algorithm": algorithm, "ready": str(ready)},
            ranks=3,
            threads=1,
            timeout_s=60,
        )
    assert time.time() - ready.stat().st_mtime < WITHIN_S  # from the failure on
    for word in words:
        assert word in str(caught.value)
    assert caught.value.rank == 1
    assert caught.value.exit_code == 1
    if how == "raise":
        assert "in _trouble" in caught.value.trace
        assert "in _trouble" in capfd.readouterr().err


def test_a_rank_that_is_killed_while_the_others_compute() -> None:
    with pytest.raises(RunFailed, match=r"rank 2 was killed by signal 9"):
        launch(f"{TOYS}:computing", {"rank": 2}, ranks=3, threads=1)


@pytest.mark.parametrize("algorithm", ["backend", deep("shared_memory"), deep("ring")])
def test_a_hang_names_who_waits_in_what(algorithm: str) -> None:
    with pytest.raises(RunFailed) as caught:
        launch(
            f"{TOYS}:troubled",
            {"rank": 1, "how": "hang", "algorithm": algorithm},
            ranks=2,
            threads=1,
            timeout_s=2,
        )
    said = str(caught.value)
    assert "no progress for 2 s" in said
    assert "rank 0 waits in all_reduce layer.attention.output, group tp" in said
    assert "rank 1 did not come" in said


@pytest.mark.matrix
def test_a_hang_that_only_a_waiting_rank_sees_names_who_did_not_come() -> None:
    with pytest.raises(RunFailed) as caught:
        launch(f"{TOYS}:replicated", {"rank": 1}, ranks=2, threads=1, timeout_s=2)
    said = str(caught.value).lower()
    assert "rank 0 failed" in said
    assert "timed out" in said
    assert "rank 1 did not come: after the start of step 2 it has been elsewhere" in said


def test_bad_input_comes_back_as_it_was_raised(capfd: Any) -> None:
    with pytest.raises(InputError) as caught:
        launch(f"{TOYS}:troubled", {"rank": 0, "how": "input"}, ranks=2, threads=1)
    assert (caught.value.field, caught.value.nearest) == ("--toy", 2)
    with pytest.raises(InputError, match=r"differ in options.sequence_parallel: rank 1 has True"):
        launch(f"{TOYS}:disagreeing", {}, ranks=2, threads=1)
    assert "Traceback" not in capfd.readouterr().err.replace("rank", "")


def test_a_rank_that_does_not_come_to_an_agreement() -> None:
    with pytest.raises(RunFailed, match=r"rank 1 did not come to the agreement on options"):
        launch(f"{TOYS}:absent", {}, ranks=2, threads=1)


@pytest.fixture
def launcher(tmp_path: Path) -> Any:
    """A launcher in a process of its own, whose ranks run for ever."""
    script = tmp_path / "launcher.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        from meshwise.runtime.ranks.processes import launch
        try:
            launch("{TOYS}:troubled", {{"rank": 9, "how": ""}}, ranks=2, threads=1)
        except KeyboardInterrupt:
            sys.exit(130)
        """)
    )
    marker = f"MESHWISE_TEST_{os.getpid()}_{time.monotonic_ns()}"
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "TEST_MARKER": marker, "TMPDIR": str(scratch), "PYTHONPATH": PATH},
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        boards = list(scratch.glob("meshwise-run-*/board"))
        if boards and all(e.calls > 10 for e in watch.Board(str(boards[0]), 2, None).read()):
            break
        time.sleep(0.1)
    else:
        process.kill()
        pytest.fail("the ranks did not start")
    yield process, marker, scratch
    process.kill()
    process.wait()


def gone(marker: str) -> bool:
    deadline = time.monotonic() + WITHIN_S
    while left_behind(marker) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not left_behind(marker)


def test_kill_9_of_the_launcher_leaves_no_rank(launcher: Any) -> None:
    process, marker, _ = launcher
    assert len(left_behind(marker)) >= 3
    process.send_signal(signal.SIGKILL)
    process.wait(5)
    assert gone(marker)


@pytest.mark.parametrize("number", [signal.SIGINT, deep(signal.SIGTERM)])
def test_ctrl_c_leaves_nothing(launcher: Any, number: signal.Signals) -> None:
    process, marker, scratch = launcher
    process.send_signal(number)
    assert process.wait(WITHIN_S + 5) == 130
    assert gone(marker)
    assert not list(scratch.glob("meshwise-run-*"))
    assert not list(Path("/dev/shm").glob(f"meshwise-{process.pid}*"))


def listening(pids: list[int]) -> list[str]:
    """Addresses on which processes accept connections (Linux, proc(5): state 0A)."""
    own = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                own.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in own:
                words = bytes.fromhex(fields[1].partition(":")[0])
                swapped = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
                found.append(str(ipaddress.ip_address(swapped)))
    return found


@pytest.mark.matrix
def test_nobody_listens_beyond_this_host(launcher: Any) -> None:
    """Whoever reaches a TCP store of torch runs code as its user: there is none, and the pairs' own
    sockets are bound to the loopback interface."""
    _, marker, scratch = launcher
    pids = left_behind(marker)
    assert len(pids) >= 3
    found = listening(pids)
    assert all(ipaddress.ip_address(address).is_loopback for address in found), found
    with socket.socket() as server:  # the list sees what listens
        server.bind(("0.0.0.0", 0))
        server.listen()
        assert "0.0.0.0" in listening([os.getpid()])
    (folder,) = scratch.glob("meshwise-run-*")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / "store").exists()


def test_an_interface_of_the_environment_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster's profile names its network for jobs of several hosts; this one has none."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuchinterface0")
    assert launch(f"{TOYS}:total", {"value": 3}, ranks=2, threads=1)["total"] == 7.0


def test_under_torchrun(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        "from meshwise.runtime.ranks.cluster_env import join, under_launcher\n"
        "assert under_launcher()\n"
        "import sys\n"
        f"value = join('{TOYS}:total', {{'value': 1}}, backend='gloo', timeout_s=30, threads=1)\n"
        "sys.stdout.write(f'got {value}\\n')\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(script)],
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, "PYTHONPATH": PATH},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "got {'total': 3.0, 'threads': 1}" in run.stdout
    assert "got None" in run.stdout


def test_slurm_variables() -> None:
    env = {
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
        "SLURM_NTASKS": "8",
        "SLURM_TASKS_PER_NODE": "4(x2)",
        "SLURM_JOB_NODELIST": "gpu[07-08]",
        "SLURM_JOB_ID": "123456",
    }
    assert cluster_env.under_launcher(env)
    assert cluster_env.from_slurm(env) == {
        "RANK": "5",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "8",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": "23456",
    }
    assert [cluster_env.first_node(n) for n in ("a1,b2", "n[1,3]-x", "host")] == [
        "a1",
        "n1-x",
        "host",
    ]
    with pytest.raises(InputError, match="SLURM_LOCALID"):
        cluster_env.from_slurm({k: v for k, v in env.items() if k != "SLURM_LOCALID"})
