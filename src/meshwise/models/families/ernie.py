"""ERNIE 4.5 VL: experts for the tokens of texts, and others for those of images."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from meshwise.models.families import keys as fr
from meshwise.models.families.gpt import size_defaults
from meshwise.models.families.keys import Family, MoeKeys, Reader, not_known, wrong
from meshwise.models.families.layers import (
    ModelFields,
    dense_mlp,
    distinct_blocks,
    end_fields,
    has_experts,
    self_attention,
)
from meshwise.models.shapes import Block, Mlp, Moe


def _pair(r: Reader, key: str, low: int, high: int) -> tuple[int, int]:
    """A value for texts and one for images; one integer is both."""
    name, value, _ = r.find(key)
    if isinstance(value, list):
        if len(value) != 2:
            raise wrong(name, len(value), f"{len(value)} entries where texts and images have one each",
                        legal="two integers", nearest=2)  # fmt: skip
        first, second = (fr.check_integer(name, item, low, high) for item in value)
        return first, second
    one = r.integer(key, low, high)
    return one, one


def _sparse(r: Reader, layers: int) -> list[bool]:
    """For each layer whether it has experts: by kind; or an interval, the same for texts and images."""
    kinds = r.sequence("mlp_layer_types", layers)
    if kinds is not None:
        return has_experts(kinds)
    if not r.has("moe_layer_start_index"):
        return [i > 0 for i in range(layers)]
    step = r.integer("moe_layer_interval", 1, fr.MOST_LAYERS)
    start = _pair(r, "moe_layer_start_index", 0, fr.MOST_LAYERS)
    end = _pair(r, "moe_layer_end_index", -1, fr.MOST_LAYERS)
    ends = tuple(layers - 1 if e == -1 else min(e, layers - 1) for e in end)
    if start[0] != start[1] or ends[0] != ends[1]:
        raise not_known("moe_layer_start_index", list(start), "layers that have experts for texts alone "
                        "or for images alone are not known", "the same layers for both")  # fmt: skip
    return [(i + 1) % step == 0 and start[0] <= i <= ends[0] for i in range(layers)]


def ernie4_5_vl_moe(r: Reader) -> ModelFields:
    """Two sets of experts of one number and two widths; the shared one is of the texts' width."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.layers()
    bias = r.flag("use_bias")
    sparse = _sparse(r, layers)
    count, other = _pair(r, "moe_num_experts", 1, fr.MOST_EXPERTS)
    if other != count:
        raise not_known("moe_num_experts", [count, other], "as many for images as for texts are known",
                        f"[{count}, {count}]")  # fmt: skip
    top_k = r.integer("moe_k", 1, fr.MOST_EXPERTS)
    if top_k > count:
        raise wrong("moe_k", top_k, f"a token cannot visit {top_k} of {count} experts",
                    legal=f"an integer from 1 to {count}", nearest=count)  # fmt: skip
    if not isinstance(r.value("moe_intermediate_size"), list):
        raise wrong("moe_intermediate_size", r.value("moe_intermediate_size"),
                    "a width for texts and one for images belong here", legal="two integers")  # fmt: skip
    width, image = _pair(r, "moe_intermediate_size", 1, fr.MOST_WIDE)
    shared = r.optional("moe_num_shared_experts", 0, fr.MOST_EXPERTS) or 0
    moe = Moe(
        experts=count,
        top_k=top_k,
        expert=Mlp(width=width, gated=True),
        vision=Mlp(width=image, gated=True),
        shared=Mlp(width=width * shared, gated=True, up_bias=bias, down_bias=bias)
        if shared
        else None,
        router_bias=True,
    )
    plain = Block(attention=self_attention(r), norm_parameters=2 * hidden)
    dense = dense_mlp(r, bias) if not all(sparse) else None
    kinds = {
        True: msgspec.structs.replace(plain, moe=moe),
        False: msgspec.structs.replace(plain, mlp=dense),
    }
    fields["blocks"], fields["pattern"] = distinct_blocks(kinds[has] for has in sparse)
    return fields


ERNIE_FAMILIES: dict[str, Family] = {
    "ernie4_5_vl_moe_text": Family(
        words="ERNIE 4.5",
        defaults=size_defaults(
            2560, 12288, 28, 20, 4, 103424, 131072, True, use_bias=False, moe_num_experts=64,
            moe_k=6, moe_intermediate_size=[1536, 512], moe_num_shared_experts=2,
            moe_layer_interval=1, moe_layer_end_index=-1,
        ),
        aliases={"moe_num_experts": ("num_experts",), "moe_k": ("num_experts_per_tok",)},
        query_key_bias="use_bias", output_bias="use_bias",
        moe=MoeKeys(experts="moe_num_experts", top_k="moe_k", width="moe_intermediate_size"),
        build="ernie4_5_vl_moe",
    ),
}  # fmt: skip

ERNIE_BUILDERS: dict[str, Callable[[Reader], ModelFields]] = {
    "ernie4_5_vl_moe": ernie4_5_vl_moe,
}
