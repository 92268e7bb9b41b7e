"""Exact parameter counts, part by part, from the shapes of a :class:`~meshwise.models.shapes.Model`.

Each part is a pair (split, replicated): weights that tensor parallelism divides among its ranks,
and weights that every rank keeps whole (norms, row-parallel biases, routers, MLA's latents).
Counts are numbers of weights; tied weights count once.
"""

from __future__ import annotations

from typing import NamedTuple

from meshwise.models.shapes import Attention, Block, Mlp, Model, Moe


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


def attention_matrices(a: Attention, hidden: int) -> list[tuple[str, int, int, str]]:
    """The attention's projections as (role, in_features, out_features, how TP splits them).

    "column" divides the outputs, "row" the inputs, "none" leaves it on every rank.
    """
    q_width = a.heads * a.head_dim * (2 if a.output_gate else 1)
    out = ("output", a.heads * a.value_head_dim, hidden, "row")
    if a.kv_lora_rank is None:
        return [
            ("query", hidden, q_width, "column"),
            ("key", hidden, a.kv_heads * a.head_dim, "column"),
            ("value", hidden, a.kv_heads * a.value_head_dim, "column"),
            out,
        ]
    nope = a.head_dim - a.rope_head_dim
    query = (
        [("query", hidden, q_width, "column")]
        if a.q_lora_rank is None
        else [
            ("query_down", hidden, a.q_lora_rank, "none"),
            ("query_up", a.q_lora_rank, q_width, "column"),
        ]
    )
    return [
        *query,
        ("kv_down", hidden, a.kv_lora_rank + a.rope_head_dim, "none"),
        ("kv_up", a.kv_lora_rank, a.heads * (nope + a.value_head_dim), "column"),
        out,
    ]


def attention_weights(a: Attention, hidden: int) -> Weights:
    split = replicated = 0
    for _, k, n, how in attention_matrices(a, hidden):
        if how == "none":
            replicated += k * n
        else:
            split += k * n
    split += a.heads * a.head_dim * a.query_bias
    split += a.kv_heads * a.head_dim * a.key_bias
    split += a.kv_heads * a.value_head_dim * a.value_bias
    if a.latent_bias and a.kv_lora_rank is not None:
        replicated += (a.q_lora_rank or 0) + a.kv_lora_rank + a.rope_head_dim
    split += a.heads * a.sinks
    replicated += hidden * a.output_bias + a.norm_parameters + a.indexer_parameters
    return Weights(split, replicated)


def mlp_weights(m: Mlp, hidden: int) -> Weights:
    ups = 2 if m.gated else 1
    return Weights(
        hidden * m.width * (ups + 1) + ups * m.width * m.up_bias,
        hidden * m.down_bias,
    )


def moe_weights(m: Moe, hidden: int, experts: int | None = None) -> Weights:
    """Router, shared experts and ``experts`` routed experts (default: all of them)."""
    n = m.experts if experts is None else experts
    expert = mlp_weights(m.expert, hidden)
    # A row-parallel bias is kept whole by every rank, one per expert.
    weights = expert.times(n)
    weights = weights.plus(Weights(0, m.experts * (hidden + m.router_bias)))
    if m.shared is not None:
        weights = weights.plus(mlp_weights(m.shared, hidden))
    return weights.plus(Weights(0, hidden * m.shared_gate))


def block_weights(block: Block, hidden: int, active: bool = False) -> Weights:
    """One layer; ``active`` leaves out the routed experts that a token does not visit."""
    weights = Weights(0, block.norm_parameters)
    if block.attention is not None:
        weights = weights.plus(attention_weights(block.attention, hidden))
    if block.mlp is not None:
        weights = weights.plus(mlp_weights(block.mlp, hidden))
    if block.moe is not None:
        weights = weights.plus(moe_weights(block.moe, hidden, block.moe.top_k if active else None))
    return weights


def embedding_weights(model: Model) -> Weights:
    """Token table, learned positions, embedding norm and OPT-350m's input projection."""
    width = model.embedding_dim or model.hidden
    project = width * model.hidden if model.embedding_dim else 0
    return Weights(
        model.vocab * width,
        model.positions * model.hidden + model.embedding_norm_parameters + project,
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
        total += block_weights(block, model.hidden, active).total * count
    return total


def tower_parameters(model: Model) -> int:
    """Number of weights of the encoders of images and sounds, and of their projectors."""
    return sum(tower.parameters for tower in model.towers)


def parameters_with_towers(model: Model) -> int:
    """Number of weights of the whole multimodal model, but for towers that are not counted."""
    return parameters(model) + tower_parameters(model)
