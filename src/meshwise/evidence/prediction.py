"""What every kind of table shares: the prediction's record, the row's software, model and source."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from meshwise.cost.doubt.question import Question
from meshwise.dtypes import COMPUTE, canonical_dtype
from meshwise.evidence.tables import Assumed, Row
from meshwise.layouts.layout import Layout
from meshwise.models.config_file import load_model_file
from meshwise.models.load import load_model
from meshwise.models.shapes import Model


class Unsupported(Exception):
    """A sound row that meshwise cannot predict; the text says why."""


class Contender(NamedTuple):
    """A training row among those that differ from it in layout alone."""

    alike: tuple[str, ...]  # what they have in common
    layout: Layout
    node_devices: int


class Suspect(Exception):
    """A row whose figure nothing could measure; the text says why."""


class Span(NamedTuple):
    """Factors on a prediction, the lowest and the highest."""

    low: float = 1.0
    high: float = 1.0

    def widened(self, ratios: Iterable[float]) -> Span:
        """The span times that of the ratios of one more open value: together they may reach both."""
        reached = [r for r in ratios if r > 0.0 and math.isfinite(r)]
        return Span(self.low * min([1.0, *reached]), self.high * max([1.0, *reached]))


class Prediction(NamedTuple):
    """A quantity [SI] as measured and predicted. ``source`` is the row's paper or repository."""

    id: str
    quantity: str
    measured: float
    predicted: float
    source: str
    assumed: tuple[Assumed, ...]
    ideal_s: float | None = None  # training: the step's model FLOPs at the devices' peak
    pair: tuple[str, ...] = ()  # serving: what rows of one TP ladder have in common
    tp: int = 1
    question: Question | None = None  # what decides how far the prediction may be off
    contender: Contender | None = None  # training: what it ran, beside others of one job
    slower: float = 0.0  # ln of how much longer it takes if nothing unmeasured holds
    room: float | None = None  # of ``fits``: the limit over the predicted bytes
    span: Span = Span()  # what the legal values of all that the row leaves open reach
    anchored_sd: float | None = None  # its ln's, where measured sizes of the same system anchor it
    judged_as: str = ""  # quantity whose published spread holds, where this one has none


def model_of(row: Row, folder: Path) -> Model:
    """A model of the catalog, or ``models/NAME.json`` beside the table."""
    name = row.text("model")
    beside = folder / "models" / f"{name}.json"
    try:
        if name and beside.is_file():
            return load_model_file(str(beside), name=name)
        return load_model(name, f"line {row.line}: model")
    except OSError:
        raise row.wrong(
            "model", f"{name!r} is no model", "a preset, or a file in models/"
        ) from None


def operand_of(row: Row) -> str:
    """The format of a row's products, in whatever word; refused where it is none."""
    return canonical_dtype(row.text("dtype", "bf16"), f"line {row.line}: dtype", COMPUTE)


def source_of(row: Row) -> str:
    """The row's source for leaving one out: what stands before the slash of its id."""
    return row.text("id").split("/")[0]
