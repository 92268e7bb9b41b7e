"""Model types with state-space layers (Mamba 1 and 2) beside attention: Jamba, Bamba, Falcon-H1, Granite 4.0, PLaMo 2.

Each layer is a mixer and a feed-forward; which one a layer has stands in a list of kinds, a list of
indices, or a period. Nemotron-H's, whose layers are one of them, are in ``nemotron``, Zamba's in ``zamba``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from meshwise.models.families import keys as fr
from meshwise.models.families.gpt import size_defaults
from meshwise.models.families.hybrid import named_kinds
from meshwise.models.families.keys import Family, Reader, wrong
from meshwise.models.families.layers import (
    ModelFields,
    distinct_blocks,
    end_fields,
    plain_attention,
)
from meshwise.models.layers.attention import Attention
from meshwise.models.layers.recurrent import Recurrent
from meshwise.models.shapes import Block, Mlp, Moe

MAMBA_LAYER, ATTENTION_LAYER = "mamba", "attention"
MIXER_NAMES = {
    "mamba": MAMBA_LAYER,
    "mamba2": MAMBA_LAYER,
    "linear_attention": MAMBA_LAYER,
    "attention": ATTENTION_LAYER,
    "full_attention": ATTENTION_LAYER,
}


def mamba2(
    r: Reader,
    heads: int,
    width: int,
    groups: int,
    states: int,
    *,
    bias: bool = False,
    output_bias: bool | None = None,
    normed: bool = True,
) -> Recurrent:
    """A Mamba 2 mixer of ``heads`` heads of ``width`` channels; its gated norm spans each group of heads.

    ``bias``: of the projection into it, and out of it where ``output_bias`` does not say.
    """
    groups_key = r.find("mamba_n_groups")[0]
    if heads % groups:
        raise wrong(groups_key, groups, f"{groups} groups do not divide {heads} Mamba heads",
                    legal=f"a divisor of {heads}")  # fmt: skip
    return Recurrent(
        rule="mamba2",
        heads=heads,
        value_dim=width,
        key_heads=groups,
        key_dim=states,
        kernel=r.integer("mamba_d_conv"),
        conv_bias=r.flag("mamba_conv_bias"),
        input_bias=bias,
        output_bias=bias if output_bias is None else output_bias,
        norm_parameters=heads * width if normed else 0,
        norm_groups=groups if normed else 0,
        chunk=r.optional("mamba_chunk_size"),
    )


def head_width(r: Reader, inner: int, heads: int) -> int:
    """Channels of a Mamba head: stated, or ("auto") its share of ``inner``; they have to agree."""
    name, stated, _ = r.find("mamba_d_head")
    if inner % heads:
        raise wrong(r.find("mamba_n_heads")[0], heads,
                    f"{heads} Mamba heads do not divide {inner} channels",
                    legal=f"a divisor of {inner}")  # fmt: skip
    if stated in (None, "auto"):
        return inner // heads
    width = fr.check_integer(name, stated, 1, fr.MOST_WIDE)
    if width * heads != inner:
        raise wrong(name, width, f"{heads} Mamba heads of {width} channels are not {inner}",
                    legal=f'{inner // heads}, "auto"', nearest=inner // heads)  # fmt: skip
    return width


def mamba1(r: Reader, hidden: int, *, normed: bool) -> Recurrent:
    """A Mamba 1 mixer; ``normed``: its step, B and C are normed (Jamba)."""
    inner = r.integer("mamba_expand", 1, 1000) * hidden
    states = r.integer("mamba_d_state")
    rank = r.value("mamba_dt_rank")
    if rank == "auto":
        rank = -(-hidden // 16)
        r.find("mamba_dt_rank")
    else:
        rank = r.integer("mamba_dt_rank")
    bias = r.flag("mamba_proj_bias")
    return Recurrent(
        rule="mamba",
        heads=inner,
        key_dim=states,
        kernel=r.integer("mamba_d_conv"),
        conv_bias=r.flag("mamba_conv_bias"),
        input_bias=bias,
        output_bias=bias,
        rank=rank,
        norm_parameters=rank + 2 * states if normed else 0,
    )


def grouped_attention(
    r: Reader, hidden: int, *, bias: bool = False, rotary: bool = True
) -> Attention:
    """Grouped-query attention without norms."""
    heads, kv_heads, head_dim = r.heads(hidden)
    found = plain_attention(heads, kv_heads, head_dim, bias, bias)
    return found if rotary else msgspec.structs.replace(found, rotary=False)


def expert_choice(r: Reader, key: str) -> dict[str, Any]:
    """How many experts a layer has, and how many of them a token visits."""
    count, top_k = r.integer(key, 1, fr.MOST_EXPERTS), r.integer("num_experts_per_tok")
    if top_k > count:
        raise wrong("num_experts_per_tok", top_k,
                    f"a token cannot visit {top_k} of {count} experts",
                    legal=f"an integer from 1 to {count}", nearest=count)  # fmt: skip
    return {"experts": count, "top_k": top_k}


def jamba(r: Reader) -> ModelFields:
    """Jamba (arXiv 2403.19887): every period-th layer attends, the others are Mamba 1; experts in turn."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.layers()

    def in_turn(name: str) -> list[bool]:
        period = r.integer(f"{name}_layer_period", 1, fr.MOST_LAYERS)
        offset = r.integer(f"{name}_layer_offset", 0, fr.MOST_LAYERS)
        if offset >= period:
            raise wrong(f"{name}_layer_offset", offset, f"has to be less than the period {period}",
                        legal=f"0 to {period - 1}", nearest=period - 1)  # fmt: skip
        return [i % period == offset for i in range(layers)]

    dense = Mlp(width=r.integer("intermediate_size"), gated=True)
    count = r.integer("num_experts", 1, fr.MOST_EXPERTS)
    sparse = in_turn("expert") if count > 1 else [False] * layers
    moe = Moe(**expert_choice(r, "num_experts"), expert=dense) if any(sparse) else None
    attention = grouped_attention(r, hidden, rotary=False)
    mixer = mamba1(r, hidden, normed=True)
    fields["blocks"], fields["pattern"] = distinct_blocks(
        Block(
            attention=attention if attends else None,
            recurrent=None if attends else mixer,
            mlp=None if has_experts else dense,
            moe=moe if has_experts else None,
            norm_parameters=2 * hidden,
        )
        for attends, has_experts in zip(in_turn("attn"), sparse, strict=True)
    )
    r.used |= {"num_local_experts"}
    return fields


