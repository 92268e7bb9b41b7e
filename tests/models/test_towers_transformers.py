"""Oracle: weights of encoders and projectors against transformers' multimodal models, built on torch's
meta device, less their language model. Every size is halved and doubled, every flag turned."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from tests.deep import deep

from meshwise.models.families.towers.wrappers import TOWER_PARTS, read_towers
from meshwise.models.shapes import Block, Mlp

torch = pytest.importorskip("torch", reason="the oracle needs torch")
transformers = pytest.importorskip("transformers", reason="the oracle needs transformers")

pytestmark = pytest.mark.filterwarnings("ignore")

from transformers import AutoConfig  # noqa: E402
from transformers.models.auto import modeling_auto  # noqa: E402

CLASSES = modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
# Types that only the publisher's own code reads, and one whose images need another library.
REMOTE = {"internvl_chat", "kimi_vl", "gemma3n", "ernie4_5_moe_vl", "minimax_vl_01"}
TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300,
        "head_dim": 16}  # fmt: skip
# What a class needs beside that, because it cannot be built without.
NEEDED: dict[str, dict[str, Any]] = {
    "exaone4_5": {"text_config": {"model_type": "exaone4"}},
    "aya_vision": {"vision_config": {"num_attention_heads": 16}},
    "nemotron_h_omni": {"vision_config": {"video_temporal_patch_size": 2}},
    "ernie4_5_vl_moe": {"text_config": {"hidden_size": 512, "num_hidden_layers": 2,
                                        "head_dim": None}},
    "hy_v4_vl": {"text_config": {"vocab_size": 200_000, "pad_token_id": 0}},
}  # fmt: skip
# Keys that no size of a module depends on, or that two places have to say alike.
LEFT_OUT = {"return_dict", "output_hidden_states", "output_attentions", "chunk_size_feed_forward",
            "is_encoder_decoder", "vocab_size", "id2label", "label2id", "use_cache",
            "video_temporal_patch_size", "use_swiglu_ffn", "hidden_stride",
            "max_value_projector_patch_to_query_dict", "merger_times"}  # fmt: skip
LAYERS = ("num_hidden_layers", "depth", "encoder_layers")
TYPES = sorted(set(TOWER_PARTS) - REMOTE)


def configuration(model_type: str) -> dict[str, Any]:
    """A file of the type with a tiny language model and encoders of two layers."""
    config: dict[str, Any] = {"model_type": model_type, "text_config": dict(TEXT)}
    for part in TOWER_PARTS[model_type]:
        config[part.key] = {"model_type": part.usual}
    for key, own in NEEDED.get(model_type, {}).items():
        config[key] = {k: v for k, v in (config[key] | own).items() if v is not None}
    built = made(config)
    for part in TOWER_PARTS[model_type]:
        block = getattr(built, part.key).to_dict()
        config[part.key] |= {key: 2 for key in LAYERS if key in block}
    return config


def made(config: dict[str, Any]) -> Any:
    """The configuration as transformers reads it."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    own = copy.deepcopy({k: v for k, v in config.items() if k != "model_type"})
    return AutoConfig.for_model(config["model_type"], **own)


def weights(config: dict[str, Any]) -> tuple[int, Any] | None:
    """transformers' own number of weights outside the language model; None where it builds no model."""
    try:
        built = made(config)
        with torch.device("meta"):
            model = getattr(transformers, CLASSES[config["model_type"]])(built)
    except Exception:  # whatever a class of it raises for sizes that do not go together
        return None
    language: set[int] = set()
    for owner in (model, getattr(model, "model", model)):
        for name in ("language_model", "text_model", "lm_head"):
            part = getattr(owner, name, None)
            language |= {id(p) for p in part.parameters()} if part is not None else set()
    assert language
    return sum(p.numel() for p in model.parameters() if id(p) not in language), built


def counted(config: dict[str, Any], built: Any) -> int:
    """Our number of weights of the same towers."""
    text = built.get_text_config()
    block = Block(attention=None, mlp=Mlp(width=getattr(text, "intermediate_size", 1), gated=True))
    found = read_towers(config, config["model_type"], text.hidden_size, (block,))
    assert not found.not_counted
    return sum(tower.parameters for tower in found.towers)


