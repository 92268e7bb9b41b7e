"""Families that differ in one place from those that :func:`~meshwise.models.families.layers.standard` reads."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from meshwise.errors import shorten
from meshwise.models.families import keys as fr
from meshwise.models.families.keys import Reader, not_known, wrong
from meshwise.models.families.layers import ModelFields, distinct_blocks, standard
from meshwise.models.families.windows import window_size
from meshwise.models.shapes import Block


def axk1(r: Reader) -> ModelFields:
    """A.X K1: DeepSeek-V3 with a norm after the experts."""
    fields = standard(r)
    hidden: int = fields["hidden"]

    def normed(b: Block) -> Block:
        more = 0 if b.moe is None else hidden
        return msgspec.structs.replace(b, norm_parameters=b.norm_parameters + more)

    fields["blocks"] = tuple(normed(b) for b in fields["blocks"])
    if fields["mtp"] is not None:
        blocks = tuple(normed(b) for b in fields["mtp"].blocks)
        fields["mtp"] = msgspec.structs.replace(fields["mtp"], blocks=blocks)
    return fields


def cohere2_moe(r: Reader) -> ModelFields:
    """Command with experts: its dense first layers may be wider, and have a pattern of windows of their
    own; shared experts are as wide as a routed one."""
    wide = r.optional("prefix_dense_intermediate_size")
    r.unused("first_k_dense_replace", 0)  # mlp_layer_types may say it instead
    first = r.value("first_k_dense_replace") or 0
    fields = standard(r)
    blocks: list[Block] = [fields["blocks"][i] for i in fields["pattern"]]
    if r.value("layer_types") is None:
        size = window_size(r)
        rest = r.integer("sliding_window_pattern", 1, fr.MOST_LAYERS)
        prefix = r.integer("prefix_dense_sliding_window_pattern", 1, fr.MOST_LAYERS)
        for i, block in enumerate(blocks):
            full = (i + 1) % prefix == 0 if i < first else (i - first + 1) % rest == 0
            assert block.attention is not None
            attention = msgspec.structs.replace(block.attention, window=None if full else size)
            blocks[i] = msgspec.structs.replace(block, attention=attention)
    if wide is not None:
        blocks = [
            b
            if b.mlp is None
            else msgspec.structs.replace(b, mlp=msgspec.structs.replace(b.mlp, width=wide))
            for b in blocks
        ]
    fields["blocks"], fields["pattern"] = distinct_blocks(blocks)
    return fields


def apertus1p5(r: Reader) -> ModelFields:
    """Apertus 1.5: the head may have fewer rows than the table of embeddings, which is not read."""
    rows = r.optional("output_vocab_size", 1, fr.MOST_TOKENS)
    if rows not in (None, r.integer("vocab_size", 1, fr.MOST_TOKENS)):
        raise not_known("output_vocab_size", rows, "a head of other rows than vocab_size is not known",
                        "vocab_size, or null")  # fmt: skip
    return standard(r)


def deepseek_v2(r: Reader) -> ModelFields:
    """DeepSeek-V2; where the parts of a head have no width (the small DeepSeek-VL2, DeepSeek-OCR), with plain
    attention in place of the latent one."""
    parts = {key: r.value(key) for key in ("qk_nope_head_dim", "qk_rope_head_dim") if r.has(key)}
    plain = bool(parts) and not any(parts.values())
    if r.has("use_mla") and r.flag("use_mla") == plain:
        said = f"{str(not plain).lower()}, and the parts of a head are {' and '.join(map(shorten, parts.values()))} wide"
        raise wrong("use_mla", not plain, said, legal=str(plain).lower())
    if not plain:
        return standard(r)
    for key in ("kv_lora_rank", "q_lora_rank", "v_head_dim"):
        if r.value(key) not in (None, 0) and r.has(key):
            raise wrong(
                key, r.value(key), "where the parts of a head have no width", legal="0, null"
            )
    family = msgspec.structs.replace(r.family, mla=False, output_bias=r.family.query_key_bias)
    found = Reader(r.config, family, r.model_type, block=r.block)
    found.used = r.used
    return standard(found)


def whole_heads(r: Reader) -> ModelFields:
    """Layers whose heads are together as wide as the model, whatever the file says of one: Helium's output
    is a product of that width at both ends, DeepSeek-OCR 2's class derives the width of a head."""
    hidden = r.integer("hidden_size")
    heads, _, dim = r.heads(hidden)
    if heads * dim != hidden:
        raise wrong("head_dim", dim, f"{heads} heads of {dim} are not as wide as the model, {hidden}",
                    legal="hidden_size / num_attention_heads",
                    nearest=hidden // heads if hidden % heads == 0 else None)  # fmt: skip
    return standard(r)


VARIANT_BUILDERS: dict[str, Callable[[Reader], ModelFields]] = {
    "axk1": axk1,
    "cohere2_moe": cohere2_moe,
    "apertus1p5": apertus1p5,
    "deepseek_v2": deepseek_v2,
    "whole_heads": whole_heads,
}
