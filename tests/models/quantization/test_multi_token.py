"""Formats of multi-token-prediction layers: those of the checkpoint's list, as of any other layer."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from meshwise.models.families.config import model_from_config
from meshwise.models.formats import model_as_run, unquantised
from meshwise.models.load import load_model
from meshwise.models.names import config_of, named_model
from meshwise.models.parameters import mtp_parameters
from meshwise.models.shapes import LayerFormats, Model, MultiToken, Stored
from meshwise.program.stored import multi_token_bytes
from meshwise.workloads.workload import Formats, Prefill

BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}
FP4 = {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}


def made(preset: str, quantization: dict[str, Any] | None) -> Model:
    named = named_model(preset)
    assert named is not None
    config = {k: v for k, v in config_of(named).items() if k != "quantization_config"}
    if quantization is not None:
        config["quantization_config"] = quantization
    return model_from_config(config, name=preset)


def ahead(model: Model) -> MultiToken:
    assert model.mtp is not None
    return model.mtp


def narrow(formats: LayerFormats) -> set[str]:
    """Roles of a layer's matrices that are stored narrow."""
    given: dict[str, Stored | None] = msgspec.structs.asdict(formats)
    return {role for role, stored in given.items() if stored is not None}


def test_layers_behind_the_last_are_stored_as_the_others() -> None:
    """DeepSeek-V3's file leaves nothing out: layer 61 is in FP8 blocks, what joins its inputs in 16 bit."""
    model = made("deepseek-v3", BLOCKS)
    (block,) = ahead(model).blocks
    assert block.stored == model.blocks[model.pattern[-1]].stored
    joining = 2 * model.hidden**2 + 3 * model.hidden
    rest = mtp_parameters(model) - joining
    # blocks of 128 x 128 carry a scale of 4 bytes; the router and norms stay in 16 bit
    wide = 256 * model.hidden + block.norm_parameters + 1536 + 512
    want = (rest - wide) * (1 + 4 / 128**2) + 2 * (wide + joining)
    assert multi_token_bytes(model) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize(
    ("preset", "pattern"),
    [
        ("deepseek-v3", "model.layers.61*"),  # nvidia/DeepSeek-V3.1-NVFP4
        ("glm-5", "model.layers.78*"),  # nvidia/GLM-5.1-NVFP4
        ("qwen3.5-397b-a17b", "mtp.layers.0*"),  # nvidia/Qwen3.5-397B-A17B-NVFP4
        ("qwen3.5-122b-a10b", "mtp*"),
        ("deepseek-v4-flash", "mtp.*"),
        ("qwen3.5-27b", "re:.*mtp.*"),
    ],
)
def test_lists_that_leave_them_out(preset: str, pattern: str) -> None:
    taken = made(preset, {**FP4, "exclude_modules": ["lm_head"]})
    left = made(preset, {**FP4, "exclude_modules": ["lm_head", pattern]})
    assert left.blocks == taken.blocks  # a pattern of theirs means no other layer
    assert all(narrow(block.stored) for block in ahead(taken).blocks)
    assert not any(narrow(block.stored) for block in ahead(left).blocks)
    assert multi_token_bytes(left) == 2 * mtp_parameters(left)
    assert (multi_token_bytes(taken) or 0.0) < 0.5 * 2 * mtp_parameters(left)


def test_a_pattern_of_one_part() -> None:
    """GLM-5's list for NVFP4: of layer 78 the attention stays in 16 bit, the experts do not."""
    model = made("glm-5", {**FP4, "exclude_modules": ["lm_head", "model.layers.78.self_attn*"]})
    (block,) = ahead(model).blocks
    assert {"expert_up", "expert_down"} <= narrow(block.stored)
    assert not narrow(block.stored) & {"attention", "output"}
    assert narrow(model.blocks[model.pattern[-1]].stored) > narrow(block.stored)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_methods_of_the_language_models_blocks_leave_them_alone(method: str) -> None:
    model = made("qwen3.5-27b", {"quant_method": method, "bits": 4, "group_size": 128})
    assert not any(narrow(block.stored) for block in ahead(model).blocks)


def test_an_option_reaches_them_and_no_option_is_left_of_it() -> None:
    model = made("glm-5", None)
    assert multi_token_bytes(model) == 2 * mtp_parameters(model)
    run = model_as_run(model, Prefill(batch=1, seq=1, formats=Formats(weights="fp8")))
    assert all(narrow(block.stored) for block in ahead(run).blocks)
    assert ahead(unquantised(run)) == ahead(model)


@pytest.mark.parametrize(
    "name",
    [
        "nvidia/DeepSeek-V3.1-NVFP4",
        "nvidia/GLM-5-NVFP4",
        "nvidia/GLM-5.1-NVFP4",
        "nvidia/GLM-5.2-NVFP4",
        "nvidia/Qwen3.5-397B-A17B-NVFP4",
        "nvidia/Qwen3.6-27B-NVFP4",
        "nvidia/Qwen3.6-35B-A3B-NVFP4",
    ],
)
def test_published_fp4_checkpoints_keep_them_in_16_bit(name: str) -> None:
    model = load_model(name)
    assert multi_token_bytes(model) == 2 * mtp_parameters(model) > 0
