"""Ranks on this machine, started by torch's elastic agent and ended well, whatever happens.

A rank that fails ends the run with its number and traceback; ranks that wait for one another are named
with what they wait in; nothing is left running, nor in the temporary folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from meshwise.errors import InputError, MeshwiseError, clean, shorten
from meshwise.runtime.ranks import watch

START_S = 180.0  # in which every rank must have come up
POLL_S = 0.1
TAIL = 2000  # characters of a rank's output that are shown when it fails without a word
BROKEN = (  # in the messages of gloo, the store and NCCL
    *("connection closed", "connection reset", "broken pipe", "timed out", "socket", "store"),
    *("pair closure", "remote process exited", "aborted"),
)


class RunFailed(MeshwiseError):
    """A run ended before its end: which rank, and why."""

    exit_code = 1

    def __init__(self, message: str, *, rank: int | None = None, trace: str = "") -> None:
        super().__init__(message)
        self.rank, self.trace = rank, trace


def launch(
    call: str,
    arguments: Mapping[str, Any],
    *,
    ranks: int,
    backend: str = "gloo",
    timeout_s: float = 120.0,
    threads: int | None = None,
) -> Any:
    """Call ``module:function`` with JSON arguments on ``ranks`` ranks of this machine and return what
    rank 0 returned.

    Raises the error itself where the ranks raised an :class:`InputError`, else :class:`RunFailed` with
    the first rank to fail. ``timeout_s`` limits the wait in any collective.
    """
    _check_devices(backend, ranks)
    folder = tempfile.mkdtemp(prefix="meshwise-run-")
    spec: dict[str, Any] = {
        "call": call,
        "arguments": dict(arguments),
        "ranks": ranks,
        "backend": backend,
        "timeout_s": timeout_s,
        "threads": threads,
        "folder": folder,
        "board": f"{folder}/board",
        "store": f"{folder}/store",  # the folder is ours alone: whoever writes here runs code as us
        "parent": os.getpid(),
    }
    try:
        Path(folder, "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        board = watch.Board.create(spec["board"], ranks)
        guard = _Guard(board, timeout_s)
        with _terminated(), guard:
            codes = _agent(folder, ranks)
        if codes is None:
            return json.loads(Path(folder, "result.json").read_text(encoding="utf-8"))
        raise _failed(folder, codes, guard)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_devices(backend: str, ranks: int) -> None:
    if backend != "nccl":
        return
    import torch

    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if devices < ranks:
        raise InputError(
            f"backend=nccl: {ranks} ranks need as many CUDA devices, here are {devices}",
            field="backend",
            value="nccl",
            legal="gloo" if not devices else f"at most {devices} ranks, or gloo",
            nearest="gloo",
        )


@contextlib.contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _agent(folder: str, ranks: int) -> dict[int, int] | None:
    """Run the ranks to their end; None where all went well, else exit codes of those that did not."""
    import logging

    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from meshwise.runtime.ranks import one_host

    for name in ("torch.distributed.elastic", "torch.distributed.launcher"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # failures are ours to tell
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the agent warns where it is unset
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=f"meshwise-{os.getpid()}-{time.monotonic_ns()}",
        rdzv_backend=one_host.register(),
        max_restarts=0,
        monitor_interval=POLL_S,
        local_addr="127.0.0.1",
        logs_specs=DefaultLogsSpecs(log_dir=f"{folder}/logs"),
    )
    try:
        elastic_launch(config, sys.executable)(
            "-m", "meshwise.runtime.ranks.rank_process", f"{folder}/spec.json"
        )
    except ChildFailedError as error:
        return {rank: f.exitcode for rank, f in error.failures.items()}
    except SignalException:
        raise KeyboardInterrupt from None
    return None


class _Guard:
    """Watches the board while ranks run; ends them where nothing moves any more."""

    def __init__(self, board: watch.Board, timeout_s: float) -> None:
        self.board, self.timeout_s = board, timeout_s
        self.said: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._begin = time.monotonic()

    def __enter__(self) -> _Guard:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for entry in self.board.read():  # none is left, whatever the agent did
            _kill(entry.pid)

    def _watch(self) -> None:
        while not self._stop.wait(POLL_S):
            entries = self.board.read()
            late = [e for e in entries if not e.pid]
            waiting = [e for e in entries if e.inside and e.since_s > self.timeout_s]
            if late and time.monotonic() - self._begin > START_S:
                self._end("not all ranks started", entries)
            elif waiting:
                self._end(f"no progress for {self.timeout_s:.0f} s", entries)
                return

    def _end(self, why: str, entries: list[watch.Entry]) -> None:
        self.said = [why, *watch.waiting_lines(entries)]
        for entry in entries:
            _kill(entry.pid)


def _kill(pid: int) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _failed(folder: str, codes: Mapping[int, int], guard: _Guard) -> MeshwiseError:
    """The error to raise: a hang as it was seen, else the first rank to fail by itself."""
    if guard.said:
        return RunFailed("; ".join(guard.said))
    errors = {}
    for path in Path(folder).glob("error-*.json"):
        with contextlib.suppress(ValueError, OSError):
            found = json.loads(path.read_text(encoding="utf-8"))
            errors[found["rank"]] = found
    # ranks that the agent did not end, and that left no word
    silent = [r for r, c in codes.items() if c not in (0, -signal.SIGTERM) and r not in errors]
    # the agent ends ranks by SIGTERM: whoever died of another signal was the first
    killed = [r for r in silent if codes[r] < 0]
    first = min(errors.values(), key=lambda e: (_consequence(e), e["time"]), default=None)
    if killed or first is None or (silent and _consequence(first)):
        rank = min(killed or silent or codes)
        if codes[rank] < 0:
            return _by_signal(rank, codes[rank], guard)
        said = f"rank {rank} ended with exit code {codes[rank]}{_tail(folder, rank)}"
        return RunFailed(said, rank=rank)
    if "meshwise" in first and first["exit_code"] == 2:
        known = first["meshwise"]
        return InputError(
            known["message"],
            field=known.get("field", ""),
            value=known.get("value"),
            legal=known.get("legal", ""),
            nearest=known.get("nearest"),
        )
    rank, doing = first["rank"], f" while in {first['doing']}" if first["doing"] else ""
    sys.stderr.write(clean(f"rank {rank}:\n{first['traceback']}"))
    what = f"{first['type']}: {shorten(first['message'], 300)}"
    told = [f"rank {rank} failed{doing}: {what}"]
    if _consequence(first):  # it waited in vain: for whom?
        told += watch.waiting_lines([e for e in guard.board.read() if e.rank not in errors])
    return RunFailed("; ".join(told), rank=rank, trace=first["traceback"])


def _consequence(error: Mapping[str, Any]) -> bool:
    """Whether an error looks like that of a rank whose partner has gone."""
    if error["type"] == watch.PeerLost.__name__:
        return True
    text = f"{error['type']} {error['message']}".lower()
    return any(word in text for word in BROKEN)


def _by_signal(rank: int, code: int, guard: _Guard) -> RunFailed:
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "?"
    entry = guard.board.read()[rank]
    where = f" in {entry.text}" if entry.inside else f" after {entry.text}" if entry.calls else ""
    why = "; the kernel does that when memory runs out" if -code == signal.SIGKILL else ""
    return RunFailed(f"rank {rank} was killed by signal {-code} ({name}){where}{why}", rank=rank)


def _tail(folder: str, rank: int) -> str:
    """The end of what a rank wrote."""
    with contextlib.suppress(OSError):
        text = Path(folder, f"output-{rank}.log").read_text(errors="replace").strip()
        if text:
            return ": " + " ".join(text[-TAIL:].split())
    return ""
