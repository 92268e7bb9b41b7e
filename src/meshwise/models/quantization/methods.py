"""The methods of quantisation: each reads its own keys into formats and the modules that have them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from meshwise import dtypes
from meshwise.models.quantization import containers, gguf, torchao
from meshwise.models.quantization.modules import ModuleFormat, rules
from meshwise.models.quantization.stated import MethodFormats, StatedMethod, each_module, kept_wide
from meshwise.models.quantization.values import (
    NOT_KNOWN,
    Config,
    by_bits,
    integer,
    pair,
    real,
    stored_as,
    table_in,
    word_in,
)
from meshwise.models.shapes import Stored

# -- 8-bit floats, block formats -------------------------------------------------------------------

_PLAIN = {"fbgemm_fp8": "fp8", "fp8": "fp8", "deepspeedfp": "fp8", "finegrained_fp8": "fp8",
          "ptpc_fp8": "fp8", "eetq": "int8", "tpu_int8": "int8", "bitnet": "int2", "mxfp4": "mxfp4",
          "mxfp8": "mxfp8", "nvfp4": "nvfp4"}  # fmt: skip
_WIDENED = ("eetq", "tpu_int8", "bitnet")


def _plain(a: StatedMethod) -> MethodFormats:
    """One format for every linear layer: FP8 per tensor, channel or block, MXFP4, NVFP4, INT8."""
    method = word_in(a.c.get("quant_method"), a.c.get("quantization_method")).lower()
    dtype = _PLAIN[method]
    group = dtypes.SCALE_BLOCKS.get(dtype) if dtype in ("mxfp4", "mxfp8", "nvfp4") else None
    block = pair(a.c.get("weight_block_size")) if dtype == "fp8" else None
    usual = stored_as(dtype, group, block, only=method in _WIDENED)
    if method == "bitnet":
        usual = msgspec.structs.replace(usual, scale=0.0)  # one per matrix
    expert = dtypes.known(word_in(a.c.get("expert_dtype"), a.outer.get("expert_dtype")))
    # DeepSeek-V4's "fp4" has a UE8M0 scale for 32 weights
    experts = _experts(stored_as("mxfp4", 32), a) if expert == "nvfp4" else []
    mixed = table_in(a.c.get("quantized_layers"))
    if mixed:
        # ModelOpt over such a checkpoint: what it leaves alone stays as it was
        own = each_module(mixed, containers.modelopt_format, f"{a.field}.quantized_layers")
        return MethodFormats(usual, own + experts)
    skipped = kept_wide(a)
    if method == "mxfp4":  # transformers and engines replace nothing but the experts
        return MethodFormats(None, skipped + _experts(usual, a))
    return MethodFormats(usual, skipped + experts)


def _experts(stored: Stored, a: StatedMethod) -> list[ModuleFormat]:
    """The routed experts in a format, where the model has any."""
    if not any(block.moe is not None for block in a.model.blocks):
        return []
    return rules(["*.experts.*"], stored, a.field)


def _bitsandbytes(a: StatedMethod) -> MethodFormats:
    """LLM.int8() (a scale per output), or 4 bit: an fp32 absmax for 64 weights; nested in 8 bit, with
    an fp32 scale for 256 of them (arXiv 2305.14314, section 3)."""
    four = a.c.get("load_in_4bit") is True or a.c.get("_load_in_4bit") is True
    if not four:
        return MethodFormats(stored_as("int8", only=True), kept_wide(a))
    scale = 1.0 + 4.0 / 256 if a.c.get("bnb_4bit_use_double_quant") is True else 4.0
    return MethodFormats(stored_as("int4", 64, only=True, scale=scale), kept_wide(a))


# -- integer groups --------------------------------------------------------------------------------

# Files hold a zero point for each scale, packed at the width of the weights (AutoGPTQ and GPTQModel
# ``qzeros``, AutoAWQ GEMM; auto-round packs as these do).
_PACKED = ("awq", "gptq", "auto-round", "auto_round", "intel/auto-round", "autoround")
_OFFSETS = ("mlx", "hqq", "quanto", "sinq", "metal", "rtn")  # 16-bit scale and offset per group


def _scaled(dtype: str, group: int | None, method: str, c: Config) -> Stored:
    """Integers with the bytes of a group's scale and zero."""
    if not dtype.startswith("int"):
        return stored_as(dtype, group, only=True)
    if group is None:
        whole = -1 in (c.get("group_size"), c.get("q_group_size"))
        return stored_as(dtype, None, only=True, scale=0.0 if whole else None)
    scale = 2.0
    if method.startswith(_PACKED) and c.get("checkpoint_format") != "marlin":
        scale += int(dtype[3:]) / 8
    elif method in _OFFSETS:
        scale = 4.0
    return stored_as(dtype, group, only=True, scale=scale)


def _floats(c: Config) -> str | None:
    """auto-round's formats that are no integers."""
    name = word_in(c.get("data_type")).lower()
    if name.startswith("nv_fp"):
        return "nvfp4"
    if name.startswith("mx_fp"):
        return "mxfp8" if c.get("bits") == 8 else "mxfp4"
    return "fp8" if name.startswith("fp8") or (name == "fp" and c.get("bits") == 8) else None


