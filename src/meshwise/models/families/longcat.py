"""LongCat-Flash: two attentions per layer, an MLP after each, and experts that go around the second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from meshwise.models.families import keys as fr
from meshwise.models.families.gpt import size_defaults
from meshwise.models.families.keys import Family, MoeKeys, Reader, not_known, wrong
from meshwise.models.families.layers import (
    ModelFields,
    dense_mlp,
    distinct_blocks,
    end_fields,
    latent_attention,
    routed_experts,
)
from meshwise.models.families.multi_token import next_token_layers
from meshwise.models.shapes import Block


def longcat_flash(r: Reader) -> ModelFields:
    """LongCat-Flash (arXiv 2509.01322): each of its layers is two of ours, the first with the experts.

    Zero experts hand a token on as it is: they have a row of the router and no weights (transformers
    5.24 gives them rows of ``gate_up_proj``, which no checkpoint has).
    """
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.integer("num_layers", 1, fr.MOST_LAYERS)
    twice = r.optional("num_hidden_layers", 1, 2 * fr.MOST_LAYERS)
    if twice not in (None, layers, 2 * layers):
        raise wrong("num_hidden_layers", twice, f"contradicts num_layers {layers}",
                    legal=f"{2 * layers}", nearest=2 * layers)  # fmt: skip
    kind = r.value("zero_expert_type")
    if kind not in (None, "identity"):
        raise not_known("zero_expert_type", kind, "is not known", "identity")
    attention = latent_attention(r)
    whole = r.optional("qk_head_dim")
    if whole not in (None, attention.head_dim):
        raise wrong("qk_head_dim", whole, "contradicts qk_nope_head_dim and qk_rope_head_dim",
                    legal=f"{attention.head_dim}", nearest=attention.head_dim)  # fmt: skip
    dense = dense_mlp(r, False)
    moe = routed_experts(r, False)
    if moe is not None:
        zero = r.optional("zero_expert_num", 0, fr.MOST_EXPERTS) or 0
        moe = msgspec.structs.replace(moe, zero_experts=zero, router_bias=r.flag("router_bias"))
    plain = Block(attention=attention, mlp=dense, norm_parameters=2 * hidden)
    with_experts = msgspec.structs.replace(plain, moe=moe)
    fields["blocks"], fields["pattern"] = distinct_blocks([with_experts, plain] * layers)
    fields["mtp"] = next_token_layers(r, plain, hidden)
    return fields


_MLA: dict[str, Any] = {"kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128, "v_head_dim": 128}  # fmt: skip
LONGCAT_FAMILIES: dict[str, Family] = {
    "longcat_flash": Family(
        words="LongCat",
        defaults={
            **size_defaults(6144, 12288, 28, 64, None, 131072, 131072, **_MLA,
                            n_routed_experts=512, moe_topk=12, moe_intermediate_size=2048,
                            zero_expert_num=256),
            "num_layers": 28,
            "num_hidden_layers": None,
        },
        aliases={"intermediate_size": ("ffn_hidden_size",),
                 "moe_intermediate_size": ("expert_ffn_hidden_size",),
                 "n_routed_experts": ("num_local_experts",),
                 "moe_topk": ("num_experts_per_tok",)},
        query_key_bias="attention_bias", mla=True, build="longcat_flash",
        moe=MoeKeys(experts="n_routed_experts", top_k="moe_topk", width="moe_intermediate_size"),
    ),
}  # fmt: skip

LONGCAT_BUILDERS: dict[str, Callable[[Reader], ModelFields]] = {
    "longcat_flash": longcat_flash,
}
