"""What sharding must not change: weights, FLOPs and bytes summed over ranks, and what it must:
the collectives of a layer, counted and weighed."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from meshwise.axes import SHARD_CODE
from meshwise.cost.collectives.algorithms import RING_ROUNDS
from meshwise.cost.memory.parts import state_bytes
from meshwise.layouts.layout import Layouts
from meshwise.models.layers.attention import Attention, Indexer
from meshwise.models.layers.recurrent import RECURRENCES, Recurrent
from meshwise.models.load import load_model
from meshwise.models.parameters import (
    attention_weights,
    embedding_weights,
    head_weights,
    mlp_weights,
    parameters,
    recurrent_weights,
)
from meshwise.models.shapes import Block, Mlp, Model, Moe
from meshwise.program.operations import COLLECTIVES, Op
from meshwise.program.step import Program, program
from meshwise.program.update import stage_weights
from meshwise.program.weights import end_weights, local_block_weights
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Decode, Prefill, Training

FAST = settings(max_examples=60, deadline=None, derandomize=True)
STACK = Stack(name="plain")
DEGREES = st.sampled_from([1, 2, 4, 8])


@st.composite
def attentions(draw: Any) -> Attention:
    flag = st.booleans()
    if draw(st.integers(0, 3)) == 0:
        return Attention(
            heads=16, kv_heads=16, head_dim=48, value_head_dim=32, rope_head_dim=16,
            q_lora_rank=draw(st.sampled_from([None, 96])), kv_lora_rank=64,
            latent_bias=draw(flag), norm_parameters=draw(st.sampled_from([0, 160])),
            indexer=draw(st.none() | st.just(Indexer(heads=4, head_dim=16, top_k=32, rank=96))),
        )  # fmt: skip
    return Attention(
        heads=16, kv_heads=draw(st.sampled_from([8, 16])), head_dim=draw(st.sampled_from([16, 32])),
        value_head_dim=16, query_bias=draw(flag), key_bias=draw(flag), value_bias=draw(flag),
        output_bias=draw(flag), sinks=draw(flag), output_gate=draw(flag),
        norm_parameters=draw(st.sampled_from([0, 32])),
    )  # fmt: skip


@st.composite
def recurrents(draw: Any) -> Recurrent:
    """Of every rule, in heads that 8 divides."""
    rule = draw(st.sampled_from(list(RECURRENCES)))
    heads, width = (128, 1) if rule in ("mamba", "convolution") else (16, 32)
    plain = rule in ("mamba", "convolution")
    return Recurrent(
        rule=rule, heads=heads, value_dim=width, key_dim=16, rank=16,
        key_heads=1 if plain else 16 if rule == "kimi_delta" else 8,
        kernel=draw(st.sampled_from([0, 4])) if rule != "convolution" else 3,
        conv_bias=draw(st.booleans()), input_bias=draw(st.booleans()),
        output_bias=draw(st.booleans()), norm_parameters=draw(st.sampled_from([0, 32])),
    )  # fmt: skip


@st.composite
def models(draw: Any, experts: bool | None = None) -> Model:
    """A model of one or two kinds of layers whose widths 8 divides."""

    def mlp() -> Mlp:
        return Mlp(
            width=draw(st.sampled_from([256, 512])),
            gated=draw(st.booleans()),
            up_bias=draw(st.booleans()),
            down_bias=draw(st.booleans()),
        )

    blocks = []
    for _ in range(draw(st.integers(1, 2))):
        routed = draw(st.booleans()) if experts is None else experts
        moe = (
            Moe(
                experts=16, top_k=draw(st.integers(1, 4)), expert=mlp(),
                shared=draw(st.none() | st.builds(mlp)), router_bias=draw(st.booleans()),
                shared_gate=draw(st.booleans()),
            ) if routed else None
        )  # fmt: skip
        mixers = draw(st.sampled_from(["attention", "recurrent", "both"]))
        blocks.append(
            Block(
                attention=draw(attentions()) if mixers != "recurrent" else None,
                recurrent=draw(recurrents()) if mixers != "attention" else None,
                mlp=None if routed else mlp(),
                moe=moe,
                norm_parameters=draw(st.sampled_from([0, 256])),
            )
        )
    pattern = tuple(i % len(blocks) for i in range(8))
    return Model(
        name="any", model_type="any", hidden=128, vocab=1024, blocks=tuple(blocks),
        pattern=pattern, tied=draw(st.booleans()), positions=draw(st.sampled_from([0, 64])),
        final_norm_parameters=128, head_bias=draw(st.booleans()),
        embedding_dim=draw(st.sampled_from([None, 64])),
    )  # fmt: skip


@st.composite
def grids(draw: Any) -> dict[str, int]:
    """tp · cp · dp with experts on the same ranks."""
    tp, cp, dp = draw(DEGREES), draw(st.sampled_from([1, 2])), draw(DEGREES)
    etp = draw(st.sampled_from([d for d in (1, 2, 4, 8) if tp % d == 0]))
    ranks = tp * cp * dp
    ep = draw(st.sampled_from([d for d in (1, 2, 4, 8, 16) if ranks % (d * etp) == 0]))
    return {"tp": tp, "cp": cp, "dp": dp, "ep": ep, "etp": etp}


def layout(**axes: Any) -> Layouts:
    return Layouts(**{k: np.asarray(v) for k, v in ({"tp": 1} | axes).items()})


def step(
    model: Model, stack: Stack = STACK, batch: int = 32, seq: int = 64, **axes: Any
) -> Program:
    return program(model, stack, Training(batch=batch, seq=seq), layout(**axes))


# -- weights -----------------------------------------------------------------------------------------


def parts(block: Block, hidden: int) -> tuple[int, int, int, int]:
    """(split over tp, on every rank, split over ep · etp, split over ep only) of one layer."""
    split, copied = 0, block.norm_parameters
    if block.attention is not None:
        w = attention_weights(block.attention, hidden)
        split, copied = split + w.split, copied + w.replicated
    if block.recurrent is not None:
        w = recurrent_weights(block.recurrent, hidden)
        split, copied = split + w.split, copied + w.replicated
    if block.mlp is not None:
        w = mlp_weights(block.mlp, hidden)
        split, copied = split + w.split, copied + w.replicated
    expert = row_bias = 0
    if block.moe is not None:
        w = mlp_weights(block.moe.expert, hidden)
        expert, row_bias = w.split * block.moe.experts, w.replicated * block.moe.experts
        copied += block.moe.experts * (hidden + block.moe.router_bias)
        copied += hidden * block.moe.shared_gate
        if block.moe.shared is not None:
            w = mlp_weights(block.moe.shared, hidden)
            split, copied = split + w.split, copied + w.replicated
    return split, copied, expert, row_bias


@FAST
@given(models(), grids())
def test_every_weight_is_somewhere(model: Model, grid: dict[str, int]) -> None:
    """Rank's weights × ranks, copies taken off, are the model's; the two counts are independent."""
    at = layout(**grid)
    total = 0
    for block, count in zip(model.blocks, model.kind_counts(), strict=True):
        split, copied, expert, row_bias = parts(block, model.hidden)
        local = local_block_weights(block, model.hidden, at)
        assert float(local.dense) == split / grid["tp"] + copied
        assert float(local.experts) == expert / (grid["ep"] * grid["etp"]) + row_bias / grid["ep"]
        total += count * (split + copied + expert + row_bias)
    embed, head = end_weights(model, at, -(-model.vocab // at.tp))
    first, last = embedding_weights(model), head_weights(model)
    ends = (first.split + last.split) / grid["tp"] + first.replicated + last.replicated
    assert float(embed + head) == ends
    assert total + first.total + last.total == parameters(model)


@FAST
@given(models(), st.integers(1, 40), st.integers(1, 16))
def test_padding_only_adds(model: Model, tp: int, etp: int) -> None:
    for block in model.blocks:
        split, copied, expert, row_bias = parts(block, model.hidden)
        local = local_block_weights(block, model.hidden, layout(tp=tp, etp=etp))
        assert float(local.dense) * tp >= split + copied * tp - 1e-6
        assert float(local.experts) * etp >= expert + row_bias * etp - 1e-6


@FAST
@given(models(), DEGREES, st.sampled_from([2, 4, 8]))
def test_stages_hold_the_model(model: Model, tp: int, pp: int) -> None:
    """First + (pp − 2) middle + last stages; a tied table is on both ends."""
    assume(
        len(model.blocks) == 1 or 8 // pp % 2 == 0
    )  # stages alike: the middle one stands for all
    p = step(model, tp=tp, pp=pp)
    first, middle, last = (float(stage_weights(p.ctx, role).total) for role in p.roles)
    one = step(model, tp=tp)
    whole = float(stage_weights(one.ctx, one.roles[0]).total)
    table = (model.embedding_dim or model.hidden) * model.vocab / tp * model.tied
    assert first + (pp - 2) * middle + last == whole + table


def sharded(model: Model, grid: dict[str, int], shard: str) -> tuple[float, float, float]:
    """State summed over the ranks of tp · cp · dp."""
    p = step(model, **grid, shard=SHARD_CODE[shard])
    s = state_bytes(p.ctx, p.roles[0])
    ranks = grid["tp"] * grid["cp"] * grid["dp"]
    return tuple(float(v) * ranks for v in (s.weights_bytes, s.gradients_bytes, s.optimizer_bytes))


@FAST
@given(models(), grids(), st.sampled_from(["zero1", "zero2", "zero3"]))
def test_zero_keeps_one_copy(model: Model, grid: dict[str, int], shard: str) -> None:
    """What a ZeRO stage divides is there once among the replicas: of the dense weights per TP rank,
    of the experts' over their own replicas (expert-dp), not over all of dp · cp."""
    tp, ranks = grid["tp"], grid["tp"] * grid["cp"] * grid["dp"]
    once = 0.0  # weights, one copy per set of replicas
    everywhere = 0.0
    for block, count in zip(model.blocks, model.kind_counts(), strict=True):
        split, copied, expert, row_bias = parts(block, model.hidden)
        once += count * (split + copied * tp + expert + row_bias * grid["etp"])
        experts = expert / grid["etp"] + row_bias
        everywhere += count * ranks * (split / tp + copied + experts / grid["ep"])
    first, last = embedding_weights(model), head_weights(model)
    ends = first.split + last.split, first.replicated + last.replicated
    once += ends[0] + ends[1] * tp
    everywhere += ranks * (ends[0] / tp + ends[1])
    found = sharded(model, grid, shard)
    stage = SHARD_CODE[shard]
    expected = (
        2 * (once if stage >= 3 else everywhere),
        2 * (once if stage >= 2 else everywhere),
        12 * once,
    )
    assert found == pytest.approx(expected, rel=1e-12)


