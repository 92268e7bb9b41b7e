"""What a quantisation is refused for, and what stays "not known"."""

from __future__ import annotations

from typing import Any

import pytest

from meshwise.answers.model import ModelResult
from meshwise.errors import InputError
from meshwise.models.device_formats import NO_KERNELS, check_device_formats
from meshwise.models.families.config import model_from_config
from meshwise.models.formats import model_as_run
from meshwise.models.load import load_model
from meshwise.models.shapes import Model
from meshwise.program.stored import weight_bytes
from meshwise.workloads.workload import Decode, Formats

LLAMA = {
    "model_type": "llama", "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4,
    "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 5000,
}  # fmt: skip
FOUR = {"num_bits": 4, "type": "int", "group_size": 128}


def checkpoint(quantization: dict[str, Any], **keys: Any) -> Model:
    return model_from_config({**LLAMA, **keys, "quantization_config": quantization}, name="test")


def groups(target: str, **keys: Any) -> dict[str, Any]:
    group = {"targets": [target], "weights": FOUR}
    return {"quant_method": "compressed-tensors", "config_groups": {"a": group}, **keys}


@pytest.mark.parametrize(
    ("quantization", "value"),
    [
        (groups("re:.*no_such_module.*"), "re:.*no_such_module.*"),
        (groups("re:.*experts.*"), "re:.*experts.*"),  # of a dense model
        (groups("Linear", ignore=["re:.*nothing_of_it.*"]), "re:.*nothing_of_it.*"),
        (groups("Linear", ignore=["model.layers.99.mlp"]), "model.layers.99.mlp"),
        (
            {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.7.self_attn"]},
            "model.layers.7.self_attn",
        ),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": ["*foo*"]}, "*foo*"),
        (
            {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION",
             "quantized_layers": {"model.layers.9.mlp.up": {"quant_algo": "FP8"}}},
            "model.layers.9.mlp.up",
        ),
        (
            {"quant_method": "gptq", "bits": 4, "dynamic": {"+:.*foo_proj": {"bits": 8}}},
            "re:.*foo_proj",
        ),
    ],
)  # fmt: skip
def test_a_pattern_that_matches_no_module(quantization: dict[str, Any], value: str) -> None:
    with pytest.raises(InputError, match="matches no module") as refused:
        checkpoint(quantization)
    assert refused.value.value == value and refused.value.legal
    assert str(refused.value.field).startswith("quantization_config.")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "ignored",
    ["visual.blocks.0.attn", "re:.*vision_tower.*", "model.multi_modal_projector", "mtp.*",
     "model.layers.4.mlp", "model.layers.0.input_layernorm", "re:.*mlp.gate$", "re:.*experts.*",
     "self_attn.kv_b_proj", "model.embed_tokens"],
)  # fmt: skip
def test_what_other_parts_of_a_checkpoint_are_left_out_by_is_read(ignored: str) -> None:
    assert checkpoint(groups("Linear", ignore=["lm_head", ignored])).quantization is not None


@pytest.mark.parametrize(
    ("method", "bits", "nearest"),
    [("gptq", 5, 4), ("gptq", 6, 4), ("gptq", 7, 8), ("gptq", 1, 2), ("awq", 5, 4), ("awq", 2, 3)],
)
def test_bits_that_a_method_has_not(method: str, bits: int, nearest: int) -> None:
    with pytest.raises(InputError, match=f"{method.upper()} has no") as refused:
        checkpoint({"quant_method": method, "bits": bits, "group_size": 128})
    assert refused.value.field == "quantization_config.bits" and refused.value.value == bits
    assert abs(refused.value.nearest - bits) == abs(nearest - bits)


@pytest.mark.parametrize("group", [100, 96, 4096])
def test_a_group_that_divides_nothing(group: int) -> None:
    with pytest.raises(InputError, match="divides the inputs of none") as refused:
        checkpoint({"quant_method": "gptq", "bits": 4, "group_size": group})
    assert refused.value.field == "quantization_config.group_size"
    assert refused.value.value == group and refused.value.nearest in (64, 128, 256)
    checkpoint({"quant_method": "gptq", "bits": 4, "group_size": 256})  # divides 2,816 and 1,024


@pytest.mark.parametrize(
    "quantization",
    [
        {"quant_method": "something_new", "bits": 4},
        {"quant_method": "spqr", "bits": 3},
        {"quant_method": "vptq"},
        {"quant_method": "exl2"},
        {"quant_method": "gguf", "gguf_file": "model.gguf"},
        {"quant_method": "torchao", "quant_type": "autoquant"},
        {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "bfp16"}}},
        {"quant_method": "modelopt", "quant_algo": "NEW_ALGORITHM"},
        {"quant_method": "compressed-tensors", "format": "new-quantized"},
        {**groups("Linear"), "sparsity_config": {"format": "sparse-24-bitmask"}},
        {"quant_method": "aqlm", "num_codebooks": 2},
    ],
)
def test_what_is_not_known_is_never_16_bit(quantization: dict[str, Any]) -> None:
    model = checkpoint(quantization)
    assert model.quantization is not None and model.quantization.weight_dtype == "unknown"
    assert not any("checkpoint" in name for name in weight_bytes(model))
    with pytest.raises(InputError, match="is not known") as refused:
        model_as_run(model, Decode(batch=1, context=16))
    assert refused.value.field == "quantization_config" and refused.value.legal
    stated = model_as_run(model, Decode(batch=1, context=16, formats=Formats(weights="int4")))
    assert stated.quantization is not None and stated.quantization.weight_dtype == "int4"


@pytest.mark.parametrize("word", ["Q4_K_X", "q9_0", "4bit"])
def test_a_file_type_that_is_none(word: str) -> None:
    with pytest.raises(InputError, match="is not a file type of GGUF") as refused:
        checkpoint({"quant_method": "gguf", "file_type": word})
    assert refused.value.field == "quantization_config.file_type"


@pytest.mark.parametrize(
    ("name", "generation", "refused"),
    [
        ("llama-3.1-8b-fp8", "volta", True),
        ("llama-3.1-8b-fp8", "cdna2", True),
        ("llama-3.1-8b-fp8", "turing", False),
        ("llama-3.1-8b-fp8", "cdna3", False),
        ("llama-3.1-8b-nvfp4", "volta", True),
        ("llama-3.1-8b-nvfp4", "hopper", False),
        ("llama-3.1-8b-awq", "volta", True),
        ("llama-3.1-8b-gptq", "volta", False),
        ("llama-3.1-8b-w8a8", "volta", True),
        ("llama-3.1-8b-w8a16", "volta", False),
        ("llama-3.1-8b", "volta", False),
    ],
)
def test_formats_without_a_kernel(name: str, generation: str, refused: bool) -> None:
    model = load_model(name)
    if not refused:
        check_device_formats(model, generation, "X")
        return
    with pytest.raises(InputError, match="X has no kernel") as error:
        check_device_formats(model, generation, "X")
    assert error.value.field == "weights" and error.value.nearest


def test_generations_without_kernels_are_those_of_devices() -> None:
    from meshwise import catalog

    known = {
        catalog.load("devices", name, "device")[1]["generation"]
        for name in catalog.names("devices")
    }
    assert set(NO_KERNELS) <= known


def test_a_models_answer_says_that_the_bytes_are_not_known() -> None:
    page = ModelResult(checkpoint({"quant_method": "something_new"})).page()
    assert "something_new: bytes not known" in page.answer
