"""Rules that the workload imposes: batch, sequence, requests in flight, and what its phase has."""

from __future__ import annotations

import numpy as np

from meshwise.arrays import Array
from meshwise.layouts.layout import Layout
from meshwise.layouts.rules.case import Case
from meshwise.layouts.rules.rule import SERVES, TRAINS, Refusal, Rule, among, divisors


def _cuts_sequence(c: Case) -> Array:
    """Context parallelism divides a sequence; a decode step has one token of each."""
    return c.layout.cp == 1 if c.phase == "decode" else c.tokens % c.layout.cp == 0


def _sequence(layout: Layout, c: Case) -> Refusal:
    cp = layout.cp
    if c.phase == "decode":
        return Refusal("cp", cp, "decode has one token per sequence: nothing to divide", "1", 1)
    legal = [d for d in divisors(cp * 4) if c.tokens % d == 0]
    return among("cp", cp, f"does not divide the sequence of {c.tokens} tokens", legal)


def _unsharded(c: Case) -> Array:
    """Gradients, and with them optimizer and weights, are sharded in training only."""
    return np.asarray(c.layout.shard) == 0


def _shards(layout: Layout, c: Case) -> Refusal:
    return Refusal("shard", layout.shard, f"{c.phase} has no gradients to shard", "none", "none")


def _shares_batch(c: Case) -> Array:
    """Replicas share the batch evenly."""
    return c.batch % c.layout.dp == 0


def _batch(layout: Layout, c: Case) -> Refusal:
    legal = [d for d in divisors(c.batch) if d <= 4 * layout.dp]
    return among("dp", layout.dp, f"does not divide the global batch of {c.batch}", legal)


def _cuts_share(c: Case) -> Array:
    """Each replica cuts its share into whole microbatches."""
    return (c.batch // c.layout.dp) % c.layout.micro_batch == 0


def _micro_batch(layout: Layout, c: Case) -> Refusal:
    mine = max(1, c.batch // layout.dp)
    why = f"does not divide the {mine} sequences of a replica"
    return among("micro_batch", int(c.layout.micro_batch), why, divisors(mine))


def _busy(c: Case) -> Array:
    """A replica without a request in flight serves nobody."""
    return np.bool_(True) if c.requests is None else c.layout.dp <= c.requests


def _replicas(layout: Layout, c: Case) -> Refusal:
    why = f"more replicas than the {c.requests} requests in flight"
    return Refusal("dp", layout.dp, why, f"1 to {c.requests}", c.requests)


def _splits_tokens(c: Case) -> Array:
    """tp divides the tokens that it splits."""
    off = ~np.asarray(c.layout.sequence_parallel)
    return off | (c.divided_tokens % c.layout.tp == 0)


def _sequence_parallel(layout: Layout, c: Case) -> Refusal:
    decode, tokens = c.phase == "decode", int(c.divided_tokens)
    why = f"tp does not divide the {tokens} tokens of a {'step' if decode else 'rank'}"
    legal = f"a {'`batch`' if decode else '`seq`'} that tp divides, or no `sequence_parallel`"
    return Refusal("sequence_parallel", layout.tp, why, legal)


SEQUENCE = Rule("workload", _cuts_sequence, _sequence, pins=("cp",))
SHARDS = Rule("workload", _unsharded, _shards, SERVES)
BATCH = Rule("workload", _shares_batch, _batch, TRAINS, pins=("dp",))
MICRO_BATCH = Rule("workload", _cuts_share, _micro_batch, TRAINS, pins=("micro_batch",))
REPLICAS = Rule("workload", _busy, _replicas, SERVES, pins=("dp",))
SEQUENCE_PARALLEL = Rule("workload", _splits_tokens, _sequence_parallel)
