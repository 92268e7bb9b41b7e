"""Fit what a software's own kernels read in products of a few rows, to single streams of a serving table.

    pip install scipy && pip install -e .
    python tools/fit_few_rows.py serving.csv [llama.cpp exllama mlc]

Per stack two or three constants (:class:`meshwise.stacks.engines.FewRows`): the share of the memory's rate,
what one multiprocessor draws, and a time per product; all else is priced as ever. Soft loss of the logarithm,
with a weak pull to the start. Printed: the constants, the errors of the rows, and those of every device's rows
by constants fitted without them.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from meshwise.evidence import predict_serving
from meshwise.evidence.software import RowSoftware
from meshwise.evidence.tables import Row, read_table
from meshwise.stacks.load import load_stack, stack_in_table
from meshwise.stacks.stack import replaced

Array = NDArray[np.float64]
# whose kernels are bound by what a multiprocessor draws: fp16 and 4-bit rows alike stay at 1.1 TB/s on an
# A100 whose memory gives 1.9
BY_MULTIPROCESSOR = ("llama.cpp",)
START = np.array([0.85, 5.0, 10.0])  # share, microseconds per product, GB/s per multiprocessor
WIDE = np.array([0.15, 8.0, 3.0])  # of the pull to it
LOSS = 0.15  # of the logarithm, from which a row counts less


def switches(x: Array) -> dict[str, float]:
    """The stack's switches of a point of the search."""
    found = {
        "row_memory_share": float(np.clip(x[0], 0.06, 1.0)),
        "row_product_s": float(max(x[1], 0.0)) * 1e-6,
    }
    if x.size > 2:
        found["row_sm_bytes_per_s"] = float(x[2]) * 1e9
    return found


def errors(name: str, rows: list[Row], x: Array) -> Array:
    """ln(predicted / measured) of rows under a stack with the constants."""
    stack = replaced(load_stack(name), switches(x))
    usual = predict_serving.software_of
    predict_serving.software_of = lambda *_: RowSoftware(stack)  # type: ignore[assignment]
    try:
        found = [predict_serving.serving_predictions(row, Path())[0] for row in rows]
    finally:
        predict_serving.software_of = usual
    return np.array([np.log(p.predicted / p.measured) for p in found])


def fit(name: str, rows: list[Row]) -> Array:
    size = 3 if name in BY_MULTIPROCESSOR else 2

    def residuals(x: Array) -> Array:
        pull = 0.1 * (x - START[:size]) / WIDE[:size]
        return np.concatenate([np.arctan(errors(name, rows, x) / LOSS), pull])

    scale = np.array([0.1, 3.0, 2.0])[:size]
    found = least_squares(residuals, START[:size], diff_step=0.03, x_scale=scale, max_nfev=12)
    return np.asarray(found.x)


def said(e: Array) -> str:
    size = np.abs(np.expm1(e))
    return (
        f"{e.size} rows, median {100 * np.median(size):.1f} %, p90 {100 * np.quantile(size, 0.9):.1f} %, "
        f"bias {100 * np.median(np.expm1(e)):+.1f} %"
    )


def streams(path: str) -> dict[str, list[Row]]:
    """Rows with a time per token of one request, by stack; where no lengths are stated, those of a short
    question."""
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        table = [r for r in reader if r["tpot_ms"] and r["concurrency"] == "1"]
        names = list(reader.fieldnames or ())
    for row in table:
        row["isl"], row["osl"] = row["isl"] or "8", row["osl"] or "256"
    with tempfile.NamedTemporaryFile("w", suffix=".csv", newline="") as short:
        writer = csv.DictWriter(short, names)
        writer.writeheader()
        writer.writerows(table)
        short.flush()
        read = read_table(short.name)
    found: dict[str, list[Row]] = {}
    for line in read.rows:
        stack = stack_in_table(line.text("engine"))
        if stack is not None:
            found.setdefault(stack.name, []).append(line)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("table")
    parser.add_argument("stacks", nargs="*", default=["llama.cpp", "exllama", "mlc"])
    asked = parser.parse_args()
    by_stack = streams(asked.table)
    for name in asked.stacks:
        rows = by_stack[name]
        x = fit(name, rows)
        print(name, switches(x), said(errors(name, rows, x)), flush=True)
        devices = sorted({r.text("device") for r in rows})
        out = []
        for device in devices if len(devices) > 1 else ():
            others = [r for r in rows if r.text("device") != device]
            own = [r for r in rows if r.text("device") == device]
            out.append(errors(name, own, fit(name, others)))
            print(f"  without {device}: {said(out[-1])}", flush=True)
        if out:
            print(f"  all devices, each left out: {said(np.concatenate(out))}")


if __name__ == "__main__":
    main()
