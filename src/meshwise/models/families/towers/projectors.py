"""What joins an encoder's output to the language model: projectors, mergers, resamplers.

Each is a function of the whole file's block, the encoder's block, the encoder's sizes and the language
model's; it gives the number of its weights, and of those that engines divide by TP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from meshwise.models.families.keys import MOST_WIDE, check_integer
from meshwise.models.families.towers.block import TowerBlock, linear
from meshwise.models.families.towers.encoder import EncoderSizes
from meshwise.models.families.towers.sam import sam_neck, sam_upsampler


class LanguageSizes(NamedTuple):
    """Hidden size and feed-forward width of the language model (0 where its layers have none)."""

    hidden: int
    width: int


class Joined(NamedTuple):
    """Numbers of a projector's weights."""

    parameters: int
    split: int = 0


Projector = Callable[[TowerBlock, TowerBlock, EncoderSizes, LanguageSizes], Joined]


def _pair(inputs: int, middle: int, outputs: int, bias: bool = True, rest: int = 0) -> Joined:
    """Two linear layers, the first divided by its outputs and the second by its inputs."""
    split = linear(inputs, middle, bias) + middle * outputs
    return Joined(split + outputs * bias + rest, split)


def _feature_layers(top: TowerBlock) -> int:
    """How many layers' outputs the projector reads side by side."""
    value = top.value("vision_feature_layer")
    return len(value) if isinstance(value, list) else 1


