"""What legality depends on: layouts with their model, software, work and cluster; and the counts that
several rules share."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.axes import RECOMPUTE_CODE
from meshwise.clusters.cluster import Cluster
from meshwise.layouts.layout import Layouts
from meshwise.models.shapes import Model
from meshwise.stacks.schedules import USUAL
from meshwise.stacks.stack import Stack
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
    cluster: Cluster | None = None

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

    @property
    def divided_tokens(self) -> Array:
        """Tokens that sequence parallelism splits over tp: of a sequence, in decode of the step."""
        if self.phase == "decode":
            return self.batch * self.tokens
        return self.tokens // self.layout.cp

    @property
    def microbatch_tokens(self) -> Array:
        """Tokens of a microbatch on a rank."""
        return self.layout.micro_batch * self.tokens // self.layout.cp


def case_of(
    model: Model,
    stack: Stack,
    workload: Workload,
    layout: Layouts,
    requests: int | None = None,
    cluster: Cluster | None = None,
) -> Case:
    """Layouts of a workload."""
    tokens = workload.queries if isinstance(workload, Decode) else workload.seq
    return Case(model, stack, workload.phase, workload.batch, tokens, layout, requests, cluster)


def expert_count(model: Model) -> int:
    """What ep must divide: the common divisor of the layers' numbers of experts; 0 without any."""
    return int(np.gcd.reduce([b.moe.experts for b in model.blocks if b.moe is not None] or [0]))


def key_copies(model: Model, tp: int) -> int:
    """Ranks of a TP group that hold the same keys and values, of all layers: what decode context
    parallelism can divide. MLA's latent is on every rank."""
    attentions = [b.attention for b in model.blocks if b.attention is not None]
    copies = [tp if a.mla else max(1, tp // a.kv_heads) for a in attentions]
    return int(np.gcd.reduce(copies)) if copies else 1


def cuts_evenly(layers: int, pp: Array, vp: Array) -> Array:
    """Stages have a layer at least. With virtual stages the pp · vp chunks are of equal size, embedding
    and loss taking a layer's place where that makes them so (Megatron-LM's account-for-embedding and
    account-for-loss splits; the zero-bubble paper's 22 layers in 24 chunks)."""
    parts = pp * vp
    equal = (layers % parts == 0) | ((layers + 1) % parts == 0) | ((layers + 2) % parts == 0)
    return (pp <= layers) & ((vp == 1) | ((pp > 1) & equal))


def needs_split(model: Model, stack: Stack, phase: str) -> bool:
    """Whether TP ranks above 1 need sequence parallelism."""
    return phase == "train" and not stack.can.unsplit_experts and expert_count(model) > 0


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
