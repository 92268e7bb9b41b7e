"""Model types of the GPT line (LayerNorm, biases, plain MLPs), as data.

The defaults are those of the configuration classes of transformers, or of the publisher's own code
where transformers has no class: they hold for keys that a file leaves out. ``tests/spec`` holds
every type that transformers knows against its own model.
"""

from __future__ import annotations

from typing import Any

from meshwise.models.families.keys import Family


def size_defaults(
    hidden: int,
    width: int | None,
    layers: int,
    heads: int,
    kv_heads: int | None,
    vocab: int,
    positions: int | None,
    tied: bool = False,
    head_dim: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Defaults under the usual key names."""
    return {
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": positions,
        "tie_word_embeddings": tied,
        "head_dim": head_dim,
        **more,
    }


_GPT = {
    "hidden_size": ("n_embd",),
    "num_hidden_layers": ("n_layer",),
    "num_attention_heads": ("n_head",),
    "max_position_embeddings": ("n_positions",),
    "intermediate_size": ("n_inner",),
}
_BIAS: dict[str, Any] = {"query_key_bias": "attention_bias", "output_bias": "attention_bias"}
_ALL: dict[str, Any] = {"query_key_bias": True, "output_bias": True, "mlp_bias": True}

_GPTJ = Family(
    words="GPT-J",
    defaults=size_defaults(4096, None, 28, 16, None, 50400, 2048, resid_pdrop=0.0),
    aliases=_GPT,
    norm="layer",
    norms=1,
    gated=False,
    mlp_bias=True,
    mlp_multiple=4,
    parallel=True,
    head_bias=True,
    dropout="resid_pdrop",
)
_PHI = Family(
    words="Phi 1–2",
    defaults=size_defaults(
        2048, 8192, 24, 32, None, 51200, 2048, qk_layernorm=False, resid_pdrop=0.0
    ),
    norm="layer",
    norms=1,
    gated=False,
    **_ALL,
    query_key_norm="head",
    query_key_norm_key="qk_layernorm",
    query_key_norm_bias=True,
    parallel=True,
    head_bias=True,
    dropout="resid_pdrop",
)
_FALCON = size_defaults(
    4544, None, 32, 71, None, 65024, 2048, True, hidden_dropout=0.0, alibi=False,
    new_decoder_architecture=False, multi_query=True, parallel_attn=True, bias=False,
)  # fmt: skip


def _falcon(**other: Any) -> Family:
    """Falcon; its first files (RefinedWeb …) had a class with other defaults."""
    return Family(
        words="Falcon",
        defaults={**_FALCON, **other},
        aliases={
            "hidden_size": ("n_embed",),
            "num_hidden_layers": ("n_layer",),
            "num_attention_heads": ("n_head",),
            "num_key_value_heads": ("num_kv_heads", "n_head_kv"),
            "intermediate_size": ("ffn_hidden_size",),
        },
        norm="layer",
        gated=False,
        mlp_multiple=4,
        dropout="hidden_dropout",
        build="falcon",
    )


_OPT = Family(
    words="OPT",
    defaults=size_defaults(
        768, 3072, 12, 12, None, 50272, 2048, True, do_layer_norm_before=True, enable_bias=True,
        _remove_final_layer_norm=False, layer_norm_elementwise_affine=True, dropout=0.1,
    ),
    aliases={"intermediate_size": ("ffn_dim",)},
    norm="layer",
    gated=False,
    positions=True,
    position_offset=2,
    dropout="dropout",
    build="opt",
)  # fmt: skip
_GPT2 = Family(
    words="GPT-2/3",
    defaults=size_defaults(768, None, 12, 12, None, 50257, 1024, True, resid_pdrop=0.1),
    aliases=_GPT, norm="layer", gated=False, **_ALL, mlp_multiple=4, positions=True,
    dropout="resid_pdrop",
)  # fmt: skip
OLDER: dict[str, Family] = {
    "gpt2": _GPT2,
    "gpt-sw3": _GPT2,
    "openai-gpt": Family(
        words="GPT-1",
        defaults=size_defaults(768, None, 12, 12, None, 40478, 512, True, resid_pdrop=0.1),
        aliases=_GPT, norm="layer", gated=False, **_ALL, mlp_multiple=4, positions=True,
        final_norm=False, dropout="resid_pdrop",
    ),
    "gpt_neo": Family(
        words="GPT-Neo",
        defaults=size_defaults(
            2048, None, 24, 16, None, 50257, 2048, True, window_size=256, resid_dropout=0.0,
            attention_types=[[["global", "local"], 12]],
        ),
        aliases={"num_hidden_layers": ("num_layers",), "num_attention_heads": ("num_heads",)},
        norm="layer", output_bias=True, gated=False, mlp_bias=True, mlp_multiple=4,
        positions=True, window="gpt_neo", dropout="resid_dropout",
    ),
    "gpt_neox": Family(
        words="GPT-NeoX, Pythia",
        defaults=size_defaults(6144, 24576, 44, 64, None, 50432, 2048, attention_bias=True,
                       use_parallel_residual=True, hidden_dropout=0.0),
        norm="layer", gated=False, **_BIAS, mlp_bias=True, parallel="use_parallel_residual",
        dropout="hidden_dropout",
    ),
    "gptj": _GPTJ,
    "codegen": Family(
        words="CodeGen", defaults=_GPTJ.defaults, aliases=_GPT, norm="layer", norms=1,
        gated=False, mlp_bias=True, mlp_multiple=4, parallel=True, head_bias=True,
        dropout="resid_pdrop",
    ),
    "opt": _OPT,
    "bloom": Family(
        words="BLOOM",
        defaults=size_defaults(64, None, 2, 8, None, 250880, None, True, hidden_dropout=0.0),
        aliases={"hidden_size": ("n_embed",), "num_hidden_layers": ("n_layer",),
                 "num_attention_heads": ("n_head",),
                 "max_position_embeddings": ("seq_length",)},
        norm="layer", gated=False, **_ALL, mlp_multiple=4, embedding_norm=True,
        dropout="hidden_dropout",
    ),
    "falcon": _falcon(),
    "RefinedWeb": _falcon(new_decoder_architecture=True, vocab_size=250880),
    "RefinedWebModel": _falcon(multi_query=False, parallel_attn=False, vocab_size=250880),
    "gpt_bigcode": Family(
        words="StarCoder 1–2",
        defaults=size_defaults(768, None, 12, 12, None, 50257, 1024, True, multi_query=True,
                       resid_pdrop=0.1),
        aliases=_GPT, norm="layer", gated=False, **_ALL, mlp_multiple=4, positions=True,
        dropout="resid_pdrop", build="gpt_bigcode",
    ),
    "starcoder2": Family(
        words="StarCoder 1–2",
        defaults=size_defaults(3072, 12288, 30, 24, 2, 49152, 4096, True, use_bias=True,
                       sliding_window=None, residual_dropout=0.0),
        norm="layer", query_key_bias="use_bias", output_bias="use_bias", mlp_bias="use_bias",
        gated=False, window="all", dropout="residual_dropout",
    ),
    "mpt": Family(
        words="MPT",
        defaults=size_defaults(2048, None, 24, 16, None, 50368, 2048, True, expansion_ratio=4,
                       no_bias=True, resid_pdrop=0.0, learned_pos_emb=True),
        aliases={"hidden_size": ("d_model",), "num_hidden_layers": ("n_layers",),
                 "num_attention_heads": ("n_heads",),
                 "max_position_embeddings": ("max_seq_len",)},
        gated=False, dropout="resid_pdrop", build="mpt",
    ),
    "phi": _PHI,
    "phi-msft": Family(
        words="Phi 1–2",
        defaults=size_defaults(2048, None, 24, 32, None, 51200, 2048, resid_pdrop=0.0),
        aliases={**_GPT, "num_key_value_heads": ("n_head_kv",)}, norm="layer", norms=1,
        gated=False, **_ALL, mlp_multiple=4, parallel=True, head_bias=True, dropout="resid_pdrop",
    ),
    "persimmon": Family(
        words="Persimmon",
        defaults=size_defaults(4096, 16384, 36, 64, None, 262144, 16384, qk_layernorm=True,
                       hidden_dropout=0.0),
        norm="layer", gated=False, **_ALL, query_key_norm="head",
        query_key_norm_key="qk_layernorm", query_key_norm_bias=True, dropout="hidden_dropout",
    ),
    "xglm": Family(
        words="XGLM",
        defaults=size_defaults(1024, 4096, 24, 16, None, 256008, 2048, True, dropout=0.1),
        aliases={"hidden_size": ("d_model",), "num_hidden_layers": ("num_layers",),
                 "num_attention_heads": ("attention_heads",), "intermediate_size": ("ffn_dim",)},
        norm="layer", gated=False, **_ALL, dropout="dropout",
    ),
    "biogpt": Family(
        words="BioGPT",
        defaults=size_defaults(1024, 4096, 24, 16, None, 42384, 1024, True, hidden_dropout_prob=0.1),
        norm="layer", gated=False, **_ALL, positions=True, position_offset=2,
        dropout="hidden_dropout_prob",
    ),
}  # fmt: skip
