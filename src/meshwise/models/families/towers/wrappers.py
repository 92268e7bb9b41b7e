"""The towers that a multimodal ``config.json`` describes, counted, and those that are not known.

A tower that meshwise does not know is named and never counted as nothing; the language model is read
all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from meshwise.errors import shorten
from meshwise.models.families.keys import kind, wrong
from meshwise.models.families.refused import WRAPPER_TYPES
from meshwise.models.families.towers import TOWER_KEYS
from meshwise.models.families.towers.audio import AUDIO_ENCODERS, CONFORMERS
from meshwise.models.families.towers.block import TowerBlock
from meshwise.models.families.towers.encoder import Counted, Encoder, count_encoder
from meshwise.models.families.towers.encoder_free import ENCODER_FREE
from meshwise.models.families.towers.projectors import PROJECTORS, LanguageSizes
from meshwise.models.families.towers.sam import SAM_ENCODERS
from meshwise.models.families.towers.vision import ENCODER_ALIASES, VISION_ENCODERS
from meshwise.models.shapes import Block, Tower

_ENCODERS: dict[str, Encoder] = {**VISION_ENCODERS, **AUDIO_ENCODERS}
_IRREGULAR = {**CONFORMERS, **SAM_ENCODERS, **ENCODER_FREE}  # counted by functions of their own


class TowerPart(msgspec.Struct, frozen=True, kw_only=True):
    """One tower of a wrapper, and its projector."""

    usual: str  # model type of its block where that does not say
    projector: str  # of PROJECTORS
    key: str = "vision_config"
    own: bool = False  # the wrapper's class decides which encoder, whatever the block says
    optional: bool = False  # a file without the block is a model without the encoder (Gemma 4)
    copies: int = 1  # of the encoder (Video-LLaVA: images and videos)
    defaults: Mapping[str, Any] = {}  # of the wrapper's class, for keys beside the block


_BIASED: dict[str, Any] = {"multimodal_projector_bias": True}


def _clip(projector: str, **other: Any) -> TowerPart:
    return TowerPart(usual="clip_vision_model", projector=projector, defaults=_BIASED, **other)


def _siglip(projector: str, **defaults: Any) -> TowerPart:
    return TowerPart(usual="siglip_vision_model", projector=projector, defaults=defaults)


def _own(usual: str, projector: str, *, optional: bool = False, **defaults: Any) -> TowerPart:
    return TowerPart(
        usual=usual, projector=projector, own=True, optional=optional, defaults=defaults
    )


_INTERN: dict[str, Any] = {"downsample_ratio": 0.5}
_QWEN3 = _own("qwen3_vl_vision", "qwen3_vl")
_QWEN35 = _own("qwen3_5_vision", "qwen3_5")
_GLM = _own("glm4v_vision", "glm4v")

# By the wrapper's model type.
TOWER_PARTS: dict[str, tuple[TowerPart, ...]] = {
    "llava": (_clip("llava"),),
    "llava_next": (_clip("llava_next"),),
    "llava_next_video": (_clip("llava_next"),),
    "minimax_vl_01": (_clip("llava_next"),),
    "llava_onevision": (
        TowerPart(usual="siglip_vision_model", projector="llava_next", defaults=_BIASED),
    ),
    "vipllava": (
        TowerPart(usual="clip_vision_model", projector="vipllava",
                  defaults={"vision_feature_layer": [-2, -5, -8, -11, 6]}),
    ),
    "video_llava": (_clip("llava", copies=2),),
    "mistral3": (
        TowerPart(usual="pixtral", projector="mistral3",
                  defaults={"spatial_merge_size": 2, "multimodal_projector_bias": False}),
    ),
    "gemma3": (_siglip("gemma3"),),
    "paligemma": (_siglip("paligemma", projection_dim=2048),),
    "llama4": (_own("llama4_vision_model", "llama4"),),
    "qwen2_vl": (_own("qwen2_vl_vision", "qwen2_vl"),),
    "qwen2_5_vl": (_own("qwen2_5_vl_vision", "qwen2_5_vl"),),
    "exaone4_5": (_own("exaone4_5_vision", "qwen2_5_vl"),),
    "qwen3_vl": (_QWEN3,),
    "qwen3_vl_moe": (_QWEN3,),
    "qwen3_5": (_QWEN35,),
    "qwen3_5_moe": (_QWEN35,),
    "internvl": (_own("internvl_vision", "internvl", **_INTERN),),
    "internvl_chat": (
        TowerPart(usual="intern_vit_6b", projector="internvl", defaults=_INTERN),
    ),
    "aya_vision": (_siglip("aya_vision", downsample_factor=2),),
    "cohere2_vision": (
        _siglip("cohere2_vision", downsample_factor=2, alignment_intermediate_size=36864),
    ),
    "kimi_k25": (_own("kimi_k25_vision", "kimi_k25", projection_hidden_size=1152),),
    "kimi_vl": (TowerPart(usual="moonvit", projector="kimi_k25",
                  defaults={"projection_hidden_size": 1152}),),
    "deepseek_vl": (_siglip("plain_pair"),),
    "idefics2": (_own("idefics2_vision", "idefics2"),),
    "idefics3": (_own("idefics3_vision", "idefics3", scale_factor=2),),
    "smolvlm": (_own("smolvlm_vision", "idefics3", scale_factor=2),),
    "glm4v": (_GLM,),
    "glm4v_moe": (_GLM,),
    "glm46v": (_GLM,),
    "glm_ocr": (_own("glm_ocr_vision", "glm_ocr"),),
    "qwen2_audio": (
        TowerPart(usual="qwen2_audio_encoder", projector="one_linear", key="audio_config"),
    ),
    "voxtral": (TowerPart(usual="voxtral_encoder", projector="voxtral", key="audio_config"),),
    "lfm2_vl": (
        TowerPart(usual="siglip2_vision_model", projector="lfm2_vl",
                  defaults={"downsample_factor": 2, "projector_hidden_size": 2560,
                            "projector_bias": True, "projector_use_layernorm": True}),
    ),
    "step3p7": (_own("step3p5_vision", "step3p7"),),
    "gemma4": (
        _own("gemma4_vision", "plain_linear", optional=True),
        TowerPart(usual="gemma4_audio", projector="gemma4_audio_projector", key="audio_config",
                  optional=True),
    ),
    "gemma3n": (
        TowerPart(usual="gemma3n_vision", projector="gemma3n_embedder"),
        TowerPart(usual="gemma3n_audio", projector="gemma3n_embedder", key="audio_config"),
    ),
    "minimax_m3_vl": (_own("minimax_m3_vl_vision", "minimax_m3", projector_hidden_size=6144),),
    "nemotron_h_omni": (
        TowerPart(usual="radio", projector="nemotron_omni",
                  defaults={"downsample_ratio": 0.5, "projector_hidden_size": 4096,
                            "vision_hidden_size": 1280}),
    ),
    "ernie4_5_vl_moe": (_own("ernie4_5_vl_moe_vision", "ernie_vl"),),
    "hy_v4_vl": (_own("hy_v4_vl_vision", "hy_v4"),),
    "hunyuan_vl": (_own("hunyuan_vl_vision", "hunyuan_vl"),),
    "cosmos3_omni": (_QWEN3,),
    **dict.fromkeys(
        ("minicpmv4_6", "minicpmv4_7", "minicpm_ocr"),
        (_own("minicpmv4_6_vision", "minicpm", merger_times=1),),
    ),
    "gemma4_unified": (
        _own("gemma4_unified_vision", "gemma4_unified", optional=True),
        TowerPart(usual="gemma4_unified_audio", projector="gemma4_unified", key="audio_config",
                  own=True, optional=True),
    ),
    "hyperclovax_vision_v2": (TowerPart(usual="qwen2_5_vl_vision", projector="hyperclovax"),),
    "shieldgemma2": (_siglip("gemma3"),),
    "glmga": (_GLM,),
    "ernie4_5_moe_vl": (_own("ernie4_5_vl_moe_vision", "ernie_vl"),),
    "lighton_ocr": (
        TowerPart(usual="pixtral", projector="mistral3", defaults={"spatial_merge_size": 2}),
    ),
    "qianfan_ocr": (_own("qianfan_ocr_vision", "internvl", **_INTERN),),
    "video_llama_3": (_own("video_llama_3_vision", "plain_pair"),),
    "ovis2": (_own("ovis2_vision", "ovis2", hidden_size=1536),),
    "aria": (TowerPart(usual="idefics3_vision", projector="aria"),),
    "got_ocr2": (_own("got_ocr2_vision", "got_ocr2"),),
    "pp_chart2table": (_own("pp_chart2table_vision", "got_ocr2"),),
    "qwen3_asr": (
        TowerPart(usual="qwen3_asr_encoder", projector="qwen3_asr", key="audio_config"),
    ),
    "glmasr": (TowerPart(usual="glmasr_encoder", projector="glmasr", key="audio_config"),),
    "deepseek_vl_hybrid": (
        _siglip("hybrid_aligner"),
        TowerPart(usual="sam_vision_model", projector="hybrid_neck", key="high_res_vision_config"),
    ),
}  # fmt: skip


def is_counted(model_type: str) -> bool:
    """Whether the weights of an encoder of this model type are known."""
    return model_type in _ENCODERS or model_type in _IRREGULAR


class FoundTowers(msgspec.Struct, frozen=True):
    """The towers of a file, and the names of those that are not counted."""

    towers: tuple[Tower, ...] = ()
    not_counted: tuple[str, ...] = ()


def read_towers(
    config: Mapping[str, Any], model_type: str, hidden: int, blocks: tuple[Block, ...]
) -> FoundTowers:
    """Every encoder that the file of a wrapper names, counted or named as not counted.

    ``hidden`` and ``blocks`` are the language model's. A block that is absent or null is a tower that the
    model has not. Raises :class:`~meshwise.errors.InputError` for a size that is not right.
    """
    width = next((b.mlp.width for b in blocks if b.mlp is not None), 0)
    spelt = model_type.replace("-", "_")  # LFM2-VL's first files have lfm2-vl
    parts = {part.key: part for part in TOWER_PARTS.get(spelt, ())}
    found: list[Tower] = []
    missing: list[str] = []
    for key in TOWER_KEYS:
        block = config.get(key)
        if block is None or (key not in parts and not _names_tower(block)):
            continue
        part = parts.get(key)
        if part is not None and not isinstance(block, dict):
            raise wrong(key, block, f"{kind(block)} where an object belongs",
                        legal="the tower's configuration")  # fmt: skip
        counted = _counted(config, part, block, LanguageSizes(hidden, width)) if part else None
        if counted is None:
            missing.append(_name(key, block, model_type))
        else:
            found += counted
    if not _text_alone(config):
        missing += [
            f"{key} (absent)"
            for key, part in parts.items()
            if key not in config and not part.optional
        ]
    if not (parts or found or missing) and model_type in WRAPPER_TYPES:
        missing.append("an encoder that the file does not describe")
    return FoundTowers(tuple(found), tuple(missing))


def _text_alone(config: Mapping[str, Any]) -> bool:
    """Whether the file's class is that of the language model alone."""
    classes = config.get("architectures")
    named = classes[0] if isinstance(classes, list) and classes else ""
    return isinstance(named, str) and named.endswith("ForCausalLM")


