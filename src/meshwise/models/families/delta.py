"""Families whose linear attention follows the delta rule: Qwen3-Next, Qwen3.5, OLMo Hybrid; Kimi Linear, Kimi-K3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from meshwise import dtypes
from meshwise.models.families import keys as fr
from meshwise.models.families.gpt import size_defaults
from meshwise.models.families.hybrid import (
    LINEAR_KINDS,
    every,
    layer_kinds,
    other_variant,
    untied,
    with_layers,
)
from meshwise.models.families.keys import Family, MoeKeys, Reader, not_known, wrong
from meshwise.models.families.layers import (
    ModelFields,
    dense_mlp,
    end_fields,
    latent_attention,
    moe_layers,
    routed_experts,
    self_attention,
)
from meshwise.models.families.multi_token import next_token_layers
from meshwise.models.layers.attention import Attention
from meshwise.models.layers.recurrent import Recurrent
from meshwise.models.shapes import Adapter, Block, Mlp, Moe

_STATE_DTYPES = ("float32", "bfloat16", "float16")


def gated_delta(r: Reader) -> Recurrent:
    """Gated DeltaNet: heads of values in groups that share queries and keys, one norm over a head."""
    heads = r.integer("linear_num_value_heads")
    groups = r.integer("linear_num_key_heads")
    if heads % groups:
        raise wrong(
            "linear_num_key_heads",
            groups,
            f"{groups} heads of keys do not divide {heads} heads of values",
            legal=f"a divisor of {heads}",
        )
    value_dim = r.integer("linear_value_head_dim")
    stated = r.value("mamba_ssm_dtype") or "float32"
    if stated not in _STATE_DTYPES:
        raise wrong(
            "mamba_ssm_dtype", stated, "no format of a state", legal=", ".join(_STATE_DTYPES)
        )
    return Recurrent(
        rule="gated_delta",
        heads=heads,
        value_dim=value_dim,
        key_heads=groups,
        key_dim=r.integer("linear_key_head_dim"),
        kernel=r.integer("linear_conv_kernel_dim", 1, 1000),
        norm_parameters=value_dim,
        state_dtype=dtypes.ALIASES[stated],
    )


def qwen_hybrid(r: Reader) -> ModelFields:
    """Qwen3-Next and Qwen3.5: three layers of Gated DeltaNet, then one of gated attention."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.layers()
    if r.value("attn_output_gate") is False:
        raise not_known(
            "attn_output_gate", False, "attention without its gate is not known", "true"
        )
    interval = r.optional("full_attention_interval", 1, fr.MOST_LAYERS) or 4
    kinds = layer_kinds(r, layers) or every(layers, interval, *LINEAR_KINDS)
    moe = routed_experts(r, False)
    sparse = [False] * layers
    if r.family.moe is not None and moe is not None:
        sparse = moe_layers(r, layers, r.family.moe.layers)
    dense = None if all(sparse) else dense_mlp(r, False)
    attention = msgspec.structs.replace(self_attention(r), output_gate=True)
    recurrent = gated_delta(r) if LINEAR_KINDS[0] in kinds else None

    def block(kind: str, is_sparse: bool) -> Block:
        linear = kind == LINEAR_KINDS[0]
        return Block(
            attention=None if linear else attention,
            recurrent=recurrent if linear else None,
            mlp=None if is_sparse else dense,
            moe=moe if is_sparse else None,
            norm_parameters=2 * hidden,
        )

    last = block(LINEAR_KINDS[1], sparse[-1])
    mtp = next_token_layers(r, last, hidden, key="mtp_num_hidden_layers", own_list=True)
    if mtp is not None and r.flag("mtp_use_dedicated_embeddings"):
        own = mtp.joining_parameters + fields["vocab"] * hidden
        mtp = msgspec.structs.replace(mtp, joining_parameters=own)
    fields["mtp"] = mtp
    return with_layers(fields, [block(*each) for each in zip(kinds, sparse, strict=True)])


def qwen3_5_moe(r: Reader) -> ModelFields:
    """Qwen3.5 with experts in every layer; its files keep the key of their predecessors' dense layers."""
    if r.sequence("mlp_only_layers"):
        raise not_known(
            "mlp_only_layers", r.value("mlp_only_layers"), "dense layers are not known", "[]"
        )
    return qwen_hybrid(r)


