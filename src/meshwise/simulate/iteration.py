"""Seconds of one iteration of a serving engine: decodes alone, prompts alone, or both together."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from meshwise.arrays import Array
from meshwise.clusters.load import Cluster
from meshwise.cost.estimate import Estimate, price_layouts
from meshwise.cost.inference import engine_s, experts_launch_s, launches_s
from meshwise.cost.pricing import KnownPrices, total_times
from meshwise.layouts.layout import Layouts
from meshwise.layouts.placement import Group, groups
from meshwise.models.shapes import Model
from meshwise.program.operations import Kernel, Op
from meshwise.stacks.stack import Stack
from meshwise.workloads.serving import Serving
from meshwise.workloads.workload import Decode, Formats, Prefill

# (tokens of a prompt, tokens before them) → attention by kind of layer, as price tables have it: of one
# model's layouts that differ in neither tp nor dcp it is the same
Chunks = dict[tuple[int, int], list[Array]]


def knots(low: int, high: int, parts: int = 4) -> list[int]:
    """Whole numbers from the last at or below ``low`` to the first at or above ``high`` of those that cut
    each power of two to the next into so many ``parts`` (a power of two itself)."""
    found, step = [*range(1, parts)], 1
    while not found or found[-1] < high:
        found += [(parts + i) * step for i in range(parts)]
        step *= 2
    below = bisect_right(found, low) - 1
    return found[below : bisect_left(found, high) + 1]


def about(value: int, parts: int, least: int) -> tuple[int, ...]:
    """The knots about a number of tokens, which cut each doubling from ``least`` on into ``parts``; itself
    where it is one."""
    if value < least:
        return (0, least) if value else (0,)
    step = max((1 << (value.bit_length() - 1)) // parts, 1)
    low = value // step * step
    return (low,) if low == value else (low, low + step)


def place_between(xs: Sequence[int], x: float) -> tuple[int, float]:
    """The knot below, of two or more, and the share of the way to the next; beyond the ends along the last
    piece."""
    i = bisect_right(xs, x, 1, len(xs) - 1) - 1
    low = xs[i]
    return i, (x - low) / (xs[i + 1] - low)


class IterationPrice(Protocol):
    """Seconds of an iteration."""

    def decode_s(self, sequences: int, context: float) -> float: ...

    def prompts_s(
        self,
        sequences: int,
        context: float,
        chunks: Sequence[tuple[int, int]],
        shared: float | None = None,
        empties: bool = False,
    ) -> float: ...


@dataclass(frozen=True)
class Engine:
    """What serves: a model under a software stack, on layouts (arrays broadcast) of a cluster. An
    iteration that is asked for again is priced once."""

    model: Model
    cluster: Cluster
    stack: Stack
    layouts: Layouts
    formats: Formats = field(default_factory=Formats)
    expert_imbalance: float | None = None
    expert_skew: float | None = None
    known: dict[tuple[object, ...], Estimate] = field(default_factory=dict, init=False)
    chunks: Chunks = field(default_factory=dict, init=False)
    products: dict[tuple[object, ...], Array] = field(default_factory=dict)  # that are priced

    def decode(self, batch: Array, context: int, queries: int = 1) -> Estimate:
        """``queries`` tokens of each of ``batch`` sequences, priced."""
        work = Decode(
            batch=1,
            context=context,
            formats=self.formats,
            queries=queries,
            expert_imbalance=self.expert_imbalance,
            expert_skew=self.expert_skew,
        )
        return self._price(work, batch)

    def prefill(self, prompts: Array, chunk: int, cached: int = 0) -> Estimate:
        """``chunk`` tokens of each of ``prompts`` after ``cached`` ones, priced."""
        work = Prefill(
            batch=1,
            seq=chunk,
            formats=self.formats,
            cached=cached,
            expert_imbalance=self.expert_imbalance,
            expert_skew=self.expert_skew,
        )
        return self._price(work, prompts)

    def _price(self, work: Decode | Prefill, batch: Array) -> Estimate:
        sequences = np.asarray(batch)
        key = (work, sequences.shape, sequences.tobytes())
        if key not in self.known:
            self.known[key] = price_layouts(
                *(self.model, self.cluster, work, self.stack, self.layouts, sequences[()]),
                self._placed,
                self._prices,
            )
        return self.known[key]

    @cached_property
    def _prices(self) -> KnownPrices:
        return KnownPrices(self.products, {})

    @cached_property
    def _placed(self) -> dict[str, Group] | None:
        """One layout's groups, which all its iterations have in common."""
        one = np.size(self.layouts.devices) == 1
        return groups(self.layouts, self.cluster) if one else None

    def engine_s(self, e: Estimate, sequences: Array, rows: Array) -> Array:
        """Seconds of an iteration outside the model's program, for ``rows`` next tokens."""
        return engine_s(e.pricer.compute, e.program.ctx, sequences, rows)

    @property
    def sharing(self) -> Array:
        """Replicas of attention that share their experts, and so pass through them together."""
        lay = self.layouts
        routed = any(block.moe is not None for block in self.model.blocks)
        return np.where(routed & (lay.ep * lay.expert_tp() > lay.tp), lay.dp, 1)

    @property
    def experts_launch_s(self) -> float:
        """Host seconds of an iteration with prompts to launch the experts of all layers, which nothing
        hides."""
        return experts_launch_s(self.stack, self.model)

    def launched(self, e: Estimate, whole: Array, slowest: Array, groups: Array) -> Pace:
        """An iteration that no graph replays: the device's work, or the host's launches where they
        last longer, over the whole pipeline and on its slowest stage."""
        all_layers, of_a_stage = launches_s(e.program)
        return Pace.of(np.maximum(whole, all_layers), np.maximum(slowest, of_a_stage), groups)


