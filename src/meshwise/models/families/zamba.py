"""Zamba (arXiv 2405.16712) and Zamba 2 (arXiv 2411.15242): Mamba layers, and shared transformer blocks.

A shared block stands in front of some Mamba layers, once in memory, and reads the hidden state beside
the embedding: twice the layer's width. What a use has for itself is a product behind the block, and in
Zamba 2 low-rank products beside its projections. A use is a layer of its own here.
"""

from __future__ import annotations

from collections.abc import Callable

from meshwise.models.families import keys as fr
from meshwise.models.families.gpt import size_defaults
from meshwise.models.families.hybrid import named_kinds
from meshwise.models.families.keys import Family, Reader, not_known, wrong
from meshwise.models.families.layers import ModelFields, end_fields
from meshwise.models.families.state_space import MAMBA_LAYER, mamba1, mamba2
from meshwise.models.layers.attention import Attention
from meshwise.models.shapes import Adapter, Block, Mlp

_SHARED = "hybrid"  # a shared block in front of the Mamba layer
_KINDS = {"mamba": MAMBA_LAYER, "linear_attention": MAMBA_LAYER, "hybrid": _SHARED}


def _shared_attention(r: Reader, hidden: int) -> Attention:
    if not r.flag("tie_word_embeddings"):
        raise not_known(
            "tie_word_embeddings",
            False,
            "transformers then shares no weights, not even blocks",
            "true",
        )
    heads, kv_heads, head_dim = r.heads(2 * hidden)
    if r.model_type == "zamba2" and head_dim != 2 * hidden // heads:
        raise wrong(r.find("head_dim")[0], head_dim, "its class builds 2 · hidden_size / heads",
                    legal=f"{2 * hidden // heads}", nearest=2 * hidden // heads)  # fmt: skip
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_head_dim=head_dim,
        input_width=2 * hidden,
    )


def _in_order(
    fields: ModelFields, order: list[str], mixer: Block, shared: list[Block]
) -> ModelFields:
    """Mamba layers, and in front of some a shared block, in turn one of ``shared``.

    Blocks of one shape are kinds of their own: each has its weights.
    """
    pattern, uses = [], 0
    for kind in order:
        if kind == _SHARED:
            pattern.append(1 + uses % len(shared))
            uses += 1
        pattern.append(0)
    fields["blocks"], fields["pattern"] = (mixer, *shared[:uses]), tuple(pattern)
    return fields


