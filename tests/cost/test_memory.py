"""Memory of a training step: state by stack, the peak's moments, monotony, one layout as many."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from meshwise.axes import SHARD_CODE
from meshwise.cost.memory.activations import (
    layer_activation_bytes,
    layer_backward_bytes,
    loss_bytes,
)
from meshwise.cost.memory.parts import (
    WorkingBytes,
    fullest_stage_bytes,
    gathered_units_bytes,
    state_bytes,
    working_bytes,
)
from meshwise.cost.schedule import in_flight_microbatches
from meshwise.layouts.layout import Layouts
from meshwise.models.load import load_model
from meshwise.models.parameters import parameters
from meshwise.program.step import Program, program
from meshwise.program.weights import end_weights, local_block_weights
from meshwise.stacks.load import load_stack
from meshwise.stacks.stack import Stack, replaced
from meshwise.workloads.workload import Formats, Training

LLAMA = load_model("llama-3-8b")
BATCH, SEQ = 64, 4096
TRAINING_STACKS = (
    "megatron-2021",
    "megatron-core",
    "nemo",
    "deepspeed",
    "nanotron",
    "torchtitan-fsdp",
    "torchtitan-eager",
    "internevo",
    "paddle",
    "maxtext",
)


def built(stack: Stack, grad: str = "fp32", dtype: str = "bf16", **axes: Any) -> Program:
    layout = Layouts(**{k: np.asarray(v) for k, v in ({"tp": 1, "micro_batch": 1} | axes).items()})
    workload = Training(batch=BATCH, seq=SEQ, formats=Formats(dtype=dtype, gradients=grad))
    return program(LLAMA, stack, workload, layout)


def first(stack: Stack, **axes: Any) -> tuple[Any, WorkingBytes]:
    p = built(stack, **axes)
    return state_bytes(p.ctx, p.roles[0]), working_bytes(p.ctx, p.roles[0])


def test_bytes_per_parameter_by_stack() -> None:
    """Weights, gradients, optimizer, of every weight on one device without sharding."""
    n = parameters(LLAMA)
    expected = {
        # 16-bit weight; fp32 gradient; fp32 master and two moments (18 bytes in all)
        "megatron-core": (2, 4, 12),
        # … and the reducer's 16-bit bucket (two replicas)
        "nanotron": (2, 4 + 2, 12),
        # the fp32 weight is the master
        "torchtitan-fsdp": (4, 4, 8),
    }
    for name, (w, g, o) in expected.items():
        s, _ = first(load_stack(name), dp=2)
        assert (s.weights_bytes, s.gradients_bytes, s.optimizer_bytes) == (w * n, g * n, o * n)
    alone, _ = first(load_stack("nanotron"))
    assert alone.gradients_bytes == 4 * n  # no reducer without replicas


def test_fsdp_keeps_sixteen_bytes_in_shards() -> None:
    n, shards = parameters(LLAMA), 16
    s, _ = first(load_stack("torchtitan-fsdp"), dp=shards, shard=SHARD_CODE["zero3"])
    assert float(s.total) == pytest.approx(16 * n / shards, rel=1e-12)
    # reduced in 16 bit or not: the gradient of an fp32 weight is fp32
    narrow, _ = first(load_stack("torchtitan-fsdp"), grad="bf16", dp=shards, shard=3)
    assert narrow == s


def test_units_that_fsdp_gathers() -> None:
    """Two layers and both ends in 16 bit, a layer's gradients in 16 bit and fp32, the head's in 16;
    with a pipeline the whole stage and its gradients' fp32 sums."""
    titan, zero3 = load_stack("torchtitan-fsdp"), SHARD_CODE["zero3"]
    p = built(titan, dp=8, shard=zero3)
    layer = float(local_block_weights(LLAMA.blocks[0], LLAMA.hidden, p.ctx.layout).total)
    embed, head = (float(v) for v in end_weights(LLAMA, p.ctx.layout, p.ctx.vocabulary))
    found = float(gathered_units_bytes(p.ctx, p.roles[0]))
    assert found == layer * (2 + 2 + 2 + 4) + 2 * embed + 4 * head
    piped = built(titan, dp=8, pp=4, shard=zero3)
    stage = 8 * layer + embed
    assert float(gathered_units_bytes(piped.ctx, piped.roles[0])) == stage * (2 + 4) + 2 * layer
    # FP8 training gathers FP8 weights
    narrow = built(titan, dtype="fp8", dp=8, pp=4, shard=zero3)
    assert float(gathered_units_bytes(narrow.ctx, narrow.roles[0])) == stage * (1 + 4) + 2 * layer
    for shard in ("none", "zero1", "zero2"):
        q = built(titan, dp=8, shard=SHARD_CODE[shard])
        assert float(gathered_units_bytes(q.ctx, q.roles[0])) == 0
    alone = built(titan, shard=zero3)
    assert float(gathered_units_bytes(alone.ctx, alone.roles[0])) == 0


