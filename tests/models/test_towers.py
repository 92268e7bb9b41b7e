"""Encoders of images and sounds: counted by hand, named where they are not known, refused where wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from meshwise.errors import InputError
from meshwise.models.families.config import model_from_config
from meshwise.models.families.towers import TOWER_KEYS
from meshwise.models.families.towers.block import TowerBlock
from meshwise.models.families.towers.encoder import Encoder, count_encoder
from meshwise.models.families.towers.wrappers import TOWER_PARTS, read_towers
from meshwise.models.load import load_model
from meshwise.models.parameters import parameters, parameters_with_towers
from meshwise.models.shapes import Model, Tower

CONFIGS = Path(__file__).parents[1] / "data" / "configs"
TEXT = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 300}  # fmt: skip
CLIP = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 80,
        "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 28,
        "patch_size": 14}  # fmt: skip
LLAVA = {"model_type": "llava", "text_config": TEXT, "vision_config": CLIP}


def read(**other: Any) -> Model:
    return model_from_config({**LLAVA, **other}, name="x")


def rows() -> list[dict[str, str]]:
    with (CONFIGS / "index.csv").open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row.get("parameters_with_towers")]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["file"])
def test_whole_models_of_the_development_files(row: dict[str, str]) -> None:
    config = json.loads((CONFIGS / row["file"]).read_text(encoding="utf-8"))
    try:
        model = model_from_config(config, name="x")
    except InputError:
        assert "refuse" in row["expected"]
        return
    assert parameters(model) == int(row["parameters"])
    assert parameters_with_towers(model) == int(row["parameters_with_towers"])


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("llama-4-scout", 108_641_793_536),
        ("llama-4-maverick", 401_583_781_376),
        ("gemma-3-4b", 4_300_079_472),
        ("gemma-3-12b", 12_187_325_040),
        ("gemma-3-27b", 27_432_406_640),
        ("qwen3-vl-8b", 8_767_123_696),
    ],
)
def test_presets_have_as_many_weights_as_their_checkpoints(name: str, total: int) -> None:
    """The numbers are those of the safetensors on the hub."""
    assert parameters_with_towers(load_model(name)) == total


def test_clip_by_hand() -> None:
    h, w, layers = 32, 80, 3
    layer = 4 * (h * h + h) + (h * w + w) + (w * h + h) + 2 * 2 * h
    patches, positions = 3 * 14 * 14 * h, (2 * 2 + 1) * h
    encoder = layers * layer + patches + h + positions + 2 * 2 * h
    tower, projector = read().towers
    assert (tower.kind, tower.parameters, tower.layers, tower.heads) == ("vision", encoder, 3, 4)
    assert projector.parameters == h * 64 + 64 + 64 * 64 + 64
    # divided: every matrix of a layer, and the biases of those whose outputs are
    assert tower.split == layers * (4 * h * h + 3 * h + 2 * h * w + w)


def test_the_language_model_counts_as_without_towers() -> None:
    alone = model_from_config(TEXT, name="x")
    assert parameters(read()) == parameters(alone)
    assert parameters_with_towers(alone) == parameters(alone)
    assert parameters_with_towers(read()) == parameters(alone) + sum(
        tower.parameters for tower in read().towers
    )


@pytest.mark.parametrize("block", [{"model_type": "timm_wrapper"}, {"model_type": "acme_vit"}])
def test_an_encoder_that_nobody_knows_is_named_and_the_rest_is_answered(
    block: dict[str, Any],
) -> None:
    model = read(vision_config=block)
    assert model.towers == ()
    assert model.towers_not_counted == (f"vision_config ({block['model_type']})",)
    assert parameters(model) == parameters(model_from_config(TEXT, name="x"))


def test_a_wrapper_whose_file_does_not_describe_its_encoder() -> None:
    bare = {k: v for k, v in LLAVA.items() if k != "vision_config"}
    assert model_from_config(bare, name="x").towers_not_counted == ("vision_config (absent)",)
    # null says that there is none
    assert model_from_config({**LLAVA, "vision_config": None}, name="x").towers_not_counted == ()


def test_a_class_of_the_language_model_alone_has_none() -> None:
    """A text-only checkpoint under the wrapper's model type."""
    flat = {**TEXT, "num_key_value_heads": 2, "model_type": "qwen2_vl",
            "architectures": ["Qwen2VLForCausalLM"]}  # fmt: skip
    assert model_from_config(flat, name="x").towers_not_counted == ()
    whole = {**flat, "architectures": ["Qwen2VLForConditionalGeneration"]}
    assert model_from_config(whole, name="x").towers_not_counted == ("vision_config (absent)",)


