"""Predictions beside published figures that no constant was fitted to. Bounds are what is reached
today with a little room; README and docs print the figures themselves."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from meshwise import api


@cache
def summary(kind: str) -> dict[str, Any]:
    return api.validate_published(kind).summary


# source → largest median |error| of its training steps
TRAINING = {
    "korthikanti-tab5": 0.05,  # arXiv 2205.05198 Table 5
    "sc21-tab1": 0.05,  # arXiv 2104.04473 Table 1
    "sc21-tab2": 0.05,
    "megatron-2020": 0.10,
    "megatron-h100": 0.08,
    "zerobubble-tab4": 0.09,  # arXiv 2401.10241
    "zerobubble-tab11": 0.05,
    "nemo-launcher": 0.06,
    "dgxc-gpt3": 0.11,
    "dgxc-grok1": 0.11,
}


@pytest.mark.parametrize("source", TRAINING)
def test_megatron_training_steps(source: str) -> None:
    found = summary("training")["step_s"]["by_source"][source]
    assert found["median_abs_error"] <= TRAINING[source]


def test_out_of_memory_rows_are_predicted_out_of_memory() -> None:
    fits = summary("training")["fits"]
    assert fits["n"] == 15
    assert fits["wrong"] <= 2


def test_static_batches_of_fastertransformer() -> None:
    assert summary("serving")["total_latency_s"]["median_abs_error"] <= 0.15


def test_time_per_output_token() -> None:
    assert summary("serving")["tpot_s"]["median_abs_error"] <= 0.16


@pytest.mark.parametrize(
    "source", ["aic-nccl-h100", "aic-vllm-h100", "aic-trtllm-h100", "aic-sglang-h100"]
)
def test_collectives_inside_a_node(source: str) -> None:
    assert summary("collectives")["time_s"]["by_source"][source]["median_abs_error"] <= 0.08


def test_tp_doublings_beat_constant_factors() -> None:
    steps = summary("serving")["tpot_s"]["tp_doubling"]
    assert steps["n"] > 300
    assert steps["mean_abs_error"] <= 0.07
    assert steps["mean_abs_error"] < steps["baselines"]["constant_factor"]["mean_abs_error"]


def test_training_steps_beat_a_constant_mfu() -> None:
    steps = summary("training")["step_s"]
    flat = steps["baselines"]["constant_mfu"]
    assert 0.25 < flat["mfu"] < 0.45
    assert steps["median_abs_error"] < flat["median_abs_error"]
    assert steps["p90_abs_error"] < flat["p90_abs_error"]
