"""The reference note on tensor parallelism, recomputed row by row.

The note asks what tensor parallelism costs in communication and to how many GPUs it scales. Each
function below is one of its rows (C1-C38): it *computes* the note's figure under the note's own
assumptions, and the right figure beside it. `python examples/the_note.py` prints the table.

Workload of the note: GPT-3 175B, batch 32, sequence 2048, hidden 12288, 16-bit values.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import meshwise as mw

BATCH, SEQ, HIDDEN = 32, 2048, 12288
PAYLOAD = BATCH * SEQ * HIDDEN * 2  # bytes of one all_reduce


class Row(NamedTuple):
    id: str
    claim: str
    note: dict[str, float]  # computed under the note's assumptions
    right: dict[str, float]  # computed under the corrected ones
    why: str


ROWS: dict[str, Callable[[], Row]] = {}


def row(function: Callable[[], Row]) -> Callable[[], Row]:
    ROWS[function.__name__.upper()] = function
    return function


def memo(function: Callable) -> Callable:
    """Remember results by the text of the arguments (a cluster holds a dict and has no hash)."""
    known: dict[str, object] = {}

    def remembered(*args: object, **kwargs: object) -> object:
        key = repr((args, kwargs))
        if key not in known:
            known[key] = function(*args, **kwargs)
        return known[key]

    return remembered


def custom(text: str) -> mw.Cluster:
    """A cluster from a TOML text, as a user would write it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cluster.toml"
        path.write_text(text, encoding="utf-8")
        return mw.cluster(str(path))


@cache
def one_level(
    bandwidth: str, ranks: int = 8, latency: str = "2 us", device: str = "a100"
) -> mw.Cluster:
    """All devices on one switch of the given bandwidth per device and direction."""
    return custom(
        f"""
device = "{device}"
[[level]]
ranks = {ranks}
bandwidth = "{bandwidth}"
latency = "{latency}"
efficiency = 1.0
"""
    )


@cache
def gpt3() -> mw.Model:
    return mw.model("gpt3-175b")


@cache
def dgx() -> mw.Cluster:
    return mw.cluster("dgx-a100")


def all_reduce(cluster: mw.Cluster, ranks: int, size: float = PAYLOAD) -> float:
    """Seconds of an ideal all_reduce (ring at wire bandwidth)."""
    return mw.collective("all_reduce", size, cluster, ranks, stack="ideal").to_dict()["time_s"]


def algorithm(cluster: mw.Cluster, ranks: int, name: str, size: float = PAYLOAD) -> dict:
    found = mw.collective("all_reduce", size, cluster, ranks, stack="ideal").to_dict()
    return next(c for c in found["candidates"] if c["algorithm"] == name)


@memo
def forward(
    cluster: mw.Cluster, stack: str = "ideal", model: str = "gpt3-175b"
) -> dict[int, mw.Point]:
    """The forward pass by TP degree: one layer's record and the whole pass."""
    r = mw.scale(mw.model(model), cluster, mw.Prefill(batch=BATCH, seq=SEQ), stack=stack)
    return {p.tp: p for p in r.points}


@memo
def training(
    cluster: mw.Cluster, stack: str = "ideal", recompute: str = "none", sp: bool = False
) -> dict:
    work = mw.Training(batch=BATCH, seq=SEQ, recompute=recompute)
    r = mw.scale(gpt3(), cluster, work, stack=stack, sequence_parallel=sp)
    return {p.tp: p for p in r.points}


def operations(
    tp: int, recompute: str = "none", stack: str = "ideal", **layout: object
) -> list[dict]:
    work = mw.Training(batch=BATCH, seq=SEQ, recompute=recompute)
    r = mw.estimate(gpt3(), dgx(), work, stack=stack, tp=tp, micro_batch=BATCH, **layout)
    return r.explain()["operations"]


def layer_reductions(phase: str, recompute: str = "none", stack: str = "ideal") -> int:
    """All_reduces of one layer and microbatch in a phase."""
    ops = operations(8, recompute, stack)
    calls = sum(
        op["count"]
        for op in ops
        if op["kind"] == "all_reduce" and op["phase"] == phase and op["name"].startswith("layer.")
    )
    return round(calls / gpt3().layers)


# -- 1. what is communicated ---------------------------------------------------------------------


