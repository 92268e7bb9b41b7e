"""Sparse and compressed attention: DeepSeek-V3.2 and V4, GLM-5."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from meshwise.errors import shorten
from meshwise.models.families import keys as fr
from meshwise.models.families.experts import DEEPSEEK
from meshwise.models.families.gpt import size_defaults
from meshwise.models.families.keys import Family, MoeKeys, Reader, not_known, wrong
from meshwise.models.families.layers import (
    ModelFields,
    distinct_blocks,
    end_fields,
    routed_experts,
    standard,
)
from meshwise.models.families.multi_token import next_token_layers, own_indexer
from meshwise.models.layers.attention import Attention, Indexer
from meshwise.models.shapes import Adapter, Block

# layers of DeepSeek-V4, by the positions that one compressed entry stands for (0: none is made)
_COMPRESSED = {0: "sliding_attention", 4: "compressed_sparse_attention",
               128: "heavily_compressed_attention"}  # fmt: skip
_V4_LAYERS = tuple(_COMPRESSED.values())


def marks_of(r: Reader, key: str, letters: dict[str, str], layers: int) -> list[str] | None:
    """A mark per layer, spelt out or as letters; None where the key is absent or null."""
    name, value, _ = r.find(key)
    if value is None:
        return None
    found = list_of(name, value)
    if len(found) != layers:
        raise wrong(name, len(found), f"describes {len(found)} layers of {layers}",
                    legal=f"{layers} entries", nearest=layers)  # fmt: skip
    spelt = [letters.get(m, m) if isinstance(m, str) else m for m in found]
    for mark in spelt:
        if not isinstance(mark, str) or mark not in letters.values():
            raise not_known(name, mark, f"{shorten(mark)} is not known",
                            ", ".join(sorted(letters.values())))  # fmt: skip
    return [str(mark) for mark in spelt]


def list_of(key: str, value: object) -> list[object]:
    """The entries of a list, or the letters of a string."""
    if not isinstance(value, (list, str)):
        raise wrong(key, value, f"{fr.kind(value)} where a list belongs", legal="a list")
    return list(value)


def _own_indexers(r: Reader, layers: int) -> list[bool]:
    """For each layer of a GLM-5 whether it chooses keys itself; the others take the last choice."""
    letters = {"F": "full", "S": "shared"}
    stated = marks_of(r, "indexer_types", letters, layers)
    pattern = marks_of(r, "index_topk_pattern", letters, layers)
    if stated is not None and pattern is not None and stated != pattern:
        raise wrong("index_topk_pattern", pattern, "contradicts indexer_types",
                    legal="the same marks")  # fmt: skip
    marks = stated if stated is not None else pattern
    every = r.optional("index_topk_freq", 0, fr.MOST_LAYERS) or 1
    offset = r.optional("index_skip_topk_offset", 0, fr.MOST_LAYERS)
    if marks is not None:
        own = [mark == "full" for mark in marks]
    else:
        start = 2 if offset is None else offset
        own = [max(i - start + 1, 0) % every == 0 for i in range(layers)]
    if not own[0]:
        raise wrong("indexer_types", "shared", "the first layer has no earlier choice to share",
                    legal="full")  # fmt: skip
    return own


def sharing(block: Block) -> Block:
    """``block`` whose attention sees the keys that an earlier layer's indexer has chosen."""
    assert block.attention is not None and block.attention.indexer is not None
    indexer = msgspec.structs.replace(block.attention.indexer, own=False)
    return msgspec.structs.replace(
        block, attention=msgspec.structs.replace(block.attention, indexer=indexer)
    )


def glm_moe_dsa(r: Reader) -> ModelFields:
    """GLM-5: sparse attention, whose layers share indexers since 5.2."""
    fields = standard(r)
    pattern: tuple[int, ...] = fields["pattern"]
    blocks: tuple[Block, ...] = fields["blocks"]
    own = _own_indexers(r, len(pattern))
    fields["blocks"], fields["pattern"] = distinct_blocks(
        blocks[kind] if mine else sharing(blocks[kind])
        for kind, mine in zip(pattern, own, strict=True)
    )
    if fields["mtp"] is not None:
        mtp = fields["mtp"]
        alone = tuple(own_indexer(block) for block in mtp.blocks)
        fields["mtp"] = msgspec.structs.replace(mtp, blocks=alone)
    r.flag("index_share_for_mtp_iteration")
    return fields


