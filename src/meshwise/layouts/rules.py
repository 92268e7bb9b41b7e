"""What makes a layout legal, beside its TP degree: each rule once, for one layout and for millions.

A rule is a mask over :class:`Layouts` (0-d arrays, or columns of a planner's table). The planner counts
what a mask leaves out under the rule's code; :mod:`meshwise.layouts.grid` has the sentence of each code for
a layout that a user wrote down. TP degrees alone are :mod:`meshwise.layouts.tp_degrees`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.axes import RECOMPUTE_CODE, SHARD_CODE
from meshwise.layouts import tp_degrees as legality
from meshwise.layouts.layout import Layouts
from meshwise.models.shapes import Model
from meshwise.stacks.schedules import SCHEDULES, USUAL
from meshwise.stacks.stack import Stack, stated
from meshwise.workloads.workload import Decode, Workload


class Case(NamedTuple):
    """Layouts, and all that their legality depends on. ``batch``: training, the global batch; else the
    sequences of a replica. ``tokens``: of a sequence that a step works on."""

    model: Model
    stack: Stack
    phase: str
    batch: Any
    tokens: int
    layout: Layouts
    requests: int | None = None  # serving: in flight over all replicas

    @property
    def trains(self) -> bool:
        return self.phase == "train"

    @property
    def expert_ranks(self) -> Array:
        """Ranks over which a stage's experts may be spread."""
        return self.layout.tp * self.layout.cp * self.layout.dp

    @property
    def microbatches(self) -> Array:
        return self.batch // (self.layout.micro_batch * self.layout.dp)


def of(
    model: Model, stack: Stack, workload: Workload, layout: Layouts, requests: int | None = None
) -> Case:
    """Layouts of a workload."""
    tokens = workload.queries if isinstance(workload, Decode) else workload.seq
    return Case(model, stack, workload.phase, workload.batch, tokens, layout, requests)


def splits(model: Model, stack: Stack, workload: Workload, tp: Array) -> Array:
    """Whether sequence parallelism can split a step's tokens over ``tp`` ranks."""
    layout = Layouts(tp=np.asarray(tp), sequence_parallel=np.bool_(True))
    return sequence_parallel(of(model, stack, workload, layout))


def experts(model: Model) -> int:
    """What ep must divide: the common divisor of the layers' numbers of experts; 0 without any."""
    return int(np.gcd.reduce([b.moe.experts for b in model.blocks if b.moe is not None] or [0]))


