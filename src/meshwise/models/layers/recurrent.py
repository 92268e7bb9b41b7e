"""Mixers that keep a state in place of keys and values: linear attention, state space, convolution.

Their bytes per sequence do not grow with the context. A :class:`Recurrent` names the rule by which
the state changes; :data:`RECURRENCES` says for each rule which weights it has. Adding a rule is one entry
there, and its arithmetic in :mod:`meshwise.program.layers.recurrent`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from meshwise import dtypes
from meshwise.checks import MAX_PARAMETERS, Check, among, check_fields, flag, optional, whole
from meshwise.models.layers.projections import Projection, Vector
from meshwise.strict_tables import MAX_COUNT


class Recurrent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A mixer whose state is ``heads`` matrices of ``key_dim`` × ``value_dim`` values per sequence.

    Rules: ``gated_delta`` (Gated DeltaNet, arXiv 2412.06464: Qwen3-Next), ``kimi_delta`` (Kimi Delta
    Attention, arXiv 2510.26692), ``lightning`` (arXiv 2401.04658: MiniMax-01), ``mamba`` (arXiv
    2312.00752), ``mamba2`` (arXiv 2405.21060), ``convolution`` (gated short convolution: LFM2).
    """

    rule: str
    heads: int  # of values, one state each (Mamba 1: channels; a convolution: channels)
    value_dim: int = 1  # width of a value head
    key_heads: int = 1  # of queries and keys (Mamba: groups of B and C)
    key_dim: int = 1  # width of a query or key head (Mamba: state size)
    kernel: int = 0  # positions that the short causal convolution sees; 0: there is none
    conv_bias: bool = False
    input_bias: bool = False
    output_bias: bool = False
    rank: int = 0  # of the gates' low-rank products (kimi_delta; 0: whole), of the time step's (Mamba 1, PLaMo 2)
    whole_gate: bool = (
        False  # kimi_delta: the output's gate is one product, whatever the decay's is
    )
    norm_parameters: int = 0
    norm_groups: int = 0  # groups of heads that a norm spans; 0: no norm beyond a head
    state_dtype: str = "fp32"  # in which the state is kept
    chunk: int | None = None  # tokens that a prompt is worked on at once; None: the rule's usual

    def __post_init__(self) -> None:
        check_fields(self, _FIELDS, "recurrent")

    @property
    def inner(self) -> int:
        """Width of all values."""
        return self.heads * self.value_dim

    @property
    def keys(self) -> int:
        """Width of all keys."""
        return self.key_heads * self.key_dim

    @property
    def title(self) -> str:
        """What operations of this rule are called by."""
        return RECURRENCES[self.rule].title

    @property
    def words(self) -> str:
        """Its name in sentences."""
        return self.title.replace("_", "-")

    def matrices(self, hidden: int) -> list[Projection]:
        """The projections of a layer of width ``hidden``."""
        return RECURRENCES[self.rule].matrices(self, hidden)

    def vectors(self, hidden: int) -> list[Vector]:
        """Weights that are no matrix: convolutions, decays, biases, norms."""
        found = [*RECURRENCES[self.rule].vectors(self), Vector(self.norm_parameters)]
        if self.input_bias:
            ins = [m for m in self.matrices(hidden) if m.how == "column" and m.inputs == hidden]
            found += [Vector(m.outputs, m.heads) for m in ins]
        return [*found, Vector(hidden * self.output_bias)]

    @property
    def channels(self) -> tuple[Vector, ...]:
        """Channels that the short convolution runs over, with the heads that divide them."""
        return RECURRENCES[self.rule].channels(self) if self.kernel else ()

    def spans_ranks(self, tp: int) -> bool:
        """Whether a norm spans heads of several ranks, which then add up their sums of squares."""
        return self.norm_groups > 0 and self.norm_groups % tp != 0


def _convolution(r: Recurrent) -> list[Vector]:
    return [Vector(c.size * (r.kernel + r.conv_bias), c.heads) for c in r.channels]


def _output(r: Recurrent, hidden: int) -> Projection:
    return Projection("output", r.inner, hidden, "row", r.heads)


def _query_key_value(r: Recurrent, hidden: int) -> list[Projection]:
    return [
        Projection("query", hidden, r.keys, "column", r.key_heads),
        Projection("key", hidden, r.keys, "column", r.key_heads),
        Projection("value", hidden, r.inner, "column", r.heads),
    ]


def _all_channels(r: Recurrent) -> tuple[Vector, ...]:
    """Queries, keys and values; Mamba 2's C, B and x."""
    return Vector(2 * r.keys, r.key_heads), Vector(r.inner, r.heads)


def _value_channels(r: Recurrent) -> tuple[Vector, ...]:
    return (Vector(r.inner, r.heads),)


