"""How far runs lie from their predictions → catalog/discrepancy and catalog/evidence.

    python tools/fit_discrepancy.py [TABLE.csv ...] [--left-out FILE.json]

Default: the shipped tables. Further tables (development rows) are taken beside them; a row of an id
that was read is not read again. Per quantity: the variance of ln(measured / predicted) as a sum over
what a question has (:mod:`meshwise.cost.doubt.spread`), every publisher weighing alike or as √n, by the
multiplicative updates that fit a sum of non-negative parts to squares (Févotte, Bertin and Durrieu
2009, Itakura-Saito), each residual's square held down where it is out of all proportion (Student's t).
Residuals of left-out publishers over their predicted standard deviation give the quantiles, never
below the normal distribution's 1.645. Of engines' times every row weighs alike too, as a publisher of
them is a sweep of one engine, model and device; their interval is the shortest that holds its share.

``--left-out``: the rows that ``tools/cross_validate.py`` writes; their predictions, by constants that
were fitted without them, take the place of those by the shipped constants.

Also writes the index of evidence: which source ran what, compactly.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from meshwise.cost.doubt.published_runs import Cell, regime
from meshwise.cost.doubt.question import Question
from meshwise.cost.doubt.spread import (
    ALWAYS,
    INHERITED_SD,
    NORMAL,
    OPEN_RATE_SD,
    components,
    judged_as,
)
from meshwise.errors import MeshwiseError
from meshwise.evidence.predict import predict
from meshwise.evidence.prediction import Suspect, Unsupported, operand_of, source_of
from meshwise.evidence.tables import Row, read_table

ROOT = Path(__file__).resolve().parents[1] / "src/meshwise"
PUBLISHED = ROOT / "evidence/published"
DISCREPANCY = ROOT / "catalog/discrepancy"
EVIDENCE = ROOT / "catalog/evidence"
LEVEL = 0.90  # of rows to be inside, where they and their publisher are left out
# Of engines' times, whose errors have a long tail above; sweeps count for the root of their rows.
SERVED_INSIDE = 0.90
LEAST_INSIDE = 0.87  # of small and of large messages of a regime
MOST = 0.98
TIGHT = 0.85  # of the wrong `fits` are to be called tight
STEPS, FEW_STEPS = 300, 60  # of the updates; where parts are chosen
# Model FLOPs count attention in full, of which causal kernels run half: of longer sequences that is much,
# and no utilisation to hold a promise against.
FULL_IS_CAUSAL = 8192  # tokens
MOST_OPEN = 0.1  # ln of the span that a row leaves open, above which it says nothing of the rest
BETTER = 0.005  # by which share the intervals are to be better without a part
SPLITS = 15  # of what is outside, into what lies below and above, that are compared
LEAST_SD = 0.01  # components below it are left out
SHIPPED = "published tables"

# What each quantity's variance is made of, beside `source`: another publisher than those seen.
PARTS = {
    "step_s": (
        *("device", "software", "release", "moe", "fp8", "fp4", "ep_network", "tp_network"),
        *("context_parallel", "pcie", "fsdp", "many_nodes", "over_memory"),
        *("network_share", "host_share"),
    ),
    "memory_bytes": (
        *("software", "moe", "fp8", "fp4", "fsdp", "context_parallel", "working_share"),
    ),
    "tpot_s": (
        *("device", "software", "moe", "mla", "fp8", "fp4", "ep_network", "pcie"),
        *("over_memory", "host_share", "routed_host_share", "few_routed"),
    ),
    "ttft_s": (
        *("device", "software", "moe", "mla", "fp8", "fp4", "ep_network", "pcie"),
        *("over_memory", "host_share", "routed_host_share", "few_routed"),
    ),
    "time_s": (
        *("device", "release", "software", "network_small", "network_medium"),
        *("network_all_to_all", "many_nodes", "all_to_all", "small", "one_shot"),
    ),
}
# A part that every row has: of regimes that err apart each has its own, and ends of its own.
SMALL_TRAITS = ("small", "network_small", "network_medium")
REGIMES = {"time_s": ("links", "lanes", "host", "network")}
# What is known from elsewhere. No published step has recurrent layers: their kernels are as unsure as another
# device's. Two sources alone decode over a network: a TP group that crosses one is as
# sure as an early fit to training runs had it.
FIXED = {"inherited": INHERITED_SD, "open_rate": OPEN_RATE_SD}
FIXED_OF = {"tpot_s": {"tp_network": 0.25}, "step_s": {"recurrent": INHERITED_SD}}
MOST_TIGHT = 2.0  # of the memory's interval, however wrong answers lie


KINDS = ("training", "serving", "collectives")


class Form(NamedTuple):
    """How a fit takes its rows."""

    freedom: float  # of Student's t: how strongly a residual out of all proportion is held down
    power: float  # a publisher of n rows weighs n to (1 − power)
    shortest: bool = False  # of the intervals that hold their share; else with equal tails


FORMS = tuple(Form(freedom, power) for freedom in (4.0, 10.0) for power in (1.0, 0.5))
SERVED_FORMS = tuple(Form(freedom, power, True) for freedom in (4.0, 10.0) for power in (0.5, 0.0))
SERVED = ("tpot_s", "ttft_s")


class Residual(NamedTuple):
    """A row's ln(measured / predicted) of one quantity, beyond what its interval has at the upper end for
    what was never measured (``slower``)."""

    id: str
    publisher: str
    quantity: str
    value: float
    question: Question
    job: tuple[str, ...]  # what rows that differ in layout alone have in common
    predicted: float
    mfu: float | None  # of a training step as measured
    dtype: str  # at whose peak
    shipped: bool
    open: bool  # what it leaves open alone makes it less sure
    slower: float = 0.0

    def valued(self, ratio: float) -> Residual:
        """With measured / predicted."""
        return self._replace(value=min(math.log(ratio), max(math.log(ratio) - self.slower, 0.0)))


class Held(NamedTuple):
    """A row that ran or ran out of memory: the limit over the predicted bytes."""

    publisher: str
    question: Question
    room: float
    ran: bool


class Fit(NamedTuple):
    """Standard deviations by component, and the ends in units of their sum."""

    sd: dict[str, float]
    low: float
    high: float
    ends: dict[str, tuple[float, float]]  # of regimes that have their own


def publisher_of(row: Row, kind: str) -> str:
    """Who published a row: whose sources may be off alike. Sweeps of engines are many of one."""
    words = row.text("source").split()
    if kind == "serving" or not words:
        return source_of(row)
    return " ".join(words[:2]) if words[0] == "arXiv" else words[0].partition("@")[0]


def collect(tables: list[Path]) -> tuple[list[Residual], list[Held]]:
    """Every row of the tables that is predicted, beside its measurement; and what fits."""
    found: list[Residual] = []
    held: list[Held] = []
    seen: set[tuple[str, str]] = set()
    for path in tables:
        table = read_table(str(path))
        for row in table.rows:
            name = (table.kind, row.text("id"))
            if name in seen:
                continue
            seen.add(name)
            try:
                predictions = predict(table.kind, row, path.parent)
            except (Suspect, Unsupported, MeshwiseError):
                continue
            for p in predictions:
                if p.quantity == "fits" and p.room is not None and p.question is not None:
                    who = publisher_of(row, table.kind)
                    held.append(Held(who, p.question, p.room, bool(p.measured)))
                if p.quantity != "fits" and not p.judged_as and p.question is not None:
                    who = publisher_of(row, table.kind)
                    alike = p.contender.alike if p.contender is not None else ()
                    short = p.ideal_s and row.count("seq") <= FULL_IS_CAUSAL
                    mfu = p.ideal_s / p.measured if p.ideal_s and short else None
                    found.append(
                        Residual(
                            p.id,
                            who,
                            p.quantity,
                            0.0,
                            p.question,
                            alike,
                            p.predicted,
                            mfu,
                            operand_of(row) if p.ideal_s else "",
                            path.parent == PUBLISHED,
                            math.log(p.span.high / p.span.low) > MOST_OPEN
                            or bool(p.question.traits.get("open_rate", 0.0)),
                            p.slower,
                        ).valued(p.measured / p.predicted)
                    )
    return found, held


def replaced(rows: list[Residual], left_out: Path) -> list[Residual]:
    """Rows with the predictions of constants that were fitted without them."""
    table = json.loads(left_out.read_text(encoding="utf-8"))["rows"]
    return revalued(rows, {(r["id"], r["quantity"]): r["measured"] / r["predicted"] for r in table})


def revalued(rows: list[Residual], known: dict[tuple[str, str], float]) -> list[Residual]:
    """Rows with measured / predicted of other predictions, where there are any."""
    return [r.valued(known[r.id, r.quantity]) if (r.id, r.quantity) in known else r for r in rows]


def index_of(rows: list[Residual]) -> list[Cell]:
    """The cells of evidence: rows of one source that ask the same."""
    found: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for r in rows:
        q = r.question
        if q.assumed:
            continue  # nobody knows what ran
        key = (r.id.split("/")[0], q.device, q.software, q.release, regime(q))
        if r.id not in found[key]:
            found[key].append(r.id)
    return [Cell(key[0], ids[0], *key[1:], len(ids)) for key, ids in found.items()]


def fixed_of(quantity: str) -> dict[str, float]:
    """The parts of a quantity that are not fitted."""
    return FIXED | FIXED_OF.get(quantity, {})


class Table(NamedTuple):
    """Rows as arrays: what each has of every component, with its own publisher unknown."""

    x2: np.ndarray  # rows × components, squared
    fixed: np.ndarray  # variance that is known
    r: np.ndarray
    weight: np.ndarray  # every publisher alike
    publisher: np.ndarray


def arranged(rows: list[Residual], names: tuple[str, ...], index: list[Cell]) -> Table:
    sources: dict[str, set[str]] = defaultdict(set)
    for r in rows:
        sources[r.publisher].add(r.id.split("/")[0])
    others = {who: tuple(c for c in index if c.source not in own) for who, own in sources.items()}
    known = fixed_of(judged_as(rows[0].quantity))
    x2, fixed = np.zeros((len(rows), len(names))), np.zeros(len(rows))
    for i, r in enumerate(rows):
        has = components(r.question, index=others[r.publisher])
        x2[i] = [float(has.get(name, 0.0)) ** 2 for name in names]
        fixed[i] = sum((sd * float(has.get(name, 0.0))) ** 2 for name, sd in known.items())
    publisher = np.array([r.publisher for r in rows])
    counts = {who: np.sum(publisher == who) for who in set(publisher)}
    weight = np.array([1.0 / counts[who] for who in publisher])
    return Table(x2, fixed, np.array([r.value for r in rows]), weight, publisher)


def only(t: Table, chosen: np.ndarray) -> Table:
    return Table(*(column[chosen] for column in t))


def variances(t: Table, form: Form, steps: int = STEPS) -> np.ndarray:
    """The components' variances."""
    theta, weight, freedom = np.full(t.x2.shape[1], 0.02), t.weight**form.power, form.freedom
    for _ in range(steps):
        v = t.x2 @ theta + t.fixed + 1e-6
        square = t.r**2 * (freedom + 1.0) / (freedom + t.r**2 / v)
        up = t.x2.T @ (weight * square / v**2)
        down = t.x2.T @ (weight / v)
        theta = np.where(down > 0.0, theta * np.sqrt(up / np.maximum(down, 1e-12)), 0.0)
    return np.where(theta < LEAST_SD**2, 0.0, theta)