class Pace(NamedTuple):
    """An iteration of one of the ``groups`` of sequences that a pipeline keeps in flight.

    ``iteration_s`` is what a group waits for its own result: the pass through all stages, or the
    slowest stage once for every group. ``every_s`` is what parts iterations that need no result of
    the one before, such as a prompt's chunks.
    """

    iteration_s: Array
    every_s: Array

    @classmethod
    def of(cls, whole: Array, slowest: Array, groups: Array) -> Pace:
        every = groups * slowest
        return cls(np.maximum(whole, every), every)

    def plus(self, seconds: Array) -> Pace:
        return Pace(self.iteration_s + seconds, self.every_s + seconds)

    def series_s(self, iterations: Array) -> Array:
        """Seconds of iterations that follow each other without waiting for results."""
        return self.iteration_s + (iterations - 1) * self.every_s


def _by_sequence(op: Op) -> bool:
    """Whether it depends on which tokens are of one sequence: keys that they see, states that are kept once
    for each sequence (a short convolution's last positions too)."""
    return op.kind in ("attention", "recurrence") or op.scan is not None


def sequence_kinds_s(e: Estimate) -> list[Array]:
    """Seconds of what depends on which tokens are of one sequence (keys seen, states kept), of a layer of
    each kind; nothing else is priced."""
    return [
        sum(
            (op.count * e.pricer.one(op)[0] for op in ops if np.max(op.count) > 0),
            start=np.float64(0.0),
        )
        for ops in ([op for op in each if _by_sequence(op)] for each in e.program.mixers)
    ]


def token_kinds_s(e: Estimate) -> list[Array]:
    """Seconds of all the rest, of a layer of each kind: the same for all tokens of an iteration."""
    return [
        total_times([c for c in costs if not _by_sequence(c.op)]).busy for costs in e.layer_costs
    ]


def _of_all_replicas(op: Op) -> bool:
    """Whether it is of the tokens of all replicas that share their experts: the routed experts' products,
    and gathers to every rank and back. What a replica sends to single experts is of its own tokens."""
    gathered = op.kind in ("all_gather", "reduce_scatter") and op.axis in ("ep", "etp")
    return op.kernel is Kernel.EXPERTS or gathered


def shared_kinds_s(e: Estimate) -> list[Array]:
    """Seconds of what goes by the tokens of all replicas that share their experts, of a layer of each
    kind."""
    return [
        sum(
            (np.asarray(op.count * e.pricer.one(op)[0]) for op in ops if np.max(op.count) > 0),
            start=np.float64(0.0),
        )
        for ops in ([op for op in each if _of_all_replicas(op)] for each in e.program.layers)
    ]


def draft_s(engine: Engine, w: Serving, batch: Array) -> Array:
    """Seconds to draft the tokens of one verification, one after the other."""
    if w.draft_tokens == 0 or w.draft_cost == "none":
        return 0.0
    e = engine.decode(batch, w.context)
    if w.draft_cost == "layer":
        one: Array = total_times(e.layer_costs[-1]).busy + total_times(e.head_costs).busy
        return w.draft_tokens * one
    return w.draft_tokens * float(w.draft_cost) * (e.step_s - e.host_s)


def decode_s(
    engine: Engine, batch: Array, context: int, queries: int = 1, groups: Array = 1
) -> Array:
    """An iteration of decodes alone, replayed from a CUDA graph; ``groups`` of ``batch`` sequences are
    in flight."""
    e = engine.decode(batch, context, queries)
    waits = np.maximum(groups * e.microbatch.busy - (e.step_s - e.host_s), 0.0)
    return e.step_s + np.where(np.asarray(groups) > 1, waits, 0.0)


def pads_graphs(stack: Stack) -> bool:
    """Whether decodes are replayed from CUDA graphs of some numbers of sequences only."""
    return stack.scheduler.graph_multiple > 1 and not stack.scheduler.eager