def _mixer_of_inner(r: Reader, inner: int, **more: Any) -> Recurrent:
    """A Mamba 2 mixer over ``inner`` channels, under the keys of Bamba and its like."""
    heads = r.integer("mamba_n_heads")
    return mamba2(
        r,
        heads,
        head_width(r, inner, heads),
        r.integer("mamba_n_groups"),
        r.integer("mamba_d_state"),
        bias=r.flag("mamba_proj_bias"),
        **more,
    )


def _gated_mlp(r: Reader) -> Mlp:
    bias = r.flag("mlp_bias")
    return Mlp(width=r.integer("intermediate_size"), gated=True, up_bias=bias, down_bias=bias)


def bamba(r: Reader) -> ModelFields:
    """Bamba: Mamba 2, and attention in the layers of ``attn_layer_indices``."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.layers()
    listed = r.sequence("attn_layer_indices") or []
    attends = {fr.check_integer("attn_layer_indices", i, 0, max(layers - 1, 0)) for i in listed}
    attention = grouped_attention(r, hidden, bias=r.flag("attention_bias"))
    mixer = _mixer_of_inner(r, r.integer("mamba_expand", 1, 1000) * hidden)
    mlp = _gated_mlp(r)
    fields["blocks"], fields["pattern"] = distinct_blocks(
        Block(
            attention=attention if i in attends else None,
            recurrent=None if i in attends else mixer,
            mlp=mlp,
            norm_parameters=2 * hidden,
        )
        for i in range(layers)
    )
    return fields


def falcon_h1(r: Reader) -> ModelFields:
    """Falcon-H1 (arXiv 2507.22448): attention and Mamba 2 side by side in every layer."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    inner = r.optional("mamba_d_ssm") or r.integer("mamba_expand", 1, 1000) * hidden
    block = Block(
        attention=grouped_attention(r, hidden, bias=r.flag("attention_bias")),
        recurrent=_mixer_of_inner(
            r, inner, output_bias=r.flag("projectors_bias"), normed=r.flag("mamba_rms_norm")
        ),
        mlp=_gated_mlp(r),
        norm_parameters=2 * hidden,
    )
    layers = r.layers()
    fields["blocks"], fields["pattern"] = (block,), (0,) * layers
    return fields


