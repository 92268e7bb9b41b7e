"""Switches of software whose products of a few rows run on kernels of its own: those of single streams."""

# no `from __future__ import annotations`: the annotations are read (meshwise.stacks.fields)
from typing import Annotated

from meshwise.dtypes import STATED_WEIGHT
from meshwise.stacks.fields import OneOf, Range, SwitchGroup


class FewRows(SwitchGroup, frozen=True, kw_only=True):
    """Products of a few rows on the software's own kernels, of which nobody measured single calls: a
    share of the memory's rate, what a multiprocessor draws, and a time per product."""

    row_memory_share: Annotated[
        float | None,
        Range(0.05, 1.0),
        "Inference: products of a few rows read their weights at this share of the memory's datasheet "
        "rate. Without one at the rates of the device's measured kernels.",
    ] = None
    row_sm_bytes_per_s: Annotated[
        float | None,
        Range(1e9, 1e12, "B/s"),
        "The most that one multiprocessor draws in them.",
    ] = None
    row_product_s: Annotated[
        float,
        Range(0.0, 1.0, "s"),
        "What such a product takes beside reading: its start and its end.",
    ] = 0.0
    four_bit: Annotated[
        str | None,
        OneOf(STATED_WEIGHT),
        "Weights that a table of its runs calls 4-bit or int4. Without one `int4`: 4 bits and a scale per 128.",
    ] = None
