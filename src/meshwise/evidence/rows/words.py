"""Words that tables have for what options of the command line say in fewer: sharding, recomputation,
attention kernels, optimizers, what is offloaded."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from meshwise.axes import RECOMPUTE_MODES, SHARD_STAGES
from meshwise.errors import closest, quoted
from meshwise.evidence.tables import Row
from meshwise.stacks.switches import switch_named
from meshwise.stacks.training_state import EVERY_LAYER
from meshwise.stacks.words import MOMENTS, OPTIMIZERS

_SHARDS = {
    **{word: word for word in SHARD_STAGES},
    **{f"{prefix}{n}": SHARD_STAGES[n] for prefix in ("", "stage") for n in range(4)},
    **dict.fromkeys(("ddp", "dp", "noshard", "no", "false", "replicated", "zero0"), "none"),
    **dict.fromkeys(("distributedoptimizer", "distopt", "os", "optimizer", "dist"), "zero1"),
    **dict.fromkeys(("shardgradop", "os+g", "optimgrads"), "zero2"),
    **dict.fromkeys(
        *(("fsdp", "fsdp1", "fsdp2", "hsdp", "fullshard", "full", "hybridshard", "hybrid"), "zero3")
    ),
    **dict.fromkeys(("zero++", "zeropp", "megatronfsdp", "optimgradsparams", "os+g+p"), "zero3"),
}
_RECOMPUTES = {
    **{word: word for word in RECOMPUTE_MODES},
    **dict.fromkeys(("no", "false", "off", "0", "disabled", "never"), "none"),
    **dict.fromkeys(("sel", "selectiveop", "op", "coreattn", "attention", "partial"), "selective"),
    **dict.fromkeys(
        *(("yes", "true", "on", "1", "always", "uniform", "block", "gradientcheckpointing"), "full")
    ),
    **dict.fromkeys(("fullrecompute", "activationcheckpointing", "layer", "enabled"), "full"),
    **dict.fromkeys(("selectiverecompute", "selectiveactivation"), "selective"),
}
# Kernels that no version is said of: PyTorch's own dispatch to FlashAttention-2, cuDNN's and those of
# TransformerEngine, XLA and FlexAttention are priced as the third version's.
_FUSED = {
    **dict.fromkeys(("flash", "fused", "flashattn", "flashattention", "triton"), None),
    **dict.fromkeys(("sdpa", "torchsdpa", "xformers", "memoryefficient", "mea"), 2),
    **dict.fromkeys(
        *(("te", "transformerengine", "cudnn", "cudnnflash", "cudnnflashte", "flex"), 3)
    ),
    **dict.fromkeys(("flexattention", "splash", "pallas", "fusedattention", "aiter", "ck"), 3),
}
_UNFUSED = ("unfused", "eager", "math", "torch", "none", "naive", "core", "local", "dotproduct")
_VERSIONED = re.compile(r"(?:flash(?:attn|attention)?|fa)v?(\d)(?:[.\d]*)(?:beta)?")
_EIGHT_BIT = ("adam8bit", "adamw8bit", "8bitadam", "8bitadamw", "pagedadamw8bit")
_OPTIMIZERS: dict[str, dict[str, Any]] = {
    **{name: {"optimizer": name} for name in OPTIMIZERS},
    **{w: {"optimizer": "adam"} for w in ("adamw", "cpuadam", "fusedadam", "distributedadam")},
    **{w: {"optimizer": "adam", "moments_dtype": "fp8"} for w in _EIGHT_BIT},
    "momentum": {"optimizer": "sgd"},
    "lamb": {"optimizer": "adam"},
}
_NOTHING = {"offload_optimizer": False, "offload_layers": 0}
_STATE, _KEPT = {"offload_optimizer": True}, {"offload_layers": EVERY_LAYER}
_OFFLOADS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("none", "no", "false"), _NOTHING),
    **dict.fromkeys(("optimizer", "optim", "cpuadam", "true", "cpu"), _STATE),
    **dict.fromkeys(("activations", "activation", "act"), _KEPT),
    **dict.fromkeys(("all", "both"), _STATE | _KEPT),
}
_PARTS = re.compile(r"[+,;/ ]+")


def plain_word(text: str) -> str:
    """A word without its case, spaces, hyphens and underscores."""
    return re.sub(r"[-_\s]+", "", text.lower())


class AttentionKernel(NamedTuple):
    """What a word for an attention kernel says; ``version`` None: the software's own."""

    fused: bool
    version: int | None


def _looked_up(row: Row, column: str, words: dict[str, Any], legal: tuple[str, ...]) -> Any:
    cell = row.text(column)
    found = words.get(plain_word(cell))
    if found is None:
        error = row.wrong(column, f"{quoted(cell)} is not known", legal)
        near = closest(plain_word(cell), tuple(words))
        error.nearest = near[0] if near else None
        raise error
    return found


def shard_of(row: Row) -> str | None:
    """The sharding that a row states, as the option has it; None where it does not say."""
    cell = plain_word(row.text("shard"))
    if not cell:
        return None
    found: str = _looked_up(row, "shard", _SHARDS, (*SHARD_STAGES, "fsdp", "hsdp", "ddp"))
    return found


def recompute_of(row: Row) -> str | None:
    """The recomputation that a row states; None where it does not say."""
    if not row.text("recompute"):
        return None
    found: str = _looked_up(row, "recompute", _RECOMPUTES, RECOMPUTE_MODES)
    return found


def attention_of(row: Row) -> AttentionKernel | None:
    """The attention kernel that a row states; a version beyond those that are priced is the last."""
    cell = plain_word(row.text("attention"))
    if not cell:
        return None
    if cell in _UNFUSED:
        return AttentionKernel(False, None)
    if cell in _FUSED:
        return AttentionKernel(True, _FUSED[cell])
    versioned, bounds = _VERSIONED.fullmatch(cell), switch_named("flash_version").range
    assert bounds is not None
    if versioned is None or not 1 <= int(versioned[1]) <= 4:
        known = ("flash", "flash1", "flash2", "flash3", "flash4", "cudnn", "sdpa", "te", "unfused")
        raise row.wrong("attention", f"{quoted(row.text('attention'))} is not known", known)
    return AttentionKernel(True, min(int(versioned[1]), int(bounds.high)))


def optimizer_of(row: Row) -> dict[str, Any]:
    """Switches that a row's optimizer is: its kind, and the width of its moments where the word says it."""
    if not row.text("optimizer"):
        return {}
    return dict(_looked_up(row, "optimizer", _OPTIMIZERS, (*OPTIMIZERS, "adamw-8bit")))


def moments_of(row: Row) -> dict[str, Any]:
    """The format of the moments that a row states."""
    if not row.text("moments_dtype"):
        return {}
    words = {plain_word(w): w for w in MOMENTS} | {"int8": "fp8", "8bit": "fp8"}
    return {"moments_dtype": _looked_up(row, "moments_dtype", words, MOMENTS)}


def offload_of(row: Row) -> dict[str, Any]:
    """Switches that a row's column ``offload`` is: ``optimizer``, ``activations``, both with a plus."""
    found: dict[str, Any] = {}
    for part in _PARTS.split(row.text("offload").lower()):
        if not part:
            continue
        known = _OFFLOADS.get(plain_word(part))
        if known is None:
            legal = ("none", "optimizer", "activations", "optimizer+activations")
            raise row.wrong("offload", f"{quoted(part)} is not known", legal)
        found |= known
    return found