@row
def c1() -> Row:
    n = layer_reductions("forward")
    return Row(
        "C1",
        "forward: 2 all-reduces per layer",
        {"count": 2},
        {"count": n},
        "after the two row-parallel products; parallel blocks (GPT-J, Falcon) need one",
    )


@row
def c2() -> Row:
    ops = operations(8)
    places = {
        o["name"]
        for o in ops
        if o["kind"] == "all_reduce" and o["phase"] == "dgrad" and o["name"].startswith("layer.")
    }
    inputs = sum(name.endswith(("qkv.input_grad", "up.input_grad")) for name in places)
    return Row(
        "C2",
        "backward: 2 all-reduces per layer",
        {"count": 2},
        {"count": layer_reductions("dgrad"), "at_column_parallel_inputs": inputs},
        "they reduce the input gradients of the column-parallel products (QKV, FFN-1), not of FFN-2 and the output projection",
    )


@row
def c3() -> Row:
    def calls(recompute: str, stack: str) -> int:
        return sum(layer_reductions(p, recompute, stack) for p in ("forward", "recompute", "dgrad"))

    return Row(
        "C3",
        "forward + backward: 4 all-reduces per layer",
        {"count": 4},
        {
            "none": calls("none", "ideal"),
            "selective": calls("selective", "megatron-2021"),
            "full": calls("full", "megatron-2021"),
            "full_early_stop": calls("full", "torchtitan-fsdp"),
        },
        "full recomputation repeats the forward's; a checkpoint that stops early leaves out the last",
    )


@row
def c4() -> Row:
    op = next(o for o in operations(8) if o["name"] == "layer.mlp.output")
    return Row(
        "C4",
        "payload B·S·H·b",
        {"bytes": BATCH * SEQ * HIDDEN * 2},
        {"bytes": op["payload_bytes"]},
        "exact",
    )


@row
def c5() -> Row:
    p = training(dgx())[8].layer
    f, b = p.forward_payload_bytes, p.backward_payload_bytes
    return Row(
        "C5",
        "per layer 3.2 + 3.2 = 6.4 GB",
        {"total_bytes": 4 * PAYLOAD},
        {"forward_bytes": f, "backward_bytes": b, "total_bytes": f + b},
        "exact",
    )


# -- 2. ring all-reduce ------------------------------------------------------------------------------


@row
def c6() -> Row:
    sent = algorithm(one_level("300 GB/s"), 8, "ring")["wire_bytes"][0]
    return Row(
        "C6",
        "ring: 2(N−1)/N · payload sent per GPU",
        {"bytes": 2 * 7 / 8 * PAYLOAD},
        {"bytes": sent},
        "exact",
    )


@row
def c7() -> Row:
    slow, fast = one_level("600 GB/s", latency="2 us"), one_level("600 GB/s", latency="1 us")

    def ring(c: mw.Cluster) -> float:
        return mw.collective("all_reduce", PAYLOAD, c, 8, stack="megatron-core").to_dict()["time_s"]

    steps = (ring(slow) - ring(fast)) / 1e-6
    return Row(
        "C7",
        "(N−1) latencies",
        {"steps": 7},
        {"steps": steps},
        "reduce-scatter and all-gather have N−1 steps each: 2(N−1)",
    )


@row
def c8() -> Row:
    return Row(
        "C8",
        "N=8 over NVLink 3: 4.67 ms",
        {"time_ms": 1e3 * all_reduce(one_level("600 GB/s"), 8, 1.6e9)},
        {
            "ideal_ms": 1e3 * all_reduce(dgx(), 8),
            "at_235_gb_per_s_ms": 1e3 * all_reduce(one_level("235 GB/s"), 8),
        },
        "600 GB/s adds both directions; one direction is 300 GB/s. NCCL's measured bus bandwidth is about 235 GB/s",
    )


@row
def c9() -> Row:
    return Row(
        "C9",
        "N=8 over IB HDR: 112 ms",
        {"time_ms": 1e3 * all_reduce(one_level("25 GB/s"), 8, 1.6e9)},
        {"time_ms": 1e3 * all_reduce(one_level("25 GB/s"), 8)},
        "200 Gb/s is per direction already (one NIC per GPU)",
    )


