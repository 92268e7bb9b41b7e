"""Memory of a serving engine: what stands beside its KV cache, and how many tokens, sequences and how long
a context the cache holds, in the pages that the engine keeps it in.

One price: ``serve``, ``plan``, the simulator and the ``fits`` of a decode step read it.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.clusters.cluster import Device
from meshwise.clusters.load import Cluster
from meshwise.cost.memory import parts as mem
from meshwise.cost.memory.pages import KvPages
from meshwise.layouts.layout import Layouts
from meshwise.models.shapes import Model
from meshwise.program.context import Context, context, stored_width
from meshwise.program.weights import Role, block_matrices, layers_held, roles
from meshwise.stacks.stack import Stack, stated
from meshwise.workloads.workload import MAX_SEQ, Decode, Formats

GIB = 2.0**30
SMALL_DEVICE = 70 * GIB  # bytes: below, engines take fewer tokens and sequences an iteration
SMALL_GRAPHS, LEAST_RESERVE = 35 * GIB, 60 * GIB  # bytes of a device, of SGLang's server_args.py
# What a process does not see of the memory that a device is stated with: least squares over the totals in
# the start-up logs, 14.6 of 15 GiB, 23.6 of 24, 39.4 of 40, 47.5 of 48, 79.2 of 80, 95.1 of 96, 139.8 of 141.
DRIVER_BYTES, DRIVER_SHARE = 0.3 * GIB, 0.0063


def visible_bytes(device: Device, stack: Stack) -> float:
    """Memory that an engine's process sees of a device, bytes; all of it under ideal rates."""
    if stack.ideal:
        return device.memory_bytes
    return max(device.memory_bytes * (1.0 - DRIVER_SHARE) - DRIVER_BYTES, 0.0)


def iteration_tokens(stack: Stack, device: Device, chunk: int | None = None) -> int:
    """The most tokens that an iteration may work on: asked for, or the engine's default."""
    if chunk is not None:
        return chunk
    small = counts_as_small(stack, device)
    return stack.scheduler.max_batched_tokens_small if small else stack.scheduler.max_batched_tokens


def most_sequences(stack: Stack, device: Device) -> int:
    """The most requests that run at once on a replica, by the engine's default."""
    scheduler = stack.scheduler
    if counts_as_small(stack, device):
        return min(scheduler.max_sequences, scheduler.max_sequences_small)
    return scheduler.max_sequences


def counts_as_small(stack: Stack, device: Device) -> bool:
    """Whether the engine's defaults for the device are those of small ones."""
    named = device.generation in stack.scheduler.small_generations
    return named or device.memory_bytes < SMALL_DEVICE


def graph_share(sequences: int) -> float:
    """Share of all CUDA graphs that an engine captures for as many sequences: for 1, 2, 4, multiples of 8 up
    to 256 and of 16 up to 512, twice the sequences at most (vllm/config/compilation.py)."""
    most = min(2 * sequences, 512)
    captured = min(most.bit_length(), 3) + min(most, 256) // 8 + max(most - 256, 0) // 16
    return captured / 51.0


class ServerParts(NamedTuple):
    """Bytes of a device of one stage; they and the reserve add up to what the process sees of it."""

    weights_bytes: Array  # with encoders of images and sounds
    activations_bytes: Array  # the largest iteration's, or sampling's, at the profile's peak
    runtime_bytes: Array  # outside the framework's allocator
    graphs_bytes: Array  # where the cache is sized after them
    kv_cache_bytes: Array  # what is left for keys, values and states; negative where nothing is

    @property
    def beside_bytes(self) -> Array:
        """All but the cache."""
        return self.weights_bytes + self.activations_bytes + self.runtime_bytes + self.graphs_bytes


