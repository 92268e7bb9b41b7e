"""What hides under what: the part of a collective's time that the step really waits for."""

from __future__ import annotations

import numpy as np

from meshwise.arrays import Array
from meshwise.program.operations import COLLECTIVES, Op
from meshwise.stacks.stack import Stack

SHARDED = ("dp_cp", "expert_dp")  # axes over which weights and gradients are divided
TINY = 1e-30  # seconds; stands for nothing in a division


# Compute runs this much slower while a collective's kernels share the device with it: mean over
# models and GPUs in Lee et al. 2025, arXiv 2507.03114 (their worst case is 0.40).
CONTENTION = 0.189


def exposed_concurrent_s(comm_s: Array, compute_s: Array) -> Array:
    """Exposed seconds of a collective that runs beside independent compute: what sticks out, and what it
    slows (:data:`CONTENTION` of the shorter of the two).
    """
    return np.maximum(comm_s - compute_s, 0.0) + CONTENTION * np.minimum(comm_s, compute_s)


def exposed_decomposed_s(comm_s: Array, gemm_s: Array, chunks: Array) -> Array:
    """Exposed seconds of a collective cut into ``chunks`` (1 or more) and interleaved with its own product,
    as many chunks: the first chunk has nothing to hide under (Wang et al., ASPLOS 2023, "Overlap
    communication with dependent computation via decomposition").
    """
    rest = (chunks - 1) / chunks
    return comm_s / chunks + exposed_concurrent_s(comm_s, gemm_s) * rest


def exposed_ops_s(
    ops: list[Op],
    seconds: list[Array],
    stack: Stack,
    tp: Array,
    decomposed: Array,
    apart: Array | None = None,
) -> list[Array]:
    """Exposed seconds (count included) of every op of one layer or end; 0 for compute.

    ``seconds`` are per call; ``decomposed`` where a layout cuts TP's collectives into chunks;
    ``apart``: the share of microbatches whose exchange of tokens runs beside another's compute. What can
    hide a collective is spent once: two collectives under the same product share its time, in order.
    """
    # compute by the name under which collectives look for it
    named: dict[str, Array] = {}
    for op, s in zip(ops, seconds, strict=True):
        if op.kind not in COLLECTIVES and op.phase != "recompute":
            suffix = "" if op.phase == "forward" else f":{op.phase}"
            named[op.name + suffix] = op.count * s
    # what runs beside each kind of collective
    regions = _region_compute(ops, seconds)
    shares = _sharded_shares(ops, seconds, stack)
    exchanged = 1.0 if apart is None else _exchanged_share(ops, seconds, apart)
    # each collective by its axis and the stack's way to overlap
    spent: dict[str, Array] = {}
    result: list[Array] = []
    for index, (op, s) in enumerate(zip(ops, seconds, strict=True)):
        if op.kind not in COLLECTIVES:
            result.append(0.0)
            continue
        total = op.count * s
        under = named.get(op.hides_under)
        if op.axis in SHARDED:
            result.append(total * (shares[_pass(op)] if _hides(op, stack) else 1.0))
        elif op.axis == "ep":
            result.append(total * exchanged)
        elif stack.ideal or under is None:
            result.append(total)
        elif op.axis == "cp" or (stack.overlaps.overlap_input_gradient and _beside_gradient(op)):
            result.append(_beside(total, under, op.hides_under, spent))
        elif stack.overlaps.overlap == "split" and op.axis == "tp":
            result.append(exposed_concurrent_s(total, regions[index]))
        elif stack.overlaps.overlap == "decomposed" and op.axis == "tp":
            result.append(exposed_decomposed_s(total, under, np.maximum(tp, 1)))
        elif op.axis == "tp" and np.any(decomposed):
            cut = exposed_decomposed_s(total, under, np.maximum(tp, 1))
            result.append(np.where(decomposed, cut, total))
        else:
            result.append(total)
    return result


def _beside(total: Array, under: Array, name: str, spent: dict[str, Array]) -> Array:
    free = np.maximum(under - spent.get(name, 0.0), 0.0)
    spent[name] = spent.get(name, 0.0) + total
    return exposed_concurrent_s(total, free)


def _pass(op: Op) -> str:
    return "forward" if op.phase == "forward" else "backward"


def _hides(op: Op, stack: Stack) -> bool:
    """Whether a gather of weights, or a scatter of gradients, runs beside compute."""
    if stack.ideal:
        return False
    return (
        stack.overlaps.overlap_param_gather
        if op.kind == "all_gather"
        else stack.overlaps.overlap_grad_reduce
    )


def _sharded_shares(ops: list[Op], seconds: list[Array], stack: Stack) -> dict[str, Array]:
    """Exposed share of the weights' gathers and gradients' scatters of the forward and the backward
    pass: together they run beside the pass of the unit before or after, as long as this one's."""
    compute: dict[str, Array] = {"forward": 0.0, "backward": 0.0}
    sent: dict[str, Array] = {"forward": 0.0, "backward": 0.0}
    for op, s in zip(ops, seconds, strict=True):
        if op.kind not in COLLECTIVES:
            compute[_pass(op)] = compute[_pass(op)] + op.count * s
        elif op.axis in SHARDED and _hides(op, stack) and np.max(op.count) > 0:
            sent[_pass(op)] = sent[_pass(op)] + s
    return {
        name: exposed_concurrent_s(total, compute[name]) / np.maximum(total, TINY)
        if np.max(total) > 0
        else 1.0
        for name, total in sent.items()
    }


def _exchanged_share(ops: list[Op], seconds: list[Array], apart: Array) -> Array:
    """Exposed share of a layer's exchanges of tokens: of the share ``apart`` of the microbatches, forward's
    and backward's together run beside the layer's passes of another one."""
    compute: Array = 0.0
    sent: Array = 0.0
    for op, s in zip(ops, seconds, strict=True):
        if op.kind not in COLLECTIVES:
            compute = compute + op.count * s
        elif op.axis == "ep":
            sent = sent + op.count * s
    beside = exposed_concurrent_s(sent, compute) / np.maximum(sent, TINY)
    return 1.0 - apart * (1.0 - np.minimum(beside, 1.0))


def _region_compute(ops: list[Op], seconds: list[Array]) -> dict[int, Array]:
    """For each TP collective, the compute since the one before it in the same phase order: with the
    batch split in two, that is what the other half computes meanwhile."""
    result: dict[int, Array] = {}
    since: Array = 0.0
    for index, (op, s) in enumerate(zip(ops, seconds, strict=True)):
        if op.kind in COLLECTIVES:
            if op.axis == "tp":
                result[index] = since
                since = np.where(np.asarray(op.count) > 0, 0.0, since)
        else:
            since = since + op.count * s
    return result


def _beside_gradient(op: Op) -> bool:
    """An input gradient's reduction beside the weight gradient, or the second gather of a sharded
    input beside the input gradient."""
    return op.hides_under.endswith(":wgrad") or op.phase == "wgrad"
