"""File types of GGUF: which block type each matrix of a model has in a file of llama.cpp's quantiser.

A file type is a block type for most matrices and a wider one for some: values, down projections, output
(llama.cpp, src/llama-quant.cpp). Without an importance matrix, whose files differ in a few matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from meshwise import dtypes
from meshwise.errors import InputError, closest, quoted
from meshwise.models.quantization.modules import ModuleMatrix
from meshwise.models.quantization.values import stored_as
from meshwise.models.shapes import Model, Stored

_FILES = {**dtypes.GGUF_FILES, "f16": "fp16", "bf16": "bf16", "f32": "fp32"}
_MEDIUM = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}
# Rows that hold no whole blocks of 256 get a type of blocks of 32.
_SHORT_ROWS = {"q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0", "q2_k": "iq4_nl", "q3_k": "iq4_nl",
               "iq4_xs": "iq4_nl"}  # fmt: skip


# Model types whose queries, keys and values are one tensor in a file.
_ONE_TENSOR = ("phi3", "phi", "gpt2", "bloom", "falcon", "mpt", "gpt_bigcode", "gpt_neox", "gptj",
               "chatglm", "qwen", "dbrx", "RefinedWeb", "RefinedWebModel")  # fmt: skip


class TensorPlace(NamedTuple):
    """A matrix among those of its kind: the file's type, its layer, and what its model is like."""

    file: str
    layer: int
    layers: int
    grouped: bool  # four query heads or more share a key; or there are experts
    eight: bool  # eight experts
    seventy: bool  # Llama's 80 layers with grouped keys
    fused: bool = False  # queries, keys and values are one tensor

    @property
    def more_bits(self) -> bool:
        """The first and last eighth of the layers and each third of those between."""
        n, i = self.layers, self.layer
        return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2

    @property
    def early(self) -> bool:
        return self.layer < self.layers // 8


