"""Two pools that averages match, simulated: of the best pairs each at the largest load within the limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from meshwise.layouts.layout import Layout
from meshwise.search.serving.disaggregated import Disaggregated
from meshwise.search.serving.pools import pool_engine
from meshwise.search.serving.runs.binding import misses
from meshwise.search.serving.runs.finalists import AS_GOOD
from meshwise.search.serving.runs.most import largest_met
from meshwise.search.serving.runs.trial import FEW_REQUESTS, Trial, Trials, worst
from meshwise.simulate.disaggregated import DisaggregatedServer, PoolPrices, Transfers
from meshwise.simulate.iteration import Engine
from meshwise.simulate.loads.arrivals import ROUNDS

_MOST_PAIRS = 6  # of instances and their numbers, that are simulated
_MOST_REQUESTED = 8000  # requests in the best runs of pairs, after which no other is begun


class MatchedPools(NamedTuple):
    """Pools by averages, and their figures under the largest load within the limits, which are those of
    ``serve`` with as many requests in flight."""

    averaged: Disaggregated
    simulated: Disaggregated


class PoolTrials:
    """Runs loads on pools, by the same code and settings as ``serve``."""

    def __init__(self, trials: Trials) -> None:
        self._t = trials
        self._engines: dict[Layout, Engine] = {}
        self._prices: dict[tuple[Layout, Layout], PoolPrices] = {}

    def server(self, d: Disaggregated, concurrency: int) -> DisaggregatedServer:
        """The pools, before so many requests begin at once."""
        w = msgspec.structs.replace(self._t.w, concurrency=concurrency)
        layouts = d.prefill.layout, d.decode.layout
        first, second = (self._engine(layout) for layout in layouts)
        known = self._prices.setdefault(layouts, {})
        instances = d.prefill_instances, d.decode_instances
        return DisaggregatedServer(second, w, first, instances, known)

    def at(self, d: Disaggregated, concurrency: int, few: bool) -> tuple[Trial, Transfers]:
        """With so many requests in flight; ``few``: of a short run."""
        sent, requests = self._t.sent, self._t.sent.requests
        if few and requests is None:
            requests = min(ROUNDS * concurrency, max(4 * concurrency, FEW_REQUESTS))
        run, moved = self.server(d, concurrency).closed(requests=requests, seed=sent.seed)
        found = worst(run.steady, self._t.limits)
        used, limit = (0.0, None) if found is None else (found[1], found[0])
        return Trial(d.decode.layout, concurrency, run, used, limit), moved

    def most(self, d: Disaggregated) -> Disaggregated | None:
        """The pools at the most requests in flight within the limits: as many as the decode pool holds, and
        those that the prefill pool computes meanwhile. None where not one is within them."""
        moved: dict[int, Transfers] = {}

        def trial(number: int, few: bool) -> Trial:
            found, moved[number] = self.at(d, number, few)
            return found

        ahead = math.ceil(d.requests_per_s * d.ttft_s)  # Little's law, of the prefill pool
        room = self.server(d, 1).room + ahead
        found = largest_met(trial, d.concurrency + ahead, room)
        if found is None:
            return None
        return _simulated(d, found.met, self._binds(found.beyond, moved))

    def _binds(self, beyond: Trial | None, moved: dict[int, Transfers]) -> str:
        """What keeps the pools from more: the pool that makes a larger load miss its limit, or the link
        between them where prompts wait for it longer than for all else."""
        missed = misses(beyond.run.steady, self._t.limits) if beyond is not None else ()
        if beyond is None or not missed or missed[0].limit.quantity != "ttft":
            return "decode"
        under_way = moved[beyond.concurrency].moved_s.mean
        return "transfer" if under_way > beyond.run.steady.ttft_s.mean / 2.0 else "prefill"

    def _engine(self, layout: Layout) -> Engine:
        t = self._t
        if layout not in self._engines:
            self._engines[layout] = pool_engine(t.model, t.cluster, t.stack, layout, t.w)
        return self._engines[layout]


class _Against:
    """What runs of pools came to against their averages, by the layout that computes prompts: how long those
    wait near a limit is what averages know least."""

    def __init__(self) -> None:
        self._shares: dict[Layout, float] = {}
        self._most = 1.0

    def seen(self, d: Disaggregated, requests_per_s: float) -> None:
        share = requests_per_s / d.requests_per_s
        self._shares[d.prefill.layout] = max(share, self._shares.get(d.prefill.layout, 0.0))
        self._most = max(self._most, share)

    def expected(self, d: Disaggregated) -> float:
        """Requests per second of pools: as runs of their layout for prompts came out against its averages, or
        where there were none as the best of all."""
        return d.requests_per_s * self._shares.get(d.prefill.layout, self._most)


def matched_pools(pairs: Sequence[Disaggregated], trials: Trials, gpus: int) -> MatchedPools | None:
    """Of pairs by averages the one that delivers the most under the limits when it is simulated. Next is run
    what promises the most by the runs before it, as long as it may be the best, or within 5 % of it."""
    runs, best, against = PoolTrials(trials), None, _Against()
    used = 0
    left = [one for pair in pairs for one in _numbers(pair, gpus)]
    for _ in range(min(_MOST_PAIRS, len(left))):
        d = max(left, key=against.expected)
        left.remove(d)
        enough = (1.0 - AS_GOOD) * best.simulated.requests_per_s if best else 0.0
        if used >= _MOST_REQUESTED or against.expected(d) < enough:
            break
        found = runs.most(d)
        against.seen(d, 0.0 if found is None else found.requests_per_s)
        if found is None:
            continue
        used += ROUNDS * found.concurrency
        found = found._replace(tokens_per_s_per_device=found.tokens_per_s / gpus)
        order = found.tokens_per_s, -found.devices
        if best is None or order > (best.simulated.tokens_per_s, -best.simulated.devices):
            best = MatchedPools(d, found)
    return best


def _numbers(d: Disaggregated, gpus: int) -> list[Disaggregated]:
    """The pools in the numbers that averages give, and with all GPUs that are left computing prompts."""
    most = (gpus - d.decode_instances * d.decode.devices) // d.prefill.devices
    if most <= d.prefill_instances:
        return [d]
    more = (most - d.prefill_instances) * d.prefill.devices
    return [d, d._replace(prefill_instances=most, devices=d.devices + more)]


def _simulated(d: Disaggregated, met: Trial, bound: str) -> Disaggregated:
    f = met.run.steady
    return d._replace(
        ttft_s=f.ttft_s.mean,
        tpot_s=f.tpot_s.mean,
        requests_per_s=f.requests_per_s,
        tokens_per_s=f.tokens_per_s,
        concurrency=met.concurrency,
        bound=bound,
    )
