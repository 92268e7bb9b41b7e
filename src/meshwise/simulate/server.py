"""A layout of an engine under a load, simulated: one replica of it, which stands for all, or all replicas
together where they share their experts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from meshwise.errors import Overloaded
from meshwise.simulate.iteration import Engine, IterationPrice
from meshwise.simulate.loads.arrivals import OPEN_REQUESTS, ROUNDS, Arrivals
from meshwise.simulate.loads.drafts import Drafts
from meshwise.simulate.loads.drawn import Drawn, drawn, mean_length
from meshwise.simulate.loads.requests import Requests
from meshwise.simulate.loads.traces import MOST_REQUESTS
from meshwise.simulate.lock_step import LockStep
from meshwise.simulate.outcome import Figures, Spread, as_served, steady_state, whole_run
from meshwise.simulate.price_table import PriceTable
from meshwise.simulate.replica import Replica
from meshwise.simulate.rules import Rules, engine_rules, shares_experts
from meshwise.workloads.serving import Serving

USUAL_MOST = 20_000  # requests of a closed loop that nobody asked for
_SURE = 0.98  # of a rate that a run of few requests in flight shows to be served
_WAITING = 4  # one waits for so many that run, where one always does
_ROUNDS = 3  # of as many as are in flight: the first fills the server, the last empties it
QUEUED = 1.0  # requests that wait, in the mean, before it is asked whether more come than leave


class Simulated(NamedTuple):
    """What a run comes to."""

    all: Figures  # the mean over all requests, those that met an empty server among them
    steady: Figures
    requests: int  # of a replica
    replicas: int
    stopped: int  # how often a full cache stopped a request
    seed: int
    arrivals: Arrivals | None = None
    ranks: int = 1  # replicas of attention that share their experts, and were simulated together
    answer: float = 0.0  # tokens of an answer, in the mean of the run's requests
    cap: int | None = None  # of arrivals: in flight at most, below what the engine runs at once
    most_per_s: float | None = None  # requests/s that are served at most, where many wait

    @property
    def settled(self) -> bool:
        """Whether a steady state was reached, of fewer requests than the run has."""
        return self.steady.requests < self.all.requests

    @property
    def served(self) -> Simulated:
        """Of arrivals at a rate that are known not to be too many: with their rate as what is served."""
        if self.arrivals is None or self.arrivals.trace is not None:
            return self
        return self._replace(steady=as_served(self.steady, self.arrivals.rate, self.answer))


def replicas_at_work(w: Serving, dp: int) -> int:
    """Replicas that a closed loop keeps busy."""
    return min(dp, w.concurrency)


def rounds(in_flight: int, requests: int | None, replicas: int) -> int:
    """Requests of a replica of a closed loop: asked for of all, or ten per one in flight."""
    if requests is not None:
        return -(-requests // replicas)
    return min(ROUNDS * in_flight, max(USUAL_MOST, 2 * in_flight))


class SimulatedServer:
    """Runs loads on an engine's layout, whose prices are looked up once."""

    def __init__(
        self,
        engine: Engine,
        w: Serving,
        rules: Rules | None = None,
        price: IterationPrice | None = None,
        *,
        open_loop: bool = False,
    ) -> None:
        self.engine, self.w = engine, w
        self.rules = engine_rules(engine, w) if rules is None else rules
        self.dp = int(engine.layouts.dp)
        self.ranks = self.dp if shares_experts(engine) else 1
        self.servers = self.dp // self.ranks  # that are apart
        self.cap: int | None = None  # in flight, where a client sends no more than an engine runs
        if open_loop:  # the most that run at once
            most = -(-w.concurrency // self.dp)
            if most < self.rules.most_sequences:
                self.cap, self.rules = w.concurrency, self.rules._replace(most_sequences=most)
        self._price = price
        self.progress: Callable[[int, int], None] | None = None
        self._most: dict[int, float] = {}  # requests/s at most, by seed
        self._shown: dict[int, float] = {}  # requests/s that are known to be served, likewise

    def price(self, most: int) -> IterationPrice:
        """Of up to ``most`` sequences."""
        if self._price is None:
            self._price = PriceTable(self.engine, self.w, most, self.rules.budget)
        return self._price

    def closed(self, *, requests: int | None = None, seed: int = 0) -> Simulated:
        """The workload's ``concurrency`` in flight, all of which begin at once."""
        replicas = replicas_at_work(self.w, self.servers)
        asked = -(-self.w.concurrency // replicas)
        # of those that only wait nothing is learnt but how long: as long as it takes to serve them
        in_flight = min(asked, 2 * self._at_once() * self.ranks)
        n = rounds(in_flight, requests, replicas)
        in_flight = min(in_flight, n)
        what = drawn(self.w, n, None, replicas, seed)
        run, queue = self._run(self._requests(what, seed, in_flight), in_flight)
        share = self.w.concurrency / asked  # the last replica may have fewer
        found = Simulated(
            whole_run(queue, run.timeline, share),
            steady_state(queue, run.timeline, share, in_flight, self._answer()),
            n,
            replicas,
            run.stopped,
            seed,
            ranks=self.ranks,
        )
        return found if in_flight == min(asked, n) else _longer(found, share * (asked - in_flight))

    def open(self, arrivals: Arrivals, *, requests: int | None = None, seed: int = 0) -> Simulated:
        """Requests that come whether others end or not.

        :raises Overloaded: where more come than can be served, so that the queue grows for ever.
        """
        found = self.arriving(arrivals, requests=requests, seed=seed)
        if may_be_overloaded(found) and not self.serves(arrivals.rate, found, seed=seed):
            cap = self.cap if self._held() > self.rules.most_sequences else None
            raise overload(arrivals.rate, self.most_per_s(seed=seed), cap)
        found = found._replace(most_per_s=self._most.get(seed))
        return found.served if found.settled else found  # else of what ended while it ran

    def arriving(
        self, arrivals: Arrivals, *, requests: int | None = None, seed: int = 0
    ) -> Simulated:
        """The same, whether the queue grows for ever or not."""
        usual = max(OPEN_REQUESTS, min(OPEN_REQUESTS * self.ranks, USUAL_MOST))
        n = usual if requests is None else requests
        what = drawn(self.w, n, arrivals, self.servers, seed)
        n = len(what.prompt)
        run, queue = self._run(self._requests(what, seed), self._at_once())
        steady = steady_state(queue, run.timeline, self.servers, 0)
        whole = whole_run(queue, run.timeline, self.servers)
        return Simulated(
            *(whole, steady, n, self.servers, run.stopped, seed, arrivals, self.ranks),
            sum(what.answer) / n,
            self.cap,
        )

    def serves(self, rate: float, run: Simulated, *, seed: int = 0) -> bool:
        """Whether fewer requests come per second than all replicas serve at most; ``run`` of them.

        Twice as many in flight as run in the mean say it sooner, where they are served faster than others
        come: more in flight are served no slower.
        """
        in_flight, most = 2 * math.ceil(run.steady.running.mean), self._at_once() * self.ranks
        if seed not in self._most and rate >= self._shown.get(seed, 0.0) and in_flight < most:
            shown = _SURE * self._in_flight_per_s(in_flight, in_flight, seed)
            self._shown[seed] = max(shown, self._shown.get(seed, 0.0))
        return rate < self._shown.get(seed, 0.0) or rate < self.most_per_s(seed=seed)

    def most_per_s(self, *, seed: int = 0) -> float:
        """Requests per second that all replicas serve where there is always one waiting."""
        if seed not in self._most:
            most = self._at_once() * self.ranks
            waiting = max(most // _WAITING, 2 * self.ranks)
            self._most[seed] = self._in_flight_per_s(most + waiting, most, seed)
        return self._most[seed]

    def _in_flight_per_s(self, in_flight: int, running: int, seed: int) -> float:
        """Requests per second that all replicas serve with so many in flight of each server, of which
        ``running`` run at most."""
        self.progress = None
        n = min(max(_ROUNDS * in_flight, 400), MOST_REQUESTS)
        what = drawn(self.w, n, None, self.servers, seed)
        run, queue = self._run(self._requests(what, seed, min(in_flight, n)), self._at_once())
        steady = steady_state(queue, run.timeline, self.servers, running, self._answer())
        return steady.requests_per_s

    def _answer(self) -> float:
        """Tokens of an answer in the mean of the lengths that are drawn."""
        return mean_length(self.w.osl, self.w.length_spread)

    def _at_once(self) -> int:
        """The most sequences of a replica that run."""
        return max(min(self.rules.most_sequences, self._held()), 1)

    def _held(self) -> int:
        """Of the shortest requests as many as a replica's cache holds."""
        least = max(self.w.isl * (1.0 - self.w.length_spread), 1.0)
        return int(min(self.rules.capacity / least, 1e9))

    def _requests(self, what: Drawn, seed: int, in_flight: int = 0) -> Requests:
        w, drafts = self.w, None
        if w.draft_tokens:
            drafts = Drafts(w.draft_tokens, w.acceptance or 0.0, seed)
        return Requests(*what, in_flight=in_flight, drafts=drafts, progress=self.progress)

    def _run(self, queue: Requests, most: int) -> tuple[Replica | LockStep, Requests]:
        """``most`` sequences of a replica run at once."""
        price = self.price(min(most, self.rules.most_sequences))
        run: Replica | LockStep = Replica(price, self.rules, queue)
        if self.ranks > 1:
            run = LockStep(price, self.rules, queue, self.ranks)
        run.run()
        return run, queue


def may_be_overloaded(run: Simulated) -> bool:
    """Whether so many wait that it has to be asked whether more come than leave; of a trace it is not."""
    traced = run.arrivals is None or run.arrivals.trace is not None
    return not traced and run.steady.waiting.mean > QUEUED


def overload(rate: float, most: float, cap: int | None = None) -> Overloaded:
    """More come than leave; ``cap``: in flight at most, where the engine would run more."""
    held = "" if cap is None else f" with at most {cap:,} in flight"
    more = "" if cap is None else f"`concurrency` above {cap}, "
    return Overloaded(
        f"request_rate={rate:g}: arrivals exceed {most:.3g} requests/s{held}; the queue grows without bound",
        field="request_rate",
        value=rate,
        legal=f"below {most:.3g} requests/s, {more}more replicas, or more GPUs",
        nearest=float(f"{0.95 * most:.3g}"),
    )


def _longer(found: Simulated, more: float) -> Simulated:
    """With ``more`` requests that wait all the time: each waits until those before it are served."""

    replicas = found.replicas

    def waits(f: Figures) -> Figures:
        seconds = more / max(f.requests_per_s, 1e-30)
        return f._replace(
            ttft_s=Spread(*(v + seconds for v in f.ttft_s)),
            request_s=Spread(*(v + seconds for v in f.request_s)),
            queue_s=Spread(*(v + seconds for v in f.queue_s)),
            waiting=Spread(*(v + more / replicas for v in f.waiting)),
            samples=f.samples.later(seconds),
        )

    return found._replace(all=waits(found.all), steady=waits(found.steady))