@row
def c10() -> Row:
    wrong = {
        f"n{n}_ms": 1e3 * all_reduce(one_level("600 GB/s", 16), n, 1.6e9) for n in (2, 4, 8, 16)
    }
    right = {f"n{n}_ms": 1e3 * all_reduce(dgx(), n) for n in (2, 4, 8, 16)}
    return Row(
        "C10",
        "2.67, 4.00, 4.67, 5.00 ms at N = 2, 4, 8, 16",
        wrong,
        right,
        "300 GB/s; and 16 GPUs leave the node",
    )


# -- 3. interconnects ------------------------------------------------------------------------------------

FABRICS = {
    "nvlink3": "300 GB/s",
    "nvlink4": "450 GB/s",
    "pcie4": "31.5 GB/s",
    "ib_hdr": "25 GB/s",
    "ethernet_100": "12.5 GB/s",
}


@row
def c11() -> Row:
    names = {
        "nvlink3": "nvlink3-nvswitch",
        "nvlink4": "nvlink4-nvswitch",
        "pcie4": "pcie4",
        "ib_hdr": "ib-hdr",
        "ethernet_100": "ethernet-100",
    }
    found = {
        k: custom(f'device = "a100"\n[[level]]\nranks = 2\nfabric = "{v}"')
        .levels[0]
        .bandwidth_bytes_per_s
        / 1e9
        for k, v in names.items()
    }
    note = {"nvlink3": 600.0, "nvlink4": 900.0, "pcie4": 32.0, "ib_hdr": 25.0, "ethernet_100": 12.5}
    return Row(
        "C11",
        "bandwidths of five interconnects (GB/s)",
        note,
        found,
        "the NVLink figures add both directions, the others do not; here all are per direction",
    )


def share(cluster: mw.Cluster, tp: int = 8) -> float:
    """Communication's share of a layer's ideal forward."""
    lay = forward(cluster)[tp].layer
    return lay.forward_comm_s / lay.forward_s


@row
def c12() -> Row:
    found = {k: 100 * share(one_level(v)) for k, v in FABRICS.items()}
    found["nvlink4_h100"] = 100 * share(one_level("450 GB/s", device="h100"))
    slow_h100 = custom(
        """
device = { like = "h100", peak = { bf16 = "593.64 TFLOP/s", fp16 = "593.64 TFLOP/s" } }
[[level]]
ranks = 8
bandwidth = "360 GB/s"
latency = "2 us"
"""
    )
    found["nvlink4_h100_at_60_percent"] = 100 * share(slow_h100)
    note = {"nvlink3": 20.0, "nvlink4": 15.0, "pcie4": 50.0, "ib_hdr": 70.0}
    return Row(
        "C12",
        "TP communication share by interconnect (%): < 20, < 15, > 50, > 70",
        note,
        found,
        "ideal forward at TP=8. A faster GPU raises the share: an H100 computes 3 × faster than an A100, so NVLink 4 gives it 29 %, not < 15 %",
    )


# -- 4. inside a node ----------------------------------------------------------------------------------------


@row
def c13() -> Row:
    fast = one_level("600 GB/s")
    f, right, t = forward(fast)[8].layer, forward(dgx())[8].layer, training(dgx())[8].layer
    busy = t.forward_comm_s + t.backward_comm_s
    return Row(
        "C13",
        "100 ms compute + 9.34 ms communication per layer: 8.5 %",
        {
            "compute_ms": 1e3 * (f.forward_s - f.forward_comm_s),
            "comm_ms": 1e3 * f.forward_comm_s,
            "share": 100 * f.forward_comm_s / f.forward_s,
        },
        {
            "forward_share": 100 * right.forward_comm_s / right.forward_s,
            "training_share": 100 * busy / (t.forward_s + t.backward_s),
            "flops_forward": 8 * right.flops_forward,
        },
        "100 ms is already divided by 8; at 300 GB/s forward spends 16 %, a training layer (3 × the FLOPs, 2 × the bytes) 11.4 %",
    )


