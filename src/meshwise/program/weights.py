"""Weights that one rank keeps, and how a model's layers fall to pipeline stages."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.layouts.layout import Layouts
from meshwise.layouts.stages import stage_bounds
from meshwise.models.layers.attention import Attention
from meshwise.models.layers.recurrent import Recurrent
from meshwise.models.parameters import (
    adapter_weights,
    attention_matrices,
    attention_vectors,
    block_weights,
    embedding_weights,
    indexer_matrices,
    latent_weights,
    router_weights,
)
from meshwise.models.shapes import Block, LayerFormats, Mlp, Model, Stored


class LocalWeights(NamedTuple):
    """Numbers of weights on one rank: linear and other dense ones, routed experts' and the ends'."""

    linear: Array  # weights of the split or replicated linear layers (quantisable)
    plain: Array  # norms, biases, routers, tables: always in the wide format
    experts: Array  # routed experts, on the expert grid

    @property
    def dense(self) -> Array:
        return self.linear + self.plain

    @property
    def total(self) -> Array:
        return self.linear + self.plain + self.experts


Matrix = tuple[Stored | None, Array]  # how it is stored, and its weights on one rank


def _mlp(
    m: Mlp, hidden: int, split: Array, up: Stored | None, down: Stored | None
) -> tuple[list[Matrix], Array]:
    ups = 2 if m.gated else 1
    one = hidden * -(-m.width // split)
    biases = ups * -(-m.width // split) * m.up_bias + hidden * m.down_bias
    return [(up, one * ups), (down, one)], biases


def _attention(
    a: Attention, hidden: int, tp: Array, stored: LayerFormats
) -> tuple[list[Matrix], Array]:
    matrices = [*attention_matrices(a, hidden), *indexer_matrices(a, hidden)]
    last = ("output", "output_down")
    found: list[Matrix] = [
        (stored.output if m.role in last else stored.attention, m.local(tp)) for m in matrices
    ]
    return found, sum(v.local(tp) for v in attention_vectors(a, hidden))


def _recurrent(
    r: Recurrent, hidden: int, tp: Array, stored: LayerFormats
) -> tuple[list[Matrix], Array]:
    found: list[Matrix] = [
        (stored.recurrent_output if m.role == "output" else stored.recurrent, m.local(tp))
        for m in r.matrices(hidden)
    ]
    return found, sum(v.local(tp) for v in r.vectors(hidden))


class Matrices(NamedTuple):
    """One rank's weights of a layer by matrix, and those that are none."""

    linear: list[Matrix]
    plain: Array
    experts: list[Matrix]
    expert_biases: Array
    adapters: Array  # of further small products, each layer's own where the others are shared


def layers_held(block: Block, count: Array) -> Array:
    """Sets of weights that a stage keeps of ``count`` layers of a kind: one where they share theirs."""
    return np.minimum(count, 1) if block.shared else count


def block_matrices(block: Block, hidden: int, layout: Layouts) -> Matrices:
    """One layer's weights on one rank, as numbers: heads and widths divided (padded up), KV heads copied
    where TP has more ranks than there are; experts over ep and expert-tp.
    """
    tp, s = layout.tp, block.stored
    linear: list[Matrix] = []
    experts: list[Matrix] = []
    plain: Array = block.norm_parameters
    biases: Array = 0
    if block.attention is not None:
        found, more = _attention(block.attention, hidden, tp, s)
        linear, plain = linear + found, plain + more
    if block.recurrent is not None:
        found, more = _recurrent(block.recurrent, hidden, tp, s)
        linear, plain = linear + found, plain + more
    if block.mlp is not None:
        found, more = _mlp(block.mlp, hidden, tp, s.up, s.down)
        linear, plain = linear + found, plain + more
    if block.moe is not None:
        moe = block.moe
        share = moe.experts / layout.ep
        wide = moe.latent or hidden
        found, more = _mlp(moe.expert, wide, layout.expert_tp(), s.expert_up, s.expert_down)
        experts, biases = [(how, number * share) for how, number in found], more * share
        if moe.vision is not None:
            found, more = _mlp(moe.vision, wide, layout.expert_tp(), s.expert_up, s.expert_down)
            experts += [(how, number * share) for how, number in found]
            biases = biases + more * share
        plain = plain + router_weights(moe, hidden) + hidden * moe.shared_gate
        plain = plain + latent_weights(moe, hidden)
        if moe.shared is not None:
            found, more = _mlp(moe.shared, hidden, tp, s.shared_up, s.shared_down)
            linear, plain = linear + found, plain + more
    return Matrices(linear, plain, experts, biases, adapter_weights(block))


