"""What the functions of the API return: results that know their JSON and their pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshwise.answers import records
from meshwise.answers.text.result import Answer
from meshwise.layouts import tp_degrees as legality
from meshwise.models.parameters import parameters
from meshwise.models.shapes import Model
from meshwise.search.tp_curve.curve import Scaling

if TYPE_CHECKING:
    from meshwise.answers.text.tables import Page
    from meshwise.evidence.tables import Table
    from meshwise.evidence.validate import Result
    from meshwise.search.one_layout import Report
    from meshwise.search.tp_curve.points import Point


class ScaleResult(Answer):
    """The curve over TP degrees, its limit and the verdict. ``points`` are records."""

    def __init__(self, scaling: Scaling) -> None:
        self.scaling = scaling
        self.points = scaling.points
        self.limit = scaling.limit

    @property
    def fastest(self) -> Point | None:
        """The degree of the least step among those that fit."""
        return next((p for p in self.points if p.tp == self.scaling.fastest), None)

    @property
    def verdict(self) -> str:
        text: str = self.to_dict()["verdict"]
        return text

    def to_dict(self) -> dict[str, Any]:
        return records.scaling_dict(self.scaling)

    def page(self) -> Page:
        from meshwise.answers.scale import scaling_page

        return scaling_page(self.scaling)


class EstimateResult(Answer):
    """One layout in full."""

    def __init__(self, full: Report) -> None:
        self.report = full

    @property
    def step_s(self) -> float:
        """Time of a step [s]."""
        return float(self.report.step_s)

    @property
    def step_low_s(self) -> float:
        """Lower end of the step's 90 % interval [s]."""
        return float(self.report.step_low_s)

    @property
    def step_high_s(self) -> float:
        """Upper end of the step's 90 % interval [s]."""
        return float(self.report.step_high_s)

    @property
    def compute_s(self) -> float:
        return float(self.report.compute_s)

    @property
    def comm_s(self) -> float:
        return float(self.report.comm_s)

    @property
    def exposed_comm_s(self) -> float:
        """Communication that nothing hides [s]."""
        return float(self.report.exposed_comm_s)

    @property
    def bubble_s(self) -> float:
        return float(self.report.bubble_s)

    @property
    def host_s(self) -> float:
        return float(self.report.host_s)

    @property
    def comm_share(self) -> float:
        """Exposed communication over the step."""
        return float(self.report.comm_share)

    @property
    def mfu(self) -> float:
        return self.report.mfu

    @property
    def hfu(self) -> float:
        return self.report.hfu

    @property
    def tokens_per_s_per_device(self) -> float:
        return float(self.report.tokens_per_s_per_device)

    @property
    def memory_bytes(self) -> float:
        """Of the fullest device [bytes]."""
        return float(self.report.memory_bytes)

    @property
    def memory_limit_bytes(self) -> float:
        return float(self.report.estimate.memory_limit_bytes)

    @property
    def fits(self) -> bool:
        return bool(self.report.fits)

    @property
    def devices(self) -> int:
        return int(self.report.devices)

    def to_dict(self) -> dict[str, Any]:
        return records.report_dict(self.report)

    def explain(self) -> dict[str, Any]:
        """The program of operations, priced."""
        return records.explain_dict(self.report)

    def page(self) -> Page:
        from meshwise.answers.pages import report_page

        return report_page(self.report)

    def explain_page(self) -> Page:
        from meshwise.answers import pages

        return pages.explain_page(self.report)


class ModelResult(Answer):
    """What a model is made of and which TP degrees it admits."""

    def __init__(self, spec: Model) -> None:
        self.model = spec

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def layers(self) -> int:
        return self.model.layers

    @property
    def parameters(self) -> int:
        return int(parameters(self.model))

    @property
    def active_parameters(self) -> int:
        """Those that a token meets: of routed experts, its own."""
        return int(parameters(self.model, active=True))

    @property
    def legal_tp(self) -> list[int]:
        """Every TP degree that no rule refuses, ascending."""
        return legality.legal_tp(self.model, None)

    def to_dict(self) -> dict[str, Any]:
        from meshwise.program.stored import weight_bytes

        return records.model_dict(self.model, weight_bytes(self.model))

    def page(self) -> Page:
        from meshwise.answers.pages import model_page

        return model_page(self.to_dict())


class CollectiveResult(Answer):
    """One collective, every algorithm."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record

    @property
    def time_s(self) -> float:
        """Of the fastest algorithm [s]."""
        return float(self.record["time_s"])

    @property
    def time_low_s(self) -> float:
        """Lower end of the 90 % interval [s]."""
        return float(self.record["time_low_s"])

    @property
    def time_high_s(self) -> float:
        """Upper end of the 90 % interval [s]."""
        return float(self.record["time_high_s"])

    @property
    def algorithm(self) -> str:
        return str(self.record["algorithm"])

    @property
    def algbw_bytes_per_s(self) -> float | None:
        """Size over time, as nccl-tests prints it."""
        found: float | None = self.record["algbw_bytes_per_s"]
        return found

    @property
    def busbw_bytes_per_s(self) -> float | None:
        """Bus bandwidth, as nccl-tests prints it."""
        found: float | None = self.record["busbw_bytes_per_s"]
        return found

    def to_dict(self) -> dict[str, Any]:
        return self.record

    def page(self) -> Page:
        from meshwise.answers.pages import collective_page

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
        from meshwise.evidence.tables import unread

        return {
            "schema": records.SCHEMA,
            "kind": self.table.kind,
            "unread": unread(self.table),
            "rows": [r.to_dict() for r in self.results],
            "summary": self.summary,
        }

    def page(self, worst: int = 15) -> Page:
        from meshwise.answers.pages import wrap
        from meshwise.answers.validate import validate_page
        from meshwise.evidence.tables import unread

        found = validate_page(self.table.kind, self.table.name, self.results, self.summary, worst)
        columns = unread(self.table)
        if not columns:
            return found
        said = wrap(f"Columns that no prediction reads: {', '.join(columns)}.")
        return found._replace(parts=(*found.parts, said))