def _v4_types(r: Reader, layers: int, rates: dict[str, int]) -> list[str]:
    """Kind of each layer: stated, or by its ratio of compression. Lists may go on over the layers of
    multi-token prediction, which its class cuts off."""
    ratios = r.sequence("compress_ratios")
    by_ratio = None
    if ratios is not None:
        by_ratio = []
        for ratio in ratios:
            if type(ratio) is not int or ratio not in _COMPRESSED:
                raise not_known("compress_ratios", ratio, f"{shorten(ratio)} is not known",
                                ", ".join(map(str, _COMPRESSED)))  # fmt: skip
            by_ratio.append(_COMPRESSED[ratio])
        if len(by_ratio) < layers:
            raise wrong("compress_ratios", len(by_ratio),
                        f"describes {len(by_ratio)} layers of {layers}",
                        legal=f"at least {layers} entries", nearest=layers)  # fmt: skip
    types = r.sequence("layer_types")
    if types is None:
        if by_ratio is not None:
            return by_ratio
        rest = [_V4_LAYERS[1 if i % 2 else 2] for i in range(max(layers - 2, 0))]
        return [_V4_LAYERS[2]] * min(layers, 2) + rest
    if len(types) < layers:
        raise wrong("layer_types", len(types), f"describes {len(types)} layers of {layers}",
                    legal=f"at least {layers} entries", nearest=layers)  # fmt: skip
    for kind in types:
        if kind not in _V4_LAYERS:
            raise not_known("layer_types", kind, f"no layer of kind {shorten(kind)} is known",
                            ", ".join(_V4_LAYERS))  # fmt: skip
    if by_ratio is not None and by_ratio[:layers] != types[:layers]:
        raise wrong("compress_ratios", ratios, "contradicts layer_types", legal="the same layers")
    return list(types)


def _v4_rates(r: Reader) -> dict[str, int]:
    """Positions that one compressed entry stands for, by kind of layer."""
    rates = {kind: ratio for ratio, kind in _COMPRESSED.items() if ratio}
    for kind, value in r.table("compress_rates").items():
        if kind not in rates:
            raise not_known("compress_rates", kind, f"{shorten(kind)} is not known",
                            ", ".join(rates))  # fmt: skip
        rates[kind] = fr.check_integer(f"compress_rates.{kind}", value, 1, 10**6)
    for key, kind in (("compress_rate_csa", _V4_LAYERS[1]), ("compress_rate_hca", _V4_LAYERS[2])):
        rates[kind] = r.optional(key, 1, 10**6) or rates[kind]
    return rates


def _v4_attention(r: Reader, kind: str, rate: int | None) -> Attention:
    """One key that is its value too, in a window; and compressed entries of what is before it."""
    heads = r.integer("num_attention_heads")
    width, rank = r.integer("head_dim"), r.integer("q_lora_rank")
    groups = r.integer("o_groups")
    if heads * width % groups:
        raise wrong("o_groups", groups, f"does not divide {heads} heads of {width}",
                    legal=f"a divisor of {heads * width}")  # fmt: skip
    indexer, compressor, more = None, 0, 0
    if kind == _V4_LAYERS[1]:
        # two overlapping series of entries, each with a gate; the indexer's keys likewise
        index = r.integer("index_head_dim")
        compressor = 4 * width
        assert rate is not None
        more = 2 * rate * width + width
        indexer = Indexer(
            heads=r.integer("index_n_heads"),
            head_dim=index,
            top_k=r.integer("index_topk"),
            rank=rank,
            key_features=4 * index,
            extra_parameters=2 * rate * index + index,
        )
    elif kind == _V4_LAYERS[2]:
        assert rate is not None
        compressor, more = 2 * width, rate * width + width
    return Attention(
        heads=heads,
        kv_heads=1,
        head_dim=width,
        value_head_dim=width,
        window=r.integer("sliding_window", 1, fr.MOST_POSITIONS),
        norm_parameters=rank + width,
        sinks=True,
        q_lora_rank=rank,
        rope_head_dim=min(r.optional("qk_rope_head_dim", 0) or 0, width),
        indexer=indexer,
        compress=rate,
        compressor_features=compressor,
        compressor_parameters=more,
        one_cache=True,
        output_rank=r.integer("o_lora_rank"),
        output_groups=groups,
    )


def mixing(streams: int, hidden: int) -> tuple[Adapter, ...]:
    """What mixes the copies of the residual before attention and before the experts (manifold-constrained
    hyper-connections, arXiv 2512.24880): a weight for each copy in, out, and from copy to copy."""
    outputs = (2 + streams) * streams
    return tuple(
        Adapter(
            name=f"{part}_mixing", inputs=streams * hidden, outputs=outputs, parameters=outputs + 3
        )
        for part in ("attention", "feed_forward")
    )


