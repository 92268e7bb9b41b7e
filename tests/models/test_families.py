"""Published config.json files: exact counts, or a refusal that names the reason."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from meshwise.errors import InputError, MeshwiseError, UnsupportedModel
from meshwise.models.families.config import family_words, known_types, model_from_config
from meshwise.models.families.keys import NO_NONE, NO_SIZES
from meshwise.models.families.refused import REFUSED_TYPES, WRAPPER_TYPES
from meshwise.models.families.registry import BUILDERS, FAMILIES
from meshwise.models.layers.attention import Attention
from meshwise.models.parameters import parameters
from meshwise.models.shapes import Model

DATA = Path(__file__).parents[1] / "data" / "configs"
ROWS = list(csv.DictReader((DATA / "index.csv").read_text(encoding="utf-8").splitlines()))


def config(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DATA / name).read_text(encoding="utf-8"))
    return loaded


def read(name: str) -> Model:
    quant = DATA / "hf_quant" / name
    quant_config = json.loads(quant.read_text()) if quant.exists() else None
    return model_from_config(config(name), name=name, quant_config=quant_config)


def make(model_type: str, **keys: Any) -> Model:
    """A model with the sizes of its class's default configuration where ``keys`` give none."""
    family = FAMILIES.get(model_type)
    sizes = {}
    no_sizes = NO_SIZES - ({"max_position_embeddings"} if family and family.positions else set())
    for key, default in family.defaults.items() if family is not None else ():
        stated = {key, *family.aliases.get(key, ())} & set(keys)
        if not stated and key not in no_sizes and (key in NO_NONE or type(default) is int):
            sizes[key] = default
    return model_from_config({"model_type": model_type, **sizes, **keys}, name="test")


def windows_of(model: Model) -> list[int | None]:
    kinds = [b.attention.window if b.attention else None for b in model.blocks]
    return [kinds[i] for i in model.pattern]


def attention(model: Model) -> Attention:
    found = model.blocks[0].attention
    assert found is not None
    return found


LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 100,
}  # fmt: skip


def llama(**keys: Any) -> Model:
    return model_from_config({**LLAMA, **keys}, name="test")


@pytest.mark.parametrize("row", ROWS, ids=[row["file"] for row in ROWS])
def test_published_configs(row: dict[str, str]) -> None:
    if row["expected"] == "ok":
        model = read(row["file"])
        assert parameters(model) == int(row["parameters"])
        if row["active_parameters"]:
            assert parameters(model, active=True) == int(row["active_parameters"])
        else:
            assert parameters(model, active=True) == parameters(model)
        kinds = [b.attention for b in model.blocks if b.attention is not None]
        assert {a.heads for a in kinds} == {int(n) for n in row["heads"].split()}
        if not any(a.mla for a in kinds):
            assert {a.kv_heads for a in kinds} == {int(n) for n in row["kv_heads"].split()}
        assert model.vocab == int(row["vocab_size"])
        stated = row["quantization"]
        if stated.startswith("hf_quant:"):
            assert model.quantization is not None
            assert model.quantization.weight_dtype == stated.partition(":")[2].lower()
        else:
            assert (model.quantization.method if model.quantization else "") == stated
    else:
        with pytest.raises(UnsupportedModel) as caught:
            read(row["file"])
        message = str(caught.value)
        assert row["model_type"] in message
        assert "`meshwise catalog families`" in message
        assert "\n" not in message