def _llava(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    """Two linear layers (LLaVA-1.5, arXiv 2310.03744)."""
    bias = top.flag("multimodal_projector_bias")
    return _pair(s.hidden * _feature_layers(top), text.hidden, text.hidden, bias)


def _llava_next(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    """The same, and a learned row that ends a line of patches."""
    found = _llava(top, b, s, text)
    return Joined(found.parameters + text.hidden, found.split)


def _vipllava(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    """A norm over several layers' outputs, and two linear layers."""
    inputs = s.hidden * _feature_layers(top)
    return _pair(inputs, text.hidden, text.hidden, rest=2 * inputs)


def _mistral3(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    """A norm, the merging of neighbouring patches, and two linear layers."""
    merged = top.size("spatial_merge_size") ** 2
    rest = s.hidden + linear(merged * s.hidden, s.hidden, False)
    bias = top.flag("multimodal_projector_bias")
    return _pair(s.hidden * _feature_layers(top), text.hidden, text.hidden, bias, rest)


def _gemma3(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    return Joined(linear(s.hidden, text.hidden, False) + s.hidden)


def _paligemma(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    return Joined(linear(s.hidden, top.size("projection_dim")))


def _one_linear(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    return Joined(linear(s.hidden, text.hidden))


def _plain_linear(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    return Joined(linear(s.hidden, text.hidden, False))


def _llama4(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    weights = linear(b.size("vision_output_dim"), text.hidden, False)
    return Joined(weights, weights)


def _merger(b: TowerBlock, s: EncoderSizes, outputs: int, norm: int, copies: int = 0) -> Joined:
    """Qwen's: a norm of each patch, two linear layers over neighbouring ones; ``copies`` more of it, whose
    norm is over all of them, for the outputs of earlier layers (DeepStack, arXiv 2406.04334)."""
    merged = s.hidden * b.size("spatial_merge_size") ** 2
    first = _pair(merged, merged, outputs, rest=norm * s.hidden)
    more = _pair(merged, merged, outputs, rest=norm * merged)
    return Joined(first.parameters + copies * more.parameters, first.split + copies * more.split)


def _qwen2_vl(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    return _merger(b, s, b.size("hidden_size"), 2)


def _qwen2_5_vl(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    return _merger(b, s, b.size("out_hidden_size"), 1)


def _qwen3_vl(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    deep = len(b.sizes("deepstack_visual_indexes"))
    return _merger(b, s, b.size("out_hidden_size"), 2, deep)


def _qwen3_5(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    return _merger(b, s, b.size("out_hidden_size"), 2)


def _internvl(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    """A norm over the patches that pixel shuffle puts together, and two linear layers."""
    inputs = s.hidden * int(1 / top.ratio("downsample_ratio")) ** 2
    return Joined(_pair(inputs, text.hidden, text.hidden, rest=2 * inputs).parameters)


def _aya_vision(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    """A norm and SwiGLU over the patches that pixel shuffle puts together."""
    inputs = s.hidden * top.size("downsample_factor") ** 2
    found = _cohere2_vision(top, b, s, text)
    return Joined(found.parameters + 2 * inputs)


def _cohere2_vision(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    inputs = s.hidden * top.size("downsample_factor") ** 2
    middle = top.size("alignment_intermediate_size") if _aligned(top) else text.hidden
    return Joined(linear(inputs, middle) + linear(middle // 2, text.hidden))


def _aligned(top: TowerBlock) -> bool:
    return top.value("alignment_intermediate_size") is not None


def _kimi_k25(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    """A norm of each patch, and two linear layers over neighbouring ones."""
    high, wide = b.sizes("merge_kernel_size", 2)
    merged = s.hidden * high * wide
    normed = top.size("projection_hidden_size", "mm_hidden_size")
    return Joined(_pair(merged, merged, text.hidden, rest=2 * normed).parameters)


def _plain_pair(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    return Joined(_pair(s.hidden, text.hidden, text.hidden).parameters)


def _idefics3(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    merged = s.hidden * top.size("scale_factor") ** 2
    return Joined(linear(merged, text.hidden, False))


def _idefics2(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    """A gated MLP as wide as the language model's, and a resampler of learned queries."""
    nested = top.value("perceiver_config")
    p = TowerBlock(
        nested if isinstance(nested, dict) else {},
        {"hidden_size": text.hidden, "resampler_n_latents": 64, "resampler_depth": 3,
         "resampler_n_heads": 16, "resampler_head_dim": 96, "num_key_value_heads": 4},
        "perceiver_config",
    )  # fmt: skip
    h, dim = text.hidden, p.size("resampler_head_dim")
    queries, keys = p.size("resampler_n_heads") * dim, p.size("num_key_value_heads") * dim
    layer = 3 * h + 2 * h * queries + 2 * h * keys + 3 * h * 4 * h
    perceiver = p.size("resampler_n_latents") * h + p.size("resampler_depth") * layer + h
    return Joined(2 * s.hidden * text.width + text.width * h + perceiver)


def _glm4v(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    """A linear layer with a norm, and SwiGLU."""
    out = b.size("out_hidden_size")
    width = b.size("intermediate_size")
    mlp = 3 * out * width
    return Joined(out * out + 2 * out + mlp, mlp)


def _glm_ocr(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    out = b.size("out_hidden_size")
    mlp = 3 * out * out * b.size("in_channels")
    return Joined(out * out + 2 * out + mlp, mlp)


def _voxtral(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    return Joined(_pair(s.width, text.hidden, text.hidden, False).parameters)


def _lfm2_vl(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    """A norm over the patches that pixel unshuffle puts together, and two linear layers."""
    inputs = s.hidden * top.size("downsample_factor") ** 2
    norm = 2 * inputs * top.flag("projector_use_layernorm")
    middle, bias = top.size("projector_hidden_size"), top.flag("projector_bias")
    return Joined(_pair(inputs, middle, text.hidden, bias, norm).parameters)


def _step3p7(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    return Joined(linear(4 * s.hidden, text.hidden, top.flag("projector_bias")))


def _minimax_m3(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    """Two linear layers for each patch, and two for neighbouring ones together."""
    middle = top.size("projector_hidden_size")
    merged = text.hidden * b.size("spatial_merge_size") ** 2
    first, second = (_pair(i, middle, text.hidden) for i in (s.hidden, merged))
    return Joined(first.parameters + second.parameters)


def _nemotron_omni(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    inputs = top.size("vision_hidden_size", "vit_hidden_size")
    inputs *= int(1 / top.ratio("downsample_ratio")) ** 2
    middle = top.size("projector_hidden_size")
    return Joined(_pair(inputs, middle, text.hidden, False, inputs).parameters)


def _ernie_vl(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    """Merges neighbouring patches, then neighbouring frames."""
    space = s.hidden * b.size("spatial_merge_size") ** 2
    time = space * b.size("temporal_merge_size")
    total = sum(linear(i, space) + linear(space, space) + 2 * space for i in (space, time))
    return Joined(total + linear(space, text.hidden) + text.hidden)


def _hy_v4(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    out, merged = b.size("out_hidden_size"), s.hidden * b.size("spatial_merge_size") ** 2
    return Joined(out + linear(merged, merged) + linear(merged, out) + s.hidden)


def _gemma4_audio_projector(
    top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes
) -> Joined:
    return Joined(linear(b.size("output_proj_dims"), text.hidden, False))


def _gemma3n_embedder(
    top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes
) -> Joined:
    """A table of tokens of its own, two norms, and a linear layer."""
    return Joined(b.size("vocab_size") * s.hidden + 2 * s.hidden + s.hidden * text.hidden)


def _hyperclovax(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    """Qwen2.5-VL's merger, and a linear layer."""
    found, out = _qwen2_5_vl(top, b, s, text), b.size("out_hidden_size")
    return Joined(found.parameters + linear(out, text.hidden), found.split)


def _glmasr(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    return Joined(_pair(s.width, 2 * text.hidden, text.hidden).parameters)


def _qwen3_asr(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    return Joined(_pair(s.hidden, s.hidden, b.size("output_dim")).parameters)


def _ovis2(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    """A table of embeddings of the vocabulary of images."""
    return Joined(b.size("vocab_size") * top.size("hidden_size"))


def _aria(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    """Learned queries that attend to the patches, and two linear layers."""
    table, v = top.value("projector_patch_to_query_dict"), s.hidden
    counts = table.values() if isinstance(table, dict) and table else (256,)
    queries = max(check_integer("projector_patch_to_query_dict", n, 1, MOST_WIDE) for n in counts)
    attention = 3 * v * v + 5 * linear(v, v) + 3 * 2 * v
    mlp = linear(v, text.hidden, False) + linear(text.hidden, text.hidden, False)
    return Joined(queries * v + attention + mlp)


def _hunyuan_vl(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    """Two convolutions and a linear layer, norms before and after, and four learned rows."""
    merged, h, out = b.size("spatial_merge_size") ** 2, s.hidden, text.hidden
    convolutions = linear(merged * h, 2 * h) + linear(2 * h, 4 * h)
    return Joined(convolutions + linear(4 * h, out) + 4 * h + 3 * out + h + out)


def _got_ocr2(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    channels = b.size("output_channels")
    upsampler = sam_upsampler(channels, text.hidden)
    return Joined(upsampler + linear(text.hidden, text.hidden))


def _minicpm(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    """A norm and two linear layers over four patches, as often as they are merged."""
    merged, times = 4 * s.hidden, top.size("merger_times")
    each = _pair(merged, merged, s.hidden, rest=2 * merged).parameters
    last = _pair(merged, merged, text.hidden, rest=2 * merged).parameters
    return Joined((times - 1) * each + last)


def _gemma4_unified(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    """A linear layer; frames of sound are as wide as they come."""
    stated = b.value("output_proj_dims") is not None
    outputs = b.size("output_proj_dims" if stated else "audio_embed_dim")
    return Joined(linear(outputs, text.hidden, False))


def _hybrid_aligner(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    """Half of the language model's width from each of two encoders, and a linear layer."""
    fine = top.value("high_res_vision_config")
    channels = fine.get("output_channels", 256) if isinstance(fine, dict) else 256
    channels = check_integer("high_res_vision_config.output_channels", channels, 1, MOST_WIDE)
    half, whole = text.hidden // 2, text.hidden
    return Joined(linear(s.hidden, half) + linear(4 * channels, half) + linear(whole, whole))


def _hybrid_neck(top: TowerBlock, b: TowerBlock, s: EncoderSizes, text: LanguageSizes) -> Joined:
    """SAM's neck once more, its convolutions, and one learned number."""
    channels = b.size("output_channels")
    return Joined(sam_neck(s.hidden, channels) + sam_upsampler(channels, 4 * channels) + 1)


PROJECTORS: dict[str, Projector] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "vipllava": _vipllava,
    "mistral3": _mistral3,
    "gemma3": _gemma3,
    "paligemma": _paligemma,
    "one_linear": _one_linear,
    "plain_linear": _plain_linear,
    "llama4": _llama4,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "qwen3_5": _qwen3_5,
    "internvl": _internvl,
    "aya_vision": _aya_vision,
    "cohere2_vision": _cohere2_vision,
    "kimi_k25": _kimi_k25,
    "plain_pair": _plain_pair,
    "idefics3": _idefics3,
    "idefics2": _idefics2,
    "glm4v": _glm4v,
    "glm_ocr": _glm_ocr,
    "voxtral": _voxtral,
    "lfm2_vl": _lfm2_vl,
    "step3p7": _step3p7,
    "minimax_m3": _minimax_m3,
    "nemotron_omni": _nemotron_omni,
    "ernie_vl": _ernie_vl,
    "hy_v4": _hy_v4,
    "gemma4_audio_projector": _gemma4_audio_projector,
    "gemma3n_embedder": _gemma3n_embedder,
    "hyperclovax": _hyperclovax,
    "glmasr": _glmasr,
    "qwen3_asr": _qwen3_asr,
    "ovis2": _ovis2,
    "aria": _aria,
    "hunyuan_vl": _hunyuan_vl,
    "got_ocr2": _got_ocr2,
    "hybrid_aligner": _hybrid_aligner,
    "hybrid_neck": _hybrid_neck,
    "minicpm": _minicpm,
    "gemma4_unified": _gemma4_unified,
}