def deepseek_v4(r: Reader) -> ModelFields:
    """DeepSeek-V4: windows beside compressed entries, several residual streams, experts everywhere."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.layers()
    r.optional("num_key_value_heads")  # there is one
    if r.optional("n_shared_experts", 0, 1000) not in (None, 1):
        raise not_known("n_shared_experts", r.value("n_shared_experts"), "one is what it has", "1")
    marks = r.sequence("mlp_layer_types")
    for mark in marks or ():  # experts chosen by the token alone, or by its hidden state
        if mark not in ("hash_moe", "moe"):
            raise not_known(
                "mlp_layer_types", mark, f"{shorten(mark)} is not known", "hash_moe, moe"
            )
    if marks is not None and len(marks) < layers:
        raise wrong("mlp_layer_types", len(marks), f"describes {len(marks)} layers of {layers}",
                    legal=f"{layers} entries", nearest=layers)  # fmt: skip
    r.optional("num_hash_layers", 0, fr.MOST_LAYERS)
    moe = routed_experts(r, r.flag("mlp_bias"))
    if moe is None:
        raise wrong("n_routed_experts", r.value("n_routed_experts"), "every layer has experts",
                    legal=f"an integer from 1 to {fr.MOST_EXPERTS}")  # fmt: skip
    streams = r.integer("hc_mult", 1, 100)
    rates = _v4_rates(r)
    types = _v4_types(r, layers, rates)
    r.used |= {"index_n_heads", "index_head_dim", "index_topk"}  # of what compressed layers it has
    cache: dict[str, Block] = {}

    def block(kind: str) -> Block:
        if kind not in cache:
            cache[kind] = Block(
                attention=_v4_attention(r, kind, rates.get(kind)),
                moe=moe,
                norm_parameters=2 * hidden,
                adapters=mixing(streams, hidden),
            )
        return cache[kind]

    fields["blocks"], fields["pattern"] = distinct_blocks(block(kind) for kind in types[:layers])
    fields["residual_streams"] = streams
    # all copies into one, before the head
    collapse = Adapter(name="collapse", inputs=streams * hidden, outputs=streams,
                       parameters=streams + 1)  # fmt: skip
    fields["adapters"] = (collapse,)
    joining = 2 * hidden * hidden + 3 * hidden + streams * streams * hidden + streams + 1
    after = types[layers] if len(types) > layers else _V4_LAYERS[0]
    fields["mtp"] = next_token_layers(r, block(after), hidden, joining, own_list=True)
    return fields


_MLA: dict[str, Any] = {"kv_lora_rank": 512, "qk_rope_head_dim": 64}
_V32 = size_defaults(
    7168, 18432, 61, 128, None, 129280, 163840, **_MLA, q_lora_rank=1536, qk_nope_head_dim=128,
    v_head_dim=128, n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=8,
    moe_intermediate_size=2048, first_k_dense_replace=3, index_n_heads=64, index_head_dim=128,
    index_topk=2048,
)  # fmt: skip
_GLM5 = size_defaults(
    6144, 12288, 78, 64, 64, 154880, 202752, **_MLA, q_lora_rank=2048, qk_nope_head_dim=192,
    v_head_dim=256, n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=8,
    moe_intermediate_size=2048, first_k_dense_replace=3, index_n_heads=32, index_head_dim=128,
    index_topk=2048,
)  # fmt: skip
_V4 = size_defaults(
    4096, None, 43, 64, 1, 129280, 1048576, False, 512, q_lora_rank=1024, moe_intermediate_size=2048,
    n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=6, sliding_window=128, o_groups=8,
    o_lora_rank=1024, index_n_heads=64, index_head_dim=128, index_topk=512, hc_mult=4,
    qk_rope_head_dim=64,
)  # fmt: skip
_SPARSE: dict[str, Any] = {**DEEPSEEK, "indexer": True}
_DEEPSEEK_V4 = Family(
    words="DeepSeek 1–4", defaults=_V4, build="deepseek_v4", layer_kinds=_V4_LAYERS,
    aliases={"n_routed_experts": ("num_local_experts",),
             "moe_intermediate_size": ("intermediate_size",)},
    moe=MoeKeys(experts="n_routed_experts", width="moe_intermediate_size",
                shared_count="n_shared_experts"),
)  # fmt: skip
SPARSE_FAMILIES: dict[str, Family] = {
    "deepseek_v32": Family(words="DeepSeek 1–4", defaults=_V32, **_SPARSE),
    "glm_moe_dsa": Family(words="GLM-4.5, GLM-5", defaults=_GLM5, **_SPARSE, build="glm_moe_dsa"),
    "deepseek_v4": _DEEPSEEK_V4,
    "deepseek_ref": _DEEPSEEK_V4,  # as SGLang's FP8 files of it say
}  # fmt: skip

SPARSE_BUILDERS: dict[str, Callable[[Reader], ModelFields]] = {
    "glm_moe_dsa": glm_moe_dsa,
    "deepseek_v4": deepseek_v4,
}