def granite_hybrid(r: Reader) -> ModelFields:
    """Granite 4.0: Mamba 2 or attention by ``layer_types``, a shared MLP, and experts where it has some."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.layers()
    order = named_kinds(r, "layer_types", MIXER_NAMES, layers)
    if order is None:
        raise wrong("layer_types", None, "absent or null",
                    legal=f"a list of {layers} kinds: mamba, attention")  # fmt: skip
    shared = Mlp(width=r.integer("shared_intermediate_size"), gated=True)
    moe = None
    if r.optional("num_local_experts", 0, fr.MOST_EXPERTS):
        moe = Moe(
            **expert_choice(r, "num_local_experts"),
            expert=Mlp(width=r.integer("intermediate_size"), gated=True),
            shared=shared,
        )
    attention = mixer = None
    if ATTENTION_LAYER in order:
        rope = r.value("position_embedding_type") == "rope"
        attention = grouped_attention(r, hidden, bias=r.flag("attention_bias"), rotary=rope)
    if MAMBA_LAYER in order:
        mixer = _mixer_of_inner(r, r.integer("mamba_expand", 1, 1000) * hidden)
    r.used |= {"mamba_d_state"}  # stands in files without a Mamba layer, too
    fields["blocks"], fields["pattern"] = distinct_blocks(
        Block(
            attention=attention if kind == ATTENTION_LAYER else None,
            recurrent=mixer if kind == MAMBA_LAYER else None,
            mlp=shared if moe is None else None,
            moe=moe,
            norm_parameters=2 * hidden,
        )
        for kind in order
    )
    return fields


def plamo2(r: Reader) -> ModelFields:
    """PLaMo 2 (publisher's code, arXiv 2509.04897): in turn Mamba 2, whose selection is made of its channels as
    Mamba 1's is, and attention; norms in front of each part and behind it, and of each query and key head.
    """
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.layers()
    step = r.integer("mamba_step", 2, fr.MOST_LAYERS)
    attends = [i % step == step // 2 for i in range(layers)]
    if layers <= step // 2:
        attends = [i == layers - 1 for i in range(layers)]
    if not r.flag("mamba_enabled"):
        attends = [True] * layers
    heads, kv_heads, width = r.heads(hidden)
    attention = msgspec.structs.replace(
        plain_attention(heads, kv_heads, width), norm_parameters=(heads + kv_heads) * width
    )
    states, rank = r.integer("mamba_d_state"), max(64, hidden // 16)
    mixer = Recurrent(
        rule="mamba2",
        heads=r.integer("mamba_num_heads"),
        value_dim=width,
        key_dim=states,
        kernel=r.integer("mamba_d_conv"),
        rank=rank,
        norm_parameters=rank + 2 * states,
        chunk=r.optional("mamba_chunk_size"),
    )
    mlp = Mlp(width=r.integer("intermediate_size"), gated=True)
    fields["blocks"], fields["pattern"] = distinct_blocks(
        Block(
            attention=attention if here else None,
            recurrent=None if here else mixer,
            mlp=mlp,
            norm_parameters=4 * hidden,
        )
        for here in attends
    )
    return fields


_MAMBA2: dict[str, Any] = {
    "mamba_n_heads": 128, "mamba_d_head": "auto", "mamba_n_groups": 1, "mamba_d_state": 256,
    "mamba_d_conv": 4, "mamba_expand": 2, "mamba_conv_bias": True,
}  # fmt: skip
STATE_SPACE_FAMILIES: dict[str, Family] = {
    "jamba": Family(
        words="Jamba",
        defaults=size_defaults(
            4096, 14336, 32, 32, 8, 65536, 262144, num_experts=16, num_experts_per_tok=2,
            expert_layer_period=2, expert_layer_offset=1, attn_layer_period=8, attn_layer_offset=4,
            mamba_d_state=16, mamba_d_conv=4, mamba_expand=2, mamba_dt_rank="auto",
            mamba_conv_bias=True,
        ),
        aliases={"num_experts": ("num_local_experts",)},
        build="jamba",
    ),
    "bamba": Family(
        words="Bamba",
        defaults=size_defaults(4096, 14336, 32, 32, 8, 128000, 262144, **_MAMBA2),
        build="bamba",
    ),
    "falcon_h1": Family(
        words="Falcon-H1",
        defaults=size_defaults(
            4096, 14336, 32, 32, 8, 128000, 8192, **_MAMBA2, mamba_d_ssm=1024,
        ),
        build="falcon_h1",
    ),
    "granitemoehybrid": Family(
        words="Granite 4.0",
        defaults=size_defaults(
            4096, 11008, 32, 32, None, 32000, 2048, **_MAMBA2, num_local_experts=8,
            num_experts_per_tok=2, shared_intermediate_size=1024,
        ),
        aliases={"layer_types": ("layers_block_type",)},
        layer_kinds=tuple(MIXER_NAMES), build="granite_hybrid",
    ),
    "plamo2": Family(
        words="PLaMo 2",
        defaults=size_defaults(
            4096, 13312, 32, 32, None, 32000, 2048, True, 128, mamba_num_heads=64, mamba_d_state=64,
            mamba_d_conv=4, mamba_step=2, mamba_enabled=True,
        ),
        aliases={"head_dim": ("hidden_size_per_head",)},
        build="plamo2",
    ),
}  # fmt: skip
STATE_SPACE_BUILDERS: dict[str, Callable[[Reader], ModelFields]] = {
    "jamba": jamba,
    "bamba": bamba,
    "falcon_h1": falcon_h1,
    "granite_hybrid": granite_hybrid,
    "plamo2": plamo2,
}
