"""Sparse and shared attention, gates and lists per layer: what a layer is, what it caches, what TP divides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import meshwise as mw
from meshwise.cost.memory.parts import model_cache_bytes
from meshwise.errors import InputError, UnsupportedModel
from meshwise.layouts.stages import parts_sharers, source_layers
from meshwise.layouts.tp_degrees import legal_tp, refusals
from meshwise.models.families.config import FAMILIES, model_from_config
from meshwise.models.layers.attention import Attention
from meshwise.models.parameters import mtp_parameters, parameters
from meshwise.models.shapes import Model
from meshwise.stacks.stack import Stack

DATA = Path(__file__).parents[1] / "data" / "configs"


def config(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def read(name: str, **keys: Any) -> Model:
    return model_from_config({**config(name), **keys}, name=name)


def text(name: str, **keys: Any) -> Model:
    whole = config(name)
    whole["text_config"] |= keys
    return model_from_config(whole, name=name)


def attentions(model: Model) -> list[Attention]:
    """Of each layer in order."""
    found = [model.blocks[kind].attention for kind in model.pattern]
    assert all(a is not None for a in found)
    return [a for a in found if a is not None]


def test_deepseek_v4_flash() -> None:
    model = read("DeepSeek-V4-Flash-NVFP4")
    layers = attentions(model)
    assert [a.compress for a in layers[:5]] == [None, None, 4, 128, 4]
    assert (
        sum(a.compress == 4 for a in layers) == 21 and sum(a.compress == 128 for a in layers) == 20
    )
    assert all((a.indexer is not None) == (a.compress == 4) for a in layers)
    # a token of a long context: every fourth an entry of 512 values in 16 bit and an index key of 128
    # bytes with an fp32 scale; every 128th an entry
    grown = 21 * (512 * 2 / 4 + (128 + 4) / 4) + 20 * 512 * 2 / 128
    assert model_cache_bytes(model, Stack(name="test")) == (grown, 0)
    # a layer of windows by hand: queries through 1024, one key, output in 8 groups of rank 1024
    plain = read("DeepSeek-V4-Flash-NVFP4", quantization_config=None)
    kind = plain.blocks[plain.pattern[0]]
    own = 4096 * 1024 + 1024 + 1024 * 64 * 512 + 4096 * 512 + 512 + 64
    own += 64 * 512 // 8 * 8 * 1024 + 8 * 1024 * 4096
    mixing = 2 * (24 * 4 * 4096 + 24 + 3)
    experts = 257 * 3 * 4096 * 2048 + 256 * 4096
    by_hand = own + mixing + experts + 2 * 4096
    one_layer = read("DeepSeek-V4-Flash-NVFP4", num_hidden_layers=1, quantization_config=None)
    assert one_layer.blocks == (kind,)
    ends = 2 * 129280 * 4096 + 4096 + 4 * 4 * 4096 + 4 + 1
    assert parameters(one_layer) == by_hand + ends
    # its prediction layer has windows alone, and joins as vLLM's deepseek_v4_mtp.py does
    assert plain.mtp is not None and plain.mtp.blocks == (kind,)
    assert mtp_parameters(model) == by_hand + 2 * 4096**2 + 3 * 4096 + 4 * 4 * 4096 + 4 + 1
    assert legal_tp(model, None) == [1, 2, 4, 8]
    (found,) = refusals(model, 16, None)
    assert found.code == "output_groups"


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"compress_ratios": [0] * 20}, "compress_ratios"),
        ({"compress_ratios": [2] * 44}, "compress_ratios"),
        ({"compress_ratios": [[4]] * 44}, "compress_ratios"),
        ({"layer_types": ["sliding_attention"] * 43}, "compress_ratios"),  # contradict each other
        ({"layer_types": ["linear_attention"] * 43}, "layer_types"),
        ({"mlp_layer_types": ["dense"] * 43}, "mlp_layer_types"),
        ({"compress_rates": {"sliding_attention": 4}}, "compress_rates"),
        ({"o_groups": 7}, "o_groups"),
        ({"n_shared_experts": 2}, "n_shared_experts"),
        ({"n_routed_experts": 0}, "n_routed_experts"),
    ],
)
def test_deepseek_v4_refuses(keys: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        read("DeepSeek-V4-Flash-NVFP4", **keys)
    assert caught.value.field == field and "\n" not in str(caught.value)


def test_glm_shares_indexers() -> None:
    model = read("GLM-5.2")
    own = [a.indexer.own for a in attentions(model) if a.indexer is not None]
    assert len(own) == 78 and own[:8] == [True, True, True, False, False, False, True, False]
    assert sum(own) == 21  # three layers, then one of four
    # without an indexer of its own: queries from 2048, keys with a norm, weights of 32 heads
    without = 2048 * 32 * 128 + 6144 * 128 + 2 * 128 + 6144 * 32
    every = read("GLM-5.2", indexer_types=None, index_topk_freq=1)
    assert parameters(every) - parameters(model) == (78 - 21) * without
    # the schedule that its other keys state is the one of its list
    assert read("GLM-5.2", indexer_types=None).pattern == model.pattern
    # per token: 576 values of the latent in 16 bit in each layer, an index key where one is made
    grown = 78 * 576 * 2 + 21 * (128 + 4)
    assert model_cache_bytes(model, Stack(name="test")) == (grown, 0)
    assert model.mtp is not None
    (block,) = model.mtp.blocks
    assert block.attention is not None and block.attention.indexer is not None
    assert block.attention.indexer.own and block.moe is not None


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"indexer_types": ["shared"] * 78}, "indexer_types"),
        ({"indexer_types": ["full"] * 77}, "indexer_types"),
        ({"indexer_types": ["none"] * 78}, "indexer_types"),
        ({"index_topk_pattern": "F" * 78}, "index_topk_pattern"),
    ],
)
def test_glm_refuses(keys: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        read("GLM-5.2", **keys)
    assert caught.value.field == field


def test_gemma_4() -> None:
    model = text("Gemma-4-26B-A4B-NVFP4")
    layers = attentions(model)
    assert [a.window for a in layers[:6]] == [1024] * 5 + [None]
    local, whole = layers[0], layers[5]
    assert (local.head_dim, local.kv_heads, local.value_projection) == (256, 8, True)
    assert (whole.head_dim, whole.kv_heads, whole.value_projection) == (512, 2, False)
    assert all(b.mlp is not None and b.moe is not None for b in model.blocks)
    # its cache is kept in 8 bit: in 5 layers keys and values of 2 heads
    assert model_cache_bytes(model, Stack(name="test")) == (5 * 2 * 2 * 512, 0)
    # 704 features of an expert in 8 parts are no whole groups of 16; in 16 bit they are of no matter
    assert legal_tp(model, None) == [1, 2, 4]
    plain = {k: v for k, v in config("Gemma-4-26B-A4B-NVFP4").items() if k != "quantization_config"}
    assert legal_tp(model_from_config(plain, name="test"), None) == [1, 2, 4, 8, 16]


def small_gemma(kind: str, **keys: Any) -> Model:
    sizes = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 6, "head_dim": 16,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
        "global_head_dim": 512, "hidden_size_per_layer_input": 0,
    }  # fmt: skip
    return model_from_config({"model_type": kind, **sizes, **keys}, name="test")


def test_shared_keys_and_values_are_cached_once() -> None:
    kinds = ["sliding_attention", "full_attention"] * 3
    alone = small_gemma("gemma4_text", layer_types=kinds, sliding_window=8)
    shared = small_gemma("gemma4_text", layer_types=kinds, sliding_window=8, num_kv_shared_layers=4)
    assert [a.shared_kv for a in attentions(shared)] == [False, False, True, True, True, True]
    stack = Stack(name="test")
    assert model_cache_bytes(alone, stack)[0] == 3 * model_cache_bytes(shared, stack)[0]
    # keys, values and the norm of the keys, in two layers with windows and two without
    saved = 2 * (2 * 64 * 2 * 16 + 16) + 2 * (2 * 64 * 2 * 512 + 512)
    assert parameters(alone) - parameters(shared) == saved
    wide = small_gemma("gemma4_text", layer_types=kinds, sliding_window=8, num_kv_shared_layers=4,
                       use_double_wide_mlp=True)  # fmt: skip
    assert parameters(wide) - parameters(shared) == 4 * 3 * 64 * 96


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"num_kv_shared_layers": 6}, "num_kv_shared_layers"),
        ({"layer_types": ["sliding_attention"] * 5 + ["full_attention"],
          "num_kv_shared_layers": 1}, "num_kv_shared_layers"),
        ({"layer_types": ["full_attention"] * 5}, "layer_types"),
        ({"layer_types": ["linear_attention"] * 6}, "layer_types"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention"),
        ({"enable_moe_block": True}, "num_experts"),
        ({"per_layer_config": {"9": {"head_dim": 8}}}, "per_layer_config.9"),
        ({"per_layer_config": {"1": {"rope": 8}}}, "per_layer_config.1.rope"),
    ],
)  # fmt: skip
def test_gemma_4_refuses(keys: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        small_gemma("gemma4_text", **keys)
    assert caught.value.field == field


def test_step_in_three_forms() -> None:
    """Flat; nested as its wrapper has it; as its first files had it, with lists that go on over prediction."""
    flat = read("Step-3.7-Flash")
    sizes = {k: v for k, v in config("Step-3.7-Flash").items() if k != "model_type"}
    nested = model_from_config({"model_type": "step3p7", "text_config": sizes}, name="test")
    assert nested.blocks == flat.blocks and nested.pattern == flat.pattern
    first = {
        **{k: v for k, v in sizes.items() if k not in ("num_key_value_heads", "num_experts")},
        "model_type": "step3p5", "num_attention_groups": 8, "moe_num_experts": 288, "moe_top_k": 8,
        "moe_layers_enum": ",".join(map(str, range(3, 45))),
        "layer_types": sizes["layer_types"] + ["sliding_attention"] * 3,
    }  # fmt: skip
    first.pop("first_k_dense_replace")
    old = model_from_config(first, name="test")
    assert old.blocks == flat.blocks and old.pattern == flat.pattern
    more = model_from_config(
        {
            **first,
            "attention_other_setting": {"num_attention_heads": 96, "num_attention_groups": 8},
        },
        name="test",
    )
    # 32 more heads in each layer with a window: queries, output and the gate
    windows = sum(a.window is not None for a in attentions(flat))
    assert parameters(more) - parameters(flat) == windows * 32 * (2 * 4096 * 128 + 4096)
    # heads of both sizes have to be divided
    assert legal_tp(flat, None)[-1] == 64 and legal_tp(more, None)[-1] == 32


def test_step_3() -> None:
    """The language model of Step 3: 316 billion weights, 38 active (arXiv 2507.19427)."""
    sizes = {
        "model_type": "step3_text", "hidden_size": 7168, "num_hidden_layers": 61, "head_dim": 256,
        "num_attention_heads": 64, "share_q_dim": 2048, "intermediate_size": 18432,
        "moe_intermediate_size": 5120, "share_expert_dim": 5120, "moe_num_experts": 48,
        "moe_top_k": 3, "vocab_size": 128815, "num_attention_groups": 1,
        "moe_layers_enum": ",".join(map(str, range(4, 60))),
    }  # fmt: skip
    model = model_from_config(sizes, name="test")
    assert 315e9 < parameters(model) < 317e9
    assert 37e9 < parameters(model, active=True) < 39e9
    # 512 bytes of a key and as many of a value in each layer
    assert model_cache_bytes(model, Stack(name="test")) == (61 * 2 * 512, 0)
    with pytest.raises(UnsupportedModel, match="num_attention_groups"):
        model_from_config({**sizes, "num_attention_groups": 2}, name="test")


HUNYUAN_LARGE = {
    "model_type": "hunyuan", "hidden_size": 6400, "intermediate_size": 18304, "vocab_size": 128512,
    "num_hidden_layers": 64, "num_attention_heads": 80, "num_key_value_heads": 8,
    "num_experts": 16, "moe_topk": 1, "num_shared_expert": 1, "use_mixed_mlp_moe": True,
    "use_cla": True, "cla_share_factor": 2, "use_qk_norm": True, "tie_word_embeddings": True,
}  # fmt: skip


def test_hunyuan_large() -> None:
    """389 billion weights, 52 active; every second layer uses the keys and values before it
    (arXiv 2411.02265)."""
    model = model_from_config(HUNYUAN_LARGE, name="test")
    assert 388e9 < parameters(model) < 390e9
    assert 51e9 < parameters(model, active=True) < 53e9
    assert [a.shared_kv for a in attentions(model)] == [False, True] * 32
    assert model_cache_bytes(model, Stack(name="test")) == (32 * 2 * 8 * 80 * 2, 0)
    whole = model_from_config({**HUNYUAN_LARGE, "use_cla": False}, name="test")
    assert parameters(whole) - parameters(model) == 32 * 2 * 6400 * 8 * 80


def test_hunyuan_lists_and_first_layers() -> None:
    lists = model_from_config(
        {**HUNYUAN_LARGE, "moe_topk": [1] * 63 + [2], "num_shared_expert": [1] * 64}, name="test"
    )
    assert lists.blocks[lists.pattern[-1]].moe is not None
    assert [b.moe.top_k for b in lists.blocks if b.moe is not None] == [1, 1, 2]
    dense = model_from_config({**HUNYUAN_LARGE, "moe_layer_num_skipped": 3}, name="test")
    assert [dense.blocks[i].moe is None for i in dense.pattern[:4]] == [True] * 3 + [False]
    for keys, field in (
        ({"use_mla": True}, "use_mla"),
        ({"moe_intermediate_size": 4096}, "moe_intermediate_size"),
        ({"num_shared_expert": [1] * 63 + [2]}, "num_shared_expert"),
        ({"moe_topk": 17}, "moe_topk"),
        ({"moe_topk": [1] * 3}, "moe_topk"),
    ):
        with pytest.raises(InputError) as caught:
            model_from_config({**HUNYUAN_LARGE, **keys}, name="test")
        assert caught.value.field == field


def test_ernie_vl_has_experts_for_images() -> None:
    """ERNIE-4.5-VL-28B-A3B: a text's token visits none of the experts for images."""
    sizes = {
        "model_type": "ernie4_5_moe_vl", "hidden_size": 2560, "intermediate_size": 12288,
        "num_hidden_layers": 28, "num_attention_heads": 20, "num_key_value_heads": 4,
        "vocab_size": 103424, "moe_num_experts": [64, 64], "moe_intermediate_size": [1536, 512],
        "moe_k": 6, "moe_num_shared_experts": 2, "moe_layer_start_index": [1, 1],
        "moe_layer_end_index": [29, 28], "moe_layer_interval": 1, "tie_word_embeddings": True,
    }  # fmt: skip
    model = model_from_config(sizes, name="test")
    expert = 3 * 2560
    idle = 27 * (58 * expert * 1536 + 64 * expert * 512)
    assert parameters(model, active=True) == parameters(model) - idle
    assert 27e9 < parameters(model) < 29e9 and 2.7e9 < parameters(model, active=True) < 3.4e9
    for keys, field in (
        ({"moe_num_experts": [64, 32]}, "moe_num_experts"),
        ({"moe_intermediate_size": 1536}, "moe_intermediate_size"),
        ({"moe_layer_start_index": [1, 2]}, "moe_layer_start_index"),
        ({"moe_k": 65}, "moe_k"),
    ):
        with pytest.raises(InputError) as caught:
            model_from_config({**sizes, **keys}, name="test")
        assert caught.value.field == field


