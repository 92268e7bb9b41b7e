"""Hunyuan: dense and with experts, keys and values of one layer used by the next, lists per layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from meshwise.models.families import keys as fr
from meshwise.models.families.gpt import size_defaults
from meshwise.models.families.hybrid import query_key_normed
from meshwise.models.families.keys import Family, MoeKeys, Reader, not_known, wrong
from meshwise.models.families.layers import (
    ModelFields,
    dense_mlp,
    distinct_blocks,
    end_fields,
    self_attention,
    standard,
)
from meshwise.models.layers.attention import Attention
from meshwise.models.shapes import Block, Mlp, Moe


def _per_layer(r: Reader, key: str, layers: int, low: int, high: int) -> list[int] | None:
    """An integer for each layer, of one integer or a list of them; None where there is none."""
    if isinstance(r.value(key), list):
        found = r.sequence(key, layers) or []
        return [fr.check_integer(f"{key}[{i}]", item, low, high) for i, item in enumerate(found)]
    one = r.integer(key, low, high) if r.lacks(key) else r.optional(key, low, high)
    return None if one is None else [one] * layers


def _attentions(r: Reader, layers: int) -> list[Attention]:
    """The attention of each layer. Cross-layer attention: of so many layers the first makes keys and
    values, which the others use; their norms they all have (publisher's code, vLLM's hunyuan_v1.py)."""
    if r.flag("use_mla"):
        raise not_known(
            "use_mla", True, "a Hunyuan with latent attention was never published", "false"
        )
    r.used |= {"kv_lora_rank", "q_lora_rank"}
    own = self_attention(r)
    if not r.flag("use_cla"):
        r.used.add("cla_share_factor")
        return [own] * layers
    factor = r.integer("cla_share_factor", 1, fr.MOST_LAYERS)
    shared = msgspec.structs.replace(own, shared_kv=True)
    return [shared if i % factor else own for i in range(layers)]


def hunyuan(r: Reader) -> ModelFields:
    """Hunyuan: experts where num_experts is over 1, from the layers on that are not skipped."""
    if r.model_type != "hunyuan":  # the publisher's own code, which reads that key
        query_key_normed(r)
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.layers()
    bias = r.flag(r.family.mlp_bias)
    attentions = _attentions(r, layers)
    counts = [1] * layers
    if r.family.moe is not None:
        counts = _per_layer(r, "num_experts", layers, 1, fr.MOST_EXPERTS) or counts
    elif (r.uniform("num_experts", 0, fr.MOST_EXPERTS) or 1) > 1:
        raise not_known("num_experts", r.value("num_experts"), "a dense Hunyuan has none", "1")
    r.used |= {"num_shared_expert", "moe_topk", "moe_intermediate_size"}
    skipped = r.optional("moe_layer_num_skipped", 0, fr.MOST_LAYERS) or 0
    # one expert: an MLP where the publisher's code reads it, an expert in transformers' own form
    least = 1 if r.model_type == "hunyuan_v1_moe" else 2
    sparse = [
        r.family.moe is not None and n >= least and i >= skipped for i, n in enumerate(counts)
    ]
    experts = _experts(r, counts, bias) if any(sparse) else []
    dense = dense_mlp(r, bias) if not all(sparse) else None

    def block(i: int) -> Block:
        return Block(
            attention=attentions[i],
            mlp=None if sparse[i] else dense,
            moe=experts[i] if sparse[i] else None,
            norm_parameters=2 * hidden,
        )

    fields["blocks"], fields["pattern"] = distinct_blocks(block(i) for i in range(layers))
    return fields


def _experts(r: Reader, counts: list[int], bias: bool) -> list[Moe]:
    """The experts of each layer, and a shared MLP. Its code and transformers' agree where all are as wide
    as intermediate_size; other widths are refused."""
    layers = len(counts)
    width = r.integer("intermediate_size")
    widths = _per_layer(r, "moe_intermediate_size", layers, 1, fr.MOST_WIDE) or [width] * layers
    shared = _per_layer(r, "num_shared_expert", layers, 0, 1000) or [1] * layers
    for key, found, want in (
        ("moe_intermediate_size", widths, width),
        ("num_shared_expert", shared, 1),
    ):
        other = next((n for n in found if n != want), None)
        if other is not None:
            raise not_known(
                key,
                other,
                "experts or a shared MLP of another width than intermediate_size are not known",
                f"{want}",
            )
    visited = _per_layer(r, "moe_topk", layers, 1, fr.MOST_EXPERTS)
    if visited is None:
        visited = [r.integer("moe_topk", 1, fr.MOST_EXPERTS)] * layers
    for n, k in zip(counts, visited, strict=True):
        if k > n:
            raise wrong("moe_topk", k, f"a token cannot visit {k} of {n} experts",
                        legal=f"an integer from 1 to {n}", nearest=n)  # fmt: skip
    mlp = Mlp(width=width, gated=True, up_bias=bias, down_bias=bias)
    return [
        Moe(experts=n, top_k=k, expert=mlp, shared=mlp)
        for n, k in zip(counts, visited, strict=True)
    ]


def hy_v3(r: Reader) -> ModelFields:
    """Hy3: experts after the first layers, with a shared one (where it has none, its class builds one as wide
    as a dense layer's: refused)."""
    if r.optional("num_shared_experts", 0, 1000) == 0:
        raise not_known(
            "num_shared_experts", 0, "a model without a shared expert is not known", "1"
        )
    return standard(r)


_SIZES = size_defaults(4096, 11008, 32, 32, None, 290943, 2048, use_qk_norm=True)
_COMMON: dict[str, Any] = {
    "words": "Hunyuan",
    "query_key_bias": "attention_bias",
    "output_bias": "attention_bias",
    "query_key_norm": "head",
    "query_key_norm_key": "use_qk_norm",
    "build": "hunyuan",
}
_WITH_EXPERTS = Family(
    defaults={**_SIZES, "num_experts": 1, "moe_topk": 1},
    aliases={"num_experts": ("num_local_experts",), "moe_topk": ("num_experts_per_tok",),
             "head_dim": ("attention_head_dim",)},
    moe=MoeKeys(experts="num_experts", top_k="moe_topk"), **_COMMON,
)  # fmt: skip
HUNYUAN_FAMILIES: dict[str, Family] = {
    "hunyuan": _WITH_EXPERTS,  # as the publisher's first files name it
    "hunyuan_v1_moe": _WITH_EXPERTS,
    "hunyuan_v1_dense": Family(
        defaults=_SIZES, aliases={"head_dim": ("attention_head_dim",)}, **_COMMON
    ),
    "hunyuan_vl_text": Family(
        defaults=_SIZES, aliases={"head_dim": ("attention_head_dim",)}, **_COMMON
    ),
    "hy_v3": Family(
        words="Hunyuan",
        defaults=size_defaults(4096, 13312, 80, 64, 8, 120832, 131072, False, 128, num_experts=192,
                               num_experts_per_tok=8, num_shared_experts=1,
                               moe_intermediate_size=1536, first_k_dense_replace=1),
        aliases={"num_experts": ("num_local_experts", "n_routed_experts"),
                 "moe_intermediate_size": ("expert_hidden_dim",)},
        query_key_bias="attention_bias", output_bias="attention_bias", mlp_bias="mlp_bias",
        query_key_norm="head",
        moe=MoeKeys(experts="num_experts", width="moe_intermediate_size",
                    shared_count="num_shared_experts", layers="first_dense", first_dense=1),
        build="hy_v3",
    ),
}  # fmt: skip

HUNYUAN_BUILDERS: dict[str, Callable[[Reader], ModelFields]] = {
    "hunyuan": hunyuan,
    "hy_v3": hy_v3,
}
