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
    flags_of,
    number,
    optional,
    text,
    tuple_of,
    whole,
)
from meshwise.models.checkpoint_contents import CheckpointContents
from meshwise.models.custom import FromNumbers
from meshwise.models.layers.attention import Attention
from meshwise.models.layers.recurrent import Recurrent
from meshwise.strict_tables import MAX_COUNT, count


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
    latent: int | None = None  # width in which routed experts work, where not the layer's
    latent_bias: bool = False  # of the two projections into that width and back
    router_parameters: int = 0  # further weights of the router (a norm, scales), on every rank
    zero_experts: int = 0  # further choices of the router that have no weights (LongCat)
    vision: Mlp | None = (
        None  # as many experts again, with a router, for images' tokens (ERNIE 4.5 VL)
    )

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
    mean_bytes: float | None = (
        None  # per weight, all included: of several formats, or as a file states
    )

    def __post_init__(self) -> None:
        check_fields(self, _STORED, "stored")

    @property
    def element_bytes(self) -> float:
        """Bytes per weight, scales included; of a format that is known."""
        if self.mean_bytes is not None:
            return self.mean_bytes
        return dtypes.stored_bytes(self.dtype, self.group, self.scale, self.block)


_STORED: dict[str, Check] = {
    "dtype": among(*dtypes.ELEMENT_BYTES, "unknown"),
    "group": optional(whole(1, MAX_COUNT)),
    "block": optional(tuple_of(whole(1, MAX_COUNT), "size")),
    "weight_only": flag,
    "scale": optional(number(0.0, MAX_COUNT)),
    "mean_bytes": optional(number(0.0, MAX_COUNT)),
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
    recurrent: Stored | None = None  # all projections of a recurrent mixer but the output's
    recurrent_output: Stored | None = None

    def __post_init__(self) -> None:
        check_fields(self, _FORMATS, "stored")


_FORMATS: dict[str, Check] = dict.fromkeys(LayerFormats.__struct_fields__, optional(a(Stored)))
UNQUANTISED = LayerFormats()


class Adapter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A further small product of a layer, on every rank whole: per-layer inputs, low-rank residuals,
    mixing of residual streams, LoRA."""

    name: str
    inputs: int
    outputs: int
    parameters: int = 0  # its weights beyond the matrix: norms, biases, scales

    def __post_init__(self) -> None:
        check_fields(self, _ADAPTER, "adapter")


class Block(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of decoder layer. A part that is None does not exist in it."""

    attention: Attention | None = None
    recurrent: Recurrent | None = (
        None  # with ``attention`` too: both read the same input (Falcon-H1)
    )
    mlp: Mlp | None = None
    moe: Moe | None = None  # with ``mlp`` too (Arctic): both run on the same input and are added
    parallel: bool = False  # attention and feed-forward read the same input; outputs are added
    norm_parameters: int = 0  # weights (and biases) of the layer's norms, replicated over TP
    stored: LayerFormats = UNQUANTISED
    adapters: tuple[Adapter, ...] = ()
    shared: bool = (
        False  # all layers of this kind have one set of weights, but for adapters (Zamba)
    )

    def __post_init__(self) -> None:
        check_fields(self, _BLOCK, "block")


class MultiToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Multi-token-prediction layers (DeepSeek-V3, arXiv 2412.19437, 2.2): not the language model's own.

    A depth joins the last hidden state and the next token's embedding (``joining_parameters``: norms
    and a product of twice the width), then runs a layer; embedding and head are the model's.
    """

    blocks: tuple[Block, ...]  # a layer each
    joining_parameters: int = 0  # of one depth
    depths: int = 1
    own_list: bool = (
        False  # checkpoints have them in a list of their own, not behind the last layer
    )

    def __post_init__(self) -> None:
        check_fields(self, _MULTI_TOKEN, "mtp")


class Quantization(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a checkpoint stores its weights; which matrix how: ``Block.stored``, and the two ends here.

    ``weight_dtype``, ``group``, ``block``, ``scale`` and ``mean_bytes`` are those of most of its weights.
    """

    method: str  # quant_method as the checkpoint names it
    weight_dtype: str  # int4, int8, fp8, mxfp4, nvfp4
    group: int | None = None
    block: tuple[int, int] | None = None
    scale: float | None = None  # as in Stored
    mean_bytes: float | None = None  # as in Stored
    weight_only: bool = False
    kv_cache_dtype: str | None = None
    embedding: Stored | None = None  # None: Model.dtype
    head: Stored | None = None

    def __post_init__(self) -> None:
        check_fields(self, _QUANTIZATION, "quantization")

    @property
    def weights(self) -> Stored:
        """The format of most of its weights."""
        return Stored(
            dtype=self.weight_dtype,
            group=self.group,
            block=self.block,
            scale=self.scale,
            mean_bytes=self.mean_bytes,
            weight_only=self.weight_only,
        )


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
    stored: Stored | None = None  # how its matrices are stored; None: as Model.dtype
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
    :param residual_streams: copies of the residual that layers mix (hyper-connections).
    :param layer_embedding: width of a table of embeddings per layer (Gemma 3n), 0: none.
    :param layer_embedding_rows: its rows.
    :param adapters: further small products at its ends, once for each token, on every rank whole.
    :param mtp: multi-token-prediction layers, which are not counted in the parameters.
    :param dtype: number format of the weights that are not quantised.
    :param quantization: how the checkpoint stores its weights.
    :param towers: encoders of images and sounds, and their projectors: not in ``blocks``.
    :param towers_not_counted: names of encoders that it has and whose weights nobody has counted.
    :param source: where the configuration is from.
    :param asked: what it was taken as: the name that was given, where this is a preset of the same
        architecture; whose sizes a file leaves out.
    :param checkpoint: what the files beside its ``config.json`` hold, where there are any.
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
    residual_streams: int = 1  # copies of the residual that layers mix (hyper-connections)
    layer_embedding: int = 0  # width of a table of embeddings per layer (Gemma 3n, 4); 0: none
    layer_embedding_rows: int = 0  # its rows
    adapters: tuple[Adapter, ...] = ()  # small products of the model's ends (Gemma 3n, DeepSeek-V4)
    mtp: MultiToken | None = None  # multi-token prediction, beside the language model
    dtype: str = "bf16"  # of the unquantised weights
    quantization: Quantization | None = None
    towers: tuple[Tower, ...] = ()
    towers_not_counted: tuple[str, ...] = ()
    source: str = ""
    asked: str = ""  # the name that was given, or whose sizes a file leaves out
    checkpoint: CheckpointContents | None = None  # what the files beside its config.json hold

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


