"""The model that Megatron-LM's flags write out (``--num-layers``, ``--hidden-size``, …), with the defaults of its
own arguments where they leave something out (megatron/training/arguments.py)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from meshwise.errors import InputError, MeshwiseError, shorten
from meshwise.launch.settings.settings import Settings
from meshwise.launch.shell.commands import unset_names
from meshwise.models.load import load_model
from meshwise.models.names import named_model
from meshwise.models.shapes import Model

SHAPE = (
    *("layers", "hidden", "heads", "kv_heads", "ffn", "experts_total", "vocab", "padded_vocab"),
    *(
        "vocab_multiple",
        "tokenizer",
        "tokenizer_model",
        "head_dim",
        "swiglu",
        "glu",
        "grouped_queries",
    ),
    *("untied", "normalization", "no_bias", "qkv_bias", "positions", "position_kind", "rotary"),
    *("no_positions", "qk_norm", "hidden_dropout", "experts_per_token", "expert_ffn", "shared_ffn"),
    *("shared_gate", "moe_layers", "mla", "q_rank", "kv_rank", "qk_dim", "qk_rope_dim", "v_dim"),
    *("layer_kinds", "script", "checkpoint_args", "other_layers"),
)
# settings on which no layout rests: an unset variable is asked for where the model is built of them
ASKED_LATER = frozenset(SHAPE) - {"layers", "hidden", "heads", "experts_total"} | {"optimizer"}
_NEEDED = {"layers": "--num-layers", "hidden": "--hidden-size", "heads": "--num-attention-heads"}
# scripts of models that are no decoder alone, by a word of their names
_OTHERS = re.compile(
    r"bert|t5|ict|biencoder|retriever|vit|vision|dino|vlm|mimo|multimodal|retro|mamba|hybrid|mnli|tasks|eval"
)
# tokens of tokenizers that have one vocabulary
_TOKENS = {"GPT2BPETokenizer": 50257, "Llama2Tokenizer": 32000}


def model_of_flags(said: Iterable[tuple[str, object]], tp: int) -> Model | None:
    """The model; None where the flags give no sizes. Raises where they leave out what the target has no
    default for, or build layers that are not written here."""
    s: Settings = dict(said)
    if not all(isinstance(s.get(name), int) and s[name] > 0 for name in _NEEDED):
        return None
    _check_known(s)
    gated = bool(s.get("swiglu") or s.get("glu"))
    hidden, ffn = s["hidden"], s.get("ffn")
    if (
        ffn is None
    ):  # arguments.py: 4 h, two thirds of it down to a multiple of 64 where there is a gate
        ffn = int(4 * hidden * 2 / 3) // 64 * 64 if gated else 4 * hidden
    shape: dict[str, Any] = {
        "layers": s["layers"],
        "hidden": hidden,
        "heads": s["heads"],
        "vocab": _vocabulary(s, tp),
        "gated": gated,
        "tied": not s.get("untied"),
        "norm": "rms" if str(s.get("normalization")).lower() == "rmsnorm" else "layer",
        "biases": "none" if s.get("no_bias") else "all",
        "dropout": float(s.get("hidden_dropout") or 0.1) > 0.0,
        "positions": _positions(s),
        "max_positions": s.get("positions"),
    }
    if s.get("qkv_bias") and s.get("no_bias"):
        shape["biases"] = "qkv"
    experts = _experts(s, ffn)
    if s.get("mla"):
        dims = {
            "q_lora_rank": s.get("q_rank"),
            "kv_lora_rank": s.get("kv_rank", 32),
            "qk_nope_head_dim": s.get("qk_dim", 128),
            "qk_rope_head_dim": s.get("qk_rope_dim", 64),
            "v_head_dim": s.get("v_dim", 128),
        }
        return Model.mla(**shape, **dims, **(experts or {"ffn": ffn}))
    shape["head_dim"] = s.get("head_dim")
    shape["kv_heads"] = s.get("kv_heads") if s.get("grouped_queries") else None
    shape["qk_norm"] = "head" if s.get("qk_norm") else "none"
    return Model.moe(**shape, **experts) if experts else Model.dense(**shape, ffn=ffn)


def _refused(flag: str, value: object, why: str) -> InputError:
    return InputError(
        f"model: {f'{flag} {shorten(str(value))}'.strip()}: {why}",
        field="model",
        value=flag,
        legal="`model`: a preset, a config.json or its folder",
    )


def _check_known(s: Settings) -> None:
    script = str(s.get("script") or "")
    if _OTHERS.search(script):
        raise _refused(
            script, "", "what it trains is no decoder alone, and its layers are not in the flags"
        )
    unset = [
        (k, v) for k, v in s.items() if isinstance(v, str) and unset_names(v) and k != "script"
    ]
    if unset:
        raise _refused(unset[0][0], unset[0][1], "is not set in the text")
    if s.get("other_layers") is not None:
        why = "no flag of Megatron-LM, and what layers it builds is not known"
        raise _refused(str(s["other_layers"]), "", why)
    if s.get("layer_kinds") is not None:
        raise _refused("layers", s["layer_kinds"], "layers of several kinds are not built of flags")


def _positions(s: Settings) -> int:
    """Rows of a learned table of positions, which is what holds without another word."""
    kind = str(s.get("position_kind") or "learned_absolute").lower()
    other = s.get("rotary") or s.get("no_positions") or kind not in ("learned_absolute", "absolute")
    return 0 if other else int(s.get("positions") or 0)


def _experts(s: Settings, ffn: int) -> dict[str, Any]:
    many = s.get("experts_total") or 0
    if many <= 1:
        return {}
    width = s.get("expert_ffn") or ffn
    found: dict[str, Any] = {
        "experts": many,
        "experts_per_token": s.get("experts_per_token", 2),
        "expert_ffn": width,
    }
    if s.get("shared_ffn"):
        found |= {"shared_experts": 1, "shared_ffn": s["shared_ffn"]}
        found["shared_gate"] = bool(s.get("shared_gate"))
    dense = _first_dense(str(s.get("moe_layers") or "1"), s["layers"])
    if dense:
        found |= {"first_dense": dense, "dense_ffn": ffn}
    return found


def _first_dense(text: str, layers: int) -> int:
    """Dense layers at the start, of ``1`` or a list such as ``([0]*3+[1]*58)``."""
    if text.strip() == "1":
        return 0
    pieces = re.findall(r"\[([01](?:,[01])*)\](?:\*(\d{1,4}))?", text.replace(" ", ""))
    pattern = [int(x) for each, n in pieces for _ in range(int(n or 1)) for x in each.split(",")]
    dense = pattern.index(1) if 1 in pattern else -1
    if len(pattern) != layers or dense < 0 or 0 in pattern[dense:]:
        raise _refused("--moe-layer-freq", text, "dense layers between those with experts")
    return dense


def _vocabulary(s: Settings, tp: int) -> int:
    """Rows of the table: padded to a multiple of ``--make-vocab-size-divisible-by`` · TP."""
    if s.get("padded_vocab"):
        return int(s["padded_vocab"])
    tokens = _tokens(s)
    multiple = s.get("vocab_multiple", 128) * tp
    return int(-(-tokens // multiple) * multiple)


def _tokens(s: Settings) -> int:
    kind = str(s.get("tokenizer") or "")
    if s.get("vocab"):
        return int(s["vocab"]) + int(kind == "NullTokenizer")  # which adds an end of documents
    if not kind and str(s.get("script") or "").endswith(("pretrain_gpt.py", "pretrain_gpt2.py")):
        kind = "GPT2BPETokenizer"  # the script's own default
    if kind in _TOKENS:
        return _TOKENS[kind]
    named = str(s.get("tokenizer_model") or "")
    try:
        known = named_model(named) if named and "$" not in named else None
    except MeshwiseError:
        known = None
    if known is not None:
        return load_model(known.preset).vocab
    raise InputError(
        f"model: the vocabulary of {shorten(named or kind or 'its tokenizer')} is not in the command",
        field="model",
        value=named or kind or None,
        legal="--vocab-size in the command; or `model`: a preset, a config.json or its folder",
    )