def _of_bits(entry: Config, default: Stored, method: str, c: Config) -> Stored | None:
    """A module's own bits and group where it states them, the checkpoint's where not."""
    bits = integer(entry.get("bits"), entry.get("num_bits"))
    if bits is not None and bits >= 16:
        return None
    floats = _floats(entry)
    if floats is not None:
        return stored_as(floats, dtypes.SCALE_BLOCKS.get(floats))
    if bits is None and not entry.get("group_size"):
        return default
    dtype = default.dtype if bits is None else by_bits(bits)
    whole = entry.get("group_size") == -1
    group = None if whole else integer(entry.get("group_size")) or default.group
    return _scaled(dtype, group, method, entry if whole else {**c, "group_size": group})


def _by_bits(a: StatedMethod) -> MethodFormats:
    """Integers in groups: GPTQ, AWQ, auto-round and their like, with rules for modules of their own."""
    c, method = a.c, word_in(a.c.get("quant_method"), a.c.get("quantization_method")).lower()
    floats = _floats(c)
    if floats is not None:
        default = stored_as(floats, dtypes.SCALE_BLOCKS.get(floats) if floats != "fp8" else None)
    else:
        four = 4 if "awq" in method or "marlin" in method else None
        bits = integer(c.get("bits"), c.get("w_bit"), c.get("num_bits"), c.get("nbits")) or four
        group = integer(c.get("group_size"), c.get("q_group_size"))
        stated = any(k in c for k in ("group_size", "q_group_size"))
        usual = None if stated or not method.startswith(("awq", "gptq")) else 128  # their default
        default = _scaled(by_bits(bits), group or usual, method, c)
    found = kept_wide(a)
    for key in ("dynamic", "extra_config", "module_quant_configs"):
        own = {k: v for k, v in table_in(c.get(key)).items() if v != {} or k.startswith("-:")}
        found = (
            each_module(own, lambda e: _of_bits(e, default, method, c), f"{a.field}.{key}") + found
        )
    # a GPTQ checkpoint in the order of activations has each input's group, as int32
    order = method.startswith("gptq") and c.get("desc_act") is True
    head = c.get("lm_head") is True or c.get("quant_lm_head") is True
    embedding = c.get("quantize_embeddings") is True
    return MethodFormats(default, found, (embedding, head), _input_index if order else None)


def _input_index(stored: Stored, inputs: int, outputs: int) -> float:
    return 4.0 * inputs


def _mlx(a: StatedMethod) -> MethodFormats:
    """MLX: every matrix, embedding and head too, and entries for modules of their own."""
    c = a.c
    mode = word_in(c.get("mode"))
    named = {k: v for k, v in c.items() if "." in k or k in ("lm_head", "model")}
    named = {k: v for k, v in named.items() if v is False or isinstance(v, dict)}

    def read(entry: Config) -> Stored:
        how = word_in(entry.get("mode"), mode)
        group = integer(entry.get("group_size"), c.get("group_size"))
        if how.startswith(("mxfp", "nvfp")):
            dtype = dtypes.known(how) or "unknown"
            return stored_as(dtype, group or dtypes.SCALE_BLOCKS.get(dtype), only=True)
        return _scaled(by_bits(integer(entry.get("bits"), c.get("bits"))), group, "mlx", c)

    return MethodFormats(read(c), each_module(named, read, a.field), (True, True))


def _hqq(a: StatedMethod) -> MethodFormats:
    """HQQ: groups with a 16-bit scale and zero; one format, or one by the name of the projection."""
    c = a.c
    skipped = kept_wide(a)

    def read(entry: Config) -> Stored:
        inner = table_in(entry.get("weight_quant_params")) or entry
        bits = integer(inner.get("nbits"), inner.get("bits"))
        return _scaled(by_bits(bits), integer(inner.get("group_size")), "hqq", inner)

    whole = table_in(c.get("quant_config"))
    if (
        whole
        and "weight_quant_params" not in whole
        and all(isinstance(v, dict) for v in whole.values())
    ):
        return MethodFormats(None, skipped + each_module(whole, read, f"{a.field}.quant_config"))
    own = table_in(c.get("dynamic_config"))
    if own:
        return MethodFormats(None, skipped + each_module(own, read, f"{a.field}.dynamic_config"))
    return MethodFormats(read(whole or c), skipped)


def _exl(a: StatedMethod) -> MethodFormats:
    """EXL2 and EXL3: a mean of bits over the linear layers, and the head's own."""
    bits, head = real(a.c.get("bits")), real(a.c.get("head_bits"))
    if bits is None:
        return MethodFormats(NOT_KNOWN, kept_wide(a))

    def of(mean: float) -> Stored:
        whole = by_bits(max(1, min(8, int(mean))))
        return msgspec.structs.replace(stored_as(whole, only=True), mean_bytes=mean / 8)

    found = []
    for name, entry in table_in(a.c.get("tensor_storage")).items():
        own = real(table_in(entry).get("bits_per_weight"))
        if own is not None and "." in name:
            found += rules([name], of(own), f"{a.field}.tensor_storage")
    if head is not None:
        found += rules(["lm_head"], of(head), a.field)
    return MethodFormats(of(bits), found + kept_wide(a))


