"""What a causal language model is made of: shapes only, no weights, no framework.

A :class:`Model` is a short list of distinct :class:`Block` kinds and the order in which its layers
use them. Everything that meshwise counts (parameters, FLOPs, bytes) is computed from these shapes.
"""

from __future__ import annotations

import msgspec


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
    sinks: bool = False  # one learned logit per head (gpt-oss)
    output_gate: bool = False  # the query projection also makes a gate as wide as the queries
    q_lora_rank: int | None = None  # MLA: rank of the query compression, None = direct
    kv_lora_rank: int | None = None  # MLA: rank of the latent that the KV cache keeps
    rope_head_dim: int = 0  # MLA: width of the shared rope key
    latent_bias: bool = False  # MLA: bias on the two down-projections
    indexer_parameters: int = 0  # sparse attention's indexer (DeepSeek-V3.2), replicated over TP

    @property
    def mla(self) -> bool:
        return self.kv_lora_rank is not None


class Mlp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A dense feed-forward: up (and gate) to ``width``, back down to the hidden size."""

    width: int
    gated: bool
    up_bias: bool = False
    down_bias: bool = False


class Moe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Routed experts, ``top_k`` of ``experts`` per token, each an :class:`Mlp`; and shared ones."""

    experts: int
    top_k: int
    expert: Mlp
    shared: Mlp | None = None  # all shared experts as one MLP of their summed width
    shared_gate: bool = False  # a hidden -> 1 gate on the shared expert (Qwen2-MoE)
    router_bias: bool = False  # a trained bias of the router (correction buffers do not count)


class Stored(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a weight matrix is stored.

    ``group`` is the number of input features that share a scale (AWQ, GPTQ, MXFP4); ``block`` the
    (output, input) block of FP8 block scales.
    """

    dtype: str  # int4, int8, fp8, mxfp4, nvfp4, …; "unknown" where the file does not say it
    group: int | None = None
    block: tuple[int, int] | None = None
    weight_only: bool = False  # 16-bit activations multiply with it: it is widened in the product
    scale: float | None = None  # bytes per group (scale and offset), where not the format's usual


class LayerFormats(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How each matrix of a layer is stored; None: as ``Model.dtype``, like all that is no matrix."""

    attention: Stored | None = None  # all projections but the output's
    output: Stored | None = None
    up: Stored | None = None  # of a dense feed-forward, gate included
    down: Stored | None = None
    shared_up: Stored | None = None
    shared_down: Stored | None = None
    expert_up: Stored | None = None
    expert_down: Stored | None = None


UNQUANTISED = LayerFormats()


class Block(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of decoder layer. A part that is None does not exist in it."""

    attention: Attention | None
    mlp: Mlp | None = None
    moe: Moe | None = None  # with ``mlp`` too (Arctic): both run on the same input and are added
    parallel: bool = False  # attention and feed-forward read the same input; outputs are added
    norm_parameters: int = 0  # weights (and biases) of the layer's norms, replicated over TP
    stored: LayerFormats = UNQUANTISED


class Quantization(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a checkpoint stores its weights; which matrix how: ``Block.stored``, and the two ends here.

    ``weight_dtype``, ``group`` and ``block`` are those of most of its weights.
    """

    method: str  # quant_method as the checkpoint names it
    weight_dtype: str  # int4, int8, fp8, mxfp4, nvfp4
    group: int | None = None
    block: tuple[int, int] | None = None
    weight_only: bool = False
    kv_cache_dtype: str | None = None
    embedding: Stored | None = None  # None: Model.dtype
    head: Stored | None = None


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A decoder-only language model."""

    name: str
    model_type: str
    hidden: int
    vocab: int
    blocks: tuple[Block, ...]  # the distinct layer kinds
    pattern: tuple[int, ...]  # for each layer, in order, the index of its kind in ``blocks``
    tied: bool  # the output head is the embedding table
    embedding_dim: int | None = None  # where the table is narrower than ``hidden`` (OPT-350m)
    positions: int = 0  # rows of a learned position table (0 = rotary, ALiBi, none)
    embedding_norm_parameters: int = 0
    final_norm_parameters: int = 0
    head_bias: bool = False
    max_positions: int | None = None  # context length the checkpoint was made for
    dropout: bool = False  # trained with dropout after attention and feed-forward (masks are kept)
    dtype: str = "bf16"  # of the unquantised weights
    quantization: Quantization | None = None
    source: str = ""
    asked: str = ""  # the name that was given, where this is a preset of the same architecture

    @property
    def layers(self) -> int:
        return len(self.pattern)

    @property
    def least_kv_heads(self) -> int | None:
        """KV heads of the layers that have fewest; None where no layer keeps keys by head (MLA)."""
        found = [b.attention for b in self.blocks if b.attention and not b.attention.mla]
        return min((a.kv_heads for a in found), default=None)

    def kind_counts(self) -> tuple[int, ...]:
        """How many layers are of each kind, aligned with ``blocks``."""
        return tuple(self.pattern.count(i) for i in range(len(self.blocks)))
