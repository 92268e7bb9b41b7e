"""Oracle: parameter counts against transformers' own models, built on torch's meta device.

Every model type that transformers has a class for is built from small configurations that vary what
the family varies (ties, biases, heads, experts …), and from ones that state next to nothing, so
that the defaults decide. Counts have to agree to the last weight.
"""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Iterator
from typing import Any

import pytest
from tests.deep import deep

from meshwise.errors import InputError
from meshwise.models.families.bailing import BAILING_FAMILIES
from meshwise.models.families.config import known_types, model_from_config
from meshwise.models.families.delta import DELTA_FAMILIES
from meshwise.models.families.ernie import ERNIE_FAMILIES
from meshwise.models.families.experts import MOE_FAMILIES
from meshwise.models.families.gemma import GEMMA_FAMILIES
from meshwise.models.families.hunyuan import HUNYUAN_FAMILIES
from meshwise.models.families.keys import NO_NONE, NO_SIZES
from meshwise.models.families.llama import DENSE_FAMILIES
from meshwise.models.families.longcat import LONGCAT_FAMILIES
from meshwise.models.families.minimax import MINIMAX_FAMILIES
from meshwise.models.families.refused import REFUSED_TYPES, WRAPPER_TYPES
from meshwise.models.families.registry import FAMILIES
from meshwise.models.families.sparse import SPARSE_FAMILIES
from meshwise.models.families.step import STEP_FAMILIES
from meshwise.models.parameters import parameters

torch = pytest.importorskip("torch", reason="the oracle needs torch")
transformers = pytest.importorskip("transformers", reason="the oracle needs transformers")

pytestmark = pytest.mark.filterwarnings("ignore")

from transformers import AutoModelForCausalLM, AutoModelForImageTextToText  # noqa: E402
from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: E402

# Types that only the publisher's own code reads: transformers has no class to compare with.
REMOTE = {
    "RefinedWeb", "RefinedWebModel", "Yi", "aquila", "xverse", "baichuan", "orion", "qwen", "mimo",
    "phi-msft", "internlm", "internlm2", "chatglm", "stablelm_epoch", "minicpm", "nemotron-nas",
    "deci", "deepseek", "kimi_k2", "arctic", "bailing_moe", "bailing_moe_v2", "bailing_moe_linear",
    "minimax_text_01", "minimax_m1", "MiniMaxText01", "MiniMaxM1", "minimax_m3", "hunyuan", "step3_text",
    "exaone4_5_text", "deepseek_ref",
}  # fmt: skip
# Parts of multimodal models, compared through their wrapper.
TEXT_ONLY = {
    "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "qwen3_vl_moe_text", "glm4v_text",
    "glm4v_moe_text", "mistral4", "hunyuan_vl_text",
    "ernie4_5_vl_moe_text", "step3p5", "deepseek_ocr2_text",
}  # fmt: skip
LAYERS = {
    "gpt2": "n_layer", "gpt-sw3": "n_layer", "openai-gpt": "n_layer", "gptj": "n_layer", "codegen": "n_layer", "bloom": "n_layer",
    "gpt_bigcode": "n_layer", "mpt": "n_layers", "dbrx": "n_layers", "gpt_neo": "num_layers",
    "xglm": "num_layers",
}  # fmt: skip
# What a class needs beside the number of layers, because its own defaults cannot be built.
NEEDED: dict[str, dict[str, Any]] = {
    "nemotron": {"num_key_value_heads": 8},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "ministral": {"head_dim": 128},
    "dots1": {"n_routed_experts": 6, "n_shared_experts": 2, "num_experts_per_tok": 2},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "glm4_moe": {"head_dim": 128},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "glm4_moe_lite": {"first_k_dense_replace": 1},
    "cohere2_moe": {"first_k_dense_replace": 1},
}
GPT = {"hidden": "n_embd", "layers": "n_layer", "heads": "n_head", "width": "n_inner",
       "positions": "n_positions"}  # fmt: skip
