"""Rows of serving tables are read as their publishers ran them: formats, versions, lengths."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwise.cost.doubt.spread import standard_deviation
from meshwise.evidence.predict import predict
from meshwise.evidence.prediction import Prediction, Suspect
from meshwise.evidence.tables import Assumed, parse_table
from meshwise.stacks.load import stack_in_table

BASE = {
    "id": "a/1",
    "model": "llama-3.1-70b",
    "device": "h200",
    "devices": "8",
    "tp": "8",
    "engine": "vllm",
    "isl": "1024",
    "osl": "1024",
    "concurrency": "16",
    "tpot_ms": "10",
}


def predictions(**cells: str) -> list[Prediction]:
    filled = BASE | cells
    text = ",".join(filled) + "\n" + ",".join(filled.values()) + "\n"
    (one,) = parse_table(text, "table.csv").rows
    return predict("serving", one, Path())


def row(**cells: str) -> Prediction:
    (found,) = predictions(**cells)
    return found


def assumed(p: Prediction) -> dict[str, str]:
    return {a.field: a.value for a in p.assumed}


@pytest.mark.parametrize(
    ("cells", "cache"),
    [
        ({"engine": "trtllm", "dtype": "fp8"}, True),
        ({"engine": "trtllm", "dtype": "fp4", "device": "b200"}, True),
        ({"engine": "vllm", "dtype": "fp8"}, False),
        ({"engine": "sglang", "dtype": "fp8", "model": "deepseek-r1", "device": "b200"}, True),
        ({"engine": "sglang", "dtype": "fp8", "model": "deepseek-r1"}, False),
        ({"engine": "vllm", "dtype": "fp4", "model": "gpt-oss-120b", "device": "b200"}, True),
        ({"engine": "vllm", "dtype": "fp4", "model": "gpt-oss-120b"}, False),
    ],
)
def test_the_cache_that_publishers_ask_for_is_assumed(cells: dict[str, str], cache: bool) -> None:
    """ModelOpt's checkpoints name FP8 keys and values; a sweep's scripts ask for them on Blackwell."""
    p = row(**cells)
    assert ("kv_dtype" in assumed(p)) is cache
    stated = row(**cells, kv_dtype="bf16")
    assert "kv_dtype" not in assumed(stated)
    if cache:
        assert stated.predicted != p.predicted


def test_experts_of_gpt_oss_on_blackwell_take_eight_bit_activations() -> None:
    cells = {"model": "gpt-oss-120b", "device": "b200", "dtype": "fp4", "tp": "1", "devices": "1"}
    assert assumed(row(**cells))["activations"] == "mxfp8"
    assert "activations" not in assumed(row(**cells | {"device": "h200"}))


def test_an_engines_version_is_read() -> None:
    """vLLM's host prepares the next iteration beside the device from 0.14 on."""
    old, new, none = (row(engine_version=version).predicted for version in ("0.12.0", "0.14.0", ""))
    assert old == none
    assert old - new == pytest.approx(0.85e-3 + 16 * 13.8e-6, rel=2e-3)
    names = ("vllm-0.9.1", "vllm 0.13.0", "vllm-0.14.1", "vllm-0.24.0", "vllm-1.0", "vllm")
    host = [stack_in_table(name.replace(" ", "-")) for name in names]
    assert [s.iteration_s for s in host if s] == [0.85e-3, 0.85e-3, 0.0, 0.0, 0.0, 0.85e-3]


def test_how_far_lengths_differ_is_an_assumption_where_the_row_does_not_say() -> None:
    """As the client of public sweeps of these lengths draws them; of others a little, and least where
    prompts go first."""
    public = {"isl": "1024", "osl": "1024"}
    assert assumed(row(engine="sglang", **public))["length_spread"] == "0.2"
    other = {"isl": "1024", "osl": "500"}
    assert assumed(row(engine="sglang", **other))["length_spread"] == "0.005"
    assert assumed(row(engine="vllm", **other))["length_spread"] == "0.05"
    assert assumed(row(engine="trtllm", **other))["length_spread"] == "0.01"
    apart = row(engine="sglang", length_spread="0.2", **other)
    assert "length_spread" not in assumed(apart)
    assert apart.predicted != row(engine="sglang", **other).predicted


def test_public_sweeps_choose_the_likeliest_token() -> None:
    """Their client asks for temperature 0, for which vLLM sorts no logits; others' requests do not say."""
    public, other = {"osl": "1024"}, {"osl": "1000"}
    assert assumed(row(**public))["temperature"] == "0"
    assert "temperature" not in assumed(row(**other))
    assert "temperature" not in assumed(row(engine="trtllm", **public))  # greedy as it is
    few, many = (row(concurrency=n, **public) for n in ("4", "256"))
    sorted_few, sorted_many = (row(concurrency=n, **other) for n in ("4", "256"))
    assert sorted_many.predicted - many.predicted > 10 * (sorted_few.predicted - few.predicted)


def test_tokens_of_an_iteration_are_those_of_scripts_and_recipes() -> None:
    """TensorRT-LLM's rows: a prompt and a token of each request, and room for more where short ones share."""
    trt = {"engine": "trtllm", "concurrency": "16"}
    assert assumed(row(isl="1000", **trt))["max_batched_tokens"] == str(1000 + 16 + 1500)
    sweep = row(model="deepseek-r1", **trt)
    assert assumed(sweep)["max_batched_tokens"] == str(1024 + 16 + 127)
    assert assumed(row(model="gpt-oss-120b", **trt))["max_batched_tokens"] == "20000"
    llama = assumed(row(tp="4", devices="4", **trt))
    assert (llama["max_batched_tokens"], llama["batch_wait_timeout_iters"]) == ("16384", "20")
    assert "batch_wait_timeout_iters" not in assumed(row(tp="4", devices="4", osl="8192", **trt))
    assert "max_batched_tokens" not in assumed(row(isl="1000"))