def test_every_family_is_consistent() -> None:
    assert set(known_types()) == set(FAMILIES) | set(WRAPPER_TYPES)
    assert not set(known_types()) & set(REFUSED_TYPES)
    assert all(wrapper.inner in FAMILIES for wrapper in WRAPPER_TYPES.values())
    assert {family.build for family in FAMILIES.values()} <= set(BUILDERS)
    said = {family_words(name) for name in known_types()}
    assert {"Llama 4", "Gemma 1–4", "DeepSeek 1–4", "gpt-oss", "multimodal, Llama 4"} <= said


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("Mistral-7B-v0.1.json", [4096] * 32),
        ("gemma-2-9b-it.json", [4096, None] * 21),
        ("gemma-3-1b-it.json", ([512] * 5 + [None]) * 4 + [512] * 2),
        ("gpt-oss-20b.json", [128, None] * 12),
        ("Llama-4-Scout-17B-16E-Instruct.json", [8192, 8192, 8192, None] * 12),
        ("MiMo-7B-Base.json", [None] * 36),
        ("Qwen3-30B-A3B.json", [None] * 48),
        ("Meta-Llama-3.1-8B.json", [None] * 32),
    ],
)
def test_windows(name: str, windows: list[int | None]) -> None:
    assert windows_of(read(name)) == windows


def test_windows_that_depend_on_keys() -> None:
    qwen = make("qwen2", num_hidden_layers=4, use_sliding_window=True, sliding_window=64,
                max_window_layers=2)  # fmt: skip
    assert windows_of(qwen) == [None, None, 64, 64]
    cohere = make("cohere2", num_hidden_layers=5)
    assert windows_of(cohere) == [4096] * 3 + [None, 4096]
    neo = make("gpt_neo", num_layers=2, attention_types=[[["global", "local"], 1]])
    assert windows_of(neo) == [None, 256]
    stated = make("olmo3", num_hidden_layers=2, layer_types=["full_attention", "sliding_attention"])
    assert windows_of(stated) == [None, 4096]


def test_structure_of_some_models() -> None:
    nas = read("Llama-3_3-Nemotron-Super-49B-v1.json")
    assert sum(nas.blocks[i].attention is None for i in nas.pattern) == 31
    scout = read("Llama-4-Scout-17B-16E-Instruct.json")
    assert all(b.moe is not None and b.moe.shared is not None for b in scout.blocks)
    v3 = read("DeepSeek-V3.json")
    assert [v3.blocks[i].moe is None for i in v3.pattern] == [True] * 3 + [False] * 58
    assert v3.quantization is not None and v3.quantization.block == (128, 128)
    gptj = read("gpt-j-6b.json")
    assert gptj.head_bias and gptj.blocks[0].parallel
    assert read("gpt2.json").dropout and read("opt-1.3b.json").dropout
    assert not read("Meta-Llama-3.1-8B.json").dropout
    assert read("pythia-6.9b-deduped.json").dtype == "fp16"


# Published counts of files that are not among the development configs, with the keys that matter.
PUBLISHED: list[tuple[dict[str, Any], int]] = [
    ({"model_type": "qwen", "hidden_size": 4096, "intermediate_size": 22016,
      "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 151936, "no_bias": True,
      "kv_channels": 128, "tie_word_embeddings": False}, 7_721_324_544),
    ({"model_type": "chatglm", "hidden_size": 4096, "ffn_hidden_size": 13696, "num_layers": 40,
      "num_attention_heads": 32, "kv_channels": 128, "padded_vocab_size": 151552,
      "vocab_size": 151552, "multi_query_attention": True, "multi_query_group_num": 2,
      "add_bias_linear": False, "add_qkv_bias": True}, 9_399_951_360),
    ({"model_type": "opt", "hidden_size": 1024, "word_embed_proj_dim": 512, "ffn_dim": 4096,
      "num_hidden_layers": 24, "num_attention_heads": 16, "do_layer_norm_before": False,
      "vocab_size": 50272, "max_position_embeddings": 2048},
     331_196_416),
    ({"model_type": "RefinedWebModel", "hidden_size": 4544, "n_layer": 32, "n_head": 71,
      "multi_query": True, "parallel_attn": True, "vocab_size": 65024}, 6_921_720_704),
    ({"model_type": "RefinedWeb", "hidden_size": 8192, "n_layer": 60, "n_head": 128,
      "n_head_kv": 8, "parallel_attn": True, "vocab_size": 65024}, 41_303_293_952),
    ({"model_type": "falcon", "hidden_size": 2048, "num_hidden_layers": 24,
      "num_attention_heads": 32, "alibi": True, "bias": True, "multi_query": False,
      "parallel_attn": False, "new_decoder_architecture": False, "vocab_size": 50304},
     1_311_625_216),
    ({"model_type": "hunyuan_v1_moe", "hidden_size": 4096, "intermediate_size": 3072,
      "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
      "head_dim": 128, "num_experts": 64, "moe_topk": [8] * 32, "num_shared_expert": [1] * 32,
      "moe_intermediate_size": [3072] * 32, "vocab_size": 128167, "use_mla": False,
      "kv_lora_rank": 512, "use_cla": False, "tie_word_embeddings": True}, 80_393_183_232),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "count"), PUBLISHED)