def changes(value: Any) -> list[Any]:
    """Other values of a key, of its own kind."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value * 2, value // 2]
    if isinstance(value, float):
        return [value * 2, value / 2]
    if isinstance(value, list | tuple) and value and all(type(v) is int for v in value):
        return [[v * 2 for v in value]]
    return []


def mutations(config: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The file with one key changed, of a tower or beside it."""
    built = made(config)
    places: list[tuple[str, ...]] = [(part.key,) for part in TOWER_PARTS[config["model_type"]]]
    for place in [*places, ()]:
        table = (getattr(built, place[0]) if place else built).to_dict()
        for key, value in table.items():
            if key in LEFT_OUT or key in LAYERS or "token" in key:
                continue
            for other in changes(value):
                changed = copy.deepcopy(config)
                (changed[place[0]] if place else changed)[key] = other
                yield (*place, key, str(other)), changed


@pytest.mark.parametrize("model_type", TYPES)
def test_towers_as_their_class_has_them_by_default(model_type: str) -> None:
    config = configuration(model_type)
    found = weights(config)
    assert found is not None
    assert counted(config, found[1]) == found[0]


@pytest.mark.parametrize("each", [3, deep(1)])
@pytest.mark.parametrize("model_type", TYPES)
def test_every_size_and_every_flag_counts_as_in_transformers(model_type: str, each: int) -> None:
    compared = 0
    for what, config in list(mutations(configuration(model_type)))[::each]:
        found = weights(config)
        if found is not None:
            assert counted(config, found[1]) == found[0], what
            compared += 1
    assert compared >= (5 if each == 1 else 2)


@pytest.mark.parametrize("value", [-1, [-1], [-1, -2, -3]])
@pytest.mark.parametrize("model_type", ["llava", "vipllava", "mistral3", "llava_onevision"])
def test_projectors_over_several_layers(model_type: str, value: object) -> None:
    config = configuration(model_type) | {"vision_feature_layer": value}
    found = weights(config)
    assert found is not None
    assert counted(config, found[1]) == found[0]


@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.0])
def test_pixel_shuffle_by_any_ratio(ratio: float) -> None:
    config = configuration("internvl") | {"downsample_ratio": ratio}
    found = weights(config)
    assert found is not None
    assert counted(config, found[1]) == found[0]


def test_an_image_that_is_no_square() -> None:
    config = configuration("internvl")
    config["vision_config"] |= {"image_size": [448, 224], "patch_size": [14, 14]}
    found = weights(config)
    assert found is not None
    assert counted(config, found[1]) == found[0]


def test_internvl_by_its_publisher_is_the_same_model() -> None:
    """The publisher's file names keys otherwise; transformers' conversion of it has as many weights."""
    config = configuration("internvl")
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
             "num_hidden_layers": 3, "image_size": 28, "patch_size": 14}  # fmt: skip
    for norm, plain in (("layer_norm", False), ("rms_norm", True)):
        config["vision_config"] = {**sizes, "attention_bias": plain, "use_qk_norm": plain,
                                   "norm_type": norm}  # fmt: skip
        found = weights(config)
        assert found is not None
        chat = {
            "model_type": "internvl_chat",
            "downsample_ratio": 0.5,
            "vision_config": {**sizes, "model_type": "intern_vit_6b", "qkv_bias": plain,
                              "qk_normalization": plain, "norm_type": norm},
        }  # fmt: skip
        assert counted(chat, found[1]) == found[0]


def test_gemma_3n_hears_as_transformers_counts() -> None:
    """Its encoder of images needs another library, so the one of sounds is compared by itself."""
    from transformers.models.gemma3n.configuration_gemma3n import Gemma3nAudioConfig
    from transformers.models.gemma3n.modeling_gemma3n import (
        Gemma3nAudioEncoder,
        Gemma3nMultimodalEmbedder,
    )

    text = transformers.Gemma3nTextConfig(hidden_size=48)
    for own in ({}, {"hidden_size": 128, "conf_num_hidden_layers": 3}, {"vocab_size": 64}):
        audio = Gemma3nAudioConfig(**own)
        with torch.device("meta"):
            parts = (Gemma3nAudioEncoder(audio), Gemma3nMultimodalEmbedder(audio, text))
        config = {"model_type": "gemma3n", "vision_config": None, "audio_config": own}
        found = read_towers(config, "gemma3n", 48, ())
        assert not found.not_counted
        mine = [tower.parameters for tower in found.towers]
        assert mine == [sum(p.numel() for p in part.parameters()) for part in parts]
