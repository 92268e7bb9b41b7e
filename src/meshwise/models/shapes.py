"""What a causal language model is made of: shapes only, no weights, no framework.

A :class:`Model` is a short list of distinct :class:`Block` kinds and the order in which its layers
use them. Everything that meshwise counts (parameters, FLOPs, bytes) is computed from these shapes.
"""

from __future__ import annotations

import msgspec

from meshwise import dtypes
from meshwise.checks import (
    MAX_PARAMETERS,
    Check,
    a,
    among,
    check_fields,
    flag,
    number,
    optional,
    text,
    tuple_of,
    whole,
)
from meshwise.models.custom import FromNumbers
from meshwise.strict_tables import MAX_COUNT, count


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
    indexer_parameters: int = 0  # sparse attention's indexer (DeepSeek-V3.2), replicated over TP

    def __post_init__(self) -> None:
        check_fields(self, _ATTENTION, "attention")
        count(self.kv_heads, "attention.kv_heads", high=self.heads, text=False)

    @property
    def mla(self) -> bool:
        return self.kv_lora_rank is not None


class Mlp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A dense feed-forward: up (and gate) to ``width``, back down to the hidden size."""

    width: int
    gated: bool
    up_bias: bool = False
    down_bias: bool = False

    def __post_init__(self) -> None:
        check_fields(self, _MLP, "mlp")


class Moe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Routed experts, ``top_k`` of ``experts`` per token, each an :class:`Mlp`; and shared ones."""

    experts: int
    top_k: int
    expert: Mlp
    shared: Mlp | None = None  # all shared experts as one MLP of their summed width
    shared_gate: bool = False  # a hidden -> 1 gate on the shared expert (Qwen2-MoE)
    router_bias: bool = False  # a trained bias of the router (correction buffers do not count)

    def __post_init__(self) -> None:
        check_fields(self, _MOE, "moe")
        count(self.top_k, "moe.top_k", high=self.experts, text=False)


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

    def __post_init__(self) -> None:
        check_fields(self, _STORED, "stored")


_STORED: dict[str, Check] = {
    "dtype": among(*dtypes.ELEMENT_BYTES, "unknown"),
    "group": optional(whole(1, MAX_COUNT)),
    "block": optional(tuple_of(whole(1, MAX_COUNT), "size")),
    "weight_only": flag,
    "scale": optional(number(0.0, MAX_COUNT)),
}


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

    def __post_init__(self) -> None:
        check_fields(self, _FORMATS, "stored")


_FORMATS: dict[str, Check] = dict.fromkeys(LayerFormats.__struct_fields__, optional(a(Stored)))
UNQUANTISED = LayerFormats()


