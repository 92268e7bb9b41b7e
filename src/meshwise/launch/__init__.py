"""Launch commands of other software, out and in: a table and a module for each target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshwise.launch.job import Job, job_of
    from meshwise.launch.read import Parsed, parse
    from meshwise.launch.targets import target_names
    from meshwise.launch.write import WRAPPERS, Exported, export

__all__ = ["WRAPPERS", "Exported", "Job", "Parsed", "export", "job_of", "parse", "target_names"]

_HOME = {
    "Job": "job",
    "job_of": "job",
    "Parsed": "read",
    "parse": "read",
    "target_names": "targets",
}


def __getattr__(name: str) -> Any:
    """Public names, loaded where they are used: naming the targets loads nothing else."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"meshwise.launch.{_HOME.get(name, 'write')}"), name)
