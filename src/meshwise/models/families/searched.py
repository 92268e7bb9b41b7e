"""Families whose layers differ one by one: results of neural architecture search."""

from __future__ import annotations

from collections.abc import Callable

from meshwise.errors import shorten
from meshwise.models.families import keys as fr
from meshwise.models.families.keys import Reader, not_known, wrong
from meshwise.models.families.layers import (
    ModelFields,
    distinct_blocks,
    end_fields,
    layer_integers,
    object_of,
    plain_attention,
    windowed,
)
from meshwise.models.shapes import Block, Mlp


def deci(r: Reader) -> ModelFields:
    """DeciLM: the number of key/value heads differs from layer to layer."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.layers()
    heads, _, head_dim = r.heads(hidden)
    per_layer = layer_integers(r, "num_key_value_heads_per_layer", layers, 1, heads)
    mlp = Mlp(width=r.integer("intermediate_size"), gated=True)
    for kv_heads in set(per_layer):
        if heads % kv_heads:
            raise wrong("num_key_value_heads_per_layer", kv_heads, f"does not divide {heads} heads",
                        legal=f"divisors of {heads}")  # fmt: skip
    fields["blocks"], fields["pattern"] = distinct_blocks(
        Block(attention=plain_attention(heads, kv, head_dim), mlp=mlp, norm_parameters=2 * hidden)
        for kv in per_layer
    )
    return fields


def _multiple(value: float, hidden: int) -> int:
    """Width of a Llama-style MLP: two thirds of value * hidden, up to a multiple of 256."""
    width = int(2 * value * hidden / 3)
    return -(-width // 256) * 256


def nemotron_nas(r: Reader) -> ModelFields:
    """Llama-Nemotron after neural architecture search: every layer has its own shape."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.layers()
    heads = r.integer("num_attention_heads")
    r.optional("num_key_value_heads")
    head_dim = r.optional("head_dim") or r.head_width(hidden, heads)
    bias, mlp_bias = r.flag("attention_bias"), r.flag("mlp_bias")
    found = r.sequence("block_configs", layers)
    if found is None:
        raise wrong("block_configs", None, "absent or null", legal=f"a list of {layers} objects")

    def block(i: int, entry: object) -> Block:
        at = f"block_configs[{i}]"
        parts = object_of(at, entry)
        a = object_of(f"{at}.attention", parts.get("attention") or {})
        m = object_of(f"{at}.ffn", parts.get("ffn") or {})
        for name, part in (("attention", a), ("ffn", m)):
            for key in ("replace_with_linear", "sparsify", "num_sink_tokens", "llama4", "mamba",
                        "moe", "unshifted_sink"):  # fmt: skip
                if part.get(key):
                    raise not_known(f"{at}.{name}.{key}", part[key], "is not known", "null")
        attention = None
        if not a.get("no_op"):
            group = fr.check_integer(
                f"{at}.attention.n_heads_in_group", a.get("n_heads_in_group"), 1, heads
            )
            if heads % group:
                raise wrong(f"{at}.attention.n_heads_in_group", group,
                            f"does not divide {heads} heads", f"a divisor of {heads}")  # fmt: skip
            attention = plain_attention(heads, heads // group, head_dim, bias, bias)
            window = a.get("window_length")
            if window is not None:
                window = fr.check_integer(f"{at}.attention.window_length", window, 1, 10**9)
                attention = windowed(attention, window)
        mlp = None
        if not m.get("no_op"):
            width = m.get("intermediate_size")
            if width is None:
                factor = m.get("ffn_mult")
                if isinstance(factor, bool) or not isinstance(factor, (int, float)) \
                        or not 0 < factor <= 1000:  # fmt: skip
                    raise wrong(f"{at}.ffn.ffn_mult", factor, f"{shorten(factor)} is no width",
                                legal="a number over 0, at most 1000")  # fmt: skip
                width = _multiple(factor, hidden)
            width = fr.check_integer(f"{at}.ffn.intermediate_size", width, 1, fr.MOST_WIDE)
            mlp = Mlp(width=width, gated=True, up_bias=mlp_bias, down_bias=mlp_bias)
        norms = (attention is not None) + (mlp is not None)
        return Block(attention=attention, mlp=mlp, norm_parameters=norms * hidden)

    fields["blocks"], fields["pattern"] = distinct_blocks(
        block(i, entry) for i, entry in enumerate(found)
    )
    return fields


SEARCHED_BUILDERS: dict[str, Callable[[Reader], ModelFields]] = {
    "deci": deci,
    "nemotron_nas": nemotron_nas,
}
