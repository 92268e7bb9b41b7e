"""Fit products whose weights are expanded on their way to the catalog's measured tables.

    python tools/fit_weight_only.py WHEEL_DIR

after ``tools/fit_kernels.py``, whose products' tiles these share; it says what the wheel is. Its tables
of the kind are TensorRT-LLM 1.0.0's plugin on an A100 (8- and 4-bit weights, a scale per column, 16-bit
activations), which reads 4-bit weights at 37 % of the memory's rate: other engines run other kernels
(Marlin), and keep the dense products' constants with the weights' bytes. SGLang 0.5.6's 8-bit weights on
an H100 are not used: torchao widens them in passes of their own, at a fifth of the plugin's rate.
Every fifth shape, in their order, is left out of the fit.

Schema of a section::

    [weight_only.ENGINE.NAME]
    kernel, table, peak_flops_per_s
    weight_bytes                     # of a weight
    launch_s, memory_efficiency, efficiency   # over the dense bf16 product's
    points, left_out, median_error, mean_error, p90_error, bias   # of the shapes left out
    range = [[m], [n], [k]]
    tables
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

import fit_kernels as fk
import fit_recurrence as fr
import numpy as np
from fit_kernels import Array, Calls, Entry

from meshwise.cost.kernels import seconds as kernels
from meshwise.cost.kernels.seconds import Chip, CorrectionTable

# device -> engine, its table, (name, dtype of the table, bytes of a weight)
TABLES = {
    "a100-80gb-sxm": (
        "trtllm",
        "trtllm/1.0.0",
        (("int4", "int4_wo", 0.5), ("int8", "int8_wo", 1.0)),
    )
}
START: Entry = {"launch_s": 5e-6, "memory_efficiency": 0.6, "efficiency": 0.9}
GRID: list[list[float]] = [
    [1, 4, 16, 64, 256, 1024, 8192],
    [128, 1024, 4096, 16384, 65536],
    [128, 1024, 4096, 16384, 65536],
]


def fit(device: str, calls: Calls, weight: float) -> Entry:
    source = fk.DEVICES[device]
    dense = tomllib.loads((fk.CATALOG / f"{device}.toml").read_text())["gemm"]["bf16"]
    tiles = kernels.gemm_fit(dense, elsewhere=True, weight_bytes=weight)
    chip = Chip(source.sms, source.peaks["bf16"], source.bandwidth)

    def seconds(entry: Entry, shape: Array, tables: tuple[CorrectionTable, ...]) -> Array:
        m, n, k = shape
        moved = 2.0 * m * k + weight * k * n + 2.0 * m * n
        made = kernels.weight_only_fit(tiles, entry, tables)
        return np.asarray(kernels.gemm_seconds(m, n, k, 1.0, moved, chip, made), float)

    entry = fr.fit_constants(START, seconds, calls, ("memory_efficiency",))
    plain = seconds(entry, calls.shape, ())
    tables = fk.fit_tables(plain, calls, [(GRID, tuple(calls.shape))])
    final = seconds(entry, calls.shape, tuple(kernels.correction_table(t) for t in tables))
    return {
        "peak_flops_per_s": chip.peak,
        "weight_bytes": weight,
        **entry,
        **fk.quality(final, calls),
        "left_out": int((~calls.fitted).sum()),
        "range": fk.extent(*calls.shape),
        "tables": tables,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit weight-only products of kernels/*.toml.")
    parser.add_argument("wheel", type=Path, help="folder of the unpacked aiconfigurator-core wheel")
    arguments = parser.parse_args()
    for device, (engine, table, kinds) in TABLES.items():
        source = fk.DEVICES[device]
        path = arguments.wheel / fk.DATA / source.folder / "gemm" / table / "gemm_perf.parquet"
        entries = {}
        for name, column, weight in kinds:
            calls = fk.read(path, ["m", "n", "k"], {"gemm_dtype": column})
            m, n, k = calls.shape
            read = 2.0 * m * k + weight * k * n
            calls = fk.chosen(calls, ~fr.cached(calls, read, source.bandwidth))
            calls = fr.every_fifth_left_out(calls)
            head: Entry = {"kernel": calls.kernel, "table": table}
            entries[f"weight_only.{engine}.{name}"] = {**head, **fit(device, calls, weight)}
        fr.write(device, "weight_only", entries)
        fr.report(device, entries)


if __name__ == "__main__":
    main()
