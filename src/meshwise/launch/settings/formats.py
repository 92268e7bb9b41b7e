"""The formats of serving commands: ``--quantization``, ``--dtype`` and ``--kv-cache-dtype``, written, read,
and held against the checkpoint that the command serves."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

from meshwise import dtypes
from meshwise.errors import InputError, MeshwiseError, quoted
from meshwise.launch.job import Job
from meshwise.launch.settings.settings import Settings
from meshwise.models.load import load_model
from meshwise.models.names import named_model
from meshwise.models.shapes import Model, Quantization
from meshwise.workloads.workload import Formats

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_AUTO: dict[str, str | None] = {"auto": None}


class Method(NamedTuple):
    """What a word of ``--quantization`` makes of 16-bit weights, and which checkpoints it runs: those of
    these methods, else any whose weights are in its format."""

    weights: str | None
    products: str | None = None  # where activations are narrowed too
    runs: tuple[str, ...] = ()
    made: bool = (
        True  # of 16-bit weights as they are loaded; else it is read from checkpoints alone
    )


# Methods of engines that run checkpoints of their own, or say more than a format; every word for a
# format is read by the one table of names (meshwise.dtypes).
METHODS: dict[str, Method] = {
    "awq": Method("int4", None, ("awq",), made=False),
    "awq_marlin": Method("int4", None, ("awq",), made=False),
    "auto_awq": Method("int4", None, ("awq",), made=False),
    "auto_gptq": Method("int4", None, ("gptq",), made=False),
    "marlin": Method("int4", None, ("gptq",), made=False),
    "w4afp8": Method("int4", "fp8", made=False),
    "gpt_oss_mxfp4": Method("mxfp4", made=False),
    "modelopt_mxfp8": Method("mxfp8", "mxfp8", made=False),
    "fp8_per_block": Method("fp8", "fp8"),
    "nvfp4_per_token": Method("nvfp4", "nvfp4"),
    "int8_per_channel_weight_only": Method("int8"),
    "gptq": Method("int4", None, ("gptq",), made=False),
    "gptq_marlin": Method("int4", None, ("gptq",), made=False),
    "moe_wna16": Method("int4", None, ("awq", "gptq"), made=False),
    "bitsandbytes": Method("nf4", None, ("bitsandbytes", "bnb")),
    "experts_int8": Method("int8"),
}
# containers of any format: the checkpoint says which
_CONTAINERS = ("compressed-tensors", "modelopt", "modelopt-mixed", "quark", "auto-round", "inc",
               "torchao", "gguf", "hqq", "humming", "modelslim", "deepseek-v4-fp8")  # fmt: skip
# Words for a format that engines read and do not make: their scales are calibrated (docs.vllm.ai, Online
# Quantization: fp8, mxfp8, mxfp4 and others are made; docs.sglang.io, Quantization: offline for AWQ, GPTQ).
_READ = ("modelopt_fp8", "modelopt_fp4", "modelopt_nvfp4", "petit_nvfp4", "fbgemm_fp8", "w8a8_int8",
         "blockwise_int8", "w4a16_awq", "w4a16_gptq")  # fmt: skip
_DEFAULT = ("none", "auto")
_OWN = ("awq", "gptq", "bitsandbytes", "mlx")  # checkpoints that no container runs


def format_settings(job: Job, cache: str) -> Settings:
    """What a command says of the job's formats."""
    found: Settings = {}
    if "fp8" in (job.weight_dtype, job.dtype) and _makes_fp8(job.model):
        found["quantization"] = job.quantization or "fp8"
    elif job.quantization is not None:
        found["quantization"] = job.quantization
    if job.dtype in _DTYPES:
        found["dtype"] = _DTYPES[job.dtype]
    if job.kv_dtype == "fp8":
        found["kv_dtype"] = cache
    return found


def _makes_fp8(name: str) -> bool:
    """Whether an engine serves the model in FP8 if it is told to: 16-bit and FP8 checkpoints."""
    known = None
    with contextlib.suppress(MeshwiseError):
        known = named_model(name)
    q = load_model(name).quantization if known is not None else None
    return q is None or q.weight_dtype == "fp8"


