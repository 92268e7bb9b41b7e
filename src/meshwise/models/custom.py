"""A model from its numbers: :meth:`Model.dense`, :meth:`Model.moe` and :meth:`Model.mla`.

The numbers are read as a ``config.json`` is, by the same reader and builder of layers, under the names
of the keywords: what they count is exact, and what cannot be is refused with the keyword's name.
"""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING

from meshwise.checks import flag, keywords, text
from meshwise.errors import InputError
from meshwise.strict_tables import one_of

if TYPE_CHECKING:
    from meshwise.models.families.keys import Family, MoeKeys
    from meshwise.models.shapes import Model

NORMS = ("rms", "layer", "none")
BIASES = ("none", "qkv", "attention", "all")
QK_NORMS = ("none", "head", "wide")
_DTYPES = ("bf16", "fp16", "fp32")
# the reader's key → the keyword, which is what a refusal names
_KEYWORDS = {
    "num_hidden_layers": ("layers",),
    "hidden_size": ("hidden",),
    "num_attention_heads": ("heads",),
    "num_key_value_heads": ("kv_heads",),
    "intermediate_size": ("ffn", "dense_ffn"),
    "vocab_size": ("vocab",),
    "max_position_embeddings": ("positions", "max_positions"),
    "tie_word_embeddings": ("tied",),
    "sliding_window": ("window",),
    "first_k_dense_replace": ("first_dense",),
}


