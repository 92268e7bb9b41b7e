"""The JSON contracts (schema 1): keys, types and the identities between them."""

import math

import pytest
from running import answer, refusal

NUMBER = (int, float)
TIMES = ("step_s", "compute_s", "comm_s", "exposed_comm_s", "bubble_s", "host_s")
RUNS = [
    ("gpt3-175b", "dgx-a100", "--batch", "32", "--seq", "2048"),
    ("gpt3-175b", "dgx-a100", "--batch", "32", "--seq", "2048", "--ideal"),
    (
        "gpt3-175b",
        "dgx-a100",
        "--batch",
        "8",
        "--seq",
        "2048",
        "--sequence-parallel",
        "--recompute",
        "full",
    ),
    ("llama-3.1-70b", "hgx-h100", "--phase", "decode", "--batch", "32", "--context", "4096"),
    ("llama-3.1-8b", "rtx-4090-8x", "--phase", "prefill", "--batch", "1", "--seq", "8192"),
    ("deepseek-v3", "gb200-nvl72", "--phase", "decode", "--batch", "64", "--context", "8192"),
    ("gpt2", "this-cpu", "--seq", "1024"),
]


def finite(value):
    """No nan or infinity anywhere in a record."""
    if isinstance(value, dict):
        return all(finite(v) for v in value.values())
    if isinstance(value, list):
        return all(finite(v) for v in value)
    return not isinstance(value, float) or math.isfinite(value)


def check_times(point, levels):
    for key in TIMES:
        assert isinstance(point[key], NUMBER), key
        assert point[key] >= 0, key
    parts = point["compute_s"] + point["exposed_comm_s"] + point["bubble_s"] + point["host_s"]
    assert point["step_s"] == parts
    assert point["exposed_comm_s"] <= point["comm_s"] * (1 + 1e-12)
    assert point["comm_share"] == point["exposed_comm_s"] / point["step_s"]
    if point["comm_s"] == 0:
        assert point["ccr"] is None
    else:
        assert point["ccr"] == point["compute_s"] / point["comm_s"]
    assert isinstance(point["wire_bytes"], list)
    assert len(point["wire_bytes"]) == levels
    assert all(isinstance(w, NUMBER) and w >= 0 for w in point["wire_bytes"])
    assert point["payload_bytes"] >= 0
    assert point["memory_bytes"] > 0
    assert isinstance(point["fits"], bool)


@pytest.mark.parametrize("argv", RUNS, ids=" ".join)
def test_scale(argv):
    r = answer("scale", argv[0], "--on", *argv[1:])
    assert finite(r)
    assert r["schema"] == 1
    assert r["model"] == argv[0]
    assert {
        "cluster",
        "workload",
        "stack",
        "points",
        "limit",
        "fastest",
        "smallest_fit",
        "verdict",
    } <= set(r)
    assert r["cluster"]["name"] == argv[1]
    by_tp = {p["tp"]: p for p in r["points"]}
    one = by_tp[1]
    for p in r["points"]:
        check_times(p, len(r["cluster"]["levels"]))
        assert p["speedup"] == pytest.approx(one["step_s"] / p["step_s"], rel=1e-12)
        assert p["efficiency"] == pytest.approx(p["speedup"] / p["tp"], rel=1e-12)
        half = by_tp.get(p["tp"] / 2)
        if half:
            expected = half["step_s"] / (2 * p["step_s"])
            assert p["marginal_efficiency"] == pytest.approx(expected, rel=1e-12)
        layer = p["layer"]
        for key in ("forward_s", "backward_s", "forward_comm_s", "forward_payload_bytes"):
            assert isinstance(layer[key], NUMBER)
        for key in ("all_reduces_forward", "all_reduces_backward"):
            assert isinstance(layer[key], int)
    assert one["ccr"] is None
    assert one["comm_s"] == 0
    assert one["speedup"] == one["efficiency"] == 1
    assert one["marginal_efficiency"] is None
    assert sum(one["wire_bytes"]) == 0
    assert r["fastest"]["tp"] == min(r["points"], key=lambda p: p["step_s"])["tp"]
    fit = r["smallest_fit"]
    if fit is not None:
        keys = "tp pp vp dp cp ep etp micro_batch sequence_parallel recompute shard placement"
        assert set(keys.split()) <= set(fit)
    assert isinstance(r["verdict"], str)
    assert len(r["verdict"]) > 20


