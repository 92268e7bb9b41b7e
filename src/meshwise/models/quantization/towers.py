"""Whether a checkpoint's quantisation reaches the encoders of images and sounds beside the language model.

Most leave them in 16 bit: methods that work on the blocks of a language model never meet them, and those
that replace every linear layer name them among what is left out.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from meshwise.models.quantization.modules import ModuleFormat
from meshwise.models.shapes import Stored, Tower

# Methods that replace every linear layer that nothing leaves out; others (AWQ, GPTQ, auto-round, MLX,
# GGUF, EXL2 …) quantise the blocks of the language model.
_EVERY_LINEAR = (
    "compressed-tensors", "modelopt", "fp8", "fbgemm_fp8", "finegrained_fp8", "ptpc_fp8",
    "bitsandbytes", "bnb", "quark", "torchao", "quanto", "hqq", "eetq",
)  # fmt: skip
# What modules of each kind are called: a pattern with one of these words means them.
_WORDS = {
    "vision": ("vision", "visual", "vit", "image", "siglip", "clip"),
    "audio": ("audio", "speech", "sound", "whisper"),
    "projector": (
        "projector", "merger", "mm_proj", "aligner", "connector", "resampler", "embed_vision",
        "embed_audio", "mlp1", "vision_adapter",
    ),
}  # fmt: skip


def replaces_every_linear(method: str) -> bool:
    """Whether a method reaches linear layers outside of the language model's own: towers, and layers of
    multi-token prediction."""
    return any(method.startswith(name) for name in _EVERY_LINEAR)


def tower_formats(
    towers: tuple[Tower, ...], method: str, found: Iterable[ModuleFormat], default: Stored | None
) -> tuple[Tower, ...]:
    """The towers with the format of their matrices: what the first pattern that means them says, else
    ``default`` where the method replaces every linear layer. A projector goes with its encoder."""
    every = replaces_every_linear(method)
    rules = list(found)
    named: dict[str, Stored | None] = {}  # by block
    formats = []
    for tower in towers:
        usual = named.get(tower.block, default if every else None)
        stored = _first(rules, tower.kind, usual)
        if tower.kind != "projector":
            named[tower.block] = stored
        formats.append(msgspec.structs.replace(tower, stored=stored))
    return tuple(formats)


def _first(rules: list[ModuleFormat], kind: str, usual: Stored | None) -> Stored | None:
    """What the first rule says whose pattern means towers of a kind; a pattern of a projector alone says
    nothing of its encoder."""
    for rule in rules:
        text = rule.pattern.text.lower()
        joins = any(word in text for word in _WORDS["projector"])
        if any(word in text for word in _WORDS[kind]) and joins == (kind == "projector"):
            return rule.stored
    return usual
