"""Vision and audio encoders of multimodal models, and what joins them to the language model."""

# Blocks and keys by which files name an encoder; what is not counted under them is said.
TOWER_KEYS = (
    "vision_config", "audio_config", "high_res_vision_config", "vision_tower", "mm_vision_tower",
    "mm_audio_tower", "vit_config", "visual", "img_processor", "sound_config", "speech_config",
    "audio_processor", "vision_encoder", "audio_encoder", "gen_vision_config", "vq_config",
)  # fmt: skip
