"""Which matrices of a model a checkpoint's quantisation means: names, globs and simple patterns.

Patterns come from files: they are matched by searching their literal pieces in order, never run as
regular expressions, so that no file can make the reading slow. One that says more is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import product

import msgspec

from meshwise.errors import InputError, quoted
from meshwise.models.shapes import Block, LayerFormats, Model, Stored

_MOST = 4096  # alternatives that one pattern may stand for
_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
_QUERY = ("q_proj", "qkv_proj", "q_a_proj", "q_b_proj", "query_key_value", "c_attn", "Wqkv", "wqkv",
          "W_pack", "qkv")  # fmt: skip
_OUT = ("o_proj", "out_proj", "dense", "c_proj", "wo")
_UP = ("up_proj", "gate_proj", "gate_up_proj", "fc1", "c_fc", "dense_h_to_4h", "w1", "w3")
_DOWN = ("down_proj", "fc2", "c_proj", "dense_4h_to_h", "w2")
_ROUTED = ("experts.0.", "experts.")
_SHARED = ("shared_experts.", "shared_expert.", "shared_mlp.")


def _under(parents: Iterable[str], inside: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{p}.{i}{n}" for p, i, n in product(parents, inside, names))


# What checkpoints call the matrices of a role, below a layer.
_ROLES: dict[str, tuple[str, ...]] = {
    "attention": _under(_ATTENTION, ("",), _QUERY),
    "output": _under(_ATTENTION, ("",), _OUT),
    "up": _under(_MLP, ("",), _UP),
    "down": _under(_MLP, ("",), _DOWN),
    "shared_up": _under(_MLP, _SHARED, _UP),
    "shared_down": _under(_MLP, _SHARED, _DOWN),
    "expert_up": _under(_MLP, _ROUTED, _UP),
    "expert_down": _under(_MLP, _ROUTED, _DOWN),
}
_GROUP = re.compile(r"\(([^()]*)\)")
_CLASS = re.compile(r"\[([^\[\]^]{1,20})\]")


class Pattern(msgspec.Struct, frozen=True):
    """Literal pieces that a module's name has in this order, and the layer that they name."""

    pieces: tuple[str, ...]
    layer: int | None = None

    def meets(self, names: Iterable[str]) -> bool:
        return any(self._in(name) for name in names)

    def _in(self, name: str) -> bool:
        at = 0
        for piece in self.pieces:
            found = name.find(piece, at)
            if found < 0:
                return False
            # a dot ends one piece and begins the next
            at = found + len(piece) - piece.endswith(".")
        return True


def _expanded(text: str, original: str, field: str) -> list[str]:
    """A simple regular expression as globs, one for each way through its alternatives."""
    text = re.sub(r"(\\d|\[0-9\])(\+|\*|\{[\d,]*\})?", "*", text)
    text = text.replace("(?:", "(").replace("\\.", ".").replace(".*", "*").replace(".+", "*")
    todo, done = [text.removeprefix("^").removesuffix("$")], []
    while todo:
        one = todo.pop()
        group, chosen = _GROUP.search(one), _CLASS.search(one)
        if group:
            ways = group[1].split("|")
            todo += [one[: group.start()] + way + one[group.end() :] for way in ways]
        elif chosen and "-" not in chosen[1]:
            todo += [one[: chosen.start()] + c + one[chosen.end() :] for c in chosen[1]]
        elif "|" in one:
            todo += one.split("|")
        else:
            done.append(one.replace("^", "").replace("$", ""))
        if len(todo) + len(done) > _MOST:
            break
    if todo or any(re.search(r"[()\[\]{}?+\\]", one) for one in done):
        raise InputError(
            f"{field}: the pattern {quoted(original)} is not read",
            field=field,
            value=original,
            legal="names of modules, globs, or regular expressions of literals, .*, \\d+ and (a|b)",
        )
    return done


