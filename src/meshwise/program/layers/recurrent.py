"""A recurrent mixer of one layer on one device: projections, short convolution, the scan, its norm.

A prompt is worked on in chunks: products inside a chunk, and a state carried from chunk to chunk. A
new token reads and writes the state and nothing else, however long the context is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meshwise import dtypes
from meshwise.arrays import Array
from meshwise.models.layers.recurrent import Recurrent
from meshwise.models.shapes import LayerFormats
from meshwise.program.context import Context
from meshwise.program.operations import Kernel, Op, Scan, collective_op, elementwise, gemm


class Work(NamedTuple):
    """Products of a rule, as multiples of sizes: FLOPs per token and head of values.

    ``token``: of key_dim · value_dim, one token after the other (what the model counts).
    ``scores``: of chunk · key_dim, ``values``: of chunk · value_dim, ``states``: of key_dim · value_dim,
    ``solved``: of chunk², worked in chunks.
    """

    token: float
    scores: float = 0.0
    values: float = 0.0
    states: float = 0.0
    solved: float = 0.0
    chunk: int = 64


# A step decays the state (1), adds an outer product (2) and is read out (2); the delta rule also reads
# what the key has stored (2). In chunks: scores of queries with keys (2) and their product with values
# (2), the state's update and its part of the output (2 + 2). The delta rule's WY form (arXiv 2406.06484,
# section 3.2) adds scores of keys with keys, two products with its triangular inverse, the values that
# the state holds already, and the inverse itself. Chunks: flash-linear-attention 64, Mamba 2 256
# (mamba_ssm and vLLM: the configuration's chunk_size), lightning attention 256 (MiniMax' kernels).
SCAN_WORK: dict[str, Work] = {
    "gated_delta": Work(7.0, scores=6.0, values=4.0, states=6.0, solved=1.0),
    "kimi_delta": Work(7.0, scores=6.0, values=4.0, states=6.0, solved=1.0),
    "lightning": Work(5.0, scores=2.0, values=2.0, states=4.0, chunk=256),
    "mamba2": Work(5.0, scores=2.0, values=2.0, states=4.0, chunk=256),
    # selective scan: no products, each state of each channel by itself, an exponential among them
    "mamba": Work(7.0, states=7.0, chunk=2048),
}


def chunked_flops(rule: str, chunk: float, key_dim: float, value_dim: float) -> float:
    """FLOPs per token and head of values, worked on in chunks of ``chunk`` tokens."""
    work = SCAN_WORK[rule]
    return (
        work.scores * chunk * key_dim
        + work.values * chunk * value_dim
        + work.states * key_dim * value_dim
        + work.solved * chunk * chunk
    )


def scan(ctx: Context, r: Recurrent) -> list[Op]:
    """The recurrence itself; a convolution has none."""
    if r.rule not in SCAN_WORK:
        return []
    work, w = SCAN_WORK[r.rule], ctx.widths
    decode = ctx.phase == "decode"
    heads, key_heads = -(-r.heads // ctx.layout.tp), -(-r.key_heads // ctx.layout.tp)
    cp = ctx.layout.cp if not decode else np.int64(1)
    heads = heads / cp  # context parallelism gives a rank all tokens of its share of the heads
    tokens = ctx.sequences * float(ctx.queries)
    element = dtypes.ELEMENT_BYTES[r.state_dtype]
    size = float(r.key_dim * r.value_dim)
    in_turn = work.token * size
    whole = r.chunk or work.chunk
    chunked = chunked_flops(r.rule, min(whole, ctx.queries), r.key_dim, r.value_dim)
    per_head = in_turn if decode else chunked
    states = ctx.sequences * heads * size * element
    passes = ctx.queries if decode else -(-ctx.queries // whole)  # states written and read
    flowing = tokens * (2 * key_heads / cp * r.key_dim + 2 * heads * r.value_dim) * w.activation
    return [
        Op(
            f"{r.title}.scan",
            "recurrence",
            "forward",
            1,
            flops=per_head * tokens * heads,
            model_flops=in_turn * tokens * heads,
            hbm_bytes=flowing + 2.0 * states * passes,
            m=tokens,
            n=heads,
            k=r.key_dim,
            kernel=Kernel.DECODE if decode else Kernel.USUAL,
            dtype=ctx.wide().dtype,
            scan=Scan(
                rule=r.rule,
                sequences=ctx.sequences,
                queries=ctx.queries,
                heads=heads,
                key_heads=key_heads / cp,
                key_dim=r.key_dim,
                value_dim=r.value_dim,
                chunk=whole,
                state_bytes=states,
            ),
        )
    ]


def local_channels(r: Recurrent, tp: Array) -> Array:
    """Channels of the short convolution on one of ``tp`` ranks."""
    return sum(c.local(tp) for c in r.channels)


def mixer(
    ctx: Context, r: Recurrent, stored: LayerFormats
) -> tuple[list[Op], list[tuple[str, int]]]:
    """(operations of the mixer, what backward reduces): as :func:`attention.projections`."""
    tp, h, w, name = ctx.layout.tp, ctx.model.hidden, ctx.widths, r.title
    first, last = ctx.operands(stored.recurrent), ctx.operands(stored.recurrent_output)
    act = w.activation_dtype
    matrices = r.matrices(h)
    reads = [m for m in matrices if m.inputs == h and m.how == "column"]
    downs = [m for m in matrices if m.how == "none"]
    ups = [m for m in matrices if m.inputs == r.rank and m.how == "column" and m not in reads]
    inner = -(-r.heads // tp) * r.value_dim
    # into the mixer: all that reads the layer's input at once, low-rank gates in two steps
    ops = [gemm(f"{name}.input", ctx.tokens, sum(m.local_outputs(tp) for m in reads), h, first)]
    inputs = [(f"{name}.input", h)]
    if downs:
        ops.append(gemm(f"{name}.gates_down", ctx.tokens, sum(m.outputs for m in downs), h, first))
    if r.kernel:
        ops.append(_short_convolution(ctx, r))
    selection = next((m for m in matrices if m.role == "selection"), None)
    if selection is not None:
        ops += _selection(ctx, r, selection.outputs, inner, stored)
    if ups:
        ops.append(
            gemm(
                f"{name}.gates_up",
                ctx.tokens,
                sum(m.local_outputs(tp) for m in ups),
                r.rank,
                first,
            )
        )
        if selection is None:  # else the gradient of its sum over the ranks has this one's
            inputs.append((f"{name}.gates_up", r.rank * max(len(downs), 1)))
    # the state, its gate and norm, and out again
    ops += scan(ctx, r)
    ops.append(elementwise(f"{name}.gate", act, 3.0 * ctx.tokens * inner * w.activation))
    if r.norm_groups:
        ops.append(_norm_sums(ctx, r))
    ops.append(gemm(f"{name}.output", ctx.tokens, h, inner, last))
    return ops, inputs


def _short_convolution(ctx: Context, r: Recurrent) -> Op:
    """Channels read and written, and in inference the positions kept of them."""
    channels = local_channels(r, ctx.layout.tp)
    moved = 2.0 * ctx.tokens * channels * ctx.widths.activation
    if not ctx.training:
        moved = moved + 2.0 * ctx.sequences * channels * (r.kernel - 1) * ctx.widths.activation
    decode = ctx.phase == "decode"
    return elementwise(f"{r.title}.convolution", ctx.widths.activation_dtype, moved)._replace(
        kernel=Kernel.DECODE if decode else Kernel.USUAL,
        scan=Scan(
            rule="convolution",
            sequences=ctx.sequences,
            queries=ctx.queries,
            heads=channels,
            key_heads=channels,
            key_dim=1,
            value_dim=1,
            chunk=r.kernel,
            state_bytes=ctx.sequences * channels * (r.kernel - 1) * ctx.widths.activation,
        ),
    )


def _selection(
    ctx: Context, r: Recurrent, outputs: int, inner: Array, stored: LayerFormats
) -> list[Op]:
    """Mamba 1: what selects is made of a rank's channels, and summed over the ranks."""
    w = ctx.widths
    return [
        gemm(f"{r.title}.selection", ctx.tokens, outputs, inner, ctx.operands(stored.recurrent)),
        collective_op(
            f"{r.title}.selection_sum",
            "all_reduce",
            "tp",
            w.comm_dtype,
            ctx.tokens * outputs * w.comm,
            count=np.where(ctx.layout.tp > 1, 1, 0),
            phase="forward",
        ),
    ]


