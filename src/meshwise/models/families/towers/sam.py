"""SAM's encoder of images (arXiv 2304.02643), whose layers differ in the table of relative positions."""

from __future__ import annotations

from typing import Any

from meshwise.models.families.towers.block import TowerBlock, linear
from meshwise.models.families.towers.encoder import Counted, EncoderSizes


def sam_neck(hidden: int, outputs: int) -> int:
    """Two convolutions without biases, 1 x 1 and 3 x 3, and a norm after each."""
    return hidden * outputs + 9 * outputs * outputs + 2 * 2 * outputs


def sam_upsampler(inputs: int, outputs: int) -> int:
    """Two 3 x 3 convolutions without biases: to twice the channels, and to ``outputs``."""
    return 9 * inputs * 2 * inputs + 9 * 2 * inputs * outputs


def sam_encoder(b: TowerBlock) -> Counted:
    """Windows in most layers, the whole image in those of ``global_attn_indexes``."""
    h, layers = b.main_size("hidden_size"), b.main_size("num_hidden_layers", low=0)
    heads = b.main_size("num_attention_heads")
    stated = b.value("mlp_dim") is not None
    width = b.main_size("mlp_dim") if stated else int(h * b.ratio("mlp_ratio"))
    side = b.size("image_size") // b.size("patch_size")
    qkv = linear(h, 3 * h, b.flag("qkv_bias"))
    split = qkv + h * h + linear(h, width) + width * h
    kept = 2 * 2 * h + 2 * h  # norms; biases of the output and of the second matrix
    patches = linear(b.size("num_channels") * b.size("patch_size") ** 2, h)
    ends = (
        patches + side * side * h * b.flag("use_abs_pos") + sam_neck(h, b.size("output_channels"))
    )
    if b.flag("use_rel_pos"):
        everywhere = b.sizes("global_attn_indexes")
        window = b.size("window_size", low=0)
        for i in range(layers):
            reach = side if i in everywhere or window == 0 else window
            ends += 2 * (2 * reach - 1) * (h // heads)
    return Counted(
        EncoderSizes(h, layers, heads, width), layers * (split + kept) + ends, layers * split
    )


_SAM: dict[str, Any] = {
    "hidden_size": 768, "output_channels": 256, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_channels": 3, "image_size": 1024, "patch_size": 16, "qkv_bias": True, "use_abs_pos": True,
    "use_rel_pos": True, "window_size": 14, "global_attn_indexes": [2, 5, 8, 11],
}  # fmt: skip
SAM_ENCODERS = {
    "got_ocr2_vision": (sam_encoder, {**_SAM, "mlp_dim": 3072}, "vision"),
    "pp_chart2table_vision": (sam_encoder, {**_SAM, "mlp_dim": 3072}, "vision"),
    "sam_vision_model": (sam_encoder, {**_SAM, "mlp_ratio": 4.0}, "vision"),
}