def patterns(text: str, field: str) -> list[Pattern]:
    """What a name, a glob or a ``re:`` pattern stands for."""
    regular = text.startswith("re:") or "\\." in text or ".*" in text
    globs = _expanded(text.removeprefix("re:"), text, field) if regular else [text]
    found = []
    for glob in globs:
        named = glob.replace("language_model.", "").replace("text_model.", "")
        named = named.replace("transformer.h.", "model.layers.").replace("decoder.layers", "layers")
        start = "" if named.startswith("*") else "."
        end = "" if named.endswith("*") else "."
        pieces = tuple(p for p in (start + named + end).split("*") if p)
        layer = next((int(p) for p in named.split(".") if p.isdecimal() and len(p) < 6), None)
        if (
            layer is not None
            and f".{layer}." in named
            and "experts." in named.split(f".{layer}.")[0]
        ):
            layer = None  # the number of an expert
        found.append(Pattern(pieces, layer))
    return found


class StoredModules(msgspec.Struct, frozen=True):
    """Modules that a pattern means, and how they are stored; None: they are left as they are."""

    pattern: Pattern
    stored: Stored | None


def stored_modules(texts: Iterable[str], stored: Stored | None, field: str) -> list[StoredModules]:
    return [StoredModules(one, stored) for text in texts for one in patterns(text, field)]


def head_format(found: Iterable[StoredModules]) -> Stored | None:
    """What rules that name the output head say of it."""
    for rule in found:
        if rule.pattern.meets((".lm_head.",)) and any("head" in p for p in rule.pattern.pieces):
            return rule.stored
    return None


def _layer(
    index: int, general: Mapping[str, Stored | None], own: list[StoredModules]
) -> LayerFormats:
    found = dict(general)
    for role, names in _ROLES.items():
        full = [f".model.layers.{index}.{name}." for name in names]
        rule = next((r for r in own if r.pattern.meets(full)), None)
        if rule is not None:
            found[role] = rule.stored
    return LayerFormats(**found)


def _kept(stored: LayerFormats, block: Block) -> LayerFormats:
    """Without the formats of parts that the layer has not, so that alike layers stay one kind."""
    has = {
        "attention": block.attention, "output": block.attention, "up": block.mlp, "down": block.mlp,
        "expert_up": block.moe, "expert_down": block.moe,
        "shared_up": block.moe and block.moe.shared, "shared_down": block.moe and block.moe.shared,
    }  # fmt: skip
    return LayerFormats(
        **{role: getattr(stored, role) if part is not None else None for role, part in has.items()}
    )


def with_formats(model: Model, found: list[StoredModules], default: Stored | None) -> Model:
    """The model with the format of every matrix: the first rule that names it, else ``default``."""
    every = [r for r in found if r.pattern.layer is None]
    general: dict[str, Stored | None] = {}
    for role, names in _ROLES.items():
        full = [f".model.layers.0.{name}." for name in names]
        rule = next((r for r in every if r.pattern.meets(full)), None)
        general[role] = rule.stored if rule is not None else default
    own: dict[int, list[StoredModules]] = {}
    for rule in found:
        if rule.pattern.layer is not None:
            own.setdefault(rule.pattern.layer, []).append(rule)
    usual = LayerFormats(**general)
    blocks: dict[Block, int] = {}
    pattern = []
    for index, kind in enumerate(model.pattern):
        block = model.blocks[kind]
        stored = _layer(index, general, own[index]) if index in own else usual
        block = msgspec.structs.replace(block, stored=_kept(stored, block))
        pattern.append(blocks.setdefault(block, len(blocks)))
    return msgspec.structs.replace(model, blocks=tuple(blocks), pattern=tuple(pattern))


def commonest_format(model: Model) -> Stored | None:
    """The format of most of the weights of a model's matrices, None where none is narrow."""
    from meshwise.models.parameters import attention_weights, mlp_weights

    number: dict[Stored, int] = {}
    for block, layers in zip(model.blocks, model.kind_counts(), strict=True):
        s, moe = block.stored, block.moe
        sizes = [
            (
                s.attention,
                attention_weights(block.attention, model.hidden) if block.attention else None,
            ),
            (s.up, mlp_weights(block.mlp, model.hidden) if block.mlp else None),
            (
                s.expert_up,
                mlp_weights(moe.expert, model.hidden).times(moe.experts) if moe else None,
            ),
        ]
        for stored, weights in sizes:
            if stored is not None and weights is not None:
                number[stored] = number.get(stored, 0) + weights.total * layers
    return max(number, key=lambda stored: number[stored]) if number else None
