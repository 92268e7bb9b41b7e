"""Prefill and decode on servers of their own: requests queue at the one pool, their keys and values move to
the other, and wait there for room."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from meshwise.clusters.load import Cluster
from meshwise.cost.memory.parts import kv_cache_bytes
from meshwise.layouts.layout import Layouts
from meshwise.models.shapes import Model
from meshwise.program.context import context
from meshwise.program.weights import roles
from meshwise.simulate.iteration import IterationPrice
from meshwise.simulate.loads.requests import Requests
from meshwise.simulate.replica import Replica
from meshwise.simulate.rules import Rules
from meshwise.simulate.timeline import Timeline
from meshwise.stacks.stack import Stack
from meshwise.workloads.serving import Serving
from meshwise.workloads.workload import Prefill


class PoolServer(Protocol):
    """A replica, or several in lock step."""

    @property
    def now(self) -> float: ...
    @property
    def busy(self) -> bool: ...
    @property
    def load(self) -> int: ...
    @property
    def timeline(self) -> Timeline: ...
    @property
    def stopped(self) -> int: ...
    def step(self) -> bool: ...


class Receiver(Replica):
    """A replica of a pool that only decodes: a prompt's keys and values come computed. One that was stopped
    for want of room is computed again, here."""

    def chunks(self) -> list[tuple[int, int, int]]:
        while self.waiting and self.turn[self.waiting[0]] == 0:
            request = self.waiting[0]
            if not self._room_for(request):
                break
            self.waiting.popleft()
            whole = self._prompt_of(request)
            self._admit(request, whole, 0)
            self.partial.pop()
            self.prompt_tokens -= whole
            self._begin(request, whole, self.requests.answer[request])
        if not self.partial and not (self.waiting and self.turn[self.waiting[0]]):
            return []
        everybody = self.waiting
        self.waiting = deque(q for q in everybody if self.turn[q])  # they wait before the others
        found = super().chunks()
        self.waiting.extend(q for q in everybody if not self.turn[q])
        return found


class Sender(Replica):
    """A replica of a pool that only computes prompts. Their keys and values stay in its cache until the other
    pool has them, and take the room of prompts that wait."""

    def __init__(self, price: IterationPrice, rules: Rules, requests: Station) -> None:
        super().__init__(price, rules, requests)
        self.station = requests
        self._sending: list[
            int
        ] = []  # requests whose prompts are computed, and not known to be moved

    def _leave(self, request: int) -> None:
        super()._leave(request)
        self._sending.append(request)

    def held(self) -> float:
        moved, r = self.station.moved, self.requests
        self._sending = [q for q in self._sending if moved[q] > self.now]
        own = sum(r.prompt[q] - r.cached[q] for q in self._sending)
        return super().held() + own + len(self._sending) * (self.rules.block - 1) / 2.0

    def _room_for(self, request: int) -> bool:
        if not super()._room_for(request):
            return False
        held = self.held()
        if not self._sending:
            return True
        own = self._prompt_of(request) - self.requests.cached[request]
        return held + own + (self.rules.block - 1) / 2.0 <= self.rules.capacity


class Station:
    """What one server of a pool knows of the requests, and whom it tells what becomes of them."""

    def __init__(
        self,
        requests: Requests,
        prompt: Sequence[int],
        answer: Sequence[int],
        begins: Callable[[int, float], None],
        ends: Callable[[int, float], None],
    ) -> None:
        self.prompt, self.answer, self.cached = prompt, answer, requests.cached
        self.size, self.iterations = requests.size, requests.iterations
        self.admitted, self.ended = begins, ends
        self.horizon = math.inf  # nothing is known of what comes after it
        self._due: list[tuple[float, int]] = []
        self.moved = [
            math.inf
        ] * requests.size  # when a prompt's keys and values have left for good
        self._moves: list[float] = []

    def moves(self, request: int, until: float) -> None:
        """A prompt's keys and values are under way ``until`` then."""
        self.moved[request] = until
        heapq.heappush(self._moves, until)

    def send(self, request: int, when: float) -> None:
        heapq.heappush(self._due, (when, request))

    @property
    def due(self) -> float:
        """When the next one comes that is known of."""
        return self._due[0][0] if self._due else math.inf

    @property
    def sent(self) -> int:
        """Requests that are on their way."""
        return len(self._due)

    @property
    def next_arrival(self) -> float:
        moved = self._moves[0] if self._moves else math.inf  # who waits for room has it then
        return min(self.due, self.horizon, moved)

    def arrived(self, now: float) -> list[int]:
        while self._moves and self._moves[0] <= now:
            heapq.heappop(self._moves)
        found = []
        while self._due and self._due[0][0] <= now:
            found.append(heapq.heappop(self._due)[1])
        return found

    def began(self, request: int, now: float) -> None:
        """Its first token: of a prefill its end says it."""

    def unfollowed(self, request: int, made: float) -> None:
        """Its first token is of the other pool, and never seen late by this one."""


class PoolLink(NamedTuple):
    """Between the pools: a prompt's bytes per token, and what a server of each sends and gets [bytes/s]."""

    token_bytes: float
    out_bytes_per_s: float
    in_bytes_per_s: float

    def transfer_s(self, tokens: int) -> float:
        """Seconds that a prompt's keys and values are under way, by themselves."""
        return tokens * self.token_bytes / min(self.out_bytes_per_s, self.in_bytes_per_s)


