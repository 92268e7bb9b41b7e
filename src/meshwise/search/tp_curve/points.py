"""Records of the TP curve: a layer, a point, the limit, and the same GPUs as copies."""

from __future__ import annotations

from typing import NamedTuple


class Layer(NamedTuple):
    """One transformer layer (the most frequent kind), one microbatch, one device."""

    forward_s: float
    backward_s: float  # input and weight gradients
    recompute_s: float  # what activation recomputation does again before them
    compute_s: float  # this and the next five: forward, recomputation and backward
    comm_s: float
    exposed_comm_s: float
    comm_share: float
    ccr: float | None
    wire_bytes: tuple[float, ...]
    forward_comm_s: float
    backward_comm_s: float
    recompute_comm_s: float
    forward_payload_bytes: float
    backward_payload_bytes: float
    recompute_payload_bytes: float
    all_reduces_forward: int
    all_reduces_backward: int
    all_gathers_forward: int
    reduce_scatters_forward: int
    all_gathers_backward: int
    reduce_scatters_backward: int
    all_reduces_recompute: int
    flops_forward: float


class Point(NamedTuple):
    """One TP degree of the curve. Seconds, bytes, shares; ``None`` where it does not apply."""

    tp: int
    step_s: float
    step_low_s: float  # the ends of the 90 % interval
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
    speedup: float
    efficiency: float
    marginal_efficiency: float | None
    weak_efficiency: float
    memory_bytes: float
    fits: bool
    ranks_per_level: tuple[int, ...]
    algorithm: str | None
    tokens_per_s: float
    remarks: tuple[str, ...]
    layer: Layer


class Limit(NamedTuple):
    """The largest degree that still pays; ``reason`` is a code, ``detail`` its figures."""

    tp: int
    objective: str
    threshold: float
    reason: str
    detail: str


class Copies(NamedTuple):
    """The same GPUs as ``copies`` replicas of TP degree ``tp`` (decode and prefill)."""

    tp: int
    copies: int
    batch_per_copy: int
    step_s: float
    tokens_per_s: float
    tokens_per_s_per_device: float
    memory_bytes: float
    fits: bool
    same_load_batch_per_copy: int
    same_load_step_s: float
    same_load_tokens_per_s: float
