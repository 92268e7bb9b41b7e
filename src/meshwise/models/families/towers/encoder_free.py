"""Models that read pixels and sounds without an encoder: embeddings of patches and frames alone."""

from __future__ import annotations

from meshwise.models.families.towers.block import TowerBlock, linear
from meshwise.models.families.towers.encoder import Counted, EncoderSizes


def gemma4_patches(b: TowerBlock) -> Counted:
    """Gemma 4: a linear layer over merged patches between norms, and positions for rows and columns."""
    h = b.main_size("mm_embed_dim")
    pixels = 3 * (b.size("patch_size") * b.size("pooling_kernel_size")) ** 2
    rows = 2 * b.size("mm_posemb_size")
    parameters = 2 * pixels + linear(pixels, h) + 2 * 2 * h + rows * h
    return Counted(EncoderSizes(h, 0, 1, 0), parameters, 0)


def gemma4_frames(b: TowerBlock) -> Counted:
    """Frames of sound go to the projection as they are."""
    return Counted(EncoderSizes(b.main_size("audio_embed_dim"), 0, 1, 0), 0, 0)


ENCODER_FREE = {
    "gemma4_unified_vision": (
        gemma4_patches,
        {"mm_embed_dim": 3840, "mm_posemb_size": 1120, "patch_size": 16, "pooling_kernel_size": 3,
         "output_proj_dims": 3840},
        "vision",
    ),
    "gemma4_unified_audio": (gemma4_frames, {"audio_embed_dim": 640}, "audio"),
}  # fmt: skip
