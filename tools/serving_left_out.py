"""Serving rows predicted with constants that were chosen without their cell, and without their generation.

    python tools/serving_left_out.py TABLE.csv [...] [--rows 12] [--constant NAME ...]

The constants are those of the engines' stacks that only runs show (:data:`CONSTANTS`). A cell is a source, an
engine, a model and a device. Each constant is chosen from its grid by the rows of the other cells: the least mean
over cells of the mean |ln(predicted / measured)|, of TPOT and of first tokens below two seconds; then by the
rows of the other generations of devices. What is printed is the choice of every fold, and the errors of the rows
that had no part in it beside those with the shipped constants.

Last all of them together: the rows of each generation, and of each cell, by the values that the others choose.

Of each cell ``--rows`` rows are taken, evenly over the table; rows that were measured twice count once.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from meshwise.clusters import load as clusters
from meshwise.errors import MeshwiseError
from meshwise.evidence import predict_serving
from meshwise.evidence.prediction import Suspect, Unsupported, source_of
from meshwise.evidence.rows import sweeps
from meshwise.evidence.score.summary import quantile
from meshwise.evidence.software import RowSoftware
from meshwise.evidence.tables import Row, read_table
from meshwise.stacks.load import stack_in_table
from meshwise.stacks.stack import replaced
from meshwise.workloads import workload

QUANTITIES = ("tpot_s", "ttft_s")


class Constant(NamedTuple):
    """A number of an engine's stack: its switch, the values that it is chosen from, and of which versions
    (None: all) it is."""

    engine: str
    switch: str
    grid: tuple[float, ...]

    @property
    def name(self) -> str:
        return f"{self.engine}.{self.switch}" if self.engine else self.switch


CONSTANTS = (
    Constant("vllm", "expert_layer_s", (0.3e-3, 0.4e-3, 0.5e-3, 0.6e-3, 0.7e-3, 0.85e-3)),
    Constant("vllm", "iteration_s", (0.0, 0.2e-3, 0.4e-3, 0.85e-3, 1.2e-3)),
    Constant("vllm", "sequence_s", (0.0, 5e-6, 13.8e-6, 20e-6)),
    Constant("trtllm", "sequence_s", (0.0, 5e-6, 13.8e-6)),
    Constant("sglang", "sequence_s", (0.0, 13.8e-6, 20e-6, 30e-6)),
    Constant("sglang", "prefill_kernel_s", (0.09e-3, 0.135e-3, 0.18e-3, 0.24e-3)),
    Constant("sglang", "iteration_s", (0.0, 0.4e-3, 0.85e-3, 1.2e-3)),
    Constant("trtllm", "prefill_kernel_s", (0.03e-3, 0.045e-3, 0.07e-3, 0.1e-3, 0.135e-3)),
    Constant("", "expert_skew", (0.0, 0.5, 1.0, 1.5)),
    Constant("trtllm", "length_spread", (0.0, 0.01, 0.02, 0.05)),
)


class Cell(NamedTuple):
    source: str
    engine: str
    model: str
    device: str
    generation: str

    @property
    def name(self) -> str:
        return "/".join(part for part in (self.source, self.engine, self.model) if part)


Errors = dict[tuple[str, str], float]  # (row, quantity) → ln(predicted / measured)


def cell_of(row: Row) -> Cell:
    stack = stack_in_table(row.text("engine"))
    device = clusters.device(row.text("device"))
    engine = stack.software if stack is not None else row.text("engine")
    return Cell(source_of(row), engine, row.text("model"), device.name, device.generation)


def sampled(paths: list[Path], most: int) -> dict[Cell, list[tuple[Row, Path]]]:
    """Rows of each cell, evenly over it."""
    cells: dict[Cell, dict[tuple[str, ...], tuple[Row, Path]]] = defaultdict(dict)
    for path in paths:
        for row in read_table(str(path)).rows:
            if not row.text("tpot_ms"):
                continue
            with contextlib.suppress(MeshwiseError):
                alike = tuple(v for c, v in row.cells.items() if c not in ("id", "note"))
                cells[cell_of(row)].setdefault(alike, (row, path))
    found = {}
    for cell, rows in cells.items():
        each = list(rows.values())
        count = min(len(each), most)
        found[cell] = [each[i * len(each) // count] for i in range(count)]
    return found


@contextlib.contextmanager
def priced_with(values: dict[Constant, float]) -> Iterator[None]:
    """Rows are predicted with these constants in place of the shipped ones."""
    by_engine: dict[str, dict[str, float]] = defaultdict(dict)
    shipped = predict_serving.software_of, workload.SERVED_SKEW, sweeps.WHOLE_SPREAD
    for constant, value in values.items():
        if constant.switch == "expert_skew":
            workload.SERVED_SKEW = value
        elif constant.switch == "length_spread":
            sweeps.WHOLE_SPREAD = value
        else:
            by_engine[constant.engine][constant.switch] = value

    def software_of(*asked: Any) -> RowSoftware:
        found = shipped[0](*asked)
        changes = by_engine.get(found.stack.software)
        return found._replace(stack=replaced(found.stack, changes)) if changes else found

    predict_serving.software_of = software_of
    predict_serving._known.clear()
    try:
        yield
    finally:
        predict_serving.software_of, workload.SERVED_SKEW, sweeps.WHOLE_SPREAD = shipped
        predict_serving._known.clear()


def errors_of(rows: list[tuple[Row, Path]]) -> Errors:
    found = {}
    for row, path in rows:
        with contextlib.suppress(Suspect, Unsupported, MeshwiseError):
            for p in predict_serving.serving_predictions(row, path.parent):
                if p.quantity in QUANTITIES:
                    found[p.id, p.quantity] = math.log(p.predicted / p.measured)
    return found


def distance(errors: Errors) -> float:
    """Mean |ln| of a cell's rows, TPOT's and the first tokens' alike."""
    by: dict[str, list[float]] = defaultdict(list)
    for (_, quantity), error in errors.items():
        by[quantity].append(min(abs(error), 1.0))  # what a row's own limits explain is bounded
    return statistics.fmean(statistics.fmean(e) for e in by.values()) if by else 0.0