# -- FLOPs -------------------------------------------------------------------------------------------

# Every TP rank makes MLA's latents, chooses the keys, makes low-rank gates, a narrow table's projections.
COPIED = (
    *("attention.indexer", "attention.indexer_query", "attention.indexer_key"),
    "linear_attention.gates_down",
    *("attention.query_down", "attention.kv_down", "attention.latents"),
    *("embedding.project", "head.project"),
)


def flops(ops: list[Op]) -> dict[str, float]:
    """Executed FLOPs per microbatch by operation; phases added."""
    found: dict[str, float] = {}
    for op in ops:
        if op.kind in ("gemm", "attention", "recurrence"):
            found[op.name] = found.get(op.name, 0.0) + float(op.count * op.flops)
    return found


@FAST
@given(
    models(),
    grids(),
    st.booleans(),
    st.sampled_from([0, 1, 2]),
    st.sampled_from(["flash", "unfused"]),
)
def test_flops_of_all_ranks_do_not_depend_on_the_layout(
    model: Model, grid: dict[str, int], sp: bool, recompute: int, kernel: str
) -> None:
    """tp, cp, dp, ep, etp: per layer and sequence the same products; but for those that every TP
    rank repeats (MLA's down-projections; the router, unless each routes its own tokens)."""
    stack = Stack(name="plain", attention=kernel)
    one = step(model, stack, recompute=recompute)
    many = step(model, stack, **grid, sequence_parallel=sp, recompute=recompute)
    tp, dp = grid["tp"], grid["dp"]
    ranks = tp * grid["cp"] * dp
    for whole_ops, ops in zip(
        (*one.layers, one.embedding, one.head),
        (*many.layers, many.embedding, many.head),
        strict=True,
    ):
        whole, part = flops(whole_ops), flops(ops)
        assert whole.keys() == part.keys()
        for name, value in whole.items():
            copies = tp if name in COPIED or (name == "moe.router" and not sp) else 1
            assert part[name] * ranks == pytest.approx(value * copies * dp, rel=1e-12), name


