"""Systems that measured sizes of their own anchor, as ``validate`` tells of them."""

from __future__ import annotations

from typing import TypedDict

from meshwise.answers.text.tables import Table
from meshwise.evidence.anchors.anchoring import Anchored


class AnchorRecord(TypedDict):
    """A system that measured sizes of its own anchor: its factors over the model's latencies and
    bandwidths, and the rows (or lines of the file) that gave them."""

    source: str
    op: str
    ranks: int
    latency_factor: float
    bandwidth_factor: float
    rows: list[str]


def anchor_record(a: Anchored) -> AnchorRecord:
    """The JSON of a system."""
    return {
        "source": a.source,
        "op": a.op,
        "ranks": a.ranks,
        "latency_factor": a.factors.latency,
        "bandwidth_factor": a.factors.bandwidth,
        "rows": list(a.where),
    }


def anchors_table(anchored: list[AnchorRecord]) -> Table:
    """A row per system."""
    return Table(
        "Anchored by measured sizes, which are not counted",
        ("source", "op", "ranks", "sizes", "latency", "bandwidth"),
        tuple(
            (
                a["source"],
                a["op"],
                str(a["ranks"]),
                str(len(a["rows"])),
                f"×{a['latency_factor']:.2f}",
                f"×{a['bandwidth_factor']:.2f}",
            )
            for a in anchored
        ),
        frozenset({0, 1}),
    )
