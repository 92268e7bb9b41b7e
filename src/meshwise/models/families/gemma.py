"""Gemma 3n and 4: heads of two sizes, shared keys and values, embeddings per layer, experts beside an MLP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshwise.errors import shorten
from meshwise.models.families import keys as fr
from meshwise.models.families.gpt import size_defaults
from meshwise.models.families.keys import Family, MoeKeys, Reader, not_known, wrong
from meshwise.models.families.layers import (
    ModelFields,
    distinct_blocks,
    end_fields,
    layer_integers,
    object_of,
    routed_experts,
)
from meshwise.models.layers.attention import Attention
from meshwise.models.shapes import Adapter, Block, Mlp, Moe

_FULL, _SLIDING = "full_attention", "sliding_attention"


def _types(r: Reader, layers: int, full: Callable[[int], bool]) -> list[str]:
    """Kind of attention of each layer; ``full`` says it where the file does not."""
    types = r.sequence("layer_types", layers)
    if types is None:
        return [_FULL if full(i) else _SLIDING for i in range(layers)]
    for item in types:
        if item not in (_FULL, _SLIDING):
            raise not_known("layer_types", item, f"no layer of kind {shorten(item)} is known",
                            f"{_FULL}, {_SLIDING}")  # fmt: skip
    return list(types)


def _reuses(r: Reader, types: list[str], all_alone: bool) -> list[bool]:
    """For each layer whether it takes keys and values of the last earlier layer of its kind that makes
    its own: as many of the last layers as num_kv_shared_layers says. ``all_alone``: where that is
    every layer, another model makes them (Gemma 4's drafts), which is not read."""
    shared = r.optional("num_kv_shared_layers", 0, len(types)) or 0
    if not shared:
        return [False] * len(types)
    first = len(types) - shared
    lacking = sorted(set(types) - set(types[:first]))
    if lacking:
        why = "whose keys and values another model makes" if all_alone and not first else ""
        raise wrong(
            "num_kv_shared_layers",
            shared,
            f"no layer of kind {lacking[0]} is left that makes keys and values {why}".rstrip(),
            legal=f"an integer from 0 to {len(types) - 1}, with one of each kind before",
        )
    return [i >= first for i in range(len(types))]


def _per_layer_inputs(r: Reader, fields: ModelFields) -> int:
    """Width of the embeddings per layer; their table is a part of the model."""
    width = r.optional("hidden_size_per_layer_input", 0) or 0
    fields["layer_embedding"] = width
    if width:
        fields["layer_embedding_rows"] = r.integer("vocab_size_per_layer_input", 1, fr.MOST_TOKENS)
    return width


def _input_adapters(hidden: int, width: int) -> tuple[Adapter, ...]:
    """A layer's gate over its own embedding, and the product back, with a norm."""
    if not width:
        return ()
    return (
        Adapter(name="per_layer_gate", inputs=hidden, outputs=width),
        Adapter(name="per_layer_projection", inputs=width, outputs=hidden, parameters=hidden),
    )


def _overrides(r: Reader, types: list[str], allowed: tuple[str, ...]) -> list[dict[str, int]]:
    """For each layer the sizes that differ there: of global layers (Gemma 4's own keys), or as
    transformers writes them, ``per_layer_config``."""
    table = r.table("per_layer_config")
    found: list[dict[str, int]] = [{} for _ in types]
    for place, entry in table.items():
        at = f"per_layer_config.{shorten(place)}"
        if not (isinstance(place, str) and place.isascii() and place.isdigit()):
            raise wrong(at, place, "is no index of a layer", legal=f"0 to {len(types) - 1}")
        index = fr.check_integer(at, int(place[:9]), 0, len(types) - 1)
        for key, value in object_of(at, entry).items():
            if key not in allowed:
                raise not_known(f"{at}.{key}", value, "is not known", ", ".join(allowed))
            found[index][key] = fr.check_integer(f"{at}.{key}", value, 1, fr.MOST_WIDE)
    return found


def gemma4(r: Reader) -> ModelFields:
    """Gemma 4: global layers have wider heads and may use keys as values; the last layers may share
    keys and values; experts, where there are some, run beside the MLP."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.layers()
    heads, kv_heads, head_dim = r.heads(hidden)
    bias = r.flag("attention_bias")
    window = r.integer("sliding_window", 1, fr.MOST_POSITIONS)
    if r.value("use_bidirectional_attention") not in (None, "vision"):
        raise not_known("use_bidirectional_attention", r.value("use_bidirectional_attention"),
                        "attention in both directions is no language model's", "null, vision")  # fmt: skip
    types = _types(r, layers, lambda i: (i + 1) % 6 == 0)
    types[-1] = _FULL  # as its class does
    own = _overrides(r, types, ("head_dim", "num_key_value_heads"))
    as_values = r.flag("attention_k_eq_v")
    if not r.table("per_layer_config"):
        wide = r.integer("global_head_dim")
        few = r.optional("num_global_key_value_heads")
        sizes = {"head_dim": wide}
        if few is not None and as_values:
            sizes["num_key_value_heads"] = few
        own = [sizes if kind == _FULL else {} for kind in types]
    else:
        r.used |= {"global_head_dim", "num_global_key_value_heads"}
    reuses = _reuses(r, types, all_alone=True)
    width = r.integer("intermediate_size")
    double = r.flag("use_double_wide_mlp")
    moe = _experts(r, hidden)
    per_layer = _per_layer_inputs(r, fields)
    norms = (4 + (3 if moe else 0)) * hidden

    def block(i: int) -> Block:
        dim = own[i].get("head_dim", head_dim)
        kv = own[i].get("num_key_value_heads", kv_heads)
        if heads % kv:
            raise wrong("num_global_key_value_heads", kv, f"does not divide {heads} heads",
                        legal=f"a divisor of {heads}")  # fmt: skip
        full, shared = types[i] == _FULL, reuses[i]
        made = not (as_values and full)
        attention = Attention(
            heads=heads,
            kv_heads=kv,
            head_dim=dim,
            value_head_dim=dim,
            window=None if full else window,
            query_bias=bias,
            key_bias=bias,
            value_bias=bias and made,
            output_bias=bias,
            norm_parameters=dim if shared else 2 * dim,
            shared_kv=shared,
            value_projection=made,
        )
        mlp = Mlp(width=width * (2 if double and shared else 1), gated=True)
        return Block(
            attention=attention,
            mlp=mlp,
            moe=moe,
            norm_parameters=norms,
            adapters=_input_adapters(hidden, per_layer),
        )

    fields["blocks"], fields["pattern"] = distinct_blocks(block(i) for i in range(layers))
    return fields


def _experts(r: Reader, hidden: int) -> Moe | None:
    """Experts of every layer, whose router scales its input and each expert's output."""
    if not r.flag("enable_moe_block"):
        r.used |= {"num_experts", "top_k_experts", "moe_intermediate_size"}
        return None
    import msgspec

    moe = routed_experts(r, False)
    if moe is None:
        raise wrong("num_experts", r.value("num_experts"), "enable_moe_block is true",
                    legal=f"an integer from 1 to {fr.MOST_EXPERTS}")  # fmt: skip
    return msgspec.structs.replace(moe, router_parameters=hidden + moe.experts)


def gemma3n(r: Reader) -> ModelFields:
    """Gemma 3n: four streams of which one is computed, embeddings per layer, low-rank residuals."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.layers()
    heads, kv_heads, head_dim = r.heads(hidden)
    bias = r.flag("attention_bias")
    window = r.integer("sliding_window", 1, fr.MOST_POSITIONS)
    types = _types(r, layers, lambda i: (i + 1) % 5 == 0)
    reuses = _reuses(r, types, all_alone=False)
    if isinstance(r.value("intermediate_size"), list):
        widths = layer_integers(r, "intermediate_size", layers, 1, fr.MOST_WIDE)
    else:
        widths = [r.integer("intermediate_size")] * layers
    r.sequence("activation_sparsity_pattern", layers)
    per_layer = _per_layer_inputs(r, fields)
    if not per_layer:
        raise not_known("hidden_size_per_layer_input", per_layer, "every layer has inputs of its own",
                        "an integer from 1")  # fmt: skip
    streams, rank = r.integer("altup_num_inputs", 1, 100), r.integer("laurel_rank")
    r.flag("altup_correct_scale")
    active = r.integer("altup_active_idx", 0, 100)
    if active >= streams:
        raise wrong("altup_active_idx", active, f"there are {streams} streams",
                    legal=f"an integer from 0 to {streams - 1}")  # fmt: skip
    adapters = (
        # which streams count, before the layer and after it (one set of weights), and how they mix
        Adapter(name="stream_router", inputs=hidden, outputs=streams, parameters=2 * hidden),
        Adapter(name="stream_prediction", inputs=streams, outputs=streams * streams),
        Adapter(name="stream_correction", inputs=streams, outputs=streams),
        Adapter(name="laurel_down", inputs=hidden, outputs=rank),
        Adapter(name="laurel_up", inputs=rank, outputs=hidden, parameters=hidden),
        *_input_adapters(hidden, per_layer),
    )

    def block(i: int) -> Block:
        shared = reuses[i]
        return Block(
            attention=Attention(
                heads=heads,
                kv_heads=kv_heads,
                head_dim=head_dim,
                value_head_dim=head_dim,
                window=None if types[i] == _FULL else window,
                query_bias=bias,
                key_bias=bias,
                value_bias=bias,
                output_bias=bias,
                norm_parameters=head_dim if shared else 2 * head_dim,
                shared_kv=shared,
            ),
            mlp=Mlp(width=widths[i], gated=True),
            norm_parameters=4 * hidden,
            adapters=adapters,
        )

    fields["blocks"], fields["pattern"] = distinct_blocks(block(i) for i in range(layers))
    fields["residual_streams"] = streams
    more = range(1, streams)
    fields["adapters"] = tuple(
        Adapter(name=f"{way}_{i}", inputs=hidden, outputs=hidden)
        for way in ("into_stream", "out_of_stream")
        for i in more
    )
    return fields


_GEMMA4: dict[str, Any] = {"attention_k_eq_v": False, "num_kv_shared_layers": 0,
                           "use_double_wide_mlp": False, "global_head_dim": 512}  # fmt: skip
GEMMA_FAMILIES: dict[str, Family] = {
    "gemma3n_text": Family(
        words="Gemma 1–4",
        defaults=size_defaults(
            2048, 16384, 35, 8, 2, 262400, 32768, True, 256, sliding_window=512,
            vocab_size_per_layer_input=262144, hidden_size_per_layer_input=256, altup_active_idx=0,
            altup_num_inputs=4, num_kv_shared_layers=15, laurel_rank=64,
        ),
        build="gemma3n",
    ),
    "gemma4_text": Family(
        words="Gemma 1–4",
        defaults=size_defaults(
            2304, 9216, 30, 8, 4, 262144, 131072, True, 256, sliding_window=512, **_GEMMA4,
            vocab_size_per_layer_input=262144, hidden_size_per_layer_input=256,
            enable_moe_block=False, num_experts=None, top_k_experts=None,
            moe_intermediate_size=None,
        ),
        moe=MoeKeys(experts="num_experts", top_k="top_k_experts", width="moe_intermediate_size"),
        build="gemma4",
    ),
    "gemma4_unified_text": Family(
        words="Gemma 1–4",
        defaults=size_defaults(2304, 9216, 30, 8, 4, 262144, 262144, True, 256,
                               sliding_window=1024, **_GEMMA4),
        build="gemma4",
    ),
}  # fmt: skip

GEMMA_BUILDERS: dict[str, Callable[[Reader], ModelFields]] = {
    "gemma3n": gemma3n,
    "gemma4": gemma4,
}
