"""How long a simulated answer takes: from the shell, and of every preset in one process.

``python benchmarks/serving.py`` runs the commands of :data:`COMMANDS` in fresh processes, the best of several
each, beside what is asked of them on a quiet machine of today; ``--presets`` then serves every preset in this
process and lists the slowest, CPU seconds each. A machine with other work on it says nothing: read the load that
is printed first.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

MODEL = (
    "serve",
    "llama-3.1-70b",
    "--on",
    "hgx-h100",
    "--tp",
    "8",
    "--isl",
    "1024",
    "--osl",
    "1024",
)
LIMITS = ("--isl", "1024", "--osl", "256", "--ttft", "p95=1s", "--request-rate", "40")
# what is measured → the command, and its goal [s]
COMMANDS = {
    "64 in flight": ((*MODEL, "--concurrency", "64"), 0.4),
    "2,000 requests at a rate": ((*MODEL, "--request-rate", "4"), 3.0),
    "12 loads": ((*MODEL, "--sweep", "request-rate=1:200"), 10.0),
    "fewest of 64 GPUs": (
        (
            "plan",
            "llama-3.1-70b",
            "--on",
            "hgx-h100",
            "--gpus",
            "64",
            *LIMITS,
            "--tpot",
            "p90=30ms",
        ),
        1.5,
    ),
    "the same of experts": (
        ("plan", "deepseek-v3", "--on", "hgx-h200", "--gpus", "64", *LIMITS, "--tpot", "p90=50ms"),
        1.5,
    ),
}
DEGREES = (8, 4, 2, 1)  # the first that the model is cut into, and that fits


def seconds(argv: tuple[str, ...]) -> float:
    """Wall-clock seconds of a command in a process of its own."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "meshwise", *argv], stdout=subprocess.DEVNULL, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(argv)}: exit code {done.returncode}")
    return time.perf_counter() - start


def of_a_call(calls: int = 20_000) -> float:
    """Seconds of a call of :class:`meshwise.serving.IterationCost`, of an iteration with a prompt's chunk."""
    from meshwise.serving import IterationCost

    cost = IterationCost("llama-3.1-8b", "hgx-h100", tp=2)
    states = [(1 + n % 64, 1000.0 + n % 512, [(64 * (1 + n % 8), 0)]) for n in range(calls)]
    for state in states[:1000]:  # prices what they need
        cost(*state)
    start = time.perf_counter()
    for state in states:
        cost(*state)
    return (time.perf_counter() - start) / calls


def of_presets() -> list[tuple[float, str, int]]:
    """(CPU seconds of an answer, preset, TP degree), the slowest first; a first answer, which loads tables,
    is left out."""
    import meshwise as mw
    from meshwise import catalog

    cluster, load = mw.cluster("hgx-h200"), mw.Serving(isl=1024, osl=1024, concurrency=64)
    mw.serve("llama-3.1-8b", cluster, load, tp=1)
    found = []
    for name in catalog.names("models"):
        model = mw.model(name)
        for tp in DEGREES:
            start = time.process_time()
            try:
                mw.serve(model, cluster, load, tp=tp).to_dict()
            except mw.MeshwiseError:
                continue
            found.append((time.process_time() - start, name, tp))
            break
        else:
            print(f"{name}: not served on one node")
    return sorted(found, reverse=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--presets", action="store_true")
    asked = parser.parse_args()
    print(f"load of the machine {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors")
    for what, (argv, goal) in COMMANDS.items():
        best = min(seconds(argv) for _ in range(asked.rounds))
        print(f"{what:26} {best:6.2f} s  (goal {goal:g} s)")
    of_calls = min(of_a_call() for _ in range(asked.rounds))
    print(f"{'IterationCost':26} {1e6 * of_calls:6.1f} µs (goal 20 µs)")
    if asked.presets:
        found = of_presets()
        for took, name, tp in found[:12]:
            print(f"{took:8.3f} s  {name} (TP {tp})")
        print(f"{statistics.median(t for t, _, _ in found):8.3f} s  median of {len(found)} presets")


if __name__ == "__main__":
    main()
