"""The serving planner against brute force and against itself; pools matched in rate."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest

import meshwise as mw
from meshwise.layouts import tp_degrees as legality
from meshwise.layouts.layout import Layout, Layouts, arrays
from meshwise.layouts.rules.case import key_copies
from meshwise.search.serving.changes import serving_changes
from meshwise.search.serving.disaggregated import (
    Disaggregated,
    Instance,
    _decodes,
    _prefills,
    disaggregations,
    instance_sizes,
    kv_bytes,
    link_bytes_per_s,
)
from meshwise.search.serving.plan import (
    Limits,
    Server,
    ServingRow,
    plan_serving,
    some_columns,
    within,
)
from meshwise.search.serving.runs.matched_pools import PoolTrials, matched_pools
from meshwise.search.serving.space import serving_space
from meshwise.search.serving.steady_state import steady
from meshwise.search.training.space import divisors
from meshwise.stacks.load import load_stack

LLAMA = mw.model("llama-3.1-70b")
MIXTRAL = mw.model("mixtral-8x7b")
DEEPSEEK = mw.model("deepseek-v2-lite")
HGX = mw.cluster("hgx-h100", nodes=4)
VLLM = load_stack("vllm")
LOAD = mw.Serving(isl=2048, osl=256, concurrency=48)


def single(axes: dict[str, int]) -> Layouts:
    return Layouts(**{k: np.int64(v) for k, v in axes.items()})


def every_layout(model: mw.Model, gpus: int, replicas: int | None = None):
    """All legal layouts by nested loops."""
    moes = [b.moe for b in model.blocks if b.moe is not None]
    for tp, pp in itertools.product(divisors(gpus), repeat=2):
        if gpus % (tp * pp) or tp not in legality.legal_tp(model, None) or pp > model.layers:
            continue
        dp = gpus // tp // pp
        if replicas is not None and dp > replicas:
            continue
        grids = [(1, 0)]
        if moes:
            grids = [
                (ep, etp)
                for ep in divisors(moes[0].experts)
                for etp in divisors(tp * dp)
                # vLLM keeps every expert whole on one rank of the group, or splits it over all
                if 1 in (ep, etp) and ep * etp in (tp, tp * dp)
            ]
        for ep, etp in grids:
            for dcp in divisors(key_copies(model, tp)):
                yield {"tp": tp, "pp": pp, "dp": dp, "ep": ep, "etp": etp, "dcp": dcp}


@pytest.mark.parametrize(("model", "gpus"), [(LLAMA, 8), (LLAMA, 32), (MIXTRAL, 8), (DEEPSEEK, 6)])
def test_brute_force_at_a_concurrency(model: mw.Model, gpus: int) -> None:
    plan = plan_serving(model, HGX, VLLM, LOAD, gpus, {}, top=1000)
    layouts = list(every_layout(model, gpus, LOAD.concurrency))
    rates, fitting = [], 0
    for axes in layouts:
        s = steady(model, HGX, VLLM, single(axes), LOAD)
        if bool(s.fits):
            fitting += 1
            rates.append(float(s.tokens_per_s_per_device))
    assert plan.feasible == fitting
    assert plan.enumerated == plan.feasible + sum(plan.refused.values())
    assert [r.tokens_per_s_per_device for r in plan.rows] == pytest.approx(sorted(rates)[::-1])
    legal = plan.feasible + plan.refused["memory"] + plan.refused["capacity"]
    assert legal == len(layouts)


def test_limits_by_brute_force() -> None:
    """The most requests in flight within the limits, by trying all numbers per replica."""
    limits = Limits(ttft_s=1.0, tpot_s=0.035)
    plan = plan_serving(LLAMA, HGX, VLLM, LOAD, 8, {"tp": (4, 8), "pp": (1,)}, limits=limits)
    assert plan.rows
    for row in plan.rows:
        flights = np.arange(1, 160) * row.layout.dp
        s = steady(LLAMA, HGX, VLLM, arrays(row.layout), LOAD, flights)
        assert row.concurrency == flights[within(s, limits) & s.fits].max()
        assert row.ttft_s <= 1.0
        assert row.tpot_s <= 0.035


@pytest.mark.parametrize("name", ["sglang", "vllm"])
def test_every_limit_by_brute_force(name: str) -> None:
    """Also where the time to the first token falls as more are in flight (prompts before decodes)."""
    stack, number = load_stack(name), np.arange(1, 201)
    w = msgspec.structs.replace(LOAD, isl=512)
    layouts, _ = serving_space(LLAMA, stack, 8, {"tp": (4,)})
    server = Server(LLAMA, HGX, stack, w)
    size = layouts.tp.size
    every = some_columns(layouts, np.tile(np.arange(size), number.size))
    s = server.at(every, np.repeat(number, size) * every.dp, False).steady
    ttft = (s.ttft_s + s.queue_s).reshape(number.size, size)
    dips = np.sort(ttft[1:][np.diff(ttft, axis=0) < 0])
    assert (dips.size > 0) != stack.mixes_prefill
    limits = [*np.geomspace(ttft[0].max(), ttft[100].min(), 8), *(dips[:8] * 1.001)]
    room = s.max_concurrency[:size] // layouts.dp
    for limit in limits:
        good = (ttft <= limit) & (number[:, None] <= room)
        most = np.where(good, number[:, None], 0).max(axis=0)
        found, _ = server.most(layouts, Limits(ttft_s=float(limit)))
        assert (found // layouts.dp).tolist() == most.tolist()


def best(gpus: int = 8, cluster: mw.Cluster = HGX, limits: Limits | None = None) -> ServingRow:
    rows = plan_serving(LLAMA, cluster, VLLM, LOAD, gpus, {}, limits=limits, top=1).rows
    assert rows
    return rows[0]


def test_looser_limits_never_hurt() -> None:
    rates = [
        best(limits=Limits(tpot_s=t)).tokens_per_s_per_device for t in (0.02, 0.03, 0.05, 0.1, 0.5)
    ]
    assert rates == sorted(rates)


def test_more_memory_and_a_faster_fabric_never_hurt() -> None:
    rates = []
    for gib in (60, 80, 120, 200):
        device = msgspec.structs.replace(HGX.device, memory_bytes=gib * 2.0**30)
        cluster = msgspec.structs.replace(HGX, device=device)
        rates.append(best(16, cluster, Limits(tpot_s=0.2)).tokens_per_s_per_device)
    assert all(b >= a * 0.999 for a, b in itertools.pairwise(rates))
    rates = []
    for factor in (0.25, 1.0, 4.0):
        inner = HGX.levels[0]
        fast = msgspec.structs.replace(
            inner, bandwidth_bytes_per_s=inner.bandwidth_bytes_per_s * factor
        )
        cluster = msgspec.structs.replace(HGX, levels=(fast, *HGX.levels[1:]))
        rates.append(best(16, cluster).tokens_per_s_per_device)
    assert rates == sorted(rates)


def test_objectives_differ() -> None:
    w = msgspec.structs.replace(LOAD, concurrency=8)
    fast = plan_serving(LLAMA, HGX, VLLM, w, 32, {}, objective="latency").rows[0]
    full = plan_serving(LLAMA, HGX, VLLM, w, 32, {}, objective="throughput").rows[0]
    assert fast.request_s <= full.request_s
    assert full.tokens_per_s_per_device >= fast.tokens_per_s_per_device


def test_the_front_is_a_front() -> None:
    front = plan_serving(LLAMA, HGX, VLLM, LOAD, 16, {}).pareto
    assert len(front) > 4
    for a, b in itertools.pairwise(front):
        assert a.tpot_s <= b.tpot_s
        assert a.tokens_per_s_per_device < b.tokens_per_s_per_device


# -- disaggregated ---------------------------------------------------------------------------------


def test_disaggregated_rates_are_matched() -> None:
    limits = Limits(ttft_s=1.0, tpot_s=0.03)
    d = next(iter(disaggregations(LLAMA, HGX, VLLM, LOAD, 16, limits, {})), None)
    assert d is not None
    assert d.devices <= 16
    assert d.devices == (
        d.prefill_instances * d.prefill.devices + d.decode_instances * d.decode.devices
    )
    assert d.requests_per_s <= d.prefill_instances * d.prefill.requests_per_s * (1 + 1e-9)
    assert d.requests_per_s <= d.decode_instances * d.decode.requests_per_s * (1 + 1e-9)
    assert d.tokens_per_s == pytest.approx(d.requests_per_s * LOAD.osl)
    assert d.ttft_s == pytest.approx(d.prefill.latency_s + d.transfer_s)
    assert d.ttft_s <= 1.0
    assert d.tpot_s <= 0.03


@pytest.mark.parametrize(
    ("model", "gpus", "w", "limits", "pins"),
    [
        (LLAMA, 16, LOAD, Limits(ttft_s=1.0, tpot_s=0.03), {}),
        (LLAMA, 24, LOAD, Limits(ttft_s=0.6), {"tp": (2, 4, 8)}),
        (MIXTRAL, 12, LOAD, Limits(tpot_s=0.01), {"pp": (1,), "etp": (1, 2)}),
    ],
)
def test_disaggregated_by_brute_force(
    model: mw.Model, gpus: int, w: mw.Serving, limits: Limits, pins: dict[str, tuple[int, ...]]
) -> None:
    """Every pair of instances, dominated ones too, in every number."""
    prefills, decodes = [], []
    for size in instance_sizes(HGX, gpus):
        layouts, _ = serving_space(model, VLLM, size, pins, joined=True)
        if layouts.tp.size:
            prefills += _prefills(model, HGX, VLLM, w, layouts, limits)
            decodes += _decodes(model, HGX, VLLM, w, layouts, limits)
    moved, best = kv_bytes(model, VLLM, w), 0.0
    for p, d in itertools.product(prefills, decodes):
        transfer = moved / link_bytes_per_s(HGX, min(p.devices, d.devices))
        if limits.ttft_s is not None and p.latency_s + transfer > limits.ttft_s:
            continue
        for n in range(1, gpus // d.devices + 1):
            m = (gpus - n * d.devices) // p.devices
            links = [k * link_bytes_per_s(HGX, i.devices) / moved for k, i in ((m, p), (n, d))]
            best = max(best, min(m * p.requests_per_s, n * d.requests_per_s, *links))
    found = next(iter(disaggregations(model, HGX, VLLM, w, gpus, limits, pins)), None)
    assert found is not None
    assert found.requests_per_s == pytest.approx(best, rel=1e-12)


def test_who_is_not_looked_at_to_the_end_is_not_the_best() -> None:
    """Of every size the decode instance with the highest rate, among all and each by itself."""
    limits = Limits(tpot_s=0.02)
    for size in (1, 2, 4, 8):
        layouts, _ = serving_space(MIXTRAL, VLLM, size, {}, joined=True)
        together = _decodes(MIXTRAL, HGX, VLLM, LOAD, layouts, limits)
        alone = [
            _decodes(MIXTRAL, HGX, VLLM, LOAD, some_columns(layouts, slice(i, i + 1)), limits)
            for i in range(layouts.tp.size)
        ]
        rates = [d.requests_per_s for found in alone for d in found]
        assert max((d.requests_per_s for d in together), default=0.0) == max(rates, default=0.0)


def test_a_long_search_says_how_far_it_is() -> None:
    heard: list[tuple[int, int]] = []
    limits = Limits(ttft_s=1.0, tpot_s=0.03)
    disaggregations(LLAMA, HGX, VLLM, LOAD, 16, limits, {}, lambda *said: heard.append(said))
    assert heard
    assert [done for done, _ in heard] == list(range(1, heard[-1][1] + 1))


def test_sizes_tile_nodes() -> None:
    assert instance_sizes(HGX, 32) == [1, 2, 4, 8, 16, 24]
    assert instance_sizes(HGX, 8) == [1, 2, 4]
    assert instance_sizes(HGX, 1) == []


def test_what_moves_is_the_prompts_cache() -> None:
    # 80 layers · 8 KV heads · 128 · keys and values · bf16
    assert kv_bytes(LLAMA, VLLM, LOAD) == 2048 * 80 * 8 * 128 * 2 * 2


def test_a_slower_network_never_helps() -> None:
    limits = Limits(ttft_s=1.0, tpot_s=0.03)
    rates = []
    for factor in (0.001, 0.1, 1.0):
        outer = HGX.levels[-1]
        slow = msgspec.structs.replace(
            outer, bandwidth_bytes_per_s=outer.bandwidth_bytes_per_s * factor
        )
        cluster = msgspec.structs.replace(HGX, levels=(*HGX.levels[:-1], slow))
        pairs = disaggregations(LLAMA, cluster, VLLM, LOAD, 16, limits, {"tp": (2, 4, 8)})
        d = next(iter(pairs), None)
        rates.append(d.tokens_per_s if d else 0.0)
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


def test_space_of_a_dense_model_has_no_experts() -> None:
    layouts, _ = serving_space(LLAMA, VLLM, 16, {})
    assert set(layouts.ep.tolist()) == {1}
    assert set(layouts.etp.tolist()) == {0}


def test_more_gpus_where_too_few_hold_the_model() -> None:
    """The fewest that hold it, whether or not they are a power of two or whole nodes."""
    big = mw.model("llama-3.1-405b")
    w = msgspec.structs.replace(LOAD, concurrency=4)
    for asked in (4, 8, 10):
        plan = plan_serving(big, HGX, VLLM, w, asked, {})
        assert not plan.rows
        changes = {c.code: c for c in serving_changes(plan, {}, None)}
        assert changes["gpus"].value == 12
        assert changes["gpus"].row.devices == 12


def test_the_smallest_change_is_the_smallest() -> None:
    """One GPU fewer, or one request more, and nothing is feasible."""
    cluster = mw.cluster("hgx-h100")
    for model, gpus, flight in (("llama-3.1-405b", 4, 4), ("llama-3.1-8b", 1, 400)):
        sent = mw.Serving(isl=2048, osl=128, concurrency=flight)
        answer = mw.plan(model, cluster, sent, gpus=gpus).to_dict()
        assert answer["best"] is None
        changes = {c["code"]: c["value"] for c in answer["nearest_feasible"]}
        few = {"requests": 20}
        for n in range(gpus + 1, changes["gpus"]):
            assert mw.plan(model, cluster, sent, gpus=n, **few).to_dict()["best"] is None
        if "concurrency" in changes:
            for more, does in ((0, True), (1, False)):
                held = mw.Serving(isl=2048, osl=128, concurrency=changes["concurrency"] + more)
                found = mw.plan(model, cluster, held, gpus=gpus, **few).to_dict()["best"]
                assert (found is not None) is does


def test_pools_are_run_next_by_what_runs_of_their_prefill_layout_showed(monkeypatch) -> None:
    """Averages put ten pairs of a layout first that serves a quarter of what they say."""

    def pools(tp: int, rate: float) -> Disaggregated:
        one = Instance(Layout(tp=tp), tp, rate, 0.1, 1, 0.0)
        more = dict.fromkeys(("transfer_s", "transfer_bytes", "ttft_s", "tpot_s"), 0.0)
        return Disaggregated(
            *(one, one, 1, 1, 2 * tp),
            **more,
            requests_per_s=rate,
            tokens_per_s=100 * rate,
            tokens_per_s_per_device=1.0,
            concurrency=8,
            bound="prefill",
        )

    real, run = {4: 0.25, 8: 0.9}, []

    def most(self, d: Disaggregated) -> Disaggregated:
        run.append(d.prefill.layout.tp)
        rate = real[run[-1]] * d.requests_per_s
        return d._replace(requests_per_s=rate, tokens_per_s=100 * rate)

    monkeypatch.setattr(PoolTrials, "most", most)
    found = matched_pools([*(pools(4, 20.0 - i) for i in range(10)), pools(8, 9.0)], None, 16)
    assert run[:2] == [4, 8]
    assert found.simulated.prefill.layout.tp == 8
    assert len(run) == 2  # no other may be within 5 % of it
