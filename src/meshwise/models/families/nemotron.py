"""Nemotron-H and Nemotron 3: layers that are one of Mamba 2, attention, MLP and experts."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from meshwise.errors import shorten
from meshwise.models.families import keys as fr
from meshwise.models.families.gpt import size_defaults
from meshwise.models.families.hybrid import named_kinds
from meshwise.models.families.keys import Family, Reader, not_known, wrong
from meshwise.models.families.layers import ModelFields, distinct_blocks, end_fields
from meshwise.models.families.state_space import (
    ATTENTION_LAYER,
    MAMBA_LAYER,
    MIXER_NAMES,
    expert_choice,
    grouped_attention,
    mamba2,
)
from meshwise.models.shapes import Block, Mlp, Moe, MultiToken

_MLP, _EXPERTS = "mlp", "experts"
_NAMES = {**MIXER_NAMES, "mlp": _MLP, "moe": _EXPERTS}
_LETTERS = {"M": MAMBA_LAYER, "*": ATTENTION_LAYER, "-": _MLP, "E": _EXPERTS}
_STATES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


def _letters(r: Reader, key: str) -> list[str] | None:
    """Kinds of layers from a pattern of letters."""
    value = r.value(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise wrong(key, value, f"{fr.kind(value)} where a pattern of letters belongs",
                    legal="letters M (Mamba), * (attention), - (MLP), E (experts)")  # fmt: skip
    strange = next((letter for letter in value if letter not in _LETTERS), None)
    if strange is not None:
        raise not_known(key, strange, f"no layer of kind {strange!r} is known",
                        "letters M (Mamba), * (attention), - (MLP), E (experts)")  # fmt: skip
    return [_LETTERS[letter] for letter in value]


def _pattern(r: Reader, letters: str, listed: str) -> list[str] | None:
    """Kinds of layers from a pattern of letters or a list; where both stand, they have to agree."""
    one, other = _letters(r, letters), named_kinds(r, listed, _NAMES)
    if one is not None and other is not None and one != other:
        raise wrong(listed, len(other), f"contradicts {letters}: they describe the same layers",
                    legal=f"the layers of {letters}")  # fmt: skip
    return one if other is None else other


def nemotron_h(r: Reader) -> ModelFields:
    """Nemotron-H and Nemotron 3 (arXiv 2504.03624): a layer is one of Mamba 2, attention, MLP, experts.

    Experts may work in a latent of ``moe_latent_size`` features (Nemotron 3 Super). What its class
    reads and does not build from (biases of attention, ``expand``) is not counted.
    """
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    fields["tied"] = False  # its class has two tables whatever the file says; so have engines
    order = _pattern(r, "hybrid_override_pattern", "layers_block_type")
    if order is None:
        raise wrong("hybrid_override_pattern", None, "absent, and so is layers_block_type",
                    legal="a pattern of letters M, *, -, E, or a list of kinds")  # fmt: skip
    layers = r.optional("num_hidden_layers", 1, fr.MOST_LAYERS)
    if layers not in (None, len(order)):
        raise wrong("num_hidden_layers", layers, f"the layers' pattern has {len(order)}",
                    legal=f"{len(order)}", nearest=len(order))  # fmt: skip
    found = {kind: _nemotron_h_block(r, hidden, kind) for kind in dict.fromkeys(order)}
    fields["blocks"], fields["pattern"] = distinct_blocks(found[kind] for kind in order)
    depths = r.optional("num_nextn_predict_layers", 0, fr.MOST_LAYERS) or 0
    drafted = _pattern(r, "mtp_hybrid_override_pattern", "mtp_layers_block_type")
    if depths:
        blocks = [
            found.get(kind) or _nemotron_h_block(r, hidden, kind)
            for kind in (drafted or [ATTENTION_LAYER, _EXPERTS]) * depths
        ]
        # norms of the embedding and of the hidden state, their product, and a norm at the end
        fields["mtp"] = MultiToken(
            blocks=tuple(blocks),
            joining_parameters=2 * hidden * hidden + 3 * hidden,
            depths=depths,
            own_list=True,
        )
    r.used |= {"n_shared_experts", "n_routed_experts", "num_local_experts", "ssm_state_size"}
    return fields


def _nemotron_h_block(r: Reader, hidden: int, kind: str) -> Block:
    """One layer of a kind, behind its norm."""
    mlp_bias = r.flag("mlp_bias")
    if kind == _MLP:
        width = r.integer("intermediate_size")
        mlp = Mlp(width=width, gated=False, up_bias=mlp_bias, down_bias=mlp_bias)
        return Block(mlp=mlp, norm_parameters=hidden)
    if kind == _EXPERTS:
        return Block(moe=_nemotron_h_experts(r, mlp_bias), norm_parameters=hidden)
    if kind == ATTENTION_LAYER:
        name, width, _ = r.find("head_dim")
        if name == "attention_head_dim" and width != 128:  # how its first files call it
            raise not_known(name, width, "transformers does not read it, and builds 128", "128")
        attention = grouped_attention(r, hidden, rotary=False)
        return Block(attention=attention, norm_parameters=hidden)
    mixer = mamba2(
        r,
        r.integer("mamba_num_heads"),
        r.integer("mamba_head_dim"),
        r.integer("mamba_n_groups"),
        r.integer("ssm_state_size"),
        bias=r.flag("use_bias"),
    )
    kept = r.value("mamba_ssm_cache_dtype")
    if kept is not None and (not isinstance(kept, str) or kept not in _STATES):
        raise wrong("mamba_ssm_cache_dtype", kept, f"{shorten(kept)} is no dtype of states",
                    legal=", ".join(_STATES))  # fmt: skip
    mixer = msgspec.structs.replace(mixer, state_dtype=_STATES[kept or "float32"])
    return Block(recurrent=mixer, norm_parameters=hidden)


def _nemotron_h_experts(r: Reader, mlp_bias: bool) -> Moe:
    """Routed experts, and one shared MLP on the layer's own width."""
    shared = r.optional("n_shared_experts", 0, fr.MOST_EXPERTS)
    if shared not in (None, 1):
        raise not_known("n_shared_experts", shared, "transformers builds one, vLLM as many", "1")
    return Moe(
        **expert_choice(r, "n_routed_experts"),
        expert=Mlp(width=r.integer("moe_intermediate_size"), gated=False),
        shared=Mlp(
            width=r.integer("moe_shared_expert_intermediate_size"),
            gated=False,
            up_bias=mlp_bias,
            down_bias=mlp_bias,
        ),
        latent=r.optional("moe_latent_size"),
        latent_bias=mlp_bias,
    )


