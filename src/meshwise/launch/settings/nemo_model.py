"""The model that NeMo 1's configuration writes out (``model.num_layers``, ``model.hidden_size``, …), with the
defaults of its own file where a key is left out (conf/megatron_gpt_config.yaml)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshwise.launch.settings.settings import Settings

# NeMo's keys by the settings that Megatron-LM's flags give
_KEYS = {
    "layers": "num_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_query_groups",
    "ffn": "ffn_hidden_size",
    "experts_total": "num_moe_experts",
    "experts_per_token": "moe_router_topk",
    "head_dim": "kv_channels",
    "positions": "max_position_embeddings",
    "vocab_multiple": "make_vocab_size_divisible_by",
    "normalization": "normalization",
    "position_kind": "position_embedding_type",
    "tokenizer": "tokenizer.type",
}
_WHOLE = "model.encoder_seq_length"  # of NeMo 1 alone, whose file says the whole model
# encoders and others whose layers are not those of a decoder alone
_OTHERS = ("bert_binary_head", "encoder.num_layers", "decoder.num_layers", "vision", "mm_cfg")


def nemo_model(values: Mapping[str, Any]) -> Settings:
    """What the keys of a configuration, sections joined by dots, say of the model; nothing where the file
    does not say all of it, or where the model is no decoder alone."""
    own = {key.removeprefix("model."): v for key, v in values.items() if key.startswith("model.")}
    other = any(key == o or key.startswith(f"{o}.") for key in own for o in _OTHERS)
    if _WHOLE not in values or other or not isinstance(own.get("num_layers"), int):
        return {}
    found = {name: own[key] for name, key in _KEYS.items() if own.get(key) is not None}
    found["grouped_queries"] = own.get("num_query_groups") is not None
    found["untied"] = own.get("share_embeddings_and_output_weights") is False
    found["no_bias"] = own.get("bias") is False
    found["qk_norm"] = own.get("qk_layernorm") is True
    found["hidden_dropout"] = str(own.get("hidden_dropout", 0.1))
    activation = str(own.get("activation") or "gelu").lower().removeprefix("fast-")
    if activation in ("swiglu", "geglu", "reglu"):
        found["glu"] = activation
    named = str(own.get("tokenizer.model") or "")
    if named:
        found["tokenizer_model"] = named.rpartition("/")[2]
    return found
