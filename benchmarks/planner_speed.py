"""The planner's speed: GPT-3 175B on 4,096 GPUs from the command line, layouts per second by size of
the space, a 1T-parameter MoE on 16,384 GPUs, and Calculon on the same job where it is importable.

Usage: python benchmarks/planner_speed.py [CALCULON_REPOSITORY]

The repository (github.com/calculon-ai/calculon) gives the model and system files; its package needs
psutil and pandas. It is timed as shipped and with its logger silenced, over a random sample of its own
search space, one process each.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import meshwise as mw
from meshwise.search.training.ranking import search, variants
from meshwise.stacks.load import load_stack

COMMAND = [sys.executable, "-m", "meshwise", "plan"]
DENSE = [
    "gpt3-175b",
    "--on",
    "dgx-a100",
    "--gpus",
    "4096",
    "--global-batch",
    "4096",
    "--seq",
    "2048",
]
SPARSE = [
    "kimi-k2",
    "--on",
    "hgx-h100",
    "--gpus",
    "16384",
    "--global-batch",
    "16384",
    "--seq",
    "4096",
]


def command_line(arguments: list[str], rounds: int) -> None:
    """Wall time of the command with its JSON, start of the interpreter included."""
    walls, answer = [], {}
    for _ in range(rounds):
        start = time.perf_counter()
        done = subprocess.run([*COMMAND, *arguments, "--json"], capture_output=True, check=True)
        walls.append(time.perf_counter() - start)
        answer = json.loads(done.stdout)
    counts = answer["counts"]
    layouts = counts["feasible"] + counts["refused"].get("memory", 0)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        f"plan {' '.join(arguments[:5])}: median {statistics.median(walls):.2f} s wall "
        f"(range {min(walls):.2f}-{max(walls):.2f}, {rounds} runs), {layouts:,} legal layouts, "
        f"peak memory of the largest process {peak:.0f} MiB"
    )


def rate(
    model: str, cluster: str, gpus: int, batch: int, seq: int, **pins: tuple[object, ...]
) -> float:
    """Legal layouts per second of CPU time in one search; printed."""
    spec, where = mw.model(model), mw.cluster(cluster, nodes=gpus // 8)
    choices = variants(load_stack("megatron-core"), mw.Training(batch=batch, seq=seq))
    rates = []
    layouts = 0
    for _ in range(4):
        start = time.process_time()
        found = search(spec, where, choices, gpus, pins)
        spent = time.process_time() - start
        layouts = sum(s.space.layouts for s in found.searched)
        rates.append(layouts / spent)
    best = statistics.median(rates[1:])
    print(
        f"  {layouts:>12,} layouts: {layouts / best:8.3f} s, {best / 1e6:5.1f} M layouts/s "
        f"({model} on {gpus:,} GPUs, batch {batch:,})"
    )
    return best


def calculon(root: Path) -> None:
    """Seconds per layout of Calculon on GPT-3 175B, 4,096 GPUs, batch 4,096."""
    sys.path.insert(0, str(root))
    from calculon.llm import Llm  # type: ignore[import-not-found]
    from calculon.system import System  # type: ignore[import-not-found]

    app = Llm.Application(json.loads((root / "models/gpt3-175B.json").read_text()))
    system = System(json.loads((root / "systems/a100_80g.json").read_text()))
    choices = []
    for tp, pp in itertools.product((1, 2, 4, 8), (1, 2, 4, 8, 16, 32)):
        dp = 4096 // tp // pp
        for micro, recompute, shard, kind in itertools.product(
            (1, 2, 4), ("full", "attn_only", "none"), (True, False), ("ar", "rs_ag")
        ):
            if 4096 % (dp * micro) == 0:
                choices.append((tp, pp, dp, micro, recompute, shard, kind))
    sample = random.Random(0).sample(choices, 60)
    for silent in (False, True):
        good = 0
        start = time.process_time()
        for tp, pp, dp, micro, recompute, shard, kind in sample:
            logger = logging.Logger("sub", logging.CRITICAL if silent else logging.NOTSET)
            execution = {
                "num_procs": 4096,
                "tensor_par": tp,
                "pipeline_par": pp,
                "data_par": dp,
                "tensor_par_net": 0,
                "pipeline_par_net": 1,
                "data_par_net": 1,
                "batch_size": 4096,
                "microbatch_size": micro,
                "datatype": "float16",
                "fused_activation": True,
                "attention_type": "multihead",
                "activation_recompute": recompute,
                "pipeline_interleaving": 1,
                "optimizer_sharding": shard,
                "tensor_par_comm_type": kind,
                "tensor_par_overlap": "none",
                "seq_par_ag_redo": False,
                "data_par_overlap": False,
                "weight_offload": False,
                "activations_offload": False,
                "optimizer_offload": False,
                "training": True,
            }
            try:
                model = Llm(app, logger)
                model.compile(system, Llm.Execution.from_json(execution))
                model.run(system)
                good += 1
            except Llm.Error:
                pass
        spent = time.process_time() - start
        label = "its logger silenced" if silent else "as shipped"
        per_s = len(sample) / spent
        print(f"Calculon, {label}: {per_s:,.0f} layouts/s ({len(sample)} layouts, {good} good)")
        CALCULON[label] = per_s


CALCULON: dict[str, float] = {}


def main() -> None:
    command_line(DENSE, 7)
    command_line(SPARSE, 3)
    print("cost grows with the layouts (one core, memory and pipeline included):")
    small = {"cp": (1,), "placement": (0,)}
    rate("gpt3-175b", "dgx-a100", 8, 8, 2048, **small)
    rate("gpt3-175b", "dgx-a100", 64, 64, 2048, **small)
    rate("gpt3-175b", "dgx-a100", 512, 1536, 2048)
    dense = rate("gpt3-175b", "dgx-a100", 4096, 4096 * 27, 2048)
    rate("gpt3-175b", "dgx-a100", 4096, 4096 * 27 * 5, 2048)
    rate("kimi-k2", "hgx-h100", 16384, 16384, 4096)
    if len(sys.argv) > 1:
        calculon(Path(sys.argv[1]))
        for label, per_s in CALCULON.items():
            print(
                f"meshwise prices {dense / per_s:,.0f} times as many layouts/s as Calculon {label}"
            )
    else:
        print("Calculon: no repository given, not run")


if __name__ == "__main__":
    main()
