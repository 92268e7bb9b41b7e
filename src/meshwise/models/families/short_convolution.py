"""Model types of short convolutions and attention: LFM2, with experts, and LFM3."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from meshwise.models.families import keys as fr
from meshwise.models.families.gpt import size_defaults
from meshwise.models.families.hybrid import layer_kinds
from meshwise.models.families.keys import Family, Reader, wrong
from meshwise.models.families.layers import (
    ModelFields,
    distinct_blocks,
    end_fields,
    self_attention,
)
from meshwise.models.families.state_space import expert_choice
from meshwise.models.families.windows import window_size
from meshwise.models.layers.attention import Attention
from meshwise.models.layers.recurrent import Recurrent
from meshwise.models.shapes import Block, Mlp, Moe

_CONVOLUTION, _FULL, _SLIDING = "conv", "full_attention", "sliding_attention"


def short_convolution(r: Reader, hidden: int) -> Recurrent:
    """A gated causal convolution over all channels of a layer."""
    bias = r.flag("conv_bias")
    return Recurrent(
        rule="convolution",
        heads=hidden,
        kernel=r.integer("conv_L_cache"),
        conv_bias=bias,
        input_bias=bias,
        output_bias=bias,
    )


def _adjusted_width(r: Reader) -> int:
    """Two thirds of the width in the file, times a factor, up to a multiple, where it says so."""
    width = r.integer("intermediate_size")
    if not r.flag("block_auto_adjust_ff_dim"):
        return width
    width = int(2 * width / 3)
    name, factor, _ = r.find("block_ffn_dim_multiplier")
    if factor is not None:
        if (
            isinstance(factor, bool)
            or not isinstance(factor, (int, float))
            or not 0 < factor <= 100
        ):
            raise wrong(name, factor, f"{fr.kind(factor)} where a factor belongs",
                        legal="a number over 0, at most 100")  # fmt: skip
        multiple = r.integer("block_multiple_of")
        width = -(-int(factor * width) // multiple) * multiple
    if width < 1:
        raise wrong("intermediate_size", r.value("intermediate_size"), "leaves no feed-forward",
                    legal="at least 2", nearest=2)  # fmt: skip
    return width


def _order(r: Reader, layers: int) -> list[str]:
    """Kinds of layers from ``layer_types``, or attention in those of ``full_attn_idxs``."""
    order = layer_kinds(r, layers)
    listed = r.sequence("full_attn_idxs")
    if listed is not None:
        full = {fr.check_integer("full_attn_idxs", i, 0, layers - 1) for i in listed}
        stated = [_FULL if i in full else _CONVOLUTION for i in range(layers)]
        if order is not None and stated != order:
            raise wrong("full_attn_idxs", listed, "contradicts layer_types",
                        legal="the layers that layer_types calls full_attention")  # fmt: skip
        order = stated
    if order is None:
        raise wrong("layer_types", None, "absent or null",
                    legal=f"a list of {layers} kinds: {', '.join(r.family.layer_kinds)}")  # fmt: skip
    return order


def _fields(
    r: Reader, hidden: int, order: Sequence[str], parts: Sequence[dict[str, Any]], norms: int = 2
) -> tuple[tuple[Block, ...], tuple[int, ...]]:
    """Layers of kinds ``order`` with the feed-forwards ``parts``."""
    attention = self_attention(r) if set(order) - {_CONVOLUTION} else None
    convolution = short_convolution(r, hidden) if _CONVOLUTION in order else None
    window = window_size(r) if _SLIDING in order else None

    def mixer(kind: str) -> dict[str, Attention | Recurrent | None]:
        if kind == _CONVOLUTION:
            return {"recurrent": convolution}
        if kind == _SLIDING and attention is not None:
            return {"attention": msgspec.structs.replace(attention, window=window)}
        return {"attention": attention}

    return distinct_blocks(
        Block(**{**mixer(kind), **part}, norm_parameters=norms * hidden)
        for kind, part in zip(order, parts, strict=True)
    )


def lfm2(r: Reader) -> ModelFields:
    """LFM2 (arXiv 2511.23404): gated short convolutions, and attention in some layers."""
    fields = end_fields(r)
    layers = r.layers()
    order = _order(r, layers)
    mlp = Mlp(width=_adjusted_width(r), gated=True)
    fields["blocks"], fields["pattern"] = _fields(
        r, fields["hidden"], order, [{"mlp": mlp}] * layers
    )
    return fields


def lfm2_moe(r: Reader) -> ModelFields:
    """LFM2 with experts behind its first layers; their correction biases are buffers."""
    fields = end_fields(r)
    layers = r.layers()
    order = _order(r, layers)
    dense = min(r.integer("num_dense_layers", 0, fr.MOST_LAYERS), layers)
    mlp = Mlp(width=r.integer("intermediate_size"), gated=True)
    moe = Moe(
        **expert_choice(r, "num_experts"),
        expert=Mlp(width=r.integer("moe_intermediate_size"), gated=True),
    )
    parts: list[dict[str, Any]] = [{"mlp": mlp}] * dense + [{"moe": moe}] * (layers - dense)
    fields["blocks"], fields["pattern"] = _fields(r, fields["hidden"], order, parts)
    return fields


def lfm3(r: Reader) -> ModelFields:
    """LFM3: longer convolutions, windows, a gate per head, norms around each part."""
    fields = end_fields(r)
    layers = r.layers()
    order = _order(r, layers)
    mlp = Mlp(width=r.integer("intermediate_size"), gated=True)
    norms = 4 if r.flag("use_sandwich_norm") else 2
    blocks, fields["pattern"] = _fields(r, fields["hidden"], order, [{"mlp": mlp}] * layers, norms)
    gated = r.flag("use_attention_gate")
    fields["blocks"] = tuple(
        msgspec.structs.replace(b, attention=msgspec.structs.replace(b.attention, head_gate=gated))
        if b.attention is not None
        else b
        for b in blocks
    )
    return fields


_TIED = {"tie_word_embeddings": ("tie_embedding",)}
CONVOLUTION_FAMILIES: dict[str, Family] = {
    "lfm2": Family(
        words="LFM 2–3",
        defaults=size_defaults(
            2560, 12288, 32, 32, 8, 65536, 128000, True, conv_L_cache=3, block_multiple_of=256,
            block_ffn_dim_multiplier=1.0, block_auto_adjust_ff_dim=True,
        ),
        aliases={**_TIED, "intermediate_size": ("block_ff_dim",)},
        query_key_norm="head", layer_kinds=(_CONVOLUTION, _FULL), build="lfm2",
    ),
    "lfm2_moe": Family(
        words="LFM 2–3",
        defaults=size_defaults(
            2048, 7168, 32, 32, 8, 65536, 128000, True, conv_L_cache=3, num_experts=32,
            num_experts_per_tok=4, moe_intermediate_size=1792, num_dense_layers=2,
        ),
        aliases=_TIED, query_key_norm="head", layer_kinds=(_CONVOLUTION, _FULL), build="lfm2_moe",
    ),
    "lfm3": Family(
        words="LFM 2–3",
        defaults=size_defaults(
            2048, 7680, 24, 16, 4, 128000, 128000, True, 128, conv_L_cache=7, sliding_window=256,
            use_sandwich_norm=True, use_attention_gate=True,
        ),
        query_key_bias="attention_bias", output_bias="attention_bias", query_key_norm="head",
        layer_kinds=(_CONVOLUTION, _FULL, _SLIDING), build="lfm3",
    ),
}  # fmt: skip
CONVOLUTION_BUILDERS: dict[str, Callable[[Reader], ModelFields]] = {
    "lfm2": lfm2,
    "lfm2_moe": lfm2_moe,
    "lfm3": lfm3,
}
