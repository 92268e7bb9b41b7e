"""Which matrices of a model a checkpoint's patterns mean, and the format of each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from itertools import product
from typing import NamedTuple

import msgspec

from meshwise import dtypes
from meshwise.errors import InputError, quoted
from meshwise.models.formats import with_layer_formats
from meshwise.models.layers.hub_names import (
    ATTENTION_NAMES,
    FEED_FORWARD_NAMES,
    GATE_NAMES,
    RECURRENT_NAMES,
    names_of,
)
from meshwise.models.parameters import attention_matrices, indexer_matrices
from meshwise.models.quantization.patterns import Pattern
from meshwise.models.shapes import Block, LayerFormats, Mlp, Model, MultiToken, Stored

# What checkpoints call the parts of a layer; the matrices in them: meshwise.models.layers.hub_names.
_ATTENTION = ("self_attn", "attn", "attention", "self_attention", "mixer", "temporal_block")
_RECURRENT = ("linear_attn", "mamba", "mixer", "self_attn", "attn", "conv", "short_conv", "kda",
              "temporal_block")  # fmt: skip
_MLP = ("mlp", "feed_forward", "ffn", "mixer", "residual_mlp")
_MOE = ("block_sparse_moe.", "moe.", "feed_forward.", "ffn.", "mixer.", "")
_MEGABLOCKS = "ffn.experts.mlp."  # where DBRX's routed experts are, which has no shared ones
_SHARED = ("shared_experts.", "shared_expert.", "shared_mlp.", "share_expert.")
_ROUTED = ("experts.0.", "experts.")
_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "tok_embeddings", "embed_in", "embed", "embeddings",
             "word_embedding", "embedding")  # fmt: skip
_HEADS = ("lm_head", "output", "head", "embed_out", "output_layer")
# Words of modules that stand beside the matrices of layers: a pattern with one of them may mean what
# is never quantised, or a tower, or a multi-token-prediction head.
_BESIDE = (
    "vision", "visual", "image", "audio", "speech", "tower", "projector", "projection", "merger",
    "modal", "modality", "mm_", "aligner", "connector", "resampler", "perceiver", "encoder", "patch",
    "embed", "norm", "router", "gate", "mtp", "nextn", "eagle", "draft", "medusa", "score",
    "classifier", "rotary", "conv", "indexer", "compressor", "correction", "bias", "head", "lora",
    "eh_proj", "dt_", "a_log", "ssm", "mamba", "linear_attn", "pooler", "adapter", "talker", "code2wav",
    "qa_outputs", "clip", "qformer", "vit", "altup", "laurel", "per_layer", "tokenizer",
)  # fmt: skip


# Where one name stands for both kinds of mixer (Nemotron-H), what is in them is called differently.
_STATES_OUTPUT = "mixer.out_proj"
_ATTENTION_MIXER = frozenset(f"mixer.{name}" for name in ATTENTION_NAMES) - {_STATES_OUTPUT}


class ModuleMatrix(NamedTuple):
    """A matrix of a layer, or several alike."""

    name: str  # query, key, value, …, output, up, gate, down
    role: str  # its field of LayerFormats
    leaves: tuple[str, ...]  # what checkpoints may call it, below the layer
    inputs: int
    outputs: int
    copies: int = 1

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs * self.copies


def _under(parents: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(f"{p}{n}" for p, n in product(parents, names)))


def _mlp(
    m: Mlp, hidden: int, role: str, parents: tuple[str, ...], copies: int = 1
) -> list[ModuleMatrix]:
    """A feed-forward's matrices; where it has no gate, the first of two is called as gates are."""

    def matrix(
        name: str, field: str, names: tuple[str, ...], inputs: int, outputs: int
    ) -> ModuleMatrix:
        return ModuleMatrix(name, f"{role}{field}", _under(parents, names), inputs, outputs, copies)

    ups, gates = names_of("up", FEED_FORWARD_NAMES), names_of("gate", FEED_FORWARD_NAMES)
    downs = names_of("down", FEED_FORWARD_NAMES)
    found = [matrix("up", "up", ups if m.gated else (*ups, *gates), hidden, m.width)]
    if m.gated:
        found.append(matrix("gate", "up", gates, hidden, m.width))
    return [*found, matrix("down", "down", downs, m.width, hidden)]