NAMES: dict[str, dict[str, str]] = {
    **dict.fromkeys(("gpt2", "gpt-sw3", "openai-gpt", "gptj", "codegen", "gpt_bigcode"), GPT),
    "mpt": {"hidden": "d_model", "layers": "n_layers", "heads": "n_heads",
            "positions": "max_seq_len"},
    "dbrx": {"hidden": "d_model", "layers": "n_layers", "heads": "n_heads",
             "positions": "max_seq_len"},
    "bloom": {"layers": "n_layer", "heads": "n_head"},
    "gpt_neo": {"layers": "num_layers", "heads": "num_heads"},
    "xglm": {"hidden": "d_model", "layers": "num_layers", "heads": "attention_heads",
             "width": "ffn_dim"},
    "opt": {"width": "ffn_dim"},
    "falcon": {"width": "ffn_hidden_size", "kv": "num_kv_heads"},
    "llama4_text": {"dense": "intermediate_size_mlp"},
}  # fmt: skip
USUAL = {"hidden": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
         "kv": "num_key_value_heads", "width": "intermediate_size", "vocab": "vocab_size",
         "positions": "max_position_embeddings", "dim": "head_dim"}  # fmt: skip
FLAGS = (
    "attention_bias", "mlp_bias", "use_bias", "bias", "qkv_bias", "use_qk_norm", "qk_layernorm",
    "use_qkv_bias", "use_parallel_residual", "attention_out_bias", "lm_head_bias", "multi_query",
    "new_decoder_architecture", "parallel_attn", "alibi", "enable_bias", "do_layer_norm_before",
    "layer_norm_elementwise_affine", "_remove_final_layer_norm", "tie_word_embeddings",
)  # fmt: skip
ZEROS = "longcat_flash"  # test_experts_without_weights
LINEAR = {*DELTA_FAMILIES, *MINIMAX_FAMILIES, *BAILING_FAMILIES} - REMOTE
# Sparse and shared attention, gates, experts beside an MLP, lists per layer.
VARIED = {
    *SPARSE_FAMILIES, *GEMMA_FAMILIES, *STEP_FAMILIES, *HUNYUAN_FAMILIES, *LONGCAT_FAMILIES,
    *ERNIE_FAMILIES, "afmoe", "cohere2_moe", "axk1", "apertus1p5_text", "mellum", "kolibri1", "flint",
    "granite_swa", "hyperclovax", "exaone4", "minicpm3", "sarvam_mla", "sarvam_moe",
} - REMOTE - TEXT_ONLY  # fmt: skip
# Said by lists that transformers' classes make themselves.
ALWAYS = {"first_k_dense_replace", "global_head_dim"}
ORACLE = sorted(
    (set(DENSE_FAMILIES) | set(MOE_FAMILIES) | LINEAR | VARIED) - REMOTE - TEXT_ONLY - {ZEROS}
)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """transformers logs what it makes of small sizes."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def count(model: Any) -> int:
    """Weights, tied ones once."""
    return sum({id(p): p.numel() for p in model.parameters()}.values())


def built(config: Any) -> int:
    build: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        return count(build(config))


def ours(config: dict[str, Any]) -> int:
    return parameters(model_from_config(config, name="test"))


def small(model_type: str, rng: random.Random) -> dict[str, Any]:
    """A small random configuration with what the type's class reads."""
    known = CONFIG_MAPPING[model_type]().to_dict()
    names = {**USUAL, **NAMES.get(model_type, {})}
    heads = rng.choice((4, 8, 12))
    dim = 2 * rng.choice((4, 6, 8))
    layers = rng.choice((2, 4, 6))
    values = {
        "hidden": heads * dim,
        "layers": layers,
        "heads": heads,
        "kv": rng.choice([d for d in (1, 2, 4, heads) if heads % d == 0]),
        "width": 2 * rng.randint(8, 60),
        "vocab": rng.randint(100, 300),
        "positions": 64,
        "dim": rng.choice((dim, dim, 2 * dim)),
        "dense": 48,
    }
    config: dict[str, Any] = {
        names[k]: v for k, v in values.items() if k in names and names[k] in known
    }
    for flag in FLAGS:
        if isinstance(known.get(flag), bool) and rng.random() < 0.5:
            config[flag] = rng.random() < 0.5
    experts = rng.choice((4, 6, 8))
    for key in ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"):
        if key in known:
            config[key] = experts
    choices: dict[str, Any] = {
        "num_experts_per_tok": rng.randint(1, 3),
        "num_experts_per_token": rng.randint(1, 3),
        "num_expert_group": 1,
        "moe_topk": rng.randint(1, 3),
        "moe_k": rng.randint(1, 3),
        "moe_intermediate_size": 2 * rng.randint(4, 20),
        "n_shared_experts": rng.randint(1, 3),
        "num_shared_experts": rng.randint(1, 3),
        "moe_num_shared_experts": rng.randint(1, 3),
        "shared_expert_intermediate_size": 24,
        "shared_intermediate_size": rng.choice((0, 20)),
        "first_k_dense_replace": rng.randint(0, layers),
        "decoder_sparse_step": rng.choice((1, 2)),
        "mlp_only_layers": rng.choice(([], [0], [1])),
        "interleave_moe_layer_step": rng.choice((1, 2)),
        "moe_layer_start_index": rng.choice((0, 1)),
        "moe_layer_end_index": rng.choice((-1, layers - 1)),
        "moe_layer_interval": rng.choice((1, 2)),
        "q_lora_rank": rng.choice((None, 24)),
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": rng.choice((8, 16)),
        "v_head_dim": rng.choice((8, 12)),
        "index_n_heads": 2,
        "index_head_dim": 16,
        "word_embed_proj_dim": rng.choice((heads * dim, 16)),
        "num_ln_in_parallel_attn": rng.choice((None, 1, 2)),
        "expansion_ratio": 4,
        "n_group": 1,
        "pad_token_id": 0,
        "topk_group": 1,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": rng.choice((2, 4)),
        "linear_key_head_dim": rng.choice((8, 16)),
        "linear_value_head_dim": rng.choice((8, 16)),
        "linear_conv_kernel_dim": rng.choice((3, 4)),
        "linear_head_dim": rng.choice((8, 16)),
        "linear_num_heads": rng.choice((2, 4)),
        "short_conv_kernel_size": rng.choice((3, 4)),
        "layer_group_size": rng.choice((2, 3)),
        "dense_intermediate_size": 2 * rng.randint(8, 40),
        "index_topk_blocks": 4,
        "index_block_size": 16,
    }
    config |= {k: v for k, v in choices.items() if k in known and k not in config}
    if model_type == "mimo_v2_flash":
        config["num_key_value_heads"] = rng.choice((1, 2))
        config["num_attention_heads"] = 8
    if model_type in (*SPARSE_FAMILIES, "axk1", "longcat_flash"):
        config["q_lora_rank"] = 24
    _vary(config, model_type, rng)
    if model_type in LINEAR:
        kinds = FAMILIES[model_type].layer_kinds
        config["layer_types"] = rng.sample(kinds, 2) + rng.choices(kinds, k=layers - 2)
    if model_type in ("kimi_linear", "bailing_hybrid"):
        config["tie_word_embeddings"] = False  # their classes have two tables whatever it says
    if model_type == "bailing_hybrid":
        config["head_dim"] = 16
    elif any(k in known for k in ("kv_lora_rank",)):
        config.pop("head_dim", None)
        config.pop("num_key_value_heads", None)
    if model_type == "gpt_neo":
        config["attention_types"] = [[["global", "local"], layers // 2]]
    if model_type == "internlm3":  # its class refuses two different values
        config.pop("mlp_bias", None)
        config["mlp_bias"] = config.setdefault("attention_bias", False)
    if model_type == "helium":
        config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    if model_type == "dbrx":
        config["tie_word_embeddings"] = False
        config["attn_config"] = {"kv_n_heads": rng.choice((1, 2, heads)), "rope_theta": 1e4}
        config["ffn_config"] = {"ffn_hidden_size": 40, "moe_num_experts": experts, "moe_top_k": 2}
    if model_type == "falcon" and not config.get("new_decoder_architecture"):
        config.pop("num_kv_heads", None)
    if model_type == "jais2":
        config["head_dim"] = dim
    if model_type in ("hunyuan_v1_dense", "hunyuan_v1_moe"):
        config.pop("use_qk_norm", None)
    for key, value in NEEDED.get(model_type, {}).items():
        config.setdefault(key, value)
    # transformers' classes say it by a list that they make themselves; files state it
    family = FAMILIES[model_type]
    names = ("first_k_dense_replace", *family.aliases.get("first_k_dense_replace", ()))
    dense = family.defaults.get("first_k_dense_replace")
    if dense is not None and not {*names, "mlp_layer_types"} & set(config):
        config[next((name for name in names if name in known), names[0])] = dense
    return config


def _vary(config: dict[str, Any], model_type: str, rng: random.Random) -> None:
    """What only some families have, into ``config``."""
    layers = config.get("num_hidden_layers", 2)
    two = ["sliding_attention", "full_attention"]
    if model_type == "deepseek_v4":
        kinds = list(FAMILIES[model_type].layer_kinds)
        config |= {
            "layer_types": rng.choices(kinds, k=layers), "n_shared_experts": 1, "hc_mult": 3,
            "head_dim": 16, "o_groups": 2, "o_lora_rank": 6, "mlp_bias": rng.random() < 0.5,
            "compress_rates": {kinds[1]: 4, kinds[2]: rng.choice((8, 16))}, "sliding_window": 8,
            "num_key_value_heads": 1, "index_topk": 3,
        }  # fmt: skip
    if model_type == "glm_moe_dsa":
        config["indexer_types"] = ["full", *rng.choices(["full", "shared"], k=layers - 1)]
    if model_type in GEMMA_FAMILIES:
        config |= {"num_hidden_layers": 6, "layer_types": two * 3, "sliding_window": 8}
        config["num_kv_shared_layers"] = rng.choice((0, 2, 3))
    if model_type.startswith("gemma4"):
        config |= {
            "attention_k_eq_v": rng.random() < 0.5, "global_head_dim": 32, "hidden_size": 48,
            "num_global_key_value_heads": rng.choice((None, 1)), "num_attention_heads": 4,
            "num_key_value_heads": 2, "use_double_wide_mlp": rng.random() < 0.5,
        }  # fmt: skip
    if model_type == "gemma4_text":
        experts = rng.random() < 0.5
        config |= {
            "enable_moe_block": experts, "num_experts": 6, "top_k_experts": 2,
            "hidden_size_per_layer_input": rng.choice((0, 8)), "vocab_size_per_layer_input": 310,
        }  # fmt: skip
    if model_type == "gemma3n_text":
        config |= {
            "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 310, "laurel_rank": 4,
            "altup_num_inputs": 3, "activation_sparsity_pattern": [0.0] * 6,
            "intermediate_size": rng.choice((40, [40, 40, 48, 48, 40, 40])),
        }  # fmt: skip
    if model_type == "ernie4_5_vl_moe_text":
        config["moe_intermediate_size"] = [2 * rng.randint(4, 20), 6]
        config["mlp_layer_types"] = rng.choices(["dense", "sparse"], k=layers)
    if model_type == "laguna":
        kv = config["num_key_value_heads"]
        config["num_attention_heads_per_layer"] = [rng.choice((1, 2)) * kv for _ in range(layers)]
        config["mlp_layer_types"] = rng.choices(["dense", "sparse"], k=layers)
        config["layer_types"] = rng.choices(two, k=layers)
    if model_type == "cohere2_moe":
        config["layer_types"] = rng.choices(two, k=layers)
        config["mlp_layer_types"] = rng.choices(["dense", "sparse"], k=layers)
        config["prefix_dense_intermediate_size"] = rng.choice((None, 40))
    if model_type == "longcat_flash":
        config |= {"num_layers": 2, "ffn_hidden_size": 40, "expert_ffn_hidden_size": 12}
        config["zero_expert_num"] = rng.choice((0, 3))


@pytest.mark.parametrize("number", [2, deep(6)])
@pytest.mark.parametrize("model_type", ORACLE)
def test_small_random_configurations(model_type: str, number: int) -> None:
    rng = random.Random(model_type)
    for _ in range(number):
        stated = small(model_type, rng)
        config = CONFIG_MAPPING[model_type](**stated)
        want = built(config)
        assert ours(config.to_dict()) == want, stated
        sparse = {**config.to_diff_dict(), "model_type": model_type}
        assert ours(sparse) == want, (stated, sparse)
        assert ours({**stated, "model_type": model_type}) == want, stated


@pytest.mark.parametrize("model_type", ORACLE)
def test_defaults_of_the_class(model_type: str) -> None:
    layers = 4
    stated = {LAYERS.get(model_type, "num_hidden_layers"): layers, **NEEDED.get(model_type, {})}
    if model_type == "dbrx":
        stated["attn_config"] = {"rope_theta": 1e4, "kv_n_heads": 2}
        stated["ffn_config"] = {"ffn_hidden_size": 40, "moe_num_experts": 4, "moe_top_k": 2}
    config = CONFIG_MAPPING[model_type](**stated)
    # but for the sizes that no file leaves out, and that its class has
    family, known = FAMILIES[model_type], config.to_dict()
    sizes = {
        k: v
        for k, v in family.defaults.items()
        if k in NO_NONE or (type(v) is int and k not in NO_SIZES)
    }
    if family.positions:
        sizes["max_position_embeddings"] = family.defaults["max_position_embeddings"]
    for key in list(sizes):
        names = (key, *family.aliases.get(key, ()))
        reads = key in ALWAYS or any(name in known for name in names)
        if {*names} & set(stated) or not reads:
            sizes.pop(key)
    assert ours({**sizes, **stated, "model_type": model_type}) == built(config)


@pytest.mark.parametrize("model_type", sorted(WRAPPER_TYPES))
@pytest.mark.parametrize("tied", [False, True])
def test_language_part_of_multimodal_models(model_type: str, tied: bool) -> None:
    if model_type not in CONFIG_MAPPING:
        pytest.skip("transformers has no class")
    inner_type = WRAPPER_TYPES[model_type].inner
    text = small(inner_type, random.Random(model_type))
    text["tie_word_embeddings"] = tied
    text["model_type"] = inner_type
    try:
        wrapper: Any = CONFIG_MAPPING[model_type]
        config = wrapper(text_config=dict(text), tie_word_embeddings=tied)
        build: Any = AutoModelForImageTextToText.from_config
        with torch.device("meta"):
            model = build(config)
    except Exception as error:  # small sizes that it refuses, packages that it needs
        pytest.skip(f"transformers cannot build it small: {str(error)[:80]}")
    language = {
        id(p): p.numel()
        for name, p in model.named_parameters()
        if "language_model" in name or name.startswith(("lm_head", "model.text_model"))
    }
    assert ours(config.to_dict()) == sum(language.values()), text


@pytest.mark.parametrize(
    "model_type", ["gemma3", "gemma4", "glm46v", "glm4v_moe", "llama4", "qwen3_5"]
)
def test_the_level_that_ties_the_head(model_type: str) -> None:
    """Whatever the wrapper and its language model say of it: equal, or refused where they contradict."""
    inner = WRAPPER_TYPES[model_type].inner
    text = {**small(inner, random.Random(model_type)), "model_type": inner}
    text.pop("tie_word_embeddings", None)
    read = 0
    for top in (None, True, False):
        for inside in (None, True, False):
            ties = [
                {"tie_word_embeddings": tied} if tied is not None else {} for tied in (top, inside)
            ]
            config = {**ties[0], "text_config": {**text, **ties[1]}}
            build: Any = AutoModelForImageTextToText.from_config
            with torch.device("meta"):
                model = build(CONFIG_MAPPING[model_type](**copy.deepcopy(config)))
            tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
            try:
                found = model_from_config({**config, "model_type": model_type}, name="test")
            except InputError as refused:
                assert refused.field == "text_config.tie_word_embeddings" and top is None
                continue
            assert found.tied == tied, (top, inside)
            read += 1
    assert read >= 8


ROUTED = {
    name
    for name in (LINEAR | VARIED) - {"qwen3_5_text", "olmo_hybrid"} - {ZEROS}
    if FAMILIES[name].moe is not None
}


def active(model: Any, top_k: int) -> int:
    """Weights that a token visits: of the routed experts only so many."""
    banks = [
        m.experts for m in model.modules() if hasattr(getattr(m, "experts", None), "num_experts")
    ]
    idle = sum(count(e) // e.num_experts * (e.num_experts - top_k) for e in banks)
    return count(model) - idle


@pytest.mark.parametrize("model_type", sorted(ROUTED))
def test_active_parameters(model_type: str) -> None:
    rng = random.Random(model_type)
    for _ in range(3):
        config = CONFIG_MAPPING[model_type](**small(model_type, rng))
        build: Any = AutoModelForCausalLM.from_config
        with torch.device("meta"):
            model = build(config)
        found = parameters(model_from_config(config.to_dict(), name="test"), active=True)
        assert found == active(model, getattr(config, _top_k(model_type))) <= count(model)


def _top_k(model_type: str) -> str:
    routed = FAMILIES[model_type].moe
    assert routed is not None
    return routed.top_k


def test_experts_without_weights() -> None:
    """LongCat: a router's row for each zero expert, and nothing else; transformers 5.24 gives each the
    gate and up matrices, too, which are in no checkpoint (560 billion weights as published)."""
    rng = random.Random(ZEROS)
    for _ in range(4):
        config = CONFIG_MAPPING[ZEROS](**small(ZEROS, rng))
        bank = 2 * config.expert_ffn_hidden_size * config.hidden_size
        surplus = config.num_layers * config.zero_expert_num * bank
        assert ours(config.to_dict()) == built(config) - surplus
    published = {
        "model_type": ZEROS, "hidden_size": 6144, "num_layers": 28, "num_attention_heads": 64,
        "ffn_hidden_size": 12288, "expert_ffn_hidden_size": 2048, "n_routed_experts": 512,
        "zero_expert_num": 256, "moe_topk": 12, "vocab_size": 131072, "q_lora_rank": 1536,
        "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
    }  # fmt: skip
    assert 559e9 < ours(published) < 563e9


def mutated(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The configuration with one boolean flipped, one size doubled or halved, nested ones too."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from ({**config, key: inner} for inner in mutated(value))
        elif isinstance(value, bool):
            yield {**config, key: not value}
        elif isinstance(value, int) and value > 1:
            yield from ({**config, key: n} for n in (2 * value, value // 2))


@pytest.mark.parametrize("each", [3, deep(1)])
@pytest.mark.parametrize("model_type", sorted((LINEAR | VARIED) - {ZEROS}))
def test_mutations_are_equal_or_refused(model_type: str, each: int) -> None:
    """Never a count of another model: what transformers builds from the same file, or a refusal."""
    stated = small(model_type, random.Random(model_type))
    equal = refused = 0
    for config in list(mutated({**stated, "pad_token_id": 0}))[::each]:
        try:
            want = built(CONFIG_MAPPING[model_type](**config))
        except Exception:  # whatever its class makes of it, there is nothing to compare
            continue
        try:
            assert ours({**config, "model_type": model_type}) == want, config
            equal += 1
        except InputError:
            refused += 1
    assert equal > 10 // each and refused <= 4


def test_every_causal_model_is_read_or_refused() -> None:
    """What transformers has a class for, and the wrappers around it: read, or refused with a reason."""
    from transformers.models.auto import modeling_auto

    types = {
        *modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        *modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        *modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    }
    assert sorted(types - set(known_types()) - set(REFUSED_TYPES)) == []
    for name in sorted(types & set(REFUSED_TYPES)):
        with pytest.raises(InputError, match="is not supported") as caught:
            model_from_config({"model_type": name, "hidden_size": 64}, name="test")
        assert REFUSED_TYPES[name] in str(caught.value)
