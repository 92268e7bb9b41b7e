"""From the names of a checkpoint's tensors to the modules that they belong to.

Hubs' names of all families are read by their words, not by family: a list of layers, the part of the layer,
the product. What a word means stands once, in the tables below.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from meshwise.models.checkpoint.headers import StoredEntry
from meshwise.models.layers.hub_names import ATTENTION_NAMES, FEED_FORWARD_NAMES, RECURRENT_NAMES

# Parts of a layer, and the model's ends.
LAYER_GROUPS = ("attention", "recurrent", "feed_forward", "experts", "shared_experts", "router", "adapters",
                "norms")  # fmt: skip
END_GROUPS = ("embedding", "head")
# What is no part of the language model that is counted: see ``meshwise.models.parameters``.
APART_GROUPS = ("mtp", "towers", "buffers", "tied_copies")

_LISTS = frozenset(("layers", "h", "blocks", "block", "layer"))
_TOWER = re.compile(
    r"vision|visual|image|merger|audio|speech|video|projector|patch|align|resampler|perceiver|qformer|connector|"
    r"conformer|^vq_?model|^generation_|^gen_|multi_?modal|^mm_|^img_|^vit$|^sam_model|^mlp1$|^talker$|^token2wav$|^code2wav$|^siglip"
)
_MTP = re.compile(r"mtp|nextn|^eh_proj$|^enorm$|^hnorm$|^shared_head$")
_BUFFER = re.compile(
    r"inv_freq|masked_bias|score_correction_bias|correction_bias|^expert_bias$|rotary|^rope$|"
    r"slope_rate$|(query|key|diagonal)_decay$|_cached$|^position_ids$|^[kvq]_scale$|^kv_scale$|^prob_output_scale$|^layer_scalar$"
)
_NORM = re.compile(r"norm|^ln($|_|\d)")
_ATTENTION = frozenset(
    ("self_attn", "attn", "attention", "self_attention", "cross_attn", "indexer")
)
_RECURRENT = frozenset(
    ("linear_attn", "mamba", "mixer", "ssm", "conv", "short_conv", "kda", "temporal_block",
     "linear_attention", "recurrent", "delta_net")
)  # fmt: skip
_FEED_FORWARD = frozenset(
    (
        "mlp",
        "feed_forward",
        "ffn",
        "fc1",
        "fc2",
        "feedforward",
        "residual_mlp",
        "block_sparse_moe",
        "mlp_block",
        "dense_mlp",
    )
)
_ADAPTERS = re.compile(
    r"altup|laurel|per_layer|(^|_)hc(_|$)|hyper_conn|lora|latent_proj|latent_up|latent_down"
)
_ROUTERS = frozenset(("gate", "router", "wg", "shared_expert_gate", "gating"))

_ONES = frozenset(("in_proj", "conv1d", "A_log", "D", "dt_bias", "dt_proj", "x_proj"))  # of a mixer
_EMBEDDING = re.compile(r"embed(?!_out)|^wte$|^wpe$|^project_in$|per_layer|altup|^hc_")
_HEAD = re.compile(
    r"^lm_head$|^output(_layer|_projection)?$|^embed_out$|^head$|^project_out$|norm|^ln_f$"
)
_TABLE = re.compile(
    r"^(embed_tokens|wte|embed_in|(tok|word)_embeddings?|embeddings?|embed|lm_head|output(_layer|_projection)?|"
    r"embed_out|head)$"
)


_OF_MATRICES = ("attention", "recurrent", "feed_forward", "experts", "shared_experts")


class ModuleName(NamedTuple):
    """Where a module stands. ``layer`` None: not in the list of layers; ``group``: one of LAYER_GROUPS,
    END_GROUPS and APART_GROUPS, "" where the name says none; ``slots``: the matrices that its tensor holds."""

    layer: int | None
    group: str
    slots: tuple[str, ...]
    label: str  # its name below the layer, with * for the number of an expert
    is_mtp: bool = False  # a word of multi-token prediction: of a layer past the last


def _layer_group(words: list[str]) -> str:
    leaf = words[-1]
    if any(map(_ADAPTERS.search, words)):
        return "adapters"
    if any(w == "experts" or w.startswith("experts_") for w in words):
        return "experts"
    if leaf in _ROUTERS or "router" in words:
        return "router" if leaf != "gate" or not _ATTENTION.intersection(words) else "attention"
    if words[0] == "block_sparse_moe" and leaf in ("input_linear", "output_linear"):
        return "experts"
    if any(w.startswith("share") for w in words):
        return "shared_experts"
    if "indexer" in words or "compressor" in words:
        return "attention"
    if _RECURRENT.intersection(words[:-1]):
        if words[0] != "mixer" or leaf in _ONES:
            return "recurrent"
        if leaf in ("up_proj", "down_proj"):
            return "feed_forward"
        return "attention" if leaf in ATTENTION_NAMES and leaf != "out_proj" else "recurrent"
    if _NORM.search(leaf) or "act_fn" in words:
        return "norms"
    if _ATTENTION.intersection(words):
        return "attention"
    return "feed_forward" if _FEED_FORWARD.intersection(words) else ""


def _end_group(words: list[str]) -> str:
    for word in words:
        if word in ("embed_out", "embedding_norm"):  # the last one is LFM2's final norm
            return "head"
        if _EMBEDDING.search(word):
            return "embedding"
    return "head" if _HEAD.search(words[-1]) else ""


def _named(path: str) -> ModuleName:
    words = path.split(".")
    place = next(
        (i for i, w in enumerate(words[:-1]) if w in _LISTS and words[i + 1].isdecimal()), None
    )
    outer = words if place is None else words[:place]
    if any(_TOWER.search(w) for w in outer):
        return ModuleName(None, "towers", (), path)
    if any(_MTP.search(w) for w in outer):
        return ModuleName(None, "mtp", (), path)
    if place is None:
        group = "buffers" if any(map(_BUFFER.search, words)) else _end_group(words)
        is_table = group in END_GROUPS and _TABLE.search(words[-1]) is not None
        return ModuleName(None, group, ("table",) if is_table else (), path)
    below = words[place + 2 :]
    layer = int(words[place + 1]) if len(words[place + 1]) < 8 else None
    if not below or layer is None:
        return ModuleName(layer, "", (), path)
    label = re.sub(r"\.\d+(?=\.|$)", ".*", ".".join(below))
    if any(map(_BUFFER.search, below)) or below[-2:] in (["act_fn", "beta"], ["act_fn", "eps"]):
        return ModuleName(layer, "buffers", (), label)
    group = _layer_group(below)
    table = {"attention": ATTENTION_NAMES, "recurrent": RECURRENT_NAMES}.get(
        group, FEED_FORWARD_NAMES
    )
    fits = group in _OF_MATRICES and "indexer" not in below
    slots = table.get(below[-1], ()) if fits else ()
    return ModuleName(layer, group, slots, label, any(map(_MTP.search, below)))


def as_recurrent(name: ModuleName) -> ModuleName:
    """The module of a layer that has a recurrent mixer where others have attention: what attention is
    called is that mixer, its norms with it."""
    first, _, rest = name.label.partition(".")
    of_mixer = name.group == "attention" or (name.group == "norms" and rest and first in _ATTENTION)
    if not of_mixer:
        return name
    return name._replace(group="recurrent", slots=RECURRENT_NAMES.get(rest.rpartition(".")[2], ()))


_DIGITS = re.compile(r"(?<![^.])\d+(?![^.])")  # a number that is a word of its own


class ModuleNames:
    """Names of modules, read once for all that differ by their numbers only."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[ModuleName, int | None]] = {}

    def __call__(self, path: str) -> ModuleName:
        template = _DIGITS.sub("0", path)
        known = self._known.get(template)
        if known is None:
            found = _named(path)
            # which of the numbers is the layer's
            number = _layer_number(path)
            known = self._known[template] = (found, number)
        found, number = known
        if number is None or found.layer is None:
            return found
        return found._replace(layer=int(_DIGITS.findall(path)[number]))


