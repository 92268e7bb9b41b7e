"""Number formats: their names, how many bytes a value takes, and at which peak a product of them runs.

The one table of names: options, configs, tables, launch commands and the API read formats by
:func:`known`, :func:`canonical_dtype` and :func:`weight_format`.
"""

from __future__ import annotations

from typing import NamedTuple

from meshwise.errors import InputError, closest, quoted

# Block types of GGUF files: (bytes, weights) of a block, scales included (ggml-common.h).
GGUF_BLOCKS: dict[str, tuple[int, int]] = {
    "q4_0": (18, 32), "q4_1": (20, 32), "q5_0": (22, 32), "q5_1": (24, 32), "q8_0": (34, 32),
    "q2_k": (84, 256), "q3_k": (110, 256), "q4_k": (144, 256), "q5_k": (176, 256),
    "q6_k": (210, 256), "iq4_nl": (18, 32), "iq4_xs": (136, 256), "iq3_s": (110, 256),
    "iq3_xxs": (98, 256), "iq2_s": (82, 256), "iq2_xs": (74, 256), "iq2_xxs": (66, 256),
    "iq1_m": (56, 256), "iq1_s": (50, 256), "tq1_0": (54, 256), "tq2_0": (66, 256),
}  # fmt: skip
# File types of GGUF, each with the block type of most of its matrices; which of them have another:
# meshwise.models.quantization.gguf.
GGUF_FILES: dict[str, str] = {
    **{name: name for name in GGUF_BLOCKS if name not in ("q3_k", "q4_k", "q5_k", "iq2_s")},
    "q2_k_s": "q2_k", "q3_k_s": "q3_k", "q3_k_m": "q3_k", "q3_k_l": "q3_k", "q4_k_s": "q4_k",
    "q4_k_m": "q4_k", "q5_k_s": "q5_k", "q5_k_m": "q5_k", "iq3_xs": "iq3_s", "iq3_m": "iq3_s",
    "iq2_s": "iq2_xs", "iq2_m": "iq2_s", "mxfp4_moe": "q8_0",
    "q3_k": "q3_k", "q4_k": "q4_k", "q5_k": "q5_k",  # as some name their _M
}  # fmt: skip
ELEMENT_BYTES: dict[str, float] = {
    "fp32": 4.0,
    "tf32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    # Narrow weights carry a scale: 16 bit per group of 128 (AWQ, GPTQ), 8 bit per 32 (MXFP4, MXFP6
    # and MXFP8, OCP Microscaling v1.0), 8 bit per 16 (NVFP4).
    **{f"int{bits}": bits / 8 + 2.0 / 128 for bits in range(1, 8)},
    "mxfp4": 0.5 + 1.0 / 32,
    "mxfp6": 0.75 + 1.0 / 32,
    "nvfp4": 0.5 + 1.0 / 16,
    "mxfp8": 1.0 + 1.0 / 32,
    **{name: size / weights for name, (size, weights) in GGUF_BLOCKS.items()},
}
SCALE_BLOCKS = {  # weights that share a scale
    "int4": 128, "mxfp4": 32, "mxfp6": 32, "nvfp4": 16, "mxfp8": 32,
    **{name: weights for name, (_, weights) in GGUF_BLOCKS.items()},
}  # fmt: skip

# Other words for a format, as engines, checkpoints, frameworks and tables write them.
_WORDS = {
    "fp32": "float32 float fp32_precise f32",
    "tf32": "tensorfloat32",
    "fp16": "float16 half f16 fp16_mixed mixed_fp16",
    "bf16": "bfloat16 bf16_mixed mixed_bf16",
    "fp8": "float8 f8 e4m3 e5m2 e4m3fn float8_e4m3 float8_e5m2 float8_e4m3fn float8_e4m3fnuz "
    "float8_e5m2fnuz fp8_e4m3 fp8_e4m3fn fp8_e5m2 fp8_inc fp8_ds_mla fp8_current fp8_delayed "
    "fp8_cs fp8_ds fp8_sc fp8_hybrid fp8_tensorwise fp8_rowwise fp8_mixed "
    "fp8_dynamic fp8_static fp8_per_tensor fp8_per_channel f8_e4m3 f8_e5m2",
    "int8": "i8 qint8",
    "int4": "i4 uint4 qint4",
    "mxfp4": "mx_fp4",
    "mxfp6": "mx_fp6",
    "mxfp8": "mx_fp8 mxfp8_e4m3 fp8_mx fp8_mxfp8",
    "nvfp4": "fp4 fp4_nv nvfp4_mixed float4 e2m1 fp4_e2m1 float4_e2m1fn nv_fp4",
}
# torch's names of the wide formats, which a config.json states
TORCH_WIDE = ("float32", "float", "float16", "half", "bfloat16")
ALIASES = {word: name for name, words in _WORDS.items() for word in words.split()}


