"""Seconds of one iteration of a serving engine: decodes alone, prompts alone, or both together."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from meshwise.cost.estimate import Estimate, estimate
from meshwise.cost.kernel_fits import kernels
from meshwise.cost.pricing import OpCost, total
from meshwise.spec.cluster import Cluster
from meshwise.spec.layout import Layouts
from meshwise.spec.model import Model
from meshwise.spec.serving import Serving
from meshwise.spec.stack import Stack
from meshwise.spec.workload import Decode, Formats, Prefill

Array = Any


class Engine(NamedTuple):
    """What serves: a model under a software stack, on layouts (arrays broadcast) of a cluster."""

    model: Model
    cluster: Cluster
    stack: Stack
    layouts: Layouts
    formats: Formats = Formats()
    expert_imbalance: float = 1.0

    def decode(self, batch: Array, context: int, queries: int = 1) -> Estimate:
        """``queries`` tokens of each of ``batch`` sequences, priced."""
        work = Decode(
            batch=1,
            context=context,
            formats=self.formats,
            queries=queries,
            expert_imbalance=self.expert_imbalance,
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
        )
        return self._price(work, prompts)

    def _price(self, work: Decode | Prefill, batch: Array) -> Estimate:
        return estimate(
            self.model, self.cluster, work, self.stack, self.layouts, np.asarray(batch)[()]
        )

    def host_s(self, sequences: Array, rows: Array) -> Array:
        """Seconds per iteration outside the model's program: the scheduler and its bookkeeping, and
        the choice of ``rows`` next tokens from their logits."""
        if self.stack.ideal:
            return 0.0
        s, device = self.stack, self.cluster.device
        rate = kernels(device).memory_efficiency * device.memory_bytes_per_s
        choice = s.logit_bytes / rate * self.model.vocab * rows
        return s.iteration_s + s.sequence_s * sequences + choice

    def launched_s(self, e: Estimate, busy: Array) -> Array:
        """Seconds of an iteration that no graph replays: each stage's ``busy`` seconds, or its host's
        launches where they last longer."""
        if self.stack.ideal:
            return e.layout.pp * busy
        launches = e.stage_layers * self.stack.prefill_layer_s
        return e.layout.pp * np.maximum(busy, launches) + self.stack.host_s


def _attention(cost: OpCost) -> bool:
    return cost.op.kind == "attention"


def _per_role(e: Estimate, *, attention: bool) -> list[Array]:
    """Seconds of the attention cores, or of all the rest of the layers, by role of stage."""
    chosen = [[c for c in costs if _attention(c) == attention] for costs in e.layer_costs]
    layers = [total(costs).busy for costs in chosen]
    found = []
    for role in e.program.roles:
        seconds: Array = 0.0
        for kind, count in zip(layers, role.layers, strict=True):
            seconds = seconds + kind * count
        found.append(seconds)
    return found


def draft_s(engine: Engine, w: Serving, batch: Array) -> Array:
    """Seconds to draft the tokens of one verification, one after the other."""
    if w.draft_tokens == 0 or w.draft_cost == "none":
        return 0.0
    e = engine.decode(batch, w.context)
    if w.draft_cost == "layer":
        one: Array = total(e.layer_costs[-1]).busy + total(e.head_costs).busy
        return w.draft_tokens * one
    return w.draft_tokens * float(w.draft_cost) * e.step_s


def decode_s(engine: Engine, batch: Array, context: int, queries: int = 1) -> Array:
    """An iteration of decodes alone, replayed from a CUDA graph."""
    e = engine.decode(batch, context, queries)
    return e.step_s + engine.host_s(batch, batch * queries)


def prefill_s(engine: Engine, prompts: Array, chunk: int, cached: int = 0) -> Array:
    """An iteration of prompts alone: the device's work, or the host's launches where they last
    longer."""
    e = engine.prefill(prompts, chunk, cached)
    return engine.launched_s(e, e.microbatch.busy) + engine.host_s(prompts, prompts)


def mixed_s(
    engine: Engine,
    *,
    batch: Array,
    context: int,
    queries: int,
    prompts: Array,
    chunk: int,
    cached: int = 0,
) -> Array:
    """An iteration of ``batch`` decodes and chunks of ``prompts``.

    Products, passes and collectives work on all tokens at once and read the weights once; each kind
    of attention runs by itself (Agrawal et al., Sarathi-Serve, OSDI 2024, section 4). Not from a
    graph.
    """
    tokens = batch * queries + prompts * chunk
    whole = engine.prefill(tokens, 1)
    decodes = engine.decode(batch, context, queries)
    chunks = engine.prefill(prompts, chunk, cached)
    layers = _per_role(whole, attention=False)
    cores = [_per_role(e, attention=True) for e in (decodes, chunks)]
    embedding, head = total(whole.embedding_costs).busy, total(decodes.head_costs).busy
    busy: Array = 0.0
    for i, role in enumerate(whole.program.roles):
        stage = layers[i] + cores[0][i] + cores[1][i]
        stage = stage + embedding * role.embedding + head * role.head
        busy = np.maximum(busy, stage * role.exists)
    busy = busy + total(whole.transfer_costs).busy
    return engine.launched_s(whole, busy) + engine.host_s(
        batch + prompts, batch * queries + prompts
    )