def test_published_counts(keys: dict[str, Any], count: int) -> None:
    model = model_from_config(keys, name="test")
    assert parameters(model) == count


def test_fields_where_null_and_absent_differ() -> None:
    small = {"num_hidden_layers": 2, "num_experts_per_tok": 2}
    absent, null = make("deepseek_v2", **small), make("deepseek_v2", **small, q_lora_rank=None)
    assert attention(absent).q_lora_rank == 1536
    assert attention(null).q_lora_rank is None
    mlp = make("gpt2", n_inner=None, n_embd=64, n_head=4).blocks[0].mlp
    assert mlp is not None and mlp.width == 256
    assert attention(llama(num_key_value_heads=None)).kv_heads == 8


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"hidden_size": -4096}, "hidden_size"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": "4096"}, "hidden_size"),
        ({"hidden_size": 4096.0}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": float("nan")}, "hidden_size"),
        ({"hidden_size": 10**400}, "hidden_size"),
        ({"hidden_size": [64]}, "hidden_size"),
        ({"num_hidden_layers": 10**7 + 1}, "num_hidden_layers"),
        ({"num_attention_heads": 7, "num_key_value_heads": 7}, "num_attention_heads"),
        ({"num_key_value_heads": 16}, "num_key_value_heads"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"attention_bias": 2}, "attention_bias"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"torch_dtype": "float12"}, "torch_dtype"),
        ({"torch_dtype": 16}, "torch_dtype"),
        ({"quantization_config": [4]}, "quantization_config"),
        ({"num_experts": 8}, "num_experts"),
        ({"num_local_experts": 8}, "num_local_experts"),
        ({"block_configs": [{}]}, "block_configs"),
        ({"kv_lora_rank": 512}, "kv_lora_rank"),
        ({"use_qk_norm": True}, "use_qk_norm"),
        ({"attention_head_type": "multiquery"}, "attention_head_type"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "layer_types"),
        ({"layer_types": ["full_attention"] * 3}, "layer_types"),
        ({"mlp_layer_types": ["dense"] * 3}, "mlp_layer_types"),
        ({"model_type": 7}, "model_type"),
        ({"model_type": None}, "model_type"),
        ({"model_type": "lama"}, "model_type"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
        ({"architectures": ["LlamaForCausalLMEagle3"]}, "architectures"),
        ({"architectures": ["DeepseekV3ForCausalLMNextN"]}, "architectures"),
        ({"architectures": ["DeepSeekMTPModel"]}, "architectures"),
        ({"architectures": ["Qwen3ForCausalLM", "MedusaModel"]}, "architectures"),
        ({"architectures": ["MLPSpeculatorPreTrainedModel"]}, "architectures"),
        ({"architectures": ["PeftModelForCausalLM"]}, "architectures"),
        ({"draft_vocab_size": 32000}, "draft_vocab_size"),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1]}}, "eagle_config"),
        ({"peft_type": "LORA"}, "peft_type"),
        ({"base_model_name_or_path": "meta-llama/Llama-2-7b-hf"}, "base_model_name_or_path"),
        ({"is_encoder_decoder": True}, "model_type"),
    ],
)
def test_bad_values_are_named(keys: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        llama(**keys)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    json.dumps(caught.value.to_dict(), allow_nan=False)


def test_nearest_and_legal_are_given() -> None:
    with pytest.raises(InputError) as caught:
        llama(num_key_value_heads=3)
    assert caught.value.nearest in (2, 4) and "divisor of 8" in str(caught.value)
    with pytest.raises(InputError) as caught:
        llama(hidden_size="4096")
    assert caught.value.nearest == 4096
    with pytest.raises(InputError) as caught:
        llama(model_type="Llama")
    assert caught.value.nearest == "llama"
    with pytest.raises(InputError) as caught:
        make("mixtral", num_local_experts=4, num_experts_per_tok=5)
    assert caught.value.nearest == 4
    with pytest.raises(InputError, match="3 entries for 2 layers"):
        make("olmo3", num_hidden_layers=2, layer_types=["full_attention"] * 3)
    with pytest.raises(InputError, match="contradicts"):
        make("gpt2", n_embd=64, hidden_size=128)


@pytest.mark.parametrize("value", [None, [], [1], 3, "llama", 1.5, True])
def test_not_an_object(value: object) -> None:
    with pytest.raises(InputError, match=r"config\.json"):
        model_from_config(value, name="test")


@pytest.mark.parametrize("model_type", sorted(REFUSED_TYPES))
def test_refused_types_say_why(model_type: str) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        make(model_type, hidden_size=64)
    assert model_type in caught.value.message and REFUSED_TYPES[model_type] in caught.value.message
    assert caught.value.legal


def test_unknown_type_is_refused_with_the_list() -> None:
    with pytest.raises(
        UnsupportedModel, match=r"not known.*legal: one of the .* of `meshwise catalog families`"
    ):
        make("brand_new_model", hidden_size=64)


def test_multimodal_text_config() -> None:
    inner = {k: v for k, v in LLAMA.items() if k != "model_type"}
    direct = parameters(llama())
    wrapped = make("llava", text_config={**inner, "model_type": "llama"}, vision_config={})
    assert parameters(wrapped) == direct
    assert wrapped.model_type == "llava"
    assert parameters(make("internvl_chat", llm_config={**LLAMA})) == direct
    assert parameters(make("llava", **inner)) == direct  # LLaVA's first files are flat
    tied = make("idefics3", text_config={**LLAMA}, tie_word_embeddings=True)
    assert direct - parameters(tied) == 6400
    with pytest.raises(UnsupportedModel, match="rwkv"):
        make("llava", text_config={"model_type": "rwkv"})
    with pytest.raises(InputError, match="text_config"):
        make("llava", text_config=[1])
    with pytest.raises(InputError, match="text_config"):
        make("mistral3")


def quantized(stated: object, separate: object = None, **keys: Any) -> Any:
    return model_from_config(
        {**LLAMA, **keys, "quantization_config": stated}, name="test", quant_config=separate
    ).quantization


@pytest.mark.parametrize(
    ("stated", "dtype", "group"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4", 128),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "int8", None),
        ({"quant_method": "gptq", "bits": 3, "group_size": 64}, "int3", 64),
        ({"quant_method": "marlin", "group_size": 128}, "int4", 128),
        ({"quant_method": "fbgemm_fp8"}, "fp8", None),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4", 64),
        ({"load_in_8bit": True}, "int8", None),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {
            "weights": {"num_bits": 4, "type": "int", "group_size": 128}}}}, "int4", 128),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {
            "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}}}, "fp8", None),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {
            "weights": {"num_bits": 4, "type": "float", "group_size": 16}}}}, "nvfp4", 16),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", 16),
        ({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ", "group_size": 64}, "int4", 64),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": {
            "q_proj": {"quant_algo": "FP8"}, "mlp.up_proj": {"quant_algo": "NVFP4"},
            "mlp.down_proj": {"quant_algo": "NVFP4"}}}, "nvfp4", 16),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}}},
         "fp8", None),
        ({"quant_method": "quanto", "weights": "int8"}, "int8", None),
        ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {
            "nbits": 2, "group_size": 16}}}, "int2", 16),
        ({"bits": 4, "group_size": 64}, "int4", 64),
        ({"quant_method": "something new"}, "unknown", None),
        ({"quant_method": 4, "config_groups": [1]}, "unknown", None),
    ],
)  # fmt: skip
def test_quantization(stated: dict[str, Any], dtype: str, group: int | None) -> None:
    found = quantized(stated)
    assert (found.weight_dtype, found.group) == (dtype, group)


