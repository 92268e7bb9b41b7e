"""A row's outcome: predicted beside measured, with its interval and the runs near to it."""

from __future__ import annotations

from typing import Any, NamedTuple

from meshwise.cost.doubt.published_runs import Evidence
from meshwise.evidence.prediction import Contender
from meshwise.evidence.tables import Assumed


class Result(NamedTuple):
    """A row's outcome for one quantity. ``error`` is predicted / measured − 1."""

    id: str
    line: int
    quantity: str
    measured: float | None
    predicted: float | None
    low: float | None  # the ends of the prediction's 90 % interval
    high: float | None
    error: float | None
    status: str  # ok | unsupported | invalid | suspect
    reason: str
    source: str
    assumed: tuple[Assumed, ...]
    evidence: Evidence | None = None
    tight: bool | None = None  # of ``fits``: the limit is within the memory's error
    chance: float | None = None  # of ``fits``: that it does
    contender: Contender | None = None
    ideal_s: float | None = None
    pair: tuple[str, ...] = ()
    tp: int = 1

    def to_dict(self) -> dict[str, Any]:
        """The row of the JSON contract."""
        hidden = ("ideal_s", "pair", "tp", "contender")
        found = {k: v for k, v in self._asdict().items() if k not in hidden}
        near = None
        if self.evidence is not None:
            near = {
                k: list(v) if isinstance(v, tuple) else v
                for k, v in self.evidence._asdict().items()
            }
        return found | {"assumed": [a._asdict() for a in self.assumed], "evidence": near}

    @property
    def inside(self) -> bool | None:
        """Whether the measured value lies in the interval; None where there is none."""
        if self.low is None or self.high is None or self.measured is None:
            return None
        return self.low <= self.measured <= self.high
