"""Models of every family, small enough for a test: odd vocabularies, grouped KV heads, experts."""

from __future__ import annotations

from typing import Any

VOCABULARY = 61  # divides by no TP degree
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 56,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts_per_tok": 2, "head_dim": 4}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "opt": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "ffn_dim": 58,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "word_embed_proj_dim": 16,
        "dropout": 0.0,
        "pad_token_id": 1,
        "bos_token_id": 2,
        "eos_token_id": 2,
    },
    "llama": {**COMMON, "attention_bias": True},
    "mistral": {**COMMON, "sliding_window": 5, "num_key_value_heads": 2},
    "qwen2": {**COMMON, "tie_word_embeddings": True},
    "qwen3": {**COMMON, "head_dim": 8, "num_key_value_heads": 1},
    "gemma2": {**COMMON, "head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 8},
    "phi3": {**COMMON, "sliding_window": None},
    "mixtral": {**COMMON, "num_local_experts": 4, **EXPERTS},
    "qwen3_moe": {
        **COMMON,
        **EXPERTS,
        "num_experts": 4,
        "moe_intermediate_size": 24,
        "mlp_only_layers": [0],
        "norm_topk_prob": True,
    },
}


def config(family: str, **changes: Any) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(family, **{**CONFIGS[family], **changes})


def build(family: str, dtype: Any = None, seed: int = 0, **changes: Any) -> Any:
    """A model with random weights, norms and biases too, the same on every rank."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    made = config(family, **changes)
    if dtype == torch.float64:
        made._experts_implementation = "eager"  # the grouped product has no fp64
    model = AutoModelForCausalLM.from_config(made)
    for p in model.parameters():
        with torch.no_grad():
            p.add_(torch.randn_like(p) * 0.05)
    return model.to(dtype or torch.float32)
