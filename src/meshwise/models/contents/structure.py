"""Keys of another structure: a file that has them describes other layers than its model type says."""

from __future__ import annotations

from typing import Any

from meshwise.errors import UnsupportedModel, shorten
from meshwise.models.families.keys import Reader

# Keys that mean layers or weights of another kind. A family reads those it knows; one that is set
# in a file of a family that does not read it stops the reading: the count would be wrong.
_QUERY_KEY_NORM = ("use_qk_norm", "qk_norm", "qk_layernorm")
STRUCTURE = (
    "block_configs", "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts",
    "n_shared_experts", "num_shared_experts", "num_shared_expert", "shared_intermediate_size",
    "shared_expert_intermediate_size", "kv_lora_rank", "q_lora_rank", "cross_attention_layers",
    "add_cross_attention", "hybrid_override_pattern", "layers_block_type", "block_types",
    "attn_layer_period", "attn_layer_offset", "ssm_cfg", "ssm_state_size", "mamba_d_state",
    "state_size", "linear_num_value_heads", "linear_attn_config", "full_attention_interval",
    "full_attn_idxs", "attn_type_list", "use_cla", "use_qk_norm", "qk_layernorm", "qk_norm",
    "num_key_value_heads_per_layer", "index_n_heads", "index_topk", "altup_num_inputs",
    "num_kv_shared_layers", "hidden_size_per_layer_input", "word_embed_proj_dim",
    "zero_expert_num", "ffn_mult", "num_attention_heads_per_layer", "sparse_attention_config",
    "add_attn_sink_bias", "attention_sink_bias", "attention_head_type",
    "add_swa_attention_sink_bias", "adapter_layers", "cross_layer_attention",
    "use_parallel_residual_mlp", "share_layers", "num_hidden_groups", "engram_config", "loop_num",
    "layer_group_size", "no_kda_lora", "attn_res_block_size", "routed_expert_hidden_size",
    "mla_use_output_gate", "moe_shared_expert_intermediate_size",
)  # fmt: skip
KNOWN_LAYER_TYPES = ("full_attention", "sliding_attention", "chunked_attention", "global", "local",
                     "attention", "indexed_attention", "deepseek_sparse_attention")  # fmt: skip
_INDEXED = ("indexed_attention", "deepseek_sparse_attention")
_NEUTRAL: tuple[Any, ...] = (None, False, 0, "", [], {})


def check_structure(r: Reader, *, query_key_norm: bool = False) -> None:
    """Refuse keys of another structure that nothing has read.

    ``query_key_norm``: the layers have such norms anyway, so a key that says so says nothing new.
    """
    for key in STRUCTURE:
        if key in r.used or key not in r.config:
            continue
        if query_key_norm and key in _QUERY_KEY_NORM and r.config[key] is True:
            continue
        value = r.config[key]
        if not any(type(value) is type(n) and value == n for n in _NEUTRAL):
            raise UnsupportedModel(
                f"{key}: model type {r.model_type} does not have this, so the file "
                "describes another architecture than its type says",
                field=key,
                value=value,
                legal=f"a {r.model_type} config without {key}",
            )
    for key in ("layer_types", "mlp_layer_types"):  # whether its layers read it or not
        if key not in r.used and isinstance(r.config.get(key), list):
            r.sequence(key, r.layers())
    types = r.config.get("layer_types")
    if isinstance(types, list) and not r.family.layer_kinds:
        for item in types:
            if item not in KNOWN_LAYER_TYPES or (item in _INDEXED and not r.family.indexer):
                raise UnsupportedModel(
                    f"layer_types: no layer of kind {shorten(item)!r} is known",
                    field="layer_types",
                    value=item,
                    legal=", ".join(KNOWN_LAYER_TYPES[:3]),
                )