def stored(stated: object, **keys: Any) -> list[Any]:
    """How each layer of a model of 4 layers stores its matrices, in order."""
    config = {**LLAMA, "num_hidden_layers": 4, **keys, "quantization_config": stated}
    model = model_from_config(config, name="test")
    return [model.blocks[kind].stored for kind in model.pattern]


FP8_BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}


@pytest.mark.parametrize(
    ("skipped", "attention", "output", "up"),
    [
        (["lm_head"], 4, 4, 4),
        (["re:.*self_attn.*"], 0, 0, 4),
        (["model.layers.*.self_attn"], 0, 0, 4),
        (["lm_head", "self_attn"], 0, 0, 4),
        (["model.layers.0.self_attn*", "model.layers.1.self_attn*"], 2, 2, 4),
        (["re:.*self_attn\\.(q|k|v|o)_proj$"], 0, 0, 4),
        (["re:.*self_attn.o_proj"], 4, 0, 4),
        (["model.layers.0.self_attn"], 3, 3, 4),
        (["model.language_model.layers.1"], 3, 3, 3),
        (["re:model\\.layers\\.(0|3)\\.mlp.*"], 4, 4, 2),
        (["self_attn.q_norm"], 4, 4, 4),
        (["re:.*self_attn.kv_b_proj"], 4, 4, 4),
        (["visual.blocks.0.attn"], 4, 4, 4),
        (["re:model\\.layers\\.(3|1[0-9])\\.mlp"], 4, 4, 3),  # other layers than 1
        (["model.layers.4.mlp"], 4, 4, 4),  # multi-token prediction: one more
    ],
)
@pytest.mark.parametrize("key", ["modules_to_not_convert", "ignore", "ignored_layers"])
def test_quantization_that_leaves_modules_out(
    key: str, skipped: list[str], attention: int, output: int, up: int
) -> None:
    layers = stored({**FP8_BLOCKS, key: skipped})
    assert sum(s.attention is not None for s in layers) == attention
    assert sum(s.output is not None for s in layers) == output
    assert sum(s.up is not None for s in layers) == up


