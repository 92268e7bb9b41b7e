"""A layout: one that somebody wrote down, and arrays of them that broadcast. The axes are those of
:data:`meshwise.axes.AXES`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np

from meshwise.arrays import Array
from meshwise.axes import AXES, PLACEMENTS, RANKS, Axis, Value
from meshwise.checks import Check, among, check_fields, counted, flag, optional
from meshwise.strict_tables import one_of
from meshwise.workloads.workload import Training, Workload


class Layout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Degrees and switches of one layout.

    ``tp`` tensor, ``pp`` pipeline, ``dp`` data, ``cp`` context, ``ep`` expert, ``etp`` expert-tensor
    degree (None: what ep leaves of tp); ``vp`` virtual stages per rank; ``dcp`` decode context
    parallelism, over ranks of tp. ``micro_batch`` sequences (None: of the workload, else one),
    ``recompute`` (None: of the workload), ``sequence_parallel`` (None: off, or on where the software
    needs it). ``placement``: order of the axes on the ranks, neighbours first. ``decomposed``: TP's
    collectives in chunks beside their products, whatever the stack does by itself.

    :raises InputError: for a value that an axis does not take; ``field`` is its name.
    """

    tp: int = 1
    pp: int = 1
    vp: int = 1
    dp: int = 1
    cp: int = 1
    ep: int = 1
    etp: int | None = None
    dcp: int = 1
    micro_batch: int | None = None
    sequence_parallel: bool | None = None
    decomposed: bool = False
    recompute: str | None = None
    shard: str = "none"
    placement: str = PLACEMENTS[0]

    def __post_init__(self) -> None:
        check_fields(self, _RULES, "")

    @property
    def devices(self) -> int:
        return self.tp * self.pp * self.dp * self.cp

    @property
    def expert_tp(self) -> int:
        """Ranks that split an expert: as said, else what ep leaves of tp."""
        return self.etp or max(1, self.tp // self.ep)

    def code(self, axis: str) -> int:
        """The value of an axis as arrays have it."""
        return AXES[axis].code(getattr(self, axis))

    def record(self, overlap: str | None = None) -> dict[str, Value]:
        """The layout in JSON. ``overlap``: what the stack does by itself, where that is an axis."""
        found = {name: getattr(self, name) for name, axis in AXES.items() if not axis.key}
        found |= {
            "etp": self.expert_tp,
            "sequence_parallel": bool(self.sequence_parallel),
            "recompute": self.recompute or "none",
        }
        if overlap is not None:
            found["overlap"] = "decomposed" if self.decomposed else overlap
        return found


def _rule(axis: Axis) -> Check:
    if axis.kind == "switch":
        own: Check = flag
    else:
        own = among(*axis.values) if axis.kind == "word" else counted()
    return own if axis.default is not None else optional(own)


_RULES = {name: _rule(axis) for name, axis in AXES.items()}


class Layouts(NamedTuple):
    """The same as arrays, one each; shapes broadcast (``np.ix_`` style).

    Words and switches by their codes (:meth:`meshwise.axes.Axis.code`): ``recompute``, ``shard``, and
    ``placement`` as an index of :data:`meshwise.axes.ORDERS`. ``etp`` 0: as tp, or 1 where experts
    are spread over ep.
    """

    tp: Array
    pp: Array = np.int64(1)
    vp: Array = np.int64(1)
    dp: Array = np.int64(1)
    cp: Array = np.int64(1)
    ep: Array = np.int64(1)
    etp: Array = np.int64(0)
    dcp: Array = np.int64(1)
    micro_batch: Array = np.int64(1)
    sequence_parallel: Array = np.bool_(False)
    decomposed: Array = np.bool_(False)
    recompute: Array = np.int64(0)
    shard: Array = np.int64(0)
    placement: Array = np.int64(0)

    @property
    def devices(self) -> Array:
        return self.tp * self.pp * self.dp * self.cp

    def expert_tp(self) -> Array:
        """Expert-tensor degree: as given, else the ranks of tp·cp·dp that ep leaves inside tp."""
        return np.where(self.etp > 0, self.etp, np.maximum(1, self.tp // self.ep))

    def expert_dp(self) -> Array:
        """Ranks that keep the same experts: tp · cp · dp / (etp · ep)."""
        ranks = self.tp * self.cp * self.dp
        return np.maximum(ranks // (self.expert_tp() * self.ep), 1)

    def at(self, index: int, axes: Sequence[str] = tuple(AXES)) -> Layout:
        """The layout at an index of flat columns; what is not among ``axes`` is left open."""
        rows = ((name, getattr(self, name)) for name in axes)
        return of_codes({name: int(v[index] if np.ndim(v) else v) for name, v in rows})


def of_codes(codes: Mapping[str, int]) -> Layout:
    """A layout from the numbers that arrays have of it."""
    fields: dict[str, Any] = {name: AXES[name].value(code) for name, code in codes.items()}
    return Layout(**fields)


def asked(layout: Mapping[str, object], axes: Sequence[str]) -> Layout:
    """The layout that keywords say; an axis that is not among ``axes`` is refused."""
    for key in layout:
        one_of(key, "layout", axes)
    return Layout(**cast(dict[str, Any], layout))


def stated_workload(layout: Layout, workload: Workload) -> Workload:
    """The workload with what the layout says in its place."""
    if not isinstance(workload, Training):
        return workload
    micro = layout.micro_batch or workload.micro_batch
    recompute = layout.recompute or workload.recompute
    return msgspec.structs.replace(workload, micro_batch=micro, recompute=recompute)


def arrays(layout: Layout, workload: Workload | None = None) -> Layouts:
    """The layout as 0-d arrays; what it leaves open is the workload's."""
    codes = {name: layout.code(name) for name in AXES}
    if isinstance(workload, Training):
        recompute = layout.recompute or workload.recompute
        codes |= {
            "micro_batch": layout.micro_batch or workload.micro_batch or 1,
            "recompute": AXES["recompute"].code(recompute),
        }
    codes["micro_batch"] = codes["micro_batch"] or 1
    return Layouts(**{name: _scalar(name, code) for name, code in codes.items()})


def _scalar(name: str, code: int) -> Array:
    return np.bool_(code) if AXES[name].kind == "switch" else np.int64(code)


def columns(layouts: Sequence[Layout]) -> Layouts:
    """Several layouts as flat columns."""
    return Layouts(
        **{
            name: np.array(
                [layout.code(name) for layout in layouts],
                dtype=np.bool_ if axis.kind == "switch" else np.int64,
            )
            for name, axis in AXES.items()
        }
    )


def product_words(layout: Layout) -> str:
    """The axes that multiply to its devices, and these."""
    product = " · ".join(f"{name} {getattr(layout, name)}" for name in RANKS)
    return f"{product} = {layout.devices}"
