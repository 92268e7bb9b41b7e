"""Step 3, 3.5 and 3.7, Laguna: gates per head, heads that differ between windows and whole contexts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from meshwise.errors import shorten
from meshwise.models.families import keys as fr
from meshwise.models.families.gpt import size_defaults
from meshwise.models.families.keys import Family, MoeKeys, Reader, not_known, wrong
from meshwise.models.families.layers import (
    ModelFields,
    dense_mlp,
    distinct_blocks,
    end_fields,
    has_experts,
    layer_integers,
    moe_layers,
    object_of,
    routed_experts,
    windowed,
)
from meshwise.models.families.multi_token import MOST_DEPTHS, next_token_layers
from meshwise.models.layers.attention import Attention
from meshwise.models.shapes import Block, Mlp

_FULL, _SLIDING = "full_attention", "sliding_attention"


def padded_list(r: Reader, key: str, layers: int) -> list[Any] | None:
    """A list of an entry per layer, those of multi-token prediction after them left out."""
    found = r.sequence(key)
    if found is None:
        return None
    depths = r.optional("num_nextn_predict_layers", 0, MOST_DEPTHS) or 0
    if len(found) not in (layers, layers + depths):
        return r.sequence(key, layers)  # which says what is wrong
    return found[:layers]


def _kinds(r: Reader, layers: int) -> list[str]:
    types = padded_list(r, "layer_types", layers)
    if types is None:
        return [_FULL] * layers
    for item in types:
        if item not in (_FULL, _SLIDING):
            raise not_known("layer_types", item, f"no layer of kind {shorten(item)} is known",
                            f"{_FULL}, {_SLIDING}")  # fmt: skip
    return list(types)


def _sparse(r: Reader, layers: int) -> list[bool]:
    """For each layer whether it has experts: by kind, by a list of indices (a text with commas, too), else
    all but the first."""
    kinds = padded_list(r, "mlp_layer_types", layers)
    if kinds is not None:
        return has_experts(kinds)
    name, value, _ = r.find("moe_layers_enum")
    if value is None:
        first = r.integer("first_k_dense_replace", 0, fr.MOST_LAYERS)
        return [i >= first for i in range(layers)]
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list):
        raise wrong(name, value, f"{fr.kind(value)} where indices of layers belong",
                    legal="a list, or integers between commas")  # fmt: skip
    found = set()
    for item in items:
        text = item.strip() if isinstance(item, str) else item
        if text == "":
            continue
        number = int(text) if isinstance(text, str) and text.isascii() and text.isdigit() else text
        # files count the layers of multi-token prediction too
        found.add(fr.check_integer(name, number, 0, layers + MOST_DEPTHS))
    return [i in found for i in range(layers)]


def _windowed_heads(r: Reader, heads: int, kv_heads: int, dim: int) -> int:
    """Query heads of layers with a window."""
    stated = r.optional("num_sliding_attention_heads")
    other = r.table("attention_other_setting")
    if not other:
        return stated or heads
    at = "attention_other_setting"
    number = fr.check_integer(f"{at}.num_attention_heads", other.get("num_attention_heads", heads), 1,
                              fr.MOST_WIDE)  # fmt: skip
    for key, want in (("num_attention_groups", kv_heads), ("num_key_value_heads", kv_heads),
                      ("head_dim", dim), ("true_head_dim", dim)):  # fmt: skip
        if other.get(key) not in (None, want):
            raise not_known(f"{at}.{key}", other[key], "is not what other layers have", f"{want}")
    if stated not in (None, number):
        raise wrong(f"{at}.num_attention_heads", number,
                    f"contradicts num_sliding_attention_heads {stated}",
                    legal=f"{stated}", nearest=stated)  # fmt: skip
    return number


def _stated_heads(r: Reader, layers: int) -> dict[int, int]:
    """Heads by layer, as transformers writes them."""
    found = {}
    for place, entry in r.table("per_layer_config").items():
        at = f"per_layer_config.{shorten(place)}"
        if not (place.isascii() and place.isdigit()):
            raise wrong(at, place, "is no index of a layer", legal=f"0 to {layers - 1}")
        index = fr.check_integer(at, int(place[:9]), 0, layers - 1)
        for key, value in object_of(at, entry).items():
            if key != "num_attention_heads":
                raise not_known(f"{at}.{key}", value, "is not known", "num_attention_heads")
            found[index] = fr.check_integer(f"{at}.{key}", value, 1, fr.MOST_WIDE)
    return found


def gated_attention(
    r: Reader, heads: int, kv_heads: int, dim: int, window: int | None, per_head: bool = True
) -> Attention:
    """Heads with norms over each, and a gate of each head (or of all its values)."""
    if heads % kv_heads:
        raise wrong("num_attention_heads", heads, f"{kv_heads} key/value heads do not divide {heads}",
                    legal=f"a multiple of {kv_heads}")  # fmt: skip
    bias = r.flag("attention_bias")
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=dim,
        value_head_dim=dim,
        window=window,
        query_bias=bias,
        key_bias=bias,
        value_bias=bias,
        output_bias=bias,
        norm_parameters=2 * dim,
        head_gate=per_head,
        value_gate=not per_head,
    )


def step3p5(r: Reader) -> ModelFields:
    """Step 3.5 and 3.7: a gate per head, more heads in windows, one shared expert."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.layers()
    heads, kv_heads, dim = r.heads(hidden)
    if not r.flag("use_head_wise_attn_gate"):
        raise not_known("use_head_wise_attn_gate", False, "gates per head are what it has", "true")
    if r.optional("n_shared_experts", 0, 1000) not in (None, 1):
        raise not_known("n_shared_experts", r.value("n_shared_experts"), "one is what it has", "1")
    r.flag("use_moe_router_bias")
    kinds, sparse = _kinds(r, layers), _sparse(r, layers)
    window = r.optional("sliding_window", 1, fr.MOST_POSITIONS)
    sliding, stated = _windowed_heads(r, heads, kv_heads, dim), _stated_heads(r, layers)
    if stated:  # what the file says layer by layer is what holds
        counts = [stated.get(i, heads) for i in range(layers)]
    else:
        counts = [heads if kind == _FULL else sliding for kind in kinds]
    mlp_bias = r.flag("mlp_bias")
    moe = routed_experts(r, mlp_bias)
    dense = dense_mlp(r, mlp_bias) if not all(sparse) else None

    def block(i: int) -> Block:
        return Block(
            attention=gated_attention(r, counts[i], kv_heads, dim,
                                      window if kinds[i] == _SLIDING else None),
            mlp=None if sparse[i] else dense,
            moe=moe if sparse[i] else None,
            norm_parameters=2 * hidden,
        )  # fmt: skip

    order = [block(i) for i in range(layers)]
    fields["blocks"], fields["pattern"] = distinct_blocks(order)
    fields["mtp"] = next_token_layers(r, _prediction_layer(order, dense), hidden)
    return fields


