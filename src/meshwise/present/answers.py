"""What the functions of the API return: results that know their JSON and their pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshwise.present import records
from meshwise.present.result import Answer
from meshwise.search.scaling import Scaling
from meshwise.spec.model import Model

if TYPE_CHECKING:
    from meshwise.evidence.tables import Table
    from meshwise.evidence.validate import Result
    from meshwise.present.tables import Page
    from meshwise.search.report import Report


class ScaleResult(Answer):
    """The curve over TP degrees, its limit and the verdict. ``points`` are records."""

    def __init__(self, scaling: Scaling) -> None:
        self.scaling = scaling
        self.points = scaling.points
        self.limit = scaling.limit

    @property
    def verdict(self) -> str:
        text: str = self.to_dict()["verdict"]
        return text

    def to_dict(self) -> dict[str, Any]:
        return records.scaling_dict(self.scaling)

    def page(self) -> Page:
        from meshwise.present.scale_page import scaling_page

        return scaling_page(self.scaling)


class EstimateResult(Answer):
    """One layout in full."""

    def __init__(self, full: Report) -> None:
        self.report = full

    def to_dict(self) -> dict[str, Any]:
        return records.report_dict(self.report)

    def explain(self) -> dict[str, Any]:
        """The program of operations, priced."""
        return records.explain_dict(self.report)

    def page(self) -> Page:
        from meshwise.present.pages import report_page

        return report_page(self.report)

    def explain_page(self) -> Page:
        from meshwise.present import pages

        return pages.explain_page(self.report)


class ModelResult(Answer):
    """What a model is made of and which TP degrees it admits."""

    def __init__(self, spec: Model) -> None:
        self.model = spec

    def to_dict(self) -> dict[str, Any]:
        from meshwise.program.stored import weight_bytes

        return records.model_dict(self.model, weight_bytes(self.model))

    def page(self) -> Page:
        from meshwise.present.pages import model_page

        return model_page(self.to_dict())


class CollectiveResult(Answer):
    """One collective, every algorithm."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record

    def to_dict(self) -> dict[str, Any]:
        return self.record

    def page(self) -> Page:
        from meshwise.present.pages import collective_page

        return collective_page(self.record)


class ValidateResult(Answer):
    """A table's rows, predicted: ``results`` are records, ``summary`` what they come to."""

    def __init__(self, table: Table, results: list[Result], summary: dict[str, Any]) -> None:
        self.table, self.results, self.summary = table, results, summary

    @property
    def invalid(self) -> int:
        """How many rows are malformed."""
        return sum(r.status == "invalid" for r in self.results)

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": records.SCHEMA,
            "kind": self.table.kind,
            "rows": [r.to_dict() for r in self.results],
            "summary": self.summary,
        }

    def page(self, worst: int = 15) -> Page:
        from meshwise.present.validate_page import validate_page

        return validate_page(self.table.kind, self.table.name, self.results, self.summary, worst)
