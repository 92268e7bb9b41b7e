"""One layout under a load, simulated: what comes of it, and how it stands to limits of latency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from meshwise.arrays import Array
from meshwise.clusters.load import Cluster
from meshwise.cost.uncertainty import tpot_interval
from meshwise.layouts.layout import Layout, arrays, columns
from meshwise.models.shapes import Model
from meshwise.search.serving.plan import Good, Server, ServingRow, row_at
from meshwise.search.serving.served import flight
from meshwise.simulate.iteration import Chunks, Engine
from meshwise.simulate.loads.arrivals import OPEN_REQUESTS, ROUNDS, Arrivals
from meshwise.simulate.outcome import Figures
from meshwise.simulate.price_table import PriceTable
from meshwise.simulate.rules import engine_rules, shares_experts
from meshwise.simulate.server import Simulated, SimulatedServer, may_be_overloaded
from meshwise.stacks.stack import Stack
from meshwise.workloads.limits import LatencyLimit
from meshwise.workloads.serving import Serving

FEW_REQUESTS = 400  # requests of a replica in a run that only tells where to look


class SentLoad(NamedTuple):
    """What is sent beside the requests' lengths, as ``serve`` has it: arrivals (None: a closed loop),
    requests of the run, the seed of both."""

    arrivals: Arrivals | None = None
    requests: int | None = None
    seed: int = 0


def figure_s(figures: Figures, limit: LatencyLimit) -> float:
    """What a limit bounds [s]."""
    if limit.percentile is None:
        return float(getattr(figures, f"{limit.quantity}_s").mean)
    return figures.samples.percentile(limit.quantity, limit.percentile)


def worst(figures: Figures, limits: Sequence[LatencyLimit]) -> tuple[LatencyLimit, float] | None:
    """The limit that is used the most, and its figure over it (above 1: missed); None of no limits."""
    used = [(limit, figure_s(figures, limit) / limit.seconds) for limit in limits]
    return max(used, key=lambda pair: pair[1]) if used else None


def good_shares(figures: Figures, limits: Sequence[LatencyLimit]) -> Good:
    """Each request by its own times; a limit on a mean is kept by all of them together, or by none."""
    samples = figures.samples
    means = [limit for limit in limits if limit.percentile is None]
    if any(figure_s(figures, limit) > limit.seconds for limit in means):
        return Good(0.0, 0.0)
    good = np.ones(samples.ttft_s.size, dtype=bool)
    for limit in limits:
        if limit.percentile is not None:
            good &= getattr(samples, f"{limit.quantity}_s") <= limit.seconds
    if not good.size:
        return Good()
    return Good(float(good.mean()), float(samples.answer[good].sum() / samples.answer.sum()))


class Trial(NamedTuple):
    """A layout's run. ``used``: of the limit that is used the most its figure over it (0: no limits)."""

    layout: Layout
    concurrency: int  # requests in flight: asked for, or those of arrivals that run in the mean
    run: Simulated
    used: float
    binding: LatencyLimit | None  # the limit that is used the most
    most_per_s: float | None = None  # what is served at most, where more arrives

    @property
    def met(self) -> bool:
        """Whether it serves the load within the limits."""
        return self.used <= 1.0 and self.most_per_s is None


