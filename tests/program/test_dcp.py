"""What decode context parallelism and attention data parallelism hold, compute and send."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import meshwise as mw
from meshwise.cost.estimate import Estimate, price_layouts
from meshwise.layouts.layout import Layouts
from meshwise.layouts.placement import groups
from meshwise.layouts.rules.case import key_copies
from meshwise.search.serving.space import serving_space
from meshwise.search.training.space import divisors
from meshwise.stacks.load import load_stack

LLAMA = mw.model("llama-3.1-70b")
MIXTRAL = mw.model("mixtral-8x7b")
DEEPSEEK = mw.model("deepseek-v2-lite")
HGX = mw.cluster("hgx-h100", nodes=4)
VLLM = load_stack("vllm")


def priced(model: mw.Model, work: mw.Workload, stack: mw.Stack = VLLM, **axes: int) -> Estimate:
    return price_layouts(
        model, HGX, work, stack, Layouts(**{k: np.int64(v) for k, v in axes.items()})
    )


def ops(e: Estimate, axis: str | None = None) -> dict[str, Any]:
    """The last layer's operations that are there, by name; of one group's axis alone."""
    found = [c.op for c in e.layer_costs[-1] if int(c.op.count) > 0]
    return {op.name: op for op in found if axis is None or op.axis == axis}


# -- decode context parallelism --------------------------------------------------------------------


def test_which_ranks_share_keys() -> None:
    assert [key_copies(LLAMA, tp) for tp in (1, 8, 16, 32)] == [1, 1, 2, 4]
    assert key_copies(DEEPSEEK, 8) == 8  # one latent, on every rank
    with pytest.raises(mw.MeshwiseError, match="same keys and values"):
        mw.plan(LLAMA, HGX, mw.Serving(isl=2048, osl=256, concurrency=48), gpus=8, dcp=2)


@pytest.mark.parametrize(("model", "tp"), [(LLAMA, 32), (DEEPSEEK, 8)])
def test_the_cache_is_divided_and_the_work_is_not(model: mw.Model, tp: int) -> None:
    work = mw.Decode(batch=16, context=8192)
    plain = priced(model, work, tp=tp)
    for dcp in divisors(key_copies(model, tp)):
        e = priced(model, work, tp=tp, dcp=dcp)
        held = float(e.memory["kv_cache_bytes"]) * dcp
        assert held == pytest.approx(float(plain.memory["kv_cache_bytes"]))
        for mine, theirs in zip(e.layer_costs, plain.layer_costs, strict=True):
            flops = [sum(float(c.op.flops * c.op.count) for c in costs) for costs in (mine, theirs)]
            assert flops[0] == pytest.approx(flops[1])
            cores = [
                sum(float(c.op.core.kv_bytes) for c in costs if c.op.core)
                for costs in (mine, theirs)
            ]
            assert cores[0] * dcp == pytest.approx(cores[1])
            sent = {c.op.name: c for c in mine if c.op.axis == "dcp"}
            assert set(sent) == {"attention.dcp_query", "attention.dcp_lse", "attention.dcp_output"}
            for c in sent.values():
                assert int(c.op.count) == int(dcp > 1)


def test_queries_travel_by_hand_count() -> None:
    """16 sequences, 64 heads over 32 ranks, 4 of which share a KV head: each gathers 8 heads of 128."""
    sent = ops(priced(LLAMA, mw.Decode(batch=16, context=4096), tp=32, dcp=4), "dcp")
    assert float(sent["attention.dcp_query"].payload_bytes) == 16 * (2 * 4) * 128 * 2
    assert float(sent["attention.dcp_output"].payload_bytes) == 16 * (2 * 4) * 128 * 2
    assert float(sent["attention.dcp_lse"].payload_bytes) == 16 * (2 * 4) * 4 * 4


def test_mla_sends_absorbed_queries() -> None:
    """16 heads over 8 ranks of one latent: all 16 travel, as wide as the latent (512 + 64 rotary)."""
    sent = ops(priced(DEEPSEEK, mw.Decode(batch=4, context=4096), tp=8, dcp=8), "dcp")
    assert float(sent["attention.dcp_query"].payload_bytes) == 4 * 16 * (512 + 64) * 2
    assert float(sent["attention.dcp_output"].payload_bytes) == 4 * 16 * 512 * 2


def test_one_rank_is_as_without() -> None:
    work = mw.Decode(batch=16, context=4096)
    for model in (LLAMA, MIXTRAL, DEEPSEEK):
        one, none = priced(model, work, tp=8, dcp=1), priced(model, work, tp=8)
        assert float(one.step_s) == float(none.step_s)
        assert float(one.memory_bytes) == float(none.memory_bytes)
        assert not ops(none, "dcp")


def test_prefill_keeps_less_and_computes_the_same() -> None:
    work = mw.Prefill(batch=4, seq=2048)
    plain, split = priced(DEEPSEEK, work, tp=8), priced(DEEPSEEK, work, tp=8, dcp=8)
    assert float(split.step_s) == float(plain.step_s)
    kept = [float(e.memory["kv_cache_bytes"]) for e in (split, plain)]
    assert kept[0] * 8 == pytest.approx(kept[1])
    rest = [float(e.memory_bytes) - k for e, k in zip((split, plain), kept, strict=True)]
    assert rest[0] == pytest.approx(rest[1])


def test_the_group_is_of_neighbours() -> None:
    """Ranks that share a KV head are next to each other: inside a node while they fit in one."""
    for dcp, inside, outside in ((4, 4, 1), (8, 8, 1), (16, 8, 2)):
        found = groups(Layouts(tp=np.int64(32), dcp=np.int64(dcp)), HGX)["dcp"]
        assert [int(r) for r in found.ranks] == [inside, outside]


# -- attention data parallelism --------------------------------------------------------------------

STEP = mw.Decode(batch=8, context=1024, expert_skew=0.0)
HIDDEN = 8 * MIXTRAL.hidden * 2  # bytes of a replica's tokens, bf16


def test_experts_by_tp_over_replicas_gather_their_tokens() -> None:
    """TP=2, DP=4, expert-TP over all 8 ranks: each shard works on four replicas' tokens."""
    joined = priced(MIXTRAL, STEP, tp=2, dp=4, ep=1, etp=8)
    sent = ops(joined, "etp")
    assert float(sent["moe.replicas_in"].payload_bytes) == 4 * HIDDEN
    assert float(sent["moe.replicas_out"].payload_bytes) == 4 * HIDDEN
    assert not ops(joined, "ep")
    apart = priced(MIXTRAL, STEP, tp=2, dp=4, ep=1, etp=2)
    assert not ops(apart, "etp")
    # a quarter of the experts' weights on each rank
    assert float(joined.memory_bytes) < float(apart.memory_bytes)