def _prediction_layer(order: list[Block], dense: Mlp | None) -> Block:
    """A layer with a window and a dense MLP, as Step's multi-token prediction has it."""
    windowed_layers = [b for b in order if b.attention is not None and b.attention.window]
    last = windowed_layers[-1] if windowed_layers else order[-1]
    return last if dense is None else msgspec.structs.replace(last, moe=None, mlp=dense)


def step3(r: Reader) -> ModelFields:
    """Step 3 (publisher's code): queries of all heads from one latent, one key and value head (multi-matrix
    factorised attention, arXiv 2507.19427), experts in the layers that the file lists."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.layers()
    heads, dim, rank = (
        r.integer("num_attention_heads"),
        r.integer("head_dim"),
        r.integer("share_q_dim"),
    )
    if r.optional("num_attention_groups") not in (None, 1):
        raise not_known("num_attention_groups", r.value("num_attention_groups"),
                        "one key/value head is what it has", "1")  # fmt: skip
    sparse = _sparse(r, layers)
    moe = routed_experts(r, False)
    attention = Attention(
        heads=heads,
        kv_heads=1,
        head_dim=dim,
        value_head_dim=dim,
        q_lora_rank=rank,
        norm_parameters=rank,
    )
    dense = Mlp(width=r.integer("intermediate_size"), gated=True) if not all(sparse) else None
    fields["blocks"], fields["pattern"] = distinct_blocks(
        Block(
            attention=attention,
            mlp=None if has else dense,
            moe=moe if has else None,
            norm_parameters=2 * hidden,
        )
        for has in sparse
    )
    return fields


def laguna(r: Reader) -> ModelFields:
    """Laguna: heads layer by layer, each with a gate, and a shared expert."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.layers()
    heads, kv_heads, dim = r.heads(hidden)
    counts = [heads] * layers
    if r.value("num_attention_heads_per_layer") is not None:
        counts = layer_integers(r, "num_attention_heads_per_layer", layers, 1, fr.MOST_WIDE)
    gating = r.value("gating")
    if gating not in (True, "per-head", "per-element"):
        raise not_known(
            "gating", gating, f"{shorten(gating)} is not known", "true, per-head, per-element"
        )
    window = r.optional("sliding_window", 1, fr.MOST_POSITIONS)
    kinds = _kinds(r, layers)
    sparse = moe_layers(r, layers, "first_dense")
    moe = routed_experts(r, False)
    if moe is not None:  # its correction bias is a parameter, not a buffer as elsewhere
        moe = msgspec.structs.replace(moe, router_parameters=moe.experts)
    dense = dense_mlp(r, False) if not all(sparse) else None
    fields["blocks"], fields["pattern"] = distinct_blocks(
        Block(
            attention=windowed(
                gated_attention(r, counts[i], kv_heads, dim, None, gating != "per-element"),
                window if kinds[i] == _SLIDING else None,
            ),
            mlp=None if sparse[i] else dense,
            moe=moe if sparse[i] else None,
            norm_parameters=2 * hidden,
        )
        for i in range(layers)
    )
    return fields


