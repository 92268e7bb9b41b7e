"""An encoder as data, and how many weights it has.

Every encoder here is a stack of equal layers, each one attention and one feed-forward, between a stem
(patches, positions) and a tail (a last norm, a pooling head): the layers are fields, the ends functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from meshwise.errors import shorten
from meshwise.models.families.keys import wrong
from meshwise.models.families.towers.block import TowerBlock, linear


class EncoderSizes(NamedTuple):
    """What an encoder's ends and its projector are made by."""

    hidden: int
    layers: int
    heads: int
    width: int


EncoderEnds = Callable[[TowerBlock, EncoderSizes], int]


class Encoder(msgspec.Struct, frozen=True, kw_only=True):
    """What the model type of a tower means. A str in place of a bool is the key that decides."""

    ends: EncoderEnds
    kind: str = "vision"
    defaults: Mapping[str, Any] = {}
    hidden: tuple[str, ...] = ("hidden_size",)
    layers: tuple[str, ...] = ("num_hidden_layers",)
    heads: tuple[str, ...] = ("num_attention_heads",)
    width: tuple[str, ...] = ("intermediate_size",)
    ratio: str | None = None  # key: the width is this times the hidden size, rounded down
    kv_heads: str | None = None  # key: fewer key and value heads than queries have
    head_dim: str | None = None  # key: width of a head, where it is not hidden / heads
    gated: bool = False
    qkv_bias: bool | str = True
    key_bias: bool = True  # Whisper's keys have none
    output_bias: bool | str = True
    mlp_bias: bool | str = True
    norm: str = "layer"  # layer: a weight and a bias per feature; rms: a weight
    norm_key: str | None = None  # key that says it otherwise: layer_norm, rms_norm
    norms: int = 2
    head_norms: bool | str = False  # RMSNorm of queries and keys, over a head
    wide_norms: bool | str = False  # the same over all heads
    scales: int = 0  # vectors per layer that scale what it adds
    whole_heads: bool = True  # its code refuses heads that do not divide the hidden size
    not_known: tuple[str, ...] = ()  # keys of variants that are not counted
    not_true: tuple[str, ...] = ()  # the same, where they are set


class Counted(NamedTuple):
    """Numbers of an encoder's weights."""

    sizes: EncoderSizes
    parameters: int
    split: int  # of them, those that TP divides by heads and by the feed-forward's width


def encoder_sizes(e: Encoder, b: TowerBlock) -> EncoderSizes:
    """Width, layers, heads and feed-forward width, as the block or its class says."""
    hidden, layers = b.main_size(*e.hidden), b.main_size(*e.layers, low=0)
    heads = b.main_size(*e.heads)
    width = int(hidden * b.ratio(e.ratio)) if e.ratio else b.main_size(*e.width)
    if hidden % heads and e.whole_heads and e.head_dim is None:
        raise wrong(
            f"{b.at}.{e.heads[0]}",
            heads,
            f"{heads} heads do not divide hidden size {hidden}",
            legal=f"a divisor of {hidden}",
        )
    return EncoderSizes(hidden, layers, heads, width)


def _norm(e: Encoder, b: TowerBlock) -> str:
    stated = b.value(e.norm_key) if e.norm_key else None
    names = {None: e.norm, "layer_norm": "layer", "rms_norm": "rms"}
    if not isinstance(stated, str | None) or stated not in names:
        raise wrong(f"{b.at}.{e.norm_key}", stated, f"no norm of kind {shorten(stated)} is known",
                    legal="layer_norm, rms_norm")  # fmt: skip
    return names[stated]


def count_encoder(e: Encoder, b: TowerBlock) -> Counted:
    """Weights of an encoder, layer by layer, and its ends'."""
    s = encoder_sizes(e, b)
    dim = b.size(e.head_dim) if e.head_dim else s.hidden // s.heads
    queries = s.heads * dim if e.head_dim else s.hidden
    grouped = e.kv_heads is not None and b.value(e.kv_heads) is not None
    keys = b.size(e.kv_heads) * dim if grouped and e.kv_heads else queries
    bias, mlp_bias = b.flag(e.qkv_bias), b.flag(e.mlp_bias)
    ups = 2 if e.gated else 1
    # matrices, and the biases of their outputs where the outputs are divided
    split = linear(s.hidden, queries + keys, bias) + linear(s.hidden, keys, bias and e.key_bias)
    split += queries * s.hidden
    split += ups * linear(s.hidden, s.width, mlp_bias) + s.width * s.hidden
    norm = s.hidden * (2 if _norm(e, b) == "layer" else 1)
    kept = s.hidden * (b.flag(e.output_bias) + mlp_bias + e.scales) + e.norms * norm
    kept += 2 * dim * b.flag(e.head_norms) + 2 * s.hidden * b.flag(e.wide_norms)
    return Counted(s, s.layers * (split + kept) + e.ends(b, s), s.layers * split)