def weighted_quantile(values: np.ndarray, weight: np.ndarray, q: float) -> float:
    """Linear between the midpoints of the values' shares."""
    order = np.argsort(values)
    share = np.cumsum(weight[order])
    return float(np.interp(q, (share - weight[order] / 2) / share[-1], values[order]))


def ends(
    z: np.ndarray, weight: np.ndarray, level: float, shortest: bool = False
) -> tuple[float, float]:
    """Standard deviations below and above that hold ``level`` of the rows, with equal tails or the
    ``shortest`` that do; a publisher of n rows weighs √n."""
    root = np.sqrt(weight)
    below = np.array([(1.0 - level) / 2.0])
    if shortest:
        below = np.linspace(0.0, 1.0 - level, SPLITS + 2)[1:-1]
    found = [
        (
            max(-weighted_quantile(z, root, q), NORMAL),
            max(weighted_quantile(z, root, q + level), NORMAL),
        )
        for q in below
    ]
    return min(found, key=sum)


def left_out_sd(t: Table, form: Form, steps: int = STEPS) -> np.ndarray:
    """Each row's standard deviation, by a fit without its publisher; a part that no other publisher has is
    that of all."""
    sd = np.zeros(len(t.r))
    whole = variances(t, form, steps)
    for who in sorted(set(t.publisher)):
        own = t.publisher == who
        rest = only(t, ~own) if not own.all() else t
        theta = np.where(rest.x2.any(axis=0), variances(rest, form, steps), whole)
        sd[own] = np.sqrt(t.x2[own] @ theta + t.fixed[own] + 1e-6)
    return sd


