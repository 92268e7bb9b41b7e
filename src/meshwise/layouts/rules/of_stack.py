"""Rules that the software imposes: what it can run, and what its switches need."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from meshwise.arrays import Array
from meshwise.axes import SHARD_CODE
from meshwise.layouts.layout import Layout
from meshwise.layouts.rules.case import Case, expert_count, needs_split
from meshwise.layouts.rules.rule import TRAINING_PHASES, Refusal, Rule, degree_refusal, divisors
from meshwise.stacks.schedules import SCHEDULES
from meshwise.stacks.stack import Stack, stated

# (the stack's switch, the axis, what it is, which layouts use it)
ABILITIES: tuple[tuple[str, str, str, Callable[[Case], Array]], ...] = (
    ("pipelines", "pp", "pipeline stages", lambda c: c.layout.pp > 1),
    ("virtual_stages", "vp", "interleaved virtual stages", lambda c: c.layout.vp > 1),
    ("context_parallel", "cp", "context parallelism", lambda c: c.layout.cp > 1),
    ("expert_parallel", "ep", "expert parallelism", lambda c: c.layout.ep > 1),
    ("decode_context", "dcp", "decode context parallelism", lambda c: c.layout.dcp > 1),
    ("attention_dp", "dp", "experts over the ranks of several replicas", lambda c: _joins(c)),
    (
        "attention_dp_beside_tp",
        "tp",
        "tensor parallelism in replicas of attention that share their experts",
        lambda c: _joins(c) & (c.layout.tp > 1),
    ),
)


def _joins(c: Case) -> Array:
    """Serving layouts whose experts lie over several replicas of attention."""
    if c.trains or not expert_count(c.model):
        return np.bool_(False)
    return (c.layout.dp > 1) & (c.layout.ep * c.layout.expert_tp() > c.layout.tp)


def sharding(stack: Stack, shard: Array, pp: Array) -> Array:
    """What the stack shards, and beside pipelines."""
    able = np.isin(shard, _codes(stack.can.shards))
    return able & ((pp == 1) | np.isin(shard, _codes(stack.can.pipelined_shards)))


def _codes(names: Sequence[str]) -> list[int]:
    return [SHARD_CODE[name] for name in names]


def _spreads(c: Case) -> Array:
    """Whether the experts lie on the ranks of a group as the engine puts them there."""
    grid, lay = c.stack.can.expert_grid, c.layout
    if grid == "any" or c.trains or not expert_count(c.model):
        return np.bool_(True)
    etp = lay.expert_tp()
    used = lay.ep * etp
    group = lay.tp * lay.cp  # a replica's; with attention data parallelism that of all
    good = (used == lay.tp) | (used == group) | (used == group * lay.dp)
    return good & ((lay.ep == 1) | (etp == 1)) if grid == "one" else good


def _can_run(c: Case) -> Array:
    return _is_able(c) & _spreads(c)


def _is_able(c: Case) -> Array:
    """The part that each axis decides alone."""
    good = sharding(c.stack, c.layout.shard, c.layout.pp)
    for switch, _, _, used in ABILITIES:
        if not getattr(c.stack.can, switch):
            good = good & ~used(c)
    return good


def _stack(layout: Layout, c: Case) -> Refusal:
    name, shards = c.stack.title or c.stack.name, c.stack.can.shards
    if layout.shard not in shards:
        why = f"{name} shards {_either(shards)} only"
        return Refusal("shard", layout.shard, why, list(shards), shards[-1])
    piped = [s for s in shards if s in c.stack.can.pipelined_shards]
    if layout.pp > 1 and layout.shard not in piped:
        why = f"beside pipelines {name} shards {_either(piped)} only"
        return Refusal("shard", layout.shard, why, piped, piped[-1])
    for switch, axis, what, used in ABILITIES:
        if not getattr(c.stack.can, switch) and bool(used(c)):
            return Refusal(axis, getattr(layout, axis), f"{name} has no {what}", "1", 1)
    return _grid(layout, c)


def _grid(layout: Layout, c: Case) -> Refusal:
    name, one = c.stack.title or c.stack.name, layout.tp * layout.cp
    whole = one * layout.dp
    sizes = list(dict.fromkeys((layout.tp, one, whole)))
    ranks = _either([str(size) for size in sizes]) + (" ranks" if whole > 1 else " rank")
    ep, etp, n = layout.ep, layout.expert_tp, expert_count(c.model)
    group = c.stack.can.expert_grid == "group"
    if not group:
        how = f"experts whole, over all of a group's {ranks}, or splits each over all of them"
        why = f"{name} keeps {how}"
        fitting = [1] if ep > 1 else sizes
    else:
        why = f"{name} spreads experts over all of a group's {ranks}, not ep {ep} · etp {etp}"
        fitting = [size // ep for size in sizes if size % ep == 0]
    if layout.etp is not None and fitting and (group or ep == 1 or ep in sizes):
        return degree_refusal("etp", etp, why, fitting)
    legal = [1, *(size for size in sizes if size > 1 and n % size == 0)]
    if group:
        legal = [d for d in divisors(whole) if n % d == 0 and d * max(1, layout.tp // d) in sizes]
    return degree_refusal("ep", ep, why, legal)


def _either(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def _interleaves(c: Case) -> Array:
    """Virtual stages are a schedule of training: 1F1B's, with microbatches in rounds of pp."""
    lay = c.layout
    if not c.trains or not SCHEDULES[c.stack.pipeline.schedule].interleaves:
        return lay.vp == 1
    return (lay.vp == 1) | (c.microbatches % lay.pp == 0)


