"""The best layouts of a ranking by averages, simulated, and ranked by that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from meshwise.search.serving.plan import ServingRow
from meshwise.search.serving.runs.most import highest_rate, most_in_flight
from meshwise.search.serving.runs.trial import Trial, Trials, trial_rows
from meshwise.simulate.loads.arrivals import Arrivals

MOST_RANKED = 100  # layouts that are looked at
MOST_RUN = 6  # of a kind that are simulated
MOST_REQUESTED = 15000  # requests of a replica, of all runs, after which no other layout is begun
_FAIR = 1.25  # simulated over averages, at most, of a kind that was not looked at
AS_GOOD = 0.05  # of the best: as good, as far as averages can tell


class Finalists(NamedTuple):
    """Rows, those simulated first, each part the best first; runs beside the best that tell what binds it;
    ``missed``: what was simulated and did not meet the limits, the nearest first."""

    rows: tuple[ServingRow, ...]
    beyond: Trial | None  # of the best: the next larger load, which misses the limits
    missed: tuple[Trial, ...]


def worth(row: ServingRow, objective: str) -> float:
    """What a ranking goes by: tokens/s per GPU, or of ``latency`` requests by the second of one."""
    return 1.0 / row.request_s if objective == "latency" else row.tokens_per_s_per_device


def finalists(
    rows: Sequence[ServingRow],
    trials: Trials,
    objective: str,
    run: Callable[[ServingRow], tuple[Trial, Trial | None] | None],
) -> Finalists:
    """``rows`` by averages, the best first; the first is simulated, and others as long as one may be the
    best or within 5 % of it, if it does no better against its averages than those of its kind before.
    Averages err by kind: they know no lock step of replicas that share experts, nor what a pipeline's
    groups wait for.

    ``run``: the trial of a row and the one beyond it; None where no load of it meets the limits.
    """
    met: list[tuple[ServingRow, ServingRow, Trial | None]] = []  # by averages, simulated, beyond
    missed: list[Trial] = []
    used, best = 0, 0.0
    gains: dict[tuple[bool, bool], float] = {}  # of each kind, simulated over averages
    runs: dict[tuple[bool, bool], int] = {}
    left = list(rows)
    for row in rows:
        kind = (trials.shares_experts(row.layout), row.layout.pp > 1)
        if runs.get(kind, 0) >= MOST_RUN or (kind in runs and used >= MOST_REQUESTED):
            continue
        if met and worth(row, objective) * gains.get(kind, _FAIR) < (1.0 - AS_GOOD) * best:
            continue
        found = run(row)
        runs[kind] = runs.get(kind, 0) + 1
        left.remove(row)
        if found is None:
            continue
        trial, beyond = found
        used += trial.run.requests
        if not trial.met:
            missed.append(trial)
            continue
        one = trial_rows(trials, [trial])[0]
        met.append((row, one, beyond))
        best = max(best, worth(one, objective))
        gain = worth(one, objective) / worth(row, objective)
        gains[kind] = max(gains.get(kind, 0.0), gain)
    met.sort(key=lambda m: (-worth(m[1], objective), m[1].tpot_s))
    missed.sort(key=lambda t: t.used)
    beyond = met[0][2] if met else None
    if met:  # averages that promise more were not borne out by those of their kind
        left = [r for r in left if worth(r, objective) <= best]
    return Finalists((*(m[1] for m in met), *left), beyond, tuple(missed))


def at_the_load(
    trials: Trials, concurrency: int | None
) -> Callable[[ServingRow], tuple[Trial, Trial | None] | None]:
    """Rows at one load, the same for all."""
    return lambda row: (trials.at(row.layout, concurrency=concurrency), None)


def at_the_most(
    trials: Trials, arrivals: Arrivals | None
) -> Callable[[ServingRow], tuple[Trial, Trial | None] | None]:
    """Rows at the largest load of each: requests in flight, or a rate of ``arrivals``."""

    def run(row: ServingRow) -> tuple[Trial, Trial | None] | None:
        found = (
            most_in_flight(trials, row) if arrivals is None else highest_rate(trials, row, arrivals)
        )
        return None if found is None else (found.met, found.beyond)

    return run
