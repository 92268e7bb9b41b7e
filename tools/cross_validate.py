"""Errors of cells that had no part in the fits, beside those with the shipped constants.

    python tools/cross_validate.py [TABLE.csv ...] [-o docs/left-out.json] [--rows FILE.json]

A cell is a source, a device, a software, or a system's logs of collectives between nodes. Constants are
fitted again without each in turn (``tools/fit_training.py``, ``tools/fit_networks.py``); where the cell is
a device its end-to-end rows go and its kernel tables stay, and a second figure has its products by another
device's kernels. Memory and the order of layouts rest on no constant that rows were fitted to. Last the
intervals: how many rows lie inside those that were fitted without their publisher.

Prints Markdown; ``-o`` writes the same as JSON, which ``docs/generate.py`` makes the pages' tables of;
``--rows`` the predictions, which ``tools/fit_discrepancy.py --left-out`` takes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fit_discrepancy
import msgspec

from meshwise.clusters import load as clusters
from meshwise.clusters.cluster import Device
from meshwise.cost.kernels import compute
from meshwise.cost.kernels.fits import Kernels
from meshwise.errors import MeshwiseError
from meshwise.evidence.predict import predict
from meshwise.evidence.prediction import Suspect, Unsupported, source_of
from meshwise.evidence.score.summary import quantile
from meshwise.evidence.tables import MeasuredTable, Row, read_table
from meshwise.stacks.load import stack_in_table

PUBLISHED = fit_discrepancy.PUBLISHED
# Whose kernels price a device's products where its own are left out: those of another generation.
OTHER_KERNELS = {"ampere": "h100-80gb-sxm", "hopper": "a100-80gb-sxm", "blackwell": "h100-80gb-sxm"}


class Left(NamedTuple):
    """A row, predicted without its cell; ``shipped``: by the shipped constants."""

    id: str
    quantity: str
    cell: str
    measured: float
    predicted: float
    shipped: float


class MissingFit(Exception):
    """A fit that says nothing of what is left out; the text says which."""


def tables_of(paths: list[Path]) -> dict[str, list[tuple[MeasuredTable, Path]]]:
    """The tables by kind, the shipped ones first."""
    found: dict[str, list[tuple[MeasuredTable, Path]]] = defaultdict(list)
    for path in [*sorted(PUBLISHED.glob("*.csv")), *paths]:
        table = read_table(str(path))
        found[table.kind].append((table, path))
    return found


def merged(tables: list[tuple[MeasuredTable, Path]]) -> list[tuple[Row, Path]]:
    """Every row once, with the table that it is of."""
    found: dict[str, tuple[Row, Path]] = {}
    for table, path in tables:
        for row in table.rows:
            found.setdefault(row.text("id"), (row, path))
    return list(found.values())


def by_shipped(
    kind: str, rows: list[tuple[Row, Path]]
) -> dict[tuple[str, str], tuple[float, float]]:
    """(measured, predicted) of every row by the shipped constants."""
    found = {}
    for row, path in rows:
        with contextlib.suppress(Suspect, Unsupported, MeshwiseError):
            for p in predict(kind, row, path.parent):
                found[p.id, p.quantity] = (p.measured, p.predicted)
    return found


# -- what the fits leave out -----------------------------------------------------------------------


def fit_of(*names: str) -> Callable[..., list[tuple[Any, ...]]]:
    """``left_out`` of the first tool that has one; :class:`MissingFit` where none has."""
    for name in names:
        with contextlib.suppress(ModuleNotFoundError):
            found = getattr(importlib.import_module(name), "left_out", None)
            if found is not None:
                chosen: Callable[..., list[tuple[Any, ...]]] = found
                return chosen
    raise MissingFit(f"tools/{names[0]}.py has no function left_out: what it fits is not left out")


def software_of(row: Row) -> str:
    """The software's name in the catalog, whatever its version."""
    stack = stack_in_table(row.text("stack"))
    return stack.software if stack is not None else row.text("stack")


def training_cells(rows: list[tuple[Row, Path]], kind: str) -> dict[str, str]:
    """Row → its cell."""
    cell_of: dict[str, Callable[[Row], str]] = {
        "source": source_of,
        "device": lambda row: clusters.device(row.text("device")).name,
        "software": software_of,
    }
    found = {}
    for row, _ in rows:
        with contextlib.suppress(
            MeshwiseError
        ):  # a device that nobody knows has no prediction either
            found[row.text("id")] = cell_of[kind](row)
    return found