def key_copies(model: Model, tp: int) -> int:
    """Ranks of a TP group that hold the same keys and values, of all layers: what decode context
    parallelism can divide. MLA's latent is on every rank."""
    attentions = [b.attention for b in model.blocks if b.attention is not None]
    copies = [tp if a.mla else max(1, tp // a.kv_heads) for a in attentions]
    return int(np.gcd.reduce(copies)) if copies else 1


def chunks(layers: int, pp: Array, vp: Array) -> Array:
    """Stages have a layer at least. With virtual stages the pp · vp chunks are of equal size, embedding
    and loss taking a layer's place where that makes them so (Megatron-LM's account-for-embedding and
    account-for-loss splits; the zero-bubble paper's 22 layers in 24 chunks)."""
    parts = pp * vp
    equal = (layers % parts == 0) | ((layers + 1) % parts == 0) | ((layers + 2) % parts == 0)
    return (pp <= layers) & ((vp == 1) | ((pp > 1) & equal))


def layers(c: Case) -> Array:
    return chunks(c.model.layers, c.layout.pp, c.layout.vp)


def sequence(c: Case) -> Array:
    """Context parallelism divides a sequence; a decode step has one token of each."""
    return c.tokens % c.layout.cp == 0 if c.phase != "decode" else c.layout.cp == 1


def batch(c: Case) -> Array:
    """Replicas share the batch evenly, and each cuts its share into whole microbatches."""
    if not c.trains:
        return np.bool_(True)
    return c.batch % c.layout.dp == 0


def micro_batch(c: Case) -> Array:
    if not c.trains:
        return np.bool_(True)
    return (c.batch // c.layout.dp) % c.layout.micro_batch == 0


def replicas(c: Case) -> Array:
    """A replica without a request in flight serves nobody."""
    return np.bool_(True) if c.requests is None else c.layout.dp <= c.requests


def expert_grid(c: Case) -> Array:
    """ep divides the experts, etp the TP ranks (serving: those of all replicas), and ep · etp the ranks
    of a stage. Without experts there is nothing to spread."""
    n, lay = experts(c.model), c.layout
    if not n:
        return (lay.ep == 1) & ((lay.etp <= 1) | (lay.etp == lay.tp))
    etp = lay.expert_tp()
    widest = lay.tp if c.trains else c.expert_ranks
    return (n % lay.ep == 0) & (widest % etp == 0) & (c.expert_ranks % (lay.ep * etp) == 0)


def expert_groups(c: Case) -> Array:
    """Shards of a routed expert hold whole quantisation groups and blocks, by its own degree."""
    if c.model.quantization is None:
        return np.bool_(True)
    degrees, place = np.unique(c.layout.expert_tp(), return_inverse=True)
    found = (legality.refusals(c.model, 1, c.stack, int(n)) for n in degrees)
    good = np.array([all(f.code != "quantization" for f in each) for each in found])
    return good[place].reshape(np.shape(c.layout.expert_tp()))


def interleaving(c: Case) -> Array:
    """Virtual stages are a schedule of training: 1F1B's, with microbatches in rounds of pp."""
    lay = c.layout
    if not c.trains or not SCHEDULES[c.stack.pipeline.schedule].interleaves:
        return lay.vp == 1
    return (lay.vp == 1) | (c.microbatches % lay.pp == 0)


def sequence_parallel(c: Case) -> Array:
    """tp divides the tokens that it splits: those of a sequence, in decode those of the step."""
    lay = c.layout
    tokens = c.batch * c.tokens if c.phase == "decode" else c.tokens // lay.cp
    return ~np.asarray(lay.sequence_parallel) | (tokens % lay.tp == 0)


def dcp(c: Case) -> Array:
    """Only ranks that hold the same keys and values can divide their context among them."""
    lay = c.layout
    if c.trains:
        return lay.dcp == 1
    tps = np.asarray(lay.tp)
    known = {int(tp): key_copies(c.model, int(tp)) for tp in np.unique(tps)}
    copies = np.array([known[int(tp)] for tp in tps.ravel()], dtype=np.int64).reshape(tps.shape)
    return copies % lay.dcp == 0


def hides_experts(stack: Stack, layout: Layouts) -> Array:
    """Where a stack that runs the exchange of tokens beside another microbatch's compute can do so:
    between the two passes of 1F1B, which recomputation of whole layers or experts would mix, and beside pipeline stages of
    interleaved ones (Megatron-Core, transformer_config.py: overlap_moe_expert_parallel_comm)."""
    if not stack.overlaps.overlap_experts or stack.ideal or stack.pipeline.schedule != USUAL:
        return np.bool_(False)
    return exchange_pairs(layout, stack.memory.recompute_modules)


def exchange_pairs(layout: Layouts, modules: tuple[str, ...]) -> Array:
    """Layouts in which a microbatch's exchange of tokens can run beside another one's compute: nothing
    does it again in backward."""
    staged = (layout.pp == 1) | (layout.vp > 1)
    once = layout.recompute != RECOMPUTE_CODE["full"]
    if "moe" in modules:
        once = once & (layout.recompute != RECOMPUTE_CODE["selective"])
    return (layout.ep > 1) & once & staged


def microbatch_tokens(c: Case) -> Array:
    """Tokens of a microbatch on a rank."""
    return c.layout.micro_batch * c.tokens // c.layout.cp


def loss_chunks(c: Case) -> Array:
    """The loss is taken on a token at a time at least."""
    if not c.trains or not stated(c.stack, "loss_chunks"):
        return np.bool_(True)
    return c.stack.kernels.loss_chunks <= microbatch_tokens(c)


def exchange(c: Case) -> Array:
    """Experts that are on every rank exchange no tokens, which nothing can hide. (Layouts that exchange
    them and cannot hide it are priced without: :func:`hides_experts`.)"""
    asked = c.trains and c.stack.overlaps.overlap_experts and not c.stack.ideal
    return (c.layout.ep > 1) if asked else np.bool_(True)


def shards(c: Case) -> Array:
    """Gradients, and with them optimizer and weights, are sharded in training only."""
    return np.bool_(True) if c.trains else np.asarray(c.layout.shard) == 0


def unsplit_experts(c: Case) -> Array:
    """Not every software trains experts beside TP ranks that all have every token: there sequence
    parallelism is needed."""
    if not needs_split(c.model, c.stack, c.phase):
        return np.bool_(True)
    return (c.layout.tp == 1) | np.asarray(c.layout.sequence_parallel)


def needs_split(model: Model, stack: Stack, phase: str) -> bool:
    """Whether TP ranks above 1 need sequence parallelism."""
    return phase == "train" and not stack.can.unsplit_experts and experts(model) > 0


# (the stack's switch, the axis, which layouts use it)
ABILITIES: tuple[tuple[str, str, Callable[[Case], Array]], ...] = (
    ("pipelines", "pp", lambda c: c.layout.pp > 1),
    ("virtual_stages", "vp", lambda c: c.layout.vp > 1),
    ("context_parallel", "cp", lambda c: c.layout.cp > 1),
    ("expert_parallel", "ep", lambda c: c.layout.ep > 1),
    ("decode_context", "dcp", lambda c: c.layout.dcp > 1),
    (
        "attention_dp",
        "dp",
        lambda c: (
            np.bool_(not c.trains and experts(c.model) > 0)
            & (c.layout.dp > 1)
            & (c.layout.ep * c.layout.expert_tp() > c.layout.tp)
        ),
    ),
)


def stages(names: tuple[str, ...]) -> list[int]:
    """Codes of sharding stages."""
    return [SHARD_CODE[name] for name in names]


def sharding(stack: Stack, shard: Array, pp: Array) -> Array:
    """What the stack shards, and beside pipelines."""
    able = np.isin(shard, stages(stack.can.shards))
    return able & ((pp == 1) | np.isin(shard, stages(stack.can.pipelined_shards)))


def stack(c: Case) -> Array:
    """What the software can run."""
    good = sharding(c.stack, c.layout.shard, c.layout.pp)
    for switch, _, used in ABILITIES:
        if not getattr(c.stack.can, switch):
            good = good & ~used(c)
    return good


# in the order in which a layout that someone wrote is looked at
RULES: dict[str, Callable[[Case], Array]] = {
    "layers": layers,
    "sequence": sequence,
    "shards": shards,
    "batch": batch,
    "micro_batch": micro_batch,
    "loss_chunks": loss_chunks,
    "replicas": replicas,
    "experts": expert_grid,
    "exchange": exchange,
    "interleaving": interleaving,
    "sequence_parallel": sequence_parallel,
    "unsplit_experts": unsplit_experts,
    "dcp": dcp,
    "stack": stack,
}


def broken(c: Case) -> list[str]:
    """Codes of the rules that one layout breaks."""
    return [code for code, rule in RULES.items() if not bool(np.all(rule(c)))]
