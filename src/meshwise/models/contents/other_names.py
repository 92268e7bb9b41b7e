"""Sizes under another name than their model type reads: foreign keys, and blocks that nothing read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from meshwise.errors import InputError, shorten
from meshwise.models.contents.left_out import SIZES
from meshwise.models.families.keys import Family, Reader, wrong
from meshwise.models.families.refused import NESTED_BLOCKS

# What model types of other families, and checkpoints of other software, call a size.
OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("d_model", "dim", "n_embd", "n_embed", "embed_dim", "model_dim", "embedding_size"),
    "num_hidden_layers": ("n_layers", "n_layer", "num_layers", "num_decoder_layers", "decoder_layers",
                          "depth"),
    "num_attention_heads": ("n_heads", "n_head", "num_heads", "attention_heads",
                            "decoder_attention_heads"),
    "num_key_value_heads": ("n_kv_heads", "num_kv_heads", "n_head_kv", "n_kv_head", "num_query_groups",
                            "kv_heads"),
    "head_dim": ("kv_channels", "attention_head_dim", "attention_head_size", "d_head", "dim_head"),
    "intermediate_size": ("n_inner", "ffn_dim", "d_ff", "ffn_hidden_size", "hidden_dim",
                          "intermediate_dim", "mlp_hidden_size", "dim_ffn", "decoder_ffn_dim"),
    "vocab_size": ("n_vocab", "vocabulary_size", "vocab_dim", "num_embeddings"),
    "num_experts": ("n_routed_experts", "num_local_experts", "moe_num_experts", "n_experts"),
    "num_local_experts": ("num_experts", "n_routed_experts", "moe_num_experts", "n_experts"),
    "n_routed_experts": ("num_experts", "num_local_experts", "moe_num_experts", "n_experts"),
    "moe_num_experts": ("num_experts", "num_local_experts", "n_routed_experts", "n_experts"),
    "num_experts_per_tok": ("moe_topk", "moe_k", "moe_top_k", "top_k_experts", "num_selected_experts"),
    "moe_intermediate_size": ("moe_ffn_hidden_size", "expert_hidden_size", "expert_ffn_dim"),
}  # fmt: skip
# Blocks in which wrappers describe a language model; a type that has none does not read them.
TEXT_BLOCKS = (*NESTED_BLOCKS, "thinker_config", "decoder", "transformer", "model", "model_config")


def holder_of(key: str, config: Mapping[str, Any], used: Collection[str] = ()) -> str | None:
    """The key of the file that holds a size which is not where its model type reads it."""
    for name in OTHER_NAMES.get(key, ()):
        if name not in used and config.get(name) is not None:
            return name
    return next((block for block in TEXT_BLOCKS if _in_block(key, config.get(block))), None)


def _in_block(key: str, block: object) -> bool:
    return isinstance(block, dict) and any(k in block for k in (key, *OTHER_NAMES.get(key, ())))


def check_other_names(r: Reader) -> None:
    """Refuse a size under another name, or in a block that was not read, which differs from what was
    read: the file says two things."""
    for key, names in OTHER_NAMES.items():
        if key not in r.used:
            continue
        value = r.value(key) if r.has(key) else None
        for name in names:
            stated = r.config.get(name)
            if name not in r.used and type(stated) is int and stated != value:
                raise _twofold(r, key, value, name, stated)
        for block in TEXT_BLOCKS:
            inside = r.config.get(block)
            if block in r.used or not isinstance(inside, dict):
                continue
            for name in (key, *names):
                if type(inside.get(name)) is int and inside[name] != value:
                    raise _twofold(r, key, value, f"{block}.{name}", inside[name])


def check_outer_sizes(
    outer: Mapping[str, Any],
    inside: Mapping[str, Any],
    block: str,
    family: Family,
    own: Collection[str],
) -> None:
    """Refuse sizes at a wrapper's top, or in a further block, which are not those of its language model,
    that stands in ``block``; ``own``: keys at the top that are the wrapper's."""
    others = [("", outer)]
    others += [
        (f"{k}.", outer[k]) for k in NESTED_BLOCKS if k != block and isinstance(outer.get(k), dict)
    ]
    for size in SIZES:
        names = (size, *family.aliases.get(size, ()))
        read = next((inside[name] for name in names if type(inside.get(name)) is int), None)
        for where, other in others:
            stated = other.get(size)
            if read is None or type(stated) is not int or stated == read:
                continue
            if where or size not in own:
                said = f"{shorten(stated)} contradicts {block}.{size} {shorten(read)}"
                legal = f"the value of {block}.{size}"
                raise wrong(f"{where}{size}", stated, said, legal=legal, nearest=read)


def _twofold(r: Reader, key: str, value: object, name: str, stated: int) -> InputError:
    read = f"{key} is {shorten(value)}" if value is not None else f"{key} is absent"
    return wrong(
        name,
        stated,
        f"{stated} is not read by a {r.model_type}, whose {read}",
        legal=f"{key} alone, or the model_type that has {name}",
    )