def interval_score(t: Table, sd: np.ndarray, shortest: bool = False) -> float:
    """How good the intervals of left-out rows are: their width, and what lies outside of them counted
    2 / (1 − level) times (Gneiting and Raftery 2007, section 6.2), in logarithms; a publisher of n rows
    weighs √n."""
    z, root = t.r / sd, np.sqrt(t.weight)
    score = np.zeros(len(z))
    for who in sorted(set(t.publisher)):
        own = t.publisher == who
        rest = ~own if not own.all() else own
        low, high = ends(z[rest], t.weight[rest], LEVEL, shortest)
        outside = np.maximum(-low - z[own], 0.0) + np.maximum(z[own] - high, 0.0)
        score[own] = sd[own] * (low + high + 2.0 / (1.0 - LEVEL) * outside)
    return float(np.average(score, weights=root))


def justified(
    t: Table, names: tuple[str, ...], always: tuple[str, ...], forms: tuple[Form, ...] = FORMS
) -> tuple[tuple[str, ...], Form]:
    """The parts that left-out rows justify, and the form of their fit: the part without which their
    intervals are better goes, until there is none but ``always``."""

    def score(kept: list[int], form: Form) -> float:
        return interval_score(
            t._replace(x2=t.x2[:, kept]),
            left_out_sd(t._replace(x2=t.x2[:, kept]), form, FEW_STEPS),
            form.shortest,
        )

    found = []
    for form in forms:
        kept = list(range(len(names)))
        best = score(kept, form)
        while len(kept) > 1:
            trials = {
                i: score([k for k in kept if k != i], form) for i in kept if names[i] not in always
            }
            if not trials or min(trials.values()) > (1.0 - BETTER) * best:
                break
            gone = min(trials, key=lambda i: trials[i])
            kept, best = [k for k in kept if k != gone], trials[gone]
        found.append((best, form, tuple(names[k] for k in kept)))
    _, form, chosen = min(found)
    return chosen, form