def _aqlm(a: StatedMethod) -> MethodFormats:
    """AQLM: codes of several codebooks for a group of weights, and each matrix's own codebooks in 16 bit
    (Egiazarian et al. 2024, arXiv 2401.06118)."""
    books, bits = integer(a.c.get("num_codebooks")), integer(a.c.get("nbits_per_codebook"))
    group = (integer(a.c.get("in_group_size")) or 0) * (integer(a.c.get("out_group_size")) or 0)
    if not books or not bits or bits > 16 or not group:
        return MethodFormats(NOT_KNOWN, kept_wide(a))
    mean = books * bits / group / 8
    whole = by_bits(max(1, min(8, int(mean * 8))))
    stored = msgspec.structs.replace(stored_as(whole, only=True), mean_bytes=mean)
    size = books * 2**bits * group * 2.0
    return MethodFormats(stored, kept_wide(a), overhead=lambda s, k, n: size + 2.0 * n)


def _quanto(a: StatedMethod) -> MethodFormats:
    """quanto: weights by the name of their dtype, a scale and an offset per group of 128."""
    dtype = dtypes.known(word_in(a.c.get("weights")).removeprefix("q")) or "unknown"
    if dtype == "fp8":
        return MethodFormats(stored_as("fp8", only=True), kept_wide(a))
    narrow = dtype in ("int2", "int4")
    return MethodFormats(_scaled(dtype, 128 if narrow else None, "quanto", a.c), kept_wide(a))


def _floating(a: StatedMethod) -> MethodFormats:
    """FP-Quant and Four Over Six: a micro-scaled format by its name."""
    dtype = dtypes.known(
        word_in(a.c.get("forward_dtype"), a.c.get("weight_dtype"), a.c.get("dtype"))
    )
    if dtype not in ("mxfp4", "nvfp4"):
        return MethodFormats(NOT_KNOWN, kept_wide(a))
    return MethodFormats(stored_as(dtype, dtypes.SCALE_BLOCKS[dtype]), kept_wide(a))


def _torchao(a: StatedMethod) -> MethodFormats:
    default, own, ends = torchao.formats(a.c)
    found = [r for name, stored in own for r in rules([name], stored, f"{a.field}.quant_type")]
    return MethodFormats(default, found + kept_wide(a), ends)


def _gguf(a: StatedMethod) -> MethodFormats:
    """GGUF: a file type, which says the block type of each matrix; a file alone says nothing of it. Another
    type of the table of embeddings is stated apart, as to llama.cpp's quantiser (``--token-embedding-type``).
    """
    if not word_in(a.c.get("file_type")):
        return MethodFormats(NOT_KNOWN, [])
    recipe = gguf.recipe(word_in(a.c.get("file_type")), a.model, f"{a.field}.file_type")
    embedding, head = recipe.embedding, recipe.head
    table = word_in(a.c.get("token_embedding_type"))
    if table:
        embedding = gguf.table_format(table, a.model, f"{a.field}.token_embedding_type")
        head = embedding if a.model.tied else head
    found = rules(["embed_tokens"], embedding, a.field)
    found += rules(["lm_head"], head, a.field)
    return MethodFormats(None, found, choice=recipe.of)


_BY_BITS = ("awq", "gptq", "marlin", "auto-round", "auto_round", "intel/auto-round", "gptq_marlin",
            "awq_marlin", "gptqmodel", "autoawq", "rtn", "squeezellm", "autoround", "higgs",
            "moe_wna16", "sinq", "metal", "gemma")  # fmt: skip
READERS: dict[str, Callable[[StatedMethod], MethodFormats]] = {
    **dict.fromkeys(_PLAIN, _plain),
    **dict.fromkeys(("bitsandbytes", "bnb"), _bitsandbytes),
    **dict.fromkeys(("fp_quant", "fouroversix"), _floating),
    **dict.fromkeys(("exl2", "exl3"), _exl),
    **dict.fromkeys(_BY_BITS, _by_bits),
    "compressed-tensors": containers.compressed_tensors,
    "quark": containers.quark,
    "mlx": _mlx,
    "hqq": _hqq,
    "aqlm": _aqlm,
    "quanto": _quanto,
    "torchao": _torchao,
    "gguf": _gguf,
}


def read_method(method: str, asked: StatedMethod) -> MethodFormats:
    """What a ``quant_method`` says; a method that is not known leaves every matrix "unknown"."""
    read = READERS.get(method)
    if read is None and (method.startswith("modelopt") or asked.c.get("quant_algo")):
        read = containers.modelopt
    if read is None:
        return MethodFormats(NOT_KNOWN, kept_wide(asked))
    found = read(asked)
    if method.startswith("gemma"):
        return found._replace(ends=(found.ends[0], True))
    return found
