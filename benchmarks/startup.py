"""Start-up time beside `python -c "import numpy"`, as ratios in one run.

Each command runs in a fresh process; the three alternate, so that a noisy machine is noisy for all.
Usage: python benchmarks/startup.py [ROUNDS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

MESHWISE = str(Path(sys.executable).with_name("meshwise"))
COMMANDS = {
    "import numpy": [sys.executable, "-c", "import numpy"],
    "meshwise --help": [MESHWISE, "--help"],
    "meshwise scale --json": [
        *(MESHWISE, "scale", "gpt3-175b", "--on", "dgx-a100"),
        *("--batch", "32", "--seq", "2048", "--json"),
    ],
}
GOALS = {"meshwise --help": 0.8, "meshwise scale --json": 2.0}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 21
    for command in COMMANDS.values():
        seconds(command)  # fill the file cache and write the bytecode
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    base = times["import numpy"]
    for name, values in times.items():
        low, high = np.percentile(values, [10, 90])
        ratios = [v / b for v, b in zip(values, base, strict=True)]
        goal = f"  (goal ≤ {GOALS[name]})" if name in GOALS else ""
        print(
            f"{name:24} median {statistics.median(values) * 1e3:6.1f} ms  "
            f"p10-p90 {low * 1e3:.1f}-{high * 1e3:.1f} ms  ratio {statistics.median(ratios):.2f}{goal}"
        )


if __name__ == "__main__":
    main()