def _layer_number(path: str) -> int | None:
    """Among the numbers in a path, the place of the layer's."""
    words = path.split(".")
    for i, word in enumerate(words[:-1]):
        if word in _LISTS and words[i + 1].isdecimal():
            return len(_DIGITS.findall(".".join(words[: i + 1])))
    return None


# -- tensors of a module -----------------------------------------------------------------------------

# What a module's tensors are called beside its weight: behind a dot, or behind an underscore where a
# stack of experts is one tensor. See ``meshwise.models.checkpoint.packing``.
_KINDS = frozenset(
    ("weight", "bias", "qweight", "qzeros", "scales", "biases", "g_idx", "weight_packed", "weight_scale",
     "weight_scale_inv", "weight_scale_2", "weight_zero_point", "weight_shape", "weight_g_idx",
     "weight_global_scale", "input_scale", "input_scale_inv",
        "input_scale_ub", "input_global_scale", "input_zero_point",
     "output_scale", "activation_scale", "pre_quant_scale", "scale", "zero", "scale_inv", "SCB",
     "weight_format", "q_weight", "q_scale", "q_scale_max", "q_groups", "q_invperm", "q_perm",
     "q_group_map", "trellis", "suh", "svh", "su", "sv", "mcg", "mul1", "codes", "codebooks", "W_q",
     "meta", "nbits", "group_size", "axis", "packing", "shape", "act_scale", "qdata", "zero_point")
)  # fmt: skip
_FUSED = ("_blocks", "_scales", "_bias", "_scale", "_scale_inv", "_weight_scale", "_weight_scale_2",
          "_weight_scale_inv", "_input_scale", "_zero_point", "_packed", "_shape", "_g_idx",
          "_global_scale")  # fmt: skip