_MLP = flags_of(Mlp) | {"width": _SIZE}
_MOE = flags_of(Moe) | {
    "experts": _SIZE,
    "top_k": _SIZE,
    "expert": a(Mlp),
    "shared": optional(a(Mlp)),
    "latent": optional(_SIZE),
    "router_parameters": _PARAMETERS,
    "zero_experts": whole(0, MAX_COUNT),
    "vision": optional(a(Mlp)),
}
_ADAPTER: dict[str, Check] = {
    "name": text,
    **dict.fromkeys(("inputs", "outputs"), _SIZE),
    "parameters": _PARAMETERS,
}
_BLOCK = flags_of(Block) | {
    "attention": optional(a(Attention)),
    "mlp": optional(a(Mlp)),
    "moe": optional(a(Moe)),
    "norm_parameters": _PARAMETERS,
    "stored": a(LayerFormats),
    "recurrent": optional(a(Recurrent)),
    "adapters": tuple_of(a(Adapter), "Adapter", least=0),
}
_MULTI_TOKEN: dict[str, Check] = flags_of(MultiToken) | {
    "blocks": tuple_of(a(Block), "Block"),
    "joining_parameters": _PARAMETERS,
    "depths": whole(1, MAX_COUNT),
}
_TOWER: dict[str, Check] = {
    **dict.fromkeys(("name", "block"), text),
    "kind": among("vision", "audio", "projector"),
    **dict.fromkeys(("parameters", "split"), _PARAMETERS),
    **dict.fromkeys(("layers", "hidden"), whole(0, MAX_COUNT)),
    "heads": _SIZE,
    "stored": optional(a(Stored)),
    "unstated": tuple_of(text, "key", least=0),
}
_QUANTIZATION = flags_of(Quantization) | {
    "method": text,
    "weight_dtype": among(*dtypes.ELEMENT_BYTES, "unknown"),
    "group": optional(whole(1, MAX_COUNT)),
    "block": optional(tuple_of(_SIZE, "size")),
    **dict.fromkeys(("scale", "mean_bytes"), optional(number(0.0, MAX_COUNT))),
    "kv_cache_dtype": optional(among(*dtypes.ELEMENT_BYTES)),
    **dict.fromkeys(("embedding", "head"), optional(a(Stored))),
}
_MODEL = flags_of(Model) | {
    **dict.fromkeys(("name", "model_type", "source", "asked"), text),
    **dict.fromkeys(("hidden", "vocab"), _SIZE),
    "blocks": tuple_of(a(Block), "Block"),
    "pattern": tuple_of(whole(0, MAX_COUNT), "index of a block"),
    "embedding_dim": optional(_SIZE),
    "positions": _PARAMETERS,
    "embedding_norm_parameters": _PARAMETERS,
    "final_norm_parameters": _PARAMETERS,
    **dict.fromkeys(("layer_embedding", "layer_embedding_rows"), _PARAMETERS),
    "residual_streams": whole(1, 1000),
    "adapters": tuple_of(a(Adapter), "Adapter", least=0),
    "mtp": optional(a(MultiToken)),
    "max_positions": optional(whole(1, MAX_PARAMETERS)),
    "dtype": among(*dtypes.ELEMENT_BYTES),
    "quantization": optional(a(Quantization)),
    "towers": tuple_of(a(Tower), "Tower", least=0),
    "towers_not_counted": tuple_of(text, "name", least=0),
    "checkpoint": optional(a(msgspec.Struct)),
}