def training_left_out(
    paths: list[Path], rows: list[tuple[Row, Path]], shipped: dict[Any, Any], kind: str
) -> list[Left]:
    """Training rows by constants that were fitted without their cell."""
    fit = fit_of("fit_training")
    cells = training_cells(rows, kind)
    if kind != "source" and "cells" not in inspect.signature(fit).parameters:
        raise MissingFit("tools/fit_training.py: left_out takes no cells but sources")
    more = {} if kind == "source" else {"cells": cells}
    found: dict[tuple[str, str], Left] = {}
    for path in reversed(paths):  # the further tables first: they may hold the shipped rows too
        for name, quantity, measured, predicted in fit(path, **more):
            key = (name, quantity)
            if key in shipped and key not in found and name in cells:
                found[key] = Left(name, quantity, cells[name], measured, predicted, shipped[key][1])
    return list(found.values())


def collectives_left_out(rows: list[tuple[Row, Path]], shipped: dict[Any, Any]) -> list[Left]:
    """Collectives between nodes by constants that were fitted without their system."""
    fit = fit_of("fit_networks", "fit_collectives")
    cells = {row.text("id"): source_of(row) for row, _ in rows}
    return [
        Left(name, "time_s", cells[name], measured, predicted, shipped[name, "time_s"][1])
        for name, measured, predicted in fit([row.cells for row, _ in rows])
        if (name, "time_s") in shipped
    ]


@contextlib.contextmanager
def without_kernels() -> Iterator[None]:
    """Every device of a generation that has kernels of its own inherits another generation's."""
    own = compute.kernels

    def inherited(device: Device) -> Kernels:
        other = OTHER_KERNELS.get(device.generation)
        if other is None:
            return own(device)
        return own(msgspec.structs.replace(device, name="without-kernels", kernels=other))

    patched: Any = inherited
    compute.kernels = patched
    try:
        yield
    finally:
        compute.kernels = own


def kernels_left_out(
    rows: list[tuple[Row, Path]], shipped: dict[Any, Any], left: list[Left]
) -> list[Left]:
    """As the device is left out, with its kernels too: the step grows as that by inherited kernels does."""
    with without_kernels():
        other = by_shipped("training", rows)
    return [
        r._replace(predicted=r.predicted * other[r.id, r.quantity][1] / r.shipped)
        for r in left
        if (r.id, r.quantity) in other and (r.id, r.quantity) in shipped
    ]


# -- what they come to -----------------------------------------------------------------------------


def score(rows: list[Left]) -> dict[str, Any]:
    """Errors by the shipped constants and without the cell: over rows, and as the median over sources."""

    def errors(pairs: list[tuple[str, float]]) -> dict[str, float | None]:
        sizes = [abs(e) for _, e in pairs]
        sources: dict[str, list[float]] = defaultdict(list)
        for source, e in pairs:
            sources[source].append(abs(e))
        return {
            "median": statistics.median(sizes),
            "p90": quantile(sizes, 0.9),
            "bias": statistics.median(e for _, e in pairs),
            "of_sources": statistics.median(map(statistics.median, sources.values())),
            "worst_source": max(
                (statistics.median(v) for v in sources.values() if len(v) >= 8), default=None
            ),
        }

    sources = [r.id.split("/")[0] for r in rows]
    without = [(s, r.predicted / r.measured - 1.0) for s, r in zip(sources, rows, strict=True)]
    with_all = [(s, r.shipped / r.measured - 1.0) for s, r in zip(sources, rows, strict=True)]
    return {
        "rows": len(rows),
        "cells": len({r.cell for r in rows}),
        "left_out": errors(without),
        "shipped": errors(with_all),
    }


