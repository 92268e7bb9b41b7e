"""One replica of an engine, iteration by iteration: what waits, what runs, what its cache holds.

Iterations that differ in nothing but the tokens held, decodes between two events, are taken at once.
"""

from __future__ import annotations

import heapq
import math
from collections import deque

from meshwise.simulate.iteration import IterationPrice
from meshwise.simulate.loads.requests import Sent
from meshwise.simulate.rules import Rules
from meshwise.simulate.timeline import Timeline, until

NEVER = math.inf
_Chunk = tuple[int, int, int]  # request, tokens, tokens before them


class Replica:
    """The state of a replica, and its step from one event to the next. Seconds, tokens.

    An iteration is made up when it begins, of what has arrived by then, and its tokens are seen when it
    ends. Of an engine that works ``ahead`` it is made up when the one before begins, and its tokens are seen
    when the next one ends (at its own end where none follows). Whoever waits for a request's end sends the
    next one then.
    """

    def __init__(self, price: IterationPrice, rules: Rules, requests: Sent) -> None:
        self.price, self.rules, self.requests = price, rules, requests
        self.timeline = Timeline()
        self.now = 0.0
        self.before = 0.0  # when the iteration before began
        self.iteration = 0
        self.waiting: deque[int] = deque()
        self.partial: deque[int] = deque()  # admitted, their prompts in progress
        self.running: list[tuple[int, int, int]] = []  # (last iteration, request, turn)
        self.order: list[tuple[int, int]] = []  # (request, turn) as admitted
        self.unseen: deque[tuple[int, int, bool]] = deque()  # (iteration, request, its end)
        n = requests.size
        self.turn = [0] * n  # how often a request was admitted; 0 of entries that are stale
        self.to_do = [0] * n  # tokens of the prompt that are not computed yet
        self.done = [0.0] * n  # tokens of the answer that were computed before it was stopped
        self.made = [0.0] * n  # when the first token of the answer was computed
        self.begun = [0] * n  # decode iteration at which it began
        self.yields = [1.0] * n  # tokens of a decode iteration, in the mean of its own
        self.decode_iterations = 0
        self.decoding = 0  # sequences
        self.new = 0  # of them, those whose first iteration of decodes is the next one
        self.context = 0.0  # tokens that they hold
        self.rate = 0.0  # tokens that they make in an iteration
        self.prompt_tokens = 0  # tokens held by prompts in progress
        self.shared = 0  # of all these, tokens of the prefix that they have in common
        self.remaining = 0.0  # tokens that those running have to make yet
        self.stopped = 0  # times that a request was stopped for want of room
        self.late: dict[int, float] = {}  # when a first token leaves a pipeline's last stage
        self.waited = 0  # iterations that prompts, which had room, have let pass

    def keep_book_of(self, other: Replica) -> None:
        """The same lists as another one, where a request is of one of them."""
        self.turn, self.to_do, self.done = other.turn, other.to_do, other.done
        self.made, self.begun, self.yields = other.made, other.begun, other.yields

    @property
    def busy(self) -> bool:
        """Whether it has something to do, or tokens that nobody saw yet."""
        return bool(self.decoding or self.partial or self.waiting or self.unseen)

    @property
    def load(self) -> int:
        """Requests that wait or run."""
        return len(self.waiting) + len(self.partial) + self.decoding

    # -- the run -----------------------------------------------------------------------------------

    def run(self) -> Timeline:
        """All requests from their arrival to their end."""
        while self.step():
            pass
        return self.timeline

    def step(self) -> bool:
        """To the next event; false where nothing is left and nothing is known to come."""
        busy, rules = self.decoding or self.partial, self.rules
        if not busy or self.iteration % rules.poll == 0:
            seen = self.before if busy and rules.ahead else self.now
            self.waiting.extend(self.requests.arrived(seen))
        ready = (self.waiting or self.partial) and not (rules.wait and self._prompts_wait())
        chunks = self.chunks() if ready else None
        if chunks:
            self._with_prompts(chunks)
        elif self.decoding:
            self._decode()
        else:
            self.see(NEVER)
            following = self.requests.next_arrival
            if following == NEVER:
                if self.waiting:
                    raise AssertionError("a request that never fits")
                return False
            if following > self.now:
                self.timeline.idle(following - self.now)
                self.now = following
        return True

    # -- what an iteration is made of --------------------------------------------------------------

    def held(self) -> float:
        """Tokens of the cache in use beside the common prefix, which it holds once; the last block of a
        sequence is half full in the mean."""
        sequences = self.decoding + len(self.partial)
        own = self.context + self.prompt_tokens - self.shared
        return own + sequences * (self.rules.block - 1) / 2.0

    def _room_for(self, request: int) -> bool:
        r = self.rules
        sequences = self.decoding + len(self.partial)
        if sequences == 0:
            return True  # whatever it needs, it runs alone
        if sequences >= r.most_sequences:
            return False
        left = self.requests.answer[request] - self.done[request]
        own = self._prompt_of(request) - self.requests.cached[request]
        needs = own + (r.block - 1) / 2.0 + r.reserved * left
        next_one = (self.decoding + 1) * r.yields
        return self.held() + r.reserved * self.remaining + needs + next_one <= r.capacity

    def _prompts_wait(self) -> bool:
        """Whether prompts let the next iteration of decodes pass, so that more of them may share one."""
        r = self.rules
        if not r.wait or not self.decoding or self.partial:
            return False
        if not self.waiting or not self._room_for(self.waiting[0]):
            return False
        tokens = self.decoding * r.queries + sum(map(self._prompt_of, self.waiting))
        return self.waited < r.wait and tokens < r.enough

    def _prompt_of(self, request: int) -> int:
        """Tokens before the next of its answer: what was made before it was stopped is prompt again."""
        return self.requests.prompt[request] + int(self.done[request])

    def chunks(self) -> list[_Chunk]:
        """(request, tokens, tokens before them) of the prompts in the next iteration."""
        if not self.partial and not self.waiting:
            return []
        r = self.rules
        beside = self.decoding * r.queries if r.policy != "first" else 0
        left = r.budget - beside
        found: list[_Chunk] = []
        for request in self.partial:
            if left <= 0 or len(found) >= r.together:
                return found
            tokens = min(self.to_do[request], left)
            found.append((request, tokens, self._prompt_of(request) - self.to_do[request]))
            left -= tokens
        while self.waiting and left > 0 and len(found) < r.together:
            request = self.waiting[0]
            if not self._room_for(request):
                break
            whole = self._prompt_of(request)
            computed = max(whole - self.requests.cached[request], 1)
            if r.policy == "whole" and computed > left and (found or computed <= r.budget):
                break
            tokens = min(computed, left)
            self.waiting.popleft()
            self._admit(request, whole, computed)
            found.append((request, tokens, whole - computed))
            left -= tokens
        return found

    def _admit(self, request: int, whole: int, computed: int) -> None:
        self.turn[request] += 1
        self.to_do[request] = computed
        self.partial.append(request)
        self.order.append((request, self.turn[request]))
        self.prompt_tokens += whole
        self.shared += self.requests.cached[request]
        self.remaining += self.requests.answer[request] - self.done[request]
        self.requests.admitted(request, self.now)

    # -- iterations --------------------------------------------------------------------------------

    def _with_prompts(self, chunks: list[_Chunk]) -> None:
        self.waited = 0
        beside = self.decoding if self.rules.policy != "first" else 0
        if beside and self.made_room():
            return
        empties = not self.waiting and self.completes(chunks)
        self.computed(chunks, beside, *self.prompts_s(chunks, beside, empties))

    def completes(self, chunks: list[_Chunk]) -> bool:
        """Whether chunks are the last ones of all prompts in progress."""
        return len(chunks) == len(self.partial) and all(n == self.to_do[q] for q, n, _ in chunks)

    def prompts_s(
        self, chunks: list[_Chunk], beside: int, empties: bool, shared: float | None = None
    ) -> tuple[float, float]:
        """(seconds of an iteration of chunks and ``beside`` decodes; how much later a prompt that is several of
        a pipeline's groups leaves the last stage, where others follow it)."""
        state = beside, self.context / beside if beside else 0.0, [c[1:] for c in chunks], shared
        seconds = self.price.prompts_s(*state, empties)
        if empties or all(n < self.to_do[q] or n <= self.rules.group for q, n, _ in chunks):
            return seconds, 0.0
        return seconds, self.price.prompts_s(*state, True) - seconds

    def computed(self, chunks: list[_Chunk], beside: int, seconds: float, lag: float = 0.0) -> None:
        """An iteration of chunks, and of ``beside`` decodes, is over."""
        r = self.rules
        self.passed(1, seconds, beside)
        if beside:
            self.decode_iterations += 1
            self.context += self.rate
            self.remaining -= self.rate
            if self.running[0][0] <= self.decode_iterations:
                self._ended()
        whole = False
        for request, tokens, _ in chunks:
            self.to_do[request] -= tokens
            if self.to_do[request] == 0:
                if lag and tokens > r.group:
                    self.late[request] = self.now + lag
                self._first_token(request)
                whole = True
        if whole:
            self.partial = deque(q for q in self.partial if self.to_do[q])
        if self.unseen:
            self.see(self.iteration - r.ahead)

    def _first_token(self, request: int) -> None:
        """A prompt is computed: its sequence decodes from the next iteration on."""
        whole = self._prompt_of(request)
        self.prompt_tokens -= whole
        first = self.done[request] == 0.0
        if first:
            self.made[request] = self.now
            self.unseen.append((self.iteration, request, False))
        left = self.requests.answer[request] - self.done[request] - 1.0
        self.remaining -= 1.0
        self.done[request] += 1.0
        if left <= 0.0:
            self.remaining -= left
            self._leave(request)
            return
        self._begin(request, whole + 1, left)

    def _begin(self, request: int, held: int, left: float) -> None:
        """A sequence that holds so many tokens, and has to make those ``left``, decodes."""
        iterations = self.requests.iterations(request, math.ceil(left - 1e-9))
        self.yields[request] = left / iterations
        self.begun[request] = self.decode_iterations
        self.decoding += 1
        self.new += 1
        self.rate += self.yields[request]
        self.context += held
        end = self.decode_iterations + iterations
        heapq.heappush(self.running, (end, request, self.turn[request]))

    def _decode(self) -> None:
        """As many iterations of decodes alone as nothing else happens in."""
        held, n, rules = self.held(), self.decoding, self.rules
        if held + self.rate > rules.capacity and self.made_room(held):
            return
        most, gap = self.undisturbed(held), self.requests.next_arrival - self.now
        if gap <= 0.0:
            gap = NEVER  # it has arrived, and nobody looked yet
            most = 1 if rules.ahead else most
        step, mean, decode_s = self.rate / n, self.context / n, self.price.decode_s
        # time is affine in the context: k iterations take k times the middle one
        whole = most * decode_s(n, mean + (most - 1) / 2.0 * step)
        if whole >= gap and most > 1:
            whole, most = until(
                lambda k: k * decode_s(n, mean + (k - 1) / 2.0 * step), most, gap, whole
            )
        self.decoded(whole, most)

    def undisturbed(self, held: float | None = None) -> int:
        """Iterations of decodes alone before something else happens to the replica, whose cache has ``held``
        tokens in use."""
        r, most = self.rules, 1 << 40
        if self.decoding:
            end, request, turn = self.running[0]
            if self.turn[request] != turn:
                self._drop_stale()
                end = self.running[0][0]
            most = end - self.decode_iterations
            room = (r.capacity - (self.held() if held is None else held)) / self.rate
            if room < most:
                most = max(int(room), 1)
        if self.unseen and r.ahead:
            seen = self.unseen[0][0] + 1 - self.iteration
            if seen < most:
                most = max(seen, 1)
        if r.wait and self._prompts_wait():
            # their room does not change meanwhile where it was set aside for whole answers
            steady = r.reserved == 1.0 or r.capacity == math.inf
            most = min(most, r.wait - self.waited if steady else 1)
        if r.poll > 1:
            most = min(most, r.poll - self.iteration % r.poll)
        return most

    def decoded(self, seconds: float, most: int) -> None:
        """So many iterations of decodes alone are over, in all ``seconds``."""
        r, made = self.rules, self.rate * most
        if r.wait:
            self.waited += most * self._prompts_wait()
        self.passed(most, seconds, self.decoding)
        self.decode_iterations += most
        self.context += made
        self.remaining -= made
        if self.running[0][0] <= self.decode_iterations:
            self._ended()
        if self.unseen:
            self.see(self.iteration - r.ahead)

    def passed(self, iterations: int, seconds: float, decoding: int) -> None:
        self.timeline.add(iterations, seconds, decoding, self.new if decoding else 0)
        self.new = 0 if decoding else self.new
        self.iteration += iterations
        self.before = self.now + seconds * (iterations - 1) / iterations
        self.now += seconds

    # -- ends --------------------------------------------------------------------------------------

    def _drop_stale(self) -> None:
        heap = self.running
        while heap and self.turn[heap[0][1]] != heap[0][2]:
            heapq.heappop(heap)

    def _ended(self) -> None:
        """Sequences whose last token is computed leave their place."""
        heap = self.running
        while heap and heap[0][0] <= self.decode_iterations:
            _, request, turn = heapq.heappop(heap)
            if self.turn[request] != turn:
                continue
            made = (self.decode_iterations - self.begun[request]) * self.yields[request]
            self.decoding -= 1
            self.rate -= self.yields[request]
            self.context -= self._prompt_of(request) + made
            self.remaining += made - (self.requests.answer[request] - self.done[request])
            self._leave(request)
        if not self.decoding:
            self.context = self.rate = 0.0

    def _leave(self, request: int) -> None:
        self.turn[request] = -abs(self.turn[request])
        self.shared -= self.requests.cached[request]
        self.unseen.append((self.iteration, request, True))
        if len(self.order) > 64 + 4 * (self.decoding + len(self.partial)):
            self.order = [(q, t) for q, t in self.order if self.turn[q] == t]

    def see(self, until: float) -> None:
        """Tokens of iterations up to ``until`` reach whoever waits for them."""
        while self.unseen and self.unseen[0][0] <= until:
            _, request, last = self.unseen.popleft()
            if last:
                if until == NEVER and self.rules.ahead:
                    self.requests.unfollowed(request, self.made[request])
                self.requests.ended(request, max(self.now, self.late.pop(request, 0.0)))
            else:
                self.requests.began(request, max(self.now, self.late.get(request, 0.0)))

    # -- a full cache ------------------------------------------------------------------------------

    def made_room(self, held: float | None = None) -> bool:
        """Whether a request had to be stopped, as the next iteration's tokens would not fit beside those
        ``held``."""
        if self.decoding + len(self.partial) <= 1:
            return False
        if (self.held() if held is None else held) + self.rate <= self.rules.capacity:
            return False
        self._stop_last()
        return True

    def _stop_last(self) -> None:
        """The request that came last gives its room back, waits before all others, and is computed again."""
        while self.order:
            request, turn = self.order.pop()
            if self.turn[request] == turn:
                break
        else:
            raise AssertionError("nothing runs that could be stopped")
        left = self.requests.answer[request] - self.done[request]
        if request in self.partial:
            self.partial.remove(request)
            self.prompt_tokens -= self._prompt_of(request)
            self.remaining -= left
        else:
            made = (self.decode_iterations - self.begun[request]) * self.yields[request]
            self.decoding -= 1
            self.rate -= self.yields[request]
            self.context -= self._prompt_of(request) + made
            self.remaining -= left - made
            self.done[request] += made
        self.shared -= self.requests.cached[request]
        self.turn[request] += 1  # its entry among the running is stale
        self.stopped += 1
        self.waiting.appendleft(request)