@functools.lru_cache(maxsize=256)
def matrices(block: Block, hidden: int) -> tuple[ModuleMatrix, ...]:
    """The matrices of a layer that may be quantised, each with the names that it may have."""
    found: list[ModuleMatrix] = []
    if block.attention is not None:
        parents = tuple(f"{p}." for p in _ATTENTION)
        made = (
            *attention_matrices(block.attention, hidden),
            *indexer_matrices(block.attention, hidden),
        )
        for m in made:
            names = names_of(m.role, ATTENTION_NAMES, GATE_NAMES) or (m.role,)
            field = "output" if m.role in ("output", "output_down") else "attention"
            leaves = tuple(n for n in _under(parents, names) if n != _STATES_OUTPUT)
            found.append(ModuleMatrix(m.role, field, leaves, m.inputs, m.outputs))
    if block.recurrent is not None:
        parents = tuple(f"{p}." for p in _RECURRENT)
        for m in block.recurrent.matrices(hidden):
            names = names_of(m.role, RECURRENT_NAMES) or (m.role,)
            field = "recurrent_output" if m.role == "output" else "recurrent"
            leaves = tuple(n for n in _under(parents, names) if n not in _ATTENTION_MIXER)
            found.append(ModuleMatrix(m.role, field, leaves, m.inputs, m.outputs))
    dense = tuple(f"{p}." for p in _MLP)
    # experts beside a dense feed-forward of the same layer are not inside it
    moe = _MOE if block.mlp is not None else (*dense, *_MOE)
    if block.mlp is not None:
        found += _mlp(block.mlp, hidden, "", dense)
    if block.moe is not None:
        inside = _under((*moe, _MEGABLOCKS), _ROUTED)
        width = block.moe.latent or hidden
        found += _mlp(block.moe.expert, width, "expert_", inside, block.moe.experts)
        if block.moe.shared is not None:
            found += _mlp(block.moe.shared, hidden, "shared_", _under(moe, _SHARED))
    return tuple(found)


Overhead = Callable[[Stored, int, int], float]  # bytes of a matrix beside its weights and scales
Choice = Callable[[int, ModuleMatrix], Stored | None]  # the format of a matrix of a layer


class ModuleFormat(NamedTuple):
    """Modules that a pattern means, and how they are stored; None: they are left as they are."""

    pattern: Pattern
    stored: Stored | None
    field: str


def rules(
    texts: Iterable[str], stored: Stored | None, field: str, *, alone: bool = False
) -> list[ModuleFormat]:
    """A rule for each pattern; ``alone``: plain names are those of single modules."""
    return [ModuleFormat(Pattern(text, field, alone=alone), stored, field) for text in texts]


def _meets(rule: ModuleFormat, matrix: ModuleMatrix, layers: tuple[str, ...]) -> bool:
    return any(rule.pattern.meets(f"{at}.{leaf}") for leaf in matrix.leaves for at in layers)


def _layer_names(index: int) -> tuple[str, ...]:
    return (f"model.layers.{index}",)


def _prediction_names(model: Model, mtp: MultiToken, depth: int) -> tuple[str, ...]:
    """What checkpoints call a multi-token-prediction layer."""
    if not mtp.own_list:
        return _layer_names(model.layers + depth)
    return f"mtp.layers.{depth}", f"mtp.{depth}"


