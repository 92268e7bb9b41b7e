"""Typed access to the keys of one ``config.json``: defaults, aliases, ranges, and clear refusals.

A :class:`Family` says, as data, what a model type's configuration class does: which keys it reads
under which names, which values hold when a key is absent, and how its layers are built. A
:class:`Reader` reads one file in that light and remembers which keys it used, so that a key that
changes the structure but that the family does not know is refused and not overlooked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from meshwise.errors import InputError, UnsupportedModel, shorten

# Beyond these no model exists and a count would only hide a typing error.
MOST_WIDE = 10**7
MOST_LAYERS = 10_000
MOST_TOKENS = 10**8
MOST_POSITIONS = 10**10
MOST_EXPERTS = 10**5


class MoeKeys(msgspec.Struct, frozen=True, kw_only=True):
    """How a family's configuration describes its routed experts."""

    experts: str = "num_local_experts"
    top_k: str = "num_experts_per_tok"
    width: str = "intermediate_size"
    shared_count: str | None = None  # key: number of shared experts, each ``shared_width`` wide
    shared_width: str | None = None  # key: width of a shared expert (default: ``width``)
    shared_gate: bool = False
    router_bias: bool = False
    layers: str = "all"  # rule that says which layers have experts: see layers.moe_layers
    first_dense: int | None = (
        None  # first layers without experts, where transformers reads no key for it
    )
    expert_bias: bool | str = False
    residual: str | None = None  # key: a dense MLP as wide as ``hidden`` beside the experts


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """What a ``model_type`` means. A str in place of a bool is the key that decides."""

    words: str  # the family's name for people
    defaults: Mapping[str, Any]  # of its configuration class, for keys that are absent
    aliases: Mapping[str, tuple[str, ...]] = {}  # other names of a key
    norm: str = "rms"  # rms: a weight per feature; layer: and a bias; none: no weights
    norms: int = 2  # norms per layer, but for those of queries and keys
    single_norm: str | None = None  # key that, when true, leaves one norm per layer
    fewer_norms: str | None = None  # key that, when false, leaves half of them
    query_key_bias: bool | str = False
    output_bias: bool | str = False
    value_gate: bool = False  # a gate as wide as the values, a projection of its own (Trinity)
    gated: bool = True
    mlp_bias: bool | str = False
    mlp_multiple: int = 0  # intermediate_size = this * hidden_size where it is null
    query_key_norm: str = ""  # head: over a head; each: with its own weights; wide: over all heads
    query_key_norm_key: bool | str = True  # key that switches query_key_norm
    query_key_norm_bias: bool = False
    parallel: bool | str = False
    window: str = ""  # rule for sliding windows: see windows.layer_windows
    sinks: bool = False
    mla: bool = False
    indexer: bool = False  # DeepSeek sparse attention
    positions: bool = False  # learned positions
    position_offset: int = 0
    embedding_norm: bool = False
    final_norm: bool = True
    head_bias: bool | str = False
    dense_width: str = "intermediate_size"
    moe: MoeKeys | None = None
    extra: int = 0  # further weights per layer (Apertus' activation)
    sub_norms: bool = False  # BitNet: norms in front of the output and down projections
    dropout: str | None = None  # key of the rate after attention and feed-forward
    layer_kinds: tuple[str, ...] = ()  # of layer_types, where its builder reads that list
    build: str = "standard"  # name in registry.BUILDERS, else layers.standard


# Numbers that a file may leave out: no weight follows from them. Every other one is a size of one model,
# and its class's default is that of another.
NO_SIZES = frozenset(
    [
        "max_position_embeddings",
        "sliding_window",
        "window_size",
        "attention_chunk_size",
        "max_window_layers",
        "sliding_window_pattern",
        "no_rope_layer_interval",
        "index_topk",
        "decoder_sparse_step",  # 1: every layer, as in all files that do not say it
        "moe_layer_freq",
    ]
)
# Sizes that a class may take as none: a file says them, if only to say none.
NO_NONE = frozenset(
    ("first_k_dense_replace", "n_shared_experts", "num_shared_experts", "q_lora_rank")
)


def wrong(
    key: str, value: object, message: str, legal: object = None, nearest: object = None
) -> InputError:
    """An :class:`InputError` about one key of the configuration."""
    return InputError(f"{key}: {message}", field=key, value=value, legal=legal, nearest=nearest)


