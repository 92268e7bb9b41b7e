"""Launch commands of other software, out and in: a table of flags per target and version."""

from __future__ import annotations

from meshwise.launch.export import WRAPPERS, Exported, export
from meshwise.launch.job import Job, job_of
from meshwise.launch.parse import Parsed, parse
from meshwise.launch.table import targets

__all__ = ["WRAPPERS", "Exported", "Job", "Parsed", "export", "job_of", "parse", "targets"]