@row
def c14() -> Row:
    at = custom(
        """
device = { like = "a100", peak = { bf16 = "171.6 TFLOP/s", fp16 = "171.6 TFLOP/s" } }
[[level]]
ranks = 8
bandwidth = "235 GB/s"
latency = "2 us"
"""
    )
    r = mw.scale(gpt3(), at, mw.Prefill(batch=BATCH, seq=SEQ), stack="ideal")
    strong = {
        f"share_tp{p.tp}": 100 * p.layer.forward_comm_s / p.layer.forward_s
        for p in r.points
        if p.tp > 1
    }
    weak = {f"weak_efficiency_tp{p.tp}": 100 * p.weak_efficiency for p in r.points if p.tp > 1}
    # The note keeps 100 ms of compute while N changes and prices the all-reduce at 600 GB/s.
    fast = one_level("600 GB/s")
    note = {
        f"efficiency_tp{n}": 100 * 0.1 / (0.1 + 2 * all_reduce(fast, n, 1.6e9)) for n in (2, 4, 8)
    }
    return Row(
        "C14",
        "efficiency 95, 93, 91 % at N = 2, 4, 8",
        note,
        strong | weak,
        "at fixed work compute falls as 1/N (strong scaling); the note's constant compute is neither that nor weak scaling, where the payload grows with N",
    )


# -- 5. across nodes ---------------------------------------------------------------------------------------------


@row
def c15() -> Row:
    one_nic = mw.cluster("dgx-a100", nics=1)
    return Row(
        "C15",
        "16 GPUs over 2 nodes: all-reduce ≈ 50-80 ms",
        {
            "one_nic_hierarchical_ms": 1e3 * algorithm(one_nic, 16, "hierarchical")["time_s"],
            "one_nic_across_ms": 1e3 * all_reduce(one_level("3.125 GB/s", 2), 2, PAYLOAD / 8),
            "one_nic_ring_ms": 1e3 * algorithm(one_nic, 16, "ring")["time_s"],
        },
        {
            "ring_ms": 1e3 * algorithm(dgx(), 16, "ring")["time_s"],
            "hierarchical_ms": 1e3 * algorithm(dgx(), 16, "hierarchical")["time_s"],
            "ring_bytes_leaving_node": 8 * algorithm(dgx(), 16, "ring")["wire_bytes"][1] / PAYLOAD,
            "hierarchical_bytes_leaving_node": 8
            * algorithm(dgx(), 16, "hierarchical")["wire_bytes"][1]
            / PAYLOAD,
        },
        "the range fits one NIC per node; a DGX A100 has 8",
    )


@row
def c16() -> Row:
    ideal, single = forward(dgx()), forward(mw.cluster("dgx-a100", nics=1))
    return Row(
        "C16",
        "16 GPUs: speed-up 1.78 ×, efficiency 11 %",
        {"speedup": 100 / (100 / 16 + 50), "efficiency": 100 * 100 / (100 / 16 + 50) / 16},
        {
            "tp8_ms": 1e3 * ideal[8].layer.forward_s,
            "tp16_ms": 1e3 * ideal[16].layer.forward_s,
            "speedup_8_to_16": ideal[8].layer.forward_s / ideal[16].layer.forward_s,
            "efficiency_tp8": 100 * ideal[8].efficiency,
            "efficiency_tp16": 100 * ideal[16].efficiency,
            "one_nic_tp16_over_tp8": single[16].layer.forward_s / single[8].layer.forward_s,
        },
        "100 ms was the 8-GPU time, and a layer has two all-reduces",
    )


@row
def c17() -> Row:
    inner, outer = dgx().levels
    return Row(
        "C17",
        "NVLink : IB = 24 : 1",
        {"ratio": 600 / 25},
        {"ratio": inner.bandwidth_bytes_per_s / outer.bandwidth_bytes_per_s},
        "per direction 12 : 1",
    )


# -- 6. what to run --------------------------------------------------------------------------------------------------


def step(batch: int = 64, **layout: int) -> dict:
    work = mw.Training(batch=batch, seq=SEQ, recompute="full")
    return mw.estimate(gpt3(), dgx(), work, micro_batch=1, **layout).to_dict()


@row
def c18() -> Row:
    small = mw.model("gpt3-13b")
    work = mw.Training(batch=64, seq=SEQ, recompute="full")

    def run(**layout: int) -> float:
        return mw.estimate(small, dgx(), work, micro_batch=1, **layout).to_dict()["step_s"]

    return Row(
        "C18",
        "8 GPUs: TP8·DP1 or TP4·DP2",
        {},
        {"tp8_step_s": run(tp=8), "tp4_dp2_step_s": run(tp=4, dp=2)},
        "for GPT-3 13B, batch 64: the smaller degree wins when it fits",
    )


