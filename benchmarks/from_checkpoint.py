"""TP=2 on a transformers checkpoint beside transformers in one process with one thread.

    python benchmarks/from_checkpoint.py

Two gloo ranks on this machine, one thread each: a Llama of 2 layers (hidden 1024, 16 heads, 8 KV heads,
FFN 2816, vocabulary 4096, fp32) with embedding, head and loss, batch 4 × 256 tokens. transformers saves
it; one process reads it by from_pretrained, the ranks by slice. Variants alternate in every round, a
round's time is the slower rank's. Printed: medians [quartiles] and the speed-up (paired), runs apart.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

BATCH, SEQ = 4, 256


def worker(rank: int, port: int, arguments: argparse.Namespace, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    import torch
    import torch.distributed as dist
    from transformers import AutoModelForCausalLM

    from meshwise.runtime import Options
    from meshwise.runtime.collectives.peers import Peers
    from meshwise.runtime.weights import build

    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    table = json.loads(Path(folder, "config.json").read_text())
    split = build.build(
        build.config(table),
        Peers.of(None),
        Options(),
        kind=torch.float32,
        device=torch.device("cpu"),
        checkpoint=folder,
    )
    models: dict[str, Any] = {"TP=2": split}
    if rank == 0:
        models["one thread"] = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.randint(0, 4096, (BATCH, SEQ), generator=torch.Generator().manual_seed(0))

    def once(name: str, backward: bool) -> float:
        dist.barrier()
        begin = time.perf_counter()
        model = models.get(name)
        if model is not None:
            with torch.set_grad_enabled(backward):
                loss = model(ids, labels=ids, use_cache=False).loss
            if backward:
                loss.backward()
        took = torch.tensor([time.perf_counter() - begin], dtype=torch.float64)
        dist.all_reduce(took, op=dist.ReduceOp.MAX)
        for p in model.parameters() if model is not None else ():
            p.grad = None
        return float(took)

    found: dict[str, dict[str, list[float]]] = {}
    for kind in ("forward", "forward + backward"):
        rows: dict[str, list[float]] = {"one thread": [], "TP=2": []}
        for turn in range(-2, arguments.rounds):
            for name, seconds in sorted(rows.items(), reverse=bool(turn % 2)):
                took = once(name, kind != "forward")
                if turn >= 0:
                    seconds.append(took)
        found[kind] = rows
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    split.tensor_parallel.group.close()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    import torch
    import torch.multiprocessing as mp
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=2,
        num_attention_heads=16,
        num_key_value_heads=8,
    )
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(config).save_pretrained(folder)
        for run in range(arguments.runs):
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                port = s.getsockname()[1]
            mp.spawn(worker, args=(port, arguments, folder), nprocs=2)
            for kind, rows in json.loads(Path(folder, "found.json").read_text()).items():
                one, two = rows["one thread"], rows["TP=2"]
                ratios = [a / b for a, b in zip(one, two, strict=True)]
                low, middle, high = np.percentile(ratios, [25, 50, 75])
                print(
                    f"run {run + 1}, {kind:18s} {1e3 * statistics.median(one):6.0f} ms, "
                    f"{1e3 * statistics.median(two):6.0f} ms: x{middle:.2f} [{low:.2f} {high:.2f}]"
                )


if __name__ == "__main__":
    main()
