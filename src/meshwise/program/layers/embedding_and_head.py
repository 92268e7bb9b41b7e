"""The two ends of the model: embedding, and output head with its loss."""

from __future__ import annotations

import numpy as np

from meshwise.arrays import Array
from meshwise.program import sharding
from meshwise.program.context import Context
from meshwise.program.operations import Op, collective_op, elementwise, gemm, gradients_of, parted
from meshwise.program.weights import LocalWeights, end_weights


def embedding(ctx: Context) -> list[Op]:
    """Vocabulary-parallel lookup: each rank fills its rows with zeros but for its own words."""
    w, h = ctx.widths, ctx.model.hidden
    width = ctx.model.embedding_dim or h  # OPT-350m: the table is narrower than the layers
    tp = ctx.layout.tp > 1
    sp = ctx.layout.sequence_parallel & tp
    # the lookup, and the sum of the ranks' rows: whole, or sharded under sequence parallelism
    payload = ctx.tokens * width * w.comm
    lookup = elementwise(
        "embedding.lookup", w.activation_dtype, 2.0 * ctx.tokens * width * w.activation
    )
    ops = [
        lookup,
        collective_op(
            "embedding.output",
            "all_reduce",
            "tp",
            w.comm_dtype,
            payload,
            count=np.where(tp & ~sp, 1, 0),
            phase="forward",
        ),
        collective_op(
            "embedding.output",
            "reduce_scatter",
            "tp",
            w.comm_dtype,
            payload,
            count=np.where(sp, 1, 0),
            phase="forward",
        ),
    ]
    # backward: the gathered gradient, and its addition into the rank's rows
    if ctx.training:
        ops.append(
            collective_op(
                "embedding.output_grad",
                "all_gather",
                "tp",
                w.comm_dtype,
                payload,
                count=np.where(sp, 1, 0),
                phase="dgrad",
            )
        )
        ops.append(lookup._replace(phase="wgrad", hbm_bytes=lookup.hbm_bytes * 1.5))
    # up to the layers' width, where the table is narrower
    if ctx.model.embedding_dim:
        project = gemm("embedding.project", ctx.tokens, h, width, ctx.wide())
        ops += [project, *(gradients_of(project, w.activation, w.gradient) if ctx.training else ())]
    ops += _further(ctx)
    return _with_weights(ctx, ops, end_weights(ctx.model, ctx.layout, ctx.vocabulary)[0])


def _further(ctx: Context) -> list[Op]:
    """Products of the ends beside embedding and head, counted here: every token passes them; and embeddings
    per layer, looked up, and the product that adds the token's own (Gemma 3n)."""
    w, h, per_layer = ctx.widths, ctx.model.hidden, ctx.model.layers * ctx.model.layer_embedding
    wide = ctx.wide()
    products = [gemm(f"ends.{a.name}", ctx.tokens, a.outputs, a.inputs, wide)
                for a in ctx.model.adapters]  # fmt: skip
    if per_layer:
        products.append(gemm("embedding.per_layer", ctx.tokens, per_layer, h, wide))
        moved = 2.0 * ctx.tokens * per_layer * w.activation
        products.append(elementwise("embedding.per_layer_lookup", w.activation_dtype, moved))
    if not ctx.training:
        return products
    return [*products, *(g for op in products for g in gradients_of(op, w.activation, w.gradient))]


def _with_weights(ctx: Context, ops: list[Op], weights: Array) -> list[Op]:
    """An end's operations with the gathers and the accumulation of its ``weights``."""
    local = LocalWeights(0, weights, 0)
    before, after = sharding.gathers(ctx, local)
    return [*before, *ops, *after, *sharding.accumulation(ctx, local)]


def head(ctx: Context) -> list[Op]:
    """Final norm, logits over the rank's share of the (padded) vocabulary, loss or gather.

    Training computes every position's logits and Megatron's vocabulary-parallel cross-entropy:
    three reductions of one fp32 value per token (maximum, target logit, sum of exponentials), never
    the full logits, unless a stack gathers them; or head, loss and their gradients on a chunk of the tokens at a time. Inference needs the last position only and gathers its logits.
    """
    w, h, vocab = ctx.widths, ctx.model.hidden, ctx.vocabulary
    width = ctx.model.embedding_dim or h
    tp = ctx.layout.tp > 1
    sp = ctx.layout.sequence_parallel & tp
    # every position's logits in training and in verification, else the last position's
    rows = ctx.sequences if ctx.phase == "prefill" else ctx.tokens
    # the norm, the whole input, the logits
    norm = elementwise(
        "head.norm", w.activation_dtype, 2.0 * ctx.tokens / ctx.token_split * h * w.activation
    )
    q = ctx.model.quantization
    logits = gemm("head.logits", rows, vocab, width, ctx.wide(q.head if q else None))
    project: list[Op] = []
    if ctx.model.embedding_dim:
        project.append(gemm("head.project", rows, width, h, ctx.wide()))
    payload = ctx.tokens * width * w.comm
    plain_tp = np.where(tp & ~sp, 1, 0)
    sharded = np.where(sp, 1, 0)
    gather = collective_op(
        "head.input", "all_gather", "tp", w.comm_dtype, payload, count=sharded, phase="forward"
    )
    # inference: the whole vocabulary's logits on every rank
    if not ctx.training:
        result = collective_op(
            "head.logits",
            "all_gather",
            "tp",
            w.activation_dtype,
            1.0 * rows * vocab * ctx.layout.tp * w.activation,
            count=np.where(tp, 1, 0),
            phase="forward",
        )
        return [norm, gather, *project, logits, result]
    # training: the loss over a split vocabulary, or over gathered logits
    chunks = ctx.loss_chunks
    logits = parted(logits, chunks)
    whole = vocab * ctx.layout.tp if ctx.stack.kernels.whole_logits else vocab
    loss = parted(
        elementwise("head.loss", "fp32", ctx.stack.kernels.loss_bytes * rows * whole), chunks
    )
    per_token = collective_op(
        "head.loss",
        "all_reduce",
        "tp",
        "fp32",
        4.0 * rows / chunks,
        count=np.where(tp, 3 * chunks, 0),
        phase="forward",
    )
    if ctx.stack.kernels.whole_logits:
        per_token = collective_op(
            "head.logits",
            "all_gather",
            "tp",
            w.activation_dtype,
            1.0 * rows * whole * w.activation / chunks,
            count=np.where(tp, chunks, 0),
            phase="forward",
        )
    # backward: of the logits, the input's gradient summed, then what came before
    dgrad, wgrad = gradients_of(logits, w.activation, w.gradient)
    under = "head.logits:wgrad"
    ops = [
        norm,
        gather,
        *project,
        logits,
        loss,
        per_token,
        dgrad,
        wgrad,
        collective_op(
            "head.logits.input_grad",
            "all_reduce",
            "tp",
            w.comm_dtype,
            payload,
            count=plain_tp,
            phase="dgrad",
            hides_under=under,
        ),
        gather._replace(name="head.input_again", phase="wgrad"),
        collective_op(
            "head.input_grad",
            "reduce_scatter",
            "tp",
            w.comm_dtype,
            payload,
            count=sharded,
            phase="dgrad",
            hides_under=under,
        ),
        *(op for p in project for op in gradients_of(p, w.activation, w.gradient)),
        *gradients_of(norm, w.activation, w.gradient),
    ]
    return _with_weights(ctx, ops, end_weights(ctx.model, ctx.layout, ctx.vocabulary)[1])