_NEMOTRON_H = size_defaults(
    4096, 21504, 4, 32, 8, 131072, 4096, head_dim=128, ssm_state_size=128, mamba_num_heads=128,
    mamba_head_dim=64, mamba_n_groups=8, mamba_d_conv=4, mamba_conv_bias=True, n_routed_experts=8,
    moe_intermediate_size=7688, num_experts_per_tok=2, moe_shared_expert_intermediate_size=7688,
)  # fmt: skip
NEMOTRON_FAMILIES: dict[str, Family] = {
    "nemotron_h": Family(
        words="Nemotron-H, Nemotron 3",
        defaults=_NEMOTRON_H | {"num_hidden_layers": None},  # as many as its pattern has
        aliases={
            "head_dim": ("attention_head_dim",),
            "mamba_n_groups": ("n_groups",),
            "mamba_d_conv": ("conv_kernel",),
            "mamba_conv_bias": ("use_conv_bias",),
            "mamba_chunk_size": ("chunk_size",),
            "layers_block_type": ("layer_types",),
            "n_routed_experts": ("num_local_experts",),
        },
        layer_kinds=tuple(_NAMES), build="nemotron_h",
    ),
}  # fmt: skip
NEMOTRON_BUILDERS: dict[str, Callable[[Reader], ModelFields]] = {"nemotron_h": nemotron_h}
