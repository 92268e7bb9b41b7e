"""A rank of four on two nodes: what the collectives come to and what crosses the link. Rank by rank a
JSON line goes to the file in the first argument."""

from __future__ import annotations

import importlib.util
import json
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import torch
import torch.distributed as dist
from tests.runtime.ranks_collectives import digest, errors, values

from meshwise.runtime.collectives import hierarchy, p2p, quantised
from meshwise.runtime.collectives.peers import Peers
from meshwise.runtime.collectives.shared_memory import SharedMemory

ROOT = Path(__file__).parents[2]
VALUES = 1 << 18  # fp32: 1 MiB
LEAST = 1 << 18  # bytes: in four pieces


def _tool(name: str) -> ModuleType:
    """A script of ``tools``, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


two_nodes = _tool("two_nodes")


def crossed() -> int:
    """Bytes that this node has sent while no rank sends any."""
    dist.barrier()
    sent = int(two_nodes.tx_bytes())
    dist.barrier()
    return sent


def main(path: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    peers = Peers.of()
    given = [values(VALUES, "float32", r) for r in range(peers.size)]
    calls = {
        "flat": lambda x: dist.all_reduce(x),
        "ring": lambda x: p2p.ring_all_reduce(x, peers),
        "hierarchical": lambda x: hierarchy.hierarchical_all_reduce(x, peers),
        "hierarchical, 4 chunks": lambda x: hierarchy.hierarchical_all_reduce(x, peers, 4, LEAST),
        "int8": lambda x: quantised.quantised_all_reduce(x, peers, "int8"),
        "int8, 4 chunks": lambda x: quantised.quantised_all_reduce(
            x, peers, "int8", chunks=4, least=LEAST
        ),
    }
    found = {
        "nodes": peers.nodes,
        "worthwhile": hierarchy.worthwhile(peers),
        "memory": SharedMemory.available(peers),
        "memory inside": SharedMemory.available(peers.local) if peers.local else "no node",
    }
    for name, call in calls.items():
        x = given[peers.rank].clone()
        before = crossed()
        call(x)
        sent = crossed() - before
        norm, element = errors(x, given)
        found[name] = {"sent": sent, "norm": norm, "element": element, "digest": digest(x)}
    every = [None] * peers.size
    dist.all_gather_object(every, found)
    if peers.rank == 0:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(every, file)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
