"""Ling's and Ring's families (model types ``bailing_…``): experts, with lightning attention or Kimi Delta Attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from meshwise.models.families import keys as fr
from meshwise.models.families.delta import kimi_delta
from meshwise.models.families.gpt import size_defaults
from meshwise.models.families.hybrid import (
    LINEAR_KINDS,
    layer_kinds,
    other_variant,
    refuse_set,
    untied,
    with_layers,
)
from meshwise.models.families.keys import Family, MoeKeys, Reader, not_known
from meshwise.models.families.layers import (
    ModelFields,
    end_fields,
    latent_attention,
    moe_layers,
    routed_experts,
    self_attention,
    standard,
)
from meshwise.models.families.minimax import lightning
from meshwise.models.families.multi_token import next_token_layers
from meshwise.models.layers.attention import Attention
from meshwise.models.layers.recurrent import Recurrent
from meshwise.models.shapes import Block, Mlp, Moe

# keys of Ling 3's files, whose linear layers are Kimi Delta Attention; Ling 2.5 has the same model type
_KIMI_KEYS = ("no_kda_lora", "kda_safe_gate", "kda_lower_bound", "short_conv_kernel_size")


def _experts(r: Reader) -> tuple[Moe | None, list[bool]]:
    """The routed experts, and which layers have them."""
    if r.value("router_type") not in (None, "topN"):
        raise other_variant("router_type", r.value("router_type"), "topN")
    if r.value("moe_router_enable_shared_expert") is False and r.optional("num_shared_experts", 0):
        raise not_known("moe_router_enable_shared_expert", False, "contradicts num_shared_experts",
                        "true")  # fmt: skip
    moe = routed_experts(r, False)
    layers = r.layers()
    if moe is None:
        return None, [False] * layers
    shared = r.optional("moe_shared_expert_intermediate_size", 0)
    if shared not in (None, moe.expert.width) and r.optional("num_shared_experts", 0):
        # vLLM and SGLang read it, transformers and the publisher's classes take the routed experts' width
        why = "shared experts of another width than moe_intermediate_size are not known"
        raise not_known("moe_shared_expert_intermediate_size", shared, why, f"{moe.expert.width}")
    return moe, moe_layers(r, layers, "first_dense")


def _layers(
    r: Reader, fields: ModelFields, kinds: list[str], mixers: dict[str, Attention | Recurrent]
) -> ModelFields:
    """The layers: a mixer of its kind each, a dense feed-forward in the first ones and experts in the others."""
    hidden: int = fields["hidden"]
    moe, sparse = _experts(r)
    dense = None if all(sparse) else Mlp(width=r.integer("intermediate_size"), gated=True)

    def block(kind: str, is_sparse: bool) -> Block:
        mixer = mixers[kind]
        return Block(
            attention=mixer if isinstance(mixer, Attention) else None,
            recurrent=mixer if isinstance(mixer, Recurrent) else None,
            mlp=None if is_sparse else dense,
            moe=moe if is_sparse else None,
            norm_parameters=2 * hidden,
        )

    last = block(LINEAR_KINDS[1], moe is not None)
    fields["mtp"] = next_token_layers(r, last, hidden)
    return with_layers(fields, [block(*each) for each in zip(kinds, sparse, strict=True)])


def bailing_moe(r: Reader) -> ModelFields:
    """Ling 1, and Ling 2.0, whose files say the same model type: their class says it, or what they norm."""
    second = "V2" in str(r.config.get("architectures") or "") or r.flag("use_qk_norm")
    return bailing_moe_v2(r) if second else standard(r)


def bailing_moe_v2(r: Reader) -> ModelFields:
    """Ling 2.0: experts behind the first layers, norms of queries and keys."""
    refuse_set(r, "use_bias", "use_sliding_window", "using_split_qkv_in_self_attention")
    fields = end_fields(r)
    kinds = [LINEAR_KINDS[1]] * r.layers()
    return _layers(r, fields, kinds, {LINEAR_KINDS[1]: self_attention(r)})


def _grouped(r: Reader, layers: int, *, tail: bool) -> list[str]:
    """The last layer of each group is attention; ``tail``: those behind the last whole group are, too."""
    size = r.integer("layer_group_size", 1, fr.MOST_LAYERS)
    whole = layers // size * size if tail else layers
    return [LINEAR_KINDS[(i + 1) % size == 0 or i >= whole] for i in range(layers)]


def _lightning(r: Reader, hidden: int) -> Recurrent:
    """Lightning attention over as many heads of keys and values as of queries, normed by groups of heads."""
    heads = r.integer("num_attention_heads")
    dim = r.head_width(hidden, heads)
    if r.optional("head_dim") not in (None, dim):
        raise not_known("head_dim", r.value("head_dim"), f"{heads} such heads are not as wide as the model",
                        f"{dim}")  # fmt: skip
    groups = r.integer("group_norm_size")
    if heads % groups:
        raise not_known("group_norm_size", groups, f"does not divide {heads} heads",
                        f"a divisor of {heads}")  # fmt: skip
    return lightning(heads, dim, groups, 2 * dim * r.flag("use_qk_norm"))


def bailing_moe_linear(r: Reader) -> ModelFields:
    """Ring-linear and Ling-linear 2.0: groups of lightning attention layers and one of grouped queries."""
    refuse_set(r, "use_bias", "use_qkv_bias", "use_sliding_window",
               "using_split_qkv_in_self_attention")  # fmt: skip
    fields = end_fields(r)
    kinds = _grouped(r, r.layers(), tail=True)
    mixers: dict[str, Attention | Recurrent] = {
        LINEAR_KINDS[0]: _lightning(r, fields["hidden"]),
        LINEAR_KINDS[1]: self_attention(r),
    }
    return _layers(r, fields, kinds, mixers)


def _is_kimi_delta(r: Reader) -> bool:
    """Whether a ``bailing_hybrid`` is of Ling 3: its class says it, or keys that Ling 2.5 does not have."""
    named = str(r.config.get("architectures") or "")
    if "V2_5" in named or "V3" in named:
        return "V3" in named
    return any(key in r.config for key in _KIMI_KEYS) or not r.has("group_norm_size")


def bailing_hybrid(r: Reader) -> ModelFields:
    """Ling 2.5 (lightning attention) and Ling 3 (Kimi Delta Attention), each with latent attention between."""
    refuse_set(r, "use_bias", "use_qkv_bias", "use_sliding_window")
    if r.value("full_attention_type") not in (None, "mla"):
        raise other_variant("full_attention_type", r.value("full_attention_type"), "mla")
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.layers()
    kimi = _is_kimi_delta(r)
    if kimi:
        untied(r)
    kinds = layer_kinds(r, layers) or _grouped(r, layers, tail=not kimi)
    attention = latent_attention(r)
    r.used |= {*_KIMI_KEYS, "group_norm_size", "use_qk_norm", "layer_group_size"}
    if not kimi:
        return _layers(
            r, fields, kinds, {LINEAR_KINDS[0]: _lightning(r, hidden), LINEAR_KINDS[1]: attention}
        )
    # transformers writes the width of a linear head under a name of its own, and a rope head's as head_dim
    heads = r.optional("linear_num_heads") or r.integer("num_attention_heads")
    dim = r.optional("linear_head_dim") or r.integer("head_dim")
    kernel = r.optional("linear_conv_kernel_dim") or r.integer("short_conv_kernel_size", 1, 1000)
    if r.config.get("no_kda_lora") is False:
        raise not_known("no_kda_lora", False, "gates of low rank are not known", "true")
    recurrent = kimi_delta(heads, dim, kernel, rank=0, whole_gate=True)
    return _layers(
        r, fields, kinds, {LINEAR_KINDS[0]: recurrent, LINEAR_KINDS[1]: _gated(r, attention)}
    )


def _gated(r: Reader, attention: Attention) -> Attention:
    """Ling 3's latent attention: a gate per head, or one as wide as the values."""
    kind = r.value("gated_attention_proj_granularity_type")
    fields = {None: "head_gate", "head_wise": "head_gate", "element_wise": "value_gate"}
    if kind not in fields:
        raise other_variant("gated_attention_proj_granularity_type", kind, "head_wise, element_wise")  # fmt: skip
    return msgspec.structs.replace(attention, **{fields[kind]: True})