def test_prompts_of_the_sweep_of_llama_wait_for_each_other_below_eight_ranks() -> None:
    """20 iterations of decodes pass before the first token."""
    trt = {"engine": "trtllm", "osl": "1024", "concurrency": "4", "ttft_ms": "60", "tpot_ms": ""}
    waits, at_once = (row(tp=tp, devices=tp, **trt).predicted for tp in ("4", "8"))
    each = row(engine="trtllm", osl="1024", concurrency="4", tp="4", devices="4").predicted
    assert 14 * each < waits - at_once < 22 * each


def test_four_bit_experts_of_the_sweep_run_on_marlins_kernels_on_hopper() -> None:
    sweep = {"model": "gpt-oss-120b", "dtype": "fp4", "osl": "1024", "tpot_ms": "", "ttft_ms": "60"}
    marlin = row(engine_version="0.18.0", **sweep)
    assert assumed(marlin)["experts"] == "marlin"
    before = row(engine_version="0.11.2", **sweep)
    assert "experts" not in assumed(before)
    assert "experts" not in assumed(row(device="b200-180gb-sxm", engine_version="0.18.0", **sweep))


def test_block_scaled_experts_of_the_sweep_run_on_deep_gemm_on_blackwell_before_0_18() -> None:
    sweep = {
        "model": "minimax-m2.5",
        "device": "b200-180gb-sxm",
        "dtype": "fp8",
        "tp": "4",
        "devices": "4",
    }
    before = row(engine_version="0.17.0", **sweep)
    after = row(engine_version="0.19.0", **sweep)
    assert assumed(before)["experts"] == "deep_gemm"
    assert "experts" not in assumed(after)
    assert 1.1 * after.predicted < before.predicted < 1.6 * after.predicted
    assert "experts" not in assumed(row(engine_version="0.17.0", **sweep | {"device": "h200"}))


def test_rows_of_nvfp4_ran_the_publishers_checkpoint_which_leaves_attention_wide() -> None:
    sweep = {"device": "b200-180gb-sxm", "dtype": "fp4", "tp": "4", "devices": "4", "tpot_ms": "12"}
    minimax = row(model="minimax-m2.5", engine_version="nightly-5b8c30d6", **sweep)
    assert assumed(minimax)["checkpoint"] == "nvfp4"
    deepseek = row(model="deepseek-r1", engine="sglang", **sweep)
    assert assumed(deepseek)["checkpoint"] == "nvfp4-v2"  # its output projections too
    assert assumed(deepseek)["kv_dtype"] == "fp8"
    named = row(model="minimax-m2.5-nvfp4", **sweep | {"dtype": ""})
    assert minimax.predicted == pytest.approx(named.predicted, rel=0.2)
    assert "checkpoint" not in assumed(row(model="minimax-m2.5", **sweep | {"device": "h200"}))
    assert "checkpoint" not in assumed(row(model="minimax-m2.5", **sweep | {"dtype": "fp8"}))


def test_a_row_whose_publisher_drafted_tokens_is_priced_without_and_says_so() -> None:
    drafted = {"model": "qwen3.5-397b-a17b", "device": "b200-180gb-sxm", "engine": "sglang"}
    drafted |= {"engine_version": "0.5.9", "dtype": "fp8", "tp": "4", "devices": "4", "osl": "1024"}
    said = Assumed("draft_tokens", "0")
    assert said in row(**drafted).assumed
    assert said not in row(**drafted | {"tp": "8", "devices": "8"}).assumed


def test_a_token_that_is_too_quick_for_the_requests_that_a_row_states_is_suspect() -> None:
    with pytest.raises(Suspect, match="fewer run"):
        row(concurrency="512", tpot_ms="4.5")
    assert row(concurrency="512", tpot_ms="20")


def test_intervals_say_what_no_published_row_has() -> None:
    """Experts, and a TP group over a network, are less sure than a dense model in a node."""
    dense = row()
    experts = row(model="qwen3-30b-a3b", tp="4", devices="4")
    network = row(tp="16", devices="16")
    assert dense.question and experts.question and network.question
    sure = standard_deviation("tpot_s", dense.question)
    assert 0 < sure < standard_deviation("tpot_s", experts.question)
    assert sure < standard_deviation("tpot_s", network.question)
    assert dense.slower == 0.0 < experts.slower


def test_a_service_is_judged_by_its_first_token_and_its_rate_too() -> None:
    found = {
        p.quantity: p
        for p in predictions(tpot_ms="10", ttft_ms="150", tokens_per_s_per_device="900")
    }
    assert set(found) == {"tpot_s", "ttft_s", "tokens_per_s_per_device"}
    assert found["ttft_s"].measured == pytest.approx(0.15)
    assert all(p.predicted > 0 for p in found.values())
    # beyond two seconds it is a queue of which the row does not say why
    assert {p.quantity for p in predictions(tpot_ms="10", ttft_ms="2500")} == {"tpot_s"}


def test_requests_without_a_number_in_flight_are_all_sent_at_once() -> None:
    (one,) = predictions(concurrency="", tpot_ms="", tokens_per_s_per_device="900", osl="200")
    assert one.quantity == "tokens_per_s_per_device"
    assert assumed(one)["requests"] == "1000"
