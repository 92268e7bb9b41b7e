"""What the functions of the API return: results that know their JSON and their pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshwise.answers import records
from meshwise.answers.attributes import Key, Record
from meshwise.answers.text.result import Answer, Placed
from meshwise.layouts import tp_degrees as legality
from meshwise.models.parameters import parameters
from meshwise.models.shapes import Model
from meshwise.search.tp_curve.curve import Scaling

if TYPE_CHECKING:
    from meshwise.answers.text.tables import Page
    from meshwise.evidence.tables import MeasuredTable
    from meshwise.evidence.validate import Result
    from meshwise.search.one_layout import Report
    from meshwise.search.tp_curve.points import Point


class ScaleResult(Placed):
    """The curve over TP degrees, its limit and the verdict.

    ``points`` are :class:`~meshwise.search.tp_curve.points.Point`, one per degree; ``limit`` is the
    largest degree that still pays.
    """

    ROWS = "points"
    formats = Key[Record]("Number formats of weights, activations, gradients, cache.")
    refused = Key[list[Record]]("Degrees that the model does not admit: ``tp`` and ``reason``.")
    smallest_fit = Key[Record | None]("The mesh of the fewest GPUs that fits, where no point does.")
    copies = Key[list[Record]]("The same GPUs as several copies of a smaller degree.")
    verdict = Key[str]("The curve in a sentence or two.")

    def __init__(self, scaling: Scaling) -> None:
        self.scaling = scaling
        self.points = scaling.points
        self.limit = scaling.limit

    @property
    def fastest(self) -> Point | None:
        """The degree of the least step among those that fit."""
        return next((p for p in self.points if p.tp == self.scaling.fastest), None)

    def to_dict(self) -> dict[str, Any]:
        return records.scaling_dict(self.scaling)

    def page(self) -> Page:
        from meshwise.answers.scale import scaling_page

        return scaling_page(self.scaling)


class EstimateResult(Placed):
    """One layout in full: times of one step [s], memory of the fullest device [bytes]."""

    ROWS = "communication"
    formats = Key[Record]("Number formats of weights, activations, gradients, cache.")
    layout = Key[Record]("The layout's degrees and switches.")
    wire_bytes = Key[tuple[float, ...]]("Sent by one device, per fabric level [bytes].")
    payload_bytes = Key[float]("Sizes of the collectives, as NCCL counts them [bytes].")
    ccr = Key[float | None]("Compute over communication.")
    memory = Key[Record]("Of the fullest device, by part [bytes].")
    loss_bytes = Key[float]("Of the loss, for a moment [bytes].")
    straggler_s = Key[float]("Waiting for the slowest rank [s].")
    launch_s = Key[float]("Kernels that the host starts late [s].")
    communication = Key[list[Record]]("By axis: seconds, hidden and not, and bytes.")
    provenance = Key[Record]("What the step's seconds rest on, as shares.")
    extrapolated = Key[bool]("Whether any of it is of other hardware or beyond what was measured.")
    remarks = Key[list[str]]("What to know of the answer.")

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
        """Computing [s]."""
        return float(self.report.compute_s)

    @property
    def comm_s(self) -> float:
        """All communication, hidden or not [s]."""
        return float(self.report.comm_s)

    @property
    def exposed_comm_s(self) -> float:
        """Communication that nothing hides [s]."""
        return float(self.report.exposed_comm_s)

    @property
    def bubble_s(self) -> float:
        """Waiting in the pipeline [s]."""
        return float(self.report.bubble_s)

    @property
    def host_s(self) -> float:
        """What the host adds [s]."""
        return float(self.report.host_s)

    @property
    def comm_share(self) -> float:
        """Exposed communication over the step."""
        return float(self.report.comm_share)

    @property
    def mfu(self) -> float:
        """Model FLOPs over the peak (PaLM, arXiv 2204.02311, appendix B)."""
        return self.report.mfu

    @property
    def hfu(self) -> float:
        """Computed FLOPs, recomputation with them, over the peak."""
        return self.report.hfu

    @property
    def tokens_per_s_per_device(self) -> float:
        """Tokens per second of one device."""
        return float(self.report.tokens_per_s_per_device)

    @property
    def memory_bytes(self) -> float:
        """Of the fullest device [bytes]."""
        return float(self.report.memory_bytes)

    @property
    def memory_limit_bytes(self) -> float:
        """What a device has for it [bytes]."""
        return float(self.report.estimate.memory_limit_bytes)

    @property
    def fits(self) -> bool:
        """Whether the memory suffices."""
        return bool(self.report.fits)

    @property
    def devices(self) -> int:
        """GPUs of the layout."""
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

    ROWS = "kinds"
    model_type = Key[str]("As the ``config.json`` names the architecture.")
    hidden = Key[int]("Width of the residual stream.")
    heads = Key[int | None]("Query heads.")
    kv_heads = Key[int | None]("Key/value heads.")
    head_dim = Key[int | None]("Width of a query head.")
    vocab = Key[int]("Rows of the embedding table.")
    max_positions = Key[int | None]("Longest context it is made for [tokens].")
    dtype = Key[str]("Of the weights that are not quantised.")
    quantization = Key[Record | None]("How the checkpoint stores its weights.")
    experts = Key[int | None]("Routed experts of a layer.")
    experts_per_token = Key[int | None]("How many of them a token visits.")
    weight_bytes = Key[Record]("Of all weights, by number format [bytes].")
    tp_dividing_heads = Key[list[int]]("Degrees that divide the heads.")
    max_tp_without_kv_copies = Key[int | None]("From the next on, ranks hold copies of KV heads.")
    refused_tp = Key[list[Record]]("Degrees that are not legal: ``tp`` and ``reason``.")
    remarks = Key[list[str]]("What to know of the answer.")
    kinds = Key[list[Record]]("The distinct kinds of layer, and how many are of each.")

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

    ROWS = "candidates"
    op = Key[str]("The collective, as NCCL names it.")
    bytes = Key[float]("Size, as nccl-tests counts it [bytes].")
    ranks = Key[int]("Ranks that take part.")
    cluster = Key[Record]("``name``, ``device``, ``devices`` and ``levels``.")
    wire_bytes = Key[list[float]]("Sent by one rank, per fabric level [bytes].")
    candidates = Key[list[Record]]("Every algorithm and its time [s].")
    remarks = Key[list[str]]("What to know of the answer.")

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
    """A table's rows, predicted: ``results`` are records, ``summary`` what they come to. The JSON's
    ``rows`` are :meth:`rows`."""

    ROWS = "rows"
    kind = Key[str]("What the table measures.")
    unread = Key[list[str]]("Columns that no prediction reads.")
    summary = Key[Record]("Errors of the predictions, as shares.")

    def __init__(
        self, table: MeasuredTable, results: list[Result], summary: dict[str, Any]
    ) -> None:
        self.table, self.results, self.totals = table, results, summary

    @property
    def invalid(self) -> int:
        """How many rows are malformed."""
        return sum(r.status == "invalid" for r in self.results)

    def to_dict(self) -> dict[str, Any]:
        from meshwise.evidence.tables import unread_columns

        return {
            "schema": records.SCHEMA,
            "kind": self.table.kind,
            "unread": unread_columns(self.table),
            "rows": [r.to_dict() for r in self.results],
            "summary": self.totals,
        }

    def page(self, worst: int = 15) -> Page:
        from meshwise.answers.pages import wrap
        from meshwise.answers.validate import validate_page
        from meshwise.evidence.tables import unread_columns

        found = validate_page(self.table.kind, self.table.name, self.results, self.totals, worst)
        columns = unread_columns(self.table)
        if not columns:
            return found
        said = wrap(f"Columns that no prediction reads: {', '.join(columns)}.")
        return found._replace(parts=(*found.parts, said))