def scored(errors: list[float]) -> str:
    sizes = [abs(math.expm1(e)) for e in errors]
    if not sizes:
        return "-"
    bias = math.expm1(statistics.median(errors))
    return f"{100 * statistics.median(sizes):.1f} / {100 * quantile(sizes, 0.9):.0f} / {100 * bias:+.1f} %"


def chosen(
    constant: Constant, by_value: dict[float, dict[Cell, Errors]], kept: list[Cell]
) -> float:
    """The value with the least mean distance over the kept cells."""
    return min(
        constant.grid,
        key=lambda v: statistics.fmean(distance(by_value[v][cell]) for cell in kept),
    )


def left_out(
    constant: Constant, by_value: dict[float, dict[Cell, Errors]], group: Callable[[Cell], str]
) -> tuple[dict[str, float], dict[Cell, Errors]]:
    """(what is left out → the value that the others choose, errors of every cell by it)."""
    cells = list(next(iter(by_value.values())))
    choices: dict[str, float] = {}
    errors: dict[Cell, Errors] = {}
    for name in dict.fromkeys(map(group, cells)):
        kept = [cell for cell in cells if group(cell) != name]
        if not kept:
            continue
        choices[name] = chosen(constant, by_value, kept)
        errors |= {c: by_value[choices[name]][c] for c in cells if group(c) == name}
    return choices, errors


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--rows", type=int, default=12, help="of a cell")
    names = [c.name for c in CONSTANTS]
    parser.add_argument("--constant", action="append", choices=names, help="only these")
    arguments = parser.parse_args()
    cells = sampled(arguments.tables, arguments.rows)
    folds: dict[str, dict[str, dict[Constant, float]]] = {
        "its generation": {c.generation: {} for c in cells},
        "its cell": {c.name: {} for c in cells},
    }
    shipped = {cell: errors_of(rows) for cell, rows in cells.items()}
    print("| constant | quantity | shipped | its cell left out | its generation left out |")
    print("|---|---|---|---|---|")
    for constant in CONSTANTS:
        if arguments.constant and constant.name not in arguments.constant:
            continue
        own = [c for c in cells if constant.engine in ("", c.engine) and shipped[c]]
        by_value = {}
        for value in constant.grid:
            with priced_with({constant: value}):
                by_value[value] = {c: errors_of(cells[c]) for c in own}
        by_cell, without_cell = left_out(constant, by_value, lambda c: c.name)
        by_generation, without = left_out(constant, by_value, lambda c: c.generation)
        for quantity in QUANTITIES:

            def of(errors: dict[Cell, Errors], quantity: str = quantity) -> str:
                return scored(
                    [e for c in errors.values() for (_, q), e in c.items() if q == quantity]
                )

            own_shipped = {c: shipped[c] for c in own}
            print(
                f"| `{constant.name}` | {quantity} | {of(own_shipped)} | {of(without_cell)} | {of(without)} |",
                flush=True,
            )
        everywhere = chosen(constant, by_value, own)
        for kind, choices in (("its generation", by_generation), ("its cell", by_cell)):
            for name, values in folds[kind].items():  # who has no row of it leaves nothing out
                values[constant] = choices.get(name, everywhere)
        print(f"\n{constant.name}: all choose {everywhere:g}; without each cell:")
        for name, value in by_cell.items():
            print(f"  {name}: {value:g}")
        print(f"  generations: {by_generation}")
        for cell in own:
            line = "  ".join(f"{v:g}: {distance(by_value[v][cell]):.3f}" for v in constant.grid)
            print(f"    {cell.name} {cell.device}  {line}")
        print(flush=True)
    print("| all together | quantity | left out | shipped |\n|---|---|---|---|")
    for kind, group in (("its generation", "generation"), ("its cell", "name")):
        together: dict[Cell, Errors] = {}
        for name, values in folds[kind].items():
            with priced_with(values):
                own = [c for c in cells if getattr(c, group) == name]
                together |= {c: errors_of(cells[c]) for c in own}
        for quantity in QUANTITIES:
            both = (together, shipped)
            said = [
                scored([e for c in errors.values() for (_, q), e in c.items() if q == quantity])
                for errors in both
            ]
            print(f"| {kind} | {quantity} | {' | '.join(said)} |", flush=True)


if __name__ == "__main__":
    main()