@pytest.mark.parametrize("argv", RUNS, ids=" ".join)
@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
def test_limit_is_the_last_degree_that_pays(argv, threshold):
    r = answer("scale", argv[0], "--on", *argv[1:], "--limit-threshold", str(threshold))
    limit = 1
    for p in r["points"]:
        if p["marginal_efficiency"] is not None:
            if p["marginal_efficiency"] < threshold:
                break
            limit = p["tp"]
    assert r["limit"]["tp"] == limit
    assert r["limit"]["objective"] == "efficiency"
    assert r["limit"]["reason"]


def test_limit_of_latency_is_the_fastest():
    r = answer("scale", *("gpt3-175b", "--on", *RUNS[0][1:]), "--objective", "latency")
    assert r["limit"]["tp"] == r["fastest"]["tp"]
    assert r["limit"]["objective"] == "latency"


def test_two_all_reduces_each_way():
    """Megatron's count: two all-reduces forward and two backward per layer (arXiv 1909.08053)."""
    r = answer("scale", "gpt3-175b", "--on", *RUNS[0][1:])
    for p in r["points"]:
        expected = 0 if p["tp"] == 1 else 2
        assert p["layer"]["all_reduces_forward"] == expected
        assert p["layer"]["all_reduces_backward"] == expected
    payload = {p["layer"]["forward_payload_bytes"] for p in r["points"] if p["tp"] > 1}
    assert payload == {2 * 32 * 2048 * 12288 * 2.0}  # two of batch · sequence · hidden bf16 values


LAYOUTS = [
    ("gpt3-175b", "dgx-a100", "--tp", "8", "--pp", "8", "--batch", "64", "--micro-batch", "1", "--seq", "2048"),
    ("gpt3-175b", "dgx-a100", "--tp", "8", "--pp", "4", "--dp", "4", "--batch", "64", "--seq", "2048",
     "--sequence-parallel", "--recompute", "selective", "--shard", "zero1"),
    ("mixtral-8x7b", "hgx-h100", "--tp", "2", "--ep", "4", "--dp", "4", "--batch", "64", "--seq", "4096",
     "--sequence-parallel"),
    ("llama-3.1-70b", "hgx-h100", "--tp", "8", "--phase", "decode", "--batch", "32", "--context", "4096"),
    ("gpt2", "this-cpu", "--seq", "128"),
]  # fmt: skip


@pytest.mark.parametrize("argv", LAYOUTS, ids=" ".join)
def test_estimate(argv):
    r = answer("estimate", argv[0], "--on", *argv[1:])
    assert finite(r)
    assert r["schema"] == 1
    levels = len(r["cluster"]["levels"])
    check_times(r, levels)
    layout = r["layout"]
    for key in ("tp", "pp", "vp", "dp", "cp", "ep", "etp", "micro_batch"):
        assert isinstance(layout[key], int)
    assert isinstance(layout["sequence_parallel"], bool)
    assert {"recompute", "shard", "placement"} <= set(layout)
    assert layout["tp"] * layout["pp"] * layout["dp"] * layout["cp"] == r["devices"]
    parts = "weights gradients optimizer activations kv_cache workspace"
    memory = {f"{p}_bytes": r["memory"][f"{p}_bytes"] for p in parts.split()}
    assert all(v >= 0 for v in memory.values())
    assert sum(memory.values()) == pytest.approx(r["memory_bytes"], rel=1e-12)
    assert 0 < r["mfu"] < 1
    assert r["hfu"] >= r["mfu"]
    assert r["tokens_per_s_per_device"] > 0
    for row in r["communication"]:
        assert isinstance(row["group"], int)
        assert math.prod(row["ranks_per_level"]) == row["group"]
        assert len(row["wire_bytes"]) == levels
        assert row["exposed_s"] <= row["time_s"] * (1 + 1e-9)
    _adds_up(sum(row["time_s"] for row in r["communication"]), r["comm_s"], layout["pp"])
    assert sum(r["provenance"].values()) == pytest.approx(1)
    assert isinstance(r["extrapolated"], bool)


