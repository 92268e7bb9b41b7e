"""Attention of one layer on one device: projections, the core, rotary and cache traffic."""

from __future__ import annotations

import numpy as np

from meshwise.arrays import Array
from meshwise.models.layers.attention import Attention, Indexer
from meshwise.models.parameters import attention_matrices
from meshwise.models.shapes import LayerFormats
from meshwise.program.context import Context
from meshwise.program.layers.pairs import attended_pairs, entry_pairs, seen_pairs
from meshwise.program.operations import (
    Core,
    Gathered,
    Kernel,
    Op,
    collective_op,
    elementwise,
    gemm,
)

_FP32_BYTES = 4.0


def projections(
    ctx: Context, a: Attention, stored: LayerFormats
) -> tuple[list[Op], list[Op], list[tuple[str, int]]]:
    """(ops before the core, those of the output projection, what backward reduces).

    The third is the list of (op name, features) whose input gradient is partial on each rank: the
    layer's input for column-parallel projections, MLA's latents where the up-projections are split.
    """
    tp = ctx.layout.tp
    formats = ctx.operands(stored.attention)
    h = ctx.model.hidden
    heads = -(-a.heads // tp)
    q_width = heads * a.head_dim * (2 if a.output_gate else 1)
    output = _output(ctx, a, stored)
    if a.kv_lora_rank is None:
        inputs = a.input_width or h
        alike = [
            m
            for m in attention_matrices(a, h)
            if m.role in ("query", "key", "value", "query_down", *GATES)
        ]
        width = sum(m.local_outputs(tp) for m in alike)
        qkv = gemm("attention.qkv", ctx.tokens, width, inputs, formats)
        if a.q_lora_rank is None:
            return [qkv], output, [("attention.qkv", h)]
        up = gemm("attention.query_up", ctx.tokens, q_width, a.q_lora_rank, formats)
        return [qkv, up], output, [("attention.qkv", h), ("attention.query_up", a.q_lora_rank)]
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
    gates = [m for m in attention_matrices(a, h) if m.role in GATES]
    if gates:
        ops.append(
            gemm("attention.gate", ctx.tokens, sum(m.local_outputs(tp) for m in gates), h, formats)
        )
        if a.q_lora_rank is not None:  # else the query's input gradient is the same one
            reduced.append(("attention.gate", h))
    return ops, output, reduced


GATES = ("head_gate", "value_gate")  # of the output, projections of the layer's input


def _output(ctx: Context, a: Attention, stored: LayerFormats) -> list[Op]:
    """The output projection, in two steps where groups of heads are compressed first."""
    tp, h, formats = ctx.layout.tp, ctx.model.hidden, ctx.operands(stored.output)
    if a.output_rank is None:
        width = -(-a.heads // tp) * a.value_head_dim
        return [gemm("attention.output", ctx.tokens, h, width, formats)]
    groups = -(-a.output_groups // tp)
    each = a.heads * a.value_head_dim // a.output_groups
    return [
        gemm("attention.output_down", ctx.tokens, a.output_rank, each, formats, batch=groups),
        gemm("attention.output", ctx.tokens, h, groups * a.output_rank, formats),
    ]


def indexer(ctx: Context, a: Attention, stored: LayerFormats) -> list[Op]:
    """What chooses the keys of sparse attention: three products, scores of all keys, the choice.

    The same on every TP rank (vLLM's, SGLang's indexers are not divided), but for heads that choose for a
    KV head (vLLM's minimax_m3), which are divided. Scores are read once more to choose; keys have a cache
    of their own. Before it, what compresses keys of layers that do (DeepSeek-V4): a product on every rank.
    """
    i = a.indexer
    w, h = ctx.widths, ctx.model.hidden
    formats = ctx.operands(stored.attention)
    entries = []
    if a.compressor_features:
        wide = (
            ctx.wide()
        )  # engines keep it in 16 bit or above (vLLM's deepseek_v4.py: no quantisation)
        entries = [gemm("attention.compressor", ctx.tokens, a.compressor_features, h, wide)]
    if i is None or not i.own:
        return entries
    keys = ctx.keys // (a.compress or 1)
    decode = ctx.phase == "decode"
    causal = decode or (ctx.stack.kernels.attention == "flash" and not ctx.stack.ideal)
    if a.compress is None:
        pairs = attended_pairs(ctx.queries, keys, None, causal)
    else:
        pairs = entry_pairs(ctx.queries, ctx.keys, a.compress, None, causal)
    every = pairs if decode else float(ctx.queries) * keys
    cp = ctx.layout.cp if ctx.phase != "decode" else np.int64(1)
    scale = ctx.sequences / cp
    heads: Array = np.int64(i.heads) if i.weighted else -(-i.heads // ctx.layout.tp)
    # scores, and their weighted sum over the heads
    per_pair = 2.0 * (i.head_dim + i.weighted) * heads
    kept = w.activation if ctx.training else index_key_bytes(ctx, i)
    kv_bytes = ctx.sequences * float(keys) * i.head_dim * kept
    q_bytes = ctx.tokens * heads * i.head_dim * w.activation
    score = Op(
        "attention.indexer",
        "attention",
        "forward",
        1,
        flops=per_pair * pairs * scale,
        model_flops=per_pair * every * scale,
        hbm_bytes=kv_bytes + q_bytes,
        m=ctx.sequences * ctx.queries,
        n=keys,
        k=i.head_dim,
        batch=heads,
        kernel=Kernel.DECODE if decode else Kernel.USUAL,
        dtype=ctx.wide().dtype,
        core=Core(
            sequences=ctx.sequences,
            queries=1 if decode else ctx.queries / cp,
            attended=float(keys) if decode else pairs / ctx.queries,
            heads=heads * (ctx.queries if decode else 1),
            kv_heads=np.int64(1),
            width=i.head_dim / 2,  # scores alone: no product with values
            kv_bytes=kv_bytes,
            kv_element=kept,
            scores=True,
        ),
    )
    chosen = elementwise("attention.top_k", "fp32", 2.0 * 4.0 * pairs * scale)._replace(
        kernel=Kernel.CHOICE,
        m=ctx.sequences * float(ctx.queries) / cp,
        n=keys // i.block,
        k=-(-i.top_k // i.block),
    )
    made = (i.key_features or i.head_dim) + i.heads * i.weighted
    return [
        *entries,
        gemm("attention.indexer_query", ctx.tokens, heads * i.head_dim, i.rank or h, formats),
        gemm("attention.indexer_key", ctx.tokens, made, h, formats),
        score,
        chosen,
    ]


def index_key_bytes(ctx: Context, i: Indexer) -> float:
    """Bytes per value of an indexer's cached key: FP8 and an fp32 scale per 128 (DeepSeek's, as engines keep it
    whatever the cache's format is); that of the cache where heads choose by themselves (MiniMax-M3)."""
    return 1.0 + 4.0 / 128.0 if i.weighted else ctx.widths.kv


def _gathered(ctx: Context, a: Attention, absorbed: bool) -> Gathered | None:
    """What an engine's sparse kernel gathers for each row; None where it reads keys in their order."""
    if ctx.training:
        return None
    if a.compress is not None and a.one_cache:
        return Gathered(float(a.seen(ctx.keys)), compressed=True)
    if a.indexer is not None and absorbed:
        return Gathered(float(a.indexer.top_k))
    return None


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
    # sparse kernels of engines work on the latents for prompts too (FlashMLA)
    absorbed = a.mla and (decode or (a.indexer is not None and not ctx.training))
    if absorbed:
        assert a.kv_lora_rank is not None
        score_width, value_width = a.kv_lora_rank + a.rope_head_dim, a.kv_lora_rank
        kv_values: Array = np.int64(score_width)
        kv_heads: Array = np.int64(1)
    else:
        score_width, value_width = a.head_dim, a.value_head_dim
        kv_heads = heads if a.mla else -(-a.kv_heads // ctx.layout.tp)
        kv_values = kv_heads * (a.head_dim + (0 if a.one_cache else a.value_head_dim))
    per_pair = 2.0 * (score_width + value_width)
    pairs = seen_pairs(a, ctx.queries, ctx.keys, causal=fused or decode)
    if fused and ctx.training and a.window is None and not ctx.stack.communication.cp_load_balance:
        # the last rank sees all chunks before its own, half of its own: the others wait for it
        pairs = pairs * (2 * cp - 1) / cp
    if not fused and not decode:
        # the mask is applied to the full square, and to all compressed entries
        pairs = float(ctx.queries) * (ctx.keys + (ctx.keys // a.compress if a.compress else 0))
    full = float(ctx.queries) * a.seen(ctx.keys)
    scale = ctx.sequences * heads / cp
    flops = per_pair * pairs * scale
    model_flops = 2.0 * (a.head_dim + a.value_head_dim) * full * scale
    if decode:
        model_flops = flops
    # a float: batch · keys · width passes 2^63 long before it stops making sense
    keys_read = float(a.seen(ctx.keys) if decode else ctx.keys)
    kv_bytes = ctx.sequences * keys_read * kv_values * (w.kv if decode else w.activation) / dcp
    q_bytes = ctx.tokens * heads * dcp * (score_width + value_width) * w.activation
    traffic = kv_bytes + q_bytes
    if not fused and not decode:
        # scores written, softmax reads and writes, the second product reads; dropout once more
        passes = 4.0 * w.activation + (
            2 * w.activation + 1 if ctx.model.dropout and ctx.training else 0
        )
        if not ctx.stack.kernels.fused_softmax and not ctx.stack.ideal:
            # the mask read and filled in, then widened to fp32 for the softmax and narrowed
            passes += 2.0 * w.activation + 1.0 + 2.0 * _FP32_BYTES
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
                gathered=_gathered(ctx, a, absorbed),
                latents=absorbed,
            ),
        )
    ]
    if ctx.model.positions == 0 and a.rotary:
        kv = 1 if a.mla else -(-a.kv_heads // ctx.layout.tp) * (not a.shared_kv)
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
    if not ctx.training and not a.shared_kv:
        cached = a.local_cached_width(ctx.layout.tp)
        moved = ctx.tokens * cached * (w.activation + w.kv)
        write = elementwise("attention.cache_write", w.kv_dtype, moved)
        ops.insert(-1, write._replace(kernel=Kernel.CACHE_WRITE))
    gate = 1 if a.head_gate else a.value_head_dim * (a.output_gate or a.value_gate)
    if gate:  # outputs and gates read, their product written
        moved = ctx.tokens * heads * (2.0 * a.value_head_dim + gate) * w.activation
        ops.append(elementwise("attention.output_gate", w.activation_dtype, moved))
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
