"""A model from numbers is the model that a config.json with those numbers describes; or a refusal."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

import meshwise as mw
from meshwise.models.families.config import model_from_config
from meshwise.models.load import load_config

LLAMA: dict[str, Any] = {"layers": 32, "hidden": 4096, "heads": 32, "ffn": 14336, "vocab": 32000}
MIXTRAL: dict[str, Any] = {
    "layers": 32,
    "hidden": 4096,
    "heads": 32,
    "kv_heads": 8,
    "vocab": 32000,
    "experts": 8,
    "experts_per_token": 2,
    "expert_ffn": 14336,
}
LATENT: dict[str, Any] = {
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
MLA: dict[str, Any] = {"layers": 4, "hidden": 2048, "heads": 16, "vocab": 1024, **LATENT}
ROUTED: dict[str, Any] = {"experts": 64, "experts_per_token": 6, "expert_ffn": 1408}
GPT: dict[str, Any] = {"gated": False, "tied": True, "dropout": True}

PRESETS: dict[str, mw.Model] = {
    "llama-3.1-8b": mw.Model.dense(
        **{**LLAMA, "vocab": 128256}, kv_heads=8, max_positions=131072
    ),
    "gpt2": mw.Model.dense(
        layers=12, hidden=768, heads=12, ffn=3072, vocab=50257, positions=1024, **GPT
    ),
    "gpt3-175b": mw.Model.dense(
        layers=96, hidden=12288, heads=96, ffn=4 * 12288, vocab=51200, positions=2048, **GPT
    ),
    "qwen2-7b": mw.Model.dense(
        layers=28, hidden=3584, heads=28, kv_heads=4, ffn=18944, vocab=152064, biases="qkv",
        max_positions=32768,
    ),
    "qwen3-8b": mw.Model.dense(
        layers=36, hidden=4096, heads=32, kv_heads=8, head_dim=128, ffn=12288, vocab=151936,
        qk_norm="head", max_positions=40960,
    ),
    "olmo-2-7b": mw.Model.dense(
        layers=32, hidden=4096, heads=32, ffn=11008, vocab=100352, qk_norm="wide",
        max_positions=4096,
    ),
    "phi-3-mini": mw.Model.dense(
        layers=32, hidden=3072, heads=32, ffn=8192, vocab=32064, window=2047, max_positions=4096
    ),
    "mixtral-8x7b": mw.Model.moe(**MIXTRAL, max_positions=32768),
    "qwen3-30b-a3b": mw.Model.moe(
        layers=48, hidden=2048, heads=32, kv_heads=4, head_dim=128, vocab=151936, experts=128,
        experts_per_token=8, expert_ffn=768, qk_norm="head", max_positions=40960,
    ),
    "qwen1.5-moe-a2.7b": mw.Model.moe(
        layers=24, hidden=2048, heads=16, vocab=151936, experts=60, experts_per_token=4,
        expert_ffn=1408, shared_experts=1, shared_ffn=5632, shared_gate=True, biases="qkv",
        max_positions=32768,
    ),
    "deepseek-moe-16b": mw.Model.moe(
        layers=28, hidden=2048, heads=16, vocab=102400, experts=64, experts_per_token=6,
        expert_ffn=1408, shared_experts=2, first_dense=1, dense_ffn=10944, max_positions=4096,
    ),
    "deepseek-v2-lite": mw.Model.mla(
        layers=27, hidden=2048, heads=16, vocab=102400, **LATENT, **ROUTED, shared_experts=2,
        first_dense=1, dense_ffn=10944, max_positions=163840,
    ),
    "deepseek-v3": mw.Model.mla(
        layers=61, hidden=7168, heads=128, vocab=129280, q_lora_rank=1536, **LATENT, experts=256,
        experts_per_token=8, expert_ffn=2048, shared_experts=1, first_dense=3, dense_ffn=18432,
        max_positions=163840,
    ),
}  # fmt: skip


def preset(name: str) -> mw.Model:
    """The catalog's, its weights as numbers describe them: in 16 bits."""
    config = load_config(name)[1]
    kept = {k: v for k, v in config.items() if k != "quantization_config"}
    return model_from_config(kept, name=name, source="")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_from_its_own_numbers_is_the_preset(name: str) -> None:
    built, want = PRESETS[name], preset(name)
    # what predicts further tokens is no number of the language model
    named = {k: getattr(want, k) for k in ("name", "model_type", "source", "mtp")}
    assert msgspec.structs.replace(built, **named) == want
    assert mw.describe(built).parameters == mw.describe(name).parameters
    assert mw.describe(built).active_parameters == mw.describe(name).active_parameters


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt2", "mixtral-8x7b", "deepseek-v2-lite"])
def test_it_is_priced_as_the_preset(name: str) -> None:
    work = mw.Training(batch=8, seq=1024)
    built, want = (
        mw.estimate(model, "dgx-a100", work, tp=2).to_dict() for model in (PRESETS[name], name)
    )
    assert {**built, "model": ""} == {**want, "model": ""}