_MOE = MoeKeys(
    experts="num_experts",
    width="moe_intermediate_size",
    shared_count="num_shared_experts",
    layers="first_dense",
)
_NORMED: dict[str, Any] = {
    "words": "Ling, Ring",
    "aliases": {"num_experts": ("num_local_experts",)},
    "query_key_norm": "head",
    "query_key_norm_key": "use_qk_norm",
    "moe": _MOE,
}

BAILING_FAMILIES: dict[str, Family] = {
    "bailing_moe": Family(
        defaults=size_defaults(
            2048, 5632, 28, 16, None, 126464, 32768, num_experts=None, num_shared_experts=0,
            num_experts_per_tok=None, moe_intermediate_size=None, first_k_dense_replace=0,
            use_qkv_bias=False, use_bias=False, use_qk_norm=False,
        ),
        query_key_bias="use_qkv_bias", output_bias="use_bias", mlp_bias="use_bias",
        build="bailing_moe", **_NORMED,
    ),
    "bailing_moe_v2": Family(
        defaults=size_defaults(
            2048, 5120, 20, 16, 4, 157184, 32768, num_experts=256, num_shared_experts=1,
            num_experts_per_tok=8, moe_intermediate_size=512, first_k_dense_replace=1,
            use_qk_norm=False, use_qkv_bias=False,
        ),
        query_key_bias="use_qkv_bias", build="bailing_moe_v2", **_NORMED,
    ),
    "bailing_moe_linear": Family(
        defaults=size_defaults(
            2048, 5120, 20, 16, 4, 157184, 131072, num_experts=256, num_shared_experts=1,
            num_experts_per_tok=8, moe_intermediate_size=512, first_k_dense_replace=1,
            use_qk_norm=False, layer_group_size=5, group_norm_size=4,
        ),
        build="bailing_moe_linear", **_NORMED,
    ),
    "bailing_hybrid": Family(
        words="Ling, Ring",
        defaults=size_defaults(
            2560, 6144, 42, 32, 32, 157184, 262144, head_dim=128, kv_lora_rank=512,
            q_lora_rank=None, qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128,
            num_experts=512, num_shared_experts=1, num_experts_per_tok=8, moe_intermediate_size=768,
            first_k_dense_replace=2, short_conv_kernel_size=4, layer_group_size=6,
            group_norm_size=None, use_qk_norm=False,
        ),
        aliases={
            "num_experts": ("num_local_experts",), "num_shared_experts": ("n_shared_experts",),
            "num_experts_per_tok": ("num_experts_per_token",),
            "num_nextn_predict_layers": ("num_mtp_layers",),
            "max_position_embeddings": ("model_max_length",),
        },
        query_key_bias="attention_bias", mla=True, layer_kinds=LINEAR_KINDS, build="bailing_hybrid", moe=_MOE,
    ),
}  # fmt: skip

BAILING_BUILDERS: dict[str, Callable[[Reader], ModelFields]] = {
    "bailing_moe": bailing_moe,
    "bailing_moe_v2": bailing_moe_v2,
    "bailing_moe_linear": bailing_moe_linear,
    "bailing_hybrid": bailing_hybrid,
}
