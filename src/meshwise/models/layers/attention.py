"""Self-attention of one layer, of every kind: which keys a query sees, and what is cached of them."""

from __future__ import annotations

from typing import Any

import msgspec

from meshwise.checks import MAX_PARAMETERS, a, check_fields, flags_of, optional, whole
from meshwise.strict_tables import MAX_COUNT, count


class Indexer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What chooses the keys of sparse attention (DeepSeek-V3.2): scores of narrow heads, ``top_k`` kept.

    Its queries come from the query latent, or from the layer's input where ``rank`` is None; all its
    heads share one key per position, which has a cache of its own. Replicated over TP, but for heads that
    choose for their KV head alone: these are divided as KV heads are.
    """

    heads: int
    head_dim: int
    top_k: int
    rank: int | None = (
        None  # features of the latent that its queries are made of; None: the input's
    )
    own: bool = True  # False: the choice of an earlier layer's indexer is used
    weighted: bool = (
        True  # heads' scores are added up; False: each chooses for its KV head (MiniMax-M3)
    )
    block: int = 1  # keys that are chosen together (MiniMax-M3)
    key_features: int | None = None  # that its keys are made of, where more than they have (V4)
    extra_parameters: int = 0  # weights that are none of its three projections: norms, positions

    def __post_init__(self) -> None:
        check_fields(self, _INDEXER, "indexer")


class Attention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Self-attention of one layer.

    Multi-head, grouped-query and multi-query attention have ``kv_lora_rank`` None. Multi-head
    latent attention (MLA, DeepSeek-V2, arXiv 2405.04434) has ``kv_lora_rank`` and
    ``rope_head_dim``; its ``head_dim`` is the full query/key width (no-position part + rope part).
    """

    heads: int
    kv_heads: int
    head_dim: int  # width of a query or key head
    value_head_dim: int  # width of a value head (= head_dim but for MLA)
    window: int | None = None  # keys that a query sees at most (sliding window, chunk); None = all
    query_bias: bool = False
    key_bias: bool = False
    value_bias: bool = False
    output_bias: bool = False
    norm_parameters: int = 0  # weights of query/key (or latent) norms, replicated over TP
    norms_span_heads: bool = False  # one over all heads (MiniMax, OLMo 2): TP ranks share its sums
    sinks: bool = False  # one learned logit per head (gpt-oss)
    output_gate: bool = False  # the query projection also makes a gate as wide as the queries
    q_lora_rank: int | None = None  # MLA: rank of the query compression, None = direct
    kv_lora_rank: int | None = None  # MLA: rank of the latent that the KV cache keeps
    rope_head_dim: int = 0  # MLA: width of the shared rope key
    latent_bias: bool = False  # MLA: bias on the two down-projections
    indexer: Indexer | None = None  # sparse attention: a query sees the keys that it chooses
    compress: int | None = None  # beside the window's keys, one entry for each so many positions
    compressor_features: int = 0  # that those entries are made of, by a product replicated over TP
    compressor_parameters: int = 0  # weights of what makes them beyond that product
    head_gate: bool = False  # a gate of one value per head, a projection of its own (Step 3.5)
    value_gate: bool = False  # a gate as wide as the values, a projection of its own (Kimi-K3)
    shared_kv: bool = False  # keys and values of an earlier layer: none projected, none cached
    value_projection: bool = True  # False: values are made of the keys' projection (Gemma 4)
    one_cache: bool = False  # keys serve as values, and are cached once (DeepSeek-V4)
    output_rank: int | None = (
        None  # the output's product in two steps, each group's through so many
    )
    output_groups: int = 1  # groups of heads whose outputs are compressed apart (DeepSeek-V4)
    input_width: int | None = None  # features that it reads, where not the layer's (Zamba 2)
    rotary: bool = True  # positions turn queries and keys, where none are learned

    def __post_init__(self) -> None:
        check_fields(self, _ATTENTION, "attention")
        count(self.kv_heads, "attention.kv_heads", high=self.heads, text=False)

    @property
    def mla(self) -> bool:
        return self.kv_lora_rank is not None

    @property
    def cached_width(self) -> int:
        """Values that the cache keeps per position and KV head; of MLA per position."""
        if self.kv_lora_rank is not None:
            return self.kv_lora_rank + self.rope_head_dim
        return self.head_dim + (0 if self.one_cache else self.value_head_dim)

    def local_cached_width(self, tp: Any) -> Any:
        """Values that the cache of one of ``tp`` ranks (an array, or an integer) keeps per position: KV heads
        are copied where there are fewer than ranks, MLA's latent is on every rank."""
        return self.cached_width * (1 if self.mla else -(-self.kv_heads // tp))

    def seen(self, keys: int) -> int:
        """Of ``keys`` positions those that the last query attends to: all, a window's, the chosen."""
        chosen = self.indexer.top_k if self.indexer is not None else keys
        near = min(keys, self.window or keys)
        if self.compress is not None:
            return near + min(keys // self.compress, chosen)
        return min(near, chosen)

    def cached(self, keys: int) -> int:
        """Entries that the cache keeps of ``keys`` positions: a window's, and compressed ones."""
        if self.shared_kv:
            return 0
        near = min(keys, self.window or keys)
        return near + (keys // self.compress if self.compress is not None else 0)


_SIZE = whole(1, MAX_COUNT)
_PARAMETERS = whole(0, MAX_PARAMETERS)
_ATTENTION = flags_of(Attention) | {
    **dict.fromkeys(("heads", "kv_heads", "head_dim", "value_head_dim"), _SIZE),
    **dict.fromkeys(("window", "q_lora_rank", "kv_lora_rank"), optional(whole(1, MAX_PARAMETERS))),
    **dict.fromkeys(
        ("norm_parameters", "compressor_parameters", "compressor_features"), _PARAMETERS
    ),
    **dict.fromkeys(("compress", "output_rank", "input_width"), optional(_SIZE)),
    "output_groups": _SIZE,
    "indexer": optional(a(Indexer)),
    "rope_head_dim": whole(0, MAX_COUNT),
}
_INDEXER = flags_of(Indexer) | {
    **dict.fromkeys(("heads", "head_dim", "top_k", "block"), _SIZE),
    **dict.fromkeys(("rank", "key_features"), optional(_SIZE)),
    "extra_parameters": _PARAMETERS,
}