def test_shards_across_replicas_dispatch_the_tokens_of_all() -> None:
    """TP=1, DP=8, four groups of experts of two shards: both replicas' tokens, each to two experts."""
    exchange = mw.stack("vllm", dispatcher="alltoall")
    sent = priced(MIXTRAL, STEP, exchange, tp=1, dp=8, ep=4, etp=2)
    assert float(ops(sent, "etp")["moe.replicas_in"].payload_bytes) == 2 * HIDDEN
    assert float(ops(sent, "etp")["moe.replicas_out"].payload_bytes) == 2 * HIDDEN
    for name in ("moe.dispatch", "moe.combine"):
        assert float(ops(sent, "ep")[name].payload_bytes) == 2 * 2 * HIDDEN
    # whole experts: each replica sends its own
    whole = priced(MIXTRAL, STEP, exchange, tp=1, dp=8, ep=8, etp=1)
    assert not ops(whole, "etp")
    assert float(ops(whole, "ep")["moe.dispatch"].payload_bytes) == 2 * HIDDEN
    # by the engine itself every rank gets the tokens of all, once
    gathered = priced(MIXTRAL, STEP, tp=1, dp=8, ep=8, etp=1)
    for name in ("moe.dispatch", "moe.combine"):
        assert float(ops(gathered, "ep")[name].payload_bytes) == 8 * HIDDEN


def test_every_grid_does_the_same_work() -> None:
    """Experts' FLOPs over a replica's ranks do not depend on their grid; a rank reads its own share of
    their weights."""
    anyhow = mw.stack(VLLM, expert_grid="any")
    layouts, _ = serving_space(MIXTRAL, anyhow, 16, {"pp": (1,), "dcp": (1,)})
    tp, ep, etp = layouts.tp, layouts.ep, layouts.etp
    assert np.any(etp > tp)
    assert np.any((etp > tp) & (ep > 1))
    e = price_layouts(MIXTRAL, HGX, STEP, VLLM, layouts)
    experts = [c.op for c in e.layer_costs[-1] if c.op.name.startswith("moe.experts")]
    flops = sum(np.broadcast_to(op.flops, tp.shape) * tp for op in experts)
    assert flops == pytest.approx(flops[0])
    moe = MIXTRAL.blocks[-1].moe
    assert moe is not None
    # gate, up and down in bf16 of every expert, over the grid
    held = 3 * moe.expert.width * MIXTRAL.hidden * 2 * moe.experts / (ep * etp)
    assert np.all(sum(op.weight_bytes for op in experts) <= held * (1 + 1e-9))


def test_gathered_tokens_take_memory() -> None:
    """Of four replicas' prompts a shard holds the inputs and a quarter of the experts' width."""
    work = mw.Prefill(batch=4, seq=2048)
    live = [
        float(priced(MIXTRAL, work, tp=2, dp=4, ep=1, etp=etp).memory["activations_bytes"])
        for etp in (2, 8)
    ]
    inputs = 4 * 2048 * 2 * MIXTRAL.hidden * 2
    assert live[1] - live[0] == pytest.approx(3 * inputs)
