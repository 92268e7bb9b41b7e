"""What one device does: a list of operations with shapes, bytes and the group they run over.

All quantities are arrays over the layouts' axes (0-d for one layout). An operation that a layout
does not have is there with ``count`` 0; the list itself never depends on the layout.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from meshwise.arrays import Array

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")


class Kernel(Enum):
    """Which kernels run an operation, where its kind alone does not say it."""

    USUAL = "usual"
    EXPERTS = "experts"  # a product of each routed expert, in one call
    DECODE = "decode"  # attention of new tokens to a cache
    CACHE_WRITE = "cache write"  # of new keys and values, in the cache's format
    CHOICE = "choice"  # of the best ``k`` of each row's scores (m rows, n keys)


class Gathered(NamedTuple):
    """Keys that a kernel of sparse attention gathers: it walks as many ``slots`` for each row, whether a
    key is in each or not. ``compressed``: a window's keys and entries of many positions (DeepSeek-V4)."""

    slots: float
    compressed: bool = False


class Core(NamedTuple):
    """What an attention kernel's time depends on beyond m, n, k.

    ``queries`` and ``attended`` are per sequence and rank: rows, and the keys that a row sees on
    average. ``kv_bytes`` is the part of the traffic that is keys and values, ``kv_element`` the
    width in which the cache keeps them. ``work`` multiplies the forward's work (backward).
    """

    sequences: Array
    queries: Array
    attended: float
    heads: Array
    kv_heads: Array
    width: float  # of a head, mean of the scores' and the values'
    kv_bytes: Array
    kv_element: float
    work: float = 1.0
    gathered: Gathered | None = None  # where the keys of a row do not lie one after the other
    scores: bool = False  # an indexer's: no values
    latents: bool = (
        False  # all heads read one latent per position (MLA), its values among its scores' features
    )


class Scan(NamedTuple):
    """What a recurrence's time depends on: sequences, tokens of each, heads on the rank, their widths.

    A short convolution has its channels as heads, and its width as ``chunk``. ``chunk`` is the tokens that
    are worked on at once, ``state_bytes`` the states of all sequences.
    ``work`` multiplies the forward's work (backward).
    """

    rule: str
    sequences: Array
    queries: Array  # tokens per sequence
    heads: Array  # of values
    key_heads: Array
    key_dim: int
    value_dim: int
    chunk: int
    state_bytes: Array
    work: float = 1.0


class TokenCopies(NamedTuple):
    """Of each token that an exchange of tokens sends: one for each of ``top_k`` of the ``experts``."""

    experts: int
    top_k: int


class Op(NamedTuple):
    """One operation. Values are per call; ``count`` is calls per step (or per layer, see caller).

    ``kind`` gemm | attention | recurrence | elementwise | a collective. ``flops`` is executed floating-point
    operations (2 per multiply-add), ``model_flops`` what the Megatron/PaLM convention counts for it
    (full attention, no recomputation), ``hbm_bytes`` the device-memory traffic. ``m``, ``n``, ``k``
    are a GEMM's shape (``batch`` of them in the call). ``dtype`` is the format of a product's operands,
    of a collective's payload, of what a pass writes. ``payload_bytes`` is a collective's size as
    nccl-tests counts it, ``axis`` its group. ``hides_under`` names the op (same phase) whose time
    can hide it, where the stack does so.
    """

    name: str
    kind: str
    phase: str
    count: Array
    flops: Array = 0.0
    model_flops: Array = 0.0
    hbm_bytes: Array = 0.0
    m: Array = 0
    n: Array = 0
    k: Array = 0
    batch: Array = 1
    dtype: str = ""
    payload_bytes: Array = 0.0
    axis: str = ""
    weight_bytes: Array = 0.0
    weight_element: float = 0.0  # bytes per weight of a product, scales included
    hides_under: str = ""
    weight: bool = True  # a GEMM with a weight has a weight gradient
    core: Core | None = None  # of an attention kernel
    scan: Scan | None = None  # of a recurrence, and of a short convolution
    copies: TokenCopies | None = None  # of an exchange that sends a token once per node
    kernel: Kernel = Kernel.USUAL
    gradient_bytes: Array | None = None  # a pass's gradient moves; None: twice what it moves
    held: Array = 0  # experts of the rank, whether they get tokens or not
    deep_gemm: Array = False  # whether the engine asks DeepGEMM for their products