@pytest.mark.parametrize("argv", LAYOUTS, ids=" ".join)
def test_explain(argv):
    r = answer("explain", argv[0], "--on", *argv[1:])
    assert finite(r)
    assert r["schema"] == 1
    kinds = [
        "gemm",
        "attention",
        "elementwise",
        "all_reduce",
        "all_gather",
        "reduce_scatter",
        "all_to_all",
        "send_recv",
    ]
    phases = ["forward", "dgrad", "wgrad", "recompute", "grad_reduce", "optimizer"]
    for op in r["operations"]:
        assert op["kind"] in kinds
        assert op["phase"] in phases
        assert isinstance(op["name"], str)
        assert op["count"] > 0
        for key in ("flops", "hbm_bytes", "payload_bytes", "time_s"):
            assert isinstance(op[key], NUMBER)
            assert op[key] >= 0
        collective = kinds.index(op["kind"]) > 2
        assert (op["algorithm"] is not None) == collective
        assert (op["group"] is not None) == collective
        if collective:
            assert len(op["wire_bytes"]) == len(r["cluster"]["levels"])
    whole = answer("estimate", argv[0], "--on", *argv[1:])
    spent = sum(op["count"] * op["time_s"] for op in r["operations"])
    _adds_up(spent, whole["compute_s"] + whole["comm_s"], r["layout"]["pp"])


def _adds_up(rows, whole, pp):
    """The rows are the whole; of a pipeline they are the slowest stage's, and another may have more
    gradients to reduce at the end."""
    assert rows <= whole * (1 + 1e-9)
    assert rows == pytest.approx(whole, rel=1e-9 if pp == 1 else 0.01)


@pytest.mark.parametrize(
    ("name", "parameters"), [("gpt3-175b", 174_604_259_328), ("gpt2", 124_439_808)]
)
def test_model(name, parameters):
    r = answer("model", name)
    assert r["schema"] == 1
    if name == "gpt2":
        assert r["parameters"] == r["active_parameters"] == parameters
    for key in ("parameters", "active_parameters", "layers", "heads", "kv_heads"):
        assert isinstance(r[key], int)
    assert isinstance(r["model_type"], str)
    assert all(r["heads"] % tp == 0 for tp in r["legal_tp"])


@pytest.mark.parametrize(
    "op", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"]
)
@pytest.mark.parametrize("ranks", [2, 8, 16])
def test_collective(op, ranks):
    r = answer("collective", op, "1.6GB", "--on", "dgx-a100", "--ranks", str(ranks))
    assert finite(r)
    assert (r["schema"], r["op"], r["bytes"], r["ranks"]) == (1, op, 1.6e9, ranks)
    best = min(r["candidates"], key=lambda c: c["time_s"])
    assert (r["algorithm"], r["time_s"]) == (best["algorithm"], best["time_s"])
    assert r["algbw_bytes_per_s"] == pytest.approx(1.6e9 / r["time_s"])
    factor = {"all_reduce": 2 * (ranks - 1) / ranks, "send_recv": 1}.get(op, (ranks - 1) / ranks)
    assert r["busbw_bytes_per_s"] == pytest.approx(r["algbw_bytes_per_s"] * factor)


def test_one_rank_has_nothing_to_send():
    r = answer("collective", "all_reduce", "1MB", "--on", "dgx-a100", "--ranks", "1")
    assert r["time_s"] == 0
    assert r["algbw_bytes_per_s"] is None


def test_error():
    found = refusal("scale", "gpt3-175b", "--on", "dgx-a100", "--seq", "8", "--tp", "7")
    # the first fault, and all others that would be met next
    first, *others = found.pop("message").split("; ")
    assert first == "--tp: tp=7 does not divide 96 attention heads (96 mod 7 = 5)"
    assert any("vocabulary 51,200 does not divide by 7" in other for other in others)
    assert found == {
        "field": "--tp",
        "value": 7,
        "legal": [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 96],
        "nearest": 6,
    }
