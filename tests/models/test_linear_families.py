"""Families with linear attention: counts from the shapes that their publishers' tensors have, caches and
states by hand, and what their files may not say."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import pytest

from meshwise.answers.model import model_record
from meshwise.errors import InputError, UnsupportedModel
from meshwise.layouts.tp_degrees import legal_tp
from meshwise.models.families.config import model_from_config
from meshwise.models.load import load_model
from meshwise.models.parameters import mtp_parameters, parameters
from meshwise.models.shapes import Model

DATA = Path(__file__).parents[1] / "data" / "configs"


def read(name: str, **changes: Any) -> Model:
    config = json.loads((DATA / name).read_text(encoding="utf-8"))
    return model_from_config({**config, **changes}, name="test")


def weights(*shapes: tuple[int, ...]) -> int:
    return sum(prod(shape) for shape in shapes)


def kimi_k3() -> tuple[int, int]:
    """(all, active) weights of the language model, tensor by tensor as its checkpoint has them; A_log without
    the padding of its 96 values to 128."""
    h, heads, dim, latent, expert = 7168, 96, 128, 3584, 3072
    wide = heads * dim
    residuals = weights((h,), (1, h)) * 2
    norms = weights((h,), (h,))
    kda = weights(
        *[(wide, h)] * 4, *[(wide, 1, 4)] * 3, (dim, h), (wide, dim), (heads,), (wide,), (heads, h),
        (dim,), (h, wide),
    )  # fmt: skip
    mla = weights(
        (1536, h), (1536,), (heads * 192, 1536), (512 + 64, h), (512,), (heads * 256, 512),
        (h, heads * 128), (heads * 128, h),
    )  # fmt: skip
    one = weights(*[(expert, latent)] * 2, (latent, expert))
    beside = weights(
        (896, h), (latent, h), (latent,), (h, latent), *[(2 * expert, h)] * 2, (h, 2 * expert)
    )
    dense = weights(*[(33792, h)] * 2, (h, 33792))
    ends = weights((163840, h), (163840, h), (h,), (h,), (1, h))
    rest = 69 * kda + 24 * mla + 93 * (residuals + norms) + 92 * beside + dense + ends
    return rest + 92 * 896 * one, rest + 92 * 16 * one


def test_kimi_k3_is_the_sum_of_its_tensors() -> None:
    model = read("Kimi-K3.json")
    assert (parameters(model), parameters(model, active=True)) == kimi_k3()


def ring_mini() -> dict[str, Any]:
    return {
        "model_type": "bailing_moe_linear", "hidden_size": 2048, "intermediate_size": 5120,
        "moe_intermediate_size": 512, "num_hidden_layers": 20, "num_attention_heads": 16,
        "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 157184, "num_experts": 256,
        "num_experts_per_tok": 8, "num_shared_experts": 1, "first_k_dense_replace": 1,
        "use_qk_norm": True, "layer_group_size": 5, "group_norm_size": 4,
    }  # fmt: skip


def ring_layers(hidden: int, linear: int, attention: int, both: int) -> int:
    """All but the feed-forward: lightning attention, grouped queries of 4 heads, norms."""
    lightning = weights((3 * hidden, hidden), *[(hidden, hidden)] * 2, (hidden,), (128,), (128,))
    grouped = weights((hidden + 2 * 512, hidden), (hidden, hidden), (128,), (128,))
    return linear * lightning + attention * grouped + both * weights((hidden,), (hidden,))


def test_ring_linear_by_its_modules() -> None:
    config, h = ring_mini(), 2048
    one = weights(*[(512, h)] * 2, (h, 512))
    dense = weights(*[(5120, h)] * 2, (h, 5120))
    ends = weights((157184, h), (157184, h), (h,))
    rest = ring_layers(h, 16, 4, 20) + ends + dense + 19 * (one + weights((256, h)))
    model = model_from_config(config, name="ring")
    assert parameters(model) == rest + 19 * 256 * one
    assert parameters(model, active=True) == rest + 19 * 8 * one
    # 22 layers: those behind the last whole group of 5 are attention, too
    longer = model_from_config({**config, "num_hidden_layers": 22}, name="ring")
    assert [longer.blocks[i].recurrent is None for i in longer.pattern] == [
        (i + 1) % 5 == 0 or i >= 20 for i in range(22)
    ]


def test_ling_2_is_ring_without_linear_layers() -> None:
    config = {k: v for k, v in ring_mini().items() if "group" not in k}
    ling = model_from_config({**config, "model_type": "bailing_moe_v2"}, name="ling")
    ring = model_from_config(ring_mini(), name="ring")
    hub = {**config, "model_type": "bailing_moe", "architectures": ["BailingMoeV2ForCausalLM"]}
    assert parameters(model_from_config(hub, name="ling")) == parameters(ling)
    more = ring_layers(2048, 16, 4, 20) - ring_layers(2048, 0, 20, 20)
    assert parameters(ring) - parameters(ling) == more
    deeper = {**config, "model_type": "bailing_moe_v2", "num_nextn_predict_layers": 1}
    ahead = model_from_config(deeper, name="ling")
    assert parameters(ahead) == parameters(ling)
    h = 2048
    layer = weights(*[(512, h)] * 2, (h, 512)) * 257 + weights((256, h))
    attention = weights((h + 2 * 512, h), (h, h), (128,), (128,))
    assert mtp_parameters(ahead) == layer + attention + weights((h,), (h,), (h, 2 * h), *[(h,)] * 3)


def hybrid(**keys: Any) -> dict[str, Any]:
    return {
        "model_type": "bailing_hybrid", "hidden_size": 256, "intermediate_size": 96,
        "moe_intermediate_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4,
        "num_key_value_heads": 4, "vocab_size": 512, "num_experts": 16, "num_experts_per_tok": 4,
        "num_shared_experts": 1, "first_k_dense_replace": 2, "layer_group_size": 4, "head_dim": 64,
        "kv_lora_rank": 32, "q_lora_rank": 24, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16,
        "v_head_dim": 32, **keys,
    }  # fmt: skip


def test_ling_2_5_and_ling_3_have_one_model_type() -> None:
    """The first has lightning attention, the second Kimi Delta Attention and a gate on its latent attention."""
    old = model_from_config(
        hybrid(architectures=["BailingMoeV2_5ForCausalLM"], group_norm_size=2, use_qk_norm=True),
        name="ling-2.5",
    )
    new = model_from_config(
        hybrid(architectures=["BailingMoeV3ForCausalLM"], group_norm_size=1, no_kda_lora=True,
               short_conv_kernel_size=4), name="ling-3",
    )  # fmt: skip
    rules = [{b.recurrent.rule for b in m.blocks if b.recurrent} for m in (old, new)]
    assert rules == [{"lightning"}, {"kimi_delta"}]
    h = 256
    lightning = weights((3 * h, h), (h, h), (h, h), (h,), (64,), (64,))
    kda = weights(*[(h, h)] * 6, (3 * h, 1, 4), (4, h), (4,), (h,), (64,))
    assert parameters(new) - parameters(old) == 6 * (kda - lightning) + 2 * 4 * h
    without = model_from_config(hybrid(group_norm_size=2, use_qk_norm=True), name="x")
    assert parameters(without) == parameters(old)


def text_01(**keys: Any) -> dict[str, Any]:
    return {
        "model_type": "minimax_text_01", "hidden_size": 96, "intermediate_size": 64, "head_dim": 16,
        "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
        "vocab_size": 200, "num_local_experts": 4, "num_experts_per_tok": 2,
        "attn_type_list": [0, 0, 0, 1], **keys,
    }  # fmt: skip


def test_minimax_in_the_publishers_form() -> None:
    kinds = ["linear_attention"] * 3 + ["full_attention"]
    ours = {**text_01(), "model_type": "minimax", "layer_types": kinds}
    del ours["attn_type_list"]
    plain = parameters(model_from_config(text_01(), name="x"))
    assert plain == parameters(model_from_config(ours, name="x"))
    shared = parameters(model_from_config(text_01(shared_intermediate_size=32), name="x"))
    assert shared - plain == 4 * (3 * 32 * 96 + 96)  # its gate is one product of the input
    for name in ("minimax_m1", "MiniMaxText01", "MiniMaxM1"):
        assert parameters(model_from_config(text_01(model_type=name), name="x")) == plain


def caches(preset: str) -> Any:
    return model_record(load_model(preset), {}, None)


def test_caches_and_states_by_hand() -> None:
    """Bytes of keys and values per token, and of states per sequence, in 16 bit and fp32."""
    qwen = caches("qwen3.5-397b-a17b")
    assert qwen["kv_cache_bytes_per_token"] == 15 * 2 * (256 + 256) * 2
    convolved = (2 * 16 + 64) * 128 * 3 * 2  # three positions of queries, keys and values
    assert qwen["state_bytes_per_sequence"] == 45 * (64 * 128 * 128 * 4 + convolved)
    kimi = caches("kimi-linear-48b-a3b")
    assert kimi["kv_cache_bytes_per_token"] == 7 * (512 + 64) * 2
    assert kimi["state_bytes_per_sequence"] == 20 * (32 * 128 * 128 * 4 + 3 * 32 * 128 * 3 * 2)
    text = caches("minimax-text-01")
    assert text["kv_cache_bytes_per_token"] == 10 * 8 * 256 * 2
    assert text["state_bytes_per_sequence"] == 70 * 64 * 128 * 128 * 4
    m3 = caches("minimax-m3")
    keys = 60 * 4 * 256 * 2
    assert m3["kv_cache_bytes_per_token"] == keys + 57 * 128 * 2  # one key of each indexer
    assert m3["state_bytes_per_sequence"] == 0


@pytest.mark.parametrize(
    ("name", "legal"),
    [
        ("qwen3.5-397b-a17b", [1, 2, 4, 8, 16]),  # 16 heads of keys
        ("qwen3.5-27b", [1, 2, 4, 8]),  # 24 heads, 4 KV heads, 16 heads of keys
        ("qwen3-next-80b-a3b", [1, 2, 4, 8, 16]),
        ("minimax-text-01", [1, 2, 4, 8, 16, 32, 64]),
        ("kimi-linear-48b-a3b", [1, 2, 4, 8, 16, 32]),
        ("ring-mini-linear-2.0", [1, 2, 4]),  # 4 groups of heads that a norm spans
        ("minimax-m3", [1, 2, 4, 8, 16, 32, 64]),
    ],
)
def test_legal_degrees(name: str, legal: list[int]) -> None:
    assert legal_tp(load_model(name), None) == legal


QWEN = "InferSim-qwen3-next-80B-A3B.json"
LINEAR = {"full_attn_layers": [2], "kda_layers": [1], "head_dim": 8, "num_heads": 2,
          "short_conv_kernel_size": 4}  # fmt: skip
KIMI = {
    "model_type": "kimi_linear", "hidden_size": 32, "intermediate_size": 48, "vocab_size": 100,
    "num_hidden_layers": 2, "num_attention_heads": 2, "kv_lora_rank": 8, "q_lora_rank": None,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "num_experts": 4,
    "num_experts_per_token": 2, "num_shared_experts": 1, "moe_intermediate_size": 16,
    "first_k_dense_replace": 1, "linear_attn_config": LINEAR,
}  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"full_attn_layers": [1, 2]}, "linear_attn_config.kda_layers"),
        ({"kda_layers": []}, "linear_attn_config.kda_layers"),
        ({"kda_layers": [3]}, "linear_attn_config.kda_layers"),
        ({"kda_layers": 1}, "linear_attn_config.kda_layers"),
        ({"use_full_rank_gate": 2}, "linear_attn_config.use_full_rank_gate"),
        ({"num_heads": "2"}, "linear_attn_config.num_heads"),
    ],
)
def test_kimi_lists_of_layers(keys: dict[str, Any], field: str) -> None:
    assert parameters(model_from_config(KIMI, name="x"))
    with pytest.raises(InputError) as refused:
        model_from_config({**KIMI, "linear_attn_config": {**LINEAR, **keys}}, name="x")
    assert refused.value.field == field and "\n" not in refused.value.message


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"layer_types": ["linear_attention"] * 47 + ["mamba"]}, "layer_types"),
        ({"layer_types": ["linear_attention"] * 3}, "layer_types"),
        ({"linear_num_key_heads": 5}, "linear_num_key_heads"),
        ({"attn_output_gate": False}, "attn_output_gate"),
        ({"mamba_ssm_dtype": "float8"}, "mamba_ssm_dtype"),
        ({"linear_conv_kernel_dim": 0}, "linear_conv_kernel_dim"),
    ],
)
def test_qwen_keys_that_contradict(keys: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as refused:
        read(QWEN, **keys)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"attn_type_list": [0, 1]}, "attn_type_list"),
        ({"attn_type_list": [0, 0, 0, 2]}, "attn_type_list"),
        ({"attn_type_list": [0, 0, 0, True]}, "attn_type_list"),
        ({"attn_type_list": None}, "attn_type_list"),
        ({"layer_types": ["full_attention"] * 4}, "attn_type_list"),
        ({"num_local_experts": 1, "num_experts_per_tok": 1}, "num_local_experts"),
    ],
)
def test_minimax_keys_that_contradict(keys: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as refused:
        model_from_config(text_01(**keys), name="x")
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"qk_norm_type": "per_layer"}, "qk_norm_type"),
        ({"attention_output_gate": True}, "attention_output_gate"),
        ({"n_shared_experts": 3}, "n_shared_experts"),
        ({"first_k_dense_replace": 4}, "first_k_dense_replace"),
        ({"moe_intermediate_size": 1024}, "moe_intermediate_size"),
    ],
)
def test_minimax_m3_variants(keys: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as refused:
        read("MiniMax-M3.json", **keys)
    assert refused.value.field == field


def test_another_family_does_not_overlook_their_keys() -> None:
    llama = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "vocab_size": 100,
             "num_hidden_layers": 2, "num_attention_heads": 8}  # fmt: skip
    for key, value in (("layer_group_size", 4), ("attn_res_block_size", 12),
                       ("layer_types", ["linear_attention", "full_attention"])):  # fmt: skip
        with pytest.raises(UnsupportedModel) as refused:
            model_from_config({**llama, key: value}, name="x")
        assert refused.value.field == key


def test_qwen3_5_flat_and_nested_is_one_model() -> None:
    nested = json.loads((DATA / "Qwen3.5-27B.json").read_text(encoding="utf-8"))
    text = nested["text_config"]
    one = parameters(model_from_config(nested, name="x"))
    assert parameters(model_from_config(text, name="x")) == one
    flat = {**text, "model_type": "qwen3_5", "tie_word_embeddings": False}
    assert parameters(model_from_config(flat, name="x")) == one
    tied = {**nested, "tie_word_embeddings": True}
    assert one - parameters(model_from_config(tied, name="x")) == 248320 * 5120