class _Assigned:
    """The formats of a model's layers by rules, of which the first that means a matrix counts."""

    def __init__(
        self,
        model: Model,
        found: list[ModuleFormat],
        default: Stored | None,
        overhead: Overhead | None = None,
        choice: Choice | None = None,
    ) -> None:
        self.model, self.rules, self.default = model, found, default
        self.overhead, self.choice = overhead, choice
        self.used = [False] * len(found)
        # of thousands of names, most are those of further experts: the first stands for all that mean the same
        firsts: dict[tuple[str | int, bool, Stored | None], int] = {}
        self.first = [
            firsts.setdefault((r.pattern.literal or i, r.pattern.alone, r.stored), i)
            for i, r in enumerate(found)
        ]
        self._same: dict[tuple[int, ModuleMatrix], bool] = {}
        self._every = [i for i in firsts.values() if found[i].pattern.layer is None]
        self._own: dict[int, list[int]] = {}
        for i in firsts.values():
            layer = found[i].pattern.layer
            if layer is not None:
                self._own.setdefault(layer, []).append(i)
        self._alike = choice is None and all(found[i].pattern.every for i in self._every)
        self._done: dict[int, LayerFormats] = {}

    def _is(self, index: int, matrix: ModuleMatrix, layer: int) -> bool:
        rule = self.rules[index]
        if not rule.pattern.every:
            return _meets(rule, matrix, _layer_names(layer))
        key = (index, matrix)
        if key not in self._same:
            self._same[key] = _meets(rule, matrix, _layer_names(layer))
        return self._same[key]

    def layer(self, index: int, kind: int) -> LayerFormats:
        own = self._own.get(index, [])
        plain = self._alike and not own
        if plain and kind in self._done:
            return self._done[kind]
        formats = self._of(
            self.model.blocks[kind],
            index,
            self.default,
            sorted((*self._every, *own)),
            lambda i, matrix: self._is(i, matrix, index),
        )
        if plain:
            self._done[kind] = formats
        return formats

    def prediction(self, mtp: MultiToken, depth: int, usual: Stored | None) -> LayerFormats:
        """Formats of a multi-token-prediction layer; ``usual`` where no rule means it."""
        names, behind = _prediction_names(self.model, mtp, depth), self.model.layers + depth
        return self._of(
            mtp.blocks[depth],
            behind,
            usual,
            sorted((*self._every, *self._own.get(behind, []))),
            lambda i, matrix: _meets(self.rules[i], matrix, names),
        )

    def _of(
        self,
        block: Block,
        index: int,
        usual: Stored | None,
        candidates: list[int],
        means: Callable[[int, ModuleMatrix], bool],
    ) -> LayerFormats:
        by_role: dict[str, list[tuple[ModuleMatrix, Stored | None]]] = {}
        for matrix in matrices(block, self.model.hidden):
            chosen = usual if self.choice is None else self.choice(index, matrix)
            first = True
            for i in candidates:
                if not first and self.used[i]:
                    continue  # only whether the others mean anything is left to find out
                if means(i, matrix):
                    self.used[i] = True
                    if first:
                        chosen, first = self.rules[i].stored, False
            if chosen is not None and self.overhead is not None and chosen.dtype != "unknown":
                more = self.overhead(chosen, matrix.inputs, matrix.outputs)
                mean = chosen.element_bytes + more / (matrix.inputs * matrix.outputs)
                chosen = msgspec.structs.replace(chosen, mean_bytes=mean)
            by_role.setdefault(matrix.role, []).append((matrix, chosen))
        return LayerFormats(
            **{role: _together(parts, self.model.dtype) for role, parts in by_role.items()}
        )


def _together(parts: list[tuple[ModuleMatrix, Stored | None]], plain: str) -> Stored | None:
    """One format for matrices that a layer's formats do not tell apart: that of most of their weights,
    with the bytes per weight of all."""
    kinds = {stored for _, stored in parts}
    if len(kinds) == 1:
        return parts[0][1]
    size: dict[Stored | None, int] = {}
    for matrix, stored in parts:
        size[stored] = size.get(stored, 0) + matrix.weights
    if any(s is not None and s.dtype == "unknown" for s in size):
        return Stored(dtype="unknown", weight_only=True)
    wide = Stored(dtype=plain, weight_only=True)
    total = sum((s or wide).element_bytes * n for s, n in size.items())
    most = max(size, key=lambda s: size[s]) or wide
    return msgspec.structs.replace(most, mean_bytes=total / sum(size.values()))