def test_numbers_of_numpy_and_whole_floats_are_numbers() -> None:
    given = {k: np.int64(v) for k, v in LLAMA.items()}
    assert mw.Model.dense(**given) == mw.Model.dense(**LLAMA)
    assert mw.Model.dense(**LLAMA | {"hidden": 4096.0}) == mw.Model.dense(**LLAMA)


def test_without_a_name_the_numbers_are_the_name() -> None:
    assert mw.Model.dense(**LLAMA).name == "dense-32l-4096h-32a"
    assert mw.Model.moe(**MIXTRAL, name="mine").name == "mine"


@pytest.mark.parametrize(
    "make, change, field",
    [
        ("dense", {"layers": 0}, "layers"),
        ("dense", {"hidden": -4096}, "hidden"),
        ("dense", {"heads": 30}, "heads"),
        ("dense", {"kv_heads": 5}, "kv_heads"),
        ("dense", {"ffn": 2.5}, "ffn"),
        ("dense", {"ffn": None}, "ffn"),
        ("dense", {"vocab": "32k"}, "vocab"),
        ("dense", {"head_dim": 0}, "head_dim"),
        ("dense", {"positions": -1}, "positions"),
        ("dense", {"positions": True}, "positions"),
        ("dense", {"positions": 1024, "max_positions": 2048}, "max_positions"),
        ("dense", {"norm": "batch"}, "norm"),
        ("dense", {"biases": True}, "biases"),
        ("dense", {"qk_norm": "heads"}, "qk_norm"),
        ("dense", {"window": "4k"}, "window"),
        ("dense", {"gated": "yes"}, "gated"),
        ("dense", {"tied": None}, "tied"),
        ("dense", {"dropout": 0.1}, "dropout"),
        ("dense", {"dtype": "int3"}, "dtype"),
        ("dense", {"name": 7}, "name"),
        ("dense", {"kvheads": 8}, "kvheads"),
        ("dense", {"ffn": ...}, "ffn"),
        ("moe", {"experts": 0}, "experts"),
        ("moe", {"experts": [8, 8]}, "experts"),
        ("moe", {"experts_per_token": 9}, "experts_per_token"),
        ("moe", {"expert_ffn": 0}, "expert_ffn"),
        ("moe", {"shared_ffn": 512}, "shared_ffn"),
        ("moe", {"shared_experts": 1, "shared_ffn": 0}, "shared_ffn"),
        ("moe", {"shared_gate": True}, "shared_gate"),
        ("moe", {"first_dense": 1}, "dense_ffn"),
        ("moe", {"first_dense": 32, "dense_ffn": 14336}, "first_dense"),
        ("moe", {"first_dense": 99, "dense_ffn": 14336}, "first_dense"),
        ("moe", {"dense_ffn": 14336}, "dense_ffn"),
        ("mla", {"kv_lora_rank": 0}, "kv_lora_rank"),
        ("mla", {"q_lora_rank": 0}, "q_lora_rank"),
        ("mla", {"v_head_dim": None}, "v_head_dim"),
        ("mla", {"ffn": None}, "ffn"),
        ("mla", {"experts_per_token": 2}, "experts_per_token"),
        ("mla", {"first_dense": 1}, "first_dense"),
        ("mla", {"biases": "qkv"}, "biases"),
        ("mla", ROUTED, "ffn"),
        ("mla", {**ROUTED, "ffn": None, "expert_ffn": None}, "expert_ffn"),
    ],
)  # fmt: skip
def test_what_cannot_be_names_the_keyword(make: str, change: dict[str, Any], field: str) -> None:
    right = {"dense": LLAMA, "moe": MIXTRAL, "mla": {**MLA, "ffn": 8192}}[make]
    with pytest.raises(mw.MeshwiseError) as caught:
        getattr(mw.Model, make)(**{k: v for k, v in (right | change).items() if v is not ...})
    assert caught.value.field == field
    assert caught.value.legal and "\n" not in str(caught.value)


def test_a_dense_model_with_latent_attention() -> None:
    model = mw.Model.mla(**MLA, ffn=8192)
    assert [b.attention.mla for b in model.blocks if b.attention] == [True]
    assert mw.scale(model, "dgx-a100", mw.Decode(batch=8, context=1024)).points