ModuleTensors = dict[str, StoredEntry]  # by the kind of the tensor


def modules_of(tensors: Mapping[str, StoredEntry]) -> dict[str, ModuleTensors]:
    """The tensors by module, and by what they are to it."""
    found: dict[str, ModuleTensors] = {}
    for name, entry in tensors.items():
        path, kind = _split(name, tensors)
        found.setdefault(path, {})[kind] = entry
    return found


def _split(name: str, names: Mapping[str, object]) -> tuple[str, str]:
    path, _, last = name.rpartition(".")
    if last == "q_scale" and f"{path}.q_weight" not in names:
        return name, "weight"  # of the cache's queries, and not EXL2's
    if last in _KINDS and path:
        return path, last
    for sign in (".weight.", ".weight:"):  # bitsandbytes; torchao
        path, found, rest = name.partition(sign)
        if found:
            return path, "weight." + rest
    for end in _FUSED:
        if last.endswith(end):
            path = name.removesuffix(end)
            if path in names or f"{path}_blocks" in names or f"{path}_packed" in names:
                kind = end[1:]
                return path, kind if kind.startswith(("weight", "bias", "input")) else _fused(kind)
    return name, "weight"


def _fused(kind: str) -> str:
    return {"scale": "weight_scale", "scale_inv": "weight_scale_inv", "packed": "weight_packed",
            "zero_point": "weight_zero_point", "shape": "weight_shape", "g_idx": "weight_g_idx",
            "global_scale": "weight_global_scale"}.get(kind, kind)  # fmt: skip


def module_names(names: Iterable[str]) -> set[str]:
    """The modules that tensors' names stand for, where there is no more than the names."""
    known = dict.fromkeys(names)
    return {_split(name, known)[0] for name in known}
