"""meshwise: what tensor parallelism costs, how far it scales, and which mesh to run.

>>> import meshwise as mw
>>> r = mw.scale(mw.model("gpt3-175b"), mw.cluster("dgx-a100"), mw.Training(batch=32, seq=2048))
>>> r.points[3].tp, r.points[3].layer.all_reduces_forward
(8, 2)

Names are imported when they are first used, so ``import meshwise`` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from meshwise.api import Cluster as Cluster
    from meshwise.api import Decode as Decode
    from meshwise.api import Device as Device
    from meshwise.api import Formats as Formats
    from meshwise.api import Level as Level
    from meshwise.api import Model as Model
    from meshwise.api import Point as Point
    from meshwise.api import Prefill as Prefill
    from meshwise.api import Serving as Serving
    from meshwise.api import Stack as Stack
    from meshwise.api import Training as Training
    from meshwise.api import cluster as cluster
    from meshwise.api import collective as collective
    from meshwise.api import describe as describe
    from meshwise.api import estimate as estimate
    from meshwise.api import grow as grow
    from meshwise.api import model as model
    from meshwise.api import plan as plan
    from meshwise.api import scale as scale
    from meshwise.api import serve as serve
    from meshwise.api import stack as stack
    from meshwise.api import sweep as sweep
    from meshwise.api import validate as validate
    from meshwise.commands import export as export
    from meshwise.commands import read_command as read_command
    from meshwise.errors import MeshwiseError as MeshwiseError
    from meshwise.runs import run as run

_API = (
    "Cluster",
    "Decode",
    "Device",
    "Formats",
    "Level",
    "Model",
    "Point",
    "Prefill",
    "Serving",
    "Stack",
    "Training",
    "cluster",
    "collective",
    "describe",
    "estimate",
    "grow",
    "model",
    "plan",
    "scale",
    "serve",
    "stack",
    "sweep",
    "validate",
)
_COMMANDS = ("export", "read_command")
__all__ = [*_API, *_COMMANDS, "MeshwiseError", "__version__", "run"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    import importlib

    if name in _API:
        return getattr(importlib.import_module("meshwise.api"), name)
    if name in _COMMANDS:
        return getattr(importlib.import_module("meshwise.commands"), name)
    if name == "run":
        return importlib.import_module("meshwise.runs").run
    if name == "MeshwiseError":
        return importlib.import_module("meshwise.errors").MeshwiseError
    raise AttributeError(f"module 'meshwise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