class Trials:
    """Runs loads on layouts, by the same code and settings as ``serve``; prices are looked up once."""

    def __init__(
        self,
        model: Model,
        cluster: Cluster,
        stack: Stack,
        w: Serving,
        sent: SentLoad,
        limits: Sequence[LatencyLimit] = (),
    ) -> None:
        self.model, self.cluster, self.stack, self.w = model, cluster, stack, w
        self.sent, self.limits = sent, tuple(limits)
        self._engines: dict[Layout, Engine] = {}
        self._prices: dict[tuple[Layout, int], PriceTable] = {}
        self._products: dict[tuple[object, ...], Array] = {}
        self._chunks: dict[tuple[int, int], Chunks] = {}  # by tp and dcp
        self._servers: dict[Layout, SimulatedServer] = {}

    def at(
        self,
        layout: Layout,
        *,
        concurrency: int | None = None,
        arrivals: Arrivals | None = None,
        few: bool = False,
    ) -> Trial:
        """Under ``arrivals`` (else the question's own), or with so many requests in flight; ``few``: of a
        short run."""
        coming = arrivals or self.sent.arrivals
        w = self.w
        if coming is None and concurrency is not None:
            w = msgspec.structs.replace(w, concurrency=concurrency)
        server = self._server(layout, w, coming is not None, few)
        requests = self.sent.requests
        if coming is None:
            if few and requests is None:
                requests = min(ROUNDS * w.concurrency, max(4 * w.concurrency, FEW_REQUESTS))
            run = server.closed(requests=requests, seed=self.sent.seed)
        else:
            if few and coming.trace is None:
                # replicas that share their experts are run together, and share the requests
                requests = min(FEW_REQUESTS * server.ranks, requests or OPEN_REQUESTS)
            run = server.arriving(coming, requests=requests, seed=self.sent.seed)
        found = worst(run.steady, self.limits)
        trial = Trial(
            layout,
            w.concurrency if coming is None else flight(run, layout.dp),
            run,
            0.0 if found is None else found[1],
            None if found is None else found[0],
        )
        if coming is None or not may_be_overloaded(run):
            return trial._replace(run=run.served)
        if trial.used > 1.0:
            return trial
        like = self._like(layout, few)
        if self._alone(like).serves(coming.rate * like.dp / layout.dp, run, seed=self.sent.seed):
            return trial._replace(run=run.served)
        return trial._replace(most_per_s=self.most_per_s(layout, few))

    def shares_experts(self, layout: Layout) -> bool:
        """Whether replicas of the layout pass through their experts together."""
        return shares_experts(self._engine(layout, self.w))

    def most_per_s(self, layout: Layout, few: bool = False) -> float:
        """Requests per second that a layout serves at most."""
        like = self._like(layout, few)
        return self._alone(like).most_per_s(seed=self.sent.seed) * layout.dp / like.dp

    def _alone(self, like: Layout) -> SimulatedServer:
        """Of a layout that stands for others, which remembers what it serves at most."""
        if like not in self._servers:
            self._servers[like] = self._server(like, self.w, True)
        return self._servers[like]

    def _server(
        self, layout: Layout, w: Serving, open_loop: bool, few: bool = False
    ) -> SimulatedServer:
        engine = self._engine(layout, w)
        priced = self._like(layout, few)
        rules = engine_rules(self._engine(priced, w), w)
        most = min(rules.most_sequences, -(-w.concurrency // layout.dp)) if open_loop else 0
        key = (priced, rules.budget)
        if key not in self._prices:
            held = min(rules.capacity / max(w.isl * (1.0 - w.length_spread), 1.0), 1e9)
            least = min(most or rules.most_sequences, max(int(held), 1))
            chunks = self._chunks.setdefault((layout.tp, layout.dcp), {})
            self._prices[key] = PriceTable(self._engine(priced, w), w, least, rules.budget, chunks)
        return SimulatedServer(engine, w, rules, self._prices[key], open_loop=open_loop)

    def _engine(self, layout: Layout, w: Serving) -> Engine:
        if layout not in self._engines:
            self._engines[layout] = Engine(
                *(self.model, self.cluster, self.stack, arrays(layout, w.decode()), w.formats),
                *(w.expert_imbalance, w.expert_skew),
                products=self._products,
            )
        return self._engines[layout]

    def _like(self, layout: Layout, few: bool) -> Layout:
        """A layout of the same prices: of replicas that nothing joins one alone. A pipeline's stages lie
        further apart the more replicas there are: of it short runs only."""
        if layout.dp == 1 or layout.ep * layout.expert_tp > layout.tp:
            return layout
        apart = layout.pp > 1 or self.cluster.node_devices % layout.tp
        return layout if apart and not few else msgspec.structs.replace(layout, dp=1)


def trial_rows(trials: Trials, found: Sequence[Trial]) -> list[ServingRow]:
    """Runs as rows: memory and intervals are those of the averages at the requests in flight."""
    if not found:
        return []
    server = Server(trials.model, trials.cluster, trials.stack, trials.w)
    flights = np.array([t.concurrency for t in found])
    table = server.at(columns([t.layout for t in found]), flights)
    rows = []
    for i, trial in enumerate(found):
        row, f = row_at(table, i), trial.run.steady
        doubt = table.steady.sd[i], table.steady.even_s[i]
        low, high = tpot_interval(f.tpot_s.mean, trials.stack, *doubt)
        rows.append(
            row._replace(
                layout=trial.layout,
                tpot_s=f.tpot_s.mean,
                tpot_low_s=float(low),
                tpot_high_s=float(high),
                ttft_s=f.ttft_s.mean,
                request_s=f.request_s.mean,
                tokens_per_s=f.tokens_per_s,
                tokens_per_s_per_device=f.tokens_per_s / trial.layout.devices,
                requests_per_s=f.requests_per_s,
                run=trial.run,
                good=good_shares(f, trials.limits) if trials.limits else None,
            )
        )
    return rows