def zamba(r: Reader) -> ModelFields:
    """Zamba: Mamba 1, one shared block."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.integer("num_hidden_layers", 3, fr.MOST_LAYERS)
    order = named_kinds(r, "layers_block_type", _KINDS, layers)
    period = r.integer("attn_layer_period", 1, fr.MOST_LAYERS)
    offset = r.integer("attn_layer_offset", 0, fr.MOST_LAYERS)
    if order is None:
        every = [_SHARED if i % period == offset else MAMBA_LAYER for i in range(layers - 3)]
        order = [MAMBA_LAYER, MAMBA_LAYER, _SHARED, *every]
    width = r.optional("attention_hidden_size")
    if width not in (None, 2 * hidden):
        raise wrong("attention_hidden_size", width, "its input is the hidden state and the embedding",
                    legal=f"{2 * hidden}", nearest=2 * hidden)  # fmt: skip
    channels, heads = r.value("mamba_expand"), r.integer("n_mamba_heads")
    mixer = mamba1(r, hidden, normed=False)
    if mixer.inner % heads:
        raise wrong("n_mamba_heads", heads, f"does not divide {mixer.inner} channels "
                    f"({channels} · {hidden})", legal=f"a divisor of {mixer.inner}")  # fmt: skip
    shared = Block(
        attention=_shared_attention(r, hidden),
        mlp=Mlp(width=r.integer("intermediate_size"), gated=True),
        norm_parameters=3 * hidden,
        adapters=(Adapter(name="shared_output", inputs=hidden, outputs=hidden),),
        shared=True,
    )
    return _in_order(fields, order, Block(recurrent=mixer, norm_parameters=hidden), [shared])


def _low_rank(r: Reader, hidden: int, width: int) -> list[Adapter]:
    """Low-rank products of one use of a shared block: on its feed-forward, and on its attention."""
    rank = r.integer("adapter_rank")
    found = [("gate_up", hidden, 2 * width)]
    if r.flag("use_shared_attention_adapter"):
        found += [(name, 2 * hidden, 2 * hidden) for name in ("query", "key", "value")]
    return [
        adapter
        for name, inputs, outputs in found
        for adapter in (
            Adapter(name=f"{name}_adapter_down", inputs=inputs, outputs=rank),
            Adapter(name=f"{name}_adapter_up", inputs=rank, outputs=outputs),
        )
    ]


def zamba2(r: Reader) -> ModelFields:
    """Zamba 2: Mamba 2, and shared blocks in turn, with low-rank products of each use."""
    fields = end_fields(r)
    hidden: int = fields["hidden"]
    layers = r.layers()
    order = named_kinds(r, "layers_block_type", _KINDS, layers)
    if order is None:
        raise wrong("layers_block_type", None, "absent or null",
                    legal=f"a list of {layers} kinds: mamba, hybrid")  # fmt: skip
    listed = r.sequence("hybrid_layer_ids")
    if listed is not None and listed != [i for i, kind in enumerate(order) if kind == _SHARED]:
        raise wrong("hybrid_layer_ids", listed, "contradicts layers_block_type",
                    legal="the layers that layers_block_type calls hybrid")  # fmt: skip
    bias = r.flag("add_bias_linear")
    inner = r.integer("mamba_expand", 1, 1000) * hidden
    width = r.optional("mamba_headdim")  # in the publisher's first files, where they have no number
    if r.has("n_mamba_heads") or width is None or inner % width:
        heads = r.integer("n_mamba_heads")
    else:
        heads = inner // width
    if inner % heads:
        raise wrong("n_mamba_heads", heads, f"does not divide {inner} channels",
                    legal=f"a divisor of {inner}")  # fmt: skip
    mixer = mamba2(
        r, heads, inner // heads, r.integer("mamba_n_groups"), r.integer("mamba_d_state"), bias=bias
    )
    width = r.optional("intermediate_size") or 4 * hidden
    # what its class works out of other sizes, and writes
    r.used |= {"kv_channels", "num_query_groups", "attention_hidden_size"}
    shared = Block(
        attention=_shared_attention(r, hidden),
        mlp=Mlp(width=width, gated=True, up_bias=bias, down_bias=bias),
        norm_parameters=3 * hidden,
        adapters=(
            *_low_rank(r, hidden, width),
            Adapter(name="shared_output", inputs=hidden, outputs=hidden),
        ),
        shared=True,
    )
    times = r.integer("num_mem_blocks", 1, fr.MOST_LAYERS)
    return _in_order(
        fields, order, Block(recurrent=mixer, norm_parameters=hidden), [shared] * times
    )


ZAMBA_FAMILIES: dict[str, Family] = {
    "zamba": Family(
        words="Zamba 1–2",
        defaults=size_defaults(
            3712, 14848, 76, 16, 16, 32000, 4096, True, n_mamba_heads=2, attn_layer_period=6,
            attn_layer_offset=4, mamba_d_state=16, mamba_d_conv=4, mamba_expand=2,
            mamba_dt_rank="auto", mamba_conv_bias=True,
        ),
        aliases={
            "layers_block_type": ("layer_types",),
            "head_dim": ("attention_head_dim",),
        },
        layer_kinds=tuple(_KINDS), build="zamba",
    ),
    "zamba2": Family(
        words="Zamba 1–2",
        defaults=size_defaults(
            2560, None, 54, 32, None, 32000, 4096, True, n_mamba_heads=8, mamba_n_groups=1,
            mamba_d_state=64, mamba_d_conv=4, mamba_expand=2, mamba_conv_bias=True,
            num_mem_blocks=1, adapter_rank=128,
        ),
        aliases={
            "layers_block_type": ("layer_types",),
            "head_dim": ("attention_head_dim",),
            "mamba_n_groups": ("mamba_ngroups",),
            "mamba_chunk_size": ("chunk_size",),
            # the publisher's first files
            "intermediate_size": ("ffn_hidden_size",),
            "mamba_d_state": ("state_size",),
            "mamba_d_conv": ("conv_dimension",),
            "mamba_expand": ("expansion_factor",),
            "adapter_rank": ("lora_rank",),
            "use_shared_attention_adapter": ("use_shared_attention_lora",),
        },
        layer_kinds=tuple(_KINDS), build="zamba2",
    ),
}  # fmt: skip
ZAMBA_BUILDERS: dict[str, Callable[[Reader], ModelFields]] = {"zamba": zamba, "zamba2": zamba2}
