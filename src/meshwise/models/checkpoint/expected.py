"""What a derived model leads one to expect of a checkpoint: weights by part of a layer, and matrices."""

from __future__ import annotations

from typing import NamedTuple

from meshwise.models.parameters import (
    adapter_weights,
    attention_matrices,
    attention_weights,
    block_weights,
    embedding_weights,
    head_weights,
    latent_weights,
    mlp_weights,
    mtp_parameters,
    recurrent_weights,
    router_weights,
    tower_parameters,
)
from meshwise.models.shapes import Block, Mlp, Model


class ExpectedMatrix(NamedTuple):
    """A matrix of a layer, and how many there are of it (experts)."""

    inputs: int
    outputs: int
    copies: int = 1

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs


class Expected(NamedTuple):
    """Numbers of weights by group of modules, and the matrices by group and slot."""

    weights: dict[str, int]
    matrices: dict[tuple[str, str], ExpectedMatrix]


def _products(m: Mlp, hidden: int, count: int = 1) -> dict[str, ExpectedMatrix]:
    up = ExpectedMatrix(hidden, m.width, count)
    down = ExpectedMatrix(m.width, hidden, count)
    return {"up": up, "down": down} | ({"gate": up} if m.gated else {})


def expected_layer(block: Block, hidden: int) -> Expected:
    """One layer; ``adapters`` are its further small products, ``norms`` also what is in no other group."""
    weights: dict[str, int] = {}
    matrices: dict[tuple[str, str], ExpectedMatrix] = {}

    def add(group: str, number: int, products: dict[str, ExpectedMatrix]) -> None:
        weights[group] = number
        matrices.update({(group, slot): matrix for slot, matrix in products.items()})

    a, moe = block.attention, block.moe
    if a is not None:
        own = attention_weights(a, hidden).total - a.norm_parameters
        found = attention_matrices(a, hidden)
        add("attention", own, {p.role: ExpectedMatrix(p.inputs, p.outputs) for p in found})
    if block.recurrent is not None:
        of_mixer = block.recurrent.matrices(hidden)
        matrices_of = {p.role: ExpectedMatrix(p.inputs, p.outputs) for p in of_mixer}
        add("recurrent", recurrent_weights(block.recurrent, hidden).total, matrices_of)
    if block.mlp is not None:
        add("feed_forward", mlp_weights(block.mlp, hidden).total, _products(block.mlp, hidden))
    weights["adapters"] = adapter_weights(block)
    if moe is not None:
        weights["router"] = router_weights(moe, hidden) + hidden * moe.shared_gate
        weights["adapters"] += latent_weights(moe, hidden)
        wide = moe.latent or hidden
        experts = mlp_weights(moe.expert, wide).total * moe.experts
        add("experts", experts, _products(moe.expert, wide, moe.experts))
        if moe.shared is not None:
            shared = mlp_weights(moe.shared, hidden).total
            add("shared_experts", shared, _products(moe.shared, hidden))
    weights["norms"] = block_weights(block, hidden).total - sum(weights.values())
    return Expected({k: n for k, n in weights.items() if n}, matrices)


def expected_ends(model: Model) -> Expected:
    """Embedding (positions and its norm too), and head (the final norm too)."""
    width = model.embedding_dim or model.hidden
    matrices = {("embedding", "table"): ExpectedMatrix(width, model.vocab)}
    if not model.tied:
        matrices["head", "table"] = ExpectedMatrix(width, model.vocab)
    weights = {
        "embedding": embedding_weights(model).total,
        "head": head_weights(model).total,
    }
    return Expected({k: n for k, n in weights.items() if n}, matrices)


def derived_apart(model: Model, what: str) -> int | None:
    """Weights beside the language model that the config leads to expect."""
    if what == "mtp" and model.mtp is not None:
        return mtp_parameters(model)
    if what == "towers" and model.towers and not model.towers_not_counted:
        return tower_parameters(model)
    if what == "tied_copies":
        return model.vocab * (model.embedding_dim or model.hidden)
    return None