def test_the_loss_is_the_peak_of_a_large_vocabulary() -> None:
    """4,096 tokens · 128,256 logits, padded as the stack pads them, at the stack's bytes per logit, divided over TP; on the last
    stage of a pipeline only."""
    for name in TRAINING_STACKS:
        stack = replaced(load_stack(name), {"loss_chunks": 1})
        for tp in (1, 2, 8):
            p = built(stack, tp=tp)
            per_logit = stack.loss_peak_bytes
            if tp > 1 and stack.loss_peak_bytes_tp is not None:
                per_logit = stack.loss_peak_bytes_tp
            multiple = stack.vocab_multiple * (tp if stack.vocab_multiple_per_rank else 1)
            rows = -(-LLAMA.vocab // multiple) * multiple / tp
            expected = SEQ * rows * per_logit
            assert float(loss_bytes(p.ctx)) == expected
            layer = float(layer_backward_bytes(p.ctx, LLAMA.blocks[0]))
            found = float(working_bytes(p.ctx, p.roles[0]).workspace_bytes)
            if not stack.autograd_gradients:
                assert found == max(expected, layer)
    p = built(load_stack("megatron-core"), pp=4)
    plain = [float(working_bytes(p.ctx, role).workspace_bytes) for role in p.roles]
    assert plain[0] == plain[1] == float(layer_backward_bytes(p.ctx, LLAMA.blocks[0])) < plain[2]


def test_autograd_gradients_count_where_activations_do_not() -> None:
    """At the end of backward: 2 bytes of every weight, less the microbatch's activations."""
    stack = load_stack("nanotron")
    short = Training(batch=4, seq=128, formats=Formats(gradients="fp32"))
    layout = Layouts(tp=np.asarray(1), micro_batch=np.asarray(1))
    p = program(LLAMA, stack, short, layout)
    kept = 32 * float(layer_activation_bytes(p.ctx, LLAMA.blocks[0]))
    fresh = 2 * parameters(LLAMA)
    assert float(working_bytes(p.ctx, p.roles[0]).workspace_bytes) == fresh - kept
    long = built(stack, micro_batch=4)
    assert float(working_bytes(long.ctx, long.roles[0]).workspace_bytes) == float(
        loss_bytes(long.ctx)
    )


def test_recomputation_needs_one_whole_layer() -> None:
    """Full recomputation: inputs of all layers, and beside them one layer's activations with the
    gradients that its backward makes."""
    stack = load_stack("megatron-core")
    p = built(stack, pp=4, recompute=2)
    block = LLAMA.blocks[0]
    none = built(stack, pp=4)
    whole = float(layer_activation_bytes(none.ctx, block))
    only_input = 2 * SEQ * LLAMA.hidden
    more = float(layer_backward_bytes(p.ctx, block)) - float(layer_backward_bytes(none.ctx, block))
    assert more == whole - only_input
    assert float(working_bytes(p.ctx, p.roles[0]).activations_bytes) == 4 * 8 * only_input


def test_chunks_of_an_interleaved_schedule() -> None:
    """Played out: rank r of p runs its warm-up forwards, then one forward before each backward."""
    for pp, vp in ((2, 2), (4, 3), (8, 4)):
        microbatches = 4 * pp
        for rank in range(pp):
            warmup = min(2 * (pp - rank - 1) + (vp - 1) * pp, microbatches * vp)
            held = most = 0
            for step in range(microbatches * vp + warmup):
                held += step < microbatches * vp
                most = max(most, held)
                held -= step >= warmup
            found = in_flight_microbatches(
                "1f1b", *(np.int64(v) for v in (pp, vp, pp - rank, microbatches))
            )
            assert float(found) == pytest.approx(most / vp, rel=1e-12)


@pytest.mark.parametrize("name", TRAINING_STACKS)
def test_more_ranks_and_smaller_microbatches_need_no_more(name: str) -> None:
    stack = load_stack(name)
    tps, micros, shards = np.array([1, 2, 4, 8]), np.array([1, 2, 4]), np.arange(4)
    axes = np.ix_(tps, micros, shards, np.array([0, 1, 2]), np.array([False, True]))
    p = built(
        stack,
        tp=axes[0],
        micro_batch=axes[1],
        shard=axes[2],
        recompute=axes[3],
        sequence_parallel=axes[4],
        dp=4,
        pp=2,
    )
    total = np.broadcast_to(fullest_stage_bytes(p.ctx, p.roles), (4, 3, 4, 3, 2))
    assert (np.diff(total, axis=0) < 0).all()  # tp
    assert (np.diff(total, axis=1) > 0).all()  # micro batch
    assert (np.diff(total[:, :, :3], axis=2) <= 0).all()  # none, zero1, zero2
    assert (np.diff(total, axis=3) <= 0).all()  # none, selective, full
    assert (np.diff(total, axis=4) <= 0).all()  # sequence parallelism


@pytest.mark.parametrize("name", TRAINING_STACKS)
def test_one_layout_is_bit_identical_to_many(name: str) -> None:
    stack = load_stack(name)
    tps, pps, shards, modes = np.ix_([1, 2, 8], [1, 2, 8], [0, 1, 2, 3], [0, 1, 2])
    p = built(stack, tp=tps, pp=pps, shard=shards, recompute=modes, dp=4, sequence_parallel=True)
    many = np.broadcast_to(fullest_stage_bytes(p.ctx, p.roles), (3, 3, 4, 3))
    rng = np.random.default_rng(0)
    for _ in range(12):
        i = tuple(int(rng.integers(n)) for n in many.shape)
        one = built(
            stack, tp=tps[i[0], 0, 0, 0], pp=pps[0, i[1], 0, 0], shard=shards[0, 0, i[2], 0],
            recompute=modes[0, 0, 0, i[3]], dp=4, sequence_parallel=True,
        )  # fmt: skip
        assert float(fullest_stage_bytes(one.ctx, one.roles)) == many[i]


def test_a_switch_adds_what_it_says() -> None:
    """Each memory switch of a plain stack never lowers the peak."""
    plain = Stack(name="plain")
    axes: dict[str, Any] = {"tp": 2, "dp": 2, "sequence_parallel": True}
    base = built(plain, **axes)
    least = float(fullest_stage_bytes(base.ctx, base.roles))
    for switch in (
        {"fused_norm": False},
        {"fused_elementwise": False},
        {"expands_kv_heads": True},
        {"keeps_gathered_inputs": True},
        {"keeps_narrow_inputs": True},
        {"gradient_buckets": True},
        {"autograd_gradients": True},
        {"loss_peak_bytes": 12.0},
    ):
        p = built(replaced(plain, switch), **axes)
        assert float(fullest_stage_bytes(p.ctx, p.roles)) >= least, switch