def graph_sequences(stack: Stack, sequences: Array) -> Array:
    """Of how many sequences the CUDA graph is that replays decodes of ``sequences``: its stack's multiples, and
    the powers of two below; themselves where no graph is padded."""
    many, held = stack.scheduler.graph_multiple, np.asarray(sequences)
    if not pads_graphs(stack):
        return held
    small = 1 << np.ceil(np.log2(np.maximum(held, 1))).astype(np.int64)
    return np.where(held >= many, -(-held // many) * many, np.minimum(small, many))


def unrouted_s(engine: Engine, e: Estimate) -> Array:
    """Seconds of the routed experts' products in decodes, where rows that pad a graph are left out of them; 0
    where they are routed as any token."""
    words, lay = engine.stack.scheduler.padding_experts, engine.layouts
    total: Array = 0.0
    for ops, n in zip(e.program.layers, engine.model.kind_counts(), strict=True):
        for op in ops:
            if op.kernel is Kernel.EXPERTS and np.max(op.count) > 0:
                total = total + n * op.count * e.pricer.one(op)[0]
    left_out = words == "skipped" or (words == "routed_without_ep") & (np.asarray(lay.ep) > 1)
    return np.where(left_out, total, 0.0)


def replayed_s(
    engine: Engine, batch: Array, context: int, queries: int = 1, groups: Array = 1
) -> Array:
    """:func:`decode_s`, padded to the sequences that a CUDA graph was made for: keys and values are those of
    ``batch``, and so are the routed experts' tokens where the engine leaves padding out."""
    made = graph_sequences(engine.stack, batch)
    seconds = decode_s(engine, made, context, queries, groups)
    if np.array_equal(made, batch):
        return seconds
    padded, own = (engine.decode(n, context, queries) for n in (made, batch))
    seconds = seconds - (unrouted_s(engine, padded) - unrouted_s(engine, own))
    both = sequence_kinds_s(padded), sequence_kinds_s(own)
    for n, a, b in zip(engine.model.kind_counts(), *both, strict=True):
        seconds = seconds - n * (a - b)
    return seconds


def prefill(engine: Engine, prompts: Array, chunk: int, cached: int = 0, groups: Array = 1) -> Pace:
    """An iteration of prompts alone: the device's work, or the host's launches where they last
    longer."""
    e = engine.prefill(prompts, chunk, cached)
    pace = engine.launched(e, e.pass_s, e.microbatch.busy, groups)
    return pace.plus(engine.engine_s(e, prompts, prompts) + engine.experts_launch_s)


def prompt_alone(engine: Engine, chunk: int, cached: int) -> Pace:
    """:func:`prefill` of one prompt's chunk and nothing else: of replicas that share their experts one has
    it, and the others pass through them with no tokens."""
    pace = prefill(engine, np.int64(1), chunk, cached)
    replicas = engine.sharing
    if np.all(replicas == 1):
        return pace
    own = shared_kinds_s(engine.prefill(np.int64(chunk), 1))
    mean = shared_kinds_s(engine.prefill(-(-np.int64(chunk) // replicas), 1))
    counts = engine.model.kind_counts()
    less = sum(n * (a - b) for n, a, b in zip(counts, own, mean, strict=True))
    less = np.where(replicas > 1, less, 0.0)
    return Pace(pace.iteration_s - less, pace.every_s - less / engine.layouts.pp)


def mixed(
    engine: Engine,
    *,
    batch: Array,
    context: int,
    queries: int,
    prompts: Array,
    chunk: int,
    cached: int = 0,
    groups: Array = 1,
) -> Pace:
    """An iteration of ``batch`` decodes and chunks of ``prompts``.

    Products, passes and collectives work on all tokens at once and read the weights once; attention and
    recurrences run by themselves for each kind of request (Agrawal et al., Sarathi-Serve, OSDI 2024, section 4). Not from a
    graph.
    """
    tokens = batch * queries + prompts * chunk
    together = engine.prefill(tokens, 1)
    decodes = engine.decode(batch, context, queries)
    chunks = engine.prefill(prompts, chunk, cached)
    kinds = token_kinds_s(together)
    for e in (decodes, chunks):
        kinds = [a + b for a, b in zip(kinds, sequence_kinds_s(e), strict=True)]
    embedding, head = (
        total_times(together.embedding_costs).busy,
        total_times(decodes.head_costs).busy,
    )
    transfer = total_times(together.transfer_costs).busy
    slowest: Array = 0.0
    for role in together.program.roles:
        stage = embedding * role.embedding + head * role.head
        for kind, count in zip(kinds, role.layers, strict=True):
            stage = stage + kind * count
        slowest = np.maximum(slowest, stage * role.exists)
    whole = embedding + head + (together.layout.pp - 1) * transfer
    for kind, count in zip(kinds, engine.model.kind_counts(), strict=True):
        whole = whole + kind * count
    pace = engine.launched(together, whole, slowest + transfer, groups)
    host = engine.engine_s(together, batch + prompts, batch * queries + prompts)
    return pace.plus(host + engine.experts_launch_s)
