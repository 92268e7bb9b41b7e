"""How far published runs lie from their predictions → catalog/discrepancy, for 90 % intervals.

    python tools/fit_discrepancy.py [TABLE.csv ...]

Default: the shipped tables. Per quantity and stack: ln(measured / predicted) at 5 and 95 %. A stack's
own rows weigh k/(k+1), all others' 1/(k+1), for k sources of its own: what one paper shows of a stack
is not what the next will show. Inside a stack every source weighs alike. The quantiles are moved out
until 90 % of the rows, and of the sources' mean, are inside with their own source left out of the fit.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from pathlib import Path

from meshwise.errors import MeshwiseError
from meshwise.evidence.predict import Unsupported, predict
from meshwise.evidence.tables import read_table

ROOT = Path(__file__).resolve().parents[1] / "src/meshwise"
PUBLISHED = ROOT / "evidence/published"
CATALOG = ROOT / "catalog/discrepancy"
LEVEL, MOST = 0.90, 0.98
OWN_SPREAD = 1.0  # constants that are inherited with more doubt than this bring their own spread

# What a table's sources do not have, by quantity: kept as the catalog's file says it.
BEYOND = "[beyond]"

Rows = list[tuple[str, str, float, float]]  # (source, stack, ln(measured / predicted), inherited)


def collect(tables: list[Path]) -> dict[str, Rows]:
    found: dict[str, Rows] = defaultdict(list)
    for path in tables:
        table = read_table(str(path))
        for row in table.rows:
            try:
                predictions = predict(table.kind, row, path.parent)
            except (Unsupported, MeshwiseError):
                continue
            for p in predictions:
                if p.quantity != "fits" and not p.judged_as:
                    found[p.quantity].append(
                        (p.source, p.stack, math.log(p.measured / p.predicted), p.inherited)
                    )
    return found


def weighted_quantile(values: list[tuple[float, float]], q: float) -> float:
    """Of (value, weight) pairs: linear between the midpoints of their shares."""
    ordered = sorted(values)
    total = sum(w for _, w in ordered)
    at, before = [], 0.0
    for _, w in ordered:
        at.append((before + w / 2) / total)
        before += w
    if q <= at[0]:
        return ordered[0][0]
    for i in range(1, len(at)):
        if q <= at[i]:
            share = (q - at[i - 1]) / (at[i] - at[i - 1])
            return ordered[i - 1][0] + share * (ordered[i][0] - ordered[i - 1][0])
    return ordered[-1][0]


def per_source(rows: Rows) -> list[tuple[float, float]]:
    """(value, weight), every source with the weight 1 in all."""
    sizes: dict[str, int] = defaultdict(int)
    for source, *_ in rows:
        sizes[source] += 1
    return [(value, 1.0 / sizes[source]) for source, _, value, _ in rows]


def spread(rows: Rows, stack: str | None, level: float) -> tuple[float, float]:
    """Both ends of a stack's central ``level``, shrunk to all others (None: of all); nothing beside
    what constants that bring a spread of their own say."""
    own = [r for r in rows if r[1] == stack]
    if own and all(r[3] > OWN_SPREAD for r in own):
        return 0.0, 0.0
    rest = [r for r in rows if r[1] != stack and r[3] <= OWN_SPREAD]
    k = len({r[0] for r in own})
    pairs: list[tuple[float, float]] = []
    for part, share in ((own, k / (k + 1)), (rest, 1 / (k + 1))):
        weighed = per_source(part)
        total = sum(w for _, w in weighed)
        pairs += [(v, w / total * share) for v, w in weighed]
    tail = (1 - level) / 2
    return weighted_quantile(pairs, tail), weighted_quantile(pairs, 1 - tail)


def left_out(rows: Rows, level: float) -> tuple[float, float] | None:
    """Share of rows, and mean over sources of that share, inside the interval fitted without them;
    None for a single source."""
    inside: dict[str, list[bool]] = defaultdict(list)
    for source in {r[0] for r in rows}:
        rest = [r for r in rows if r[0] != source]
        if not rest:
            continue
        known = {r[1] for r in rest}
        for _, stack, value, inherited in (r for r in rows if r[0] == source):
            if inherited > OWN_SPREAD:
                continue  # says nothing of the spread that is fitted here
            low, high = spread(rest, stack if stack in known else None, level)
            inside[source].append(min(low, 0.0) <= value <= max(high, 0.0))
    if not inside:
        return None
    every = [ok for oks in inside.values() for ok in oks]
    means = [sum(oks) / len(oks) for oks in inside.values()]
    return sum(every) / len(every), sum(means) / len(means)


def beyond(quantity: str) -> list[str]:
    """The lines of the catalog's present file on what its rows have not, with the comment before."""
    path = CATALOG / f"{quantity.replace('_', '-')}.toml"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if BEYOND not in lines:
        return []
    first = lines.index(BEYOND)
    while lines[first - 1].startswith("#"):
        first -= 1
    return lines[first : lines.index("[stack]")]


def write(quantity: str, rows: Rows) -> None:
    stacks = sorted({r[1] for r in rows})
    level = LEVEL
    covered = left_out(rows, level)
    while covered and min(covered) < LEVEL and level < MOST:
        level = round(level + 0.005, 3)
        covered = left_out(rows, level)
    low, high = spread(rows, None, level)
    lines = [
        f'quantity = "{quantity}"',
        'source = "published runs beside their predictions: evidence/published"',
        'command = "python tools/fit_discrepancy.py"',
        f"rows = {len(rows)}",
        f"sources = {len({r[0] for r in rows})}",
        f"level = {level}",
        *(
            (
                f"covered_left_out_rows = {covered[0]:.3f}",
                f"covered_left_out_sources = {covered[1]:.3f}",
            )
            if covered
            else ()
        ),
        f"all = {{ low = {low:.4f}, high = {high:.4f} }}",
        "",
        *beyond(quantity),
        "[stack]",
    ]
    for stack in stacks:
        own = [r for r in rows if r[1] == stack]
        low, high = spread(rows, stack, level)
        lines.append(
            f"{stack} = {{ low = {low:.4f}, high = {high:.4f}, rows = {len(own)}, "
            f"sources = {len({r[0] for r in own})} }}"
        )
        print(
            f"{quantity:16} {stack:18} {len(own):5} rows {math.exp(low):6.2f} {math.exp(high):6.2f}"
        )
    if covered:
        rows_in, sources_in = covered
        print(f"{quantity:16} left out: {rows_in:.3f} of rows, {sources_in:.3f} by source inside")
    CATALOG.mkdir(parents=True, exist_ok=True)
    (CATALOG / f"{quantity.replace('_', '-')}.toml").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit catalog/discrepancy to published runs.")
    parser.add_argument("table", type=Path, nargs="*", help="tables in the formats of validate")
    arguments = parser.parse_args()
    for quantity, rows in collect(arguments.table or sorted(PUBLISHED.glob("*.csv"))).items():
        write(quantity, rows)


if __name__ == "__main__":
    main()
