"""Seconds of any iteration of an engine from a table: priced once at knots, read between them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.cost.estimate import Estimate
from meshwise.cost.inference import launches_s
from meshwise.cost.pricing import total_times
from meshwise.simulate.iteration import (
    Chunks,
    Engine,
    about,
    decode_s,
    draft_s,
    graph_sequences,
    knots,
    pads_graphs,
    place_between,
    sequence_kinds_s,
    shared_kinds_s,
    token_kinds_s,
    unrouted_s,
)
from meshwise.workloads.serving import Serving
from meshwise.workloads.workload import MAX_SEQ

# a knot, how far the next is; seconds there, and more at the next
_Line = tuple[float, float, float, float]
Chunk = tuple[int, int]  # tokens of a prompt that are computed, and tokens before them
_SEVERAL = 8  # prompts, by which what an iteration has once is told from what each has
_KEPT = 1 << 16  # chunks whose attention is remembered


class _Part(NamedTuple):
    """The whole pass, or a stage: layers of each kind, and whether the embedding and the head."""

    layers: tuple[float, ...]
    embedding: float
    head: float


class _Prompt(NamedTuple):
    """Attention of prompts' chunks of a size, of each part: once an iteration, and of each prompt."""

    once: tuple[float, ...]
    each: tuple[float, ...]


