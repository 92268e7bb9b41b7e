"""The JSON of one layout's step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from meshwise.answers.records.cluster import ClusterRecord
from meshwise.answers.records.evidence import EvidenceRecord, PublishedMfu


class EstimateRecord(TypedDict):
    """The JSON of ``estimate``: seconds of one step, bytes of the fullest device, shares."""

    schema: int
    model: str
    cluster: ClusterRecord
    workload: dict[str, object]
    formats: dict[str, object]
    stack: dict[str, object]
    layout: Mapping[str, object]
    devices: int
    step_s: float
    step_low_s: float
    step_high_s: float
    compute_s: float
    comm_s: float
    exposed_comm_s: float
    bubble_s: float
    host_s: float
    wire_bytes: tuple[float, ...]
    payload_bytes: float
    comm_share: float
    ccr: float | None
    mfu: float
    hfu: float
    tokens_per_s_per_device: float
    memory_bytes: float
    memory_low_bytes: float
    memory_high_bytes: float
    fits: bool
    tight: bool
    memory: dict[str, float]
    loss_bytes: float
    reserved_bytes: float
    device_bytes: float
    straggler_s: float
    launch_s: float
    memory_limit_bytes: float
    communication: list[dict[str, object]]
    provenance: dict[str, float]
    extrapolated: bool
    evidence: EvidenceRecord | None
    best_published_mfu: PublishedMfu | None
    remarks: list[str]
