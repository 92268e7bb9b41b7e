"""The axes of a layout, each once: its values, the phases that it has a meaning in, what it is called.

A layout, its arrays, the pins of a plan, JSON records, options of the command line and refusals follow
from :data:`AXES`. Nothing is imported here, so that every part may.
"""

from __future__ import annotations

import itertools
from typing import Literal, NamedTuple

RECOMPUTE_MODES = ("none", "selective", "full")  # activation recomputation
SHARD_STAGES = ("none", "zero1", "zero2", "zero3")  # of optimizer, gradients and weights over dp
# of the ranks, innermost (neighbours) to outermost; the first is the usual one
ORDERS = tuple(itertools.permutations(("tp", "cp", "dp", "pp")))
PLACEMENTS = tuple("-".join(order) for order in ORDERS)

Value = int | bool | str | None
Kind = Literal["degree", "count", "switch", "word"]


class Axis(NamedTuple):
    """One axis of a layout.

    A *degree* is a number of ranks, a *count* another whole number, a *switch* true or false (``values``
    are what users call these, where they do otherwise), a *word* one of ``values``. In arrays each is a
    number: :meth:`code`.
    """

    name: str  # field of a layout, keyword of the public functions
    kind: Kind
    default: Value  # None: follows from the rest (see layouts.layout)
    plural: str  # several of its values, as a sentence calls them
    values: tuple[str, ...] = ()
    phases: tuple[str, ...] = ("training", "inference")
    key: str = ""  # in JSON and as a pin, where it is not the name
    engines: str = ""  # option of engines that sets the same
    about: str = ""  # in a command's help

    @property
    def said(self) -> str:
        """Its name to users: key of JSON, and pin."""
        return self.key or self.name

    def code(self, value: Value) -> int:
        """The value as arrays have it: a word's place, a switch's 0 or 1; 0 where nothing is said."""
        if self.kind == "word":
            return 0 if value is None else self.values.index(str(value))
        return int(value or 0)

    def value(self, code: int) -> Value:
        """The value of a code; None for a number that says nothing."""
        if self.kind == "word":
            return self.values[code]
        if self.kind == "switch":
            return bool(code)
        return int(code) or None

    def words(self) -> dict[str, int]:
        """What a user may write → code, of a word or a switch."""
        return {name: code for code, name in enumerate(self.values or ("false", "true"))}

    def spoken(self, code: int) -> Value:
        """The value of a code as users write it."""
        return self.values[code] if self.values else self.value(code)


_TRAINS = ("training",)
AXES: dict[str, Axis] = {
    axis.name: axis
    for axis in (
        Axis(
            *("tp", "degree", 1, "tensor-parallel degrees"),
            engines="tensor-parallel-size",
            about="Tensor-parallel degree.",
        ),
        Axis(
            *("pp", "degree", 1, "numbers of pipeline stages"),
            engines="pipeline-parallel-size",
            about="Pipeline stages.",
        ),
        Axis(
            *("vp", "count", 1, "numbers of virtual stages per rank"),
            phases=_TRAINS,
            about="Virtual stages per pipeline rank.",
        ),
        Axis(
            *("dp", "degree", 1, "data-parallel degrees"),
            engines="data-parallel-size",
            about="Data-parallel replicas.",
        ),
        Axis(
            *("cp", "degree", 1, "context-parallel degrees"),
            engines="context-parallel-size",
            about="Context-parallel degree.",
        ),
        Axis(
            *("ep", "degree", 1, "expert-parallel degrees"),
            engines="expert-parallel-size",
            about="Expert-parallel degree.",
        ),
        Axis(
            *("etp", "degree", None, "expert-tensor degrees"),
            about="Expert-tensor degree (default: tp / ep).",
        ),
        Axis(
            *("dcp", "degree", 1, "decode-context-parallel degrees"),
            phases=("inference",),
            engines="decode-context-parallel-size",
            about="Decode-context-parallel degree.",
        ),
        Axis(
            *("micro_batch", "count", None, "microbatches"),
            phases=_TRAINS,
            engines="micro-batch-size",
            about="Sequences per microbatch.",
        ),
        Axis(
            *("sequence_parallel", "switch", None, "of sequence parallelism"),
            about="Norms on S/TP; reduce_scatter + all_gather.",
        ),
        Axis(
            *("decomposed", "switch", False, "ways to overlap TP's collectives"),
            values=("none", "decomposed"),  # what a stack does by itself aside
            phases=_TRAINS,
            key="overlap",
        ),
        Axis("recompute", "word", None, "kinds of recomputation", RECOMPUTE_MODES, _TRAINS),
        Axis("shard", "word", "none", "sharding stages", SHARD_STAGES, _TRAINS),
        Axis("placement", "word", PLACEMENTS[0], "orders of the axes", PLACEMENTS),
    )
}


def spoken(name: str) -> str:
    """An axis' name to users."""
    return AXES[name].said if name in AXES else name


RANKS = ("tp", "pp", "dp", "cp")  # their product is the layout's devices
TRAINS = tuple(name for name, axis in AXES.items() if "training" in axis.phases)
SERVES = ("tp", "pp", "dp", "ep", "etp", "dcp")  # what a serving engine chooses
RECOMPUTE_CODE = AXES["recompute"].words()
SHARD_CODE = AXES["shard"].words()