@row
def c19() -> Row:
    a, b = step(tp=8, pp=8), step(tp=8, pp=4, dp=2)
    try:
        step(tp=8, pp=16, gpus=64)
        refused = 0
    except mw.MeshwiseError:
        refused = 1
    return Row(
        "C19",
        "64 GPUs: TP8·PP8, TP8·PP4·DP2, TP8·PP16",
        {"gpus_of_third": 64},
        {
            "tp8_pp8_step_s": a["step_s"],
            "tp8_pp4_dp2_step_s": b["step_s"],
            "tp8_pp4_dp2_fits": b["fits"],
            "gpus_of_third": step(tp=8, pp=16)["devices"],
            "third_refused_on_64": refused,
        },
        "TP8·PP16 uses 128 GPUs",
    )


@row
def c20() -> Row:
    inside, across = step(tp=8, pp=8), step(tp=32, pp=2)
    return Row(
        "C20",
        "TP inside the node, PP across",
        {},
        {"tp8_pp8_step_s": inside["step_s"], "tp32_pp2_step_s": across["step_s"]},
        "64 GPUs, batch 64, microbatch 1: TP across four nodes loses",
    )


# -- 7. the limit ----------------------------------------------------------------------------------------------------------


@row
def c21() -> Row:
    b, s, h = BATCH, SEQ, HIDDEN
    return Row(
        "C21",
        "T_compute = (8BSH² + 4BS²H)/FLOPS",
        {"flops": 8.0 * b * s * h * h + 4.0 * b * s * s * h},
        {
            "flops": forward(dgx())[1].layer.flops_forward,
            "closed_form": 24.0 * b * s * h * h + 4.0 * b * s * s * h,
        },
        "8BSH² is attention's projections only: with the FFN 24BSH² + 4BS²H, divided by N",
    )


@row
def c22() -> Row:
    n, bw = 8, 300e9
    return Row(
        "C22",
        "T_comm = 4 (N−1)/N · BSH/BW",
        {"time_ms": 1e3 * 4 * (n - 1) / n * BATCH * SEQ * HIDDEN / bw},
        {"time_ms": 1e3 * forward(dgx())[8].layer.forward_comm_s},
        "bytes per element are missing: × b",
    )


@row
def c23() -> Row:
    sixteen = one_level("300 GB/s", 16)
    f, t = forward(sixteen), training(sixteen)
    full = training(sixteen, "ideal", "full")

    def ccr(p: mw.Point) -> float:
        assert p.layer.ccr is not None
        return p.layer.ccr

    right = {f"ccr_tp{n}": ccr(f[n]) for n in (2, 4, 8, 16)}
    right["training_over_forward"] = ccr(t[8]) / right["ccr_tp8"]
    right["full_recompute_over_forward"] = ccr(full[8]) / right["ccr_tp8"]
    return Row(
        "C23",
        "CCR = FLOPS/BW · (8H + 4S)/4 ≈ 27000",
        {"ccr": 312e12 / 600e9 * (8 * HIDDEN + 4 * SEQ) / 4},
        right,
        "inverted and mis-evaluated (that product is 1.4e7); right: BW·(24H + 4S) / (4·b·(N−1)·FLOPS)",
    )


@row
def c24() -> Row:
    sixteen = forward(one_level("300 GB/s", 16))
    r = mw.scale(gpt3(), dgx(), mw.Prefill(batch=BATCH, seq=SEQ), stack="ideal")
    by = {p.tp: p for p in r.points}
    t = training(one_level("300 GB/s", 16))[16]
    lay = t.layer
    return Row(
        "C24",
        "in-node limit 16, best 8, ≥ 80 % efficiency at 16",
        {"efficiency_tp16": 80},
        {
            "limit": r.limit.tp,
            "fastest": r.scaling.fastest,
            "marginal_4_to_8": by[8].marginal_efficiency,
            "marginal_8_to_16": by[16].marginal_efficiency,
            "all_nvlink_forward_comm_share_tp16": 100
            * sixteen[16].layer.forward_comm_s
            / sixteen[16].layer.forward_s,
            "all_nvlink_training_comm_share_tp16": 100
            * (lay.forward_comm_s + lay.backward_comm_s)
            / (lay.forward_s + lay.backward_s),
        },
        "the limit is the last doubling that pays at least 0.8 of itself",
    )