class ServerMemory:
    """Of layouts (arrays over their axes), per stage. Bytes, tokens, sequences of one replica.

    :param ctx: of the model as it runs, under its layouts; its sequences and tokens do not matter.
    :param chunk: most tokens of an iteration; None: the stack's.
    """

    def __init__(self, ctx: Context, cluster: Cluster, chunk: int | None = None) -> None:
        self.stack, self.layouts = ctx.stack, ctx.layout
        self.cluster, self.device = cluster, cluster.device
        self.tokens = iteration_tokens(ctx.stack, cluster.device, chunk)
        self.sequences = most_sequences(ctx.stack, cluster.device)
        self._base = ctx
        self._roles = roles(ctx.model, ctx.layout, ctx.stack.pipeline.stage_balance)
        self.pages = KvPages(ctx, self._roles, self.tokens)

    @classmethod
    def of(
        cls,
        model: Model,
        cluster: Cluster,
        stack: Stack,
        layouts: Layouts,
        formats: Formats,
        chunk: int | None = None,
    ) -> ServerMemory:
        """Of a model in formats under layouts."""
        work = Decode(batch=1, context=1, formats=formats)
        return cls(context(model, stack, work, layouts), cluster, chunk)

    # -- beside the cache ---------------------------------------------------------------------

    @cached_property
    def _largest(self) -> Context:
        """The largest iteration: prompts alone."""
        n = self.tokens
        rows = np.int64(n)
        return self._base._replace(
            phase="prefill", sequences=np.int64(1), queries=n, keys=n, tokens=rows
        )

    @cached_property
    def reserve(self) -> Array:
        """Share that is not the engine's, of what ``kv_budget`` says: stated, or as the engine computes it."""
        c, own = self.stack.cache, self.stack.memory.memory_reserve
        computed = c.reserve_fixed_bytes + c.reserve_token_bytes + c.reserve_sequence_bytes
        if computed == 0.0 or own > 0.0 or stated(self.stack, "memory_reserve"):
            return own
        ranks = self.layouts.tp * self.layouts.pp
        small = self.device.memory_bytes < SMALL_GRAPHS
        graph = c.graph_sequences_small if small else c.graph_sequences
        kept = (
            c.reserve_fixed_bytes
            + c.reserve_token_bytes * max(self.tokens, 2048)
            + c.reserve_sequence_bytes * np.where(self.layouts.tp >= 4, 2 * graph, graph)
            + c.reserve_rank_bytes * ranks
        )
        if self.device.memory_bytes > LEAST_RESERVE:
            kept = np.maximum(kept, c.reserve_least_bytes)
        return np.minimum(np.round(kept / self.device.memory_bytes, 3), 0.95)

    def _stage(self, role: Role) -> ServerParts:
        c, ctx = self.stack.cache, self._largest
        state = mem.state_bytes(ctx, role)
        weights = state.weights_bytes + state.towers_bytes + self._padding(ctx, role)
        layers = mem.working_bytes(ctx, role).activations_bytes
        logits = ctx.vocabulary * ctx.layout.tp * role.head
        sampling = c.sampler_bytes * self.sequences * logits
        activations = np.maximum(layers, sampling) + c.profile_bytes
        joined = np.where((self.layouts.tp > 1) | (self.layouts.ep > 1), 1.0, 0.0)
        switched = c.switched_bytes if self.cluster.levels[0].kind == "nvswitch" else 0.0
        runtime = c.runtime_bytes + (c.communicator_bytes + switched) * joined
        layers_here = sum(role.layers, start=np.float64(0.0))
        graphs = c.graph_layer_bytes * layers_here * graph_share(self.sequences)
        beside = weights + activations + runtime + graphs
        seen, share = visible_bytes(self.device, self.stack), 1.0 - self.reserve
        if c.kv_budget == "static":
            left = (seen - c.context_bytes - runtime) * share - weights
        elif c.kv_budget == "free":
            left = (seen - c.context_bytes - beside) * share
        else:
            left = seen * share - beside
        return ServerParts(weights, activations, runtime, graphs, left)

    def _padding(self, ctx: Context, role: Role) -> Array:
        """Bytes that MXFP4 experts are padded by."""
        multiple, more = self.stack.cache.expert_multiple, np.float64(0.0)
        for block, count in zip(ctx.model.blocks, role.layers, strict=True):
            stored = block.stored.expert_up
            if multiple == 1 or block.moe is None or stored is None or stored.dtype != "mxfp4":
                continue
            width = block.moe.expert.width / ctx.layout.expert_tp()
            wider = np.ceil(width / multiple) * multiple / width - 1.0
            experts = block_matrices(block, ctx.model.hidden, ctx.layout).experts
            held = sum(n * stored_width(ctx.model, ctx.widths, how) for how, n in experts)
            more = more + layers_held(block, count) * held * wider
        return more

    @cached_property
    def stages(self) -> list[ServerParts]:
        return [self._stage(role) for role in self._roles]

    # -- what it holds ------------------------------------------------------------------------

    def _request(self, context: int, common: int) -> list[tuple[Array, Array]]:
        """(bytes that one request of ``context`` tokens has of its own, bytes of the ``common`` ones of them
        that are there once for all), per stage."""
        own = self.pages.request_bytes(context - common)
        if not common:
            return [(each, 0.0) for each in own]
        whole = self.pages.request_bytes(context)
        return [(each, all_ - each) for each, all_ in zip(own, whole, strict=True)]

    def concurrency(self, context: int, common: int = 0) -> Array:
        """Requests of ``context`` tokens, of which ``common`` are the same ones, that the cache of a replica
        holds, a fraction, at least 0; of the stage that holds least. Infinite for a model that caches
        nothing."""
        least: Array = np.inf
        for role, parts, (each, once) in zip(
            self._roles, self.stages, self._request(context, common), strict=True
        ):
            left, pages = np.maximum(parts.kv_cache_bytes, 0.0), self.pages.pages(role)
            if pages is not None:
                unit = pages.page_bytes
                left = np.floor(left / unit) * unit
            left = np.maximum(left - once, 0.0)
            with np.errstate(divide="ignore", invalid="ignore"):
                held = np.where(each > 0, left / each, np.where(left > 0, np.inf, 0.0))
            least = np.where(role.exists, np.minimum(least, held), least)
        return least

    def used_bytes(self, context: int, requests: Array, common: int = 0) -> tuple[Array, Array]:
        """(bytes with so many requests of ``context`` tokens, bytes that the engine has) of the stage that
        has least left."""
        used: Array = 0.0
        room: Array = 0.0
        least: Array = np.inf
        for role, parts, (each, once) in zip(
            self._roles, self.stages, self._request(context, common), strict=True
        ):
            beside = parts.beside_bytes
            mine, limit = beside + once + each * requests, beside + parts.kv_cache_bytes
            first = role.exists & (limit - mine < least)
            used, room = np.where(first, mine, used), np.where(first, limit, room)
            least = np.where(first, limit - mine, least)
        return used, room

    def spare_bytes(self, context: int, requests: Array) -> Array:
        """Bytes of the cache that so many requests of ``context`` tokens leave, of the stage that has least
        left; negative where they do not fit."""
        used, limit = self.used_bytes(context, requests)
        return limit - used

    @property
    def leaves_the_rest(self) -> bool:
        """Whether what is not for weights and cache holds an iteration's activations and the graphs, where the
        engine's share is of these two alone, of every stage."""
        cache = self.stack.cache
        seen = visible_bytes(self.device, self.stack) - cache.context_bytes
        return all(
            bool(
                np.all(
                    (seen - parts.runtime_bytes) * self.reserve
                    >= parts.activations_bytes + parts.graphs_bytes
                )
            )
            for parts in self.stages
        )

    @property
    def limit_bytes(self) -> Array:
        """What the engine has for weights, cache and activations on the stage that has least."""
        least: Array = np.inf
        for role, parts in zip(self._roles, self.stages, strict=True):
            mine = parts.weights_bytes + parts.activations_bytes + parts.kv_cache_bytes
            least = np.where(role.exists, np.minimum(least, mine), least)
        return least

    def tightest(self, context: int) -> ServerParts:
        """The parts of the stage whose cache holds the fewest requests of ``context`` tokens."""
        found = self.stages[0]
        least: Array = np.inf
        for role, parts, each in zip(
            self._roles, self.stages, self.pages.request_bytes(context), strict=True
        ):
            held = parts.kv_cache_bytes / np.maximum(each, 1.0)
            first = role.exists & (held < least)
            found = ServerParts(*(np.where(first, a, b) for a, b in zip(parts, found, strict=True)))
            least = np.where(first, held, least)
        return found

    def logged_tokens(self, longest: int) -> Array:
        """Tokens of a replica's cache as the engine's log states them, whose longest request has ``longest``."""
        least: Array = np.inf
        block = self.stack.scheduler.kv_block_tokens
        for role, parts in zip(self._roles, self.stages, strict=True):
            left, pages = np.maximum(parts.kv_cache_bytes, 0.0), self.pages.pages(role)
            if pages is None:
                grown = self.pages.growth(role)
                some = np.where(grown > 0, grown, 1.0)
                tokens = np.floor(left / (some * block)) * block
                if np.any(grown <= 0):
                    held = np.floor(self.concurrency(longest) * longest)
                    tokens = np.where(grown > 0, tokens, held)
            elif self.stack.cache.logs_concurrency:
                tokens = np.floor(self.concurrency(longest) * longest)
            else:
                widest: Array = np.inf
                for t in pages.tokens:
                    widest = np.where(t > 0, np.minimum(widest, t), widest)
                groups = sum(pages.groups, start=np.float64(0.0))
                tokens = np.floor(np.floor(left / pages.page_bytes) / groups) * widest
            least = np.where(role.exists, np.minimum(least, tokens), least)
        return least

    def logged_blocks(self, longest: int) -> Array:
        """Blocks of the same: of a group of layers where layers have pages of one size."""
        least: Array = np.inf
        for role, parts in zip(self._roles, self.stages, strict=True):
            pages, left = self.pages.pages(role), np.maximum(parts.kv_cache_bytes, 0.0)
            if pages is not None:
                least = np.where(
                    role.exists, np.minimum(least, np.floor(left / pages.page_bytes)), least
                )
        if np.all(np.isfinite(least)):
            return least
        return np.floor(self.logged_tokens(longest) / self.stack.scheduler.kv_block_tokens)

    def longest(self) -> int:
        """The longest request that one layout's cache holds alone, tokens; 0 where none fits."""
        low, high = 0, MAX_SEQ
        if float(self.concurrency(high)) >= 1.0:
            return high
        while high - low > 1:
            middle = (low + high) // 2
            if float(self.concurrency(middle)) >= 1.0:
                low = middle
            else:
                high = middle
        return low
