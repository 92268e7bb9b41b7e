"""Exact parameter counts, part by part, from the shapes of a :class:`~meshwise.models.shapes.Model`.

Each part is a pair (split, replicated): weights that tensor parallelism divides among its ranks,
and weights that every rank keeps whole (norms, row-parallel biases, routers, MLA's latents).
Counts are numbers of weights; tied weights count once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from meshwise.models.layers.attention import Attention
from meshwise.models.layers.projections import Projection, Vector
from meshwise.models.layers.recurrent import Recurrent
from meshwise.models.shapes import Block, Mlp, Model, Moe


class Weights(NamedTuple):
    """Numbers of weights: divided by tensor parallelism, and kept whole on every rank."""

    split: int = 0
    replicated: int = 0

    @property
    def total(self) -> int:
        return self.split + self.replicated

    def plus(self, other: Weights) -> Weights:
        return Weights(self.split + other.split, self.replicated + other.replicated)

    def times(self, count: int) -> Weights:
        return Weights(self.split * count, self.replicated * count)


def attention_matrices(a: Attention, hidden: int) -> list[Projection]:
    """The attention's projections in a layer of width ``hidden``; not those of its indexer."""
    q_width = a.heads * a.head_dim * (2 if a.output_gate else 1)
    width = a.input_width or hidden
    return [
        *_query(a, width, q_width),
        *_keys_and_values(a, width),
        *_gates(a, width),
        *_output(a, hidden),
    ]


def _gates(a: Attention, width: int) -> list[Projection]:
    """Gates of the output that are projections of their own."""
    made = (("head_gate", a.head_gate, 1), ("value_gate", a.value_gate, a.value_head_dim))
    return [
        Projection(role, width, a.heads * each, "column", a.heads)
        for role, there, each in made
        if there
    ]


def _query(a: Attention, width: int, q_width: int) -> list[Projection]:
    if a.q_lora_rank is None:
        return [Projection("query", width, q_width, "column", a.heads)]
    return [
        Projection("query_down", width, a.q_lora_rank, "none"),
        Projection("query_up", a.q_lora_rank, q_width, "column", a.heads),
    ]


def _keys_and_values(a: Attention, width: int) -> list[Projection]:
    if a.shared_kv:
        return []
    if a.kv_lora_rank is not None:
        nope = a.head_dim - a.rope_head_dim
        up = a.heads * (nope + a.value_head_dim)
        return [
            Projection("kv_down", width, a.kv_lora_rank + a.rope_head_dim, "none"),
            Projection("kv_up", a.kv_lora_rank, up, "column", a.heads),
        ]
    found = [Projection("key", width, a.kv_heads * a.head_dim, "column", a.kv_heads)]
    if a.value_projection and not a.one_cache:
        found.append(
            Projection("value", width, a.kv_heads * a.value_head_dim, "column", a.kv_heads)
        )
    return found


