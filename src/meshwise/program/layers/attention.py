"""Attention of one layer on one device: projections, the core, rotary and cache traffic."""

from __future__ import annotations

import numpy as np

from meshwise.arrays import Array
from meshwise.models.shapes import Attention, LayerFormats
from meshwise.program.context import Context
from meshwise.program.operations import Core, Kernel, Op, collective_op, elementwise, gemm


def attended_pairs(queries: int, keys: int, window: int | None, causal: bool) -> float:
    """Query-key pairs of one head and sequence, exactly counted.

    ``queries`` are the last of ``keys`` positions. Causal: each query sees itself and what is
    before it, at most ``window`` keys. Not causal: all keys, at most ``window`` each.
    """
    if not causal:
        return float(queries) * min(keys, window or keys)
    limit = min(window or keys, keys)
    first = keys - queries + 1  # keys that the first query sees
    growing = max(0, min(limit, keys) - first)  # queries whose view still grows
    growing = min(growing, queries)
    total = growing * first + growing * (growing - 1) / 2
    return total + (queries - growing) * float(min(limit, keys))


def projections(
    ctx: Context, a: Attention, stored: LayerFormats
) -> tuple[list[Op], Op, list[tuple[str, int]]]:
    """(ops before the core, the output projection, what backward reduces).

    The third is the list of (op name, features) whose input gradient is partial on each rank: the
    layer's input for column-parallel projections, MLA's latents where the up-projections are split.
    """
    tp = ctx.layout.tp
    formats = ctx.operands(stored.attention)
    h = ctx.model.hidden
    heads = -(-a.heads // tp)
    q_width = heads * a.head_dim * (2 if a.output_gate else 1)
    last = ctx.operands(stored.output)
    output = gemm("attention.output", ctx.tokens, h, heads * a.value_head_dim, last)
    if a.kv_lora_rank is None:
        kv = -(-a.kv_heads // tp)
        qkv = gemm(
            "attention.qkv", ctx.tokens, q_width + kv * (a.head_dim + a.value_head_dim), h, formats
        )
        return [qkv], output, [("attention.qkv", h)]
    nope = a.head_dim - a.rope_head_dim
    latent = a.kv_lora_rank + a.rope_head_dim
    ops, reduced = [], []
    # engines multiply by both down-projections at once (vLLM's fused_qkv_a_proj, SGLang's
    # fused_qkv_a_proj_with_mqa, TensorRT-LLM's kv_a_proj_with_mqa)
    at_once = a.q_lora_rank is not None and not ctx.training
    if a.q_lora_rank is None:
        ops.append(gemm("attention.query", ctx.tokens, q_width, h, formats))
        reduced.append(("attention.query", h))
    else:
        down = a.q_lora_rank + (latent if at_once else 0)
        name = "attention.latents" if at_once else "attention.query_down"
        ops.append(gemm(name, ctx.tokens, down, h, formats))
        ops.append(gemm("attention.query_up", ctx.tokens, q_width, a.q_lora_rank, formats))
        reduced.append(("attention.query_up", a.q_lora_rank))
    if not at_once:
        ops.append(gemm("attention.kv_down", ctx.tokens, latent, h, formats))
    # In decode the up-projection is absorbed into the query and the output: the same weights, read
    # once, and the same FLOPs per new token (arXiv 2405.04434, section 2.1.2).
    ops.append(
        gemm(
            "attention.kv_up",
            ctx.tokens,
            heads * (nope + a.value_head_dim),
            a.kv_lora_rank,
            formats,
        )
    )
    reduced.append(("attention.kv_up", latent))
    return ops, output, reduced


def core(ctx: Context, a: Attention) -> list[Op]:
    """Scores, softmax and their product with the values; rotary; the cache written.

    Fused (flash) attention executes half of the scores under a causal mask and keeps none of
    them; unfused attention computes the full square and carries it through memory. Decode context
    parallelism: a rank sees its share of the keys with the queries of all ranks that share them, the
    same FLOPs over less of the cache.
    """
    w = ctx.widths
    heads = -(-a.heads // ctx.layout.tp)
    decode = ctx.phase == "decode"
    fused = ctx.stack.kernels.attention == "flash" and not ctx.stack.ideal
    cp = ctx.layout.cp if not decode else np.int64(1)
    dcp = ctx.layout.dcp if decode else np.int64(1)
    if a.mla and decode:
        assert a.kv_lora_rank is not None
        score_width, value_width = a.kv_lora_rank + a.rope_head_dim, a.kv_lora_rank
        kv_values: Array = np.int64(score_width)
        kv_heads: Array = np.int64(1)
    else:
        score_width, value_width = a.head_dim, a.value_head_dim
        kv_heads = heads if a.mla else -(-a.kv_heads // ctx.layout.tp)
        kv_values = kv_heads * (a.head_dim + a.value_head_dim)
    per_pair = 2.0 * (score_width + value_width)
    pairs = attended_pairs(ctx.queries, ctx.keys, a.window, causal=fused or decode)
    if not fused and not decode:
        pairs = float(ctx.queries) * ctx.keys  # the mask is applied to the full square
    full = float(ctx.queries) * min(ctx.keys, a.window or ctx.keys)
    scale = ctx.sequences * heads / cp
    flops = per_pair * pairs * scale
    model_flops = 2.0 * (a.head_dim + a.value_head_dim) * full * scale
    if decode:
        model_flops = flops
    # a float: batch · keys · width passes 2^63 long before it stops making sense
    keys_read = float(min(ctx.keys, a.window or ctx.keys) if decode else ctx.keys)
    kv_bytes = ctx.sequences * keys_read * kv_values * (w.kv if decode else w.activation) / dcp
    q_bytes = ctx.tokens * heads * dcp * (score_width + value_width) * w.activation
    traffic = kv_bytes + q_bytes
    if not fused and not decode:
        # scores written, softmax reads and writes, the second product reads; dropout once more
        passes = 4.0 * w.activation + (
            2 * w.activation + 1 if ctx.model.dropout and ctx.training else 0
        )
        traffic = traffic + passes * pairs * scale
    ops = [
        Op(
            "attention.decode" if decode else "attention.core",
            "attention",
            "forward",
            1,
            flops=flops,
            model_flops=model_flops,
            hbm_bytes=traffic,
            m=ctx.sequences * ctx.queries,
            n=ctx.keys,
            k=score_width,
            batch=heads,
            kernel=Kernel.DECODE if decode else Kernel.USUAL,
            dtype=ctx.wide().dtype,  # keys and values are widened, whatever the cache keeps
            core=Core(
                sequences=ctx.sequences,
                queries=1 if decode else ctx.queries / cp,
                attended=keys_read / dcp if decode else pairs / ctx.queries,
                # drafts under verification share a pass over the cache, as heads of one group do
                heads=heads * dcp * ctx.queries if decode else heads,
                kv_heads=kv_heads,
                width=(score_width + value_width) / 2,
                kv_bytes=kv_bytes,
                kv_element=w.activation if ctx.training else w.kv,
            ),
        )
    ]
    if ctx.model.positions == 0:
        kv = 1 if a.mla else -(-a.kv_heads // ctx.layout.tp)
        width = (heads + kv) * (a.rope_head_dim or a.head_dim)
        # not fused: widened to fp32, multiplied as complex numbers, narrowed: 20 bytes an element
        values = 2.0 if ctx.stack.kernels.fused_norm else 10.0
        ops.insert(
            0,
            elementwise(
                "attention.rotary", w.activation_dtype, values * ctx.tokens * width * w.activation
            ),
        )
    if (
        a.norm_parameters
        and not a.mla
        and not (ctx.stack.kernels.fused_qk_norm and not ctx.training)
    ):
        kv = -(-a.kv_heads // ctx.layout.tp)
        moved = 2.0 * ctx.tokens * (heads + kv) * a.head_dim * w.activation
        ops.insert(0, elementwise("attention.qk_norm", w.activation_dtype, moved))
    if a.norms_span_heads and not ctx.training:
        ops.insert(0, norm_sums(ctx))
    if not ctx.training:
        cached = (
            (a.kv_lora_rank or 0) + a.rope_head_dim
            if a.mla
            else -(-a.kv_heads // ctx.layout.tp) * (a.head_dim + a.value_head_dim)
        )
        moved = ctx.tokens * cached * (w.activation + w.kv)
        write = elementwise("attention.cache_write", w.kv_dtype, moved)
        ops.insert(-1, write._replace(kernel=Kernel.CACHE_WRITE))
    return ops


def norm_sums(ctx: Context) -> Op:
    """Norms over all heads need every rank's sum of squares, of queries and of keys, in fp32 (vLLM's
    minimax_m2.py; OLMo 2 there gathers the queries and keys themselves, which is more)."""
    return collective_op(
        "attention.norm_sums",
        "all_reduce",
        "tp",
        "fp32",
        ctx.tokens * 2 * 4.0,
        count=np.where(ctx.layout.tp > 1, 1, 0),
        phase="forward",
    )


def decode_exchange(ctx: Context, a: Attention) -> list[Op]:
    """What decode context parallelism sends: every rank's queries to the ranks that share its keys,
    each partial result's log-sum-exp, and the partial results back, summed (vLLM's
    decode_context_parallel_size; exact by the rescaling of Dao et al. 2022, arXiv 2205.14135)."""
    if ctx.phase != "decode":
        return []
    dcp = ctx.layout.dcp
    heads = -(-a.heads // ctx.layout.tp) * dcp
    count = np.where(dcp > 1, 1, 0)
    if a.mla:
        assert a.kv_lora_rank is not None
        score, value = a.kv_lora_rank + a.rope_head_dim, a.kv_lora_rank
    else:
        score, value = a.head_dim, a.value_head_dim
    act, wide = ctx.widths.activation, ctx.widths.activation_dtype
    sent = (
        ("attention.dcp_query", "all_gather", wide, score * act),
        ("attention.dcp_lse", "all_gather", "fp32", 4.0 * dcp),  # of every rank's partial result
        ("attention.dcp_output", "reduce_scatter", wide, value * act),
    )
    return [
        collective_op(
            name, kind, "dcp", dtype, ctx.tokens * heads * each, count=count, phase="forward"
        )
        for name, kind, dtype, each in sent
    ]


def core_gradient(op: Op, fused: bool) -> Op:
    """Backward of the core: twice the forward's products, five for two where scores are recomputed.

    Flash attention's backward rebuilds the scores: 2.5 × the forward's executed FLOPs (Dao 2023,
    arXiv 2307.08691, section 3.1.2); the model's FLOPs count 2 ×.
    """
    assert op.core is not None
    work = 2.5 if fused else 2.0
    return op._replace(
        phase="dgrad",
        flops=op.flops * work,
        core=op.core._replace(work=work),
        model_flops=op.model_flops * 2.0,
        hbm_bytes=op.hbm_bytes * 2.0,
    )