class Block(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of decoder layer. A part that is None does not exist in it."""

    attention: Attention | None
    mlp: Mlp | None = None
    moe: Moe | None = None  # with ``mlp`` too (Arctic): both run on the same input and are added
    parallel: bool = False  # attention and feed-forward read the same input; outputs are added
    norm_parameters: int = 0  # weights (and biases) of the layer's norms, replicated over TP
    stored: LayerFormats = UNQUANTISED

    def __post_init__(self) -> None:
        check_fields(self, _BLOCK, "block")


class Quantization(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a checkpoint stores its weights; which matrix how: ``Block.stored``, and the two ends here.

    ``weight_dtype``, ``group``, ``block`` and ``scale`` are those of most of its weights.
    """

    method: str  # quant_method as the checkpoint names it
    weight_dtype: str  # int4, int8, fp8, mxfp4, nvfp4
    group: int | None = None
    block: tuple[int, int] | None = None
    scale: float | None = None  # as in Stored
    weight_only: bool = False
    kv_cache_dtype: str | None = None
    embedding: Stored | None = None  # None: Model.dtype
    head: Stored | None = None

    def __post_init__(self) -> None:
        check_fields(self, _QUANTIZATION, "quantization")


class Tower(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An encoder of images or sounds beside the language model, or what joins it to that.

    ``split`` of its ``parameters`` are divided where tensor parallelism divides its ``heads``.
    """

    name: str  # model type of the encoder
    kind: str  # vision, audio, projector
    parameters: int
    layers: int = 0
    hidden: int = 0
    heads: int = 1
    split: int = 0
    block: str = ""  # key of the configuration that describes it
    unstated: tuple[str, ...] = ()  # sizes that the file leaves to the encoder's class

    def __post_init__(self) -> None:
        check_fields(self, _TOWER, "tower")
        count(self.split, "tower.split", low=0, high=self.parameters, text=False)


class Model(msgspec.Struct, FromNumbers, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A decoder-only language model: shapes, from which everything is counted.

    Made by :func:`meshwise.model`, by :meth:`dense`, :meth:`moe` and :meth:`mla` from numbers, or part
    by part from :class:`Block`.

    :param name: what answers call it.
    :param model_type: as its ``config.json`` names the architecture.
    :param hidden: width of the residual stream.
    :param vocab: rows of the embedding table.
    :param blocks: the distinct kinds of layer.
    :param pattern: for each layer, in order, the index of its kind in ``blocks``.
    :param tied: the output head is the embedding table.
    :param embedding_dim: width of the table where it is narrower than ``hidden`` (OPT-350m).
    :param positions: rows of a learned table of positions (0: rotary, ALiBi, none).
    :param embedding_norm_parameters: weights of a norm after the embedding.
    :param final_norm_parameters: weights of the norm before the head.
    :param head_bias: the head has a bias.
    :param max_positions: longest context that it was made for [tokens].
    :param dropout: trained with dropout after attention and feed-forward: masks are kept.
    :param dtype: number format of the weights that are not quantised.
    :param quantization: how the checkpoint stores its weights.
    :param towers: encoders of images and sounds, and their projectors: not in ``blocks``.
    :param towers_not_counted: names of encoders that it has and whose weights nobody has counted.
    :param source: where the configuration is from.
    :param asked: the name that was given, where this is a preset of the same architecture.
    :raises InputError: for a field that is not what it has to be; ``field`` is ``model.…``.

    >>> import meshwise as mw
    >>> mw.model("gpt2").pattern == (0,) * 12
    True
    """

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
    towers: tuple[Tower, ...] = ()
    towers_not_counted: tuple[str, ...] = ()
    source: str = ""
    asked: str = ""  # the name that was given, where this is a preset of the same architecture

    def __post_init__(self) -> None:
        check_fields(self, _MODEL, "model")
        for kind in set(self.pattern):
            count(kind, "model.pattern", low=0, high=len(self.blocks) - 1, text=False)

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


_SIZE = whole(1, MAX_COUNT)
_PARAMETERS = whole(0, MAX_PARAMETERS)


def _flags(struct: type[msgspec.Struct]) -> dict[str, Check]:
    """A rule for every field that is true or false."""
    return {name: flag for name, kind in struct.__annotations__.items() if kind == "bool"}


def _or_none(rule: Check) -> Check:
    """The rule, for a tuple that may be empty."""
    return lambda value, field: () if value == () else rule(value, field)


_ATTENTION = _flags(Attention) | {
    **dict.fromkeys(("heads", "kv_heads", "head_dim", "value_head_dim"), _SIZE),
    **dict.fromkeys(("window", "q_lora_rank", "kv_lora_rank"), optional(whole(1, MAX_PARAMETERS))),
    **dict.fromkeys(("norm_parameters", "indexer_parameters"), _PARAMETERS),
    "rope_head_dim": whole(0, MAX_COUNT),
}
_MLP = _flags(Mlp) | {"width": _SIZE}
_MOE = _flags(Moe) | {
    "experts": _SIZE,
    "top_k": _SIZE,
    "expert": a(Mlp),
    "shared": optional(a(Mlp)),
}
_BLOCK = _flags(Block) | {
    "attention": optional(a(Attention)),
    "mlp": optional(a(Mlp)),
    "moe": optional(a(Moe)),
    "norm_parameters": _PARAMETERS,
    "stored": a(LayerFormats),
}
_TOWER: dict[str, Check] = {
    **dict.fromkeys(("name", "block"), text),
    "kind": among("vision", "audio", "projector"),
    **dict.fromkeys(("parameters", "split"), _PARAMETERS),
    **dict.fromkeys(("layers", "hidden"), whole(0, MAX_COUNT)),
    "heads": _SIZE,
    "unstated": _or_none(tuple_of(text, "key")),
}
_QUANTIZATION = _flags(Quantization) | {
    "method": text,
    "weight_dtype": among(*dtypes.ELEMENT_BYTES, "unknown"),
    "group": optional(whole(1, MAX_COUNT)),
    "block": optional(tuple_of(_SIZE, "size")),
    "scale": optional(number(0.0, MAX_COUNT)),
    "kv_cache_dtype": optional(among(*dtypes.ELEMENT_BYTES)),
    **dict.fromkeys(("embedding", "head"), optional(a(Stored))),
}
_MODEL = _flags(Model) | {
    **dict.fromkeys(("name", "model_type", "source", "asked"), text),
    **dict.fromkeys(("hidden", "vocab"), _SIZE),
    "blocks": tuple_of(a(Block), "Block"),
    "pattern": tuple_of(whole(0, MAX_COUNT), "index of a block"),
    "embedding_dim": optional(_SIZE),
    "positions": _PARAMETERS,
    "embedding_norm_parameters": _PARAMETERS,
    "final_norm_parameters": _PARAMETERS,
    "max_positions": optional(whole(1, MAX_PARAMETERS)),
    "dtype": among(*dtypes.ELEMENT_BYTES),
    "quantization": optional(a(Quantization)),
    "towers": _or_none(tuple_of(a(Tower), "Tower")),
    "towers_not_counted": _or_none(tuple_of(text, "name")),
}
