"""Two pools of an engine under a load, simulated: prefill instances, decode instances, and the link between."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from meshwise.simulate.iteration import Engine
from meshwise.simulate.loads.arrivals import OPEN_REQUESTS, Arrivals
from meshwise.simulate.loads.drafts import Drafts
from meshwise.simulate.loads.drawn import Drawn, drawn
from meshwise.simulate.loads.requests import Requests
from meshwise.simulate.lock_step import TIMED, LockStep
from meshwise.simulate.outcome import Spread, spread_of, steady_state, whole_run
from meshwise.simulate.pools import (
    PoolLink,
    Pools,
    PoolServer,
    Receiver,
    Sender,
    Station,
    kv_bytes,
    link_bytes_per_s,
)
from meshwise.simulate.price_table import PriceTable
from meshwise.simulate.replica import Replica
from meshwise.simulate.rules import Rules, engine_rules, shares_experts
from meshwise.simulate.server import QUEUED, Simulated, overload, rounds
from meshwise.simulate.timeline import Timelines
from meshwise.workloads.serving import Serving

_AT_ONCE = 4096  # requests in flight, at most, to see how many are served where some always wait
_Progress = Callable[[int, int], None]
PoolPrices = dict[tuple[str, int], PriceTable]  # of a pool, by the tokens of an iteration


class Transfers(NamedTuple):
    """Of requests in the steady state [s]: from the last of a prompt's keys and values to their arrival, and
    the wait for room then."""

    moved_s: Spread
    waited_s: Spread


class _Pool(NamedTuple):
    """Of one pool: its engine, rules and prices, its servers, and the devices of one of its replicas."""

    engine: Engine
    rules: Rules
    price: PriceTable
    servers: int
    ranks: int
    replica: int
    at_once: int  # sequences of a replica

    def build(self, station: Station, kind: type[Replica]) -> PoolServer:
        if self.ranks > 1:
            return LockStep(self.price, self.rules, station, self.ranks, kind)
        return kind(self.price, self.rules, station)


def prefill_load(w: Serving) -> Serving:
    """The load of a pool that computes prompts: answers of a token, no drafts."""
    return msgspec.structs.replace(w, osl=1, draft_tokens=0, acceptance=None, draft_cost="none")


class DisaggregatedServer:
    """Runs loads on ``instances`` of two layouts.

    The prefill pool computes prompts alone, as many together as an iteration's tokens hold; the decode pool
    has the engine's own rules, and prompts for it are keys and values that come.

    :param engine: of the decode pool's layout.
    :param first: of the other pool's layout.
    :param instances: of prefill and of decode.
    :param prices: of the same engines under other loads, which this one adds its own to.
    """

    def __init__(
        self,
        engine: Engine,
        w: Serving,
        first: Engine,
        instances: tuple[int, int],
        prices: PoolPrices | None = None,
    ) -> None:
        self.w = w
        self.instances = instances
        self._prices: PoolPrices = {} if prices is None else prices
        self.prefill = self._pool("prefill", first, prefill_load(w), instances[0])
        rules = self.prefill.rules._replace(policy="first", together=10**9, reserved=0.0)
        self.prefill = self.prefill._replace(rules=rules)
        self.decode = self._pool("decode", engine, w, instances[1])
        self.token_bytes = kv_bytes(engine.model, engine.stack, w) / w.isl

    @property
    def link(self) -> PoolLink:
        """Between a replica of the one and one of the other."""
        cluster = self.decode.engine.cluster
        out, into = (link_bytes_per_s(cluster, p.replica) for p in (self.prefill, self.decode))
        return PoolLink(self.token_bytes, out, into)

    def _pool(self, name: str, engine: Engine, w: Serving, instances: int) -> _Pool:
        rules = engine_rules(engine, w)
        dp = int(engine.layouts.dp)
        ranks = dp if shares_experts(engine) else 1
        servers = instances * dp // ranks
        least = max(w.isl * (1.0 - w.length_spread), 1.0)
        at_once = max(min(rules.most_sequences, int(min(rules.capacity / least, 1e9))), 1)
        key = (name, rules.budget)
        if key not in self._prices:
            self._prices[key] = PriceTable(engine, w, at_once, rules.budget)
        replica = int(engine.layouts.tp * engine.layouts.pp)
        return _Pool(engine, rules, self._prices[key], servers, ranks, replica, at_once)

    @property
    def room(self) -> int:
        """Requests that the decode pool holds at once."""
        return self.decode.at_once * self.decode.servers * self.decode.ranks

    def closed(
        self, *, requests: int | None = None, seed: int = 0, progress: _Progress | None = None
    ) -> tuple[Simulated, Transfers]:
        """The workload's ``concurrency`` in flight, all of which begin at once."""
        n = rounds(self.w.concurrency, requests, 1)
        in_flight = min(self.w.concurrency, n)
        return self._run(drawn(self.w, n, None, 1, seed), seed, in_flight, None, progress)

    def open(
        self,
        arrivals: Arrivals,
        *,
        requests: int | None = None,
        seed: int = 0,
        progress: _Progress | None = None,
    ) -> tuple[Simulated, Transfers]:
        """Requests that come whether others end or not.

        :raises Overloaded: where more come than can be served.
        """
        n = OPEN_REQUESTS if requests is None else requests
        what = drawn(self.w, n, arrivals, 1, seed)
        found, transfers = self._run(what, seed, 0, arrivals, progress)
        waits = found.steady.waiting.mean + arrivals.rate * transfers.waited_s.mean
        if (
            waits > 2.0 * QUEUED * (self.prefill.servers + self.decode.servers)
            and arrivals.trace is None
        ):
            most = self.most_per_s(seed=seed)
            if arrivals.rate >= most:
                raise overload(arrivals.rate, most)
        return found.served if found.settled else found, transfers

    def most_per_s(self, *, seed: int = 0) -> float:
        """Requests per second that are served where there is always one waiting."""
        in_flight = min(2 * self.room, _AT_ONCE)
        what = drawn(self.w, max(4 * in_flight, 400), None, 1, seed)
        return self._run(what, seed, in_flight, None, None)[0].steady.requests_per_s

    def _run(
        self,
        what: Drawn,
        seed: int,
        in_flight: int,
        arrivals: Arrivals | None,
        progress: _Progress | None,
    ) -> tuple[Simulated, Transfers]:
        w, drafts = self.w, None
        if w.draft_tokens:
            drafts = Drafts(w.draft_tokens, w.acceptance or 0.0, seed)
        queue = Requests(*what, in_flight=in_flight, drafts=drafts, progress=progress)
        pools = Pools(
            queue,
            (lambda s: self.prefill.build(s, Sender), self.prefill.servers),
            (lambda s: self.decode.build(s, Receiver), self.decode.servers),
            self.link,
        )
        pools.run()
        timed = Timelines([server.timeline for server in pools.decodes[:TIMED]])
        steady = steady_state(queue, timed, 1.0, in_flight)
        found = Simulated(
            whole_run(queue, timed, 1.0),
            steady,
            queue.size,
            1,
            sum(server.stopped for server in pools.decodes),
            seed,
            arrivals,
            answer=sum(what.answer) / queue.size,
        )
        return found, Transfers(spread_of(pools.moved_s), spread_of(pools.waited_s))