def _names_tower(block: object) -> bool:
    return isinstance(block, dict | str) and bool(block)


def _name(key: str, block: object, model_type: str) -> str:
    """What the file calls a tower; else whose it is."""
    named = block
    if isinstance(block, dict):
        named = block.get("model_type") or block.get("name") or block.get("cls")
    return f"{key} ({shorten(named if isinstance(named, str) and named else model_type)})"


def _counted(
    config: Mapping[str, Any], part: TowerPart, block: Mapping[str, Any], text: LanguageSizes
) -> list[Tower] | None:
    """The tower and its projector, or None where nobody knows the encoder."""
    stated = block.get("model_type")
    name = part.usual if part.own or not isinstance(stated, str) or not stated else stated
    name = ENCODER_ALIASES.get(name, name)
    encoder = _ENCODERS.get(name)
    sized = encoder.defaults if encoder else _IRREGULAR[name][1] if name in _IRREGULAR else {}
    nested = any(isinstance(value, dict) for value in block.values())
    if nested and stated is None and not any(key in block for key in _said(encoder, sized)):
        return None  # its sizes stand deeper, in a form of the publisher's own
    if name in _IRREGULAR:
        count, defaults, modality = _IRREGULAR[name]
        b = TowerBlock(block, defaults, part.key)
        counted = count(b)
    elif encoder is not None:
        if any(block.get(key) is not None for key in encoder.not_known):
            return None
        if any(block.get(key) for key in encoder.not_true):
            return None
        b = TowerBlock(block, encoder.defaults, part.key)
        counted, modality = count_encoder(encoder, b), encoder.kind
    else:
        return None
    top = TowerBlock(config, part.defaults, "")
    joined = PROJECTORS[part.projector](top, b, counted.sizes, text)
    return [*_towers(name, modality, counted, part, b),
            Tower(name=f"{name} projector", kind="projector", parameters=joined.parameters,
                  split=joined.split, block=part.key, heads=counted.sizes.heads)]  # fmt: skip


def _said(encoder: Encoder | None, defaults: Mapping[str, Any]) -> set[str]:
    """Keys by which a block says what its encoder is."""
    return set(defaults) | set((*encoder.hidden, *encoder.layers) if encoder else ())


def _towers(
    name: str, modality: str, counted: Counted, part: TowerPart, b: TowerBlock
) -> list[Tower]:
    tower = Tower(
        name=name,
        kind=modality,
        parameters=counted.parameters,
        layers=counted.sizes.layers,
        hidden=counted.sizes.hidden,
        heads=counted.sizes.heads,
        split=counted.split,
        block=part.key,
        unstated=tuple(dict.fromkeys(b.unstated)),
    )
    return [tower] * part.copies
