"""What a checkpoint's files hold beside the model that its ``config.json`` describes, as JSON has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:  # loaded where a folder has such files
    from meshwise.models.checkpoint_contents import CheckpointContents


class CheckpointGroup(TypedDict):
    """Modules of one part of the model; ``bytes`` as the config says that they are stored."""

    group: str
    parameters: int
    checkpoint_parameters: int | None
    bytes: float | None
    checkpoint_bytes: int | None


class CheckpointDifference(TypedDict):
    """A module that is not as derived, and the layers in which it is so."""

    kind: str
    group: str
    module: str
    layers: list[int]
    derived: str
    checkpoint: str


class CheckpointApart(TypedDict):
    """Tensors that are no part of the language model that is counted."""

    what: str
    tensors: int
    derived_parameters: int | None
    parameters: int | None
    bytes: int | None


class CheckpointRecord(TypedDict):
    """The JSON of a checkpoint; what an index alone does not say is null."""

    files: int
    tensors: int
    total_bytes: int | None
    parameters: int | None
    bytes: int | None
    groups: list[CheckpointGroup]
    differences: list[CheckpointDifference]
    apart: list[CheckpointApart]


def checkpoint_record(found: CheckpointContents | None) -> CheckpointRecord | None:
    if found is None:
        return None
    return {
        "files": found.files,
        "tensors": found.tensors,
        "total_bytes": found.total_bytes,
        "parameters": found.parameters,
        "bytes": found.bytes,
        "groups": [
            {
                "group": g.group,
                "parameters": g.parameters,
                "checkpoint_parameters": g.checkpoint_parameters,
                "bytes": g.bytes,
                "checkpoint_bytes": g.checkpoint_bytes,
            }
            for g in found.groups
        ],
        "differences": [
            {
                "kind": d.kind,
                "group": d.group,
                "module": d.module,
                "layers": list(d.layers),
                "derived": d.derived,
                "checkpoint": d.checkpoint,
            }
            for d in found.differences
        ],
        "apart": [
            {
                "what": a.what,
                "tensors": a.tensors,
                "derived_parameters": a.derived_parameters,
                "parameters": a.parameters,
                "bytes": a.bytes,
            }
            for a in found.apart
        ],
    }