class Operands(NamedTuple):
    """Formats of a product: its operands' dtype, and bytes per activation, weight and result."""

    dtype: str
    activation: float
    weight: float
    result: float


def gemm(name: str, m: Array, n: Array, k: Array, formats: Operands, *, batch: Array = 1) -> Op:
    """A forward product of an (m × k) activation with a (k × n) weight, ``batch`` of them.

    FLOPs 2·m·n·k; traffic m·k + k·n + m·n values of their widths, each moved once.
    """
    flops = 2.0 * m * n * k * batch
    weights = 1.0 * k * n * formats.weight * batch
    traffic = (1.0 * m * k * formats.activation + 1.0 * m * n * formats.result) * batch + weights
    return Op(
        name,
        "gemm",
        "forward",
        1,
        flops=flops,
        model_flops=flops,
        hbm_bytes=traffic,
        m=m,
        n=n,
        k=k,
        batch=batch,
        dtype=formats.dtype,
        weight_bytes=weights,
        weight_element=formats.weight,
    )


def elementwise(name: str, dtype: str, hbm_bytes: Array, *, phase: str = "forward") -> Op:
    """A pass over memory: ``hbm_bytes`` read plus written per call, the result in ``dtype``. FLOPs are not
    counted.
    """
    return Op(name, "elementwise", phase, 1, dtype=dtype, hbm_bytes=hbm_bytes)


def collective_op(
    name: str,
    kind: str,
    axis: str,
    dtype: str,
    payload_bytes: Array,
    *,
    count: Array,
    phase: str,
    hides_under: str = "",
) -> Op:
    """A collective of values in ``dtype`` over the group of ``axis``, ``payload_bytes`` per call as nccl-tests
    counts them; ``count`` must be 0 where that group has one rank.
    """
    return Op(
        name,
        kind,
        phase,
        count,
        payload_bytes=payload_bytes,
        axis=axis,
        hides_under=hides_under,
        dtype=dtype,
    )


def parted(op: Op, parts: Array) -> Op:
    """An operation on a part of the tokens, called once per part: rows, FLOPs and activations are
    divided, weights are read each time."""
    activations = op.hbm_bytes - op.weight_bytes
    back = op.gradient_bytes
    return op._replace(
        count=op.count * parts,
        m=op.m / parts,
        flops=op.flops / parts,
        model_flops=op.model_flops / parts,
        hbm_bytes=activations / parts + op.weight_bytes,
        payload_bytes=op.payload_bytes / parts,
        gradient_bytes=None if back is None else back / parts,
    )


def gradients_of(op: Op, act_bytes: float, grad_bytes: float) -> tuple[Op, ...]:
    """Input- and weight-gradient of a forward operation.

    A GEMM (m, n, k) has dgrad (m, k, n) and wgrad (k, n, m); its traffic is that of the transposed
    products, the weight gradient is read and written in ``grad_bytes`` (accumulation).
    """
    if op.kind == "gemm":
        dgrad = op._replace(phase="dgrad", n=op.k, k=op.n)
        wgrad_traffic = (
            1.0 * op.m * (op.n + op.k) * act_bytes + 2.0 * op.n * op.k * grad_bytes
        ) * op.batch
        wgrad = op._replace(phase="wgrad", m=op.k, n=op.n, k=op.m, hbm_bytes=wgrad_traffic)
        return (dgrad, wgrad) if op.weight else (dgrad, dgrad._replace(phase="wgrad"))
    if op.kind == "elementwise":
        moved = 2.0 * op.hbm_bytes if op.gradient_bytes is None else op.gradient_bytes
        return (op._replace(phase="dgrad", hbm_bytes=moved),)
    raise ValueError(f"no gradient rule for {op.kind}")
