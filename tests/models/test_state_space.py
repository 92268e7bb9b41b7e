"""Families with state-space layers and short convolutions, against transformers' own models.

Every family is built small on the meta device as it is, with each boolean the other way, and with each
size halved and doubled: the counts agree to the last weight, or the file is refused in one line.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from meshwise.cost.memory.parts import model_cache_bytes
from meshwise.errors import InputError
from meshwise.layouts.tp_degrees import legal_tp
from meshwise.models.families.config import model_from_config
from meshwise.models.load import load_model
from meshwise.models.parameters import mtp_parameters, parameters
from meshwise.stacks.load import load_stack

torch = pytest.importorskip("torch", reason="the oracle needs torch")
transformers = pytest.importorskip("transformers", reason="the oracle needs transformers")

pytestmark = pytest.mark.filterwarnings("ignore")

from transformers import AutoModelForCausalLM  # noqa: E402
from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: E402

CONFIGS = Path(__file__).parents[1] / "data" / "configs"
PRESETS = Path(__file__).parents[2] / "src" / "meshwise" / "catalog" / "models"
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


def test_zamba2_as_its_publisher_wrote_it_first() -> None:
    """Zamba2-7B's first file has names of its own; the head's width in place of their number."""
    preset = json.loads((PRESETS / "zamba2-7b.json").read_text(encoding="utf-8"))
    first = {
        "model_type": "zamba2", "hidden_size": 3584, "ffn_hidden_size": 14336, "conv_dimension": 4,
        "expansion_factor": 2, "kv_channels": 112, "num_attention_heads": 32, "lora_rank": 128,
        "num_hidden_layers": 81, "num_key_value_heads": 32, "num_mem_blocks": 2, "state_size": 64,
        "num_query_groups": 32, "mamba_headdim": 64, "mamba_ngroups": 2, "vocab_size": 32000,
        "max_position_embeddings": 4096, "use_mem_rope": True, "use_shared_block_lora": True,
        "use_shared_attention_lora": False, "layers_block_type": preset["layers_block_type"],
    }  # fmt: skip
    read, known = (model_from_config(c, name="zamba2") for c in (first, preset))
    assert parameters(read) == parameters(known) == 7_356_749_648
    assert read.blocks[0].recurrent == msgspec.structs.replace(
        known.blocks[0].recurrent, chunk=None
    )


def test_memory_of_a_sequence_by_hand() -> None:
    """Nemotron 3 Nano: six layers with keys and values, 23 with a state that does not grow."""
    model = load_model("nemotron-3-nano-30b-a3b")
    grows, states = model_cache_bytes(model, load_stack("vllm"))
    assert grows == 6 * 2 * 2 * 128 * 2  # layers, key and value, KV heads, width, bytes
    state = 64 * 64 * 128 * 4  # heads, channels, states, fp32
    last = (64 * 64 + 2 * 8 * 128) * 3 * 2  # channels of x, B and C, positions, bytes
    assert states == 23 * (state + last) == 49_082_368


def test_multi_token_prediction_is_beside_the_model() -> None:
    """Nemotron 3 Super: one depth of an attention layer and one of experts, with norms and a product."""
    model = load_model("nemotron-3-super-120b-a12b")
    h, latent, width = 4096, 1024, 2688
    attention = h * 128 * (2 * 32 + 2 * 2) + h
    experts = 512 * (2 * latent * width + h) + 2 * h * latent + 2 * h * 5376 + h
    assert mtp_parameters(model) == attention + experts + 2 * h * h + 3 * h
    assert parameters(model) == 120_668_687_360


@pytest.mark.parametrize(
    ("model_type", "change", "field"),
    [
        ("nemotron_h", {"layers_block_type": None}, "hybrid_override_pattern"),
        ("nemotron_h", {"layers_block_type": ["mamba", "rwkv"]}, "layers_block_type"),
        ("nemotron_h", {"hybrid_override_pattern": "M*"}, "layers_block_type"),
        ("nemotron_h", {"hybrid_override_pattern": "MXE", "layers_block_type": None}, "hybrid_override_pattern"),
        ("nemotron_h", {"num_hidden_layers": 7}, "num_hidden_layers"),
        ("nemotron_h", {"n_groups": 3}, "n_groups"),
        ("nemotron_h", {"mamba_ssm_cache_dtype": "float99"}, "mamba_ssm_cache_dtype"),
        ("nemotron_h", {"n_shared_experts": 2}, "n_shared_experts"),
        ("nemotron_h", {"num_experts_per_tok": 9}, "num_experts_per_tok"),
        ("jamba", {"attn_layer_offset": 4}, "attn_layer_offset"),
        ("jamba", {"hybrid_override_pattern": "MM"}, "hybrid_override_pattern"),
        ("bamba", {"attn_layer_indices": [9]}, "attn_layer_indices"),
        ("bamba", {"mamba_d_head": 15}, "mamba_d_head"),
        ("falcon_h1", {"mamba_n_heads": 5}, "mamba_n_heads"),
        ("granitemoehybrid", {"layer_types": None}, "layer_types"),
        ("granitemoehybrid", {"layer_types": ["mamba"] * 3}, "layer_types"),
        ("granitemoehybrid", {"layer_types": ["mamba", "attention", "mamba", "conv"]}, "layer_types"),
        ("lfm2", {"full_attn_idxs": [0]}, "full_attn_idxs"),
        ("lfm2", {"block_ff_dim": 97}, "block_ff_dim"),
        ("lfm2", {"layer_types": ["conv", "mamba", "conv", "conv"]}, "layer_types"),
        ("zamba", {"n_mamba_heads": 3}, "n_mamba_heads"),
        ("zamba2", {"hybrid_layer_ids": [0]}, "hybrid_layer_ids"),
        ("zamba2", {"attention_head_dim": 8}, "attention_head_dim"),
    ],
)  # fmt: skip
def test_bad_values_are_named(model_type: str, change: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        ours(model_type, {**SMALL[model_type], **change})
    assert caught.value.field == field
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_an_excerpt_is_refused() -> None:
    """Granite-4.0-H-Small as a document quotes it: neither its layers nor its Mamba heads."""
    excerpt = json.loads((CONFIGS / "Granite-4.0-H-Small-excerpt.json").read_text())
    with pytest.raises(InputError) as caught:
        model_from_config(excerpt, name="granite")
    assert caught.value.field == "layer_types"


@pytest.mark.parametrize(
    ("model_type", "degrees"),
    [
        # eight groups of B and C; heads of attention and of Mamba
        ("nemotron-3-nano-30b-a3b", [1, 2, 4, 8]),
        ("nemotron-nano-9b-v2", [1, 2, 4, 8]),
        # one group, which every rank keeps a copy of (vLLM's mamba_mixer2.py)
        ("granite-4.0-h-small", [1, 2, 4, 8, 16, 32]),
        ("falcon-h1-7b", [1, 2, 4, 6, 12]),
        # channels divide by all degrees of the attention's heads
        ("jamba-1.5-mini", [1, 2, 4, 8, 16, 32]),
        ("lfm2-1.2b", [1, 2, 4, 8, 16, 32]),
        ("zamba2-7b", [1, 2]),
    ],
)
def test_legal_tp(model_type: str, degrees: list[int]) -> None:
    assert legal_tp(load_model(model_type), None) == degrees


def test_wrapped_language_models() -> None:
    inner = {"model_type": "nemotron_h", **SMALL["nemotron_h"]}
    for key in ("text_config", "llm_config"):
        wrapped = {"model_type": "nemotron_h_omni", key: inner}
        assert parameters(model_from_config(wrapped, name="omni")) == ours(
            "nemotron_h", SMALL["nemotron_h"]
        )
    for name in ("lfm2_vl", "lfm2-vl"):
        wrapped = {"model_type": name, "text_config": {"model_type": "lfm2", **SMALL["lfm2"]}}
        assert parameters(model_from_config(wrapped, name="vl")) == ours("lfm2", SMALL["lfm2"])


@pytest.mark.parametrize("model_type", ["nemotron_h", "jamba", "granitemoehybrid", "lfm2_moe"])
def test_active_parameters(model_type: str) -> None:
    """Of the routed experts so many as a token visits."""
    config = SMALL[model_type]
    build: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        model = build(CONFIG_MAPPING[model_type](**config))
    idle = 0
    for module in model.modules():
        bank = getattr(module, "experts", None)
        if hasattr(bank, "num_experts"):
            each = sum(p.numel() for p in bank.parameters()) // bank.num_experts
            idle += each * (bank.num_experts - config["num_experts_per_tok"])
    assert idle > 0
    read = model_from_config({"model_type": model_type, **config}, name="small")
    assert parameters(read, active=True) == theirs(model_type, config) - idle


def test_plamo2_by_hand() -> None:
    """plamo-2-1b (vLLM's plamo2.py; its published count is 1.29B): transformers has no class."""
    config = {
        "model_type": "plamo2", "hidden_size": 2048, "hidden_size_per_head": 128, "vocab_size": 100000,
        "intermediate_size": 8192, "mamba_d_conv": 4, "mamba_d_state": 64, "mamba_enabled": True,
        "mamba_num_heads": 32, "mamba_step": 2, "num_attention_heads": 16, "num_hidden_layers": 16,
        "num_key_value_heads": 1, "max_position_embeddings": 10485760, "tie_word_embeddings": True,
        "attention_window_size": 2048, "mamba_chunk_size": 256,
    }  # fmt: skip
    h, inner, rank, states = 2048, 32 * 128, 128, 64
    mamba = h * 2 * inner + inner * (rank + 2 * states) + rank * 32 + inner * h  # products
    mamba += 4 * inner + 3 * 32 + rank + 2 * states  # convolution; decay, skip, bias; norms
    attention = 2 * h * 2048 + 2 * h * 128 + 17 * 128
    layers = 8 * (mamba + attention) + 16 * (3 * h * 8192 + 4 * h)
    model = model_from_config(config, name="plamo-2-1b")
    assert parameters(model) == layers + 100000 * h + h == 1_291_441_920
    assert [model.blocks[i].attention is not None for i in model.pattern] == [False, True] * 8
    assert legal_tp(model, None) == [1, 2, 4, 8, 16]