@row
def c25() -> Row:
    def fastest(cluster: str) -> mw.Point:
        work = mw.Decode(batch=8, context=8192)
        r = mw.scale(mw.model("llama-3.1-405b"), mw.cluster(cluster), work, objective="latency")
        return min(r.points, key=lambda p: p.step_s)

    rack, node = fastest("gb200-nvl72"), fastest("hgx-b200")
    return Row(
        "C25",
        "across nodes: stop at one node",
        {"fastest": 8},
        {
            "fastest_8_gpu_nodes": node.tp,
            "fastest_nvl72": rack.tp,
            "gain": node.step_s / rack.step_s,
        },
        "Llama-3.1-405B decode, batch 8: the boundary is the fabric's domain, not the server; in an NVL72 rack TP goes on beyond 8",
    )


# -- 8. making it cheaper -------------------------------------------------------------------------------------------------------


@row
def c26() -> Row:
    def exposed(how: str) -> mw.Point:
        s = mw.stack("megatron-core", overlap=how, overlap_input_gradient=how != "none")
        return mw.scale(gpt3(), dgx(), mw.Training(batch=BATCH, seq=SEQ), stack=s, tp=[8]).points[0]

    plain, split, decomposed = exposed("none"), exposed("split"), exposed("decomposed")
    return Row(
        "C26",
        "asynchronous all-reduce hides 30-50 %",
        {"hidden_percent": 40},
        {
            "hidden_none": 100 * (1 - plain.exposed_comm_s / plain.comm_s),
            "hidden_split": 100 * (1 - split.exposed_comm_s / split.comm_s),
            "hidden_decomposed": 100 * (1 - decomposed.exposed_comm_s / decomposed.comm_s),
        },
        "norm and residual depend on the all-reduce: nothing hides under them. Splitting the batch in two, or decomposing products, does hide it",
    )


@row
def c27() -> Row:
    def payload(comm: str | None) -> float:
        work = mw.Prefill(batch=BATCH, seq=SEQ, formats=mw.Formats(comm=comm))
        return (
            mw.scale(gpt3(), dgx(), work, stack="ideal", tp=[8])
            .points[0]
            .layer.forward_payload_bytes
        )

    return Row(
        "C27",
        "FP8 communication halves the bytes",
        {"ratio": 0.5},
        {"ratio": payload("fp8") / payload(None)},
        "right for the payload; sum in fp32",
    )


@row
def c28() -> Row:
    plain, sp = training(dgx())[8], training(dgx(), sp=True)[8]
    f = mw.Prefill(batch=BATCH, seq=SEQ)
    one = mw.scale(gpt3(), dgx(), f, stack="ideal", tp=[8]).points[0]
    two = mw.scale(gpt3(), dgx(), f, stack="ideal", tp=[8], sequence_parallel=True).points[0]
    lay, base = sp.layer, plain.layer
    equivalents = (
        lay.all_gathers_forward
        + lay.reduce_scatters_forward
        + lay.all_gathers_backward
        + lay.reduce_scatters_backward
    ) / 2
    return Row(
        "C28",
        "sequence parallelism reduces communication",
        {},
        {
            "forward_wire_ratio": two.wire_bytes[0] / one.wire_bytes[0],
            "training_all_reduce_equivalents": equivalents,
            "training_all_reduces_without": base.all_reduces_forward + base.all_reduces_backward,
            "memory_ratio": sp.memory_bytes / plain.memory_bytes,
        },
        "it saves memory; forward moves the same bytes, training 5 all-reduce equivalents per layer against 4",
    )


# -- 9. measured data ----------------------------------------------------------------------------------------------------------------