@FAST
@given(models(), DEGREES, st.sampled_from([1, 2, 4, 8, 16, 32]), st.sampled_from([1, 2, 4]))
def test_microbatches_conserve(model: Model, dp: int, micro: int, tp: int) -> None:
    """The batch cut into microbatches over replicas: the same FLOPs and the same collective bytes of
    the layers, and pipeline transfers of the same total."""
    assume(32 % (dp * micro) == 0)
    one, many = step(model, tp=tp, micro_batch=32), step(model, tp=tp, dp=dp, micro_batch=micro)
    times = float(many.ctx.microbatches) * dp
    assert times * micro == 32
    for a, b in zip(
        (*one.layers, one.embedding, one.head),
        (*many.layers, many.embedding, many.head),
        strict=True,
    ):
        for field in ("flops", "model_flops", "payload_bytes"):
            total = [sum(float(op.count * getattr(op, field)) for op in ops) for ops in (a, b)]
            assert total[1] * times == pytest.approx(total[0], rel=1e-12)


@FAST
@given(st.sampled_from([1, 2, 4, 8, 16, 32]), st.sampled_from([1, 2, 4, 5, 8]))
def test_kv_copies_are_the_only_extra_flops(tp: int, batch: int) -> None:
    """Beyond the KV heads (C38) each rank keeps a copy of one: Llama 3 70B has 8 of them, 64 queries."""
    model = load_model("llama-3-70b")
    work = Prefill(batch=batch, seq=64)
    p = program(model, STACK, work, layout(tp=tp))
    qkv = flops(p.layers[0])["attention.qkv"] * tp
    whole = 2 * batch * 64 * 8192 * (64 + 2 * 8) * 128
    copies = 2 * batch * 64 * 8192 * 2 * (max(tp, 8) - 8) * 128
    assert qkv == whole + copies