def test_experts_alone_are_quantised() -> None:
    only = stored({"quant_method": "compressed-tensors", "format": "pack-quantized",
                   "ignore": ["re:.*self_attn.*", "re:.*shared_experts.*"]},
                  model_type="mixtral", num_local_experts=4, num_experts_per_tok=2)  # fmt: skip
    assert {s.expert_up.dtype for s in only} == {"int4"}
    assert all(s.attention is None and s.output is None for s in only)


def test_groups_of_formats_by_target() -> None:
    """Each group's weights are those that its targets name; the first that names a module counts."""
    four = {"num_bits": 4, "type": "int", "group_size": 128}
    eight = {"num_bits": 8, "type": "float", "strategy": "channel"}
    layers = stored({"quant_method": "compressed-tensors", "ignore": ["lm_head"], "config_groups": {
        "a": {"targets": ["re:.*mlp.*"], "weights": four},
        "b": {"targets": ["re:.*self_attn.*"], "weights": eight}}})  # fmt: skip
    assert {(s.up.dtype, s.down.group, s.attention.dtype, s.output.dtype) for s in layers} == {
        ("int4", 128, "fp8", "fp8")
    }


def test_formats_by_module() -> None:
    named = {f"model.layers.{i}.mlp.{p}_proj": {"quant_algo": "NVFP4", "group_size": 16}
             for i in (0, 2) for p in ("gate", "up", "down")}  # fmt: skip
    layers = stored({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION",
                     "quantized_layers": named})  # fmt: skip
    assert [s.up and s.up.dtype for s in layers] == ["nvfp4", None, "nvfp4", None]
    assert all(s.attention is None for s in layers)
    layers = stored({"quant_method": "gptq", "bits": 4, "group_size": 128,
                     "dynamic": {"-:.*self_attn.*": {}, "+:.*down_proj": {"bits": 8}}})  # fmt: skip
    assert {(s.attention, s.up.dtype, s.down.dtype) for s in layers} == {(None, "int4", "int8")}