class FromNumbers:
    """The constructors of :class:`~meshwise.models.shapes.Model` that take numbers."""

    __slots__ = ()

    @staticmethod
    @keywords
    def dense(
        *,
        layers: int,
        hidden: int,
        heads: int,
        ffn: int,
        vocab: int,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        gated: bool = True,
        tied: bool = False,
        positions: int = 0,
        norm: str | None = None,
        biases: str | None = None,
        qk_norm: str = "none",
        window: int | None = None,
        max_positions: int | None = None,
        dropout: bool = False,
        dtype: str = "bf16",
        name: str | None = None,
    ) -> Model:
        """A decoder whose layers are one attention and one feed-forward.

        ``gated`` layers are Llama's (arXiv 2302.13971): gate, up and down product, RMS norms and no
        biases where nothing else is said. Others are GPT-2's: up and down product, layer norms
        (weight and bias), a bias on every product of a layer.

        :param layers: decoder layers.
        :param hidden: width of the residual stream.
        :param heads: query heads.
        :param ffn: width of the feed-forward. The usual rules, for which nothing stands in here: 4 ·
            hidden where it is not gated (GPT-2), 8/3 · hidden up to a multiple of 256 where it is
            (Llama 1).
        :param vocab: rows of the embedding table.
        :param kv_heads: key/value heads, a divisor of ``heads`` (None: as many; 1: multi-query).
        :param head_dim: width of a head (None: ``hidden / heads``).
        :param gated: whether there is a gate product beside the up product, as said above.
        :param tied: the output head is the embedding table.
        :param positions: rows of a learned table of positions (0: rotary, ALiBi or none).
        :param norm: ``"rms"`` (a weight per feature), ``"layer"`` (a bias too), ``"none"``.
        :param biases: on the products of a layer: ``"none"``, ``"qkv"`` (Qwen 2), ``"attention"``
            (and its output), ``"all"`` (and the feed-forward).
        :param qk_norm: norms of queries and keys: ``"none"``, ``"head"`` (weights as wide as a head:
            Qwen 3), ``"wide"`` (over all heads: OLMo 2).
        :param window: keys that a query sees at most, in every layer (None: all).
        :param max_positions: longest context that the model is made for (None: not stated).
        :param dropout: trained with dropout after attention and feed-forward: masks are kept.
        :param dtype: of the weights: ``"bf16"``, ``"fp16"``, ``"fp32"``.
        :param name: what answers call it (None: by its numbers).
        :raises InputError: for a number that is none, or that does not go with the others; ``field``
            is the keyword.

        >>> import meshwise as mw
        >>> model = mw.Model.dense(
        ...     layers=32, hidden=4096, heads=32, kv_heads=8, ffn=14336, vocab=128256
        ... )
        >>> mw.describe(model).parameters == mw.describe("llama-3.1-8b").parameters
        True
        """
        return _read("dense", dict(locals()))

    @staticmethod
    @keywords
    def moe(
        *,
        layers: int,
        hidden: int,
        heads: int,
        vocab: int,
        experts: int,
        experts_per_token: int,
        expert_ffn: int,
        shared_experts: int = 0,
        shared_ffn: int | None = None,
        shared_gate: bool = False,
        first_dense: int = 0,
        dense_ffn: int | None = None,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        gated: bool = True,
        tied: bool = False,
        positions: int = 0,
        norm: str | None = None,
        biases: str | None = None,
        qk_norm: str = "none",
        window: int | None = None,
        max_positions: int | None = None,
        dropout: bool = False,
        dtype: str = "bf16",
        name: str | None = None,
    ) -> Model:
        """A decoder with routed experts in the place of the feed-forward (arXiv 2101.03961).

        What :meth:`dense` takes, but for ``ffn``, and:

        :param experts: routed experts of a layer.
        :param experts_per_token: how many of them a token visits.
        :param expert_ffn: width of one routed expert.
        :param shared_experts: experts that every token visits (DeepSeekMoE, arXiv 2401.06066).
        :param shared_ffn: width of each of them (None: ``expert_ffn``).
        :param shared_gate: a gate on their output (Qwen2-MoE).
        :param first_dense: layers at the start with a dense feed-forward instead.
        :param dense_ffn: its width; needed where there are such layers.
        :raises InputError: as :meth:`dense`.

        >>> import meshwise as mw
        >>> model = mw.Model.moe(
        ...     layers=32, hidden=4096, heads=32, kv_heads=8, vocab=32000,
        ...     experts=8, experts_per_token=2, expert_ffn=14336,
        ... )
        >>> mw.describe(model).active_parameters == mw.describe("mixtral-8x7b").active_parameters
        True
        """
        return _read("moe", dict(locals()))

    @staticmethod
    @keywords
    def mla(
        *,
        layers: int,
        hidden: int,
        heads: int,
        vocab: int,
        kv_lora_rank: int,
        qk_nope_head_dim: int,
        qk_rope_head_dim: int,
        v_head_dim: int,
        q_lora_rank: int | None = None,
        ffn: int | None = None,
        experts: int | None = None,
        experts_per_token: int | None = None,
        expert_ffn: int | None = None,
        shared_experts: int = 0,
        shared_ffn: int | None = None,
        shared_gate: bool = False,
        first_dense: int = 0,
        dense_ffn: int | None = None,
        gated: bool = True,
        tied: bool = False,
        positions: int = 0,
        norm: str | None = None,
        biases: str | None = None,
        max_positions: int | None = None,
        dropout: bool = False,
        dtype: str = "bf16",
        name: str | None = None,
    ) -> Model:
        """A decoder with multi-head latent attention (DeepSeek-V2, arXiv 2405.04434), dense (``ffn``)
        or with experts (the keywords of :meth:`moe`).

        :param kv_lora_rank: width of the latent that the KV cache keeps.
        :param q_lora_rank: width of the queries' latent (None: queries are projected directly).
        :param qk_nope_head_dim: width of a query and key head without its rotary part.
        :param qk_rope_head_dim: width of the rotary part; one key for all heads.
        :param v_head_dim: width of a value head.
        :raises InputError: as :meth:`dense`.

        >>> import meshwise as mw
        >>> model = mw.Model.mla(
        ...     layers=27, hidden=2048, heads=16, vocab=102400, kv_lora_rank=512,
        ...     qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128,
        ...     experts=64, experts_per_token=6, expert_ffn=1408, shared_experts=2,
        ...     first_dense=1, dense_ffn=10944,
        ... )
        >>> mw.describe(model).parameters == mw.describe("deepseek-v2-lite").parameters
        True
        """
        return _read("mla", dict(locals()))


def _read(kind: str, given: dict[str, object]) -> Model:
    """The model that the keywords of a constructor describe."""
    from meshwise.models.families.keys import Reader
    from meshwise.models.families.layers import standard
    from meshwise.models.shapes import Model

    dtype = one_of(given.pop("dtype"), "dtype", _DTYPES)
    own = given.pop("name")
    config = {key: _whole(value) for key, value in given.items()}
    family = _family(kind, config)
    fields = standard(Reader(config, family, f"Model.{kind}"))
    if family.moe is not None and not any(block.moe for block in fields["blocks"]):
        raise _refuse(config, "first_dense", "leaves no layer with experts", "fewer than layers")
    named = text(own, "name") if own is not None else _name(kind, config)
    source = f"the numbers given to Model.{kind}"
    return Model(name=named, model_type="custom", dtype=dtype, source=source, **fields)


