"""``collective``: one collective, by every algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

from meshwise.answers.records import SCHEMA
from meshwise.answers.records.attributes import Key, Record
from meshwise.answers.records.cluster import ClusterRecord, cluster_record
from meshwise.answers.records.evidence import EvidenceRecord
from meshwise.answers.records.result import Answer
from meshwise.answers.text import words
from meshwise.answers.text.evidence import evidence_lines
from meshwise.answers.text.sentences import assumed_words, remark_lines, sentence
from meshwise.answers.text.tables import Page, Table
from meshwise.clusters.load import Cluster
from meshwise.cost.collectives.fabric import Candidate
from meshwise.units import format_bandwidth, format_bytes, format_time

if TYPE_CHECKING:
    from meshwise.cost.collectives.anchors.factors import Factors
    from meshwise.evidence.anchors.measured import MeasuredSize


class CandidateRecord(TypedDict):
    """One algorithm: seconds, bytes per second, bytes per fabric level."""

    algorithm: str
    time_s: float
    algbw_bytes_per_s: float | None
    busbw_bytes_per_s: float | None
    wire_bytes: list[float]


class MeasuredRecord(TypedDict):
    """A size that was measured: bytes, seconds."""

    row: str
    bytes: float
    time_s: float


class AnchoredRecord(TypedDict):
    """A system's latencies and bandwidths over the model's, by sizes of its own; ``size_factor``: its time
    beyond both, by the sizes near the one that is asked."""

    latency_factor: float
    bandwidth_factor: float
    size_factor: float
    rows: list[MeasuredRecord]


class CollectiveRecord(TypedDict):
    """The JSON of ``collective``: the fastest algorithm, and all of them."""

    schema: int
    op: str
    bytes: float
    ranks: int
    cluster: ClusterRecord
    time_s: float
    time_low_s: float
    time_high_s: float
    algbw_bytes_per_s: float | None
    busbw_bytes_per_s: float | None
    algorithm: str
    wire_bytes: list[float]
    candidates: list[CandidateRecord]
    stack: str
    anchored: AnchoredRecord | None
    evidence: EvidenceRecord | None
    remarks: list[str]


class CollectiveResult(Answer):
    """One collective, every algorithm."""

    ROWS = "candidates"
    op = Key[str]("The collective, as NCCL names it.")
    bytes = Key[float]("Size, as nccl-tests counts it [bytes].")
    ranks = Key[int]("Ranks that take part.")
    cluster = Key[Record]("``name``, ``device``, ``devices`` and ``levels``.")
    wire_bytes = Key[list[float]]("Sent by one rank, per fabric level [bytes].")
    candidates = Key[list[Record]]("Every algorithm and its time [s].")
    stack = Key[str]("Whose library prices it.")
    anchored = Key[Record](
        "Factors that measured sizes of the same system gave, and these; or None."
    )
    evidence = Key[Record | None]("Which published logs are near: ``tier``, ``runs``, ``nearest``.")
    remarks = Key[list[str]]("What to know of the answer.")

    def __init__(self, record: CollectiveRecord) -> None:
        self.record = record

    @property
    def time_s(self) -> float:
        """Of the fastest algorithm [s]."""
        return self.record["time_s"]

    @property
    def time_low_s(self) -> float:
        """Lower end of the 90 % interval [s]."""
        return self.record["time_low_s"]

    @property
    def time_high_s(self) -> float:
        """Upper end of the 90 % interval [s]."""
        return self.record["time_high_s"]

    @property
    def algorithm(self) -> str:
        return self.record["algorithm"]

    @property
    def algbw_bytes_per_s(self) -> float | None:
        """Size over time, as nccl-tests prints it."""
        return self.record["algbw_bytes_per_s"]

    @property
    def busbw_bytes_per_s(self) -> float | None:
        """Bus bandwidth, as nccl-tests prints it."""
        return self.record["busbw_bytes_per_s"]

    def to_dict(self) -> CollectiveRecord:
        return self.record

    def page(self) -> Page:
        return collective_page(self.record)


def collective_record(
    op: str,
    payload: float,
    ranks: int,
    cluster: Cluster,
    candidates: list[Candidate],
    factor: float,
    interval: tuple[float, float],
    evidence: EvidenceRecord | None,
    *,
    stack: str,
    remarks: Sequence[str] = (),
    factors: Factors | None = None,
    left: float = 1.0,
    given: Sequence[MeasuredSize] = (),
) -> CollectiveRecord:
    """The JSON of a collective of ``payload`` bytes; ``factor`` is nccl-tests' of bus bandwidth,
    ``interval`` the 90 % one of the fastest algorithm's time [s], ``evidence`` says how near published
    logs are; ``factors`` are those that the ``given`` sizes of the system's own come to, ``left`` the time
    beyond them."""
    legal = (c for c in candidates if float(c.seconds) != float("inf"))
    usable = sorted(legal, key=lambda c: float(c.seconds))
    if ranks == 1:
        usable = [usable[0]._replace(algorithm="none")]
    best, *_ = found = [_candidate(c, payload, factor) for c in usable]
    low, high = interval
    return {
        "schema": SCHEMA,
        "op": op,
        "bytes": payload,
        "ranks": ranks,
        "cluster": cluster_record(cluster),
        "time_s": best["time_s"],
        "time_low_s": low,
        "time_high_s": high,
        "algbw_bytes_per_s": best["algbw_bytes_per_s"],
        "busbw_bytes_per_s": best["busbw_bytes_per_s"],
        "algorithm": best["algorithm"],
        "wire_bytes": best["wire_bytes"],
        "candidates": found,
        "stack": stack,
        "anchored": None if factors is None else _anchored(factors, left, given),
        "evidence": evidence,
        "remarks": [*([cluster.asked] if cluster.asked else []), *remarks],
    }


def _anchored(factors: Factors, left: float, given: Sequence[MeasuredSize]) -> AnchoredRecord:
    return {
        "latency_factor": factors.latency,
        "bandwidth_factor": factors.bandwidth,
        "size_factor": left,
        "rows": [{"row": m.where, "bytes": m.bytes, "time_s": m.time_s} for m in given],
    }


def _candidate(c: Candidate, payload: float, factor: float) -> CandidateRecord:
    seconds = float(c.seconds)
    algbw = payload / seconds if seconds > 0 else None
    return {
        "algorithm": c.algorithm,
        "time_s": seconds,
        "algbw_bytes_per_s": algbw,
        "busbw_bytes_per_s": algbw * factor if algbw is not None else None,
        "wire_bytes": [float(w) for w in c.wire_bytes],
    }


def collective_line(d: CollectiveRecord) -> str:
    """The fastest algorithm's time and bus bandwidth."""
    bus = d["busbw_bytes_per_s"]
    asked = f"{d['op']} of {format_bytes(d['bytes'])} over {d['ranks']} ranks"
    return words.first_line(
        [
            f"{asked}: {words.time_words(d['time_s'], d['time_low_s'], d['time_high_s'])}",
            f"bus bandwidth {format_bandwidth(bus)}" if bus is not None else "",
            f"by {d['algorithm']}",
        ]
    )