def olmo_hybrid(r: Reader) -> ModelFields:
    """OLMo Hybrid: its attention layers norm their outputs, its linear ones their inputs."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.layers()
    kinds = layer_kinds(r, layers)
    if kinds is None:
        kinds = every(layers, 4, *LINEAR_KINDS)
        kinds[-1] = LINEAR_KINDS[1] if LINEAR_KINDS[1] not in kinds else kinds[-1]
    for kind in LINEAR_KINDS:
        if kind not in kinds:
            raise wrong("layer_types", kinds[0], f"all layers are of this kind, none {kind}",
                        legal="both kinds")  # fmt: skip
    attention, mlp = self_attention(r), dense_mlp(r, False)
    heads = r.integer("num_attention_heads")
    key_heads = r.optional("linear_num_key_heads") or heads
    key_dim = r.optional("linear_key_head_dim") or 3 * hidden // (4 * key_heads)
    value_dim = r.optional("linear_value_head_dim") or 2 * key_dim
    recurrent = Recurrent(
        rule="gated_delta",
        heads=r.optional("linear_num_value_heads") or heads,
        value_dim=value_dim,
        key_heads=key_heads,
        key_dim=key_dim,
        kernel=r.integer("linear_conv_kernel_dim", 1, 1000),
        norm_parameters=value_dim,
    )
    each = {
        LINEAR_KINDS[0]: Block(recurrent=recurrent, mlp=mlp, norm_parameters=2 * hidden),
        LINEAR_KINDS[1]: Block(attention=attention, mlp=mlp, norm_parameters=2 * hidden),
    }
    return with_layers(fields, [each[kind] for kind in kinds])


def _kimi_kinds(r: Reader, layers: int, linear: Mapping[str, Any]) -> list[str]:
    """The publisher's two lists of layers, counted from 1; each layer in one of them."""
    listed = layer_kinds(r, layers)
    if listed is not None:
        return listed
    names = ("linear_attn_config.kda_layers", "linear_attn_config.full_attn_layers")
    found = [linear.get(name.partition(".")[2]) for name in names]
    if found == [None, None]:
        return [LINEAR_KINDS[bool(i) and i % 4 == 0] for i in range(layers)]
    sets: list[set[int]] = []
    for name, numbers in zip(names, found, strict=True):
        if not isinstance(numbers, list):
            raise wrong(name, numbers, f"{fr.kind(numbers)} where a list belongs", "layers from 1")
        sets.append({fr.check_integer(name, n, 1, layers) for n in numbers})
    kda, full = sets
    both, neither = kda & full, set(range(1, layers + 1)) - kda - full
    for wrong_ones, said in ((both, "is in full_attn_layers too"), (neither, "is in neither list")):
        if wrong_ones:
            number = min(wrong_ones)
            raise wrong(names[0], number, f"layer {number} {said}", legal="each layer in one list")
    return [LINEAR_KINDS[i + 1 in full] for i in range(layers)]


def _kimi_delta(r: Reader, linear: Mapping[str, Any]) -> Recurrent:
    def size(key: str, flat: str) -> int:
        if key in linear:
            return fr.check_integer(f"linear_attn_config.{key}", linear[key], 1, fr.MOST_WIDE)
        return r.integer(flat)

    dim, heads = size("head_dim", "linear_head_dim"), size("num_heads", "linear_num_heads")
    whole = linear.get("use_full_rank_gate", False)
    if not isinstance(whole, bool):
        raise wrong("linear_attn_config.use_full_rank_gate", whole, "no boolean", "true, false")
    return kimi_delta(heads, dim, size("short_conv_kernel_size", "linear_conv_kernel_dim"),
                      rank=dim, whole_gate=whole)  # fmt: skip


def kimi_delta(heads: int, dim: int, kernel: int, *, rank: int, whole_gate: bool) -> Recurrent:
    """Kimi Delta Attention (arXiv 2510.26692): as many heads of keys as of values, one norm over a head."""
    return Recurrent(
        rule="kimi_delta",
        heads=heads,
        value_dim=dim,
        key_heads=heads,
        key_dim=dim,
        kernel=kernel,
        rank=rank,
        whole_gate=whole_gate,
        norm_parameters=dim,
    )


def _kimi_attention(r: Reader) -> Attention:
    """Latent attention without positions; Kimi-K3's has a gate as wide as its values."""
    return msgspec.structs.replace(latent_attention(r), value_gate=r.flag("mla_use_output_gate"))


def _kimi_experts(r: Reader, hidden: int) -> tuple[Moe | None, int]:
    """(experts, weights of the norm behind them): Kimi-K3's work in a width of their own."""
    moe = routed_experts(r, False)
    latent = r.optional("routed_expert_hidden_size")
    normed = r.flag("latent_moe_use_norm")
    if moe is None or latent is None:
        return moe, 0
    return msgspec.structs.replace(moe, latent=latent), latent * normed


