"""From a :class:`~meshwise.models.families.keys.Reader` to the layers of a model.

:func:`standard` covers every family whose layers are one attention and one feed-forward with the
variations that :class:`~meshwise.models.families.keys.Family` names; ``irregular`` has the others.
Rules that give a window or experts to some layers only are the small functions below.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from meshwise.errors import shorten
from meshwise.models.families import keys as fr
from meshwise.models.families.keys import Family, Reader, not_known, wrong
from meshwise.models.families.multi_token import next_token_layers
from meshwise.models.families.windows import layer_windows
from meshwise.models.layers.attention import Attention, Indexer
from meshwise.models.shapes import Block, Mlp, Moe

ModelFields = dict[str, Any]  # arguments of a Model


def plain_attention(
    heads: int, kv_heads: int, head_dim: int, bias: bool = False, output_bias: bool = False
) -> Attention:
    """Attention whose keys and values are as wide as its queries, without norms."""
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


def norm_size(norm: str) -> int:
    """Weights of a norm per feature it normalises."""
    return {"rms": 1, "layer": 2, "none": 0}[norm]


def _indices(r: Reader, key: str, layers: int) -> set[int]:
    found = r.sequence(key) or []
    return {fr.check_integer(key, item, 0, max(layers - 1, 0)) for item in found}


def has_experts(kinds: list[Any]) -> list[bool]:
    """For each entry of ``mlp_layer_types`` whether the layer has routed experts."""
    for item in kinds:
        if item not in ("sparse", "dense"):
            raise not_known(
                "mlp_layer_types", item, f"{shorten(item)} is not known", "sparse, dense"
            )
    return [item == "sparse" for item in kinds]


def _first_dense(r: Reader, layers: int) -> list[bool]:
    """DeepSeek: the first layers are dense, then every moe_layer_freq-th has experts, where the family says
    that all code of its type reads that key; else it has to be 1."""
    types = r.sequence("mlp_layer_types", layers)
    if types is not None:
        return has_experts(types)
    first = r.optional("first_k_dense_replace", 0, fr.MOST_LAYERS) or 0
    name, value, _ = r.find("moe_layer_freq")
    if isinstance(value, list):
        flags = r.sequence("moe_layer_freq", layers) or []
        if any(item not in (0, 1) for item in flags):
            raise wrong(name, value, "a list of 0 and 1 per layer belongs here")
        return [bool(item) for item in flags]
    built = r.family.moe.first_dense if r.family.moe is not None else None
    if built not in (None, first):
        why = f"transformers builds {built} such layers whatever it says, engines {first}"
        raise not_known("first_k_dense_replace", first, why, f"{built}, or mlp_layer_types")
    every = r.optional("moe_layer_freq", 1, fr.MOST_LAYERS) or 1
    if every != 1 and name not in r.family.defaults:
        why = "engines give every so many layers experts, transformers all of them"
        raise not_known(name, every, why, "1")
    return [i >= first and i % every == 0 for i in range(layers)]


def moe_layers(r: Reader, layers: int, rule: str) -> list[bool]:
    """For each layer whether it has routed experts."""
    if rule == "all":
        return [True] * layers
    if rule == "first_dense":
        return _first_dense(r, layers)
    if rule == "sparse_step":
        step = r.integer("decoder_sparse_step", 1, fr.MOST_LAYERS)
        dense = _indices(r, "mlp_only_layers", layers)
        return [i not in dense and (i + 1) % step == 0 for i in range(layers)]
    if rule == "moe_layers":
        if r.sequence("moe_layers") is not None:
            listed = _indices(r, "moe_layers", layers)
            return [i in listed for i in range(layers)]
        step = r.integer("interleave_moe_layer_step", 1, fr.MOST_LAYERS)
        return [(i + 1) % step == 0 for i in range(layers)]
    if rule == "frequency":
        step = r.integer("moe_layer_frequency", 1, fr.MOST_LAYERS)
        return [(i + 1) % step == 0 for i in range(layers)]
    assert rule == "interval", rule
    step = r.integer("moe_layer_interval", 1, fr.MOST_LAYERS)
    first = r.integer("moe_layer_start_index", 0, fr.MOST_LAYERS)
    last = r.integer("moe_layer_end_index", -1, fr.MOST_LAYERS)
    last = layers - 1 if last == -1 else last
    return [(i + 1) % step == 0 and first <= i <= last for i in range(layers)]


def routed_experts(r: Reader, mlp_bias: bool) -> Moe | None:
    """The routed experts of a layer that has them; None where the file turns them off."""
    rule = r.family.moe
    if rule is None:
        return None
    # null and 0 say that there are none, and so does a file of a family that has none by itself
    if not r.has(rule.experts) and r.family.defaults.get(rule.experts) != 0:
        raise r.absent(rule.experts, 0, fr.MOST_EXPERTS)
    count = r.uniform(rule.experts, 0, fr.MOST_EXPERTS)
    if not count:
        return None
    name, _, _ = r.find(rule.top_k)
    top_k = r.uniform(rule.top_k, 1, fr.MOST_EXPERTS)
    if top_k is None:
        top_k = r.integer(rule.top_k, 1, fr.MOST_EXPERTS)  # says that it is missing
    if top_k > count:
        raise wrong(
            name,
            top_k,
            f"a token cannot visit {top_k} of {count} experts",
            legal=f"an integer from 1 to {count}",
            nearest=count,
        )
    width = r.uniform(rule.width, 1, fr.MOST_WIDE)
    if width is None:
        width = r.integer(rule.width)
    shared = 0
    if rule.shared_count is not None:
        each = width
        if rule.shared_width is not None:
            each = r.uniform(rule.shared_width, 0, fr.MOST_WIDE) or width
        shared = (r.uniform(rule.shared_count, 0, fr.MOST_EXPERTS) or 0) * each
    elif rule.shared_width is not None:
        shared = r.optional(rule.shared_width, 0) or 0
    bias = r.flag(rule.expert_bias)
    gated = r.family.gated
    return Moe(
        experts=count,
        top_k=top_k,
        expert=Mlp(width=width, gated=gated, up_bias=bias, down_bias=bias),
        shared=Mlp(width=shared, gated=gated, up_bias=mlp_bias, down_bias=mlp_bias)
        if shared
        else None,
        shared_gate=rule.shared_gate and shared > 0,
        router_bias=rule.router_bias,
    )


def _value_width(r: Reader, heads: int) -> int:
    """Width of a value, which the classes of some families derive where a file leaves it out."""
    if "v_head_dim" in r.family.defaults and r.family.defaults["v_head_dim"] is None:
        return r.optional("v_head_dim") or r.head_width(r.integer("hidden_size"), heads)
    return r.integer("v_head_dim")


def latent_attention(r: Reader) -> Attention:
    """Multi-head latent attention (DeepSeek-V2), with V3.2's indexer where there is one."""
    heads = r.integer("num_attention_heads")
    r.unused("num_key_value_heads")  # the latent is shared: transformers does not use it
    q_rank = r.optional("q_lora_rank")
    kv_rank = r.integer("kv_lora_rank")
    rope = r.integer("qk_rope_head_dim", 0)
    bias = r.flag(r.family.query_key_bias)
    indexer = None
    if r.family.indexer:
        if q_rank is None:
            raise wrong("q_lora_rank", None, "the indexer needs a query latent", "an integer")
        index_dim = r.integer("index_head_dim")
        indexer = Indexer(
            heads=r.integer("index_n_heads"),
            head_dim=index_dim,
            top_k=r.integer("index_topk"),
            rank=q_rank,
            extra_parameters=2 * index_dim,  # a LayerNorm of its keys
        )
    return Attention(
        heads=heads,
        kv_heads=heads,
        head_dim=r.integer("qk_nope_head_dim") + rope,
        value_head_dim=_value_width(r, heads),
        output_bias=bias,
        latent_bias=bias,
        norm_parameters=(q_rank or 0) + kv_rank,
        q_lora_rank=q_rank,
        kv_lora_rank=kv_rank,
        rope_head_dim=rope,
        indexer=indexer,
    )


