"""What a rank did: every collective counted, every scope timed."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch


class CollectiveCall(NamedTuple):
    """A collective as ``explain`` lists it. ``payload_bytes`` as nccl-tests counts it."""

    name: str
    kind: str
    axis: str
    ranks: int
    payload_bytes: int
    phase: str
    algorithm: str = ""


Scope = tuple[str, str]  # name and phase of a piece of compute


class Ledger:
    """Collectives (calls and seconds of waiting in them) and scopes of compute (calls, seconds).

    Seconds are the host's; with ``cuda`` those of the current stream, between events, which
    :meth:`settle` reads. ``detailed`` also times what lies between the products.
    """

    def __init__(self, *, cuda: bool = False) -> None:
        self.calls: Counter[CollectiveCall] = Counter()
        self.call_s: defaultdict[CollectiveCall, float] = defaultdict(float)
        self.scopes: Counter[Scope] = Counter()
        self.scope_s: defaultdict[Scope, float] = defaultdict(float)
        self.cuda = cuda
        self.detailed = False
        self._events: list[tuple[CollectiveCall | Scope, Any, Any]] = []

    def clear(self) -> None:
        for table in (self.calls, self.call_s, self.scopes, self.scope_s, self._events):
            table.clear()

    def now(self) -> Any:
        """A point in time, to be handed to :meth:`add` or :meth:`waited`."""
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def count(self, call: CollectiveCall) -> None:
        self.calls[call] += 1

    def waited(self, call: CollectiveCall, since: Any) -> None:
        if self.cuda:
            self._events.append((call, since, self.now()))
        else:
            self.call_s[call] += time.perf_counter() - since

    def add(self, name: str, phase: str, since: Any) -> None:
        self.scopes[name, phase] += 1
        if self.cuda:
            self._events.append(((name, phase), since, self.now()))
        else:
            self.scope_s[name, phase] += time.perf_counter() - since

    @contextmanager
    def scope(self, name: str, phase: str) -> Iterator[None]:
        """Time of a block of compute without collectives."""
        begin = self.now()
        yield
        self.add(name, phase, begin)

    def settle(self) -> None:
        """Wait for the device and read the events."""
        if not self._events:
            return
        torch.cuda.synchronize()
        for key, begin, end in self._events:
            seconds = begin.elapsed_time(end) / 1e3
            if isinstance(key, CollectiveCall):
                self.call_s[key] += seconds
            else:
                self.scope_s[key] += seconds
        self._events.clear()

    def collectives(self) -> dict[tuple[str, str, str, int, str], int]:
        """(name, kind, axis, payload bytes, phase) → calls, whatever the algorithm."""
        found: Counter[tuple[str, str, str, int, str]] = Counter()
        for call, times in self.calls.items():
            found[call.name, call.kind, call.axis, call.payload_bytes, call.phase] += times
        return dict(found)
