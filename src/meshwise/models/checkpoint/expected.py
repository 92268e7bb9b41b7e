"""What a derived model leads one to expect of a checkpoint: weights by part of a layer, and matrices."""

from __future__ import annotations

from typing import NamedTuple

from meshwise.models.parameters import (
    attention_matrices,
    attention_weights,
    block_weights,
    embedding_weights,
    head_weights,
    mlp_weights,
    moe_weights,
)
from meshwise.models.shapes import Block, Mlp, Model


class Matrix(NamedTuple):
    """A matrix of a layer, and how many there are of it (experts)."""

    inputs: int
    outputs: int
    count: int = 1

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs


class Expected(NamedTuple):
    """Numbers of weights by group of modules, and the matrices by group and slot."""

    weights: dict[str, int]
    matrices: dict[tuple[str, str], Matrix]


def _products(m: Mlp, hidden: int, count: int = 1) -> dict[str, Matrix]:
    up = Matrix(hidden, m.width, count)
    down = Matrix(m.width, hidden, count)
    return {"up": up, "down": down} | ({"gate": up} if m.gated else {})


def expected_layer(block: Block, hidden: int) -> Expected:
    """One layer. What is in no other group is ``recurrent``."""
    weights: dict[str, int] = {"norms": block.norm_parameters}
    matrices: dict[tuple[str, str], Matrix] = {}

    def products(group: str, found: dict[str, Matrix]) -> None:
        matrices.update({(group, slot): matrix for slot, matrix in found.items()})

    a, moe = block.attention, block.moe
    if a is not None:
        weights["norms"] += a.norm_parameters
        weights["attention"] = attention_weights(a, hidden).total - a.norm_parameters
        products(
            "attention", {role: Matrix(k, n) for role, k, n, _ in attention_matrices(a, hidden)}
        )
    if block.mlp is not None:
        weights["feed_forward"] = mlp_weights(block.mlp, hidden).total
        products("feed_forward", _products(block.mlp, hidden))
    if moe is not None:
        weights["router"] = moe.experts * (hidden + moe.router_bias) + hidden * moe.shared_gate
        shared = 0
        if moe.shared is not None:
            shared = weights["shared_experts"] = mlp_weights(moe.shared, hidden).total
            products("shared_experts", _products(moe.shared, hidden))
        weights["experts"] = moe_weights(moe, hidden).total - weights["router"] - shared
        products("experts", _products(moe.expert, hidden, moe.experts))
    rest = block_weights(block, hidden).total - sum(weights.values())
    if rest:
        weights["recurrent"] = rest
    return Expected({k: n for k, n in weights.items() if n}, matrices)


def expected_ends(model: Model) -> Expected:
    """Embedding (positions and its norm too), and head (the final norm too)."""
    width = model.embedding_dim or model.hidden
    matrices = {("embedding", "table"): Matrix(width, model.vocab)}
    if not model.tied:
        matrices["head", "table"] = Matrix(width, model.vocab)
    weights = {
        "embedding": embedding_weights(model).total,
        "head": head_weights(model).total,
    }
    return Expected({k: n for k, n in weights.items() if n}, matrices)
