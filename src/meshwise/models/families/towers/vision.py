"""Vision encoders by the model type of their block: one entry each."""

from __future__ import annotations

from typing import Any

from meshwise.models.families.towers.block import TowerBlock, linear
from meshwise.models.families.towers.encoder import Encoder, EncoderEnds, EncoderSizes


def _patches(b: TowerBlock, s: EncoderSizes, *, channels: str = "num_channels", frames: bool = False,
             bias: bool = True) -> int:  # fmt: skip
    """The convolution that makes a patch, of one frame or several, a vector."""
    depth = b.size("temporal_patch_size") if frames else 1
    return linear(b.size(channels) * depth * b.size("patch_size") ** 2, s.hidden, bias)


def _pooling_head(s: EncoderSizes) -> int:
    """SigLIP's: one learned query attends to all patches, and an MLP follows."""
    attention = 4 * linear(s.hidden, s.hidden)
    mlp = linear(s.hidden, s.width) + linear(s.width, s.hidden)
    return s.hidden + attention + 2 * s.hidden + mlp


def _clip(b: TowerBlock, s: EncoderSizes) -> int:
    return _patches(b, s, bias=False) + (1 + b.grid() + 1 + 4) * s.hidden


def _siglip(b: TowerBlock, s: EncoderSizes) -> int:
    head = _pooling_head(s) if b.flag("vision_use_head") else 0
    return _patches(b, s) + (b.grid() + 2) * s.hidden + head


def _siglip2(b: TowerBlock, s: EncoderSizes) -> int:
    head = _pooling_head(s) if b.flag("vision_use_head") else 0
    return _patches(b, s) + (b.size("num_patches") + 2) * s.hidden + head


def _pixtral(b: TowerBlock, s: EncoderSizes) -> int:
    return _patches(b, s, bias=False) + s.hidden


def _qwen2_vl(b: TowerBlock, s: EncoderSizes) -> int:
    b.says_the_same("in_chans", "in_channels")  # the name in published files, which no code reads
    return _patches(b, s, channels="in_channels", frames=True, bias=False)


def _qwen3_vl(b: TowerBlock, s: EncoderSizes) -> int:
    rows = b.size("num_position_embeddings")
    return _patches(b, s, channels="in_channels", frames=True) + rows * s.hidden


def _internvl(b: TowerBlock, s: EncoderSizes) -> int:
    rows = b.grid() + 1 if b.flag("use_absolute_position_embeddings") else 0
    last = 0 if b.flag("use_mean_pooling") else 2 * s.hidden
    mask = s.hidden * b.flag("use_mask_token")
    return _patches(b, s) + (1 + rows) * s.hidden + last + mask


def _intern_vit(b: TowerBlock, s: EncoderSizes) -> int:
    return _patches(b, s) + (1 + b.grid() + 1) * s.hidden


def _llama4(b: TowerBlock, s: EncoderSizes) -> int:
    inner, outer = b.size("projector_input_dim"), b.size("projector_output_dim")
    adapter = linear(s.width, inner, False) + linear(outer, outer, False)
    return _patches(b, s, bias=False) + (1 + b.grid() + 1 + 4) * s.hidden + adapter


def _kimi(b: TowerBlock, s: EncoderSizes) -> int:
    high, wide = (b.size(k, f"init_{k}") for k in ("pos_emb_height", "pos_emb_width"))
    return _patches(b, s) + (high * wide + 2) * s.hidden


def _glm4v(b: TowerBlock, s: EncoderSizes, *, normed: bool = True) -> int:
    """Patches, positions, two norms, and the convolution that merges patches."""
    out, merged = b.size("out_hidden_size"), b.size("spatial_merge_size") ** 2
    rows = b.grid() + 1 if normed else 0
    patches = _patches(b, s, channels="in_channels", frames=True)
    return patches + (rows + 1) * s.hidden + linear(merged * s.hidden, out)


def _glm_ocr(b: TowerBlock, s: EncoderSizes) -> int:
    return _glm4v(b, s, normed=False)


def _idefics(b: TowerBlock, s: EncoderSizes) -> int:
    return _patches(b, s) + (b.grid() + 2) * s.hidden


def _step(b: TowerBlock, s: EncoderSizes) -> int:
    """Positions, a norm before the layers, and two convolutions of stride 2 after them."""
    h = s.hidden
    down = linear(9 * h, 2 * h) + linear(9 * 2 * h, 4 * h)
    return _patches(b, s, bias=False) + (b.grid() + 2) * h + down