def self_attention(r: Reader) -> Attention:
    """Multi-head, grouped-query or multi-query attention, without its window."""
    f = r.family
    if f.mla:
        return latent_attention(r)
    hidden = r.integer("hidden_size")
    heads, kv_heads, head_dim = r.heads(hidden)
    norms = 0
    if f.query_key_norm and r.flag(f.query_key_norm_key):
        norms = 2 * head_dim if f.query_key_norm == "head" else (heads + kv_heads) * head_dim
        norms *= 1 + f.query_key_norm_bias
    bias = r.flag(f.query_key_bias)
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_head_dim=head_dim,
        query_bias=bias,
        key_bias=bias,
        value_bias=bias,
        output_bias=r.flag(f.output_bias),
        value_gate=f.value_gate,
        norm_parameters=norms + (hidden if f.sub_norms else 0),
        norms_span_heads=bool(norms) and f.query_key_norm == "wide",
        sinks=f.sinks,
    )


def windowed(a: Attention, window: int | None) -> Attention:
    """``a`` with a window."""
    if window is None:
        return a
    return msgspec.structs.replace(a, window=window)


def dense_mlp(r: Reader, mlp_bias: bool) -> Mlp:
    f = r.family
    hidden = r.integer("hidden_size")
    width = r.optional(f.dense_width)
    if width is None:
        width = f.mlp_multiple * hidden or r.integer(f.dense_width)
    return Mlp(width=width, gated=f.gated, up_bias=mlp_bias, down_bias=mlp_bias)


def distinct_blocks(blocks: Iterable[Block]) -> tuple[tuple[Block, ...], tuple[int, ...]]:
    """The distinct blocks in order of appearance, and the index of each layer's block."""
    seen: dict[Block, int] = {}
    pattern = tuple(seen.setdefault(block, len(seen)) for block in blocks)
    return tuple(seen), pattern