_TINY = ("iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "iq1_s", "iq1_m")


def _tiny(name: str, base: str, c: TensorPlace) -> str:
    two = c.file in ("iq2_s", "iq2_m")
    if name == "value":
        return "q4_k" if c.grouped else "iq3_s" if two else "q2_k"
    if name == "key" and c.eight:
        return "q4_k"
    if name == "down" and c.early:
        return "iq3_s" if two else "q2_k"
    if name == "output":
        if c.eight:
            return "q5_k"
        return "iq2_xxs" if c.file in ("iq1_s", "iq1_m") else "iq3_s" if two else base
    return base


def _value(base: str, c: TensorPlace) -> str:
    f, found = c.file, base
    if f == "q2_k":
        found = "q4_k" if c.grouped else "q3_k"
    elif f in ("q2_k_s", "iq3_xs", "iq3_s") and c.grouped:
        found = "q4_k"
    elif f == "iq3_xxs":
        found = "q4_k" if c.grouped else "iq3_s"
    elif f == "iq3_m":
        found = "q4_k"
    elif f == "q3_k_m":
        found = "q5_k" if c.layer < 2 else "q4_k"
    elif f == "q3_k_l" or (f in ("iq4_nl", "iq4_xs") and c.grouped):
        found = "q5_k"
    elif f in ("q4_k_m", "q5_k_m") and c.more_bits:
        found = "q6_k"
    elif f == "q4_k_s" and c.layer < 4:
        found = "q5_k"
    if c.seventy and found in ("q3_k", "q4_k"):
        found = "q5_k"
    return "q8_0" if c.eight else found


def _down(base: str, c: TensorPlace) -> str:
    f = c.file
    if f == "q2_k":
        return "q3_k"
    if f == "q2_k_s":
        return "q4_k" if c.early else base
    if f == "iq3_xxs":
        return "q4_k" if c.early else "q3_k"
    if f == "q3_k_m":
        return "q5_k" if c.layer < c.layers // 16 else "q4_k"
    if f == "iq3_m":
        return "q4_k" if c.early or (c.eight and c.more_bits) else base
    if f == "q3_k_l" or (f in ("iq4_nl", "iq4_xs", "q4_k_s") and c.early):
        return "q5_k"
    return "q6_k" if f in ("q4_k_m", "q5_k_m") and c.more_bits else base


def _output(base: str, c: TensorPlace) -> str:
    f = c.file
    if c.eight:
        wide = f not in ("q8_0", "q6_k", "q5_k_s", "q5_k_m", "q4_0", "q4_1", "q5_0", "q5_1")
        return "q5_k" if wide and base in dtypes.GGUF_BLOCKS else base
    return {
        "q2_k": "q3_k",
        "iq3_xxs": "iq3_s",
        "q3_k_m": "q4_k",
        "q3_k_l": "q5_k",
        "iq3_m": "q4_k",
    }.get(f, base)


def _block_type(name: str, c: TensorPlace) -> str:
    """Block type of a matrix of a layer: query, key, value, output, gate, up or down."""
    base = _FILES[c.file]
    if c.fused and name in ("query", "key", "value"):
        wider = {
            "q3_k_m": "q4_k",
            "q3_k_l": "q4_k",
            "iq3_m": "q4_k",
            "q4_k_m": "q5_k",
            "q5_k_m": "q6_k",
        }
        return wider.get(c.file, base)
    if c.file in _TINY:
        return _tiny(name, base, c)
    if name == "value":
        return _value(base, c)
    if name == "down":
        return _down(base, c)
    if name == "output":
        return _output(base, c)
    if name == "key" and c.eight:
        return "q8_0"
    if name in ("query", "key"):
        return {"iq3_xs": "iq3_xxs", "iq3_xxs": "iq2_s"}.get(c.file, base)
    between = c.layers // 8 <= c.layer < 7 * c.layers // 8
    return "iq3_xxs" if c.file == "iq3_xs" and between else base


def _ends(file: str, tied: bool) -> tuple[str, str]:
    """Block types of (embedding, head); a table that is both has the head's."""
    base = _FILES[file]
    head = "q5_k" if file in (*_TINY, "iq3_xxs") else "q6_k"
    if base not in dtypes.GGUF_BLOCKS or base == "q8_0":
        head = base
    embedding = base
    if file in ("iq2_xxs", "iq2_xs", "iq1_s", "iq1_m"):
        embedding = "q2_k"
    elif file in ("iq2_s", "iq2_m", "iq3_xxs"):
        embedding = "iq3_s"
    elif file in ("tq1_0", "tq2_0"):
        embedding = "q4_k"
    return (head, head) if tied else (embedding, head)


def _stored(block_type: str, row: int) -> Stored | None:
    if block_type not in dtypes.GGUF_BLOCKS:
        return None
    if row % dtypes.GGUF_BLOCKS[block_type][1]:
        block_type = _SHORT_ROWS.get(block_type, "iq4_nl")
    return stored_as(block_type, dtypes.GGUF_BLOCKS[block_type][1])


class Recipe(NamedTuple):
    """A file type for a model: the format of a layer's matrix, of the embedding, and of the head."""

    of: Callable[[int, ModuleMatrix], Stored | None]
    embedding: Stored | None
    head: Stored | None


def _file_type(name: str, field: str) -> str:
    """A file type by any of its words; :class:`InputError` for a word that is none."""
    found = dtypes.gguf_file(name) or (name.lower() if name.lower() in _FILES else None)
    if found is None:
        near = closest(name.lower(), list(_FILES))
        raise InputError(
            f"{field}: {quoted(name)} is not a file type of GGUF",
            field=field,
            value=name,
            legal=[key.upper() for key in _FILES],
            nearest=near[0].upper() if near else None,
        )
    return found


def table_format(name: str, model: Model, field: str) -> Stored | None:
    """The format of a table of embeddings that is of one block type; None: as ``Model.dtype``."""
    return _stored(_FILES[_file_type(name, field)], model.embedding_dim or model.hidden)


def recipe(name: str, model: Model, field: str) -> Recipe:
    """What a file type makes of a model; :class:`InputError` for a word that is none."""
    found = _file_type(name, field)
    file = _MEDIUM.get(found, found)
    experts = max((b.moe.experts for b in model.blocks if b.moe is not None), default=0)
    heads = next((b.attention for b in model.blocks if b.attention is not None), None)
    shared = heads.heads // heads.kv_heads if heads is not None else 1

    def of(layer: int, matrix: ModuleMatrix) -> Stored | None:
        case = TensorPlace(
            file,
            layer,
            model.layers,
            grouped=shared >= 4 or experts >= 4,
            eight=experts == 8,
            seventy=model.layers == 80 and shared == 8 and model.model_type == "llama",
            fused=model.model_type in _ONE_TENSOR,
        )
        # gpt-oss comes with its experts in MXFP4, which every file type keeps (llama.cpp's converter)
        kept = file == "mxfp4_moe" or model.model_type == "gpt_oss"
        if kept and matrix.role.startswith("expert_"):
            return stored_as("mxfp4", dtypes.SCALE_BLOCKS["mxfp4"])  # a block's 17 bytes, of 32
        return _stored(_block_type(matrix.name, case), matrix.inputs)

    width = model.embedding_dim or model.hidden
    embedding, head = _ends(file, model.tied)
    return Recipe(of, _stored(embedding, width), _stored(head, width))