def _gemma4(b: TowerBlock, s: EncoderSizes) -> int:
    patches = linear(3 * b.size("patch_size") ** 2, s.hidden, False)
    return patches + 2 * b.size("position_embedding_size") * s.hidden


def _minimax(b: TowerBlock, s: EncoderSizes) -> int:
    return _patches(b, s, frames=True, bias=False) + 2 * s.hidden


def _radio(b: TowerBlock, s: EncoderSizes) -> int:
    """Positions of the largest image, class and register tokens, projections of images and of videos."""
    pixels = b.size("num_channels") * b.size("patch_size") ** 2
    frames = b.size("video_temporal_patch_size") if b.has("video_temporal_patch_size") else 0
    rows = (b.size("max_img_size") // b.size("patch_size")) ** 2
    tokens = b.size("num_cls_tokens") + b.size("num_registers", low=0)
    return (pixels * (1 + frames) + rows + tokens) * s.hidden


def _ernie(b: TowerBlock, s: EncoderSizes) -> int:
    return _patches(b, s, channels="in_channels", bias=False) + 2 * s.hidden


def _hunyuan(b: TowerBlock, s: EncoderSizes) -> int:
    rows = (b.size("max_image_size") // b.size("patch_size")) ** 2 + 1
    return _patches(b, s) + rows * s.hidden


def _video_llama(b: TowerBlock, s: EncoderSizes) -> int:
    """Rotary positions in place of a table."""
    return _patches(b, s) + 2 * s.hidden


def _ovis(b: TowerBlock, s: EncoderSizes) -> int:
    """A head that gives each patch a distribution over a vocabulary of images."""
    words = b.size("vocab_size") - b.size("num_visual_indicator_tokens", low=0)
    head = s.hidden * b.size("hidden_stride") ** 2 * words + 2 * words
    return _patches(b, s) + (b.grid() + 1 + 1) * s.hidden + head


def _minicpm(b: TowerBlock, s: EncoderSizes) -> int:
    """A merger of windows between two layers: attention, a norm and an MLP over a window's patches."""
    high, wide = b.sizes("window_kernel_size", 2)
    merged, width = s.hidden * high * wide, s.width * high * wide
    mlp = linear(merged, width) + linear(width, s.hidden) + 2 * merged
    return _idefics(b, s) + 4 * linear(s.hidden, s.hidden) + 2 * s.hidden + mlp


def _siglip_sizes(**other: Any) -> dict[str, Any]:
    return {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
            "num_attention_heads": 12, "num_channels": 3, "image_size": 224,
            "patch_size": 16} | other  # fmt: skip


_QWEN25 = {"depth": 32, "hidden_size": 3584, "intermediate_size": 3420, "num_heads": 16,
           "in_channels": 3, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
           "out_hidden_size": 3584}  # fmt: skip
_QWEN3 = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16,
          "in_channels": 3, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
          "out_hidden_size": 3584, "num_position_embeddings": 2304,
          "deepstack_visual_indexes": [8, 16, 24]}  # fmt: skip
_GLM = {"depth": 24, "hidden_size": 1536, "num_heads": 12, "in_channels": 3, "image_size": 336,
        "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
        "out_hidden_size": 4096, "intermediate_size": 13696, "attention_bias": False}  # fmt: skip
_KIMI = {"patch_size": 14, "pos_emb_height": 64, "pos_emb_width": 64, "num_attention_heads": 16,
         "num_hidden_layers": 27, "hidden_size": 1152, "intermediate_size": 4304,
         "merge_kernel_size": [2, 2], "num_channels": 3}  # fmt: skip
_INTERN = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
           "intermediate_size": 4096, "image_size": 448, "patch_size": 14,
           "num_channels": 3}  # fmt: skip


def _siglip_like(ends: EncoderEnds = _siglip, **other: Any) -> Encoder:
    return Encoder(ends=ends, defaults=_siglip_sizes(**other))


def _qwen2_5(**defaults: Any) -> Encoder:
    return Encoder(ends=_qwen2_vl, layers=("depth",), heads=("num_heads",), gated=True, norm="rms",
                   whole_heads=False, defaults=_QWEN25 | defaults)  # fmt: skip


def _qwen3(**defaults: Any) -> Encoder:
    return Encoder(ends=_qwen3_vl, layers=("depth",), heads=("num_heads",), whole_heads=False,
                   defaults=_QWEN3 | defaults)  # fmt: skip


def _glm(ends: EncoderEnds, width: str, **other: Any) -> Encoder:
    return Encoder(ends=ends, layers=("depth",), heads=("num_heads",), width=(width,), gated=True,
                   norm="rms", whole_heads=False, **other)  # fmt: skip


