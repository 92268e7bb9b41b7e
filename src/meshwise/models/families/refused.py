"""Model types that wrap a language model, and those that meshwise refuses, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from meshwise.errors import shorten

# where a file has the sizes of its language model, if not at the top
NESTED_BLOCKS = ("text_config", "llm_config", "language_config", "language_model")


class Wrapper(msgspec.Struct, frozen=True, kw_only=True):
    """A multimodal configuration whose language model stands in a nested object."""

    inner: str  # model type of the nested object where it does not say
    keys: tuple[str, ...] = ("text_config",)
    flat: bool = False  # the keys may stand at the top instead
    tied: bool | None = None  # where neither level says; None: what the inner type's class says
    either: bool = False  # tied as soon as one of the levels says so
    inside: bool = False  # only the nested object says it
    own: tuple[str, ...] = ()  # sizes at the top that are the wrapper's, not its language model's


_LLAMA = Wrapper(inner="llama")
_TIED_BY_EITHER = Wrapper(inner="llama", flat=True, either=True)

WRAPPER_TYPES: dict[str, Wrapper] = {
    "llava": _TIED_BY_EITHER,
    "llava_llama": Wrapper(inner="llama", flat=True),
    "llava_mistral": Wrapper(inner="mistral", flat=True),
    "llava_qwen": Wrapper(inner="qwen2", flat=True),
    "llava_next": _LLAMA,
    "llava_next_video": Wrapper(inner="llama", either=True),
    "llava_onevision": Wrapper(inner="qwen2", either=True),
    "vipllava": _LLAMA,
    "video_llava": Wrapper(inner="llama", own=("vocab_size",)),
    "mistral3": Wrapper(inner="mistral"),
    "gemma3": Wrapper(inner="gemma3_text", flat=True, tied=True),
    "gemma3n": Wrapper(inner="gemma3n_text"),
    "gemma4": Wrapper(inner="gemma4_text", tied=True),
    "gemma4_unified": Wrapper(inner="gemma4_unified_text", tied=True),
    "paligemma": Wrapper(inner="gemma", tied=True, own=("hidden_size", "vocab_size")),
    "llama4": Wrapper(inner="llama4_text", inside=True),
    "qwen2_vl": Wrapper(inner="qwen2_vl_text", flat=True, either=True),
    "qwen2_5_vl": Wrapper(inner="qwen2_5_vl_text", flat=True, either=True),
    "qwen3_vl": Wrapper(inner="qwen3_vl_text", tied=False),
    "qwen3_vl_moe": Wrapper(inner="qwen3_vl_moe_text", tied=False),
    "qwen2_audio": Wrapper(inner="qwen2"),
    "voxtral": _LLAMA,
    "kimi_vl": Wrapper(inner="deepseek_v3"),
    "kimi_k25": Wrapper(inner="deepseek_v3"),
    "internvl": Wrapper(inner="qwen2"),
    "internvl_chat": Wrapper(inner="internlm2", keys=("llm_config", "text_config")),
    "multi_modality": Wrapper(inner="llama", keys=("language_config", "text_config")),
    "deepseek_vl": _LLAMA,
    "deepseek_vl_v2": Wrapper(inner="deepseek_v2", keys=("language_config", "text_config")),
    "deepseek_ocr2": Wrapper(inner="deepseek_ocr2_text", tied=False),
    "deepseek_vl_hybrid": _LLAMA,
    "idefics2": Wrapper(inner="mistral"),
    "idefics3": _LLAMA,
    "smolvlm": _LLAMA,
    "aya_vision": Wrapper(inner="cohere2"),
    "cohere2_vision": Wrapper(inner="cohere2", tied=True),
    "glm4v": Wrapper(inner="glm4v_text", either=True),
    "glm4v_moe": Wrapper(inner="glm4v_moe_text", either=True),
    "phi3_v": Wrapper(inner="phi3", flat=True),
    "minicpmv4_6": Wrapper(inner="qwen3_5_text", tied=False),
    "minicpmv4_7": Wrapper(inner="qwen3_5_text", tied=False),
    "minicpm_ocr": Wrapper(inner="qwen3_5_text", tied=True),
    "nemotron_h_omni": Wrapper(inner="nemotron_h", keys=("text_config", "llm_config")),
    "NemotronH_Nano_VL_V2": Wrapper(inner="nemotron_h", keys=("llm_config", "text_config")),
    "lfm2_vl": Wrapper(inner="lfm2", tied=True),
    "lfm2-vl": Wrapper(inner="lfm2"),
    "lfm3_vl": Wrapper(inner="lfm3"),
    "exaone4_5": Wrapper(inner="exaone4", tied=False),
    "step3p7": Wrapper(inner="step3p5", flat=True, tied=False),
    "step3_vl": Wrapper(inner="step3_text", flat=True),
    "ernie4_5_vl_moe": Wrapper(inner="ernie4_5_vl_moe_text", flat=True),
    "ernie4_5_moe_vl": Wrapper(inner="ernie4_5_vl_moe_text", flat=True),
    "hunyuan_vl": Wrapper(inner="hunyuan_vl_text", flat=True, tied=True, either=True),
    "aria": Wrapper(inner="aria_text"),
    "apertus1p5": Wrapper(inner="apertus1p5_text", tied=False),
    "hyperclovax_vision_v2": Wrapper(inner="hyperclovax", tied=True),
    "glm46v": Wrapper(inner="glm4v_text", tied=False),
    "glmga": Wrapper(inner="glm4v_text", tied=False),
    "shieldgemma2": Wrapper(inner="gemma3_text", tied=True, either=True),
    "lighton_ocr": Wrapper(inner="qwen3", tied=True),
    "qianfan_ocr": Wrapper(inner="qwen3", tied=False),
    "qwen3_asr": Wrapper(inner="qwen3", tied=True),
    "fast_vlm": Wrapper(inner="qwen2"),
    "video_llama_3": Wrapper(inner="qwen2", either=True),
    "got_ocr2": Wrapper(inner="qwen2", tied=True),
    "pp_chart2table": Wrapper(inner="qwen2", tied=True),
    "audioflamingo3": Wrapper(inner="qwen2"),
    "musicflamingo": Wrapper(inner="qwen2", own=("head_dim",)),
    "vibevoice_asr": Wrapper(inner="qwen2"),
    "janus": _LLAMA,
    "perception_lm": _LLAMA,
    "glmasr": Wrapper(inner="llama", tied=True),
    "granite_speech": Wrapper(inner="granite"),
    "cosmos3_omni": Wrapper(inner="qwen3_vl_text", tied=False),
    "qwen3_5": Wrapper(inner="qwen3_5_text", flat=True, tied=False),
    "qwen3_5_moe": Wrapper(inner="qwen3_5_moe_text", flat=True, tied=False),
    "kimi_k3": Wrapper(inner="kimi_linear"),
    "minimax_vl_01": Wrapper(inner="minimax_text_01"),
    "minimax_m3_vl": Wrapper(inner="minimax_m3_vl_text", either=True),
}

_ENCODER = "encoder only, not a causal language model"
_BOTH = "encoder-decoder, not a causal language model"
_VISION = "a vision or audio model, not a causal language model"
_DUAL = "dual encoder, not a causal language model"
_STATE = "state-space model without attention heads"
_HYBRID = "attention and state-space layers that share memory or heads in a way that is not read"
_LINEAR = "linear attention of another kind than those that are read"
_RECURRENT = "recurrent layers instead of attention"


def _each(reason: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), reason)


REFUSED_TYPES: dict[str, str] = {
    **_each(_ENCODER, "bert roberta xlm-roberta xlm-roberta-xl distilbert albert electra deberta "
            "deberta-v2 camembert modernbert nomic_bert mpnet longformer big_bird ernie xlm xlnet "
            "funnel fnet nystromformer squeezebert mobilebert layoutlm layoutlmv2 layoutlmv3 esm "
            "convbert megatron-bert rembert roformer data2vec-text flaubert ibert luke new "
            "eurobert jina_embeddings_v3"),
    **_each(_BOTH, "t5 mt5 umt5 longt5 bart mbart plbart pegasus pegasus_x blenderbot "
            "blenderbot-small m2m_100 nllb-moe marian led prophetnet switch_transformers t5gemma "
            "t5gemma2 encoder-decoder fsmt bigbird_pegasus mvp speech_to_text whisper moonshine "
            "seamless_m4t seamless_m4t_v2 florence2 pix2struct udop vision-encoder-decoder trocr "
            "musicgen kosmos-2 donut-swin speecht5"),
    **_each(_DUAL, "clip siglip siglip2 align altclip chinese_clip clap blip clipseg x_clip flava"),
    **_each(_VISION, "vit deit beit swin swinv2 convnext convnextv2 resnet dinov2 dinov3_vit detr "
            "yolos sam sam2 segformer mask2former clip_vision_model siglip_vision_model wav2vec2 "
            "hubert wavlm sew data2vec-audio audio-spectrogram-transformer encodec mimi dac vits "
            "bark timesfm pixtral"),
    **_each(_STATE, "mamba mamba2 falcon_mamba codestral_mamba ssm"),
    **_each(_HYBRID, "phi4flash samba hymba"),
    **_each(_LINEAR, "retnet gla"),
    **_each(_RECURRENT, "rwkv rwkv5 rwkv6 rwkv7 recurrent_gemma xlstm"),
    **_each("hybrid of attention and convolution layers", "stripedhyena"),
    **_each("cross-attention layers to an image encoder", "mllama mllama_text_model idefics "
            "blip-2 instructblip instructblipvideo"),
    **_each("differential attention", "diffllama"),
    **_each("gated norms", "axk2"),
    **_each("a byte-level model of several transformers", "blt"),
    **_each("an embedding model, not a causal language model", "cohere_compass cohere_compass_text"),
    **_each("dynamic mask attention", "doge"),
    **_each("layers that run several times over", "dory hrm_text inkling2_loop inkling2_loop_text"),
    **_each("short convolutions around its attention (Inkling)", "inkling_text inkling_mm_model inkling2 "
            "inkling2_text"),
    **_each("experts of attention heads", "jetmoe"),
    **_each("a draft model that reads another's keys and values", "gemma4_assistant "
            "gemma4_unified_assistant muse_glimmer_assistant"),
    **_each("text diffusion, not a causal language model", "diffusion_gemma"),
    **_each("latent attention of two kinds of layer", "dots3_note dots3_note_text hy_v4_vl hy_v4"),
    **_each("linear attention beside convolutions of its own", "zaya lara_mini"),
    **_each("attention of a kind that is not known yet", "qwen4_exp qwen4_exp_text glm5_next "
            "mistral_large4 muse_spark muse_glimmer cosmos3_edge unlimited_ocr"),
    **_each("an old model whose layers are not read", "ctrl cpmant reformer gpt_neox_japanese beam"),
    **_each("an encoder's layers in a decoder", "bert-generation roc_bert roberta-prelayernorm xmod "
            "modernbert-decoder"),
    **_each("a head or embeddings of its own (multimodal)", "chameleon emu3 fuyu evolla molmo2 ovis2 git "
            "kosmos-2.5 pi0 pp_formulanet"),
    **_each("a speech model with parts of its own", "moshi kyutai_speech_to_text musicgen_melody "
            "fun_asr_nano granite_speech_plus moss_transcribe_diarize nemo_speechlm omniasr "
            "voxtral_realtime qwen2_5_omni qwen2_5_omni_thinker qwen3_omni_moe "
            "qwen3_omni_moe_thinker"),
    **_each("a language model whose class is not read yet", "glm_ocr granite4_vision granite_docling "
            "paddleocr_vl"),
    **_each("LoRA adapters inside the language model", "phi4mm phi4_multimodal"),
}  # fmt: skip

# Old or hand-made files without model_type: what their class name says.
ARCHITECTURES = {
    "GPT2LMHeadModel": "gpt2",
    "GPTNeoForCausalLM": "gpt_neo",
    "GPTNeoXForCausalLM": "gpt_neox",
    "GPTJForCausalLM": "gptj",
    "OPTForCausalLM": "opt",
    "BloomForCausalLM": "bloom",
    "RWForCausalLM": "falcon",
    "FalconForCausalLM": "falcon",
    "LlamaForCausalLM": "llama",
    "LLaMAForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "MixtralForCausalLM": "mixtral",
    "QWenLMHeadModel": "qwen",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "GemmaForCausalLM": "gemma",
    "Gemma2ForCausalLM": "gemma2",
    "MPTForCausalLM": "mpt",
    "BaichuanForCausalLM": "baichuan",
    "BaiChuanForCausalLM": "baichuan",
    "InternLMForCausalLM": "internlm",
    "InternLM2ForCausalLM": "internlm2",
    "Phi3ForCausalLM": "phi3",
    "DeepseekV2ForCausalLM": "deepseek_v2",
    "DeepseekV3ForCausalLM": "deepseek_v3",
    "Qwen3NextForCausalLM": "qwen3_next",
    "KimiLinearForCausalLM": "kimi_linear",
    "MiniMaxForCausalLM": "minimax",
    "MiniMaxText01ForCausalLM": "minimax_text_01",
    "MiniMaxM1ForCausalLM": "minimax_m1",
    "BailingMoeForCausalLM": "bailing_moe",
    "BailingMoeV2ForCausalLM": "bailing_moe_v2",
    "BailingMoeLinearV2ForCausalLM": "bailing_moe_linear",
    "BailingMoeV2_5ForCausalLM": "bailing_hybrid",
    "BailingMoeV3ForCausalLM": "bailing_hybrid",
}
_HEADS = (
    "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM",
    "ForMultipleChoice", "ForRewardModel", "RewardModel", "ForImageClassification",
    "ForAudioClassification", "ForScore", "ForRegression", "EncoderModel",
    "ForNextSentencePrediction", "ForFeatureExtraction", "ForTextEncoding",
)  # fmt: skip


# A model that drafts tokens for another one, and what is added to another one's weights: no whole model.
_DRAFTS = ("Eagle", "Medusa", "NextN", "MTP", "Speculator", "Draft")
_ADAPTERS = ("Peft", "LoRA", "Lora")
_DRAFT_KEYS = ("draft_vocab_size", "eagle_config", "medusa_num_heads", "speculators_config",
               "speculators_model_type")  # fmt: skip
_ADAPTER_KEYS = ("peft_type", "base_model_name_or_path")


def other_head(architecture: str) -> bool:
    """Whether a class name says that the checkpoint has another head than a language model's."""
    return architecture.endswith(_HEADS)


def no_whole_model(
    config: Mapping[str, Any], architectures: Sequence[str]
) -> tuple[str, str] | None:
    """(key, what its file is) where a file describes a part of a model: a draft model or an adapter."""
    for key in _ADAPTER_KEYS:
        if config.get(key) is not None:
            return key, "an adapter's file; the model is its base"
    for key in _DRAFT_KEYS:
        if config.get(key) is not None:
            return key, "a draft model's file; the model is the one that it drafts for"
    for name in architectures:
        if any(word in name for word in _ADAPTERS):
            return "architectures", f"{shorten(name)} is an adapter; the model is its base"
        if any(word in name for word in _DRAFTS):
            return "architectures", f"{shorten(name)} is a draft model, no whole one"
    return None