def _interleaving(layout: Layout, c: Case) -> Refusal:
    vp = layout.vp
    if not c.trains:
        return Refusal("vp", vp, f"{c.phase} has no virtual stages", "1", 1)
    if not SCHEDULES[c.stack.pipeline.schedule].interleaves:
        return Refusal(
            "vp", vp, f"the {c.stack.pipeline.schedule} schedule is not interleaved", "1", 1
        )
    why = f"{int(c.microbatches)} microbatches of a replica are no multiple of pp {layout.pp}"
    return Refusal("vp", vp, why, "1, or a batch of more microbatches", 1)


def _splits_beside_experts(c: Case) -> Array:
    """Not every software trains experts beside TP ranks that all have every token: there sequence
    parallelism is needed."""
    if not needs_split(c.model, c.stack, c.phase):
        return np.bool_(True)
    return (c.layout.tp == 1) | np.asarray(c.layout.sequence_parallel)


def _unsplit_experts(layout: Layout, c: Case) -> Refusal:
    name = c.stack.title or c.stack.name
    why = f"{name} trains experts beside tp {layout.tp} with sequence parallelism only"
    legal = "`sequence_parallel=True`, or tp 1"
    return Refusal("sequence_parallel", "false", why, legal, "true")


def _has_tokens(c: Case) -> Array:
    """The loss is taken on a token at a time at least."""
    if not stated(c.stack, "loss_chunks"):
        return np.bool_(True)
    return c.stack.kernels.loss_chunks <= c.microbatch_tokens


def _loss_chunks(layout: Layout, c: Case) -> Refusal:
    tokens = int(c.microbatch_tokens)
    why = f"more parts than the {tokens} tokens of a microbatch"
    return Refusal("loss_chunks", c.stack.kernels.loss_chunks, why, f"1 to {tokens}", tokens)


def _exchanges(c: Case) -> Array:
    """Experts that are on every rank exchange no tokens, which nothing can hide. (Layouts that exchange
    them and cannot hide it are priced without: :func:`~meshwise.layouts.rules.case.hides_experts`.)"""
    asked = c.stack.overlaps.overlap_experts and not c.stack.ideal
    return (c.layout.ep > 1) if asked else np.bool_(True)


def _exchange(layout: Layout, c: Case) -> Refusal:
    why = "with ep 1 there is no exchange of tokens"
    legal = "ep > 1, or `overlap_experts=False`"
    return Refusal("overlap_experts", "true", why, legal, "false")


STACK = Rule(
    *("stack", _can_run, _stack),
    pins=("pp", "vp", "cp", "ep", "dcp", "shard"),
    pinned=_is_able,
    holds_for_runs=False,
)
INTERLEAVING = Rule("stack", _interleaves, _interleaving, pins=("vp",))
UNSPLIT_EXPERTS = Rule(
    "stack", _splits_beside_experts, _unsplit_experts, TRAINING_PHASES, holds_for_runs=False
)
LOSS_CHUNKS = Rule("stack", _has_tokens, _loss_chunks, TRAINING_PHASES)
EXCHANGE = Rule("stack", _exchanges, _exchange, TRAINING_PHASES)
