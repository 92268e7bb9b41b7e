"""Number formats that serving commands state, out and in: used, or refused; never dropped."""

from __future__ import annotations

from typing import Any

from meshwise.errors import InputError, quoted
from meshwise.launch.job import Job
from meshwise.launch.settings import Settings
from meshwise.spec import dtypes

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def settings(job: Job, cache: str) -> Settings:
    found: Settings = {}
    if job.weight_dtype == "fp8" or job.dtype == "fp8":
        found["quantization"] = "fp8"
    if job.dtype in _DTYPES:
        found["dtype"] = _DTYPES[job.dtype]
    if job.kv_dtype == "fp8":
        found["kv_dtype"] = cache
    return found


# --quantization: methods by the weights that they make of a checkpoint; None: the checkpoint says it
_METHODS: dict[str, str | None] = {
    **dict.fromkeys(("fbgemm_fp8", "w8a8_fp8", "ptpc_fp8", "deepspeedfp", "modelopt_fp8"), "fp8"),
    **dict.fromkeys(
        ("awq", "gptq", "awq_marlin", "gptq_marlin", "moe_wna16", "bitsandbytes"), "int4"
    ),
    **dict.fromkeys(("w8a8_int8", "blockwise_int8", "experts_int8"), "int8"),
    **dict.fromkeys(("modelopt_fp4", "petit_nvfp4"), "nvfp4"),
    **dict.fromkeys(
        ("compressed-tensors", "modelopt", "quark", "auto-round", "none", "auto"), None
    ),
}
_AUTO: dict[str, str | None] = {"auto": None}


def _format(
    s: Settings, name: str, option: str, words: dict[str, str | None], legal: tuple[str, ...]
) -> str | None:
    """A format that the command states: used, or refused; never dropped."""
    said = s.get(name)
    if said is None:
        return None
    word = str(said).lower()
    if word in words:
        return words[word]
    found = dtypes.known(word)
    if found not in legal:
        raise InputError(
            f"{option}: {quoted(said)} is not priced",
            field=option,
            value=str(said),
            legal=[*legal, *words],
        )
    return found


def fields(s: Settings) -> dict[str, Any]:
    formats = {
        "weight_dtype": _format(s, "quantization", "--quantization", _METHODS, dtypes.WEIGHT),
        "dtype": _format(s, "dtype", "--dtype", _AUTO, tuple(_DTYPES)),
        "kv_dtype": _format(s, "kv_dtype", "--kv-cache-dtype", _AUTO, dtypes.KV_CACHE),
    }
    found: dict[str, Any] = {k: v for k, v in formats.items() if v is not None}
    if s.get("chunk") is not None and s["chunk"] != -1:
        found["chunk"] = s["chunk"]
    return found
