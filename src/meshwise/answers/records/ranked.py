"""What plans of training and of serving have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshwise.answers.records.attributes import Key, Record
from meshwise.answers.records.result import Placed

if TYPE_CHECKING:
    from meshwise.answers.compared import ReadCommand


class Ranked(Placed):
    """What plans of training and of serving have in common."""

    ROWS = "layouts"
    gpus = Key[int]("GPUs of every layout.")
    objective = Key[str]("What the layouts are ranked by.")
    pinned = Key[Record]("Axes that were given, each with its values.")
    best = Key[Record | None]("The first of ``layouts``; None where nothing is feasible.")
    layouts = Key[list[Record]]("The best first: axes, times [s], memory [bytes].")
    pareto = Key[list[Record]]("Layouts that no other beats in both figures of the front.")
    rivals = Key[list[Record]]("Per axis the best layout with another value of it.")
    best_not_tight = Key[Record | None]("Where the best is tight: the best that is not.")
    evidence = Key[Record | None]("Which published runs are near the best.")
    rule_of_thumb = Key[Record | None]("The layout that the usual rule of thumb makes.")
    nearest_feasible = Key[list[Record]]("Where nothing is feasible: changes that make it so.")
    counts = Key[Record]("How many layouts were enumerated, feasible, refused and why.")
    elapsed_s = Key[float]("Time that the search took [s].")
    remarks = Key[list[str]]("What to know of the answer.")
    command: ReadCommand | None = None  # a launch command to hold against the plan

    @property
    def compared(self) -> Record | None:
        """A launch command that the plan is held against, where there is one."""
        return self.figures.get("compared")