@row
def c29() -> Row:
    r = mw.estimate(
        gpt3(),
        mw.cluster("dgx-a100", nodes=128),
        mw.Training(batch=1536, seq=SEQ, recompute="full"),
        stack="megatron-2021",
        tp=8,
        pp=16,
        dp=8,
        micro_batch=1,
    ).to_dict()
    published = 140e12 / 312e12
    return Row(
        "C29",
        "175B: 140 TFLOP/s/GPU = 45 % MFU, ≈ 15 % communication",
        {"utilisation": 100 * published},
        {
            "published_hfu": 100 * published,
            "published_mfu": 100 * published * r["mfu"] / r["hfu"],
            "predicted_hfu": 100 * r["hfu"],
            "predicted_mfu": 100 * r["mfu"],
            "predicted_tflops": r["hfu"] * 312,
            "exposed_comm_share": 100 * r["comm_share"],
        },
        "140 TFLOP/s is from 1,024 GPUs (TP8·PP16·DP8) and counts recomputation: hardware utilisation",
    )


@row
def c30() -> Row:
    found = {}
    for name, label in (
        ("gpt2-xl", "1.5b"),
        ("gpt3-13b", "13b"),
        ("gpt3-175b", "175b"),
        ("mt-nlg-530b", "530b"),
    ):
        model = mw.model(name)
        legal = mw.describe(model).to_dict()["legal_tp"]
        inside, across = max(tp for tp in legal if tp <= 8), min(tp for tp in legal if tp >= 16)
        work = mw.Training(batch=4, seq=1024)
        r = mw.scale(model, dgx(), work, stack="megatron-2021", tp=[inside, across])
        for p, where in zip(r.points, ("in_node", "across"), strict=True):
            found[f"{label}_{where}_tp{p.tp}"] = 100 * p.efficiency
    note = {
        "1.5b_in_node": 60,
        "13b_in_node": 85,
        "175b_in_node": 91,
        "530b_in_node": 92,
        "1.5b_across": 20,
        "13b_across": 35,
        "175b_across": 55,
        "530b_across": 65,
    }
    return Row(
        "C30",
        "efficiency in node / across by model size (%)",
        note,
        found,
        "batch 4 of 1,024 tokens, measured rates: bigger models scale better. Heads decide which degrees exist: 25 of them allow TP=5 and 25",
    )


# -- 10 and 11 -----------------------------------------------------------------------------------------------------------------------------


@row
def c31() -> Row:
    r = mw.scale(
        mw.model("llama-3.1-70b"),
        mw.cluster("hgx-h100"),
        mw.Decode(batch=1, context=2048),
        objective="latency",
    )
    return Row(
        "C31",
        "TP in one NVLink node when latency matters",
        {},
        {"fastest": r.scaling.fastest},
        r.verdict,
    )


@row
def c32() -> Row:
    def efficiency(cluster: str, model: str) -> float:
        r = mw.scale(mw.model(model), mw.cluster(cluster), mw.Prefill(batch=8, seq=1024), tp=[4])
        return 100 * r.points[0].efficiency

    return Row(
        "C32",
        "avoid TP over PCIe and for small models",
        {},
        {
            "pcie_tp4": efficiency("a100-pcie-4x", "llama-2-13b"),
            "nvlink_tp4": efficiency("dgx-a100", "llama-2-13b"),
            "small_model_nvlink_tp4": efficiency("dgx-a100", "tinyllama-1.1b"),
        },
        "efficiency (%) of TP=4, prefill of 8 × 1,024 tokens",
    )


@row
def c33() -> Row:
    best = {
        k: step(**v)["step_s"]
        for k, v in {
            "tp8_pp8": {"tp": 8, "pp": 8},
            "tp4_pp16": {"tp": 4, "pp": 16},
            "tp16_pp4": {"tp": 16, "pp": 4},
        }.items()
    }
    return Row(
        "C33",
        "beyond 8 GPUs: TP=8, PP = nodes",
        {},
        {f"{k}_step_s": v for k, v in best.items()},
        "64 GPUs, batch 64",
    )


@row
def c34() -> Row:
    work = mw.Training(batch=128, seq=SEQ)
    r = mw.estimate(
        mw.model("mixtral-8x7b"),
        dgx(),
        work,
        tp=4,
        pp=2,
        dp=4,
        ep=4,
        micro_batch=1,
        shard="zero1",
        sequence_parallel=True,
    )
    rows = {a["axis"]: a for a in r.to_dict()["communication"]}
    return Row(
        "C34",
        "(left out) communication of the other axes",
        {},
        {f"{k}_wire_bytes": sum(v["wire_bytes"]) for k, v in rows.items()},
        "`meshwise estimate` prints a row per axis",
    )


