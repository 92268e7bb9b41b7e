"""Tensor parallelism performed on torch.distributed; needs the ``runtime`` extra.

from meshwise.runtime import Options, load_model, parallelize
model = parallelize(model, group, Options(sequence_parallel=True))
model = load_model("checkpoint/", group)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshwise.runtime.collectives.peers import Peers as Peers
    from meshwise.runtime.model.parallelize import parallelize as parallelize
    from meshwise.runtime.options import Options as Options
    from meshwise.runtime.ranks.processes import launch as launch
    from meshwise.runtime.weights.build import load_model as load_model

__all__ = ["Options", "Peers", "launch", "load_model", "parallelize"]
_HOME = {
    "Options": "options",
    "Peers": "collectives.peers",
    "launch": "ranks.processes",
    "load_model": "weights.build",
    "parallelize": "model.parallelize",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
