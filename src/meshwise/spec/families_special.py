"""Families whose layers are not those of :func:`meshwise.spec.families_build.standard`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from meshwise.errors import UnsupportedModel, shorten
from meshwise.spec import families_reader as fr
from meshwise.spec.families_build import (
    ends,
    kinds,
    listed,
    norm_size,
    object_of,
    standard,
    windowed,
)
from meshwise.spec.families_reader import Reader, wrong
from meshwise.spec.model import Attention, Block, Mlp, Moe

Fields = dict[str, Any]


def _alike(fields: Fields, block: Block, layers: int) -> Fields:
    """All layers of one kind."""
    fields["blocks"], fields["pattern"] = (block,), (0,) * layers
    return fields


def _plain(
    heads: int, kv_heads: int, head_dim: int, bias: bool = False, output_bias: bool = False
) -> Attention:
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_head_dim=head_dim,
        query_bias=bias,
        key_bias=bias,
        value_bias=bias,
        output_bias=output_bias,
    )


def _layers(r: Reader) -> int:
    return r.integer("num_hidden_layers", 1, fr.MOST_LAYERS)


def _not_read(key: str, value: object, why: str, legal: str) -> UnsupportedModel:
    return UnsupportedModel(f"{key}: {why}", field=key, value=value, legal=legal)


def gpt_bigcode(r: Reader) -> Fields:
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


def opt(r: Reader) -> Fields:
    """OPT; the 350m model norms after its blocks and has a narrower embedding."""
    fields = ends(r)
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
    attention = _plain(heads, heads, r.head_width(hidden, heads), bias, bias)
    mlp = Mlp(width=width, gated=False, up_bias=bias, down_bias=bias)
    return _alike(fields, Block(attention=attention, mlp=mlp, norm_parameters=2 * norm), _layers(r))


def falcon(r: Reader) -> Fields:
    """Falcon: attention and MLP side by side; 7B multi-query, 40B and 180B grouped."""
    fields = ends(r)
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
        attention=_plain(heads, kv_heads, r.head_width(hidden, heads), bias, bias),
        mlp=Mlp(width=width, gated=False, up_bias=bias, down_bias=bias),
        parallel=parallel,
        norm_parameters=per_layer * norm_size("layer") * hidden,
    )
    return _alike(fields, block, _layers(r))


def mpt(r: Reader) -> Fields:
    """MPT as transformers and llm-foundry build it without biases."""
    fields = ends(r)
    hidden: int = fields["hidden"]
    if not r.flag("no_bias"):
        raise _not_read("no_bias", False, "an MPT with biases is not known", "true")
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
        raise _not_read(
            "attn_config.attn_type",
            attn_type,
            f"{shorten(attn_type)} is not known",
            "multihead_attention, multiquery_attention, grouped_query_attention",
        )
    if config.get("qk_ln") or config.get("qk_gn"):
        raise _not_read("attn_config.qk_ln", True, "query and key norms are not known", "false")
    ffn = r.table("ffn_config")
    if ffn.get("ffn_type") not in (None, "mptmlp"):
        raise _not_read("ffn_config.ffn_type", ffn["ffn_type"], "is not known", "mptmlp")
    positional = config.get("alibi", True) or config.get("rope", False)
    if r.flag("learned_pos_emb") and not positional:
        fields["positions"] = r.integer("max_position_embeddings", 1, fr.MOST_TOKENS)
    block = Block(
        attention=_plain(heads, kv_heads, r.head_width(hidden, heads)),
        mlp=Mlp(width=r.integer("expansion_ratio", 1, 1000) * hidden, gated=False),
        norm_parameters=2 * hidden,
    )
    return _alike(fields, block, _layers(r))


def dbrx(r: Reader) -> Fields:
    """DBRX: its attention and experts are described in nested objects."""
    fields = ends(r)
    hidden: int = fields["hidden"]
    heads = r.integer("num_attention_heads")
    attention = r.table("attn_config")
    ffn = r.table("ffn_config")

    def nested(name: str, table: Any, key: str, default: int) -> int:
        value = table.get(key, default)
        return fr.check_integer(f"{name}.{key}", value, 1, fr.MOST_WIDE)

    kv_heads = nested("attn_config", attention, "kv_n_heads", 1)
    count = nested("ffn_config", ffn, "moe_num_experts", 4)
    top_k = nested("ffn_config", ffn, "moe_top_k", 1)
    if heads % kv_heads:
        raise wrong("attn_config.kv_n_heads", kv_heads, f"does not divide {heads} heads",
                    legal=f"a divisor of {heads}")  # fmt: skip
    if top_k > count:
        raise wrong("ffn_config.moe_top_k", top_k, f"more than {count} experts",
                    legal=f"an integer from 1 to {count}", nearest=count)  # fmt: skip
    moe = Moe(
        experts=count,
        top_k=top_k,
        expert=Mlp(width=nested("ffn_config", ffn, "ffn_hidden_size", 3584), gated=True),
    )
    block = Block(
        attention=_plain(heads, kv_heads, r.head_width(hidden, heads)),
        moe=moe,
        norm_parameters=2 * hidden,
    )
    return _alike(fields, block, _layers(r))


def qwen(r: Reader) -> Fields:
    """Qwen 1 (publisher's code): intermediate_size counts gate and up together."""
    fields = ends(r)
    hidden: int = fields["hidden"]
    heads = r.integer("num_attention_heads")
    width = r.integer("intermediate_size", 2)
    if width % 2:
        raise wrong("intermediate_size", width, "has to be even: gate and up share it",
                    legal="an even integer", nearest=width + 1)  # fmt: skip
    channels = r.integer("kv_channels")
    bias = not r.flag("no_bias")
    block = Block(
        attention=_plain(heads, heads, channels, True, bias),
        mlp=Mlp(width=width // 2, gated=True, up_bias=bias, down_bias=bias),
        norm_parameters=2 * hidden,
    )
    return _alike(fields, block, _layers(r))


def chatglm(r: Reader) -> Fields:
    """ChatGLM2/3 and GLM-4 (publisher's code): fused query-key-value, SwiGLU."""
    fields = ends(r)
    hidden: int = fields["hidden"]
    if r.config.get("padded_vocab_size") is not None:  # the table's rows; vocab_size may be less
        fields["vocab"] = r.integer("padded_vocab_size", 1, fr.MOST_TOKENS)
    for key in ("inner_hidden_size", "position_encoding_2d"):
        if r.has(key):
            raise _not_read(key, r.value(key), "ChatGLM 1 is not known", "ChatGLM2, 3, GLM-4")
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
        attention=_plain(
            heads, kv_heads, r.integer("kv_channels"), linear or r.flag("add_qkv_bias"), linear
        ),
        mlp=Mlp(width=r.integer("intermediate_size"), gated=True, up_bias=linear, down_bias=linear),
        norm_parameters=2 * hidden * scale,
    )
    return _alike(fields, block, _layers(r))


def llama4(r: Reader) -> Fields:
    """Llama 4: the shared expert is as wide as a routed one; query/key norms have no weights."""
    r.flag("use_qk_norm")
    fields = standard(r)
    blocks: tuple[Block, ...] = fields["blocks"]
    fields["blocks"] = tuple(_shared_like_expert(b) for b in blocks)
    return fields


def _shared_like_expert(block: Block) -> Block:
    if block.moe is None:
        return block
    moe = msgspec.structs.replace(block.moe, shared=block.moe.expert)
    return msgspec.structs.replace(block, moe=moe)


def _plain_hunyuan(r: Reader) -> None:
    """Hunyuan's files carry keys of variants that were never published as this model type."""
    for key in ("use_cla", "use_mla"):
        if r.flag(key):
            raise _not_read(key, True, "cross-layer and latent attention are not known", "false")
    r.used |= {"kv_lora_rank", "q_lora_rank", "num_shared_expert", "num_experts"}


def hunyuan_dense(r: Reader) -> Fields:
    """Hunyuan without experts; it says so with num_experts 1."""
    _plain_hunyuan(r)
    if (r.uniform("num_experts", 0, fr.MOST_EXPERTS) or 1) > 1:
        raise _not_read("num_experts", r.value("num_experts"), "a dense Hunyuan has none", "1")
    return standard(r)


def hunyuan_moe(r: Reader) -> Fields:
    """Hunyuan: one shared MLP; keys may be lists that repeat one value per layer."""
    _plain_hunyuan(r)
    width = r.integer("intermediate_size")
    stated = r.uniform("moe_intermediate_size", 1, fr.MOST_WIDE)
    shared = r.uniform("num_shared_expert", 0, 1000)
    if stated not in (None, width) or shared not in (None, 1):
        raise _not_read(
            "moe_intermediate_size",
            stated,
            "experts or a shared MLP of another width than intermediate_size are not known",
            f"{width}",
        )
    if r.optional("moe_layer_num_skipped", 0, fr.MOST_LAYERS):
        raise _not_read("moe_layer_num_skipped", None, "dense first layers are not known", "0")
    fields = standard(r)
    blocks: tuple[Block, ...] = fields["blocks"]
    fields["blocks"] = tuple(_shared_like_expert(b) for b in blocks)
    return fields


def minimax_m2(r: Reader) -> Fields:
    """MiniMax-M2; its predecessors marked lightning attention by 0 in attn_type_list."""
    kinds_of_layers = r.sequence("attn_type_list") or []
    if any(item != 1 for item in kinds_of_layers):
        raise _not_read("attn_type_list", kinds_of_layers, "linear attention is not known", "1s")
    return standard(r)


def deci(r: Reader) -> Fields:
    """DeciLM: the number of key/value heads differs from layer to layer."""
    fields = ends(r)
    hidden: int = fields["hidden"]
    layers = _layers(r)
    heads, _, head_dim = r.heads(hidden)
    per_layer = listed(r, "num_key_value_heads_per_layer", layers, 1, heads)
    mlp = Mlp(width=r.integer("intermediate_size"), gated=True)
    for kv_heads in set(per_layer):
        if heads % kv_heads:
            raise wrong("num_key_value_heads_per_layer", kv_heads, f"does not divide {heads} heads",
                        legal=f"divisors of {heads}")  # fmt: skip
    fields["blocks"], fields["pattern"] = kinds(
        Block(attention=_plain(heads, kv, head_dim), mlp=mlp, norm_parameters=2 * hidden)
        for kv in per_layer
    )
    return fields


def _multiple(value: float, hidden: int) -> int:
    """Width of a Llama-style MLP: two thirds of value * hidden, up to a multiple of 256."""
    width = int(2 * value * hidden / 3)
    return -(-width // 256) * 256


def nemotron_nas(r: Reader) -> Fields:
    """Llama-Nemotron after neural architecture search: every layer has its own shape."""
    fields = ends(r)
    hidden: int = fields["hidden"]
    layers = _layers(r)
    heads = r.integer("num_attention_heads")
    r.optional("num_key_value_heads")
    head_dim = r.optional("head_dim") or r.head_width(hidden, heads)
    bias, mlp_bias = r.flag("attention_bias"), r.flag("mlp_bias")
    found = r.sequence("block_configs", layers)
    if found is None:
        raise wrong("block_configs", None, "absent or null", legal=f"a list of {layers} objects")

    def block(i: int, entry: object) -> Block:
        at = f"block_configs[{i}]"
        parts = object_of(at, entry)
        a = object_of(f"{at}.attention", parts.get("attention") or {})
        m = object_of(f"{at}.ffn", parts.get("ffn") or {})
        for name, part in (("attention", a), ("ffn", m)):
            for key in ("replace_with_linear", "sparsify", "num_sink_tokens", "llama4", "mamba",
                        "moe", "unshifted_sink"):  # fmt: skip
                if part.get(key):
                    raise _not_read(f"{at}.{name}.{key}", part[key], "is not known", "null")
        attention = None
        if not a.get("no_op"):
            group = fr.check_integer(
                f"{at}.attention.n_heads_in_group", a.get("n_heads_in_group"), 1, heads
            )
            if heads % group:
                raise wrong(f"{at}.attention.n_heads_in_group", group,
                            f"does not divide {heads} heads", f"a divisor of {heads}")  # fmt: skip
            attention = _plain(heads, heads // group, head_dim, bias, bias)
            window = a.get("window_length")
            if window is not None:
                window = fr.check_integer(f"{at}.attention.window_length", window, 1, 10**9)
                attention = windowed(attention, window)
        mlp = None
        if not m.get("no_op"):
            width = m.get("intermediate_size")
            if width is None:
                factor = m.get("ffn_mult")
                if isinstance(factor, bool) or not isinstance(factor, (int, float)) \
                        or not 0 < factor <= 1000:  # fmt: skip
                    raise wrong(f"{at}.ffn.ffn_mult", factor, f"{shorten(factor)} is no width",
                                legal="a number over 0, at most 1000")  # fmt: skip
                width = _multiple(factor, hidden)
            width = fr.check_integer(f"{at}.ffn.intermediate_size", width, 1, fr.MOST_WIDE)
            mlp = Mlp(width=width, gated=True, up_bias=mlp_bias, down_bias=mlp_bias)
        norms = (attention is not None) + (mlp is not None)
        return Block(attention=attention, mlp=mlp, norm_parameters=norms * hidden)

    fields["blocks"], fields["pattern"] = kinds(block(i, entry) for i, entry in enumerate(found))
    return fields


BUILDERS: dict[str, Callable[[Reader], Fields]] = {
    "standard": standard,
    "gpt_bigcode": gpt_bigcode,
    "opt": opt,
    "falcon": falcon,
    "mpt": mpt,
    "dbrx": dbrx,
    "qwen": qwen,
    "chatglm": chatglm,
    "llama4": llama4,
    "hunyuan_dense": hunyuan_dense,
    "hunyuan_moe": hunyuan_moe,
    "minimax_m2": minimax_m2,
    "deci": deci,
    "nemotron_nas": nemotron_nas,
}