class PriceTable:
    """What iterations of an engine take, as :mod:`meshwise.simulate.iteration` prices them.

    Knots cut each doubling of sequences into four, and of tokens into eight; time is read linearly between
    them, and past the last along its last piece: off by some tenths of a per cent, by up to 10 % where a
    kernel's tiles begin a new row between two knots. It is nearly affine in the tokens that a sequence
    holds: knots at the ends of a request's, and more between them where layers have a window or choose
    keys. What is not asked for is not priced: a knot takes some milliseconds when it is first asked for.

    A pipeline of pp stages has up to pp groups of sequences in flight: an iteration here is one of each of
    them, and lasts as long as the group with the most tokens takes through all stages.

    :param engine: on one layout.
    :param w: lengths of requests, and drafts.
    :param most: sequences of a replica, at most.
    :param tokens: of an iteration, at most.
    :param chunks: prompts' attention that is known; None: what the engine knows.
    """

    def __init__(
        self, engine: Engine, w: Serving, most: int, tokens: int, chunks: Chunks | None = None
    ) -> None:
        self.engine, self.w, self.queries = engine, w, w.queries
        self._chunks = engine.chunks if chunks is None else chunks
        self.pp = int(engine.layouts.pp)
        self._made: dict[int, tuple[int, float]] = {}
        self._sequences = knots(1, max(self._made_for(most), 2))
        self._tokens, self._most_tokens = knots(1, max(tokens // self.pp, 2), 8), max(tokens, 2)
        self._batches = -(-np.array(self._sequences) // self.pp)  # of a group
        high = max(min(w.isl + w.osl, MAX_SEQ), w.queries + 1)
        self._contexts = self._context_knots(min(max(w.isl // 2, w.queries), high - 1), high)
        self._decodes: dict[int, list[float]] = {}
        self._attention: dict[int, list[list[float]]] = {}
        self._prompts: dict[Chunk, _Prompt] = {}
        self._knots: dict[Chunk, _Prompt] = {}
        # what is read for a number of sequences is the same for all contexts between two knots
        self._lines: dict[tuple[int, int], _Line] = {}
        self._ends_of: dict[tuple[int, int], list[tuple[float, float]]] = {}

    # -- what a state takes ------------------------------------------------------------------------

    def decode_s(self, sequences: int, context: float) -> float:
        """An iteration of decodes alone: of ``sequences`` that hold ``context`` tokens in the mean. Where a
        CUDA graph replays it, of as many sequences as the graph was made for."""
        made, less = self._made.get(sequences) or self._padded(sequences)
        contexts, held = self._contexts, context * sequences / made
        j = bisect_right(contexts, held, 1, len(contexts) - 1) - 1
        low, width, at, more = self._lines.get((made, j)) or self._line(made, j)
        return at + (held - low) / width * more - less

    def prompts_s(
        self,
        sequences: int,
        context: float,
        chunks: Sequence[Chunk],
        shared: float | None = None,
        empties: bool = False,
    ) -> float:
        """An iteration of ``chunks`` of prompts, one or more, and of as many decodes as ``sequences`` says,
        beside them. ``shared``: tokens of a replica in the mean of those that share their experts, whose
        products and gathers are of them all; None: as many as this one's. ``empties``: the pipeline has no more prompts
        after them, whose last chunk ends as many stages later as chunks went before it."""
        rows = sequences * self.queries + len(chunks)
        tokens, groups = sequences * self.queries, 1
        for n, _ in chunks:
            tokens += n
        if self.pp > 1:
            full = -(-tokens * self.pp // self._most_tokens)
            groups = min(self.pp, max(sequences + len(chunks), full))
        head = self._by_sequences(self._heads, rows / self.queries)
        held = [self._prompts.get(chunk) or self._prompt(chunk) for chunk in chunks]
        decodes = self._attention_s(sequences, context) if sequences else self._none
        both = None if shared is None else shared / groups
        times = self._passes_s(tokens / groups, head, held, groups, decodes, both)
        # the host's launches where they last longer, and what it does once an iteration
        whole = max(times[0], self._launches[0])
        if self.pp > 1:
            # no group overtakes the one with the most tokens, that of the longest chunk, on its way
            cuts = [-(-n * self.pp // self._most_tokens) for n, _ in chunks]
            size, k = max((chunks[k][0] / cut, k) for k, cut in enumerate(cuts))
            most = max(size + sequences * self.queries / groups, tokens / groups)
            both = None if shared is None else shared * most / tokens
            fullest = self._passes_s(most, head, held[k : k + 1], cuts[k], decodes, both)
            stage = self._launches[1]
            slowest, longest = (max(max(t[1:]) + self._transfer, stage) for t in (times, fullest))
            whole = max(whole, fullest[0]) + (max(cuts) - 1) * longest * empties
            whole = max(whole, groups * slowest)
        fixed, each, row = self._outside
        seconds = whole + fixed + each * (sequences + len(chunks)) + row * rows
        if not sequences:
            return seconds
        if self.w.draft_tokens:
            seconds += self._by_sequences(self._drafts, sequences)
        return max(seconds, self.decode_s(sequences, context))

    def _passes_s(
        self,
        tokens: float,
        head: float,
        held: Sequence[_Prompt],
        groups: int,
        decodes: Sequence[float],
        shared: float | None,
    ) -> list[float]:
        """Of each part a group of so many ``tokens``, with its share of the chunks' attention: layers'
        products, passes and collectives go by tokens, the head by rows, attention by chunks and decodes."""
        i, f = place_between(self._tokens, tokens)
        one, two = self._layers[i], self._layers[i + 1]
        times = []
        for k, heads in self._ends:
            first = held[0]
            once, each = first.once[k], first.each[k]
            for p in held[1:]:
                each += p.each[k]
                once = once if once > p.once[k] else p.once[k]
            a = one[k]
            products = a + f * (two[k] - a) + heads * head
            times.append(products + (once + each) / groups + decodes[k])
        if shared is not None:
            g, h = place_between(self._tokens, shared)
            every = zip(*self._experts[g : g + 2], *self._experts[i : i + 2], strict=True)
            for k, (a, b, c, d) in enumerate(every):
                times[k] = times[k] + (a + h * (b - a)) - (c + f * (d - c))
        return times

    # -- what is priced ----------------------------------------------------------------------------

    def _line(self, made: int, j: int) -> _Line:
        """Decodes of so many sequences between two knots of their context."""
        i, f = place_between(self._sequences, made)
        left, right = self._contexts[j : j + 2]
        low, high = self._decode_at(left), self._decode_at(right)
        at = low[i] + f * (low[i + 1] - low[i])
        more = high[i] + f * (high[i + 1] - high[i]) - at
        return self._lines.setdefault((made, j), (left, right - left, at, more))

    def _made_for(self, sequences: int) -> int:
        """Each of a pipeline's groups is padded by itself."""
        made, stack = sequences, self.engine.stack
        if pads_graphs(stack) and sequences > self.pp:
            made = int(graph_sequences(stack, -(-sequences // self.pp))) * self.pp
        return made

    def _padded(self, sequences: int) -> tuple[int, float]:
        """Sequences of the graph, and seconds of routed experts that its padding has no part in."""
        made, less = self._made_for(sequences), 0.0
        if made != sequences:
            values = self._unrouted
            less = self._by_sequences(values, made) - self._by_sequences(values, sequences)
        self._made[sequences] = found = made, less
        return found

    def _context_knots(self, low: int, high: int) -> list[int]:
        bent = any(
            b.attention is not None and (b.attention.window or b.attention.indexer)
            for b in self.engine.model.blocks
        )
        between = [n for n in knots(low, high) if low < n < high] if bent else []
        return [low, *between, high]

    @cached_property
    def _parts(self) -> list[_Part]:
        """The whole pass; of a pipeline each kind of stage too."""
        whole = _Part(tuple(map(float, self.engine.model.kind_counts())), 1.0, 1.0)
        if self.pp == 1:
            return [whole]
        return [
            whole,
            *(
                _Part(
                    tuple(float(n * r.exists) for n in r.layers),
                    float(r.embedding * r.exists),
                    float(r.head * r.exists),
                )
                for r in self._some.program.roles
            ),
        ]

    @cached_property
    def _ends(self) -> list[tuple[int, float]]:
        """Each part, and how often it has the head."""
        return [(k, part.head) for k, part in enumerate(self._parts)]

    @cached_property
    def _none(self) -> list[float]:
        return [0.0] * len(self._parts)

    @cached_property
    def _some(self) -> Estimate:
        """Decodes of each number of sequences, of which what does not depend on the context is asked."""
        return self.engine.decode(self._batches, self._contexts[0], self.queries)

    @cached_property
    def _together(self) -> Estimate:
        """So many tokens in one iteration."""
        return self.engine.prefill(np.array(self._tokens), 1)

    @cached_property
    def _layers(self) -> list[list[float]]:
        """By tokens, of each part: what all tokens of an iteration do together."""
        e, size = self._together, (len(self._tokens),)
        embedding = np.broadcast_to(total_times(e.embedding_costs).busy, size)
        kinds = [np.broadcast_to(kind, size) for kind in token_kinds_s(e)]
        found = [
            part.embedding * embedding
            + sum(n * kind for n, kind in zip(part.layers, kinds, strict=True))
            for part in self._parts
        ]
        found[0] = found[0] + (self.pp - 1) * self._transfer
        return [[float(v) for v in at] for at in zip(*found, strict=True)]

    @cached_property
    def _experts(self) -> list[list[float]]:
        """By tokens, of each part: what replicas that share their experts do for all of them."""
        parts = self._of_parts(shared_kinds_s(self._together), len(self._tokens))
        return [list(at) for at in zip(*parts, strict=True)]

    @cached_property
    def _transfer(self) -> float:
        """Between stages, of the most tokens."""
        return float(np.max(total_times(self._together.transfer_costs).busy))

    def _by_sequences(self, values: Sequence[float], sequences: float) -> float:
        i, f = place_between(self._sequences, sequences)
        return values[i] + f * (values[i + 1] - values[i])

    @cached_property
    def _heads(self) -> list[float]:
        """By sequences."""
        head = total_times(self._some.head_costs).busy
        return [float(v) for v in np.broadcast_to(head, self._batches.shape)]

    @cached_property
    def _launches(self) -> tuple[float, float]:
        """What the host needs to launch all layers, and those of a stage."""
        whole, stage = launches_s(self._together.program)
        return float(np.max(whole)), float(np.max(stage))

    @cached_property
    def _outside(self) -> tuple[float, float, float]:
        """Of an iteration, a sequence and a row: outside the model's program."""
        e = self._some
        fixed, each, row = (
            float(self.engine.engine_s(e, np.float64(n), np.float64(r)))
            for n, r in ((0, 0), (1, 0), (0, 1))
        )
        return fixed + self.engine.experts_launch_s, each - fixed, row - fixed

    @cached_property
    def _drafts(self) -> list[float]:
        seconds = draft_s(self.engine, self.w, self._batches)
        return [float(v) for v in np.broadcast_to(seconds, self._batches.shape)]

    def _decode_at(self, context: int) -> list[float]:
        """By sequences: an iteration of decodes, their drafts included."""
        found = self._decodes.get(context)
        if found is None:
            groups = -(-np.array(self._sequences) // self._batches)
            whole = decode_s(self.engine, self._batches, context, self.queries, groups)
            whole = np.broadcast_to(whole, self._batches.shape)
            found = [float(v) + d for v, d in zip(whole, self._drafts, strict=True)]
            self._decodes[context] = found
        return found

    def _attention_at(self, context: int) -> list[list[float]]:
        """By sequences, of each part: attention and recurrences of a group's decodes."""
        found = self._attention.get(context)
        if found is None:
            e = self.engine.decode(self._batches, context, self.queries)
            parts = self._of_parts(sequence_kinds_s(e), len(self._batches))
            found = [list(at) for at in zip(*parts, strict=True)]
            self._attention[context] = found
        return found

    def _attention_s(self, sequences: int, context: float) -> list[float]:
        j, g = place_between(self._contexts, context)
        ends = self._ends_of.get((sequences, j))
        if ends is None:
            i, f = place_between(self._sequences, sequences)
            left, right = (self._attention_at(c) for c in self._contexts[j : j + 2])
            pairs = ((zip(at[i], at[i + 1], strict=True)) for at in (left, right))
            low, high = ([a + f * (b - a) for a, b in pair] for pair in pairs)
            ends = self._ends_of[sequences, j] = [*zip(low, high, strict=True)]
        return [(1.0 - g) * a + g * c for a, c in ends]

    @cached_property
    def _unrouted(self) -> list[float]:
        """By sequences: products of routed experts that rows which pad a graph have no part in."""
        seconds = unrouted_s(self.engine, self._some)
        return [float(v) for v in np.broadcast_to(seconds, self._batches.shape)]

    def _of_parts(self, by_kind: list[Array], size: int) -> list[list[float]]:
        """Of each part the seconds of all its layers, from those of a layer of each kind."""
        kinds, none = [np.broadcast_to(kind, (size,)) for kind in by_kind], np.zeros(size)
        parts = ([n * kind for n, kind in zip(p.layers, kinds, strict=True)] for p in self._parts)
        return [[float(v) for v in sum(part, start=none)] for part in parts]

    def _prompt(self, chunk: Chunk) -> _Prompt:
        """Attention of a chunk: read between knots of its tokens and of those before it. One of several
        groups of a pipeline is so many of the middle one (time is affine in what is before it)."""
        found = self._prompts.get(chunk)
        if found is None:
            tokens, cached = chunk
            parts = -(-tokens * self.pp // self._most_tokens) if self.pp > 1 else 1
            if parts > 1:
                one = self._prompt((tokens // parts, cached + (parts - 1) * tokens // (2 * parts)))
                return _Prompt(*(tuple(v * parts for v in values) for values in one))
            before = about(cached, 1, 512)
            found = _between(
                [
                    (n, _between([(c, self._prompt_at((n, c))) for c in before], cached))
                    for n in about(tokens, 2, 1)
                ],
                tokens,
            )
            if len(self._prompts) < _KEPT:
                self._prompts[chunk] = found
        return found

    def _prompt_at(self, chunk: Chunk) -> _Prompt:
        """Of one such prompt, and of several together."""
        found = self._knots.get(chunk)
        if found is None:
            kinds = self._chunks.get(chunk)
            if kinds is None:
                e = self.engine.prefill(np.array([1, _SEVERAL]), *chunk)
                kinds = self._chunks[chunk] = sequence_kinds_s(e)
            once, each = [], []
            for one, several in self._of_parts(kinds, 2):
                slope = min(max((several - one) / (_SEVERAL - 1), 0.0), one)
                each.append(slope)
                once.append(one - slope)
            found = self._knots[chunk] = _Prompt(tuple(once), tuple(each))
        return found


def _between(ends: Sequence[tuple[int, _Prompt]], value: int) -> _Prompt:
    if len(ends) == 1:
        return ends[0][1]
    (low, a), (high, b) = ends
    f = (value - low) / (high - low)
    return _Prompt(
        tuple(x + f * (y - x) for x, y in zip(a.once, b.once, strict=True)),
        tuple(x + f * (y - x) for x, y in zip(a.each, b.each, strict=True)),
    )
