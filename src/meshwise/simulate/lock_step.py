"""Attention data parallelism: replicas that share their experts pass through them together, iteration by
iteration, so that each iteration lasts as long as the slowest one's."""

from __future__ import annotations

from meshwise.simulate.iteration import IterationPrice
from meshwise.simulate.loads.requests import Sent
from meshwise.simulate.replica import NEVER, Replica
from meshwise.simulate.rules import Rules
from meshwise.simulate.timeline import NoTimeline, Timeline, Timelines, until

TIMED = 8  # replicas whose gaps between tokens are kept: the others' are like theirs
_Chunks = list[tuple[int, int, int]]


class LockStep:
    """``ranks`` replicas of attention, and their common step from one event to the next. Seconds, tokens.

    A request is given to a replica when it is taken up, by the engine's rule (``rules.balance``). A replica
    that has nothing to do computes a batch of nothing beside the others. Decodes are padded to as many
    sequences as the fullest replica has (one CUDA graph for all); in an iteration with prompts each
    replica computes its own tokens, and the experts those of all (DP attention of SGLang, vLLM and
    TensorRT-LLM).
    """

    def __init__(
        self,
        price: IterationPrice,
        rules: Rules,
        requests: Sent,
        ranks: int,
        kind: type[Replica] = Replica,
    ) -> None:
        self.price, self.rules, self.requests = price, rules, requests
        self.ranks = [kind(price, rules, requests) for _ in range(ranks)]
        for i, rank in enumerate(self.ranks):
            rank.keep_book_of(self.ranks[0])
            if i >= TIMED:
                rank.timeline = NoTimeline()
        self._next = 0
        self._held = 0  # iterations that prompts were held back for

    @property
    def now(self) -> float:
        """All replicas' clock [s]."""
        return self.ranks[0].now

    @property
    def stopped(self) -> int:
        """Times that a request was stopped for want of room."""
        return sum(rank.stopped for rank in self.ranks)

    @property
    def timeline(self) -> Timeline:
        """What some of the replicas did."""
        return Timelines([rank.timeline for rank in self.ranks[:TIMED]])

    def keep_book_of(self, other: LockStep) -> None:
        """The same lists as other ones, where a request is of one of them."""
        for rank in self.ranks:
            rank.keep_book_of(other.ranks[0])

    @property
    def busy(self) -> bool:
        """Whether a replica has something to do."""
        return any(rank.busy for rank in self.ranks)

    @property
    def load(self) -> int:
        """Requests that wait or run."""
        return sum(rank.load for rank in self.ranks)

    # -- the run -----------------------------------------------------------------------------------

    def run(self) -> Timeline:
        """All requests from their arrival to their end."""
        while self.step():
            pass
        return self.timeline

    def step(self) -> bool:
        """To the next event; false where nothing is left and nothing is known to come."""
        first = self.ranks[0]
        decoding = busy = False
        for rank in self.ranks:
            if rank.decoding:
                decoding = busy = True
                break
            busy = busy or bool(rank.partial)
        if first.iteration % self.rules.poll == 0 or not busy:
            seen = first.before if busy and self.rules.ahead else first.now
            for request in self.requests.arrived(seen):
                self._given(request).waiting.append(request)
        if decoding and self.rules.gather and self._holds_back():
            before = first.iteration
            self._decode(self.rules.gather - self._held)
            self._held += first.iteration - before
            return True
        self._held = 0
        if any(rank.waiting or rank.partial for rank in self.ranks):
            chunks = [rank.chunks() if rank.waiting or rank.partial else [] for rank in self.ranks]
            if any(chunks):
                self._with_prompts(chunks)
                return True
        if decoding:
            self._decode()
        else:
            return self._idle()
        return True

    def _holds_back(self) -> bool:
        """Whether prompts wait until every replica has one, so that they stop the others' decodes once."""
        if self._held >= self.rules.gather or any(rank.partial for rank in self.ranks):
            return False
        some = [bool(rank.waiting) for rank in self.ranks]
        return any(some) and not all(some)

    def _idle(self) -> bool:
        for rank in self.ranks:
            rank.see(NEVER)
        following = self.requests.next_arrival
        if following == NEVER:
            if any(rank.waiting for rank in self.ranks):
                raise AssertionError("a request that never fits")
            return False
        for rank in self.ranks:
            if following > rank.now:
                rank.timeline.idle(following - rank.now)
                rank.now = following
        return True

    # -- who gets a request ------------------------------------------------------------------------

    def _given(self, request: int) -> Replica:
        """The replica that gets a request."""
        if self.rules.balance == "round_robin":
            self._next += 1
            return self.ranks[(self._next - 1) % len(self.ranks)]
        if self.rules.balance == "least_requests":
            loads = [4 * len(r.waiting) + r.decoding + len(r.partial) for r in self.ranks]
            return self.ranks[loads.index(min(loads))]
        # the fewest tokens, of those that have no more requests than their share
        counts = [len(r.waiting) + r.decoding + len(r.partial) for r in self.ranks]
        share = max(-(-(sum(counts) + 1) // len(counts)), max(counts))
        asks = [
            (r.context + r.prompt_tokens + sum(self.requests.prompt[q] for q in r.waiting), i)
            for i, r in enumerate(self.ranks)
            if counts[i] < share
        ]
        return self.ranks[min(asks)[1]]

    # -- iterations --------------------------------------------------------------------------------

    def _with_prompts(self, chunks: list[_Chunks]) -> None:
        rules = self.rules
        beside = [
            0 if mine and rules.policy == "first" else rank.decoding
            for rank, mine in zip(self.ranks, chunks, strict=True)
        ]
        for rank, n in zip(self.ranks, beside, strict=True):
            if n and rank.made_room():
                return
        tokens = sum(n for mine in chunks for _, n, _ in mine) + sum(beside) * rules.queries
        seconds = self._decodes_s(beside, 1) if any(beside) else 0.0
        empties = not any(rank.waiting for rank in self.ranks) and all(
            rank.completes(mine) for rank, mine in zip(self.ranks, chunks, strict=True)
        )
        lags = [0.0] * len(self.ranks)
        for i, (rank, mine, n) in enumerate(zip(self.ranks, chunks, beside, strict=True)):
            if mine:
                own, lags[i] = rank.prompts_s(mine, n, empties, tokens / len(self.ranks))
                seconds = max(seconds, own)
        for rank, mine, n, lag in zip(self.ranks, chunks, beside, lags, strict=True):
            if mine:
                rank.computed(mine, n, seconds, lag)
            elif n:
                rank.decoded(seconds, 1)
            else:
                self._empty(rank, seconds, 1)

    def _decode(self, at_most: int | None = None) -> None:
        ranks, capacity = self.ranks, self.rules.capacity
        held = [rank.held() for rank in ranks]
        for rank, tokens in zip(ranks, held, strict=True):
            if tokens + rank.rate > capacity and rank.decoding and rank.made_room(tokens):
                return
        most = min([rank.undisturbed(n) for rank, n in zip(ranks, held, strict=True)])
        most = most if at_most is None else min(most, at_most)
        gap = self.requests.next_arrival - self.now
        if gap <= 0.0:
            gap = NEVER  # it has arrived, and nobody looked yet
            most = 1 if self.rules.ahead else most
        beside = [rank.decoding for rank in ranks]
        # as long as the same replica holds the most tokens, time is affine in them
        fullest = self._fullest(0)
        while most > 1 and fullest is not self._fullest(most - 1):
            most //= 2
        whole = self._decodes_s(beside, most)
        seconds, most = until(lambda k: self._decodes_s(beside, k), most, gap, whole)
        for rank in ranks:
            if rank.decoding:
                rank.decoded(seconds, most)
            else:
                self._empty(rank, seconds, most)

    def _decodes_s(self, beside: list[int], iterations: int) -> float:
        """Iterations of decodes, of so many of each replica: padded to the most, the attention of whoever
        holds the most tokens."""
        later, ranks = (iterations - 1) / 2.0, self.ranks
        held = [r.context + later * r.rate for r, n in zip(ranks, beside, strict=True) if n]
        most = max(beside)
        return iterations * self.price.decode_s(most, max(held) / most)

    def _fullest(self, later: int) -> Replica:
        """The replica whose sequences hold the most tokens, so many iterations later."""
        held = [rank.context + later * rank.rate for rank in self.ranks]
        return self.ranks[held.index(max(held))]

    def _empty(self, rank: Replica, seconds: float, iterations: int) -> None:
        """A replica has nothing to do and passes through the experts with the others."""
        rank.passed(iterations, seconds, 0)
        if rank.unseen:
            rank.see(rank.iteration - self.rules.ahead)
