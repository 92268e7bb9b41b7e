"""Model types without experts, as data: mostly Llama with variations. See ``gpt.py`` for where defaults come from."""

from __future__ import annotations

from typing import Any

from meshwise.models.families.gpt import OLDER, size_defaults
from meshwise.models.families.keys import Family, MoeKeys

_LLAMA = size_defaults(4096, 11008, 32, 32, None, 32000, 2048)
_BIAS: dict[str, Any] = {"query_key_bias": "attention_bias", "output_bias": "attention_bias"}
_BIASES: dict[str, Any] = {**_BIAS, "mlp_bias": "mlp_bias"}
_QWEN_SLIDE: dict[str, Any] = {
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
_QWEN_VL = size_defaults(8192, 29568, 80, 64, 8, 152064, 32768, use_sliding_window=False,
                 sliding_window=4096, max_window_layers=80)  # fmt: skip
_QWEN2: dict[str, Any] = {"query_key_bias": True, "window": "use_after"}

_LLAMA_LIKE = Family(words="Llama 1–3", defaults=_LLAMA, **_BIASES)
_INTERNLM = Family(
    words="InternLM 1–3",
    defaults={**_LLAMA, "vocab_size": 103168, "bias": True},
    query_key_bias="bias",
    output_bias="bias",
)
_STABLELM = Family(
    words="StableLM",
    defaults=size_defaults(
        2560, 6912, 32, 32, 32, 50304, 4096, use_qkv_bias=False, qk_layernorm=False,
        use_parallel_residual=False, hidden_dropout=0.0,
    ),
    norm="layer",
    single_norm="use_parallel_residual",
    query_key_bias="use_qkv_bias",
    query_key_norm="each",
    query_key_norm_key="qk_layernorm",
    parallel="use_parallel_residual",
    dropout="hidden_dropout",
)  # fmt: skip
_EXAONE_SLIDE: dict[str, Any] = {"sliding_window": 4096, "sliding_window_pattern": 4}
_GLM: dict[str, Any] = {"query_key_bias": "attention_bias"}

_EXAONE4 = Family(
    words="EXAONE",
    defaults=size_defaults(4096, 16384, 32, 32, 32, 102400, 2048, **_EXAONE_SLIDE),
    query_key_norm="head",
    window="pattern",
)

DENSE_FAMILIES: dict[str, Family] = {
    **OLDER,
    "llama": _LLAMA_LIKE,
    "Yi": Family(words="Yi", defaults={**_LLAMA, "vocab_size": 64000, "num_key_value_heads": 4}),
    "aquila": Family(words="Aquila", defaults={**_LLAMA, "vocab_size": 100008}),
    "xverse": Family(words="XVERSE", defaults={**_LLAMA, "vocab_size": 100278}),
    "baichuan": Family(words="Baichuan", defaults={**_LLAMA, "vocab_size": 64000}),
    "orion": Family(
        words="Orion", defaults=size_defaults(4096, 15360, 40, 40, 40, 84608, 4096), norm="layer",
        query_key_bias="attention_bias",
    ),
    "iquestcoder": Family(
        words="Llama 1–3", defaults=size_defaults(5120, 27648, 80, 40, 8, 76800, 131072, head_dim=128),
        **_BIASES,
    ),
    "cwm": Family(
        words="CWM",
        defaults=size_defaults(6144, 21504, 64, 48, 8, 128256, 131072, head_dim=128, sliding_window=8192),
        mlp_bias="mlp_bias", window="but_first_of_four",
    ),
    "mistral": Family(
        words="Mistral, Ministral",
        defaults=size_defaults(4096, 14336, 32, 32, 8, 32000, 131072, sliding_window=4096), window="all",
    ),
    "ministral": Family(
        words="Mistral, Ministral",
        defaults=size_defaults(4096, 14336, 32, 32, 8, 32000, 131072, sliding_window=4096),
        window="every",
    ),
    "ministral3": Family(
        words="Mistral, Ministral",
        defaults=size_defaults(4096, 14336, 34, 32, 8, 131072, 262144, head_dim=128,
                       sliding_window=None),
        window="all",
    ),
    "qwen": Family(
        words="Qwen 1–3",
        defaults=size_defaults(4096, 22016, 32, 32, None, 151936, 8192, no_bias=True, kv_channels=128,
                       emb_dropout_prob=0.0),
        aliases={"max_position_embeddings": ("seq_length",)},
        dropout="emb_dropout_prob", build="qwen",
    ),
    "qwen2": Family(
        words="Qwen 1–3",
        defaults=size_defaults(4096, 22016, 32, 32, 32, 151936, 32768, **_QWEN_SLIDE), **_QWEN2,
    ),
    "qwen2_vl_text": Family(words="Qwen 1–3", defaults=_QWEN_VL, **_QWEN2),
    "qwen2_5_vl_text": Family(words="Qwen 1–3", defaults=_QWEN_VL, **_QWEN2),
    "mimo": Family(
        words="MiMo",
        defaults=size_defaults(4096, 22016, 32, 32, 32, 151936, 32768, **_QWEN_SLIDE), **_QWEN2,
    ),
    "qwen3": Family(
        words="Qwen 1–3",
        defaults=size_defaults(4096, 22016, 32, 32, 32, 151936, 32768, head_dim=128, **_QWEN_SLIDE),
        **_BIAS, query_key_norm="head", window="use_after",
    ),
    "qwen3_vl_text": Family(
        words="Qwen 1–3", defaults=size_defaults(4096, 22016, 32, 32, 32, 151936, 128000, head_dim=128),
        **_BIAS, query_key_norm="head",
    ),
    "gemma": Family(
        words="Gemma 1–4", defaults=size_defaults(3072, 24576, 28, 16, 16, 256000, 8192, True, 256), **_BIAS
    ),
    "gemma2": Family(
        words="Gemma 1–4",
        defaults=size_defaults(2304, 9216, 26, 8, 4, 256000, 8192, True, 256, sliding_window=4096),
        **_BIAS, norms=4, window="alternate",
    ),
    "gemma3_text": Family(
        words="Gemma 1–4",
        defaults=size_defaults(2304, 9216, 26, 8, 4, 262208, 131072, True, 256, sliding_window=4096,
                       sliding_window_pattern=6),
        **_BIAS, norms=4, query_key_norm="head", window="pattern",
    ),
    "vaultgemma": Family(
        words="Gemma 1–4",
        defaults=size_defaults(2304, 9216, 26, 8, 4, 256000, 8192, True, 256, sliding_window=4096),
        **_BIAS, window="alternate",
    ),
    "phi3": Family(
        words="Phi 3–4",
        defaults=size_defaults(3072, 8192, 32, 32, None, 32064, 4096, sliding_window=None,
                       resid_pdrop=0.0),
        window="all", dropout="resid_pdrop",
    ),
    "internlm": _INTERNLM,
    "internlm2": Family(
        words="InternLM 1–3",
        defaults={**_LLAMA, "vocab_size": 103168, "bias": True},
        query_key_bias="bias", output_bias="bias",
    ),
    "internlm3": Family(
        words="InternLM 1–3",
        defaults=size_defaults(4096, 10240, 48, 32, 2, 128512, 32768, head_dim=128, qkv_bias=False,
                       bias=False),
        aliases={"qkv_bias": ("attention_bias",), "bias": ("mlp_bias",)},
        query_key_bias="qkv_bias", output_bias="bias", mlp_bias="bias",
    ),
    "chatglm": Family(
        words="ChatGLM, GLM-4",
        defaults=size_defaults(
            4096, 13696, 28, 32, None, 65024, 2048, kv_channels=128, hidden_dropout=0.0,
            multi_query_attention=False, multi_query_group_num=1, add_bias_linear=False,
            add_qkv_bias=False, post_layer_norm=True, rmsnorm=True,
        ),
        aliases={"num_hidden_layers": ("num_layers",),
                 "intermediate_size": ("ffn_hidden_size",),
                 "max_position_embeddings": ("seq_length",)},
        dropout="hidden_dropout", build="chatglm",
    ),
    "glm": Family(
        words="ChatGLM, GLM-4",
        defaults=size_defaults(4096, 13696, 40, 32, 2, 151552, 131072, head_dim=128, attention_bias=True),
        **_GLM,
    ),
    "glm4": Family(
        words="ChatGLM, GLM-4",
        defaults=size_defaults(4096, 13696, 40, 32, 2, 151552, 131072, head_dim=128, attention_bias=True),
        **_GLM, norms=4,
    ),
    "glm4v_text": Family(
        words="ChatGLM, GLM-4", defaults=size_defaults(4096, 13696, 40, 32, 2, 151552, 32768),
        query_key_bias=True, norms=4,
    ),
    "granite": Family(words="Granite", defaults=_LLAMA, **_BIASES),
    "olmo": Family(
        words="OLMo 1–3", defaults=size_defaults(4096, 11008, 32, 32, None, 50304, 2048), **_BIAS,
        norm="none",
    ),
    "olmo2": Family(
        words="OLMo 1–3", defaults=size_defaults(4096, 11008, 32, 32, None, 50304, 2048), **_BIAS,
        query_key_norm="wide",
    ),
    "olmo3": Family(
        words="OLMo 1–3",
        defaults=size_defaults(4096, 11008, 32, 32, None, 50304, 2048, sliding_window=4096), **_BIAS,
        query_key_norm="wide", window="three_of_four",
    ),
    "cohere": Family(
        words="Command-R",
        defaults=size_defaults(8192, 22528, 40, 64, None, 256000, 8192, True, use_qk_norm=False), **_BIAS,
        norms=1, query_key_norm="each", query_key_norm_key="use_qk_norm", parallel=True,
    ),
    "cohere2": Family(
        words="Command-R",
        defaults=size_defaults(8192, 22528, 40, 64, None, 256000, 8192, True, sliding_window=4096,
                       sliding_window_pattern=4),
        **_BIAS, norms=1, parallel=True, window="pattern",
    ),
    "stablelm": _STABLELM,
    "stablelm_epoch": _STABLELM,
    "smollm3": Family(
        words="SmolLM3",
        defaults=size_defaults(2048, 11008, 36, 16, 4, 128256, 32768, True, use_sliding_window=False,
                       sliding_window=None, no_rope_layer_interval=4),
        **_BIASES, window="use_no_rope",
    ),
    "minicpm": Family(
        words="MiniCPM",
        defaults={**_LLAMA, "tie_word_embeddings": True, "num_experts": 0, "num_experts_per_tok": None},
        query_key_bias="attention_bias", output_bias="attention_bias",
        moe=MoeKeys(experts="num_experts"),
    ),
    "minicpm3": Family(
        words="MiniCPM",
        defaults=size_defaults(2560, 6400, 62, 40, None, 73448, 32768, True, q_lora_rank=768,
                       kv_lora_rank=256, qk_rope_head_dim=32, qk_nope_head_dim=64,
                       v_head_dim=None),
        query_key_bias="attention_bias", mlp_bias="mlp_bias", mla=True,
    ),
    "youtu": Family(
        words="Youtu",
        defaults=size_defaults(2048, 6144, 32, 16, 16, 128256, 131072, True, q_lora_rank=1536,
                       kv_lora_rank=512, qk_rope_head_dim=64, qk_nope_head_dim=128,
                       v_head_dim=128),
        query_key_bias="attention_bias", mla=True,
    ),
    "nemotron": Family(
        words="Nemotron",
        defaults=size_defaults(6144, 24576, 32, 48, None, 256000, 4096), **_BIASES, norm="layer",
        gated=False,
    ),
    "nemotron-nas": Family(words="Nemotron-NAS", defaults=_LLAMA, **_BIASES, build="nemotron_nas"),
    "deci": Family(words="DeciLM", defaults=_LLAMA, build="deci"),
    "seed_oss": Family(
        words="Seed-OSS",
        defaults=size_defaults(4096, 27648, 64, 80, 8, 155136, 524288, head_dim=128, attention_bias=True,
                       attention_out_bias=False, mlp_bias=False, residual_dropout=0.1),
        query_key_bias="attention_bias", output_bias="attention_out_bias", mlp_bias="mlp_bias",
        dropout="residual_dropout",
    ),
    "ernie4_5": Family(
        words="ERNIE 4.5",
        defaults=size_defaults(1024, 3072, 18, 16, 2, 103424, 131072, True, 128, use_bias=False),
        query_key_bias="use_bias", output_bias="use_bias", mlp_bias="use_bias",
    ),
    "exaone": Family(
        words="EXAONE",
        defaults=size_defaults(4096, 14336, 32, 32, 8, 102400, 4096, embed_dropout=0.0),
        aliases={"num_hidden_layers": ("num_layers",)}, **_BIASES, dropout="embed_dropout",
    ),
    "exaone4": _EXAONE4,
    "exaone4_5_text": _EXAONE4,  # as EXAONE 4.5's first files name it
    "arcee": Family(
        words="Arcee", defaults=size_defaults(2560, 18432, 32, 32, None, 32000, 4096), **_BIASES,
        gated=False,
    ),
    "apertus": Family(
        words="Apertus", defaults=size_defaults(4096, 14336, 32, 32, None, 131072, 65536), **_BIAS,
        gated=False, query_key_norm="head", extra=2,
    ),
    "apertus1p5_text": Family(
        words="Apertus",
        defaults=size_defaults(4096, 14336, 32, 32, None, 266752, 65536, output_vocab_size=None),
        **_BIAS, gated=False, query_key_norm="head", extra=2, build="apertus1p5",
    ),
    "nanochat": Family(
        words="nanochat", defaults=size_defaults(768, 8192, 12, 6, 6, 50304, 2048), **_BIAS,
        norm="none", gated=False,
    ),
    "granite_swa": Family(
        words="Granite",
        defaults=size_defaults(2560, 8192, 24, 20, 4, 100352, 8192, True, sliding_window=128),
        **_BIASES, sinks=True, window="but_first_of_four",
    ),
    "hyperclovax": Family(
        words="HyperCLOVA X", defaults={**_LLAMA, "use_post_norm": True}, **_BIASES, norms=4,
        fewer_norms="use_post_norm",
    ),
    "helium": Family(
        words="Helium", defaults=size_defaults(2560, 7040, 24, 20, 20, 48000, 4096, head_dim=128),
        query_key_bias="attention_bias", mlp_bias="mlp_bias", build="whole_heads",
    ),
    "bitnet": Family(
        words="BitNet", defaults=size_defaults(2560, 6912, 30, 20, 5, 128256, 2048), **_BIAS,
        sub_norms=True,
    ),
    "jais2": Family(
        words="Jais 2",
        defaults=size_defaults(3328, 26624, 32, 26, None, 150272, 8192, attention_bias=True,
                       mlp_bias=True),
        norm="layer", gated=False, **_BIASES,
    ),
}  # fmt: skip
