"""``collective`` of several sizes: the fastest algorithm of each, beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

from meshwise.answers.collective import AnchoredRecord, CollectiveRecord, anchored_lines
from meshwise.answers.records import SCHEMA
from meshwise.answers.records.attributes import Key, Record
from meshwise.answers.records.cluster import ClusterRecord
from meshwise.answers.records.result import Answer
from meshwise.answers.text import words
from meshwise.answers.text.sentences import assumed_words, remark_lines
from meshwise.answers.text.tables import Page, Table
from meshwise.units import format_bandwidth, format_bytes, format_time

if TYPE_CHECKING:
    from meshwise.evidence.anchors.measured import MeasuredSize


class SizeRecord(TypedDict):
    """One size: as the answer about it alone, and its measured seconds where the file has it."""

    bytes: float
    time_s: float
    time_low_s: float
    time_high_s: float
    algbw_bytes_per_s: float | None
    busbw_bytes_per_s: float | None
    algorithm: str
    wire_bytes: list[float]
    size_factor: float | None
    measured_time_s: float | None
    evidence_tier: str | None


class SizesRecord(TypedDict):
    """The JSON of ``collective`` of several sizes."""

    schema: int
    op: str
    ranks: int
    cluster: ClusterRecord
    stack: str
    sizes: list[SizeRecord]
    anchored: AnchoredRecord | None
    remarks: list[str]


class CollectiveSizes(Answer):
    """One collective, several sizes."""

    ROWS = "sizes"
    op = Key[str]("The collective, as NCCL names it.")
    ranks = Key[int]("Ranks that take part.")
    cluster = Key[Record]("``name``, ``device``, ``devices`` and ``levels``.")
    stack = Key[str]("Whose library prices it.")
    sizes = Key[list[Record]]("Every size: ``bytes`` and the times [s] of its fastest algorithm.")
    anchored = Key[Record]("Factors that measured sizes gave, and these; or None.")
    remarks = Key[list[str]]("What to know of the answer.")

    def __init__(self, record: SizesRecord) -> None:
        self.record = record

    def to_dict(self) -> SizesRecord:
        return self.record

    def page(self) -> Page:
        return sizes_page(self.record)


def sizes_record(each: Sequence[CollectiveRecord], given: Sequence[MeasuredSize]) -> SizesRecord:
    """The JSON of several sizes by the answers about each alone; ``given``: what was measured."""
    first = each[0]
    measured: dict[float, list[float]] = {}
    for m in given:
        measured.setdefault(m.bytes, []).append(m.time_s)
    return {
        "schema": SCHEMA,
        "op": first["op"],
        "ranks": first["ranks"],
        "cluster": first["cluster"],
        "stack": first["stack"],
        "sizes": [_size(d, measured.get(d["bytes"], [])) for d in each],
        "anchored": first["anchored"],
        "remarks": first["remarks"],
    }


def _size(d: CollectiveRecord, measured: Sequence[float]) -> SizeRecord:
    return {
        "bytes": d["bytes"],
        "time_s": d["time_s"],
        "time_low_s": d["time_low_s"],
        "time_high_s": d["time_high_s"],
        "algbw_bytes_per_s": d["algbw_bytes_per_s"],
        "busbw_bytes_per_s": d["busbw_bytes_per_s"],
        "algorithm": d["algorithm"],
        "wire_bytes": d["wire_bytes"],
        "size_factor": None if d["anchored"] is None else d["anchored"]["size_factor"],
        "measured_time_s": sorted(measured)[len(measured) // 2] if measured else None,
        "evidence_tier": None if d["evidence"] is None else d["evidence"]["tier"],
    }


def sizes_page(d: SizesRecord) -> Page:
    """A row per size, as nccl-tests prints them."""
    compared = any(s["measured_time_s"] is not None for s in d["sizes"])
    columns = ("size", "time", "90 % interval", "algbw", "busbw", "algorithm")
    table = Table(
        "",
        (*columns, "measured", "error") if compared else columns,
        tuple(_row(s, compared) for s in d["sizes"]),
        frozenset({5}),
        keep=("size", "time", "busbw"),
    )
    asked = f"{d['cluster']['name']}, {d['stack']}" + assumed_words(d["cluster"]["assumed"])
    small, large = d["sizes"][0], d["sizes"][-1]
    line = words.first_line(
        [
            f"{d['op']} over {d['ranks']} ranks: {format_time(small['time_s'])} for "
            f"{format_bytes(small['bytes'])} to {format_time(large['time_s'])} for "
            f"{format_bytes(large['bytes'])}"
        ]
    )
    said = remark_lines(d["remarks"]) + anchored_lines(d["anchored"], one_size=False)
    return Page(asked, (table, *said), line)


def _row(s: SizeRecord, compared: bool) -> tuple[str, ...]:
    def rate(value: float | None) -> str:
        return format_bandwidth(value) if value is not None else "-"

    own = (
        format_bytes(s["bytes"]),
        format_time(s["time_s"]),
        f"{format_time(s['time_low_s'])} to {format_time(s['time_high_s'])}",
        rate(s["algbw_bytes_per_s"]),
        rate(s["busbw_bytes_per_s"]),
        s["algorithm"],
    )
    if not compared:
        return own
    measured = s["measured_time_s"]
    if measured is None:
        return (*own, "-", "-")
    return (*own, format_time(measured), f"{100.0 * (s['time_s'] / measured - 1.0):+.1f} %")