def markdown(summary: dict[str, Any]) -> str:
    """The summary as tables of a page."""
    head = "| quantity | left out | cells | rows | median | p90 | bias | median over sources | as shipped: median | p90 |"
    lines = [head, "|---|---|---|---|---|---|---|---|---|---|"]
    for name, s in summary["errors"].items():
        quantity, _, cell = name.partition(" without ")
        out, own = s["left_out"], s["shipped"]
        figures = (out["median"], out["p90"], out["bias"], out["of_sources"])
        shown = " | ".join(
            f"{100 * v:+.1f} %" if v is out["bias"] else f"{100 * v:.1f} %" for v in figures
        )
        lines.append(
            f"| `{quantity}` | {cell or '-'} | {s['cells']} | {s['rows']} | {shown} "
            f"| {100 * own['median']:.1f} % | {100 * own['p90']:.1f} % |"
        )
    lines += [
        "",
        "| intervals | inside, of left-out rows | width, device and software measured | elsewhere |",
    ]
    lines.append("|---|---|---|---|")
    for quantity, w in summary["intervals"].items():
        widths = (w["median_width_measured"], w["median_width_elsewhere"])
        shown = " | ".join("-" if v is None else f"{100 * v:.0f} %" for v in widths)
        lines.append(f"| `{quantity}` | {100 * w['covered_left_out_rows']:.0f} % | {shown} |")
    return "\n".join(lines)


def cross_validated(
    paths: list[Path], say: Callable[[str], None]
) -> tuple[dict[str, Any], list[Left]]:
    """(what the errors come to, the rows without their source or system)."""
    tables = tables_of(paths)
    training, logs = merged(tables["training"]), merged(tables["collectives"])
    shipped = by_shipped("training", training)
    errors: dict[str, Any] = {}
    kept: list[Left] = []

    def add(name: str, made: Callable[[], list[Left]], keep: bool = False) -> list[Left]:
        began = time.monotonic()
        try:
            rows = made()
        except MissingFit as why:
            say(f"{name}: {why}")
            return []
        if rows:
            errors[name] = score(rows)
        kept.extend(rows if keep else ())
        say(f"{name}: {len(rows)} rows, {time.monotonic() - began:.0f} s")
        return rows

    files = [path for _, path in tables["training"]]
    for cell in ("source", "device", "software"):
        rows = add(
            f"step_s without its {cell}",
            lambda cell=cell: training_left_out(files, training, shipped, cell),  # type: ignore[misc]
            keep=cell == "source",
        )
        if cell == "device" and rows:
            add(
                "step_s without its device and its kernels",
                lambda rows=rows: kernels_left_out(training, shipped, rows),  # type: ignore[misc]
            )
    memory = [
        Left(name, quantity, name.split("/")[0], m, p, p)
        for (name, quantity), (m, p) in shipped.items()
        if quantity == "memory_bytes"
    ]
    add("memory_bytes", lambda: memory)
    timed = by_shipped("collectives", logs)
    add("time_s without its system", lambda: collectives_left_out(logs, timed), keep=True)
    return {"errors": errors, "intervals": intervals(paths, kept, say)}, kept


def intervals(paths: list[Path], kept: list[Left], say: Callable[[str], None]) -> dict[str, Any]:
    """What intervals that are fitted without a publisher hold of its rows, by left-out predictions."""
    shipped = sorted(p for p in PUBLISHED.glob("*.csv") if p.name != "layers.csv")
    rows, _ = fit_discrepancy.collect([*shipped, *paths])
    rows = fit_discrepancy.revalued(
        rows, {(r.id, r.quantity): r.measured / r.predicted for r in kept}
    )
    found = {}
    for kind in fit_discrepancy.KINDS:
        of_kind = [r for r in rows if r.question.kind == kind]
        index = fit_discrepancy.index_of(of_kind)
        for quantity in fit_discrepancy.PARTS:
            own = [
                r
                for r in of_kind
                if fit_discrepancy.judged_as(r.quantity) == quantity and not r.open
            ]
            if own:
                _, worth = fit_discrepancy.fitted(quantity, own, index)
                found[quantity] = {k: v if math.isfinite(v) else None for k, v in worth.items()}
                say(f"intervals of {quantity}: {len(own)} rows")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("table", type=Path, nargs="*", help="further tables in validate's formats")
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON")
    parser.add_argument("--rows", type=Path, help="write the left-out predictions as JSON")
    arguments = parser.parse_args()
    summary, rows = cross_validated(arguments.table, lambda text: print(f"- {text}", flush=True))
    print(markdown(summary))
    if arguments.output:
        arguments.output.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    if arguments.rows:
        table = {"rows": [r._asdict() for r in rows]}
        arguments.rows.write_text(json.dumps(table) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
