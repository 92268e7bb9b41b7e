"""Launch commands of other software, out and in: a table of flags per target and version."""

from __future__ import annotations

from meshwise.launch.job import Job, job_of
from meshwise.launch.read import Parsed, parse
from meshwise.launch.table import targets
from meshwise.launch.write import WRAPPERS, Exported, export

__all__ = ["WRAPPERS", "Exported", "Job", "Parsed", "export", "job_of", "parse", "targets"]