@FAST
@given(models(), DEGREES, st.integers(1, 9), st.integers(1, 500))
def test_decode_flops_of_all_ranks(model: Model, tp: int, batch: int, context: int) -> None:
    work = Decode(batch=batch, context=context)
    one, many = (program(model, STACK, work, layout(tp=n, etp=n)) for n in (1, tp))
    for whole_ops, ops in zip(
        (*one.layers, one.embedding, one.head),
        (*many.layers, many.embedding, many.head),
        strict=True,
    ):
        whole, part = flops(whole_ops), flops(ops)
        for name, value in whole.items():
            copies = tp if name in (*COPIED, "moe.router") else 1
            assert part[name] * tp == pytest.approx(value * copies, rel=1e-12), name


# -- collectives of a layer --------------------------------------------------------------------------

H, B, S = 12288, 32, 2048
PAYLOAD = 1_610_612_736  # C4


def calls(p: Program, axis: str = "tp") -> dict[tuple[str, str], float]:
    """Calls of a layer by (phase, kind)."""
    found: dict[tuple[str, str], float] = {}
    for op in p.layers[0]:
        if op.kind in COLLECTIVES and op.axis == axis and float(op.count):
            key = op.phase, op.kind
            found[key] = found.get(key, 0) + float(op.count)
    return found


def all_reduces(p: Program) -> float:
    """Ring wire bytes of a layer in units of one all-reduce of B·S·H: an all-gather is half of one."""
    trips = sum(
        float(op.count * op.payload_bytes) * RING_ROUNDS[op.kind]
        for op in p.layers[0]
        if op.kind in RING_ROUNDS and op.axis == "tp"
    )
    return trips / 2 / PAYLOAD


def gpt3(stack: Stack = STACK, batch: int = B, seq: int = S, **axes: Any) -> Program:
    axes = {"tp": 8, "micro_batch": batch} | axes
    return step(load_model("gpt3-175b"), stack, batch, seq, **axes)


def names(p: Program, phase: str) -> list[str]:
    return [
        op.name
        for op in p.layers[0]
        if op.phase == phase and op.kind in COLLECTIVES and float(op.count)
    ]