def _format(s: Settings, name: str, option: str, legal: tuple[str, ...]) -> str | None:
    """A format that the command states: used, or refused; never dropped."""
    said = s.get(name)
    if said is None or str(said).lower() == "auto":
        return None
    found = dtypes.known(str(said).lower())
    if found not in legal:
        raise InputError(
            f"{option}: {quoted(said)} is not priced",
            field=option,
            value=str(said),
            legal=[*legal, "auto"],
        )
    return found


def _method(said: object) -> tuple[str, Method] | None:
    """The word of ``--quantization`` and what it means; None where the checkpoint decides."""
    if said is None or str(said).lower() in _DEFAULT:
        return None
    word = str(said).lower()
    if word in METHODS:
        return word, METHODS[word]
    if word.replace("_", "-") in _CONTAINERS:
        return word, Method(None, made=False)
    if dtypes.known(word) not in dtypes.WEIGHT:
        raise InputError(
            f"--quantization: {quoted(said)} is not priced",
            field="--quantization",
            value=str(said),
            legal=[*dtypes.COMMON_WEIGHT, *dtypes.VARIANTS, *METHODS, *_CONTAINERS, *_DEFAULT],
        )
    meant = dtypes.weight_format(word)
    narrows = meant.dtype in dtypes.NARROW and meant.only is not True
    stored = dtypes.canonical_weights(word) if meant.block else meant.dtype
    made = word.replace("-", "_") not in _READ
    return word, Method(stored, meant.dtype if narrows else None, made=made)


def format_fields(s: Settings) -> dict[str, Any]:
    """A job's fields from what a command says of formats."""
    method = _method(s.get("quantization"))
    found: dict[str, Any] = {
        "dtype": _format(s, "dtype", "--dtype", tuple(_DTYPES)),
        "kv_dtype": _format(s, "kv_dtype", "--kv-cache-dtype", dtypes.KV_CACHE),
    }
    if method is not None:
        word, means = method
        found |= {"quantization": word, "weight_dtype": means.weights}
        found["dtype"] = means.products or found["dtype"]
    if s.get("chunk") is not None and s["chunk"] != -1:
        found["chunk"] = s["chunk"]
    return {k: v for k, v in found.items() if v is not None}


def _runs(word: str, method: Method, q: Quantization) -> bool:
    """Whether an engine asked for this method runs the checkpoint."""
    if word.replace("_", "-") in _CONTAINERS:
        return not q.method.startswith(_OWN)
    if method.runs:
        return q.method.startswith(method.runs)
    return q.weight_dtype == dtypes.known(method.weights)


def _is_named(name: str) -> bool:
    """Whether a command says which checkpoint it serves: a folder of another machine may hold any."""
    if not name or name.startswith(("/", ".", "~")):
        return False
    with contextlib.suppress(MeshwiseError):
        return named_model(name) is not None
    return False


def formats_of_job(job: Job, model: Model) -> Formats:
    """The formats of a serving command: the checkpoint's own where it has any. Raises where the command
    names another method than the checkpoint's, as engines do."""
    q, method = model.quantization, _method(job.quantization)
    weights = job.weight_dtype
    if q is not None and method is not None:
        word, means = method
        if not _runs(word, means, q):
            raise InputError(
                f"--quantization={word}: {model.name} is quantised by {q.method} ({q.weight_dtype})",
                field="--quantization",
                value=word,
                legal="leave --quantization out: the checkpoint says it",
                nearest=q.method,
            )
        weights = None
    elif method is not None and not method[1].made and _is_named(job.model):
        word = method[0]
        raise InputError(
            f"--quantization={word}: {model.name} has {model.dtype} weights; engines read {word} checkpoints, "
            "and make none of 16-bit weights",
            field="--quantization",
            value=word,
            legal="the name of a checkpoint in that format, or what is made as weights are loaded: fp8, "
            "mxfp8, mxfp4, bitsandbytes",
            nearest="fp8",
        )
    return Formats(dtype=job.dtype, weights=weights, kv_cache=job.kv_dtype)
