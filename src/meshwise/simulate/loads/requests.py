"""Requests of a replica: their lengths, when they arrive, and what happens to each."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from meshwise.simulate.loads.drafts import Drafts

_UNKNOWN = math.nan
_TOLD = 256  # requests between two words of progress


class Sent(Protocol):
    """What a server is sent, and whom it tells what becomes of each request."""

    @property
    def prompt(self) -> Sequence[int]: ...
    @property
    def answer(self) -> Sequence[int]: ...
    @property
    def cached(self) -> Sequence[int]: ...
    @property
    def size(self) -> int: ...
    @property
    def next_arrival(self) -> float: ...
    def arrived(self, now: float) -> list[int]: ...
    def iterations(self, request: int, tokens: int) -> int: ...
    def admitted(self, request: int, now: float) -> None: ...
    def began(self, request: int, now: float) -> None: ...
    def ended(self, request: int, now: float) -> None: ...
    def unfollowed(self, request: int, made: float) -> None: ...


class Requests:
    """What arrives at a replica, and when each request runs, begins to answer and ends [s].

    :param prompt: tokens of each prompt, in the order of arrival.
    :param answer: tokens of each answer, 1 or more.
    :param cached: tokens of each prompt whose keys and values are held already.
    :param arrival: rising times; None: a closed loop.
    :param in_flight: of a closed loop: so many are sent at once, and one more where one ends.
    :param drafts: of speculative decoding; None: an iteration yields a token.
    :param progress: called with (requests that ended, of how many) now and then.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        answer: Sequence[int],
        cached: Sequence[int],
        arrival: Sequence[float] | None = None,
        in_flight: int = 0,
        drafts: Drafts | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.drafts, self.progress, self.over = drafts, progress, 0
        self.prompt, self.answer, self.cached = list(prompt), list(answer), list(cached)
        self.size = n = len(self.prompt)
        self.closed = arrival is None
        self.arrival = [_UNKNOWN] * n if arrival is None else list(arrival)
        self.start, self.first, self.end = ([_UNKNOWN] * n for _ in range(3))
        self.made: list[float] = [_UNKNOWN] * n  # the first token, where the last is seen at once
        self._due: deque[int] = deque()
        self._sent = 0
        if self.closed:
            for _ in range(min(in_flight, n)):
                self._send(0.0)
        else:
            self._due.extend(range(n))

    def _send(self, now: float) -> None:
        self.arrival[self._sent] = now
        self._due.append(self._sent)
        self._sent += 1

    def iterations(self, request: int, tokens: int) -> int:
        """Decode iterations until so many of its tokens are made."""
        return tokens if self.drafts is None else self.drafts.verifications(request, tokens)

    @property
    def next_arrival(self) -> float:
        """When the next one comes that is not at the replica yet; never, where none is known of."""
        return self.arrival[self._due[0]] if self._due else math.inf

    def arrived(self, now: float) -> list[int]:
        """Those that have come by ``now`` and were not told before."""
        found: list[int] = []
        due, arrival = self._due, self.arrival
        while due and arrival[due[0]] <= now:
            found.append(due.popleft())
        return found

    def admitted(self, request: int, now: float) -> None:
        """It runs; where it was stopped in between, its first time counts."""
        if math.isnan(self.start[request]):
            self.start[request] = now

    def began(self, request: int, now: float) -> None:
        """Its first token is seen."""
        self.first[request] = now

    def unfollowed(self, request: int, made: float) -> None:
        """No iteration follows its last token, which is seen at once: when its first one was ``made``."""
        self.made[request] = made

    def ended(self, request: int, now: float) -> None:
        """Its last token is seen; of a closed loop the next one is sent."""
        self.end[request] = now
        self.over += 1
        if self.progress is not None and (self.over % _TOLD == 0 or self.over == self.size):
            self.progress(self.over, self.size)
        if self.closed and self._sent < self.size:
            self._send(now)