def _gated_delta(r: Recurrent, hidden: int) -> list[Projection]:
    return [
        *_query_key_value(r, hidden),
        Projection("gate", hidden, r.inner, "column", r.heads),
        Projection("beta", hidden, r.heads, "column", r.heads),
        Projection("decay", hidden, r.heads, "column", r.heads),
        _output(r, hidden),
    ]


def _kimi_delta(r: Recurrent, hidden: int) -> list[Projection]:
    rank = 0 if r.whole_gate else r.rank
    return [
        *_query_key_value(r, hidden),
        *_low_rank("decay", hidden, r.rank, r.keys, r.key_heads),
        Projection("beta", hidden, r.heads, "column", r.heads),
        *_low_rank("gate", hidden, rank, r.inner, r.heads),
        _output(r, hidden),
    ]


def _low_rank(role: str, inputs: int, rank: int, outputs: int, heads: int) -> list[Projection]:
    """A product in two steps through ``rank`` features; 0: in one."""
    if not rank:
        return [Projection(role, inputs, outputs, "column", heads)]
    return [
        Projection(f"{role}_down", inputs, rank, "none"),
        Projection(f"{role}_up", rank, outputs, "column", heads),
    ]


def _lightning(r: Recurrent, hidden: int) -> list[Projection]:
    gate = Projection("gate", hidden, r.inner, "column", r.heads)
    return [*_query_key_value(r, hidden), gate, _output(r, hidden)]


def _selecting(r: Recurrent, hidden: int, groups: int, steps: int) -> list[Projection]:
    """What selects is made of a rank's channels, and summed over the ranks before the next product."""
    return [
        Projection("gate", hidden, r.inner, "column", r.heads),
        Projection("value", hidden, r.inner, "column", r.heads),
        Projection("selection", r.inner, r.rank + 2 * groups, "row", r.heads),
        Projection("step", r.rank, steps, "column", r.heads),
        _output(r, hidden),
    ]


def _mamba(r: Recurrent, hidden: int) -> list[Projection]:
    return _selecting(r, hidden, r.key_dim, r.inner)


def _mamba2(r: Recurrent, hidden: int) -> list[Projection]:
    if r.rank:  # as in Mamba 1 (PLaMo 2)
        return _selecting(r, hidden, r.keys, r.heads)
    return [
        Projection("gate", hidden, r.inner, "column", r.heads),
        *_query_key_value(r, hidden),
        Projection("step", hidden, r.heads, "column", r.heads),
        _output(r, hidden),
    ]


def _gated_convolution(r: Recurrent, hidden: int) -> list[Projection]:
    return [
        *(
            Projection(role, hidden, r.inner, "column", r.heads)
            for role in ("before", "after", "value")
        ),
        _output(r, hidden),
    ]


class Recurrence(NamedTuple):
    """What a rule's weights are, as functions of its :class:`Recurrent`."""

    title: str
    matrices: Callable[[Recurrent, int], list[Projection]]
    vectors: Callable[[Recurrent], list[Vector]]
    channels: Callable[[Recurrent], tuple[Vector, ...]]


RECURRENCES: dict[str, Recurrence] = {
    # decay and step per head
    "gated_delta": Recurrence(
        "linear_attention",
        _gated_delta,
        lambda r: [*_convolution(r), Vector(2 * r.heads, r.heads)],
        _all_channels,
    ),
    # decay per head, its offset per feature of a key
    "kimi_delta": Recurrence(
        "linear_attention",
        _kimi_delta,
        lambda r: [*_convolution(r), Vector(r.heads, r.heads), Vector(r.keys, r.key_heads)],
        _all_channels,
    ),
    # decays are fixed
    "lightning": Recurrence("linear_attention", _lightning, _convolution, _all_channels),
    # decays per channel and state, the skip and the time step's bias per channel
    "mamba": Recurrence(
        "mamba",
        _mamba,
        lambda r: [*_convolution(r), Vector(r.inner * (r.key_dim + 2), r.heads)],
        _value_channels,
    ),
    # decay, skip and the time step's bias per head
    "mamba2": Recurrence(
        "mamba",
        _mamba2,
        lambda r: [*_convolution(r), Vector(3 * r.heads, r.heads)],
        lambda r: _value_channels(r) if r.rank else _all_channels(r),
    ),
    "convolution": Recurrence("convolution", _gated_convolution, _convolution, _value_channels),
}

_SIZE = whole(1, MAX_COUNT)
_FIELDS: dict[str, Check] = {
    "rule": among(*RECURRENCES),
    **dict.fromkeys(("heads", "value_dim", "key_heads", "key_dim"), _SIZE),
    **dict.fromkeys(("kernel", "rank", "norm_groups"), whole(0, MAX_COUNT)),
    **dict.fromkeys(("conv_bias", "input_bias", "output_bias", "whole_gate"), flag),
    "norm_parameters": whole(0, MAX_PARAMETERS),
    "state_dtype": among(*dtypes.ELEMENT_BYTES),
    "chunk": optional(_SIZE),
}
