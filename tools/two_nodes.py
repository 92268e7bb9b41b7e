"""Two nodes on one machine: network namespaces joined by a link of a given rate (root, Linux, iproute2).

Traffic inside a node goes over its loopback device, past the limit of the link. Usage, for a job that
reads RANK, WORLD_SIZE, MASTER_ADDR … as under torchrun:

    python tools/two_nodes.py [--rate 200mbit] [--mtu 9000] [--burst 128kb] [--per-node 2] -- \
        python job.py
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DEVICE = "mw0"
ADDRESS = "10.77.0.{}"
PORT = 29500
PR_SET_PDEATHSIG = 1
_NAME = re.compile(r"mw-(\d+)-\d+[ab]\b")
_made = itertools.count()


class Failed(RuntimeError):
    """A rank ended with an error, or none ended in time."""


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def available() -> str | None:
    """Why two nodes cannot be made here; None where they can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces need Linux"
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            return f"{tool} (iproute2) is not installed"
    if os.geteuid():
        return "network namespaces need root"
    try:
        with TwoNodes():
            return None
    except OSError as error:
        return str(error)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class TwoNodes:
    """Namespaces and link as a context. A burst below one packet would let nothing through; MTU 9000
    spares the processor what many small packets cost."""

    def __init__(self, rate: str = "200mbit", mtu: int = 9000, burst: str = "128kb") -> None:
        self.rate, self.mtu, self.burst = rate, mtu, burst
        count = next(_made)
        self.names = [f"mw-{os.getpid()}-{count}{end}" for end in "ab"]
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> TwoNodes:
        _sweep()
        try:
            for name in self.names:
                ip("netns", "add", name)
            a, b = self.names
            pair = ("type", "veth", "peer", "name", DEVICE, "netns", b)
            ip("link", "add", DEVICE, "netns", a, "mtu", str(self.mtu), *pair)
            for i, name in enumerate(self.names):
                ip("-n", name, "link", "set", "lo", "up")
                ip("-n", name, "link", "set", DEVICE, "mtu", str(self.mtu))
                ip("-n", name, "addr", "add", f"{ADDRESS.format(i + 1)}/24", "dev", DEVICE)
                ip("-n", name, "link", "set", DEVICE, "up")
                limit = ("tbf", "rate", self.rate, "burst", self.burst, "latency", "50ms")
                done = subprocess.run(
                    ["tc", "-n", name, "qdisc", "add", "dev", DEVICE, "root", *limit],
                    capture_output=True,
                    text=True,
                )
                if done.returncode:
                    raise OSError(f"tc: {done.stderr.strip()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._started:
            process.kill()
            process.wait()
        for name in self.names:
            _remove(name)

    def start(
        self, node: int, argv: Sequence[str], env: Mapping[str, str], **more: Any
    ) -> subprocess.Popen[bytes]:
        """A process on a node; it ends with this one. ``ip netns exec`` becomes the process."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.names[node], *argv],
            env={**os.environ, **env},
            preexec_fn=_die_with_parent,
            **more,
        )
        self._started.append(process)
        return process

    def run(
        self, argv: Sequence[str], per_node: int = 2, timeout_s: float = 600.0, **more: Any
    ) -> None:
        """The same command as every rank, ranks node by node. Raises :class:`Failed` as soon as one
        ends with an error, and after ``timeout_s``; the others are ended then."""
        common = {
            "MASTER_ADDR": ADDRESS.format(1),
            "MASTER_PORT": str(PORT),
            "WORLD_SIZE": str(2 * per_node),
            "LOCAL_WORLD_SIZE": str(per_node),
            # a host name may resolve to 127.0.0.1, which the other node would take for itself
            "GLOO_SOCKET_IFNAME": DEVICE,
            "OMP_NUM_THREADS": "1",
        }
        ranks = []
        for rank in range(2 * per_node):
            node, local = divmod(rank, per_node)
            own = {"RANK": str(rank), "LOCAL_RANK": str(local)}
            ranks.append(self.start(node, argv, {**common, **own}, **more))
        end = time.monotonic() + timeout_s
        try:
            while any(p.poll() is None for p in ranks):
                failed = [i for i, p in enumerate(ranks) if p.poll()]
                if failed:
                    raise Failed(f"rank {failed[0]} ended with {ranks[failed[0]].returncode}")
                if time.monotonic() > end:
                    raise Failed(f"not over after {timeout_s:g} s")
                time.sleep(0.02)
            failed = [i for i, p in enumerate(ranks) if p.returncode]
            if failed:
                raise Failed(f"rank {failed[0]} ended with {ranks[failed[0]].returncode}")
        finally:
            for process in ranks:
                process.kill()
                process.wait()


def tx_bytes(device: str = DEVICE) -> int:
    """What the device of the caller's node has sent so far, headers included (/proc/net/dev)."""
    with open("/proc/net/dev", encoding="ascii") as file:
        for line in file:
            name, _, counts = line.partition(":")
            if name.strip() == device:
                return int(counts.split()[8])
    raise OSError(f"there is no device {device}")


def _sweep() -> None:
    """Remove what a killed run left behind."""
    for found in set(_NAME.finditer(ip("netns", "list"))):
        if not Path(f"/proc/{found[1]}").exists():
            _remove(found[0])


def _remove(name: str) -> None:
    """Processes first: the link lives as long as one of them is in its namespace."""
    with contextlib.suppress(OSError):
        for pid in ip("netns", "pids", name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    with contextlib.suppress(OSError):
        ip("netns", "del", name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", default="200mbit")
    parser.add_argument("--mtu", type=int, default=9000)
    parser.add_argument("--burst", default="128kb")
    parser.add_argument("--per-node", type=int, default=2)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the namespaces go
    reason = available()
    if reason:
        print(f"no two nodes here: {reason}", file=sys.stderr)
        return 2
    try:
        with TwoNodes(arguments.rate, arguments.mtu, arguments.burst) as nodes:
            nodes.run(arguments.command, arguments.per_node, timeout_s=float("inf"))
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
