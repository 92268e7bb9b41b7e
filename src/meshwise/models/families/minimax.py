"""MiniMax' families: lightning attention (Text-01, M1), block-sparse attention (M3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from meshwise.models.families import keys as fr
from meshwise.models.families.gpt import size_defaults
from meshwise.models.families.hybrid import (
    LINEAR_KINDS,
    layer_kinds,
    marked_layers,
    other_variant,
    with_layers,
)
from meshwise.models.families.keys import Family, MoeKeys, Reader, not_known, wrong
from meshwise.models.families.layers import (
    ModelFields,
    end_fields,
    moe_layers,
    routed_experts,
    self_attention,
    windowed,
)
from meshwise.models.families.multi_token import next_token_layers
from meshwise.models.families.windows import window_size
from meshwise.models.layers.attention import Indexer
from meshwise.models.layers.recurrent import Recurrent
from meshwise.models.shapes import Block, Mlp

M3_KINDS = ("full_attention", "minimax_m3_sparse")


def lightning(heads: int, dim: int, norm_groups: int, norms: int = 0) -> Recurrent:
    """Lightning attention (arXiv 2401.04658): decays are fixed; one norm over all heads, or over groups of them.

    ``norms``: weights of further norms, of queries and keys.
    """
    return Recurrent(
        rule="lightning",
        heads=heads,
        value_dim=dim,
        key_heads=heads,
        key_dim=dim,
        norm_parameters=heads * dim + norms,
        norm_groups=norm_groups,
    )


def _published_kinds(r: Reader, layers: int) -> list[str] | None:
    """The publisher's own list: 0 is lightning attention, 1 attention."""
    marks = r.value("attn_type_list")
    if marks is None:
        return None
    return [
        LINEAR_KINDS[mark] for mark in marked_layers(r, "attn_type_list", marks, layers, (0, 1))
    ]


