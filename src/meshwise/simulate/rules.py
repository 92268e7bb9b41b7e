"""By which rules an engine fills an iteration: its stack's switches, and the room of its KV cache."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.cost.memory.server import ServerMemory, iteration_tokens, most_sequences
from meshwise.simulate.iteration import Engine
from meshwise.workloads.serving import Serving
from meshwise.workloads.workload import MAX_BATCH


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
    gather: int = 0  # iterations that prompts wait for until each of those replicas has one
    wait: int = 0  # iterations of decodes that prompts let pass
    group: float = np.inf  # tokens of one of a pipeline's groups: a longer chunk is several of them
    enough: float = np.inf  # tokens of an iteration, of prompts and decodes, for which they do not


def shares_experts(engine: Engine) -> bool:
    """Whether the replicas of attention of a layout share their experts, and so pass through them together."""
    return bool(engine.sharing > 1)


def tokens_per_iteration(engine: Engine, w: Serving) -> int:
    """The most tokens that an iteration may work on: asked for, or the engine's default."""
    return iteration_tokens(engine.stack, engine.cluster.device, w.chunk)


def sequences_at_most(engine: Engine) -> int:
    """The most requests that run at once on a replica, by the engine's default."""
    return most_sequences(engine.stack, engine.cluster.device)


def together_at_most(engine: Engine, w: Serving) -> int:
    """Prompts that the tokens of an iteration hold; 1 where a prompt takes several iterations."""
    return max(tokens_per_iteration(engine, w) // w.computed, 1)


def common_prefix(w: Serving) -> int:
    """Tokens of the longest prompt that the prefix cache holds, for all requests at once."""
    return w.isl - w.computed


def server_memory(engine: Engine, w: Serving) -> ServerMemory:
    """What stands on a device beside the cache, and what the cache holds."""
    return ServerMemory.of(
        *(engine.model, engine.cluster, engine.stack, engine.layouts, engine.formats), w.chunk
    )


class Room(NamedTuple):
    """What a replica's cache holds, and bytes of its fullest device. Arrays over layouts."""

    most: Array  # sequences of the longest context
    used_bytes: Array  # with those that run
    limit_bytes: Array  # what the engine has for them


def capacity(engine: Engine, w: Serving, per_replica: Array) -> Room:
    """The most sequences of a replica whose keys and values fit, and bytes with those that run.

    Weights and the activations of the largest iteration stand beside the cache, as engines measure
    before they size it, whatever will be in flight; a prefix that all have in common is in it once.
    """
    server, context, common = server_memory(engine, w), w.isl + w.osl, common_prefix(w)
    held = np.minimum(server.concurrency(context, common), MAX_BATCH)
    most = np.maximum(np.floor(held + 1e-9), 0.0).astype(np.int64)[()]
    running = np.minimum(per_replica, np.maximum(most, 1))
    used, limit = server.used_bytes(context, running, common)
    return Room(most, used, limit)


def cache_tokens(engine: Engine, w: Serving) -> float:
    """Tokens that a replica's cache holds, counted in requests of the workload's longest context: what
    does not grow with it (a recurrent state, a window) is spread over its tokens. 0 where not one fits."""
    common, context = common_prefix(w), w.isl + w.osl
    held = float(server_memory(engine, w).concurrency(context, common))
    block = engine.stack.scheduler.kv_block_tokens
    whole = -(-(context - common) // block) * block  # that a request is given
    return min(held, MAX_BATCH) * whole if held >= 1.0 else 0.0


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
        gather=scheduler.dp_gather_iterations,
        group=budget if pp > 1 else np.inf,
    )