_STEP = MoeKeys(experts="n_routed_experts", width="moe_intermediate_size",
                shared_width="share_expert_dim")  # fmt: skip
_ROUTED = ("num_local_experts", "moe_num_experts", "num_experts")
_STEP_ALIASES = {
    "n_routed_experts": _ROUTED,
    "num_experts_per_tok": ("moe_top_k",),
    "share_expert_dim": ("share_expert_dims",),
    "num_nextn_predict_layers": ("num_mtp_layers",),
}
STEP_FAMILIES: dict[str, Family] = {
    "step3p5": Family(
        words="Step 3–3.7",
        defaults=size_defaults(
            4096, 11264, 45, 64, 8, 128815, 128000, False, 128, n_routed_experts=288,
            num_experts_per_tok=8, moe_intermediate_size=1280, share_expert_dim=1280,
            first_k_dense_replace=3, use_head_wise_attn_gate=True,
        ),
        aliases={**_STEP_ALIASES, "num_key_value_heads": ("num_attention_groups",)}, moe=_STEP,
        build="step3p5",
    ),
    "step3_text": Family(
        words="Step 3–3.7",
        defaults=size_defaults(
            7168, 18432, 61, 64, 1, 128815, 65536, False, 256, share_q_dim=2048,
            n_routed_experts=48, num_experts_per_tok=3, moe_intermediate_size=5120,
            share_expert_dim=5120, first_k_dense_replace=0,
        ),
        aliases=_STEP_ALIASES, moe=_STEP, build="step3",
    ),
    "laguna": Family(
        words="Laguna",
        defaults=size_defaults(
            2048, 8192, 40, 48, 8, 100352, 131072, False, 128, num_experts=256,
            num_experts_per_tok=8, moe_intermediate_size=512, shared_expert_intermediate_size=512,
            first_k_dense_replace=1, gating=True,
        ),
        moe=MoeKeys(experts="num_experts", width="moe_intermediate_size",
                    shared_width="shared_expert_intermediate_size", layers="first_dense"),
        build="laguna",
    ),
}  # fmt: skip

STEP_BUILDERS: dict[str, Callable[[Reader], ModelFields]] = {
    "step3p5": step3p5,
    "step3": step3,
    "laguna": laguna,
}
