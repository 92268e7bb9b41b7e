"""Model types with routed experts, as data. See ``gpt.py`` for where defaults come from."""

from __future__ import annotations

from typing import Any

import msgspec

from meshwise.models.families.gpt import size_defaults
from meshwise.models.families.keys import Family, MoeKeys

_BIAS: dict[str, Any] = {"query_key_bias": "attention_bias", "output_bias": "attention_bias"}
_DEEPSEEK_MOE = MoeKeys(
    experts="n_routed_experts",
    width="moe_intermediate_size",
    shared_count="n_shared_experts",
    layers="first_dense",
)
_QWEN_MOE = MoeKeys(experts="num_experts", width="moe_intermediate_size", layers="sparse_step")
_SPARSE: dict[str, Any] = {"decoder_sparse_step": 1, "mlp_only_layers": None}
_EXPERTS = {"num_experts": ("num_local_experts",)}
_LOCAL = {"num_local_experts": ("num_experts",)}
_ROUTED = {"n_routed_experts": ("num_local_experts", "num_experts")}
_MLA: dict[str, Any] = {"kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128, "v_head_dim": 128}  # fmt: skip
_V3 = size_defaults(
    7168, 18432, 61, 128, None, 129280, 4096, **_MLA, n_routed_experts=256, n_shared_experts=1,
    num_experts_per_tok=8, moe_intermediate_size=2048, first_k_dense_replace=3,
)  # fmt: skip
# latent attention and first layers without experts (DeepSeek-V3)
DEEPSEEK: dict[str, Any] = {
    "query_key_bias": "attention_bias",
    "mla": True,
    "moe": _DEEPSEEK_MOE,
    "aliases": _ROUTED,
}
_GLM_MOE = size_defaults(
    4096, 10944, 46, 96, 8, 151552, 131072, n_routed_experts=128, n_shared_experts=1,
    num_experts_per_tok=8, moe_intermediate_size=1408, first_k_dense_replace=1,
)  # fmt: skip
_LLAMA4 = size_defaults(
    5120, 8192, 48, 40, 8, 202048, 131072, head_dim=128, intermediate_size_mlp=16384,
    num_local_experts=16, num_experts_per_tok=1, interleave_moe_layer_step=1, use_qk_norm=True,
    attention_chunk_size=8192, no_rope_layer_interval=4,
)  # fmt: skip
_GRANITE = size_defaults(
    4096, 11008, 32, 32, None, 32000, 2048, num_local_experts=8, num_experts_per_tok=2,
    shared_intermediate_size=0,
)  # fmt: skip

MOE_FAMILIES: dict[str, Family] = {
    "mixtral": Family(
        words="Mixtral",
        defaults=size_defaults(4096, 14336, 32, 32, 8, 32000, 131072, num_local_experts=8,
                       num_experts_per_tok=2, sliding_window=None),
        aliases=_LOCAL, moe=MoeKeys(), window="all",
    ),
    "qwen2_moe": Family(
        words="Qwen 2–3 MoE",
        defaults=size_defaults(
            2048, 5632, 24, 16, 16, 151936, 32768, num_experts=60, num_experts_per_tok=4,
            moe_intermediate_size=1408, shared_expert_intermediate_size=5632, qkv_bias=True,
            use_sliding_window=False, sliding_window=4096, max_window_layers=28, **_SPARSE,
        ),
        aliases=_EXPERTS, query_key_bias="qkv_bias", window="use_odd",
        moe=MoeKeys(experts="num_experts", width="moe_intermediate_size", layers="sparse_step",
                shared_width="shared_expert_intermediate_size", shared_gate=True),
    ),
    "qwen3_moe": Family(
        words="Qwen 2–3 MoE",
        defaults=size_defaults(
            2048, 6144, 24, 32, 4, 151936, 32768, num_experts=128, num_experts_per_tok=8,
            moe_intermediate_size=768, use_sliding_window=False, sliding_window=4096,
            max_window_layers=28, **_SPARSE,
        ),
        aliases=_EXPERTS, **_BIAS, query_key_norm="head", window="use_all", moe=_QWEN_MOE,
    ),
    "qwen3_vl_moe_text": Family(
        words="Qwen 2–3 MoE",
        defaults=size_defaults(2048, 5632, 24, 16, 16, 151936, 128000, num_experts=60,
                       num_experts_per_tok=4, moe_intermediate_size=1408, **_SPARSE),
        aliases=_EXPERTS, **_BIAS, query_key_norm="head", moe=_QWEN_MOE,
    ),
    "phimoe": Family(
        words="Phi-MoE",
        defaults=size_defaults(4096, 6400, 32, 32, 8, 32064, 131072, num_local_experts=16,
                       num_experts_per_tok=2, sliding_window=None, lm_head_bias=False),
        aliases=_LOCAL, norm="layer", **_BIAS, window="all", head_bias="lm_head_bias", moe=MoeKeys(),
    ),
    "olmoe": Family(
        words="OLMoE",
        defaults=size_defaults(2048, 2048, 16, 16, None, 50304, 4096, num_experts=64,
                       num_experts_per_tok=8),
        aliases=_EXPERTS, **_BIAS, query_key_norm="wide", moe=MoeKeys(experts="num_experts"),
    ),
    "flex_olmo": Family(
        words="OLMoE",
        defaults=size_defaults(4096, 11008, 32, 32, None, 100352, 4096, num_experts=7,
                       num_experts_per_tok=5),
        aliases=_EXPERTS, **_BIAS, query_key_norm="wide", moe=MoeKeys(experts="num_experts"),
    ),
    "granitemoe": Family(
        words="Granite MoE", defaults=_GRANITE, **_BIAS, moe=MoeKeys(),
    ),
    "granitemoeshared": Family(
        words="Granite MoE", defaults=_GRANITE, **_BIAS,
        moe=MoeKeys(shared_width="shared_intermediate_size"),
    ),
    "deepseek": Family(
        words="DeepSeek 1–4",
        defaults=size_defaults(
            4096, 11008, 30, 32, None, 102400, 2048, n_routed_experts=None,
            n_shared_experts=None, num_experts_per_tok=None, moe_intermediate_size=1407,
            first_k_dense_replace=0, moe_layer_freq=1,
        ),
        **_BIAS, moe=_DEEPSEEK_MOE,
    ),
    "deepseek_v2": Family(
        words="DeepSeek 1–4",
        defaults=size_defaults(
            4096, 11008, 32, 32, None, 102400, 2048, **_MLA, n_routed_experts=64,
            n_shared_experts=2, num_experts_per_tok=None, moe_intermediate_size=1407,
            first_k_dense_replace=0,
        ),
        **DEEPSEEK, mlp_bias="mlp_bias", build="deepseek_v2",
    ),
    "deepseek_ocr2_text": Family(
        words="DeepSeek 1–4",
        defaults=size_defaults(
            4096, 11008, 32, 32, None, 102400, 2048, n_routed_experts=64, n_shared_experts=2,
            num_experts_per_tok=None, moe_intermediate_size=1407, first_k_dense_replace=0,
        ),
        **_BIAS, mlp_bias="mlp_bias", moe=_DEEPSEEK_MOE, aliases=_ROUTED, build="whole_heads",
    ),
    "deepseek_v3": Family(words="DeepSeek 1–4", defaults=_V3, **DEEPSEEK),
    "kimi_k2": Family(words="Kimi-K2", defaults=_V3, **DEEPSEEK),
    "glm4_moe": Family(
        words="GLM-4.5, GLM-5", defaults={**_GLM_MOE, "use_qk_norm": False},
        query_key_bias="attention_bias", query_key_norm="head", query_key_norm_key="use_qk_norm",
        moe=_DEEPSEEK_MOE, aliases=_ROUTED,
    ),
    "glm4v_moe_text": Family(
        words="GLM-4.5, GLM-5",
        defaults={**_GLM_MOE, "vocab_size": 151424, "max_position_embeddings": 65536,
                  "attention_bias": True},
        query_key_bias="attention_bias", moe=_DEEPSEEK_MOE, aliases=_ROUTED,
    ),
    "glm4_moe_lite": Family(
        words="GLM-4.5, GLM-5",
        defaults=size_defaults(
            2048, 10240, 47, 20, 20, 154880, 202752, q_lora_rank=768, kv_lora_rank=512,
            qk_rope_head_dim=64, qk_nope_head_dim=192, v_head_dim=256, n_routed_experts=64,
            n_shared_experts=1, num_experts_per_tok=4, moe_intermediate_size=1536,
            first_k_dense_replace=1,
        ),
        **{**DEEPSEEK, "moe": msgspec.structs.replace(_DEEPSEEK_MOE, first_dense=1)},
    ),
    "mimo_v2_flash": Family(
        words="MiMo",
        defaults=size_defaults(
            4096, 16384, 48, 64, 4, 152576, 131072, head_dim=192, v_head_dim=128,
            n_routed_experts=256, num_experts_per_tok=8, moe_intermediate_size=2048,
            sliding_window=129,
        ),
        query_key_bias="attention_bias", moe=_DEEPSEEK_MOE, aliases=_ROUTED,
        build="mimo_v2_flash",
    ),
    "dots1": Family(
        words="dots.llm1",
        defaults=size_defaults(
            4608, 10944, 62, 32, 32, 152064, 2048, n_routed_experts=None, n_shared_experts=None,
            num_experts_per_tok=None, moe_intermediate_size=1408, first_k_dense_replace=0,
            sliding_window=4096, max_window_layers=62,
        ),
        **_BIAS, query_key_norm="head", window="after", moe=_DEEPSEEK_MOE, aliases=_ROUTED,
    ),
    "solar_open": Family(
        words="Solar Open",
        defaults=size_defaults(
            4096, None, 48, 64, 8, 196608, 131072, head_dim=128, n_routed_experts=128,
            n_shared_experts=1, num_experts_per_tok=8, moe_intermediate_size=1280,
        ),
        query_key_bias="attention_bias", aliases=_ROUTED,
        moe=MoeKeys(experts="n_routed_experts", width="moe_intermediate_size",
                shared_count="n_shared_experts"),
    ),
    "exaone_moe": Family(
        words="EXAONE",
        defaults=size_defaults(
            4096, 16384, 32, 32, 32, 102400, 2048, num_experts=64, num_shared_experts=1,
            num_experts_per_tok=8, moe_intermediate_size=1024, first_k_dense_replace=1,
            sliding_window=4096, sliding_window_pattern=4,
        ),
        query_key_norm="head", window="pattern", aliases=_EXPERTS,
        moe=MoeKeys(experts="num_experts", width="moe_intermediate_size",
                shared_count="num_shared_experts", layers="first_dense"),
    ),
    "dbrx": Family(
        words="DBRX",
        defaults=size_defaults(2048, None, 24, 16, None, 32000, 2048, resid_pdrop=0.0),
        aliases={"hidden_size": ("d_model",), "num_hidden_layers": ("n_layers",),
                 "num_attention_heads": ("n_heads",),
                 "max_position_embeddings": ("max_seq_len",)},
        dropout="resid_pdrop", build="dbrx",
    ),
    "minimax_m2": Family(
        words="MiniMax-M2",
        defaults=size_defaults(3072, 1536, 62, 48, 8, 200064, 196608, head_dim=128,
                       num_local_experts=256, num_experts_per_tok=8, use_qk_norm=True,
                       shared_intermediate_size=0),
        aliases=_LOCAL, query_key_norm="wide", query_key_norm_key="use_qk_norm",
        moe=MoeKeys(shared_width="shared_intermediate_size"), build="minimax_m2",
    ),
    "gpt_oss": Family(
        words="gpt-oss",
        defaults=size_defaults(2880, 2880, 36, 64, 8, 201088, 131072, head_dim=64, attention_bias=True,
                       num_local_experts=128, num_experts_per_tok=4, sliding_window=128),
        aliases={**_LOCAL, "num_experts_per_tok": ("experts_per_token",)}, **_BIAS, sinks=True,
        window="alternate", moe=MoeKeys(router_bias=True, expert_bias=True),
    ),
    "llama4_text": Family(
        words="Llama 4", defaults=_LLAMA4, **_BIAS, window="chunk",
        dense_width="intermediate_size_mlp", moe=MoeKeys(layers="moe_layers"), build="llama4",
    ),
    # Its correction bias of the router is a parameter, not a buffer as elsewhere: it counts.
    "ernie4_5_moe": Family(
        words="ERNIE 4.5",
        defaults=size_defaults(
            2560, 12288, 28, 20, 4, 103424, 131072, True, use_bias=False, moe_num_experts=64,
            moe_k=6, moe_intermediate_size=1536, moe_num_shared_experts=2,
            moe_layer_start_index=1, moe_layer_end_index=-1, moe_layer_interval=1,
        ),
        aliases={"moe_num_experts": ("num_experts",), "moe_k": ("num_experts_per_tok",)},
        query_key_bias="use_bias", output_bias="use_bias", mlp_bias="use_bias",
        head_bias="use_bias",
        moe=MoeKeys(experts="moe_num_experts", top_k="moe_k", width="moe_intermediate_size",
                shared_count="moe_num_shared_experts", layers="interval", router_bias=True),
    ),
    "afmoe": Family(
        words="Trinity",
        defaults=size_defaults(
            2048, 6144, 32, 16, None, 200192, 16384, False, 128, num_experts=64,
            num_experts_per_tok=6, num_shared_experts=2, moe_intermediate_size=1408,
            first_k_dense_replace=1, sliding_window_pattern=4, sliding_window=1024,
        ),
        aliases={**_EXPERTS, "first_k_dense_replace": ("num_dense_layers",),
                 "sliding_window_pattern": ("global_attn_every_n_layers",)},
        **_BIAS, norms=4, query_key_norm="head", value_gate=True, window="pattern",
        moe=MoeKeys(experts="num_experts", width="moe_intermediate_size", router_bias=True,
                    shared_count="num_shared_experts", layers="first_dense"),
    ),
    "aria_text": Family(
        words="Aria",
        defaults=size_defaults(4096, 4096, 32, 32, None, 32000, 2048, moe_num_experts=8, moe_topk=2,
                       moe_num_shared_experts=2),
        **_BIAS, mlp_bias="mlp_bias",
        moe=MoeKeys(experts="moe_num_experts", top_k="moe_topk",
                    shared_count="moe_num_shared_experts"),
    ),
    "axk1": Family(
        words="A.X K1", defaults={**_V3, "vocab_size": 163840, "num_attention_heads": 64,
        "max_position_embeddings": 32768, "n_routed_experts": 192, "first_k_dense_replace": 1,
        "moe_layer_freq": 1},
        **DEEPSEEK, build="axk1",
    ),
    "mistral4": Family(
        words="Mistral",
        defaults=size_defaults(
            4096, 12288, 36, 32, 32, 131072, 1048576, q_lora_rank=1024, kv_lora_rank=256,
            qk_rope_head_dim=64, qk_nope_head_dim=64, v_head_dim=128, n_routed_experts=128,
            n_shared_experts=1, num_experts_per_tok=4, moe_intermediate_size=2048,
            first_k_dense_replace=0,
        ),
        **DEEPSEEK,
    ),
    "sarvam_mla": Family(
        words="Sarvam",
        defaults=size_defaults(
            4096, 16384, 32, 64, 64, 262144, 4096, q_lora_rank=None, kv_lora_rank=512,
            qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128, n_routed_experts=128,
            n_shared_experts=1, num_experts_per_tok=8, moe_intermediate_size=2048,
            first_k_dense_replace=1,
        ),
        **{**DEEPSEEK, "aliases": {**_ROUTED, "n_shared_experts": ("num_shared_experts",)}},
    ),
    "sarvam_moe": Family(
        words="Sarvam",
        defaults=size_defaults(
            4096, 8192, 19, 64, 4, 262144, 131072, False, 64, n_routed_experts=128,
            n_shared_experts=1, num_experts_per_tok=6, moe_intermediate_size=1024,
            first_k_dense_replace=1, use_qk_norm=True,
        ),
        aliases={**_ROUTED, "n_shared_experts": ("num_shared_experts",)},
        query_key_bias="attention_bias", query_key_norm="head", query_key_norm_key="use_qk_norm",
        moe=_DEEPSEEK_MOE,
    ),
    "mellum": Family(
        words="Mellum",
        defaults=size_defaults(
            2304, 7168, 28, 32, 4, 98304, 131072, False, 128, num_local_experts=64,
            num_experts_per_tok=8, moe_intermediate_size=896, first_k_dense_replace=0,
            sliding_window=1024, sliding_window_pattern=0,
        ),
        aliases={**_LOCAL, "num_nextn_predict_layers": ("num_mtp_layers",)}, **_BIAS,
        query_key_norm="head", window="pattern",
        moe=MoeKeys(width="moe_intermediate_size", layers="first_dense", first_dense=0),
    ),
    "kolibri1": Family(
        words="Kolibri",
        defaults=size_defaults(
            2560, None, 50, 48, 4, 128000, 262144, False, 128, num_local_experts=384,
            num_experts_per_tok=6, moe_intermediate_size=512, shared_expert_intermediate_size=512,
            sliding_window=513, sliding_window_pattern=5,
        ),
        aliases=_LOCAL, norms=4, query_key_norm="head", window="pattern",
        moe=MoeKeys(width="moe_intermediate_size", shared_width="shared_expert_intermediate_size"),
    ),
    "flint": Family(
        words="Flint",
        defaults=size_defaults(
            2048, 6144, 49, 32, 4, 150144, 262144, False, 128, num_experts=256,
            num_experts_per_tok=6, moe_intermediate_size=512, shared_expert_intermediate_size=1024,
            sliding_window=513, decoder_sparse_step=1, mlp_only_layers=[0, 1],
        ),
        aliases=_EXPERTS, **_BIAS, query_key_norm="head", sinks=True, window="flint",
        moe=MoeKeys(experts="num_experts", width="moe_intermediate_size", layers="sparse_step",
                shared_width="shared_expert_intermediate_size"),
    ),
    "granitemoe_swa": Family(
        words="Granite MoE", defaults={**_GRANITE, "sliding_window": 128}, **_BIAS, sinks=True,
        window="but_first_of_four", moe=MoeKeys(shared_width="shared_intermediate_size"),
    ),
    "cohere2_moe": Family(
        words="Command",
        defaults=size_defaults(8192, 22528, 40, 64, None, 256000, 8192, True, 128, num_experts=8,
                       num_experts_per_tok=2, num_shared_experts=0, sliding_window=4096,
                       first_k_dense_replace=0, sliding_window_pattern=4,
                       prefix_dense_sliding_window_pattern=1),
        aliases=_EXPERTS, **_BIAS, norms=1, parallel=True, window="pattern",
        moe=MoeKeys(experts="num_experts", shared_count="num_shared_experts",
                    layers="first_dense"),
        build="cohere2_moe",
    ),
    "arctic": Family(
        words="Arctic",
        defaults=size_defaults(4096, 14336, 32, 32, None, 32000, 4096, num_local_experts=8,
                       num_experts_per_tok=1, moe_layer_frequency=2,
                       parallel_attn_mlp_res=False),
        aliases=_LOCAL,
        moe=MoeKeys(layers="frequency", residual="parallel_attn_mlp_res"),
    ),
}  # fmt: skip