def not_known(key: str, value: object, why: str, legal: str) -> UnsupportedModel:
    """A variant of a known family that meshwise does not read."""
    return UnsupportedModel(f"{key}: {why}", field=key, value=value, legal=legal)


def kind(value: object) -> str:
    """What JSON calls the type of ``value``."""
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string",
             list: "a list", dict: "an object", type(None): "null"}  # fmt: skip
    return names.get(type(value), type(value).__name__)


class Reader:
    """One configuration, read as one family.

    ``block``: the key of the object that it is, where it stands in another one.
    """

    def __init__(
        self, config: Mapping[str, Any], family: Family, model_type: str, *, block: str = ""
    ) -> None:
        self.block = block
        self.config = config
        self.family = family
        self.model_type = model_type
        self.used: set[str] = set()

    def find(self, key: str) -> tuple[str, Any, bool]:
        """(name in the file, value, whether the file has it) of a key or of one of its aliases.

        Where both are set they have to agree: a file that says two things has no right count.
        """
        names = (key, *self.family.aliases.get(key, ()))
        self.used.update(names)
        present = [name for name in names if name in self.config]
        if not present:
            return key, self.family.defaults.get(key), False
        stated = [name for name in present if self.config[name] is not None]
        # lengths that no table has may differ: Qwen-7B's files say that of its training and the longest
        unread = key == "max_position_embeddings" and not self.family.positions
        if len(stated) > 1 and not unread:
            first, *rest = stated
            for other in rest:
                if self.config[other] != self.config[first]:
                    raise wrong(
                        other,
                        self.config[other],
                        f"{shorten(self.config[other])} contradicts {first} "
                        f"{shorten(self.config[first])}; they name the same thing",
                        legal=f"the value of {first}",
                        nearest=self.config[first] if type(self.config[first]) is int else None,
                    )
        name = (stated or present)[0]
        return name, self.config[name], True

    def lacks(self, key: str) -> bool:
        """Whether the file leaves out a size that its class would fill in: that is no fact of the model."""
        if key in NO_SIZES or self.find(key)[2]:
            return False
        if key in NO_NONE:
            return key in self.family.defaults
        return type(default := self.family.defaults.get(key)) is int and default != 0

    def absent(self, key: str, low: int = 1, high: int = MOST_WIDE) -> InputError:
        """The refusal of a size that is not there, by the key that may hold it instead."""
        from meshwise.models.contents.other_names import holder_of  # only for an error

        said = f"absent in {self.block}" if self.block else "absent"
        legal = f"an integer from {low} to {high}"
        held = holder_of(key, self.config, self.used)
        if held is None:
            return wrong(key, None, f"{said} (model type {self.model_type})", legal=legal)
        return wrong(
            held,
            self.config[held],
            f"a {self.model_type} does not read this, and {key} is {said}",
            legal=f"{key}: {legal}",
        )

    def has(self, key: str) -> bool:
        return self.find(key)[2]

    def value(self, key: str) -> Any:
        return self.find(key)[1]

    def optional(self, key: str, low: int = 1, high: int = MOST_WIDE) -> int | None:
        """An integer in [low, high], or None where the key is null or has no default; a size that is
        not there is refused."""
        if self.lacks(key):
            raise self.absent(key, low, high)
        name, value, _ = self.find(key)
        return None if value is None else check_integer(name, value, low, high)

    def integer(self, key: str, low: int = 1, high: int = MOST_WIDE) -> int:
        """An integer in [low, high]; null, a missing default and a size that is not there are refused."""
        value = self.optional(key, low, high)
        if value is None:
            name, _, present = self.find(key)
            if not present:
                raise self.absent(key, low, high)
            raise wrong(
                name,
                None,
                f"null where an integer belongs (model type {self.model_type})",
                legal=f"an integer from {low} to {high}",
            )
        return value

    def unused(self, key: str, low: int = 1) -> None:
        """A key that its class has and its model does not use: a number, where the file has it."""
        if self.has(key):
            self.optional(key, low)

    def flag(self, key: bool | str) -> bool:
        """A boolean key; null counts as false, as in Python."""
        if isinstance(key, bool):
            return key
        name, value, _ = self.find(key)
        if value is None:
            return False
        if value is True or value is False:
            return bool(value)
        if type(value) is int and value in (0, 1):
            return bool(value)
        raise wrong(
            name,
            value,
            f"{kind(value)} ({shorten(value)}) where true or false belongs",
            legal="true, false",
        )

    def rate(self, key: str) -> float:
        """A number that is not negative (a dropout rate); null and absent are 0."""
        name, value, _ = self.find(key)
        if value is None:
            return 0.0
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise wrong(
                name,
                value,
                f"{shorten(value)} is no dropout rate",
                legal="a number from 0 up to, not including, 1",
            )
        return float(value)

    def table(self, key: str) -> Mapping[str, Any]:
        """A nested object; absent and null are empty."""
        name, value, _ = self.find(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise wrong(name, value, f"{kind(value)} where an object belongs", legal="an object")
        return value

    def sequence(self, key: str, length: int | None = None) -> list[Any] | None:
        """A list (of ``length``), or None where the key is absent or null."""
        name, value, _ = self.find(key)
        if value is None:
            return None
        if not isinstance(value, list):
            raise wrong(name, value, f"{kind(value)} where a list belongs", legal="a list")
        if length is not None and len(value) != length:
            raise wrong(
                name,
                len(value),
                f"the list has {len(value)} entries for {length} layers",
                legal=f"a list of {length} entries",
                nearest=length,
            )
        return value

    def uniform(self, key: str, low: int, high: int) -> int | None:
        """An integer, or a list per layer that repeats one integer (Hunyuan)."""
        name, value, _ = self.find(key)
        if isinstance(value, list):
            self.sequence(key, self.layers())
            first = check_integer(name, value[0], low, high)
            if any(type(item) is not int or item != first for item in value):
                raise UnsupportedModel(
                    f"{name}: differs from layer to layer, which meshwise reads only for "
                    "layers of one kind",
                    field=name,
                    value=value,
                    legal="an integer, or a list that repeats one",
                )
            return first
        return self.optional(key, low, high)

    def layers(self) -> int:
        """Number of decoder layers."""
        return self.integer("num_hidden_layers", 1, MOST_LAYERS)

    def heads(self, hidden: int) -> tuple[int, int, int]:
        """(query heads, key/value heads, width of a head), checked against each other."""
        heads = self.integer("num_attention_heads")
        name, _, _ = self.find("num_key_value_heads")
        kv = self._usual("num_key_value_heads", heads) or heads
        if heads % kv:
            nearest = min((d for d in range(1, heads + 1) if heads % d == 0),
                          key=lambda d: abs(d - kv)) if heads <= 10**5 else heads  # fmt: skip
            raise wrong(
                name,
                kv,
                f"{kv} key/value heads do not divide {heads} query heads",
                legal=f"a divisor of {heads}",
                nearest=nearest,
            )
        dim = self._usual("head_dim", hidden / heads) or self.head_width(hidden, heads)
        return heads, kv, dim

    def _usual(self, key: str, usual: float) -> int | None:
        """A size that may be left out where its class fills in the usual one."""
        if self.lacks(key) and self.family.defaults[key] == usual:
            return int(usual)
        return self.optional(key)

    def head_width(self, hidden: int, heads: int) -> int:
        """hidden / heads, which has to be whole where the file does not state head_dim."""
        if hidden % heads:
            raise wrong(
                self.find("num_attention_heads")[0],
                heads,
                f"{heads} heads do not divide hidden size {hidden}, and there is no head_dim",
                legal=f"a divisor of {hidden}, or head_dim stated",
            )
        return hidden // heads


def check_integer(name: str, value: object, low: int, high: int) -> int:
    """``value`` if it is an integer in [low, high]; no string, no float, no boolean."""
    legal = f"an integer from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int):
        nearest: int | None = None
        if isinstance(value, float) and abs(value) <= high:  # false for nan, too
            nearest = min(max(round(value), low), high)
        elif isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
            nearest = min(max(int(value), low), high)
        raise wrong(
            name,
            value,
            f"{kind(value)} ({shorten(value)}) where an integer belongs",
            legal=legal,
            nearest=nearest,
        )
    if not low <= value <= high:
        raise wrong(
            name,
            value if abs(value) < 10**30 else "a number of over 30 digits",
            f"{value if abs(value) < 10**30 else 'a number of over 30 digits'} is out of range",
            legal=legal,
            nearest=min(max(value, low), high),
        )
    return value