def kv_bytes(model: Model, stack: Stack, w: Serving) -> float:
    """Bytes of a prompt's keys and values, of all layers, once."""
    one = Layouts(tp=np.int64(1))
    ctx = context(model, stack, Prefill(batch=1, seq=w.isl, formats=w.formats), one)
    return float(kv_cache_bytes(ctx, roles(model, one)[0]))


def link_bytes_per_s(cluster: Cluster, devices: int) -> float:
    """What ``devices`` of one instance exchange with another pool: over the network at their share of its
    NICs, or inside the one node there is over its outermost level. (Pools that share a node of several
    are priced over the network too.)"""
    index = next(
        (i for i, level in enumerate(cluster.levels) if level.kind == "network"),
        len(cluster.levels) - 1,
    )
    below = cluster.domain_sizes()[index - 1] if index else 1
    level = cluster.levels[index]
    return devices * level.per_device_bytes_per_s(max(below, 1))


_Build = Callable[[Station], PoolServer]


class Pools:
    """``prefills`` and ``decodes`` servers, and the requests' way through them.

    A request goes to the server of a pool that has the fewest. A server sends one prompt's keys and values
    after the other, and another gets one after the other. The first token is seen when they have arrived,
    as the decode pool's server answers.
    """

    def __init__(
        self,
        requests: Requests,
        prefill: tuple[_Build, int],
        decode: tuple[_Build, int],
        link: PoolLink,
    ) -> None:
        self.requests, self.link = requests, link
        self.moved_s, self.waited_s = [0.0] * requests.size, [0.0] * requests.size
        self._due = [math.inf] * requests.size  # when a decode server has it
        alone, more = [1] * requests.size, [n - 1 for n in requests.answer]
        longer = [n + 1 for n in requests.prompt]
        self._prefills: list[Station] = []
        self._decodes: list[Station] = []
        self.prefills: list[PoolServer] = []
        self.decodes: list[PoolServer] = []
        for i in range(prefill[1]):
            station = Station(
                requests, requests.prompt, alone, requests.admitted, self._computed(i)
            )
            self._prefills.append(station)
            self.prefills.append(prefill[0](station))
        for _ in range(decode[1]):
            station = Station(requests, longer, more, self._admitted, requests.ended)
            self._decodes.append(station)
            self.decodes.append(decode[0](station))
        self._changed: list[int] = []  # servers whose next event may be another
        self._out, self._in = [0.0] * prefill[1], [0.0] * decode[1]  # when their links are free

    def run(self) -> None:
        """All requests from their arrival to their end."""
        # at one time who computes prompts comes first: the others hear of them
        servers = [
            *zip(self.prefills, self._prefills, strict=True),
            *zip(self.decodes, self._decodes, strict=True),
        ]
        first, clocks = len(self.prefills), [math.inf] * len(servers)
        while True:
            now, coming = min(clocks), self.requests.next_arrival
            if coming <= now and coming < math.inf:
                for request in self.requests.arrived(coming):
                    at = _least(self.prefills, self._prefills)
                    self._prefills[at].send(request, coming)
                    self._changed.append(at)
            elif now == math.inf:
                return
            else:
                i = clocks.index(now)
                server, station = servers[i]
                # it hears of nothing sooner than what those that compute prompts end now
                station.horizon = min(*clocks[:first], coming) if i >= first else math.inf
                server.step()
                self._changed.append(i)
            for i in self._changed:
                server, station = servers[i]
                clocks[i] = server.now if server.busy else max(server.now, station.due)
            self._changed.clear()

    # -- a request's way ---------------------------------------------------------------------------

    def _computed(self, sender: int) -> Callable[[int, float], None]:
        def ended(request: int, now: float) -> None:
            if self.requests.answer[request] == 1:
                self._prefills[sender].moves(request, now)
                self.requests.began(request, now)
                self.requests.ended(request, now)
                return
            getter = _least(self.decodes, self._decodes)
            # of the prompt what the other pool does not have
            tokens = self.requests.prompt[request] - self.requests.cached[request]
            begin = max(now, self._out[sender], self._in[getter])
            size = tokens * self.link.token_bytes
            self._out[sender] = begin + size / self.link.out_bytes_per_s
            self._in[getter] = begin + size / self.link.in_bytes_per_s
            due = begin + self.link.transfer_s(tokens)
            self.moved_s[request], self._due[request] = due - now, due
            self._prefills[sender].moves(request, due)
            self.requests.began(request, due)
            self._decodes[getter].send(request, due)
            self._changed.append(len(self.prefills) + getter)

        return ended

    def _admitted(self, request: int, now: float) -> None:
        if self._due[request] < math.inf:  # computed again later it does not count
            self.waited_s[request] = now - self._due[request]
            self._due[request] = math.inf


def _least(servers: Sequence[PoolServer], stations: Sequence[Station]) -> int:
    """The server with the fewest requests."""
    loads = [server.load + station.sent for server, station in zip(servers, stations, strict=True)]
    return loads.index(min(loads))