def test_a_pattern_that_is_not_read_is_refused() -> None:
    with pytest.raises(InputError) as refused:
        stored({**FP8_BLOCKS, "ignore": ["re:(.*experts)\\1"]})
    assert refused.value.field.startswith("quantization_config")


def test_hf_quant_config() -> None:
    fp8 = {"producer": {"name": "modelopt"}, "quantization": {
        "quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}}  # fmt: skip
    found = quantized(None, fp8)
    assert (found.method, found.weight_dtype, found.kv_cache_dtype) == ("modelopt", "fp8", "fp8")
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128}
    assert quantized(awq, fp8).method == "awq"  # the config itself comes first
    assert (
        quantized(None, {"quantization": {"quant_algo": None, "kv_cache_quant_algo": None}}) is None
    )
    with pytest.raises(MeshwiseError):
        quantized(None, [1])


def test_dtype() -> None:
    assert llama().dtype == "bf16"
    assert llama(torch_dtype="float16").dtype == "fp16"
    assert llama(dtype="float32").dtype == "fp32"
    assert llama(torch_dtype=None).dtype == "bf16"
    nested = make("llava", text_config={**LLAMA}, torch_dtype="float16")
    assert nested.dtype == "fp16"


def test_mimo_v2_flash_in_the_publishers_form() -> None:
    pattern = ([0] + [1] * 4) + ([0] + [1] * 5) * 7 + [0]
    stated = make("mimo_v2_flash", hybrid_layer_pattern=pattern, moe_layer_freq=[0] + [1] * 47,
                  swa_num_key_value_heads=8, swa_head_dim=192, swa_v_head_dim=128,
                  sliding_window_size=128, add_swa_attention_sink_bias=True,
                  add_full_attention_sink_bias=False)  # fmt: skip
    assert parameters(stated) == parameters(make("mimo_v2_flash")) == 308_778_768_832
    with pytest.raises(UnsupportedModel, match="swa_head_dim"):
        make("mimo_v2_flash", swa_head_dim=128)


@pytest.mark.parametrize(
    ("stated", "key"),
    [
        ({"quant_method": "gptq", "bits": "four"}, "bits"),
        ({"quant_method": "gptq", "bits": 99}, "bits"),
        ({"quant_method": "awq", "bits": 4, "group_size": "x"}, "group_size"),
        ({"quant_method": "awq", "bits": 4, "group_size": -7}, "group_size"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "weight_block_size"),
        ({"quant_method": "fp8", "weight_block_size": 128}, "weight_block_size"),
    ],
)
def test_quantization_numbers_are_numbers(stated: dict[str, object], key: str) -> None:
    config = {**LLAMA, "quantization_config": stated}
    with pytest.raises(InputError) as refused:
        model_from_config(config, name="x")
    assert refused.value.field.endswith(key)


def test_a_key_that_says_what_the_family_has_anyway_is_no_contradiction() -> None:
    """Qwen3-Coder's files say use_qk_norm; the family has those norms."""
    plain = make("qwen3_moe")
    stated = make("qwen3_moe", use_qk_norm=True)
    assert parameters(plain) == parameters(stated)


@pytest.mark.parametrize(
    "key",
    ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size"],
)
def test_sizes_are_never_filled_in(key: str) -> None:
    """The defaults of a class are the sizes of one model, not of the one in the file."""
    with pytest.raises(InputError) as refused:
        model_from_config({k: v for k, v in LLAMA.items() if k != key}, name="x")
    assert refused.value.field == key


@pytest.mark.parametrize("value", [[], [8], [8, 8, 8], [8, 4]])
def test_a_number_of_experts_per_layer_is_one_for_each(value: list[int]) -> None:
    experts = {**LLAMA, "model_type": "mixtral", "num_experts_per_tok": 2}
    plain = model_from_config({**experts, "num_local_experts": 8}, name="x")
    assert model_from_config({**experts, "num_local_experts": [8, 8]}, name="x") == plain
    with pytest.raises(InputError) as refused:
        model_from_config({**experts, "num_local_experts": value}, name="x")
    assert refused.value.field == "num_local_experts"


def test_experts_are_never_filled_in() -> None:
    sizes = {**LLAMA, "model_type": "mixtral", "num_experts_per_tok": 2}
    with pytest.raises(InputError) as refused:
        model_from_config(sizes, name="x")
    assert refused.value.field == "num_local_experts"


@pytest.mark.parametrize("key", ["text_config", "llm_config", "decoder_settings"])
def test_sizes_in_a_block_that_the_type_has_not(key: str) -> None:
    """They are read where the block says that it is of the same type, else refused; never left out for
    the class's defaults."""
    block = {k: v for k, v in LLAMA.items() if k != "model_type"}
    for other in (block, {**block, "model_type": "qwen3"}):
        with pytest.raises(InputError):
            model_from_config({"model_type": "llama", key: other}, name="x")
    if key == "decoder_settings":
        return
    block["model_type"] = "llama"
    found = model_from_config({"model_type": "llama", key: block}, name="x")
    assert parameters(found) == parameters(llama())
    del block["vocab_size"]
    with pytest.raises(InputError) as refused:
        model_from_config({"model_type": "llama", key: block}, name="x")
    assert refused.value.field == "vocab_size"


def test_ling_has_grouped_queries_and_plain_experts() -> None:
    """inclusionAI/Ling-lite: 16.8B parameters, 2.75B of them active (arXiv 2503.05139, table 1)."""
    ling = make(
        "bailing_moe", hidden_size=2048, intermediate_size=1408, moe_intermediate_size=1408,
        num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=4, num_experts=64,
        num_shared_experts=2, num_experts_per_tok=6, vocab_size=126464,
    )  # fmt: skip
    assert parameters(ling) == 16_801_974_272
    assert parameters(ling, active=True) / 1e9 == pytest.approx(2.75, abs=0.06)


@pytest.mark.parametrize(
    ("model_type", "key", "value"),
    [
        ("deepseek_v2", "moe_layer_freq", 2),
        ("deepseek_v3", "moe_layer_freq", 2),
        ("kimi_k2", "moe_layer_freq", 2),
        ("glm4_moe_lite", "first_k_dense_replace", 2),
        ("hy_v3", "first_k_dense_replace", 0),
        ("mellum", "first_k_dense_replace", 1),
        ("minimax_m2", "use_qk_norm", False),
        ("hunyuan_v1_dense", "use_qk_norm", False),
        ("hunyuan_v1_moe", "use_qk_norm", False),
    ],
)
def test_what_engines_and_transformers_build_differently_is_refused(
    model_type: str, key: str, value: object
) -> None:
    """Engines and publishers' code read these keys, transformers' classes do not: a file that states
    another value than published ones describes two models."""
    more: dict[str, Any] = {"num_experts_per_tok": 6} if model_type == "deepseek_v2" else {}
    make(model_type, **more)
    with pytest.raises(UnsupportedModel) as refused:
        make(model_type, **more, **{key: value})
    assert refused.value.field == key


def test_every_second_layer_has_experts_where_all_code_reads_it() -> None:
    experts = {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2}
    model = make("deepseek", num_hidden_layers=8, moe_layer_freq=2, **experts)
    assert [model.blocks[kind].moe is not None for kind in model.pattern] == [True, False] * 4


def test_values_of_minicpm3_are_as_wide_as_its_file_or_a_head_s_share_of_the_model() -> None:
    """openbmb/MiniCPM3-4B states no v_head_dim: 2560 / 40 = 64; its count is transformers'."""
    published = make("minicpm3")
    assert parameters(published) == parameters(make("minicpm3", v_head_dim=64)) == 4_073_875_968
    assert attention(make("minicpm3", v_head_dim=32)).value_head_dim == 32
    with pytest.raises(InputError) as refused:
        make("minicpm3", hidden_size=2570)
    assert refused.value.field == "num_attention_heads"


def small_deepseek(**other: Any) -> Model:
    """The language model of DeepSeek-VL2-tiny, as its file has it under a wrapper."""
    text = {
        "model_type": "deepseek_v2", "hidden_size": 1280, "intermediate_size": 6848, "use_mla": False,
        "moe_intermediate_size": 896, "n_routed_experts": 64, "n_shared_experts": 2,
        "num_experts_per_tok": 6, "num_attention_heads": 10, "num_key_value_heads": 10,
        "num_hidden_layers": 12, "first_k_dense_replace": 1, "kv_lora_rank": None, "q_lora_rank": None,
        "qk_nope_head_dim": 0, "qk_rope_head_dim": 0, "v_head_dim": 0, "vocab_size": 129280,
    }  # fmt: skip
    vision = {"model_type": "vision", "model_name": "siglip_so400m_patch14_384", "layers": 27}
    wrapper = {"model_type": "deepseek_vl_v2", "vision_config": vision}
    return model_from_config({**wrapper, "language_config": {**text, **other}}, name="x")


def test_deepseek_without_latents() -> None:
    """deepseek-ai/deepseek-vl2-tiny: 3.37B weights, of which 27 layers of SigLIP are 0.43B; by hand."""
    model = small_deepseek()
    attention_ = 4 * 1280 * 1280
    expert = 3 * 1280 * 896
    sparse = 64 * 1280 + (64 + 2) * expert
    dense = 3 * 1280 * 6848
    total = 2 * 129280 * 1280 + 12 * (attention_ + 2 * 1280) + 11 * sparse + dense + 1280
    assert parameters(model) == total == 2_934_734_080
    assert parameters(model, active=True) == total - 11 * (64 - 6) * expert
    assert not attention(model).mla and model.towers_not_counted


@pytest.mark.parametrize(
    ("key", "value"), [("use_mla", True), ("kv_lora_rank", 512), ("v_head_dim", 128)]
)
def test_deepseek_with_and_without_latents(key: str, value: object) -> None:
    with pytest.raises(InputError) as refused:
        small_deepseek(**{key: value})
    assert refused.value.field == key
    with pytest.raises(InputError) as refused:
        make("deepseek_v2", num_experts_per_tok=6, use_mla=False)
    assert refused.value.field == "use_mla"


def test_helium_s_heads_are_as_wide_as_the_model() -> None:
    """Its output's product is hidden x hidden whatever the heads are: with others it cannot run."""
    assert parameters(make("helium")) == parameters(make("helium", head_dim=128))
    with pytest.raises(InputError) as refused:
        make("helium", hidden_size=5120)
    assert (refused.value.field, refused.value.nearest) == ("head_dim", 256)


def test_an_unknown_type_is_refused_in_a_few_words() -> None:
    with pytest.raises(UnsupportedModel) as refused:
        model_from_config({**LLAMA, "model_type": "of_tomorrow"}, name="x")
    assert str(refused.value).startswith("model_type: 'of_tomorrow' is not supported")
    assert len(str(refused.value)) < 300
