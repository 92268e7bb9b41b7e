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
    """One TP degree of the curve: what ``docs/reference/definitions`` defines; seconds, bytes, shares.

    :param tp: the degree.
    :param step_s: time of a step [s].
    :param step_low_s: lower end of its 90 % interval [s].
    :param step_high_s: upper end [s].
    :param compute_s: computing [s].
    :param comm_s: communication, hidden or not [s].
    :param exposed_comm_s: communication that nothing hides [s].
    :param bubble_s: waiting in the pipeline [s].
    :param host_s: what the host adds [s].
    :param wire_bytes: sent by one device, per fabric level [bytes].
    :param payload_bytes: sizes of the collectives, as NCCL counts them [bytes].
    :param comm_share: exposed communication over the step.
    :param ccr: compute over communication; None without any.
    :param speedup: T(1) / T(tp).
    :param efficiency: speed-up over the degree.
    :param marginal_efficiency: what the last doubling pays of what it adds.
    :param weak_efficiency: the same work per device at every degree.
    :param memory_bytes: of the fullest device [bytes].
    :param fits: whether the device has as much.
    :param tight: whether its memory lies within the error of that.
    :param ranks_per_level: ranks of the group on each fabric level.
    :param algorithm: of the most frequent collective.
    :param tokens_per_s: tokens per second of the replica.
    :param remarks: what to know of the degree.
    :param layer: one layer in detail.

    >>> import meshwise as mw
    >>> answer = mw.scale("gpt2", "dgx-a100", mw.Decode(batch=8, context=512), tp=[1, 2])
    >>> answer.points[0].speedup
    1.0
    """

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
    tight: bool
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
    tight: bool
    same_load_batch_per_copy: int
    same_load_step_s: float
    same_load_tokens_per_s: float