class WeightFormat(NamedTuple):
    """How a word says that weights are stored: a format, and what it says beyond it."""

    dtype: str
    only: bool | None = None  # activations stay wide; None: the word does not say it
    group: int | None = None  # weights that share a scale, where not the format's usual number
    block: tuple[int, int] | None = None
    scale: float | None = None  # bytes of a group's scale and zero, where not the usual ones


# Words that say more than a format: of weights and activations as one (4-bit weights under 16-bit
# products, 8 bit for both), scales per block, and quantisers by name.
_PAIRS: dict[str, WeightFormat] = {
    word: meant
    for words, meant in {
        "w4a16 int4_wo int4wo int4_weight_only w4a16_awq w4a16_gptq": WeightFormat(
            "int4", only=True
        ),
        "w8a16 int8_wo int8wo int8_weight_only": WeightFormat("int8", only=True),
        "w8a8 w8a8_int8 int8_w8a8 int8_dynamic blockwise_int8": WeightFormat("int8", only=False),
        "w4a4 w4a4_nvfp4 modelopt_fp4 modelopt_nvfp4 petit_nvfp4": WeightFormat(
            "nvfp4", only=False
        ),
        "nvfp4_wo nvfp4a16 w4a16_nvfp4": WeightFormat("nvfp4", only=True),
        "mxfp4_wo mxfp4a16 w4a16_mxfp4": WeightFormat("mxfp4", only=True),
        "fp8_wo fp8wo float8_wo fp8_weight_only float8_weight_only w8a16_fp8": WeightFormat(
            "fp8", only=True
        ),
        "w8a8_fp8 fp8_w8a8 ptpc_fp8 modelopt_fp8 fbgemm_fp8 deepspeedfp": WeightFormat(
            "fp8", only=False
        ),
        "fp8_block fp8_blockwise fp8_block_scales block_fp8 blockwise_fp8": WeightFormat(
            "fp8", block=(128, 128)
        ),
        # bitsandbytes: absmax of 64 weights in fp32 (Dettmers et al. 2023, arXiv 2305.14314)
        "nf4 bnb_nf4 bnb_4bit bnb_fp4": WeightFormat("int4", only=True, group=64, scale=4.0),
    }.items()
    for word in words.split()
}
# what weights may be stored as beyond the formats themselves, each under its shortest word
VARIANTS = ("fp8_block", "fp8_wo", "int8_wo", "nvfp4_wo", "nf4", "w8a8", "w8a8_fp8", "w4a4")
COMPUTE = ("fp32", "tf32", "fp16", "bf16", "fp8", "mxfp8", "int8", "nvfp4")  # operands of a product
COMMON_WEIGHT = ("fp32", "fp16", "bf16", "fp8", "mxfp8", "int8", "int4", "mxfp4", "mxfp6", "nvfp4",
           "int2", "int3")  # fmt: skip
WEIGHT = (*COMMON_WEIGHT, *GGUF_BLOCKS)
STATED_WEIGHT = (*COMMON_WEIGHT, *VARIANTS, *GGUF_FILES)  # what an option may say
KV_CACHE = ("fp32", "fp16", "bf16", "fp8", "int8", "int4", "nvfp4")
COMM = ("fp32", "fp16", "bf16", "fp8", "int8")
GRADIENT = ("fp32", "fp16", "bf16")
# Floats that weights are stored in, each with the name of the rate at which a device multiplies them.
FLOAT_WEIGHTS = {"fp8": "fp8", "mxfp8": "fp8", "mxfp6": "fp6", "nvfp4": "nvfp4", "mxfp4": "nvfp4"}
NARROW = ("fp8", "mxfp8", "int8", "nvfp4")  # operands that 16-bit activations are narrowed to

# Four-bit and eight-bit weights under wider activations are expanded before the product, so the
# product runs at the activation's rate (weight-only quantisation).
_WIDER = {
    "nvfp4": ("bf16", "fp16"),  # as its kernels for devices before Blackwell: 16-bit activations
    "mxfp8": ("fp8", "bf16", "fp16"),
    "fp8": ("bf16", "fp16"),
    "fp8_block": ("fp8", "bf16", "fp16"),
    "int8": ("bf16", "fp16"),
}
_BLOCK_SCALE = 4.0  # bytes of an FP8 block's scale