def _whole(value: object) -> object:
    """A whole number of another type, such as numpy's, as an int; all else for the reader to judge."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _name(kind: str, config: dict[str, object]) -> str:
    routed = f"-{config['experts']}e" if config.get("experts") else ""
    return f"{kind}-{config['layers']}l-{config['hidden']}h-{config['heads']}a{routed}"


def _family(kind: str, config: dict[str, object]) -> Family:
    """The family that the words among the keywords describe; they are taken out of ``config``."""
    from meshwise.models.families.keys import MOST_TOKENS, Family, check_integer

    gated = flag(config.pop("gated"), "gated")
    norm, biases = config.pop("norm"), config.pop("biases")
    norm = ("rms" if gated else "layer") if norm is None else norm
    biases = ("none" if gated else "all") if biases is None else biases
    one_of(biases, "biases", [b for b in BIASES if kind != "mla" or b != "qkv"])
    qk_norm = one_of(config.pop("qk_norm", "none"), "qk_norm", QK_NORMS)
    if flag(config.pop("dropout"), "dropout"):
        config["dropout_rate"] = 0.5  # any: that masks are kept is what counts
    flag(config["tied"], "tied")
    rows = check_integer("positions", config["positions"], 0, MOST_TOKENS)
    if rows == 0:
        del config["positions"]
    return Family(
        words="custom",
        defaults={},
        aliases=_KEYWORDS,
        norm=one_of(norm, "norm", NORMS),
        query_key_bias=biases != "none",
        output_bias=biases in ("attention", "all"),
        gated=gated,
        mlp_bias=biases == "all",
        query_key_norm="" if qk_norm == "none" else qk_norm,
        mla=kind == "mla",
        positions=rows > 0,
        window="all",
        dropout="dropout_rate",
        moe=_experts(kind, config, biases == "all"),
    )


def _experts(kind: str, config: dict[str, object], bias: bool) -> MoeKeys | None:
    """How the keywords describe experts; None where there are none, and nothing may describe them."""
    from meshwise.models.families.keys import MOST_EXPERTS, MOST_WIDE, MoeKeys, check_integer

    if kind == "dense":
        return None
    gate = flag(config.pop("shared_gate"), "shared_gate")
    # no experts: nothing may say anything of them
    if kind == "mla" and config["experts"] is None:
        for key in ("experts_per_token", "expert_ffn", "shared_experts", "shared_ffn"):
            _without(config, key, "there are no experts", "experts")
        for key in ("first_dense", "dense_ffn"):
            _without(config, key, "there are no experts: every layer is dense", "ffn")
        if gate:
            raise _refuse({"shared_gate": gate}, "shared_gate", "there are no experts", "False")
        return None
    if config.pop("ffn", None) is not None:
        why = "layers with experts have none; those before them have dense_ffn"
        raise _refuse({}, "ffn", why, "expert_ffn, first_dense and dense_ffn", "dense_ffn")
    # their numbers and widths in range
    for key in ("experts", "experts_per_token", "shared_experts", "first_dense"):
        least = 1 if key.startswith("experts") else 0
        check_integer(key, config[key], least, MOST_EXPERTS)
    for key in ("expert_ffn", "shared_ffn"):
        if key == "expert_ffn" or config[key] is not None:
            check_integer(key, config[key], 1, MOST_WIDE)
    # nothing of dense layers or shared experts where there are none
    if not config["first_dense"]:
        _without(config, "dense_ffn", "no layer is dense", "first_dense")
    if not config["shared_experts"]:
        _without(config, "shared_ffn", "there are no shared experts", "shared_experts")
        if gate:
            raise _refuse(
                {"shared_gate": gate}, "shared_gate", "there are no shared experts", "False"
            )
    return MoeKeys(
        experts="experts",
        top_k="experts_per_token",
        width="expert_ffn",
        shared_count="shared_experts",
        shared_width="shared_ffn",
        shared_gate=gate,
        layers="first_dense",
        expert_bias=bias,
    )


def _without(config: dict[str, object], key: str, why: str, needs: str) -> None:
    """Refuse a number that nothing would read."""
    value = config[key]
    if not (value is None or (type(value) is int and value == 0)):
        raise _refuse(config, key, why, f"leave {key} out, or say {needs} too", needs)
    del config[key]


def _refuse(
    config: dict[str, object], key: str, why: str, legal: str, nearest: str | None = None
) -> InputError:
    return InputError(
        f"{key}: {why}", field=key, value=config.get(key), legal=legal, nearest=nearest
    )