def with_formats(
    model: Model,
    found: list[ModuleFormat],
    default: Stored | None,
    ends: tuple[bool, bool] = (False, False),
    overhead: Overhead | None = None,
    choice: Choice | None = None,
    predicts: bool = False,
) -> tuple[Model, Stored | None, Stored | None]:
    """(the model with the format of every matrix, of its embedding, of its head): the first rule that
    means it, else what ``choice`` says, else ``default``; of the ends only where ``ends`` says so, of
    layers of multi-token prediction where ``predicts`` does."""
    assigned = _Assigned(model, found, default, overhead, choice)
    blocks: dict[Block, int] = {}
    pattern = []
    for index, kind in enumerate(model.pattern):
        stored = assigned.layer(index, kind)
        block = model.blocks[kind]
        if stored != block.stored:
            block = msgspec.structs.replace(block, stored=stored)
        pattern.append(blocks.setdefault(block, len(blocks)))
    mtp = model.mtp
    if mtp is not None:
        usual = default if predicts else None
        ahead = [assigned.prediction(mtp, i, usual) for i in range(len(mtp.blocks))]
        mtp = with_layer_formats(mtp, ahead)
    both = []
    for names, reached in zip((_EMBEDDINGS, _HEADS), ends, strict=True):
        chosen, first = default if reached else None, True
        for i, rule in enumerate(found):
            if any(rule.pattern.meets(name) for name in names):
                assigned.used[i] = True
                if first:
                    chosen, first = rule.stored, False
        both.append(chosen)
    _check_used(model, assigned)
    _check_groups(model, assigned)
    named = msgspec.structs.replace(model, blocks=tuple(blocks), pattern=tuple(pattern), mtp=mtp)
    return named, both[0], both[1]


def _check_used(model: Model, assigned: _Assigned) -> None:
    """Refuse a pattern that means no module: of this model where it gives a format; where it leaves one out,
    of a layer that there is not, or with no word of any module."""
    words = (*_BESIDE, *_ATTENTION, *_RECURRENT, *_MLP, "proj", "expert", "moe", "dense", "linear")
    for i, rule in enumerate(assigned.rules):
        used = assigned.used[i] or assigned.used[assigned.first[i]]
        text, layer = rule.pattern.text, rule.pattern.layer
        further = layer is not None and layer > model.layers  # one more: multi-token prediction
        if used or (layer == model.layers and not further):
            continue
        known = _BESIDE if rule.stored is not None else words
        if not further and any(word in text.lower() for word in known):
            continue
        if rule.stored is None and not further and text[:1].isupper() and text.isalnum():
            continue  # a class
        raise InputError(
            f"{rule.field}: {quoted(text)} matches no module"
            + (f" of the model's {model.layers} layers" if layer is not None else ""),
            field=rule.field,
            value=text,
            legal="names or patterns of modules that the model has, such as "
            "model.layers.0.self_attn.q_proj, mlp.down_proj or lm_head",
        )


def _check_groups(model: Model, assigned: _Assigned) -> None:
    """Refuse a group that divides the inputs of none of the model's matrices."""
    widths = sorted({m.inputs for b in model.blocks for m in matrices(b, model.hidden)})
    stated = [(assigned.default, "quantization_config.group_size")]
    stated += [(rule.stored, rule.field) for rule in assigned.rules]
    for stored, field in stated:
        group = stored.group if stored is not None else None
        if not widths or not group or any(width % group == 0 for width in widths):
            continue
        legal = [g for g in (16, 32, 64, 128, 256) if all(width % g == 0 for width in widths)]
        raise InputError(
            f"{field}: a group of {group} divides the inputs of none of the matrices "
            f"({', '.join(f'{width:,}' for width in widths[:6])})",
            field=field,
            value=group,
            legal=legal or "a divisor of these widths",
            nearest=min(legal, key=lambda g: abs(g - group)) if legal else None,
        )


def commonest_format(model: Model) -> Stored | None:
    """The format of most of the weights of a model's matrices, None where none is narrow."""
    number: dict[Stored, int] = {}
    for block, layers in zip(model.blocks, model.kind_counts(), strict=True):
        for matrix in matrices(block, model.hidden):
            stored = getattr(block.stored, matrix.role)
            if stored is not None and stored.dtype in (*dtypes.ELEMENT_BYTES, "unknown"):
                number[stored] = number.get(stored, 0) + matrix.weights * layers
    return max(number, key=lambda stored: number[stored]) if number else None
