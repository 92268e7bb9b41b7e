"""By which rules an engine fills an iteration: its stack's switches, and the room of its KV cache."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.simulate.iteration import Engine
from meshwise.workloads.serving import Serving

SMALL_DEVICE = (
    70 * 2.0**30
)  # bytes: below, engines take fewer tokens an iteration, and fewer sequences


class Rules(NamedTuple):
    """Of one replica. Tokens, sequences, iterations."""

    policy: (
        str  # mixed: chunks beside decodes; whole: prompts uncut beside them; first: prompts alone
    )
    budget: int  # tokens of an iteration
    most_sequences: int  # that run, prompts in progress included
    together: int  # prompts of an iteration
    ahead: bool  # an iteration is made up when the one before begins, its tokens seen when the next ends
    poll: int  # iterations between two looks at what has arrived
    capacity: float  # tokens that the KV cache holds
    block: int  # tokens of a block of it
    reserved: float  # share of an answer's tokens that admission sets aside
    queries: int = 1  # tokens that a decode of a sequence computes
    yields: float = 1.0  # tokens that it yields, in the mean
    balance: str = "round_robin"  # who gets a request, of replicas that share their experts


def shares_experts(engine: Engine) -> bool:
    """Whether the replicas of attention of a layout share their experts, and so pass through them together."""
    lay = engine.layouts
    routed = any(block.moe is not None for block in engine.model.blocks)
    return routed and bool(lay.dp > 1) and bool(lay.ep * lay.expert_tp() > lay.tp)


def tokens_per_iteration(engine: Engine, w: Serving) -> int:
    """The most tokens that an iteration may work on: asked for, or the engine's default."""
    if w.chunk is not None:
        return w.chunk
    scheduler = engine.stack.scheduler
    small = _counts_as_small(engine)
    return scheduler.max_batched_tokens_small if small else scheduler.max_batched_tokens


def sequences_at_most(engine: Engine) -> int:
    """The most requests that run at once on a replica, by the engine's default."""
    scheduler = engine.stack.scheduler
    if _counts_as_small(engine):
        return min(scheduler.max_sequences, scheduler.max_sequences_small)
    return scheduler.max_sequences


def _counts_as_small(engine: Engine) -> bool:
    device = engine.cluster.device
    named = device.generation in engine.stack.scheduler.small_generations
    return named or device.memory_bytes < SMALL_DEVICE


def together_at_most(engine: Engine, w: Serving) -> int:
    """Prompts that the tokens of an iteration hold; 1 where a prompt takes several iterations."""
    return max(tokens_per_iteration(engine, w) // w.computed, 1)


def common_prefix(w: Serving) -> int:
    """Tokens of the longest prompt that the prefix cache holds, for all requests at once."""
    return w.isl - w.computed


def _cache(engine: Engine, w: Serving) -> tuple[Array, Array, float]:
    """Bytes beside the cache, of a request's own context in it, and what the device has for both. A prefix
    that all have in common is in the cache once, and stands beside it."""
    context, common = w.isl + w.osl, common_prefix(w)
    one = engine.decode(np.int64(1), context).memory_bytes
    each = engine.decode(np.int64(2), context).memory_bytes - one
    work = engine.prefill(np.int64(1), tokens_per_iteration(engine, w)).memory["activations_bytes"]
    limit = engine.cluster.device.memory_bytes * (1.0 - engine.stack.memory.memory_reserve)
    prefix: Array = 0.0
    if common:
        prefix = one - engine.decode(np.int64(1), context - common).memory_bytes
    return one - each + work + prefix, each - prefix, limit


def capacity(engine: Engine, w: Serving, per_replica: Array) -> tuple[Array, Array]:
    """(the most sequences of a replica whose keys and values fit, bytes with those that run).

    Weights and the activations of the largest iteration stand beside the cache, as engines measure
    before they size it, whatever will be in flight; bytes are affine in the number of sequences.
    """
    base, each, limit = _cache(engine, w)
    most = np.maximum(np.floor((limit - base) / each), 0.0).astype(np.int64)[()]
    return most, base + each * np.minimum(per_replica, np.maximum(most, 1))


def cache_tokens(engine: Engine, w: Serving) -> float:
    """Tokens that a replica's cache holds, counted in requests of the workload's longest context: what
    does not grow with it (a recurrent state, a window) is spread over its tokens. 0 where not one fits."""
    base, each, limit = _cache(engine, w)
    held = (limit - base) / each
    return float(held) * (w.isl + w.osl - common_prefix(w)) if held >= 1.0 else 0.0


def engine_rules(engine: Engine, w: Serving) -> Rules:
    """The rules of a replica of the engine's stack, under the workload's limits; each of the groups that a
    pipeline keeps in flight has its own tokens."""
    scheduler = engine.stack.scheduler
    pp = int(engine.layouts.pp)
    budget = tokens_per_iteration(engine, w)
    policy = "first"
    if scheduler.mixes_prefill:
        policy = "whole" if scheduler.whole_prompts else "mixed"
    held = cache_tokens(engine, w)
    alone = held == 0.0  # one request, as on a device that had the room
    if policy == "first" and scheduler.whole_prompts and w.chunk is None:
        budget = max(budget, w.computed)
    if policy == "whole" and w.chunk is None:
        # engines that do not cut prompts are built for the longest one beside all that decode
        most = min(sequences_at_most(engine), w.concurrency)
        budget = max(budget, w.computed + -(-most // pp) * w.queries)
    return Rules(
        policy=policy,
        budget=budget * pp,
        most_sequences=1 if alone else sequences_at_most(engine),
        together=10**9 if scheduler.shares_prefill else pp,
        ahead=scheduler.works_ahead,
        poll=scheduler.poll_iterations,
        capacity=np.inf if alone else held,
        block=scheduler.kv_block_tokens,
        reserved=scheduler.reserved_output,
        queries=w.queries,
        yields=w.tokens_per_iteration,
        balance=scheduler.dp_balance,
    )
