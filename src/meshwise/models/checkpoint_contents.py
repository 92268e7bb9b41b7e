"""The types of what a checkpoint's files hold beside what the model's ``config.json`` leads to expect."""

from __future__ import annotations

import msgspec

DIFFERENCES = ("missing", "extra", "shape", "format", "dtype", "bytes")


class ModuleGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Modules of one part of the model: weights and bytes, derived and in the files.

    ``bytes`` is None where the format is not known, what is in the files where there is an index alone.
    """

    group: str
    parameters: int
    bytes: float | None
    checkpoint_parameters: int | None
    checkpoint_bytes: int | None


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A module that is not as derived, in the layers where it is so (none: it is in no layer).

    ``kind`` is one of DIFFERENCES; ``derived`` and ``checkpoint`` are shapes, numbers of weights or bytes,
    or formats, "" for nothing.
    """

    kind: str
    group: str
    module: str
    layers: tuple[int, ...]
    derived: str
    checkpoint: str

    @property
    def where(self) -> str:
        """The module, with its layers as ranges."""
        named = f"layers {ranges(self.layers)}" if len(self.layers) > 1 else ""
        if len(self.layers) == 1:
            named = f"layer {self.layers[0]}"
        return f"{named} {self.module}".strip()


class Apart(msgspec.Struct, frozen=True, kw_only=True):
    """What is in the files and is no part of the language model that is counted: layers of multi-token
    prediction, towers, buffers, the copy of a table that embedding and head have in common.

    ``derived_parameters`` are those that the config leads to expect, None where it says nothing of them.
    """

    what: str
    tensors: int
    derived_parameters: int | None
    parameters: int | None
    bytes: int | None


class CheckpointContents(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint's files beside the model derived from its ``config.json``.

    ``parameters`` and ``bytes`` are those of all tensors that are not ``apart``; ``total_bytes`` of all.
    ``extra_bytes`` holds, for each kind of layer, bytes of one layer's weights that the derived model does
    not have, ``end_extra_bytes`` those outside the layers.
    """

    files: int
    tensors: int
    total_bytes: int | None
    parameters: int | None
    bytes: int | None
    groups: tuple[ModuleGroup, ...]
    differences: tuple[Difference, ...]
    apart: tuple[Apart, ...]
    extra_bytes: tuple[float, ...] = ()
    end_extra_bytes: float = 0.0


def ranges(numbers: tuple[int, ...]) -> str:
    """``0-3, 7``."""
    found: list[list[int]] = []
    for n in sorted(numbers):
        if found and n == found[-1][1] + 1:
            found[-1][1] = n
        else:
            found.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)