def collective_page(d: CollectiveRecord) -> Page:
    """A row per algorithm."""

    def rate(value: float | None) -> str:
        return format_bandwidth(value) if value is not None else "-"

    table = Table(
        "",
        ("algorithm", "time", "algbw", "busbw", "wire bytes by level"),
        tuple(
            (
                c["algorithm"],
                format_time(c["time_s"]),
                rate(c["algbw_bytes_per_s"]),
                rate(c["busbw_bytes_per_s"]),
                " + ".join(format_bytes(w) for w in c["wire_bytes"]),
            )
            for c in d["candidates"]
        ),
        keep=("time", "busbw"),
    )
    asked = f"{d['cluster']['name']}, {d['stack']}" + assumed_words(d["cluster"]["assumed"])
    said = (
        remark_lines(d["remarks"]) + anchored_lines(d["anchored"]) + evidence_lines(d["evidence"])
    )
    return Page(asked, (table, *said), collective_line(d))


def anchored_lines(anchored: AnchoredRecord | None, one_size: bool = True) -> list[str]:
    """What anchors an answer; none where nothing does. ``one_size``: with what its own size adds."""
    if anchored is None:
        return []
    near = (
        f", ×{anchored['size_factor']:.2f} in time by the sizes near this one" if one_size else ""
    )
    return [
        sentence(
            f"anchored by {len(anchored['rows'])} measured sizes: latencies "
            f"×{anchored['latency_factor']:.2f} and bandwidths ×{anchored['bandwidth_factor']:.2f} of "
            f"the model's{near}"
        )
    ]