def test_channels_under_a_name_that_no_code_reads() -> None:
    """Published files of Qwen2-VL say in_chans: 3; transformers and engines read in_channels."""
    flat = {**TEXT, "num_key_value_heads": 2, "model_type": "qwen2_vl"}
    plain, said = (
        model_from_config({**flat, "vision_config": {"depth": 2, **more}}, name="x")
        for more in ({}, {"in_chans": 3})
    )
    assert plain.towers[0].parameters == said.towers[0].parameters
    with pytest.raises(InputError) as caught:
        model_from_config({**flat, "vision_config": {"depth": 2, "in_chans": 6}}, name="x")
    assert (caught.value.field, caught.value.nearest) == ("vision_config.in_chans", 3)


def test_an_old_file_names_its_encoder_elsewhere() -> None:
    old = {**TEXT, "model_type": "llava_llama", "mm_vision_tower": "openai/clip-vit-large-patch14"}
    model = model_from_config(old, name="x")
    assert model.towers_not_counted == ("mm_vision_tower (openai/clip-vit-large-patch14)",)
    del old["mm_vision_tower"]
    assert len(model_from_config(old, name="x").towers_not_counted) == 1


def test_a_plain_model_with_a_block_of_a_tower_says_so() -> None:
    model = model_from_config({**TEXT, "vision_config": {"model_type": "pixtral"}}, name="x")
    assert model.towers_not_counted == ("vision_config (pixtral)",)


def test_variants_that_no_code_is_known_of_are_not_counted() -> None:
    """Kimi-K3's norms and biases are others than those of Kimi-K2.5's encoder."""
    block = {"vt_hidden_size": 1024, "vt_num_hidden_layers": 27, "norm_type": "rmsnorm"}
    found = read_towers({"model_type": "kimi_k25", "vision_config": block}, "kimi_k25", 64, ())
    assert (found.towers, found.not_counted) == ((), ("vision_config (kimi_k25)",))


def test_a_block_of_the_publisher_s_own_form_is_not_counted_by_defaults() -> None:
    block = {"auto_map": {"AutoModel": "radio.RADIOModel"}, "args": {"model": "vit_huge"}}
    config = {"model_type": "nemotron_h_omni", "vision_config": block}
    assert read_towers(config, "nemotron_h_omni", 64, ()).not_counted == (
        "vision_config (nemotron_h_omni)",
    )


def test_sizes_that_a_class_fills_in_are_named() -> None:
    some = {"model_type": "siglip2_vision_model", "hidden_size": 1152}
    config = {"model_type": "lfm2_vl", "vision_config": some}
    tower = read_towers(config, "lfm2_vl", 64, ()).towers[0]
    assert tower.unstated == ("num_hidden_layers", "num_attention_heads", "intermediate_size")
    assert read().towers[0].unstated == ()


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("hidden_size", "32", "vision_config.hidden_size"),
        ("hidden_size", None, None),  # the class's own
        ("num_hidden_layers", -1, "vision_config.num_hidden_layers"),
        ("num_attention_heads", 5, "vision_config.num_attention_heads"),
        ("patch_size", 0, "vision_config.patch_size"),
        ("image_size", 3.5, "vision_config.image_size"),
    ],
)
def test_a_wrong_size_is_refused_by_its_place(key: str, value: object, field: str | None) -> None:
    block = {**CLIP, key: value}
    if field is None:
        assert read(vision_config=block).towers[0].hidden == 768
        return
    with pytest.raises(InputError) as caught:
        read(vision_config=block)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["vit", 3, [1]])
def test_a_block_that_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(InputError) as caught:
        read(vision_config=value)
    assert caught.value.field == "vision_config"


def test_flags_and_ratios_that_are_none_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        read(multimodal_projector_bias="yes")
    assert caught.value.field == "multimodal_projector_bias"
    chat = {"model_type": "internvl_chat", "downsample_ratio": 0, "vision_config": {}}
    with pytest.raises(InputError) as caught:
        read_towers(chat, "internvl_chat", 64, ())
    assert caught.value.field == "downsample_ratio"
    block = TowerBlock({"norm_type": "batch"}, {}, "vision_config")
    plain = Encoder(ends=lambda b, s: 0, norm_key="norm_type", heads=("h",), hidden=("h",),
                    layers=("h",), width=("h",))  # fmt: skip
    with pytest.raises(InputError):
        count_encoder(plain, block)


def test_images_and_videos_with_an_encoder_each() -> None:
    model = read(model_type="video_llava")
    assert [tower.kind for tower in model.towers] == ["vision", "vision", "projector"]


def test_every_part_stands_under_a_key_that_is_looked_at() -> None:
    assert {part.key for parts in TOWER_PARTS.values() for part in parts} <= set(TOWER_KEYS)


def test_a_tower_cannot_divide_more_weights_than_it_has() -> None:
    with pytest.raises(InputError):
        Tower(name="x", kind="vision", parameters=3, split=4)
    with pytest.raises(InputError):
        Tower(name="x", kind="smell", parameters=3)