def _intern(ends: EncoderEnds, bias: str, normed: str, **defaults: Any) -> Encoder:
    return Encoder(ends=ends, qkv_bias=bias, wide_norms=normed, scales=2,
                   norm_key="norm_type", defaults=_INTERN | defaults)  # fmt: skip


_KIMI_ENCODER = Encoder(
    ends=_kimi,
    hidden=("hidden_size", "vt_hidden_size"),
    layers=("num_hidden_layers", "vt_num_hidden_layers"),
    heads=("num_attention_heads", "vt_num_attention_heads"),
    width=("intermediate_size", "vt_intermediate_size"),
    defaults=_KIMI,
    whole_heads=False,
    not_known=("norm_type", "qkv_hidden_size", "attn_bias", "linear_bias", "mlp_type"),
)
_QWEN3_PLAIN = _qwen3(deepstack_visual_indexes=[])
_QWEN3_DEEP = _qwen3()
_INTERN_PLAIN = _intern(
    _internvl, "attention_bias", "use_qk_norm",
    use_absolute_position_embeddings=True, use_mean_pooling=True,
)  # fmt: skip
_GLM4V = _glm(
    _glm4v, "out_hidden_size", defaults=_GLM, qkv_bias="attention_bias", output_bias=False,
    mlp_bias=False,
)  # fmt: skip
_SIGLIP = _siglip_like(vision_use_head=True)
_SMOL = _siglip_like(_idefics, hidden_size=1152, num_attention_heads=16, patch_size=32)

