"""Layouts priced per second on one core: a dense training step over open-mesh axes.

Prices every combination of tp, pp, dp, micro_batch, recompute, sequence_parallel and shard in one
call (step time, pipeline and memory included), checks a sample against one call per layout to the
bit, and prints the rate and the peak memory.
Usage: python benchmarks/layouts.py [ROUNDS]
"""

from __future__ import annotations

import math
import os
import resource
import statistics
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import meshwise as mw
from meshwise.cost.estimate import price_layouts
from meshwise.layouts.layout import Layouts
from meshwise.stacks.load import load_stack

MODEL, CLUSTER, BATCH = "gpt3-175b", "dgx-a100", 4096 * 27


def mesh(dps: np.ndarray) -> Layouts:
    # The longest axes last: numpy's inner loop runs over them.
    shard, sp, recompute, micro, tp, dp, pp = np.ix_(
        np.array([0, 1, 2, 3]),
        np.array([False, True]),
        np.array([0, 1, 2]),
        np.array([1, 2, 4, 8, 16]),
        np.array([1, 2, 4, 8, 16, 32]),
        dps,
        np.arange(1, 97),
    )
    return Layouts(
        tp=tp,
        pp=pp,
        dp=dp,
        micro_batch=micro,
        recompute=recompute,
        sequence_parallel=sp,
        shard=shard,
    )


def price(layout: Layouts) -> tuple[np.ndarray, np.ndarray]:
    e = price_layouts(model, cluster, workload, stack, layout)
    return e.fast_step_s, e.memory_bytes


model = mw.model(MODEL)
cluster = mw.cluster(CLUSTER, nodes=100_000)
workload = mw.Training(batch=BATCH, seq=2048)
stack = load_stack("megatron-core")


def check_sample(rng: np.random.Generator, dps: np.ndarray, rounds: int = 50) -> None:
    layout = mesh(dps)
    step, memory = price(layout)
    shape = np.broadcast_shapes(*(np.shape(a) for a in layout))
    step, memory = np.broadcast_to(step, shape), np.broadcast_to(memory, shape)
    full = [np.broadcast_to(axis, shape) for axis in layout]
    for _ in range(rounds):
        at = tuple(int(rng.integers(n)) for n in shape)
        one_step, one_memory = price(Layouts(*(axis[at] for axis in full)))
        # powers of many numbers at once may be rounded otherwise than that of one
        assert math.isclose(one_step, step[at], rel_tol=1e-13), (at, one_step, step[at])
        assert one_memory == memory[at], (at, one_memory, memory[at])


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    dps = np.array([d for d in range(1, 4097) if BATCH // 16 % d == 0])
    check_sample(np.random.default_rng(0), dps)
    rates = []
    count = 0
    for _ in range(rounds):
        start = time.process_time()
        step, memory = price(mesh(dps))
        fits = memory <= cluster.device.memory_bytes
        best = np.min(np.where(fits, step, np.inf))
        rates.append(time.process_time() - start)
        count = fits.size if fits.size >= step.size else step.size
    per_s = [count / r for r in rates]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{count:,} layouts, best step {best:.3f} s, 50 of them equal to one call each, to the bit"
    )
    print(
        f"median {statistics.median(per_s) / 1e6:.1f} M layouts/s on one core "
        f"(range {min(per_s) / 1e6:.1f}-{max(per_s) / 1e6:.1f}, {rounds} runs; goal ≥ 10 M), peak memory {peak:.0f} MiB"
    )


if __name__ == "__main__":
    main()