def _norm_sums(ctx: Context, r: Recurrent) -> Op:
    """A norm that spans heads of several ranks needs their sums of squares, in fp32 (vLLM's
    Mixer2RMSNormGated and MiniMaxText01RMSNormTP)."""
    tp = ctx.layout.tp
    return collective_op(
        f"{r.title}.norm_sums",
        "all_reduce",
        "tp",
        "fp32",
        ctx.tokens * 4.0,
        count=np.where(r.norm_groups % tp != 0, 1, 0),
        phase="forward",
    )


def head_exchange(ctx: Context, r: Recurrent, phase: str) -> list[Op]:
    """Context parallelism: tokens of all heads become all tokens of a share of the heads before the
    convolution, and come back after the scan (Megatron-Core's mamba_context_parallel.py)."""
    if ctx.phase == "decode":
        return []
    tp, act = ctx.layout.tp, ctx.widths.activation
    inner = -(-r.heads // tp) * r.value_dim
    count = np.where(ctx.layout.cp > 1, 1, 0)
    widths = (("to_heads", local_channels(r, tp) + inner), ("to_tokens", inner))
    return [
        collective_op(
            f"{r.title}.{name}",
            "all_to_all",
            "cp",
            ctx.widths.activation_dtype,
            ctx.tokens * width * act,
            count=count,
            phase=phase,
        )
        for name, width in widths
    ]


def scan_gradient(op: Op) -> Op:
    """Backward of the scan: every product has two gradients, and the states are made again (half the
    forward's work more): 2.5 × its FLOPs, 3 × its traffic; the model's FLOPs count 2 ×."""
    assert op.scan is not None
    return op._replace(
        phase="dgrad",
        flops=op.flops * 2.5,
        model_flops=op.model_flops * 2.0,
        hbm_bytes=op.hbm_bytes * 3.0,
        scan=op.scan._replace(work=2.5),
    )


def recurrent_state_bytes(ctx: Context, r: Recurrent) -> Array:
    """Bytes per sequence on one rank: the state, and the convolution's last positions. They do not depend on
    the context's length."""
    tp = ctx.layout.tp
    matrix = r.key_dim * r.value_dim if r.rule in SCAN_WORK else 0
    state = -(-r.heads // tp) * matrix * dtypes.ELEMENT_BYTES[r.state_dtype]
    last = local_channels(r, tp) * max(r.kernel - 1, 0) * ctx.widths.activation
    return state + last