VISION_ENCODERS: dict[str, Encoder] = {
    "clip_vision_model": _siglip_like(_clip, patch_size=32),
    "siglip_vision_model": _SIGLIP,
    "siglip2_vision_model": _siglip_like(_siglip2, num_patches=256, vision_use_head=True),
    "pixtral": Encoder(
        ends=_pixtral, gated=True, norm="rms", qkv_bias=False, output_bias=False, mlp_bias=False,
        whole_heads=False,
        defaults={"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                  "num_attention_heads": 16, "num_channels": 3, "patch_size": 16},
    ),
    "qwen2_vl_vision": Encoder(
        ends=_qwen2_vl, hidden=("embed_dim",), layers=("depth",), heads=("num_heads",),
        ratio="mlp_ratio", whole_heads=False,
        defaults={"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "mlp_ratio": 4,
                  "num_heads": 16, "in_channels": 3, "patch_size": 14, "spatial_merge_size": 2,
                  "temporal_patch_size": 2},
    ),
    "qwen2_5_vl_vision": _qwen2_5(),
    "exaone4_5_vision": Encoder(
        ends=_qwen2_vl, layers=("depth",), heads=("num_heads",), gated=True, norm="rms",
        kv_heads="num_key_value_heads", whole_heads=False,
        defaults=_QWEN25 | {"num_key_value_heads": 8},
    ),
    "qwen3_vl_vision": _QWEN3_DEEP,
    "qwen3_vl_moe_vision": _QWEN3_DEEP,
    "qwen3_5_vision": _QWEN3_PLAIN,
    "qwen3_5_moe_vision": _QWEN3_PLAIN,
    "internvl_vision": _INTERN_PLAIN,
    "intern_vit_6b": _intern(_intern_vit, "qkv_bias", "qk_normalization"),
    "llama4_vision_model": Encoder(
        ends=_llama4,
        defaults={"hidden_size": 768, "num_hidden_layers": 34, "num_attention_heads": 16,
                  "num_channels": 3, "intermediate_size": 5632, "vision_output_dim": 7680,
                  "image_size": 448, "patch_size": 14, "projector_input_dim": 4096,
                  "projector_output_dim": 4096},
    ),
    "kimi_k25_vision": _KIMI_ENCODER,
    "moonvit": _KIMI_ENCODER,
    "glm4v_vision": _GLM4V,
    "glm4v_moe_vision": _GLM4V,
    "glm_ocr_vision": _glm(
        _glm_ocr, "intermediate_size", qkv_bias="attention_bias", output_bias="attention_bias",
        mlp_bias="attention_bias", head_norms=True,
        defaults=_GLM | {"hidden_size": 1024, "num_heads": 16, "out_hidden_size": 1536,
                         "intermediate_size": 4096, "attention_bias": True},
    ),
    "idefics2_vision": _siglip_like(_idefics, patch_size=32),
    "idefics3_vision": _SMOL,
    "smolvlm_vision": _SMOL,
    "step3p5_vision": Encoder(
        ends=_step, hidden=("hidden_size", "width"), layers=("num_hidden_layers", "layers"),
        heads=("num_attention_heads", "heads"), ratio="mlp_ratio", scales=2,
        defaults={"hidden_size": 1536, "num_hidden_layers": 47, "num_attention_heads": 16,
                  "num_channels": 3, "image_size": 728, "patch_size": 14,
                  "mlp_ratio": 8960 / 1536},
    ),
    "gemma4_vision": Encoder(
        ends=_gemma4, head_dim="head_dim", kv_heads="num_key_value_heads", gated=True, norm="rms",
        norms=4, qkv_bias=False, output_bias=False, mlp_bias=False, head_norms=True,
        defaults={"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 16,
                  "num_attention_heads": 12, "num_key_value_heads": 12, "head_dim": 64,
                  "patch_size": 16, "position_embedding_size": 10240},
    ),
    "minimax_m3_vl_vision": Encoder(
        ends=_minimax,
        defaults={"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
                  "num_attention_heads": 16, "num_channels": 3, "patch_size": 14,
                  "temporal_patch_size": 2, "spatial_merge_size": 2},
    ),
    "radio": Encoder(
        ends=_radio, ratio="mlp_ratio", qkv_bias="qkv_bias", scales=2, not_true=("use_swiglu_ffn",),
        defaults={"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16,
                  "mlp_ratio": 4.0, "qkv_bias": True, "num_channels": 3, "patch_size": 16,
                  "max_img_size": 2048, "num_cls_tokens": 3, "num_registers": 7},
    ),
    "ernie4_5_vl_moe_vision": Encoder(
        ends=_ernie, layers=("depth",), heads=("num_heads",), whole_heads=False,
        defaults={"depth": 32, "hidden_size": 1280, "num_heads": 16, "in_channels": 3,
                  "patch_size": 14, "spatial_merge_size": 2, "intermediate_size": 5120,
                  "temporal_merge_size": 2},
    ),
    "minicpmv4_6_vision": _siglip_like(_minicpm, window_kernel_size=[2, 2]),
    "video_llama_3_vision": Encoder(ends=_video_llama, defaults=_siglip_sizes()),
    "ovis2_vision": Encoder(
        ends=_ovis, gated=True, norm="rms", qkv_bias="qkv_bias", output_bias="qkv_bias",
        mlp_bias="mlp_bias",
        defaults={"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24,
                  "num_attention_heads": 8, "num_channels": 3, "image_size": 224,
                  "patch_size": 14, "vocab_size": 16384, "hidden_stride": 1,
                  "num_visual_indicator_tokens": 5},
    ),
    "hunyuan_vl_vision": Encoder(
        ends=_hunyuan, whole_heads=False,
        defaults={"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16,
                  "num_channels": 3, "num_hidden_layers": 27, "patch_size": 16,
                  "spatial_merge_size": 2, "max_image_size": 2048},
    ),
    "qianfan_ocr_vision": _intern(
        _internvl, "attention_bias", "use_qk_norm", attention_bias=True,
        use_absolute_position_embeddings=True, use_mean_pooling=True,
    ),
    "hy_v4_vl_vision": Encoder(
        ends=_hunyuan, whole_heads=False,
        defaults={"hidden_size": 1536, "intermediate_size": 6144, "num_attention_heads": 16,
                  "num_channels": 3, "num_hidden_layers": 40, "out_hidden_size": 6144,
                  "patch_size": 16, "spatial_merge_size": 2, "max_image_size": 2048},
    ),
}  # fmt: skip

# Names that files and their publishers' classes give the same encoders.
ENCODER_ALIASES: dict[str, str] = {
    "minicpmv4_7_vision": "minicpmv4_6_vision",
    "minicpm_ocr_vision": "minicpmv4_6_vision",
    "qwen2_vl": "qwen2_vl_vision",
    "qwen2_5_vl": "qwen2_5_vl_vision",
    "qwen3_vl": "qwen3_vl_vision",
    "qwen3_vl_moe": "qwen3_vl_moe_vision",
    "qwen3_5": "qwen3_5_vision",
    "qwen3_5_moe": "qwen3_5_moe_vision",
    "glm4v": "glm4v_vision",
    "glm4v_moe": "glm4v_moe_vision",
    "kimi_k25": "kimi_k25_vision",
    "llama4": "llama4_vision_model",
    "idefics2": "idefics2_vision",
    "idefics3": "idefics3_vision",
    "smolvlm": "smolvlm_vision",
}
