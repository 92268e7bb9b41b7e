"""What every kind of table shares: the prediction's record, the row's software, model and source."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from meshwise.cost.doubt.question import Question
from meshwise.dtypes import COMPUTE, canonical_dtype
from meshwise.evidence.software import as_stated
from meshwise.evidence.tables import Assumed, Row
from meshwise.layouts.layout import Layout
from meshwise.models.config_file import load_model_file
from meshwise.models.load import load_model
from meshwise.models.shapes import Model
from meshwise.stacks.load import stack_in_table
from meshwise.stacks.stack import Stack, not_made_for


class Unsupported(Exception):
    """A sound row that meshwise cannot predict; the text says why."""


class Contender(NamedTuple):
    """A training row among those that differ from it in layout alone."""

    alike: tuple[str, ...]  # what they have in common
    layout: Layout
    node_devices: int


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
    judged_as: str = ""  # quantity whose published spread holds, where this one has none


def stack_of(row: Row, column: str, version: str = "", phase: str = "train") -> Stack:
    """The stack that a row's software stands for, with the switches that the row states; ``version``:
    the column of its version, where it has one of its own. What the software is not made for, it did
    not run: the row measured something else."""
    name = row.text(column)
    number = row.text(version) if version else ""
    stack = stack_in_table(f"{name}-{number}" if number else name)
    if not name:
        raise Unsupported(f"the row does not state its software (column {column})")
    if stack is None:
        raise Unsupported(f"software {name!r} is no stack of the catalog")
    if not_made_for(stack, phase):
        raise Unsupported(f"software {name!r} is made for {' and '.join(stack.can.runs)} alone")
    return as_stated(stack, row)


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
