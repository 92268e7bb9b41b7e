"""Audio encoders by the model type of their block: one entry each."""

from __future__ import annotations

from meshwise.models.families.towers.block import TowerBlock, linear
from meshwise.models.families.towers.encoder import Counted, Encoder, EncoderSizes


def _whisper(b: TowerBlock, s: EncoderSizes) -> int:
    """Two convolutions over the spectrogram, positions, a norm after the layers."""
    convolutions = linear(3 * b.size("num_mel_bins"), s.hidden) + linear(3 * s.hidden, s.hidden)
    return convolutions + (b.size("max_source_positions") + 2) * s.hidden


def _glm_asr(b: TowerBlock, s: EncoderSizes) -> int:
    """Rotary positions in place of a table."""
    mels = b.size("num_mel_bins")
    return linear(3 * mels, s.hidden) + linear(3 * s.hidden, s.hidden) + 2 * s.hidden


def _strided(b: TowerBlock, s: EncoderSizes) -> int:
    """Three 3 x 3 convolutions of stride 2 over the spectrogram, and a projection of what is left."""
    channels, mels = b.size("downsample_hidden_size"), b.size("num_mel_bins")
    convolutions = linear(9, channels) + 2 * linear(9 * channels, channels)
    for _ in range(3):
        mels = (mels + 1) // 2
    return convolutions + channels * mels * s.hidden + 2 * s.hidden


_WHISPER = {"d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20,
            "encoder_ffn_dim": 5120, "num_mel_bins": 128,
            "max_source_positions": 1500}  # fmt: skip

AUDIO_ENCODERS: dict[str, Encoder] = {
    "qwen2_audio_encoder": Encoder(
        ends=_whisper, kind="audio", hidden=("d_model",), layers=("encoder_layers",),
        heads=("encoder_attention_heads",), width=("encoder_ffn_dim",), key_bias=False,
        defaults=_WHISPER,
    ),
    "voxtral_encoder": Encoder(
        ends=_whisper, kind="audio", key_bias=False,
        defaults={"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20,
                  "intermediate_size": 5120, "num_mel_bins": 128, "max_source_positions": 1500},
    ),
    "glmasr_encoder": Encoder(
        ends=_glm_asr, kind="audio", key_bias=False, kv_heads="num_key_value_heads",
        defaults={"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20,
                  "intermediate_size": 5120, "num_mel_bins": 128},
    ),
    "qwen3_asr_encoder": Encoder(
        ends=_strided, kind="audio", hidden=("d_model",), layers=("encoder_layers",),
        heads=("encoder_attention_heads",), width=("encoder_ffn_dim",),
        defaults={"d_model": 1024, "encoder_layers": 24, "encoder_attention_heads": 16,
                  "encoder_ffn_dim": 4096, "num_mel_bins": 128, "downsample_hidden_size": 480,
                  "output_dim": 3584},
    ),
}  # fmt: skip


def gemma4_audio(b: TowerBlock) -> Counted:
    """Gemma 4's conformer: per layer two feed-forwards, attention with relative positions, and a
    convolution; two strided convolutions before and one projection after the layers."""
    h, layers = b.size("hidden_size"), b.size("num_hidden_layers", low=0)
    heads, kernel = b.size("num_attention_heads"), b.size("conv_kernel_size")
    first, second = b.sizes("subsampling_conv_channels", 2)
    out = b.size("output_proj_dims")
    split = 2 * 2 * 4 * h * h + 4 * h * h
    kept = 4 * h + h // heads + h * h + 2 * h * h + h * h + kernel * h + 2 * h + 3 * h
    stem = 9 * first + first + 9 * first * second + second + (first // 4) * second * h
    ends = stem + linear(h, out)
    return Counted(
        EncoderSizes(h, layers, heads, 4 * h), layers * (split + kept) + ends, layers * split
    )


def gemma3n_audio(b: TowerBlock) -> Counted:
    """Gemma 3n's conformer, as Gemma 4's but for its names and without a projection at the end."""
    h, layers = b.size("hidden_size"), b.size("conf_num_hidden_layers", low=0)
    heads, kernel = b.size("conf_num_attention_heads"), b.size("conf_conv_kernel_size")
    first, second = b.sizes("sscp_conv_channel_size", 2)
    split = 2 * 2 * 4 * h * h + 4 * h * h
    kept = 4 * h + h // heads + h * h + 2 * h * h + h * h + kernel * h + 2 * h + 3 * h
    stem = 9 * first + first + 9 * first * second + second
    stem += second * (b.size("input_feat_size") // 4) * h
    return Counted(
        EncoderSizes(h, layers, heads, 4 * h), layers * (split + kept) + stem, layers * split
    )


CONFORMERS = {
    "gemma4_audio": (
        gemma4_audio,
        {"hidden_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 8,
         "conv_kernel_size": 5, "subsampling_conv_channels": [128, 32], "output_proj_dims": 1536},
        "audio",
    ),
    "gemma3n_audio": (
        gemma3n_audio,
        {"hidden_size": 1536, "conf_num_hidden_layers": 12, "conf_num_attention_heads": 8,
         "conf_conv_kernel_size": 5, "sscp_conv_channel_size": [128, 32], "input_feat_size": 128,
         "vocab_size": 128},
        "audio",
    ),
}  # fmt: skip
