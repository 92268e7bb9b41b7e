"""Sizes that a file leaves out: refused by name, unless something but a class's default says them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.deep import every

from meshwise import catalog
from meshwise.errors import InputError, MeshwiseError
from meshwise.models.contents.left_out import published_files
from meshwise.models.families.config import model_from_config
from meshwise.models.parameters import parameters
from meshwise.models.shapes import Model

SIZES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size",
)  # fmt: skip
LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "vocab_size": 32000,
}  # fmt: skip


def read(config: dict[str, Any]) -> Model:
    return model_from_config(config, name="test")


def refused(config: dict[str, Any]) -> InputError:
    with pytest.raises(InputError) as caught:
        read(config)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 300
    return caught.value


@pytest.mark.parametrize(
    "model_type",
    [
        "llama",
        "qwen2",
        "mistral",
        "gemma",
        "gpt2",
        "opt",
        "bloom",
        "mixtral",
        "deepseek_v3",
        "gpt_oss",
    ],
)
def test_a_type_alone_is_no_model(model_type: str) -> None:
    assert "absent" in refused({"model_type": model_type}).message


@pytest.mark.parametrize("wrapper", ["llava", "gemma3", "mistral3", "qwen2_audio", "idefics3"])
def test_a_wrapper_without_sizes_is_no_model(wrapper: str) -> None:
    for inner in ({}, {"model_type": "llama"}, {"vocab_size": 32064}):
        assert (
            "absent in text_config"
            in refused({"model_type": wrapper, "text_config": inner}).message
        )


@pytest.mark.parametrize("size", SIZES)
def test_each_size_is_stated_at_the_top_and_in_a_block(size: str) -> None:
    less = {k: v for k, v in LLAMA.items() if k != size}
    assert refused(less).field == size
    nested = refused({"model_type": "llava", "text_config": less})
    assert nested.field == size and "absent in text_config" in nested.message


def test_usual_sizes_may_be_left_out() -> None:
    """As many key/value heads as heads, and heads as wide as hidden / heads: what other files leave out."""
    assert parameters(read(LLAMA)) == 6_738_415_616
    qwen = {**LLAMA, "model_type": "qwen2"}  # its class fills in 32 key/value heads
    assert parameters(read(qwen)) == parameters(read({**qwen, "num_key_value_heads": 32}))
    assert refused({**qwen, "num_attention_heads": 16}).field == "num_key_value_heads"
    assert refused({**LLAMA, "model_type": "mistral"}).field == "num_key_value_heads"  # 8
    gemma = {**LLAMA, "model_type": "gemma", "num_key_value_heads": 32}  # its class fills in 256
    assert refused(gemma).field == "head_dim"


def test_a_block_that_names_its_base() -> None:
    """llava-hf/llava-1.5-7b-hf; its base's vocabulary has 64 tokens less."""
    block = {
        "model_type": "llama",
        "_name_or_path": "meta-llama/Llama-2-7b-hf",
        "vocab_size": 32064,
    }
    model = read({"model_type": "llava", "text_config": block})
    assert parameters(model) == 6_738_939_904
    assert "preset llama-2-7b, which it names" in model.asked and "hidden_size" in model.asked
    mistral = {"model_type": "mistral", "_name_or_path": "mistralai/Mistral-7B-Instruct-v0.2",
               "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 32064}  # fmt: skip
    assert parameters(read({"model_type": "llava_next", "text_config": mistral})) == 7_242_256_384


@pytest.mark.parametrize(
    "said",
    [
        {"_name_or_path": "meta-llama/Llama-2-13b-hf"},  # which is not what its class fills in
        {"_name_or_path": "meta-llama/Llama-2-7b-hf", "intermediate_size": 14336},
        {"_name_or_path": "someone/a-model-of-theirs"},
        {"_name_or_path": ""},
        {"_name_or_path": 7},
    ],
)
def test_a_name_that_does_not_say_them(said: dict[str, Any]) -> None:
    block = {"model_type": "llama", "vocab_size": 32064, **said}
    assert "absent in text_config" in refused({"model_type": "llava", "text_config": block}).message


WRAPPED = {"gemma3": "gemma3_text", "qwen2_audio": "qwen2", "multi_modality": "llama"}


@pytest.mark.parametrize("file", published_files(), ids=lambda f: f["of"])
def test_published_files_that_leave_sizes_out(file: dict[str, Any]) -> None:
    """Read as if they stated all; but with one size less, or another one, they are not that file."""
    key = "language_config" if file["wrapper"] == "multi_modality" else "text_config"

    def wrapped(block: dict[str, Any]) -> dict[str, Any]:
        inner = {"model_type": WRAPPED[file["wrapper"]], **block}
        return {"model_type": file["wrapper"], key: inner}

    model = read(wrapped(file["states"]))
    full = read(wrapped({**file["states"], **file["left_out"]}))
    assert parameters(model) == parameters(full) and file["of"] in model.asked and not full.asked
    for size, value in file["states"].items():
        without = {k: v for k, v in file["states"].items() if k != size}
        assert "absent" in refused(wrapped(without)).message
        assert "absent" in refused(wrapped({**without, size: 2 * value})).message


def test_defaults_of_published_files_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    for file in published_files():
        known = transformers.models.auto.configuration_auto.CONFIG_MAPPING[
            WRAPPED[file["wrapper"]]
        ]()
        for size, value in file["left_out"].items():
            if hasattr(known, size):
                assert getattr(known, size) == value, (file["of"], size)


# What a file switches on or off, or says in a block or a list: absent, it is as its class has it.
SWITCHES = {
    "tie_word_embeddings", "attention_bias", "bias", "add_qkv_bias", "lm_head_bias", "use_qk_norm",
    "qk_layernorm", "use_parallel_residual", "new_decoder_architecture", "multi_query_attention",
    "parallel_attn_mlp_res", "mla_use_output_gate", "latent_moe_use_norm", "attn_res_block_size",
    "routed_expert_hidden_size", "sparse_attention_config", "moe_layer_freq",
    "attn_layer_indices", "compress_ratios", "attention_k_eq_v", "enable_moe_block", "moe_latent_size",
    "num_global_key_value_heads", "num_attention_heads_per_layer", "mamba_rms_norm",
}  # fmt: skip
# What is as usual where it is absent: a key/value head for each head, heads that share the width.
HEADS = {"num_key_value_heads", "num_kv_heads", "head_dim"}


def usual(key: str, block: dict[str, Any]) -> int:
    heads: int = block.get("num_attention_heads", block.get("n_head", 0))
    return block["hidden_size"] // heads if key == "head_dim" else heads


@pytest.mark.parametrize("part", every(2, of=6))
def test_every_key_of_every_preset_left_out(part: int) -> None:
    """A refusal that names a key, or the same count: a size that a file leaves out never changes it."""
    for name in catalog.names("models")[part::6]:
        table = catalog.load("models", name, "model")[1]
        config = {k: v for k, v in table.items() if not k.startswith("_")}
        whole = read(config)
        for place in (None, *(k for k in ("text_config", "llm_config") if k in config)):
            for key in config if place is None else config[place]:
                less: dict[str, Any] = json.loads(json.dumps(config))
                block = less if place is None else less[place]
                block.pop(key)
                try:
                    model = read(less)
                except MeshwiseError as error:
                    assert error.field and "\n" not in str(error)
                    continue
                want = whole
                if key in HEADS and parameters(model) != parameters(whole):
                    block[key] = usual(key, block)
                    want = read(less)
                assert key in SWITCHES or (
                    parameters(model) == parameters(want)
                    and parameters(model, active=True) == parameters(want, active=True)
                ), (name, key)