def scaled_positions(r: Reader, stated: int | None) -> int | None:
    """Tokens that a checkpoint's positions reach [tokens], of ``max_position_embeddings`` as ``stated``: times
    the factor where rotary angles are scaled and the file states the length before (vLLM's rule for its
    longest request: yarn from ``original_max_position_embeddings``, linear and dynamic from the stated
    length; Llama 3's, longrope and Gemma state the length after)."""
    said = r.config.get("rope_scaling") or r.config.get("rope_parameters")
    if not isinstance(said, dict):
        return stated
    how, factor = said.get("rope_type", said.get("type")), said.get("factor")
    if isinstance(factor, bool) or not isinstance(factor, (int, float)):
        return stated
    if not 1.0 < factor < fr.MOST_POSITIONS:
        return stated
    before = said.get("original_max_position_embeddings")
    if how == "yarn" and type(before) is int and before > 0:
        return min(max(int(before * factor), stated or 0), fr.MOST_POSITIONS)
    if how in ("linear", "dynamic") and stated is not None and "gemma" not in r.model_type:
        return min(int(stated * factor), fr.MOST_POSITIONS)
    return stated


def end_fields(r: Reader, vocab: str = "vocab_size") -> ModelFields:
    """The fields of a Model that are not its layers, as most families have them; ``vocab``: the key of
    the embedding's rows."""
    f = r.family
    hidden = r.integer("hidden_size")
    norm = norm_size(f.norm) * hidden
    longest = scaled_positions(r, r.optional("max_position_embeddings", 1, fr.MOST_POSITIONS))
    rows = 0
    if f.positions:
        if not r.has("max_position_embeddings"):  # a row of weights each
            raise r.absent("max_position_embeddings", 1, fr.MOST_TOKENS)
        rows = r.integer("max_position_embeddings", 1, fr.MOST_TOKENS) + f.position_offset
    return {
        "hidden": hidden,
        "vocab": r.integer(vocab, 1, fr.MOST_TOKENS),
        "tied": r.flag("tie_word_embeddings"),
        "positions": rows,
        "embedding_norm_parameters": norm if f.embedding_norm else 0,
        "final_norm_parameters": norm if f.final_norm else 0,
        "head_bias": r.flag(f.head_bias),
        "max_positions": longest,
        "dropout": f.dropout is not None and r.rate(f.dropout) > 0,
    }


def standard(r: Reader) -> ModelFields:
    """Fields of the Model of a family that :class:`Family` describes in full."""
    f: Family = r.family
    layers = r.layers()
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    mlp_bias = r.flag(f.mlp_bias)
    moe = routed_experts(r, mlp_bias)
    sparse = [False] * layers
    if f.moe is not None and moe is not None:
        sparse = moe_layers(r, layers, f.moe.layers)
    residual = f.moe is not None and f.moe.residual is not None and r.flag(f.moe.residual)
    norms = 1 if f.single_norm and r.flag(f.single_norm) else f.norms
    if f.fewer_norms and not r.flag(f.fewer_norms):
        norms //= 2
    attention = self_attention(r)
    dense = dense_mlp(r, mlp_bias) if residual is False and not all(sparse) else None
    if residual:  # Arctic: a dense MLP, as wide as the model, beside the experts
        dense = Mlp(width=r.integer(f.dense_width), gated=f.gated)
    parallel = r.flag(f.parallel)

    def block(window: int | None, is_sparse: bool) -> Block:
        mlp = None if is_sparse else dense
        own = norms * norm_size(f.norm) * hidden + f.extra
        if is_sparse and residual:
            mlp = Mlp(width=hidden, gated=f.gated)
            own += hidden
        if f.sub_norms and mlp is not None:
            own += mlp.width
        return Block(
            attention=windowed(attention, window),
            mlp=mlp,
            moe=moe if is_sparse else None,
            parallel=parallel,
            norm_parameters=own,
        )

    cache: dict[tuple[int | None, bool], Block] = {}
    order = []
    for key in zip(layer_windows(r, layers), sparse, strict=True):
        if key not in cache:
            cache[key] = block(*key)
        order.append(cache[key])
    fields["blocks"], fields["pattern"] = distinct_blocks(order)
    fields["mtp"] = next_token_layers(r, order[-1], hidden)
    return fields


def layer_integers(r: Reader, key: str, layers: int, low: int, high: int) -> list[int]:
    """A list of one integer per layer."""
    found = r.sequence(key, layers)
    if found is None:
        raise wrong(key, None, "absent or null", legal=f"a list of {layers} integers")
    return [fr.check_integer(f"{key}[{i}]", item, low, high) for i, item in enumerate(found)]


def object_of(name: str, value: object) -> dict[str, Any]:
    """``value`` if it is a JSON object."""
    if not isinstance(value, dict):
        raise wrong(name, value, f"{fr.kind(value)} ({shorten(value)}) where an object belongs")
    return value