class Covered(NamedTuple):
    """What ends of the central ``level`` hold of publishers that had no part in them."""

    level: float
    rows: float
    publishers: float  # mean of their shares
    sweeps: float  # the same, a publisher of n rows weighs √n


def coverage(t: Table, z: np.ndarray, level: float, shortest: bool = False) -> Covered:
    inside = np.zeros(len(z), dtype=bool)
    publishers = sorted(set(t.publisher))
    for who in publishers:
        own = t.publisher == who
        rest = ~own if not own.all() else own
        low, high = ends(z[rest], t.weight[rest], level, shortest)
        inside[own] = (-low <= z[own]) & (z[own] <= high)
    means = [float(inside[t.publisher == who].mean()) for who in publishers]
    sweeps = float(np.average(inside, weights=np.sqrt(t.weight)))
    return Covered(level, float(inside.mean()), float(np.mean(means)), sweeps)


def wide_enough(t: Table, z: np.ndarray, shortest: bool = False) -> Covered:
    """The least level whose ends hold nine of ten left-out rows, of engines' times nearly so many."""
    for level in np.arange(0.80, MOST, 0.01):
        found = coverage(t, z, float(level), shortest)
        if shortest:
            enough = min(found.rows, found.sweeps) >= SERVED_INSIDE
        else:
            enough = min(found.rows, found.publishers) >= LEVEL - 0.01
        if enough:
            break
    return found


def between_layouts(rows: list[Residual]) -> float:
    """Standard deviation of ln(measured / predicted) of a layout among those of one job: from the median
    difference of pairs, which a few broken runs do not move; a publisher of n pairs weighs √n."""
    jobs: dict[tuple[str, ...], list[float]] = defaultdict(list)
    publisher = {r.job: r.publisher for r in rows}
    for r in rows:
        if r.job:
            jobs[r.job].append(r.value)
    apart: dict[str, list[float]] = defaultdict(list)
    for job, values in jobs.items():
        if len(values) >= 4:
            apart[publisher[job]] += [abs(a - b) for a, b in itertools.combinations(values, 2)]
    if not apart:
        return 0.0
    # of a normal distribution half of the pairs differ by less than 0.6745 · √2 standard deviations
    every = np.array([d for own in apart.values() for d in own])
    weight = np.array([1.0 / math.sqrt(len(own)) for own in apart.values() for _ in own])
    return weighted_quantile(every, weight, 0.5) / (0.6745 * math.sqrt(2.0))