def _output(a: Attention, hidden: int) -> list[Projection]:
    made = a.heads * a.value_head_dim
    if a.output_rank is None:
        return [Projection("output", made, hidden, "row", a.heads)]
    # each group of heads through its own product: as one matrix, a group's features wide
    groups, rank = a.output_groups, a.output_rank
    return [
        Projection("output_down", made // groups, groups * rank, "column", groups),
        Projection("output", groups * rank, hidden, "row", groups),
    ]


def indexer_matrices(a: Attention, hidden: int) -> list[Projection]:
    """Projections beside those of the heads: what compresses keys; the indexer's queries, the one key of a
    position, and a weight per head."""
    i, found = a.indexer, []
    if a.compressor_features:
        found.append(Projection("compressor", hidden, a.compressor_features, "none"))
    if i is None or not i.own:
        return found
    how = "none" if i.weighted else "column"
    return [
        *found,
        Projection("indexer_query", i.rank or hidden, i.heads * i.head_dim, how, i.heads),
        Projection("indexer_key", hidden, i.key_features or i.head_dim, "none"),
        *([Projection("indexer_weight", hidden, i.heads, "none")] if i.weighted else []),
    ]


def attention_vectors(a: Attention, hidden: int) -> list[Vector]:
    """Weights of the attention that are no projection: biases, norms, sinks, its indexer's."""
    latent = (a.q_lora_rank or 0) + (a.kv_lora_rank or 0) + a.rope_head_dim if a.mla else 0
    kv = not a.shared_kv
    return [
        Vector(a.heads * a.head_dim * a.query_bias * (2 if a.output_gate else 1), a.heads),
        Vector(a.kv_heads * a.head_dim * a.key_bias * kv, a.kv_heads),
        Vector(a.kv_heads * a.value_head_dim * a.value_bias * kv, a.kv_heads),
        Vector(a.heads * a.sinks, a.heads),
        Vector(latent * a.latent_bias),
        Vector(hidden * a.output_bias),
        Vector(a.norm_parameters + a.compressor_parameters),
        Vector(a.indexer.extra_parameters if a.indexer and a.indexer.own else 0),
    ]


def summed(matrices: Iterable[Projection], vectors: Iterable[Vector]) -> Weights:
    """Weights of projections and vectors, by whether TP divides them."""
    split = replicated = 0
    for m in matrices:
        split, replicated = (
            (split, replicated + m.weights) if m.how == "none" else (split + m.weights, replicated)
        )
    for v in vectors:
        split, replicated = (
            (split + v.size, replicated) if v.heads else (split, replicated + v.size)
        )
    return Weights(split, replicated)


def attention_weights(a: Attention, hidden: int) -> Weights:
    matrices = [*attention_matrices(a, hidden), *indexer_matrices(a, hidden)]
    return summed(matrices, attention_vectors(a, hidden))


def recurrent_weights(r: Recurrent, hidden: int) -> Weights:
    return summed(r.matrices(hidden), r.vectors(hidden))


def mlp_weights(m: Mlp, hidden: int) -> Weights:
    ups = 2 if m.gated else 1
    return Weights(
        hidden * m.width * (ups + 1) + ups * m.width * m.up_bias,
        hidden * m.down_bias,
    )


def moe_weights(m: Moe, hidden: int, experts: int | None = None) -> Weights:
    """Router, shared experts and ``experts`` routed experts (default: all of them)."""
    n = m.experts if experts is None else experts
    # A row-parallel bias is kept whole by every rank, one per expert.
    weights = mlp_weights(m.expert, m.latent or hidden).times(n)
    if m.vision is not None and experts is None:  # tokens of a text visit none of them
        weights = weights.plus(mlp_weights(m.vision, hidden).times(n))
    weights = weights.plus(Weights(0, router_weights(m, hidden)))
    if m.latent is not None:
        weights = weights.plus(Weights(0, latent_weights(m, hidden)))
    if m.shared is not None:
        weights = weights.plus(mlp_weights(m.shared, hidden))
    return weights.plus(Weights(0, hidden * m.shared_gate))


def router_weights(m: Moe, hidden: int) -> int:
    """Weights of the router (of both, where images' tokens have their own), on every rank."""
    one = (m.experts + m.zero_experts) * (hidden + m.router_bias) + m.router_parameters
    return one * (1 if m.vision is None else 2)


def latent_weights(m: Moe, hidden: int) -> int:
    """Weights of the projections into the experts' width and back, on every rank."""
    if m.latent is None:
        return 0
    return 2 * hidden * m.latent + (hidden + m.latent) * m.latent_bias


def adapter_weights(part: Block | Model) -> int:
    """Weights of the further small products of a layer, or of the model's ends."""
    return sum(a.inputs * a.outputs + a.parameters for a in part.adapters)


def block_weights(block: Block, hidden: int, active: bool = False) -> Weights:
    """One layer; ``active`` leaves out the routed experts that a token does not visit."""
    weights = Weights(0, block.norm_parameters + adapter_weights(block))
    if block.attention is not None:
        weights = weights.plus(attention_weights(block.attention, hidden))
    if block.recurrent is not None:
        weights = weights.plus(recurrent_weights(block.recurrent, hidden))
    if block.mlp is not None:
        weights = weights.plus(mlp_weights(block.mlp, hidden))
    if block.moe is not None:
        weights = weights.plus(moe_weights(block.moe, hidden, block.moe.top_k if active else None))
    return weights


def embedding_weights(model: Model) -> Weights:
    """Token table, learned positions, embedding norm, OPT-350m's input projection, Gemma 3n's table of
    embeddings per layer with the product that adds the token's own, and what else the ends multiply."""
    width = model.embedding_dim or model.hidden
    project = width * model.hidden if model.embedding_dim else 0
    per_layer = model.layers * model.layer_embedding
    if per_layer:
        project += model.hidden * per_layer + model.layer_embedding
    return Weights(
        model.vocab * width + model.layer_embedding_rows * per_layer,
        model.positions * model.hidden
        + model.embedding_norm_parameters
        + project
        + adapter_weights(model),
    )


def head_weights(model: Model) -> Weights:
    """Final norm, output head (nothing where tied, but its bias) and its input projection."""
    width = model.embedding_dim or model.hidden
    project = width * model.hidden if model.embedding_dim else 0
    return Weights(
        (0 if model.tied else model.vocab * width) + model.vocab * model.head_bias,
        model.final_norm_parameters + project,
    )


def parameters(model: Model, active: bool = False) -> int:
    """Number of weights of the causal language model, tied weights once.

    ``active``: less the routed experts that a token does not visit (embedding and head included).
    """
    total = embedding_weights(model).total + head_weights(model).total
    for block, count in zip(model.blocks, model.kind_counts(), strict=True):
        one = block_weights(block, model.hidden, active).total
        own = adapter_weights(block)
        total += (one - own) * (min(count, 1) if block.shared else count) + own * count
    return total


def tower_parameters(model: Model) -> int:
    """Number of weights of the encoders of images and sounds, and of their projectors."""
    return sum(tower.parameters for tower in model.towers)


def has_towers(model: Model) -> bool:
    """Whether the model has encoders of images or sounds, counted or not."""
    return bool(model.towers or model.towers_not_counted)


def missing_parts(model: Model) -> dict[str, str]:
    """Parts of a layer that the model does not have, by the name of what would work on them, in words."""
    moes = [b.moe for b in model.blocks if b.moe is not None]
    latent = any(b.attention is not None and b.attention.mla for b in model.blocks)
    found = {} if latent else {"mla_up_proj": "no latent attention"}
    if not moes:
        found |= dict.fromkeys(("experts", "moe", "moe_act"), "no experts")
    if not any(m.shared for m in moes):
        found["shared_experts"] = "no shared experts"
    return found


def parameters_with_towers(model: Model) -> int:
    """Number of weights of the whole multimodal model, but for towers that are not counted."""
    return parameters(model) + tower_parameters(model)


def mtp_parameters(model: Model) -> int:
    """Number of weights of the multi-token-prediction layers, which :func:`parameters` leaves out."""
    if model.mtp is None:
        return 0
    layers = sum(block_weights(block, model.hidden).total for block in model.mtp.blocks)
    return layers + model.mtp.joining_parameters * model.mtp.depths
