"""The runtime's collectives beside the backend's, on one host or over a slow link.

    python benchmarks/collectives.py                 # 2 gloo ranks on this host, 64 KiB to 16 MiB
    python benchmarks/collectives.py --two-nodes     # 2 + 2 ranks in two network namespaces; needs root

One thread per rank. Variants run in shuffled order in every round; a round's time is the slowest
rank's. Printed: median [quartiles] in ms, and the median of the rounds' ratios to the backend's
all_reduce (above 1 = faster) and to a copy of the buffer. Over two nodes also the limit of the link
(the payload over its rate), the relative error, and how much of an all_reduce hides under products.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

BACKEND = "all_reduce of gloo"
COPY = "copy"
ROOT = Path(__file__).parents[1]
KIB = 1 << 10
RATES = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}

Calls = dict[str, Callable[[Any], Any]]


# -- a rank ----------------------------------------------------------------------------------------


def timed(call: Callable[[], Any]) -> float:
    """Seconds of the slowest rank."""
    import torch
    import torch.distributed as dist

    dist.barrier()
    begin = time.perf_counter()
    call()
    took = torch.tensor([time.perf_counter() - begin], dtype=torch.float64)
    dist.all_reduce(took, op=dist.ReduceOp.MAX)
    return float(took)


def alternating(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    order, names = random.Random(0), list(calls)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-2, rounds):
        order.shuffle(names)
        for name in names:
            seconds = timed(calls[name])
            if turn >= 0:
                found[name].append(seconds)
    return found


def error_of(call: Callable[[Any], Any], numel: int) -> float:
    """Relative norm, of Gaussian values."""
    import torch
    import torch.distributed as dist

    def own(rank: int) -> Any:
        return torch.randn(numel, generator=torch.Generator().manual_seed(rank))

    x = own(dist.get_rank())
    call(x)
    want = sum(own(r).double() for r in range(dist.get_world_size()))
    return float((x.double() - want).norm() / want.norm())


def hidden(numel: int, rounds: int) -> dict[str, Any]:
    """An asynchronous all_reduce beside products that take about as long: (communication + compute -
    both) / the shorter of them."""
    import torch
    import torch.distributed as dist

    x, a, b = torch.zeros(numel), torch.randn(256, 512), torch.randn(512, 512)
    out = torch.empty(256, 512)

    def multiply(times: int) -> None:
        for _ in range(times):
            torch.mm(a, b, out=out)

    def both(times: int) -> None:
        work = dist.all_reduce(x, async_op=True)
        multiply(times)
        work.wait()

    one = statistics.median(timed(lambda: multiply(20)) for _ in range(5)) / 20
    wire = statistics.median(timed(lambda: dist.all_reduce(x)) for _ in range(3))
    times = torch.tensor([max(1, round(wire / one))])
    dist.broadcast(times, 0)
    n = int(times)
    found = alternating(
        {
            "communication": lambda: dist.all_reduce(x),
            "compute": lambda: multiply(n),
            "both": lambda: both(n),
        },
        rounds,
    )
    shares = [
        (a + b - c) / min(a, b)
        for a, b, c in zip(found["communication"], found["compute"], found["both"], strict=True)
    ]
    return {"seconds": found, "shares": shares}


def one_host(peers: Any, sizes: list[int]) -> Calls:
    from meshwise.runtime.collectives import p2p
    from meshwise.runtime.collectives.shared_memory import SharedMemory

    memory = SharedMemory(peers, max(sizes))
    copies: dict[int, Any] = {}

    def copy(x: Any) -> None:
        copies.setdefault(x.numel(), x.clone()).copy_(x)

    import torch.distributed as dist

    return {
        BACKEND: dist.all_reduce,
        "shared memory": memory.all_reduce,
        "ring": lambda x: p2p.ring_all_reduce(x, peers),
        COPY: copy,
    }


def over_nodes(peers: Any, chunks: int) -> Calls:
    import torch.distributed as dist

    from meshwise.runtime.collectives.hierarchy import hierarchical_all_reduce
    from meshwise.runtime.collectives.quantised import quantised_all_reduce

    return {
        BACKEND: dist.all_reduce,
        "hierarchical": lambda x: hierarchical_all_reduce(x, peers),
        f"hierarchical, {chunks} chunks": lambda x: hierarchical_all_reduce(x, peers, chunks),
        "int8": lambda x: quantised_all_reduce(x, peers, "int8"),
        f"int8, {chunks} chunks": lambda x: quantised_all_reduce(x, peers, "int8", chunks=chunks),
        f"e4m3, {chunks} chunks": lambda x: quantised_all_reduce(x, peers, "e4m3", chunks=chunks),
    }


def rank(arguments: argparse.Namespace) -> None:
    import torch
    import torch.distributed as dist

    from meshwise.runtime.collectives.peers import Peers

    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    peers = Peers.of()
    dtype = getattr(torch, arguments.dtype)
    if arguments.two_nodes:
        calls = over_nodes(peers, arguments.chunks)
    else:
        calls = one_host(peers, arguments.sizes)
    found: dict[str, Any] = {}
    for size in arguments.sizes:
        x = torch.zeros(size // dtype.itemsize, dtype=dtype)
        ready = {name: partial(call, x) for name, call in calls.items()}
        found[str(size)] = {"seconds": alternating(ready, arguments.rounds)}
        if arguments.two_nodes:
            found[str(size)]["error"] = {
                name: error_of(call, 1 << 18) for name, call in calls.items()
            }
            found[str(size)]["hidden"] = hidden(size // 4, arguments.rounds)
    if dist.get_rank() == 0:
        Path(arguments.into).write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


# -- all of them -----------------------------------------------------------------------------------


def start(arguments: argparse.Namespace, into: str) -> None:
    command = [sys.executable, __file__, *sys.argv[1:], "--into", into]
    if arguments.two_nodes:
        sys.path.insert(0, str(ROOT / "tools"))
        import two_nodes

        reason = two_nodes.available()
        if reason:
            sys.exit(f"no two nodes here: {reason}")
        with two_nodes.TwoNodes(arguments.rate) as nodes:
            nodes.run(
                command, timeout_s=3600, stderr=None if arguments.verbose else subprocess.DEVNULL
            )
        return
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    common = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "WORLD_SIZE": str(arguments.ranks),
        "LOCAL_WORLD_SIZE": str(arguments.ranks),
        "OMP_NUM_THREADS": "1",
    }
    ranks = [
        subprocess.Popen(command, env={**common, "RANK": str(r)}) for r in range(arguments.ranks)
    ]
    try:
        if any(p.wait() for p in ranks):
            sys.exit("a rank failed")  # the first is waited for; those after it are killed below
    finally:
        for process in ranks:
            process.kill()


def spread(values: list[float], scale: float = 1.0, digits: int = 2) -> str:
    low, middle, high = scale * np.percentile(values, [25, 50, 75])
    return f"{middle:.{digits}f} [{low:.{digits}f} {high:.{digits}f}]"


def ratios(seconds: dict[str, list[float]], above: str, below: str) -> list[float]:
    return [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]


def report(found: dict[str, Any], arguments: argparse.Namespace) -> None:
    for size, measured in found.items():
        seconds = measured["seconds"]
        n = int(size)
        title = f"{n // KIB} KiB" if n < KIB**2 else f"{n / KIB**2:g} MiB"
        if arguments.two_nodes:
            rate = next(
                float(arguments.rate.removesuffix(u)) * v
                for u, v in RATES.items()
                if arguments.rate.endswith(u)
            )
            title += f"; the link alone {1e3 * 8 * n / rate:.0f} ms"
        print(f"\n{title}")
        for name, values in seconds.items():
            line = f"  {name:26s} {spread(values, 1e3):28s}"
            line += f" x{spread(ratios(seconds, BACKEND, name))}"
            if COPY in seconds:
                line += f"   {spread(ratios(seconds, name, COPY))} copies"
            if "error" in measured:
                line += f"   error {100 * measured['error'][name]:.3g} %"
            print(line)
        if "hidden" in measured:
            own = measured["hidden"]
            parts = ", ".join(f"{k} {spread(v, 1e3, 0)}" for k, v in own["seconds"].items())
            print(f"  hidden of an asynchronous all_reduce: {spread(own['shares'], 100, 0)} %")
            print(f"    ms: {parts}")
    load = os.getloadavg()[0]
    print(f"\n{arguments.rounds} rounds, {arguments.dtype}; load {load:.1f} at the end")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--two-nodes", action="store_true")
    parser.add_argument("--rounds", type=int, help="30 on one host, 11 over two nodes")
    parser.add_argument("--sizes", type=int, nargs="+", help="in KiB")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--ranks", type=int, default=2, help="on one host")
    parser.add_argument("--chunks", type=int, default=4)
    parser.add_argument("--rate", default="200mbit", help="of the link")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--into", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    default = [4096, 16384] if arguments.two_nodes else [64, 256, 1024, 4096, 16384]
    arguments.sizes = [KIB * s for s in arguments.sizes or default]
    arguments.rounds = arguments.rounds or (11 if arguments.two_nodes else 30)
    if arguments.into:
        rank(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder, "found.json")
        start(arguments, str(into))
        report(json.loads(into.read_text(encoding="utf-8")), arguments)


if __name__ == "__main__":
    main()
