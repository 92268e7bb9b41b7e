"""Families whose layers are not those of :func:`meshwise.models.families.layers.standard`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from meshwise.errors import shorten
from meshwise.models.families import keys as fr
from meshwise.models.families.hybrid import query_key_normed
from meshwise.models.families.keys import Reader, not_known, wrong
from meshwise.models.families.layers import (
    ModelFields,
    distinct_blocks,
    end_fields,
    moe_layers,
    norm_size,
    plain_attention,
    routed_experts,
    standard,
)
from meshwise.models.layers.attention import Attention
from meshwise.models.shapes import Block, Mlp, Moe


def _alike(fields: ModelFields, block: Block, layers: int) -> ModelFields:
    """All layers of one kind."""
    fields["blocks"], fields["pattern"] = (block,), (0,) * layers
    return fields


def gpt_bigcode(r: Reader) -> ModelFields:
    """GPT-2 whose queries share one key/value head (StarCoder, arXiv 2305.06161)."""
    fields = standard(r)
    r.optional("num_key_value_heads")
    one = r.flag("multi_query")
    blocks: tuple[Block, ...] = fields["blocks"]
    fields["blocks"] = tuple(
        msgspec.structs.replace(
            b,
            attention=msgspec.structs.replace(
                b.attention, kv_heads=1 if one else b.attention.heads
            ),
        )
        for b in blocks
        if b.attention is not None
    )
    return fields


def opt(r: Reader) -> ModelFields:
    """OPT; the 350m model norms after its blocks and has a narrower embedding."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    heads = r.integer("num_attention_heads")
    bias = r.flag("enable_bias")
    norm = norm_size("layer") * hidden if r.flag("layer_norm_elementwise_affine") else 0
    before = r.flag("do_layer_norm_before")
    removed = r.flag("_remove_final_layer_norm")
    fields["final_norm_parameters"] = norm if before and not removed else 0
    narrow = r.optional("word_embed_proj_dim")
    fields["embedding_dim"] = narrow if narrow not in (None, hidden) else None
    width = r.integer("intermediate_size")
    attention = plain_attention(heads, heads, r.head_width(hidden, heads), bias, bias)
    mlp = Mlp(width=width, gated=False, up_bias=bias, down_bias=bias)
    return _alike(fields, Block(attention=attention, mlp=mlp, norm_parameters=2 * norm), r.layers())


def falcon(r: Reader) -> ModelFields:
    """Falcon: attention and MLP side by side; 7B multi-query, 40B and 180B grouped."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    heads = r.integer("num_attention_heads")
    new = r.flag("new_decoder_architecture")
    stated = r.optional("num_key_value_heads")
    kv_heads = heads
    if new:
        kv_heads = heads if stated is None else r.heads(hidden)[1]
    elif r.flag("multi_query"):
        kv_heads = 1
    bias = r.flag("bias")
    parallel = r.flag("parallel_attn")
    norms = r.optional("num_ln_in_parallel_attn", 1, 2)
    if norms is None and new:
        norms = 2
    width = r.optional("intermediate_size") or 4 * hidden
    per_layer = 2 if not parallel or norms == 2 else 1
    block = Block(
        attention=plain_attention(heads, kv_heads, r.head_width(hidden, heads), bias, bias),
        mlp=Mlp(width=width, gated=False, up_bias=bias, down_bias=bias),
        parallel=parallel,
        norm_parameters=per_layer * norm_size("layer") * hidden,
    )
    return _alike(fields, block, r.layers())


def mpt(r: Reader) -> ModelFields:
    """MPT as transformers and llm-foundry build it without biases."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    if not r.flag("no_bias"):
        raise not_known("no_bias", False, "an MPT with biases is not known", "true")
    heads = r.integer("num_attention_heads")
    config = r.table("attn_config")
    kv_heads = heads
    attn_type = config.get("attn_type") or "multihead_attention"
    if attn_type == "multiquery_attention":
        kv_heads = 1
    elif attn_type == "grouped_query_attention":
        kv_heads = fr.check_integer("attn_config.kv_n_heads", config.get("kv_n_heads"), 1, heads)
        if heads % kv_heads:
            raise wrong(
                "attn_config.kv_n_heads",
                kv_heads,
                f"{kv_heads} key/value heads do not divide {heads} query heads",
                legal=f"a divisor of {heads}",
            )
    elif attn_type != "multihead_attention":
        raise not_known(
            "attn_config.attn_type",
            attn_type,
            f"{shorten(attn_type)} is not known",
            "multihead_attention, multiquery_attention, grouped_query_attention",
        )
    if config.get("qk_ln") or config.get("qk_gn"):
        raise not_known("attn_config.qk_ln", True, "query and key norms are not known", "false")
    ffn = r.table("ffn_config")
    if ffn.get("ffn_type") not in (None, "mptmlp"):
        raise not_known("ffn_config.ffn_type", ffn["ffn_type"], "is not known", "mptmlp")
    positional = config.get("alibi", True) or config.get("rope", False)
    if r.flag("learned_pos_emb") and not positional:
        fields["positions"] = r.integer("max_position_embeddings", 1, fr.MOST_TOKENS)
    block = Block(
        attention=plain_attention(heads, kv_heads, r.head_width(hidden, heads)),
        mlp=Mlp(width=r.integer("expansion_ratio", 1, 1000) * hidden, gated=False),
        norm_parameters=2 * hidden,
    )
    return _alike(fields, block, r.layers())