def test_a_sequential_layer_reduces_twice_each_way() -> None:
    """C1, C2, C3: after the row-parallel products forward; the input gradients of the
    column-parallel ones backward. C4, C5: their exact bytes."""
    p = gpt3()
    assert calls(p) == {("forward", "all_reduce"): 2, ("dgrad", "all_reduce"): 2}
    assert names(p, "forward") == ["attention.output", "mlp.output"]
    assert names(p, "dgrad") == ["mlp.up.input_grad", "attention.qkv.input_grad"]
    payloads = [
        float(op.payload_bytes) for op in p.layers[0] if op.kind in COLLECTIVES and float(op.count)
    ]
    assert payloads == [PAYLOAD] * 4
    assert sum(payloads) == 6_442_450_944
    order = [op.name for op in p.layers[0] if op.phase == "forward" and float(op.count)]
    products = [n for n in order if n.split(".")[1] in ("qkv", "core", "output", "up", "down")]
    assert products == [
        "attention.qkv", "attention.core", "attention.output", "attention.output",
        "mlp.up", "mlp.down", "mlp.output",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("recompute", "early", "expected"),
    [(0, False, 4), (1, False, 4), (2, False, 6), (0, True, 4), (1, True, 4), (2, True, 5)],
)
def test_all_reduces_by_recomputation(recompute: int, early: bool, expected: int) -> None:
    """C3: 4 without, 4 selective, 6 full, 5 where the checkpoint stops early."""
    for kernel in ("flash", "unfused"):
        stack = Stack(name="s", attention=kernel, recompute_early_stop=early)
        assert sum(calls(gpt3(stack, recompute=recompute)).values()) == expected


@pytest.mark.parametrize("preset", ["gpt-j-6b", "falcon-7b", "command-r-plus"])
def test_a_parallel_block_reduces_once(preset: str) -> None:
    """C1: partial sums of attention and FFN are added before one reduction; stacks that do not."""
    model = load_model(preset)
    tp = 1 if preset == "falcon-7b" else 8
    for one in (True, False):
        stack = Stack(name="s", parallel_block_one_all_reduce=one)
        p = step(model, stack, tp=tp)
        n = (1 if one else 2) * (tp > 1)
        expected = {("forward", "all_reduce"): n, ("dgrad", "all_reduce"): n} if n else {}
        assert calls(p) == expected
        whole, part = flops(step(model, stack).layers[0]), flops(p.layers[0])
        assert {k: v * tp for k, v in part.items()} == whole


def test_sequence_parallelism_moves_the_forward_bytes_otherwise() -> None:
    """C28: reduce_scatter + all_gather for each all_reduce, so the forward's wire bytes are equal;
    backward gathers the sharded inputs again: 5 all-reduces' bytes against 4."""
    p = gpt3(sequence_parallel=True)
    assert calls(p) == {
        ("forward", "all_gather"): 2, ("forward", "reduce_scatter"): 2,
        ("dgrad", "all_gather"): 2, ("dgrad", "reduce_scatter"): 2, ("wgrad", "all_gather"): 2,
    }  # fmt: skip
    assert all_reduces(gpt3()) == 4
    assert all_reduces(p) == 5
    forward = program(
        load_model("gpt3-175b"),
        STACK,
        Prefill(batch=B, seq=S),
        layout(tp=8, sequence_parallel=True),
    )
    assert all_reduces(forward) == 2
    again = [op for op in p.layers[0] if op.phase == "wgrad" and op.kind in COLLECTIVES]
    assert all(op.hides_under for op in again if float(op.count))


@pytest.mark.parametrize("sp", [False, True])
def test_full_recomputation_repeats_the_forward_bytes(sp: bool) -> None:
    base = all_reduces(gpt3(sequence_parallel=sp))
    assert all_reduces(gpt3(sequence_parallel=sp, recompute=2)) == base + 2
    assert all_reduces(gpt3(sequence_parallel=sp, recompute=1)) == base
    early = Stack(name="s", recompute_early_stop=True)
    stopped = all_reduces(gpt3(early, sequence_parallel=sp, recompute=2))
    assert stopped == base + (1.5 if sp else 1)  # a reduce_scatter is half of an all_reduce