def tight_share(held: list[Held], fit: Fit) -> float:
    """The share of the memory's interval in which :data:`TIGHT` of the wrong ``fits`` lie; a publisher of
    n of them weighs √n."""
    needed: list[float] = []
    whose: list[str] = []
    for h in held:
        if (h.room >= 1.0) != h.ran:
            has = components(h.question, index=())
            variance = sum(
                (sd * float(has.get(name, 0.0))) ** 2
                for name, sd in (fit.sd | fixed_of("memory_bytes")).items()
            )
            end = fit.high if h.room >= 1.0 else fit.low
            needed.append(abs(math.log(h.room)) / (end * math.sqrt(variance)))
            whose.append(h.publisher)
    if not needed:
        return 1.0
    weight = np.array([1.0 / math.sqrt(whose.count(who)) for who in whose])
    return min(weighted_quantile(np.array(needed), weight, TIGHT), MOST_TIGHT)


def best_mfu(rows: list[Residual]) -> dict[str, dict[str, tuple[float, str]]]:
    """The best utilisation of the shipped rows by device and format of the products, and whose it is."""
    found: dict[str, dict[str, tuple[float, str]]] = defaultdict(dict)
    for r in rows:
        if r.shipped and r.mfu is not None and r.mfu <= 1.0:
            own = found[r.question.device]
            own[r.dtype] = max(own.get(r.dtype, (0.0, "")), (round(r.mfu, 4), r.id))
    return {device: dict(sorted(own.items())) for device, own in sorted(found.items())}


def fitted(quantity: str, rows: list[Residual], index: list[Cell]) -> tuple[Fit, dict[str, float]]:
    """The constants of a quantity, and what they are worth on publishers left out."""
    always = REGIMES.get(quantity, ALWAYS)
    names = (*always, *PARTS[quantity])
    whole = arranged(rows, names, index)
    names, form = justified(whole, names, always, SERVED_FORMS if quantity in SERVED else FORMS)
    t = arranged(rows, names, index)
    theta, z = variances(t, form), t.r / left_out_sd(t, form)
    covered = wide_enough(t, z, form.shortest)
    low, high = ends(z, t.weight, covered.level, form.shortest)
    sd = np.sqrt(t.x2 @ theta + t.fixed)
    own, lows, highs = by_regime(quantity, rows, t, z, sd, (low, high))
    inside = (-lows <= z) & (z <= highs)
    width = np.exp((lows + highs) * sd) - 1.0
    known = measured(rows, index)
    worth = {
        "level": covered.level,
        "covered_left_out_rows": covered.rows,
        "covered_left_out_publishers": covered.publishers,
        "median_width": float(np.median(width)),
        "median_width_measured": float(np.median(width[known])) if known.any() else math.nan,
        "median_width_elsewhere": float(np.median(width[~known])) if (~known).any() else math.nan,
    }
    if own:
        publishers = sorted(set(t.publisher))
        means = [float(inside[t.publisher == who].mean()) for who in publishers]
        worth["covered_left_out_rows"] = float(inside.mean())
        worth["covered_left_out_publishers"] = float(np.mean(means))
    found = {name: float(np.sqrt(v)) for name, v in zip(names, theta, strict=True) if v}
    return Fit(found, low, high, own), worth


def by_regime(
    quantity: str,
    rows: list[Residual],
    t: Table,
    z: np.ndarray,
    sd: np.ndarray,
    usual: tuple[float, float],
) -> tuple[dict[str, tuple[float, float]], np.ndarray, np.ndarray]:
    """The ends of each regime that has its own, by its rows alone, and those of every row: they hold nine
    of ten rows by left-out and by final standard deviations, and hardly fewer of small or large messages.
    """
    small = np.array([any(r.question.traits.get(name, 0.0) for name in SMALL_TRAITS) for r in rows])
    lows, highs = np.full(len(z), usual[0]), np.full(len(z), usual[1])
    found: dict[str, tuple[float, float]] = {}
    for name in REGIMES.get(quantity, ()):
        has = np.array([bool(r.question.traits.get(name, 0.0)) for r in rows])
        if has.any():
            part = only(t, has)
            for level in np.arange(wide_enough(part, z[has]).level, MOST, 0.01):
                low, high = ends(z[has], part.weight, float(level))
                final = (-low <= t.r[has] / sd[has]) & (t.r[has] / sd[has] <= high)
                sizes = [final[s].mean() for s in (small[has], ~small[has]) if s.any()]
                if final.mean() >= LEVEL - 0.01 and min(sizes) >= LEAST_INSIDE:
                    break
            found[name] = (round(low, 3), round(high, 3))
            lows[has], highs[has] = low, high
    return found, lows, highs


