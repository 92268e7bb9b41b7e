"""Quantised checkpoints and their encoders of images: left alone, or not, as the file says."""

from __future__ import annotations

from typing import Any

import pytest

import meshwise as mw
from meshwise.models.families.config import model_from_config
from meshwise.models.shapes import Model

CONFIG = {
    "model_type": "qwen3_vl",
    "text_config": {"model_type": "qwen3_vl_text", "hidden_size": 256, "intermediate_size": 512,
                    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
                    "head_dim": 64, "vocab_size": 1000},
    "vision_config": {"hidden_size": 128, "intermediate_size": 256, "depth": 2, "num_heads": 4,
                      "out_hidden_size": 256},
}  # fmt: skip
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def read(**quantisation: Any) -> Model:
    return model_from_config({**CONFIG, "quantization_config": quantisation}, name="x")


def formats(model: Model) -> dict[str, str | None]:
    return {t.kind: t.stored.dtype if t.stored is not None else None for t in model.towers}


@pytest.mark.parametrize(
    "stated",
    [
        {"quant_method": "awq", "bits": 4, "group_size": 64},
        {"quant_method": "gptq", "bits": 4, "group_size": 64},
        {**FP8, "modules_to_not_convert": ["lm_head", "model.visual"]},
        {**FP8, "modules_to_not_convert": ["visual.blocks.0.attn.qkv", "visual.merger.linear_fc1"]},
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["model.visual*", "lm_head"]},
        {"quant_method": "compressed-tensors", "format": "float-quantized",
         "config_groups": {"g": {"targets": ["Linear"],
                                 "weights": {"num_bits": 8, "type": "float"},
                                 "input_activations": {"num_bits": 8, "type": "float"}}},
         "ignore": ["re:.*lm_head", "re:visual.*"]},
    ],
)  # fmt: skip
def test_most_leave_the_encoder_in_16_bit(stated: dict[str, Any]) -> None:
    model = read(**stated)
    assert model.quantization is not None
    assert formats(model) == {"vision": None, "projector": None}


@pytest.mark.parametrize(
    ("stated", "dtype"),
    [
        (FP8, "fp8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8"),
    ],
)
def test_methods_that_replace_every_linear_layer(stated: dict[str, Any], dtype: str) -> None:
    assert formats(read(**stated)) == {"vision": dtype, "projector": dtype}


def test_a_projector_may_be_left_out_alone() -> None:
    found = formats(read(**FP8, modules_to_not_convert=["model.visual.merger"]))
    assert found == {"vision": "fp8", "projector": None}


def test_bytes_follow_the_format() -> None:
    work = mw.Decode(batch=1, context=64)
    plain, narrow, left = (
        mw.estimate(m, "hgx-h100", work, tp=1).memory["towers_bytes"]
        for m in (
            model_from_config(CONFIG, name="x"),
            read(quant_method="modelopt", quant_algo="FP8"),
            read(quant_method="modelopt", quant_algo="FP8", ignore=["*visual*"]),
        )
    )
    tower, projector = read(quant_method="modelopt", quant_algo="FP8").towers
    assert left == plain == 2 * (tower.parameters + projector.parameters)
    # one byte a weight of what is quantised, but for scales
    saved = tower.split + projector.parameters
    assert float(plain) - float(narrow) == pytest.approx(saved, rel=0.01)


def test_training_works_on_16_bit_encoders() -> None:
    model = read(quant_method="modelopt", quant_algo="FP8")
    found = mw.estimate(model, "hgx-h100", mw.Training(batch=1, seq=64), tp=1)
    assert found.memory["towers_bytes"] == 2 * sum(t.parameters for t in model.towers)
