"""Checkpoints as files: headers of any layout over data that no one writes (the files are sparse)."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Shape = tuple[str, list[int]]  # type and shape of a tensor, as a header has them
BITS = {"F64": 64, "I64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16,
        "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4, "BOOL": 8}  # fmt: skip


def size(tensor: Shape) -> int:
    return math.prod(tensor[1]) * BITS[tensor[0]] // 8


def header_of(tensors: Mapping[str, Shape]) -> dict[str, Any]:
    place, table = 0, {}
    for name, (dtype, shape) in tensors.items():
        end = place + size((dtype, shape))
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, end]}
        place = end
    return table


def write(path: Path, tensors: Mapping[str, Shape]) -> int:
    """A file with these tensors; the bytes of its data."""
    text = json.dumps({"__metadata__": {"format": "pt"}, **header_of(tensors)}).encode()
    total = sum(map(size, tensors.values()))
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + total)
    return total


def sharded(folder: Path, tensors: Mapping[str, Shape], shards: int) -> int:
    """The same in several files with an index."""
    names = list(tensors)
    weight_map, total = {}, 0
    for i in range(shards):
        part = names[i::shards]
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        total += write(folder / file, {n: tensors[n] for n in part})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


# -- a small model, and its linear layers in the public layouts ------------------------------------

HIDDEN, WIDTH, VOCAB, LAYERS, HEADS, KV_HEADS = 512, 1024, 1024, 3, 8, 4
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "intermediate_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "vocab_size": VOCAB,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
KV = HIDDEN // HEADS * KV_HEADS
LINEAR = {  # (outputs, inputs)
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV, HIDDEN),
    "self_attn.v_proj": (KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (WIDTH, HIDDEN),
    "mlp.up_proj": (WIDTH, HIDDEN),
    "mlp.down_proj": (HIDDEN, WIDTH),
}
Layout = Callable[[int, int], dict[str, Shape]]  # tensors of a linear layer (outputs, inputs)


def plain(outputs: int, inputs: int) -> dict[str, Shape]:
    return {"weight": ("BF16", [outputs, inputs])}


def llama(layout: Layout = plain, layers: int = LAYERS) -> dict[str, Shape]:
    """The tensors of the small model."""
    found: dict[str, Shape] = {"model.embed_tokens.weight": ("BF16", [VOCAB, HIDDEN])}
    for i in range(layers):
        for name, (outputs, inputs) in LINEAR.items():
            for kind, tensor in layout(outputs, inputs).items():
                found[f"model.layers.{i}.{name}.{kind}"] = tensor
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"model.layers.{i}.{norm}.weight"] = ("BF16", [HIDDEN])
    return found | {
        "model.norm.weight": ("BF16", [HIDDEN]),
        "lm_head.weight": ("BF16", [VOCAB, HIDDEN]),
    }


def folder_of(folder: Path, tensors: Mapping[str, Shape], config: Mapping[str, Any] = LLAMA) -> int:
    """A folder with the config and one file; the bytes of its data."""
    (folder / "config.json").write_text(json.dumps(config))
    return write(folder / "model.safetensors", tensors)
