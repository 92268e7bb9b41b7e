"""One rank: ``python -m meshwise.runtime.ranks.rank_process SPEC.json``, started by the launcher or by torchrun.

It dies with its parent, joins the process group, opens its record on the board, makes one call and
leaves its result or its error in a file.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
_GRACE_S = 5.0


def die_with_parent(parent: int | None = None) -> None:
    """The kernel kills this process when its parent ends (prctl(2)); ``parent`` has ended already if it
    is no longer the parent."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def write_json(path: str, value: Any) -> None:
    """Atomically: a reader finds all of it or no file."""
    part = f"{path}.{os.getpid()}"
    Path(part).write_text(json.dumps(value), encoding="utf-8")
    Path(part).replace(path)


def call(name: str, arguments: Mapping[str, Any]) -> Any:
    """``module:function`` with its arguments."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)(**arguments)


def start(backend: str, timeout_s: float, threads: int | None, store: str | None = None) -> None:
    """Threads, device and process group of a rank, from the environment that its launcher made.

    ``store``: the file through which ranks of one host meet; without one they meet over TCP, where
    their launcher says.
    """
    local, here = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    world = int(os.environ["WORLD_SIZE"])
    if store is not None:  # the ranks' own sockets too, whatever the environment says
        os.environ |= dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), _loopback())
    elif here == world:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback())
    import torch
    import torch.distributed as dist

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(threads or max((cores or 1) // here, 1))
    more: dict[str, Any] = {}
    if backend == "nccl":
        torch.cuda.set_device(local)
        more["device_id"] = torch.device("cuda", local)
    if store is not None:
        shared = dist.FileStore(store, world)  # type: ignore[attr-defined]
        more |= {"store": shared, "world_size": world}
        more["rank"] = int(os.environ["RANK"])
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s), **more)


def _loopback() -> str:
    """The name of the interface that only this host reaches."""
    return next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")


def failure(error: BaseException) -> dict[str, Any]:
    """What is known of an error, for the launcher."""
    from meshwise.errors import MeshwiseError
    from meshwise.runtime.ranks import watch

    found = {
        "rank": int(os.environ.get("RANK", 0)),
        "time": time.time(),
        "type": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
        "doing": watch.board().last,
    }
    if isinstance(error, MeshwiseError):
        found["meshwise"] = error.to_dict()["error"]
        found["exit_code"] = error.exit_code
    return found


def _main(path: str) -> int:
    spec = json.loads(Path(path).read_text(encoding="utf-8"))
    die_with_parent(spec["parent"])
    rank = int(os.environ["RANK"])
    folder = spec["folder"]
    output = os.open(f"{folder}/output-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from meshwise.runtime.ranks import watch

    watch.use(watch.Board.open(spec["board"], spec["ranks"], int(os.environ["LOCAL_RANK"])))
    try:
        # the launcher, which sees all ranks, is the first to end a hang
        start(spec["backend"], spec["timeout_s"] + _GRACE_S, spec["threads"], spec["store"])
        watch.board().note("computes")
        value = call(spec["call"], spec["arguments"])
        if rank == 0:
            write_json(f"{folder}/result.json", value)
        import torch.distributed as dist

        with watch.waiting("the end of the run"):
            dist.barrier()  # nobody goes while another still reads what it holds
            dist.destroy_process_group()
    except Exception as error:
        write_json(f"{folder}/error-{rank}.json", failure(error))
        os._exit(1)  # threads of a broken process group may not end
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