def dbrx(r: Reader) -> ModelFields:
    """DBRX: its attention and experts are described in nested objects."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    heads = r.integer("num_attention_heads")
    attention = r.table("attn_config")
    ffn = r.table("ffn_config")

    def nested(name: str, table: Any, key: str) -> int:
        if key not in table:
            raise wrong(f"{name}.{key}", None, "absent (model type dbrx)",
                        legal=f"an integer from 1 to {fr.MOST_WIDE}")  # fmt: skip
        return fr.check_integer(f"{name}.{key}", table[key], 1, fr.MOST_WIDE)

    kv_heads = nested("attn_config", attention, "kv_n_heads")
    count = nested("ffn_config", ffn, "moe_num_experts")
    top_k = nested("ffn_config", ffn, "moe_top_k")
    if heads % kv_heads:
        raise wrong("attn_config.kv_n_heads", kv_heads, f"does not divide {heads} heads",
                    legal=f"a divisor of {heads}")  # fmt: skip
    if top_k > count:
        raise wrong("ffn_config.moe_top_k", top_k, f"more than {count} experts",
                    legal=f"an integer from 1 to {count}", nearest=count)  # fmt: skip
    moe = Moe(
        experts=count,
        top_k=top_k,
        expert=Mlp(width=nested("ffn_config", ffn, "ffn_hidden_size"), gated=True),
    )
    block = Block(
        attention=plain_attention(heads, kv_heads, r.head_width(hidden, heads)),
        moe=moe,
        norm_parameters=2 * hidden,
    )
    return _alike(fields, block, r.layers())


def qwen(r: Reader) -> ModelFields:
    """Qwen 1 (publisher's code): intermediate_size counts gate and up together."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    heads = r.integer("num_attention_heads")
    width = r.integer("intermediate_size", 2)
    if width % 2:
        raise wrong("intermediate_size", width, "has to be even: gate and up share it",
                    legal="an even integer", nearest=width + 1)  # fmt: skip
    channels = r.integer("kv_channels")
    bias = not r.flag("no_bias")
    block = Block(
        attention=plain_attention(heads, heads, channels, True, bias),
        mlp=Mlp(width=width // 2, gated=True, up_bias=bias, down_bias=bias),
        norm_parameters=2 * hidden,
    )
    return _alike(fields, block, r.layers())


def chatglm(r: Reader) -> ModelFields:
    """ChatGLM2/3 and GLM-4 (publisher's code): fused query-key-value, SwiGLU."""
    # the table's rows; vocab_size may be less
    padded = r.config.get("padded_vocab_size") is not None
    r.unused("vocab_size")
    fields = end_fields(r, "padded_vocab_size" if padded else "vocab_size")
    hidden: int = fields["hidden"]
    for key in ("inner_hidden_size", "position_encoding_2d"):
        if r.has(key):
            raise not_known(key, r.value(key), "ChatGLM 1 is not known", "ChatGLM2, 3, GLM-4")
    heads = r.integer("num_attention_heads")
    kv_heads = heads
    if r.flag("multi_query_attention"):
        kv_heads = r.integer("multi_query_group_num")
        if heads % kv_heads:
            raise wrong(
                "multi_query_group_num",
                kv_heads,
                f"{kv_heads} key/value groups do not divide {heads} query heads",
                legal=f"a divisor of {heads}",
            )
    linear = r.flag("add_bias_linear")
    if not r.flag("post_layer_norm"):
        fields["final_norm_parameters"] = 0
    scale = 1 if r.flag("rmsnorm") else 2
    fields["final_norm_parameters"] *= scale
    block = Block(
        attention=plain_attention(
            heads, kv_heads, r.integer("kv_channels"), linear or r.flag("add_qkv_bias"), linear
        ),
        mlp=Mlp(width=r.integer("intermediate_size"), gated=True, up_bias=linear, down_bias=linear),
        norm_parameters=2 * hidden * scale,
    )
    return _alike(fields, block, r.layers())


def llama4(r: Reader) -> ModelFields:
    """Llama 4: the shared expert is as wide as a routed one; query/key norms have no weights."""
    r.flag("use_qk_norm")
    fields = standard(r)
    blocks: tuple[Block, ...] = fields["blocks"]
    fields["blocks"] = tuple(shared_like_expert(b) for b in blocks)
    return fields


def shared_like_expert(block: Block) -> Block:
    """``block`` with a shared expert as wide as a routed one."""
    if block.moe is None:
        return block
    moe = msgspec.structs.replace(block.moe, shared=block.moe.expert)
    return msgspec.structs.replace(block, moe=moe)


def minimax_m2(r: Reader) -> ModelFields:
    """MiniMax-M2; its predecessors marked lightning attention by 0 in attn_type_list."""
    kinds_of_layers = r.sequence("attn_type_list") or []
    if any(item != 1 for item in kinds_of_layers):
        raise not_known("attn_type_list", kinds_of_layers, "linear attention is not known", "1s")
    query_key_normed(r)
    return standard(r)


def mimo_v2_flash(r: Reader) -> ModelFields:
    """MiMo-V2-Flash: window layers have twice the key/value heads, and sinks; values are narrower.

    The publisher's file says it layer by layer (hybrid_layer_pattern, 1 = window, and swa_ keys);
    transformers' own form has layer_types and fixed rules. Both are read, and have to agree.
    """
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.layers()
    heads, kv_heads, head_dim = r.heads(hidden)
    value_dim = r.integer("v_head_dim")
    for key, want in (("swa_num_attention_heads", heads), ("swa_num_key_value_heads", 2 * kv_heads),
                      ("swa_head_dim", head_dim), ("swa_v_head_dim", value_dim)):  # fmt: skip
        if r.optional(key) not in (None, want):
            raise not_known(key, r.value(key), f"{want} is what its code builds", f"{want}")
    r.used |= {"add_swa_attention_sink_bias", "add_full_attention_sink_bias"}
    if r.config.get("add_swa_attention_sink_bias") is False:
        raise not_known("add_swa_attention_sink_bias", False, "is not known", "true")
    if r.flag("add_full_attention_sink_bias"):
        raise not_known("add_full_attention_sink_bias", True, "is not known", "false")
    window = r.optional("sliding_window_size")
    window = r.integer("sliding_window") if window is None else window + 1
    types = r.sequence("layer_types", layers)
    marks = r.sequence("hybrid_layer_pattern", layers)
    slides = [i != 0 and (i + 1) % 6 != 0 for i in range(layers)]
    if types is not None:
        slides = [t == "sliding_attention" for t in types]
    elif marks is not None:
        slides = [mark == 1 for mark in marks]
    sparse = [i > 0 for i in range(layers)]
    r.sequence("moe_layer_freq", layers)  # one number for all layers its code does not know
    if r.has("moe_layer_freq") or r.has("mlp_layer_types"):
        sparse = moe_layers(r, layers, "first_dense")
    moe = routed_experts(r, False)
    dense = Mlp(width=r.integer("intermediate_size"), gated=True)
    bias = r.flag("attention_bias")
    if heads % (2 * kv_heads):
        raise wrong("num_key_value_heads", kv_heads, f"twice as many do not divide {heads} heads",
                    legal=f"half of a divisor of {heads}")  # fmt: skip

    def block(i: int) -> Block:
        attention = Attention(
            heads=heads,
            kv_heads=kv_heads * (2 if slides[i] else 1),
            head_dim=head_dim,
            value_head_dim=value_dim,
            window=window if slides[i] else None,
            query_bias=bias,
            key_bias=bias,
            value_bias=bias,
            sinks=slides[i],
        )
        has_experts = sparse[i] and moe is not None
        return Block(
            attention=attention,
            mlp=None if has_experts else dense,
            moe=moe if has_experts else None,
            norm_parameters=2 * hidden,
        )

    fields["blocks"], fields["pattern"] = distinct_blocks(block(i) for i in range(layers))
    return fields


IRREGULAR_BUILDERS: dict[str, Callable[[Reader], ModelFields]] = {
    "gpt_bigcode": gpt_bigcode,
    "opt": opt,
    "falcon": falcon,
    "mpt": mpt,
    "dbrx": dbrx,
    "qwen": qwen,
    "chatglm": chatglm,
    "llama4": llama4,
    "minimax_m2": minimax_m2,
    "mimo_v2_flash": mimo_v2_flash,
}