@row
def c35() -> Row:
    r = mw.estimate(
        gpt3(),
        dgx(),
        mw.Training(batch=64, seq=SEQ, recompute="full"),
        tp=8,
        pp=4,
        dp=2,
        micro_batch=1,
    )
    rows = {a["axis"]: a for a in r.to_dict()["communication"]}
    shared = mw.estimate(
        gpt3(),
        mw.cluster("dgx-a100", nics=1),
        mw.Training(batch=64, seq=SEQ, recompute="full"),
        tp=8,
        pp=4,
        dp=2,
        micro_batch=1,
    )
    few = {a["axis"]: a for a in shared.to_dict()["communication"]}
    return Row(
        "C35",
        "(left out) NICs are shared",
        {},
        {
            "flows_per_nic": rows["dp"]["flows_per_nic"],
            "flows_per_nic_one_nic": few["dp"]["flows_per_nic"],
            "dp_time_ratio": few["dp"]["time_s"] / rows["dp"]["time_s"],
        },
        "the eight TP ranks of a node reduce their gradients over the same NICs at the same time",
    )


@row
def c36() -> Row:
    half = mw.Formats(gradients="bf16")
    work = mw.Training(batch=BATCH, seq=SEQ, formats=half)
    r = mw.estimate(gpt3(), dgx(), work, tp=8, micro_batch=1).to_dict()
    state = sum(r["memory"][k] for k in ("weights_bytes", "gradients_bytes", "optimizer_bytes"))
    fit = mw.scale(gpt3(), dgx(), work).scaling.smallest_fit
    return Row(
        "C36",
        "(left out) memory",
        {},
        {
            "state_gb_at_tp8": state / 1e9,
            "fits": r["fits"],
            "smallest_mesh_gpus": fit.devices if fit else 0,
        },
        "weights, gradients and Adam's state: the 8-GPU example cannot train",
    )


@row
def c37() -> Row:
    r = mw.scale(
        mw.model("llama-3.1-70b"), mw.cluster("hgx-h100"), mw.Decode(batch=32, context=1024)
    )
    by = {p.tp: p for p in r.points}
    first = mw.scale(
        mw.model("llama-3.1-70b"), mw.cluster("hgx-h100"), mw.Prefill(batch=32, seq=1024)
    )
    return Row(
        "C37",
        "(left out) decode",
        {},
        {
            "tpot_tp8_ms": 1e3 * by[8].step_s,
            "ttft_tp8_ms": 1e3 * {p.tp: p for p in first.points}[8].step_s,
            "payload_kib": by[8].layer.forward_payload_bytes / 2 / 1024,
            "comm_share_tp8": 100 * by[8].comm_share,
        },
        f"messages of B·H·b bytes: {by[8].algorithm} wins over the ring",
    )


@row
def c38() -> Row:
    d = mw.describe(mw.model("llama-3.1-70b")).to_dict()

    def cache_bytes(tp: int) -> float:
        return mw.estimate(
            mw.model("llama-3.1-70b"),
            mw.cluster("hgx-h100"),
            mw.Decode(batch=32, context=8192),
            tp=tp,
        ).to_dict()["memory"]["kv_cache_bytes"]

    return Row(
        "C38",
        "(left out) KV heads",
        {},
        {
            "legal_degrees": len(d["legal_tp"]),
            "most_without_copies": d["max_tp_without_kv_copies"],
            "kv_cache_tp16_over_tp8": cache_bytes(16) / cache_bytes(8),
        },
        "beyond the KV heads they are copied: the cache per GPU stops shrinking",
    )


def show(values: dict[str, float]) -> str:
    return ", ".join(f"{k} {v:,.4g}" for k, v in values.items()) or "—"


def markdown() -> str:
    """The rows as a Markdown table."""
    lines = [
        "| row | the note says | its figure, recomputed | right figure | why |",
        "|---|---|---|---|---|",
    ]
    for build in ROWS.values():
        r = build()
        why = r.why.replace("|", "/").replace("\n", " ")
        lines.append(f"| {r.id} | {r.claim} | {show(r.note)} | {show(r.right)} | {why} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