def test_minicpm_with_experts() -> None:
    """MiniCPM-MoE-8x2B: 13.6 billion weights beside its embedding, 4 active (published)."""
    sizes = {
        "model_type": "minicpm", "hidden_size": 2304, "intermediate_size": 5760,
        "num_hidden_layers": 40, "num_attention_heads": 36, "num_key_value_heads": 36,
        "vocab_size": 122753, "num_experts": 8, "num_experts_per_tok": 2,
    }  # fmt: skip
    model = model_from_config(sizes, name="test")
    table = 122753 * 2304
    assert 13.5e9 < parameters(model) - table < 13.7e9
    assert 3.9e9 < parameters(model, active=True) - table < 4.1e9
    dense = model_from_config({**sizes, "num_experts": 0}, name="test")
    assert parameters(model) - parameters(dense) == 40 * (7 * 3 * 2304 * 5760 + 8 * 2304)


def test_wrappers_of_known_text_models() -> None:
    for wrapper, inner in (
        ("lighton_ocr", "qwen3"),
        ("glm46v", "glm4v_text"),
        ("aria", "aria_text"),
    ):
        sizes = {
            k: v for k, v in FAMILIES[inner].defaults.items() if v is not None and k != "mlp_bias"
        }
        stated = {"model_type": wrapper, "tie_word_embeddings": False, "text_config": sizes}
        nested = model_from_config(stated, name="test")
        assert (
            nested.blocks == model_from_config({"model_type": inner, **sizes}, name="test").blocks
        )