def measured(rows: list[Residual], index: list[Cell]) -> np.ndarray:
    """Which rows have device and software among other publishers' runs."""
    kinds = [(c.source, c.device, c.software) for c in index]
    sources: dict[str, set[str]] = defaultdict(set)
    for r in rows:
        sources[r.publisher].add(r.id.split("/")[0])
    return np.array(
        [
            any(
                s not in sources[r.publisher] and (d, w) == (r.question.device, r.question.software)
                for s, d, w in kinds
            )
            and not r.question.assumed
            for r in rows
        ]
    )


def write(
    quantity: str, rows: list[Residual], held: list[Held], index: list[Cell], tables: str
) -> None:
    fit, worth = fitted(quantity, rows, index)
    publishers = sorted({r.publisher for r in rows})
    lines = [
        f'quantity = "{quantity}"',
        f'source = "measured runs beside their predictions: {tables}"',
        'command = "python tools/fit_discrepancy.py"',
        f"rows = {len(rows)}",
        f"publishers = {len(publishers)}",
        *(f"{name} = {value:.3f}" for name, value in worth.items() if math.isfinite(value)),
        f"low = {fit.low:.3f}",
        f"high = {fit.high:.3f}",
        *([f"layout = {between_layouts(rows):.4f}"] if quantity == "step_s" else []),
        *([f"tight = {tight_share(held, fit):.3f}"] if quantity == "memory_bytes" else []),
        "",
        "# Standard deviations of ln(measured / predicted) by what a question has; `inherited` is of",
        "# kernels predicted by another device's constants (docs/explanation/provenance).",
        "[sd]",
        *(f"{name} = {sd:.4f}" for name, sd in (fit.sd | fixed_of(quantity)).items()),
    ]
    if fit.ends:
        lines += ["", "# low and high of a regime", "[ends]"]
        lines += [f"{name} = [{low}, {high}]" for name, (low, high) in fit.ends.items()]
    path = DISCREPANCY / f"{quantity.replace('_', '-')}.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    said = "  ".join(f"{name} {value:.3f}" for name, value in worth.items())
    print(f"{quantity}: {len(rows)} rows, {len(publishers)} publishers; {said}")
    print(
        f"  ends -{fit.low:.2f} +{fit.high:.2f}; "
        + ", ".join(f"{k} {v:.2f}" for k, v in fit.sd.items())
    )


def write_index(kind: str, rows: list[Residual], index: list[Cell], tables: str) -> None:
    table: dict[str, Any] = {
        "source": f"which runs there are: {tables}",
        "command": "python tools/fit_discrepancy.py",
        "columns": [*Cell._fields],
    }
    if kind == "training":
        table["best_mfu"] = best_mfu(rows)
    listed = sorted([*c[:5], sorted(c.traits), c.rows] for c in index)
    EVIDENCE.mkdir(parents=True, exist_ok=True)
    cells = ",\n".join(json.dumps(c) for c in listed)
    head = json.dumps(table)[:-1]
    (EVIDENCE / f"{kind}.json").write_text(f'{head}, "cells": [\n{cells}\n]}}\n', encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit catalog/discrepancy, write catalog/evidence.")
    parser.add_argument("table", type=Path, nargs="*", help="further tables in validate's formats")
    parser.add_argument("--left-out", type=Path, help="rows that cross_validate.py wrote")
    parser.add_argument("--kind", choices=KINDS, help="of that kind of table alone")
    arguments = parser.parse_args()
    shipped = sorted(p for p in PUBLISHED.glob("*.csv") if p.name != "layers.csv")
    rows, held = collect([*shipped, *arguments.table])
    if arguments.left_out:
        rows = replaced(rows, arguments.left_out)
    tables = SHIPPED + (" and development rows beside them" if arguments.table else "")
    for kind in KINDS if arguments.kind is None else (arguments.kind,):
        of_kind = [r for r in rows if r.question.kind == kind]
        index = index_of(of_kind)
        write_index(kind, of_kind, index, tables)
        for quantity in dict.fromkeys(r.quantity for r in of_kind):
            if quantity in PARTS:
                own = [r for r in of_kind if judged_as(r.quantity) == quantity and not r.open]
                write(quantity, own, held, index, tables)


if __name__ == "__main__":
    main()