def kimi_linear(r: Reader) -> ModelFields:
    """Kimi Linear and the language model of Kimi-K3: layers of Kimi Delta Attention and of latent attention.

    Kimi-K3's layers mix the residuals of earlier ones (attention residuals): each of its two parts has a
    norm and a product that gives one weight per earlier residual, and the model's end has one, too.
    """
    untied(r)
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.layers()
    linear = r.table("linear_attn_config")
    kinds = _kimi_kinds(r, layers, linear)
    attention = _kimi_attention(r)
    recurrent = _kimi_delta(r, linear) if LINEAR_KINDS[0] in kinds else None
    moe, latent_norm = _kimi_experts(r, hidden)
    if (r.optional("moe_layer_freq", 0, fr.MOST_LAYERS) or 1) != 1:
        raise other_variant("moe_layer_freq", r.value("moe_layer_freq"), "1")
    sparse = moe_layers(r, layers, "first_dense") if moe is not None else [False] * layers
    dense = None if all(sparse) else Mlp(width=r.integer("intermediate_size"), gated=True)
    mixes = r.optional("attn_res_block_size", 1, fr.MOST_LAYERS) is not None
    residual = Adapter(name="attention_residual", inputs=hidden, outputs=1, parameters=hidden)
    if mixes:
        fields["final_norm_parameters"] += 2 * hidden

    def block(kind: str, is_sparse: bool) -> Block:
        return Block(
            attention=attention if kind == LINEAR_KINDS[1] else None,
            recurrent=recurrent if kind == LINEAR_KINDS[0] else None,
            mlp=None if is_sparse else dense,
            moe=moe if is_sparse else None,
            norm_parameters=2 * hidden + latent_norm * is_sparse,
            adapters=(residual, residual) if mixes else (),
        )

    fields["mtp"] = next_token_layers(r, block(LINEAR_KINDS[1], sparse[-1]), hidden)
    return with_layers(fields, [block(*each) for each in zip(kinds, sparse, strict=True)])


_BIAS: dict[str, Any] = {"query_key_bias": "attention_bias", "output_bias": "attention_bias"}
_DELTA: dict[str, Any] = {"linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128,
          "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4}  # fmt: skip
_QWEN: dict[str, Any] = {
    **_BIAS,
    "words": "Qwen3-Next, Qwen3.5",
    "query_key_norm": "head",
    "layer_kinds": LINEAR_KINDS,
}
_EXPERTS = MoeKeys(
    experts="num_experts",
    width="moe_intermediate_size",
    shared_width="shared_expert_intermediate_size",
    shared_gate=True,
    layers="sparse_step",
)
_KIMI = size_defaults(
    2304, 9216, 27, 32, 32, 163840, 1048576, kv_lora_rank=512, q_lora_rank=None,
    qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128, num_experts=256,
    num_shared_experts=1, num_experts_per_tok=8, moe_intermediate_size=1024,
    first_k_dense_replace=1, linear_head_dim=128, linear_num_heads=32, linear_conv_kernel_dim=4,
)  # fmt: skip

DELTA_FAMILIES: dict[str, Family] = {
    "qwen3_next": Family(
        defaults=size_defaults(
            2048, 5632, 48, 16, 2, 151936, 32768, head_dim=256, **_DELTA, num_experts=512,
            num_experts_per_tok=10, moe_intermediate_size=512, shared_expert_intermediate_size=512,
            decoder_sparse_step=1, mlp_only_layers=None,
        ),
        aliases={"num_experts": ("num_local_experts",),
                 "mtp_num_hidden_layers": ("num_nextn_predict_layers",)},
        moe=_EXPERTS, build="qwen_hybrid", **_QWEN,
    ),
    "qwen3_5_text": Family(
        defaults=size_defaults(4096, 12288, 32, 16, 4, 248320, 32768, head_dim=256, **_DELTA),
        build="qwen_hybrid", **_QWEN,
    ),
    "qwen3_5_moe_text": Family(
        defaults=size_defaults(
            2048, None, 40, 16, 2, 248320, 32768, head_dim=256, **_DELTA, num_experts=256,
            num_experts_per_tok=8, moe_intermediate_size=512, shared_expert_intermediate_size=512,
        ),
        aliases={"num_experts": ("num_local_experts",)},
        moe=msgspec.structs.replace(_EXPERTS, layers="all"), build="qwen3_5_moe", **_QWEN,
    ),
    "olmo_hybrid": Family(
        words="OLMo Hybrid",
        defaults=size_defaults(3840, 11008, 32, 30, None, 100352, 65536, linear_conv_kernel_dim=4),
        **_BIAS, query_key_norm="wide", layer_kinds=LINEAR_KINDS, build="olmo_hybrid",
    ),
    "kimi_linear": Family(
        words="Kimi Linear, Kimi-K3",
        defaults=_KIMI,
        aliases={
            "num_experts": ("num_local_experts",), "num_shared_experts": ("n_shared_experts",),
            "num_experts_per_tok": ("num_experts_per_token",),
            "max_position_embeddings": ("model_max_length",),
        },
        query_key_bias="attention_bias", mla=True, layer_kinds=LINEAR_KINDS, build="kimi_linear",
        moe=MoeKeys(experts="num_experts", width="moe_intermediate_size",
                shared_count="num_shared_experts", layers="first_dense"),
    ),
}  # fmt: skip

DELTA_BUILDERS: dict[str, Callable[[Reader], ModelFields]] = {
    "qwen_hybrid": qwen_hybrid,
    "qwen3_5_moe": qwen3_5_moe,
    "olmo_hybrid": olmo_hybrid,
    "kimi_linear": kimi_linear,
}