def stored_bytes(
    dtype: str,
    group: int | None,
    scale: float | None = None,
    block: tuple[int, int] | None = None,
) -> float:
    """Bytes per weight of a checkpoint, its scales included, for its own group size; ``scale`` bytes
    per group where they are not the format's usual ones (without groups: one per output, next to
    nothing); an fp32 scale for each ``block``."""
    if block is not None:
        return ELEMENT_BYTES[dtype] + _BLOCK_SCALE / (block[0] * block[1])
    if scale is not None and dtype.startswith("int"):
        return int(dtype[3:]) / 8 + (scale / group if group else 0.0)
    if dtype.startswith("int") and dtype != "int8" and group:
        return int(dtype[3:]) / 8 + 2.0 / group
    return ELEMENT_BYTES[dtype]


def _plain(name: object) -> str:
    """A word for a format without its case, hyphens and its namespace."""
    if not isinstance(name, str):
        return ""
    return name.strip().lower().replace("-", "_").removeprefix("torch.")


def known(name: object) -> str | None:
    """The canonical name of a format that is written in any of its words; None for another word."""
    key = _plain(name)
    key = ALIASES.get(key, key)
    if key in ELEMENT_BYTES:
        return key
    if key in GGUF_FILES:
        return GGUF_FILES[key]
    return _PAIRS[key].dtype if key in _PAIRS else None


def gguf_file(name: object) -> str | None:
    """The file type of GGUF that a word means; None for another word."""
    key = _plain(name).removeprefix("mostly_")
    return key if key in GGUF_FILES else None


def _refused(name: object, field: str, legal: tuple[str, ...]) -> InputError:
    near = closest(name, legal)
    return InputError(
        f"{field}: {quoted(name)} is not a number format that makes sense here",
        field=field,
        value=name,
        legal=legal,
        nearest=near[0] if near else None,
    )


def canonical_dtype(name: object, field: str, legal: tuple[str, ...]) -> str:
    """The canonical name of a dtype; :class:`InputError` where it is not one of ``legal``."""
    key = known(name)
    if key in legal:
        assert key is not None
        return key
    raise _refused(name, field, legal)


def canonical_weights(name: object, field: str = "weights") -> str:
    """The canonical name of a format of weights, one of :data:`WEIGHT`, :data:`VARIANTS` or
    :data:`GGUF_FILES`: what a word says beyond its format is kept."""
    found = known(name)
    if found not in WEIGHT:
        raise _refused(
            name, field, (*COMMON_WEIGHT, *VARIANTS, "q4_k_m", "another file type of GGUF")
        )
    file = gguf_file(name)
    if file is not None:
        return file
    meant = _PAIRS.get(_plain(name))
    if meant is not None and (found in NARROW or meant != WeightFormat(found, only=True)):
        same = (word for word in VARIANTS if _PAIRS[word] == meant)
        found = next(same, found)
    assert found is not None
    return found


def weight_format(name: str) -> WeightFormat:
    """What a word for a format of weights says of them; the word is known."""
    meant = _PAIRS.get(_plain(name))
    return meant if meant is not None else WeightFormat(known(name) or name)


def operands_of(name: object, field: str = "dtype") -> tuple[str | None, str | None]:
    """(operands of the products, stored weights) of a run that one word describes, as a table's column
    or a checkpoint's name does; None where it says nothing that the other does not."""
    found = canonical_dtype(name, field, (*COMPUTE, "int4", "mxfp4"))
    meant = _PAIRS.get(_plain(name))
    weight_only = found in ("int4", "mxfp4") or (meant is not None and meant.only is True)
    return (None, found) if weight_only else (found, None)


def activation_dtype(dtype: str) -> str:
    """What flows between the products: 8-bit and 4-bit products write 16-bit results."""
    if dtype in NARROW:
        return "bf16"
    return "fp32" if dtype == "tf32" else dtype


def peak_dtype(dtype: str, peaks: dict[str, float]) -> str:
    """The format at which a device with these ``peaks`` runs a product of ``dtype`` operands.

    A device without the narrow format's units runs it at the next wider one; fp16 and bf16 stand
    in for each other, fp32 for both (Volta has no bf16).
    """
    for candidate in (dtype, *_WIDER.get(dtype, ()), "bf16", "fp16", "fp32"):
        if candidate in peaks and (candidate != "fp32" or dtype in ("fp32", "bf16", "tf32")):
            return candidate
    return "fp32" if "fp32" in peaks else next(iter(peaks))