def test_pipelines_keep_layers_with_the_one_whose_keys_they_use() -> None:
    """Gemma 3n: of 35 layers the last 15 use keys of layers 18 and 19."""
    model = small_gemma(
        "gemma4_text", num_hidden_layers=35, num_kv_shared_layers=15, sliding_window=8,
        layer_types=(["sliding_attention"] * 4 + ["full_attention"]) * 7,
    )  # fmt: skip
    sources = source_layers(model)
    assert sources[:20] == list(range(20))
    assert sources[20:] == [18, 18, 18, 18, 19] * 3
    assert [pp for pp in range(1, 36) if not parts_sharers(sources, pp)] == [1, 2]
    # cross-layer attention in pairs: stages of whole pairs
    pairs = source_layers(model_from_config(HUNYUAN_LARGE, name="test"))
    assert [pp for pp in (1, 2, 4, 8, 16, 32, 64) if not parts_sharers(pairs, pp)][-1] == 32
    training = mw.Training(batch=64, seq=64)
    cluster = mw.cluster("hgx-h100")
    with pytest.raises(InputError, match="keys and values they use") as caught:
        mw.estimate(model, cluster, training, tp=2, pp=4, micro_batch=1)
    assert caught.value.field == "pp"
    assert mw.estimate(model, cluster, training, tp=2, pp=2, micro_batch=1)
    # a plan has no stage without them
    found = mw.plan(model, cluster, mw.Training(batch=8, seq=64), gpus=8)
    assert {row["pp"] for row in found.rows()} <= {1, 2}