def local_block_weights(block: Block, hidden: int, layout: Layouts) -> LocalWeights:
    """Numbers of one layer's weights on one rank: the matrices of :func:`block_matrices`, summed."""
    m = block_matrices(block, hidden, layout)
    return LocalWeights(
        sum(number for _, number in m.linear),
        m.plain + m.adapters,
        sum(number for _, number in m.experts) + m.expert_biases,
    )


def tied_table(model: Model, rows: Array) -> Array:
    """Number of weights of one rank's ``rows`` of the table that embedding and head have in common (0 where
    they have none).
    """
    return rows * (model.embedding_dim or model.hidden) * int(model.tied)


def end_weights(model: Model, layout: Layouts, rows: Array) -> tuple[Array, Array]:
    """Numbers of (embedding, head) weights of one rank that holds ``rows`` of the (padded) vocabulary."""
    width = model.embedding_dim or model.hidden
    project = width * model.hidden if model.embedding_dim else 0
    embed = rows * width + embedding_weights(model).replicated
    if model.layer_embedding:  # a table of its own, its rows divided as the vocabulary's
        embed = embed + -(-model.layer_embedding_rows * rows // model.vocab) * (
            model.layers * model.layer_embedding
        )
    head = rows * (width + model.head_bias) + model.final_norm_parameters + project
    # A tied head shares the table where both ends are on one stage; else it keeps a copy.
    tied_here = np.where(layout.pp == 1, tied_table(model, rows), 0)
    return embed, head - tied_here


class Role(NamedTuple):
    """A kind of pipeline stage: layers of each kind, and whether it has the ends (0 or 1)."""

    name: str
    layers: tuple[Array, ...]
    embedding: Array
    head: Array
    exists: Array
    in_flight: Array  # microbatches whose activations the stage keeps under 1F1B


def _balanced(model: Model, weight: list[int], pp: int) -> tuple[int, ...]:
    """As :func:`stage_bounds`, where layers and head are dealt out in order by the weights that they
    multiply with: a stage is full when it passes its share of the whole (as nanotron deals)."""
    costs = [weight[i] for i in model.pattern]
    mean = (sum(costs) + model.vocab * model.hidden) / pp
    bounds, stage, load = [0], 0, 0.0
    for index, cost in enumerate(costs):
        load += cost
        if load > mean * (stage + 1) and stage < pp - 1:
            bounds.append(index + 1)
            stage += 1
    return (*bounds, *[model.layers] * (pp + 1 - len(bounds)))


def _role_counts(model: Model, pp: int, balance: str) -> tuple[tuple[int, ...], ...]:
    """Layers of each kind on the first, the heaviest middle, and the last stage."""
    weight = [block_weights(block, model.hidden, active=True).total for block in model.blocks]
    by_cost = balance == "cost" and pp > 1
    bounds = _balanced(model, weight, pp) if by_cost else stage_bounds(model.layers, pp)
    several = len(model.blocks) > 1

    def load(stage: int) -> int:
        if not several:
            return bounds[stage + 1] - bounds[stage]
        return sum(weight[i] for i in model.pattern[bounds[stage] : bounds[stage + 1]])

    heaviest = max(range(1, pp - 1), key=load, default=0)
    counts = []
    for stage in (0, heaviest, pp - 1):
        layers = model.pattern[bounds[stage] : bounds[stage + 1]]
        counts.append(tuple(layers.count(i) for i in range(len(model.blocks))))
    return tuple(counts)


def roles(model: Model, layout: Layouts, balance: str = "layers") -> tuple[Role, ...]:
    """First, middle and last stage; with one stage the first has both ends."""
    pps = np.asarray(layout.pp)
    # a set, not np.unique: that one loads numpy.ma, a tenth of the whole answer's time
    known = sorted(set(pps.ravel().tolist()))
    # [role, kind of layer, pp]
    table = np.array([_role_counts(model, pp, balance) for pp in known]).transpose(1, 2, 0)
    place = np.searchsorted(known, pps)
    built = []
    for index, name in enumerate(("first", "middle", "last")):
        layers = tuple(counts[place] for counts in table[index])
        one = pps == 1
        built.append(
            Role(
                name,
                layers,
                embedding=np.where(one, 1, int(name == "first"))[()],
                head=np.where(one, 1, int(name == "last"))[()],
                exists=np.asarray(pps >= 3 if name == "middle" else pps >= 1)[()],
                in_flight={"first": pps, "middle": np.maximum(pps - 1, 1), "last": pps * 0 + 1}[
                    name
                ][()],
            )
        )
    return tuple(built)