def minimax(r: Reader) -> ModelFields:
    """MiniMax-Text-01 and M1: layers of lightning attention between layers of attention, experts in each."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.layers()
    listed, published = layer_kinds(r, layers), _published_kinds(r, layers)
    if listed is not None and published is not None and listed != published:
        raise wrong("attn_type_list", None, "contradicts layer_types", legal="the same layers")
    kinds = listed or published
    if kinds is None and "attn_type_list" in r.family.defaults:
        raise wrong("attn_type_list", None, "absent", legal=f"a list of {layers} of 0 and 1")
    kinds = kinds or [LINEAR_KINDS[(i + 1) % 2] for i in range(layers)]
    attention = windowed(self_attention(r), window_size(r))
    moe = routed_experts(r, False)
    if moe is None or (moe.experts == 1 and "attn_type_list" in r.family.defaults):
        raise not_known("num_local_experts", 1, "a model without experts is not known", "2 or more")
    each = {
        LINEAR_KINDS[0]: Block(
            recurrent=lightning(attention.heads, attention.head_dim, 1),
            moe=moe,
            norm_parameters=2 * hidden,
        ),
        LINEAR_KINDS[1]: Block(attention=attention, moe=moe, norm_parameters=2 * hidden),
    }
    return with_layers(fields, [each[kind] for kind in kinds])


# the publisher's names within sparse_attention_config of what transformers has at the top
_SPARSE = {
    "index_n_heads": "sparse_num_index_heads",
    "index_head_dim": "sparse_index_dim",
    "index_block_size": "sparse_block_size",
    "index_topk_blocks": "sparse_topk_blocks",
}


def _m3_indexer(r: Reader, sparse: Mapping[str, Any]) -> Indexer:
    """Heads that each choose blocks of keys for the queries of one KV head: no weights add them up."""
    sizes = {}
    for flat, own in _SPARSE.items():
        stated = sparse.get(own)
        name = f"sparse_attention_config.{own}"
        sizes[flat] = (
            r.integer(flat) if stated is None else fr.check_integer(name, stated, 1, fr.MOST_WIDE)
        )
    return Indexer(
        heads=sizes["index_n_heads"],
        head_dim=sizes["index_head_dim"],
        top_k=sizes["index_topk_blocks"] * sizes["index_block_size"],
        weighted=False,
        block=sizes["index_block_size"],
        extra_parameters=2 * sizes["index_head_dim"],  # norms of its queries and of its keys
    )


def _m3_kinds(r: Reader, layers: int, sparse: Mapping[str, Any]) -> list[str]:
    """Which layers choose their keys: layer_types, or a mark for each in sparse_attention_config."""
    listed = layer_kinds(r, layers)
    if listed is not None:
        return listed
    name, marks = (
        "sparse_attention_config.sparse_attention_freq",
        sparse.get("sparse_attention_freq"),
    )
    if marks is None:
        return [M3_KINDS[0]] * layers
    used = sparse.get("use_sparse_attention", True)
    if used is not True:
        raise other_variant("sparse_attention_config.use_sparse_attention", used, "true")
    chosen = marked_layers(r, name, marks, layers, (0, 1))
    values = sparse.get("sparse_disable_index_value")
    if values is not None:
        name = "sparse_attention_config.sparse_disable_index_value"
        without = marked_layers(r, name, values, layers, (0, 1))
        if any(c and not w for c, w in zip(chosen, without, strict=True)):
            raise not_known(name, 0, "an indexer with values of its own is not known", "1")
    return [M3_KINDS[mark] for mark in chosen]


def minimax_m3(r: Reader) -> ModelFields:
    """MiniMax-M3: grouped queries whose KV heads each have their own choice of blocks of keys."""
    for key, known in (("qk_norm_type", "per_head"), ("use_qk_norm", True)):
        if r.value(key) not in (None, known):
            raise other_variant(key, r.value(key), str(known))
    if r.flag("attention_output_gate"):
        raise other_variant("attention_output_gate", True, "false")
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.layers()
    sparse_config = r.table("sparse_attention_config")
    kinds = _m3_kinds(r, layers, sparse_config)
    plain = self_attention(r)
    moe = routed_experts(r, False)
    if moe is None:
        raise not_known("num_local_experts", 0, "a model without experts is not known", "1 or more")
    if r.optional("n_shared_experts", 0) == 0:
        moe = msgspec.structs.replace(moe, shared=None)
    elif (r.optional("n_shared_experts", 0) or 1) != 1:
        raise other_variant("n_shared_experts", r.value("n_shared_experts"), "0, 1")
    has_experts = _m3_experts(r, layers)
    dense = Mlp(width=r.integer("dense_intermediate_size"), gated=True)
    indexed = plain
    r.used |= set(_SPARSE)  # which layers that see all keys have no use for
    if M3_KINDS[1] in kinds:
        indexed = msgspec.structs.replace(plain, indexer=_m3_indexer(r, sparse_config))

    def block(kind: str, experts: bool) -> Block:
        return Block(
            attention=indexed if kind == M3_KINDS[1] else plain,
            mlp=None if experts else dense,
            moe=moe if experts else None,
            norm_parameters=2 * hidden,
        )

    fields["mtp"] = next_token_layers(r, block(M3_KINDS[1], True), hidden)
    order = [block(*each) for each in zip(kinds, has_experts, strict=True)]
    return with_layers(fields, order)


def _m3_experts(r: Reader, layers: int) -> list[bool]:
    """Which layers have experts: all where no key says it."""
    if r.has("mlp_layer_types") or r.has("moe_layer_freq"):
        first = r.optional("first_k_dense_replace", 0, fr.MOST_LAYERS)
        found = moe_layers(r, layers, "first_dense")
        if first is not None and any(found[:first]):
            raise wrong("first_k_dense_replace", first, "contradicts moe_layer_freq",
                        legal=f"at most {found.index(True)}")  # fmt: skip
        return found
    if r.optional("first_k_dense_replace", 0, fr.MOST_LAYERS):
        return moe_layers(r, layers, "first_dense")
    return [True] * layers


_LOCAL = {"num_local_experts": ("num_experts",)}
_TEXT_01 = Family(
    words="MiniMax-01, MiniMax-M1",
    defaults=size_defaults(
        6144, 9216, 80, 64, 8, 200064, 10240000, head_dim=128, num_local_experts=32,
        num_experts_per_tok=2, shared_intermediate_size=0, sliding_window=None, attn_type_list=None,
    ),
    aliases={**_LOCAL, "attn_type_list": ("decoder_attention_types",)},
    layer_kinds=LINEAR_KINDS, build="minimax",
    moe=MoeKeys(shared_width="shared_intermediate_size", shared_gate=True),
)  # fmt: skip
_M3 = Family(
    words="MiniMax-M3",
    defaults=size_defaults(
        6144, 3072, 60, 64, 4, 200064, 524288, head_dim=128, num_local_experts=128,
        num_experts_per_tok=4, dense_intermediate_size=12288, shared_intermediate_size=3072,
        index_n_heads=4, index_head_dim=128, index_block_size=128, index_topk_blocks=16,
    ),
    aliases={**_LOCAL, "intermediate_size": ("moe_intermediate_size",)},
    query_key_norm="head", layer_kinds=M3_KINDS, build="minimax_m3", indexer=True,
    moe=MoeKeys(shared_width="shared_intermediate_size", first_dense=0),
)  # fmt: skip

MINIMAX_FAMILIES: dict[str, Family] = {
    "minimax": Family(
        words="MiniMax-01, MiniMax-M1",
        defaults=size_defaults(4096, 14336, 32, 32, 8, 32000, 131072, num_local_experts=8,
                       num_experts_per_tok=2, sliding_window=None),
        aliases=_LOCAL, layer_kinds=LINEAR_KINDS, build="minimax", moe=MoeKeys(),
    ),
    **dict.fromkeys(("minimax_text_01", "minimax_m1", "MiniMaxText01", "MiniMaxM1"), _TEXT_01),
    **dict.fromkeys(("minimax_m3", "minimax_m3_vl_text"), _M3),
}  # fmt: skip

MINIMAX_BUILDERS: dict[str, Callable[[Reader], ModelFields]] = {
    "minimax": minimax,
    "minimax_m3": minimax_m3,
}
