"""Families with state-space layers and short convolutions, against transformers' own models.

Every family is built small on the meta device as it is, with each boolean the other way, and with each
size halved and doubled: the counts agree to the last weight, or the file is refused in one line.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from meshwise.errors import InputError
from meshwise.models.families.config import model_from_config
from meshwise.models.parameters import parameters

torch = pytest.importorskip("torch", reason="the oracle needs torch")
transformers = pytest.importorskip("transformers", reason="the oracle needs transformers")

pytestmark = pytest.mark.filterwarnings("ignore")

from transformers import AutoModelForCausalLM  # noqa: E402
from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: E402

SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8, "num_key_value_heads": 4,
    "vocab_size": 120, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
MAMBA2: dict[str, Any] = {
    "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 2, "mamba_d_state": 24,
    "mamba_d_conv": 4, "mamba_expand": 2, "mamba_chunk_size": 16, "mamba_conv_bias": True,
    "mamba_proj_bias": False,
}  # fmt: skip
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 40}
SMALL: dict[str, dict[str, Any]] = {
    "nemotron_h": {
        **SIZES, **EXPERTS, "layers_block_type": ["mamba", "mlp", "attention", "moe", "mamba"],
        "head_dim": 16, "ssm_state_size": 24, "mamba_num_heads": 8, "mamba_head_dim": 16,
        "n_groups": 2, "conv_kernel": 4, "chunk_size": 16, "use_conv_bias": True, "use_bias": False,
        "mamba_proj_bias": False, "mlp_bias": False, "attention_bias": False, "n_routed_experts": 8,
        "n_shared_experts": 1, "moe_shared_expert_intermediate_size": 56, "moe_latent_size": 32,
        "num_nextn_predict_layers": 0, "expand": 2, "n_group": 1, "topk_group": 1,
        "tie_word_embeddings": False, "moe_shared_expert_overlap": True,
    },
    "jamba": {
        **SIZES, "num_hidden_layers": 8, "num_experts": 4, "num_experts_per_tok": 2,
        "expert_layer_period": 2, "expert_layer_offset": 1, "attn_layer_period": 4,
        "attn_layer_offset": 2, "mamba_d_state": 24, "mamba_d_conv": 4, "mamba_expand": 2,
        "mamba_dt_rank": 12, "mamba_conv_bias": True, "mamba_proj_bias": False,
        "tie_word_embeddings": False, "use_mamba_kernels": True,
    },
    "bamba": {
        **SIZES, **MAMBA2, "num_hidden_layers": 4, "attn_layer_indices": [1, 3],
        "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False,
    },
    "falcon_h1": {
        **SIZES, **MAMBA2, "num_hidden_layers": 2, "mamba_d_ssm": 128, "mamba_rms_norm": True,
        "mamba_norm_before_gate": False, "projectors_bias": False, "attention_bias": False,
        "mlp_bias": False, "tie_word_embeddings": False, "head_dim": 16,
    },
    "granitemoehybrid": {
        **SIZES, **MAMBA2, "num_hidden_layers": 4, "num_local_experts": 8, "num_experts_per_tok": 2,
        "layer_types": ["mamba", "attention", "mamba", "mamba"], "shared_intermediate_size": 56,
        "attention_bias": False, "tie_word_embeddings": True, "position_embedding_type": "nope",
    },
    "lfm2": {
        **SIZES, "num_hidden_layers": 4, "conv_L_cache": 3, "conv_bias": False,
        "layer_types": ["conv", "full_attention", "conv", "conv"], "block_multiple_of": 16,
        "block_ffn_dim_multiplier": 1.5, "block_auto_adjust_ff_dim": True,
        "tie_word_embeddings": True,
    },
    "lfm2_moe": {
        **SIZES, **EXPERTS, "num_hidden_layers": 4, "conv_L_cache": 3, "conv_bias": False,
        "layer_types": ["conv", "full_attention", "conv", "conv"], "num_experts": 8,
        "num_dense_layers": 2, "use_expert_bias": True, "tie_word_embeddings": True,
        "norm_topk_prob": True,
    },
    "lfm3": {
        **SIZES, "num_hidden_layers": 4, "conv_L_cache": 7, "conv_bias": False, "head_dim": 16,
        "layer_types": ["conv", "full_attention", "conv", "sliding_attention"],
        "sliding_window": 16, "use_sandwich_norm": True, "use_attention_gate": True,
        "attention_bias": False, "tie_word_embeddings": True,
    },
    "zamba": {
        **SIZES, "num_hidden_layers": 9, "attention_hidden_size": 128, "attention_head_dim": 16,
        "n_mamba_heads": 2, "attn_layer_period": 3, "attn_layer_offset": 1, "mamba_d_state": 24,
        "mamba_d_conv": 4, "mamba_expand": 2, "mamba_dt_rank": 12, "mamba_conv_bias": True,
        "mamba_proj_bias": False, "tie_word_embeddings": True,
    },
    "zamba2": {
        **SIZES, "num_hidden_layers": 7, "num_key_value_heads": 8, "mamba_d_state": 24,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid", "mamba", "mamba", "hybrid"],
        "mamba_d_conv": 4, "mamba_expand": 2, "mamba_ngroups": 2, "n_mamba_heads": 8,
        "chunk_size": 16, "use_conv_bias": True, "add_bias_linear": False, "num_mem_blocks": 2,
        "use_shared_attention_adapter": True, "adapter_rank": 12, "use_mem_rope": False,
        "tie_word_embeddings": True,
    },
}  # fmt: skip
# Numbers of kinds, of tokens, of nothing that has weights.
NO_SIZES = {"pad_token_id", "bos_token_id", "eos_token_id"}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """transformers logs what it makes of small sizes."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def theirs(model_type: str, config: dict[str, Any]) -> int:
    """Weights of transformers' model, tied ones once."""
    build: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        model = build(CONFIG_MAPPING[model_type](**config))
    return sum({id(p): p.numel() for p in model.parameters()}.values())


def ours(model_type: str, config: dict[str, Any]) -> int:
    return parameters(model_from_config({"model_type": model_type, **config}, name="small"))


def mutations(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each boolean the other way; each size halved and doubled."""
    for key, value in config.items():
        if isinstance(value, bool):
            yield {key: not value}
        elif type(value) is int and key not in NO_SIZES:
            yield {key: value * 2}
            if value // 2:
                yield {key: value // 2}


@pytest.mark.parametrize("model_type", SMALL)
def test_small_models(model_type: str) -> None:
    config = SMALL[model_type]
    assert ours(model_type, config) == theirs(model_type, config)
    written = CONFIG_MAPPING[model_type](**config).to_dict()
    written = json.loads(json.dumps(written, default=str))
    assert ours(model_type, written) == theirs(model_type, config)


@pytest.mark.parametrize("model_type", SMALL)
def test_mutations(model_type: str) -> None:
    """Equal, or refused; what transformers refuses is not compared."""
    equal = refused = 0
    for change in mutations(SMALL[model_type]):
        config = {**SMALL[model_type], **change}
        try:
            want = theirs(model_type, config)
        except (ValueError, RuntimeError, TypeError, AssertionError):
            continue
        except Exception as error:
            if "Validation" not in type(error).__name__:
                raise
            continue
        try:
            got = ours(model_type, config)
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
            continue
        assert got == want, change
        equal += 1
    assert equal > 4 * refused, (equal, refused)