@FAST
@given(
    st.integers(1, 64),
    st.sampled_from([128, 512, 2048]),
    st.sampled_from([1, 2, 3, 4, 6, 8]),
    st.booleans(),
    st.sampled_from(["fp8", "bf16", "fp32"]),
)
def test_payload_bytes_are_exact(batch: int, seq: int, tp: int, sp: bool, comm: str) -> None:
    """C4: B·S·H·b for every call of a layer, none at all without a TP group."""
    model = load_model("gpt3-175b")
    work = Training(batch=batch, seq=seq)
    work = msgspec.structs.replace(work, formats=msgspec.structs.replace(work.formats, comm=comm))
    p = program(model, STACK, work, layout(tp=tp, micro_batch=batch, sequence_parallel=sp))
    width = {"fp8": 1, "bf16": 2, "fp32": 4}[comm]
    found = {float(op.payload_bytes) for op in p.layers[0] if op.axis == "tp" and float(op.count)}
    assert found == ({float(batch * seq * H * width)} if tp > 1 else set())


@FAST
@given(st.integers(1, 64), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]))
def test_expert_exchange_is_counted_per_token(batch: int, tp: int, ep: int) -> None:
    """C34: dispatch and combine, forward and backward: all ranks together swap top_k · tokens · H · b
    bytes each time, where the tokens of a TP group are shared out among its ranks."""
    model = load_model("mixtral-8x7b")
    dp = 8
    work = Training(batch=batch * dp, seq=64)
    p = program(model, STACK, work, layout(tp=tp, dp=dp, ep=ep, etp=1, micro_batch=batch, shard=0))
    swaps = [op for op in p.layers[0] if op.kind == "all_to_all" and float(op.count)]
    assert len(swaps) == (4 if ep > 1 else 0)
    for op in swaps:
        assert float(op.payload_bytes) * tp * dp == 2 * batch * dp * 64 * 4096 * 2


@FAST
@given(models(experts=False), DEGREES, st.sampled_from([1, 2, 4]), DEGREES)
def test_gradient_bytes_by_zero_stage(model: Model, tp: int, pp: int, dp: int) -> None:
    """ZeRO (arXiv 1910.02054, section 7): 2Ψ on the wire, 3Ψ with sharded weights, in bytes of the
    rank's weights and ring trips."""
    for shard, psi in (("none", 2), ("zero1", 2), ("zero2", 2), ("zero3", 3)):
        p = step(model, tp=tp, pp=pp, dp=dp, shard=SHARD_CODE[shard], micro_batch=32 // dp)
        assert float(p.ctx.microbatches) == 1
        for role, ops in zip(p.roles, p.update, strict=True):
            own = float(stage_weights(p.ctx, role).total) * 2
            parts = [(ops, 1), (p.embedding, role.embedding), (p.head, role.head)]
            parts += list(zip(p.layers, role.layers, strict=True))
            trips = sum(
                float(often * op.count * op.payload_bytes) * RING_ROUNDS[op.kind]
                for part, often in parts
                for op in part
                if op.axis == "dp_cp"
            )
            assert trips == (psi * own if dp > 1 else 0)


@FAST
@given(st.sampled_from([2, 4, 8]), st.sampled_from([1, 2]), DEGREES, st.booleans())
def test_pipeline_transfers(pp: int, vp: int, tp: int, sp: bool) -> None:
    """C34: micro_batch · S · H · b there and back per boundary; with sequence parallelism a rank
    sends its own tokens."""
    p = gpt3(batch=32, micro_batch=2, tp=tp, pp=pp, vp=vp, sequence_parallel=sp)
    own = 2 * S * H * 2 / (tp if sp else 1)
    assert [(op.phase, float(op.count), float(op.payload_bytes)) for op in p.transfer] == [
        ("forward", vp, own),
        ("dgrad", vp, own),
    ]


def test_one_device_communicates_nothing() -> None:
    p = step(load_model("mixtral-8x7b"))
    everything = [*p.embedding, *p.head, *p.transfer, *p.layers[0], *p.update[0]]
    assert all(float(op.count) == 0 for op in everything if op.kind in COLLECTIVES)
